"""Intervals, tests and estimators: tables, exact sums over counts and subsets, bootstraps, known worlds."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binom

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import estimators as es
from dream_envs.frontier import intervals as iv
from dream_envs.seeds import stream


@pytest.mark.parametrize(
    ("n", "exact", "hundred"), [(64, 0.0457, 0.112), (1024, 0.00292, 0.0074), (8192, 0.00037, 0.00093)]
)
def test_zero_of_n_table(n: int, exact: float, hundred: float) -> None:
    """The protocol's table: one-sided 95 %, and Bonferroni over 100 problems."""
    assert iv.upper_bound(0, n) == pytest.approx(exact, rel=0.02)
    assert iv.lower_bound(n, n, 1 - 0.05 / 100) == pytest.approx(1 - hundred, rel=0.02)
    assert iv.share_interval(np.zeros(n)) == pytest.approx((0, 0, 1 - 0.025 ** (1 / n)), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 4))
def test_a_share_without_strata_is_clopper_pearson(values: list[bool], families: int) -> None:
    """One stratum: no narrower than the exact interval, hardly wider; strata narrow it, and mirror images mirror."""
    x = np.array(values, float)
    mean, low, high = iv.share_interval(x)
    exact = [float(e) for e in iv.clopper_pearson(int(x.sum()), len(x))]
    assert low == pytest.approx(exact[0]) and high == pytest.approx(exact[1]) and low <= mean <= high
    group = np.arange(len(x)) % families
    a, b = iv.share_interval(x, group), iv.share_interval(1 - x, group)
    assert (a[1], a[2]) == pytest.approx((1 - b[2], 1 - b[1]), abs=1e-9) and a[2] - a[1] <= high - low + 1e-9


def test_a_difference_by_hand() -> None:
    """Square-and-add: Newcombe's rule; with correlation 1 of equal arms the difference is certain."""
    one, other = (0.5, 0.4, 0.7), (0.2, 0.1, 0.25)
    assert iv.difference(one, other) == pytest.approx((0.3, 0.3 - math.hypot(0.1, 0.05), 0.3 + math.hypot(0.2, 0.1)))
    assert iv.difference(one, one, 1.0)[1:] == pytest.approx((-0.1, 0.1))
    assert iv.product((1.0, 1.0, 1.0), other) == pytest.approx(other)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.floats(0.001, 0.999))
def test_clopper_pearson_never_covers_less(n: int, p: float) -> None:
    c = np.arange(n + 1)
    low, high = iv.clopper_pearson(c, n)
    for covered in ((low <= p) & (p <= high), p <= iv.upper_bound(c, n)):
        assert binom.pmf(c, n, p)[covered].sum() >= 0.95 - 1e-9


@given(st.integers(1, 500), st.data())
def test_ends_are_ordered_and_move_with_c(n: int, data: st.DataObject) -> None:
    c = np.arange(n + 1)
    low, high = iv.clopper_pearson(c, n)
    assert (low <= c / n).all() and (c / n <= high).all() and (np.diff(low) > 0).all() and (np.diff(high) > 0).all()
    at = data.draw(st.integers(0, n))
    assert iv.clopper_pearson(at, n)[0] == pytest.approx(1 - iv.clopper_pearson(n - at, n)[1], abs=1e-12)  # mirrored


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: iv.clopper_pearson(5, 4), "c=5 of n=4"),
        (lambda: iv.clopper_pearson(1, 0), "n holds 0"),
        (lambda: iv.clopper_pearson([], 4), "empty"),
        (lambda: iv.clopper_pearson(math.nan, 4), "nan"),
        (lambda: iv.upper_bound(5, 4), "c=5 of n=4"),
        (lambda: iv.certified(3, 2, 4, 16), "base_c=3"),
        (lambda: iv.certified(0, 8192, 17, 16), "c=17 of n=16"),
        (lambda: iv.certified([0, 0], 8192, [4, 4, 4], 16), "do not go together"),
        (lambda: iv.share_interval([1.5]), "values holds 1.5"),
        (lambda: iv.bootstrap_means([], stream("x")), "empty"),
        (lambda: iv.bootstrap_means([1.0, math.nan], stream("x")), "nan"),
        (lambda: iv.bootstrap_means([1.0, 2.0], stream("x"), [1, 2, 3]), "one stratum for each of 2"),
        (lambda: iv.bootstrap_means([1.0], stream("x"), draws=0), "draws=0"),
        (lambda: iv.family_means([1.0, 2.0], [0, 0], stream("x")), "one family only"),
        (lambda: iv.crossed_interval([[1.0, 2.0]]), "two problems and two runs"),
        (lambda: iv.crossed_interval([1.0, 2.0]), "2 dimensions"),
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


@pytest.mark.parametrize("kind", ["few values", "all different"])
def test_both_ways_to_resample_have_the_formulas_variance(kind: str) -> None:
    """Within strata: mean sum_g N_g mean_g / N, variance sum_g (N_g / N)^2 var_g / N_g (ddof 1)."""
    rng = stream("bootstrap", kind)
    group = np.repeat([0, 1, 2], [30, 50, 120])
    values = rng.normal(size=(200, 2)) + group[:, None] if kind == "all different" else rng.integers(2, size=(200, 2))
    parts = [values[group == g] for g in range(3)]
    means = iv.bootstrap_means(values, rng, group, draws=20_000)
    variance = sum((len(x) / 200) ** 2 * x.var(0, ddof=1) / len(x) for x in parts)
    assert means.shape == (20_000, 2)
    assert np.allclose(means.mean(0), values.mean(0), atol=5 * (variance / 20_000).max() ** 0.5)
    assert np.allclose(means.var(0), variance, rtol=0.05)
    covariance = sum((len(x) / 200) ** 2 * np.cov(x.T)[0, 1] / len(x) for x in parts)
    assert np.cov(means.T)[0, 1] == pytest.approx(covariance, abs=0.05 * variance.max())  # whole rows are drawn


def test_all_resamples_of_three_rows() -> None:
    """Two of three values are drawn, 9 equally likely pairs: their means and how often each comes up."""
    values = np.array([0.0, 1.0, 5.0])
    expected = Counter(round(sum(pick) / 2, 9) for pick in itertools.product(values, repeat=2))
    found = np.round(iv.bootstrap_means(values, stream("three"), draws=54_000), 9)
    for mean, count in expected.items():
        assert (found == mean).mean() == pytest.approx(count / 9, abs=0.01)


def test_order_of_rows_and_names_of_strata_do_not_matter() -> None:
    rng = stream("order")
    values, group = rng.integers(2, size=60).astype(float), np.repeat(["b", "a", "c"], 20)
    order = rng.permutation(60)
    one = iv.bootstrap_means(values, stream("same"), group, 50)
    two = iv.bootstrap_means(values[order], stream("same"), group[order], 50)
    assert np.array_equal(one, two)


def test_families_resampled_whole() -> None:
    """Two families of 1 and 3 problems: AA, AB, BA, BB come up 1 : 2 : 1, and the mean is over problems."""
    means = iv.family_means([8.0, 0.0, 0.0, 4.0], [7, 3, 3, 3], stream("families"), draws=20_000)
    assert set(np.round(means, 9)) == {8.0, 3.0, round(4 / 3, 9)}
    assert (means == 3.0).mean() == pytest.approx(0.5, abs=0.02)


def test_uneven_families_widen_the_interval() -> None:
    rng = stream("uneven")
    group = np.repeat(np.arange(20), 100)
    solved = (rng.random(2000) < np.linspace(0, 0.2, 20)[group]).astype(float)
    within = iv.percentile(iv.bootstrap_means(solved, rng, group, 4000))
    between = iv.percentile(iv.family_means(solved, group, rng, 4000))
    assert between[1] - between[0] > 1.5 * (within[1] - within[0])


def test_variance_within_strata_by_hand() -> None:
    """Variances 2 and 3 in strata of 2 and 3; then two strata of one problem, which are pooled."""
    assert iv.within_variance([0, 2, 5, 5, 8], ["a", "a", "b", "b", "b"]) == pytest.approx(0.4 * 2 + 0.6 * 3)
    assert iv.within_variance([0, 2], ["a", "b"]) == pytest.approx(2)


def crossed(rng: np.random.Generator, n: int, runs: int, sd: tuple[float, float, float]) -> np.ndarray:
    return sd[0] * rng.normal(size=(n, 1)) + sd[1] * rng.normal(size=(1, runs)) + sd[2] * rng.normal(size=(n, runs))


@pytest.mark.parametrize("sd", [(1.0, 0.0, 1.0), (1.0, 0.3, 1.0), (0.2, 1.0, 0.2)])
def test_crossed_interval_covers(sd: tuple[float, float, float]) -> None:
    rng, hits = stream("crossed", *sd), 0
    for _ in range(400):
        _, low, high = iv.crossed_interval(crossed(rng, 60, 4, sd))
        hits += low <= 0 <= high
    assert 0.92 <= hits / 400 <= 1.0


def test_certified_examples() -> None:
    """4 of 16 against 0 of 8,192: 1.2e-5, certifiable among 2,000; against 0 of 1,024: 0.012, not."""
    p = iv.ratio_p_value(0, [8192, 1024], 4, 16)
    assert p == pytest.approx([1.2e-5, 0.012], rel=0.03)
    assert p == pytest.approx([(512 / 8704) ** 4, (512 / 1536) ** 4], rel=1e-12)
    trained = np.repeat([4, 0], [20, 1980])
    assert iv.certified(0, 8192, trained, 16).chosen.sum() == 20
    assert iv.certified(0, 1024, trained, 16).chosen.sum() == 0


@given(st.lists(st.tuples(st.integers(0, 16), st.integers(0, 9000)), min_size=1, max_size=30))
def test_the_list_is_the_textbook_procedure(counts: list[tuple[int, int]]) -> None:
    """Benjamini and Hochberg's step up, as it is written in the paper."""
    right, drawn = np.array(counts).T
    found = iv.certified(0, drawn, right, 16)
    p, m = sorted(found.p_value), len(counts)
    assert found.chosen.sum() == max((i + 1 for i in range(m) if p[i] * m / (i + 1) <= 0.05 * (1 + 1e-12)), default=0)
    assert max(found.p_value[found.chosen], default=0) <= min(found.p_value[~found.chosen], default=1)


@given(st.integers(0, 16), st.integers(0, 40), st.integers(0, 5000))
def test_ratio_test_is_the_conditional_binomial(c: int, base_c: int, more: int) -> None:
    """By summing P(Binomial(t, s) = j) for j >= c in whole numbers."""
    base_n = base_c + more
    share, t = 32 * 16 / (32 * 16 + base_n), c + base_c
    tail = math.fsum(math.comb(t, j) * share**j * (1 - share) ** (t - j) for j in range(c, t + 1))
    assert iv.ratio_p_value(base_c, base_n, c, 16) == pytest.approx(tail, rel=1e-6, abs=1e-12)


@given(st.integers(1, 16), st.integers(0, 20), st.integers(21, 5000))
def test_more_evidence_is_a_smaller_p(c: int, base_c: int, n: int) -> None:
    p = iv.ratio_p_value(base_c, n, c, 16)
    assert iv.ratio_p_value(base_c, n, c - 1, 16) >= p >= iv.ratio_p_value(base_c, n + 1, c, 16)
    assert iv.ratio_p_value(base_c + 1, n, c, 16) >= p


def test_nothing_drawn_certifies_nothing() -> None:
    assert iv.ratio_p_value(0, 0, 16, 16) == 1.0
    assert iv.ratio_p_value(0, 8192, 0, 16) == 1.0


@pytest.mark.parametrize("base_n", [64, 1024, 8192])
def test_the_ratio_test_keeps_its_size(base_n: int) -> None:
    """At the edge of the hypothesis, p_T = 32 p_B: P(p-value <= alpha), summed over all counts, for binomial draws."""
    c, base_c = np.arange(17), np.arange(61)
    p_value = iv.ratio_p_value(base_c[:, None], base_n, c, 16)
    for base_p in (1e-5, 1e-4, 5e-4, 2e-3, 8e-3, 2e-2, 0.031):
        joint = binom.pmf(base_c, base_n, base_p)[:, None] * binom.pmf(c, 16, 32 * base_p)
        for alpha in (0.05, 0.01, 1e-3, 1e-5):
            assert joint[p_value <= alpha].sum() <= alpha


def test_a_base_that_stopped_counts_its_misses() -> None:
    """First success in draw J goes in as 0 of J - 1: the size holds for that stopping rule too."""
    c, j = np.arange(17), np.arange(1, 4001)
    p_value = iv.ratio_p_value(0, j[:, None] - 1, c, 16)
    for base_p in (1e-3, 4e-3, 1e-2, 3e-2):
        stop = base_p * (1 - base_p) ** (j - 1)
        joint = stop[:, None] * binom.pmf(c, 16, 32 * base_p)
        for alpha in (0.05, 1e-3):
            assert joint[p_value <= alpha].sum() <= alpha


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
@given(st.integers(1, 40), st.just(0.0) | st.floats(1e-100, 1), st.data())  # scipy overflows below
def test_unbiased_for_every_rate(n: int, p: float, data: st.DataObject) -> None:
    """The expectation over c, summed exactly, is the probability that is estimated."""
    k = data.draw(st.integers(1, n))
    c = np.arange(n + 1)
    assert binom.pmf(c, n, p) @ es.pass_at_k(n, c, k) == pytest.approx(1 - (1 - p) ** k, abs=1e-9)


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
