"""The nights of a run: what each one did, and exact success by depth before and behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dream_envs.report.read import items, walk
from dream_envs.report.words import NONE, number, probability, whole


def nights(frontier: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of ``frontier["nights"]``; ``rows`` is empty where nobody slept.

    Returns:
        ``depths``: the columns.  ``rows``: ``night``, ``lived``, ``tokens``, ``dreams`` ("6 of 9"), ``undone`` and
        ``cells``, a (evening, dawn, worse) for each depth.
    """
    told = [t for t in items(frontier.get("nights")) if isinstance(t, dict)]
    depths = sorted({d for t in told for d in (walk(t, "dawn") or {}) if str(d).isdigit()}, key=int)
    return {"depths": depths, "rows": [_row(i, t, depths) for i, t in enumerate(told, 1)]}


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
