"""How hard problems are on a yardstick that does not move: learnable shares, drift in logits, the frontier of a model.

Self-rated difficulty means nothing in self-play, since both players move; so difficulty is what a frozen model finds.
Sources: Rasch 1960 (one-parameter logistic); Huber 1967 and White 1980 (robust variance).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.store import wilson
from dream_envs.frontier import _checks

_Z = 1.959963984540054
_STEPS = 60
_STEEP = 1e4


def band_share(c: ArrayLike, n: ArrayLike, low: float = 0.2, high: float = 0.8) -> list[float]:
    """Share of problems whose observed success rate is in [low, high], with its Wilson interval.

    With few attempts a problem may be in the band by luck: of problems that are solved half of the time 93 % are in it
    with eight attempts, of those solved 95 % of the time 6 %.

    Raises:
        DreamEnvsError: for impossible counts or ends.
    """
    right, tried = _checks.successes(c, n)
    if not 0 <= low <= high <= 1:
        raise DreamEnvsError(f"band [{low}, {high}]: 0 <= low <= high <= 1")
    rate = right / tried
    inside = ((rate >= low - 1e-12) & (rate <= high + 1e-12)).ravel()
    found = wilson(int(inside.sum()), inside.size)
    return [found.p, found.low, found.high]


def learnability(c: ArrayLike, n: ArrayLike) -> float:
    """Mean p (1 - p) without bias: c (n - c) / (n (n - 1)), of problems with two attempts or more; nan for none.

    The plain c/n (1 - c/n) is too low by a factor 1 - 1/n.

    Raises:
        DreamEnvsError: for impossible counts.
    """
    right, tried = (x.ravel().astype(np.float64) for x in _checks.successes(c, n))
    kept = tried > 1
    right, tried = right[kept], tried[kept]
    return float((right * (tried - right) / (tried * (tried - 1))).mean()) if kept.any() else math.nan


def linear_drift(steps: ArrayLike, values: ArrayLike) -> list[float] | None:
    """Least-squares slope of ``values`` per step with its 95 % t interval; None below three different steps.

    For exact log-odds, one number a step.  Neighbouring steps share problems and models, which the interval does not
    know: read it as a summary of the course.

    Raises:
        DreamEnvsError: for lists that do not fit together, or values that are not finite.
    """
    from scipy.special import stdtrit

    x, y = _checks.numbers("steps", steps, ndim=1), _checks.numbers("values", values, ndim=1)
    if len(x) != len(y):
        raise DreamEnvsError(f"{len(x)} steps and {len(y)} values: one each")
    if len(np.unique(x)) < 3:
        return None
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread
    rest = y - y.mean() - slope * centred
    half = float(stdtrit(len(x) - 2, 0.975)) * math.sqrt(float((rest**2).sum()) / (len(x) - 2) / spread)
    return [slope, slope - half, slope + half]


def logit_drift(steps: ArrayLike, c: ArrayLike, n: ArrayLike) -> list[float] | None:
    """Change of a frozen model's log-odds of success per step, from draws: logistic regression, robust 95 % interval.

    Args:
        steps: for each problem the step at which the loop made it.
        c: right replies of the frozen model, out of
        n: draws.

    Returns:
        Slope, low, high in logits per step (negative: problems grow harder); None with one step only, or if the slope
        is not determined (nothing or everything solved, or all steps before some point solved and none after it).

    Raises:
        DreamEnvsError: for lists that do not fit together or impossible counts.
    """
    x = _checks.numbers("steps", steps, ndim=1)
    fit = _logistic(x, *_shares(x, c, n))
    if fit is None:
        return None
    (_, slope), cov = fit
    half = _Z * math.sqrt(max(0.0, cov[1, 1]))
    return [slope, slope - half, slope + half]


def frontier_level(
    difficulty: ArrayLike, c: ArrayLike, n: ArrayLike, slope: float | None = 1.0
) -> tuple[float, float, float] | None:
    """The difficulty that a model solves half of the time: p = 1 / (1 + exp(-slope (ability - difficulty))).

    A one-parameter logistic (Rasch) on anchors, items whose difficulty is known beforehand and never changes.

    Args:
        difficulty: of each anchor: logits on a frozen model's scale, or levels of a family.
        c: successes (fractions allowed: exact probabilities times n), out of
        n: draws.
        slope: log-odds per unit of difficulty; 1 for logits.  None: estimated as well, which levels need.

    Returns:
        Value, low, high (95 %, robust to anchors that deviate from the curve); None if everything or nothing was
        solved, or, with ``slope=None``, if success does not fall with difficulty.

    Raises:
        DreamEnvsError: for lists that do not fit together, impossible counts, or a slope that is not positive.
    """
    x = _checks.numbers("difficulty", difficulty, ndim=1)
    shares, tried = _shares(x, c, n)
    if slope is None:
        fit = _logistic(x, shares, tried)
        if fit is None or fit[0][1] >= 0:
            return None
        (a, b), cov = fit
        value, gradient = -a / b, np.array([-1 / b, a / b**2])
        half = _Z * math.sqrt(max(0.0, float(gradient @ cov @ gradient)))
        return value, value - half, value + half
    if not slope > 0:
        raise DreamEnvsError(f"slope={slope!r}: log-odds lost per unit of difficulty, more than 0 (None: estimate it)")
    if not 0 < (shares * tried).sum() < tried.sum():
        return None
    low, high = float(x.min()) - 800 / slope, float(x.max()) + 800 / slope
    for _ in range(200):  # the score falls steadily with the ability
        ability = (low + high) / 2
        more = (tried * (shares - _sigmoid(slope * (ability - x)))).sum() > 0
        low, high = (ability, high) if more else (low, ability)
    p = _sigmoid(slope * (ability - x))
    information = slope**2 * float((tried * p * (1 - p)).sum())
    scores = slope * tried * (shares - p)
    half = _Z * math.sqrt(max(information, float((scores**2).sum()))) / max(information, 1e-300)
    return ability, ability - half, ability + half


def _shares(x: np.ndarray, c: ArrayLike, n: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    right, tried = _checks.numbers("c", c, 0), _checks.numbers("n", n, 1e-12)
    try:
        right, tried = np.broadcast_to(right, x.shape), np.broadcast_to(tried, x.shape)
    except ValueError:
        raise DreamEnvsError(f"{len(x)} rows, but c has shape {right.shape} and n {tried.shape}: one each") from None
    if (right > tried * (1 + 1e-9)).any():
        raise DreamEnvsError("c is above n: no more successes than draws")
    return np.minimum(right / tried, 1.0), tried


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _logistic(x: np.ndarray, shares: np.ndarray, tried: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Intercept and slope with the larger of model and sandwich covariance; None if they are not determined."""
    scale = float(np.ptp(x))
    if scale == 0 or not 0 < (shares * tried).sum() < tried.sum():
        return None
    design = np.stack([np.ones_like(x), (x - x.mean()) / scale], axis=1)
    beta = np.zeros(2)
    for _ in range(_STEPS):
        p = _sigmoid(design @ beta)
        weight = tried * p * (1 - p)
        information = design.T @ (weight[:, None] * design)
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, design.T @ (tried * (shares - p)))
        step *= min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        beta = beta + step
        if np.abs(beta).max() > _STEEP:
            return None
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    inverse = np.linalg.inv(information)
    scores = (tried * (shares - p))[:, None] * design
    robust = inverse @ (scores.T @ scores) @ inverse
    cov = robust if robust[1, 1] > inverse[1, 1] else inverse
    turn = np.array([[1.0, -x.mean() / scale], [0.0, 1.0 / scale]])
    return turn @ beta, turn @ cov @ turn.T
