"""What the sections of the benchmark share: a row of the table, the options, and timing side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    ``ours`` and ``peer`` are in ``unit`` (None: not measured or no peer).  ``ratio`` is the figure that the ``target``
    (a text, ``>= 1.00`` for example) is about.  ``met``: True, False, or None where there is no target or no figure.
    ``note``: what was compared, or why there is no figure.
    """

    what: str
    unit: str = ""
    ours: float | None = None
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


class Options(msgspec.Struct, frozen=True):
    """What the sections are told.  ``size``: quick, normal or full; ``venv``: of the other suites."""

    size: str = "normal"
    scratch: str = "runs"
    venv: str = ".bench-venv"

    def pick(self, quick: int, normal: int, full: int) -> int:
        """The count that goes with the size."""
        return {"quick": quick, "normal": normal, "full": full}[self.size]

    def folder(self) -> Path:
        """A folder of the benchmark's own under ``scratch``."""
        path = Path(self.scratch) / "bench"
        path.mkdir(parents=True, exist_ok=True)
        return path


def side_by_side(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work, measured in turn (A B A B ...), so that a busy machine slows all of them alike.

    Args:
        works: what is timed, after one unmeasured round.  A work that returns a float has timed itself, in seconds.
        rounds: how often each, 1 or more.

    Returns:
        By name, ``rounds`` times in seconds, in order: entries of the same position were measured next to each other.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for k in range(-1, rounds):
        for name, work in works.items():
            began = time.perf_counter()
            own = work()
            spent = own if isinstance(own, float) else time.perf_counter() - began
            if k >= 0:
                times[name].append(spent)
    return times


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the quotients of neighbouring measurements."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
