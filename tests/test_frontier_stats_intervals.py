"""Intervals and tests: tables from the protocol, exact coverage by summing over counts, bootstraps against formulas."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from dream_envs.core import DreamEnvsError
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
