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


def jeffreys(c: ArrayLike, n: ArrayLike, level: float = 0.95, side: Side = "two") -> tuple[np.ndarray, np.ndarray]:
    """Equal-tailed credible interval under the prior Beta(1/2, 1/2); shorter than ``clopper_pearson``, not a guarantee.

    Arguments, return value and errors as for ``clopper_pearson``.  The lower end at c = 0 is 0 and the upper end at
    c = n is 1 (Brown, Cai and DasGupta 2001).
    """
    from scipy.special import betaincinv

    good, of = _checks.successes(c, n)
    tail = _tail(level, side)
    low, high = np.zeros(good.shape), np.ones(good.shape)
    if side != "upper":
        low = np.where(good == 0, 0.0, betaincinv(good + 0.5, of - good + 0.5, tail))
    if side != "lower":
        high = np.where(good == of, 1.0, betaincinv(good + 0.5, of - good + 0.5, 1 - tail))
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


def draws_to_certify(rate: float, level: float = 0.95) -> int:
    """How many draws without a success show that the rate is below ``rate``: 2,995 for 1e-3 at 95 %."""
    rate = _checks.inside("rate", rate)
    return math.ceil(math.log1p(-_checks.inside("level", level)) / math.log1p(-rate))


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


def pigeonhole_means(values: ArrayLike, rng: np.random.Generator, draws: int = 10_000) -> np.ndarray:
    """Means of ``draws`` tables whose problems and runs are resampled independently (Owen 2007).

    Few runs are its weak point: R - 1 degrees of freedom are not accounted for (``crossed_interval`` does), while the
    interaction is counted about three times.

    Args:
        values: ``float[N, R]``, problem by run.
        rng: the source of randomness.
        draws: resamples.

    Returns:
        ``float64[draws]``.
    """
    table = _checks.numbers("values", values, ndim=2)
    n, runs = table.shape
    draws = _checks.whole("draws", draws, 1)
    of_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws) / runs
    out = np.empty(draws)
    step = max(1, _BLOCK // n)
    for at in range(0, draws, step):
        weights = of_runs[at : at + step]
        picked = rng.integers(n, size=(len(weights), n)) + n * np.arange(len(weights))[:, None]
        counted = np.bincount(picked.ravel(), minlength=len(weights) * n).reshape(len(weights), n)
        out[at : at + step] = ((counted @ table) * weights).sum(1) / n
    return out


def sign_flip_test(differences: ArrayLike, rng: np.random.Generator, draws: int = 10_000, side: Side = "two") -> float:
    """p-value of "the paired differences are symmetric around 0", by flipping their signs.

    All 2^m flips of the m non-zero differences if there are no more than ``draws`` of them, else ``draws`` random ones
    and the estimate (1 + hits) / (1 + draws), which is itself a valid p-value.

    Args:
        differences: ``float[N]``, one a problem.
        rng: the source of randomness.
        draws: random flips.
        side: ``two``; ``upper`` asks whether the mean is above 0, ``lower`` whether it is below.

    Raises:
        DreamEnvsError: for NaN, an empty input or another ``side``.
    """
    d = _checks.numbers("differences", differences, ndim=1)
    _tail(0.95, side)
    d, draws = d[d != 0], _checks.whole("draws", draws, 1)
    if len(d) == 0:
        return 1.0
    slack = 1e-9 * float(np.abs(d).sum())  # equal sums, added up in another order
    seen = float(d.sum())
    exact = len(d) < 53 and 2 ** len(d) <= draws
    total = 2 ** len(d) if exact else draws
    hits, step = 0, max(1, _BLOCK // len(d))
    for at in range(0, total, step):
        size = min(step, total - at)
        if exact:
            flips = (np.arange(at, at + size)[:, None] >> np.arange(len(d))) & 1
        else:
            flips = rng.integers(2, size=(size, len(d)), dtype=np.int8)
        sums = (2 * flips - 1) @ d
        sums, bar = (np.abs(sums), abs(seen)) if side == "two" else (sums, seen) if side == "upper" else (-sums, -seen)
        hits += int((sums >= bar - slack).sum())
    return hits / total if exact else (1 + hits) / (1 + total)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test: as many problems gained as lost, given their sum.  6 against 0: p = 0.031."""
    from scipy.special import bdtr

    gained, lost = _checks.whole("gained", gained, 0), _checks.whole("lost", lost, 0)
    if gained + lost == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))
