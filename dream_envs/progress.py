"""Progress of long work: a bar with the time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, cast

#: Seconds between two lines where there is no terminal.
EVERY = 10.0
#: Steps after which the whole time is estimated, once, where it is more than ``LONG`` seconds.
_FIRST, LONG = 3, 60.0


class Progress:
    """``with Progress() as tick: tick("training", 3, 150, "solved 0.4")``; silent if ``quiet``."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._bar, self._estimated = quiet, cast(Any, None), set[str]()
        self._what, self._began, self._first, self._shown = "", 0.0, 0, 0.0

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
            self._bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), speed_estimate_period=120)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Say how far ``what`` is; the rate is that of the steps since ``what`` began here, not before a resume."""
        if self._quiet:
            return
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._first, self._shown = what, now, done, now - EVERY * 0.7
            if self._bar is not None:
                for old in self._bar.task_ids:
                    self._bar.remove_task(old)
                self._bar.add_task(what, total=total, completed=done)
        spent, steps = now - self._began, done - self._first
        left = spent / steps * (total - done) if steps else 0.0
        if steps >= _FIRST and what not in self._estimated:
            self._estimated.add(what)
            if left > LONG:
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
                minutes = max(1, round(left / 60))
                self._say(f"{what}: about {minutes} minutes on {cores} cores, by its first {steps} steps")
        if self._bar is not None:
            text = f"{what} {detail}".strip()
            self._bar.update(self._bar.task_ids[-1], completed=done, total=total, description=text)
        elif now - self._shown >= EVERY:
            self._shown = now
            rest = f", {_clock(left)} left" if steps else ""
            self._say(f"{what} {done}/{total}  {_clock(spent)}{rest}  {detail}".rstrip())

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
