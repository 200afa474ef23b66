"""Every challenge ever accepted, what became of it, and how sure that is.

Append-only.  Solvers change: the newest observation is the estimate, the totals are the record.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dream_envs.core import Challenge, DreamEnvsError, Task, decode_task, encode


class Share(NamedTuple):
    """A share ``p`` with the ends of its 95 % interval."""

    p: float
    low: float
    high: float


def share(count: int, n: int) -> Share | None:
    """A share with its Wilson interval; None of nothing."""
    return wilson(count, n) if n else None


def wilson(successes: float, attempts: int) -> Share:
    """Wilson's score interval; 0 of 8 is [0, 0.32], so "never solved" in eight draws only means below a third."""
    if attempts < 1 or not 0 <= successes <= attempts:
        raise DreamEnvsError(f"successes={successes}, attempts={attempts}: 0 <= successes <= attempts, attempts >= 1")
    p, z = successes / attempts, 1.959963984540054
    scale = 1 + z * z / attempts
    centre = (p + z * z / (2 * attempts)) / scale
    half = z * math.sqrt(p * (1 - p) / attempts + z * z / (4 * attempts * attempts)) / scale
    # At 0 and at 1 the ends meet p exactly; in floating point they would miss it by a last digit.
    return Share(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


class Entry(msgspec.Struct):
    """A challenge and its record; ``rate``, ``n`` and ``round`` are those of the newest observation."""

    challenge: Challenge
    successes: float = 0.0
    attempts: int = 0
    rate: float | None = None
    n: int = 0
    round: int = -1


class ChallengeStore:
    """Challenges by id, in the order they came, with their attempts.

    ``path``: where each new challenge is appended as one JSON line; None keeps the store in memory.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self._file = None
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab+")  # noqa: SIM115  (closed by close())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def add(self, task: Task, *, round: int, author: str = "", parent: str = "") -> bool:
        """Add a challenge; False if it is there already.  A plain Task becomes a Challenge of ``author``."""
        if task.id in self._entries:
            return False
        made = Challenge(**{**msgspec.structs.asdict(task), "round": round, "author": author, "parent": parent})
        self._entries[made.id] = Entry(made)
        if self._file is not None:
            self._file.write(encode(made) + b"\n")
            self._file.flush()
        return True

    def record(self, key: str, successes: float, attempts: int, *, round: int) -> None:
        """Count ``attempts`` draws of which ``successes`` (fractions allowed) were right, seen in ``round``."""
        entry = self._entries.get(key)
        if entry is None:
            raise DreamEnvsError(f"challenge {key!r} is not in the store: add it before recording attempts")
        wilson(successes, attempts)  # refuses impossible counts
        entry.successes += successes
        entry.attempts += attempts
        entry.rate, entry.n, entry.round = successes / attempts, attempts, round

    def select(self, test: Callable[[Entry], bool], last: int | None = None) -> list[Entry]:
        """Entries that pass ``test``, oldest first; only the newest ``last`` of them if given."""
        newest = itertools.islice(filter(test, reversed(self._entries.values())), last)
        return list(newest)[::-1]

    def state(self) -> dict[str, Any]:
        """Everything, as JSON-ready data; ``position`` is the file's length."""
        rows = [[e.successes, e.attempts, e.rate, e.n, e.round] for e in self]
        position = self._file.tell() if self._file is not None else 0
        return {"challenges": [msgspec.to_builtins(e.challenge) for e in self], "rows": rows, "position": position}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the store that gave this state; the file is cut to its length then (or made anew, if shorter)."""
        challenges = msgspec.convert(state["challenges"], list[Challenge])
        self._entries = {c.id: Entry(c, *row) for c, row in zip(challenges, state["rows"], strict=True)}
        if self._file is not None and self._file.seek(0, 2) < state["position"]:
            self.rewrite()
        elif self._file is not None:
            self._file.truncate(state["position"])
            self._file.seek(0, 2)

    def rewrite(self) -> None:
        """Make the file hold the challenges of this store and nothing else, such as what a killed run left there."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.seek(0)
            self._file.writelines(encode(e.challenge) + b"\n" for e in self)
            self._file.flush()

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_challenges(path: str | Path) -> Iterable[Challenge]:
    """The challenges of a run's ``challenges.jsonl``; an unfinished last line is left out."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and isinstance(task := decode_task(line), Challenge):
                yield task
