"""The reward model and its factory: names, knobs, graders, statuses, hostile return values, offline scoring."""

import asyncio
import json
import math
import pickle
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from _episodes import play, solved, states

from dream_envs.core import DreamEnvsError, Score, encode
from dream_envs.rewards.adapters import from_trl
from dream_envs.rewards.algebra import clip, gate, per_role, weighted, zero_sum
from dream_envs.rewards.base import as_reward, reward, roles
from dream_envs.rewards.controls import shuffled
from dream_envs.rewards.diversity import novelty
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.rounds import best_and_worst, in_range, less_repetition, shared
from dream_envs.rewards.self_judge_groups import role_weights
from dream_envs.rewards.solver import correctness


def test_graders_name_what_matters():
    assert learnability().grader == "learnability-1(form=azr)"
    assert learnability(form="band", lo=0.3).grader == "learnability-1(form=band,lo=0.3)"
    assert learnability(form="spice", invalid=-1.0).grader == "learnability-1(form=spice,invalid=-1.0)"
    assert learnability() == learnability(form="azr") != learnability(form="spice")
    assert hash(learnability()) == hash(learnability(form="azr"))
    graders = {s.grader for s in challenger_solver()(play(solved(1, 2))).values()}
    assert graders == {"learnability-1(form=azr)", "correctness-1"}


@pytest.mark.parametrize(("make", "names"), [
    (lambda: learnability(invalid=math.nan), ["nan", "finite"]),
    (lambda: learnability("azr"), ["learnability", "form"]), (lambda: as_reward("novelty"), ["novelty", "reference"]),
    (lambda: as_reward("correctness", roll="x"), ["roll", "role"]),
    (lambda: as_reward(correctness(), role="x"), ["correctness-1", "arguments"]),
    (lambda: as_reward(3), ["3", "function of an episode"]),
    (lambda: as_reward(lambda a, b: {}), ["a, b", "one argument"]), (lambda: per_role({"solver": 3}), ["3"]),
    (lambda: weighted({}), ["correctness"]), (lambda: weighted({"correctness": math.inf}), ["inf"]),
    (lambda: clip("correctness", math.nan, 0), ["lo <= hi"]), (lambda: novelty("c:BDA"), ["reference"]),
    (lambda: from_trl(len, columns={"solution": "gold"}), ["gold"]), (lambda: role_weights(1.5), ["0 to 1"]),
    (lambda: role_weights(0.5, "serll"), ["'serl'"]),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line(make, names):
    with pytest.raises(DreamEnvsError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text
    assert all(name in text for name in names), text


def counted(calls, name="counted", slow=False, value=0.5):
    """A batched reward, sync or async, that notes how many episodes each call had."""

    def score(episodes):
        calls.append(len(episodes))
        return [dict.fromkeys(roles(e), value) for e in episodes]

    async def later(episodes):
        await asyncio.sleep(0)
        return score(episodes)

    return reward(name, batched=True)(later if slow else score)()


def every_operation(*parts):
    """All of the algebra over these parts."""
    a, b = parts
    yield weighted({a: 1.0, b: 2.0}, gate=a)
    yield gate(a, by=b)
    yield clip(a, 0, 0.25)
    yield per_role({"solver": a, "challenger": b})
    yield zero_sum(a)
    yield shuffled(a)
    yield less_repetition(a)
    yield shared(a)
    yield in_range(a, 0.2, 0.8)
    yield best_and_worst(a, role="solver")
    yield gate(clip(weighted({a: 0.5})), by=per_role({"solver": b}))


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_round_is_one_call_and_asynchronous_parts_give_the_same():
    episodes = [play(solved(k, 4)) for k in range(5)]
    quick, slow = [], []
    plain = [counted(quick, name) for name in "ab"]
    later = [counted(slow, name, slow=True) for name in "ab"]
    for model, other in zip(every_operation(*plain), every_operation(*later), strict=True):
        quick.clear(), slow.clear()
        found = model.score(episodes)
        assert asyncio.run(other.score(episodes)) == found and quick == slow
        assert set(quick) == {5} and len(quick) <= 3, "one call a part"
        with pytest.raises(DreamEnvsError, match="asynchronous: await score"):
            other(episodes[0])


def test_functions_of_one_episode_may_be_asynchronous_too():
    async def slow(episode):
        if episode.index == 1:
            raise ValueError("lost")
        return {"solver_0": float(episode.index)}

    episodes = [msgspec.structs.replace(play(["x"]), index=i) for i in range(3)]
    with pytest.warns(RuntimeWarning, match="lost"):
        found = asyncio.run(as_reward(slow).score(episodes))
    assert [its["solver_0"].value for its in found] == [0, 0, 2] and found[1]["challenger_0"].status == "error"
    hidden = as_reward(lambda e: slow(e))
    assert asyncio.run(hidden.score(episodes[:1]))[0]["solver_0"].status == "ok"
    with pytest.raises(DreamEnvsError, match="asynchronous"), pytest.warns(RuntimeWarning, match="never awaited"):
        hidden(episodes[0])


@pytest.mark.parametrize("bad", [[], [{}], {}, "ab", 3, [{"solver_0": 1.0}, 3]])
def test_a_batch_of_the_wrong_shape_is_an_error_of_its_episodes(bad):
    found = reward("bad", batched=True)(lambda episodes: bad)().score([play(["x"])] * 2)
    assert len(found) == 2 and found[1]["solver_0"].status == "error" and "\n" not in found[1]["solver_0"].detail


def test_an_object_with_a_batched_score_is_a_reward():
    class Theirs:
        name, version = "theirs", 3

        def score(self, episodes):
            return [{"solver_0": 1.0} for _ in episodes]

    model = as_reward(Theirs())
    assert model.grader == "theirs-3" and [s["solver_0"].value for s in model.score([play(["x"])] * 2)] == [1.0, 1.0]


def returns(value):
    return as_reward(lambda episode: {"solver_0": value})(play(["x"]))["solver_0"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), "many", [1.0], 10**400])
def test_what_is_not_a_finite_number_is_an_error(bad):
    for score in (returns(bad), returns(Score(bad)), returns(Score(1.0, components={"part": bad}))):
        assert (score.status, score.value) == ("error", 0.0)
        assert json.loads(encode(score))["value"] == 0.0
    assert (returns(Score(bad, "timeout")).status, returns(Score(bad, "timeout")).value) == ("timeout", 0.0)
    assert returns(Score(1.0, "fine")).status == "error"


@pytest.mark.parametrize("good", [1, True, 0.5, np.float32(0.25), np.int64(3), Score(np.float64(2.0))])
def test_numbers_become_scores(good):
    score = returns(good)
    assert type(score.value) is float
    assert score.status == "ok"
    assert returns(None).status == "abstain"


def broken(episode):
    return {"solver_0": 1 / len(episode.turns[2:])}


def test_a_reward_that_raises_ends_no_run_and_hides_nothing():
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        scores = as_reward(broken)(play(["x"]))
    assert states(scores) == {"challenger_0": "error", "solver_0": "error"}
    assert states(as_reward(lambda e: 1.0)(play(["x"]))) == {"challenger_0": "error", "solver_0": "error"}


def test_models_can_be_pickled():
    for model in (challenger_solver(form="spice"), learnability(form="band", lo=0.3), as_reward(broken)):
        copy = pickle.loads(pickle.dumps(model))
        assert (copy, copy.grader) == (model, model.grader)
        assert copy(play(solved(2, 5))) == model(play(solved(2, 5)))


def test_graders_do_not_depend_on_the_process():
    code = (
        "from dream_envs.rewards.diversity import novelty; from dream_envs.rewards.base import as_reward;"
        "print(novelty(['a:BCDE', 'b:AAA']).grader, as_reward('weighted', parts={'correctness': 1, 'format': .5}))"
    )
    how = {"capture_output": True, "text": True, "check": True}
    seen = {subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": h}, **how).stdout for h in ("1", "2")}
    assert len(seen) == 1
    assert "novelty-1(reference=2#" in seen.pop()
