"""Tables for a terminal: columns go before a number is split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

_GAP = 2
#: A column of words may be cut to so many characters before another column goes.
_WORDS = 8


class Column(NamedTuple):
    """A column of a table."""

    head: str  # its name, in one or several lines
    priority: int = 0  # 0 always stays; of the others the one with the largest number goes first
    words: bool = False  # words may be cut short, and stand on the left; numbers never are, and stand on the right


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int,
    styles: Sequence[str] = (),
    encoding: str = "utf-8",
) -> Table:
    """A table that fits: the least important columns are left out until every number is whole.

    Args:
        columns: their names and priorities.
        rows: one text for each column; an empty row is a blank line.
        width: characters there are.
        styles: rich style of each row.
        encoding: of the terminal; a character that it has not becomes ``?``.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    shown = list(range(len(columns)))
    heads = [column.head.split("\n") for column in columns]
    sizes = [max(map(cell_len, [*heads[i], *(row[i] for row in rows if row)])) for i in shown]
    least = [
        min(size, max(_WORDS, *map(cell_len, heads[i]))) if columns[i].words else size for i, size in enumerate(sizes)
    ]
    while sum(least[i] for i in shown) + _GAP * (len(shown) - 1) > width and any(columns[i].priority for i in shown):
        shown.remove(max(shown, key=lambda i: (columns[i].priority, i)))
    spare = max(width - sum(least[i] for i in shown) - _GAP * (len(shown) - 1), 0)
    found = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    fits = "…".encode(encoding, "replace") != b"?"
    cut: Any = "ellipsis" if fits else "crop"
    deepest = max((len(heads[i]) for i in shown), default=0)
    for i in shown:
        size = min(sizes[i], least[i] + spare)
        spare -= size - least[i]
        head = "\n".join([*heads[i], *[" "] * (deepest - len(heads[i]))])
        side: Any = "left" if columns[i].words else "right"
        found.add_column(head, justify=side, no_wrap=True, overflow=cut, min_width=size, max_width=size)
    for row, style in zip(rows, [*styles, *[""] * (len(rows) - len(styles))], strict=True):
        cells = (row[i].encode(encoding, "replace").decode(encoding) for i in shown) if row else ()
        found.add_row(*map(Text, cells), style=style)
    return found
