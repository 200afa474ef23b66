"""Intervals and tests at 95 % for success counts and for means over problems.

The unit of resampling is the problem, never the draw.  Two questions, two bootstraps: problems within families (a claim
about *these* families) and whole families (a claim about *new* ones; in uneven families it is wider, and rightly so).

Sources: Clopper and Pearson 1934; Przyborowski and Wilenski 1940 (conditional test of two rates); Benjamini and
Hochberg 1995; Korn and Graubard 1998; Newcombe 1998; Zou 2007; Efron 1979; Rao and Wu 1988; Miller 2024, arXiv
2411.00640.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import checks

LEVEL = 0.95
#: Both tails of a two-sided interval.
TAILS = ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2)
#: A problem is certified only if the trained model's rate is above this many times the base's, at this rate of errors.
RHO, FDR = 32.0, 0.05
#: Problems that are added to the variance of a stratified share, see ``share_interval``.
PSEUDO = 2.0
#: Cells of one block of resampling weights: 32 MB of float64.
_BLOCK = 4_000_000


def clopper_pearson(c: ArrayLike, n: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Exact binomial interval (low, high) of c successes in n draws: covers with at least 95 % whatever the rate."""
    right, of = checks.successes(c, n)
    return _low(right, of, TAILS[0]), _high(right, of, TAILS[1])


def upper_bound(c: ArrayLike, n: ArrayLike) -> np.ndarray:
    """One-sided exact upper bound: 0 of n has 1 - 0.05^(1/n), about 3/n."""
    return _high(*checks.successes(c, n), LEVEL)


def lower_bound(c: ArrayLike, n: ArrayLike, level: float = LEVEL) -> np.ndarray:
    """One-sided exact lower bound."""
    return _low(*checks.successes(c, n), 1 - level)


def _low(right: ArrayLike, of: ArrayLike, tail: float) -> np.ndarray:
    """The end below which ``tail`` lies; the counts need not be whole."""
    from scipy.special import betaincinv

    c, n = np.asarray(right), np.asarray(of)
    return np.where(c <= 0, 0.0, betaincinv(np.where(c <= 0, 1, c), n - c + 1, tail))


def _high(right: ArrayLike, of: ArrayLike, level: float) -> np.ndarray:
    from scipy.special import betaincinv

    c, n = np.asarray(right), np.asarray(of)
    return np.where(c >= n, 1.0, betaincinv(c + 1, np.where(c >= n, 1, n - c), level))


def share_interval(values: ArrayLike, strata: ArrayLike | None = None) -> tuple[float, float, float]:
    """(mean, low, high) of a stratified mean of shares, by Clopper-Pearson with the effective number of problems.

    The effective number m (1 - m) / variance is that of a simple random sample as precise as the stratified one (Korn
    and Graubard 1998), and never below N.  ``PSEUDO`` problems are added to the variance: strata that are 0 or 1
    throughout have no spread to measure, but a next problem may still be otherwise.  No share is ever [0, 0]: 0 of
    2,000 problems is [0, 0.0018].

    ``values``: ``float[N]`` in [0, 1], a problem each; ``strata``: N labels.
    """
    x = checks.numbers("values", values, 0, 1, ndim=1)
    n, mean = len(x), float(x.mean())
    size = max(n, mean * (1 - mean) / (within_variance(x, strata) / n + PSEUDO / n**2))
    return mean, float(_low(mean * size, size, TAILS[0])), float(_high(mean * size, size, TAILS[1]))


def difference(
    one: tuple[float, float, float], other: tuple[float, float, float], correlation: float = 0.0
) -> tuple[float, float, float]:
    """(one - other, low, high) from two estimates with their intervals: square-and-add (Newcombe 1998; Zou 2007)."""
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    down, up = (a - a_low, b_high - b), (a_high - a, b - b_low)
    ends = [math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0)) for x, y in (down, up)]
    return a - b, a - b - ends[0], a - b + ends[1]


def product(one: tuple[float, float, float], other: tuple[float, float, float]) -> tuple[float, float, float]:
    """(one * other, low, high) of two independent shares, by the same rule to first order."""
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    low = a * b - math.hypot(b * (a - a_low), a * (b - b_low))
    high = a * b + math.hypot(b * (a_high - a), a * (b_high - b))
    return a * b, max(low, 0.0), min(high, 1.0)


def percentile(samples: np.ndarray) -> tuple[float, float]:
    """Both ends of the percentile interval of a flat array."""
    low, high = np.quantile(checks.numbers("samples", samples), TAILS)
    return float(low), float(high)


def bootstrap_means(
    values: ArrayLike, rng: np.random.Generator, strata: ArrayLike | None = None, draws: int = 10_000
) -> np.ndarray:
    """``float64[draws]`` or ``[draws, M]``: means of resamples of the rows, with replacement within each stratum.

    n - 1 of a stratum's n rows are drawn and scaled up by n / (n - 1), so that the spread of the means is that of the
    unbiased variance: with 20 problems a family the plain bootstrap is 2.5 % too narrow (Rao and Wu 1988).  Rows that
    are equal within a stratum are drawn together by one multinomial draw, which is the same distribution and fast.

    ``values``: ``float[N]`` or ``[N, M]``, a problem a row; ``strata``: N labels (None: one stratum), which keep their
    sizes.
    """
    table, flat = _rows(values)
    n, draws = len(flat), checks.whole("draws", draws, 1)
    group = checks.strata("strata", strata, n)
    total = np.zeros((draws, flat.shape[1]))
    for g in range(int(group.max()) + 1):
        rows = flat[group == g]
        kinds, often = np.unique(rows, axis=0, return_counts=True)
        if len(kinds) == 1:
            total += kinds[0] * len(rows)
        elif 3 * len(kinds) <= len(rows):
            size = max(len(rows) - 1, 1)
            total += rng.multinomial(size, often / len(rows), size=draws) @ kinds * (len(rows) / size)
        else:
            total += _resampled_sums(rows, rng, draws)
    return (total / n).reshape((draws, *table.shape[1:]))


def _rows(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The checked table, and the same as ``[N, M]``."""
    table = checks.numbers("values", values)
    return table, table.reshape(len(table), -1) if table.ndim else table.reshape(1, 1)


def _resampled_sums(rows: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """``float64[draws, M]`` sums of rows drawn with replacement, in blocks that fit the cache."""
    m, drawn = len(rows), max(len(rows) - 1, 1)
    out = np.empty((draws, rows.shape[1]))
    step = max(1, _BLOCK // drawn)
    for at in range(0, draws, step):
        size = min(step, draws - at)
        picked = rng.integers(m, size=(size, drawn)) + m * np.arange(size)[:, None]
        out[at : at + size] = np.bincount(picked.ravel(), minlength=size * m).reshape(size, m) @ rows
    return out * (m / drawn)


def family_means(values: ArrayLike, families: ArrayLike, rng: np.random.Generator, draws: int = 10_000) -> np.ndarray:
    """As ``bootstrap_means``, of whole families (two or more): what another set of families could have shown.

    A resample's mean is over its problems, so that large families count more.
    """
    table, flat = _rows(values)
    group = checks.strata("families", families, len(flat))
    count = int(group.max()) + 1
    if count < 2:
        raise DreamEnvsError("one family only: resampling families needs at least two")
    sums = np.zeros((count, flat.shape[1]))
    np.add.at(sums, group, flat)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=checks.whole("draws", draws, 1))
    means = (weights @ sums) / (weights @ np.bincount(group))[:, None]
    return means.reshape((draws, *table.shape[1:]))


def crossed_interval(values: ArrayLike, strata: ArrayLike | None = None) -> tuple[float, float, float]:
    """(mean, low, high) over problems and training runs, for new problems *and* new runs.

    Both are random and crossed: variance s_p^2 / N + s_r^2 / R + s_pr^2 / (N R), components by analysis of variance
    (negative ones count as 0).  The run part, with R - 1 degrees of freedom, takes the t quantile and the rest the
    normal one: half-width^2 = z^2 (s_p^2 / N + s_pr^2 / (N R)) + t^2 s_r^2 / R.

    ``values``: ``float[N, R]``, problem by run, N and R >= 2; ``strata``: N labels, within which s_p is taken.
    """
    from scipy.special import ndtri, stdtrit

    table = checks.numbers("values", values, ndim=2)
    n, runs = table.shape
    if n < 2 or runs < 2:
        raise DreamEnvsError(f"values has shape {table.shape}: at least two problems and two runs")
    rows, columns, mean = table.mean(1), table.mean(0), float(table.mean())
    error = ((table - rows[:, None] - columns + mean) ** 2).sum() / ((n - 1) * (runs - 1))
    of_rows = within_variance(rows, strata)  # estimates s_p^2 + s_pr^2 / R
    of_runs = max(float(columns.var(ddof=1)) - error / n, 0.0)
    half = math.sqrt(ndtri(TAILS[1]) ** 2 * of_rows / n + stdtrit(runs - 1, TAILS[1]) ** 2 * of_runs / runs)
    return mean, mean - half, mean + half


def within_variance(values: ArrayLike, strata: ArrayLike | None = None) -> float:
    """N times the variance of a stratified mean of ``float[N]``: sum_g (N_g / N) s_g^2; strata of one are pooled."""
    x = checks.numbers("values", values, ndim=1)
    group = checks.strata("strata", strata, len(x))
    group = checks.strata("strata", np.where(np.bincount(group)[group] == 1, -1, group), len(x))
    sizes = np.bincount(group)
    centred = x - (np.bincount(group, x) / sizes)[group]
    squares = np.bincount(group, centred * centred)
    return float((sizes / len(x) * squares / np.maximum(sizes - 1, 1)).sum())


def ratio_p_value(base_c: ArrayLike, base_n: ArrayLike, trained_c: ArrayLike, trained_n: ArrayLike) -> np.ndarray:
    """One-sided p-value of "the trained rate is at most ``RHO`` times the base rate", problem by problem.

    Given c_T + c_B successes in all, and at the edge p_T = rho p_B of the hypothesis, each of them came from the
    trained draws with probability s = rho n_T / (rho n_T + n_B); the p-value is P(Binomial(c_T + c_B, s) >= c_T).
    The conditional test is exact for Poisson counts (small rates); binomial counts vary less, so that it errs on the
    safe side.  A base that stopped at its first success, in draw J, goes in as 0 of J - 1: the misses before it.  That
    is the exact test for that stopping rule, while 1 of J would take J for a number fixed in advance.

    Successes and draws are whole numbers that broadcast; ``base_n`` = 0 is allowed and certifies nothing.
    """
    from scipy.special import betainc

    right, of = checks.successes(trained_c, trained_n)
    hits, drawn, right, of = checks.together(
        base_c=checks.counts("base_c", base_c), base_n=checks.counts("base_n", base_n), trained_c=right, trained_n=of
    )
    if (hits > drawn).any():
        raise DreamEnvsError(f"base_c={hits[hits > drawn].flat[0]}: no more successes than draws")
    weight = RHO * of
    # P(Bin(t, s) >= c) is the regularised incomplete beta function I_s(c, t - c + 1).
    tail = betainc(np.maximum(right, 1), hits + 1.0, weight / (weight + drawn))
    return np.where(right == 0, 1.0, tail)


class Certified(NamedTuple):
    """Problems gained, the false discovery rate under control: ``float64[N]`` p-values, ``bool[N]`` the choice."""

    p_value: np.ndarray
    chosen: np.ndarray


def certified(base_c: ArrayLike, base_n: ArrayLike, trained_c: ArrayLike, trained_n: ArrayLike) -> Certified:
    """The certified list by Benjamini and Hochberg over all N problems; arguments as for ``ratio_p_value``.

    4 of 16 against 0 of 8,192 has p = 1.2e-5 and can be certified among 2,000 problems; against 0 of 1,024 it has
    p = 0.012 and cannot.
    """
    from scipy.stats import false_discovery_control

    p = np.atleast_1d(ratio_p_value(base_c, base_n, trained_c, trained_n))
    return Certified(p, false_discovery_control(p, method="bh") <= FDR)
