"""Judges without a model: one for each way in which a judge can go wrong, and one with a set rate of error.

They take the judge's seat in ``SelfJudge`` (any kind of judging, either notation) and in ``ChallengerSolver`` (its
single judge and its panels), and show what a loop makes of such a judge.  In other roles they guess.  All randomness
comes from ``request.seed``, so that two judgements of one pair err independently.
"""

from __future__ import annotations

import re

import numpy as np

from dream_envs.agents.engines.scripted import Oracle, Scripted
from dream_envs.core import DreamEnvsError, Game, Request, TaskFamily
from dream_envs.envs import judging
from dream_envs.play import PrivilegedRequest
from dream_envs.seeds import digest, stream

_PLEAS = re.compile(r"choose me|pick me|best answer|great question|trust me|you are (?:right|wise|the best)", re.I)


class Judge(Scripted):
    """What the judges of this module share: a liking for each answer, turned into the verdict that is asked for."""

    kind = "judge"

    def _as_judge(self, request: Request, rng: np.random.Generator) -> str:
        return self._verdict(request, rng, [self._liking(a, i) for i, a in enumerate(self._answers(request))])

    def _liking(self, answer: str, index: int) -> float:
        """How well the answer at this place is liked, see ``Scripted._verdict``."""
        raise NotImplementedError


class AlwaysFirst(Judge):
    """The first of two is better, the first of a list is right; a single answer gets the best mark."""

    def _liking(self, answer: str, index: int) -> float:
        return float(index == 0)


class RandomJudge(Scripted):
    """Every verdict is equally likely: no information, no bias, and always readable."""


class ConstantJudge(Scripted):
    """One verdict whatever it is shown, and so the second of any two.

    Args:
        game: the game.
        verdict: ``high`` (the second, the top score, right) or ``low`` (the first, 0, wrong).

    Raises:
        DreamEnvsError: for another verdict.
    """

    def __init__(self, game: Game | TaskFamily | None = None, *, verdict: str = "high") -> None:
        super().__init__(game)
        if verdict not in ("high", "low"):
            raise DreamEnvsError(f"verdict={verdict!r}: 'high' or 'low', the largest or smallest number there is")
        self.high = verdict == "high"

    def _as_judge(self, request: Request, rng: np.random.Generator) -> str:
        if (asked := self._question(request)) is None:
            return " ".join(["1" if self.high else "0"] * len(self._answers(request)))
        return judging.say(asked.kind, asked.notation, judging.RATINGS[asked.kind, asked.notation][int(self.high)])


class LengthLover(Judge):
    """Longer is better.

    Args:
        game: the game.
        pivot: so many characters are called right, and have half the top score; twice as many have it all.
        shorter: turn it round: shorter is better.

    Raises:
        DreamEnvsError: for a pivot below 1.
    """

    def __init__(self, game: Game | TaskFamily | None = None, *, pivot: int = 8, shorter: bool = False) -> None:
        super().__init__(game)
        if isinstance(pivot, bool) or not isinstance(pivot, int) or pivot < 1:
            raise DreamEnvsError(f"pivot={pivot!r}: a whole number of characters, 1 or more")
        self.pivot, self.shorter = pivot, shorter

    def _liking(self, answer: str, index: int) -> float:
        length = len(answer) / (2 * self.pivot)
        return 1.0 - length if self.shorter else length


class Flattering(Judge):
    """Praises everything, and of two answers prefers the one that courts it (``choose me``, ``great question``)."""

    def _liking(self, answer: str, index: int) -> float:
        return 1.0 + len(_PLEAS.findall(answer))


class Cyclic(Judge):
    """Contradicts itself as often as can be: scissors, paper, stone.

    Where it knows who wrote what (it is told, as scripted agents are), answer i beats the next ``(n - 1) / 2`` after it
    in a circle, whichever stands first; of three answers each then beats one and loses to one.  Else answers fall by
    their content into three classes that beat each other in a circle; two of one class are decided by their content.
    """

    def _as_judge(self, request: Request, rng: np.random.Generator) -> str:
        asked = self._question(request)
        if asked is None or asked.kind != "pairwise":
            return super()._as_judge(request, rng)
        replies = getattr(request.state, "replies", ()) if isinstance(request, PrivilegedRequest) else ()
        if asked.who and replies:
            first = _beats(asked.who[0], asked.who[1], len(replies))
        else:
            one, two = [digest("cyclic", answer) for answer in asked.answers]
            first = one > two if (one - two) % 3 == 0 else (two - one) % 3 == 1
        return judging.say(asked.kind, asked.notation, 1 if first else 2)

    def _liking(self, answer: str, index: int) -> float:
        return digest("cyclic", answer) % 3 / 2


class Noisy(Oracle):
    """Knows the truth and errs at set rates: the noise dial.

    Each answer before it is accepted with probability ``tpr`` if it is right and ``fpr`` if it is wrong.  A rubric gets
    that verdict, a score is the top or 0; of two answers the accepted one is better, either where both or neither are,
    so that the right one of a right and a wrong answer wins with probability ``1/2 + (tpr - fpr) / 2``.  At
    ``tpr == fpr`` its verdicts say nothing about the truth, below it they are against it.

    Args:
        game: a game with a family that verifies; without a truth every answer counts as wrong.
        tpr: rate of true positives, 0 to 1.
        fpr: rate of false positives, 0 to 1.
        persistent: the same answer to the same prompt always meets the same fate, so that asking again does not help.

    Raises:
        DreamEnvsError: for a rate outside 0 to 1.
    """

    kind = "noisy"

    def __init__(
        self, game: Game | TaskFamily | None = None, *, tpr: float = 0.9, fpr: float = 0.1, persistent: bool = False
    ) -> None:
        super().__init__(game)
        for name, rate in (("tpr", tpr), ("fpr", fpr)):
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
                raise DreamEnvsError(f"{name}={rate!r}: a rate, 0 to 1")
        self.tpr, self.fpr, self.persistent = float(tpr), float(fpr), persistent

    def _as_solver(self, request: Request, rng: np.random.Generator) -> str:
        return Scripted._as_solver(self, request, rng)  # a guess: it is a judge

    def _as_judge(self, request: Request, rng: np.random.Generator) -> str:
        task = self._task(request)
        prompt = task.prompt if task is not None else ""
        accepted = []
        for text, true in zip(self._answers(request), self._truths(request), strict=True):
            draws = stream("noisy", prompt, text) if self.persistent else rng
            accepted.append(draws.random() < (self.tpr if true else self.fpr))
        return self._verdict(request, rng, accepted)


def _beats(i: int, j: int, n: int) -> bool:
    ahead = (j - i) % n
    return i < j if 2 * ahead == n else 0 < ahead < n / 2
