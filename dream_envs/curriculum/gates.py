"""Gates: functions ``Task -> Reject | None`` that a game asks before it accepts a proposal."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from dream_envs.checks import check
from dream_envs.core import Reject, Task
from dream_envs.curriculum.novelty import NoveltyIndex

Gate = Callable[[Task], Reject | None]


def archive(known: Container[str]) -> Gate:
    """Turns away what is already in ``known`` (a ChallengeStore, or any container of task ids)."""
    return lambda task: Reject("duplicate", task.id) if task.id in known else None


def held_out(tasks: Iterable[Task]) -> Gate:
    """Turns away the problems of an evaluation set, by content."""
    ids = frozenset(t.id for t in tasks)
    return lambda task: Reject("held_out", "reserved for evaluation") if task.id in ids else None


def novel(index: NoveltyIndex, threshold: float | None = None) -> Gate:
    """Turns away problems whose similarity with one in the index is ``threshold`` or more (None: the index's own).

    The gate only asks: whoever keeps the index adds what was accepted, a round at a time.
    """
    most = index.threshold if threshold is None else check("threshold", threshold, index.threshold, 1)

    def gate(task: Task) -> Reject | None:
        similarity = index.similarity(task)
        return Reject("similar", f"similarity {similarity:.2f}, allowed below {most:g}") if similarity >= most else None

    return gate


def every(*gates: Gate) -> Gate:
    """The first rejection of several gates, asked in order."""
    return lambda task: next((reject for gate in gates if (reject := gate(task)) is not None), None)
