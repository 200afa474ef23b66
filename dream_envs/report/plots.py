"""The plots of a run report: each gives an alt text and an SVG, or nothing where there is no data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dream_envs.report import figures, svg
from dream_envs.report.read import Metrics, items, walk
from dream_envs.report.words import number, probability, whole

#: log10 P below this is drawn on the edge.
_FLOOR = -30.0
_POINTS = 160
_LIMIT = 1e15
_STARS = "Dashed, *: problems with held-out pairs. "
_SPLITS = (("any", "", "o", "-"), ("held_out", "*", "s", (0, (4, 2))))


class Plot(NamedTuple):
    """One plot: its heading, a sentence on how to read it, and the SVG (already escaped)."""

    name: str
    title: str
    note: str
    svg: str


def frontier_plots(frontier: dict[str, Any]) -> list[Plot]:
    """What the evaluation measured: success by depth, the envelope, pass@k."""
    return _made([_by_depth_log, _by_depth_linear, _envelope, _pass_at_k], frontier)


def metric_plots(metrics: Metrics) -> list[Plot]:
    """What was logged while it learnt."""
    made: list[Callable[[Metrics], Plot | None]] = [_learning]
    return [
        *_made(made, metrics),
        *[p for spec in _CURVES if (p := _curves(metrics, *spec)) is not None],
    ]


def _made(makers: Sequence[Callable[[Any], Plot | None]], data: Any) -> list[Plot]:
    found = []
    for make in makers:
        with svg.style():
            plot = make(data)
        if plot is not None:
            found.append(plot)
    return found


def _log10(p: float | None) -> float:
    return math.nan if p is None else max(math.log10(p), _FLOOR) if p > 0 else _FLOOR


def _line(frontier: dict[str, Any], who: str, decoder: str, split: str) -> tuple[list[float], list[float]]:
    """Depths and mean P."""
    pairs = [
        (float(e["depth"]), p)
        for e in figures.rows(frontier)
        if figures.held_out(e) == (split == "held_out") and (p := figures.stat(e, who, decoder, "mean")) is not None
    ]
    return [d for d, _ in pairs], [p for _, p in pairs]


def _told(frontier: dict[str, Any]) -> str:
    """The T=1 numbers of every depth, for those who cannot see the plot."""
    told = [
        f"depth {figures.label(e, ' with held-out pairs')}: {figures.change(e, arrow=' to ')}"
        for e in figures.rows(frontier)
    ]
    return "Mean exact success at T=1, base to trained, by depth. " + "; ".join(told) + "."


def _depth_axis(axes: Any, depths: Sequence[float]) -> None:
    axes.set_xlabel("depth (operations)")
    axes.set_xlim(min(depths) - 0.3, max(depths) + 0.3)
    axes.set_xticks(sorted({round(d) for d in depths}))


def _log_axis(axes: Any, values: Sequence[float]) -> None:
    """Values are log10 already: an axis that holds them, labelled in powers of ten."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low = min([v for v in values if not math.isnan(v)], default=-1.0)
    axes.set_ylim(min(math.floor(low), -1) - 0.5, 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: svg.powers(x)))


def _budget_line(axes: Any, frontier: dict[str, Any], x: float) -> None:
    if (budget := figures.budget(frontier)) and -math.log10(budget) > axes.get_ylim()[0]:
        y = -math.log10(budget)
        axes.axhline(y, color=svg.colour("muted"), linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            "1 / budget", (x, y), xytext=(0, -3), textcoords="offset points", va="top", color=svg.colour("ink")
        )


def _by_depth_log(frontier: dict[str, Any]) -> Plot | None:
    lines = _depth_lines(frontier)
    if not lines:
        return None
    fig, (axes,) = svg.figure(height=280, right=76)
    everything: list[float] = []
    for line in lines:
        ys = [_log10(p) for p in line.means]
        everything += ys
        axes.plot(line.depths, ys, color=line.ink, marker=line.marker, markersize=4.5, linestyle=line.dash)
    chance = [
        (float(e["depth"]), _log10(c)) for e in figures.rows(frontier) if (c := number(e.get("chance"))) is not None
    ]
    chance = sorted(dict(chance).items())
    axes.plot([d for d, _ in chance], [c for _, c in chance], color=svg.colour("muted"), linewidth=1.2, linestyle=":")
    everything += [c for _, c in chance]
    _depth_axis(axes, [d for line in lines for d in line.depths])
    _log_axis(axes, everything)
    _budget_line(axes, frontier, axes.get_xlim()[0] + 0.1)
    labels = [(_log10(line.means[-1]), line.text, line.ink) for line in lines]
    if chance:
        labels.append((chance[-1][1], "chance", svg.colour("ink")))
    svg.end_labels(axes, labels)
    axes.set_title("mean P at T=1, log scale", loc="left", fontsize=svg.FONT)
    stars = _STARS if len(lines) > 2 else ""
    note = f"Dotted: a guesser who knows the format. {stars}Below 1e{_FLOOR:g}: drawn on the edge."
    return Plot("depth-log", "Exact success by depth, logarithmic", note, svg.inline(fig, "depth-log", _told(frontier)))


class _Line(NamedTuple):
    depths: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]
    text: str
    ink: str
    marker: str
    dash: Any


def _depth_lines(frontier: dict[str, Any]) -> list[_Line]:
    found = []
    for split, suffix, marker, dash in _SPLITS:
        for who in figures.WHO:
            depths, means = _line(frontier, who, "T=1", split)
            if not depths:
                continue
            bands = [items(walk(figures.at(frontier, d, split), who, "T=1", "ci")) for d in map(int, depths)]
            ends = [[number(x) for x in b] if len(b) == 2 else [None, None] for b in bands]
            lows = [math.nan if low is None else low for low, _ in ends]
            highs = [math.nan if high is None else high for _, high in ends]
            found.append(_Line(depths, means, lows, highs, who + suffix, svg.colour(who), marker, dash))
    return found


def _by_depth_linear(frontier: dict[str, Any]) -> Plot | None:
    lines = _depth_lines(frontier)
    if not lines:
        return None
    fig, (axes,) = svg.figure(height=280, right=76)
    for line in lines:
        axes.fill_between(line.depths, line.lows, line.highs, color=line.ink, alpha=0.18, linewidth=0)
        axes.plot(line.depths, line.means, color=line.ink, marker=line.marker, markersize=4.5, linestyle=line.dash)
    _depth_axis(axes, [d for line in lines for d in line.depths])
    axes.set_ylim(-0.03, 1.03)
    svg.end_labels(axes, [(line.means[-1], line.text, line.ink) for line in lines])
    axes.set_title("mean P at T=1", loc="left", fontsize=svg.FONT)
    note = f"The same on a linear scale, with 95 % intervals over problems. {_STARS if len(lines) > 2 else ''}"
    alt = _told(frontier)
    return Plot("depth-linear", "Exact success by depth, linear", note, svg.inline(fig, "depth-linear", alt))


def _envelope(frontier: dict[str, Any]) -> Plot | None:
    fig, (axes,) = svg.figure(height=300, right=106)
    dashes: dict[str, Any] = {"T=1": "-", "best_T": (0, (6, 2)), "forced": (0, (3, 2)), "given": (0, (1, 1.5))}
    labels: list[Any] = []
    everything: list[float] = []
    xs: list[float] = []
    told: list[str] = []
    for who, decoders in (("base", figures.DECODERS), ("trained", ("T=1",))):
        for decoder in decoders:
            depths, means = _line(frontier, who, decoder, "any")
            if not depths:
                continue
            ys = [_log10(p) for p in means]
            ink = svg.colour(who)
            axes.plot(depths, ys, color=ink, linestyle=dashes[decoder], linewidth=2.8 if who == "trained" else 1.8)
            labels.append((ys[-1], f"{who} {decoder}", ink))
            everything, xs = everything + ys, xs + depths
            told.append(f"{who} under {decoder}, depth {depths[-1]:g}: {probability(means[-1])}")
    if not labels:
        return None
    _depth_axis(axes, xs)
    _log_axis(axes, everything)
    _budget_line(axes, frontier, axes.get_xlim()[0] + 0.1)
    svg.end_labels(axes, labels)
    axes.set_title("mean P, log scale", loc="left", fontsize=svg.FONT)
    note = (
        "The base under every decoder of the envelope against the trained model under plain sampling. "
        "A claim has to clear the best of T=1, best_T and forced; 'given' shows what the base knows one step at a time."
    )
    alt = "Mean exact success by depth under each decoder. " + "; ".join(told) + "."
    return Plot("envelope", "The base's envelope", note, svg.inline(fig, "envelope", alt))


def _pass_at_k(frontier: dict[str, Any]) -> Plot | None:
    ks = [k for v in items(walk(frontier, "pass_at_k", "k")) if (k := number(v)) and k > 0]
    curves = walk(frontier, "pass_at_k", "depths")
    depths = sorted((d for d in curves if d.isascii() and d.isdigit()), key=int) if isinstance(curves, dict) else []
    if not ks or not depths:
        return None
    fig, panels = svg.figure(height=60 + 130 * len(depths), panels=len(depths), right=70)
    xs, told = [math.log10(k) for k in ks], []
    for axes, depth in zip(panels, depths, strict=True):
        labels = []
        for who in figures.WHO:
            read = [number(v) for v in items(walk(curves, depth, who))]
            ys = [math.nan if v is None else v for v in read][: len(xs)]
            if len(ys) != len(xs):
                continue
            axes.plot(xs, ys, color=svg.colour(who), linestyle="-" if who == "trained" else (0, (5, 2)))
            if not math.isnan(ys[-1]):
                labels.append((ys[-1], who, svg.colour(who)))
            told.append(
                f"depth {depth}, {who}: {probability(read[0])} at k=1, {probability(read[-1])} at k={whole(ks[-1])}"
            )
        _k_axis(axes, xs, figures.budget(frontier), last=axes is panels[-1])
        svg.end_labels(axes, labels)
        axes.set_title(f"pass@k, depth {depth}", loc="left", fontsize=svg.FONT)
    note = "Exact mean pass@k at T=1, log k. The dotted line is the run's own budget of samples."
    alt = "Exact pass at k. " + "; ".join(told) + "."
    return Plot("pass-at-k", "pass@k", note, svg.inline(fig, "pass-at-k", alt))


def _k_axis(axes: Any, xs: Sequence[float], budget: float | None, *, last: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(min(xs), max(max(xs), min(xs) + 1))
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: svg.powers(x)))
    if budget and min(xs) < math.log10(budget) < max(xs):
        axes.axvline(math.log10(budget), color=svg.colour("muted"), linewidth=1, linestyle=(0, (2, 2)))
    axes.tick_params(labelbottom=last)
    if last:
        axes.set_xlabel("k (samples)")


def _sample_axis(axes: Any, samples: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(min(samples, default=0), max(max(samples, default=1), min(samples, default=0) + 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: svg.short(x)))
    axes.set_xlabel("samples drawn")


def _learning(metrics: Metrics) -> Plot | None:
    lines = {d: _thinned([x for x, _ in pairs], [y for _, y in pairs]) for d, pairs in metrics.exact.items()}
    depths = sorted(d for d, (xs, _) in lines.items() if len(xs) > 1)
    if not depths:
        return None
    fig, (axes,) = svg.figure(height=320, right=44)
    labels, told = [], []
    for i, depth in enumerate(depths):
        xs, ys = lines[depth]
        ink = svg.sequence(i, len(depths))
        axes.plot(xs, ys, color=ink, linewidth=1.8)
        labels.append((ys[-1], f"d{depth}", ink))
        told.append(f"depth {depth}: {probability(ys[0])} to {probability(ys[-1])}")
    axes.set_ylim(-0.03, 1.03)
    _sample_axis(axes, [x for d in depths for x in lines[d][0]])
    svg.end_labels(axes, labels)
    axes.set_title("mean P at T=1", loc="left", fontsize=svg.FONT)
    note = "One line a depth (d1, d2, ...). A line that falls is forgetting."
    alt = "Mean exact success while learning, first to last. " + "; ".join(told) + "."
    return Plot("learning", "Exact success while learning", note, svg.inline(fig, "learning", alt))


_SHARE = (-0.03, 1.03)
#: name, title, note, y title, y range (None: automatic), (column, label) of each line.
_CURVES: tuple[tuple[str, str, str, str, tuple[float, float] | None, tuple[tuple[str, str], ...]], ...] = (
    (
        "depth-own", "Depth of the proposals", "Mean depth of the challenger's own accepted problems.",
        "operations", None, (("depth", "depth"),),
    ),
    (
        "proposals", "Proposals", "Shares of the challenger's own proposals: accepted, distinct, already known.",
        "share", _SHARE, (("valid", "valid"), ("unique", "unique"), ("duplicates", "duplicates")),
    ),
    (
        "band",
        "Band and solve rate",
        "Share of problems that some but not all attempts solved, and the mean solve rate.",
        "share", _SHARE, (("band", "in band"), ("solved", "solved")),
    ),
    (
        "drift", "Drift against the frozen base",
        "How improbable the frozen base finds success on the proposals: rising means harder on a fixed yardstick.",
        "mean -log10 P of the base", None, (("drift", "drift"),),
    ),
    (
        "labels", "Label accuracy", "Share of rewards that agree with the executed truth; below 0.9 an alarm rings.",
        "share", _SHARE, (("label_accuracy", "accuracy"),),
    ),
    (
        "entropy", "Format and answer entropy",
        "Entropy of the shape of the replies, and of the replies to one problem. Zero means that one is left.",
        "bits", None, (("format_entropy", "format"), ("answer_entropy", "answer")),
    ),
    (
        "variety", "Variety on fixed problems",
        "Entropy on problems that never change, at log-spaced steps: of the formats of all replies, of the replies to "
        "one problem, and of the wrong ones among them. The second falls as answers become right, the others need not.",
        "bits", None,
        tuple((f"probe_{k}", t) for k, t in (("format_entropy", "format"), ("answer_entropy", "answer"),
                                             ("answer_entropy_wrong", "wrong"))),
    ),
)  # fmt: skip


def _curves(
    metrics: Metrics, name: str, title: str, note: str, unit: str,
    limits: tuple[float, float] | None, columns: tuple[tuple[str, str], ...],
) -> Plot | None:  # fmt: skip
    there = [
        (i, text, line)
        for i, (key, text) in enumerate(columns)
        if (line := _thinned(metrics.samples, metrics.columns.get(key, [math.nan] * len(metrics.samples))))[0]
    ]
    if not there or len(metrics.samples) < 2:
        return None
    with svg.style():
        fig, (axes,) = svg.figure(height=230)
        labels, told = [], []
        for i, text, (xs, ys) in there:
            ink = svg.colour(f"c{i + 1}")
            axes.plot(xs, ys, color=ink, linestyle=("-", (0, (5, 2)), (0, (2, 1.5)))[i])
            labels.append((ys[-1], text, ink))
            told.append(f"{text}: {ys[0]:.2f} to {ys[-1]:.2f}")
        axes.set_ylim(*limits) if limits else axes.margins(y=0.12)
        if limits is None and axes.get_ylim()[0] < 0:
            axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
        _sample_axis(axes, [x for _, _, (xs, _) in there for x in xs])
        svg.end_labels(axes, labels)
        axes.set_title(unit, loc="left", fontsize=svg.FONT)
        return Plot(name, title, note, svg.inline(fig, name, f"{note} First to last, {'; '.join(told)}."))


def _thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most ``_POINTS`` points, each the mean of as many neighbours as that takes; missing values are left out.

    So are values too large to be drawn: they would be nothing but a broken log.
    """
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if abs(x) < _LIMIT and abs(y) < _LIMIT]  # nan is not less
    size = max(1, math.ceil(len(pairs) / _POINTS))
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [sum(x for x, _ in g) / len(g) for g in groups], [sum(y for _, y in g) / len(g) for g in groups]
