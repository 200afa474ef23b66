"""Draws that are kept: early-stopped sampling in turn over methods, cached on disk and shared by all reports on a base.

Draw j of a problem is always the same draw: its method is j modulo the number of methods and its seed is a hash of
model, problem and j.  So a sequence can be stopped, killed, resumed, extended and shared without its statistics
noticing, and two processes that write the same draws write the same lines.

One JSON line a problem and batched step is appended and flushed; a line cut short by a kill is dropped and drawn again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from dream_envs.core import Action, Agent, DreamEnvsError, Limits, Message, Request
from dream_envs.frontier.suite import Problem
from dream_envs.play import ask
from dream_envs.seeds import digest
from dream_envs.tasks.answers import settled

#: Rows of one call of an agent, if nothing else is said: right for a model of a megabyte.
ROWS = 4096
#: Draws a problem and batched step at most: what may be wasted after a success.
STEP = 256
#: Called with (problems that are settled, problems) after every batched step.
Settled = Callable[[int, int], None]
#: Label of draws whose random numbers both models share.
SHARED = "shared"
_RETRIES = 3


class Unavailable(DreamEnvsError):
    """A method cannot be made of this model: it gives the method nothing to work with."""


class Method(msgspec.Struct, frozen=True):
    """An elicitation method, ready to sample."""

    name: str
    agent: Agent
    messages: Callable[[Problem], list[Message]]  # the prompt
    right: Callable[[Problem, str], bool]  # the grader
    limit: Callable[[Problem], int]  # bound on tokens
    # right where ``agent`` is, but may stop at the first wrong token; used where only the first success matters
    quick: Agent | None = None
    key: str = ""  # what its draws are kept under, where the name alone does not decide them
    free: bool = True  # nothing but the model writes the reply
    reasons: bool = False  # of a reply that its budget cut off only a finished statement counts

    @property
    def kept(self) -> str:
        """What its draws are kept under."""
        return self.key or self.name


Whole = Annotated[int, Meta(ge=0)]


class SampleSequence(msgspec.Struct):
    """How far a problem's sequence has gone: draws made, index of the first success (1-based, 0: none), tokens."""

    made: Whole = 0
    first: Whole = 0
    tokens: Whole = 0

    def __post_init__(self) -> None:
        if self.first > self.made:
            raise ValueError(f"first={self.first}: at most made={self.made}")


class Count(msgspec.Struct, frozen=True):
    """A fixed number of draws: which were right (0 or 1), and the tokens they took."""

    right: list[Annotated[int, Meta(ge=0, le=1)]]
    tokens: Whole


class _Line(SampleSequence, kw_only=True):
    """A line of the cache: of a sequence over ``arms``, or of fixed draws of one ``arm``."""

    id: str
    arms: str | None = None
    arm: str | None = None
    shared: bool = False
    right: list[Annotated[int, Meta(ge=0, le=1)]] = []


class SampleCache:
    """The draws of one model, in the file ``path`` (None: in memory only).

    ``side``: label of the randomness, ``base`` or ``trained``; the two never share a draw.  ``rows``: the most rows of
    one call of an agent (0: ``ROWS``); what is drawn does not depend on it.
    """

    def __init__(self, path: Path | None, side: str, rows: int = 0) -> None:
        self.path, self.side, self.rows = path, side, rows or ROWS
        self.sequences: dict[tuple[str, str], SampleSequence] = {}
        self.counts: dict[tuple[str, str, int, bool], Count] = {}
        self.drawn = 0  # by this process
        self._before = set[tuple[str, str]]()  # sequences that were in the file
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)
            self._file = open(path, "ab")  # noqa: SIM115  (closed by close())

    def close(self) -> None:
        """Close the file."""
        if self.path is not None:
            self._file.close()

    def first(
        self, methods: Sequence[Method], problems: Sequence[Problem], cap: int, tick: Settled | None = None
    ) -> list[SampleSequence]:
        """Each problem's sequence, drawn in turn over ``methods`` until its first success, or ``cap`` >= 1 draws.

        Draws beyond ``cap`` that an earlier report made are not looked at: the answer does not depend on the cache.
        """
        name = "+".join(m.kept for m in methods)
        all_ = [(p, self.sequences.setdefault((name, p.task.id), SampleSequence())) for p in problems]
        while open_ := [(p, s) for p, s in all_ if not s.first and s.made < cap]:
            if tick:
                tick(len(problems) - len(open_), len(problems))
            made = min(s.made for _, s in open_)
            group = [p for p, s in open_ if s.made == made]
            size = min(cap - made, max(len(methods), min(made, STEP)))
            part = max(1, self.rows * len(methods) // size)  # a call asks one method
            for at in range(0, len(group), part):
                some = group[at : at + part]
                found = self._sample(methods, some, name, range(made, made + size), quick=True)
                for problem, (right, tokens) in zip(some, found, strict=True):
                    s = self.sequences[name, problem.task.id]
                    s.made, s.tokens = made + size, s.tokens + tokens
                    s.first = made + right.index(1) + 1 if 1 in right else 0
                    row = {"made": s.made, "first": s.first, "tokens": s.tokens}
                    self._write({"arms": name, "id": problem.task.id, **row})
        if tick:
            tick(len(problems), len(problems))
        return [_cut(s, cap) for _, s in all_]

    def count(
        self, method: Method, problems: Sequence[Problem], draws: int, *, shared: bool = False,
        tick: Settled | None = None,
    ) -> list[Count]:  # fmt: skip
        """``draws`` draws of each problem by one method, independent of those of ``first``.

        ``shared``: both models draw with the same random numbers (for choices between methods, not for estimates).
        """
        missing = [p for p in problems if (method.kept, p.task.id, draws, shared) not in self.counts]
        step = max(1, self.rows // draws)
        for at in range(0, len(missing), step):
            part = missing[at : at + step]
            found = self._sample([method], part, SHARED if shared else "count", range(draws))
            for problem, (right, tokens) in zip(part, found, strict=True):
                name = problem.task.id
                self.counts[method.kept, name, draws, shared] = Count(right, tokens)
                self._write({"arm": method.kept, "id": name, "right": right, "tokens": tokens, "shared": shared})
            if tick:
                tick(min(at + step, len(missing)), len(missing))
        return [self.counts[method.kept, p.task.id, draws, shared] for p in problems]

    def _sample(
        self, methods: Sequence[Method], problems: Sequence[Problem], label: str, draws: range, quick: bool = False
    ) -> list[tuple[list[int], int]]:
        """For each problem whether each of these draws was right (0 or 1), and the tokens of all; one call a method."""
        rows = [(p, j) for p in problems for j in draws]
        right, tokens, size = [0] * len(rows), [0] * len(rows), len(draws)
        for turn, method in enumerate(methods):
            places = [i for i, (_, j) in enumerate(rows) if j % len(methods) == turn]
            agent = method.quick if quick and method.quick is not None else method.agent
            for attempt in range(_RETRIES):
                requests = [self.request(method, p, label, j) for p, j in (rows[at] for at in places)]
                failed = []
                for at, action in zip(places, self.query(agent, requests), strict=True):
                    if action.status != "ok":
                        failed.append(at)
                        continue
                    right[at] = int(method.right(rows[at][0], settled(action) if method.reasons else action.text))
                    tokens[at] = action.usage.completion_tokens
                if not failed:
                    break
                if attempt == _RETRIES - 1:
                    raise DreamEnvsError(
                        f"method {method.name!r}: {len(failed)} draws have no reply after {_RETRIES} tries, which is "
                        "not a failure of the model; see to the engine and start again: what was drawn is kept"
                    )
                places = failed
        self.drawn += len(rows)
        return [(right[at : at + size], sum(tokens[at : at + size])) for at in range(0, len(rows), size)]

    def query(self, agent: Agent, requests: Sequence[Request]) -> list[Action]:
        """Every request's completion, at most ``rows`` at once."""
        return [a for at in range(0, len(requests), self.rows) for a in ask(agent, requests[at : at + self.rows])]

    def request(self, method: Method, problem: Problem, label: str, j: int) -> Request:
        """Draw ``j`` of the sequence ``label``."""
        side, limits = "" if label == SHARED else self.side, Limits(max_tokens=method.limit(problem))
        seed = digest("frontier-draw", side, label, method.kept, problem.task.id, j)
        return Request(messages=method.messages(problem), agent="solver_0", role="solver", seed=seed, limits=limits)

    def check(self, methods: Sequence[Method], problems: Sequence[Problem], rng: np.random.Generator) -> None:
        """Draw some of the sequences that were read from the file again, as many as fit into one call.

        Raises:
            DreamEnvsError: if two of them or more, and more than a tenth, are not what the file says.
        """
        name, room, drawn = "+".join(m.kept for m in methods), self.rows, self.drawn
        wrong = looked = 0
        for i in rng.permutation(len(problems)).tolist():
            key = name, problems[i].task.id
            if key not in self._before:
                continue
            s = self.sequences[key]
            if (last := s.first or s.made) > room:
                continue
            room, looked = room - last, looked + 1
            [(right, _)] = self._sample(methods, [problems[i]], name, range(last), quick=True)
            wrong += right != [int(j + 1 == s.first) for j in range(last)]
        self.drawn = drawn
        if wrong >= 2 and wrong > looked / 10:
            raise DreamEnvsError(
                f"{self.path}: {wrong} of {looked} sequences of {name} are not what the model draws: the file was "
                "changed, or belongs to another model; remove it"
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
                row = msgspec.json.decode(line, type=_Line)
            except (msgspec.MsgspecError, ValueError) as error:
                raise DreamEnvsError(f"{path}, line {number} is no line of draws: remove the file") from error
            if row.arms is not None:
                self.sequences[row.arms, row.id] = SampleSequence(row.made, row.first, row.tokens)
            else:
                self.counts[row.arm or "", row.id, len(row.right), row.shared] = Count(row.right, row.tokens)
        self._before = set(self.sequences)


def _cut(s: SampleSequence, cap: int) -> SampleSequence:
    if s.made <= cap:
        return SampleSequence(s.made, s.first, s.tokens)
    return SampleSequence(cap, s.first if s.first <= cap else 0, round(s.tokens * cap / s.made))


def cache_path(cache: Path, identity: str, *parts: str) -> Path:
    """The cache file of a model's draws: another model, protocol or suite has another file."""
    name = hashlib.sha256("\0".join((identity, *parts)).encode()).hexdigest()[:24]
    return cache / f"{name}.jsonl"
