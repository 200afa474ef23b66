"""The plots of a run report, drawn under ``svg.style``: each is None where there is no data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dream_envs.report import svg
from dream_envs.report.read import Night, Points
from dream_envs.report.words import probability, visible, whole
from dream_envs.schema import Compared, Evaluation, Level, Stat

#: log10 P below this is drawn on the edge; values beyond this are not drawn; points of a line.
_FLOOR, _LIMIT, _POINTS = -30.0, 1e15, 160
#: Success that never leaves this is drawn on a log axis: a linear one would show a flat line.
_FLAT = 0.05
WHO = ("base", "trained")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
SHARE = (-0.03, 1.03)


class Plot(NamedTuple):
    """One plot: its name in the page, its heading, how to read it, and the SVG (already escaped)."""

    name: str
    title: str
    note: str
    svg: str


def curves(
    name: str, title: str, note: str, unit: str, x: str, lines: Sequence[tuple[str, Points]], *,
    limits: tuple[float, float] | None = None, spread: dict[str, Points] | None = None, ordered: bool = False,
) -> Plot | None:  # fmt: skip
    """Lines (label, points) over a run; ``name`` is unique in the page, ``unit`` and ``x`` name the axes.

    ``spread``: by label, half the height of a band around the line.  ``ordered``: colours run from light to dark.
    """
    thinned = [(visible(label, 60), *_thinned(points)) for label, points in lines]
    drawn = [line for line in thinned if line[1]]
    if max((len(xs) for _, xs, _ in drawn), default=0) < 2:
        return None
    width = max(len(label) for label, *_ in drawn)
    fig, (axes,) = svg.figure(height=max(240, 70 + 15 * len(drawn)), right=min(24 + 8 * width, 150))
    labels, said = [], []
    for i, (label, xs, ys) in enumerate(drawn):
        ink = svg.sequence(i, len(drawn)) if ordered else svg.colour(f"c{i % 4 + 1}")
        dash = "-" if ordered else _DASHES[i // 4 % 4 if len(drawn) > 4 else i % 4]
        if spread and label in spread:
            wide = _thinned(spread[label])[1]
            low, high = ([y + sign * w for y, w in zip(ys, wide, strict=False)] for sign in (-1, 1))
            axes.fill_between(xs[: len(low)], low, high, color=ink, alpha=0.14, linewidth=0)
        marker = "o" if len(xs) < 12 else ""
        axes.plot(xs, ys, color=ink, linestyle=dash, linewidth=1.8, marker=marker, markersize=3)
        labels.append((ys[-1], label.replace("_", " ")[:18], ink))
        said.append(f"{label}: {ys[0]:.3g} to {ys[-1]:.3g}")
    axes.set_ylim(*limits) if limits else axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(lambda y, _: svg.short(y) if not 0 < abs(y) < 1e-3 else f"{y:.0e}")
    _whole_ticks(axes, [at for _, xs, _ in drawn for at in xs], 4, svg.short)
    svg.end_labels(axes, labels)
    axes.set(title=unit, xlabel=x)
    return Plot(name, title, note, svg.inline(fig, name, f"{title}. {note} First to last, {'; '.join(said)}."))


def _thinned(points: Points) -> tuple[list[float], list[float]]:
    """At most ``_POINTS`` points, each the mean of as many neighbours as that takes; what is too large is left out."""
    pairs = [(x, y) for x, y in points if abs(x) < _LIMIT and abs(y) < _LIMIT]
    size = max(1, math.ceil(len(pairs) / _POINTS))
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [sum(x for x, _ in g) / len(g) for g in groups], [sum(y for _, y in g) / len(g) for g in groups]


def _whole_ticks(axes: Any, xs: Sequence[float], most: int, write: Callable[[float], str]) -> None:
    """An x axis that holds these values, with about so many ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(min(xs), max(max(xs), min(xs) + 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: write(x))


def evaluation_plots(found: Evaluation, samples: int) -> list[Plot]:
    """Success by level, the base's decoders, pass@k; or the measures of play."""
    # sampled success has no small values: 0 of 256 is not 1e-30
    scales = ("log", "linear") if found.kind == "exact" else ("linear",)
    told = "mean success at T=1" if found.kind == "exact" else "mean success of samples"
    made = [_by_level(found.levels, scale, told) for scale in scales]
    made += [_decoders(found, samples), _pass_at_k(found, samples), _measures(found.measures)]
    return [plot for plot in made if plot is not None]


def _stats(levels: Sequence[Level], who: str, decoder: str, split: str = "any") -> dict[int, Stat]:
    return {r.level: stat for r in levels if r.split == split and (stat := getattr(r, who).get(decoder)) is not None}


def _log10(p: float) -> float:
    return max(math.log10(p), _FLOOR) if p > 0 else _FLOOR


def _level_axis(axes: Any) -> None:
    """The levels of the lines that are drawn."""
    ticks = sorted({x for line in axes.lines for x in line.get_xdata()})
    axes.set(xlabel="level", xlim=(ticks[0] - 0.3, ticks[-1] + 0.3), xticks=ticks[:: 1 + len(ticks) // 13])


def _log_axis(axes: Any, budget: int = 0) -> None:
    """The lines that are drawn are in log10: an axis that holds them, in powers of ten; a line at 1 / samples."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(min(math.floor(min(y for line in axes.lines for y in line.get_ydata())), -1) - 0.5, 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda x, _: svg.powers(x))
    if budget and -math.log10(budget) > axes.get_ylim()[0]:
        y = -math.log10(budget)
        axes.axhline(y, color=svg.colour("muted"), linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate("1 / samples", (axes.get_xlim()[0], y), xytext=(4, -3), textcoords="offset points", va="top")


def _by_level(levels: Sequence[Level], scale: str, told: str) -> Plot | None:
    lines = [(who, split, _stats(levels, who, "T=1", split)) for split in ("any", "held_out") for who in WHO]
    lines = [line for line in lines if line[2]]
    if not lines:
        return None
    log = scale == "log"
    fig, (axes,) = svg.figure(height=280, right=76)
    labels, said = [], []
    for who, split, stats in lines:
        held, means, ink = split == "held_out", [s.mean for s in stats.values()], svg.colour(who)
        ys = [_log10(p) for p in means] if log else means
        axes.plot(list(stats), ys, color=ink, marker="s" if held else "o", markersize=4.5, linestyle=_DASHES[held])
        if not log:
            low, high = zip(*(s.ci for s in stats.values()), strict=True)
            axes.fill_between(list(stats), low, high, color=ink, alpha=0.18, linewidth=0)
        labels.append((ys[-1], who + "*" * held, ink))
        said.append(f"{who}{'*' * held}: {', '.join(map(probability, means))}")
    _level_axis(axes)
    chance = sorted({row.level: _log10(row.chance) for row in levels if row.chance is not None}.items())
    if log and chance:
        axes.plot(*zip(*chance, strict=True), color=svg.colour("muted"), linewidth=1.2, linestyle=":")
        labels.append((chance[-1][1], "chance", svg.colour("ink")))
    _log_axis(axes) if log else axes.set_ylim(*SHARE)
    svg.end_labels(axes, labels)
    axes.set_title(told)
    stars = "Dashed, *: problems with held-out pairs. " if len(lines) > 2 else ""
    note = f"{stars}Bands: 95 % intervals over problems."
    if log:
        note = f"Dotted: a guesser who knows the format. {stars}Below 1e{_FLOOR:g}: drawn on the edge."
    levels_drawn = list(lines[0][2])
    alt = f"M{told[1:]} by level, {levels_drawn[0]} to {levels_drawn[-1]}. {'; '.join(said)}."
    return Plot(f"level-{scale}", f"Success by level, {scale} scale", note, svg.inline(fig, f"level-{scale}", alt))


def _decoders(found: Evaluation, samples: int) -> Plot | None:
    """The base under every decoder, where there are several, and the trained model under the first."""
    wanted = [("base", decoder) for decoder in found.decoders] + [("trained", d) for d in found.decoders[:1]]
    lines = [(who, decoder, stats) for who, decoder in wanted if (stats := _stats(found.levels, who, decoder))]
    if len(found.decoders) < 2 or not lines:
        return None
    fig, (axes,) = svg.figure(height=280, right=106)
    labels, said = [], []
    for i, (who, decoder, stats) in enumerate(lines):
        ys, ink = [_log10(s.mean) for s in stats.values()], svg.colour(who)
        dash, width = ("-", 2.8) if who == "trained" else (_DASHES[i % 4], 1.8)
        axes.plot(list(stats), ys, color=ink, linestyle=dash, linewidth=width)
        labels.append((ys[-1], f"{who} {decoder}", ink))
        level, last = list(stats.items())[-1]
        said.append(f"{who} under {decoder}, level {level}: {probability(last.mean)}")
    _level_axis(axes)
    _log_axis(axes, samples)
    svg.end_labels(axes, labels)
    axes.set_title("mean success, log scale")
    note = (
        "The base under every decoder against the trained model under plain sampling. A claim has to clear the best of"
    )
    note += " T=1, best_T and forced; 'given' shows what the base knows one step at a time."
    alt = f"Mean exact success by level under each decoder. {'; '.join(said)}."
    return Plot("envelope", "The base under every decoder", note, svg.inline(fig, "envelope", alt))


def _pass_at_k(found: Evaluation, samples: int) -> Plot | None:
    """One panel a level; a log axis where everything would be flat."""
    if not found.k or not found.pass_at_k:
        return None
    levels = sorted(found.pass_at_k, key=int)
    fig, panels = svg.figure(height=60 + 130 * len(levels), panels=len(levels), right=70)
    xs, said = [math.log10(k) for k in found.k], []
    for axes, level in zip(panels, levels, strict=True):
        both = found.pass_at_k[level]
        flat, labels = min(max(values) for values in both.values()) < _FLAT, []
        for who, values in both.items():
            ys = [_log10(v) for v in values] if flat else values
            axes.plot(xs, ys, color=svg.colour(who), linestyle="-" if who == "trained" else _DASHES[1])
            labels.append((ys[-1], who, svg.colour(who)))
            said.append(f"level {level}, {who}: {probability(values[0])} at k=1, {probability(values[-1])} at the end")
        _whole_ticks(axes, xs, 5, svg.powers)
        if samples and min(xs) < math.log10(samples) < max(xs):
            axes.axvline(math.log10(samples), color=svg.colour("muted"), linewidth=1, linestyle=(0, (2, 2)))
        axes.tick_params(labelbottom=axes is panels[-1])
        _log_axis(axes) if flat else axes.set_ylim(-0.04, 1.04)
        svg.end_labels(axes, labels)
        axes.set_title(f"pass@k, level {level}" + ", log scale" * flat)
    panels[-1].set_xlabel("k (samples)")
    note = "Exact mean pass@k at T=1, log k. The dotted line: as many samples as the run drew."
    alt = f"Exact pass at k, up to k={whole(found.k[-1])}. {'; '.join(said)}."
    return Plot("pass-at-k", "pass@k", note, svg.inline(fig, "pass-at-k", alt))


def _measures(rows: Sequence[Compared]) -> Plot | None:
    """One panel a measure: base and trained with their intervals."""
    rows = rows[:10]
    if not rows:
        return None
    fig, panels = svg.figure(height=40 + 96 * len(rows), panels=len(rows), right=20, left=64)
    said = []
    for axes, row in zip(panels, rows, strict=True):
        for y, (who, m) in enumerate((("trained", row.trained), ("base", row.base))):
            if m.low is not None and m.high is not None:
                axes.plot([m.low, m.high], [y, y], color=svg.colour(who), linewidth=2)
            axes.plot([m.value], [y], color=svg.colour(who), marker="o", markersize=6)
        axes.set_yticks([0, 1], ["trained", "base"])
        axes.set_ylim(-0.6, 2.5)
        axes.margins(x=0.1)
        axes.locator_params(axis="x", nbins=5)
        name = visible(f"{row.role} {row.name}".strip(), 80)
        axes.annotate(name[:44], (0, 1), xycoords="axes fraction", xytext=(2, -2), textcoords="offset points", va="top")
        said.append(f"{name}: {row.base.value:.3g} to {row.trained.value:.3g}")
    note = "Dot: mean. Line: 95 % interval; none where a measure is computed exactly."
    return Plot("measures", "Base and trained", note, svg.inline(fig, "measures", f"{note} {'; '.join(said)}."))


def night_plot(nights: Sequence[Night]) -> Plot | None:
    """Each measure of the learning curve before and after every night."""
    keys = {key for night in nights for key in night.curve_before.keys() & night.curve_after.keys()}
    names = sorted(keys, key=lambda k: (not k.isdecimal(), int(k) if k.isdecimal() else 0, k))
    if not names:
        return None
    fig, (axes,) = svg.figure(height=max(260, 70 + 15 * len(names)), right=64)
    labels, said = [], []
    for i, name in enumerate(names):
        known = [n for n in nights if name in n.curve_before and name in n.curve_after]
        xs = [n.number + 1 + side for n in known for side in (-0.25, 0.25)]
        ys = [value for n in known for value in (n.curve_before[name], n.curve_after[name])]
        ink = svg.sequence(i, len(names))
        axes.plot(xs, ys, color=ink, linewidth=1.6, marker="o", markersize=3)
        labels.append((ys[-1], name[:9], ink))
        said.append(f"{name}: {ys[0]:.3g} to {ys[-1]:.3g}")
    for night in nights:
        axes.axvspan(night.number + 0.75, night.number + 1.25, color=svg.colour("muted"), alpha=0.15, linewidth=0)
    axes.set_xlim(nights[0].number + 0.5, nights[-1].number + 1.5)
    axes.set_xticks([n.number + 1 for n in nights][:: 1 + len(nights) // 12])
    svg.end_labels(axes, labels)
    axes.set(title="success by level", xlabel="night")
    note = "Shaded: a night, from the measure before to the measure after it. Between two: training by day."
    return Plot("nights", "Before and after each night", note, svg.inline(fig, "nights", f"{note} {'; '.join(said)}."))
