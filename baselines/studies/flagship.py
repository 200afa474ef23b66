"""What each part of the flagship is worth: ``python -m dream_envs.baselines.studies flagship``.

Grid ``ablation``: the loop that sleeps, and without each of its ingredients; ``variants``: the loop with a review in
place of nights, and changes of it; ``learners``: that loop under every learner, each with as many completions drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dream_envs import registry
from dream_envs.baselines.loops.dream import ABLATION, VARIANTS
from dream_envs.baselines.recipe import Options
from dream_envs.baselines.studies.grid import Row, difference, named, show, sign, table_of, trained
from dream_envs.schema import read_summary

LEARNERS = tuple(name for name in registry.rows("learners") if name not in ("grpo", "rae"))
#: Steps after which expert iteration has drawn what the others draw in their 150 (some 145,000 completions): it plays
#: every tenth step and is asked shallower problems.
EXPERT_STEPS, EXPERT_EQUAL_STEPS = 800, 1710


FULL = {"variant": "full"}
OTHERS = {f"full-{name}": Options("dream", learner=name, set=FULL) for name in LEARNERS if name != "expert"}
SETTINGS = {
    **{name: Options("dream", set={"variant": name}) for name in VARIANTS},
    **OTHERS,
    "full-expert": Options("dream", learner="expert", steps=EXPERT_STEPS, set=FULL),
    "full-expert-equal": Options("dream", learner="expert", steps=EXPERT_EQUAL_STEPS, set=FULL),
}
GRIDS = {
    "ablation": ABLATION,
    "variants": (*(name for name in VARIANTS if name not in ABLATION), "full-expert"),
    "learners": ("full", *OTHERS, "full-expert-equal"),
}
MARKS = {"ablation": "nights", "variants": "study", "learners": "learners"}
COLUMNS = {
    "d3 to d5 (worst)": ("worst", 3), "d6": ("6", 3), "d8": ("8", 3), "beyond budget": ("beyond", 0),
    "label accuracy": ("labels", 3), "samples": ("samples", 0),
}  # fmt: skip
_FOOT = (
    "Mean [95 % t-interval] over seeds. d3 to d5, d6 and d8 are mean exact success at T=1; 'worst' is the smallest of "
    "the three. 'Beyond budget' counts problems that the base's best decoder leaves below 1 / samples and that are now "
    "solved with P > 0.5."
)
run = trained


def score(folder: Path) -> dict[str, Any]:
    """Exact success by level (``base/6`` before, ``6`` after), and what the run's summary says besides."""
    summary = read_summary(folder)
    assert summary is not None and summary.evaluation is not None
    rows = [level for level in summary.evaluation.levels if level.split == "any"]
    found: dict[str, Any] = {str(r.level): r.trained["T=1"].mean for r in rows}
    found |= {f"base/{r.level}": r.base["T=1"].mean for r in rows}
    for prefix in ("", "base/"):
        found[f"{prefix}worst"] = min((found[at] for d in (3, 4, 5) if (at := f"{prefix}{d}") in found), default=None)
    beyond = summary.evaluation.beyond.count if summary.evaluation.beyond is not None else None
    return {**found, "beyond": beyond, "labels": summary.label_accuracy, "samples": summary.samples["total"]}


def table(rows: list[Row], out: Path) -> str:
    """The settings, and what the first is worth above each other, paired by seed."""
    before = [{"name": "(base, before)", **{k[5:]: v for k, v in r.items() if k.startswith("base/")}} for r in rows]
    lines = [table_of([*before, *rows], COLUMNS), _FOOT, ""]
    first, *others = named(rows) or [""]
    if others:
        lines += [f"Exact success of `{first}` less that of the setting, paired by seed, each by itself:", ""]
    for name in others:
        gains = [(d, difference(rows, first, name, d)) for d in ("6", "8")]
        told = ", ".join(f"depth {d} {show(gain)} ({sign(gain)})" for d, gain in gains)
        lines.append(f"- above `{name}`: {told}")
    return "\n".join([*lines, ""])
