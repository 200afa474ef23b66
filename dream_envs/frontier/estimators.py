"""Unbiased estimates from draws that were counted.

Notation: a problem has success probability p; c of n independent draws were right.

Sources: Chen et al. 2021, arXiv 2107.03374 (pass@k); Liu et al. 2024, arXiv 2412.13147 (G-Pass@k); arXiv 2510.08325
(Cover@tau); "The Invisible Leash", arXiv 2507.14843 (support counts).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import _checks
from dream_envs.frontier import intervals as iv


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


def g_pass(n: ArrayLike, c: ArrayLike, k: ArrayLike, need: int) -> np.ndarray:
    """Unbiased estimate of P(at least ``need`` of k draws are right): sum_j C(c, j) C(n-c, k-j) / C(n, k), j >= need.

    ``need`` = 1 is pass@k, ``need`` = k is "all right" (pass^k).

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
    errors as for ``g_pass``.
    """
    return g_pass(n, c, of, need)


def missed(first: ArrayLike, cap: int, k: ArrayLike) -> np.ndarray:
    """1[J > k] for every k at once: unbiased estimates of (1 - p)^k from draws that stopped at the first success.

    Args:
        first: ``int[N]``, the draw of the first success, 1-based; 0 = none within ``cap``.
        cap: draws after which a problem was given up.
        k: ``int[K]`` budgets, 1 to ``cap``.

    Returns:
        ``float64[N, K]``.

    Raises:
        DreamEnvsError: for a budget above the cap, where nothing is known, or a first success beyond it.
    """
    cap = _checks.whole("cap", cap, 1)
    j = _checks.counts("first", first, 0, cap, ndim=1)
    budgets = _checks.counts("k", np.atleast_1d(k), 1, ndim=1)
    if budgets.max() > cap:
        raise DreamEnvsError(f"k={budgets.max()}: at most cap={cap}, the draws that were given")
    return ((j[:, None] == 0) | (j[:, None] > budgets)).astype(np.float64)


def support(
    base: ArrayLike,
    trained: ArrayLike,
    rng: np.random.Generator,
    strata: ArrayLike | None = None,
    draws: int = 10_000,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """How the two models' reach at a budget k overlaps, in shares of problems, without hard counting.

    P = both reach a problem, E = only the trained model, S = only the base, O = neither; SRR = P / (P + S),
    NDR = E / (P + E), SDS = their harmonic mean, NSCR = (E - S) / (P + E + S).  Means of products of independent
    unbiased estimates are unbiased for the four cells; the ratios are consistent.  E - S is the difference in pass@k.

    Args:
        base: ``float[N]``, unbiased pass@k (or 1[J <= k]) of each problem.
        trained: ``float[N]``, the same from draws that are independent of the base's.
        rng: the source of randomness.
        strata: N labels (families) for the bootstrap.
        draws: resamples.
        level: confidence.

    Returns:
        ``[value, low, high]`` by name; NaN for a ratio whose denominator is 0 (in a resample too: those are left out).

    Raises:
        DreamEnvsError: for values outside [0, 1], NaN, an empty input or different lengths.
    """
    b, t = _checks.numbers("base", base, 0, 1, ndim=1), _checks.numbers("trained", trained, 0, 1, ndim=1)
    if len(b) != len(t):
        raise DreamEnvsError(f"base has {len(b)} problems and trained {len(t)}: the same problems, in the same order")
    cells = np.stack([b * t, (1 - b) * t, b * (1 - t), (1 - b) * (1 - t)], axis=1)
    point, resampled = _ratios(cells.mean(0)), _ratios(iv.bootstrap_means(cells, rng, strata, draws))
    out = {}
    for name, value in point.items():
        known = resampled[name][np.isfinite(resampled[name])]
        ends = iv.percentile(known, level) if len(known) else (math.nan, math.nan)
        out[name] = [float(value), *ends]
    return out


def _ratios(cells: np.ndarray) -> dict[str, np.ndarray]:
    """The eight numbers from ``float64[..., 4]`` shares P, E, S, O."""
    p, e, s, o = np.moveaxis(cells, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        srr, ndr, nscr = p / (p + s), e / (p + e), (e - s) / (p + e + s)
        sds = 2 * srr * ndr / (srr + ndr)
    sds = np.where((srr + ndr) == 0, 0.0, sds)
    return {"P": p, "E": e, "S": s, "O": o, "SRR": srr, "NDR": ndr, "SDS": sds, "NSCR": nscr}
