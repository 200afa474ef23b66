"""Plots as small inline SVG that follows the page's light or dark colours; matplotlib is imported when one is drawn.

Figures are drawn with colours that stand for CSS variables; ``inline`` swaps them in, drops what a browser does not
need and makes the remaining ids unique in the page.  Text stays text: it can be selected and read aloud.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

#: Figure width in SVG units.  A phone shows it about 1:1, so that font sizes are close to CSS pixels there.
WIDTH = 360
FONT = 13

#: Of each role, which is a CSS variable, the colour that stands for it inside matplotlib.
_ROLES = ("ink", "muted", "rule", "base", "trained", "c1", "c2", "c3", "c4", *(f"s{i}" for i in range(10)))
_STANDS_FOR = {name: f"#0102{i + 16:02x}" for i, name in enumerate(_ROLES)}


def colour(role: str) -> str:
    """The stand-in for a CSS variable: ``colour("base")`` becomes ``var(--base)``."""
    return _STANDS_FOR[role]


def sequence(i: int, n: int) -> str:
    """The colour of item ``i`` of ``n`` ordered ones."""
    return colour(f"s{round(9 * i / max(n - 1, 1))}")


def style() -> Any:
    """A context with the settings that every plot is drawn and written under."""
    import matplotlib

    ink, muted = colour("ink"), colour("muted")
    settings: dict[Any, Any] = {
        "axes.titlelocation": "left", "axes.titlesize": FONT, "axes.grid": True, "axes.grid.axis": "y",
        "xtick.major.size": 3, "ytick.major.size": 3,
        "svg.fonttype": "none", "svg.hashsalt": "dream-envs", "font.family": ["DejaVu Sans"], "font.size": FONT,
        "text.parse_math": False,  # a name from a file may hold a dollar
        "text.color": ink, "axes.edgecolor": muted, "axes.labelcolor": ink, "xtick.color": muted, "ytick.color": muted,
        "xtick.labelcolor": ink, "ytick.labelcolor": ink, "grid.color": colour("rule"), "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.0, "path.simplify_threshold": 0.5,
    }  # fmt: skip
    return matplotlib.rc_context(settings)


def figure(height: int = 260, right: int = 92, left: int = 48, panels: int = 1) -> tuple[Any, list[Any]]:
    """A matplotlib Figure of ``WIDTH`` x ``height`` units, and its panels from top to bottom between both margins."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    fig.patch.set_visible(False)
    top, bottom, gap = 26, 42, 30
    each = (height - top - bottom - gap * (panels - 1)) / panels
    found = []
    for i in range(panels):
        y = bottom + (panels - 1 - i) * (each + gap)
        axes = fig.add_axes((left / WIDTH, y / height, (WIDTH - left - right) / WIDTH, each / height))
        axes.patch.set_visible(False)
        found.append(axes)
    return fig, found


def end_labels(axes: Any, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write each (y in data units, text, colour) beside the right edge, spread so that no two overlap."""
    height = axes.get_window_extent().height
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((float(to_axes.transform((1, y))[1]) * height, text, ink) for y, text, ink in labels)
    spots = spread([min(max(y, 0.0), height) for y, _, _ in placed], FONT + 2.0, height)
    for spot, (_, text, ink) in zip(spots, placed, strict=True):
        axes.annotate(
            text, (1, spot / height), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points",
            va="center", color=ink, annotation_clip=False,
        )  # fmt: skip


def spread(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Positions near the sorted ``wanted`` ones, at least ``gap`` apart, pushed up and then back below ``top``.

    >>> spread([0.0, 1.0, 50.0], 10.0, 100.0), spread([95.0, 96.0], 10.0, 100.0)
    ([0.0, 10.0, 50.0], [90.0, 100.0])
    """
    found = list(wanted)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + gap)
    ceiling = max(top, 0.0)
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], ceiling)
        ceiling = found[i] - gap
    return found


def powers(exponent: float) -> str:
    """``10`` to this power in plain characters, such as ``10⁻⁶``; ``1`` for 0."""
    digits = str(round(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return "1" if round(exponent) == 0 else f"10{digits}"


def short(x: float) -> str:
    """An axis number: ``150k``, ``1.5M``, ``20``."""
    if not math.isfinite(x):
        return ""
    size, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(x) >= s), (1.0, ""))
    return f"{x / size:g}{unit}"


def inline(fig: Any, name: str, alt: str) -> str:
    """The figure, drawn under ``style()``, as an SVG element with a name unique in the page and a text for readers."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    _, _, body = buffer.getvalue().partition("<svg ")
    head, _, body = body.partition(">")
    view = re.search(r'viewBox="([^"]*)"', head)
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\s+(?=<)", "", body, flags=re.DOTALL)
    kept = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in kept else "", body)
    body = re.sub(r"xlink:href=\"#", f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body).replace(' type="text/css"', "")
    for role, stand_in in _STANDS_FOR.items():
        body = body.replace(stand_in, f"var(--{role})")
    return f'<svg viewBox="{view[1] if view else ""}" role="img" aria-label="{html.escape(alt)}">{body}'
