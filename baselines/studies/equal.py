"""Does sleep help at equal training? ``python -m dream_envs.baselines.studies equal --first-seed 20``.

The flagship by day, and four ways of spending as many further optimiser steps on as many further tokens: ``awake``
trains again on rows of the round; ``replay`` interleaves the run's own verified traces, which are what nights are made
of; ``fine_tuning`` sleeps on them and on dreams by plain fine-tuning; ``sleep`` by Knowledge Seeding.  By day a round's
rows make one update (``grpo``) or four (``grpo4``); an arm without nights spends the nights' updates by day as well,
which makes four or eight a round.  Steps, trained tokens and completions of every arm stand in the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.training.rows import Round
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.baselines.loop import trained_on
from dream_envs.baselines.loops import dream
from dream_envs.baselines.recipe import Loop, Options, Recipe
from dream_envs.baselines.studies.flagship import score as flagship_score
from dream_envs.baselines.studies.grid import Row, difference, named, show, sign, table_of, trained
from dream_envs.checks import one_of
from dream_envs.metrics.rounds import read_rows
from dream_envs.runs import read_json
from dream_envs.schema import read_summary

#: By day in one update or in four; then a night's updates and their rows, in total as many a day of 25 rounds as are
#: spent awake by four or eight updates a round.
DAYS = {"grpo": 1, "grpo4": 4}
NIGHTS = {"grpo": (75, 76), "grpo4": (100, 57)}
AWAKE = {"grpo": 4, "grpo4": 8}
#: Rows that an arm without nights adds to a round, so that its tokens are those of the nights (found on seed 11).
AGAIN, REPLAYED = 160, 228


class Again:
    """``AGAIN`` of the round's own rows of solvers a second time, with their advantages."""

    def apply(self, rows: list[TrainingRow], round: Round, rng: np.random.Generator) -> list[TrainingRow]:
        """The rows, and some of them again."""
        own = [row for row in rows if row.role == "solver"]
        return [*rows, *(own[i] for i in rng.permutation(len(own))[:AGAIN])]


class Settings(msgspec.Struct, frozen=True):
    """``arm``: see above.  ``days``: a key of ``DAYS``."""

    arm: str = "sleep"
    days: str = "grpo"

    def __post_init__(self) -> None:
        one_of("arm", self.arm, ARMS)
        one_of("days", self.days, DAYS)


ARMS = ("awake", "replay", "fine_tuning", "sleep")


def recipe(chosen: Settings, steps: int) -> Recipe:
    """The flagship's day, with nights or with their updates and tokens spent awake."""
    awake = dream.recipe(dream.Settings(variant="awake"), steps)
    nights = {"fine_tuning": "no_seeding", "sleep": "full"}.get(chosen.arm)
    if nights is None:
        learning = {**awake.learning, "updates.minibatches": AWAKE[chosen.days]}
        if chosen.arm == "replay":
            learning["review"] = {"roles": ["solver"], "count": REPLAYED}
        again = (Again(),) if chosen.arm == "awake" else ()
        return msgspec.structs.replace(awake, learning=learning, sources=lambda: (*dream.sources(), *again))
    count, batch = NIGHTS[chosen.days]
    made = dream.nights_of(nights)
    made = msgspec.structs.replace(made, learning=msgspec.structs.replace(made.learning, steps=count, batch=batch))
    learning = {**awake.learning, "updates.minibatches": DAYS[chosen.days]}
    return msgspec.structs.replace(awake, learning=learning, nights=made)


LOOP = Loop("equal", "the flagship at equal training, with and without nights", Settings, recipe, 150)
SETTINGS = {
    f"{arm}-{days}": Options(f"{__name__}:LOOP", set={"arm": arm, "days": days}) for days in DAYS for arm in ARMS
}
#: What was chosen by it, on seeds of its own (30 to 34), beside the default before.
DEFAULTS = {"dream": Options("dream"), "dream-sleep": Options("dream", set={"variant": "sleep"})}
GRIDS = {"all": tuple(SETTINGS), "default": tuple(DEFAULTS)}
SETTINGS |= DEFAULTS
MARKS = {"all": "equal", "default": "default"}
COLUMNS = {
    "d1 to d3 (worst)": ("kept", 3), "d6": ("6", 3), "d8": ("8", 3), "d8 at equal processor time": ("in time", 3),
    "completions": ("samples", 0), "optimiser steps": ("steps", 0), "trained tokens": ("tokens", 0),
    "processor s": ("processor", 0),
}  # fmt: skip
_DEPTHS = {"6": "depth 6", "8": "depth 8", "in time": "depth 8 at equal processor time"}
run = trained


def score(folder: Path) -> dict[str, Any]:
    """Success by level, what was trained on, and the learning curve at depth 8 over processor time."""
    summary = read_summary(folder)
    assert summary is not None
    found, spent = flagship_score(folder), trained_on(folder, summary.nights)
    busy = read_json(folder / "study.json")["processor"]
    curve = [(r["processor_seconds"], r["eval/8"]) for r in read_rows(folder) if "eval/8" in r]
    kept = min(found[depth] for depth in ("1", "2", "3"))
    return {**found, **spent, "kept": kept, "processor": busy, "curve": [*curve, (busy, found["8"])]}


def table(rows: list[Row], out: Path) -> str:
    """Every arm, and what sleep is worth above each, paired by seed."""
    spent = {name: [r["processor"] for r in own] for name, own in named(rows).items()}
    least = min(sum(s) / len(s) for s in spent.values())
    rows = [{**row, "in time": [value for at, value in row["curve"] if at <= least][-1]} for row in rows]
    lines = [
        table_of(rows, COLUMNS),
        "Mean [95 % t-interval] over seeds; exact mean success at T=1. 'At equal processor time': at the last point of "
        f"the learning curve within {least:.0f} s, the mean of the cheapest arm. Steps and tokens are those that lead "
        "to the weights; a night's drafts and trials, and its dreams' completions, come on top.",
        "",
        "Exact success of the first less that of the second, paired by seed, each by itself:",
        "",
    ]
    pairs = (("sleep", "awake"), ("sleep", "replay"), ("sleep", "fine_tuning"), ("fine_tuning", "replay"))
    named_pairs = [(f"{a}-{days}", f"{b}-{days}") for days in DAYS for a, b in pairs] + [("dream", "dream-sleep")]
    for a, b in named_pairs:
        gains = [(d, difference(rows, a, b, d)) for d in ("6", "8", "in time")]
        if any(gain is not None for _, gain in gains):
            told = ", ".join(f"{_DEPTHS[d]} {show(gain, 3)} ({sign(gain)})" for d, gain in gains)
            lines.append(f"- `{a}` above `{b}`: {told}")
    return "\n".join([*lines, ""])
