"""TRL's calling convention, both ways, on episodes of the real game."""

import asyncio
import math

import pytest
from _episodes import GOLD, LOST, REPLIES, play, states, values
from hypothesis import given

from dream_envs.core import Challenge, encode
from dream_envs.rewards.adapters import from_trl, to_trl
from dream_envs.rewards.base import as_reward
from dream_envs.tasks.composition import Composition


def test_a_trl_function_sees_columns_and_none_is_no_reward():
    seen = {}

    def by_length(prompts, completions, completion_ids, solution, **kwargs):
        seen.update(prompts=prompts, completions=completions, solution=solution, **kwargs)
        return [None if not c else len(c) / 2 for c in completions]

    scores = from_trl(by_length, columns={"solution": "answer"})(play(["abc", "", LOST]))
    assert seen["prompts"] == ["c:BDA", "c:BDA"]
    assert seen["completions"] == ["abc", ""]
    assert seen["solution"] == seen["answer"] == [GOLD, GOLD]
    assert seen["agent"] == ["solver_0", "solver_1"]
    assert list(states(scores).values()) == ["ok", "abstain", "timeout"]
    assert scores["solver_0"].value == 1.5
    assert scores["solver_0"].grader.startswith("trl-1(fn=")


def test_a_trl_function_with_few_parameters_and_chat_messages():
    def exact(completions, answer):
        return [float(c[0]["content"] == a) for c, a in zip(completions, answer, strict=True)]

    scores = from_trl(exact, conversational=True)(play([GOLD, "x"]))
    assert values(scores) == {"solver_0": 1.0, "solver_1": 0.0}
    short = from_trl(lambda completions: [1.0])(play(["x", "y"]))
    assert set(states(short).values()) == {"error"}
    assert from_trl(lambda completions: [math.nan, 1.0])(play(["x", "y"]))["solver_0"].status == "error"


def test_a_round_is_one_call_of_a_trl_function_sync_or_async():
    calls = []

    def length(completions):
        calls.append(len(completions))
        return [float(len(c)) for c in completions]

    async def slow(completions):
        return length(completions)

    episodes = [play(["abc", ""]), play([LOST, "x"]), play(proposal="?")]
    quick, later = from_trl(length).score(episodes), asyncio.run(from_trl(slow).score(episodes))
    assert calls == [3, 3]
    for found in (quick, later):
        assert [values(its) for its in found[:2]] == [{"solver_0": 3, "solver_1": 0}, {"solver_0": 0, "solver_1": 1}]
        assert found[1]["solver_0"].status == "timeout" and states(found[2]) == {"solver_0": "abstain"}
    assert to_trl(from_trl(slow))(prompts=["p", "p"], completions=["ab", "c"]) == [2, 1]


def test_our_rewards_in_trl_see_groups():
    family = Composition()
    tasks = [family.make("c", "BDA"), family.make("a", "HH")]
    prompts = [t.prompt for t in tasks for _ in range(3)]
    completions = [GOLD, "x", "x", tasks[1].answer, tasks[1].answer, "y"]
    rows = {"prompts": prompts, "completions": completions, "completion_ids": [[1]] * 6, "trainer_state": None}
    packed = [encode(t).decode() for t in tasks for _ in range(3)]
    assert to_trl("correctness", family)(**rows, task=packed) == [1, 0, 0, 1, 1, 0]
    answers = [t.answer for t in tasks for _ in range(3)]
    assert to_trl("correctness", family)(**rows, answer=answers) == [1, 0, 0, 1, 1, 0]
    assert to_trl("majority")(**rows) == [0, 1, 1, 1, 1, 0]
    assert to_trl("correctness")(**rows) == [None] * 6
    chat = [[{"role": "user", "content": p}] for p in prompts]
    said = [[{"role": "assistant", "content": c}] for c in completions]
    assert to_trl("majority")(prompts=chat, completions=said) == [0, 1, 1, 1, 1, 0]
    twice = {"prompts": ["p"] * 6, "completions": ["a", "a", "b", "b", "b", "a"]}
    assert to_trl("majority", num_generations=3)(**twice) == [1, 1, 0, 1, 1, 0]
    assert to_trl("majority").__name__ == "majority"


@given(REPLIES)
def test_there_and_back_again(replies):
    episode, family = play(replies), Composition()
    challenge = next(t for t in episode.tasks if isinstance(t, Challenge))
    for name in ("correctness", "majority", "repetition"):
        ours = as_reward(name)

        def theirs(prompts, completions, name=name, **columns):
            return to_trl(name, family)(prompts=prompts, completions=completions, task=[challenge] * len(prompts))

        back, direct = from_trl(theirs)(episode), ours(episode)
        assert values(back) == values(direct)
        assert states(back) == states(direct)


def test_a_reward_of_trl_itself():
    rewards = pytest.importorskip("trl.rewards")
    model = from_trl(rewards.think_format_reward, conversational=True)
    assert values(model(play(["<think>\nso\n</think>\nBf", "Bf"]))) == {"solver_0": 1.0, "solver_1": 0.0}
