"""What the sections of the benchmark share: a row of the table, the options, and timing side by side."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder under ``scratch`` that is gone afterwards."""
        path = Path(self.scratch) / "bench"
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path) as inside:
            yield Path(inside)


def side_by_side(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work, ``rounds`` times in turn (A B A B ...), so that a busy machine slows all of them alike.

    The first round is not measured.  A work that returns a float has timed itself, in seconds.
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


def compared(
    mine: Sequence[float], other: Sequence[float], figure: Callable[[float], float], whose: str = "", **more: Any
) -> Row:
    """A row of ours beside a peer's; ``figure`` of the median seconds is shown.

    The target: to be at least as fast, or, if ``whose`` names the peer's time, to take at most 1.05 times as long.
    """
    ratio = median_ratio(mine, other) if whose else median_ratio(other, mine)
    told: dict[str, Any] = {"target": ">= 1.00", "met": ratio >= 1.0}
    if whose:
        told = {"target": f"<= 1.05 x {whose} time", "met": ratio <= 1.05}
    ours, peer = (figure(statistics.median(times)) for times in (mine, other))
    return Row(ours=ours, peer=peer, ratio=ratio, **{**told, **more})
