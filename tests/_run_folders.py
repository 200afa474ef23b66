"""Run folders for the report tests: synthetic, but of the schema that the runner writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _episodes import GOLD, play, solved

from dream_envs.core import Challenge, Episode, Event, Measure, Score, encode
from dream_envs.schema import About, Beyond, Compared, Evaluation, Level, Role, Stat, Summary
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

DECODERS = ("T=1", "best_T", "forced", "given")
_FAMILY = Composition()
_ROLES = (("challenger", 0.081, 0.104), ("solver", 0.87, 0.74))


def stat(mean: float) -> Stat:
    """One decoder's numbers around this mean."""
    spread = 0.08 * mean * (1 - mean) + 0.05 * mean
    ends = (max(mean - spread, 0.0), min(mean + spread, 1.0))
    return Stat(mean, ends, float(mean > 0.5) * mean, min(1.0, 40 * mean), math.log10(max(mean * 0.4, 1e-300)))


def level(at: int, base: list[float], trained: list[float], split: str, total: int) -> Level:
    """A row of ``levels`` with all 128 problems in the tier of the mean; means in the order of ``DECODERS``."""
    best = max(base[:3])
    tier = "T0" if best >= 1e-2 else "T1" if best >= 1 / total else "T2"
    both = [dict(zip(DECODERS, map(stat, means), strict=True)) for means in (base, trained)]
    tiers = {t: 128 * (t == tier) for t in ("T0", "T1", "T2")}
    return Level(at, 128, *both, 16.0**-at, split, tiers, {t: trained[0] if t == tier else None for t in tiers})


def exact(*, learnt: bool = True, held_out: bool = True, total: int = 153_600) -> Evaluation:
    """Of a run that learnt level 6 and some of 8, or of one that changed nothing."""
    base_t1 = [0.9995, 0.998, 0.992, 0.31, 5e-6, 2.5e-9, 3.1e-14, 3e-19, 4e-25, 2.3e-31]
    trained_t1 = [0.9991, 0.997, 0.991, 0.984, 0.951, 0.8634, 0.41, 0.0652, 3.1e-3, 4.8e-5] if learnt else base_t1
    rows = []
    for split in ("any", "held_out") if held_out else ("any",):
        for at in range(1 if split == "any" else 2, 11):
            worse = 1.0 if split == "any" else 0.7
            before, after = base_t1[at - 1] ** (1 / worse), trained_t1[at - 1] * worse
            base = [before, before**0.85, before**0.55, before**0.14]
            rows.append(level(at, base, [after ** (1 - i / 8) for i in range(4)], split, total))
    ks = [4**i for i in range(11)]
    known = (("base", base_t1, 1.0), ("trained", trained_t1, 0.7))
    curves = {
        str(d): {who: [-math.expm1(k * math.log1p(-ps[d - 1] * part)) for k in ks] for who, ps, part in known}
        for d in (4, 6, 8)
    }
    example = {"prompt": "c:BDABCCAD", "level": 8, "held_out": False, "base_best_log10": -9.1, "trained": 0.93}
    beyond = Beyond(70, 1408, 41, [example] * 3) if learnt else Beyond(0, 1408, 0)
    told = "exact success probability on 128 held-out problems a level, computed, not sampled"
    return Evaluation("exact", told, rows, list(DECODERS), beyond=beyond, k=ks, pass_at_k=curves)


def sampled() -> Evaluation:
    """Success of sampled completions."""
    rows = [Level(at, 32, {"T=1": stat(0.9 / at)}, {"T=1": stat(0.99 / at)}, 16.0**-at) for at in (1, 2, 3)]
    return Evaluation("sampled", "8 sampled completions of each of 32 held-out problems a level, strict", rows, ["T=1"])


def played() -> Evaluation:
    """Measures of a game of two roles without problems."""
    rows = [
        Compared("reward", Measure(0.04, -0.1, 0.2, 256), Measure(0.309, 0.121, 0.492, 256), "high is good", "first"),
        Compared("exploitability", Measure(0.46), Measure(0.336)),
    ]  # fmt: skip
    return Evaluation("play", "256 games a role, the frozen base in the other seats", measures=rows)


def nights() -> list[dict[str, Any]]:
    """Two nights, as the summary has them; level 4 loses in the second."""
    return [
        {
            "number": i, "lived": 1147, "tokens": 46_594, "divergence": [0.005, 0.008], "imitation": None,
            "dreams": [{"kind": "memory"}] * 4, "good": 3 - i, "before": -0.017, "after": -0.018, "undone": i == 1,
            "curve_before": {"1": 0.99, "4": 0.3 + 0.1 * i}, "curve_after": {"1": 0.99, "4": after},
        }
        for i, after in enumerate((0.5, 0.2))
    ]  # fmt: skip


RETENTION: dict[str, Any] = {
    "lessons": ["I", "J", "K"], "open": [0.75, 1.0, 0.875],
    "closed": [[0.8, 0.0, None], [0.6, 0.9, 0.0], [0.5, 0.7, 1.0]],
    "average_accuracy": 0.733, "backward_transfer": -0.25, "forgetting": 0.25, "forward_transfer": 0.0,
    "levels": {"1": {"open": 1.0, "closed": 0.95, "last": 0.8}}, "verdict": "unused", "agents": ["learner_0"],
}  # fmt: skip


def summary(**changes: Any) -> Summary:
    """Of a finished run of the flagship, nights and all."""
    hashes = "0f" * 8, "1e" * 8
    about = About("dream", "dream_envs/ChallengerSolver-v0", "grpo", "0", 160, "nano/compose", *hashes, 231.5)
    about = msgspec.structs.replace(about, family="composition", support=[1, 2, 3])
    roles = [Role(name, "text", 0.0, 1.0, True, low, high, {"ok": 0.9, "abstain": 0.1}) for name, low, high in _ROLES]
    base, trained = {"format_entropy": 0.786, "top_share": 0.838}, {"format_entropy": 0.786, "top_share": 0.93}
    blocks = {
        "verdict": "Past the base: level 6 rose from 2.5e-9 to 0.863; 70 problems beyond the samples are now solved.",
        "roles": roles, "samples": {"challenger": 10_240, "solver": 143_360, "total": 153_600}, "evaluation": exact(),
        "entropy": {"base": {"format": 2.31, "answer": 1.12}, "trained": {"format": 1.74, "answer": 0.33}},
        "diversity": {"base": base, "trained": trained, "ratio": {"format_entropy": [0.5, 0.2, 0.7]}},
        "label_accuracy": 1.0, "nights": nights(),
    }  # fmt: skip
    return Summary(run=about, **{**blocks, **changes})


def metric_rows(steps: int = 160) -> list[dict[str, Any]]:
    """``metrics.jsonl`` of a run whose level rises."""
    rng, rows = stream("report-tests"), []
    for step in range(steps):
        share = step / max(steps - 1, 1)
        row: dict[str, Any] = {
            "step": step, "samples": 960 * (step + 1), "seconds": 1.4,
            "reward/challenger/mean": 0.08 + 0.02 * share, "reward/challenger/std": 0.1,
            "reward/solver/mean": 0.87 - 0.13 * share, "reward/solver/std": 0.3,
            "status/solver/ok": 0.9, "status/solver/abstain": 0.1, "length/solver": 4 + 5 * share,
            "groups/solver": 40, "train/loss": 0.01, "train/lr": 1e-4, "train/grad_norm": 2.0,
            "curriculum/valid": 0.97 + 0.02 * rng.random(), "curriculum/unique": 0.95 - 0.1 * share * rng.random(),
            "curriculum/learnable": 0.2 + 0.1 * rng.random(), "curriculum/solved": 0.6 + 0.05 * rng.standard_normal(),
            "curriculum/depth": 3 + 3.5 * share, "curriculum/reject/similar": float(step % 5),
            "curriculum/format_entropy": 2.3 - 0.6 * share,
        }  # fmt: skip
        if step % 8 == 0 or step == steps - 1:
            row |= {f"eval/{d}": float(1 / (1 + np.exp(2.2 * d - 8 - 7.5 * share))) for d in range(1, 11)}
            row |= {"diversity/vendi": 1.8 - share, "diversity/top_share": 0.8 + 0.1 * share}
        if step in (90, 91, 130):
            row["alarms"] = [f"only 0.0{step % 5} of the problems are partly solved: nothing to learn from"]
        rows.append(row)
    return rows


def episodes() -> list[Episode]:
    """An accepted proposal, a rejected one, mutations of growing level, and one that nobody solved."""
    played = [
        play(solved(5), "c:BDA"),
        play(proposal="c:BD!A"),
        *[play([t.answer, "aaaa", t.answer + "x"], f"c:{ops}") for ops in ("BDABD", "BDABDC", "BD")
          if (t := _FAMILY.make("c", ops))],
        play(["x", "", GOLD + GOLD], "d:CABDE"),
    ]  # fmt: skip
    noted = [Event("given", data={"author": "mutation"})]
    made = []
    for i, e in enumerate(played):
        scores, events = {t.agent: Score(0.125 * (i % 8)) for t in e.turns}, noted if i in (2, 3, 4) else []
        made.append(msgspec.structs.replace(e, index=i, events=[*events, *e.events], scores=scores))
    return made


RUN: dict[str, Any] = {
    "schema": 1, "command": "train", "loop": "dream", "learner": "grpo", "seed": "0", "model": "nano/compose",
    "steps": 160, "versions": {"dream-envs": "0.1.0", "torch": "2.13.0"},
    "argv": ["dream-envs", "dream", "--seed", "0", "--out", "runs/my run"], "commit": "70c058c",
}  # fmt: skip


def write(folder: Path, **parts: Any) -> Path:
    """A run folder; ``run``, ``summary``, ``metrics`` or ``episodes`` replace a part, None leaves it out."""
    content = {"run": RUN, "summary": summary(), "metrics": metric_rows(), "episodes": episodes(), **parts}
    folder.mkdir(parents=True, exist_ok=True)
    if content["run"] is not None:
        (folder / "run.json").write_text(json.dumps(content["run"]))
    if content["summary"] is not None:
        (folder / "summary.json").write_bytes(msgspec.json.encode(content["summary"]))
    for name in ("metrics", "episodes"):
        if content[name] is not None:
            (folder / f"{name}.jsonl").write_bytes(b"".join(encode(r) + b"\n" for r in content[name]))
    return folder


def with_texts(episode: Episode, text: str) -> Episode:
    """The episode with every text of its turns and its challenge replaced."""
    tasks = [
        msgspec.structs.replace(t, prompt=text, answer=text) if isinstance(t, Challenge) else t for t in episode.tasks
    ]
    turns = [msgspec.structs.replace(t, text=text) for t in episode.turns]
    return msgspec.structs.replace(episode, tasks=tasks, turns=turns)
