"""Problems of a family for frameworks that hold a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dream_envs.core import DreamEnvsError, Task, TaskFamily
from dream_envs.seeds import Label, stream


def levels_of(family: TaskFamily, levels: Sequence[int] | None) -> tuple[int, ...]:
    """The levels asked for, or all of the family's where None are."""
    low, high = family.levels.start, family.levels.stop - 1
    if isinstance(levels, (str, int)) or (levels is not None and not [*levels]):
        raise DreamEnvsError(f"levels={levels!r}: a list of one or more levels, {low} to {high}")
    if wrong := [level for level in levels or () if level not in family.levels]:
        raise DreamEnvsError(f"levels: {wrong[0]!r} is none of {family.name}'s {low} to {high}")
    return tuple(levels or family.levels)


def problems(family: TaskFamily, levels: Sequence[int], seed: Label) -> Iterator[Task]:
    """Problems without end, by turns of each level; problem ``i`` depends on the family, ``seed`` and ``i`` alone."""
    i = 0
    while True:
        yield family.generate(stream("problems", family.name, seed, i), levels[i % len(levels)])
        i += 1
