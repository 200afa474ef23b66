"""The bars and whiskers of a frontier report: support, families, tiers, retention, diversity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dream_envs.report import frontier_read as fr
from dream_envs.report import svg
from dream_envs.report.frontier_plots import (
    bare,
    drawable,
    hold,
    series,
    told_lost,
    whisker_figure,
    whiskers,
)
from dream_envs.report.plots import Plot
from dream_envs.report.read import items, walk
from dream_envs.report.words import NONE, number, percent, whole

#: Rows of one picture; what is beyond stands in the table beside it.
MAX_ROWS = 60
_MAX_LABELS = 12
_MAX_PANELS = 8
#: The four cells of the support: (key, what it says, colour).
CELLS = (
    ("P", "kept: both reach it", "c1"),
    ("E", "new: trained only", "c3"),
    ("S", "lost: base only", "c2"),
    ("O", "neither", "muted"),
)


#: Where the words above a bar begin, in shares of its width.
_PLACES = (0.0, 0.24, 0.43, 0.62, 0.81)


def left_over(shown: int, total: int, what: str) -> str:
    """The sentence about rows that a picture has no room for."""
    return "" if total <= shown else f" The first {whole(shown)} of {whole(total)} {what} are drawn."


def support_plot(data: dict[str, Any]) -> Plot | None:
    """P, E, S and O at each budget, stacked."""
    rows = [r for r in data["support"] or [] if isinstance(r, dict)][:MAX_ROWS]
    if not rows:
        return None
    fig, (axes,) = svg.figure(height=100 + 46 * len(rows), right=14, left=14)
    lost, told, right = 0, [], 1.0
    for i, row in enumerate(rows):
        start, said = 0.0, []
        for key, _, role in CELLS:
            value = drawable(fr.triple(row.get(key))[0])
            if value is None:
                lost += 1
                continue
            axes.barh(
                -i, value, left=start, height=0.42, color=svg.colour(role), alpha=0.55 if key == "O" else 1.0,
                edgecolor=svg.colour("ink"), linewidth=0.6,
            )  # fmt: skip
            start += value
            said.append((f"{key} {percent(value)}", role))
        right = max(right, start)
        k = f"k = {whole(row.get('k'))}"
        for place, (text, role) in zip(_PLACES, ((k, "ink"), *said), strict=False):
            axes.annotate(
                text, (place, -i + 0.24), xycoords=("axes fraction", "data"), xytext=(0, 2),
                textcoords="offset points", va="bottom", color=svg.colour("ink" if role == "muted" else role),
            )  # fmt: skip
        told.append(f"{k}: {', '.join(text for text, _ in said)}")
    bare(axes, -len(rows) + 0.6, 0.75)
    hold(axes, [right], 0.0, 1.0, axis="x", pad=0.005)
    axes.set_xlabel("share of problems")
    note = (
        "Problems by who reaches them within k draws: P both, E only the trained model, S only the base, O nobody. "
        "E and S are counted apart, so that new problems do not hide lost ones. From left to right: P, E, S, O."
    )
    alt = f"Share of problems reached by both, by one, by none. {'; '.join(told)}."
    return Plot("support", "Kept, new, lost, neither", told_lost(note, lost), svg.inline(fig, "support", alt))


def forest_plot(data: dict[str, Any]) -> Plot | None:
    """The gain of each family with its interval."""
    every = fr.families(data)
    known = [f for f in every if f.gain[0] is not None]
    rows = known[:MAX_ROWS]
    if not rows:
        return None
    fig, axes = whisker_figure(len(rows))
    drawn = []
    for f in rows:
        drawn.append(
            (
                fr.label(f.name, 24) + (" *" if f.held_out else ""),
                f.gain,
                svg.colour("trained"),
                "D" if f.held_out else "o",
            )
        )
    lost = whiskers(axes, drawn, fr.points_text, ((0.0, "-"),))
    hold(axes, [x for f in rows for v in f.gain if (x := drawable(v)) is not None], 0.0, 1.0, axis="x", pad=0.05)
    axes.set_xlabel("gain, points of the family's problems")
    own = any(fr.triple(f.get("gain"))[0] is not None for f in items(data["suite"].get("families")))
    what = (
        "Gain of each family with its 95 % interval."
        if own
        else "Share of each family's problems that the trained model solves reliably and the base never solved within "
        "its budget, with a 95 % Wilson interval. Losses and the tail correction are not in it: they are estimated "
        "over all families together."
    )
    note = (
        f"{what} A gain that sits in one family speaks of that family. Diamonds and *: held-out families."
        f"{left_over(len(rows), len(known), 'families')}"
    )
    told = "; ".join(f"{fr.label(f.name)}: {fr.points_text(f.gain)}" for f in rows)
    alt = f"Gain in points by family. {told}."
    return Plot("forest", "Where the gain is", told_lost(note, lost), svg.inline(fig, "forest", alt))


def tiers_plot(data: dict[str, Any]) -> Plot | None:
    """How many problems of each tier there are and how many are solved."""
    block = data["tiers"]
    rows = list(zip(*(items(walk(block, key)) for key in ("names", "count", "solved")), strict=False))[:_MAX_LABELS]
    found = [(fr.label(n, 20), drawable(c), drawable(s)) for n, c, s in rows]
    if not found:
        return None
    lost = sum(c is None for _, c, _ in found) + sum(s is None for _, _, s in found)
    fig, (axes,) = svg.figure(height=78 + 44 * len(found), right=14, left=14)
    for i, (name, count, solved) in enumerate(found):
        axes.barh(-i, count or 0, height=0.38, color="none", edgecolor=svg.colour("base"), linewidth=1.4)
        axes.barh(-i, solved or 0, height=0.38, color=svg.colour("trained"), linewidth=0)
        said = f"{name}: {whole(solved)} of {whole(count)} solved"
        axes.annotate(
            said, (0, -i + 0.2), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            va="bottom", color=svg.colour("ink"),
        )  # fmt: skip
    bare(axes, -len(found) + 0.6, 0.72)
    hold(axes, [x or 0.0 for _, c, s in found for x in (c, s)], 0.0, 1.0, axis="x", pad=0.01)
    axes.set_xlabel("problems")
    note = (
        "Problems by the exact probability of the base's best decoder, and the part of them solved after training "
        "(filled). T0: the base already has it; T1: at the edge of its budget; T2: beyond the budget."
    )
    told = "; ".join(f"{n}: {whole(s)} of {whole(c)} solved" for n, c, s in found)
    alt = f"Problems by tier of the base. {told}."
    return Plot("tiers", "By the base's exact reach", told_lost(note, lost), svg.inline(fig, "tiers", alt))


def retention_plot(data: dict[str, Any]) -> Plot | None:
    """The change of each retained suite with its interval."""
    every = [s for s in items(walk(data["retention"], "suites")) if isinstance(s, dict)]
    rows = every[:MAX_ROWS]
    if not rows:
        return None
    fig, axes = whisker_figure(len(rows))
    drawn = []
    for s in rows:
        value, low, high = fr.triple(s.get("gain"))
        ends = tuple(None if v is None else 100 * v for v in (value, low, high))
        ink, marker = ("c2", "X") if s.get("flag") else ("c1", "o")
        drawn.append((fr.label(s.get("name"), 26), ends, svg.colour(ink), marker))
    lost = whiskers(axes, drawn, fr.points_text, ((0.0, "-"),))
    known = [x for _, ends, _, _ in drawn for v in ends if (x := drawable(v)) is not None]
    hold(axes, known, -1.0, 1.0, axis="x", pad=0.05)
    axes.set_xlabel("change of the score, points")
    note = (
        "What the model could do before and should still do. Left of the line: forgotten. A cross marks a suite that "
        "fell and for which a loss of more than one point cannot be excluded."
        f"{left_over(len(rows), len(every), 'suites')}"
    )
    told = "; ".join(f"{name}: {fr.points_text(ends)}" for name, ends, _, _ in drawn)
    alt = f"Change of the score of each retained suite, in points. {told}."
    return Plot("retention", "Change by suite", told_lost(note, lost), svg.inline(fig, "retention", alt))


def formats_plot(data: dict[str, Any]) -> Plot | None:
    """Shares of the formats of the replies, base above trained."""
    shares = {w: v if isinstance(v := walk(data["diversity"], "formats", w), dict) else {} for w in ("base", "trained")}
    names = sorted({*shares["base"], *shares["trained"]}, key=lambda n: (-_size(shares, n), n))
    if not names:
        return None
    lost = sum(drawable(v) is None for s in shares.values() for v in s.values())
    shown = names[:_MAX_LABELS]
    rest = {w: math.fsum(drawable(s.get(n)) or 0.0 for n in names[_MAX_LABELS:]) for w, s in shares.items()}
    table = [(fr.label(n, 28), {w: drawable(s.get(n)) or 0.0 for w, s in shares.items()}) for n in shown]
    if len(names) > _MAX_LABELS:
        table.append((f"{whole(len(names) - _MAX_LABELS)} others", rest))
    fig, (axes,) = svg.figure(height=78 + 46 * len(table), right=14, left=14)
    for i, (name, values) in enumerate(table):
        for who, y in (("base", -i + 0.02), ("trained", -i - 0.22)):
            axes.barh(y, values[who], height=0.21, color=svg.colour(who), linewidth=0)
        axes.annotate(
            f"{name}: {percent(values['base'])} → {percent(values['trained'])}", (0, -i + 0.13),
            xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points", va="bottom",
            color=svg.colour("ink"),
        )  # fmt: skip
    bare(axes, -len(table) + 0.55, 0.72)
    hold(axes, [v for _, values in table for v in values.values()], 0.0, 1.0, axis="x", pad=0.005)
    axes.set_xlabel("share of replies (upper bar: base, lower bar: trained)")
    note = (
        "The shapes that replies have, before (upper bar) and after (lower bar). A loop that rewards answers often "
        "settles on one shape early; that is a loss of diversity even where the score rises."
    )
    told = "; ".join(f"{n}: {percent(v['base'])} to {percent(v['trained'])}" for n, v in table)
    alt = f"Shares of reply formats, base to trained. {told}."
    return Plot("formats", "Formats of the replies", told_lost(note, lost), svg.inline(fig, "formats", alt))


def _size(shares: dict[str, dict[str, Any]], name: str) -> float:
    return sum(drawable(s.get(name)) or 0.0 for s in shares.values())


def ratio_plot(data: dict[str, Any]) -> Plot | None:
    """Trained / base of each diversity metric."""
    ratios = walk(data["diversity"], "ratio")
    every = list(ratios.items()) if isinstance(ratios, dict) else []
    if not every:
        return None
    fig, axes = whisker_figure(len(every[:MAX_ROWS]))
    read = [(fr.words_of(name, 26), fr.triple(v)) for name, v in every[:MAX_ROWS]]
    marks = ((1.0, "-"), (0.5, (0, (2, 1))))
    lost = whiskers(axes, [(n, v, svg.colour("trained"), "o") for n, v in read], ratio_text, marks)
    hold(axes, [x for _, v in read for e in v if (x := drawable(e)) is not None], 0.4, 1.1, axis="x")
    axes.set_xlabel("trained / base")
    note = (
        "Each measure of variety after training, divided by the base's, on the same prompts. 1: unchanged. Dashed: "
        f"half of it is gone.{left_over(MAX_ROWS, len(every), 'measures')}"
    )
    told = "; ".join(f"{n}: {ratio_text(v)}" for n, v in read)
    alt = f"Diversity of the trained model relative to the base. {told}."
    return Plot("ratio", "Diversity, after / before", told_lost(note, lost), svg.inline(fig, "ratio", alt))


def ratio_text(value: Sequence[Any]) -> str:
    """``0.75 [0.65, 0.85]``."""
    v, low, high = (number(x) for x in value)
    if v is None:
        return NONE
    return f"{v:.2f}" if low is None or high is None else f"{v:.2f} [{low:.2f}, {high:.2f}]"


def series_plot(data: dict[str, Any]) -> Plot | None:
    """Diversity while it learnt, at log-spaced steps; one panel a measure, for their units differ."""
    block = walk(data["diversity"], "series")
    steps = [number(s) for s in items(walk(block, "step"))]
    if not isinstance(block, dict) or not steps:
        return None
    lines, lost = [], 0
    for name, values in block.items():
        if name == "step":
            continue
        # log(1 + step): the start is part of the story
        line = series([None if s is None or s < 0 else math.log10(1 + s) for s in steps], values)
        lost += line.lost + max(len(items(values)) - len(steps), 0)
        if line.xs:
            lines.append((fr.words_of(name, 40), line))
    every, lines = len(lines), lines[:_MAX_PANELS]
    if not lines:
        return None
    fig, panels = svg.figure(height=48 + 110 * len(lines), right=24, panels=len(lines))
    everything = [x for _, line in lines for x in line.xs]
    ticks = _step_ticks(max(everything))
    for axes, (name, line) in zip(panels, lines, strict=True):
        axes.plot(line.xs, line.ys, color=svg.colour("c1"), marker="o", markersize=4.5)
        hold(axes, line.ys, 0.0, max(line.ys), pad=0.1)
        hold(axes, everything, 0.0, 0.3, axis="x", pad=0.03)
        axes.set_xticks([math.log10(1 + t) for t in ticks], [svg.short(t) for t in ticks])
        axes.tick_params(labelbottom=axes is panels[-1])
        axes.locator_params(axis="y", nbins=4)
        axes.set_title(name, loc="left", fontsize=svg.FONT)
    panels[-1].set_xlabel("training step (log scale)")
    note = (
        "The same measures while it learnt. Steps are log-spaced, because formats are usually lost within the first "
        f"few.{left_over(_MAX_PANELS, every, 'measures')}"
    )
    told = "; ".join(f"{n}: {line.ys[0]:.3g} to {line.ys[-1]:.3g}" for n, line in lines)
    alt = f"Diversity over training steps, first to last. {told}."
    return Plot("series", "Diversity while it learnt", told_lost(note, lost), svg.inline(fig, "series", alt))


def _step_ticks(top: float) -> list[float]:
    """Steps to name on a log(1 + step) axis that ends at ``top``."""
    return [0.0, *(10.0**i for i in range(13) if math.log10(1 + 10.0**i) <= top)] if top > 0.4 else [0.0, 1.0]


def curriculum_plot(data: dict[str, Any]) -> Plot | None:
    """Every list of numbers of the curriculum card, over its own course."""
    block = data["curriculum"] or {}
    lines, lost = [], 0
    for name, values in block.items():
        inner = values if isinstance(values, list) else []
        if name.endswith("_series") and any(drawable(v) is not None for v in inner):
            line = series([i / max(len(inner) - 1, 1) for i in range(len(inner))], inner)
            lost += line.lost
            lines.append((fr.words_of(name.removesuffix("_series"), 40), line))
    every, lines = len(lines), lines[:_MAX_PANELS]
    if not lines:
        return None
    fig, panels = svg.figure(height=48 + 110 * len(lines), right=24, panels=len(lines))
    for axes, (name, line) in zip(panels, lines, strict=True):
        axes.plot(line.xs, line.ys, color=svg.colour("c1"), marker="o", markersize=4.5 if len(line.xs) <= 60 else 2)
        hold(axes, line.ys, min(line.ys), max(line.ys), pad=0.15)
        hold(axes, line.xs, 0.0, 1.0, axis="x", pad=0.03)
        axes.locator_params(axis="y", nbins=4)
        axes.set_xticks([0, 1], ["first", "last"])
        axes.set_title(name, loc="left", fontsize=svg.FONT)
        axes.tick_params(labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("windows of the run, in order")
    note = (
        "How the loop's own problems changed. Drift is how likely a frozen model is to solve them, in log-odds: where "
        "it falls, they grow harder on a yardstick that does not move with the players."
        f"{left_over(_MAX_PANELS, every, 'series')}"
    )
    told = "; ".join(f"{n}: {line.ys[0]:.3g} to {line.ys[-1]:.3g}" for n, line in lines)
    alt = f"The curriculum's series, first to last. {told}."
    return Plot("curriculum", "The curriculum's course", told_lost(note, lost), svg.inline(fig, "curriculum", alt))
