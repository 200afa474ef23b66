"""A Frontier Report for a terminal: the line, the verdict, a table by family, the cost; at most 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dream_envs.frontier.schema import Report
from dream_envs.report import frontier_read as fr
from dream_envs.report import frontier_tables as tables
from dream_envs.report.tables import Column, table
from dream_envs.report.terminal import WIDTH, say
from dream_envs.report.words import visible

if TYPE_CHECKING:
    from rich.console import Console

#: The columns, and their places in ``frontier_tables.family_rows``.
_COLUMNS = (
    (0, Column("family", words=True)), (2, Column("problems", 2)), (3, Column("chance", 5)),
    (6, Column("base\nreached", 3)), (7, Column("trained\npass@1", 1)), (8, Column("gained")), (9, Column("lost")),
    (4, Column("eligible", 6)), (5, Column("prac-\ntised", 4)),
)  # fmt: skip
_LEGEND = (
    "gained: reliably solved by the trained model, by no decoding of the base (followed ones stand for the others); "
    "lost: the reverse. Base reached: of the problems on which it was drawn, those where the trained model is reliable."
)


def show_frontier(data: Report, console: Console) -> None:
    """Print the headline, the verdict, the table by family, alarms and cost; the console's width is respected."""
    width = min(WIDTH, console.width)
    say(console, fr.headline(data), "bold")
    console.print()
    say(console, f"{visible(data.verdict.phrase, 600)}.", "bold")
    say(console, visible(data.verdict.sentence, 600))
    for line in data.verdict.qualified:
        say(console, f"qualified: {visible(line, 300)}", "yellow")
    console.print()
    heads = [Column("kind of problem", words=True), Column("against"), Column("shown"), Column("gain, points", 1)]
    heads += [Column("solved, %", 3), Column("problems", 2)]
    console.print(table(heads, tables.claim_rows(data), width, (), console.encoding or "utf-8"), width=width)
    console.print()
    lines: list[tuple[list[str], str]] = []
    for row in tables.family_rows(data):
        lines.append(([fr.label(row[0], 24), *(row[i] for i, _ in _COLUMNS[1:])], "" if row[4] == "yes" else "dim"))
    rows, styles = zip(*lines, strict=True) if lines else ((), ())
    console.print(table([c for _, c in _COLUMNS], rows, width, styles, console.encoding or "utf-8"), width=width)
    say(console, _LEGEND)
    if data.diversity and data.diversity.alarm:
        say(console, f"alarm: {visible(data.diversity.alarm, 300)}", "yellow")
    console.print()
    say(console, "; ".join(f"{name.lower()} {value}" for name, value in tables.cost_rows(data)) + ".")
