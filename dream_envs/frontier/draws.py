"""Draws that are kept: early-stopped round-robin sampling with a cache on disk, shared by every report on a base.

Draw j of a problem is always the same draw: its arm is j modulo the number of arms and its seed is a hash of side,
problem and j.  So a sequence can be stopped, killed, resumed, extended and shared without its statistics noticing, and
two processes that write the same draws write the same lines.

One JSON line a problem and wave is appended and flushed; a line cut short by a kill is dropped and drawn again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from dream_envs.core import Action, Agent, DreamEnvsError, Limits, Message, Request
from dream_envs.frontier.suite import Problem
from dream_envs.play import ask
from dream_envs.seeds import digest

#: Rows of one call of an agent, if nothing else is said: right for a model of a megabyte.
ROWS = 4096
#: Draws a problem and wave at most: what may be wasted behind a success.
WAVE = 256
#: Label of draws whose random numbers both sides share.
SHARED = "shared"
_RETRIES = 3


class Unavailable(DreamEnvsError):
    """An arm cannot be made of this model: it gives the arm nothing to work with."""


class Asker(msgspec.Struct, frozen=True):
    """One arm, ready to ask: the agent, what a problem is put as, whether a reply is right, the bound on its tokens.

    ``quick``: an agent whose draws are right where those of ``agent`` are, and which may leave the rest unsaid; it is
    asked where only the first success matters.
    """

    name: str
    agent: Agent
    messages: Callable[[Problem], list[Message]]
    right: Callable[[Problem, str], bool]
    limit: Callable[[Problem], int]
    quick: Agent | None = None


class Series(msgspec.Struct):
    """How far a problem's sequence has gone: draws made, index of the first success (1-based, 0: none), tokens."""

    made: int = 0
    first: int = 0
    tokens: int = 0


class Count(msgspec.Struct, frozen=True):
    """A fixed number of draws: which were right, and the tokens they took."""

    right: list[int]
    tokens: int


class Book:
    """The draws of one side.

    Args:
        path: the file; None keeps them in memory only.
        side: label of the randomness, ``base`` or ``trained``; two sides never share a draw.
        role: the role that agents are asked in.
        rows: the most rows of one call of an agent; what is drawn does not depend on it.

    Raises:
        DreamEnvsError: if the file holds something else.
    """

    def __init__(self, path: Path | None, side: str, role: str = "solver", rows: int = 0) -> None:
        self.path, self.side, self.role, self.rows = path, side, role, rows or ROWS
        self.sequences: dict[tuple[str, str], Series] = {}
        self.counts: dict[tuple[str, str, int, bool], Count] = {}
        self.drawn = 0  # by this process
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)
            self._file = open(path, "ab")  # noqa: SIM115  (closed by close())

    def close(self) -> None:
        """Close the file."""
        if self.path is not None:
            self._file.close()

    def first(
        self,
        askers: Sequence[Asker],
        problems: Sequence[Problem],
        cap: int,
        tick: Callable[[int, int], None] | None = None,
    ) -> list[Series]:
        """Draw round-robin over ``askers`` until each problem's first success, or ``cap`` draws.

        Args:
            askers: the arms, in order; draw j asks number j modulo their count.
            problems: what is drawn.
            cap: the most draws of each, 1 or more.
            tick: called with (problems that are settled, problems) after every wave.

        Returns:
            For each problem its sequence; draws beyond ``cap`` that an earlier report made are not looked at, so that
            the answer does not depend on what is in the cache.
        """
        name = "+".join(a.name for a in askers)
        while open_ := [p for p in problems if self._open(name, p, cap)]:
            if tick:
                tick(len(problems) - len(open_), len(problems))
            made = min(self._sequence(name, p).made for p in open_)
            group = [p for p in open_ if self._sequence(name, p).made == made]
            size = min(cap - made, max(len(askers), min(made, WAVE)))
            part = max(1, self.rows * len(askers) // size)  # a call asks one arm
            for at in range(0, len(group), part):
                self._wave(name, askers, group[at : at + part], made, size)
        if tick:
            tick(len(problems), len(problems))
        return [self._cut(self._sequence(name, p), cap) for p in problems]

    def count(
        self,
        asker: Asker,
        problems: Sequence[Problem],
        draws: int,
        *,
        shared: bool = False,
        tick: Callable[[int, int], None] | None = None,
    ) -> list[Count]:
        """``draws`` draws of each problem by one arm, independent of those of ``first``.

        ``shared``: both sides draw with the same random numbers, so that two models that are the same draw the same
        (for choices between arms; estimates of the two sides have to be independent).
        """
        missing = [p for p in problems if (asker.name, p.task.id, draws, shared) not in self.counts]
        step = max(1, self.rows // draws)
        for at in range(0, len(missing), step):
            part = missing[at : at + step]
            rows = [(asker, p, SHARED if shared else "count", i) for p in part for i in range(draws)]
            right, tokens = self._ask(rows)
            for i, problem in enumerate(part):
                places = slice(i * draws, (i + 1) * draws)
                self.counts[asker.name, problem.task.id, draws, shared] = found = Count(
                    right[places], sum(tokens[places])
                )
                row = {"arm": asker.name, "id": problem.task.id, "right": found.right, "tokens": found.tokens}
                self._write({**row, "shared": shared})
            if tick:
                tick(min(at + step, len(missing)), len(missing))
        return [self.counts[asker.name, p.task.id, draws, shared] for p in problems]

    def _sequence(self, name: str, problem: Problem) -> Series:
        return self.sequences.setdefault((name, problem.task.id), Series())

    def _open(self, name: str, problem: Problem, cap: int) -> bool:
        s = self._sequence(name, problem)
        return not s.first and s.made < cap

    @staticmethod
    def _cut(s: Series, cap: int) -> Series:
        if s.made <= cap:
            return Series(s.made, s.first, s.tokens)
        inside = s.first if s.first <= cap else 0
        return Series(min(s.made, cap), inside, round(s.tokens * min(s.made, cap) / s.made))

    def _wave(self, name: str, askers: Sequence[Asker], problems: Sequence[Problem], made: int, size: int) -> None:
        rows = [(askers[j % len(askers)], p, name, j) for p in problems for j in range(made, made + size)]
        right, tokens = self._ask(rows, quick=True)
        for i, problem in enumerate(problems):
            hits = np.flatnonzero(right[i * size : (i + 1) * size])
            s = self._sequence(name, problem)
            s.made, s.tokens = made + size, s.tokens + sum(tokens[i * size : (i + 1) * size])
            s.first = made + int(hits[0]) + 1 if len(hits) else 0
            self._write({"arms": name, "id": problem.task.id, "made": s.made, "first": s.first, "tokens": s.tokens})

    def _ask(self, rows: Sequence[tuple[Asker, Problem, str, int]], quick: bool = False) -> tuple[list[int], list[int]]:
        """Whether each draw was right (0 or 1), and its tokens; one call an arm."""
        right, tokens = [0] * len(rows), [0] * len(rows)
        by_arm: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            by_arm.setdefault(row[0].name, []).append(place)
        for places in by_arm.values():
            asker = rows[places[0]][0]
            agent = asker.quick if quick and asker.quick is not None else asker.agent
            for attempt in range(_RETRIES):
                requests, failed = [self.request(*rows[p]) for p in places], []
                for place, action in zip(places, self.asked(agent, requests), strict=True):
                    if action.status != "ok":
                        failed.append(place)
                        continue
                    right[place] = int(asker.right(rows[place][1], action.text))
                    tokens[place] = action.usage.completion_tokens
                if not failed:
                    break
                if attempt == _RETRIES - 1:
                    raise DreamEnvsError(
                        f"arm {asker.name!r}: {len(failed)} draws have no reply after {_RETRIES} tries, which is not a "
                        "failure of the model; see to the engine and start again: what was drawn is kept"
                    )
                places = failed
        self.drawn += len(rows)
        return right, tokens

    def asked(self, agent: Agent, requests: Sequence[Request]) -> list[Action]:
        """Every request's reply, at most ``rows`` at once."""
        parts = range(0, len(requests), self.rows)
        return [action for at in parts for action in ask(agent, requests[at : at + self.rows])]

    def request(self, asker: Asker, problem: Problem, label: str, j: int) -> Request:
        """Draw ``j`` of the sequence ``label``."""
        return Request(
            messages=asker.messages(problem),
            agent=f"{self.role}_0",
            role=self.role,
            seed=digest("frontier-draw", "" if label == SHARED else self.side, label, asker.name, problem.task.id, j),
            limits=Limits(max_tokens=asker.limit(problem)),
        )

    def _write(self, row: dict[str, object]) -> None:
        if self.path is not None:
            self._file.write(msgspec.json.encode(row) + b"\n")
            self._file.flush()

    def _read(self, path: Path) -> None:
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with open(path, "r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = msgspec.json.decode(line)
                if "arms" in row:
                    self.sequences[row["arms"], row["id"]] = Series(row["made"], row["first"], row["tokens"])
                else:
                    key = row["arm"], row["id"], len(row["right"]), row["shared"]
                    self.counts[key] = Count(row["right"], row["tokens"])
            except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
                raise DreamEnvsError(f"{path}, line {number} is no line of draws: remove the file") from error


def book_path(cache: Path, identity: str, *parts: str) -> Path:
    """The cache file of a model's draws: another model, protocol or suite has another file."""
    name = hashlib.sha256("\0".join((identity, *parts)).encode()).hexdigest()[:24]
    return cache / f"{name}.jsonl"
