"""Composition World with three accepted answer formats, for the question which of them training keeps.

The same problem ``c:BDA`` may be answered in one of three formats, told apart by their structure alone:

- ``trace``: each operation, then the state it leads to, ``BfDkAa``; every step is one look-up;
- ``states``: the states alone, ``fka``; the operations have to be read off the prompt;
- ``final``: the last state alone, ``a``; the composition has to be found in one step.

A completion is right if it is complete (every step of the problem, a trace with the problem's own operations) and its
*last* state is right: intermediate states are not checked, and the format carries no reward, as in "Echo Chamber"
(arXiv 2504.07912), where only the final number counted.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from dream_envs.core import DreamEnvsError, Reject, Score, Task
from dream_envs.tasks.composition import Composition

FORMATS = ("final", "states", "trace")
#: What is in none of the formats.
OTHER = "other"
LABELS = (*FORMATS, OTHER)

_FORMS = {"final": re.compile(r"[a-z]"), "states": re.compile(r"[a-z]{2,}"), "trace": re.compile(r"(?:[A-Z][a-z])+")}
RIGHT, WRONG = Score(1.0, grader="composition_formats-1"), Score(0.0, grader="composition_formats-1")


def format_of(text: str) -> str:
    """The format that the whole text has: one of ``LABELS``, right or wrong, complete or not.

    The forms exclude each other by their length and their first character; whatever has none of them is ``other``.
    """
    return next((name for name, form in _FORMS.items() if form.fullmatch(text)), OTHER)


class CompositionFormats(Composition):
    """The family ``composition`` in compact notation, with an outcome verifier for three answer formats.

    From two operations on: with one, ``final`` and ``states`` would be the same reply.  The arguments are those of
    ``Composition``, which itself stays as strict as it is.
    """

    name = "composition_formats"
    version = 1
    lowest = 2  # with one step, two of the formats are the same reply

    def __init__(self, notation: str = "compact", **family_args: Any) -> None:
        if notation != "compact":
            raise DreamEnvsError(f"notation={notation!r}: composition_formats has 'compact' only")
        super().__init__(notation, **family_args)

    def parse(self, proposal: str) -> Task | Reject:
        """As ``Composition``, and two operations or more."""
        found = super().parse(proposal)
        if isinstance(found, Task) and found.level < 2:
            return Reject("limits", "depth 1, at least 2")
        return found

    def verify(self, task: Task, reply: str) -> Score:
        """1 for a complete reply in any of the three formats whose last state is right, 0 for any other text."""
        return RIGHT if self.last_state(task, reply) == task.answer[-1:] else WRONG

    def last_state(self, task: Task, reply: str) -> str | None:
        """The state that the reply ends in; None unless the reply has, in its format, every step of the problem."""
        form, ops = format_of(reply), task.meta["ops"]
        if form == OTHER or (form == "trace" and reply[::2] != ops):
            return None
        states = reply[1::2] if form == "trace" else reply
        steps = 1 if form == "final" else len(ops)
        return states[-1] if len(states) == steps and set(states) <= set(self.states) else None

    def chance(self, task: Task) -> float:
        """One state of all: whatever the format, only the last one counts."""
        return 1.0 / len(self.states)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """A random state."""
        return self.states[int(rng.integers(len(self.states)))]
