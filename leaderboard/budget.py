"""Budget classes: what a run may use, in counts that a re-run uses to the same number."""

from __future__ import annotations

import msgspec

from dream_envs.core import DreamEnvsError


class Budget(msgspec.Struct, frozen=True):
    """A class.  A run ends behind the round in which ``samples``, ``tokens`` or ``steps`` are used up.

    ``seconds``: of the processor; above them a run is disqualified.  They decide nothing else, since they differ from
    machine to machine.  ``points``: readings of the learning curve, at equal distances in samples.
    """

    samples: int
    tokens: int
    steps: int
    seconds: float
    points: int = 40

    def left(self, used: Used) -> bool:
        """Whether there is anything left of each."""
        return used.samples < self.samples and used.trained < self.tokens and used.steps < self.steps

    def within(self, used: Used) -> bool:
        """Whether a reading lies within the budget: the last round may go past it."""
        return used.samples <= self.samples and used.trained <= self.tokens and used.steps <= self.steps


class Used(msgspec.Struct, frozen=True):
    """A reading of ``agents.engines.meter``, and the processor seconds of the process so far."""

    samples: int = 0
    sampled: int = 0
    trained: int = 0
    steps: int = 0
    seconds: float = 0.0


#: By the processor minutes that the flagship takes for them on one core of 2026, start and nights included.
CLASSES: dict[int, Budget] = {
    1: Budget(samples=60_000, tokens=1_000_000, steps=400, seconds=400),
    3: Budget(samples=180_000, tokens=3_000_000, steps=1_200, seconds=1_200),
    10: Budget(samples=600_000, tokens=10_000_000, steps=4_000, seconds=4_000),
}


def budget_of(number: int) -> Budget:
    """The class of this number.

    Raises:
        DreamEnvsError: for another number.
    """
    if number not in CLASSES:
        raise DreamEnvsError(f"class {number}: one of {', '.join(map(str, CLASSES))} (processor minutes)")
    return CLASSES[number]
