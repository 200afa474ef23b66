"""What a life of days and nights comes to: the accuracy matrix, transfer, forgetting, gap, tokens and dreams.

Rows of questions are ``{"agent", "phase", "night", "lesson", "level", "value", "status"}``; ``value`` is None where a
call failed: such a question counts in no mean, and is counted beside them.  Definitions are those of
``frontier.retention``, point estimates without intervals: there every lesson is a suite and every night a stage.
Sources: Lopez-Paz and Ranzato 2017 (transfer); Chaudhry et al. 2018 (forgetting is measured against the best).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
#: Which phases' tokens are reported together.
COSTS = {"before": "probing", "wake": "awake", "sleep": "asleep", "recall": "probing", "ahead": "probing"}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None if none is."""
    found = [v for v in values if v is not None]
    return math.fsum(found) / len(found) if found else None


def measures(rows: Sequence[Row], nights: int, pretest: bool) -> dict[str, Any]:
    """Everything that is measured by questions; None where nothing was.

    ``open[j]``: success with the context of lesson j.  ``before[j]``: closed book before the first day (None without a
    pretest).  ``closed[i][j]``: closed book after night i on lesson j; ``closed[i][i + 1]`` (asked with a pretest) is
    lesson j just before it is taught.  ``average_accuracy``: mean of the last row.  ``backward_transfer``: mean over
    all lessons but the last of (last night - best earlier score); ``forgetting`` with the other sign.
    ``since_learnt``: mean over these lessons of (last night - own night), Lopez-Paz' form.  ``forward_transfer``: mean
    over all lessons but the first of (just before its day - before the first day).  ``gap``: mean over lessons of
    (closed book after its own night - open).  ``failed``: questions without a verdict, by status.
    """
    found: dict[tuple[str, int, int], list[float | None]] = {}
    for row in rows:
        found.setdefault((row["phase"], row["night"], row["lesson"]), []).append(row["value"])
    every = range(nights)

    def score(phase: str, night: int, lesson: int) -> float | None:
        return mean(found.get((phase, night, lesson), ()))

    opened = [score("wake", j, j) for j in every]
    before = [score("before", -1, j) for j in every] if pretest else None
    closed = [[score("recall" if j <= i else "ahead", i, j) for j in every] for i in every]
    first = before or [None] * nights
    best = [
        max((v for v in [first[j], *[closed[i][j] for i in every[:-1]]] if v is not None), default=None) for j in every
    ]
    last = closed[-1]
    backward = mean(_minus(last[j], best[j]) for j in every[:-1])
    return {
        "open": opened,
        "before": before,
        "closed": closed,
        "average_accuracy": mean(last),
        "backward_transfer": backward,
        "forgetting": None if backward is None else 0.0 - backward,
        "since_learnt": mean(_minus(last[j], closed[j][j]) for j in every[:-1]),
        "forward_transfer": mean(_minus(closed[j - 1][j], first[j]) for j in every[1:]),
        "gap": mean(_minus(closed[j][j], opened[j]) for j in every),
        "failed": dict(sorted(Counter(row["status"] for row in rows if row["value"] is None).items())),
    }


def dreaming(rows: Sequence[Row]) -> dict[str, Any]:
    """Dreams asked for, valid, distinct (different questions within their night), failed calls, rejects by code."""
    valid = [row for row in rows if row["valid"]]
    return {
        "asked": len(rows),
        "valid": len(valid),
        "distinct": len({(row["night"], row["question"]) for row in valid}),
        "failed": sum(row["status"] != "ok" for row in rows),
        "rejects": dict(sorted(Counter(row["reject"] for row in rows if row["reject"]).items())),
    }


def costs(spent: Iterable[tuple[str, int, int | None]]) -> dict[str, dict[str, int]]:
    """Tokens ``read`` and ``written`` while ``awake``, ``asleep`` and ``probing``; ``uncounted``: completions without.

    ``spent``: phase, tokens read, tokens written (None: nobody counted) of each completion.
    """
    found = {part: {"read": 0, "written": 0, "uncounted": 0} for part in ("awake", "asleep", "probing")}
    for phase, read, written in spent:
        own = found[COSTS[phase]]
        own["read"] += read
        own["written"] += written or 0
        own["uncounted"] += written is None
    return found


def with_sames(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of dreams with ``same``: how many other dreams of the night ask the same."""
    count = Counter((row["night"], row["question"]) for row in rows if row["valid"])
    return [{**row, "same": count[row["night"], row["question"]] - 1 if row["valid"] else 0} for row in rows]


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
