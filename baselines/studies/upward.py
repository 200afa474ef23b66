"""Upward seeding, a small teacher into a student of twice its width: ``python -m dream_envs.baselines.studies upward``.

The teacher is ``nano/compose``.  It answers problems of depths 1 to 4, of which it was shown 1 to 3; what the verifier
accepts is the experience.  Every student gets the same rows in the same order:

- ``upward``: the teacher, widened without changing its function (``agents.sleep.grow``), then Knowledge Seeding;
- ``alone``: a fresh student of the same shape, fine-tuned on the same completions;
- ``teacher_too``: the small teacher, fine-tuned on the same completions: what is due to the rows and not to the room.

All students of a seed are made in one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from dream_envs.agents.elicitation.attempts import attempts, messages_of
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import as_pairs
from dream_envs.agents.sleep.experience import Experience, alike
from dream_envs.agents.sleep.grow import fresh, widen
from dream_envs.agents.sleep.seeding import SeedingSettings, seed_knowledge
from dream_envs.agents.training.sft import fine_tune
from dream_envs.baselines.eval_set import Exact
from dream_envs.baselines.studies.grid import Row, over, show, sign, table_of
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

RESULT = "upward.json"
STUDENTS = ("teacher", "upward", "alone", "teacher_too")
DEPTHS = ("1", "2", "3", "4", "5")


class Settings(msgspec.Struct, frozen=True):
    """What decides a run's result; ``problems`` and ``draws``: of each depth, and completions of each.

    ``hard``: weight of the completions' likelihood beside the divergence from the teacher, which alone holds the
    student to what the teacher can already do.
    """

    base: str = "nano/compose"
    problems: int = 96
    draws: int = 6
    depths: tuple[int, ...] = (1, 2, 3, 4)
    steps: int = 200
    batch: int = 96
    lr: float = 1e-3
    hard: float = 10.0


SETTINGS = {"upward": Settings()}
GRIDS = {"upward": ("upward",)}


def run(settings: Settings, seed: str, out: Path) -> None:
    """One seed, all students."""
    label, teacher = f"upward/{seed}", LocalAgent(settings.base)
    evaluation = Exact(Composition(), teacher, Composition().levels)
    known = solved_by(teacher, evaluation, settings, label)
    rows = alike(known, settings.steps * settings.batch, stream(label, "rows"))
    agents = students(teacher, rows, settings, label)
    exact = {name: {d: m for d, m in evaluation.curve(a).items() if d in DEPTHS} for name, a in agents.items()}
    parameters = {name: sum(p.numel() for p in a.model.parameters()) for name, a in agents.items()}
    write_json(out / RESULT, {"experience": len(known), "exact": exact, "parameters": parameters})


def solved_by(teacher: LocalAgent, evaluation: Exact, settings: Settings, seed: str) -> list[Experience]:
    """What the teacher answers rightly, each depth a kind; none of the evaluation's reserved problems."""
    family, reserved = evaluation.family, {t.id for t in evaluation.reserved()}
    rng, found = stream(seed, "problems"), list[Experience]()
    for depth in settings.depths:
        drawn = {t.id: t for t in (family.generate(rng, depth) for _ in range(settings.problems))}
        tasks = [t for t in drawn.values() if t.id not in reserved]
        for task, row in zip(tasks, attempts(teacher, tasks, family, settings.draws, seed), strict=True):
            right = dict.fromkeys(a.text for a in row if a.value == 1.0)
            found += [Experience(messages_of(task), text, f"{depth:03d}") for text in right]
    return found


def students(teacher: LocalAgent, rows: Sequence[Experience], settings: Settings, seed: str) -> dict[str, LocalAgent]:
    """Every student after its training."""
    wide, pairs = widen(teacher, seed), as_pairs(rows)
    how: dict[str, Any] = {"steps": settings.steps, "lr": settings.lr, "batch": settings.batch}
    rule = SeedingSettings(**how, rank=None, lam=0.0, alpha=1.0, hard=settings.hard)
    how |= {"warmup": rule.warmup, "seed": f"{seed}/tune"}
    return {
        "teacher": teacher,
        "upward": seed_knowledge(teacher, wide, rows, rule, f"{seed}/up").agent,
        "alone": fine_tune(fresh(wide, f"{seed}/fresh"), pairs, **how),
        "teacher_too": fine_tune(teacher, pairs, **how),
    }


def score(folder: Path) -> dict[str, Any]:
    """``exact`` success and ``parameters`` by student."""
    return read_json(folder / RESULT)


def table(rows: list[Row], out: Path) -> str:
    """The students, and what the way upward is worth above each other, paired by seed."""
    each = [{"name": s, "parameters": r["parameters"][s], **r["exact"][s]} for s in STUDENTS for r in rows]
    columns: dict[str, Any] = {"parameters": ("parameters", 0), **{f"d{d}": d for d in DEPTHS}}
    lines = [table_of(each, columns, head="student")]
    for other in STUDENTS[:1] + STUDENTS[2:]:
        gain = over([fmean(r["exact"]["upward"].values()) - fmean(r["exact"][other].values()) for r in rows])
        lines.append(f"- upward above {other}, mean of the depths: **{sign(gain)}, {show(gain)}**")
    return "\n".join([*lines, ""])
