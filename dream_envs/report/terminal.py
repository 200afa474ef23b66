"""The report's numbers for a terminal: at most 100 columns, ASCII, readable without colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dream_envs.report import figures, read
from dream_envs.report.nights import retention
from dream_envs.report.words import NONE, interval, log10, probability, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100
_ARROW = " -> "
_COLUMNS = (
    "\ndepth", "base\nT=1", "trained\nT=1", "trained\n95 % interval", "base\nlog10", "trained\nlog10",
    "base\nforced", "trained\nforced", "T0\nafter", "T1\nafter", "T2\nafter", "\nchance",
)  # fmt: skip
_LEGEND = (
    "Mean exact success P, not sampled; log10: median at T=1; * problems with held-out pairs; T0, T1, T2: problems by "
    "the base's tier and the share of them solved after training."
)

_LESSONS = (
    "Closed-book success on each lesson behind each night; in context: on the day's lesson with its text at hand."
)


def table(frontier: dict[str, Any]) -> Table:
    """Exact success by depth, before and after.

    Args:
        frontier: the content of ``frontier.json``; what is missing in it shows as ``-``.

    Returns:
        A table of at most 100 columns.
    """
    from rich.table import Table

    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in _COLUMNS:
        found.add_column(name, justify="right", overflow="fold")
    rows = figures.rows(frontier)
    for i, entry in enumerate(rows):
        held = figures.held_out(entry)
        if held and i and not figures.held_out(rows[i - 1]):
            found.add_row()
        pairs = [
            write(figures.stat(entry, who, decoder, key))
            for decoder, key, write in (("T=1", "median_log10", log10), ("forced", "mean", probability))
            for who in figures.WHO
        ]
        found.add_row(
            figures.label(entry) + ("" if held else " "),
            probability(figures.stat(entry, "base", "T=1", "mean")),
            probability(figures.stat(entry, "trained", "T=1", "mean")),
            interval(read.walk(entry, "trained", "T=1", "ci")).replace(" to ", "..") or NONE,
            *pairs,
            *(" ".join(figures.tier_cell(entry, t)).replace(" %", "%").strip() for t in figures.TIERS),
            probability(entry.get("chance")),
        )
    return found


def lessons(slept: dict[str, Any]) -> Table:
    """The retention matrix of ``sleeping.json``."""
    from rich.table import Table

    told = retention(slept)
    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("night", "in context", *told["lessons"]):
        found.add_column(name, justify="right", overflow="fold")
    for row in told["rows"]:
        found.add_row(str(row["night"]), row["open"], *(text for text, _ in row["cells"]))
    return found


def show(run_dir: Path, console: Console) -> None:
    """Print the verdict, the numbers that matter, the table and the alarms of a run.

    Args:
        run_dir: the run folder.
        console: where to; its width and its colours are respected.

    Raises:
        DreamEnvsError: for a broken ``frontier.json``.
    """
    run_dir = Path(run_dir)
    if read.read_object(run_dir / "frontier.json").get("kind") == "frontier":
        from dream_envs.frontier.schema import read_report
        from dream_envs.report.frontier_terminal import show_frontier

        show_frontier(read_report(run_dir), console)
        return
    frontier, metrics = read.read_frontier(run_dir), read.read_metrics(run_dir)
    if slept := read.read_object(run_dir / "sleeping.json"):
        say(console, visible(slept.get("verdict") or "No verdict is recorded.", 600), "bold")
        console.print()
        console.print(lessons(slept), width=min(WIDTH, console.width))
        console.print()
        say(console, _LESSONS)
    elif not frontier:
        say(console, f"{run_dir} has no frontier.json yet: nothing can be said about a gain.")
    else:
        say(console, visible(frontier.get("verdict") or "No verdict is recorded.", 600), "bold")
        console.print()
        for name, value, remark in figures.headline(frontier, arrow=_ARROW):
            say(console, f"{name}: {value}" + (f" ({remark})" if remark else ""))
        console.print()
        console.print(table(frontier), width=min(WIDTH, console.width))
        console.print()
        say(console, _LEGEND)
    for alarm in metrics.alarms:
        say(console, f"alarm ({alarm.times}x): {alarm.text}", "yellow")
    if (run_dir / "report.html").exists():
        say(console, f"The whole report: {run_dir / 'report.html'}")


def say(console: Console, text: str, look: str = "") -> None:
    """Plain text: no markup is read in it, and characters that the terminal cannot write become ``?``."""
    from rich.text import Text

    plain = text.encode(console.encoding or "utf-8", "replace").decode(console.encoding or "utf-8", "replace")
    console.print(Text(plain, style=look), width=min(WIDTH, console.width), soft_wrap=False)
