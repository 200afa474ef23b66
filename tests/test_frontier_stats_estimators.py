"""pass@k, support and Cover@tau: against enumeration of every draw, exact binomial sums, known worlds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import estimators as es
from dream_envs.seeds import stream


def share_of_subsets(n: int, c: int, k: int) -> float:
    """Among all ways to pick k of n draws of which the first c are right, the share with one right or more."""
    picks = list(itertools.combinations(range(n), k))
    return sum(any(i < c for i in pick) for pick in picks) / len(picks)


@pytest.mark.parametrize("n", range(1, 8))
def test_every_subset_is_counted(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            assert es.pass_at_k(n, c, k) == pytest.approx(share_of_subsets(n, c, k), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.data())
def test_unbiased_for_every_rate(n: int, p: float, data: st.DataObject) -> None:
    """The expectation over c, summed exactly, is the probability that is estimated."""
    k = data.draw(st.integers(1, n))
    c = np.arange(n + 1)
    assert stats.binom.pmf(c, n, p) @ es.pass_at_k(n, c, k) == pytest.approx(1 - (1 - p) ** k, abs=1e-9)


@given(st.integers(1, 3000), st.data())
def test_pass_at_k_rises_with_c_and_with_k(n: int, data: st.DataObject) -> None:
    k, c = data.draw(st.integers(1, n)), data.draw(st.integers(0, n))
    by_c, by_k = es.pass_at_k(n, np.arange(n + 1), k), es.pass_at_k(n, c, np.arange(1, n + 1))
    for curve in (by_c, by_k):
        assert (np.diff(curve) >= -1e-9).all() and (curve >= 0).all() and (curve <= 1).all()
    assert by_c[0] == 0 and by_c[n] == pytest.approx(1) and by_k[0] == pytest.approx(c / n, abs=1e-9)


def test_large_n_keeps_its_digits() -> None:
    exact = 1 - math.comb(8192 - 3, 1024) / math.comb(8192, 1024)  # big whole numbers, divided once
    assert es.pass_at_k(8192, 3, 1024) == pytest.approx(exact, rel=1e-9)
    assert es.pass_at_k(8192, 0, 8192) == 0 and es.pass_at_k(8192, 1, 8192) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: es.pass_at_k(4, 2, 5), "^k=5 from n=4 draws"),
        (lambda: es.pass_at_k(4, 5, 1), "c=5 of n=4"),
        (lambda: es.pass_at_k(4, -1, 1), "c holds -1"),
        (lambda: es.pass_at_k(4, math.nan, 1), "c holds nan"),
        (lambda: es.pass_at_k(4, 1.5, 1), "whole numbers"),
        (lambda: es.pass_at_k(4, [], 1), "empty"),
        (lambda: es.pass_at_k(4, [1, 2], [1, 2, 3]), "do not go together"),
        (lambda: es.pass_at_k(4, 2, 0), "k holds 0"),
        (lambda: es.pass_at_k(4, "many", 1), "numbers, not str"),
        (lambda: es.support([0.5], [0.5, 0.5], stream("x")), "1 problems and trained 2"),
        (lambda: es.support([math.inf], [0.5], stream("x")), "base holds inf"),
        (lambda: es.cover(4, [3], [0.0], stream("x")), "tau=0"),
        (lambda: es.cover(4, [3], [1.1], stream("x")), "tau holds 1.1"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as told:
        call()
    assert "\n" not in str(told.value)


def test_support_is_unbiased_and_adds_up() -> None:
    rng, k, n = stream("support"), 4, 8
    p, q = rng.beta(0.4, 1, size=300), rng.beta(0.6, 1, size=300)  # base, trained
    a, b = 1 - (1 - p) ** k, 1 - (1 - q) ** k
    truth = np.stack([a * b, (1 - a) * b, a * (1 - b), (1 - a) * (1 - b)]).mean(1)
    found = []
    for _ in range(400):
        base, trained = es.pass_at_k(n, rng.binomial(n, p), k), es.pass_at_k(n, rng.binomial(n, q), k)
        found.append([es.support(base, trained, rng, draws=1)[name][0] for name in "peso"])  # type: ignore[index]
    assert np.allclose(np.mean(found, 0), truth, atol=4 * np.std(found, 0).max() / 20)
    one = es.support(base, trained, rng, np.arange(300) % 5, draws=500)
    assert sum(one[name][0] for name in "peso") == pytest.approx(1)  # type: ignore[index]
    assert all(row is not None and row[1] <= row[0] <= row[2] for row in one.values())  # type: ignore[operator]


def test_leash_numbers_by_hand() -> None:
    """The published counts P = 2388, E = 48, S = 175: SRR 0.932, NDR 0.0197, NSCR -0.049; and nothing at all."""
    base, trained = np.repeat([1, 0, 1, 0], [2388, 48, 175, 100]), np.repeat([1, 1, 0, 0], [2388, 48, 175, 100])
    values = {name: row[0] for name, row in es.support(base, trained, stream("leash"), draws=200).items() if row}
    assert values["srr"] == pytest.approx(2388 / 2563) and values["ndr"] == pytest.approx(48 / 2436)
    assert values["sds"] == pytest.approx(2 / (2563 / 2388 + 2436 / 48))
    assert values["nscr"] == pytest.approx(-127 / 2611)
    nothing = es.support([0, 0], [0, 0], stream("nothing"), draws=50)
    assert nothing["o"] == (1, 1, 1) and nothing["srr"] is None


# ----------------------------------------------------------------------------------------------------------- Cover@tau


def world(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.25, 0, rng.beta(0.45, 1.3, n))


def values(n: int, c: np.ndarray, taus: list[float], label: str, draws: int = 2) -> np.ndarray:
    return np.array([row[0] for row in es.cover(n, c, taus, stream(label), draws=draws)])


def test_deconvolution_takes_most_of_the_bias_away() -> None:
    """16 draws on 2,000 problems: the plug-in is two points off at tau = 0.25 and 0.5."""
    rng, taus = stream("deconvolve"), [0.25, 0.5]
    truth = [0.75 * stats.beta.sf(t, 0.45, 1.3) for t in taus]
    fitted, plain = [], []
    for _ in range(25):
        c = rng.binomial(16, world(rng, 2000))
        fitted.append(values(16, c, taus, "fit"))
        plain.append([(c / 16 >= t).mean() for t in taus])
    assert (np.mean(plain, 0) - truth > 0.012).all()
    assert np.abs(np.mean(fitted, 0) - truth).max() < 0.012


def test_cover_interval_holds_the_truth_mostly() -> None:
    rng, taus, hits = stream("interval"), [0.1, 0.25, 0.5, 0.9], np.zeros(4)
    truth = [0.75 * stats.beta.sf(t, 0.45, 1.3) for t in taus]
    for i in range(30):
        strata = np.arange(600) % 6 if i % 2 else None
        rows = es.cover(16, rng.binomial(16, world(rng, 600)), taus, rng, strata, 60)
        hits += [low <= t <= high for (_, low, high), t in zip(rows, truth, strict=True)]  # type: ignore[operator]
    assert (hits >= 23).all()


def test_cover_of_known_problems() -> None:
    """Always and never solved; two spikes that noise has spread (7 % look like 0.9); so many draws that nothing has."""
    assert values(64, np.repeat([0, 64], 100), [0.1, 0.5, 0.9], "certain") == pytest.approx([0.5] * 3, abs=0.02)
    c = stream("spikes").binomial(16, np.repeat([0.3, 0.8], 2000))
    assert (c / 16 >= 0.9).mean() > 0.05 and values(16, c, [0.5, 0.9], "s") == pytest.approx([0.5, 0.0], abs=0.015)
    p = world(stream("many"), 300)
    assert values(8192, stream("m").binomial(8192, p), [0.5], "s")[0] == pytest.approx((p >= 0.5).mean(), abs=0.01)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30))
def test_cover_falls_with_tau(c: list[int]) -> None:
    rows = np.array(es.cover(12, c, [0.05, 0.3, 0.6, 0.95], stream("fall"), draws=3), dtype=float)
    assert (np.diff(rows[:, 0]) <= 1e-9).all() and (rows >= 0).all() and (rows <= 1 + 1e-9).all()
