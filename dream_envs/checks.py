"""Checks of arguments, each with a one-line error that names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from dream_envs.core import DreamEnvsError

T = TypeVar("T")


def check(
    name: str, value: Any, low: float | None = None, high: float | None = None, *, whole: bool = False, what: str = ""
) -> Any:
    """``value`` if it is a finite number (a whole one) from ``low`` to ``high``; None is no bound.

    NaN and booleans are no numbers; a whole number comes back as an int.  ``what`` tells the error what is meant.
    """
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    above, below = -math.inf if low is None else low, math.inf if high is None else high
    number = isinstance(value, kinds) and not isinstance(value, bool) and -math.inf < value < math.inf
    if not number or not above <= value <= below:
        limits = f"{low} or more" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        limits = "a finite number" if low is high is None else f"a whole number from {limits}" if whole else limits
        raise DreamEnvsError(f"{name}={value!r:.80}: {limits}{', ' * bool(what)}{what}")
    return int(value) if whole else value


def one_of(name: str, value: T, options: Iterable[Any], what: str = "") -> T:
    """``value`` if it is among ``options`` and of their type; ``what`` explains them."""
    known = list(options)
    if not any(type(value) is type(option) and value == option for option in known):
        listed = ", ".join(map(repr, known[:-1])) + (" or " if len(known) > 1 else "") + repr(known[-1])
        raise DreamEnvsError(f"{name}={value!r:.80}: {listed}{'; ' * bool(what)}{what}")
    return value
