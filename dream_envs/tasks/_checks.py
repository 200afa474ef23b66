"""What every family asks of its arguments and of a reply, in one place: checks with one-line errors, exact matching."""

from __future__ import annotations

from typing import Any

import numpy as np

from dream_envs.core import DreamEnvsError

NOTATIONS = ("compact", "english")
_BLANKS = " \t\r\n"
_MARGIN = 64


def notation(family: str, value: Any) -> str:
    """``value`` if it is a notation.

    Raises:
        DreamEnvsError: if it is not.
    """
    if not isinstance(value, str) or value not in NOTATIONS:
        raise DreamEnvsError(f"notation={value!r}: {family} has 'compact' and 'english'")
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as an int if it is a whole number from ``low`` to ``high``.

    Raises:
        DreamEnvsError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise DreamEnvsError(f"{name}={value!r}: a whole number from {low} to {high}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """``value`` if it is True or False.

    Raises:
        DreamEnvsError: if it is not.
    """
    if not isinstance(value, bool):
        raise DreamEnvsError(f"{name}={value!r}: True or False")
    return value


def level(family: str, value: Any, levels: range) -> int:
    """``value`` as an int if it is one of ``levels``.

    Raises:
        DreamEnvsError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or int(value) not in levels:
        raise DreamEnvsError(f"level={value!r}: {family} has {levels.start} to {levels.stop - 1}")
    return int(value)


def same(reply: str, answer: str) -> bool:
    """Whether ``reply`` is ``answer`` but for up to 64 blanks, tabs and line ends around it: the ``english`` rule.

    Chat templates and the cutting off of a reasoning block leave those behind.  ``compact`` notation forgives nothing:
    one accepted completion makes exact success probabilities possible.
    """
    return trim(reply, len(answer)) == answer


def trim(reply: str, length: int) -> str:
    """``reply`` without surrounding ASCII white space; one more than 64 characters over ``length`` is left alone."""
    return reply.strip(_BLANKS) if len(reply) <= length + _MARGIN else reply
