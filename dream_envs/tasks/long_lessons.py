"""Long lessons: contexts of many parts, of which a question needs one.

``tables`` (``TableLessons``): a day has ``tables`` new operations of Composition World instead of one, a table a line;
a question is about one of them.  Everything else is as in ``operations`` (``tasks.lessons``), chance included.

``archives`` (``ArchiveLessons``): a long english text with ``records`` invented towns, ships, scholars and so on
(``tasks.documents``), six facts each, about 110 tokens a record in prose.  ``form`` says how it is written down:

- ``book``: a numbered section a record;
- ``log``: a line a fact, all records mixed, so that what belongs together is scattered over the text;
- ``table``: a table a kind, a row a record.

A question names a record and asks for one fact, in the words of ``documents``.  Records of a lesson share the first
syllable of their names, which no other lesson has, and no two have the same name.

Source: our own, texts included.  Version history: 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Any

import numpy as np

from dream_envs import registry
from dream_envs.checks import check, one_of
from dream_envs.core import Reject, Task
from dream_envs.tasks.documents import FACTS, WORDS, DocumentLessons
from dream_envs.tasks.lessons import Lesson, OperationLessons, Split

FORMS = ("book", "log", "table")
#: Records of an archive at most: names that begin alike.
MOST = len(WORDS["middles"]) * len(WORDS["ends"]) // 2


class TableLessons(OperationLessons):
    """The family ``tables``; see the module's head.

    Args:
        notation: ``compact`` or ``english``.
        tables: new operations of a lesson.
        arguments: those of ``OperationLessons``; each lesson takes so many of ``names``.
    """

    name = "tables"
    version = 1

    def __init__(self, notation: str = "compact", *, tables: int = 2, **arguments: Any) -> None:
        registry.check_kwargs(OperationLessons, arguments, self.name)
        super().__init__(notation, **arguments)
        self.tables = check("tables", tables, 1, len(self.names), whole=True)
        self.capacity = len(self.names) // self.tables

    def lesson(self, rng: np.random.Generator, index: int) -> Lesson:
        """Lesson ``index``: its operations have the names at that place, each a table of its own."""
        first = check("index", index, 0, self.capacity - 1, whole=True) * self.tables
        tables = {name: self.drawn(rng) for name in self.names[first : first + self.tables]}
        return Lesson(index, "".join(tables), "\n".join(starmap(self.told, tables.items())), {"tables": tables})

    def part(self, lesson: Lesson, name: str) -> Lesson:
        """The lesson of one of its operations alone."""
        return self.lesson_of(lesson.index, name, lesson.facts["tables"][name])

    def question(
        self, lesson: Lesson, rng: np.random.Generator, split: Split = "wake", level: int | None = None
    ) -> Task:
        """A question about one of the operations, each equally likely."""
        name = lesson.name[int(rng.integers(len(lesson.name)))]
        return super().question(self.part(lesson, name), rng, split, level)

    def brief(self, lesson: Lesson) -> str:
        """``new`` in compact notation, a paragraph in english."""
        return (
            super()
            .brief(self.part(lesson, lesson.name[0]))
            .replace(
                f"the operation {lesson.name[0]}:",
                f"one of the operations {', '.join(lesson.name)}, say {lesson.name[0]}:",
            )
        )

    def _parse(self, lesson: Lesson, proposal: str) -> Task | Reject:
        found = self._read(proposal)
        named = [name for name in lesson.name if found is not None and name in found[1]]
        return super()._parse(self.part(lesson, named[0] if named else lesson.name[0]), proposal)


class ArchiveLessons(DocumentLessons):
    """The family ``archives``; see the module's head.

    Args:
        notation: ``english``; there is no other.
        records: how many things a text is about.
        form: ``book``, ``log`` or ``table``.
        kinds: as in ``DocumentLessons``.
    """

    name = "archives"
    version = 1

    def __init__(
        self, notation: str = "english", *, records: int = 40, form: str = "book", kinds: Sequence[str] | None = None
    ) -> None:
        super().__init__(notation, kinds=None if kinds is None else list(kinds))
        self.records, self.form = check("records", records, 1, MOST, whole=True), one_of("form", form, FORMS)

    def lesson(self, rng: np.random.Generator, index: int) -> Lesson:
        """A text of so many records; facts: kind and values by name."""
        found: dict[str, Lesson] = {}
        while len(found) < self.records:
            one = DocumentLessons.lesson(self, rng, index)
            found.setdefault(one.name, one)
        records = {name: {k: one.facts[k] for k in ("kind", "values")} for name, one in found.items()}
        text = {"book": _book, "log": self._log, "table": _table}[self.form](list(found.values()), rng)
        return Lesson(index, next(iter(found)), text, {"records": records})

    def part(self, lesson: Lesson, name: str) -> Lesson:
        """The lesson of one record alone."""
        return Lesson(lesson.index, name, "", {**lesson.facts["records"][name], "name": name})

    def question(
        self, lesson: Lesson, rng: np.random.Generator, split: Split = "wake", level: int | None = None
    ) -> Task:
        """A question about one fact of one record, each equally likely."""
        names = list(lesson.facts["records"])
        return super().question(self.part(lesson, names[int(rng.integers(len(names)))]), rng, split, level)

    def brief(self, lesson: Lesson) -> str:
        """A paragraph with the grammar; the dreamer chooses the record."""
        return super().brief(lesson).replace(f"names {lesson.name}", "names what it is about")

    def parse(self, lesson: Lesson, proposal: str) -> Task | Reject:
        """Two lines, as in ``documents``, about the first record that the proposal names."""
        named = [name for name in lesson.facts["records"] if name in proposal]
        chosen = min(named, key=proposal.index) if named else lesson.name
        return super().parse(self.part(lesson, chosen), proposal)

    def _log(self, records: Sequence[Lesson], rng: np.random.Generator) -> str:
        lines = []
        for one in records:
            opening, facts = WORDS["kinds"][one.facts["kind"]]["opening"].format(x=one.name), one.facts["values"]
            told = [a.sentence.format(v=facts[a.key]) for a in FACTS[one.facts["kind"]]]
            lines += [f"On the {one.name}: {sentence}" for sentence in (opening, *told)]
        return "\n".join(f"{n:04d}. {lines[i]}" for n, i in enumerate(rng.permutation(len(lines)).tolist(), 1))


def _book(records: Sequence[Lesson], rng: np.random.Generator) -> str:
    return "\n".join(f"Section {n}. {one.context}" for n, one in enumerate(records, 1))


def _table(records: Sequence[Lesson], rng: np.random.Generator) -> str:
    lines: list[str] = []
    for kind, facts in FACTS.items():
        own = [one for one in records if one.facts["kind"] == kind]
        if own:
            lines.append(f"{kind} | " + " | ".join(a.key for a in facts))
        lines += [f"{one.name} | " + " | ".join(one.facts["values"][a.key] for a in facts) for one in own]
    return "\n".join(lines)
