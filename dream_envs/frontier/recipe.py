"""FG* of a training recipe: several runs, and what another run of the same recipe could have shown.

One run is a claim about a checkpoint.  Five or more are a claim about the recipe (three is the least for an interval).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import gain
from dream_envs.frontier import intervals as iv


def across_runs(
    evidence: Sequence[gain.Evidence],
    rng: np.random.Generator,
    budgets: Sequence[int] = gain.BUDGETS,
    draws: int = 10_000,
    level: float = 0.95,
) -> gain.Headline:
    """The headline of a recipe: several training runs, measured on the same problems.

    The vector of each problem is averaged over runs and FG* made of the averages, with one tail for all; intervals
    as in ``gain.headline``.  With three runs or more, ``runs`` holds the crossed problem x run interval: FG* is
    linearised (it is homogeneous of degree one in E and S, so that the problems' influences average to FG* itself) and
    handed to ``intervals.crossed_interval``, which charges R - 1 degrees of freedom for the runs.

    Args:
        evidence: one entry a run; the same problems in the same order, with the same families.
        rng: the source of randomness.
        budgets: as for ``gain.headline``.
        draws: bootstrap resamples.
        level: confidence.

    Raises:
        DreamEnvsError: for runs on different problems, none at all, and what ``gain.headline`` refuses.
    """
    if not evidence:
        raise DreamEnvsError("no runs: at least one Evidence is needed")
    one = evidence[0]
    for other in evidence[1:]:
        if not (np.array_equal(one.family, other.family) and np.array_equal(one.held_out, other.held_out)):
            raise DreamEnvsError("the runs were measured on different problems: the same ones, in the same order")
    tables = np.stack([gain.contributions(e, gain.doublings(budgets)) for e in evidence], axis=1)  # [N, R, 5]
    found = gain.summarise(tables.mean(1), one.family, one.held_out, rng, gain.doublings(budgets), draws, level)
    count = len(evidence)
    if count < 3:
        return found
    influence = 100 * (tables[..., :4] @ _tail_gradient(tables.mean((0, 1))[:4]) - tables[..., 4])
    _, low, high = iv.crossed_interval(influence, gain.pooled_strata(one.family), level)
    low, high = gain.opened(tables.mean(1), found.fg, low, high, level)
    return msgspec.structs.replace(found, runs=gain.Runs(found.fg, low, high, count))


def _tail_gradient(e: np.ndarray) -> np.ndarray:
    """dE*/dE(k), ``float64[4]``; at the ends of the clip, of the clipped formula."""
    ratio = float(gain.tail_corrected(e)[1])
    factor = ratio / (1 - ratio)
    out = np.array([0.0, 0.0, -factor, 1 + factor])
    if 0 < ratio < gain.MAX_RATIO:  # factor = b / c moves too, b = e1 - e3, c = e0 - e1 - e2 + e3
        drop, c = e[2] - e[3], e[0] - e[1] - e[2] + e[3]
        out -= drop * (np.array([0.0, 1.0, 0.0, -1.0]) - factor * np.array([1.0, -1.0, -1.0, 1.0])) / c
    return out
