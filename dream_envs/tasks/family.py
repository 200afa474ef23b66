"""What families share: the two notations, exact matching of replies, the first checks of a proposal, the prompt for it.

``compact`` notation forgives nothing around a reply, so that one accepted completion makes exact success probabilities
possible; in ``english`` the answer is read out of what a chat model writes (``tasks.answers``).
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

from dream_envs.checks import check, one_of
from dream_envs.core import Reject, Score, Task
from dream_envs.tasks import answers
from dream_envs.tasks.answers import NUMBER, Protocol, number, read

NOTATIONS = ("compact", "english")


class Answers:
    """How a family's replies are read (``tasks.answers``) and compared with the one answer of a task.

    ``protocol`` is ``strict`` in compact notation and ``chat`` in english.  ``value``: what an answer looks like.
    """

    name: str
    version = 2
    value = NUMBER

    def __init__(self, notation: str) -> None:
        self.notation = one_of("notation", notation, NOTATIONS)
        self._english = notation == "english"
        self.protocol: Protocol = "chat" if self._english else "strict"
        grader = f"{self.name}-{self.version}"
        self._right, self._wrong = Score(1.0, grader=grader), Score(0.0, grader=grader)

    def read(self, task: Task, reply: str) -> str | None:
        """The answer that a reply states; None if it states none."""
        if self.protocol == "strict":
            return reply
        return read(reply, self.value_of(task), task.prompt, tidy=self.tidy)

    def value_of(self, task: Task) -> re.Pattern[str]:
        """What an answer to this task looks like."""
        return self.value

    def tidy(self, text: str) -> str:
        """The one spelling of an answer."""
        return number(text)

    def verify(self, task: Task, reply: str) -> Score:
        """1 if the answer that the reply states is the task's, 0 otherwise."""
        found = self.read(task, reply)
        return self._right if found is not None and self.accepts(task, found) else self._wrong

    def accepts(self, task: Task, answer: str) -> bool:
        """Whether an answer, as it was read, is right."""
        return answer == task.answer

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
        """The problem that a proposal of the form ``proposal_form`` describes; nothing before it, nothing after it.

        In the chat protocol the last line of that form counts (``answers.proposal``).
        """
        if self.protocol == "chat":
            return answers.proposal(proposal, self._parse_line)
        return self._parse_line(proposal)

    def _parse_line(self, proposal: str) -> Task | Reject:
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
