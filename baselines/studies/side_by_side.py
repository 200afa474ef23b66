"""Runs of a study in several processes of one thread each; finished ones are skipped by whoever makes the list."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Job = TypeVar("Job")


def positive(text: str) -> int:
    """A whole number of 1 or more, for ``argparse``; anything else is told in its one line, exit status 2."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of 1 or more")
    return int(text)


def side_by_side(work: Callable[[Job], tuple[str, float]], jobs: Sequence[Job], count: int) -> None:
    """Run all jobs, ``count`` at a time; one line a finished run.

    Args:
        work: a function of a module (it is pickled) from a job to its name and its seconds.
        jobs: what is to be run.
        count: processes.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    if not jobs:
        return
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(min(count, len(jobs))) as pool:
        for done, (name, seconds) in enumerate(pool.imap_unordered(work, jobs), 1):
            spent = time.monotonic() - began
            left = spent / done * (len(jobs) - done)
            print(f"{done}/{len(jobs)}  {name} {seconds:.0f} s  {spent:.0f} s, {left:.0f} s left", flush=True)
