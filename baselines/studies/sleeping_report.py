"""From the runs of ``sleeping`` to figures with intervals and the answers to what the study asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from dream_envs.baselines.studies.intervals import Interval, over, paired, show, sign

Run = dict[str, Any]


def cell(runs: Sequence[Run]) -> dict[str, Any]:
    """One method: means with 95 % t-intervals over seeds.

    ``open``: success with the context; ``closed``: behind the lesson's own night; ``last``: on all lessons behind the
    last night; ``forgetting``: mean over lessons but the last of (own night - last night), ``forgotten``: the same as
    a share of the former; ``ratio``: closed / open; ``known``: operations of the base at depth 3; ``reading``: open in
    the last day; ``tokens``: trained on a night.
    """

    def each(read: Callable[[Run], float | None]) -> Interval | None:
        return over([read(run) for run in runs])

    return {
        "runs": len(runs),
        "open": each(lambda r: mean(r["facts"]["open"])),
        "closed": each(closed),
        "ratio": each(lambda r: closed(r) / mean(r["facts"]["open"])),
        "last": each(known_at_last),
        "forgetting": each(forgetting),
        "forgotten": each(forgotten),
        "reading": each(lambda r: r["facts"]["open"][-1]),
        "known": each(lambda r: r["known"][-1]["3"]),
        "tokens": each(lambda r: mean([n["tokens"] for n in r["nights"]]) if r["nights"] else 0.0),
        "good": each(lambda r: mean([n["good"] for n in r["nights"]]) if r["nights"] else None),
        "seconds": each(lambda r: r["seconds"]),
    }


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def closed(run: Run) -> float:
    """Closed-book success on a lesson behind its own night, mean over lessons."""
    matrix = run["facts"]["closed"]
    return mean([matrix[i][i] for i in range(len(matrix))])


def forgetting(run: Run) -> float:
    """How much of that is gone behind the last night, mean over lessons but the last."""
    matrix = run["facts"]["closed"]
    return mean([matrix[i][i] - matrix[-1][i] for i in range(len(matrix) - 1)])


def known_at_last(run: Run) -> float:
    """Closed-book success on all lessons behind the last night."""
    found: float = run["facts"]["average_accuracy"]
    return found


def forgotten(run: Run) -> float | None:
    """Forgetting as a share of what was learnt; None where that is less than a tenth of the questions."""
    matrix = run["facts"]["closed"]
    own = mean([matrix[i][i] for i in range(len(matrix) - 1)])
    return forgetting(run) / own if own >= 0.1 else None


def beside(
    a: Sequence[Run], b: Sequence[Run], read: Callable[[Run], float | None], share: float = 1.0
) -> Interval | None:
    """Mean of a - share * b over the seeds for which both have the figure."""
    mine, other = ({r["settings"]["seed"]: read(r) for r in runs} for runs in (a, b))
    return paired(mine, {seed: None if v is None else share * v for seed, v in other.items()})


def summary(runs: Sequence[Run | None]) -> dict[str, Any]:
    """Every method's cell and ``answers``."""
    by: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run is not None:
            by[run["settings"]["method"]].append(run)
    cells = {name: cell(found) for name, found in by.items()}
    return {"schema": 1, "methods": cells, "answers": answers(by, cells)}


def answers(by: dict[str, list[Run]], cells: dict[str, Any]) -> dict[str, str]:
    """Question to answer with the figure behind it; differences are paired by seed."""
    found: dict[str, str] = {}
    if "sleep" not in by:
        return found
    ours = by["sleep"]

    def ask(question: str, interval: Interval | None, direction: int = 1) -> None:
        found[question] = f"{sign(interval, direction)}, {show(interval)}"

    ratio = cells["sleep"]["ratio"]
    ask("closed book after sleep is at least 0.8 of in context (ratio - 0.8)", [x - 0.8 for x in ratio])
    if "in_context" in by:
        excess = beside(ours, by["in_context"], closed)
        above = None if excess is None else [x - 0.3 for x in excess]
        ask("sleep - in_context, closed book, is above 0.3 (difference - 0.3)", above)
    for name in ("replay_sft", "replay_gently"):
        if name in by:
            half = beside(ours, by[name], forgetting, 0.5)
            ask(f"sleep forgets at most half of what {name} does (sleep - half)", half, -1)
            half = beside(ours, by[name], forgotten, 0.5)
            ask(f"sleep forgets at most half of the share that {name} does (sleep - half)", half, -1)
    if "no_dreaming" in by:
        other = by["no_dreaming"]
        ask("without dreaming it forgets more", beside(other, ours, forgetting))
        ask("without dreaming it forgets a larger share of what it had learnt", beside(other, ours, forgotten))
    if "placebo" in by and "in_context" in by:
        ask("placebo gains over in_context", beside(by["placebo"], by["in_context"], closed))
        lied = over([closed(r) - 1 / 16 for r in by["placebo"]])
        ask("placebo is above who guesses a state, 1/16 (placebo - 1/16)", lied)
    for name in by:
        if name not in ("sleep", "in_context"):
            ask(f"sleep knows more in the end than {name}", beside(ours, by[name], known_at_last))
    return found


def table(found: dict[str, Any]) -> str:
    """The methods and the answers as Markdown."""
    keys = ("open", "closed", "ratio", "last", "forgetting", "forgotten", "reading", "known", "tokens")
    heads = "in context | closed book | ratio | at the end | forgetting | its share | reading | known | tokens"
    lines = [f"| method | runs | {heads} |", "| --- " + "| ---: " * 10 + "|"]
    for name, its in found["methods"].items():
        cells = [show(its[k]) if k != "tokens" else f"{its[k][0]:.0f}" for k in keys]
        lines.append(f"| {name} | {its['runs']} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {question}: **{answer}**" for question, answer in found["answers"].items()), ""]
    return "\n".join(lines)
