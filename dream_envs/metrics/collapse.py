"""When a loop has lost its variety: rules on a series of checkpoints, and the steps at which to look.

A checkpoint is a mapping of the measures of ``replies.measure``; the first one is the base.  Three rules ring:

1. the Vendi score is below half of the base's at two checkpoints in a row;
2. one format has more than 90 % of the replies at two checkpoints in a row, and the base's top one had less than 60 %;
3. on open-ended prompts more than 20 % of the answers repeat another one exactly (and more than the base's did);

and CUSUM finds what sinks too slowly for them: with z = log2(base / now), 0 as the base and 1 halved, of the score
(and of the effective number of formats, where the base's top one had less than 60 %), S = max(0, S + z - 1/2) rings
above 1.  Two checkpoints at half of the base reach the edge, ten at 0.65 of it ring, any number at 0.75 never does.
A base that has one format and makes mistakes in it loses "formats" by learning, hence the condition.

Which Vendi score: on problems with one right answer replies to one prompt grow alike because they grow right, so there
it is the one across prompts (``vendi_across``); on open-ended prompts it is the one within a prompt (``vendi``).

False alarms (``tests/test_collapse.py`` measures them): at most 1 in 1,000 runs of twelve checkpoints, their replies
drawn from the base itself, 24 prompts of 4 draws each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from dream_envs.core import DreamEnvsError

Point = Mapping[str, float | None]


class Thresholds(msgspec.Struct, frozen=True):
    """Where the rules ring.

    ``vendi``: ratio to the base.  ``top``, ``base_top``: shares of the commonest format.  ``duplicates``: share of the
    answers.  ``run``: so many checkpoints in a row.  ``slack``, ``limit``: of the CUSUM, in halvings.
    """

    vendi: float = 0.5
    top: float = 0.9
    base_top: float = 0.6
    duplicates: float = 0.2
    run: int = 2
    slack: float = 0.5
    limit: float = 1.0


def log_spaced(step: int, last: int | None = None, every: int = 1) -> bool:
    """Whether to look at this step: 0, 1, 2, 4, 8 ... times ``every``, and the last one.

    >>> [s for s in range(25) if log_spaced(s, last=24)]
    [0, 1, 2, 4, 8, 16, 24]
    """
    if step == last:
        return True
    count, rest = divmod(step, every)
    return rest == 0 and count & (count - 1) == 0


def cusum(values: Sequence[float], slack: float, limit: float) -> tuple[list[float], int | None]:
    """One-sided CUSUM (Page 1954): S_t = max(0, S_{t-1} + x_t - slack).

    Returns:
        S at every point, and the index at which it first exceeds ``limit`` (None: never).
    """
    path: list[float] = []
    first = None
    for i, value in enumerate(values):
        path.append(max(0.0, (path[-1] if path else 0.0) + value - slack))
        if first is None and path[-1] > limit:
            first = i
    return path, first


def collapse(points: Sequence[Point], *, open_ended: bool = False, thresholds: Thresholds | None = None) -> list[str]:
    """What the newest checkpoint rings, in words, each ``fact: meaning``; empty if nothing does.

    Args:
        points: checkpoints, the base first; a measure that is missing or None takes part in no rule.
        open_ended: prompts have no single right answer; see above.
        thresholds: other limits than the standard ones.

    Raises:
        DreamEnvsError: if ``thresholds.run`` is below 1.
    """
    t = thresholds or Thresholds()
    if t.run < 1:
        raise DreamEnvsError(f"run={t.run}: 1 or more checkpoints in a row")
    if len(points) < 2:
        return []
    base, now = points[0], points[-1]
    key = "vendi" if open_ended else "vendi_across"
    found = []
    lost = [_halvings(base, p, key) for p in points[1:]]
    if _lasting([z is not None and z > -math.log2(t.vendi) for z in lost], t.run):
        found.append(f"Vendi score fell from {base[key]:.1f} to {now[key]:.1f}: replies have grown alike")
    top = base.get("top_share")
    tops = [p.get("top_share") for p in points[1:]]
    if top is not None and top < t.base_top and _lasting([s is not None and s > t.top for s in tops], t.run):
        found.append(f"one format has {tops[-1]:.2f} of the replies ({top:.2f} at first): the others are lost")
    repeats, before = now.get("duplicates"), base.get("duplicates") or 0.0
    if open_ended and repeats is not None and repeats > max(t.duplicates, before):
        found.append(f"{repeats:.2f} of the answers repeat another one: open-ended prompts are answered by rote")
    return found or _sinking(points, key, t)


def _sinking(points: Sequence[Point], key: str, t: Thresholds) -> list[str]:
    found = []
    measures = [(key, "Vendi score")]
    if (points[0].get("top_share") or 0.0) < t.base_top:
        measures.append(("effective_formats", "effective number of formats"))
    for name, words in measures:
        lost = [z for p in points[1:] if (z := _halvings(points[0], p, name)) is not None]
        path, _ = cusum(lost, t.slack, t.limit)
        if path and path[-1] > t.limit and lost[-1] > t.slack:
            share = 2.0 ** -lost[-1]
            found.append(f"{words} at {share:.2f} of the base's, CUSUM {path[-1]:.2f}: variety is being lost slowly")
    return found


def _halvings(base: Point, now: Point, key: str) -> float | None:
    """log2(base / now), None where either is missing or not positive."""
    a, b = base.get(key), now.get(key)
    return math.log2(a / b) if a and b and a > 0 and b > 0 and math.isfinite(a) and math.isfinite(b) else None


def _lasting(rings: Sequence[bool], run: int) -> bool:
    return len(rings) >= run and all(rings[-run:])
