r"""How a reply is read: the one reader for games, lessons, proposals, judges and the Frontier Report.

``strict``: the reply is the answer, to the last character (compact notation, tiny models, exact probabilities).

``chat``: the answer is read out of what a chat model writes around it.

1. Closed reasoning (``<think>...</think>`` and its kin) is cut away.  Reasoning that was not closed holds no answer.
2. The last *statement* counts and supersedes every earlier one: what stands behind ``Answer:``, ``the answer is`` or in
   ``\boxed{}``, in any markup; where nothing is marked, the last sentence.
3. In the statement the answer is all that there is, or the one *value* of the answer's type that does not also stand in
   the question.  Several such values, a value that is denied, or a list of bare values are no answer.

A reply that was cut off by its budget has an answer only if a marked statement was finished before the cut.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Any, Literal

from dream_envs.core import Action, Limits, Reject, Score, Task

#: Tokens of a chat model's reply, which may think before it answers.
CHAT_TOKENS = 1024
Protocol = Literal["strict", "chat"]
PROTOCOLS = ("strict", "chat")
_LINES = 256  # of a proposal that are tried
_LONGEST = 4096  # characters of a statement; an answer is shorter
_MOST = 65_536  # characters behind the reasoning that are searched, from the end
_REASONING = re.compile(
    r"</?(?:think|thinking|thought|reasoning|reflection|scratchpad)>|\[/?THINK\]|\u25c1/?think\u25b7|<\|(?:begin|end)_of_thought\|>",
    re.I,
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]")
_SPELLED = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u202f": " ", "\u2192": "->", "×": "*", "÷": "/", "·": "*"}
)
_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{\s*(-?)(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_SPELLING = {
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\rightarrow": "->",
    r"\to ": "-> ",
    r"\left": "",
    r"\right": "",
}
#: Markup that may stand around an answer or a marker: emphasis, code, mathematics, quotes, headings, brackets.
_MARKS = " \t*_`$#>~\"'\u201c\u201d\u2018\u2019"
_PAIRS = (("\\(", "\\)"), ("\\[", "\\]"), ("[", "]"), ("(", ")"), ("{", "}"))
_BOX = re.compile(r"\\(?:boxed|fbox|text|textbf|mathbf|mathrm)\s*\{")
_TAG = re.compile(r"</?answer>", re.I)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$", re.M)
_BULLET = re.compile(r"^\s*(?:[-*+\u2022]|\(?\d+[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?])[*_`\"')\]]*\s+(?=\S)")
_JOINING = re.compile(r"\b(?:or|and|vs)\b|[\W_]+", re.I)
_DENIED = re.compile(r"\b(?:not|cannot|never|neither|nor|isn't|wasn't|unlikely|wrong|incorrect)\b|n't\b|≠|!=", re.I)
_STEP = re.compile(r"^\s*(?:[#*_ ]*step\s+\d+\s*[:.)*_]+)\s*", re.I)
_VERDICT = re.compile(r"(?:answer\s+)?\[*(-?\d{1,3})(?:\.0)?\]*(?:\s*(?:/|out of)\s*(\d+))?(?!\d)(.*)", re.I | re.S)
_OR = re.compile(r"\b(?:or|either|one of|between|any of)\b", re.I)


def visible(reply: str) -> str | None:
    """The reply without closed reasoning; None if reasoning was opened and never closed."""
    depth_open, end = False, 0
    for found in _REASONING.finditer(reply):
        closing = "/" in found.group()[:2] or "|end" in found.group()
        depth_open, end = not closing, found.end() if closing else end
    return None if depth_open else reply[end:]


def plain(text: str) -> str:
    """One spelling for signs: minus, arrows, fractions, products; no invisible characters, no code fences."""
    text = _INVISIBLE.sub("", text).replace("\r", "\n").translate(_SPELLED)
    text = _FRACTION.sub(lambda m: f"{'-' if (m[1] + m[2]) == '-' else ''}{m[3]}/{m[4]}", text)
    for tex, sign in _SPELLING.items():
        text = text.replace(tex, sign)
    return _FENCE.sub("", _TAG.sub(lambda m: "\n" if "/" in m.group() else "\nAnswer: ", text))


def bare(text: str) -> str:
    """The text without the markup around it and without one full stop at its end."""
    while True:
        before = text
        text = text.strip(_MARKS + "\r\n")
        text = text[:-1] if text.endswith(".") else text
        for opening, closing in _PAIRS:
            if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
                inner = text[len(opening) : -len(closing)]
                text = inner if closing not in inner and opening not in inner else text
        if (box := _BOX.match(text)) and text.endswith("}") and "}" not in text[box.end() : -1]:
            text = text[box.end() : -1]
        if text == before:
            return text


def marked(text: str, word: str = "answer", value: re.Pattern[str] | None = None) -> str | None:
    r"""What stands behind the last mark: ``Answer: ...``, ``the answer is ...``, or the last ``\boxed{...}``.

    A mark at the end of its line marks the next line that is not blank.  None without a mark; empty where two
    bare ``value``s stand there in two lines.
    """
    statement, end = None, -1
    if marks := list(_mark(word).finditer(text)):
        line, _, below = text[marks[-1].end() :].partition("\n")
        end = marks[-1].end() + len(line)
        lines = [each for each in (line, *below.split("\n")) if each.strip(_MARKS)] or [""]
        listed = value is not None and len(lines) > 1 and _listed(lines[0], lines[1], value)
        statement = "" if listed else lines[0]
    boxes = [box for box in _BOX.finditer(text) if "box" in box.group() and box.start() > end]
    if not boxes:
        return statement
    line_start = text.rfind("\n", 0, boxes[-1].start()) + 1
    inside = [_closed(text, box) for box in boxes[-16:] if box.start() >= line_start]
    return "" if None in inside else " or ".join(dict.fromkeys(bare(each or "") for each in inside))


def _closed(text: str, box: re.Match[str]) -> str | None:
    """What a box holds; None if it is never closed."""
    depth = 1
    for at in range(box.end(), min(len(text), box.end() + 4096)):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return text[box.end() : at]
    return None


@functools.cache
def _mark(word: str) -> re.Pattern[str]:
    marks = r"[ \t*_`#$\"']*"
    name = rf"(?<![\w-])(?:final[ \t]+)?{word}"
    colon, verb = rf"{name}{marks}[:=]", rf"{name}(?:[ \t]+to[ \t][^\n:]{{1,160}}?)?[*_`]*[ \t]+is(?![\w'])[ \t]*:?"
    heading = rf"^{marks}(?:final[ \t]+)?{word}{marks}$"
    return re.compile(f"{colon}|{verb}|{heading}", re.I | re.M)


def read(
    reply: str, value: re.Pattern[str], question: str = "", *, tidy: Callable[[str], str] = str.strip
) -> str | None:
    """The answer that a chat reply states, None if it states none.

    Args:
        reply: the completion; reasoning and markup may stand in it.
        value: what an answer looks like; matched whole against a bare statement and searched in a longer one.
        question: values that stand here are no candidates in a longer statement.
        tidy: brings two spellings of one value together.
    """
    shown = visible(reply)
    if shown is None:
        return None
    text = plain(shown[-_MOST:])
    statement = marked(text, value=value)
    if statement is None:
        statement = _last(text, value)
    if statement is None or not statement.strip() or len(statement) > _LONGEST or _odd(statement):
        return None
    if value.fullmatch(whole := bare(statement)):
        return tidy(whole)
    if _DENIED.search(statement) or _OR.search(statement):
        return None
    known = {tidy(found.group()) for found in value.finditer(plain(question))}
    if (equation := _equation(statement, value)) is not None:  # what is new before it would be another candidate
        head, right = equation
        outside = {tidy(found.group()) for found in value.finditer(head)} - known
        return tidy(right) if outside <= {tidy(right)} else None
    fresh = {tidy(found.group()) for found in value.finditer(statement)} - known
    return next(iter(fresh)) if len(fresh) == 1 else None


def stated(reply: str) -> str:
    """The statement of a chat reply without its markup, whatever type its answer has; "" where there is none."""
    shown = visible(reply)
    text = plain("" if shown is None else shown[-_MOST:])
    statement = marked(text)
    return bare(text.strip().rpartition("\n")[2] if statement is None else statement)


def block(reply: str) -> str:
    """The statement of a chat reply as a text of any shape, of several lines too; "" where there is none.

    What stands in the last ``<answer>``, or else behind the last mark to the end, or else all that is said; of that,
    what stands in the last fence or the last box, if there is one.
    """
    shown = visible(reply)
    if shown is None:
        return ""
    text = shown[-_MOST:].replace("\r\n", "\n")
    lower = text.lower()
    end = lower.rfind("</answer>")
    start = lower.rfind("<answer>", 0, max(0, end))
    if start >= 0:
        text = text[start + len("<answer>") : end]
    elif marks := list(_mark("answer").finditer(text)):
        text = text[marks[-1].end() :]
    fences = list(_FENCE.finditer(text))
    if len(fences) > 1:
        text = text[fences[-2].end() : fences[-1].start()]
    elif boxes := [box for box in _BOX.finditer(text) if "box" in box.group()]:
        text = _closed(text, boxes[-1]) or ""
    return text.strip()


def _odd(text: str) -> bool:
    """Whether it holds what no answer does: combining marks, control characters, halves of characters, bidi marks."""
    if text.isascii() and text.isprintable():
        return False
    return any(unicodedata.category(c) in ("Mn", "Me", "Cc", "Cf", "Cs", "Co", "Cn") for c in text if c != "\t")


def _last(text: str, value: re.Pattern[str]) -> str | None:
    """The last sentence of an unmarked reply; None if it is the end of a list of bare values."""
    lines = [_STEP.sub("", _BULLET.sub("", line)) for line in text.split("\n") if line.strip(_MARKS)]
    sentences = [part for line in lines[-2:] for part in _SENTENCE.split(line) if part.strip(_MARKS + ".")]
    if not sentences or (len(sentences) > 1 and _listed(sentences[-2], sentences[-1], value)):
        return None
    return sentences[-1]


def _listed(one: str, other: str, value: re.Pattern[str]) -> bool:
    """Whether both are nothing but values, and not the same ones."""
    if len(one) + len(other) > _LONGEST:
        return False
    texts = [_BULLET.sub("", text) for text in (one, other)]
    found = [set(value.findall(text)) for text in texts]
    rest = [_JOINING.sub("", value.sub("", text)) for text in texts]
    return all(found) and found[0] != found[1] and not any(rest)


def _equation(statement: str, value: re.Pattern[str]) -> tuple[str, str] | None:
    """``... 3 + 4 = 7`` as what stands before the equation and its right side; None if it does not end in one."""
    text = bare(statement)
    head = text.rstrip("0123456789.,+-*/()= \t")
    *left, right = (term.strip() for term in text[len(head) :].split("="))
    if not left or not value.fullmatch(right) or any(re.search(r"\d\s+\d", term) for term in left):
        return None
    # bare values between equality signs are a list; "22 = 3 * 5 + 7" has one value where values are expressions
    return (f"{head} {' '.join(term for term in left if value.fullmatch(term))}", right)


def settled(action: Action, word: str = "answer") -> str:
    """What of a reply may be read: all of it, or, of one that its budget cut off, the finished lines of a statement."""
    if action.finish_reason != "length":
        return action.text
    shown = visible(action.text)
    finished = "" if shown is None else shown.rpartition("\n")[0]
    if shown is not None and (box := shown.rfind("\\boxed{")) >= 0 and "}" in shown[box:]:
        return shown
    return finished if marked(plain(finished), word) else ""


def proposal(text: str, parse: Callable[[str], Task | Reject]) -> Task | Reject:
    """The problem that a chat reply proposes: its last line that parses, or why its last line does not."""
    shown = visible(text)
    if shown is None:
        return Reject("empty", "the reasoning was never closed")
    first = Reject("empty")
    for line in reversed(plain(shown[-_MOST:]).split("\n")[-_LINES:]):
        if not line.strip(_MARKS):
            continue
        for form in dict.fromkeys(
            (line.strip(), bare(line), bare(_BULLET.sub("", line)), bare(marked(line, "problem") or ""))
        ):
            found = parse(form)
            if not isinstance(found, Reject):
                return found
            first = found if first.code == "empty" else first
    return first


def verdict(text: str, low: int, high: int) -> int | None:
    """The number that a judge's chat reply states: behind its last ``Verdict:``, in a box, or all that it says."""
    shown = visible(text)
    if shown is None:
        return None
    shown = plain(shown[-_MOST:])
    statement = marked(shown, "verdict")
    if statement is None:
        statement = shown
        if not re.fullmatch(r"\d{1,2}", bare(shown)):
            return None
    found = _VERDICT.fullmatch(bare(statement))
    if found is None or not low <= int(found[1]) <= high or found[2] not in (None, str(high)):
        return None
    said = {int(number) for number in re.findall(r"\d+", found[3])} - {int(found[1])}
    return None if said or _OR.search(found[3]) else int(found[1])


#: A whole number, a decimal or a fraction, with a sign and with thousands separators.
NUMBER = re.compile(r"(?<![\w.])(?:(?<!\))-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?(?!\w|\.\d)")


def number(text: str) -> str:
    """A number without blanks, thousands separators and a fraction part of zeros."""
    return re.sub(r"(?<=\d)\.0+$", "", re.sub(r"[\s,]", "", text))


def answer_limits(tokens: int) -> Limits:
    """The bounds on a reply of so many tokens."""
    return Limits(tokens, max(64, 8 * tokens))


def graded(family: Any, task: Task, action: Action) -> tuple[Score, str | None]:
    """The family's score of a move, and the answer that was read out of it.

    ``family``: has ``verify`` and may have ``read(task, reply) -> str | None`` (``""`` is recorded for None); without
    one, and in the strict protocol, a reply is what it is and None is recorded.
    """
    if action.status != "ok":
        return Score(0.0, action.status, grader="no reply"), None
    read_ = getattr(family, "read", None)
    if read_ is None or getattr(family, "protocol", "strict") == "strict":
        return family.verify(task, action.text), None
    text = settled(action)
    found = read_(task, text)
    return family.verify(task, text), found or ""
