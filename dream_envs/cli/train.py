"""``dream-envs train LOOP`` and ``dream``: a loop from its base to its report and Frontier Report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dream_envs import registry
from dream_envs.cli import common
from dream_envs.cli.frontier import show

_PLAIN = ("env", "family", "notation", "learner", "model", "steps", "seed")


def epilog() -> str:
    """The loops for ``--help``; nothing is imported."""
    return "\n".join(["\b", "Loops (info LOOP tells more):", f"  {', '.join(registry.rows('loops'))}"])


def _options(loop: str, words: dict[str, Any]) -> Any:
    """``recipe.Options`` from the options of the command line; None leaves what the loop has."""
    recipe = common.needs("dream_envs.baselines.recipe")
    from dream_envs.rewards.expressions import by_role

    levels = words["levels"]
    return recipe.Options(
        loop=loop,
        set=registry.values_of(words["settings"] or [], "--set"),
        reward=by_role(words["reward"] or []),
        seats=registry.pairs_of(words["seats"] or [], "--seats"),
        levels=None if levels is None else tuple(n for span in common.ranges_of(levels, "--levels") for n in span),
        **{name: words[name] for name in _PLAIN},
    )


def run(loop: str, words: dict[str, Any]) -> None:
    """Run a loop and show what came of it; ``words`` are the verb's options.

    Raises:
        Interrupted: at Ctrl-C, with the way to go on.
    """
    registry.load("loops", loop)  # a wrong name is told before anything heavy is imported
    options, as_json = _options(loop, words), words["as_json"]
    runner = common.needs("dream_envs.baselines.loop")
    folder = words["out"] or Path("runs") / loop.rpartition(":")[2].lower()
    how = {name: words[name] for name in ("resume", "threads", "device")}
    how |= {"quiet": words["quiet"] or as_json, "report_to": tuple(words["report_to"] or ())}
    try:
        summary = runner.conduct(options, folder, **how)
        if not as_json:
            from dream_envs.cli.runs import report_text

            common.say(f"{report_text({'run': str(folder), 'out': str(folder / 'report.html')})}\n")
        report = runner.frontier_report(options, summary, folder, words["cache"], how) if words["frontier"] else None
    except KeyboardInterrupt:
        way = "the same command with --resume goes on from the last checkpoint"
        raise common.Interrupted(f"interrupted, {folder} is kept; {way}") from None
    if as_json:
        common.emit({"run": summary, "frontier": report}, str, True)
    elif report is not None:
        show(report, folder / "frontier", "Frontier Report")
