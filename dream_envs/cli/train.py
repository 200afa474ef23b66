"""``dream-envs train RECIPE``: a published loop from its base to its Frontier Report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dream_envs.cli import common
from dream_envs.cli.runs import needs


def epilog() -> str:
    """The recipes for ``--help``; nothing heavy is imported."""
    try:
        from dream_envs.baselines.recipes import ROWS
    except ModuleNotFoundError:  # a damaged installation: ``doctor`` has to start
        return ""
    lines = [f"  {name.ljust(16)}{text}" for name, (_, text) in ROWS.items()]
    return "\n".join(["\b", "Recipes:", *lines])


def train(
    given: Mapping[str, Any], knobs: Sequence[str], out: Path | None, how: Mapping[str, Any], as_json: bool
) -> None:
    """Run a recipe and show what came of it.

    Args:
        given: fields of ``recipes.Settings``.
        knobs: ``KEY=VALUE`` texts.
        out: the run's folder; None: ``runs/RECIPE``.
        how: keyword arguments of ``recipes.train``.
        as_json: print the result as JSON.

    Raises:
        Interrupted: at Ctrl-C, with the way to go on.
    """
    recipes = needs("dream_envs.baselines.recipes")
    settings = recipes.Settings(**given, knobs=common.values_of(list(knobs), "--set"))
    folder = out or Path("runs") / settings.recipe.rpartition(":")[2].lower()
    recipes.place(settings.recipe)  # a wrong name is told before anything heavy is imported
    needs("dream_envs.baselines.loop")
    try:
        found = recipes.train(settings, folder, **how)
    except KeyboardInterrupt:
        way = "the same command with --resume goes on from the last checkpoint"
        raise common.Interrupted(f"interrupted, {folder} is kept; {way}") from None
    if as_json:
        common.emit(found, "", True)
        return
    from rich.console import Console

    from dream_envs.report.frontier_terminal import show_frontier
    from dream_envs.report.terminal import show

    console = Console()
    show(folder, console)
    if found["frontier"] is not None:
        show_frontier(found["frontier"], console)
        common.say(f"Frontier Report: {folder / 'frontier' / 'report.html'}")
    common.say(f"report of the run: {folder / 'report.html'}")
