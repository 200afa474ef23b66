"""Figures over seeds: means with 95 % t-intervals, and what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dream_envs.baselines.studies.echo_study import t_interval

#: Mean, low and high; the ends are nan for one seed.
Interval = list[float]


def over(values: Sequence[float | None]) -> Interval | None:
    """Mean and 95 % interval over seeds of what is there; None of nothing."""
    known = [v for v in values if v is not None]
    return t_interval(known) if known else None


def paired(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> Interval | None:
    """Mean difference a - b over the seeds (the keys) for which both have a figure."""
    both = [(x, b.get(seed)) for seed, x in a.items()]
    return over([x - y for x, y in both if x is not None and y is not None])


def sign(interval: Interval | None, direction: int) -> str:
    """``yes`` if the interval lies on that side of 0, ``no, the reverse`` on the other, else ``no change shown``."""
    if interval is None:
        return "not measured"
    mean, low, high = interval
    if math.isnan(low):
        low = high = mean
        one = " (one seed)"
    else:
        one = ""
    if min(low * direction, high * direction) > 0:
        return "yes" + one
    return ("no, the reverse" if max(low * direction, high * direction) < 0 else "no change shown") + one


def show(interval: Interval | None) -> str:
    """``0.52 [0.50, 0.54]``, the mean alone of one seed, a dash of nothing."""
    if interval is None:
        return "-"
    mean, low, high = interval
    return f"{mean:.2f}" if math.isnan(low) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
