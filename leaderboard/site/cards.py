"""Scorecards as pages: a radar and a table of all learners, and a page an ability with every run's curve."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dream_envs.leaderboard.abilities import ABILITIES, VERSION, Ability
from dream_envs.leaderboard.card import Scored
from dream_envs.leaderboard.site import draw, pages
from dream_envs.leaderboard.site.draw import Line
from dream_envs.report.words import label

#: Scores by learner and ability.
Table = Mapping[str, Mapping[str, Sequence[Scored]]]
#: (mean, low, high) over seeds; the ends are nan for one seed; None where no seed could be run.
Interval = tuple[float, float, float]


def table_of(found: Sequence[Scored]) -> dict[str, dict[str, list[Scored]]]:
    """The scores of the version that is drawn, by learner and ability."""
    made: dict[str, dict[str, list[Scored]]] = {}
    for s in found:
        if s.version == VERSION:
            made.setdefault(s.learner, {}).setdefault(s.ability, []).append(s)
    return made


def interval(scores: Sequence[Scored]) -> Interval | None:
    """Mean and Student's 95 % t-interval over seeds, within 0 and 1."""
    from scipy.stats import t

    values = [s.score for s in scores if s.score is not None]
    if not values:
        return None
    mean, n = math.fsum(values) / len(values), len(values)
    if n == 1:
        return mean, math.nan, math.nan
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def apart(table: Table, ability: str) -> list[tuple[str, str]]:
    """Pairs of learners whose intervals of this ability do not overlap, the better one first."""
    known = {name: found for name, its in table.items() if (found := interval(its.get(ability, ()))) is not None}
    return [
        (a, b)
        for a, (_, low, _) in known.items()
        for b, (_, _, high) in known.items()
        if a != b and low > high  # nan, of one seed, is never apart
    ]


def told(value: Interval | None) -> str:
    """``0.72 [0.60, 0.84]``; a dash where there is none."""
    if value is None:
        return "-"
    mean, low, high = value
    return f"{mean:.2f}" if math.isnan(low) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def markdown(table: Table) -> str:
    """The table for a terminal or a page of Markdown."""
    head = ["learner", *(a.name for a in ABILITIES)]
    rows = [
        [label(name, 60).replace("|", "/").replace("<", "("), *(told(interval(its.get(a.name, ()))) for a in ABILITIES)]
        for name, its in table.items()
    ]
    ruled = [head, ["---", *["---:"] * len(ABILITIES)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def radar(table: Table) -> str:
    """Every learner's means, an axis an ability."""
    wide, high, size = 560, 430, 140.0
    x0, y0, count = wide / 2, high / 2 - 16, len(ABILITIES)

    def at(i: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * i / count - math.pi / 2
        return x0 + size * value * math.cos(angle), y0 + size * value * math.sin(angle)

    def ring(values: Sequence[float]) -> str:
        return "M" + "L".join("{:.1f} {:.1f}".format(*at(i, v)) for i, v in enumerate(values)) + "Z"

    parts = [f'<path class="grid" d="{ring([r] * count)}"/>' for r in (0.25, 0.5, 0.75, 1.0)]
    for i, ability in enumerate(ABILITIES):
        x, y = at(i, 1.12)
        anchor = "middle" if abs(x - x0) < 20 else "start" if x > x0 else "end"
        text = html.escape(ability.name.replace("_", " "))
        parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{text}</text>')
    said = []
    for number, (name, its) in enumerate(table.items()):
        means = [found[0] if (found := interval(its.get(a.name, ()))) else 0.0 for a in ABILITIES]
        look = f"c{number % 4 + 1}" + (" dashed" if number >= 4 else "")
        parts.append(f'<path class="line {look}" d="{ring(means)}"/>')
        x = 20 + 110 * (number % 5)
        y = high - 22 + 16 * (number // 5)
        parts.append(
            f'<path class="line {look}" d="M{x} {y - 4}h18"/><text x="{x + 23}" y="{y}">{_name(name, 12)}</text>'
        )
        said.append(f"{name}: " + ", ".join(f"{a.name} {m:.2f}" for a, m in zip(ABILITIES, means, strict=True)))
    alt = html.escape(label("Scores by ability. " + "; ".join(said), 2000))
    return f'<svg class="chart" viewBox="0 0 {wide} {high}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'


def _name(name: str, most: int) -> str:
    return html.escape(label(name, most))


def curves(ability: Ability, its: Sequence[Scored]) -> str:
    """Every seed's curve of one learner."""
    most = max((point[0] for s in its for point in s.curve), default=1.0)
    lines = [Line(f"c{s.seed % 4 + 1}", [(x, y) for x, y in s.curve], (), f"seed {s.seed}") for s in its if s.curve]
    said = "; ".join(f"seed {s.seed}: {draw.first_and_last([(x, y) for x, y in s.curve])}" for s in its if s.curve)
    return draw.chart(lines, most, f"{ability.name} over samples. {said}.", goal=False, wide=330, high=190, right=62)


def write(found: Sequence[Scored], out: Path) -> dict[str, Any]:
    """Write ``index.html``, a page an ability, and what they load; what was written."""
    table = table_of(found)
    page = pages.environment()
    out.mkdir(parents=True, exist_ok=True)
    shared = {"table": table, "abilities": ABILITIES, "version": VERSION, "interval": interval, "told": told}
    separate = {a.name: apart(table, a.name) for a in ABILITIES}
    made = {
        "index.html": page.get_template("cards.html").render(radar=radar(table), apart=separate, **shared),
        "style.css": pages.style(),
        "icon.svg": pages.file("icon.svg"),
        "cards.md": markdown(table) + "\n",
    }
    for ability in ABILITIES:
        drawn = [(name, its[ability.name], curves(ability, its[ability.name])) for name, its in table.items()
                 if ability.name in its]  # fmt: skip
        made[f"ability-{ability.name}.html"] = page.get_template("ability.html").render(
            ability=ability, drawn=drawn, apart=separate[ability.name], **shared
        )
    for name, text in made.items():
        (out / name).write_text(text, "utf-8")
    return {"out": str(out / "index.html"), "learners": list(table), "version": VERSION, "apart": separate}
