"""A Frontier Report for a terminal: the line, the verdict, a table by family, the cost; at most 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dream_envs.report import frontier_read as fr
from dream_envs.report import frontier_tables as tables
from dream_envs.report.terminal import WIDTH, say
from dream_envs.report.words import percent, probability, visible, whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLUMNS = (
    "family\n ", "problems\n ", "chance\n ", "base\nreached", "trained\npass@1", "gained\n ", "lost\n ",
    "eligible\n ", "held\nout",
)  # fmt: skip
_LEGEND = (
    "gained: reliably solved by the trained model, never by the base (those followed by lot stand for the others); "
    "lost: the reverse. Base reached: of the problems on which it was drawn, those where the trained model is reliable."
)


def family_table(data: dict[str, Any], encoding: str = "utf-8") -> Table:
    """Gains and losses by family, held-out families last.

    Args:
        data: the content of ``frontier.json``, as ``frontier_read.checked`` gives it.
        encoding: of the console; a character that it has not becomes ``?``.

    Returns:
        A table of at most 100 columns.
    """
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(_COLUMNS):
        found.add_column(name, justify="right" if i else "left", overflow="fold")
    rows = sorted(fr.families(data), key=lambda f: f.held_out)
    for i, f in enumerate(rows):
        if f.held_out and i and not rows[i - 1].held_out:
            found.add_row()
        reached = (
            f"{percent(f.reached)} of {whole(f.tried)}" if f.reached is not None and f.tried else percent(f.reached)
        )
        cells = [
            fr.label(f.name, 24), whole(f.n), probability(f.chance), reached, probability(f.pass1),
            tables.count(f.gained), tables.count(f.lost), "yes" if f.eligible else "no", "yes" if f.held_out else "no",
        ]  # fmt: skip
        found.add_row(
            *(Text(c.encode(encoding, "replace").decode(encoding)) for c in cells), style="" if f.eligible else "dim"
        )
    return found


def show_frontier(data: dict[str, Any], console: Console) -> None:
    """Print the headline, the verdict, the table by family, alarms and cost.

    Args:
        data: the content of ``frontier.json``, schema 2.
        console: where to; its width and its colours are respected.

    Raises:
        DreamEnvsError: if a block of ``data`` is missing or has the wrong shape.
    """
    data = fr.checked(data)
    say(console, fr.headline(data), "bold")
    console.print()
    word = visible(data["verdict"]["word"], 40)
    say(console, f"{word}: {visible(data['verdict']['sentence'], 600)}", "bold")
    kinds = tables.kind_rows(data)
    if kinds:
        say(console, "Certified, by kind: " + ", ".join(f"{count} {kind}" for kind, count in kinds) + ".")
    console.print()
    console.print(family_table(data, console.encoding or "utf-8"), width=min(WIDTH, console.width))
    say(console, _LEGEND)
    alarm = (data["diversity"] or {}).get("alarm")
    if alarm:
        say(console, f"alarm: {visible(alarm, 300)}", "yellow")
    if data["cost"] is not None:
        console.print()
        say(console, "; ".join(f"{name.lower()} {value}" for name, value in tables.cost_rows(data)) + ".")
