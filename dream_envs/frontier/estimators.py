"""Unbiased estimates from draws that were counted.

Notation: a problem has success probability p; c of n independent draws were right.

Sources: Chen et al. 2021, arXiv 2107.03374 (pass@k); Liu et al. 2024, arXiv 2412.13147 (G-Pass@k); arXiv 2510.08325
(Cover@tau); "The Invisible Leash", arXiv 2507.14843 (support counts).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import _checks


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> np.ndarray:
    """Unbiased estimate of 1 - (1 - p)^k, problem by problem: 1 - C(n-c, k) / C(n, k), by log-gamma.

    At n = k it is the coin flip 1[c > 0]; n = 2k or 4k draws give a smooth curve of one problem.

    Args:
        n: draws, whole numbers >= 1.
        c: successes, 0 to n.
        k: attempts to predict, 1 to n.  All three broadcast.

    Returns:
        ``float64`` of the broadcast shape, in [0, 1].

    Raises:
        DreamEnvsError: for k > n (never 1.0 for want of draws), c > n, NaN or an empty input.
    """
    of, right, tries = _of_draws(n, c, k)
    return np.where(right == 0, 0.0, -np.expm1(_log_miss(of, right, tries)))


def _of_draws(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    right, of = _checks.successes(c, n)
    of, right, tries = _checks.together(n=of, c=right, k=_checks.counts("k", k, 1))
    if (tries > of).any():
        at = np.flatnonzero((tries > of).ravel())[0]
        raise DreamEnvsError(f"k={tries.flat[at]} from n={of.flat[at]} draws: k is at most n, or draw more")
    return of, right, tries


def _log_miss(n: np.ndarray, c: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Log of C(n-c, k) / C(n, k): the probability that k of the n draws, picked blindly, are all wrong."""
    left = np.maximum(n - c - k, 0)
    log = _log_choose(n - c, np.minimum(k, n - c)) - _log_choose(n, k)
    return np.where(n - c - k < 0, -np.inf, np.where(left == n - k, 0.0, np.minimum(log, 0.0)))


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    from scipy.special import gammaln

    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)


def at_least(n: ArrayLike, c: ArrayLike, k: ArrayLike, need: int) -> np.ndarray:
    """Unbiased estimate of P(at least ``need`` of k draws are right): sum_j C(c, j) C(n-c, k-j) / C(n, k), j >= need.

    Args:
        n: draws.
        c: successes among them.
        k: draws to predict, 1 to n.  All three broadcast.
        need: successes wanted, >= 1; more than k is never reached.

    Returns:
        ``float64`` of the broadcast shape, in [0, 1].

    Raises:
        DreamEnvsError: for k > n, c > n, NaN or an empty input.
    """
    of, right, tries = _of_draws(n, c, k)
    need = _checks.whole("need", need, 1)
    if (tries == of).all():
        return (right >= need).astype(np.float64)
    total = np.zeros(of.shape)
    for j in range(need, int(tries.max()) + 1):
        fits = (j <= tries) & (j <= right) & (tries - j <= of - right)
        hit, miss = np.where(fits, j, 0), np.where(fits, tries - j, 0)
        log = _log_choose(right, hit) + _log_choose(of - right, miss) - _log_choose(of, tries)
        total += np.where(fits, np.exp(log), 0.0)
    return np.minimum(total, 1.0)


def reliable(n: ArrayLike, c: ArrayLike, need: int = 4, of: int = 16) -> np.ndarray:
    """R, the reliability that the headline asks for: P(at least ``need`` of ``of`` draws are right), estimated.

    With n = 16 draws it is 1[c >= 4].  p = 0.25 has R = 0.595, a guesser with p = 0.01 has 1.7e-5.  Arguments and
    errors as for ``at_least``.
    """
    return at_least(n, c, of, need)
