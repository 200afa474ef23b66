"""Many tests at once: which problems were gained, which adjusted p-values stand, which ranks are certain.

Sources: Holm 1979; Benjamini and Hochberg 1995; Przyborowski and Wilenski 1940 (conditional test of two rates);
Mogstad, Romano, Shaikh and Wilhelm 2024 (confidence intervals for ranks).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import _checks

#: A problem is certified only if the trained model's rate is above this many times the base's.
RHO = 32.0


def benjamini_hochberg(p: ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p-values, ``float64[N]``: among those <= q, a share of at most q is false.

    Raises:
        DreamEnvsError: for an empty input, NaN, or values outside [0, 1].
    """
    raw = _checks.numbers("p", p, 0, 1, ndim=1)
    order = np.argsort(raw, kind="stable")[::-1]
    lowered = np.minimum.accumulate(raw[order] * len(raw) / np.arange(len(raw), 0, -1))
    out = np.empty(len(raw))
    out[order] = np.minimum(lowered, 1.0)
    return out


def ratio_p_value(
    base_c: ArrayLike, base_n: ArrayLike, trained_c: ArrayLike, trained_n: ArrayLike, rho: float = RHO
) -> np.ndarray:
    """One-sided p-value of "the trained rate is at most ``rho`` times the base rate", problem by problem.

    Given c_T + c_B successes in all, and at the edge p_T = rho p_B of the hypothesis, each of them came from the
    trained draws with probability s = rho n_T / (rho n_T + n_B); the p-value is P(Binomial(c_T + c_B, s) >= c_T).
    Without a base success it is s^c_T.  The conditional test is exact for Poisson counts (small rates); binomial counts
    vary less, so that for them it errs on the safe side (checked by enumeration in the tests).

    A base that stopped at its first success, in draw J, goes in as 0 of J - 1: the misses before it.  That is the exact
    test for that stopping rule, while 1 of J would take J for a number fixed in advance.

    Args:
        base_c: base successes, whole numbers, broadcast with the others.
        base_n: base draws; 0 is allowed and certifies nothing.
        trained_c: trained successes.
        trained_n: trained draws, >= 1.
        rho: the ratio to beat, > 0.

    Returns:
        ``float64`` p-values of the broadcast shape.

    Raises:
        DreamEnvsError: for more successes than draws, NaN, an empty input, or rho <= 0.
    """
    from scipy.special import betainc

    right, of = _checks.successes(trained_c, trained_n)
    hits, drawn, right, of = _checks.together(
        base_c=_checks.counts("base_c", base_c), base_n=_checks.counts("base_n", base_n), trained_c=right, trained_n=of
    )
    if (hits > drawn).any():
        raise DreamEnvsError(f"base_c={hits[hits > drawn].flat[0]}: no more successes than draws")
    weight = float(_checks.numbers("rho", rho, 1e-9, 1e9, ndim=0)) * of
    # P(Bin(t, s) >= c) is the regularised incomplete beta function I_s(c, t - c + 1).
    tail = betainc(np.maximum(right, 1), hits + 1.0, weight / (weight + drawn))
    return np.where(right == 0, 1.0, tail)


@dataclass(frozen=True)
class Certified:
    """Which problems the trained model gained, with the false discovery rate under control.

    Attributes:
        p_value: ``float64[N]``, see ``ratio_p_value``.
        adjusted: ``float64[N]``, Benjamini and Hochberg over all N problems.
        chosen: ``bool[N]``, adjusted <= fdr.
    """

    p_value: np.ndarray
    adjusted: np.ndarray
    chosen: np.ndarray

    @property
    def count(self) -> int:
        """How many problems are certified."""
        return int(self.chosen.sum())


def certified(
    base_c: ArrayLike,
    base_n: ArrayLike,
    trained_c: ArrayLike,
    trained_n: ArrayLike,
    rho: float = RHO,
    fdr: float = 0.05,
) -> Certified:
    """The certified list: problems whose trained rate is shown to be more than ``rho`` times the base's.

    4 of 16 against 0 of 8,192 has p = 1.2e-5 and can be certified among 2,000 problems; against 0 of 1,024 it has
    p = 0.012 and cannot.  A base stopped at its first success J: pass 0 of J - 1 (see ``ratio_p_value``).

    Args:
        base_c: ``int[N]`` base successes (or a scalar).
        base_n: ``int[N]`` base draws (or a scalar).
        trained_c: ``int[N]`` trained successes.
        trained_n: ``int[N]`` trained draws (or a scalar).
        rho: the ratio to beat.
        fdr: the expected share of false entries, at most.

    Returns:
        p-values, adjusted p-values and the choice, one entry a problem.

    Raises:
        DreamEnvsError: see ``ratio_p_value``.
    """
    p = np.atleast_1d(ratio_p_value(base_c, base_n, trained_c, trained_n, rho))
    adjusted = benjamini_hochberg(p)
    return Certified(p, adjusted, adjusted <= _checks.inside("fdr", fdr))
