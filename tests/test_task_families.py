"""What is particular to one task family: independent oracles, hand-worked problems, the rules of its replies."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import Action, Challenge, DreamEnvsError, Reject, Task
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.seeds import stream
from dream_envs.tasks.arithmetic import Arithmetic
from dream_envs.tasks.composition import Composition
from dream_envs.tasks.countdown import Countdown, solve
from dream_envs.tasks.reverse_addition import ReverseAddition

quick = settings(max_examples=300, deadline=None, derandomize=True, database=None)
C, E = "compact", "english"

# ---- arithmetic ------------------------------------------------------------------------------------------------


def value_of(text: str) -> Fraction | None:
    """The oracle: Python's own parser and Fraction; None for a division by zero."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        assert isinstance(node, ast.BinOp)
        a, b = walk(node.left), walk(node.right)
        kind = type(node.op)
        return a + b if kind is ast.Add else a - b if kind is ast.Sub else a * b if kind is ast.Mult else a / b

    try:
        return walk(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        return None


def form(text: str) -> Any:
    """An expression up to associativity: sums as signed terms in order, products as factors and divisors in order."""

    def walk(node: ast.expr) -> tuple[Any, ...]:
        if isinstance(node, ast.Constant):
            return ("n", node.value)
        assert isinstance(node, ast.BinOp)
        kind = "sum" if isinstance(node.op, (ast.Add, ast.Sub)) else "product"
        left, right = walk(node.left), walk(node.right)
        parts = list(left[1]) if left[0] == kind else [(1, left)]
        sign = -1 if isinstance(node.op, (ast.Sub, ast.Div)) else 1
        parts += [(sign * s, p) for s, p in right[1]] if right[0] == kind else [(sign, right)]
        return (kind, tuple(parts))

    return walk(ast.parse(text, mode="eval").body)


def has_needless_parentheses(text: str) -> bool:
    """Whether some pair can go without the form changing."""
    open_at: list[int] = []
    for i, character in enumerate(text):
        if character == "(":
            open_at.append(i)
        elif character == ")":
            j = open_at.pop()
            if form(text[:j] + text[j + 1 : i] + text[i + 1 :]) == form(text):
                return True
    return False


TREES = st.recursive(
    st.integers(0, 9).map(str),
    lambda inner: st.builds(
        lambda a, o, b, left, right: (f"({a})" if left else a) + o + (f"({b})" if right else b),
        inner, st.sampled_from("+-*/"), inner, st.booleans(), st.booleans(),
    ),
    max_leaves=7,
)  # fmt: skip


@settings(quick, max_examples=1500)
@given(text=TREES)
def test_arithmetic_against_python(text: str) -> None:
    found = Arithmetic(max_depth=10, max_magnitude=10**12).parse(text + "=")
    code = found.code if isinstance(found, Reject) else ""
    assert (code == "not_canonical") == has_needless_parentheses(text), (text, found)
    chat = Arithmetic(E, max_depth=10, max_magnitude=10**12).parse("compute " + re.sub(r"([-+*/])", r" \1 ", text))
    assert (chat.code if isinstance(chat, Reject) else "") == code
    if code == "not_canonical":
        return
    value = value_of(text)
    assert (code == "execution") == (value is None)
    if value is None:
        return
    digits = set(re.findall(r"\d+", text))
    assert (code == "trivial") == (str(value) in digits)
    if code != "trivial":
        assert (code == "leak") == bool(re.search(("" if value < 0 else r"(?<!\d)") + rf"{value}(?!\d)", text))
    if isinstance(found, Task):
        assert found.answer == str(value)  # Fraction prints n or n/d, lowest terms, minus in front
        assert found.level == sum(c in "+-*/" for c in text)
        assert isinstance(chat, Task) and (chat.answer, chat.level) == (found.answer, found.level)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("3+4*(2-5)=", "-9"), ("7-2-8=", "-3"), ("8/3/2=", "4/3"), ("1-9/6=", "-1/2"), ("8/(2/3)=", "12"), ("9-9=", "0")],
)
def test_arithmetic_by_hand(prompt: str, answer: str) -> None:
    found = Arithmetic().parse(prompt)
    assert isinstance(found, Task) and found.answer == answer


@pytest.mark.parametrize("knobs", [{"operators": "*", "max_magnitude": 1}, {"operators": "/", "max_magnitude": 1}])
def test_arithmetic_without_problems_says_so(knobs: dict[str, Any]) -> None:
    with pytest.raises(DreamEnvsError, match=r"^arithmetic: no problem of level 8 [^\n]*$"):
        Arithmetic(**knobs).generate(stream(0), 8)


@given(digits=st.integers(1, 3), depth=st.integers(0, 3), level=st.integers(1, 6), seed=st.integers(0, 999))
@quick
def test_arithmetic_generates_within_its_limits(digits: int, depth: int, level: int, seed: int) -> None:
    f = Arithmetic(digits=digits, max_depth=depth, operators="+-*", max_magnitude=10**9)
    task = f.generate(stream(seed), level)
    assert all(len(n) <= digits for n in re.findall(r"\d+", task.prompt)) and "/" not in task.prompt
    assert isinstance(f.parse(task.prompt), Task)
    assert max(itertools.accumulate((c == "(") - (c == ")") for c in task.prompt)) <= depth


@pytest.mark.parametrize("text", ["9-9-3+2=", "1-9/6=", "8/6+2=", "9*9+9=", "2-3*2=", "3*3/6=", "9*9*9=", "7-7="])
def test_arithmetic_chance_by_enumeration(text: str) -> None:
    f = Arithmetic()
    found = f.parse(text)
    assert isinstance(found, Task)
    most = 9 * (found.level + 1)
    numerators = range(-most if "-" in text else 0, most + 1)
    pairs = list(itertools.product(numerators, range(1, 10) if "/" in text else [1]))
    assert f.chance(found) == sum(str(Fraction(n, d)) == found.answer for n, d in pairs) / len(pairs)
    guesses = {f.guess(found, stream("guess", i)) for i in range(500)}
    assert guesses <= {str(Fraction(n, d)) for n, d in pairs}


# ---- reverse addition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "answer", "features"),
    [
        ("321+879=", "1011", ("digits=3", "carries=3", "longest_carry=3")),  # 123 + 978 = 1101
        ("1+2=", "3", ("digits=1", "carries=0", "longest_carry=0")),
        ("9+9=", "81", ("digits=1", "carries=1", "longest_carry=1")),
        ("999+101=", "0011", ("digits=3", "carries=3", "longest_carry=3")),  # 999 + 101 = 1100
        ("5151+5151=", "0303", ("digits=4", "carries=2", "longest_carry=1")),  # 1515 + 1515 = 3030
    ],
)
def test_reverse_addition_by_hand(prompt: str, answer: str, features: tuple[str, ...]) -> None:
    f = ReverseAddition()
    found = f.parse(prompt)
    assert isinstance(found, Task) and found.answer == answer
    assert f.features(found) == features


@quick
@given(level=st.integers(1, 1000), seed=st.integers(0, 999))
def test_reverse_addition_against_column_addition(level: int, seed: int) -> None:
    f = ReverseAddition(max_level=1000)
    task, carry, columns = f.generate(stream(seed), level), 0, []
    left, right = task.meta["left"], task.meta["right"]
    assert len(left) == len(right) == level and left[-1] != "0" != right[-1]
    for a, b in zip(left, right, strict=True):
        carry, digit = divmod(int(a) + int(b) + carry, 10)
        columns.append(str(digit))
    assert task.answer == "".join(columns) + "1" * carry
    assert 0.0 <= f.chance(task) <= 0.06


# ---- countdown -------------------------------------------------------------------------------------------------


def reachable(numbers: tuple[int, ...], use_all: bool) -> set[Fraction]:
    """The oracle: every value of every expression, by splitting the numbers in two in all ways."""

    def whole(group: tuple[int, ...]) -> set[Fraction]:
        if len(group) == 1:
            return {Fraction(group[0])}
        values = set()
        for size in range(1, len(group)):
            for chosen in itertools.combinations(range(len(group)), size):
                rest = tuple(group[i] for i in range(len(group)) if i not in chosen)
                for a, b in itertools.product(whole(tuple(group[i] for i in chosen)), whole(rest)):
                    values |= {a + b, a - b, a * b} | ({a / b} if b else set())
        return values

    if use_all:
        return whole(numbers)
    sizes = range(1, len(numbers) + 1)
    return set().union(*(whole(g) for k in sizes for g in itertools.combinations(numbers, k)))


@pytest.mark.parametrize("use_all", [True, False])
@pytest.mark.parametrize("numbers", [(2, 3), (1, 3, 4), (3, 3, 8), (2, 5, 7), (4, 4, 4), (1, 3, 4, 6)])
def test_the_solver_is_exact(numbers: tuple[int, ...], use_all: bool) -> None:
    f = Countdown(use_all=use_all)
    values = reachable(numbers, use_all)
    for target in range(1, 60):
        solution, exhausted = solve(numbers, target, use_all=use_all, steps=10**6)
        assert exhausted and (solution is not None) == (target in values), (target, solution)
        found = f.parse(f"{','.join(map(str, numbers))}:{target}=")
        if target in numbers:
            assert isinstance(found, Reject) and found.code == "trivial"
        elif solution is None:
            assert isinstance(found, Reject) and found.code == "certificate" and "no solution" in found.detail
        else:
            assert isinstance(found, Task) and value_of(found.answer) == target
            assert f.verify(found, found.answer).value == 1.0


def test_countdown_takes_fractions_and_counts_steps() -> None:
    found = Countdown().parse("1,3,4,6:24=")  # 6 / (1 - 3 / 4), the only way
    assert isinstance(found, Task) and value_of(found.answer) == 24 and "/" in found.answer
    assert all(solve([3, 3, 8, 8], 24, use_all=True, steps=n)[0] is None for n in (0, 1, 10))
    assert solve([3, 3, 8, 8], 24, use_all=True, steps=10) == (None, False)


RULES = [
    ("3*5+7", 1, 1), ("7+5*3", 1, 1), ("(3*5)+7", 1, 1), ("((7+(5*3)))", 1, 1), ("7--3*5", 0, 0), ("3*5+7=22", 0, 1),
    ("22", 0, 0), ("3*5+7+0", 0, 0), ("3*5+7*1", 0, 0), ("3*7+5-4", 0, 0), ("5*3+7-7+7", 0, 0), ("3**5+7", 0, 0),
    ("3*5+7/1", 0, 0), ("3*5+7.0", 0, 0), ("15+7", 0, 0), ("3*05+7", 0, 0), ("+3*5+7", 0, 1), ("3*5+7/(3-3)", 0, 0),
    ("(" * 40 + "3*5+7" + ")" * 40, 0, 0), ("3×5+7", 0, 1), ("3*5\n+7", 0, 0), ("3 * 5 + 7", 0, 1), ("3*5 +  7", 0, 1),
    (" (3*5) + 7\n", 0, 1), ("3*5+ 7 7", 0, 0), ("3\t*5+7", 0, 1), ("2 2", 0, 0), ("3*5+7;", 0, 1), ("1_5+7", 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "compact", "english"), RULES)
def test_countdown_rules(reply: str, compact: int, english: int) -> None:
    for notation, text, expected in ((C, "3,5,7:22=", compact), (E, "make 22 from 3, 5, 7", english)):
        f = Countdown(notation)
        found = f.parse(text)
        assert isinstance(found, Task)
        assert f.verify(found, reply).value == expected


def test_countdown_with_some_or_all_numbers() -> None:
    strict, free = Countdown(), Countdown(use_all=False)
    a, b = strict.parse("3,5,7,7:22="), free.parse("3,5,7,7:22=3*5+7")
    assert isinstance(a, Task) and isinstance(b, Task) and a.id != b.id
    assert (strict.verify(a, "3*5+7").value, free.verify(b, "3*5+7").value) == (0.0, 1.0)
    assert free.verify(b, "7+7+5+3").value == 1.0
    assert free.verify(b, "3*5+5+5-3").value == 0.0
    with_other_solution = free.parse("3,5,7,7:22=3+5+7+7")
    assert isinstance(with_other_solution, Task) and with_other_solution.id == b.id


@pytest.mark.parametrize("numbers", [[2, 3], [4, 6, 9], [2, 2, 5, 8]])
def test_countdown_chance_by_enumeration(numbers: list[int]) -> None:
    f = Countdown(use_all=False)
    flats = [
        "".join(str(n) + o for n, o in zip(sorted(numbers, reverse=True), (*signs, ""), strict=True))
        for signs in itertools.product("+-*/", repeat=len(numbers) - 1)
    ]
    for target in range(1, 40):
        found = f.parse(f"{','.join(map(str, numbers))}:{target}=")
        if isinstance(found, Task):
            assert f.chance(found) == sum(value_of(t) == target for t in flats) / len(flats)
            rng = stream("flat", target)
            assert all(f.guess(found, rng) in flats for _ in range(50))


def test_countdown_mutations_by_every_operator() -> None:
    """Small numbers, so that the old target is also divided and subtracted from."""
    f, seen = Countdown(max_level=4, max_number=12, max_target=40), Counter[str]()
    for seed in range(600):
        task, rng = f.generate(stream("few", seed), 2), stream("more", seed)
        while (harder := f.mutate(task, rng)) is not None:
            assert value_of(harder.answer) == harder.meta["target"], harder
            assert isinstance(f.parse(f.as_proposal(harder)), Task)
            seen[harder.answer.replace(task.answer, "t").replace("(t)", "t")[:2]] += 1
            task = harder
    assert {"t+", "t-", "t*", "t/"} <= set(seen) and any(re.match(r"\d+/", s) for s in seen)


# ---- composition -----------------------------------------------------------------------------------------------


def test_composition_always_finds_a_list_without_held_out_pairs() -> None:
    scarce = Composition(n_operations=3, held_out_pairs=5, max_level=40, reject_held_out=True)
    allowed = [a + b for a in "ABC" for b in "ABC" if a + b not in scarce.held_out]
    words = {"".join(w) for w in itertools.product("ABC", repeat=4)}
    words = {w for w in words if all(w[i : i + 2] in allowed for i in range(3))}
    drawn = Counter(scarce._avoiding(stream("scarce", i), 4) for i in range(3000))
    assert set(drawn) == words
    expected = 3000 / len(words)
    chi = sum((n - expected) ** 2 / expected for n in drawn.values())
    assert chi < len(words) - 1 + 5 * math.sqrt(2 * (len(words) - 1))
    task: Task | None = scarce.generate(stream(1), 40)
    assert task is not None and not task.meta["held_out"] and task.level == 40
    task = scarce.generate(stream(2), 1)
    while task is not None and (harder := scarce.mutate(task, stream("step", task.level))) is not None:
        assert isinstance(scarce.parse(scarce.as_proposal(harder)), Task)
        task = harder


def test_composition_without_any_list_says_so() -> None:
    for seed in range(40):
        f = Composition(n_operations=2, held_out_pairs=3, world=f"w{seed}")
        if {"AA", "BB"} <= f.held_out:  # one step from one operation to the other, and no way on
            assert f.generate(stream(0), 2).level == 2
            with pytest.raises(DreamEnvsError, match="held_out_pairs: use fewer"):
                f.generate(stream(0), 3)
            return
    pytest.fail("no such world among 40")


def test_composition_follows_its_tables() -> None:
    f = Composition(E, known="B")
    assert all(sorted(row) == list(range(16)) for row in f.table.tolist())
    task = f.generate(stream(5), 4, pairs="held_out")
    tables = dict(re.findall(r"^([A-H]): (.*)$", task.prompt, re.M))
    state, steps = task.meta["start"], []
    for operation in task.meta["ops"]:
        index = int(f.table[f.operations.index(operation), f.states.index(state)])
        if operation in tables:
            assert f"{state}>{f.states[index]}" in tables[operation].split()
        state = f.states[index]
        steps.append(f"{operation} -> {state}")
    assert task.answer == ", ".join(steps) and "B" not in tables and task.meta["held_out"]


# ---- in the game -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "truth"),
    [
        ("countdown", "3,5,7:22=", "verified"),
        ("arithmetic", "3+4*2=", "executed"),
        ("reverse_addition", "12+34=", "executed"),
    ],
)
def test_a_challenge_tells_how_far_its_answer_can_be_trusted(name: str, text: str, truth: str) -> None:
    game = ChallengerSolver(name, solvers=2)
    state = game.apply(game.start(None, np.random.default_rng(0)), {"challenger_0": Action(text)})
    challenge = game.record(state)[0][1]
    assert isinstance(challenge, Challenge) and challenge.truth == truth
    state = game.apply(state, {"solver_0": Action(challenge.answer), "solver_1": Action("nonsense")})
    outcome = game.outcome(state)
    assert outcome is not None and outcome.facts["correct"] == {"solver_0": 1.0, "solver_1": 0.0}
