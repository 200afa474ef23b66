"""Agreement of a judge with the truth, with itself and with the order of things: kappa, alpha, triads, correction.

Sources: Cohen 1960; Krippendorff 2011, "Computing Krippendorff's alpha-reliability"; Kendall and Babington Smith 1940
(cyclic triads); Rogan and Gladen 1978 with the interval of Lang and Reiczigel 2014.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.frontier import _checks


def kappa(table: ArrayLike) -> np.ndarray:
    """Cohen's kappa of contingency tables ``[..., L, L]``; nan where both raters used one label only.

    1: agreement, 0: as often as two independent raters with these habits, negative: less often.
    """
    t = np.asarray(table, dtype=np.float64)
    n = t.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = t / n[..., None, None]
        observed = np.trace(p, axis1=-2, axis2=-1)
        expected = (p.sum(-1) * p.sum(-2)).sum(-1)
        return np.where(expected < 1, (observed - expected) / (1 - expected), math.nan)


def alpha_of_table(table: ArrayLike) -> np.ndarray:
    """Krippendorff's alpha of two complete raters from contingency tables ``[..., L, L]``; nan for one label only."""
    t = np.asarray(table, dtype=np.float64)
    units = t.sum((-2, -1))
    total = t.sum(-1) + t.sum(-2)
    n = total.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        disagree = 2 * (units - np.trace(t, axis1=-2, axis2=-1))
        expected = (n * n - (total * total).sum(-1)) / (n - 1)
        return np.where(expected > 0, 1 - disagree / expected, math.nan)


def cyclic_triads(preferred: Mapping[tuple[str, str], str]) -> tuple[int, int]:
    """How many triples a > b > c > a there are, and how many triples have all three pairs decided.

    A judge that tosses coins has a quarter; one that ranks by anything at all has none.

    Args:
        preferred: winner of each unordered pair, the key in either order; pairs that are missing or tied (a winner that
            is neither) are undecided.
    """
    names = sorted({x for pair in preferred for x in pair})
    place = {name: i for i, name in enumerate(names)}
    beats = np.zeros((len(names), len(names)), dtype=np.int64)
    for (a, b), winner in preferred.items():
        if a != b and winner in (a, b):
            beats[place[winner], place[b if winner == a else a]] = 1
    both = beats & beats.T  # given in both orders with two winners
    beats -= both
    decided = beats + beats.T
    cycles = np.trace(beats @ beats @ beats) // 3
    return int(cycles), int(np.trace(decided @ decided @ decided) // 6)


def rogan_gladen(
    positive: int, n: int, true_positive: int, sick: int, true_negative: int, healthy: int, level: float = 0.95
) -> tuple[float, float, float] | None:
    """The true share behind the share that an imperfect judge accepts: (observed + spec - 1) / (sens + spec - 1).

    The interval is Lang and Reiczigel's: it knows that sensitivity and specificity are estimates.

    Args:
        positive: accepted among ``n`` cases whose truth is not known.
        n: at least 1.
        true_positive: accepted among ``sick`` cases that are truly right.
        sick: at least 1.
        true_negative: refused among ``healthy`` cases that are truly wrong.
        healthy: at least 1.
        level: confidence.

    Returns:
        Share, low, high, each clipped to 0 to 1; None if the judge is no better than chance (sens + spec <= 1), so that
        nothing can be learnt from it.

    Raises:
        DreamEnvsError: for impossible counts.
    """
    from scipy.special import ndtri

    for c, m in ((positive, n), (true_positive, sick), (true_negative, healthy)):
        _checks.successes(c, m)
    sens, spec = true_positive / sick, true_negative / healthy
    if sens + spec <= 1:
        return None
    share = (positive / n + spec - 1) / (sens + spec - 1)
    z = float(ndtri(1 - (1 - _checks.inside("level", level)) / 2))
    size, p = n + z * z, (positive + z * z / 2) / (n + z * z)
    se, sp = (true_positive + 1) / (sick + 2), (true_negative + 1) / (healthy + 2)
    if se + sp <= 1:
        return None
    adjusted = (p + sp - 1) / (se + sp - 1)
    v_se, v_sp = se * (1 - se) / (sick + 2), sp * (1 - sp) / (healthy + 2)
    shift = 2 * z * z * (adjusted * v_se - (1 - adjusted) * v_sp)
    spread = math.sqrt(p * (1 - p) / size + adjusted**2 * v_se + (1 - adjusted) ** 2 * v_sp) / (se + sp - 1)
    low, high = adjusted + shift - z * spread, adjusted + shift + z * spread
    clipped = [min(1.0, max(0.0, x)) for x in (share, low, high)]
    return clipped[0], min(clipped[0], clipped[1]), max(clipped[0], clipped[2])
