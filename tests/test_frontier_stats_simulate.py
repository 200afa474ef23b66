"""The simulation against exact probabilities, and the coverage that it reports."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import gain
from dream_envs.frontier import simulate as si
from dream_envs.seeds import stream


def test_first_success_has_the_exact_law() -> None:
    """Three methods in turn, one of them useless: P(J = j) is a product over the draws before it."""
    p = np.array([0.05, 0.0, 0.2])
    first = si.first_success(np.tile(p, (200_000, 1)), 10, stream("first"))
    missed = 1.0
    for j in range(1, 11):
        rate = p[(j - 1) % 3]
        assert (first == j).mean() == pytest.approx(missed * rate, abs=0.004)
        missed *= 1 - rate
    assert (first == 0).mean() == pytest.approx(missed, abs=0.004)


def test_first_success_at_the_ends() -> None:
    rng = stream("ends")
    assert si.first_success(np.zeros((50, 8)), 8192, rng).tolist() == [0] * 50
    assert si.first_success(np.array([[0.0, 1.0, 1.0]] * 50), 5, rng).tolist() == [2] * 50
    assert si.first_success(np.array([[0.0, 1.0]] * 50), 1, rng).tolist() == [0] * 50  # the cap comes first
    tiny = si.first_success(np.full((20_000, 8), 1e-5), 8192, rng)
    assert (tiny == 0).mean() == pytest.approx(math.exp(-0.08192), abs=0.01)


def test_reliability_table() -> None:
    """P(at least 4 of 16 are right), as the protocol has it."""
    found = si._tail(np.array([0.01, 0.05, 0.1, 0.25, 0.4]))
    assert found == pytest.approx([1.7e-5, 0.007, 0.068, 0.595, 0.935], rel=0.05)


@pytest.mark.parametrize("name", ["flagship-like", "sharpened, L = 4", "mixed"])
def test_reports_are_of_the_population(name: str) -> None:
    """The mean over 60 reports is the exact truth, which follows from the rates alone."""
    change = next(c for c in si.COVERAGE if c.name == name)
    world = si.world(change, stream("population", name))
    truth, e = world.truth(256)
    found = np.array([gain.gain(si.draw(world, 20, 256, stream("p", name, i))) for i in range(60)])[:, :, 0]
    for value, at in ((truth, 0), (e, 1)):
        assert abs(found[:, at].mean() - value) < 4 * found[:, at].std() / 60**0.5 + 0.01


@pytest.mark.parametrize("follow", [0, 60])
@pytest.mark.parametrize("change", si.COVERAGE, ids=lambda c: c.name)
def test_the_interval_covers_every_population(change: si.Change, follow: int) -> None:
    """250 mini reports: no cell is shown to be below 95 % (three errors); docs have 2,000 of each size."""
    row = si.simulate(change, stream("coverage", change.name), 20, 1024, 250, follow)
    assert row["covered"] >= 0.95 - 3 * (0.05 * 0.95 / 250) ** 0.5 and row["bounds"] >= 0.92
    if row["truth"] < 0.5:
        assert row["beyond"] <= 0.05


@pytest.mark.parametrize(("gained", "least"), [(2, 0.4), (5, 0.97), (10, 0.99)])
def test_power(gained: float, least: float) -> None:
    row = si.simulate(si.Change("", gained=gained), stream("power", gained), 20, 1024, 150)
    assert row["beyond"] >= least and row["mean"] == pytest.approx(gained, abs=1)


def test_the_same_stream_gives_the_same_row() -> None:
    one, two = (si.simulate(si.COVERAGE[3], stream("again"), 5, 256, 3) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: si.simulate(si.COVERAGE[0], stream("x"), 5, 4, 1), "k=4"),
        (lambda: si.simulate(si.Change("", gained=40), stream("x"), 5, 64, 1), "gained=40 points: this world has"),
        (lambda: si.simulate(si.Change("", lost=90), stream("x"), 5, 64, 1), "lost=90 points: this world has"),
        (lambda: si.simulate(si.Change("", lost=-1), stream("x"), 5, 64, 1), "lost holds -1"),
        (lambda: si.simulate(si.COVERAGE[0], stream("x"), 0, 64, 1), "per_stratum=0"),
        (lambda: si.simulate(si.COVERAGE[0], stream("x"), 5, 64, 0), "repetitions=0"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as told:
        call()
    assert "\n" not in str(told.value)
