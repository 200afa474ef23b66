"""Several runs side by side: a Markdown table of arms over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from dream_envs.report import figures
from dream_envs.report.read import walk
from dream_envs.report.words import NONE, number, probability, visible, whole

_HEAD = ("arm", "learner", "seeds", "d3 to d5 (worst)", "d6", "d8", "beyond budget", "label accuracy", "samples")
_FOOT = (
    "Cells: median [smallest, largest]; then every seed in the order of the third column; one figure alone is "
    "that of every seed. d3 to d5, d6 and d8 are mean "
    "exact success at T=1; 'worst' is the smallest of the three depths. 'Beyond budget' counts problems that the "
    "base's best decoder leaves below 1 / samples and that are now solved with P > 0.5."
)


def study_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: one line an arm and learner, in the order they first appear, after one line for their bases.

    Args:
        rows: one run each: ``arm``, ``learner``, ``seed``, ``frontier`` (the content of its ``frontier.json``), and if
            known ``label_accuracy`` (its last value in ``metrics.jsonl``).

    Returns:
        Markdown, ending in a newline.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row.get("arm", NONE)), str(row.get("learner", NONE))), []).append(row)
    out = [_line(_HEAD), _line(["---"] * 3 + ["---:"] * 6)]
    if rows:
        before = [_cell(rows, _success("base", depths), probability, every=False) for depths in ((3, 4, 5), (6,), (8,))]
        out.append(_line(["(base, before)", NONE, f"{len(rows)} runs", *before, NONE, NONE, NONE]))
    for (arm, learner), runs in groups.items():
        cells = [_cell(runs, _success("trained", depths), probability) for depths in ((3, 4, 5), (6,), (8,))]
        cells += [
            _cell(runs, lambda r: number(walk(r.get("frontier"), "beyond", "count")), whole),
            _cell(runs, lambda r: number(r.get("label_accuracy")), probability),
            _cell(runs, lambda r: number(walk(r.get("frontier"), "samples", "total")), whole),
        ]
        seeds = ", ".join(_safe(r.get("seed", NONE)) for r in runs)
        out.append(_line([_safe(arm), _safe(learner), seeds, *cells]))
    return "\n".join([*out, "", _FOOT, ""])


def _success(who: str, depths: Sequence[int]) -> Callable[[Mapping[str, Any]], float | None]:
    """The smallest mean exact success of these depths, or None unless all of them were measured."""

    def find(row: Mapping[str, Any]) -> float | None:
        frontier = row.get("frontier")
        entries = [figures.at(frontier, d) if isinstance(frontier, dict) else None for d in depths]
        means = [figures.stat(e, who, "T=1", "mean") for e in entries]
        known = [m for m in means if m is not None]
        return min(known) if len(known) == len(depths) else None

    return find


def _cell(
    runs: Sequence[Mapping[str, Any]],
    find: Callable[[Mapping[str, Any]], float | None],
    write: Callable[[Any], str],
    *,
    every: bool = True,
) -> str:
    values = [find(run) for run in runs]
    known = [v for v in values if v is not None]
    if not known:
        return NONE
    if len(known) == len(runs) and len({write(v) for v in known}) == 1:
        return write(known[0])
    spread = f"{write(median(known))} [{write(min(known))}, {write(max(known))}]"
    return f"{spread}; {', '.join(write(v) for v in values)}" if every else spread


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_DISARMED = str.maketrans(
    {c: f"\\{c}" for c in "\\|`*_[]~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\t": " "}
)


def _safe(name: Any) -> str:
    """A name from outside in which nothing ends a cell or starts markup."""
    return visible(name, 60).translate(_DISARMED)
