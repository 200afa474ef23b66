"""Which ingredients does it take to know across days what was found on each?  ``studies discovery``.

Every run is a stream of three days of ``Discovery-v0`` (``loops.discovery``) with ``nano/explore``, which asks the
world itself: as many experiments a day, and as many training rows and optimiser steps a night.  ``full``, ``no_dreams``
and ``replay_day`` store no row from day to day, ``replay_all`` stores all.  Hypotheses: LOG.md, 2026-11-29.

Outcomes: success at facts of all days after the last night (``facts``), the area under retention (``area``),
compositions within a day (``within``) and across days (``across``), which were never practised together, and deeper
ones (``deep``); ``known``: operations of the base at depth 3; ``found``: share of all entries that experiments told;
``open``: right answers in practice, notes at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from dream_envs.baselines.recipe import Options
from dream_envs.baselines.studies.grid import Row, difference, named, show, sign, table_of, trained
from dream_envs.schema import read_summary

_OWN = "dream_envs.baselines.loops.discovery"
_DAYS = {"days": 3, "own_experiments": True}


def _set(loop: str = "discovery", **changes: Any) -> Options:
    return Options(loop, set={**_DAYS, **changes})


SETTINGS: dict[str, Options] = {
    "full": _set(),
    "no_dreams": _set(f"{_OWN}:NO_DREAMING"),
    "replay_day": _set(f"{_OWN}:REPLAY_SFT"),
    "replay_all": _set(f"{_OWN}:REPLAY_ALL"),
    "no_nights": _set(f"{_OWN}:IN_CONTEXT"),
    "placebo": _set(f"{_OWN}:PLACEBO"),
    "given_experiments": _set(own_experiments=False),
    "given_problems": Options("discovery", set=_DAYS, seats={"challenger": "scientist"}),
    "no_escalation": _set(max_level=1),
    "every_answer": _set(keep="all"),
    "random_answers": _set(keep="random"),
    "told_answers": _set(keep="told"),
}
GRIDS = {
    "primary": ("full", "no_dreams", "replay_day", "replay_all"),
    "ingredients": tuple(SETTINGS),
}
MARKS = {"primary": "discovery", "ingredients": "ingredients"}
COLUMNS: dict[str, Any] = {
    "facts": "facts", "area": "area", "within": "within", "across": "across", "deep": "deep", "in context": "open",
    "found": "found", "known": "known", "tokens": ("tokens", 0),
}  # fmt: skip
run = trained


def score(folder: Path) -> dict[str, float | None]:
    """The outcomes of a run."""
    summary = read_summary(folder)
    assert summary is not None and summary.retention is not None and summary.evaluation is not None
    left, last = summary.retention, summary.retention["within"][-1]
    known = {r.level: r.trained["T=1"].mean for r in summary.evaluation.levels if r.split == "any"}
    return {
        "facts": left["average_accuracy"], "area": left["area"], "within": fmean(v for v in last if v is not None),
        "across": left["across"][-1], "deep": left["deep"][-1], "open": left["open"][-1], "known": known.get(3),
        "found": fmean(left["share"]),
        "tokens": fmean([n["tokens"] for n in summary.nights]) if summary.nights else 0.0,
    }  # fmt: skip


def table(rows: list[Row], out: Path) -> str:
    """The settings, and each ingredient's difference."""
    lines = [table_of(rows, COLUMNS, head="setting"), *(f"- {q}: **{a}**" for q, a in answers(rows).items()), ""]
    return "\n".join(lines)


def answers(rows: Sequence[Row]) -> dict[str, str]:
    """What the full loop has over each other setting, paired by seed."""
    found = {}
    for name in named(rows):
        for key in ("across", "area") if name != "full" else ():
            interval = difference(rows, "full", name, key)
            found[f"full - {name}, {key}"] = f"{sign(interval)}, {show(interval)}"
    return found
