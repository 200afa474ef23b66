r"""In which form a reply is written: structural labels, exclusive, and defined for any text.

The parsers look at structure
(a syntax tree, balanced braces, a delimiter row), never for a substring: a classifier that calls every text with
``def`` in it code also counts "definition" and "undefined" (``openrlhf-pretrain``, the code of arXiv 2504.07912).

>>> GENERIC.label("def f(x):\n    return x + 1")
'code'
>>> GENERIC.label("By definition, the answer is undefined.")
'prose'

A family can bring formats of its own: a method ``formats(reply, task) -> str``, or a row of ``FAMILIES``.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dream_envs.core import Task, TaskFamily

#: What lies behind so many characters is not looked at.
MAX_CHARS = 1 << 20
#: Python's own parser sees at most so many characters at once (the tree of a long hostile text is huge).
MAX_CODE_CHARS = 16_384
_MAX_BLOCKS = 8
EMPTY = "empty"
Labeller = Callable[[str, "Task | None"], str]


class Formats(NamedTuple):
    """Labels texts by the first of the parsers that recognises them; ``rest`` is the label of all others."""

    parsers: dict[str, Callable[[str], bool]]
    rest: str = "other"

    def label(self, text: str, task: Task | None = None) -> str:
        """The format of a text, never empty; a text of blanks only is ``empty``.  ``task`` is not looked at."""
        if not text or text.isspace():
            return EMPTY
        text = text[:MAX_CHARS]
        return next((name for name, parser in self.parsers.items() if parser(text)), self.rest)


def formats_of(family: TaskFamily | None = None) -> Labeller:
    """``(completion, task) -> label``: the family's own ``formats`` method, its row of ``FAMILIES``, or general ones.

    A family's own ``formats`` that returns anything but a non-empty str counts as ``other``.
    """
    own = getattr(family, "formats", None)
    if callable(own):

        def label(text: str, task: Task | None) -> str:
            found = own(text, task)
            return found if isinstance(found, str) and found else "other"

        return label
    if family is not None and (maker := FAMILIES.get(family.name)) is not None:
        return maker(family).label
    return GENERIC.label


# Ordinary text


def is_json(text: str) -> bool:
    """One JSON object or array and nothing else; bare or in one code fence."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and len(body) > 6:
        head, _, body = body[3:-3].partition("\n")
        if head.strip().lower() not in ("", "json"):
            return False
        body = body.strip()
    if body[:1] not in ("{", "[") or body[-1:] not in ("}", "]"):
        return False
    try:
        return isinstance(json.loads(body), (dict, list))
    except (ValueError, RecursionError):
        return False


_STATEMENTS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.For, ast.While, ast.With,
    ast.Try, ast.If, ast.Raise, ast.Assert,
)  # fmt: skip
_HEADER = re.compile(r"(?:async def|def|class) \w")
#: Every program that counts has one of these; prose mostly has none, which spares it the parser.
_MAYBE = re.compile(r"[=(:]|^(?:import|from|raise|assert)\b", re.MULTILINE)


def is_code(text: str) -> bool:
    """A fenced or ``<llm-code>`` block that has something in it, or Python that parses.

    Python: the whole text, the whole text without its last line (a reply cut off at its token limit), or a ``def`` or
    ``class`` with its indented body anywhere.  A bare expression, name or single assignment is no code: ``x = 3`` is
    how people write mathematics.
    """
    lines = text.split("\n")
    if _has_block(lines):
        return True
    if len(text) <= MAX_CODE_CHARS and (_is_program(text) or (len(lines) > 2 and _is_program("\n".join(lines[:-1])))):
        return True
    starts = [i for i, line in enumerate(lines) if _HEADER.match(line)][:_MAX_BLOCKS]
    return any(_is_program("\n".join(_block(lines, i))[:MAX_CODE_CHARS]) for i in starts)


def _has_block(lines: Sequence[str]) -> bool:
    """A line that opens a fence, and a line with something on it before the fence is closed or the text ends."""
    closer = ""
    for raw in lines:
        line = raw.strip()
        if closer:
            if line.startswith(closer):
                closer = ""
            elif line:
                return True
        elif line.startswith("```") or line.startswith("~~~"):
            closer = line[:3]
        elif line.startswith("<llm-code>"):
            closer = "</llm-code>"
    return False


def _block(lines: Sequence[str], start: int) -> list[str]:
    end = start + 1
    while end < len(lines) and (lines[end][:1] in (" ", "\t") or not lines[end].strip()):
        end += 1
    return list(lines[start:end])


def _is_program(text: str) -> bool:
    if not _MAYBE.search(text):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a reply is no concern of ours
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    if any(isinstance(node, _STATEMENTS) for node in body):
        return True
    calls = [n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    assigned = [n for n in body if isinstance(n, (ast.Assign, ast.AugAssign, ast.AnnAssign))]
    return len(assigned) >= 2 or (bool(assigned) and bool(calls)) or any(_is_print(n.value) for n in calls)


def _is_print(call: Any) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "print"


_RULE = re.compile(r":?-+:?")


def is_table(text: str) -> bool:
    """A Markdown table (a row of two or more cells over a delimiter row of as many) or a LaTeX ``tabular``."""
    lines = text.split("\n")
    for above, line in itertools.pairwise(lines):
        if "-" in line and "|" in line:
            rule = _cells(line)
            if len(rule) >= 2 and all(_RULE.fullmatch(c) for c in rule) and len(_cells(above)) == len(rule):
                return True
    return _in_order(text, "\\begin{tabular}", "\\end{tabular}")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _in_order(text: str, opening: str, closing: str) -> bool:
    at = text.find(opening)
    return at >= 0 and text.find(closing, at) >= 0


def is_boxed(text: str) -> bool:
    r"""A final answer in ``\boxed{...}`` or ``\fbox{...}``: braces balanced, something inside."""
    for command in ("\\boxed", "\\fbox"):
        at = text.rfind(command)
        if at < 0:
            continue
        rest = text[at + len(command) :].lstrip()
        if not rest.startswith("{"):
            continue
        depth = 0
        for i, character in enumerate(rest):
            depth += (character == "{") - (character == "}")
            if depth == 0:
                if rest[1:i].strip():
                    return True
                break
    return False


_NUMBERED = re.compile(r"(?:#{1,6} |\*\*)?(?:[Ss]tep )?(\d{1,3})[.):](?: |\*|$)")
_BULLETS = ("- ", "* ", "+ ", "\u2022 ", "\u2013 ")


def is_steps(text: str) -> bool:
    """Two or more lines that begin with rising numbers one apart: ``1.``, ``2)``, ``Step 3:``."""
    before = -1
    for line in text.split("\n"):
        if found := _NUMBERED.match(line.lstrip()):
            number = int(found.group(1))
            if number == before + 1 and before >= 0:
                return True
            before = number
    return False


def is_bullets(text: str) -> bool:
    """Two or more lines that begin with the same bullet."""
    seen: set[str] = set()
    for line in text.split("\n"):
        head = line.lstrip()[:2]
        if head in _BULLETS:
            if head in seen:
                return True
            seen.add(head)
    return False


_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d*)?(?:/\d+)?(?:[eE][-+]?\d+)?\s?%?\.?")


def is_number(text: str) -> bool:
    """One number and nothing else: the answer without a way to it."""
    body = text.strip()
    return len(body) <= 64 and _NUMBER.fullmatch(body) is not None


#: Formats of ordinary replies.  A solution with steps and a box is ``boxed``, a program that prints a table ``code``.
GENERIC = Formats(
    {
        "json": is_json, "code": is_code, "table": is_table, "boxed": is_boxed, "steps": is_steps,
        "bullets": is_bullets, "number": is_number,
    },
    rest="prose",
)  # fmt: skip


# Families


def composition_formats(family: Any) -> Formats:
    """``trace`` (each operation with the state it leads to), ``states`` (the states alone) and ``other``.

    Either notation; whether the trace is right, or that of another problem, does not matter.
    """
    operations, states = frozenset(family.operations), frozenset(family.states)

    def trace(text: str) -> bool:
        body = text.strip()
        if "->" in body:
            steps = [part.split("->") for part in body.split(",")]
            pairs = [(s[0].strip(), s[1].strip()) if len(s) == 2 else ("", "") for s in steps]
            return all(o in operations and s in states for o, s in pairs)
        return len(body) % 2 == 0 and operations.issuperset(body[::2]) and states.issuperset(body[1::2])

    def only_states(text: str) -> bool:
        body = text.strip()
        if any(c in body for c in ", >"):
            names = body.replace("->", " ").replace(",", " ").split()
            return bool(names) and states.issuperset(names)
        return states.issuperset(body)

    return Formats({"trace": trace, "states": only_states})


#: Formats of families that have no ``formats`` method, by the family's name.
FAMILIES: dict[str, Callable[[Any], Formats]] = {"composition": composition_formats}
