"""Measuring a policy: exact and sampled agree, what cannot be exact is refused, intervals of play hold."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl")

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.eval_set import PLAIN, Exact, Play, Sampled, inexact, interval, make, verdict
from dream_envs.baselines.nano import tokenizer as nano_tokenizer
from dream_envs.baselines.recipe import EvalSettings
from dream_envs.core import DreamEnvsError, RoleSpec
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.kuhn import Kuhn
from dream_envs.play import reward_model
from dream_envs.tasks.composition import Composition

FAMILY = Composition(max_level=6)


@pytest.fixture(scope="module")
def base() -> LocalAgent:
    return LocalAgent("nano/compose")


def test_exact_and_sampled_agree(base: LocalAgent) -> None:
    """The same problems; sampled rates lie around the exact probabilities as a binomial's do, and so do their means."""
    levels, attempts = (1, 3, 4), 24
    exact, sampled = Exact(FAMILY, base, levels, 24), Sampled(FAMILY, levels, 24, attempts)
    assert exact.tasks == sampled.tasks
    truth, rates = exact.measure(base), sampled.measure(base)
    z = []
    for key, by_decoder in truth.items():
        p = np.exp(by_decoder[PLAIN])
        spread = math.sqrt((p * (1 - p)).sum() / attempts) + 1e-9
        z.append(float((rates[key].right - p).sum() / spread))
        assert np.abs(rates[key].right - p).max() < 5 * np.sqrt(0.25 / attempts)
    assert max(map(abs, z)) < 4 and len(z) == 5  # three levels, two of them with held-out pairs
    both = exact.compare(truth, truth, 100), sampled.compare(rates, rates, 100)
    for a, b in zip(both[0].levels, both[1].levels, strict=True):
        assert (a.level, a.split) == (b.level, b.split) and b.trained[PLAIN] == b.base[PLAIN]
        (low, high), mean = b.base[PLAIN].ci, a.base[PLAIN].mean
        assert low - 0.05 <= mean <= high + 0.05 and a.base[PLAIN].ci[0] <= mean <= a.base[PLAIN].ci[1]
        assert sum(a.tiers.values()) == 24
    assert [e.kind for e in both] == ["exact", "sampled"] and both[0].beyond.count == 0  # type: ignore[union-attr]
    assert verdict(both[0], 100).startswith("Rehearsal") and verdict(both[1], 100).endswith("sampled, one run.")


def test_problems_of_large_levels_alone_are_reserved(base: LocalAgent) -> None:
    """Level 1 has 128 problems: too few to keep any back; what is reserved is what is asked."""
    exact = Exact(FAMILY, base, (1, 4), 8)
    reserved = exact.reserved()
    assert {t.level for t in reserved} == {4}
    assert [t.id for t in reserved] == [t.id for (_, level), its in exact.tasks.items() if level == 4 for t in its]
    assert any(split == "held_out" for split, _ in exact.splits)


def test_what_is_not_one_completion_of_single_symbols_is_refused(base: LocalAgent) -> None:
    assert inexact(FAMILY, base) == ""
    merges = nano_tokenizer.build()
    merges.add_tokens(["Bf"])  # one pair, which hardly any problem's answer holds
    unknown = SimpleNamespace(tokenizer=nano_tokenizer.build())
    lacking = type("Lacking", (), {"__getattr__": lambda self, name: getattr(FAMILY, name)})()
    lacking.completion_form = lambda level: [(["\N{SNOWMAN}"], True)]
    for family, agent, word in (
        (FAMILY, SimpleNamespace(tokenizer=merges), "'Bf' is one token"),
        (Composition(notation="english"), base, "more than one accepted completion"),
        (lacking, unknown, "\N{SNOWMAN}"),
    ):
        assert word in inexact(family, agent)  # type: ignore[arg-type]
        with pytest.raises(DreamEnvsError) as caught:
            Exact(family, agent, (1, 2))  # type: ignore[arg-type]
        assert "use eval='sampled'" in str(caught.value) and "\n" not in str(caught.value)


def test_the_kind_is_the_first_that_the_game_allows(base: LocalAgent) -> None:
    def kind(game: Any, family: Any, chosen: str = "auto") -> str:
        more: dict[str, Any] = {"levels": (1, 2), "support": (), "reward": None, "seats": {}, "roles": ("first",)}
        return make(EvalSettings(chosen, problems=2), game, base, family=family, **more).kind

    game, english = ChallengerSolver(FAMILY), Composition(notation="english")
    assert kind(game, FAMILY) == "exact" and kind(ChallengerSolver(english), english) == "sampled"
    assert kind(Kuhn(), None) == "play" == kind(game, FAMILY, "play") and kind(game, FAMILY, "sampled") == "sampled"
    for given in ((Kuhn(), None, "exact"), (game, FAMILY, "guess")):
        with pytest.raises(DreamEnvsError):
            kind(*given)


# --------------------------------------------------------------------------------------------------------------- play


def test_intervals_cover_what_they_are_of() -> None:
    """Of 400 means of 40 games each, 95 % by construction; all alike: no wider than the range, never a point."""
    rng = np.random.default_rng(0)
    found = [interval(rng.choice([-2.0, -1.0, 1.0, 2.0], size=40), "reward", i, span=(-2.0, 2.0)) for i in range(400)]
    covered = np.mean([m.low <= 0.0 <= m.high for m in found])  # type: ignore[operator]
    assert 0.90 < covered < 0.985 and all(m.n == 40 for m in found)
    for value, ends in ((-2.0, (-2.0, -1.0)), (2.0, (1.0, 2.0)), (0.0, (-1.0, 1.0))):
        alike = interval(np.full(12, value), span=(-2.0, 2.0))  # a quarter of the range, within it
        assert (alike.low, alike.high) == pytest.approx(ends, abs=0.04) and alike.value == value
    assert interval(np.zeros(20)).high == pytest.approx(3.84 / 23.84)
    assert interval(np.ones(5), span=(-math.inf, math.inf)).low is None


def test_play_is_against_the_frozen_base_in_each_role(base: LocalAgent) -> None:
    game = Kuhn()
    agent = LocalAgent("nano/kuhn")
    plays = Play(game, reward_model(game.default_reward), agent, {}, ("first", "second"), 48)
    assert plays.reserved() == [] and not plays.tasks
    measured = plays.measure(agent)
    assert {role: len(v) for role, v in measured["rewards"].items()} == {"first": 48, "second": 48}
    assert np.array_equal(measured["rewards"]["first"], plays.measure(agent)["rewards"]["first"])  # the same deals
    found = plays.compare(measured, measured, 0)
    named = {(c.role, c.name): c for c in found.measures}
    assert {("first", "reward"), ("first", "win rate"), ("second", "reward"), ("", "exploitability")} <= set(named)
    for comparison in found.measures:
        measure = comparison.base
        assert comparison.trained == measure and (measure.n in (0, 48))
        if measure.n:
            assert measure.low <= measure.value <= measure.high  # type: ignore[operator]
    wins, reward = named["first", "win rate"].base, named["first", "reward"].base
    assert wins.low >= 0 and wins.high <= 1 and reward.low >= -2 and reward.high <= 2  # type: ignore[operator]
    assert wins.value == np.mean(measured["rewards"]["first"] > 0)  # nobody is even in Kuhn poker
    assert plays.curve(agent) == {c.name: c.base.value for c in found.measures if c.base.n == 0}
    assert "first reward" in verdict(found, 0)
    game.roles = tuple(RoleSpec(r.name, 1, r.reply, (-math.inf, math.inf)) for r in game.roles)
    assert "win rate" not in {c.name for c in plays.compare(measured, measured, 0).measures}  # no middle
