"""Rubrics by how they are checked: labelled lines, phrases, places in a line or a list, JSON, calls, clauses, lengths.

All are total: any text is passed or failed.  What a chat model writes around an answer (reasoning that was closed,
emphasis, code fences, bullets) is taken off first.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from dream_envs.tasks import answers
from dream_envs.tasks.contexts import Rubric

_BULLET = re.compile(r"^\s*(?:[-+\u2022]\s+|\(?\d{1,2}[.)]\s+|step\s+\d+\s*[:.]\s*)", re.I)
_MOST = 20_000  # characters that are read, from the end


def clean(answer: str) -> str:
    """The answer without reasoning and markup; empty where the reasoning was never closed."""
    shown = answers.visible(answer)
    return "" if shown is None else answers.plain(shown[-_MOST:]).replace("*", "").replace("`", "")


def lines(answer: str) -> list[str]:
    """Its lines that are not blank, without bullets and numbers before them."""
    return [_BULLET.sub("", line).strip() for line in clean(answer).split("\n") if line.strip()]


def tidy(text: str) -> str:
    """In lower case, with single blanks and without quotes and stops around it."""
    return " ".join(text.casefold().split()).strip(" .;,\"'")


def has(text: str, phrase: str) -> bool:
    """Whether the phrase stands there in whole words."""
    whole = rf"(?<![\w.]){re.escape(tidy(phrase))}(?!\w)(?!\.\d)"
    return re.search(whole, " ".join(text.casefold().split())) is not None


def field(rule: str, label: str, value: Any, wrong: Any) -> Rubric:
    """The last line that begins with the label has just this value."""
    mark = re.compile(rf"^{re.escape(label)}\s*[:=]\s*(.*)$", re.I)

    def check(answer: str) -> bool:
        found = [m[1] for line in lines(answer) if (m := mark.match(line))]
        return bool(found) and tidy(found[-1]) == tidy(str(value))

    return Rubric(f"Has the line '{label}: {value}'.", check, rule, f"{label}: {value}", f"{label}: {wrong}")


def names(rule: str, phrase: str, wrong: str = "") -> Rubric:
    """The phrase stands in the answer, and the wrong one does not."""

    def check(answer: str) -> bool:
        text = clean(answer)
        return has(text, phrase) and not (wrong and has(text, wrong))

    told = f", not '{wrong}'" if wrong else ""
    return Rubric(f"Says '{phrase}'{told}.", check, rule, f"{phrase}.", f"{wrong}." if wrong else "")


def lacks(rule: str, phrase: str) -> Rubric:
    """The phrase stands nowhere in an answer that says something."""

    def check(answer: str) -> bool:
        text = clean(answer)
        return bool(text.strip()) and not has(text, phrase)

    return Rubric(f"Does not mention '{phrase}'.", check, rule, "", phrase)


def line(rule: str, number: int, phrase: str, wrong: str) -> Rubric:
    """The line of this number, 1 for the first, -1 for the last, holds the phrase."""

    def check(answer: str) -> bool:
        own = lines(answer)
        at = number - 1 if number > 0 else len(own) + number
        return 0 <= at < len(own) and has(own[at], phrase)

    told = "The last line" if number == -1 else f"Line {number}"
    return Rubric(f"{told} says '{phrase}'.", check, rule, phrase, wrong)


def row(rule: str, key: str, value: str, wrong: str) -> Rubric:
    """Every line that begins with the key, of which there is one, says the value as well and no other number."""

    def check(answer: str) -> bool:
        own = [each for each in lines(answer) if tidy(each).startswith(tidy(key))]
        wanted = re.findall(r"\d+(?:\.\d+)?", value)
        return bool(own) and all(
            has(each, value) and re.findall(r"\d+(?:\.\d+)?", each.replace(key, "")) == wanted for each in own
        )

    return Rubric(f"Gives {value} for {key}.", check, rule, f"{key} {value}", f"{key} {wrong}")


def part(rule: str, number: int, value: str, wrong: str, sep: str, many: int) -> Rubric:
    """The last line has ``many`` parts between ``sep``, and that of this number, from 1, is the value."""

    def check(answer: str) -> bool:
        own = [each for each in lines(answer) if each.strip()]
        parts = [tidy(p) for p in (own[-1].split(sep) if own else ())]
        return len(parts) == many and parts[number - 1] == tidy(value)

    return Rubric(f"Part {number} of {many} in its last line is '{value}'.", check, rule, value, wrong)


def listed(rule: str, name: str, wanted: bool, known: Sequence[str]) -> Rubric:
    """The last line is a list of known names, or 'nothing', and the name is in it or is not."""
    allowed = {tidy(each) for each in (*known, "nothing")}

    def check(answer: str) -> bool:
        own = lines(answer)
        items = [tidy(p) for p in re.split(r"[,;]", own[-1])] if own else []
        return bool(items) and allowed.issuperset(items) and (tidy(name) in items) == wanted

    here = (name, "") if wanted else ("", name)
    return Rubric(f"{'Lists' if wanted else 'Does not list'} {name}.", check, rule, *here)


def member(rule: str, key: str, value: Any, wrong: Any) -> Rubric:
    """The JSON object in the answer has this value under the key."""

    def check(answer: str) -> bool:
        text = clean(answer)
        first, last = text.find("{"), text.rfind("}")
        try:
            found = json.loads(text[first : last + 1])
        except (ValueError, RecursionError):
            return False
        mine = found.get(key) if isinstance(found, dict) else None
        return type(mine) is type(value) and mine == value

    good, bad = (f"{json.dumps(key)}: {json.dumps(v)}" for v in (value, wrong))
    return Rubric(f"The JSON object has {good}.", check, rule, good, bad)


def call(rule: str, number: int, source: str, wrong: str) -> Rubric:
    """The line of this number is this call, however it is spaced and quoted."""

    def shape(text: str) -> str:
        try:
            return ast.dump(ast.parse(text.strip().rstrip(";"), mode="eval"))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ""

    wanted = shape(source)

    def check(answer: str) -> bool:
        own = lines(answer)
        return len(own) >= number and len(own[number - 1]) < 500 and shape(own[number - 1]) == wanted

    return Rubric(f"Call {number} is {source}.", check, rule, source, wrong)


def clause(rule: str, word: str, value: str, wrong: str, words: Sequence[str]) -> Rubric:
    """In the last line the keyword stands once, and what follows it up to the next keyword is the value."""
    split = re.compile(rf"\b({'|'.join(words)})\b")

    def check(answer: str) -> bool:
        own = lines(answer)
        parts = split.split(own[-1]) if own else []
        found = [tidy(parts[i + 1]) for i in range(1, len(parts) - 1, 2) if parts[i] == word]
        return found == [tidy(value)]

    return Rubric(f"{word} is followed by '{value}'.", check, rule, f"{word} {value}", f"{word} {wrong}")


def brief(rule: str, most: int) -> Rubric:
    """No more words than that, and at least one."""

    def check(answer: str) -> bool:
        return 0 < len(clean(answer).split()) <= most

    return Rubric(f"Has at most {most} words.", check, rule, "", "more and " * most)


def joined(sep: str) -> Callable[[Sequence[str]], str]:
    """Glue: the pieces that are not empty, in one line."""
    return lambda pieces: sep.join(p for p in pieces if p) or "nothing"


def stacked(pieces: Sequence[str]) -> str:
    """Glue: the pieces that are not empty, a line each."""
    return "\n".join(p for p in pieces if p) or "nothing"


def braced(pieces: Sequence[str]) -> str:
    """Glue: members of one JSON object."""
    return "{" + ", ".join(pieces) + "}"
