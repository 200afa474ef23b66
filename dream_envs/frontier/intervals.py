"""Intervals and tests for success counts and for means over problems.

The unit of resampling is the problem, never the draw.  Two questions, two bootstraps: problems within families (a claim
about *these* families) and whole families (a claim about *new* ones; in uneven families it is wider, and rightly so).

Sources: Clopper and Pearson 1934; Brown, Cai and DasGupta 2001 (Jeffreys); Hanley and Lippman-Hand 1983 (rule of
three); Efron 1979; Owen 2007, "The pigeonhole bootstrap"; Miller 2024, arXiv 2411.00640.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.store import wilson as wilson
from dream_envs.frontier import _checks

Side = Literal["two", "lower", "upper"]

#: Cells of one block of resampling weights: 32 MB of float64.
_BLOCK = 4_000_000


def clopper_pearson(
    c: ArrayLike, n: ArrayLike, level: float = 0.95, side: Side = "two"
) -> tuple[np.ndarray, np.ndarray]:
    """Exact binomial interval: covers with probability >= ``level`` whatever the true rate.

    Args:
        c: successes, any shape that broadcasts with ``n``.
        n: draws, >= 1.
        level: confidence, 0 to 1.
        side: ``two`` splits the error; ``upper`` bounds from above (low = 0), ``lower`` from below (high = 1).

    Returns:
        (low, high), ``float64`` of the broadcast shape, in [0, 1].  0 of n has the one-sided upper end
        1 - (1 - level)^(1/n), about 3/n.

    Raises:
        DreamEnvsError: for c > n, n < 1, NaN, an empty input or another ``side``.
    """
    from scipy.special import betaincinv

    good, of = _checks.successes(c, n)
    tail = _tail(level, side)
    low, high = np.zeros(good.shape), np.ones(good.shape)
    if side != "upper":
        low = np.where(good == 0, 0.0, betaincinv(np.maximum(good, 1), of - good + 1, tail))
    if side != "lower":
        high = np.where(good == of, 1.0, betaincinv(good + 1, np.maximum(of - good, 1), 1 - tail))
    return low, high


def _tail(level: float, side: str) -> float:
    level = _checks.inside("level", level)
    if side not in ("two", "lower", "upper"):
        raise DreamEnvsError(f"side={side!r}: 'two', 'lower' or 'upper'")
    return (1 - level) / (2 if side == "two" else 1)


def rule_of_three(n: int, level: float = 0.95) -> float:
    """Upper end for a rate after 0 events in ``n``: 1 - (1 - level)^(1/n), about 3/n (one-sided, exact).

    0 of 2,000 problems: 0.0015, which is 0.15 points.
    """
    return -math.expm1(math.log1p(-_checks.inside("level", level)) / _checks.whole("n", n, 1))


def bootstrap_means(
    values: ArrayLike, rng: np.random.Generator, strata: ArrayLike | None = None, draws: int = 10_000
) -> np.ndarray:
    """Means of ``draws`` resamples of the rows, with replacement within each stratum.

    n - 1 of a stratum's n rows are drawn and scaled up by n / (n - 1), so that the spread of the means is that of the
    unbiased variance: with 20 problems a family the plain bootstrap is 2.5 % too narrow (Rao and Wu 1988).

    Rows that are equal within a stratum are drawn together by one multinomial draw of how often they occur, which is
    the same distribution: Frontier Report rows take few values, so that 10,000 resamples of 2,000 problems take tenths
    of a second.

    Args:
        values: ``float[N]`` or ``float[N, M]``, a problem a row.
        rng: the source of randomness.
        strata: N labels (families); None is one stratum.  Each stratum keeps its size.
        draws: number of resamples, >= 1.

    Returns:
        ``float64[draws]`` or ``float64[draws, M]``.

    Raises:
        DreamEnvsError: for an empty input, NaN, or another number of strata labels than rows.
    """
    table = _checks.numbers("values", values)
    flat = table.reshape(len(table), -1) if table.ndim else table.reshape(1, 1)
    n, draws = len(flat), _checks.whole("draws", draws, 1)
    group = _checks.strata("strata", strata, n)
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
    """Means of ``draws`` resamples of whole families: what another set of families could have shown.

    Args:
        values: ``float[N]`` or ``float[N, M]``, a problem a row.
        families: N labels, at least two different ones.
        rng: the source of randomness.
        draws: number of resamples.

    Returns:
        ``float64[draws]`` or ``float64[draws, M]``; a resample's mean is over its problems, large families count more.

    Raises:
        DreamEnvsError: for one family only, an empty input or NaN.
    """
    table = _checks.numbers("values", values)
    flat = table.reshape(len(table), -1) if table.ndim else table.reshape(1, 1)
    group = _checks.strata("families", families, len(flat))
    count = int(group.max()) + 1
    if count < 2:
        raise DreamEnvsError("one family only: resampling families needs at least two")
    sums = np.zeros((count, flat.shape[1]))
    np.add.at(sums, group, flat)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=_checks.whole("draws", draws, 1))
    means = (weights @ sums) / (weights @ np.bincount(group))[:, None]
    return means.reshape((draws, *table.shape[1:]))


def percentile(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of ``samples``, a flat array: both ends of a percentile interval."""
    tail = (1 - _checks.inside("level", level)) / 2
    low, high = np.quantile(_checks.numbers("samples", samples), (tail, 1 - tail))
    return float(low), float(high)


def crossed_interval(
    values: ArrayLike, strata: ArrayLike | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over problems and training runs, with an interval for new problems *and* new runs.

    Both are random and crossed: variance s_p^2 / N + s_r^2 / R + s_pr^2 / (N R), components by analysis of variance
    (negative ones count as 0).  The run part, with R - 1 degrees of freedom, takes the t quantile and the rest the
    normal one: half-width^2 = z^2 (s_p^2 / N + s_pr^2 / (N R)) + t^2 s_r^2 / R.

    Args:
        values: ``float[N, R]``, problem by run, every run on the same problems; N >= 2, R >= 2.
        strata: N labels (families): the problem component is taken within them.
        level: confidence.

    Returns:
        (mean, low, high).

    Raises:
        DreamEnvsError: for fewer than two problems or runs, or NaN.
    """
    from scipy.special import ndtri, stdtrit

    table = _checks.numbers("values", values, ndim=2)
    n, runs = table.shape
    if n < 2 or runs < 2:
        raise DreamEnvsError(f"values has shape {table.shape}: at least two problems and two runs")
    rows, columns, mean = table.mean(1), table.mean(0), float(table.mean())
    error = ((table - rows[:, None] - columns + mean) ** 2).sum() / ((n - 1) * (runs - 1))
    of_rows = within_variance(rows, strata)  # estimates s_p^2 + s_pr^2 / R
    of_runs = max(float(columns.var(ddof=1)) - error / n, 0.0)
    upper = 1 - (1 - _checks.inside("level", level)) / 2
    half = math.sqrt(ndtri(upper) ** 2 * of_rows / n + stdtrit(runs - 1, upper) ** 2 * of_runs / runs)
    return mean, mean - half, mean + half


def within_variance(values: ArrayLike, strata: ArrayLike | None = None) -> float:
    """N times the variance of a stratified mean: sum_g (N_g / N) s_g^2; strata of one problem are pooled.

    Args:
        values: ``float[N]``.
        strata: N labels; None is one stratum.
    """
    x = _checks.numbers("values", values, ndim=1)
    group = _checks.strata("strata", strata, len(x))
    sizes = np.bincount(group)
    group = _checks.strata("strata", np.where(sizes[group] == 1, -1, group), len(x))
    sizes = np.bincount(group)
    centred = x - (np.bincount(group, x) / sizes)[group]
    squares = np.bincount(group, centred * centred)
    return float((sizes / len(x) * squares / np.maximum(sizes - 1, 1)).sum())
