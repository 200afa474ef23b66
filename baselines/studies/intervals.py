"""Figures over seeds: means with 95 % t-intervals, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dream_envs.core import DreamEnvsError

#: Mean, low and high; the ends are nan for one seed.
Interval = list[float]


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student's t interval over runs; the ends are nan for fewer than two.

    Raises:
        DreamEnvsError: for no value or one that is not finite.
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    if not x.size or not np.isfinite(x).all():
        raise DreamEnvsError(f"t_interval of {list(values)!r:.80}: one finite value or more")
    mean = float(x.mean())
    if len(x) < 2:
        return [mean, math.nan, math.nan]
    half = float(t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return [mean, mean - half, mean + half]


def over(values: Sequence[float | None]) -> Interval | None:
    """Mean and 95 % interval over seeds of what is there; None of nothing."""
    known = [v for v in values if v is not None]
    return t_interval(known) if known else None


def ends(interval: Interval) -> tuple[float, float]:
    """Low and high; the mean twice for one seed."""
    mean, low, high = interval
    return (mean, mean) if math.isnan(low) else (low, high)


def sign(interval: Interval | None, direction: int = 1) -> str:
    """``yes`` if the interval lies on that side of 0, ``no, the reverse`` on the other, else ``no change shown``."""
    if interval is None:
        return "not measured"
    one = " (one seed)" if math.isnan(interval[1]) else ""
    low, high = sorted(end * direction for end in ends(interval))
    return ("yes" if low > 0 else "no, the reverse" if high < 0 else "no change shown") + one


def show(interval: Interval | None, digits: int = 2) -> str:
    """``0.52 [0.50, 0.54]``; the mean alone of one seed, or where it is too small (``2.8e-12``); a dash of nothing."""
    if interval is None:
        return "-"
    if digits and 0 < abs(interval[0]) < 0.5 * 10**-digits and max(map(abs, ends(interval))) < 10**-digits:
        return f"{interval[0]:.1e}"
    mean, low, high = (f"{x + 0.0:,.{digits}f}" for x in interval)
    return mean if math.isnan(interval[1]) else f"{mean} [{low}, {high}]"
