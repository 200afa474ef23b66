"""The plots of a Frontier Report, as inline SVG; ``frontier.html`` says what they mean.  No axis cuts a point off."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dream_envs.frontier.schema import Curve, Estimate, ProblemRow, Report
from dream_envs.frontier.verdict import MARGIN
from dream_envs.report import frontier_tables as ft
from dream_envs.report import svg
from dream_envs.report.words import estimate, label, percent, points, probability, ratio, readable, whole

#: Points of the scatter (more problems are thinned, certified ones last); rows, bars and panels of one picture, what is
#: beyond stands in the table beside it.
MAX_POINTS, MAX_ROWS, MAX_BARS, MAX_PANELS = 2000, 60, 12, 8
#: The cells of the support and their colours.
_CELLS = (("P", "c1"), ("E", "c3"), ("S", "c2"), ("O", "muted"))
#: How the two models' lines look.
_LINES = (("base", (0, (5, 2)), "s"), ("trained", "-", "o"))
_ZERO, _DASHED = ((0.0, "-"),), (0, (2, 1))
#: A figure and what it says in words.
Drawn = tuple[Any, str]
#: Name, estimate, colour, marker.
Row = tuple[str, Estimate, str, str]
#: Name, xs, ys.
Line = tuple[str, list[float], list[float]]


def all_plots(data: Report) -> dict[str, str]:
    """Every plot that there is data for, by its name."""
    with svg.style():
        drawn = {name: draw(data) for name, draw in PLOTS.items()}
        return {name: svg.inline(made[0], name, made[1]) for name, made in drawn.items() if made is not None}


def _write(axes: Any, text: str, at: tuple[float, float], role: str = "ink", side: str = "left", up: int = 3) -> None:
    """Words over a row: x in shares of the width, y in rows."""
    place: Any = {"xycoords": ("axes fraction", "data"), "xytext": (0, up), "textcoords": "offset points"}
    axes.annotate(text, at, **place, va="bottom", ha=side, color=svg.colour(role))


def _rows_only(axes: Any, low: float, high: float) -> None:
    """A y axis of rows: these limits, and nothing drawn of it."""
    axes.set(ylim=(low, high), yticks=[])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def hold(axes: Any, values: Sequence[float], low: float, high: float, *, axis: str = "y", pad: float = 0.04) -> None:
    """Limits that hold ``low``..``high`` and every value, with a margin."""
    bottom, top = min([low, *values]), max([high, *values])
    room = pad * (top - bottom or 1.0)
    (axes.set_ylim if axis == "y" else axes.set_xlim)(bottom - room, top + room)


def log_ticks(axes: Any) -> None:
    """Ticks of an x axis in log10, whose limits are set: powers of ten, or 1, 2, 5, 10 where it is short."""
    low, high = axes.get_xlim()
    decades = list(range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1))
    if high - low >= 2.2:
        decades = decades[:: math.ceil(len(decades) / 6)]
        axes.set_xticks(decades, [svg.powers(d) for d in decades])
        return
    named = [m * 10.0**d for d in range(math.floor(low), math.floor(high) + 1) for m in (1, 2, 5)]
    named = [x for x in named if low - 1e-9 <= math.log10(x) <= high + 1e-9]
    axes.set_xticks([math.log10(x) for x in named], [svg.short(x) for x in named])


def _whiskers(
    rows: Sequence[Row], unit: str, alt: str, least: tuple[float, float], marks: Sequence[tuple[float, Any]] = _ZERO,
    text: Callable[[Estimate], str] = estimate,
) -> Drawn | None:  # fmt: skip
    """A point with its interval a row, under its name; ``least`` is shown of the axis, ``marks`` are vertical lines."""
    rows = rows[:MAX_ROWS]
    if not rows:
        return None
    fig, (axes,) = svg.figure(height=64 + 40 * len(rows), right=14, left=14)
    known = [e for _, value, _, _ in rows for e in value if e is not None]
    for i, (name, value, role, marker) in enumerate(rows):
        y, (at, *ends) = -float(i), value
        if None not in ends:
            axes.plot(ends, [y - 0.28] * 2, color=svg.colour(role), linewidth=2.2, solid_capstyle="butt")
        axes.plot([at], [y - 0.28], color=svg.colour(role), marker=marker, markersize=7, linestyle="none")
        _write(axes, name, (0, y))
        _write(axes, text(value), (1, y), side="right")
        for x, dash in marks:  # only beside the whisker, so that no line runs through the words
            axes.plot([x, x], [y - 0.5, y - 0.04], color=svg.colour("muted"), linewidth=1.2, linestyle=dash, zorder=0)
    _rows_only(axes, -(len(rows) - 1 + 0.6), 0.62)
    hold(axes, known, *least, axis="x", pad=0.06)
    axes.set_xlabel(unit)
    return fig, f"{alt} {'; '.join(f'{name}: {text(value)}' for name, value, _, _ in rows)}."


def headline(data: Report) -> Drawn | None:
    """G@K with its intervals, and what was gained by kind against each envelope, beside 0 and the margin of a gain."""
    h, k = data.headline, data.headline.k
    rows: list[Row] = [(f"G@{k}, these families", h.g, "trained", "o")]
    if h.family_interval is not None:
        rows.append((f"G@{k}, new families", (h.g[0], *h.family_interval), "trained", "s"))
    looks = dict(zip(data.protocol.envelopes, (("c1", "o"), ("c3", "D"), ("c2", "^")), strict=False))
    for c in data.verdict.claims:
        name = label(c.kind, 22) if c.envelope == "decoding" else f"… against {label(c.envelope, 16)}"
        rows.append((name, c.e, *looks.get(c.envelope, ("c2", "^"))))
    alt = f"G@{k} with 95 % intervals, in points of all problems, and what was gained of each kind's."
    return _whiskers(rows, "points of problems", alt, (-0.5, 1.0), (*_ZERO, (MARGIN, _DASHED)))


def families(data: Report) -> Drawn | None:
    """The gain of each family with its interval."""
    rows: list[Row] = [
        (label(f.info.name, 24), f.gain, "trained", "o" if f.info.practised else "D")
        for f in ft.families(data)
        if f.gain is not None
    ]
    return _whiskers(rows, "gain, points of the family's problems", "Gain in points by family.", (0.0, 1.0))


def retention(data: Report) -> Drawn | None:
    """The change of each practised stratum with its interval."""
    rows: list[Row] = [
        (label(s.name, 26), ft.times100(s.gain), "c2" if s.flag else "c1", "X" if s.flag else "o")
        for s in (data.retention.suites if data.retention is not None else ())
    ]
    alt = "Change of the score of each retained suite, in points."
    return _whiskers(rows, "change of the score, points", alt, (-1.0, 1.0))


def diversity(data: Report) -> Drawn | None:
    """Trained / base of each diversity measure."""
    found = data.diversity.ratio if data.diversity is not None else {}
    rows: list[Row] = [(readable(name, 26), value, "trained", "o") for name, value in found.items()]
    marks, alt = ((1.0, "-"), (0.5, _DASHED)), "Diversity of the trained model relative to the base."
    return _whiskers(rows, "trained / base", alt, (0.4, 1.1), marks, ratio)


def decay(data: Report) -> Drawn:
    """E(k) as the base is sampled more, and beyond K the bounds of it."""
    curve, ink = data.decay, svg.colour("trained")
    xs = [math.log10(k) for k in curve.k]
    fig, (axes,) = svg.figure(height=280, right=20)
    if curve.low:
        axes.fill_between(xs, curve.low, curve.high, color=ink, alpha=0.18, linewidth=0)
    axes.plot(xs, curve.mean, color=ink, marker="o", markersize=4.5)
    after = [math.log10(b.k) for b in data.bounds]
    for x, bound in zip(after, data.bounds, strict=True):
        axes.plot([x, x], [bound.low, bound.high], color=svg.colour("c3"), linewidth=2.2, solid_capstyle="butt")
    if data.exact:
        known = [(math.log10(float(k)), e) for k, e in data.exact.by_budget.items()]
        axes.plot(*zip(*known, strict=True), color=svg.colour("muted"), marker="x", linestyle="none", markersize=7)
    ends = [e for b in data.bounds for e in (b.low, b.high)]
    hold(axes, [*curve.mean, *curve.low, *curve.high, *ends], 0.0, 1.0, pad=0.1)
    hold(axes, [*xs, *after], min(xs), max([*xs, *after]), axis="x")
    log_ticks(axes)
    axes.axhline(0, color=svg.colour("muted"), linewidth=1)
    axes.set(title="E(k), points", xlabel="base samples per problem (bars: bounds)")
    told = "; ".join(f"{points(y)} at {whole(k)}" for k, y in zip(curve.k, curve.mean, strict=True))
    later = "; ".join(f"{points(b.low)} to {points(b.high)} at {whole(b.k)}" for b in data.bounds)
    return fig, f"Points of problems gained, by base samples: {told}. Bounds: {later}."


def _coverage(
    curves: Mapping[str, Sequence[Sequence[float]]], unit: str, title: str, right: int, alt: str,
    thin: Sequence[Curve] = (),
) -> Drawn:  # fmt: skip
    """Coverage of both models over a logarithmic axis: xs, ys, and the ends of the band, which may be empty."""
    fig, (axes,) = svg.figure(height=300, right=right)
    said, xs = [], list[float]()
    everything = [y for curve in thin for y in curve.mean]
    for curve in thin:
        xs += (at := [math.log10(k) for k in curve.k])
        axes.plot(at, curve.mean, color=svg.colour("base"), linewidth=0.9, alpha=0.55)
    for who, dash, marker in _LINES:
        raw, ys, low, high = curves[who]
        if not raw:
            continue
        at, ink = [math.log10(x) for x in raw], svg.colour(who)
        if low:
            axes.fill_between(at, low, high, color=ink, alpha=0.18, linewidth=0)
        axes.plot(at, ys, color=ink, linestyle=dash, marker=marker, markersize=4.5)
        axes.annotate(who, (at[-1], ys[-1]), xytext=(5, 0), textcoords="offset points", va="center", color=ink)
        everything, xs = [*everything, *low, *high, *ys], [*xs, *at]
        ends = (f"{probability(ys[i])} at {svg.short(round(10 ** at[i]))}" for i in (0, -1))
        said.append(f"{who}: {', '.join(ends)}")
    hold(axes, everything, 0.0, 1.0)
    hold(axes, xs, min(xs, default=0.0), max(max(xs, default=0.0), min(xs, default=0.0) + 1), axis="x", pad=0.02)
    log_ticks(axes)
    axes.set(title=title, xlabel=unit)
    return fig, f"{alt}. {'; '.join(said)}."


def pass_at_k(data: Report) -> Drawn:
    """pass@k of both, and of the base's methods one by one."""
    block = data.pass_at_k
    curves = {who: (c.k, c.mean, c.low, c.high) for who, c in (("base", block.base), ("trained", block.trained))}
    thin = list((block.methods or {}).values())
    return _coverage(curves, "k (draws per problem)", "pass@k", 58, "pass at k", thin)


def compute(data: Report) -> Drawn:
    """Coverage against generated tokens per problem."""
    curves = {}
    for who, spent in (("base", data.compute.base), ("trained", data.compute.trained)):
        pairs = [(x, y) for x, y in zip(spent.tokens, spent.coverage, strict=True) if x > 0]
        curves[who] = [[x for x, _ in pairs], [y for _, y in pairs], [], []]
    title, alt = "share of problems solved at least once", "Coverage against generated tokens per problem"
    return _coverage(curves, "generated tokens per problem", title, 64, alt)


def cover(data: Report) -> Drawn:
    """The share of problems solved at a rate of at least tau."""
    fig, (axes,) = svg.figure(height=250, right=64)
    labels, said = [], []
    for (who, dash, marker), rows, aside in zip(_LINES, (data.cover.base, data.cover.trained), (-1, 1), strict=True):
        at, ink = [tau + 0.006 * aside for tau in data.cover.tau], svg.colour(who)
        axes.plot(at, [v for v, _, _ in rows], color=ink, linestyle=dash, marker=marker, markersize=5)
        for x, (_, low, high) in zip(at, rows, strict=True):
            if low is not None and high is not None:
                axes.plot([x, x], [low, high], color=ink, linewidth=1.6)
        labels.append((rows[-1][0], who, ink))
        shares = (f"{percent(v[0])} at {x:g}" for x, v in zip(data.cover.tau, rows, strict=True))
        said.append(f"{who}: {', '.join(shares)}")
    hold(axes, [e for row in (*data.cover.base, *data.cover.trained) for e in row if e is not None], 0.0, 1.0)
    hold(axes, [tau + side for tau in data.cover.tau for side in (-0.006, 0.006)], 0.0, 1.0, axis="x", pad=0.02)
    svg.end_labels(axes, labels)
    axes.set(title="share of problems", xlabel="tau (success rate of a single draw)")
    return fig, f"Cover at tau. {'; '.join(said)}."


def support(data: Report) -> Drawn | None:
    """P, E, S and O at each budget, stacked."""
    if not data.support:
        return None
    fig, (axes,) = svg.figure(height=100 + 46 * len(data.support), right=14, left=14)
    said = []
    for i, row in enumerate(data.support):
        start, texts = 0.0, [(f"k = {whole(row.k)}", "ink")]
        for (key, role), cell in zip(_CELLS, (row.p, row.e, row.s, row.o), strict=True):
            look: Any = {"color": svg.colour(role), "edgecolor": svg.colour("ink"), "linewidth": 0.6}
            axes.barh(-i, cell[0], left=start, height=0.42, alpha=0.55 if key == "O" else 1.0, **look)
            start += cell[0]
            texts.append((f"{key} {percent(cell[0])}", "ink" if role == "muted" else role))
        for place, (text, role) in zip((0.0, 0.24, 0.43, 0.62, 0.81), texts, strict=True):
            _write(axes, text, (place, -i + 0.24), role, up=2)
        said.append(f"{texts[0][0]}: {', '.join(text for text, _ in texts[1:])}")
    _rows_only(axes, -len(data.support) + 0.6, 0.75)
    ends = [r.p[0] + r.e[0] + r.s[0] + r.o[0] for r in data.support]
    hold(axes, ends, 0.0, 1.0, axis="x", pad=0.005)
    axes.set_xlabel("share of problems")
    return fig, f"Share of problems reached by both, by one, by none. {'; '.join(said)}."


def tiers(data: Report) -> Drawn | None:
    """How many problems of each tier there are and how many are solved."""
    if data.exact is None or not data.exact.tiers:
        return None
    rows = data.exact.tiers[:MAX_BARS]
    said = [f"{label(t.name, 20)}: {whole(t.solved)} of {whole(t.count)} solved" for t in rows]
    fig, (axes,) = svg.figure(height=78 + 44 * len(rows), right=14, left=14)
    for i, (tier, text) in enumerate(zip(rows, said, strict=True)):
        axes.barh(-i, tier.count, height=0.38, color="none", edgecolor=svg.colour("base"), linewidth=1.4)
        axes.barh(-i, tier.solved, height=0.38, color=svg.colour("trained"), linewidth=0)
        _write(axes, text, (0, -i + 0.2))
    _rows_only(axes, -len(rows) + 0.6, 0.72)
    hold(axes, [float(x) for t in rows for x in (t.count, t.solved)], 0.0, 1.0, axis="x", pad=0.01)
    axes.set_xlabel("problems")
    return fig, f"Problems by tier of the base. {'; '.join(said)}."


def formats(data: Report) -> Drawn | None:
    """Shares of the formats of the completions, base above trained."""
    if data.diversity is None:
        return None
    base, trained = data.diversity.formats.base, data.diversity.formats.trained
    shares = {n: (base.get(n, 0.0), trained.get(n, 0.0)) for n in {*base, *trained}}
    names = sorted(shares, key=lambda n: (-sum(shares[n]), n))
    rows = [(label(n, 28), *shares[n]) for n in names[:MAX_BARS]]
    if rest := names[MAX_BARS:]:
        before, after = (math.fsum(shares[n][i] for n in rest) for i in (0, 1))
        rows.append((f"{whole(len(rest))} others", before, after))
    fig, (axes,) = svg.figure(height=78 + 46 * len(rows), right=14, left=14)
    said = [f"{name}: {percent(before)} → {percent(after)}" for name, before, after in rows]
    for i, (text, (_, before, after)) in enumerate(zip(said, rows, strict=True)):
        axes.barh(-i + 0.02, before, height=0.21, color=svg.colour("base"), linewidth=0)
        axes.barh(-i - 0.22, after, height=0.21, color=svg.colour("trained"), linewidth=0)
        _write(axes, text, (0, -i + 0.13), up=2)
    _rows_only(axes, -len(rows) + 0.55, 0.72)
    hold(axes, [v for _, *values in rows for v in values], 0.0, 1.0, axis="x", pad=0.005)
    axes.set_xlabel("share of replies (upper bar: base, lower bar: trained)")
    return fig, f"Shares of reply formats, base to trained. {'; '.join(said)}."


def _panels(lines: Sequence[Line], ticks: Sequence[float], texts: Sequence[str], unit: str, alt: str) -> Drawn | None:
    """One panel a measure, for their units differ."""
    if not lines:
        return None
    fig, panels = svg.figure(height=48 + 110 * len(lines), right=24, panels=len(lines))
    everything = [x for _, xs, _ in lines for x in xs]
    for axes, (name, xs, ys) in zip(panels, lines, strict=True):
        axes.plot(xs, ys, color=svg.colour("c1"), marker="o", markersize=4.5 if len(xs) <= 60 else 2)
        hold(axes, ys, min(ys), max(ys), pad=0.15)
        hold(axes, everything, 0.0, 0.3, axis="x", pad=0.03)
        axes.locator_params(axis="y", nbins=4)
        axes.set_xticks(ticks, texts)
        axes.tick_params(labelbottom=axes is panels[-1])
        axes.set_title(name)
    panels[-1].set_xlabel(unit)
    said = "; ".join(f"{name}: {ys[0]:.3g} to {ys[-1]:.3g}" for name, _, ys in lines)
    return fig, f"{alt}, first to last. {said}."


def series(data: Report) -> Drawn | None:
    """Diversity while it learnt, at log-spaced steps."""
    block = dict((data.diversity and data.diversity.series) or {})
    steps, lines = block.pop("step", []), list[Line]()
    for name, values in block.items():
        pairs = [(s, v) for s, v in zip(steps, values, strict=False) if s is not None and s >= 0 and v is not None]
        if pairs:  # log(1 + step): the start is part of the story
            lines.append((readable(name, 40), [math.log10(1 + s) for s, _ in pairs], [v for _, v in pairs]))
    lines = lines[:MAX_PANELS]
    top = max((x for _, xs, _ in lines for x in xs), default=0.0)
    ticks = [0.0, *(10.0**i for i in range(13) if math.log10(1 + 10.0**i) <= top)] if top > 0.4 else [0.0, 1.0]
    places, texts = [math.log10(1 + t) for t in ticks], [svg.short(t) for t in ticks]
    return _panels(lines, places, texts, "training step (log scale)", "Diversity over training steps")


def curriculum(data: Report) -> Drawn | None:
    """Every series of the curriculum card, over its own course."""
    card, lines = data.curriculum, list[Line]()
    for name in () if card is None else card.__struct_fields__:
        values = getattr(card, name) if name.endswith("_series") else None
        known = [(i, v) for i, v in enumerate(values or []) if v is not None]
        if values and known:
            title = readable(name.removesuffix("_series"), 40)
            lines.append((title, [i / max(len(values) - 1, 1) for i, _ in known], [v for _, v in known]))
    unit, alt = "windows of the run, in order", "The curriculum's series"
    return _panels(lines[:MAX_PANELS], [0.0, 1.0], ["first", "last"], unit, alt)


#: Groups of the scatter: text, colour, marker, size.
_GROUPS = (("not eligible", "muted", "x", 4.0), ("eligible", "c2", "o", 3.6), ("certified", "c1", "D", 5.0))


def _thinned(rows: Sequence[ProblemRow]) -> list[ProblemRow]:
    """At most ``MAX_POINTS`` rows: all certified ones, then the others at even steps; the file's order stays."""
    if len(rows) <= MAX_POINTS:
        return list(rows)
    marked = [i for i, r in enumerate(rows) if r.certified][:MAX_POINTS]
    others = [i for i, r in enumerate(rows) if not r.certified]
    left = MAX_POINTS - len(marked)
    return [rows[i] for i in sorted({*marked, *(others[i * len(others) // left] for i in range(left))})]


def scatter(data: Report) -> Drawn | None:
    """Each problem: what the base may still be capable of against what the trained model does."""
    rows = _thinned(data.problems)
    if not rows:
        return None
    floor = min([math.log10(p.base_upper) for p in rows if p.base_upper > 0], default=-4.0)
    spots: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name, *_ in _GROUPS}
    for i, p in enumerate(rows):
        xs, ys = spots["certified" if p.certified else "eligible" if p.eligible else "not eligible"]
        x = math.log10(p.base_upper) if p.base_upper > 0 else floor - 0.3
        xs.append(x + 0.08 * (i * 0.7548776662 % 1 - 0.5))  # spread evenly, without any randomness
        ys.append(ft.rate(p.trained) + 0.04 * (i * 0.6180339887 % 1 - 0.5))
    fig, (axes,) = svg.figure(height=340, right=14)
    for name, ink, marker, size in _GROUPS:
        axes.plot(
            *spots[name], color=svg.colour(ink), marker=marker, markersize=size, linestyle="none", alpha=0.75,
            label=f"{name} ({whole(len(spots[name][0]))})", markeredgewidth=1.0 if marker == "x" else 0,
        )  # fmt: skip
    xs, ys = ([v for spot in spots.values() for v in spot[i]] for i in (0, 1))
    hold(axes, xs, min([*xs, -1.0]), 0.1, axis="x", pad=0.02)
    hold(axes, ys, 0.0, 1.0)
    log_ticks(axes)
    axes.set(title="trained success rate", xlabel="95 % upper bound of the base's success rate")
    left, bottom, width, height = axes.get_position().bounds  # room for the legend
    axes.set_position((left, bottom, width, height * 0.93))
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.44, 1.075), ncols=3, frameon=False, fontsize=svg.FONT - 1,
        handletextpad=0.1, columnspacing=0.8, borderaxespad=0,
    )  # fmt: skip
    said = ", ".join(f"{whole(len(xs))} {name}" for name, (xs, _) in spots.items())
    alt = f"Problems by the base's upper bound and the trained rate: {said}."
    return fig, f"{alt} The table of problems has the numbers."


#: Every plot, in the page's order.
PLOTS: dict[str, Callable[[Report], Drawn | None]] = {
    "fg": headline, "decay": decay, "passk": pass_at_k, "compute": compute, "support": support, "cover": cover,
    "forest": families, "scatter": scatter, "tiers": tiers, "retention": retention, "formats": formats,
    "ratio": diversity, "series": series, "curriculum": curriculum,
}  # fmt: skip
