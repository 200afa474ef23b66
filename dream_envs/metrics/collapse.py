"""When a loop has lost its variety: rules on a series of checkpoints, and the steps at which to look.

A checkpoint is a mapping of the measures of ``replies.measure``; the first one is the base.  Two rules ring:

1. the Vendi score across prompts is below half of the base's at two checkpoints in a row;
2. one format has more than 90 % of the completions at two checkpoints in a row, and the base's top one less than 60 %;

and CUSUM (Page 1954) finds what sinks too slowly for them: with z = log2(base / now), 0 as the base and 1 halved, of
the score (and of the effective number of formats, where the base's top one had less than 60 %), S = max(0, S + z - 1/2)
rings above 1.  Two checkpoints at half of the base reach the edge, ten at 0.65 of it ring, any number at 0.75 never
does.  A base that has one format and makes mistakes in it loses "formats" by learning, hence the condition.
Completions of one prompt grow alike because they grow right, so the score is the one across prompts.

False alarms (``tests/test_collapse.py`` measures them): at most 1 in 1,000 runs of twelve checkpoints, their
completions drawn from the base itself, 24 prompts of 4 draws each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

Point = Mapping[str, float | None]

#: Ratio of the Vendi score to the base's; shares of the commonest format, of a checkpoint and of the base; checkpoints
#: in a row; slack and limit of the CUSUM, in halvings.
VENDI, TOP, BASE_TOP, RUN, SLACK, LIMIT = 0.5, 0.9, 0.6, 2, 0.5, 1.0


def log_spaced(step: int, last: int | None = None, every: int = 1) -> bool:
    """Whether to look at this step: 0, 1, 2, 4, 8 ... times ``every``, and the last one.

    >>> [s for s in range(25) if log_spaced(s, last=24)]
    [0, 1, 2, 4, 8, 16, 24]
    """
    count, rest = divmod(step, every)
    return step == last or (rest == 0 and count & (count - 1) == 0)


def cusum(values: Sequence[float]) -> list[float]:
    """One-sided CUSUM: S_t = max(0, S_{t-1} + x_t - 1/2) at every point."""
    return list(itertools.accumulate(values, lambda s, x: max(0.0, s + x - SLACK), initial=0.0))[1:]


def collapse(points: Sequence[Point]) -> list[str]:
    """What the newest checkpoint rings, in words, each ``fact: meaning``; empty if nothing does.

    ``points``: checkpoints, the base first; a measure that is missing or None takes part in no rule.
    """
    if len(points) < 2:
        return []
    base, now, key = points[0], points[-1], "vendi_across"
    found, top = [], base.get("top_share")
    latest = points[1:][-RUN:] if len(points) > RUN else []
    lost, tops = [_halvings(base, p, key) for p in latest], [p.get("top_share") for p in latest]
    if latest and all(z is not None and z > -math.log2(VENDI) for z in lost):
        found.append(f"Vendi score fell from {base[key]:.1f} to {now[key]:.1f}: replies have grown alike")
    if latest and top is not None and top < BASE_TOP and all(s is not None and s > TOP for s in tops):
        found.append(f"one format has {tops[-1]:.2f} of the replies ({top:.2f} at first): the others are lost")
    if found:
        return found
    formats = {"effective_formats": "effective number of formats"} if (top or 0.0) < BASE_TOP else {}
    for name, words in {key: "Vendi score", **formats}.items():
        known = [z for p in points[1:] if (z := _halvings(base, p, name)) is not None]
        if known and (path := cusum(known))[-1] > LIMIT and known[-1] > SLACK:
            share = 2.0 ** -known[-1]
            found.append(f"{words} at {share:.2f} of the base's, CUSUM {path[-1]:.2f}: variety is being lost slowly")
    return found


def _halvings(base: Point, now: Point, key: str) -> float | None:
    """log2(base / now), None where either is missing or not positive."""
    a, b = base.get(key), now.get(key)
    return math.log2(a / b) if a and b and a > 0 and b > 0 and math.isfinite(a) and math.isfinite(b) else None
