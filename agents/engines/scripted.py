"""Agents without a model: the best and the worst of each role, guessers, and challengers that try to cheat.

They calibrate every environment (an oracle has to reach the top of its role's reward, a floor the bottom), fill empty
seats, and attack the gates.  All randomness comes from ``request.seed``, so that a reply does not depend on what else
is in the batch.  They are *privileged*: ``play`` hands them the task with its answer, as no other agent is; from a
plain ``Request`` they read the problem with the family's parser, where its prompt is also a proposal.

A game with roles of its own may bring its own replies in a method
``scripted(kind, request, rng) -> str | None`` (kind: ``oracle``, ``floor``, ``guesser``; None: not its business).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dream_envs.core import (
    REJECT_CODES,
    Action,
    DreamEnvsError,
    Game,
    Reject,
    Request,
    Task,
    TaskFamily,
)
from dream_envs.envs import judging
from dream_envs.play import PrivilegedRequest, text_of
from dream_envs.seeds import stream

_GRAVITY = {code: rank for rank, code in enumerate(REJECT_CODES)}


class Scripted:
    """What the agents of this module share.

    Args:
        game: a game, or a task family; None: an agent that knows nothing and writes random text where it would need to.
    """

    kind = "scripted"
    privileged = True

    def __init__(self, game: Game | TaskFamily | None = None) -> None:
        self.game: Any = game if hasattr(game, "turns") else None
        family: Any = getattr(game, "family", None) if self.game is not None else game
        self.family: TaskFamily | None = family if hasattr(family, "as_proposal") else None

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """One reply a request, in order."""
        return [Action(self._reply(request, stream("scripted", request.seed))) for request in requests]

    def _reply(self, request: Request, rng: np.random.Generator) -> str:
        own = getattr(self.game, "scripted", None)
        text = own(self.kind, request, rng) if own is not None else None
        if text is None:
            method = getattr(self, request.role, None)
            text = method(request, rng) if method is not None else self.other(request, rng)
        return text

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """A fresh problem of the family."""
        return self._problem(request, rng)

    def solver(self, request: Request, rng: np.random.Generator) -> str:
        """A guess in the right form."""
        task = self.task(request)
        return self.other(request, rng) if task is None or self.family is None else self.family.guess(task, rng)

    def actor(self, request: Request, rng: np.random.Generator) -> str:
        """As a solver."""
        return self.solver(request, rng)

    def judge(self, request: Request, rng: np.random.Generator) -> str:
        """A coin for each reply, or one of the verdicts that a question allows."""
        if (asked := self.question(request)) is not None:
            low, high = judging.RATINGS[asked.kind, asked.notation]
            return judging.say(asked.kind, asked.notation, int(rng.integers(low, high + 1)))
        return " ".join([str(int(v)) for v in rng.integers(2, size=len(self.replies(request)))])

    def other(self, request: Request, rng: np.random.Generator) -> str:
        """The reply in a role that this module does not know: 1 to 40 characters of printable ASCII."""
        return "".join([chr(c) for c in rng.integers(32, 127, size=int(rng.integers(1, 41)))])

    def task(self, request: Request) -> Task | None:
        """The problem to solve: the one handed over, else what the family reads in the last message."""
        if isinstance(request, PrivilegedRequest) and request.task is not None:
            return request.task if request.task.origin != "brief" else None
        if self.family is None or not request.messages:
            return None
        found = self.family.parse(request.messages[-1]["content"])
        return None if isinstance(found, Reject) else found

    def replies(self, request: Request) -> list[str]:
        """The replies that a judge has before it: from the state if handed over, else from the numbered list."""
        found = getattr(getattr(request, "state", None), "replies", None)
        if found is not None:
            return [action.text for action in found]
        listed = text_of(request.messages).partition("\n\nReplies:\n")[2].rpartition("\n\nWrite ")[0]
        return re.split(r"(?:^|\n)\[\d+\] ", listed)[1:]

    def question(self, request: Request) -> judging.Question | None:
        """What a judge is asked in the grammar of ``envs.judging``, None if it is asked otherwise."""
        ask = getattr(self.game, "question", None)
        state = getattr(request, "state", None)
        if ask is not None and state is not None and request.role == "judge":
            return ask(state, request.agent)
        return judging.read(text_of(request.messages)) if request.messages else None

    def _problem(self, request: Request, rng: np.random.Generator, levels: Sequence[int] | None = None) -> str:
        if self.family is None:
            return self.other(request, rng)
        wished = request.task.level if isinstance(request, PrivilegedRequest) and request.task is not None else 0
        choice = [wished] if wished in self.family.levels and wished else levels or self.family.levels
        level = choice[int(rng.integers(len(choice)))]
        return self.family.as_proposal(self.family.generate(rng, level))


class Oracle(Scripted):
    """The best there is: a fresh valid problem, the accepted answer, the true verdicts."""

    kind = "oracle"

    def solver(self, request: Request, rng: np.random.Generator) -> str:
        """An accepted reply."""
        task = self.task(request)
        return self.other(request, rng) if task is None or self.family is None else self.family.gold(task)

    def judge(self, request: Request, rng: np.random.Generator) -> str:
        """What the family's verifier says of each reply; of two replies that are worth the same, either."""
        return self.verdict(request, rng, self.truths(request))

    def verdict(self, request: Request, rng: np.random.Generator, right: Sequence[bool]) -> str:
        """A judge's reply to whatever it was asked, given which of the answers before it are to count as right."""
        if (asked := self.question(request)) is None:
            return " ".join(["1" if one else "0" for one in right])
        low, high = judging.RATINGS[asked.kind, asked.notation]
        mark = (high if right[0] else low) if len(right) == 1 else low if right[0] else high
        if len(right) == 2 and right[0] == right[1]:
            mark = int(rng.integers(low, high + 1))
        return judging.say(asked.kind, asked.notation, mark)

    def truths(self, request: Request) -> list[bool]:
        """Whether each reply before the judge is right; all False where the problem cannot be told."""
        asked, task = self.question(request), self.task(request)
        replies = list(asked.answers) if asked is not None else self.replies(request)
        if task is None and self.family is not None:
            problem = text_of(request.messages).partition("Problem:\n")[2].partition("\n\nReplies:\n")[0]
            problem = asked.prompt if asked is not None else problem
            found = self.family.parse(problem)
            task = None if isinstance(found, Reject) else found
        if task is None or self.family is None:
            return [False] * len(replies)
        return [self.family.verify(task, reply).value >= 1.0 for reply in replies]


class Floor(Oracle):
    """The worst there is: an empty proposal, an empty answer, every verdict turned round."""

    kind = "floor"

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """Nothing."""
        return ""

    def solver(self, request: Request, rng: np.random.Generator) -> str:
        """Nothing."""
        return ""

    def actor(self, request: Request, rng: np.random.Generator) -> str:
        """A wrong reply in the right form, which is worse than none where replies are compared; else nothing."""
        task = self.task(request)
        for _ in range(32 if task is not None and self.family is not None else 0):
            assert task is not None and self.family is not None
            if self.family.verify(task, guess := self.family.guess(task, rng)).value < 1.0:
                return guess
        return ""

    def judge(self, request: Request, rng: np.random.Generator) -> str:
        """The opposite of the truth."""
        return self.verdict(request, rng, [not true for true in self.truths(request)])


class Guesser(Scripted):
    """Knows the form and nothing else: what ``TaskFamily.chance`` is the chance of."""

    kind = "guesser"


class Amnesiac(Scripted):
    """``SleepCycle``'s: reads what is before it and forgets it at once, right with a context, a guesser without."""

    kind = "amnesiac"


class RandomText(Scripted):
    """Printable ASCII of 1 to 40 characters, whatever is asked."""

    kind = "random"

    def _reply(self, request: Request, rng: np.random.Generator) -> str:
        return self.other(request, rng)


class Generator(Scripted):
    """A challenger that draws a fresh problem from the family; in other roles it guesses.

    Args:
        game: a game or a task family.
        levels: the levels to draw from, uniformly; None: the level that the brief asks for, else all of the family's.

    Raises:
        DreamEnvsError: for a level that the family does not have.
    """

    kind = "generator"

    def __init__(self, game: Game | TaskFamily | None = None, *, levels: Sequence[int] | None = None) -> None:
        super().__init__(game)
        self.levels = None if levels is None else list(levels)
        if self.levels is not None and self.family is not None:
            allowed = self.family.levels
            if not self.levels or any(level not in allowed for level in self.levels):
                span = f"{allowed.start} to {allowed.stop - 1}"
                raise DreamEnvsError(f"levels={self.levels!r:.80}: one or more of {self.family.name}'s {span}")

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """A problem of one of ``levels``."""
        return self._problem(request, rng, self.levels)


class Impossible(Scripted):
    """A challenger whose problems look right but cannot be read or solved: fresh ones, damaged."""

    kind = "impossible"

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """Of 24 damaged proposals the one that passes the most checks before it is rejected."""
        if self.family is None:
            return self.other(request, rng)
        sound = self._problem(request, rng)
        best, rank = sound + "\x00", -1
        for _ in range(24):
            at, donor = int(rng.integers(len(sound))), sound[int(rng.integers(len(sound)))]
            cut = int(rng.integers(2))
            damaged = sound[:at] + donor + sound[at + cut :]
            found = self.family.parse(damaged)
            if isinstance(found, Reject) and _GRAVITY.get(found.code, 0) > rank:
                best, rank = damaged, _GRAVITY.get(found.code, 0)
        return best


class Constant(Scripted):
    """A challenger that has one problem, and in other roles one answer."""

    kind = "constant"

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """The same problem of the lowest level, for everybody and for ever."""
        if self.family is None:
            return "constant"
        return self.family.as_proposal(self.family.generate(stream("scripted", "constant"), self.family.levels.start))

    def solver(self, request: Request, rng: np.random.Generator) -> str:
        """``0``."""
        return "0"


class Duplicate(Scripted):
    """A challenger that repeats four problems of the middle level over and over, in random order."""

    kind = "duplicate"

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """One of the four."""
        if self.family is None:
            return "duplicate"
        levels = self.family.levels
        which = int(rng.integers(4))
        task = self.family.generate(stream("scripted", "duplicate", which), levels[len(levels) // 2])
        return self.family.as_proposal(task)


class Leaking(Scripted):
    """A challenger that writes the answer beside the problem."""

    kind = "leaking"

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """A fresh problem, a blank, its answer."""
        sound = self._problem(request, rng)
        found = self.family.parse(sound) if self.family is not None else None
        return f"{sound} {self.family.gold(found)}" if self.family is not None and isinstance(found, Task) else sound


class Overlong(Scripted):
    """A challenger (and solver) that writes far more than there is room for."""

    kind = "overlong"

    def challenger(self, request: Request, rng: np.random.Generator) -> str:
        """A fresh problem, repeated past the seat's limit."""
        sound = self._problem(request, rng) or "x"
        return sound * (request.limits.max_chars // len(sound) + 2)

    def solver(self, request: Request, rng: np.random.Generator) -> str:
        """A guess, repeated past the seat's limit."""
        guess = super().solver(request, rng) or "x"
        return guess * (request.limits.max_chars // len(guess) + 2)
