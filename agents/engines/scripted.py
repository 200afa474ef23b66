"""Agents without a model: the best and the worst of each role, guessers, and challengers that try to cheat.

They calibrate every environment (an oracle has to reach the top of its role's reward, a floor the bottom), fill empty
seats, and attack the gates.  All randomness comes from ``request.seed``, so that a reply does not depend on what else
is in the batch.  They are *privileged*: ``play`` hands them the task with its answer, as no other agent is; from a
plain ``Request`` they read the problem with the family's parser, where its prompt is also a proposal.

A game with roles of its own may bring its own replies in a method ``scripted(kind, request, rng) -> str | None``
(kind: ``oracle``, ``floor``, ``guesser``; None: not its business).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dream_envs.core import REJECT_CODES, Action, DreamEnvsError, Game, Reject, Request, Task, TaskFamily
from dream_envs.envs import judging
from dream_envs.play import PrivilegedRequest, text_of
from dream_envs.seeds import stream

_GRAVITY = {code: rank for rank, code in enumerate(REJECT_CODES)}


class Scripted:
    """What the agents of this module share: a method ``_as_ROLE`` for each role, and ``_as_other``.

    Args:
        game: a game, or a task family; None: an agent that knows nothing and writes random text where it would need to.
    """

    kind = "scripted"
    privileged = True
    levels: Sequence[int] | None = None

    def __init__(self, game: Game | TaskFamily | None = None) -> None:
        self.game: Any = game if hasattr(game, "turns") else None
        family = getattr(game, "family", None) if self.game is not None else game
        self.family: Any = family if hasattr(family, "as_proposal") else None

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """One reply a request, in order."""
        return [Action(self._reply(request, stream("scripted", request.seed))) for request in requests]

    def _reply(self, request: Request, rng: np.random.Generator) -> str:
        own = getattr(self.game, "scripted", None)
        text = own(self.kind, request, rng) if own is not None else None
        return getattr(self, f"_as_{request.role}", self._as_other)(request, rng) if text is None else text

    def _as_challenger(self, request: Request, rng: np.random.Generator) -> str:
        """A fresh problem of the level that the brief asks for, else of one of ``levels``, else of any."""
        if self.family is None:
            return self._as_other(request, rng)
        choice: Sequence[int] = self.levels or self.family.levels
        brief = getattr(request, "task", None)
        if brief is not None and brief.level and brief.level in self.family.levels:
            choice = [brief.level]
        level = choice[int(rng.integers(len(choice)))]
        return self.family.as_proposal(self.family.generate(rng, level))

    def _as_solver(self, request: Request, rng: np.random.Generator) -> str:
        """A guess in the right form."""
        task = self._task(request)
        return self._as_other(request, rng) if task is None or self.family is None else self.family.guess(task, rng)

    def _as_actor(self, request: Request, rng: np.random.Generator) -> str:
        return self._as_solver(request, rng)

    def _as_judge(self, request: Request, rng: np.random.Generator) -> str:
        """A coin for each reply, or one of the verdicts that a question allows."""
        if (asked := self._question(request)) is not None:
            low, high = judging.RATINGS[asked.kind, asked.notation]
            return judging.say(asked.kind, asked.notation, int(rng.integers(low, high + 1)))
        return " ".join([str(int(v)) for v in rng.integers(2, size=len(self._answers(request)))])

    def _as_other(self, request: Request, rng: np.random.Generator) -> str:
        """The reply in a role that this module does not know: 1 to 40 characters of printable ASCII."""
        return "".join([chr(c) for c in rng.integers(32, 127, size=int(rng.integers(1, 41)))])

    def _task(self, request: Request) -> Task | None:
        """The problem to solve: the one handed over, else what the family reads in the last message."""
        if isinstance(request, PrivilegedRequest) and request.task is not None:
            return request.task if request.task.origin != "brief" else None
        return self._parsed(request.messages[-1]["content"]) if request.messages else None

    def _parsed(self, text: str) -> Task | None:
        found = self.family.parse(text) if self.family is not None else None
        return None if isinstance(found, Reject) else found

    def _question(self, request: Request) -> judging.Question | None:
        """What a judge is asked in the grammar of ``envs.judging``, None if it is asked otherwise."""
        ask, state = getattr(self.game, "question", None), getattr(request, "state", None)
        if ask is not None and state is not None and request.role == "judge":
            return ask(state, request.agent)
        return judging.read(text_of(request.messages)) if request.messages else None

    def _answers(self, request: Request) -> list[str]:
        """The replies that a judge has before it: of its question, of the state, or of the numbered list."""
        if (asked := self._question(request)) is not None:
            return list(asked.answers)
        if (found := getattr(getattr(request, "state", None), "replies", None)) is not None:
            return [action.text for action in found]
        listed = text_of(request.messages).partition("\n\nReplies:\n")[2].rpartition("\n\nWrite ")[0]
        return re.split(r"(?:^|\n)\[\d+\] ", listed)[1:]

    def _verdict(self, request: Request, rng: np.random.Generator, likings: Sequence[float]) -> str:
        """A judge's reply to whatever it was asked, given how well it likes each answer before it.

        Pairwise: the better liked of the two, either where they are liked the same.  Score: the liking itself, 0 to 1.
        Rubric, and each reply of a list: right from 0.5 on.
        """
        if (asked := self._question(request)) is None:
            return " ".join(["1" if liking >= 0.5 else "0" for liking in likings])
        low, high = judging.RATINGS[asked.kind, asked.notation]
        if asked.kind == "rubric":
            mark = int(likings[0] >= 0.5)
        elif asked.kind == "score":
            mark = round(min(1.0, max(0.0, likings[0])) * high)
        elif likings[0] == likings[1]:
            mark = int(rng.integers(low, high + 1))
        else:
            mark = low if likings[0] > likings[1] else high
        return judging.say(asked.kind, asked.notation, mark)


class Oracle(Scripted):
    """The best there is: a fresh valid problem, the accepted answer, the true verdicts."""

    kind = "oracle"

    def _as_solver(self, request: Request, rng: np.random.Generator) -> str:
        task = self._task(request)
        return self._as_other(request, rng) if task is None or self.family is None else self.family.gold(task)

    def _as_judge(self, request: Request, rng: np.random.Generator) -> str:
        return self._verdict(request, rng, self._truths(request))

    def _truths(self, request: Request) -> list[bool]:
        """Whether each reply before the judge is right; all False where the problem cannot be told."""
        told, state = getattr(self.game, "truths", None), getattr(request, "state", None)
        if told is not None and state is not None:  # a game whose answers no family verifies
            return told(state, request.agent)
        asked, task, replies = self._question(request), self._task(request), self._answers(request)
        if task is None:
            shown = text_of(request.messages).partition("Problem:\n")[2].partition("\n\nReplies:\n")[0]
            task = self._parsed(shown if asked is None else asked.prompt)
        known = task is not None and self.family is not None
        return [known and self.family.verify(task, reply).value >= 1.0 for reply in replies]


class Floor(Oracle):
    """The worst there is: an empty proposal, an empty answer, every verdict turned round."""

    kind = "floor"

    def _as_challenger(self, request: Request, rng: np.random.Generator) -> str:
        return ""

    def _as_solver(self, request: Request, rng: np.random.Generator) -> str:
        return ""

    def _as_actor(self, request: Request, rng: np.random.Generator) -> str:
        """A wrong reply in the right form, which is worse than none where replies are compared; else nothing."""
        task = self._task(request)
        for _ in range(32 if task is not None and self.family is not None else 0):
            guess = self.family.guess(task, rng)
            if self.family.verify(task, guess).value < 1.0:
                return guess
        return ""

    def _as_judge(self, request: Request, rng: np.random.Generator) -> str:
        return self._verdict(request, rng, [not true for true in self._truths(request)])


class Guesser(Scripted):
    """Knows the form and nothing else: what ``TaskFamily.chance`` is the chance of."""

    kind = "guesser"


class Amnesiac(Scripted):
    """``SleepCycle``'s: reads what is before it and forgets it at once, right with a context, a guesser without."""

    kind = "amnesiac"


class Scientist(Scripted):
    """``Discovery``'s: asks what it does not know yet, forgets nothing that it found, and guesses the rest."""

    kind = "scientist"


class Fool(Scripted):
    """``Discovery``'s: asks the same for ever, takes every answer to be right, and remembers nothing."""

    kind = "fool"


class RandomText(Scripted):
    """Printable ASCII of 1 to 40 characters, whatever is asked."""

    def _reply(self, request: Request, rng: np.random.Generator) -> str:
        return self._as_other(request, rng)


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


class Impossible(Scripted):
    """A challenger whose problems look right but cannot be read or solved: fresh ones, damaged."""

    def _as_challenger(self, request: Request, rng: np.random.Generator) -> str:
        """Of 24 damaged proposals the one that passes the most checks before it is rejected."""
        sound = super()._as_challenger(request, rng)
        if self.family is None:
            return sound
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
    """A challenger that has one problem, of the lowest level and for ever, and in other roles one answer."""

    def _as_challenger(self, request: Request, rng: np.random.Generator) -> str:
        if self.family is None:
            return "constant"
        return self.family.as_proposal(self.family.generate(stream("scripted", "constant"), self.family.levels.start))

    def _as_solver(self, request: Request, rng: np.random.Generator) -> str:
        return "0"


class Duplicate(Scripted):
    """A challenger that repeats four problems of the middle level over and over, in random order."""

    def _as_challenger(self, request: Request, rng: np.random.Generator) -> str:
        if self.family is None:
            return "duplicate"
        levels, which = self.family.levels, int(rng.integers(4))
        task = self.family.generate(stream("scripted", "duplicate", which), levels[len(levels) // 2])
        return self.family.as_proposal(task)


class Leaking(Scripted):
    """A challenger that writes the answer beside the problem."""

    def _as_challenger(self, request: Request, rng: np.random.Generator) -> str:
        sound = super()._as_challenger(request, rng)
        task = self._parsed(sound)
        return sound if task is None else f"{sound} {self.family.gold(task)}"


class Overlong(Scripted):
    """A challenger and solver that repeats what it writes past its seat's limit."""

    def _as_challenger(self, request: Request, rng: np.random.Generator) -> str:
        return self._repeated(request, super()._as_challenger(request, rng))

    def _as_solver(self, request: Request, rng: np.random.Generator) -> str:
        return self._repeated(request, super()._as_solver(request, rng))

    def _repeated(self, request: Request, text: str) -> str:
        text = text or "x"
        return text * (request.limits.max_chars // len(text) + 2)
