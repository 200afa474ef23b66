"""The table in docs/results.md of Frontier Reports: ``python -m dream_envs.baselines.studies verdicts --seeds 1``.

Recipes that should, models that must not look like an expansion, and two that gained from answers.  The recipes are
arms of the study ``equal``, all runs of an arm in one report, from the folder of that name beside this study's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.baselines.frontier import controls, job
from dream_envs.baselines.studies.grid import Row, markdown
from dream_envs.core import DreamEnvsError
from dream_envs.frontier.schema import read_report
from dream_envs.schema import SUMMARY


class Reported(msgspec.Struct, frozen=True):
    """What is reported on: an ``arm`` of the study ``equal``, or a ``control``."""

    arm: str = ""
    control: str = ""
    base: str = "nano/compose"
    size: str = "mini"


ARMS = ("replay-grpo", "sleep-grpo")
SETTINGS = {
    **{name: Reported(arm=name) for name in ARMS},
    **{f"control-{name}": Reported(control=name) for name in controls.CONTROLS},
}
GRIDS = {"all": tuple(SETTINGS)}
MARKS = {"all": "frontier"}
_HEAD = ("model", "runs", "verdict", "G@K", "E", "S", "pass@1 gain", "certified", "base samples")


def run(settings: Reported, seed: str, out: Path) -> None:
    """A report; base draws are kept in ``cache`` beside it."""
    cache = out.parent / "cache" / out.name  # a cache belongs to one process
    if settings.control:
        controls.run(settings.control, out, settings.base, size=settings.size, cache=cache, quiet=True)
        return
    found = sorted(p.parent for p in (out.parent.parent / "equal").glob(f"{settings.arm}-*/{SUMMARY}"))
    if not found:
        raise DreamEnvsError(f"{out.parent.parent / 'equal'} has no run of {settings.arm}: run the study equal first")
    job.run(settings.base, [str(p) for p in found], out, cache, job.Options(size=settings.size), quiet=True)


def score(folder: Path) -> dict[str, Any]:
    """The report's data."""
    return {"report": read_report(folder)}


def table(rows: Sequence[Row], out: Path) -> str:
    """A report a line; percentage points of problems with 95 % intervals."""
    lines = []
    for row in rows:
        data = row["report"]
        head, cost = data.headline, data.cost
        # What limits the word besides the want of a record, which no control has.
        told = "; ".join(line for line in data.verdict.qualified if "without a record" not in line)
        cells = [row["name"].replace("_", "\\_"), str(head.runs), data.verdict.phrase + f" ({told})" * bool(told)]
        cells += [
            _interval(*head.g),
            *(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in (head.e, head.s)),
        ]
        cells += [_interval(*(100 * (x or 0.0) for x in data.pass1.gain)), str(len(data.certified))]
        lines.append([*cells, f"{cost.round_robin_draws + sum(cost.envelope_draws.values()):,}"])
    return markdown(_HEAD, lines)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value + 0.0:+.1f} [{low + 0.0:+.1f}, {high + 0.0:+.1f}]"
