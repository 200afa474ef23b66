"""Countdown: combine given numbers with ``+ - * /`` and parentheses into an expression that equals a target.

- ``compact`` notation, prompt ``3,5,7:22=``, an accepted reply ``3*5+7``.  A proposal is the prompt, with or without a
  solution behind it: ``3,5,7:22=3*5+7``.
- ``english`` notation: the prompt is a paragraph, a reply ends in ``3 * 5 + 7`` (blanks between
  tokens are free), a proposal is ``make 22 from 3, 5, 7`` or
  ``make 22 from 3, 5, 7 by 3 * 5 + 7``.

Many replies are right, and a reply is checked, not compared: it must be an expression of the grammar in
``_expressions`` whose exact rational value is the target and which uses each given number exactly once
(``use_all=False``: at most once).  Parentheses that are not needed are accepted.  There is no partial credit.

A proposal must be solvable, and the grade of truth of every task is ``verified``: the proposer's solution is checked,
or an exact search of at most ``search_steps`` combinations finds one.  The steps are counted, not timed, so that the
same proposal always meets the same fate; the default exhausts four numbers and takes tens of milliseconds at worst.
Numbers are written in ascending order, and the ``id`` of a task depends on the prompt alone, not on the solution known.

Level = how many numbers.  Turned away: a target that is one of the numbers.  Chance: a guesser writes all numbers in
descending order with evenly drawn operators between them; all such replies are tried.

Source: the numbers round of the television game; as a task for language models TinyZero (Pan et al. 2025), whose
checker also asks for every number exactly once.
Version history: 1.  2: english replies are read by ``tasks.answers``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from dream_envs.checks import check, one_of
from dream_envs.core import DreamEnvsError, Reject, Task, content_hash
from dream_envs.tasks import _expressions as ex
from dream_envs.tasks.answers import CHAT_TOKENS
from dream_envs.tasks.family import Family

_DIGITS = frozenset("0123456789")
_TRIES = 2000
_REPLY_DEPTH = 16
_NO_BOUND = 10**300  # at most 8 numbers of at most 4 digits: the length of a reply bounds its value


class Countdown(Family):
    """The family ``countdown``.

    Args:
        notation: ``compact`` or ``english``.
        max_level: the most numbers, 2 to 8.
        max_number: numbers run from 1 to this; 2 to 9999.
        max_target: targets run from 1 to this; 2 to 999999.
        use_all: True asks for every number exactly once, False for at most once.
        search_steps: how many combinations to try for a proposal without a solution, 0 to 10**7; 0 demands a solution.
    """

    name = "countdown"
    lowest = 2
    wish = " Use {} numbers."
    value = re.compile(
        r"(?<![\w.)])\(*\d+(?:[ \t()]*[-+*/][ \t()]*\d+(?!\.\d)[ \t)]*)+(?:\d+(?![ \t]*[-+*/(\d]))?(?![\w(])"
    )

    def __init__(
        self,
        notation: str = "compact",
        *,
        max_level: int = 6,
        max_number: int = 99,
        max_target: int = 999,
        use_all: bool = True,
        search_steps: int = 10_000,
    ) -> None:
        super().__init__(notation, max_level, 8)
        self.max_number = check("max_number", max_number, 2, 9999, whole=True)
        self.max_target = check("max_target", max_target, 2, 999_999, whole=True)
        self.search_steps = check("search_steps", search_steps, 0, 10**7, whole=True)
        self.use_all = one_of("use_all", use_all, (True, False))
        letters = "make from, by" if self._english else ",:="
        self._characters = ex.CHARACTERS | frozenset(letters)
        size, most = len(str(self.max_number)), self.max_level
        gold = most * size + (most - 1) * (3 if self._english else 1) + 2 * (most - 2)
        numbers = most * size + (most - 1) * (2 if self._english else 1)
        rest = len("make  from  by ") if self._english else len(":=")
        self.max_chars = numbers + len(str(self.max_target)) + rest + gold
        self.max_reply_tokens = CHAT_TOKENS if self._english else gold + 2
        self._reply_chars = 2 * gold + 32

    def generate(self, rng: np.random.Generator, level: int) -> Task:
        """``level`` numbers drawn evenly, and as the target the value of a random way to combine them.

        Every step of that way gives a whole number from 1 to ``max_target``; replies are freer.  That the limits leave
        next to no problems is an error.
        """
        level = self._level(level)
        for _ in range(_TRIES):
            draws = rng.random(4 * level).tolist()
            numbers = [1 + int(u * self.max_number) for u in draws[:level]]
            if (made := self._combine(numbers, draws[level:])) is None:
                continue
            target, solution = made
            if target not in numbers:
                return self._make(sorted(numbers), target, solution, True, "generator")
        raise DreamEnvsError(
            f"countdown: no problem of level {level} in {_TRIES} draws: allow a larger max_number ({self.max_number}) "
            f"or max_target ({self.max_target})"
        )

    def _parse(self, proposal: str) -> Task | Reject:
        if self._english:
            head, by, solution = proposal.removeprefix("make ").partition(" by ")
            goal, _, listed = head.partition(" from ")
            words, solution, given = listed.split(", "), solution.replace(" ", ""), bool(by)
        else:
            head, _, solution = proposal.partition("=")
            listed, _, goal = head.partition(":")
            words, given = listed.split(","), bool(solution)
        if not all(w and _DIGITS.issuperset(w) and (w[0] != "0" or w == "0") for w in (goal, *words)):
            return self._bad_form()
        numbers, target = [int(w) for w in words], int(goal)
        if proposal != self._proposal(numbers, target, solution if given else "") or given != bool(solution):
            return self._bad_form()
        if numbers != sorted(numbers):
            return Reject("not_canonical", "the numbers are not in ascending order")
        if fault := self._limits(numbers, target):
            return fault
        certified = self._check(numbers, target, solution) if given else self._search(numbers, target)
        return certified if isinstance(certified, Reject) else self._make(numbers, target, certified, given, "proposal")

    def proposal_form(self) -> str:
        """The proposal grammar, by example."""
        if self._english:
            return "'make 22 from 3, 5, 7' or 'make 22 from 3, 5, 7 by 3 * 5 + 7'"
        return "'3,5,7:22=' or '3,5,7:22=3*5+7'"

    def tidy(self, text: str) -> str:
        """Without blanks and without the end of a bracket that was opened before the expression."""
        text = "".join(text.split())
        while text.endswith(")") and text.count(")") > text.count("("):
            text = text[:-1]
        while text.startswith("(") and text.count("(") > text.count(")"):
            text = text[1:]
        return text

    def accepts(self, task: Task, answer: str) -> bool:
        """Whether it is an expression over the task's numbers that equals its target."""
        if len(answer) > self._reply_chars or not ex.CHARACTERS.issuperset(answer):
            return False
        found = self._read(answer, canonical=False)
        if isinstance(found, Reject) or found.value != (task.meta["target"], 1):
            return False
        return self._allows(task.meta["numbers"], found.operands)

    def chance(self, task: Task) -> float:
        """The share of right ones among all guesses: 4 ** (level - 1) of them are tried."""
        first, *rest = sorted(task.meta["numbers"], reverse=True)
        # a flat expression is a sum so far and the product that is still open
        states: Counter[tuple[Fraction, Fraction]] = Counter({(Fraction(0), Fraction(first)): 1})
        for number in map(Fraction, rest):
            following: Counter[tuple[Fraction, Fraction]] = Counter()
            for (total, term), ways in states.items():
                for state in (
                    (total + term, number),
                    (total + term, -number),
                    (total, term * number),
                    (total, term / number),
                ):
                    following[state] += ways
            states = following
        target = task.meta["target"]
        return sum(ways for (total, term), ways in states.items() if total + term == target) / 4 ** len(rest)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """All numbers, the largest first, with random operators between them."""
        numbers = sorted(task.meta["numbers"], reverse=True)
        drawn = rng.integers(4, size=len(numbers) - 1).tolist()
        text = "".join([f"{n}{ex.OPERATORS[i]}" for n, i in zip(numbers, drawn, strict=False)]) + str(numbers[-1])
        return self._write(text)

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """One number more, and the target that it makes of the old one; None at the highest level."""
        if task.level >= self.max_level:
            return None
        numbers, target = _facts(task)
        solution = task.answer.replace(" ", "")
        found = self._read(solution, canonical=True)
        precedence = ex.ATOM if isinstance(found, Reject) else found.precedence
        for which, size in rng.random((32, 2)).tolist():
            number = 1 + int(size * self.max_number)
            if options := self._options(target, number):
                operator, goal = options[int(which * len(options))]
                pair = (solution, precedence, str(number), ex.ATOM)
                harder = sorted([*numbers, number])
                if goal in harder:
                    continue
                if operator in "-/" and target < number:
                    pair = (str(number), ex.ATOM, solution, precedence)
                return self._make(harder, goal, ex.join(operator, *pair), True, "mutation")
        return None

    def features(self, task: Task) -> tuple[str, ...]:
        """How many numbers, the size of the target, and the operators of the known solution."""
        operators = tuple(f"operator={o}" for o in ex.OPERATORS if o in task.answer)
        return (f"numbers={task.level}", f"target_digits={len(str(task.meta['target']))}", *operators)

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem, with the solution if the task came with one."""
        solution = task.answer.replace(" ", "") if task.meta["given"] else ""
        return self._proposal(*_facts(task), solution)

    def _invite(self, wishes: str) -> str:
        return (
            f"Invent a countdown problem: 2 to {self.max_level} whole numbers from 1 to {self.max_number} in ascending "
            f"order, and a target from 1 to {self.max_target} that is none of them and equals an expression with + - * "
            f"/ and parentheses that uses {self._rule()}.{wishes} Reply with one line of the form "
            f"{self.proposal_form()} and nothing else; a problem that comes with a solution is always checked by it."
        )

    def _shown(self, task: Task) -> str:
        return self._proposal(*_facts(task), "")

    def _rule(self) -> str:
        return "each of them exactly once" if self.use_all else "each of them at most once"

    def _write(self, expression: str) -> str:
        return ex.spaced(expression) if self._english else expression

    def _proposal(self, numbers: Sequence[int], target: int, solution: str) -> str:
        if self._english:
            ending = f" by {ex.spaced(solution)}" if solution else ""
            return f"make {target} from {', '.join(map(str, numbers))}{ending}"
        return f"{','.join(map(str, numbers))}:{target}={solution}"

    def _read(self, text: str, canonical: bool) -> ex.Expression | Reject:
        digits = len(str(self.max_number))
        return ex.read(text, canonical=canonical, max_depth=_REPLY_DEPTH, max_digits=digits, max_magnitude=_NO_BOUND)

    def _allows(self, numbers: Sequence[int], operands: Sequence[int]) -> bool:
        return sorted(operands) == numbers if self.use_all else Counter(operands) <= Counter(numbers)

    def _limits(self, numbers: list[int], target: int) -> Reject | None:
        if len(numbers) not in self.levels:
            return Reject("limits", f"{len(numbers)} numbers, 2 to {self.max_level}")
        if numbers[0] < 1 or numbers[-1] > self.max_number:
            return Reject("limits", f"numbers run from 1 to {self.max_number}")
        if not 1 <= target <= self.max_target:
            return Reject("limits", f"targets run from 1 to {self.max_target}")
        return Reject("trivial", "the target is one of the numbers") if target in numbers else None

    def _check(self, numbers: list[int], target: int, solution: str) -> str | Reject:
        """The proposer's solution if it is one."""
        if not ex.CHARACTERS.issuperset(solution):
            return self._bad_form()
        found = self._read(solution, canonical=True)
        if isinstance(found, Reject):
            return found if found.code in ("grammar", "not_canonical") else Reject("certificate", found.detail)
        if not self._allows(numbers, found.operands):
            return Reject("certificate", f"the solution must use {self._rule()}")
        return solution if found.value == (target, 1) else Reject("certificate", "the solution misses the target")

    def _search(self, numbers: list[int], target: int) -> str | Reject:
        if not self.search_steps:
            return Reject("certificate", "comes without a solution")
        solution, exhausted = solve(numbers, target, use_all=self.use_all, steps=self.search_steps)
        why = "has no solution" if exhausted else f"no solution given, none found in {self.search_steps} steps"
        return solution or Reject("certificate", why)

    def _make(self, numbers: list[int], target: int, solution: str, given: bool, origin: str) -> Task:
        prompt = self._proposal(numbers, target, "")
        if self._english:
            prompt = (
                f"Numbers: {', '.join(map(str, numbers))}\nTarget: {target}\nWrite an expression that equals the "
                f"target, with + - * / and parentheses, and uses {self._rule()}. Division is exact. Reply with the "
                "expression alone."
            )
        meta = {"numbers": numbers, "target": target, "given": given, "truth": "verified"}
        key = content_hash(self.name, prompt, "all" if self.use_all else "any")
        answer, level = self._write(solution), len(numbers)
        return Task(family=self.name, level=level, prompt=prompt, answer=answer, meta=meta, origin=origin, id=key)

    def _options(self, a: int, b: int) -> list[tuple[str, int]]:
        """The operators that make a whole number from 1 to ``max_target`` of two, the larger one first."""
        large, small = max(a, b), min(a, b)
        results = [("+", a + b), ("-", large - small), ("*", a * b)]
        if large % small == 0:
            results.append(("/", large // small))
        return [(operator, value) for operator, value in results if 1 <= value <= self.max_target]

    def _combine(self, numbers: list[int], draws: list[float]) -> tuple[int, str] | None:
        """Join random pairs until one value is left: the value and its text; None at a dead end."""
        items = [(n, str(n), ex.ATOM) for n in numbers]
        while len(items) > 1:
            a = items.pop(int(draws.pop() * len(items)))
            b = items.pop(int(draws.pop() * len(items)))
            if not (options := self._options(a[0], b[0])):
                return None
            operator, value = options[int(draws.pop() * len(options))]
            if a[0] < b[0]:
                a, b = b, a
            items.append((value, ex.join(operator, a[1], a[2], b[1], b[2]), ex.PRECEDENCE[operator]))
        return items[0][0], items[0][1]


def solve(numbers: Sequence[int], target: int, *, use_all: bool, steps: int) -> tuple[str | None, bool]:
    """Search all ways to combine the numbers, each way once, over exact rationals.

    ``numbers`` are positive, ``use_all`` asks for every one of them; ``steps``: how many combinations of two to try.

    Returns:
        A canonical solution or None, and whether the search came to its end (None is then a proof that there is none).
    """
    if target in numbers and (len(numbers) == 1 or not use_all):
        return str(target), True
    goal, left = (target, 1), steps
    seen: set[tuple[ex.Rational, ...]] = set()

    def search(items: list[tuple[ex.Rational, str, int]]) -> str | None:
        nonlocal left
        key = tuple(sorted([value for value, _, _ in items]))
        if key in seen:
            return None
        seen.add(key)
        for i, j in itertools.combinations(range(len(items)), 2):
            rest = items[:i] + items[i + 1 : j] + items[j + 1 :]
            for operator, a, b in (("+", i, j), ("*", i, j), ("-", j, i), ("-", i, j), ("/", j, i), ("/", i, j)):
                if not left:
                    return None
                left -= 1
                (x, left_text, p), (y, right_text, q) = items[a], items[b]
                value = ex.combine(operator, x, y)
                hit = value == goal and not (rest and use_all)
                if value is None or not (hit or rest):
                    continue
                text = ex.join(operator, left_text, p, right_text, q)
                if hit:
                    return text
                if found := search([*rest, (value, text, ex.PRECEDENCE[operator])]):
                    return found
        return None

    solution = search([((n, 1), str(n), ex.ATOM) for n in numbers])
    return solution, solution is not None or left > 0


def _facts(task: Task) -> tuple[list[int], int]:
    return task.meta["numbers"], task.meta["target"]
