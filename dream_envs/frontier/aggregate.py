"""Scores of many runs on many tasks (families, levels), summed up without hiding the spread.

The estimators of "Deep RL at the Edge of the Statistical Precipice" (Agarwal et al. 2021, arXiv 2108.13264), written
anew, since the authors' package is archived.  A score table is ``float[R, T]``, run by task.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import _checks
from dream_envs.frontier.intervals import percentile


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half of all R x T scores.

    As in the paper, a quarter of the scores, rounded down, is cut at either end.  It is less noisy than the median and,
    unlike the mean, not carried by one task.

    Raises:
        DreamEnvsError: for an empty table or NaN.
    """
    return float(_iqm(_checks.numbers("scores", scores, ndim=2)[None])[0])


def _iqm(tables: np.ndarray) -> np.ndarray:
    """``float64[B]`` from ``float64[B, R, T]``."""
    flat = np.sort(tables.reshape(len(tables), -1), axis=1)
    cut = flat.shape[1] // 4
    return flat[:, cut : flat.shape[1] - cut].mean(1)


def performance_profile(scores: ArrayLike, taus: ArrayLike) -> np.ndarray:
    """Share of scores above each tau, every task with the same weight: ``float64[len(taus)]``, non-increasing in tau.

    Over FG* by family and run this is the share of families with a gain above tau points.

    Args:
        scores: ``float[R, T]``.
        taus: thresholds.

    Raises:
        DreamEnvsError: for an empty table or NaN.
    """
    table, levels = _checks.numbers("scores", scores, ndim=2), _checks.numbers("taus", np.atleast_1d(taus), ndim=1)
    return (table[:, :, None] > levels).mean((0, 1))


def probability_of_improvement(scores: ArrayLike, other: ArrayLike) -> float:
    """P(a run of the first table beats a run of the other on the same task), ties by half, mean over tasks.

    Args:
        scores: ``float[R, T]``.
        other: ``float[R', T]``, the same tasks in the same order.

    Raises:
        DreamEnvsError: for different numbers of tasks, an empty table or NaN.
    """
    x, y = _two(scores, other)
    return float(_improvement(x[None], y[None])[0])


def _improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``float64[B]`` from ``float64[B, R, T]`` and ``float64[B, R', T]``."""
    sign = np.sign(x[:, :, None, :] - y[:, None, :, :])
    return (0.5 + 0.5 * sign).mean((1, 2, 3))


def _two(scores: ArrayLike, other: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = _checks.numbers("scores", scores, ndim=2), _checks.numbers("other", other, ndim=2)
    if x.shape[1] != y.shape[1]:
        raise DreamEnvsError(f"scores has {x.shape[1]} tasks and other {y.shape[1]}: the same tasks in the same order")
    return x, y


def resample_runs(scores: ArrayLike, rng: np.random.Generator, draws: int = 2000) -> np.ndarray:
    """``float64[draws, R, T]``: the runs of each task drawn with replacement, each task by itself (stratified).

    Raises:
        DreamEnvsError: for an empty table or NaN.
    """
    table = _checks.numbers("scores", scores, ndim=2)
    runs, tasks = table.shape
    picked = rng.integers(runs, size=(_checks.whole("draws", draws, 1), runs, tasks))
    return np.take_along_axis(table[None], picked, axis=1)


def _interval(point: float, statistic: Callable[[], np.ndarray], runs: int, level: float) -> tuple[float, float, float]:
    if runs < 2:
        raise DreamEnvsError("one run has no spread between runs: an interval needs two runs or more (five are usual)")
    return (point, *percentile(statistic(), level))


def iqm_interval(
    scores: ArrayLike, rng: np.random.Generator, draws: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """(IQM, low, high), stratified bootstrap over runs: how much another set of runs would have changed it.

    Raises:
        DreamEnvsError: for a single run, an empty table or NaN.
    """
    table = _checks.numbers("scores", scores, ndim=2)
    return _interval(iqm(table), lambda: _iqm(resample_runs(table, rng, draws)), len(table), level)


def improvement_interval(
    scores: ArrayLike, other: ArrayLike, rng: np.random.Generator, draws: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """(probability of improvement, low, high), both tables resampled; errors as for ``iqm_interval``."""
    x, y = _two(scores, other)
    return _interval(
        probability_of_improvement(x, y),
        lambda: _improvement(resample_runs(x, rng, draws), resample_runs(y, rng, draws)),
        min(len(x), len(y)),
        level,
    )


def profile_band(
    scores: ArrayLike, taus: ArrayLike, rng: np.random.Generator, draws: int = 2000, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(profile, low, high), each ``float64[len(taus)]``: pointwise bootstrap band; errors as for ``iqm_interval``."""
    table, levels = _checks.numbers("scores", scores, ndim=2), _checks.numbers("taus", np.atleast_1d(taus), ndim=1)
    if len(table) < 2:
        raise DreamEnvsError("one run has no spread between runs: a band needs two runs or more (five are usual)")
    samples = resample_runs(table, rng, draws).reshape(draws, -1)
    shares = np.stack([(samples > tau).mean(1) for tau in levels], axis=1)
    tail = (1 - _checks.inside("level", level)) / 2
    low, high = np.quantile(shares, (tail, 1 - tail), axis=0)
    return performance_profile(table, levels), low, high
