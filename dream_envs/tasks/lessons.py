"""Lessons: contexts with new facts, to be read while awake and known afterwards without them.

A lesson has a *context*, a text that states facts which nobody can know beforehand, because they are drawn for this
episode.  A question is asked with the context in the prompt, or *closed book*, without it.

``operations`` (``OperationLessons``): each lesson is a new operation of Composition World, named behind the known ones.

- ``compact``: the context is ``I=a>fb>k...`` (16 entries of source, ``>`` and image, in the order of the sources), a
  question is Composition World's own prompt ``c:IA``, its accepted reply the whole trace ``IfAk``.
- ``english``: the table in words; a question names start and operations and prints the tables of the known operations
  that it uses, never the new one's.  Reply ``I -> f, A -> k``, blanks around it forgiven.

Level = number of operations, of which at least one is the new one.  Questions of level 1 are the facts themselves and
occur awake and in probes; deeper ones are split in two halves by their content, so that no probe was ever asked awake.
Chance: a guesser who knows the known tables and draws a permutation for the new one: ``(n - m)! / n!`` for m different
entries that the trace looks up.

Source: our own.  Version history: 1.  2: english replies and proposals are read by ``tasks.answers``.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np

from dream_envs import registry
from dream_envs.checks import check, one_of
from dream_envs.core import DreamEnvsError, Reject, Score, Task, content_hash
from dream_envs.tasks import answers
from dream_envs.tasks.answers import CHAT_TOKENS
from dream_envs.tasks.composition import OPERATION_NAMES, Composition, Traces

Split = Literal["wake", "probe"]
SPLITS = ("wake", "probe")
#: The families that have a name; ``module:Class`` and objects need none.
FAMILIES = {
    "operations": "dream_envs.tasks.lessons:OperationLessons",
    "documents": "dream_envs.tasks.documents:DocumentLessons",
    "tables": "dream_envs.tasks.long_lessons:TableLessons",
    "archives": "dream_envs.tasks.long_lessons:ArchiveLessons",
    "rules": "dream_envs.tasks.rules:RuleLessons",
}
_TRIES = 1000


class Lesson(msgspec.Struct, frozen=True):
    """A context and what it states.

    ``index``: its place in the episode.  ``name``: what it is about, as questions name it.  ``context``: the text.
    ``facts``: the same, JSON-ready, for verifiers and reports.
    """

    index: int
    name: str
    context: str
    facts: dict[str, Any]


@runtime_checkable
class LessonFamily(Protocol):
    """A source of lessons and of verifiable questions about them.  All methods are pure and total.

    ``capacity``: how many lessons an episode can have; no two of these share a fact.  ``levels``: of questions.
    ``max_chars``: of a proposal.  ``max_reply_tokens``, ``max_proposal_tokens``: of an answer and a proposal.
    """

    name: str
    version: int
    notation: str
    capacity: int
    levels: tuple[int, ...]
    max_chars: int
    max_reply_tokens: int
    max_proposal_tokens: int

    def lesson(self, rng: np.random.Generator, index: int) -> Lesson:
        """Draw lesson ``index`` of an episode; indices of one episode never share a fact."""

    def question(
        self, lesson: Lesson, rng: np.random.Generator, split: Split = "wake", level: int | None = None
    ) -> Task:
        """Draw a question, of any level or this one; its answer is hidden and ``meta["lesson"]`` is the index."""

    def verify(self, task: Task, reply: str) -> Score:
        """1.0 for an accepted reply, 0.0 for any other text; strict."""

    def gold(self, task: Task) -> str:
        """An accepted reply."""

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """The reply of somebody who knows the format and has never seen the context."""

    def chance(self, task: Task) -> float:
        """The probability that ``guess`` is accepted."""

    def brief(self, lesson: Lesson) -> str:
        """What a dreamer is asked, with the context before it."""

    def parse(self, lesson: Lesson, proposal: str) -> Task | Reject:
        """A dreamer's text as a question about this lesson, with its answer, or why it is none."""

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this question."""


def lesson_family(
    family: str | LessonFamily, *, notation: str | None = None, args: Mapping[str, Any] | None = None
) -> LessonFamily:
    """A family of lessons by name (a key of ``FAMILIES``), by ``module:Class``, or the object itself.

    With a name: ``notation`` (None is the family's own) and its other arguments.
    """
    given = {**({} if notation is None else {"notation": notation}), **(args or {})}
    if isinstance(family, str):
        if family not in FAMILIES and ":" not in family:
            raise DreamEnvsError(registry.unknown("lessons", family, list(FAMILIES)))
        factory = registry.load("tasks", FAMILIES.get(family, family))
        registry.check_kwargs(factory, given, family)
        found: Any = factory(**given)
    elif given:
        raise DreamEnvsError(f"{next(iter(given))} goes with a name of lessons; give it to the family object itself")
    else:
        found = family
    parts = [name for name in (*LessonFamily.__annotations__, *vars(LessonFamily)) if not name.startswith("_")]
    if missing := [name for name in parts if not hasattr(found, name)]:
        raise DreamEnvsError(f"{type(found).__name__} is no family of lessons: it lacks {', '.join(missing)}")
    return found


def checked_split(split: Any) -> Split:
    """``split`` if it is one."""
    found: Split = one_of("split", split, SPLITS)
    return found


class OperationLessons(Traces):
    """The family ``operations``; see the module's head.

    Args:
        notation: ``compact`` or ``english``.
        levels: the levels that questions are drawn from, evenly; each 1 to 16.  The largest is the deepest proposal.
        names: the letters of new operations, one a lesson: none of them is known.
        n_states: 4 to 26 states.
        n_operations: 1 to 25 known operations, with the tables that ``Composition`` gives them.
        world: the label of the known tables.
    """

    name = "operations"

    def __init__(
        self,
        notation: str = "compact",
        *,
        levels: int | Sequence[int] = (1, 2, 3),
        names: str = "IJKLMNOP",
        n_states: int = 16,
        n_operations: int = 8,
        world: str = "world-0",
    ) -> None:
        super().__init__(notation)
        self.levels = _checked_levels(levels)
        n_states = check("n_states", n_states, 4, 26, whole=True)
        n_operations = check("n_operations", n_operations, 1, 25, whole=True)
        known = Composition(n_states=n_states, n_operations=n_operations, world=world, held_out_pairs=0)
        free = [letter for letter in OPERATION_NAMES if letter not in known.operations]
        if not isinstance(names, str) or not names or len(set(names)) < len(names) or set(names) - set(free):
            raise DreamEnvsError(f"names={names!r}: one or more of {''.join(free)}, each once")
        self.names, self.capacity, self.world = names, len(names), world
        self.states, self.operations = known.states, known.operations
        self.max_level = max(self.levels)
        most, english = self.max_level, self._english
        self.max_chars = 40 + 5 * most if english else 16 + most
        self.max_reply_tokens = CHAT_TOKENS if english else 2 + 2 * most
        self.max_proposal_tokens = CHAT_TOKENS if english else 3 + most
        self._tables = known.tables
        self._drawing = {level: _Drawing(level, n_states, n_operations) for level in self.levels}

    def lesson(self, rng: np.random.Generator, index: int) -> Lesson:
        """Lesson ``index``: its operation has the name at that place, its table is a permutation drawn from ``rng``."""
        name = self.names[check("index", index, 0, self.capacity - 1, whole=True)]
        return self.lesson_of(index, name, self.drawn(rng))

    def drawn(self, rng: np.random.Generator) -> dict[str, str]:
        """A permutation of the states as a table, each equally likely."""
        images = rng.permutation(len(self.states)).tolist()
        return {s: self.states[i] for s, i in zip(self.states, images, strict=True)}

    def lesson_of(self, index: int, name: str, table: Mapping[str, str]) -> Lesson:
        """The lesson of an operation with this table, ``{source: image}`` of all states in their order."""
        return Lesson(index, name, self.told(name, table), {"operation": name, "table": dict(table)})

    def told(self, name: str, table: Mapping[str, str]) -> str:
        """The context that states these entries."""
        if self.notation == "compact":
            return f"{name}=" + "".join([f"{s}>{image}" for s, image in table.items()])
        entries = ", ".join([f"{s} to {image}" for s, image in table.items()])
        return f"There is an operation {name} on the states {', '.join(self.states)}. It takes {entries}."

    def question(
        self, lesson: Lesson, rng: np.random.Generator, split: Split = "wake", level: int | None = None
    ) -> Task:
        """A question of this level, or of one of ``levels``; every question of its level and half is equally likely."""
        split = checked_split(split)
        level = self.levels[int(rng.integers(len(self.levels)))] if level is None else level
        if level not in self._drawing:
            raise DreamEnvsError(f"level={level!r}: these lessons have {', '.join(map(str, self.levels))}")
        letters = self.operations + lesson.name
        for _ in range(_TRIES):
            start, ops = self._drawing[level].draw(rng, self.states, letters)
            if self.half(start, ops) in (split, "both") and self.fresh(lesson, start, ops):
                return self.make(lesson, start, ops)
        raise DreamEnvsError(f"lesson {lesson.name} has no question of level {level} for {split!r}: use more states")

    @staticmethod
    def half(start: str, ops: str) -> Literal["wake", "probe", "both"]:
        """Where a question may be asked: ``both`` for facts, else one of the two by a hash of start and operations."""
        if len(ops) == 1:
            return "both"
        return "wake" if int(content_hash("lesson-half", start, ops), 16) % 2 else "probe"

    def fresh(self, lesson: Lesson, start: str, ops: str) -> bool:
        """Whether a question may be asked of this lesson; here: always."""
        return True

    def make(self, lesson: Lesson, start: str, ops: str, origin: str = "generator") -> Task:
        """The question with this start state and these operations, known ones and the lesson's own."""
        tables = {**self._tables, lesson.name: lesson.facts["table"]}
        meta = {"lesson": lesson.index, "new": lesson.name, "start": start, "ops": ops}
        return self._trace(start, ops, tables, set(ops) - {lesson.name}, meta=meta, origin=origin)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """The trace under a permutation that is drawn for the new operation; the known ones are known."""
        return self.under(task, self.drawn(rng))

    def under(self, task: Task, table: Mapping[str, str]) -> str:
        """The answer to a question if the new operation had this table."""
        meta = task.meta
        return self._trace(meta["start"], meta["ops"], {**self._tables, meta["new"]: table}, "").answer

    def chance(self, task: Task) -> float:
        """``(n - m)! / n!``: a drawn permutation must agree on the m different entries that the trace looks up."""
        states = task.answer[1::2] if self.notation == "compact" else [p[-1] for p in task.answer.split(", ")]
        before = [task.meta["start"], *states]
        looked_up = {s for s, op in zip(before, task.meta["ops"], strict=False) if op == task.meta["new"]}
        return 1.0 / math.perm(len(self.states), len(looked_up))

    def brief(self, lesson: Lesson) -> str:
        """``new`` in compact notation, a paragraph in english."""
        if self.notation == "compact":
            return "new"
        return (
            f"Invent an exercise about the operation {lesson.name}: a start state and at most {self.max_level} "
            f"operations to apply in order, among {', '.join(self.operations)} and {lesson.name}, which occurs at "
            f"least once. Reply with one line of the form 'start c; apply {lesson.name}, A' and nothing else."
        )

    def parse(self, lesson: Lesson, proposal: str) -> Task | Reject:
        """``c:IA`` (compact) or ``start c; apply I, A`` (english), to the last character; the new operation occurs.

        In english the last line of that form counts (``answers.proposal``).
        """
        if self.protocol == "chat":
            return answers.proposal(proposal, lambda line: self._parse(lesson, line))
        return self._parse(lesson, proposal)

    def _parse(self, lesson: Lesson, proposal: str) -> Task | Reject:
        if not proposal:
            return Reject("empty")
        if len(proposal) > self.max_chars:
            return Reject("too_long", f"{len(proposal)} characters, at most {self.max_chars}")
        found, known = self._read(proposal), self.operations + lesson.name
        if found is None:
            return Reject("grammar", f"expected {self._proposal('c', lesson.name + 'A')!r}")
        start, ops = found
        if start not in self.states or set(ops) - set(known):
            return Reject("charset", f"states are {self.states}, operations {known}")
        if len(ops) > self.max_level:
            return Reject("limits", f"{len(ops)} operations, at most {self.max_level}")
        if lesson.name not in ops:
            return Reject("grammar", f"not about this lesson: {lesson.name} does not occur")
        return self.make(lesson, start, ops, "proposal")


class _Drawing:
    """Start states and lists of operations with at least one new one, each equally likely.

    The place of the first new operation is drawn by its share, then what stands around it: nothing is thrown away.
    """

    def __init__(self, level: int, n_states: int, n_known: int) -> None:
        shares = [n_known**first * (n_known + 1) ** (level - 1 - first) for first in range(level)]
        self.ends = [total / sum(shares) for total in itertools.accumulate(shares)]
        # how many choices: a start, known ones before the first new one, known or new ones behind it
        self.choices = [
            np.array([n_states] + [n_known] * first + [n_known + 1] * (level - 1 - first)) for first in range(level)
        ]

    def draw(self, rng: np.random.Generator, states: str, letters: str) -> tuple[str, str]:
        """Start and operations; the last of ``letters`` is the new one."""
        first = min(bisect.bisect_right(self.ends, rng.random()), len(self.ends) - 1)
        start, *others = rng.integers(self.choices[first]).tolist()
        ops = [letters[i] for i in others]
        return states[start], "".join([*ops[:first], letters[-1], *ops[first:]])


def _checked_levels(levels: int | Sequence[int]) -> tuple[int, ...]:
    given = [levels] if isinstance(levels, int) else list(levels)
    for level in given or [0]:
        check("levels", level, 1, 16, whole=True)
    return tuple(sorted(set(given)))
