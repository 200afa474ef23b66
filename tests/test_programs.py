"""Programs: an independent interpreter as oracle, hostile programs, what is accepted, and the six streams of azr.

What every family must do is in ``test_tasks.py``, every reason for a rejection in ``test_task_rejects.py``.
"""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import Action, DreamEnvsError, Reject, Task, challenge_of
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import as_agent, rollout
from dream_envs.seeds import stream
from dream_envs.tasks import _programs as lang
from dream_envs.tasks.programs import KINDS, Programs

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)

#: The oracle: the calls as Python over Python's own functions.
PYTHON: dict[str, Any] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b, "mod": lambda a, b: a % b, "smaller": min, "larger": max,
    "less": lambda a, b: int(a < b), "equal": lambda a, b: int(a == b),
    "head": lambda k: k[0], "last": lambda k: k[-1], "size": len, "sum": sum, "least": min, "most": max,
    "get": lambda k, n: k[n], "count": lambda k, n: sum(v == n for v in k),
    "reverse": lambda k: list(reversed(k)), "sort": sorted,
    "tail": lambda k: k[1:], "unique": lambda k: [v for i, v in enumerate(k) if v not in k[:i]],
    "take": lambda k, n: [v for i, v in enumerate(k) if i < n],
    "drop": lambda k, n: [v for i, v in enumerate(k) if i >= n],
    "append": lambda k, n: [*k, n], "join": lambda a, b: [*a, *b], "range": lambda n: list(range(n)),
}  # fmt: skip


def python(node: lang.Node, x: list[int], y: int = 0, z: int = 0) -> Any:
    """The value by plain recursion, without any bound; an exception where there is none."""
    symbol, *operands = node
    if not operands:
        return {"x": x, "y": y, "z": z}[symbol] if symbol in "xyz" else int(symbol)
    name, go = lang.OPERATIONS[symbol].name, functools.partial(python, x=x)
    if name == "map":
        return [go(operands[0], y=item, z=z) for item in go(operands[1], y=y, z=z)]
    if name == "filter":
        return [item for item in go(operands[1], y=y, z=z) if go(operands[0], y=item, z=z) != 0]
    if name == "fold":
        return functools.reduce(
            lambda so_far, item: go(operands[0], y=item, z=so_far), go(operands[2], y=y, z=z), go(operands[1], y=y, z=z)
        )
    if name == "when":
        return go(operands[1] if go(operands[0], y=y, z=z) != 0 else operands[2], y=y, z=z)
    values = [go(each, y=y, z=z) for each in operands]
    if name == "get" and values[1] < 0:
        raise IndexError
    return PYTHON[name](*values)


def drawn(seed: int, size: int) -> lang.Node:
    from dream_envs.tasks.programs import _draw

    return _draw(stream("program", seed), size, "", "x")


@settings(quick, max_examples=1500)
@given(seed=st.integers(0, 10**6), size=st.integers(0, 9), x=st.lists(st.integers(-9, 9), min_size=1, max_size=6))
def test_the_interpreter_against_python(seed: int, size: int, x: list[int]) -> None:
    node = drawn(seed, size)
    assert lang.operations(node) == size
    assert lang.read(lang.symbols(node)) == lang.read_calls(lang.calls(node)) == node
    try:
        found: Any = lang.run(node, tuple(x))
    except lang.Fault as fault:
        if fault.code == "execution":
            with pytest.raises((IndexError, ValueError, ZeroDivisionError)):
                python(node, x)
        return
    assert (list(found) if isinstance(found, tuple) else found) == python(node, x)


@pytest.mark.parametrize(
    ("program", "x", "value"),
    [
        ("map(add(y, 1), sort(x))", (3, 1), (2, 4)),
        ("fold(add(mul(z, 2), y), 0, x)", (1, 0, 1), 5),
        ("filter(less(2, y), x)", (3, 2, 5), (3, 5)),
        ("map(fold(add(z, y), y, x), x)", (1, 2), (4, 5)),  # the inner y is the inner list's
        ("div(sub(0, size(x)), 2)", (1, 1, 1), -2),
        ("mod(sub(0, size(x)), 2)", (1, 1, 1), 1),
        ("when(less(head(x), last(x)), head(x), 7)", (4, 2), 7),
        ("when(equal(size(x), 1), 0, get(x, 1))", (5,), 0),  # the branch that is not taken is not run
    ],
)  # fmt: skip
def test_programs_by_hand(program: str, x: tuple[int, ...], value: Any) -> None:
    assert lang.run(lang.read_calls(program), x) == value


def test_no_program_runs_on() -> None:
    """Nested maps stop at the bound of steps, deep nests at that of size, and growth at that of numbers."""
    nest = "@s@s@s@s@yxxxxx"
    with pytest.raises(lang.Fault, match="steps"):
        lang.run(lang.read(nest), tuple(range(8)))
    with pytest.raises(lang.Fault, match="operations"):
        lang.read("r" * 33 + "x")
    with pytest.raises(lang.Fault, match="beyond"):
        lang.run(lang.read("F*zzBxx"), (9,) * 8)
    with pytest.raises(lang.Fault, match="items"):
        lang.run(lang.read("jjxxx"), (1,) * 8)
    for text in ("", "+", "x" * 10**6, "r" * 10**6, "q", "é", "@", "@yy", "Fxxx", "\x00"):
        with pytest.raises(lang.Fault):
            lang.read(text)


@pytest.mark.parametrize("text", [
    "__import__('os')", "exit()", "x.__class__", "x if x else x", "lambda: x", "head(x", "head(x))", "head(x,)", "h(x)",
    "head x", "head(head(x))", "add(1)", "add(1, 2, 3)", "y", "12", "map(y)", "(x)", "x()", "sort(x)x", "add(1 2)",
])  # fmt: skip
def test_what_is_no_program(text: str) -> None:
    with pytest.raises(lang.Fault):
        lang.read_calls(text)


def task_of(text: str, notation: str = "compact", **knobs: Any) -> Task:
    found = Programs(notation, **knobs).parse(text)
    assert isinstance(found, Task), found
    return found


def test_each_kind_by_hand() -> None:
    f = Programs()
    deduction, abduction, induction = (task_of(kind + "r@*y2x:[3,-1]") for kind in "dai")
    assert (deduction.prompt, deduction.answer) == ("r@*y2x:[3,-1]>?", "[-2,6]")
    assert (abduction.prompt, abduction.answer) == ("r@*y2x:?>[-2,6]", "[3,-1]")
    assert induction.prompt.startswith("?:[3,-1]>[-2,6];") and induction.prompt.count(";") == 4
    for reply, right in (("[-2,6]", 1), ("[-2, 6]", 0), ("[6,-2]", 0), ("-2,6", 0), ("r@*y2x", 0)):
        assert f.verify(deduction, reply).value == right
    # every program that does the same is right, whatever it looks like; one that knows the examples by heart is not
    for reply, right in (("r@*y2x", 1), ("@*2yrx", 1), ("r@+yyx", 1), ("@*y2x", 0), ("[-2,6]", 0), ("r@*y2x ", 0)):
        assert f.verify(induction, reply).value == right


def test_any_input_that_gives_the_output_is_accepted() -> None:
    f, task = Programs(), task_of("a%sx5:[4,9]")
    assert task.prompt == "%sx5:?>3"
    for items in itertools.product(range(-6, 7), repeat=2):
        assert f.verify(task, f"[{items[0]},{items[1]}]").value == float(sum(items) % 5 == 3)
    for reply in ("3", "[]", "[3", "[ 3]", "[03]", "[+3]", "[3,]", "[103]", "[0,0,0,0,0,0,0,0,3]", "x", "[3]\n", "[٣]"):
        assert f.verify(task, reply).value == 0.0, reply
    undefined = task_of("a/9nx:[1,1]")
    assert f.verify(undefined, "[]").value == 0.0


def test_an_induction_is_decided_by_what_is_hidden() -> None:
    """A program that fits the shown pairs alone, found by search over the shortest, is refused somewhere."""
    f, refused = Programs(examples=2, hidden=12), 0
    for seed in range(30):
        task = f.generate(stream("hidden", seed), 2, stream="induction")
        shown = [(tuple(x), y) for x, y in task.meta["pairs"][:2]]
        for other in range(300):
            node = drawn(other, 1 + other % 3)
            try:
                fits = all(lang.value_text(lang.run(node, x)) == lang.value_text(_value(y)) for x, y in shown)
            except lang.Fault:
                continue
            refused += fits and f.verify(task, lang.symbols(node)).value == 0.0
    assert refused


def _value(stored: Any) -> Any:
    return tuple(stored) if isinstance(stored, list) else stored


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("reverse(map(mul(y, 2), x))", 1),
        ("The program is `reverse( map(mul(2,y), x) )`.", 1),
        ("<think>sort(x)?</think>Answer: **reverse(map(mul(y, 2), x))**", 1),
        ("f(x) = reverse(map(add(y, y), x))", 1),
        ("map(mul(y, 2), x)", 0),
        ("reverse(map(mul(y, 2), x)) or map(mul(y, 2), x)", 0),
        ("<think>reverse(map(mul(y, 2), x))", 0),
        ("reverse(map(mul(y, 2), x)).__class__", 0),
        ("lambda x: [v * 2 for v in x][::-1]", 0),
    ],
)
def test_english_replies(reply: str, right: float) -> None:
    f, task = Programs("english"), task_of("induction: reverse(map(mul(y, 2), x)) with [3, -1]", "english")
    assert f.verify(task, reply).value == right, reply


@pytest.mark.parametrize(
    "reply", ["Answer: [-2, 6]", "So we get [-2, 6].", "\\boxed{[-2, 6]}", "f(x) is [-2,6]", "-2, 6"]
)
def test_english_lists(reply: str) -> None:
    task = task_of("deduction: reverse(map(mul(y, 2), x)) with [3, -1]", "english")
    assert Programs("english").verify(task, reply).value == 1.0
    assert Programs("english").verify(task, reply.replace("6", "5")).value == 0.0


def test_it_travels() -> None:
    f = Programs("english", mode="abduction")
    task = f.generate(stream("pickle"), 2)
    for other in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        assert other.generate(stream("pickle"), 2) == task and other.chance(task) == f.chance(task)


def test_modes_and_streams() -> None:
    f = Programs()
    assert f.streams == KINDS and Programs(mode="induction").streams == ()
    for number, kind in enumerate(KINDS):
        task = f.generate(stream(number), 3, stream=kind)
        assert task.meta["kind"] == task.meta["stream"] == kind
        alone = Programs(mode=kind)
        assert {alone.generate(stream(i), 2).meta["kind"] for i in range(9)} == {kind}
        assert isinstance(alone.parse(f.as_proposal(task)), Task)
        other = alone.parse("dai"[number - 1] + f.as_proposal(task)[1:])
        assert isinstance(other, Reject) and other.code == "limits"
        assert kind in Programs("english").brief(stream=kind) and f.brief(stream=kind) == f"new {kind[0]}"
    for bad in ("deductions", "all"):
        with pytest.raises(DreamEnvsError, match="stream"):
            f.brief(stream=bad)
    counts = Counter(f.generate(stream("even", i), 1 + i % 8).meta["kind"] for i in range(300))
    assert all(70 <= counts[kind] <= 130 for kind in KINDS), counts


def test_nothing_generated_is_trivial() -> None:
    """By an oracle of its own: on fresh inputs no program is constant or the identity, and none has a dead outside."""
    f, rng = Programs(), stream("fresh")
    inputs = [rng.integers(-9, 10, size=int(rng.integers(1, 7))).tolist() for _ in range(200)]
    for i in range(120):
        node = lang.read(f.generate(stream("trivial", i), 1 + i % 8).meta["program"])
        values = []
        for x in inputs:
            try:
                values.append((lang.value_text(_value(python(node, x))), lang.value_text(tuple(x))))
            except (IndexError, ValueError, ZeroDivisionError):
                continue
        assert len(values) > 60 and Counter(v for v, _ in values).most_common(1)[0][1] < 0.75 * len(values)
        assert sum(v == x for v, x in values) < 0.75 * len(values)


# ---- Absolute Zero: six streams --------------------------------------------------------------------------------


def curriculum(family: Any, proposals: int = 9, replays: int = 9) -> tuple[ChallengerSolver, Curriculum]:
    game = ChallengerSolver(family, solvers=4)
    mixture = Mixture(proposals, 0, replays, replays="uniform")
    return game, Curriculum(game, mixture, seed="s", store=ChallengeStore())


def played(game: Any, plan: Any, seats: Any) -> list[Any]:
    return sorted(rollout(game, seats, plan, seed="six"), key=lambda e: e.index)


class Proposer:
    """Writes a problem of the stream that its prompt asks for (``wrong``: of the next one)."""

    def __init__(self, family: Any, wrong: bool = False) -> None:
        self.family, self.wrong = family, wrong

    def act(self, requests: Any) -> list[Action]:
        found = []
        for request in requests:
            letter = request.messages[-1]["content"].removeprefix("new ")
            kind = KINDS[("dai".index(letter) + self.wrong) % 3]
            task = self.family.generate(stream(request.seed), 2, stream=kind)
            found.append(Action(self.family.as_proposal(task), token_ids=[1, 2]))
        return found


def test_every_stream_is_proposed_and_has_its_own_buffer() -> None:
    f = Programs()
    game, plan = curriculum(f)
    starts = plan.plan(0)
    assert Counter(s.task.meta["stream"] for s in starts if s.task) == dict.fromkeys(KINDS, 6)
    episodes = played(game, starts, {"challenger": Proposer(f), "solver": as_agent("oracle", game)})
    assert all(challenge_of(e).meta["kind"] == e.tasks[0].meta["stream"] for e in episodes)
    for i, episode in enumerate(episodes):  # a buffer with one of a kind and many of another
        if i % 3 != 2 or i == 2:
            scores = {a: _score(1.0) for a in episode.outcome.facts["agents"] if a.startswith("solver")}
            plan.absorb(0, [_with(episode, scores)])
    replayed = [s for s in plan.plan(1) if s.author == "replay"]
    kinds = Counter(f.parse(s.given["challenger_0"].text).meta["kind"] for s in replayed)
    assert kinds["induction"] == 1 and kinds["deduction"] >= 2 and kinds["abduction"] >= 2, kinds


def _score(value: float) -> Any:
    from dream_envs.core import Score

    return Score(value)


def _with(episode: Any, scores: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(episode, scores=scores)


def test_a_problem_of_another_stream_is_turned_away() -> None:
    f = Programs()
    game, plan = curriculum(f)
    seats = {"challenger": Proposer(f, wrong=True), "solver": as_agent("oracle", game)}
    for episode in played(game, plan.plan(0), seats):
        assert episode.outcome.facts["reject"] == "limits" and not episode.outcome.facts["valid"]


def test_a_family_without_streams_is_planned_as_ever() -> None:
    _, plan = curriculum("composition")
    assert all(s.task is None for s in plan.plan(0))


def test_baselines_are_by_role_and_stream() -> None:
    """Six baselines over the batch: each (role, kind) has mean 0 by itself, whatever the others earn."""
    pytest.importorskip("torch")
    from dream_envs.agents.training.advantages import Baseline
    from dream_envs.agents.training.rows import groups_of
    from dream_envs.agents.training.settings import RowSettings

    f = Programs()
    game, plan = curriculum(f)
    rng, episodes = stream("values"), []
    solver = type("Says", (), {"act": lambda self, asked: [Action("0", token_ids=[3]) for _ in asked]})()
    for episode in played(game, plan.plan(0), {"challenger": Proposer(f), "solver": solver}):
        far = 10.0 * KINDS.index(challenge_of(episode).meta["kind"])
        scores = {agent: _score(far + float(rng.random())) for agent in episode.outcome.facts["agents"]}
        episodes.append(_with(episode, scores))
    groups = groups_of(game, episodes, frozenset({"challenger", "solver"}))
    assert len([g for g in groups if g.role == "challenger"]) == 3
    for role in ("challenger", "solver"):
        mine = [g for g in groups if g.role == role]
        assert {g.stream for g in mine} == set(KINDS)
        advantages = Baseline("role", RowSettings()).advantages(mine)
        for kind in KINDS:
            its = np.concatenate([a for g, a in zip(mine, advantages, strict=True) if g.stream == kind])
            assert abs(its.mean()) < 1e-9 and abs(its.std() - 1) < 0.01
            assert [len(a) for a in advantages] == [len(g.rows) for g in mine]


@pytest.mark.slow
def test_azr_trains_on_programs(tmp_path: Any) -> None:
    pytest.importorskip("trl")
    import json

    from dream_envs import cli

    out = tmp_path / "run"
    words = ["--set", "proposals=6,replays=3,attempts=2,groups=4,eval.problems=2,eval.attempts=1,eval.levels=[1]"]
    argv = [
        "train",
        "azr",
        "--family",
        "programs",
        "--steps",
        "2",
        "--out",
        str(out),
        "--no-frontier",
        "--json",
        *words,
    ]
    assert cli.main(argv) == 0
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    asked = Counter(line["tasks"][0]["meta"].get("stream") for line in lines)
    assert set(asked) >= set(KINDS)
