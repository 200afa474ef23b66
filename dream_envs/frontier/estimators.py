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


def g_pass_at_k(n: ArrayLike, c: ArrayLike, k: int, tau: float) -> np.ndarray:
    """G-Pass@k_tau: unbiased estimate of P(at least ceil(tau k) of k draws are right), at least one.

    Args:
        n: draws.
        c: successes among them.
        k: draws to predict, 1 to n.
        tau: wanted share of right draws, 0 to 1.

    Raises:
        DreamEnvsError: for k > n, c > n, tau outside [0, 1], NaN or an empty input.
    """
    k, tau = _checks.whole("k", k, 1), float(_checks.numbers("tau", tau, 0, 1, ndim=0))
    return g_pass(n, c, k, max(1, math.ceil(tau * k - 1e-9)))  # 0.1 * 30 is 3.0000000000000004


def mg_pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> np.ndarray:
    """mG-Pass@k: twice the area under G-Pass@k_tau for tau from 0.5 to 1; 1 for a problem that is always solved.

    For even k this is the published (2 / k) sum_{i=k/2+1}^{k} G-Pass@k_{i/k}.  For odd k that sum leaves out half a
    step (an always solved problem would have 0.8 at k = 5); the area does not.

    Arguments and errors as for ``g_pass_at_k``.
    """
    k = _checks.whole("k", k, 1)
    middle = (k + 1) // 2
    steps = [(g_pass(n, c, k, i), 2 / k) for i in range(middle + 1, k + 1)]
    if k % 2:
        steps.append((g_pass(n, c, k, middle), 1 / k))
    return np.minimum(sum((weight * value for value, weight in steps), np.float64(0)), 1.0)


def pass_at_k_variance(n: int, p: ArrayLike, k: int) -> np.ndarray:
    """Variance of ``pass_at_k`` over the n draws of one problem, summed exactly over c = 0 ... n.

    n = k has a standard deviation up to 0.5 (a coin flip), n = 2k up to 0.30, n = 4k up to 0.20, whatever k.  Between
    problems the variance is of order pi (1 - pi) anyway, so more problems beat more draws at the same cost.

    Args:
        n: draws.
        p: true success rate, 0 to 1, any shape.
        k: attempts, 1 to n.

    Returns:
        ``float64`` of the shape of ``p``.

    Raises:
        DreamEnvsError: for k > n, p outside [0, 1], NaN or an empty input.
    """
    from scipy.special import xlog1py, xlogy

    n, rate = _checks.whole("n", n, 1), _checks.numbers("p", p, 0, 1)[..., None]
    c = np.arange(n + 1)
    weight = np.exp(_log_choose(np.full(n + 1, n), c) + xlogy(c, rate) + xlog1py(n - c, -rate))
    value = pass_at_k(n, c, k)
    mean = (weight * value).sum(-1, keepdims=True)
    return (weight * (value - mean) ** 2).sum(-1)


def pass_at_k_variance_delta(n: int, p: ArrayLike, k: int) -> np.ndarray:
    """First-order approximation k^2 p (1 - p)^(2k - 1) / n of ``pass_at_k_variance``; good for n much larger than k."""
    n, k, rate = _checks.whole("n", n, 1), _checks.whole("k", k, 1), _checks.numbers("p", p, 0, 1)
    if k > n:
        raise DreamEnvsError(f"k={k} from n={n} draws: k is at most n, or draw more")
    return k * k * rate * (1 - rate) ** (2 * k - 1) / n


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


def coverage_curve(first: ArrayLike, cap: int, k: ArrayLike, level: float = 0.95) -> dict[str, list[float]]:
    """pass@k of a set of problems for all k, from first successes, with two kinds of bands.

    Every problem has to have been drawn until its first success or the cap.  (Draws made only where a trained model
    succeeded say nothing about the other problems.)

    Args:
        first: ``int[N]``, 1-based; 0 = none within ``cap``.
        cap: draws after which a problem was given up.
        k: budgets, 1 to ``cap``.
        level: confidence.

    Returns:
        ``k``, ``mean``; ``low`` and ``high``, Clopper-Pearson for each k by itself; ``band_low`` and ``band_high``,
        which hold for all k together (Dvoretzky-Kiefer-Wolfowitz with Massart's constant, since the curve is the
        distribution function of J).  Both for problems drawn alike from one population.

    Raises:
        DreamEnvsError: see ``missed``.
    """
    solved = 1 - missed(first, cap, k)
    n, mean = len(solved), solved.mean(0)
    low, high = iv.clopper_pearson(solved.sum(0), n, level)
    half = math.sqrt(math.log(2 / (1 - level)) / (2 * n))
    columns = {
        "k": _checks.counts("k", np.atleast_1d(k)),
        "mean": mean,
        "low": low,
        "high": high,
        "band_low": np.maximum(mean - half, 0),
        "band_high": np.minimum(mean + half, 1),
    }
    return {name: column.tolist() for name, column in columns.items()}


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


def luck(g: ArrayLike, k: ArrayLike) -> np.ndarray:
    """P(a guesser with success rate g is right at least once in k draws): 1 - (1 - g)^k; 1e-4 at k = 1,024 is 9.7 %."""
    rate, tries = _checks.together(g=_checks.numbers("g", g, 0, 1), k=_checks.counts("k", k, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(tries == 0, 0.0, -np.expm1(tries * np.log1p(-rate)))


def guess_upper(hits: int, trials: int, level: float = 0.95) -> float:
    """Upper bound of a family's guess rate from ``trials`` independent guesses, ``hits`` of them right.

    Guesses are, for example, real responses scored against the gold answers of sibling problems.  All pairs of n
    responses and n answers are not n^2 independent trials; n disjoint pairs are n.
    """
    return float(iv.clopper_pearson(hits, trials, level, "upper")[1])


def guess_gate(g_upper: float, k_max: int, allowed: float = 0.05) -> bool:
    """Whether a family may count: luck finds an answer in ``k_max`` draws with probability ``allowed`` at most.

    g_upper <= allowed / k_max: 6.1e-6 for 8,192 draws, i.e. about 164,000 equally likely answers.
    """
    bound = float(_checks.numbers("g_upper", g_upper, 0, 1, ndim=0))
    return bound <= _checks.inside("allowed", allowed) / _checks.whole("k_max", k_max, 1)
