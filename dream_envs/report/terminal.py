"""A run's report for a terminal: at most 100 columns, readable without colour; columns go, no number is split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dream_envs.frontier.schema import Report, read_report
from dream_envs.report import frontier_tables as ft
from dream_envs.report import read, sections
from dream_envs.report.sections import Column
from dream_envs.report.words import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100
_GAP = 2
#: A column of words may be cut to so many characters before another column goes.
_WORDS = 8


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, styles: Sequence[str] = (),
    encoding: str = "utf-8",
) -> Table:  # fmt: skip
    """A table in ``width`` characters: the least important columns are left out until every number is whole.

    An empty row is a blank line.  ``styles``: of each row.  ``encoding``: a character that it has not becomes ``?``.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    texts = [[visible(cell, 400) for cell in row] for row in rows]
    heads = [column.head.split("\n") for column in columns]
    sizes = [max(map(cell_len, [*heads[i], *(row[i] for row in texts if row)])) for i in range(len(columns))]
    least = [
        min(size, max(_WORDS, *map(cell_len, head))) if column.words else size
        for column, head, size in zip(columns, heads, sizes, strict=True)
    ]
    shown = list(range(len(columns)))

    def spare() -> int:
        return width - sum(least[i] + _GAP for i in shown) + _GAP

    while spare() < 0 and any(columns[i].priority for i in shown):
        shown.remove(max(shown, key=lambda i: (columns[i].priority, i)))
    left = max(spare(), 0)
    cut: Any = "ellipsis" if "…".encode(encoding, "replace") != b"?" else "crop"
    mark = "…" if cut == "ellipsis" else "~"
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    deepest = max((len(heads[i]) for i in shown), default=0)
    for i in shown:
        size = min(sizes[i], least[i] + left)
        left -= size - least[i]
        head = "\n".join([*heads[i], *[" "] * (deepest - len(heads[i]))])
        side: Any = "left" if columns[i].words else "right"
        if columns[i].words and size < sizes[i]:
            full = [row for row in texts if row]
            for row, name in zip(full, _shortened([row[i] for row in full], size, mark), strict=True):
                row[i] = name
        made.add_column(head, justify=side, no_wrap=True, overflow=cut, min_width=size, max_width=size)
    for row, style in zip(texts, [*styles, *[""] * (len(rows) - len(styles))], strict=True):
        cells = (row[i].encode(encoding, "replace").decode(encoding) for i in shown) if row else ()
        made.add_row(*map(Text, cells), style=style)
    return made


def _shortened(names: Sequence[str], size: int, mark: str) -> list[str]:
    """Names in ``size`` characters: cut at the end, or so far before it that different ones stay different."""

    def cut(tail: int) -> list[str]:
        return [n if len(n) <= size else n[: size - 1 - tail] + mark + n[len(n) - tail :] for n in names]

    return max(map(cut, range(size)), key=lambda found: len(set(found)))  # the first of the best


def show(run_dir: Path, console: Console) -> None:
    """Print the verdict, the numbers that matter, the tables and the alarms of a run, or a Frontier Report."""
    run_dir = Path(run_dir)
    if read.is_frontier(run_dir):
        show_frontier(read_report(run_dir), console)
        return
    run = read.load(run_dir)
    if run.summary is None:
        say(console, f"{run_dir} is not finished: it has no summary.json, and nothing can be said about a gain.")
    else:
        say(console, visible(run.summary.verdict, 600), "bold")
        console.print()
        for name, value, remark in sections.tiles(run):
            say(console, f"{name}: {_plain(value)}" + (f" ({remark})" if remark else ""))
    for grid in sections.tables(run):
        console.print()
        say(console, grid.name, "dim")
        _lay(console, grid.columns, [[_plain(cell) for cell in row] for row in grid.rows])
    if run.alarms:
        console.print()
    for alarm in run.alarms:
        say(console, f"alarm ({alarm.times}x): {alarm.text}", "yellow")


def _plain(text: str) -> str:
    return " ".join(text.replace("→", "->").split())


def _lay(console: Console, columns: Sequence[Column], rows: ft.Rows, styles: Sequence[str] = ()) -> None:
    width = min(WIDTH, console.width)
    console.print(table(columns, rows, width, styles, console.encoding or "utf-8"), width=width)


def say(console: Console, text: str, look: str = "") -> None:
    """Plain text: no markup is read in it, and characters that the terminal cannot write become ``?``."""
    from rich.text import Text

    encoding = console.encoding or "utf-8"
    plain = visible(text, len(text)).encode(encoding, "replace").decode(encoding)
    console.print(Text(plain, style=look), width=min(WIDTH, console.width), soft_wrap=False)


#: The columns of a Frontier Report, and their places in ``frontier_tables.family_rows``.
_FAMILY = (
    (0, Column("family", words=True)), (2, Column("problems", 2)), (3, Column("chance", 5)),
    (6, Column("base,\nany", 3)), (8, Column("trained\npass@1", 1)), (9, Column("gained")), (10, Column("lost")),
    (4, Column("eligible", 6)), (5, Column("prac-\ntised", 4)),
)  # fmt: skip
_CLAIMS = (
    Column("kind of problem", words=True), Column("against"), Column("shown"), Column("gained, points", 1),
    Column("solved, %", 3), Column("problems", 2),
)  # fmt: skip
_RUNS = (Column("run", words=True), Column("gain, points"), Column("verdict by itself", words=True))
_LEGEND = (
    "gained: reliably solved by the trained model, by no decoding of the base (followed ones stand for the others); "
    "lost: the reverse. Base, any: problems that it solves in all its samples, in turn over its methods."
)


def show_frontier(data: Report, console: Console) -> None:
    """Print the headline, the verdict, the table by family, alarms and cost; the console's width is respected."""
    say(console, ft.headline(data), "bold")
    console.print()
    say(console, f"{visible(data.verdict.phrase, 600)}.", "bold")
    say(console, visible(data.verdict.sentence, 600))
    for line in data.verdict.qualified:
        say(console, f"qualified: {visible(line, 300)}", "yellow")
    console.print()
    _lay(console, _CLAIMS, ft.claim_rows(data))
    console.print()
    if data.runs:
        _lay(console, _RUNS, [row[:3] for row in ft.run_rows(data)])
        say(console, "By family, of the first run:")
    found = ft.family_rows(data)
    rows = [[row[i] for i, _ in _FAMILY] for row in found]
    _lay(console, [column for _, column in _FAMILY], rows, ["" if row[4] == "yes" else "dim" for row in found])
    say(console, _LEGEND)
    say(console, ft.reach_note(data))
    if data.diversity and data.diversity.alarm:
        say(console, f"alarm: {visible(data.diversity.alarm, 300)}", "yellow")
    console.print()
    say(console, "; ".join(f"{name.lower()} {value}" for name, value in ft.cost_rows(data)) + ".")
