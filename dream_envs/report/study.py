"""Several runs side by side: a Markdown table of variants over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from dream_envs.report.words import NONE, probability, visible, whole
from dream_envs.schema import Summary

_HEAD = ("variant", "learner", "seeds", "3 to 5 (worst)", "6", "8", "beyond the samples", "label accuracy", "samples")
_FOOT = (
    "Cells: median [smallest, largest]; then every seed in the order of the third column; one figure alone is "
    "that of every seed. 3 to 5, 6 and 8 are mean success at T=1 on these levels; 'worst' is the smallest of the "
    "three. 'Beyond the samples' counts problems that the base's best decoder leaves below 1 / samples and that are "
    "now solved with P > 0.5."
)


class Row(NamedTuple):
    """One run."""

    variant: str
    learner: str
    seed: str
    summary: Summary


def study_table(rows: Sequence[Row]) -> str:
    """A Markdown table: a line a variant and learner, in the order they first appear, after one for their bases."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.variant, row.learner), []).append(row)
    out = [_line(_HEAD), _line(["---"] * 3 + ["---:"] * 6)]
    if rows:
        before = [_cell(rows, _success("base", levels), probability, every=False) for levels in ((3, 4, 5), (6,), (8,))]
        out.append(_line(["(base, before)", NONE, f"{len(rows)} runs", *before, NONE, NONE, NONE]))
    for (variant, learner), runs in groups.items():
        cells = [_cell(runs, _success("trained", levels), probability) for levels in ((3, 4, 5), (6,), (8,))]
        cells += [
            _cell(runs, _beyond, whole),
            _cell(runs, lambda s: s.label_accuracy, probability),
            _cell(runs, lambda s: s.samples.get("total"), whole),
        ]
        out.append(_line([_safe(variant), _safe(learner), ", ".join(_safe(r.seed) for r in runs), *cells]))
    return "\n".join([*out, "", _FOOT, ""])


def _success(who: str, levels: Sequence[int]) -> Callable[[Summary], float | None]:
    """The smallest mean success of these levels, or None unless all of them were measured."""

    def find(summary: Summary) -> float | None:
        own = summary.evaluation.levels if summary.evaluation is not None else []
        means = [getattr(r, who)["T=1"].mean for r in own if r.level in levels and r.split == "any"]
        return min(means) if len(means) == len(levels) else None

    return find


def _beyond(summary: Summary) -> float | None:
    found = summary.evaluation.beyond if summary.evaluation is not None else None
    return found.count if found is not None else None


def _cell(
    runs: Sequence[Row],
    find: Callable[[Summary], float | None],
    write: Callable[[float | None], str],
    *,
    every: bool = True,
) -> str:
    values = [find(run.summary) for run in runs]
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


def _safe(name: str) -> str:
    """A name from outside in which nothing ends a cell or starts markup."""
    return visible(name, 60).translate(_DISARMED)
