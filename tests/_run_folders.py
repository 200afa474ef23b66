"""Run folders for the report tests: synthetic, but of the schema that the training command writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _episodes import GOLD, play, solved

from dream_envs.core import Challenge, Episode, Event, Score, encode
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

DECODERS = ("T=1", "best_T", "forced", "given")
_FAMILY = Composition()


def decoder(mean: float) -> dict[str, Any]:
    """One decoder's numbers around this mean."""
    spread = 0.08 * mean * (1 - mean) + 0.05 * mean
    return {
        "mean": mean,
        "ci": [max(mean - spread, 0.0), min(mean + spread, 1.0)],
        "median_log10": math.log10(max(mean * 0.4, 1e-300)),
        "solved": float(mean > 0.5) * mean,
        "max": min(1.0, 40 * mean),
    }


def depth_entry(
    depth: int, base: dict[str, float], trained: dict[str, float], split: str, total: int
) -> dict[str, Any]:
    """A row of ``depths`` with all 128 problems in the tier of the mean."""
    best = max(base["T=1"], base["best_T"], base["forced"])
    tier = "T0" if best >= 1e-2 else "T1" if best >= 1 / total else "T2"
    return {
        "depth": depth,
        "split": split,
        "n": 128,
        "chance": 16.0**-depth,
        "base": {d: decoder(base[d]) for d in DECODERS},
        "trained": {d: decoder(trained[d]) for d in DECODERS},
        "tiers": {t: 128 * (t == tier) for t in ("T0", "T1", "T2")},
        "moved": {t: trained["T=1"] if t == tier else None for t in ("T0", "T1", "T2")},
    }


def frontier(*, learnt: bool = True, held_out: bool = True, total: int = 153_600) -> dict[str, Any]:
    """``frontier.json`` after a run that learnt depth 6 and some of 8, or after one that changed nothing."""
    base_t1 = [0.9995, 0.998, 0.992, 0.31, 5e-6, 2.5e-9, 3.1e-14, 3e-19, 4e-25, 2.3e-31]
    trained_t1 = [0.9991, 0.997, 0.991, 0.984, 0.951, 0.8634, 0.41, 0.0652, 3.1e-3, 4.8e-5] if learnt else base_t1
    rows = []
    for split in ("any", "held_out") if held_out else ("any",):
        for depth in range(1 if split == "any" else 2, 11):
            worse = 1.0 if split == "any" else 0.7
            before, after = base_t1[depth - 1] ** (1 / worse), trained_t1[depth - 1] * worse
            base = {"T=1": before, "best_T": before**0.85, "forced": before**0.55, "given": before**0.14}
            rows.append(
                depth_entry(depth, base, {d: after ** (1 - i / 8) for i, d in enumerate(DECODERS)}, split, total)
            )
    ks = [4**i for i in range(11)]
    curves = {
        str(d): {
            "base": [-math.expm1(k * math.log1p(-base_t1[d - 1])) for k in ks],
            "trained": [-math.expm1(k * math.log1p(-trained_t1[d - 1] * 0.7)) for k in ks],
        }
        for d in (4, 6, 8)
    }
    example = {"prompt": "c:BDABCCAD", "depth": 8, "held_out": False, "base_best_log10": -9.1, "trained": 0.93}
    return {
        "schema": 1,
        "run": {
            "arm": "full", "learner": "grpo", "seed": "0", "steps": 160, "seconds": 231.5, "base": "nano/compose",
            "weights_hash": "0f" * 16, "support": {"depths": [1, 2, 3]},
        },
        "samples": {"solver": total - 10_240, "challenger": 10_240, "total": total},
        "problems_per_depth": 128,
        "decoders": list(DECODERS),
        "depths": rows,
        "beyond": {"count": 70, "of": 1408, "structural": 41, "examples": [example] * 3}
        if learnt
        else {"count": 0, "of": 1408, "structural": 0, "examples": []},
        "pass_at_k": {"k": ks, "depths": curves},
        "entropy": {"base": {"format": 2.31, "answer": 1.12}, "trained": {"format": 1.74, "answer": 0.33}},
        "verdict": "Depth 6 rose from 2.5e-9 to 0.863; 70 problems beyond the budget are now solved."
        if learnt
        else "No problem beyond the base's budget is solved: the run shows no step past the base.",
    }  # fmt: skip


def metric_rows(steps: int = 160) -> list[dict[str, Any]]:
    """``metrics.jsonl`` of a run whose depth rises."""
    rng, rows = stream("report-tests"), []
    for step in range(steps):
        share = step / max(steps - 1, 1)
        row: dict[str, Any] = {
            "step": step, "samples": 960 * (step + 1), "seconds": 1.4, "groups": 40, "loss": 0.01, "lr": 1e-4,
            "valid": 0.97 + 0.02 * rng.random(), "duplicates": 0.3 * share + 0.03 * rng.random(),
            "unique": 0.95 - 0.1 * share * rng.random(), "band": 0.2 + 0.1 * rng.random(), "features": 60,
            "depth": 3 + 3.5 * share + 0.2 * rng.standard_normal(), "solved": 0.6 + 0.05 * rng.standard_normal(),
            "label_accuracy": 1.0, "format_entropy": 2.3 - 0.6 * share, "answer_entropy": 1.1 - 0.8 * share,
            "drift": None if step % 7 == 3 else 0.5 + 9 * share + 0.3 * rng.standard_normal(),
        }  # fmt: skip
        if step % 8 == 0 or step == steps - 1:
            row["exact"] = {str(d): float(1 / (1 + np.exp(2.2 * d - 8 - 7.5 * share))) for d in range(1, 11)}
        if step in (90, 91, 130):
            row["alarms"] = [f"only 0.0{step % 5} of the problems are partly solved: nothing to learn from"]
        rows.append(row)
    return rows


def episodes() -> list[Episode]:
    """An accepted proposal, a rejected one, mutations of growing depth, and one that nobody solved."""
    played = [
        play(solved(5), "c:BDA"),
        play(proposal="c:BD!A"),
        *[play([t.answer, "aaaa", t.answer + "x"], f"c:{ops}") for ops in ("BDABD", "BDABDC", "BD")
          if (t := _FAMILY.make("c", ops))],
        play(["x", "", GOLD + GOLD], "d:CABDE"),
    ]  # fmt: skip
    noted = [Event("given", data={"author": "mutation"})]
    return [
        msgspec.structs.replace(
            e,
            index=i,
            events=[*(noted if i in (2, 3, 4) else []), *e.events],
            scores={t.agent: Score(0.125 * (i % 8)) for t in e.turns},
        )
        for i, e in enumerate(played)
    ]


RUN: dict[str, Any] = {
    "schema": 1, "command": "dream", "arm": "full", "learner": "grpo", "seed": "0", "base": "nano/compose",
    "weights_hash": "0f" * 16, "steps": 160, "attempts": 8, "versions": {"dream-envs": "0.1.0", "torch": "2.13.0"},
    "argv": ["dream-envs", "dream", "--arm", "full", "--seed", "0", "--out", "runs/my run"], "commit": "70c058c",
}  # fmt: skip


def write(folder: Path, **parts: Any) -> Path:
    """A run folder; ``run``, ``frontier``, ``metrics`` or ``episodes`` replace a part, None leaves it out."""
    content = {"run": RUN, "frontier": frontier(), "metrics": metric_rows(), "episodes": episodes(), **parts}
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("run", "frontier"):
        if content[name] is not None:
            (folder / f"{name}.json").write_text(json.dumps(content[name]))
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
