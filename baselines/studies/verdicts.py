"""The README's table of Frontier Reports: ``python -m dream_envs.baselines.studies verdicts --seeds 1``.

Runs of the flagship that should and models that must not look like an expansion.  The runs are those of the study
``flagship``, in the folder of that name beside this study's.
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


class Reported(msgspec.Struct, frozen=True):
    """What is reported on: the flagship's ``run`` of this name, or a ``control``."""

    run: str = ""
    control: str = ""
    base: str = "nano/compose"
    size: str = "mini"


RUNS = ("sleep", "awake", "no_seeding", "no_self_data")
SETTINGS = {
    **{name: Reported(run=name) for name in RUNS},
    **{f"control-{name}": Reported(control=name) for name in controls.CONTROLS},
}
GRIDS = {"all": tuple(SETTINGS)}
MARKS = {"all": "frontier"}
_HEAD = ("model", "verdict", "G@K", "E", "S", "pass@1 gain", "certified", "base samples")


def run(settings: Reported, seed: str, out: Path) -> None:
    """A report; base draws are kept in ``cache`` beside it.

    Raises:
        DreamEnvsError: if the run that it is about is not finished.
    """
    cache = out.parent / "cache" / out.name  # a cache belongs to one process
    if settings.control:
        how: dict[str, Any] = {"size": settings.size, "cache": cache, "quiet": True}
        controls.run(settings.control, out, settings.base, **how)
        return
    trained = out.parent.parent / "flagship" / f"{settings.run}-{seed}"
    if not (trained / "summary.json").is_file():
        raise DreamEnvsError(f"{trained} is no finished run: run the study flagship --only {settings.run} first")
    job.run(settings.base, str(trained), out, cache, job.Options(size=settings.size), quiet=True)


def score(folder: Path) -> dict[str, Any]:
    """The report's data."""
    return {"report": read_report(folder)}


def table(rows: Sequence[Row], out: Path) -> str:
    """A report a line; percentage points of problems with 95 % intervals."""
    lines = []
    for row in rows:
        data = row["report"]
        head, gain, cost = data.headline, data.pass1.gain, data.cost
        lines.append(
            [
                f"{row['name']}-{row['seed']}".replace("_", "\\_"),
                data.verdict.phrase,
                _interval(*head.g),
                *(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in (head.e, head.s)),
                _interval(*(100 * (x or 0.0) for x in gain)),
                str(len(data.certified)),
                f"{cost.round_robin_draws + sum(cost.envelope_draws.values()):,}",
            ]
        )
    return markdown(_HEAD, lines)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value + 0.0:+.1f} [{low + 0.0:+.1f}, {high + 0.0:+.1f}]"
