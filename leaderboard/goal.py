"""What an entry races for, and the score of a learning curve; without torch, for whoever only shows it."""

from __future__ import annotations

import msgspec

from dream_envs.leaderboard.budget import Budget, Used

#: Levels that are measured, and problems of each, which no training meets.
LEVELS, PROBLEMS = (1, 2, 3, 8), 128
#: Where the race ends: this success at the deepest level, with that at all others.
GOAL, KEPT = 0.5, 0.9


class Point(msgspec.Struct, frozen=True):
    """A reading and mean exact success by level, as text of the level."""

    used: Used
    success: dict[str, float]

    @property
    def there(self) -> bool:
        """Whether the goal is reached."""
        *kept, deepest = (self.success[str(level)] for level in LEVELS)
        return deepest >= GOAL and min(kept) >= KEPT


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to.

    ``samples``: at the first reading within the budget that reaches the goal; None for a miss.  ``miss``: which half of
    the goal no reading had, "" where it was reached.
    """

    samples: int | None
    miss: str
    best: float


def outcome(curve: list[Point], budget: Budget) -> Outcome:
    """The score of a curve."""
    inside = [p for p in curve if budget.within(p.used)]
    best = max((p.success[str(LEVELS[-1])] for p in inside), default=0.0)
    for point in inside:
        if point.there:
            return Outcome(point.used.samples, "", best)
    deep = any(p.success[str(LEVELS[-1])] >= GOAL for p in inside)
    halves = {
        True: f"depth {LEVELS[-1]} reached {GOAL:g}, but never with depths {LEVELS[0]} to {LEVELS[-2]} at {KEPT:g}",
        False: f"depth {LEVELS[-1]} stayed below {GOAL:g} (best {best:.3f})",
    }
    return Outcome(None, halves[deep], best)
