"""Which ingredients does it take to know across days what was found on each?  ``studies discovery``.

Every run is a stream of days of ``Discovery-v0`` (``loops.discovery``): the same experiments, as many training rows a
night.  Outcomes: success at facts of all days after the last night (``facts``), the area under retention (``area``),
compositions within a day (``within``) and across days (``across``), which were never practised together, and deeper
ones (``deep``); ``known``: operations of the base at depth 3.
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
SETTINGS: dict[str, Options] = {
    "full": Options("discovery"),
    "no_dreams": Options(f"{_OWN}:NO_DREAMING"),
    "no_nights": Options(f"{_OWN}:IN_CONTEXT"),
    "replay_day": Options(f"{_OWN}:REPLAY_SFT"),
    "replay_all": Options(f"{_OWN}:REPLAY_ALL"),
    "placebo": Options(f"{_OWN}:PLACEBO"),
    "given_problems": Options("discovery", seats={"challenger": "scientist"}),
    "no_escalation": Options("discovery", set={"max_level": 1}),
    "every_answer": Options("discovery", set={"keep": "all"}),
}
GRIDS = {
    "primary": ("full", "no_dreams", "replay_all"),
    "ingredients": tuple(SETTINGS),
}
COLUMNS: dict[str, Any] = {
    "facts": "facts", "area": "area", "within": "within", "across": "across", "deep": "deep", "in context": "open",
    "known": "known", "tokens": ("tokens", 0),
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
