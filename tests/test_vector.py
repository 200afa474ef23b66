"""The vector adapter: text comes whole, games end and begin as Gymnasium says, agents are asked once a step."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from dream_envs import registry
from dream_envs.core import DreamEnvsError
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.vector import VectorSingleRole
from dream_envs.play import as_agent

SOLVER = "dream_envs/ChallengerSolver-Solver-v0"
ODD = "≤ é 🙂 \u202e \x00"


def gold(prompt):
    family = registry.create("tasks", "composition")
    return family.gold(family.parse(prompt))


@pytest.mark.parametrize("mode", [None, "sync", "async"])
def test_text_goes_round_in_every_vector(mode):
    others = {"solver": lambda text: ODD, "challenger": lambda text: "c:BDA"}
    arguments = {"vectorization_mode": mode} if mode else {"autoreset_mode": "NextStep"}
    if mode == "async":
        arguments["vector_kwargs"] = {"shared_memory": False}
    vector = gymnasium.make_vec("dream_envs/ChallengerSolver-Judge-v0", num_envs=3, others=others, **arguments)
    observations, infos = vector.reset(seed=[1, 2, 3])
    assert len(observations) == 3 and all(f"[0] {ODD}\n[1] {ODD}" in text for text in observations)
    assert [m[0]["content"] for m in infos["messages"]] == list(observations)
    _, rewards, terminations, truncations, infos = vector.step(["0 0 0 0", ODD, "1 1 0 0"])
    assert rewards.tolist() == [1.0, 0.0, 0.5] and terminations.all() and not truncations.any()
    assert infos["score"]["status"].tolist() == ["ok", "abstain", "ok"]
    vector.close()


def test_shared_memory_is_refused_loudly():
    with pytest.raises(Exception, match="shared_memory=False"):
        AsyncVectorEnv([lambda: gymnasium.make(SOLVER)] * 2)


def test_native_vector_equals_single_views_seed_by_seed():
    vector = gymnasium.make_vec(SOLVER, num_envs=5)
    assert isinstance(vector, VectorSingleRole)
    singles = [gymnasium.make(SOLVER).unwrapped for _ in range(5)]
    seeds = [11, 12, 13, 11, 99]
    texts, _ = vector.reset(seed=seeds)
    mine = [env.reset(seed=s)[0] for env, s in zip(singles, seeds, strict=True)]
    for turn in range(6):
        assert list(texts) == mine and texts[0] == texts[3]
        actions = [gold(t) if (i + turn) % 2 else "?" for i, t in enumerate(texts)]
        texts, rewards, terminations, _, infos = vector.step(actions)
        results = [env.step(a) for env, a in zip(singles, actions, strict=True)]
        assert rewards.tolist() == [r[1] for r in results] == [float((i + turn) % 2) for i in range(5)]
        assert terminations.all() and infos["_final_obs"].all()
        assert infos["final_info"]["score"]["value"].tolist() == rewards.tolist()
        assert infos["final_obs"].tolist() == mine
        mine = [env.reset()[0] for env in singles]


def test_next_step_autoreset_ignores_the_action():
    vector = gymnasium.make_vec(SOLVER, num_envs=2, autoreset_mode="NextStep")
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    texts, _ = vector.reset(seed=4)
    same, rewards, terminations, _, _ = vector.step([gold(t) for t in texts])
    assert same == texts and rewards.tolist() == [1, 1] and terminations.all()
    fresh, rewards, terminations, _, infos = vector.step(["a", "b"])
    assert rewards.tolist() == [0, 0] and not terminations.any() and "score" not in infos
    assert not set(fresh) & set(texts)
    assert vector.step([gold(t) for t in fresh])[1].tolist() == [1, 1]


def test_disabled_autoreset_takes_a_mask():
    vector = VectorSingleRole(3, role="solver", autoreset_mode="Disabled")
    texts, _ = vector.reset(seed=4)
    vector.step(["x"] * 3)
    with pytest.raises(DreamEnvsError, match="reset_mask"):
        vector.step(["x"] * 3)
    with pytest.raises(DreamEnvsError, match=r"bool\[3\]"):
        vector.reset(options={"reset_mask": [True, False, False]})
    fresh, infos = vector.reset(options={"reset_mask": np.array([True, False, True])})
    assert fresh[1] == texts[1] and fresh[0] != texts[0] and infos["_messages"].tolist() == [True, False, True]


def test_vector_seeds_are_hashed_not_counted():
    vector = VectorSingleRole(8, role="solver", levels=[12])
    first, second = vector.reset(seed=0)[0], vector.reset(seed=1)[0]
    assert len({*first, *second}) == 16
    assert vector.reset(seed=0)[0] == first


def test_each_agent_is_asked_once_a_step():
    sizes = {"challenger": [], "solver": []}

    class Counts:
        def __init__(self, role, game):
            self.role, self.inner = role, as_agent("generator", game)
            self.privileged = True

        def act(self, requests):
            sizes[self.role].append(len(requests))
            return self.inner.act(requests)

    game = ChallengerSolver(solvers=3)
    others = {role: Counts(role, game) for role in sizes}
    vector = VectorSingleRole(16, game=game, role="solver", others=others)
    vector.reset(seed=0)
    vector.step(["x"] * 16)
    assert sizes == {"challenger": [16, 16], "solver": [32]}


def test_vector_snapshot():
    vector = VectorSingleRole(4, role="solver")
    texts, _ = vector.reset(seed=3)
    root = vector.snapshot()

    def run():
        return [vector.step(["?"] * 4)[0], vector.step(["?"] * 4)[0], vector.step([gold(texts[0])] * 4)[1].tolist()]

    first = run()
    vector.restore(root)
    assert run() == first
    with pytest.raises(DreamEnvsError, match="3 games"):
        VectorSingleRole(3, role="solver").restore(root)


@pytest.mark.parametrize("wrong", [["a"], ["a", "b", "c"], "ab", [1, 2]])
def test_vector_actions_are_one_string_a_game(wrong):
    vector = gymnasium.make_vec(SOLVER, 2)
    vector.reset(seed=0)
    with pytest.raises(DreamEnvsError):
        vector.step(wrong)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_a_full_reset_clears_what_was_over(mode):
    vector = VectorSingleRole(2, role="solver", autoreset_mode=mode)
    vector.reset(seed=4)
    vector.step(["?", "?"])
    texts, _ = vector.reset(seed=5)
    assert vector.step([gold(t) for t in texts])[1].tolist() == [1, 1]  # a real step, not an autoreset
