"""The curves of a frontier report: whiskers of the headline, E(k), pass@k, Cover@tau, coverage by tokens, problems.

Each maker gives a Plot, or None where its block is null.  A value that cannot be drawn (null, or beyond ``_LIMIT``) is
counted and told in the plot's note; no limit of an axis cuts a point off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dream_envs.report import frontier_read as fr
from dream_envs.report import svg
from dream_envs.report.plots import Plot
from dream_envs.report.read import items, walk
from dream_envs.report.words import number, percent, probability, whole

_LIMIT = 1e12
#: Points of the scatter; more problems are thinned, certified ones last.
MAX_POINTS = 2000
MARGIN = 0.5  # points: the verdict's margin


class Series(NamedTuple):
    """Points that can be drawn, with their intervals (nan where there is none), and how many could not be."""

    xs: list[float]
    ys: list[float]
    lows: list[float]
    highs: list[float]
    lost: int


def series(xs: Any, ys: Any, lows: Any = None, highs: Any = None, *, log: bool = False) -> Series:
    """The drawable part of parallel lists; with ``log`` the x values become their log10."""
    found = Series([], [], [], [], 0)
    lost = 0
    low_list, high_list = items(lows), items(highs)
    for i, (x, y) in enumerate(zip(items(xs), items(ys), strict=False)):
        at, value = drawable(x), drawable(y)
        if at is None or value is None or (log and at <= 0):
            lost += 1
            continue
        found.xs.append(math.log10(at) if log else at)
        found.ys.append(value)
        ends = [drawable(v[i]) if i < len(v) else None for v in (low_list, high_list)]
        found.lows.append(math.nan if None in ends else ends[0])  # type: ignore[arg-type]
        found.highs.append(math.nan if None in ends else ends[1])  # type: ignore[arg-type]
    return found._replace(lost=lost)


def drawable(value: Any) -> float | None:
    """A number that an axis can hold."""
    x = number(value)
    return x if x is not None and abs(x) <= _LIMIT else None


def lost_note(lost: int) -> str:
    """The sentence about values that are not drawn, empty if all are."""
    return (
        f" {whole(lost)} value{'' if lost == 1 else 's'} cannot be drawn and {'is' if lost == 1 else 'are'} left out."
    )


def told_lost(note: str, lost: int) -> str:
    """The note, and what is missing from the plot."""
    return note + (lost_note(lost) if lost else "")


def hold(axes: Any, values: Sequence[float], low: float, high: float, *, axis: str = "y", pad: float = 0.04) -> None:
    """Limits that hold ``low``..``high`` and every value, with a margin."""
    known = [v for v in values if not math.isnan(v)]
    bottom, top = min([low, *known]), max([high, *known])
    room = pad * (top - bottom or 1.0)
    (axes.set_ylim if axis == "y" else axes.set_xlim)(bottom - room, top + room)


def band(axes: Any, line: Series, ink: str) -> None:
    """The interval of a line as an area."""
    axes.fill_between(line.xs, line.lows, line.highs, color=ink, alpha=0.18, linewidth=0)


def log_ticks(axes: Any) -> None:
    """Ticks of an x axis in log10, whose limits are set: powers of ten, or 1, 2, 5, 10 where it is short."""
    low, high = axes.get_xlim()
    decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    if high - low >= 2.2:
        step = math.ceil(len(decades) / 6)
        axes.set_xticks(list(decades)[::step], [svg.powers(d) for d in list(decades)[::step]])
        return
    named = [m * 10.0**d for d in range(math.floor(low), math.floor(high) + 1) for m in (1, 2, 5)]
    named = [x for x in named if low - 1e-9 <= math.log10(x) <= high + 1e-9]
    axes.set_xticks([math.log10(x) for x in named], [svg.short(x) for x in named])


#: Vertical lines of ``whiskers``: (x, line style).
Marks = Sequence[tuple[float, Any]]


def whiskers(
    axes: Any,
    rows: Sequence[tuple[str, tuple[float | None, ...], str, str]],
    text: Callable[[tuple[float | None, ...]], str],
    marks: Marks,
) -> int:
    """Rows of a name above and a point with its interval below; the value is written at the right edge.

    Args:
        axes: drawn on from the top, one unit a row.
        rows: (name, (value, low, high), colour, marker) each.
        text: writes a row's value.
        marks: the vertical lines.

    Returns:
        How many rows had no value to draw.
    """
    lost = 0
    for i, (name, (value, low, high), ink, marker) in enumerate(rows):
        y = -float(i)
        axes.annotate(
            name, (0, y), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", va="bottom",
            color=svg.colour("ink"),
        )  # fmt: skip
        at, ends = drawable(value), (drawable(low), drawable(high))
        if at is None:
            lost += 1
        else:
            if ends[0] is not None and ends[1] is not None:
                axes.plot(ends, [y - 0.28] * 2, color=ink, linewidth=2.2, solid_capstyle="butt")
            axes.plot([at], [y - 0.28], color=ink, marker=marker, markersize=7, linestyle="none")
        axes.annotate(
            text((value, low, high)), (1, y), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", va="bottom", ha="right", color=svg.colour("ink"),
        )  # fmt: skip
        for x, dash in marks:  # only beside the whisker, so that no line runs through the words
            axes.plot([x, x], [y - 0.5, y - 0.04], color=svg.colour("muted"), linewidth=1.2, linestyle=dash, zorder=0)
    bare(axes, -(len(rows) - 1 + 0.6), 0.62)
    return lost


def bare(axes: Any, low: float, high: float) -> None:
    """A y axis of rows: these limits, and nothing drawn of it."""
    axes.set_ylim(low, high)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def whisker_figure(rows: int) -> tuple[Any, Any]:
    """A figure as high as this many rows of ``whiskers`` need."""
    fig, (axes,) = svg.figure(height=64 + 40 * rows, right=14, left=14)
    return fig, axes


def headline_plot(data: dict[str, Any]) -> Plot | None:
    """FG* with its intervals, against 0 and the verdict's margin."""
    h = data["headline"]
    across = items(h.get("family_interval"))
    found = [("Resampling problems", (h["fg"], h["low"], h["high"]), "o")]
    if len(across) == 2:
        found.append(("Resampling families", (h["fg"], *across), "s"))
    for key, name, marker in (("held_out", "Held-out families alone", "D"), ("runs", "Over training runs", "^")):
        if isinstance(h.get(key), dict):
            found.append((name, tuple(walk(h, key, k) for k in ("fg", "low", "high")), marker))
    fig, axes = whisker_figure(len(found))
    rows = [(n, (v[0], v[1], v[2]), svg.colour("trained"), m) for n, v, m in found]
    lost = whiskers(axes, rows, fr.points_text, ((0.0, "-"), (MARGIN, (0, (2, 1)))))
    known = [x for _, v, _ in found for x in map(drawable, v) if x is not None]
    hold(axes, known, -0.5, 1.0, axis="x", pad=0.06)
    axes.set_xlabel("FG*, points of problems")
    note = (
        "Each bar is a 95 % interval of the same gain, net of losses, after the tail correction. Solid line: no gain. "
        "Dashed: 0.5 points, which the lower end has to clear before the word expansion is used. The first bar speaks "
        "of these families; the second, wider one of families like them."
    )
    told = "; ".join(f"{n}: {fr.points_text(v)} points" for n, v, _ in found)
    alt = f"FG* with 95 % intervals. {told}."
    return Plot("fg", "The headline and its intervals", told_lost(note, lost), svg.inline(fig, "fg", alt))


def decay_plot(data: dict[str, Any]) -> Plot | None:
    """E(k) as the base draws more, and the value extrapolated to infinitely many draws."""
    block = data["decay"]
    if block is None:
        return None
    line = series(block.get("k"), block.get("e"), block.get("low"), block.get("high"), log=True)
    if not line.xs:
        return None
    star, ink = drawable(data["headline"]["e_star"]), svg.colour("trained")
    fig, (axes,) = svg.figure(height=280, right=20)
    band(axes, line, ink)
    axes.plot(line.xs, line.ys, color=ink, marker="o", markersize=4.5)
    end = max(line.xs) + max(0.12 * (max(line.xs) - min(line.xs)), 0.3)
    if star is not None:
        axes.plot([line.xs[-1], end], [line.ys[-1], star], color=ink, linestyle=(0, (2, 2)), linewidth=1.4)
        axes.plot([end], [star], color=svg.colour("c3"), marker="D", markersize=8, linestyle="none")
        axes.annotate(
            f"E* {fr.signed(star)}", (end, star), textcoords="offset points", ha="right",
            xytext=(0, 9 if star >= line.ys[-1] else -18), color=svg.colour("c3"),
        )  # fmt: skip
    values = [*line.ys, *line.lows, *line.highs, *([] if star is None else [star])]
    hold(axes, values, 0.0, 1.0, pad=0.1)
    hold(axes, [*line.xs, end], min(line.xs), end, axis="x")
    log_ticks(axes)
    axes.axhline(0, color=svg.colour("muted"), linewidth=1)
    axes.set_xlabel("base draws per problem (right end: extrapolated)")
    axes.set_title("E(k), points", loc="left", fontsize=svg.FONT)
    note = (
        "Problems that the trained model solves reliably and the base has not solved in k draws. Sharpening falls "
        "towards zero as the base draws more; expansion stays flat. The diamond is E*, the tail carried on to "
        "infinitely many draws; it is the part of the headline before losses."
    )
    told = "; ".join(f"{fr.points(y)} at {whole(10**x)}" for x, y in zip(line.xs, line.ys, strict=True))
    alt = f"Points of problems gained, by base draws: {told}. Extrapolated: {fr.signed(star)}."
    return Plot(
        "decay", "What is left as the base draws more", told_lost(note, line.lost), svg.inline(fig, "decay", alt)
    )


def pass_plot(data: dict[str, Any]) -> Plot | None:
    """pass@k of both, and of the base's arms one by one."""
    block = data["pass_at_k"]
    if block is None:
        return None
    fig, (axes,) = svg.figure(height=300, right=58)
    everything, xs = [0.0], list[float]()
    lost, labels, told = 0, [], []
    arms = walk(block, "arms")
    for arm in arms.values() if isinstance(arms, dict) else ():
        line = series(walk(arm, "k"), walk(arm, "mean"), log=True)
        axes.plot(line.xs, line.ys, color=svg.colour("base"), linewidth=0.9, alpha=0.55)
        lost, everything, xs = lost + line.lost, everything + line.ys, xs + line.xs
    for who, dash, marker in (("base", (0, (5, 2)), "s"), ("trained", "-", "o")):
        curve, ink = walk(block, who), svg.colour(who)
        line = series(*(walk(curve, key) for key in ("k", "mean", "low", "high")), log=True)
        lost += line.lost
        if not line.xs:
            continue
        band(axes, line, ink)
        axes.plot(line.xs, line.ys, color=ink, linestyle=dash, marker=marker, markersize=4.5)
        everything, xs = [*everything, *line.ys, *line.lows, *line.highs], xs + line.xs
        labels.append((line.xs[-1], line.ys[-1], who, ink))
        ends = [(10 ** line.xs[i], line.ys[i]) for i in (0, -1)]
        told.append(f"{who}: " + ", ".join(f"{probability(y)} at k={whole(x)}" for x, y in ends))
    if not labels:
        return None
    hold(axes, everything, 0.0, 1.0)
    hold(axes, xs, min(xs), max(max(xs), min(xs) + 1), axis="x", pad=0.02)
    log_ticks(axes)
    for x, y, who, ink in labels:
        axes.annotate(who, (x, y), xytext=(5, 0), textcoords="offset points", va="center", color=ink)
    axes.set_xlabel("k (draws per problem)")
    axes.set_title("pass@k", loc="left", fontsize=svg.FONT)
    thin = " Thin lines: the base's arms one by one." if isinstance(arms, dict) and arms else ""
    note = (
        f"Share of problems with at least one success in k draws, with 95 % bands.{thin} A trained curve that starts "
        "higher and is overtaken is sharpening; a gap that stays at large k is not. Curves end where the draws do."
    )
    alt = f"pass at k. {'; '.join(told)}."
    return Plot("passk", "pass@k and the base's coverage", told_lost(note, lost), svg.inline(fig, "passk", alt))


def cover_plot(data: dict[str, Any]) -> Plot | None:
    """The share of problems solved at a rate of at least tau."""
    block = data["cover"]
    if block is None:
        return None
    fig, (axes,) = svg.figure(height=250, right=64)
    everything, xs = [0.0], list[float]()
    lost, labels, told = 0, [], []
    for who, dash, marker, shift in (("base", (0, (5, 2)), "s", -0.006), ("trained", "-", "o", 0.006)):
        read = [fr.triple(v) for v in items(block.get(who))]
        line = series(block.get("tau"), *([t[i] for t in read] for i in range(3)))
        lost += line.lost
        if not line.xs:
            continue
        at, ink = [x + shift for x in line.xs], svg.colour(who)
        axes.plot(at, line.ys, color=ink, linestyle=dash, marker=marker, markersize=5)
        axes.vlines(at, line.lows, line.highs, color=ink, linewidth=1.6)
        labels.append((line.ys[-1], who, ink))
        everything, xs = [*everything, *line.ys, *line.lows, *line.highs], [*xs, *at]
        told.append(f"{who}: " + ", ".join(f"{percent(y)} at {x:g}" for x, y in zip(line.xs, line.ys, strict=True)))
    if not labels:
        return None
    hold(axes, everything, 0.0, 1.0)
    hold(axes, xs, 0.0, 1.0, axis="x", pad=0.02)
    svg.end_labels(axes, labels)
    axes.set_xlabel("tau (success rate of a single draw)")
    axes.set_title("share of problems", loc="left", fontsize=svg.FONT)
    note = (
        "Share of problems that one draw solves with probability at least tau. Left: what can be reached at all; "
        "right: what can be relied on. A rise only on the right is better reliability on problems already within reach."
    )
    alt = f"Cover at tau. {'; '.join(told)}."
    return Plot("cover", "Cover@tau", told_lost(note, lost), svg.inline(fig, "cover", alt))


def compute_plot(data: dict[str, Any]) -> Plot | None:
    """Coverage against generated tokens per problem."""
    block = data["compute"]
    if block is None:
        return None
    fig, (axes,) = svg.figure(height=270, right=64)
    everything, xs = [0.0], list[float]()
    lost, told = 0, []
    for who, dash, marker in (("base", (0, (5, 2)), "s"), ("trained", "-", "o")):
        line = series(walk(block, who, "tokens"), walk(block, who, "coverage"), log=True)
        lost += line.lost
        if not line.xs:
            continue
        ink = svg.colour(who)
        axes.plot(line.xs, line.ys, color=ink, linestyle=dash, marker=marker, markersize=4.5)
        axes.annotate(
            who, (line.xs[-1], line.ys[-1]), xytext=(5, 0), textcoords="offset points", va="center", color=ink
        )
        everything, xs = everything + line.ys, xs + line.xs
        told.append(f"{who}: {percent(line.ys[-1])} at {svg.short(round(10 ** line.xs[-1]))} tokens")
    if not xs:
        return None
    hold(axes, everything, 0.0, 1.0)
    hold(axes, xs, min(xs), max(max(xs), min(xs) + 1), axis="x", pad=0.02)
    log_ticks(axes)
    axes.set_xlabel("generated tokens per problem")
    axes.set_title("share of problems solved at least once", loc="left", fontsize=svg.FONT)
    note = (
        "The same coverage, paid in tokens instead of draws: a model that wins only by writing longer moves to the "
        "right. Read across: how many tokens each needs for the same share."
    )
    alt = f"Coverage against generated tokens per problem. {'; '.join(told)}."
    return Plot("compute", "At matched compute", told_lost(note, lost), svg.inline(fig, "compute", alt))


class _Group(NamedTuple):
    text: str
    ink: str
    marker: str
    size: float


_GROUPS = (
    _Group("not eligible", "muted", "x", 4.0),
    _Group("eligible", "c2", "o", 3.6),
    _Group("certified", "c1", "D", 5.0),
)


def scatter_plot(data: dict[str, Any]) -> Plot | None:
    """Each problem: what the base may still be capable of against what the trained model does."""
    rows = list(fr.certified_first(fr.problems(data), MAX_POINTS))
    at = [(drawable(p.get("base_upper")), drawable(fr.rate(p.get("trained")))) for p in rows]
    floor = min([math.log10(u) for u, _ in at if u is not None and u > 0], default=-4.0)
    spots: dict[str, tuple[list[float], list[float]]] = {g.text: ([], []) for g in _GROUPS}
    lost = 0
    for i, (p, (upper, y)) in enumerate(zip(rows, at, strict=True)):
        if upper is None or y is None:
            lost += 1
            continue
        group = "certified" if p.get("certified") else "eligible" if p.get("eligible") is not False else "not eligible"
        x = math.log10(upper) if upper > 0 else floor - 0.3
        spots[group][0].append(x + 0.08 * (i * 0.7548776662 % 1 - 0.5))  # spread evenly, without any randomness
        spots[group][1].append(y + 0.04 * (i * 0.6180339887 % 1 - 0.5))
    counts = {g: len(xs) for g, (xs, _) in spots.items()}
    if not sum(counts.values()):
        return None
    fig, (axes,) = svg.figure(height=340, right=14)
    for g in _GROUPS:
        xs, ys = spots[g.text]
        axes.plot(
            xs, ys, color=svg.colour(g.ink), marker=g.marker, markersize=g.size, linestyle="none", alpha=0.75,
            label=f"{g.text} ({whole(len(xs))})", markeredgewidth=1.0 if g.marker == "x" else 0,
        )  # fmt: skip
    xs, ys = ([v for s in spots.values() for v in s[i]] for i in range(2))
    hold(axes, xs, min([*xs, -1.0]), 0.1, axis="x", pad=0.02)
    hold(axes, ys, 0.0, 1.0)
    log_ticks(axes)
    axes.set_xlabel("95 % upper bound of the base's success rate")
    axes.set_title("trained success rate", loc="left", fontsize=svg.FONT)
    left, bottom, width, height = axes.get_position().bounds
    axes.set_position((left, bottom, width, height * 0.93))
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.44, 1.075), ncols=3, frameon=False, fontsize=svg.FONT - 1,
        handletextpad=0.1, columnspacing=0.8, borderaxespad=0,
    )  # fmt: skip
    total = len(fr.problems(data))
    cut = (
        f" {whole(len(rows))} of {whole(total)} problems are shown, all certified ones first."
        if total > len(rows)
        else ""
    )
    note = (
        "One mark a problem. The top left is the claim: the base did not solve it in all its draws and the trained "
        "model does. Further right the base was drawn less, because it succeeded, because nothing had to be explained "
        "there, or because the lot left it out. Marks are moved slightly apart." + cut
    )
    told = ", ".join(f"{whole(n)} {g}" for g, n in counts.items())
    alt = f"Problems by the base's upper bound and the trained rate: {told}. The table of problems has the numbers."
    return Plot("scatter", "Each problem, base against trained", told_lost(note, lost), svg.inline(fig, "scatter", alt))
