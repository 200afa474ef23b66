r"""In which form a reply is written: structural labels, exclusive, and defined for any text.

The parsers look at structure (a syntax tree, balanced braces, a delimiter row), never for a substring: a classifier
that calls every text with ``def`` in it code also counts "definition" and "undefined" (``openrlhf-pretrain``, the code
of arXiv 2504.07912).

>>> GENERIC.label("def f(x):\n    return x + 1")
'code'
>>> GENERIC.label("By definition, the answer is undefined.")
'prose'
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dream_envs.core import TaskFamily

#: What lies behind so many characters is not looked at.
MAX_CHARS = 1 << 20
#: Python's own parser sees at most so many characters at once (the tree of a long hostile text is huge).
MAX_CODE_CHARS = 16_384
_MAX_BLOCKS = 8


class Formats(NamedTuple):
    """Labels texts by the first of the parsers that recognises them; ``rest`` is the label of all others."""

    parsers: dict[str, Callable[[str], bool]]
    rest: str = "other"

    def label(self, text: str) -> str:
        """The format of a text, never empty; a text of blanks only is ``empty``."""
        if not text or text.isspace():
            return "empty"
        text = text[:MAX_CHARS]
        return next((name for name, parser in self.parsers.items() if parser(text)), self.rest)


def formats_of(family: TaskFamily) -> Callable[[str], str]:
    """``completion -> label``, by the family's row of ``FAMILIES`` or else the general formats."""
    own = FAMILIES.get(family.name)
    return (own(family) if own else GENERIC).label


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
    for line in map(str.strip, lines):
        if closer and line.startswith(closer):
            closer = ""
        elif closer and line:
            return True
        elif not closer and line.startswith(("```", "~~~")):
            closer = line[:3]
        elif not closer and line.startswith("<llm-code>"):
            closer = "</llm-code>"
    return False


def _block(lines: Sequence[str], start: int) -> list[str]:
    body = itertools.takewhile(lambda line: line[:1] in (" ", "\t") or not line.strip(), lines[start + 1 :])
    return [lines[start], *body]


def _is_program(text: str) -> bool:
    if not _MAYBE.search(text):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a reply is no concern of ours
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    calls = [n.value for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    prints = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
    assigned = sum(isinstance(n, (ast.Assign, ast.AugAssign, ast.AnnAssign)) for n in body)
    return prints or assigned >= 2 or (assigned == 1 and bool(calls)) or any(isinstance(n, _STATEMENTS) for n in body)


_RULE = re.compile(r":?-+:?")


def is_table(text: str) -> bool:
    """A Markdown table (a row of two or more cells over a delimiter row of as many) or a LaTeX ``tabular``."""
    for above, line in itertools.pairwise(text.split("\n")):
        if "-" in line and "|" in line:
            rule = _cells(line)
            if len(rule) >= 2 and all(map(_RULE.fullmatch, rule)) and len(_cells(above)) == len(rule):
                return True
    return "\\end{tabular}" in text.partition("\\begin{tabular}")[2]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def is_boxed(text: str) -> bool:
    r"""A final answer in ``\boxed{...}`` or ``\fbox{...}``: braces balanced, something inside."""
    for command in ("\\boxed", "\\fbox"):
        _, found, rest = text.rpartition(command)
        rest = rest.lstrip()
        if found and rest.startswith("{"):
            depths = itertools.accumulate((c == "{") - (c == "}") for c in rest)
            end = next((i for i, depth in enumerate(depths) if depth == 0), 0)
            if rest[1:end].strip():
                return True
    return False


_NUMBERED = re.compile(r"(?:#{1,6} |\*\*)?(?:[Ss]tep )?(\d{1,3})[.):](?: |\*|$)")
_BULLETS = ("- ", "* ", "+ ", "\u2022 ", "\u2013 ")
_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d*)?(?:/\d+)?(?:[eE][-+]?\d+)?\s?%?\.?")


def is_steps(text: str) -> bool:
    """Two or more lines that begin with rising numbers one apart: ``1.``, ``2)``, ``Step 3:``."""
    found = [_NUMBERED.match(line.lstrip()) for line in text.split("\n")]
    return any(after == before + 1 for before, after in itertools.pairwise(int(m.group(1)) for m in found if m))


def is_bullets(text: str) -> bool:
    """Two or more lines that begin with the same bullet."""
    heads = Counter(line.lstrip()[:2] for line in text.split("\n"))
    return any(heads[bullet] >= 2 for bullet in _BULLETS)


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


def composition_formats(family: Any) -> Formats:
    """``trace`` (each operation with the state it leads to), ``states`` (the states alone) and ``other``.

    Either notation; whether the trace is right, or that of another problem, does not matter.
    """
    operations, states = frozenset(family.operations), frozenset(family.states)

    def trace(text: str) -> bool:
        body = text.strip()
        if "->" in body:
            steps = [[name.strip() for name in part.split("->")] for part in body.split(",")]
            return all(len(step) == 2 and step[0] in operations and step[1] in states for step in steps)
        return len(body) % 2 == 0 and operations.issuperset(body[::2]) and states.issuperset(body[1::2])

    def only_states(text: str) -> bool:
        body = text.strip()
        names = body.replace("->", " ").replace(",", " ").split() if any(c in body for c in ", >") else list(body)
        return bool(names) and states.issuperset(names)

    return Formats({"trace": trace, "states": only_states})


#: Formats of single families, by their name.
FAMILIES: dict[str, Callable[[Any], Formats]] = {"composition": composition_formats}
