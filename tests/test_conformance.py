"""The conformance kit passes what is sound and names what is not."""

import random

import broken_envs
import broken_gym_envs
import gymnasium
import numpy as np
import pytest
from pettingzoo.test.example_envs import generated_agents_parallel_v0

import dream_envs
from dream_envs import registry
from dream_envs.core import DreamEnvsError
from dream_envs.testing import CHECKS, check

GAMES = list(registry.rows("envs"))
ROLE_IDS = [
    name for name, spec in gymnasium.registry.items() if name.startswith("dream_envs/") and "role" in spec.kwargs
]


def passed(target, **arguments):
    """The names of the checks that passed, none failed; the others say why they were skipped."""
    report = check(target, **arguments)
    assert report.ok and all(c.reason for c in report.checks if c.status == "skipped"), str(report)
    return {c.name for c in report.checks if c.status == "passed"}


@pytest.mark.parametrize("env_id", GAMES)
def test_every_registered_game_passes_every_check(env_id):
    # Nothing may slip away as "skipped": a game of ours has all adapters, scripted agents and text.
    assert passed(env_id) == {rule.name for rule in CHECKS}


@pytest.mark.parametrize("env_id", ROLE_IDS)
def test_every_registered_role_view_passes_as_a_plain_environment(env_id):
    assert passed(env_id) >= {"gymnasium_api", "snapshot", "vector_text"}


@pytest.mark.parametrize("arguments", [{"solvers": 1}, {"notation": "english"}, {"notation": "english", "judge": True}])
def test_other_arrangements_of_the_game_pass(arguments):
    # With one solver the challenger's default reward is an error by declaration; the rest has to hold all the same.
    passed("ChallengerSolver-v0", skip=("process_determinism", "vector_text"), **arguments)


STRANGERS = [broken_envs.Sums, broken_envs.YesNo, broken_gym_envs.Echo, generated_agents_parallel_v0.parallel_env]


@pytest.mark.parametrize("sound", STRANGERS, ids=lambda sound: sound.__name__)
def test_sound_strangers_pass(sound):
    assert passed(sound, skip=("random_episodes",)) & {"private_information", "gymnasium_api", "parallel_api"}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Blackjack-v1"])
def test_environments_without_text_or_game_pass_what_applies(env_id):
    absent = {"oracle_top", "private_information", "vector_text", "snapshot", "aec_api"}
    assert not passed(env_id) & absent


@pytest.mark.parametrize("broken", broken_envs.FAULTS, ids=lambda cls: cls.__name__)
def test_the_fault_is_named_and_nothing_else(broken):
    expected = broken_envs.FAULTS[broken]
    skip = () if expected == "process_determinism" else ("process_determinism",)
    report = check(broken, skip=skip)
    assert [c.name for c in report.failed] == [expected], str(report)
    assert report.failed[0].reason and "\n" not in report.failed[0].reason
    with pytest.raises(AssertionError, match=expected):
        report.raise_if_failed()


def test_an_object_a_class_and_a_path_are_the_same_subject():
    for target in (broken_envs.OutOfRange(), broken_envs.OutOfRange, "broken_envs:OutOfRange"):
        report = check(target, skip=("process_determinism",))
        assert [c.name for c in report.failed] == ["reward_range"], str(report)


def test_a_reward_can_be_put_to_the_test():
    def doubles(episode):
        return {agent: dream_envs.Score(2.0) for agent in ("challenger_0", "solver_0")}

    report = check("ChallengerSolver-v0", reward=doubles, only=("plays", "reward_range"))
    assert [c.name for c in report.failed] == ["reward_range"]
    assert "2" in report["reward_range"].reason


def test_the_kit_leaves_the_global_generators_alone():
    drawn = []
    for tried in (True, False):
        random.seed(5)
        np.random.seed(5)
        if tried:
            check(broken_envs.GlobalNumpy, only=("global_rng",))
        drawn.append((random.random(), np.random.random()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("target", "only", "words"),
    [
        ("ChalengerSolver-v0", (), "ChallengerSolver-v0"),
        ("dream_envs/ChallengerSolver-Solvr-v0", (), "ChallengerSolver-Solver-v0"),
        (3.5, (), "lacks env_id"),
        ("ChallengerSolver-v0", ("pickleing",), "'pickling'"),
    ],
)
def test_what_cannot_be_tested_is_said_in_one_line(target, only, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        check(target, only=only)
    assert "\n" not in str(caught.value)
