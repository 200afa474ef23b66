"""A page's content as a small tree, made once and written twice: as HTML here, and as JSON for the page's script.

A node is a text or ``[tag, attributes, *nodes]``.  Tags and attributes are ours; every text has been capped and made
visible (``words.visible``) before it is in a tree, and is never read as markup by either writer.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dream_envs.report.words import visible

Node = str | list[Any]
_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@.*\n(?:[ \\].*\n|\n)*[-+]", re.MULTILINE)
_MARKS = {"+": "add", "-": "del", "@": "hunk", "\\": "hunk"}
#: Characters of a table's cell; a longer text stands by itself.
_CELL = 160
_DEPTH = 4


class Caps(NamedTuple):
    """How much is shown: characters of a text, items of a list, a table or a transcript."""

    text: int = 8000
    items: int = 200


def el(tag: str, *content: Node | None, **attributes: str) -> list[Any]:
    """An element without what is None or empty; ``class_`` is ``class`` and ``data_x`` is ``data-x``."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    return [tag, named, *(node for node in content if node not in (None, ""))]


def to_html(node: Node) -> str:
    """The tree as HTML."""
    if isinstance(node, str):
        return html.escape(node)
    tag, attributes, *content = node
    named = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{named}>{''.join(map(to_html, content))}</{tag}>"


def to_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end or open one, whatever a text holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def short(value: Any, cap: int = _CELL) -> str:
    """One line for a label or a cell: floats in four significant digits, whether something holds as yes or no."""
    if value in ("", {}, []):
        return "(empty)"
    if value is None or isinstance(value, bool):
        return "-" if value is None else "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else f"a number of {value.bit_length()} bits"
    return " ".join(visible(value if isinstance(value, str) else _json(value), cap).split())


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str, indent=indent)
    except (RecursionError, TypeError, ValueError) as error:  # nested too deeply, or digits without end
        return f"(cannot be shown: {type(error).__name__})"


def is_diff(text: str) -> bool:
    """Whether this is a unified diff: a hunk's head, and a line that was added or removed under it."""
    return "@@ -" in text[:100_000] and _HUNK.search(text[:100_000]) is not None


def cut(text: str, cap: int) -> tuple[str, str]:
    """The text made visible and, where it is longer than ``cap``, without its middle; a note of how long it is."""
    if len(text) <= cap:
        return visible(text, cap), ""
    head, tail = cap - cap // 3, cap // 3
    left = f"\n[... {len(text) - cap:,} characters left out ...]\n"
    note = f"cut: {cap:,} of {len(text):,} characters are shown"
    return visible(text[:head], head) + left + visible(text[len(text) - tail :], tail), note


def said(text: str, caps: Caps) -> list[Any]:
    """A text as it stands, a diff coloured; with a note where it is cut."""
    if not text:
        return el("p", "(nothing)", class_="soft")
    shown, note = cut(text, caps.text)
    body = diff(shown) if is_diff(text) else el("div", shown, class_="said", dir="auto")
    return el("div", body, el("p", note, class_="note")) if note else body


def diff(shown: str) -> list[Any]:
    """A unified diff, a line a row."""
    lines = []
    for line in shown.splitlines():
        head = line.startswith(("--- ", "+++ "))
        lines.append(el("span", line or " ", class_="hunk" if head else _MARKS.get(line[:1], "same")))
    return el("pre", *lines, class_="diff")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], caps: Caps, *, name: str = "") -> list[Any]:
    """Rows under a head (or none), numbers to the right; what is beyond the cap is counted."""
    every = list(rows)
    words = [i == 0 or all(not _is_number(row[i]) for row in every[: caps.items]) for i in range(len(head))]
    named = [
        el("th", short(cell) if cell else None, scope="col", **_words(w)) for cell, w in zip(head, words, strict=True)
    ]
    top = el("thead", el("tr", *named)) if head else None
    body = []
    for first, *cells in every[: caps.items]:
        body.append(el("tr", el("th", short(first), scope="row"), *map(_cell, cells)))
    more = len(every) - caps.items
    grid = el("table", el("caption", short(name)) if name else None, top, el("tbody", *body))
    rest = el("p", f"{more:,} more rows", class_="note") if more > 0 else None
    return el("div", grid, rest, class_="scroll", tabindex="0")


def _cell(value: Any) -> list[Any]:
    return el("td", short(value), **_words(not _is_number(value)))


def _words(so: bool) -> dict[str, str]:
    return {"class_": "words"} if so else {}


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _is_cell(value: Any) -> bool:
    """Whether a value can stand in a table."""
    return (
        _is_number(value) or value in ({}, []) or (isinstance(value, str) and len(value) <= _CELL and "\n" not in value)
    )


def _flat(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_cell, value.values()))


def facts(values: Mapping[str, Any], caps: Caps, depth: int = 0) -> list[list[Any]]:
    """What is known by name, each value in the form that suits it, whatever game it comes from.

    A unified diff is coloured; a flat dict is a small table; dicts or lists of flat dicts are one table, folded at the
    top; short values stand together in one table; anything else is folded and taken apart further.
    """
    items = list(itertools.islice(values.items(), caps.items))
    plain = [(name, value) for name, value in items if _is_cell(value)]
    made = [table((), plain, caps)] if plain else []
    made += [_fact(name, value, caps, depth) for name, value in items if not _is_cell(value)]
    if (more := len(values) - len(items)) > 0:
        made.append(el("p", f"{more:,} more", class_="note"))
    return made


def _shows_diff(node: Node) -> bool:
    return isinstance(node, list) and (node[1].get("class") == "diff" or any(map(_shows_diff, node[2:])))


def _fact(name: Any, value: Any, caps: Caps, depth: int) -> list[Any]:
    title = short(name)
    if isinstance(value, str):
        return el("div", el("p", title, class_="who"), said(value, caps), class_="wide")
    if _flat(value):
        return table((), value.items(), caps, name=name)
    if isinstance(value, list) and all(map(_is_cell, value)) and len(text := ", ".join(map(short, value))) <= _CELL:
        return table((), [(name, text)], caps)
    if isinstance(value, Mapping) and all(map(_flat, value.values())):
        return fold(f"{title} ({len(value):,} rows)", _rows(value.items(), caps))
    if isinstance(value, list) and all(map(_flat, value)):
        return fold(f"{title} ({len(value):,} rows)", _rows(enumerate(value), caps))
    if depth >= _DEPTH or not isinstance(value, Mapping | list):
        return fold(title, said(_json(value, 1), caps))
    inner = value if isinstance(value, Mapping) else {str(i): item for i, item in enumerate(value)}
    made = facts(inner, caps, depth + 1)
    return fold(title, *made, open=any(map(_shows_diff, made)))  # what one came to see is not behind a click


def _rows(items: Iterable[tuple[Any, Mapping[str, Any]]], caps: Caps) -> list[Any]:
    rows = list(items)
    columns = list(dict.fromkeys(key for _, row in rows for key in row))[: min(24, caps.items)]
    return table(["", *columns], [[at, *(row.get(c) for c in columns)] for at, row in rows], caps)


def fold(summary: str, *content: Node | None, open: bool = False, secret: bool = False) -> list[Any]:
    """Content behind a click; ``secret``: what ``reveal`` opens on the page."""
    attributes = {"class_": "secret"} if secret else {}
    return el("details", el("summary", summary), *content, **attributes, **({"open": ""} if open else {}))
