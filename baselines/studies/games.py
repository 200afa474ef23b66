"""Is a game learnt that is no problem family? ``python -m dream_envs.baselines.studies games``.

``kuhn``: ``spiral`` on Kuhn poker, exploitability before and after (exact; 0 is an equilibrium, the base plays legal
moves at random).  ``debate``: a game of somebody else's package (``tests/debate``; install it, or put its folder on
PYTHONPATH), whose replier learns against a frozen opener and a frozen judge; its win rate before and after, over 1,024
games.

Written before the first run of the seeds below: exploitability falls and the win rate rises, each with the 95 %
t-interval of the difference over five seeds apart from 0; found on seeds 11 and 12, which are none of the study's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dream_envs.baselines.recipe import Options
from dream_envs.baselines.studies.grid import Row, markdown, named, over, show, sign, trained
from dream_envs.schema import read_summary

SETTINGS = {
    "kuhn": Options("spiral", steps=200),
    "debate": Options(
        "self_play", steps=200, env="debate_env:Debate", model="nano/judge", set={"eval.games": 1024},
        seats={"opener": "base", "judge": "base"},
    ),
}  # fmt: skip
GRIDS = {"all": tuple(SETTINGS)}
MARKS = {"all": "games"}
#: The measure of each, and which way is better.
MEASURES = {"kuhn": ("exploitability", -1), "debate": ("replier win rate", 1)}
run = trained


def score(folder: Path) -> dict[str, Any]:
    """Every measure before and after, as ``before/ROLE NAME`` and ``after/ROLE NAME``."""
    summary = read_summary(folder)
    assert summary is not None and summary.evaluation is not None
    found: dict[str, Any] = {}
    for m in summary.evaluation.measures:
        label = f"{m.role} {m.name}".strip()
        found |= {f"before/{label}": m.base.value, f"after/{label}": m.trained.value}
    return found


def table(rows: list[Row], out: Path) -> str:
    """Before, after and the difference, mean and 95 % t-interval over seeds."""
    lines = []
    for name, own in named(rows).items():
        label, better = MEASURES[name]
        before, after = ([r[f"{when}/{label}"] for r in own] for when in ("before", "after"))
        gain = over([b - a for a, b in zip(before, after, strict=True)])
        cells = [show(over(before), 3), show(over(after), 3), show(gain, 3), sign(gain, better)]
        lines.append([name, label, str(len(own)), *cells])
    return markdown(["game", "measure", "seeds", "before", "after", "difference", "better"], lines)
