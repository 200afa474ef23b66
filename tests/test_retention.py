"""Frozen probes and what is kept: hand-worked matrices, hashes, agents through the protocol."""

from typing import Any

import msgspec
import numpy as np
import pytest

from dream_envs.core import Action, DreamEnvsError
from dream_envs.metrics.replies import ProbeSet
from dream_envs.metrics.retention import retention
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

COMPOSITION = Composition()
PROBES = ProbeSet(tuple(COMPOSITION.generate(stream("probe", i), 2 + i % 2) for i in range(24)), COMPOSITION, "test")
OTHERS: list[dict[str, Any]] = [{"seed": "other"}, {"tasks": PROBES.tasks[::-1]}]


class Half:
    """Solves a composition problem whenever the request's seed is even."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def act(self, requests):
        self.seeds += [r.seed for r in requests]
        replies = []
        for r in requests:
            start, _, ops = r.messages[0]["content"].partition(":")
            replies.append(Action(COMPOSITION.make(start, ops).answer if r.seed % 2 == 0 else "?"))
        return replies


def test_agents_are_asked_with_the_same_seeds_every_time() -> None:
    agent = Half()
    said = PROBES.draw(agent, 8)
    first, agent.seeds = agent.seeds, []
    assert PROBES.draw(agent, 8) == said and agent.seeds == first and len(set(first)) == 24 * 8
    even = np.array([seed % 2 == 0 for seed in first]).reshape(24, 8)
    assert said.right == even.tolist() and 0.3 < np.mean(even) < 0.7
    assert {f for row in said.formats for f in row} == {"trace", "other"}
    assert not np.any(PROBES.draw(lambda text: "0", 1).right)  # a function is an agent too
    assert PROBES.hash == "393ec85b772c3c74"
    assert len({PROBES.hash, *(msgspec.structs.replace(PROBES, **o).hash for o in OTHERS)}) == 3


def test_an_engine_that_fails_is_no_model_that_fails() -> None:
    class Broken:
        def act(self, requests):
            return [Action("", status="timeout" if i == 3 else "ok") for i, _ in enumerate(requests)]

    with pytest.raises(DreamEnvsError, match="1 of 24 probes have no reply"):
        PROBES.draw(Broken(), 1)


def ramp(n: int, share: float) -> np.ndarray:
    """n scores of 0 and 1 with this mean."""
    return (np.arange(n) < round(n * share)).astype(float)


def test_worked_by_hand() -> None:
    before = {"a": ramp(100, 0.9), "b": ramp(100, 0.3), "c": ramp(50, 0.2)}
    after = {"a": ramp(100, 0.6), "b": ramp(100, 0.7), "c": ramp(50, 0.2)}
    found = retention(before, after, stream("retention"))
    a, b, c = found.suites
    assert (a.before, a.after, a.gain[0], a.flag, a.lost) == (0.9, 0.6, pytest.approx(-0.3), True, True)
    assert a.gain[1] < -0.35 and -0.25 < a.gain[2] < -0.15  # binomial: 0.3 +- 1.96 sqrt(0.21 / 100) = 0.09
    assert (b.before, b.gain[0], b.flag, b.lost) == (0.3, pytest.approx(0.4), False, False)
    assert c.gain == (0.0, pytest.approx(-0.0711, abs=1e-4), pytest.approx(0.0711, abs=1e-4))  # 1 - 0.025^(1/50)
    assert not c.flag and not c.lost
    assert found.mean[0] == pytest.approx((-0.3 + 0.4 + 0.0) / 3, abs=1e-6) and not found.flag
    same = retention({"x": ramp(50, 1.0)}, {"x": ramp(50, 1.0)}, stream("same"))
    assert same.mean == same.suites[0].gain and same.mean[0] == 0 and not same.flag


def test_a_loss_that_noise_can_explain_is_flagged_but_not_shown() -> None:
    before, after = ramp(200, 0.5), ramp(200, 0.5)
    after[:6], after[-4:] = 0, 1  # six lost, four won: -1 point, give or take three
    (suite,) = retention({"x": before}, {"x": after}, stream("noise")).suites
    assert suite.gain[0] == pytest.approx(-0.01) and suite.gain[1] < -0.02 < 0.01 < suite.gain[2]
    assert suite.flag and not suite.lost
    assert retention({"x": after}, {"x": before}, stream("noise")).suites[0].flag is False


def test_pairing_is_what_makes_it_sharp() -> None:
    """Scores that differ a lot between problems and little between models: the interval knows only the second."""
    rng = stream("pairs")
    before = rng.random(300)
    after = np.clip(before - 0.02 + 0.01 * rng.standard_normal(300), 0, 1)
    _, low, high = retention({"x": before}, {"x": after}, rng).suites[0].gain
    assert high - low < 0.005  # unpaired: 2 * 1.96 * 0.29 * sqrt(2 / 300) = 0.09


def test_intervals_cover_the_truth() -> None:
    """100 runs in which a tenth of 80 problems is lost: 95 % intervals miss -0.1 a handful of times."""
    missed = 0
    for i in range(100):
        rng = stream("cover", i)
        after = (rng.random(80) < 0.9).astype(float)
        _, low, high = retention({"x": np.ones(80)}, {"x": after}, rng, draws=500).suites[0].gain
        missed += not low <= -0.1 <= high
    assert missed <= 15  # binomial(80, 0.1) has an interval that covers 90 to 95 %
