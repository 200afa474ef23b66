"""Drawings as inline SVG, with classes and without styles of their own, which the page's policy would forbid."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from dream_envs.leaderboard.goal import GOAL
from dream_envs.leaderboard.scores import Gain, Standing
from dream_envs.report.svg import short, spread
from dream_envs.report.words import decimal, label, probability, whole

#: x of a whisker's axis: its ends, and where misses stand.
_FROM, _TO, _MISS, _WIDE, _HIGH = 8.0, 168.0, 186.0, 196, 36
Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """A line of a chart.  ``look``: a class of the style sheet; ``band``: (x, low, high); ``name``: at its end."""

    look: str
    points: Points
    band: Sequence[tuple[float, float, float]] = ()
    name: str = ""


def count(value: float) -> str:
    """Samples: a whole number, or infinity for a miss."""
    return whole(value) if math.isfinite(value) else "∞"


def told(standing: Standing) -> str:
    """A whisker in words."""
    each = ", ".join(f"world {r.world} {count(r.score)}" for r in standing.results)
    return f"median {count(standing.median)}, {count(standing.low)} to {count(standing.high)}: {each}"


def whisker(standing: Standing, most: float) -> str:
    """Every world's samples to the goal on one axis from 0 to ``most``; misses stand behind it."""

    def at(value: float) -> float:
        return _FROM + (_TO - _FROM) * min(max(value / most, 0), 1) if math.isfinite(value) else _MISS

    low, high, middle = at(standing.low), at(standing.high), _HIGH / 2
    parts = [f'<path class="axis" d="M{_n(_TO + 8)} 2V{_HIGH - 2}"/>']
    if math.isfinite(standing.low):
        end = min(high, _TO)
        parts.append(f'<path class="range" d="M{_n(low)} {_n(middle)}H{_n(end)}"/>')
        if not math.isfinite(standing.high):
            parts.append(f'<path class="range dashed" d="M{_n(end)} {_n(middle)}H{_n(_MISS)}"/>')
    parts.append(f'<path class="median" d="M{_n(at(standing.median))} 3V{_HIGH - 3}"/>')
    number = len(standing.results)
    for i, r in enumerate(standing.results):
        x, y = at(r.score), 6 + (_HIGH - 12) * (i + 0.5) / number
        if math.isfinite(r.score):
            parts.append(f'<circle class="world" cx="{_n(x)}" cy="{_n(y)}" r="2.6"/>')
        else:
            d = f"M{_n(x - 2.4)} {_n(y - 2.4)}l4.8 4.8m0 -4.8l-4.8 4.8"
            parts.append(f'<path class="miss" d="{d}"/>')
    return _svg("whisker", _WIDE, _HIGH, told(standing).capitalize(), "".join(parts))


def ruler(most: float) -> str:
    """The axis of the whiskers, for the column's head."""
    parts = [f'<path class="axis" d="M{_n(_FROM)} 16H{_n(_TO)}M{_n(_TO + 8)} 2V20"/>']
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = _FROM + share * (_TO - _FROM)
        parts.append(f'<path class="axis" d="M{_n(x)} 13V19"/>' + _text(x, 11, short(share * most), anchor))
    parts.append(_text(_MISS, 13, "∞", "middle"))
    return _svg("whisker", _WIDE, 20, f"Axis: 0 to {whole(most)} samples, then misses", "".join(parts))


def chart(
    lines: Sequence[Line],
    most: float,
    alt: str,
    *,
    goal: bool = True,
    wide: int = 360,
    high: int = 220,
    right: int = 12,
) -> str:
    """Success from 0 to 1 over samples from 0 to ``most``; ``right``: room for names at the ends of lines."""
    left, top, bottom = 34, 10, 34
    across, down = wide - left - right, high - top - bottom

    def at(x: float, y: float) -> str:
        return f"{_n(left + across * min(max(x / most, 0), 1))} {_n(top + down * (1 - min(max(y, 0), 1)))}"

    parts = []
    for y in (0.0, 0.5, 1.0):
        parts.append(f'<path class="grid" d="M{at(0, y)}L{at(most, y)}"/>')
        parts.append(_text(left - 5, top + down * (1 - y) + 4, f"{y:g}", "end"))
    if goal:
        parts.append(f'<path class="goal" d="M{at(0, GOAL)}L{at(most, GOAL)}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(_text(left + share * across, high - 18, short(share * most), anchor))
    parts.append(_text(left + across / 2, high - 3, "samples", "middle"))
    for line in lines:
        if line.band:
            edge = [at(x, upper) for x, _, upper in line.band] + [at(x, lower) for x, lower, _ in reversed(line.band)]
            parts.append(f'<path class="band {line.look}" d="M{"L".join(edge)}Z"/>')
    for line in lines:
        if len(line.points) > 1:
            parts.append(f'<path class="line {line.look}" d="M{"L".join(at(x, y) for x, y in line.points)}"/>')
        elif line.points:
            cx, cy = at(*line.points[0]).split()
            parts.append(f'<circle class="dot {line.look}" cx="{cx}" cy="{cy}" r="3"/>')
    parts += _ends(
        [(top + down * (1 - min(max(n.points[-1][1], 0), 1)), n) for n in lines if n.points], wide - right, high
    )
    return _svg("chart", wide, high, alt, "".join(parts))


def _ends(ends: Sequence[tuple[float, Line]], x: float, high: float) -> list[str]:
    """The names of lines beside their ends, spread so that no two overlap."""
    placed = sorted(((y, line) for y, line in ends if line.name), key=lambda end: (end[0], end[1].name))
    spots = spread([y for y, _ in placed], 14.0, high - 24)
    return [
        f'<text class="{line.look}" x="{_n(x + 4)}" y="{_n(spot + 4)}">{html.escape(label(line.name, 18))}</text>'
        for spot, (_, line) in zip(spots, placed, strict=True)
    ]


def gains(found: Sequence[tuple[str, float, Gain]], most: float) -> str:
    """(entry, median samples, gain): gain in points with its interval over samples; misses stand behind the axis."""
    wide, high, left, top, bottom = 720, 320, 44, 12, 36
    end, miss = wide - 190.0, wide - 168.0
    low, above = min(0.0, *(g.low for *_, g in found)), max(0.0, *(g.high for *_, g in found))
    across, down, span = end - left, high - top - bottom, max(above - low, 1e-9)

    def y_of(value: float) -> float:
        return top + down * (1 - min(max((value - low) / span, 0), 1))

    parts = [f'<path class="axis" d="M{_n(end + 8)} {top}V{top + down}"/>']
    for value in sorted({low, 0.0, above}):
        parts.append(f'<path class="grid" d="M{left} {_n(y_of(value))}H{_n(end)}"/>')
        parts.append(_text(left - 5, y_of(value) + 4, decimal(value), "end"))
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(_text(left + share * across, high - 18, short(share * most), anchor))
    parts += [
        _text(miss, high - 18, "∞", "middle"),
        _text(left + across / 2, high - 3, "samples to the goal", "middle"),
    ]
    placed = sorted(found, key=lambda f: (-f[2].value, f[0]))
    spots = spread([y_of(g.value) for *_, g in placed], 15.0, high - 24)
    for spot, (name, samples, g) in zip(spots, placed, strict=True):
        x = left + across * min(max(samples / most, 0), 1) if math.isfinite(samples) else miss
        parts.append(f'<path class="range" d="M{_n(x)} {_n(y_of(g.low))}V{_n(y_of(g.high))}"/>')
        parts.append(f'<circle class="world" cx="{_n(x)}" cy="{_n(y_of(g.value))}" r="3.5"/>')
        parts.append(f'<path class="grid" d="M{_n(x + 5)} {_n(y_of(g.value))}L{_n(miss + 14)} {_n(spot)}"/>')
        parts.append(_text(miss + 17, spot + 4, label(name, 20), "start"))
    each = "; ".join(
        f"{name}: {count(x)} samples, gain {decimal(g.value)} [{decimal(g.low)}, {decimal(g.high)}]"
        for name, x, g in placed
    )
    return _svg("chart", wide, high, f"Samples to the goal against the gain. {each}.", "".join(parts))


def first_and_last(points: Points) -> str:
    """``0.001 to 0.623``, for the text of a chart."""
    return f"{probability(points[0][1])} to {probability(points[-1][1])}" if points else "not measured"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(kind: str, wide: int, high: int, alt: str, body: str) -> str:
    size = f' width="{wide}" height="{high}"' if kind == "whisker" else ""
    view = f'viewBox="0 0 {wide} {high}"{size}'
    return f'<svg class="{kind}" {view} role="img" aria-label="{html.escape(label(alt, 2000))}">{body}</svg>'
