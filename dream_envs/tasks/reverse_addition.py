"""Reverse addition: add two numbers that are written with their least significant digit first.

- ``compact`` notation, prompt ``321+879=`` (123 + 978 = 1101), accepted reply ``1011``; a proposal is the prompt.
- ``english`` notation: the prompt explains the order of the digits, a proposal is ``add 321 and 879``.

Written this way the next digit of the answer depends on two digits and a carry only, so that length is the one thing
that makes a problem hard: the standard test of whether a model generalises to longer problems than it has seen.

Level = number of digits, the same for both operands (the last digit written, the most significant one, is not 0).
Turned away: an operand 0, which makes the answer a copy.  Chance: a guesser who knows the format decides by a coin
whether the sum has one digit more (then it ends in 1) and draws the other digits evenly:
``1 / (2 * 9 * 10 ** (level - 1))`` or ``1 / (2 * 10 ** level)``.

Source: "Self-Improving Transformers Overcome Easy-to-Hard and Length Generalization Challenges" (arXiv 2502.01612).
Version history: 1.  2: english replies are read by ``tasks.answers``.
"""

from __future__ import annotations

import re

import numpy as np

from dream_envs.core import Reject, Task
from dream_envs.tasks.answers import CHAT_TOKENS
from dream_envs.tasks.family import Family

_DIGITS = frozenset("0123456789")


class ReverseAddition(Family):
    """The family ``reverse_addition``.

    Args:
        notation: ``compact`` or ``english``.
        max_level: the most digits an operand may have, 1 to 1000.
    """

    name = "reverse_addition"
    wish = " Give each {} digits."
    value = re.compile(r"(?<![\w.])\d+(?!\w|\.\d)")

    def __init__(self, notation: str = "compact", *, max_level: int = 32) -> None:
        super().__init__(notation, max_level, 1000)
        self._opening, self._between, self._closing = ("add ", " and ", "") if self._english else ("", "+", "=")
        signs = self._opening + self._between + self._closing
        self._characters = _DIGITS | frozenset(signs)
        # one digit more than the level allows, so that a proposal only just too long is told why
        self.max_chars = 2 * (self.max_level + 1) + len(signs)
        self.max_reply_tokens = CHAT_TOKENS if self._english else self.max_level + 2

    def generate(self, rng: np.random.Generator, level: int) -> Task:
        """Two operands drawn evenly from all numbers of ``level`` digits."""
        level = self._level(level)
        numbers = rng.random(2 * level).tolist()
        # the most significant digit, written last, runs from 1 to 9
        low = "".join([str(int(10 * u)) for u in numbers[2:]])
        first, second = str(1 + int(9 * numbers[0])), str(1 + int(9 * numbers[1]))
        return self.make(low[: level - 1] + first, low[level - 1 :] + second)

    def make(self, left: str, right: str, origin: str = "generator") -> Task:
        """The problem with these two operands, each written with its least significant digit first."""
        prompt = f"{left}+{right}="
        if self._english:
            prompt = (
                "Whole numbers are written here with their least significant digit first: units, then tens, and so on. "
                f"Add {left} and {right}\nReply with the sum alone, written in the same order."
            )
        answer = str(int(left[::-1]) + int(right[::-1]))[::-1]
        meta = {"left": left, "right": right}
        return Task(family=self.name, level=len(left), prompt=prompt, answer=answer, meta=meta, origin=origin)

    def _parse(self, proposal: str) -> Task | Reject:
        body = proposal.removeprefix(self._opening).removesuffix(self._closing)
        left, _, right = body.partition(self._between)
        if not left or not right or not _DIGITS.issuperset(left + right) or proposal != self._proposal(left, right):
            return self._bad_form()
        for operand in (left, right):
            if operand[-1] == "0" and len(operand) > 1:
                return Reject("not_canonical", f"{operand} has a leading zero (the last digit written)")
        if len(left) != len(right):
            return Reject("limits", f"operands of {len(left)} and {len(right)} digits; both have the same number")
        if len(left) > self.max_level:
            return Reject("limits", f"{len(left)} digits, at most {self.max_level}")
        if "0" in (left, right):
            return Reject("trivial", "adding 0 copies the other operand")
        return self.make(left, right, "proposal")

    def proposal_form(self) -> str:
        """The proposal grammar, by example."""
        return repr(self._proposal("321", "879"))

    def tidy(self, text: str) -> str:
        """The digits as they are: a zero at either end counts."""
        return text

    def chance(self, task: Task) -> float:
        """See the module's head."""
        carried = len(task.answer) > task.level
        return 0.5 * 10.0**-task.level if carried else 0.5 / 9 * 10.0 ** (1 - task.level)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """Random digits of a possible number."""
        digits = [str(d) for d in rng.integers(10, size=task.level)]
        if rng.random() < 0.5:
            digits.append("1")
        else:
            digits[-1] = str(rng.integers(1, 10))
        return "".join(digits)

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """Both operands with one more significant digit; None at the highest level."""
        if task.level >= self.max_level:
            return None
        first, second = rng.integers(1, 10, size=2).tolist()
        return self.make(f"{task.meta['left']}{first}", f"{task.meta['right']}{second}", "mutation")

    def features(self, task: Task) -> tuple[str, ...]:
        """Number of digits, number of carries, and the longest run of them."""
        carry = carries = run = longest = 0
        for a, b in zip(task.meta["left"], task.meta["right"], strict=True):
            carry = int(int(a) + int(b) + carry > 9)
            carries, run = carries + carry, (run + 1) * carry
            longest = max(longest, run)
        return (f"digits={task.level}", f"carries={carries}", f"longest_carry={longest}")

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""
        return self._proposal(task.meta["left"], task.meta["right"])

    def _proposal(self, left: str, right: str) -> str:
        return f"{self._opening}{left}{self._between}{right}{self._closing}"

    def _invite(self, wishes: str) -> str:
        return (
            "Invent an addition problem: two whole numbers above 0 with the same number of digits (at most "
            f"{self.max_level}), written with their least significant digit first, the last digit written not "
            f"0.{wishes} Reply with one line of the form {self.proposal_form()} and nothing else."
        )
