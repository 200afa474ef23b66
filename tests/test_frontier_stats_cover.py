"""Cover@tau: against worlds that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import cover as cv
from dream_envs.seeds import stream


def test_plug_in_by_hand() -> None:
    assert cv.plug_in(10, [0, 1, 3, 10], [0.1, 0.3, 0.31, 1.0]).tolist() == [0.75, 0.5, 0.25, 0.25]


def world(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.25, 0, rng.beta(0.45, 1.3, n))


def test_deconvolution_takes_most_of_the_bias_away() -> None:
    """16 draws on 2,000 problems: the plug-in is two points off at tau = 0.25 and 0.5."""
    rng, taus = stream("deconvolve"), [0.25, 0.5]
    truth = [0.75 * stats.beta.sf(t, 0.45, 1.3) for t in taus]
    fitted, plain = [], []
    for _ in range(25):
        found = cv.cover(16, rng.binomial(16, world(rng, 2000)), taus, rng, draws=2)
        fitted.append([row[0] for row in found["rows"]])
        plain.append(found["plug_in"])
    assert (np.mean(plain, 0) - truth > 0.012).all()
    assert np.abs(np.mean(fitted, 0) - truth).max() < 0.012


def test_cover_interval_holds_the_truth_mostly() -> None:
    rng, taus, hits = stream("interval"), [0.1, 0.25, 0.5, 0.9], np.zeros(4)
    truth = [0.75 * stats.beta.sf(t, 0.45, 1.3) for t in taus]
    for i in range(30):
        strata = np.arange(600) % 6 if i % 2 else None
        rows = cv.cover(16, rng.binomial(16, world(rng, 600)), taus, rng, strata, 60)["rows"]
        hits += [low <= t <= high for (_, low, high), t in zip(rows, truth, strict=True)]
    assert (hits >= 23).all()


def test_cover_of_certain_problems() -> None:
    """Always and never solved: half, at every tau that 64 draws can tell from 1."""
    found = cv.cover(64, np.repeat([0, 64], 100), [0.1, 0.5, 0.9], stream("certain"), draws=50)
    assert [row[0] for row in found["rows"]] == pytest.approx([0.5, 0.5, 0.5], abs=0.02)


def test_cover_sharpens_what_noise_has_spread() -> None:
    """Half the problems at 0.3, half at 0.8: none is at 0.9 or above, though 7 % look it in 16 draws."""
    rng = stream("spikes")
    found = cv.cover(16, rng.binomial(16, np.repeat([0.3, 0.8], 2000)), [0.5, 0.9], rng, draws=2)
    assert found["plug_in"][1] > 0.05
    assert [row[0] for row in found["rows"]] == pytest.approx([0.5, 0.0], abs=0.015)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30))
def test_cover_falls_with_tau(c: list[int]) -> None:
    rows = np.array(cv.cover(12, c, [0.05, 0.3, 0.6, 0.95], stream("fall"), draws=3)["rows"])
    assert (np.diff(rows[:, 0]) <= 1e-9).all() and (rows >= 0).all() and (rows <= 1 + 1e-9).all()


def test_many_draws_need_no_fitting() -> None:
    rng = stream("many")
    p = world(rng, 300)
    row = cv.cover(8192, rng.binomial(8192, p), [0.5], rng, draws=20)["rows"][0]
    assert row[0] == pytest.approx((p >= 0.5).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cv.cover(4, [5], [0.5], stream("x")), "c=5 of n=4"),
        (lambda: cv.cover(4, [3], [0.0], stream("x")), "tau=0"),
        (lambda: cv.plug_in(4, [3], [1.1]), "tau holds 1.1"),
        (lambda: cv.cover(4, [], [0.5], stream("x")), "empty"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as told:
        call()
    assert "\n" not in str(told.value)
