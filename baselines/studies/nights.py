"""Does a night move what was read into the weights?  ``python -m dream_envs.baselines.studies nights``.

Every method of ``loops.nights`` is the same learner on the same lessons with as many training rows a night; they differ
in what they learn from.  Nothing tells the learner whether it was right.  Grid ``asked``: what the questions are about,
in half an hour on two cores; ``all``: twelve methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from dream_envs import registry
from dream_envs.baselines.loops.nights import METHODS
from dream_envs.baselines.recipe import Options
from dream_envs.baselines.studies.grid import Interval, Row, difference, named, over, show, sign, table_of, trained
from dream_envs.schema import read_summary

SETTINGS = {
    name: Options(name if name in registry.rows("loops") else f"dream_envs.baselines.loops.nights:{name.upper()}")
    for name in METHODS
}
GRIDS = {"asked": ("sleep", "in_context", "replay_sft", "no_dreaming", "placebo"), "all": tuple(METHODS)}

COLUMNS: dict[str, Any] = {
    "in context": "open", "closed book": "closed", "ratio": "ratio", "at the end": "last", "forgetting": "forgetting",
    "its share": "forgotten", "reading": "reading", "known": "known", "tokens": ("tokens", 0),
}  # fmt: skip
run = trained


def score(folder: Path) -> dict[str, float | None]:
    """What is left, see ``matrix``, and besides ``last``: success on all lessons after the last night; ``known``:
    operations of the base at depth 3; ``tokens``: trained on a night; ``good``: dreams that helped.
    """
    summary = read_summary(folder)
    assert summary is not None and summary.retention is not None and summary.evaluation is not None
    left, nights = summary.retention, summary.nights
    known = {r.level: r.trained["T=1"].mean for r in summary.evaluation.levels if r.split == "any"}
    return {
        **matrix(left["closed"], left["open"]),
        "last": left["average_accuracy"],
        "known": known.get(3),
        "tokens": fmean([n["tokens"] for n in nights]) if nights else 0.0,
        "good": fmean([n["good"] for n in nights]) if nights else None,
    }


def matrix(closed: Sequence[Sequence[float]], opened: Sequence[float]) -> dict[str, float | None]:
    """The figures of a retention matrix (``closed[n][l]``: lesson l after night n, closed book).

    ``open``: success with the context; ``closed``: after the lesson's own night; ``ratio``: closed / open;
    ``forgetting``: mean over lessons but the last of (own night - last night), ``forgotten``: the same as a share of
    the former, None below a tenth of the questions; ``reading``: open in the last day.
    """
    own = [closed[i][i] for i in range(len(closed))]
    gone = fmean([closed[i][i] - closed[-1][i] for i in range(len(closed) - 1)]) if len(closed) > 1 else None
    learnt = fmean(own[:-1]) if len(own) > 1 else 0.0
    return {
        "open": fmean(opened),
        "closed": fmean(own),
        "ratio": fmean(own) / fmean(opened) if fmean(opened) else None,
        "forgetting": gone,
        "forgotten": gone / learnt if gone is not None and learnt >= 0.1 else None,
        "reading": opened[-1],
    }


def answers(rows: Sequence[Row]) -> dict[str, str]:
    """Question to answer with the figure behind it; differences are paired by seed."""
    found: dict[str, str] = {}
    by = named(rows)
    if "sleep" not in by:
        return found

    def ask(question: str, interval: Interval | None, direction: int = 1, less: float = 0.0) -> None:
        interval = None if interval is None else [x - less for x in interval]
        found[question] = f"{sign(interval, direction)}, {show(interval)}"

    ratio = over([r["ratio"] for r in by["sleep"]])
    ask("closed book after sleep is at least 0.8 of in context (ratio - 0.8)", ratio, less=0.8)
    if "in_context" in by:
        excess = difference(rows, "sleep", "in_context", "closed")
        ask("sleep - in_context, closed book, is above 0.3 (difference - 0.3)", excess, less=0.3)
    for name in ("replay_sft", "replay_gently"):
        for key, told in (("forgetting", "what"), ("forgotten", "the share that")):
            if name in by:
                half = difference(rows, "sleep", name, key, 0.5)
                ask(f"sleep forgets at most half of {told} {name} does (sleep - half)", half, -1)
    if "no_dreaming" in by:
        ask("without dreaming it forgets more", difference(rows, "no_dreaming", "sleep", "forgetting"))
        share = difference(rows, "no_dreaming", "sleep", "forgotten")
        ask("without dreaming it forgets a larger share of what it had learnt", share)
    if "placebo" in by and "in_context" in by:
        ask("placebo gains over in_context", difference(rows, "placebo", "in_context", "closed"))
        above = over([r["closed"] for r in by["placebo"]])
        ask("placebo is above who guesses a state, 1/16 (placebo - 1/16)", above, less=1 / 16)
    for name in by:
        if name not in ("sleep", "in_context"):
            ask(f"sleep knows more in the end than {name}", difference(rows, "sleep", name, "last"))
    return found


def table(rows: list[Row], out: Path) -> str:
    """The methods and the answers."""
    lines = [table_of(rows, COLUMNS, head="method"), *(f"- {q}: **{a}**" for q, a in answers(rows).items()), ""]
    return "\n".join(lines)
