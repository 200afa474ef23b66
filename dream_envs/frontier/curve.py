"""E(k), the share of problems that the trained model solves reliably and the base misses in k draws, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dream_envs.frontier import intervals
from dream_envs.frontier.gain import Evidence, pooled_strata


def expansion_curve(
    evidence: Evidence, ks: Sequence[int], rng: np.random.Generator, draws: int = 2000, level: float = 0.95
) -> dict[str, list[float]]:
    """E(k) in points, uncorrected for the tail.

    The interval resamples problems within families.  Where no gain is seen at k the upper end is that of 0 events in N,
    and where none of the problems followed by lot was solved the lower end allows for 0 events among those.

    Args:
        evidence: N problems.
        ks: base draws, none above ``evidence.cap``.
        rng: the source of randomness.
        draws: resamples.
        level: confidence.

    Returns:
        ``k``, ``e``, ``low``, ``high``: lists of ``len(ks)``.
    """
    kept = np.ones(len(evidence), bool) if evidence.followed is None else evidence.followed
    stage = evidence.stage if evidence.followed is not None else 0
    first, columns = evidence.first, []
    for k in [*ks, stage]:
        missed = evidence.reliable * ((first == 0) | (first > k)) * ~(evidence.vetoed & (k != stage))
        columns.append(missed * (kept if k > stage else 1))
    table = np.stack([*columns, columns[-1] * kept], 1)
    samples = intervals.bootstrap_means(table, rng, pooled_strata(evidence.family), draws)
    at, means = np.array(ks), table.mean(0)
    point, resampled = (_scaled(at, stage, m) for m in (means[None], samples))
    e = point[0]
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail), axis=0)
    high = np.where(e == 0, np.maximum(high, 100 * intervals.rule_of_three(len(evidence), level)), high)
    if stage and (count := int((table[:, -1] > 0).sum())):
        slack = 100 * means[-2] * intervals.rule_of_three(count, level)
        none = (at > stage) & (table[:, :-2].sum(0) == table[:, -1].sum())
        low = np.where(none, [e_ - math.hypot(max(e_ - l_, 0), slack) for e_, l_ in zip(e, low, strict=True)], low)
    return {"k": at.tolist(), "e": e.tolist(), "low": np.maximum(low, 0).tolist(), "high": high.tolist()}


def _scaled(ks: np.ndarray, stage: int, means: np.ndarray) -> np.ndarray:
    """``float64[R, K]`` points: beyond the stage the share of the followed that is left stands for all survivors."""
    left, followed = means[:, -2:-1], means[:, -1:]
    share = np.divide(left, followed, out=np.ones_like(left), where=followed > 0)
    return np.asarray(100 * means[:, :-2] * np.where(ks > stage, share, 1.0))
