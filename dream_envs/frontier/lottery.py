"""Following only some of the base's survivors: how a large gain is reported at a twentieth of the draws.

Early stopping saves nothing where the base never succeeds, which is where a large gain lies.  So every problem that the
trained model solves reliably is given ``stage`` base draws; of those without a success, a number fixed in advance is
picked by lot and drawn on to the cap.  Since lots know nothing of the problems, the share of the followed ones that the
base still misses at k estimates the share of all survivors: E(k) = E(stage) x that share, as in a survival curve with
random censoring.  Where all are followed it is the plain mean.
"""

from __future__ import annotations

import numpy as np

from dream_envs.frontier.intervals import rule_of_three


def pick(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``bool[M]``: about ``count`` of M survivors by lot, from each group in proportion and at least one of each.

    Few and large groups only (held-out families and the others): with many small ones the rounding and the minimum of
    one would make some problems likelier to be followed than others, and the pooled share would be biased.

    Args:
        groups: ``int[M]``, the survivors' group.
        count: how many; all where there are no more.
        rng: the lots.
    """
    chosen = np.zeros(len(groups), bool)
    if count >= len(groups):
        return ~chosen
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        share = max(1, round(count * len(members) / len(groups)))
        chosen[rng.permutation(members)[:share]] = True
    return chosen


def columns(table: np.ndarray, reliable: np.ndarray, first: np.ndarray, followed: np.ndarray, stage: int) -> np.ndarray:
    """``float64[N, 7]``: ``gain.contributions`` with only the followed survivors in it, and what scales them.

    The sixth column is R_i 1[J_i > stage], the seventh the same of those that were followed.
    """
    left = reliable * ((first == 0) | (first > stage))
    table = table.copy()
    table[:, :-1] *= followed[:, None]
    return np.column_stack([table, left, left * followed])


def scaled(means: np.ndarray) -> np.ndarray:
    """``float64[..., 5]``: (E(k), ..., S) from means of ``gain.contributions``, with a lottery or without."""
    if means.shape[-1] == 5:
        return means
    left, followed = means[..., 5], means[..., 6]
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = np.where(followed[..., None] > 0, means[..., :4] * (left / followed)[..., None], left[..., None])
    return np.concatenate([gains, means[..., 4:5]], axis=-1)


def unseen(table: np.ndarray, level: float) -> float:
    """Points that E may be too high by where none of the followed survivors was solved: the rule of three on them."""
    if table.shape[1] == 5 or (count := int((table[:, 6] > 0).sum())) == 0:
        return 0.0
    if table[:, 6].sum() > table[:, 3].sum() or count == int((table[:, 5] > 0).sum()):
        return 0.0
    return float(100 * table[:, 5].mean() * rule_of_three(count, level))
