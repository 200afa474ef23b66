"""Upward seeding: a small teacher into a student of twice its width. ``python -m dream_envs.baselines.studies.upward``.

The teacher is ``nano/compose``.  It answers problems of depths 1 to 4, of which it was shown 1 to 3; what the verifier
accepts is the experience.  Every arm but the teacher itself gets the same rows in the same order:

- ``upward``: the teacher, widened without changing its function (``agents.grow``), then Knowledge Seeding;
- ``alone``: a fresh student of the same shape, fine-tuned on the same replies;
- ``teacher_too``: the small teacher, fine-tuned on the same replies: what is due to the rows and not to the room.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dream_envs.baselines.studies.intervals import over, show, sign
from dream_envs.baselines.studies.side_by_side import positive, side_by_side
from dream_envs.core import DreamEnvsError
from dream_envs.runs import Run, read_json

if TYPE_CHECKING:
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.agents.sleep.experience import Experience
    from dream_envs.baselines.eval_set import Yardstick

RESULT = "upward.json"
ARMS = ("teacher", "upward", "alone", "teacher_too")
DEPTHS = ("1", "2", "3", "4", "5")


class Settings(msgspec.Struct, frozen=True):
    """What decides a run's result; ``problems`` and ``draws``: of each depth, and replies to each.

    ``hard``: weight of the replies' likelihood beside the divergence from the teacher, which alone holds the student to
    what the teacher can already do.
    """

    seed: str = "0"
    base: str = "nano/compose"
    problems: int = 96
    draws: int = 6
    depths: tuple[int, ...] = (1, 2, 3, 4)
    steps: int = 200
    batch: int = 96
    lr: float = 1e-3
    hard: float = 10.0


def run(settings: Settings, out: Path) -> dict[str, Any]:
    """One seed, all arms; returns ``upward.json``.

    Raises:
        DreamEnvsError: if the folder holds another run.
    """
    import torch

    from dream_envs.agents.engines.local import LocalAgent, keep_memory
    from dream_envs.agents.sleep.experience import alike
    from dream_envs.baselines.eval_set import Yardstick
    from dream_envs.seeds import stream
    from dream_envs.tasks.composition import Composition

    torch.set_num_threads(1)
    keep_memory()
    began, seed = time.perf_counter(), f"upward/{settings.seed}"
    folder = Run(out, {"command": "upward", **msgspec.to_builtins(settings)})
    if (done := folder.read(RESULT)) is not None:
        folder.close()
        return done
    teacher, yardstick = LocalAgent(settings.base), Yardstick(Composition())
    lived = solved_by(teacher, yardstick, settings, seed)
    rows = alike(lived, settings.steps * settings.batch, stream(seed, "rows"))
    agents = students(teacher, rows, settings, seed)
    result = {
        "schema": 1,
        "kind": "upward",
        "settings": msgspec.to_builtins(settings),
        "lived": len(lived),
        "exact": {name: {d: m for d, m in yardstick.means(a).items() if d in DEPTHS} for name, a in agents.items()},
        "parameters": {name: sum(p.numel() for p in a.model.parameters()) for name, a in agents.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }
    folder.write(RESULT, result)
    folder.close()
    return read_json(folder.path / RESULT) or {}


def solved_by(teacher: LocalAgent, yardstick: Yardstick, settings: Settings, seed: str) -> list[Experience]:
    """What the teacher answers rightly, each depth a kind; none of the yardstick's problems beyond depth 2."""
    from dream_envs.agents.elicitation.attempts import attempts, messages_of
    from dream_envs.agents.sleep.experience import Experience
    from dream_envs.seeds import stream

    family, reserved = yardstick.family, {t.id for t in yardstick.reserved()}
    rng, lived = stream(seed, "problems"), list[Experience]()
    for depth in settings.depths:
        drawn = {t.id: t for t in (family.generate(rng, depth) for _ in range(settings.problems))}
        tasks = [t for t in drawn.values() if t.id not in reserved]
        for task, row in zip(tasks, attempts(teacher, tasks, family, settings.draws, seed), strict=True):
            right = dict.fromkeys(a.text for a in row if a.value == 1.0)
            lived += [Experience(messages_of(task), text, f"{depth:03d}") for text in right]
    return lived


def students(teacher: LocalAgent, rows: Sequence[Experience], settings: Settings, seed: str) -> dict[str, LocalAgent]:
    """Every arm behind its training."""
    from dream_envs.agents.sleep.dreams import as_pairs
    from dream_envs.agents.sleep.grow import fresh, widen
    from dream_envs.agents.sleep.seeding import SeedingSettings, seed_knowledge
    from dream_envs.agents.training.sft import fine_tune

    wide, pairs = widen(teacher, seed), as_pairs(rows)
    rule = SeedingSettings(
        steps=settings.steps, batch=settings.batch, lr=settings.lr, rank=None, lam=0.0, alpha=1.0, hard=settings.hard
    )

    def tuned(agent: LocalAgent) -> LocalAgent:
        return fine_tune(
            agent,
            pairs,
            steps=settings.steps,
            lr=settings.lr,
            seed=f"{seed}/tune",
            batch=settings.batch,
            warmup=rule.warmup,
        )

    return {
        "teacher": teacher,
        "upward": seed_knowledge(teacher, wide, rows, rule, f"{seed}/up").agent,
        "alone": tuned(fresh(wide, f"{seed}/fresh")),
        "teacher_too": tuned(teacher),
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The arms and the answers as Markdown; differences are paired by seed."""
    lines = ["| arm | parameters | " + " | ".join(f"d{d}" for d in DEPTHS) + " |"]
    lines.append("| --- " + "| ---: " * (1 + len(DEPTHS)) + "|")
    for arm in ARMS:
        cells = [show(over([r["exact"][arm][d] for r in runs])) for d in DEPTHS]
        lines.append(f"| {arm} | {runs[0]['parameters'][arm]:,} | " + " | ".join(cells) + " |")
    lines.append("")
    for other in ("teacher", "alone", "teacher_too"):
        gain = over([_mean(r["exact"]["upward"]) - _mean(r["exact"][other]) for r in runs])
        lines.append(f"- upward above {other}, mean of the depths: **{sign(gain, 1)}, {show(gain)}**")
    return "\n".join([*lines, ""])


def _mean(exact: dict[str, float]) -> float:
    return sum(exact.values()) / len(exact)


def _work(job: tuple[Settings, Path]) -> tuple[str, float]:
    settings, path = job
    return path.name, run(settings, path)["seconds"]


def main() -> None:
    """``python -m dream_envs.baselines.studies.upward [--seeds 5] [--out runs/upward]``."""
    parser = argparse.ArgumentParser(description="a small teacher into a student of twice its width")
    parser.add_argument("--out", type=Path, default=Path("runs/upward"))
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--side-by-side", type=positive, default=2)
    given = parser.parse_args()
    try:
        jobs = [(Settings(seed=str(s)), given.out / str(s)) for s in range(given.seeds)]
        side_by_side(_work, [(s, p) for s, p in jobs if not (p / RESULT).exists()], given.side_by_side)
        found = table([run for p in sorted(given.out.glob(f"*/{RESULT}")) if (run := read_json(p)) is not None])
        (given.out / "table.md").write_text(found, "utf-8")
        print(found)
    except DreamEnvsError as error:
        sys.exit(f"upward: {error}")
    except KeyboardInterrupt:
        sys.exit("upward: stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
