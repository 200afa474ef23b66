"""pass@k and its relatives: against enumeration of every draw, exact binomial sums, and numbers worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import estimators as es
from dream_envs.seeds import stream


def share_of_subsets(n: int, c: int, k: int, need: int) -> float:
    """Among all ways to pick k of n draws of which the first c are right, the share with at least ``need`` right."""
    picks = list(itertools.combinations(range(n), k))
    return sum(sum(i < c for i in pick) >= need for pick in picks) / len(picks)


def binomial(n: int, p: float) -> np.ndarray:
    return np.array([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])


@pytest.mark.parametrize("n", range(1, 9))
def test_every_subset_is_counted(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            assert es.pass_at_k(n, c, k) == pytest.approx(share_of_subsets(n, c, k, 1), abs=1e-12)
            for need in range(1, k + 2):
                assert es.g_pass(n, c, k, need) == pytest.approx(share_of_subsets(n, c, k, need), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.data())
def test_unbiased_for_every_rate(n: int, p: float, data: st.DataObject) -> None:
    """The expectation over c, summed exactly, is the probability that is estimated."""
    k = data.draw(st.integers(1, n))
    need = data.draw(st.integers(1, k))
    weight, c = binomial(n, p), np.arange(n + 1)
    assert weight @ es.pass_at_k(n, c, k) == pytest.approx(1 - (1 - p) ** k, abs=1e-9)
    assert weight @ es.g_pass(n, c, k, need) == pytest.approx(binomial(k, p)[need:].sum(), abs=1e-9)


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


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50))
def test_k_above_n_is_never_a_number(n: int, more: int, c: int) -> None:
    for call in (lambda: es.pass_at_k(n, min(c, n), n + more), lambda: es.g_pass(n, min(c, n), n + more, 1)):
        with pytest.raises(DreamEnvsError, match=rf"^k={n + more} from n={n} draws"):
            call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: es.pass_at_k(4, 5, 1), "c=5 of n=4"),
        (lambda: es.pass_at_k(4, -1, 1), "c holds -1"),
        (lambda: es.pass_at_k(4, math.nan, 1), "c holds nan"),
        (lambda: es.pass_at_k(4, 1.5, 1), "whole numbers"),
        (lambda: es.pass_at_k(4, [], 1), "empty"),
        (lambda: es.pass_at_k(4, [1, 2], [1, 2, 3]), "do not go together"),
        (lambda: es.pass_at_k(4, 2, 0), "k holds 0"),
        (lambda: es.pass_at_k(4, "many", 1), "numbers, not str"),
        (lambda: es.missed([1, 9], 8, 4), "first holds 9"),
        (lambda: es.missed([1, 2], 8, 9), "k=9: at most cap=8"),
        (lambda: es.support([0.5], [0.5, 0.5], stream("x")), "1 problems and trained 2"),
        (lambda: es.support([math.inf], [0.5], stream("x")), "base holds inf"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as told:
        call()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("p", "expected"), [(0.05, 0.007), (0.1, 0.068), (0.25, 0.595), (0.4, 0.935)])
def test_reliability_table(p: float, expected: float) -> None:
    """P(4 of 16), as printed in the protocol; with 16 draws the estimate is the indicator, with 64 a mixture."""
    for n in (16, 64):
        assert binomial(n, p) @ es.reliable(n, np.arange(n + 1)) == pytest.approx(expected, abs=6e-4)
    assert es.reliable(16, [3, 4, 16]).tolist() == [0, 1, 1]


def test_a_guesser_is_not_reliable() -> None:
    assert binomial(16, 0.01) @ es.reliable(16, np.arange(17)) == pytest.approx(1.7e-5, rel=0.03)


def test_first_successes_estimate_every_budget_at_once() -> None:
    rng, p = stream("first"), 0.01
    first = rng.geometric(p, size=60_000)
    missed = es.missed(np.where(first > 256, 0, first), 256, [1, 16, 64, 256])
    assert np.allclose(missed.mean(0), (1 - p) ** np.array([1, 16, 64, 256]), atol=0.008)
    assert (np.diff(missed, axis=1) <= 0).all()


def test_first_success_by_hand() -> None:
    assert es.missed([0, 1, 3, 4], 4, [1, 2, 3, 4]).tolist() == [[1, 1, 1, 1], [0] * 4, [1, 1, 0, 0], [1, 1, 1, 0]]


def test_support_is_unbiased_and_adds_up() -> None:
    rng, k, n = stream("support"), 4, 8
    p, q = rng.beta(0.4, 1, size=300), rng.beta(0.6, 1, size=300)  # base, trained
    a, b = 1 - (1 - p) ** k, 1 - (1 - q) ** k
    truth = np.stack([a * b, (1 - a) * b, a * (1 - b), (1 - a) * (1 - b)]).mean(1)
    found = []
    for _ in range(400):
        base, trained = es.pass_at_k(n, rng.binomial(n, p), k), es.pass_at_k(n, rng.binomial(n, q), k)
        found.append([es.support(base, trained, rng, draws=1)[name][0] for name in "PESO"])
    assert np.allclose(np.mean(found, 0), truth, atol=4 * np.std(found, 0).max() / 20)
    one = es.support(base, trained, rng, np.arange(300) % 5, draws=500)
    assert sum(one[name][0] for name in "PESO") == pytest.approx(1)
    assert one["E"][0] - one["S"][0] == pytest.approx(trained.mean() - base.mean())
    assert all(low <= value <= high for value, low, high in one.values())


def test_leash_numbers_by_hand() -> None:
    """The published counts P = 2388, E = 48, S = 175: SRR 0.932, NDR 0.0197, NSCR -0.049."""
    base, trained = np.repeat([1, 0, 1, 0], [2388, 48, 175, 100]), np.repeat([1, 1, 0, 0], [2388, 48, 175, 100])
    found = es.support(base, trained, stream("leash"), draws=200)
    values = {name: row[0] for name, row in found.items()}
    assert values["SRR"] == pytest.approx(2388 / 2563) and values["NDR"] == pytest.approx(48 / 2436)
    assert values["SDS"] == pytest.approx(2 / (2563 / 2388 + 2436 / 48))
    assert values["NSCR"] == pytest.approx(-127 / 2611)


def test_a_ratio_of_nothing_is_not_a_number() -> None:
    found = es.support([0, 0], [0, 0], stream("nothing"), draws=50)
    assert found["O"] == [1, 1, 1] and all(math.isnan(x) for x in found["SRR"])
