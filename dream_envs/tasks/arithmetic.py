"""Arithmetic: the exact value of an expression with ``+ - * /`` and parentheses over small non-negative whole numbers.

- ``compact`` notation, prompt ``3+4*(2-5)=``, accepted reply ``-9``; a proposal is the prompt itself.
- ``english`` notation: the prompt asks for the value of ``3 + 4 * (2 - 5)``, a proposal is ``compute 3 + 4 * (2 - 5)``.

The only accepted reply is the canonical value: ``n``, or ``n/d`` in lowest terms, with a minus sign in front if it is
negative.  Division is exact (rational), operators of one kind associate to the left, and a proposal has no parentheses
but those that it needs (``_expressions`` has the grammar).

Level = number of operators.  Turned away, also by ``generate``: a division by zero, any intermediate value beyond
``max_magnitude``, and a problem whose answer can be copied from the prompt (``5*1`` is trivial, ``3/4`` a leak).

Chance: a guesser who knows the size of the operands and sees which signs occur draws a numerator evenly from 0 (from
``-m`` if there is a ``-``) to ``m = (level + 1) * (10 ** digits - 1)``, over 1 or, if there is a ``/``, over 1 to 9.

Source: our own rules; a family of every suite since the DeepMind Mathematics Dataset (arXiv 1904.01557).
Version history: 1.  2: english replies are read by ``tasks.answers``.
"""

from __future__ import annotations

import numpy as np

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Reject, Task
from dream_envs.tasks import _expressions as ex
from dream_envs.tasks.answers import CHAT_TOKENS
from dream_envs.tasks.family import Family

_DENOMINATORS = 9
_TRIES = 2000


class Arithmetic(Family):
    """The family ``arithmetic``.

    Args:
        notation: ``compact`` or ``english``.
        digits: operands run from 0 to ``10 ** digits - 1``; 1 to 6.
        operators: which of ``+-*/`` may occur.
        max_level: the most operators that ``parse`` accepts, 1 to 64.
        max_depth: the deepest nesting of parentheses, 0 to 32.
        max_magnitude: the largest numerator or denominator on the way to the answer, 1 to 10**12.
    """

    name = "arithmetic"
    wish = " Use {} operators."

    def __init__(
        self,
        notation: str = "compact",
        *,
        digits: int = 1,
        operators: str = ex.OPERATORS,
        max_level: int = 8,
        max_depth: int = 4,
        max_magnitude: int = 10**6,
    ) -> None:
        super().__init__(notation, max_level, 64)
        if not isinstance(operators, str) or not operators or set(operators) - set(ex.OPERATORS):
            raise DreamEnvsError(f"operators={operators!r}: one or more of {ex.OPERATORS!r}")
        self.digits = check("digits", digits, 1, 6, whole=True)
        self.operators = "".join(o for o in ex.OPERATORS if o in operators)
        self.max_depth = check("max_depth", max_depth, 0, 32, whole=True)
        self.max_magnitude = check("max_magnitude", max_magnitude, 1, 10**12, whole=True)
        missing = set(ex.OPERATORS) - set(self.operators)
        self._characters = ex.CHARACTERS - missing | set(" compute" if self._english else "=")
        # every pair of parentheses in a canonical text holds an operator of its own, and the outermost has none
        expression = (self.max_level + 1) * self.digits + self.max_level + 2 * (self.max_level - 1)
        self.max_chars = expression + (len("compute ") + 2 * self.max_level if self._english else len("="))
        self.max_reply_tokens = CHAT_TOKENS if self._english else 2 * len(str(self.max_magnitude)) + 3

    def generate(self, rng: np.random.Generator, level: int) -> Task:
        """A problem with ``level`` operators: every split into two sides, operator and operand equally likely.

        That the limits leave next to no problems is an error.
        """
        level = self._level(level)
        for _ in range(_TRIES):
            expression, _ = self._draw(rng.random(3 * level + 1).tolist(), level)
            if isinstance(task := self._make(expression, "generator"), Task):
                return task
        raise DreamEnvsError(
            f"arithmetic: no problem of level {level} in {_TRIES} draws: allow more operators ({self.operators!r}), "
            f"max_magnitude ({self.max_magnitude}) or max_depth ({self.max_depth})"
        )

    def _parse(self, proposal: str) -> Task | Reject:
        expression = proposal.removeprefix("compute ").replace(" ", "") if self._english else proposal[:-1]
        if proposal != self._proposal(expression) or not set(expression) <= ex.CHARACTERS:
            return self._bad_form()
        return self._make(expression, "proposal")

    def proposal_form(self) -> str:
        """The proposal grammar, by example."""
        return "'compute 3 + 4 * (2 - 5)'" if self._english else "'3+4*(2-5)='"

    def chance(self, task: Task) -> float:
        """How many of the guesser's equally likely pairs (numerator, denominator) reduce to the answer."""
        low, high, denominators = self._guesses(task)
        top, _, bottom = task.answer.partition("/")
        n, d = int(top), int(bottom or 1)
        hits = sum(low <= n * k <= high for k in range(1, denominators // d + 1))
        return hits / ((high - low + 1) * denominators)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """A random fraction of plausible size; see the module's head."""
        low, high, denominators = self._guesses(task)
        n, d = int(rng.integers(low, high + 1)), int(rng.integers(1, denominators + 1))
        g = int(np.gcd(n, d))
        return ex.rational_text((n // g, d // g))

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """The same expression combined with one more operand, on either side; None at the highest level."""
        if task.level >= self.max_level:
            return None
        mine = task.meta["expression"]
        found = self._read(mine)
        precedence = ex.ATOM if isinstance(found, Reject) else found.precedence
        for side, which, size in rng.random((32, 3)).tolist():
            operator, operand = self.operators[int(which * len(self.operators))], str(int(size * 10**self.digits))
            pair = (mine, precedence, operand, ex.ATOM) if side < 0.5 else (operand, ex.ATOM, mine, precedence)
            if isinstance(harder := self._make(ex.join(operator, *pair), "mutation"), Task):
                return harder
        return None

    def features(self, task: Task) -> tuple[str, ...]:
        """Number of operators, which ones, nesting, and whether the answer is negative or a fraction."""
        expression, depth, deepest = task.meta["expression"], 0, 0
        for character in expression:
            depth += (character == "(") - (character == ")")
            deepest = max(deepest, depth)
        return (
            f"operators={task.level}",
            f"depth={deepest}",
            *(f"operator={o}" for o in self.operators if o in expression),
            *(("negative",) if task.answer[0] == "-" else ()),
            *(("fraction",) if "/" in task.answer else ()),
        )

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""
        return self._proposal(task.meta["expression"])

    def _invite(self, wishes: str) -> str:
        return (
            f"Invent an arithmetic problem. Operands are whole numbers from 0 to {10**self.digits - 1}, operators are "
            f"{' '.join(self.operators)}, with parentheses only where they are needed; the answer must not be printed "
            f"in the problem.{wishes} Reply with one line of the form {self.proposal_form()} and nothing else."
        )

    def _proposal(self, expression: str) -> str:
        return "compute " + ex.spaced(expression) if self._english else expression + "="

    def _read(self, expression: str) -> ex.Expression | Reject:
        limits = {"max_depth": self.max_depth, "max_digits": self.digits, "max_magnitude": self.max_magnitude}
        return ex.read(expression, canonical=True, **limits)

    def _make(self, expression: str, origin: str) -> Task | Reject:
        """The one way to a task, for generator, proposals and mutations alike."""
        found = self._read(expression)
        if isinstance(found, Reject):
            return found
        if found.operators > self.max_level:
            return Reject("limits", f"{found.operators} operators, at most {self.max_level}")
        if not found.operators:
            return Reject("trivial", "no operator")
        n, d = found.value
        if d == 1 and n in found.operands:
            return Reject("trivial", "the answer is one of the operands")
        answer = ex.rational_text(found.value)
        if (n < 0 or d > 1) and _printed(answer, expression):
            return Reject("leak", "the answer is printed in the problem")
        prompt = expression + "="
        if self._english:
            prompt = (
                f"Compute {ex.spaced(expression)}\nReply with the exact value alone: a whole number, or else a "
                "fraction in lowest terms, written like n/d, with a minus sign in front if it is negative."
            )
        meta, level = {"expression": expression}, found.operators
        return Task(family=self.name, level=level, prompt=prompt, answer=answer, meta=meta, origin=origin)

    def _draw(self, numbers: list[float], level: int) -> tuple[str, int]:
        """A random tree as text and precedence; takes three numbers an operator and one an operand from the end."""
        if not level:
            return str(int(numbers.pop() * 10**self.digits)), ex.ATOM
        operator = self.operators[int(numbers.pop() * len(self.operators))]
        left = int(numbers.pop() * level)
        text = ex.join(operator, *self._draw(numbers, left), *self._draw(numbers, level - 1 - left))
        return text, ex.PRECEDENCE[operator]

    def _guesses(self, task: Task) -> tuple[int, int, int]:
        expression = task.meta["expression"]
        most = (task.level + 1) * (10**self.digits - 1)
        return -most if "-" in expression else 0, most, _DENOMINATORS if "/" in expression else 1


def _printed(answer: str, expression: str) -> bool:
    """Whether ``answer`` stands in ``expression`` as whole numbers, not as part of longer ones."""
    at = expression.find(answer)
    while at >= 0:
        before, after = expression[at - 1 : at], expression[at + len(answer) : at + len(answer) + 1]
        if not (before.isdigit() and answer[0] != "-") and not after.isdigit():
            return True
        at = expression.find(answer, at + 1)
    return False
