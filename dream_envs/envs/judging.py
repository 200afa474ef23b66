r"""How a judge is asked and how its reply is read: one grammar for every game with a judge.

Three kinds of question: ``pairwise`` (which of two answers is better), ``score`` (how good is this answer) and
``rubric`` (is this answer right); two notations.

``compact``, for small models.  This is a contract that models are trained on::

    question = kind "|" prompt "|" answer               ; kind "s" (score) or "r" (rubric)
             / "j" "|" prompt "|" answer "|" answer     ; pairwise
    prompt   = field
    answer   = field
    field    = *( plain / "\\" / "\|" )                 ; may be empty
    plain    = any character but "\" and "|"
    reply    = "1" / "2"        to "j": the first or the second answer is better
             / "0" .. "9"       to "s": one digit, worth digit / 9
             / "0" / "1"        to "r": wrong, right

In a field every ``\`` is written ``\\`` and every ``|`` is written ``\|``, so that an answer made of separators cannot
forge a field, nor a token such as ``<|end|>``.  ``j|c:BDA|BhDnAj|BhDnAk`` asks for the better of two answers to
``c:BDA``.  (The kind is followed by ``|`` because ``j:BDA`` is itself a problem of Composition World.)  A reply is that
one character and nothing else, no blank and no line end.

``english``, for chat models: a paragraph in which the prompt and each answer stand as quoted lines (``> `` before every
line of theirs, so that no answer can end its own quotation; ``<|`` is shown as ``< |``, which no tokenizer takes for
markup).  The verdict is the last ``Verdict: 2`` of the reply, in any case and markup, a ``\boxed{2}``, or a number that
is all of it (``tasks.answers.verdict``); a score is 0 to 10, worth a tenth of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import msgspec

from dream_envs.core import Action, DreamEnvsError, Limits, Message, Seat, Status
from dream_envs.envs._shared import SILENT, check_whole
from dream_envs.tasks.answers import settled, verdict

#: The kinds of question, their letter in compact notation and how many answers they hold.
LETTERS = {"pairwise": "j", "score": "s", "rubric": "r"}
ANSWERS = {"pairwise": 2, "score": 1, "rubric": 1}
KINDS = tuple(LETTERS)
NOTATIONS = ("compact", "english")
#: The numbers that are verdicts, lowest and highest, by kind and notation.
RATINGS = {(kind, notation): (1, 2) if kind == "pairwise" else (0, 1) for kind in KINDS for notation in NOTATIONS}
RATINGS |= {("score", "compact"): (0, 9), ("score", "english"): (0, 10)}
MAX_SEATS = 4096
_KIND_OF = {letter: kind for kind, letter in LETTERS.items()}
_FIELD = re.compile(r"(?:[^\\|]|\\[\\|])*", re.S)
_HEADS = {
    "pairwise": "Compare two answers to one task.",
    "score": "Rate an answer to a task.",
    "rubric": "Decide whether an answer to a task is right.",
}
_ASKS = {
    "pairwise": "Which answer is better? Write 'Verdict: 1' or 'Verdict: 2' on the last line.",
    "score": "How good is it, from 0 (worthless) to 10 (perfect)? Write 'Verdict: N' on the last line.",
    "rubric": "Is it right? Write 'Verdict: 1' (right) or 'Verdict: 0' (wrong) on the last line.",
}


class Question(msgspec.Struct, frozen=True):
    """What a judge is asked.  ``who``: the numbers of the answers' authors, known to the game and never written."""

    kind: str
    notation: str
    prompt: str
    answers: tuple[str, ...]
    who: tuple[int, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """What became of one question: ``rating`` is the number that the judge wrote, if ``status`` is ``ok``.

    ``invalid``: it cannot be read; ``abstain``: the judge was never asked; else the status of a call that failed.
    """

    rating: int | None
    status: Status = "ok"


def write(question: Question) -> str:
    """The question as text, in its notation."""
    if question.notation == "compact":
        return "|".join([LETTERS[question.kind], *map(_escape, (question.prompt, *question.answers))])
    names = ["Answer 1", "Answer 2"] if question.kind == "pairwise" else ["Answer"]
    parts = [f"{name}:\n{quoted(a)}" for name, a in zip(names, question.answers, strict=True)]
    return "\n\n".join([_HEADS[question.kind], f"Task:\n{quoted(question.prompt)}", *parts, _ASKS[question.kind]])


def read(text: str) -> Question | None:
    """The question that ``write`` wrote, None if it is none.

    In english the line ends of prompt and answers come back as line feeds, and ``< |`` for ``<|``.
    """
    if len(text) > 1 and text[1] == "|" and text[0] in _KIND_OF:
        kind, fields, at = _KIND_OF[text[0]], list[str](), 1
        while at < len(text) and text[at] == "|":
            found = _FIELD.match(text, at + 1)
            assert found is not None  # it matches the empty text
            fields.append(re.sub(r"\\(.)", r"\1", found.group(), flags=re.S))
            at = found.end()
        if at < len(text) or len(fields) != 1 + ANSWERS[kind]:
            return None
        return Question(kind, "compact", fields[0], tuple(fields[1:]))
    head, _, rest = text.partition("\n\n")
    for kind, its in _HEADS.items():
        tail = "\n\n" + _ASKS[kind]
        if head != its or not rest.endswith(tail):
            continue
        blocks = rest.removesuffix(tail).split("\n\n")  # a quoted line is never empty
        quoted = [block.split("\n")[1:] for block in blocks]
        if len(blocks) == 1 + ANSWERS[kind] and all(q and all(x.startswith("> ") for x in q) for q in quoted):
            texts = ["\n".join([line[2:] for line in q]) for q in quoted]
            return Question(kind, "english", texts[0], tuple(texts[1:]))
    return None


def rating_of(kind: str, notation: str, reply: str) -> int | None:
    """The number that a judge's reply states, None if it states none that is a verdict."""
    if notation == "compact":
        rating = int(reply) if len(reply) == 1 and reply in "0123456789" else None
    else:
        rating = verdict(reply, *RATINGS[kind, notation])
    low, high = RATINGS[kind, notation]
    return rating if rating is not None and low <= rating <= high else None


def say(kind: str, notation: str, rating: int) -> str:
    """The reply that ``rating_of`` reads as ``rating``."""
    return str(rating) if notation == "compact" else f"Verdict: {rating}"


def worth(kind: str, notation: str, rating: int) -> float:
    """A rating of kind ``score`` or ``rubric`` as a value from 0 to 1."""
    return rating / RATINGS[kind, notation][1]


class Ask(msgspec.Struct, frozen=True):
    """One question of a panel: who answers it, which answers it shows in this order, the how-manieth time."""

    judge: str
    who: tuple[int, ...]
    trial: int
    swapped: bool = False


class Panel:
    """The questions that one set of answers is put to, each a seat of its own.

    All judges answer at the same time, so that a policy in the role ``judge`` is called once for all of them, and each
    single judgement can have a score.  ``authors``: the agents whose answers are judged; ``judgements``: how often
    every pair (or answer) is; ``order_swap``: half of a pair's judgements show it the other way round;
    ``max_tokens``: a judge's budget, None: 4 in compact, 512 in english.
    """

    def __init__(
        self,
        kind: str,
        notation: str,
        authors: Sequence[str],
        judgements: int,
        *,
        order_swap: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        for what, value, known in (("judging", kind, KINDS), ("judge_notation", notation, NOTATIONS)):
            if value not in known:
                raise DreamEnvsError(f"{what}={value!r}: {', '.join(map(repr, known))}")
        check_whole("judgements", judgements, 1, 256)
        swaps = order_swap and kind == "pairwise"
        if swaps and judgements % 2:
            why = "half are in swapped order: an even number, or order_swap=False"
            raise DreamEnvsError(f"judgements={judgements}: {why}")
        self.kind, self.notation, self.authors, self.judgements = kind, notation, tuple(authors), judgements
        groups = list(itertools.combinations(range(len(authors)), ANSWERS[kind]))
        if len(groups) * judgements > MAX_SEATS:
            raise DreamEnvsError(f"{len(groups) * judgements} judgements an episode: at most {MAX_SEATS}")
        half = judgements // 2 if swaps else judgements
        self.asks = tuple(
            Ask(f"judge_{g * judgements + k}", group[::-1] if k >= half else group, k % half, k >= half)
            for g, group in enumerate(groups)
            for k in range(judgements)
        )
        self.judges = tuple(ask.judge for ask in self.asks)
        tokens = max_tokens if max_tokens is not None else 4 if notation == "compact" else 512
        self._seats = [Seat(name, "judge", Limits(tokens, max(64, 16 * tokens))) for name in self.judges]
        self._number = {name: i for i, name in enumerate(self.judges)}

    def seats(self, answered: Sequence[bool]) -> list[Seat]:
        """The judges who have all the answers that they are asked about."""
        return [s for s, ask in zip(self._seats, self.asks, strict=True) if all(answered[i] for i in ask.who)]

    def ask_of(self, judge: str) -> Ask:
        """The question of a judge."""
        return self.asks[self._number[judge]]

    def question(self, judge: str, prompt: str, answers: Sequence[str]) -> Question:
        """What ``judge`` is asked."""
        who = self.ask_of(judge).who
        return Question(self.kind, self.notation, prompt, tuple([answers[i] for i in who]), who)

    def messages(self, judge: str, prompt: str, answers: Sequence[str]) -> list[Message]:
        """The question as one fresh message."""
        return [{"role": "user", "content": write(self.question(judge, prompt, answers))}]

    def verdict(self, action: Action | None) -> Verdict:
        """What a judge's move amounts to; None: it was not asked."""
        if action is None or action.status != "ok":
            return Verdict(None, "abstain" if action is None else action.status)
        rating = rating_of(
            self.kind, self.notation, settled(action, "verdict") if self.notation == "english" else action.text
        )
        return Verdict(rating, "ok" if rating is not None else "invalid")

    def verdicts(self, answered: Sequence[bool], actions: Mapping[str, Action]) -> tuple[Verdict, ...]:
        """What every judge's move amounts to; ``abstain`` for those who are not asked."""
        asked = {seat.agent for seat in self.seats(answered)}
        return tuple([self.verdict(actions.get(name, SILENT) if name in asked else None) for name in self.judges])

    def group_of(self, judge: str) -> str:
        """The name of the judgements that are compared with this one: ``actor_0 actor_2``, in either order."""
        return " ".join([self.authors[i] for i in sorted(self.ask_of(judge).who)])

    def reply_form(self) -> str:
        """What a reply looks like, in a few words."""
        low, high = RATINGS[self.kind, self.notation]
        numbers = f"{low} or {high}" if high - low == 1 else f"{low} to {high}"
        return numbers if self.notation == "compact" else f"a last line 'Verdict: N', N {numbers}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


def quoted(text: str) -> str:
    """The text as quoted lines, none of which can end the quotation or be taken for markup."""
    return "\n".join([f"> {line}" for line in text.replace("<|", "< |").splitlines() or [""]])
