"""The kit for families, rewards and agents: ours pass, and each fault is found by the check that is meant for it."""

from __future__ import annotations

import itertools

import pytest

from dream_envs import registry
from dream_envs.core import Action, Episode, Reject, Score
from dream_envs.rewards.base import as_reward, reward
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.testing.parts import check_agent, check_family, check_reward

NEED_PARTS = {"shuffled", "novelty", "weighted", "gate", "clip", "per_role", "zero_sum", "trl"}  # need arguments
NEED_PARTS |= {"less_repetition", "shared", "in_range", "best_and_worst", "pseudo_label"}


@pytest.mark.parametrize("name", list(registry.rows("tasks")))
def test_our_families_pass(name):
    check_family(registry.create("tasks", name)).raise_if_failed()


@pytest.mark.parametrize("name", [n for n in registry.rows("rewards") if n not in NEED_PARTS])
def test_our_rewards_pass(name):
    check_reward(as_reward(name)).raise_if_failed()


@pytest.mark.parametrize("name", [n for n in registry.rows("agents") if n != "local"])
def test_our_agents_pass(name):
    check_agent(lambda game: registry.create("agents", name, game=game)).raise_if_failed()


class Lenient(Composition):
    def verify(self, task, reply):
        return Score(float(task.answer in reply))


class Generous(Composition):
    def verify(self, task, reply):
        return Score(1.0)


class WrongGold(Composition):
    def gold(self, task):
        return task.answer[::-1]


class WrongChance(Composition):
    def chance(self, task):
        return 0.2


class Forgetful(Composition):
    """Draws from a counter instead of from the generator."""

    count = itertools.count()

    def generate(self, rng, level, pairs="any"):
        return super().generate(stream("forgetful", next(self.count)), level)


class OneProblem(Composition):
    def generate(self, rng, level, pairs="any"):
        return super().generate(stream("one"), level)


class Sloppy(Composition):
    def parse(self, proposal):
        return super().parse(proposal.strip() or "a:A")


class NotCanonical(Composition):
    def as_proposal(self, task):
        return super().as_proposal(task) + ("" if task.origin == "proposal" else " ")


class OwnCode(Composition):
    def parse(self, proposal):
        found = super().parse(proposal)
        return Reject("bad") if isinstance(found, Reject) else found


class Breaks(Composition):
    def parse(self, proposal):
        return self.make(proposal[0], proposal[2:], "proposal") if proposal else Reject("empty")


class SameMutant(Composition):
    def mutate(self, task, rng):
        return task


class NoLevels(Composition):
    def __init__(self):
        super().__init__()
        self.max_chars = 0


@pytest.mark.parametrize(
    ("family", "check"),
    [
        (Lenient, "strict"),
        (Generous, "strict"),
        (WrongGold, "gold"),
        (WrongChance, "chance"),
        (Forgetful, "seeds"),
        (OneProblem, "seeds"),
        (Sloppy, "hostile_proposals"),
        (NotCanonical, "proposals"),
        (OwnCode, "hostile_proposals"),
        (Breaks, "hostile_proposals"),
        (SameMutant, "mutation"),
        (NoLevels, "declares"),
    ],
)
def test_a_faulty_family_is_found(family, check):
    found = check_family(family())
    assert found[check].status == "failed", str(found)


@reward("nan")
def raises(episode: Episode) -> dict[str, Score]:
    return {"solver_0": Score(float("nan"))}


@reward("stranger")
def stranger(episode: Episode) -> dict[str, Score]:
    return {"solver_9": Score(1.0)}


@reward("constant")
def constant(episode: Episode) -> dict[str, Score]:
    return {"solver_0": Score(1.0)}


@reward("remembers")
def remembers(episode: Episode, seen: list[str] | None = None) -> dict[str, Score]:
    assert seen is not None
    seen.append(episode.seed)
    return {"solver_0": Score(float(seen.count(episode.seed)))}


@reward("meddles")
def meddles(episode: Episode) -> dict[str, Score]:
    episode.outcome.facts["correct"] = {}
    return {"solver_0": Score(float(len(episode.turns)))}


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (raises(), "scores"),
        (stranger(), "scores"),
        (constant(), "speaks"),
        (remembers(seen=[]), "pure"),
        (meddles(), "scores"),
    ],
    ids=str,
)
def test_a_faulty_reward_is_found(model, check):
    found = check_reward(model)
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


class Counts:
    """Draws from a counter that all instances share."""

    count = itertools.count()

    def act(self, requests):
        return [Action(str(next(self.count))) for _ in requests]


@pytest.mark.filterwarnings("ignore:an agent failed")
@pytest.mark.parametrize(
    ("make", "check"),
    [
        (lambda game: Short(), "plays"),
        (lambda game: Counts(), "deterministic"),
        (lambda game: Says(lambda i, n, r: str(i)), "batch"),
        (lambda game: Says(lambda i, n, r: str(n)), "batch"),
        (lambda game: Says(lambda i, n, r: r.messages[-1]["content"].split()[0]), "hostile_prompts"),
    ],
    ids=["short", "counts", "place", "size", "breaks"],
)
def test_a_faulty_agent_is_found(make, check):
    found = check_agent(make)
    assert found[check].status == "failed", str(found)


def test_a_reward_for_another_game_is_skipped_not_passed():
    silent = as_reward(lambda episode: {})
    assert check_reward(silent)["speaks"].status == "skipped"
