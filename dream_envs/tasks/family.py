"""What families share: the two notations, exact matching of replies, the first checks of a proposal, the prompt for it.

``compact`` notation forgives nothing around a reply, so that one accepted completion makes exact success probabilities
possible; ``english`` forgives blanks and line ends, which chat templates and cut reasoning leave behind.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from dream_envs.checks import check, one_of
from dream_envs.core import Reject, Score, Task

NOTATIONS = ("compact", "english")
_BLANKS = " \t\r\n"
_MARGIN = 64


def trim(reply: str, length: int) -> str:
    """``reply`` without surrounding ASCII white space; one more than 64 characters over ``length`` is left alone."""
    return reply.strip(_BLANKS) if len(reply) <= length + _MARGIN else reply


class Answers:
    """One accepted reply to a task, its ``answer``; ``name``, ``version`` and notation of a family."""

    name: str
    version = 1

    def __init__(self, notation: str) -> None:
        self.notation = one_of("notation", notation, NOTATIONS)
        self._english = notation == "english"
        grader = f"{self.name}-{self.version}"
        self._right, self._wrong = Score(1.0, grader=grader), Score(0.0, grader=grader)

    def verify(self, task: Task, reply: str) -> Score:
        """1 for the answer and nothing else (``english``: or blanks around it), 0 otherwise."""
        answer = task.answer
        right = reply == answer or (self._english and trim(reply, len(answer)) == answer)
        return self._right if right else self._wrong

    def gold(self, task: Task) -> str:
        """The answer."""
        return task.answer


class Family(Answers):
    """A family of ``max_level`` levels from ``lowest`` on; see ``core.TaskFamily``.

    A subclass sets ``max_chars`` and ``_characters``, those that a proposal may have, and says in ``_invite`` what a
    challenger is told in english, with ``wish`` for a level.
    """

    lowest = 1
    wish: str
    max_chars: int
    _characters: Set[str]

    def __init__(self, notation: str, max_level: int, most: int) -> None:
        super().__init__(notation)
        self.max_level = check("max_level", max_level, self.lowest, most, whole=True)
        self.levels = range(self.lowest, self.max_level + 1)

    def parse(self, proposal: str) -> Task | Reject:
        """The problem that a proposal of the form ``proposal_form`` describes; nothing before it, nothing after it."""
        if not proposal:
            return Reject("empty")
        if len(proposal) > self.max_chars:
            return Reject("too_long", f"{len(proposal)} characters, at most {self.max_chars}")
        if stray := set(proposal) - self._characters:
            return Reject("charset", f"{min(stray)!r}")
        return self._parse(proposal)

    def brief(self, level: int | None = None, reference: Task | None = None) -> str:
        """``new`` in compact notation, a paragraph in english."""
        if not self._english:
            return "new"
        wish = self.wish.format(level) if level else ""
        return self._invite(wish + (f" Do not repeat this one: {self._shown(reference)}." if reference else ""))

    def proposal_form(self) -> str:
        """The proposal grammar, by example."""
        raise NotImplementedError

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""
        raise NotImplementedError

    def _parse(self, proposal: str) -> Task | Reject:
        raise NotImplementedError

    def _invite(self, wishes: str) -> str:
        raise NotImplementedError

    def _shown(self, task: Task) -> str:
        return self.as_proposal(task)

    def _bad_form(self) -> Reject:
        return Reject("grammar", "expected " + self.proposal_form())

    def _level(self, level: Any) -> int:
        top = self.levels.stop - 1
        return int(check("level", level, self.lowest, top, whole=True, what=f"the levels of {self.name}"))
