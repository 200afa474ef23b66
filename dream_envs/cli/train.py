"""``dream-envs train LOOP`` and ``dream``: a loop from its base to its report and Frontier Report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_envs import registry
from dream_envs.cli import common
from dream_envs.cli.runs import needs
from dream_envs.core import DreamEnvsError


def epilog() -> str:
    """The loops for ``--help``; nothing is imported."""
    return "\n".join(["\b", "Loops (info LOOP tells more):", f"  {', '.join(registry.rows('loops'))}"])


def options_of(loop: str, given: dict[str, Any], settings: Sequence[str], rewards: Sequence[str]) -> Any:
    """``recipe.Options`` from the command line.

    Args:
        loop: its name, or ``module:object``.
        given: the other fields; None leaves what the loop has.
        settings: ``KEY=VALUE`` texts.
        rewards: ``ROLE=EXPRESSION`` texts, or one TOML file with a table ``[rewards]``.
    """
    recipe = needs("dream_envs.baselines.recipe")
    from dream_envs.rewards.expressions import by_role

    levels = given.pop("levels")
    return recipe.Options(
        loop=loop,
        set=common.values_of(list(settings), "--set"),
        reward=by_role(list(rewards)),
        levels=None if levels is None else levels_of(levels),
        **given,
    )


def run(loop: str, out: Path | None, **words: Any) -> None:
    """What the verbs do; ``words`` are their options."""
    given = {name: words[name] for name in ("env", "family", "notation", "levels", "learner", "model", "steps", "seed")}
    given["seats"] = common.pairs_of(words["seats"] or [], "--seats")
    options = options_of(loop, given, words["settings"] or [], words["reward"] or [])
    how = {name: words[name] for name in ("resume", "threads", "quiet", "device")}
    how["report_to"] = tuple(words["report_to"] or ())
    train(options, out, how, words["frontier"], words["cache"], words["as_json"])


def levels_of(text: str) -> tuple[int, ...]:
    """``2,3`` or ``1-4`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise DreamEnvsError(f"--levels {text!r}: numbers and ranges, such as 3 or 2,3 or 1-4")
        found += range(int(low), int(high if dash else low) + 1)
    return tuple(found)


def train(
    options: Any, out: Path | None, how: dict[str, Any], frontier: bool, cache: Path | None, as_json: bool
) -> None:
    """Run a loop and show what came of it.

    Args:
        options: what is run.
        out: the run's folder; None: ``runs/LOOP``.
        how: keyword arguments of ``loop.conduct``.
        frontier: write the Frontier Report too, where the loop's problems are the suite's.
        cache: where its samples are kept.
        as_json: print the result as JSON.

    Raises:
        Interrupted: at Ctrl-C, with the way to go on.
    """
    registry.load("loops", options.loop)  # a wrong name is told before anything heavy is imported
    loop = needs("dream_envs.baselines.loop")
    folder = out or Path("runs") / options.loop.rpartition(":")[2].lower()
    how = {**how, "quiet": how["quiet"] or as_json}
    try:
        summary = loop.conduct(options, folder, **how)
        report = loop.frontier_report(options, summary, folder, cache, how) if frontier else None
    except KeyboardInterrupt:
        way = "the same command with --resume goes on from the last checkpoint"
        raise common.Interrupted(f"interrupted, {folder} is kept; {way}") from None
    if as_json:
        common.emit({"run": summary, "frontier": report}, "", True)
        return
    from rich.console import Console

    from dream_envs.report.frontier_terminal import show_frontier
    from dream_envs.report.terminal import show

    console = Console()
    show(folder, console)
    if report is not None:
        show_frontier(report, console)
        common.say(f"Frontier Report: {folder / 'frontier' / 'report.html'}")
    common.say(f"report of the run: {folder / 'report.html'}")
