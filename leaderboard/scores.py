"""What the board knows: one line a run, appended and never changed, and what is made of the lines.

A line is of one entry in one world.  Its ``hash`` is of all that a re-run has to give again: the entry's files, the
world, the budget, the learning curve in counts and success, and the weights; processor seconds are not in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.budget import Used

SCHEMA = 1
#: A difference counts at this level, of an exact rank test over worlds.
LEVEL = 0.05
#: A new record: this level, and so many fewer samples in the median.
RECORD, MARGIN = 0.01, 0.05


class Gain(msgspec.Struct, frozen=True):
    """The Frontier Report's headline: percent of problems past the base's decoding, with its 95 % interval."""

    value: float
    low: float
    high: float
    word: str


class Result(msgspec.Struct, frozen=True):
    """A run.  ``status``: ``ok``, ``error``, or ``disqualified`` (over the class's seconds); ``detail`` says why.

    ``samples``: at which the goal was reached, None for a miss; ``miss``: which half of it.  ``best``: highest success
    at the deepest level.  ``curve``: [samples, trained tokens, optimiser steps, seconds, success by level ...].
    ``by``: who ran it.  ``source``: hash of the suite's code.
    """

    entry: str
    entry_hash: str
    round: str
    budget: int
    world: int
    base: str
    status: str
    detail: str = ""
    samples: int | None = None
    miss: str = ""
    best: float = 0.0
    used: Used = Used()
    curve: list[list[float]] = []
    weights: str = ""
    hash: str = ""
    gain: Gain | None = None
    by: str = ""
    date: str = ""
    source: str = ""
    versions: dict[str, str] = {}
    schema: int = SCHEMA

    @property
    def score(self) -> float:
        """Samples to the goal; infinite for a miss and for what is not ``ok``."""
        return float(self.samples) if self.status == "ok" and self.samples is not None else math.inf


def reproducible(result: Result) -> str:
    """16 hex digits of all that a re-run has to give again."""
    curve = [[*row[:3], *row[4:]] for row in result.curve]
    told = (result.entry_hash, result.round, result.budget, result.world, result.base, curve, result.weights)
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


def append(file: Path, results: Sequence[msgspec.Struct]) -> None:
    """Add lines in one write; a line that a kill has cut is ended first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab+") as out:
        if out.tell() and (out.seek(-1, 2), out.read(1))[1] != b"\n":
            out.write(b"\n")
        out.write(b"".join(msgspec.json.encode(r) + b"\n" for r in results))


def load(file: Path) -> list[Result]:
    """All whole lines of a round, in order.

    Raises:
        DreamEnvsError: for a line of another form, by its number.
    """
    found = []
    lines = file.read_bytes().split(b"\n") if file.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            found.append(msgspec.json.decode(line, type=Result))
        except msgspec.DecodeError as error:
            if number == len(lines):  # cut by a kill: it was never whole
                continue
            raise DreamEnvsError(f"{file.name}, line {number}: {error}") from None
    return found


class Standing(msgspec.Struct, frozen=True):
    """An entry on the board, in one round and class.

    ``median``, ``low``, ``high``: of the samples over worlds; low and high are the extremes, which hold the median of
    all worlds with 1 - 2^(1-n).  ``rank``: the best and the worst rank that its worlds leave open.  ``hits``: worlds in
    which it reached the goal.  ``reproduced``: others than the first who ended in equal hashes.
    """

    entry: str
    entry_hash: str
    results: list[Result]
    median: float
    low: float
    high: float
    hits: int
    rank: tuple[int, int]
    gain: Gain | None
    reproduced: int
    differs: int


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided exact rank-sum test of two small samples with ties, infinities among them; 1 where one is empty."""
    if not len(a) or not len(b):
        return 1.0
    values = np.array([*a, *b])
    # Average ranks, doubled to be whole: a miss is as bad as any other miss.
    ranks = [int(2 * (values < v).sum() + (values == v).sum() + 1) for v in values]
    sums = np.zeros((len(a) + 1, sum(ranks) + 1))  # [number, sum]: ways to choose so many of the values with this sum
    sums[0, 0] = 1
    for rank in ranks:
        sums[1:, rank:] += sums[:-1, :-rank]  # the right side is computed before anything is added
    middle = len(a) * (len(values) + 1)
    far = np.abs(np.arange(sums.shape[1]) - middle) >= abs(sum(ranks[: len(a)]) - middle)
    return float(sums[-1, far].sum() / sums[-1].sum())


def standings(results: Sequence[Result], budget: int) -> list[Standing]:
    """The board of one round and class, the best median first; of an entry its newest files alone count."""
    own = [r for r in results if r.budget == budget]
    newest = {r.entry: r.entry_hash for r in own}
    first = dict[tuple[str, int], Result]()
    again = dict[tuple[str, int], list[Result]]()
    for r in own:
        if r.entry_hash == newest[r.entry]:
            again.setdefault((r.entry, r.world), []).append(r)
            kept = first.get((r.entry, r.world))
            if kept is None or (kept.status == "error" and r.status != "error"):
                first[r.entry, r.world] = r
    groups = {e: [r for (name, _), r in sorted(first.items()) if name == e] for e in newest}
    scores = {entry: [r.score for r in its] for entry, its in groups.items()}
    found = []
    for entry, its in groups.items():
        better = sum(_ahead(scores[other], scores[entry]) for other in groups if other != entry)
        worse = sum(_ahead(scores[entry], scores[other]) for other in groups if other != entry)
        runs = [r for r in its for r in again[entry, r.world]]
        gains = [r.gain for r in runs if r.gain is not None]
        others, differs = _reproduced(its, again)
        values = sorted(scores[entry])
        found.append(
            Standing(
                entry,
                newest[entry],
                its,
                _median(values),
                values[0],
                values[-1],
                sum(map(math.isfinite, values)),
                (1 + better, len(groups) - worse),
                gains[0] if gains else None,
                others,
                differs,
            )
        )
    tie = {s.entry: -float(np.mean([r.best for r in s.results])) for s in found}
    return sorted(found, key=lambda s: (s.median, -s.hits, tie[s.entry], s.entry))


def _median(values: Sequence[float]) -> float:
    """The upper middle of an even number: between a hit and a miss lies a miss."""
    middle = len(values) // 2
    a, b = values[middle - (len(values) % 2 == 0)], values[middle]
    return (a + b) / 2


def _ahead(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is shown to be better than b."""
    return _median(sorted(a)) < _median(sorted(b)) and p_value(a, b) <= LEVEL


def record(a: Standing, b: Standing) -> bool:
    """Whether a takes the record from b."""
    ahead = a.median <= (1 - MARGIN) * b.median if math.isfinite(b.median) else math.isfinite(a.median)
    return ahead and p_value([r.score for r in a.results], [r.score for r in b.results]) < RECORD


def _reproduced(its: Sequence[Result], again: dict[tuple[str, int], list[Result]]) -> tuple[int, int]:
    """How many others gave the first run's hashes in some world and differed in none; and how many runs differed."""
    equal, unequal, differs = set[str](), set[str](), 0
    for r in its:
        for other in again[r.entry, r.world]:
            if other is r or other.status != "ok":
                continue
            same = other.hash == r.hash
            differs += not same
            (equal if same else unequal).add(other.by)
    return len(equal - unequal - {r.by for r in its}), differs


def rows(standing: Standing) -> list[dict[str, Any]]:
    """One entry's runs, flat."""
    return [msgspec.to_builtins(r) for r in standing.results]
