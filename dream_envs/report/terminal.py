"""The report's numbers for a terminal: at most 100 columns, readable without colour; columns go, no number is split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dream_envs.report import read, sections
from dream_envs.report.page import is_frontier
from dream_envs.report.tables import table
from dream_envs.report.words import visible

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100


def show(run_dir: Path, console: Console) -> None:
    """Print the verdict, the numbers that matter, the tables and the alarms of a run, or a Frontier Report.

    Args:
        run_dir: the run folder.
        console: where to; its width and its colours are respected.

    Raises:
        DreamEnvsError: if there is no run, or a file of it is damaged.
    """
    run_dir = Path(run_dir)
    if is_frontier(run_dir):
        from dream_envs.report import frontier_terminal

        frontier_terminal.show_frontier(frontier_terminal.fr.load(run_dir), console)
        return
    found = read.load(run_dir)
    if found.summary is None:
        say(console, f"{run_dir} is not finished: it has no summary.json, and nothing can be said about a gain.")
    else:
        say(console, visible(found.summary.verdict, 600), "bold")
        console.print()
        for name, value, remark in sections.tiles(found):
            say(console, f"{name}: {_plain(value)}" + (f" ({remark})" if remark else ""))
    width = min(WIDTH, console.width)
    for grid in sections.tables(found):
        console.print()
        say(console, grid.name, "dim")
        cells = [[_plain(cell) for cell in row] for row in grid.rows]
        console.print(table(grid.columns, cells, width, encoding=console.encoding or "utf-8"), width=width)
    if found.alarms:
        console.print()
    for alarm in found.alarms:
        say(console, f"alarm ({alarm.times}x): {alarm.text}", "yellow")


def _plain(text: str) -> str:
    return " ".join(text.replace("→", "->").split())


def say(console: Console, text: str, look: str = "") -> None:
    """Plain text: no markup is read in it, and characters that the terminal cannot write become ``?``."""
    from rich.text import Text

    plain = text.encode(console.encoding or "utf-8", "replace").decode(console.encoding or "utf-8", "replace")
    console.print(Text(plain, style=look), width=min(WIDTH, console.width), soft_wrap=False)
