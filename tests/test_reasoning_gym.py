"""Every data set of reasoning-gym through the family: golds, wrong answers, seeds, hostile replies and proposals."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")

from dream_envs import core, registry
from dream_envs.core import DreamEnvsError, Reject, Task
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import play
from dream_envs.seeds import stream
from dream_envs.tasks import answers
from dream_envs.tasks import reasoning_gym as module
from dream_envs.tasks.reasoning_gym import LEFT_OUT, ReasoningGym
from dream_envs.testing.cores import HOSTILE
from dream_envs.testing.parts import check_family

ALL = module._known()
OFFERED = [name for name in ALL if name not in LEFT_OUT]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A generator or a scorer that runs on is a failure, not a test that never ends."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def same_kind(one: str, other: str) -> bool:
    """Whether two answers are both numbers or both not: what is of another type is no second answer in a reply."""
    return bool(answers.NUMBER.fullmatch(one)) == bool(answers.NUMBER.fullmatch(other))


def check_level(f: ReasoningGym, level: int) -> None:
    name = f.datasets[0]
    tasks = [f.generate(stream("rg", name, level, i), level) for i in range(2)]
    for task, other in zip(tasks, reversed(tasks), strict=True):
        assert task.level == level and task.prompt and core.decode_task(core.encode(task)) == task
        gold = f.gold(task)
        for reply in (gold, f"Let me think.\n\nAnswer: {gold}", f"<think>x</think>So:\n<answer>\n{gold}\n</answer>"):
            assert f.verify(task, reply).value == 1.0, (name, level, reply[:80])
        wrong = [t for n, t in HOSTILE.items() if n not in ("JSON", "format string")]  # these two state a number
        wrong += [task.prompt, "zzz", f"<think>{gold}"]
        if gold != other.answer and same_kind(gold, other.answer) and not answers.NUMBER.fullmatch(gold):
            wrong += [f"{gold} {other.answer}", f"{gold} or {other.answer}", f"{gold}\n{other.answer}"]
        for reply in wrong:
            score = f.verify(task, reply)
            assert (score.value, score.status) == (0.0, "ok"), (name, level, reply[:80])
        found = f.parse(f.as_proposal(task))
        assert isinstance(found, Task) and (found.id, found.answer) == (task.id, task.answer)


@pytest.mark.parametrize("name", OFFERED)
def test_every_data_set(name: str) -> None:
    """It is drawn at its lowest level, its own answer is right and other texts are wrong; guessing is not enough."""
    with within(40):
        f = ReasoningGym(name)
        check_level(f, 0)
        task = f.generate(stream("rg", name, 0), 0)
        assert f.chance(task) <= 0.9
        assert f.generate(stream("rg", name, 0), 0) == task


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFERED)
def test_every_level_of_every_data_set(name: str) -> None:
    f = ReasoningGym(name)
    for level in f.levels:
        with within(60):
            check_level(f, level)


def test_what_is_left_out_is_there_and_says_why() -> None:
    assert set(LEFT_OUT) <= set(ALL) and len(OFFERED) >= 90
    assert set(module._LEVELS) | set(module._READS) | set(module._ANSWERS) | set(module._ALLOWED) <= set(OFFERED)
    for name, why in LEFT_OUT.items():
        with pytest.raises(DreamEnvsError, match=re.escape(why)):
            ReasoningGym(name)


def first_seeds(seed: int) -> set[int]:
    f = ReasoningGym()
    return {f.generate(stream("run", seed, i), 0).meta["seed"] for i in range(200)}


def test_neighbouring_seeds_share_nothing() -> None:
    """The package's own data sets of seeds 42 and 43 share 199 problems of 200."""
    import reasoning_gym

    theirs = [[x["question"] for x in reasoning_gym.create_dataset("leg_counting", seed=s, size=200)] for s in (42, 43)]
    assert len(set(theirs[0]) & set(theirs[1])) >= 199
    assert not first_seeds(42) & first_seeds(43)


@pytest.mark.parametrize("name", sorted(module._READS))
def test_what_is_made_once_draws_as_what_is_made_anew(name: str) -> None:
    from reasoning_gym import factory

    f = ReasoningGym(name)
    for seed in (5, 2**32 - 1):
        made = factory.DATASETS[name][0](f._settings(name, 0, seed))
        assert f._entry(name, 0, 7) != f._entry(name, 0, seed)
        assert (found := f._entry(name, 0, seed))["question"] == made[0]["question"], name  # type: ignore[index]
        assert found["answer"] == made[0]["answer"]  # type: ignore[index]


LISTING = """
import json, sys
from dream_envs.seeds import stream
from dream_envs.tasks.reasoning_gym import ReasoningGym
drawn = {}
for name in names:
    task = ReasoningGym(name).generate(stream("again", name), 0)
    drawn[name] = [task.id, task.prompt, task.answer]
"""


def test_a_fresh_process_draws_the_same_problems() -> None:
    """With other hashes of strings: some of the package's generators iterate over sets."""
    here: dict[str, Any] = {"names": [name for name in OFFERED if name not in ("arc_agi", "group_anagrams")]}
    exec(LISTING, here)
    code = f"names = {here['names']}" + LISTING + "print(json.dumps(drawn))"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert json.loads(there.stdout) == here["drawn"]


def test_the_kit_passes() -> None:
    check_family(registry.create("tasks", "reasoning_gym")).raise_if_failed()
    check_family(ReasoningGym("spell_backward,basic_arithmetic,maze")).raise_if_failed()


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("countdown", "__import__('os').system('true')"),
        ("countdown", "9**9**9**9**9"),
        ("countdown", "9//1"),
        ("string_insertion", "print('x')"),
        ("spiral_matrix", "[x for x in range(10**9)]"),
        ("binary_matrix", "exit()"),
        ("n_queens", "[9**9**9**9**9]"),
        ("simple_integration", "exit()"),
        ("simple_integration", "N(9)"),
        ("simple_integration", "x**9**9**9**9"),
        ("simple_integration", "(9)**99**99**99"),
        ("simple_integration", "x.__class__"),
    ],
)
def test_no_reply_is_evaluated(monkeypatch: Any, name: str, reply: str) -> None:
    """What the scorers would hand to ``eval`` never reaches them; golds do."""
    f = ReasoningGym(name)
    task = f.generate(stream("eval", name), 0)
    assert f.verify(task, f.gold(task)).value == 1.0
    made, asked = f._made(name, 0), list[str]()
    monkeypatch.setattr(made, "score_answer", lambda text, entry: asked.append(text) or 1.0)
    assert f.verify(task, reply).value == 0.0 and not asked


def test_strict_and_partial_credit() -> None:
    f, strict = ReasoningGym("caesar_cipher"), ReasoningGym("caesar_cipher", strict=True)
    task = f.generate(stream("partial"), 1)
    for value, lenient, exact in ((1.0, 1, 1), (0.995, 1, 0), (0.98, 0, 0), (float("nan"), 0, 0)):
        for family, wanted in ((f, lenient), (strict, exact)):
            made = family._made("caesar_cipher", 1)
            own, made.score_answer = made.score_answer, lambda text, entry, value=value: value
            assert family.verify(task, "something").value == wanted
            made.score_answer = own
    assert f.verify(task, task.answer[:-1]).value == 0.0


def test_replies_are_read_out_of_what_a_chat_model_writes() -> None:
    f = ReasoningGym()
    task = f.generate(stream("read"), 0)
    n = task.answer
    for reply in (n, f"Answer: **{n}**", f"They have {n} legs in all.", f"\\boxed{{{n}}}", f"<think>1</think>\n{n}."):
        assert f.verify(task, reply).value == 1.0, reply
    for reply in (f"{n} or {int(n) + 2}", f"Answer: {int(n) + 2}\n", f"<think>{n}", f"Answer: {n}\nAnswer: 0", ""):
        assert f.verify(task, reply).value == 0.0, reply


def test_the_shape_of_a_statement() -> None:
    grid = "1 2\n3 4"
    for reply in (
        grid, f"Answer:\n{grid}", f"Sure.\n```\n{grid}\n```", f"<answer>{grid}</answer> done",
        f"**Answer:**\n\n```text\n{grid}\n```",
        f"<think>9</think>{grid}", f"<answer>0</answer>\n<answer>\n{grid}\n</answer>",
    ):  # fmt: skip
        assert answers.block(reply) == grid or answers.bare(answers.block(reply)) == grid, reply
    assert answers.block("<think>1 2") == "" and answers.block("") == ""


def test_another_configuration_is_an_error_and_no_wrong_answer() -> None:
    f = ReasoningGym(min_animals=2, max_animals=2)
    task = f.generate(stream("config"), 0)
    assert f.verify(task, task.answer).value == 1.0 and len(re.findall(r"\d+ \w+", task.prompt)) == 2
    for other in (ReasoningGym(min_animals=5, max_animals=5), ReasoningGym("maze")):
        assert other.verify(task, task.answer).status == "error"


def test_levels_mutation_and_several_data_sets() -> None:
    f = ReasoningGym("leg_counting,gsm_symbolic")
    assert f.levels == ReasoningGym("leg_counting").levels and f.levels.start == 0 and len(f.levels) > 2
    assert {f.generate(stream(i), 0).meta["dataset"] for i in range(20)} == set(f.datasets)
    assert {f.generate(stream(i), 1).meta["dataset"] for i in range(9)} == {"leg_counting"}
    task, rng = f.generate(stream("m"), 1), stream("mutate")
    while (harder := f.mutate(task, rng)) is not None:
        assert harder.level == task.level + 1 and harder.id != task.id and harder.meta["dataset"] == "leg_counting"
        task = harder
    assert task.level == f.levels[-1]
    assert f.features(task) == ("dataset=leg_counting", "category=arithmetic", f"level={task.level}")


REJECTS: list[tuple[str, str]] = [
    ("", "empty"),
    ("<think>", "empty"),
    ('{"dataset": "leg_counting", "level": 0, "seed": 7' + "0" * 200 + "}", "too_long"),
    ('{"dataset": "leg_counting", "level": 0, "seed": ٧}', "charset"),
    ("leg_counting", "grammar"),
    ("[" * 150, "grammar"),
    ('{"dataset": "leg_counting", "level": 0}', "grammar"),
    ('{"dataset": "leg_counting", "level": 0, "seed": 7, "size": 9}', "grammar"),
    ('{"dataset": "leg_counting", "level": true, "seed": 7}', "grammar"),
    ('{"dataset": "leg_counting", "level": 0.0, "seed": 7}', "grammar"),
    ('{"dataset": "leg_counting", "level": 0, "seed": NaN}', "grammar"),
    ('{"dataset": "maze", "level": 0, "seed": 7}', "limits"),
    ('{"dataset": "leg_counting", "level": 99, "seed": 7}', "limits"),
    ('{"dataset": "leg_counting", "level": -1, "seed": 7}', "limits"),
    ('{"dataset": "leg_counting", "level": 0, "seed": -1}', "limits"),
    ('{"dataset": "leg_counting", "level": 0, "seed": 4294967296}', "limits"),
    ('Sure!\n```json\n{"seed": 7, "level": 0, "dataset": "leg_counting"}\n```', "ok"),
]


@pytest.mark.parametrize(("text", "code"), REJECTS)
def test_reason_codes(text: str, code: str) -> None:
    found = ReasoningGym().parse(text)
    assert (found.code if isinstance(found, Reject) else "ok") == code, found


def test_a_generator_that_gives_up_and_a_wrong_gold_are_told(monkeypatch: Any) -> None:
    from reasoning_gym import factory

    f, text = ReasoningGym(), '{"dataset": "leg_counting", "level": 0, "seed": 7}'
    f._entry = lambda *what: Reject("execution", "ValueError")  # type: ignore[assignment, method-assign]
    assert f.parse(text).code == "execution"  # type: ignore[union-attr]
    with pytest.raises(DreamEnvsError, match="no problem of leg_counting, level 0, in 16 draws: ValueError"):
        f.generate(stream(0), 0)
    f = ReasoningGym()
    monkeypatch.setattr(factory.DATASETS["leg_counting"][0], "score_answer", lambda self, answer, entry: 0.5)
    assert f.parse(text).code == "certificate"  # type: ignore[union-attr]
    monkeypatch.setattr(factory.DATASETS["leg_counting"][0], "__getitem__", lambda self, i: 1 / 0)
    assert ReasoningGym().parse(text).code == "execution"  # type: ignore[union-attr]
    codes = set(re.findall(r'Reject\(\s*"(\w+)"', inspect.getsource(module)))
    assert codes <= {code for _, code in REJECTS} | {"execution", "certificate"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"dataset": "leg_countin"}, "leg_counting"),
        ({"dataset": 3}, "dataset=3"),
        ({"strict": "yes"}, "strict="),
        ({"notation": "compact"}, "'notation'"),
        ({"min_animal": 2}, "min_animals"),
        ({"seed": 2}, "'seed'"),
        ({"min_animals": -1}, "min_animals"),
        ({"min_animals": "two"}, "leg_counting"),
        ({"dataset": "maze,leg_counting", "min_animals": 2}, "one data set"),
        ({"dataset": "puzzle24"}, "any four numbers"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(args: dict[str, Any], words: str) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        registry.create("tasks", "reasoning_gym", **args)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    for bad in (-1, 99, 1.5, "0", None, True):
        with pytest.raises(DreamEnvsError):
            ReasoningGym().generate(stream(0), bad)  # type: ignore[arg-type]


def test_it_travels() -> None:
    f = ReasoningGym(max_animals=9, strict=True)
    task = f.generate(stream("pickle"), 1)
    for other in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        assert other.generate(stream("pickle"), 1) == task and other.chance(task) == f.chance(task) and other.strict


def test_it_is_played() -> None:
    game = ChallengerSolver("reasoning_gym", solvers=2, family_args={"dataset": "chain_sum"})
    episode = play(game, {"challenger": "generator", "solver_0": "oracle", "solver_1": "floor"}, seed="rg")
    assert episode.outcome.facts["correct"] == {"solver_0": 1.0, "solver_1": 0.0}
    assert all(name in game.family.brief() for name in ("chain_sum", "seed", "level"))


def test_all_of_them_at_once() -> None:
    f = ReasoningGym("all")
    assert f.datasets == tuple(OFFERED)
    names = {f.generate(stream("all", i), 0).meta["dataset"] for i in range(12)}
    assert len(names) > 6
