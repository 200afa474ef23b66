"""The figures and the wording that the page and the terminal of a Frontier Report share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dream_envs.curriculum.store import wilson
from dream_envs.frontier.schema import Estimate, Family, ProblemRow, Report, Right
from dream_envs.report.words import NONE, visible


def label(value: str, cap: int = 28) -> str:
    r"""A name on one line, fit for XML, at most ``cap`` characters.

    >>> label("a\x00b\nc"), label("x" * 50, 5)
    ('a\\x00b c', 'xxxx…')
    """
    text = " ".join(visible(value, 400).split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= cap else text[: cap - 1] + "…"


def words_of(name: str, cap: int = 60) -> str:
    """The name of a measure, to be read: ``answer_entropy`` is ``answer entropy``."""
    return label(name, cap).replace("_", " ")


def signed(x: float | None, digits: int = 1) -> str:
    """Points with their sign: ``+2.3``, ``-0.4``, ``0.0``."""
    if x is None:
        return NONE
    rounded = round(x, digits) + 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{rounded:.{digits}f}"


def bracket(low: float | None, high: float | None) -> str:
    """``[+1.6, +3.0]``, or nothing without both ends."""
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def points_text(value: Sequence[float | None]) -> str:
    """``+2.3 [+1.6, +3.0]``."""
    return f"{signed(value[0])} {bracket(value[1], value[2])}".strip()


def times100(value: Estimate) -> Estimate:
    """Shares as percentage points."""
    value_, low, high = value
    return 100 * value_, None if low is None else 100 * low, None if high is None else 100 * high


def points(x: float) -> str:
    """Points without a sign for what cannot be negative: ``2.5``; small but not zero does not look like zero."""
    shown = f"{round(x, 1) + 0.0:.1f}"
    return f"{x:.1g}" if x and not float(shown) else shown


def ratio_text(value: Estimate | None) -> str:
    """``0.75 [0.65, 0.85]``."""
    if value is None:
        return NONE
    v, low, high = value
    return f"{v:.2f}" if low is None or high is None else f"{v:.2f} [{low:.2f}, {high:.2f}]"


def headline(data: Report) -> str:
    """The line of the protocol: ``G@1024 +74.1 [+68.0, +79.3] · E 74.3 [...] · S 0.2 [...] · N=400``."""
    h = data.headline
    told = [f"G@{h.k} {points_text(h.g)}", f"E {points_text(h.e)}", f"S {points_text(h.s)}", f"N={h.n:,}"]
    return " · ".join(told if h.runs == 1 else [*told, f"runs={h.runs:,}"])


class FamilyFigures(NamedTuple):
    """One family's figures.

    ``tried`` is the number of problems on which the base was drawn at all (the protocol draws it only where the
    trained model is reliable); ``reached`` the share of those that it solved.  ``gained`` and ``lost`` are in problems,
    None where the family does not count; where only some of the base's survivors were followed to the last draw, what
    became of those stands for the others, and ``gained`` need not be whole.  ``gain`` is in percentage points.
    """

    info: Family
    tried: int
    reached: float | None
    pass1: float | None
    gained: float | None
    lost: int | None
    gain: Estimate | None


def families(data: Report) -> list[FamilyFigures]:
    """The families in the file's order, with what their problems say about each."""
    by_name: dict[str, list[ProblemRow]] = {}
    for problem in data.problems:
        by_name.setdefault(problem.family, []).append(problem)
    return [_family(f, by_name.get(f.name, []), data) for f in data.suite.families]


def _family(f: Family, mine: list[ProblemRow], data: Report) -> FamilyFigures:
    tried = [p for p in mine if p.base_draws]
    reached = sum(base_solved(p) for p in tried) / len(tried) if tried else None
    pass1 = sum(rate(p.trained) for p in mine) / len(mine) if mine else None
    if not (f.eligible and mine):
        return FamilyFigures(f, len(tried), reached, pass1, None, None, None)
    total = gained(mine, data)
    share = wilson(total, len(mine))
    lost = sum(p.base[0] >= data.protocol.need and p.loss_draws > 0 and not p.loss_first for p in mine)
    return FamilyFigures(f, len(tried), reached, pass1, total, lost, times100((share.p, share.low, share.high)))


def rate(value: Right) -> float:
    """``c / n`` of (right, samples)."""
    return value[0] / value[1] if value[1] else 0.0


def base_solved(problem: ProblemRow) -> bool:
    """Whether a sample of the base solved it in turn over its decoding methods."""
    return bool(problem.base_first)


def gained(rows: Sequence[ProblemRow], data: Report) -> float:
    """Problems of these that the trained model solves reliably and decoding never does: their part of E.

    Survivors that were not followed are counted at the share of the followed ones (``frontier.gain``).
    """
    full = data.protocol.budget
    drawn = [p for p in rows if p.trained[0] >= data.protocol.need and p.base_draws]
    open_ = [p for p in drawn if not base_solved(p) and p.base_draws < full]
    stage = max((p.base_draws for p in open_), default=full)
    missed = [p for p in drawn if not base_solved(p) and p.base_draws >= full]
    late = [p for p in drawn if (p.base_first or 0) > stage]
    followed = len(missed) + len(late)
    return len(missed) + len(open_) * (len(missed) / followed if followed else 1.0)


def certified_first(rows: Sequence[ProblemRow], cap: int) -> list[ProblemRow]:
    """At most ``cap`` rows: all certified ones, then the others at even steps; the file's order stays."""
    if len(rows) <= cap:
        return list(rows)
    marked = [i for i, r in enumerate(rows) if r.certified][:cap]
    others = [i for i, r in enumerate(rows) if not r.certified]
    left = cap - len(marked)
    kept = {*marked, *(others[i * len(others) // left] for i in range(min(left, len(others))))}
    return [rows[i] for i in sorted(kept)]
