"""The nights of a run: what each one did, exact success before and behind it, and what is left of each lesson."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dream_envs.report.read import items, walk
from dream_envs.report.words import NONE, number, probability, visible, whole

_MOST = 64


def nights(frontier: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of ``frontier["nights"]``; ``rows`` is empty where nobody slept.

    Returns:
        ``depths``: the columns.  ``rows``: ``night``, ``lived``, ``tokens``, ``dreams`` ("6 of 9"), ``undone`` and
        ``cells``, a (evening, dawn, worse) for each depth.
    """
    told = [t for t in items(frontier.get("nights")) if isinstance(t, dict)]
    depths = sorted({d for t in told for d in (walk(t, "dawn") or {}) if str(d).isdigit()}, key=int)
    return {"depths": depths, "rows": [_row(i, t, depths) for i, t in enumerate(told, 1)]}


def retention(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of ``sleeping.json``: the matrix R of ``SleepCycle``; ``rows`` is empty for any other run.

    Returns:
        ``lessons``: the columns.  ``rows``: ``night``, ``open`` (success on the day's lesson with its context) and
        ``cells``, closed-book success on each lesson that was taught by then, as (text, shade from 0 to 10); empty
        for the others.
    """
    matrix, opened = items(walk(told, "facts", "closed")), items(walk(told, "facts", "open"))
    lessons = items(walk(told, "facts", "lessons"))[:_MOST]
    rows = []
    for i, row in enumerate(matrix[:_MOST]):
        known = items(row)[: i + 1]
        cells = [(probability(v), round(10 * min(max(number(v) or 0.0, 0.0), 1.0))) for v in known]
        rows.append({"night": i + 1, "open": probability(opened[i] if i < len(opened) else None), "cells": cells})
    return {"lessons": [visible(name, 20) for name in lessons], "rows": rows}


def _row(number_: int, told: Mapping[str, Any], depths: list[str]) -> dict[str, Any]:
    dreamt = len(items(walk(told, "night", "dreams")))
    return {
        "night": number_,
        "lived": whole(walk(told, "night", "lived")),
        "tokens": whole(walk(told, "night", "tokens")),
        "dreams": f"{whole(walk(told, 'night', 'good'))} of {dreamt}" if dreamt else NONE,
        "undone": walk(told, "night", "undone") is True,
        "cells": [_cell(walk(told, "evening", d), walk(told, "dawn", d)) for d in depths],
    }


def _cell(evening: Any, dawn: Any) -> tuple[str, str, bool]:
    before, after = number(evening), number(dawn)
    return probability(evening), probability(dawn), before is not None and after is not None and after < before - 0.01
