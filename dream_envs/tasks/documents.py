"""Documents: short english texts about invented people, places and things, and closed questions about them.

A text has seven sentences, one that says what it is about and six facts, each with a value that is drawn: a name, a
year, a number, a colour.  Nothing in it can be known from elsewhere, and no two lessons of an episode are about the
same thing.  A question names the thing and has one short answer; awake and in probes the same facts are asked in other
words, so that what is remembered has to be the fact and not the sentence.

Reply: the value alone, or a statement that names it and no other value of its kind but those of the question
(``tasks.answers``); case is forgiven.  Level: 1.
Chance: one over the number of values that a guesser who knows the format has to choose among: 8,000 names, 400 years,
980 numbers, 12 months, 16 or 20 of everything else.  Words and wordings are in ``documents.toml``.

A dreamer's proposal is two lines, ``Q: `` and ``A: ``, and nothing else::

    Q: Who was the first captain of the Orbisolund?
    A: Belikin

The question ends in ``?`` and names what the text is about; the answer is spelled as the text has it and does not stand
in the question.  In the family's own wording the answer must be the true one (``executed``); in other words it must be
one of the text's values, and that it answers the question is the dreamer's claim (``claimed``).

Source: our own.  Version history: 1.  2: replies are read by ``tasks.answers``.
"""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dream_envs.checks import check, one_of
from dream_envs.core import Reject, Task
from dream_envs.tasks import answers
from dream_envs.tasks.answers import CHAT_TOKENS, NUMBER, number
from dream_envs.tasks.family import Answers
from dream_envs.tasks.lessons import Lesson, Split, checked_split


class Attribute(NamedTuple):
    """Something that can be known: ``kind`` of its value, the text's sentence and two questions."""

    key: str
    kind: str
    sentence: str
    wake: str
    probe: str


#: What ``documents.toml`` has, see there.
WORDS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
FACTS = {kind: tuple(Attribute(*row) for row in its["facts"]) for kind, its in WORDS["kinds"].items()}
_PROPOSAL = re.compile(r"Q: (\S[^\n]*\?)\nA: (\S[^\n]*)")
_PAIR = re.compile(r"^[ \t*_>]*Q:[ \t*_]*(\S[^\n]*)\n+[ \t*_>]*A:[ \t*_]*(\S[^\n]*)$", re.M)
_NOUNS = {"goods": "word", "animal": "animal"}


class DocumentLessons(Answers):
    """The family ``documents``; see the module's head.

    Args:
        notation: ``english``; there is no other.
        kinds: what the texts are about, drawn evenly; None: all of town, ship, scholar, bridge, instrument, guild,
            tower and festival.
    """

    name = "documents"
    levels = (1,)
    capacity = len(WORDS["subjects"])
    max_chars = 300
    max_reply_tokens = CHAT_TOKENS
    max_proposal_tokens = CHAT_TOKENS

    def __init__(self, notation: str = "english", *, kinds: tuple[str, ...] | list[str] | None = None) -> None:
        super().__init__(one_of("notation", notation, ("english",)))
        chosen = list(FACTS) if kinds is None else [kinds] if isinstance(kinds, str) else list(kinds)
        self.kinds = tuple(dict.fromkeys(one_of("kinds", kind, FACTS) for kind in chosen or [""]))

    def lesson(self, rng: np.random.Generator, index: int) -> Lesson:
        """A text; the first syllable of what it is about belongs to ``index``."""
        first = WORDS["subjects"][check("index", index, 0, self.capacity - 1, whole=True)]
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        middles, ends = WORDS["middles"], WORDS["ends"]
        subject = first + middles[int(rng.integers(len(middles)))] + ends[int(rng.integers(len(ends)))]
        opening, attributes = WORDS["kinds"][kind]["opening"], FACTS[kind]
        order = rng.permutation(len(attributes)).tolist()
        values = {attribute.key: _value(attribute.kind, rng) for attribute in attributes}
        told = [attributes[i].sentence.format(v=values[attributes[i].key]) for i in order]
        context = " ".join([opening.format(x=subject), *told])
        return Lesson(index, subject, context, {"kind": kind, "name": subject, "values": values})

    def question(
        self, lesson: Lesson, rng: np.random.Generator, split: Split = "wake", level: int | None = None
    ) -> Task:
        """A question about one of the facts, each equally likely, in the wording of this half; ``level`` is 1."""
        split = checked_split(split)
        one_of("level", level, (None, 1))
        attributes = FACTS[lesson.facts["kind"]]
        return self.make(lesson, attributes[int(rng.integers(len(attributes)))].key, split)

    def make(self, lesson: Lesson, key: str, split: Split = "wake") -> Task:
        """The question about the fact of this name, in the wording of this half."""
        attribute = next(a for a in FACTS[lesson.facts["kind"]] if a.key == key)
        asked = (attribute.wake if split == "wake" else attribute.probe).format(x=lesson.name)
        return self._task(lesson, attribute, asked, "generator", "executed")

    def value_of(self, task: Task) -> re.Pattern[str]:
        """A value of the kind that is asked for; years and numbers are both numbers."""
        return _pattern(task.meta["of"])

    def tidy(self, text: str) -> str:
        """In lower case; numbers without separators."""
        return number(text) if text[:1].isdigit() else text.lower()

    def accepts(self, task: Task, answer: str) -> bool:
        """Whether it is the value, in any case."""
        return answer.lower() == task.answer.lower()

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """A value of the right kind."""
        return _value(task.meta["of"], rng)

    def chance(self, task: Task) -> float:
        """One over the number of values of this kind."""
        return 1.0 / count(task.meta["of"])

    def brief(self, lesson: Lesson) -> str:
        """A paragraph with the grammar."""
        return (
            f"Write a question about one fact in this text, and its answer. The question names {lesson.name} and ends "
            "in a question mark; the answer is the one word or number as the text has it. Reply with two lines and "
            "nothing else:\nQ: the question\nA: the answer"
        )

    def parse(self, lesson: Lesson, proposal: str) -> Task | Reject:
        """Two lines, ``Q: ...?`` and ``A: ...``, about this lesson; see the module's head."""
        if (shown := answers.visible(proposal)) is None:
            return Reject("empty", "the reasoning was never closed")
        pairs = _PAIR.findall(answers.plain(shown))
        text = "Q: {}\nA: {}".format(*(part.strip("*_ \t") for part in pairs[-1])) if pairs else shown.strip()
        if not text:
            return Reject("empty")
        if len(text) > self.max_chars:
            return Reject("too_long", f"{len(text)} characters, at most {self.max_chars}")
        if stray := next((c for c in text if not (c.isascii() and (c.isprintable() or c == "\n"))), None):
            return Reject("charset", ascii(stray))
        if (found := _PROPOSAL.fullmatch(text)) is None:
            return Reject("grammar", "expected two lines, 'Q: ...?' and 'A: ...'")
        asked, answer = found.groups()
        if not re.search(rf"(?<!\w){re.escape(lesson.name)}(?!\w)", asked):
            return Reject("grammar", f"the question does not name {lesson.name}")
        attributes, values = FACTS[lesson.facts["kind"]], lesson.facts["values"]
        meant = next((a for a in attributes if values[a.key] == answer), None)
        if meant is None:
            close = answer.strip(" .").lower() in [v.lower() for v in values.values()]
            return Reject("not_canonical" if close else "certificate", "the answer is no value as the text has it")
        if re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", asked, re.IGNORECASE):
            return Reject("leak", "the answer stands in the question")
        own = next(
            (a for a in attributes if asked in (a.wake.format(x=lesson.name), a.probe.format(x=lesson.name))), None
        )
        if own not in (None, meant):
            return Reject("certificate", "the text says otherwise")
        return self._task(lesson, meant, asked, "proposal", "claimed" if own is None else "executed")

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this question."""
        return f"Q: {task.prompt.removesuffix(_only(task.meta['of']))}\nA: {task.answer}"

    def _task(self, lesson: Lesson, attribute: Attribute, asked: str, origin: str, truth: str) -> Task:
        return Task(
            family=self.name,
            level=1,
            prompt=asked + _only(attribute.kind),
            answer=lesson.facts["values"][attribute.key],
            meta={"lesson": lesson.index, "fact": attribute.key, "of": attribute.kind, "truth": truth},
            origin=origin,
        )


def count(kind: str) -> int:
    """How many values there are of a kind."""
    if kind == "name":
        return len(WORDS["others"]) * len(WORDS["middles"]) * len(WORDS["ends"])
    if kind in WORDS["numbers"]:
        return WORDS["numbers"][kind][1] - WORDS["numbers"][kind][0] + 1
    return len(WORDS["words"][kind])


@functools.cache
def _pattern(kind: str) -> re.Pattern[str]:
    """What a value of this kind looks like."""
    if kind in WORDS["numbers"]:
        return NUMBER
    if kind != "name":
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, WORDS['words'][kind]))})\b", re.I)
    first, middle, end = (
        "|".join(map(re.escape, words))
        for words in (WORDS["others"] + WORDS["subjects"], WORDS["middles"], WORDS["ends"])
    )
    return re.compile(rf"\b(?:{first})(?:{middle})(?:{end})\b", re.I)


def _value(kind: str, rng: np.random.Generator) -> str:
    """A value of a kind, each equally likely."""
    number = int(rng.integers(count(kind)))
    if kind == "name":
        rest, end = divmod(number, len(WORDS["ends"]))
        first, middle = divmod(rest, len(WORDS["middles"]))
        return WORDS["others"][first] + WORDS["middles"][middle] + WORDS["ends"][end]
    return str(WORDS["numbers"][kind][0] + number) if kind in WORDS["numbers"] else WORDS["words"][kind][number]


def _only(kind: str) -> str:
    """What a question says of the form of its answer."""
    return f" Answer with the {_NOUNS.get(kind, kind)} alone."
