"""Contexts: texts with invented rules, and tasks about them whose rubrics are programs.

A *context* is a rule system, a procedure, a table or a small API that nobody can know beforehand.  A bundled one draws
*exams*: a question and five or more rubrics, each a sentence in english with a predicate of the answer's text behind
it, so that judges, challengers and skills can be held against the truth.  A question belongs for ever to one of two
halves by its content: ``tests`` are private, ``practice`` may be met in training.

Contexts of your own, from a folder of texts or the rows of a dataset, have no programs: they are judged and no more.

Source: our own, under the licence of this package.  Version history: 1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs import registry
from dream_envs.core import DreamEnvsError, content_hash
from dream_envs.seeds import digest, stream

KINDS = ("rules", "procedure", "table", "api", "text")
#: Exams of a bundled context, of either half; all have different questions.
TESTS, PRACTICE = 24, 48
#: Characters of a context's text.
MOST = 200_000


class Rubric(msgspec.Struct, frozen=True):
    """One thing that an answer has to do.

    ``text``: as a judge reads it.  ``check``: the same as a program, total over all texts; None where there is none.
    ``rule``: the part of the context that it asks for.  ``good`` and ``bad``: pieces of an answer that pass and fail
    it and touch no other rubric of the exam (``Exam.answer``).
    """

    text: str
    check: Callable[[str], bool] | None = None
    rule: str = ""
    good: str = ""
    bad: str = ""


class Exam(msgspec.Struct, frozen=True):
    """A question about a context and its rubrics; ``glue`` makes an answer of one piece a rubric."""

    question: str
    rubrics: tuple[Rubric, ...]
    glue: Callable[[Sequence[str]], str] = "\n".join

    def answer(self, passes: Collection[int] | None = None) -> str:
        """The answer that passes just the rubrics of these numbers; None: all."""
        chosen = range(len(self.rubrics)) if passes is None else passes
        return self.glue([r.good if i in chosen else r.bad for i, r in enumerate(self.rubrics)])

    def marks(self, answer: str) -> list[bool | None]:
        """Whether the answer passes each rubric; None for rubrics without a program."""
        return [None if r.check is None else bool(r.check(answer)) for r in self.rubrics]


class Context(msgspec.Struct, frozen=True):
    """A text to learn from.  ``draw``: makes an exam of a random stream, a function of a module; None: judged only."""

    id: str
    kind: str
    text: str
    draw: Callable[[np.random.Generator], Exam] | None = None

    def tests(self, count: int = TESTS, seed: str = "0") -> list[Exam]:
        """``count`` different private exams, in an order that hangs on the seed; fewer where there are not so many."""
        return self._some("test", TESTS, count, seed)

    def practice(self, count: int = PRACTICE, seed: str = "0") -> list[Exam]:
        """The same of those that may be met in training."""
        return self._some("practice", PRACTICE, count, seed)

    def _some(self, half: str, size: int, count: int, seed: str) -> list[Exam]:
        known = [] if self.draw is None else list(_pool(self.draw, self.id, half, size).values())
        return [known[i] for i in stream("exams", self.id, half, seed).permutation(len(known))[:count]]

    def find(self, question: str) -> tuple[str, Exam] | None:
        """The half and the exam of this question, blanks aside; None where it is not one of the context's own."""
        key = " ".join(question.split())
        for half, size in (("practice", PRACTICE), ("test", TESTS)) if self.draw is not None else ():
            if (exam := _pool(self.draw, self.id, half, size).get(key)) is not None:
                return half, exam
        return None

    def rules(self) -> list[str]:
        """The names of the rules that its rubrics ask for, in the order in which exams name them."""
        found = [rubric.rule for exam in (*self.practice(), *self.tests()) for rubric in exam.rubrics]
        return list(dict.fromkeys(found))


@functools.cache
def _pool(draw: Callable[[np.random.Generator], Exam], name: str, half: str, size: int) -> dict[str, Exam]:
    """Exams of one half by question: a third of all questions are tests, by their content."""
    found: dict[str, Exam] = {}
    for number in range(64 * size):
        exam = draw(stream("exam", name, half, number))
        key = " ".join(exam.question.split())
        if (digest("half", name, key) % 3 == 0) == (half == "test"):
            found.setdefault(key, exam)
        if len(found) == size:
            break
    return found


def contexts_of(source: str | Sequence[Context]) -> tuple[Context, ...]:
    """Contexts: ``bundled``, a folder of ``.md`` and ``.txt`` files, ``module:attribute``, or the objects themselves.

    A part of the bundled ones is named by kind or id: ``bundled:table`` or ``bundled:ferry,tolva``.

    Raises:
        DreamEnvsError: where there is none, or two of one id.
    """
    if not isinstance(source, str):
        found = tuple(source)
    elif source.partition(":")[0] == "bundled":
        found = _bundled(source.partition(":")[2])
    elif Path(source).is_dir():
        files = sorted(p for p in Path(source).iterdir() if p.suffix in (".md", ".txt") and p.is_file())
        found = from_rows({"id": p.stem, "text": p.read_text("utf-8", "replace")} for p in files)
    elif ":" in source:
        made = registry.load("tasks", source)
        return contexts_of(made() if callable(made) else made)
    else:
        raise DreamEnvsError(
            f"contexts={source!r:.80}: 'bundled', 'bundled:KIND', a folder of .md and .txt files, or module:attribute"
        )
    if not found or not all(isinstance(c, Context) and c.text.strip() for c in found):
        raise DreamEnvsError(f"contexts={source!r:.80}: one or more contexts, each with a text; found {len(found)}")
    if len({c.id for c in found}) < len(found):
        raise DreamEnvsError(f"contexts={source!r:.80}: two contexts have one id")
    if odd := next((c.id for c in found if not re.fullmatch(r"[\w-]{1,80}", c.id)), None):  # they name folders
        raise DreamEnvsError(f"contexts: id {odd!r:.60}: letters, digits, '-' and '_', at most 80")
    return found


def from_rows(rows: Iterable[Mapping[str, Any]], *, text: str = "text", name: str = "id") -> tuple[Context, ...]:
    """Contexts without exams from rows, those of a ``datasets.Dataset`` say; without a ``name`` they are numbered.

    Texts are cut at ``MOST`` characters; characters of an id that no file name may have become ``-``.
    """
    made = []
    for number, row in enumerate(rows):
        label = str(row.get(name, "")) or f"{number:04d}-{content_hash(str(row.get(text, '')))[:6]}"
        safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in label)[:80]
        made.append(Context(safe, "text", str(row.get(text, ""))[:MOST]))
    return tuple(made)


def _bundled(chosen: str) -> tuple[Context, ...]:
    from dream_envs.tasks.context_exams import BUNDLED

    names = [word for word in chosen.split(",") if word]
    for word in names:
        known = [*KINDS[:-1], *(c.id for c in BUNDLED)]
        if word not in known:
            raise DreamEnvsError(registry.unknown("bundled contexts", word, known))
    return tuple(c for c in BUNDLED if not names or c.id in names or c.kind in names)
