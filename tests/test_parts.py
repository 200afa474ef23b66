"""The kit for families, rewards and agents: ours pass, and each fault is found by the check that is meant for it."""

from __future__ import annotations

import itertools

import pytest
from _families import NAMES

from dream_envs import registry
from dream_envs.core import Action, Reject, Score
from dream_envs.rewards.base import as_reward
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.testing.parts import check_agent, check_family, check_reward

NEED_PARTS = {"shuffled", "novelty", "weighted", "gate", "clip", "per_role", "zero_sum", "trl"}  # need arguments
NEED_PARTS |= {"less_repetition", "shared", "in_range", "best_and_worst", "pseudo_label", "reward_model", "judge"}


@pytest.mark.parametrize("name", NAMES)
def test_our_families_pass(name):
    check_family(registry.create("tasks", name)).raise_if_failed()


@pytest.mark.parametrize("name", [n for n in registry.rows("rewards") if n not in NEED_PARTS])
def test_our_rewards_pass(name):
    check_reward(as_reward(name)).raise_if_failed()


@pytest.mark.parametrize(
    "name", [n for n in registry.rows("agents") if n not in ("local", "openai", "vllm", "replicas")]
)
def test_our_agents_pass(name):
    check_agent(lambda game: registry.create("agents", name, game=game)).raise_if_failed()


OURS, COUNT = Composition(), itertools.count()


def own_code(text):
    found = OURS.parse(text)
    return Reject("bad") if isinstance(found, Reject) else found


@pytest.mark.parametrize(
    ("check", "member", "fault"),
    [
        ("strict", "verify", lambda task, reply: Score(float(task.answer in reply))),
        ("strict", "verify", lambda task, reply: Score(1.0)),
        ("gold", "gold", lambda task: task.answer[::-1]),
        ("chance", "chance", lambda task: 0.2),
        ("seeds", "generate", lambda rng, level: OURS.generate(stream("forgetful", next(COUNT)), level)),
        ("seeds", "generate", lambda rng, level: OURS.generate(stream("one"), level)),
        ("hostile_proposals", "parse", lambda text: OURS.parse(text.strip() or "a:A")),
        ("proposals", "as_proposal", lambda task: OURS.as_proposal(task) + " " * (task.origin != "proposal")),
        ("hostile_proposals", "parse", own_code),
        ("hostile_proposals", "parse", lambda text: OURS.make(text[0], text[2:]) if text else Reject("empty")),
        ("mutation", "mutate", lambda task, rng: task),
        ("declares", "max_chars", 0),
    ],
)
def test_a_faulty_family_is_found(check, member, fault):
    family = Composition()
    setattr(family, member, fault)
    found = check_family(family)
    assert found[check].status == "failed", str(found)


SEEN: list[str] = []


def remembers(episode):
    SEEN.append(episode.seed)
    return {"solver_0": float(SEEN.count(episode.seed))}


def meddles(episode):
    episode.outcome.facts["correct"] = {}
    return {"solver_0": float(len(episode.turns))}


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        ("scores", lambda episode: {"solver_0": float("nan")}),
        ("scores", lambda episode: {"solver_9": 1.0}),
        ("speaks", lambda episode: {"solver_0": 1.0}),
        ("pure", remembers),
        ("scores", meddles),
    ],
)
def test_a_faulty_reward_is_found(check, fault):
    found = check_reward(as_reward(fault))
    assert found[check].status == "failed", str(found)


class Says:
    """An agent from a function of (place in the batch, size of the batch, request)."""

    def __init__(self, reply):
        self.reply = reply

    def act(self, requests):
        return [Action(self.reply(i, len(requests), r)) for i, r in enumerate(requests)]


class Short:
    def act(self, requests):
        return [Action("x")] * (len(requests) - 1)


@pytest.mark.filterwarnings("ignore:an agent failed")
@pytest.mark.parametrize(
    ("make", "check"),
    [
        (lambda game: Short(), "plays"),
        (lambda game: Says(lambda i, n, r: str(next(COUNT))), "deterministic"),
        (lambda game: Says(lambda i, n, r: str(i)), "batch"),
        (lambda game: Says(lambda i, n, r: str(n)), "batch"),
        (lambda game: Says(lambda i, n, r: r.messages[-1]["content"].split()[0]), "hostile_prompts"),
    ],
)
def test_a_faulty_agent_is_found(make, check):
    found = check_agent(make)
    assert found[check].status == "failed", str(found)


def test_a_reward_for_another_game_is_skipped_not_passed():
    silent = as_reward(lambda episode: {})
    assert check_reward(silent)["speaks"].status == "skipped"
