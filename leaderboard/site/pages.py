"""The pages: what stands on each, handed to its template."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import entry as entries
from dream_envs.leaderboard import scores
from dream_envs.leaderboard.budget import CLASSES
from dream_envs.leaderboard.entry import NAME
from dream_envs.leaderboard.environments import EPISODES
from dream_envs.leaderboard.goal import GOAL, KEPT, LEVELS, PROBLEMS
from dream_envs.leaderboard.scores import Result, Standing
from dream_envs.leaderboard.site import data, draw
from dream_envs.leaderboard.site.data import Board, Group, Row
from dream_envs.leaderboard.site.draw import Line, count
from dream_envs.report import tree, words
from dream_envs.report.words import label, visible
from dream_envs.tasks.composition import Composition

RULES = Path("docs") / "leaderboard.md"
#: Entries that the first drawing of a class compares.
COMPARED = 4


def render(board: Board, root: Path) -> dict[str, str]:
    """All pages and what they load, by name."""
    made_by = environment()
    import markdown_it

    made_by.globals |= {
        "words": words, "draw": draw, "count": count, "mean": data.mean, "misses": data.misses, "band": rank_band,
        "known": (known := set(_paged(board))), "board": board, "LEVELS": LEVELS, "GOAL": GOAL, "KEPT": KEPT,
        "PROBLEMS": PROBLEMS, "CLASSES": CLASSES, "LEVEL": scores.LEVEL, "RECORD": scores.RECORD,
        "MARGIN": scores.MARGIN, "compared": COMPARED, "EPISODES": EPISODES,
    }  # fmt: skip

    def page(template: str, **values: Any) -> str:
        text: str = made_by.get_template(template).render(**values)
        return text

    run = {r.entry for group in board.groups for r in group.lines}
    chance = float(len(Composition().states)) ** -LEVELS[-1]
    made = {
        "index.html": page("index.html", chance=chance, idle=[n for n in board.entries if n not in run]),
        "rules.html": page("rules.html", rules=rules(root, markdown_it.MarkdownIt)),
        "rounds.html": page("rounds.html", holds=data.commitment_holds),
        **({"environments.html": page("environments.html")} if board.environments else {}),
        "style.css": style(),
        "icon.svg": file("icon.svg"),
    }
    for group in board.groups:
        made[f"curves-{group.key}.html"] = page("curves.html", group=group, **curves(group))
    for name in sorted(known):
        made[f"entry-{name}.html"] = page("entry.html", name=name, **entry_page(name, board))
    return made


def environment() -> Any:
    """What renders the templates: escaped, every text made visible.

    Raises:
        DreamEnvsError: where a package is missing.
    """
    try:
        import jinja2
        import markdown_it  # noqa: F401  (the rules want it: told once, before anything is made)
        from markupsafe import Markup, escape
    except ImportError as error:
        raise DreamEnvsError(f"the site needs {error.name}: pip install 'dream-envs[train]'") from error
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("dream_envs.leaderboard.site", "templates"), undefined=jinja2.StrictUndefined,
        autoescape=True, finalize=_finalize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # svg: drawings and HTML of ours, escaped where they are made; source: a file's text, which is longer than others
    made.filters |= {"label": label, "svg": Markup, "source": escape}
    return made


def _paged(board: Board) -> list[str]:
    """Names with a page: of entries, and of lines whose entry is gone."""
    names = {*board.entries, *board.broken, *(r.entry for group in board.groups for r in group.lines)}
    return sorted(name for name in names if NAME.fullmatch(name))


def _finalize(value: Any) -> Any:
    """Every plain text that a template prints has been made visible, whatever path it came by."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else visible(value, 4000)


def file(name: str) -> str:
    """A file beside the templates."""
    return (resources.files("dream_envs.leaderboard.site") / "templates" / name).read_text("utf-8")


def style() -> str:
    """The reports' style sheet and what the site has beside it."""
    shared = (resources.files("dream_envs.report") / "style.html").read_text("utf-8")
    return shared.partition("<style>")[2].partition("</style>")[0] + file("site.css")


def rank_band(standing: Standing) -> str:
    """``3`` or ``1–3``."""
    first, last = standing.rank
    return f"{first}" if first == last else f"{first}–{last}"


def rules(root: Path, markdown: Any) -> str:
    """The rules as HTML, from the one file that holds them; "" where the board lies in no clone."""
    file = root.absolute().parent / RULES
    if not file.is_file():
        return ""
    made: str = markdown("commonmark", {"html": False}).enable("table").render(file.read_text("utf-8"))
    table = '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table class="text">'
    return made.replace("<table>", table).replace("</table>", "</table></div>")


def curves(group: Group) -> dict[str, Any]:
    """The drawings of a class."""
    most, deepest = group.budget.samples, LEVELS[-1]
    grid = [most * i / group.budget.points for i in range(group.budget.points + 1)]
    bands = {row.standing.entry: data.band(row.standing.results, deepest, grid) for row in group.ranked}
    middle = {name: [(x, m) for x, m, _, _ in its] for name, its in bands.items()}
    edges = {name: [(x, low, high) for x, _, low, high in its] for name, its in bands.items()}
    first = list(middle)[:COMPARED]
    lines = [Line(f"c{i + 1}", middle[name], edges[name], name) for i, name in enumerate(first)]
    said = "; ".join(f"{name}: {draw.first_and_last(middle[name])}" for name in first)
    overview = draw.chart(
        lines, most, f"Success at depth {deepest} over samples. {said}.", wide=720, high=320, right=150
    )
    panels = []
    for i, (name, its) in enumerate(middle.items()):
        leader = [Line("ghost", middle[first[0]])] if i else []
        told = f"{name}, success at depth {deepest} over samples: {draw.first_and_last(its)}"
        drawn = draw.chart([*leader, Line("c1", its, edges[name])], most, told, wide=300, high=170)
        panels.append((name, drawn))
    found = [(r.standing.entry, r.standing.median, g) for r in group.ranked if (g := r.standing.gain) is not None]
    return {
        "overview": overview,
        "panels": panels,
        "leader": first[0] if first else "",
        "gains": draw.gains(found, most) if found else "",
    }


def entry_page(name: str, board: Board) -> dict[str, Any]:
    """What an entry's page shows."""
    read = board.entries.get(name)
    parent = board.entries.get(read.about.parent) if read else None
    texts = {file: content.decode() for file, content in read.files.items()} if read else {}
    tables = []
    for group in board.groups:
        rows = [row for row in group.rows if row.standing.entry == name]
        lines = [r for r in group.lines if r.entry == name]
        if lines:
            tables.append(
                (group, rows[0], [_world(r, group) for r in rows[0].standing.results], _lines(rows[0], lines))
            )
    return {
        "read": read, "texts": [(f, visible(texts[f], len(texts[f]))) for f in entries.FILES if f in texts],
        "diff": difference(parent.files, read.files) if read and parent else "", "tables": tables,
        "why": board.broken.get(name, ""), "last": f"depth {LEVELS[-1]}",
        "against": [o for o in board.objections if o.entry == name],
    }  # fmt: skip


def difference(old: Any, new: Any) -> str:
    """The unified difference of two entries' files, coloured, as HTML."""
    found = list[str]()
    for file in (entries.FILE, entries.CODE):
        a, b = (side.get(file, b"").decode().splitlines() for side in (old, new))
        found += difflib.unified_diff(a, b, f"parent/{file}", f"entry/{file}", lineterm="")
    return tree.to_html(tree.diff(visible("\n".join(found), 200_000))) if found else ""


def _world(result: Result, group: Group) -> tuple[Result, str]:
    """A run and the drawing of its curves."""
    if not data.usable(result):
        return result, ""
    by_level = {level: list(zip(*data.curve_of(result, level), strict=True)) for level in LEVELS}
    lines = [Line(f"q{i}", points, (), f"depth {level}") for i, (level, points) in enumerate(by_level.items())]
    said = "; ".join(f"depth {level}: {draw.first_and_last(points)}" for level, points in by_level.items())
    alt = f"World {result.world}, success over samples. {said}."
    return result, draw.chart(lines, group.budget.samples, alt, wide=330, high=190, right=62)


def _lines(row: Row, lines: Sequence[Result]) -> list[tuple[Result, str]]:
    """Every line of an entry, and what it is beside the first one of its world and files."""
    counted = {(r.entry_hash, r.world): r for r in row.standing.results}
    told = []
    for r in lines:
        first = counted.get((r.entry_hash, r.world))
        if first is None:
            told.append((r, "other files"))
        elif r is first or r.status != "ok" or first.status != "ok":
            told.append((r, "counts" if r is first else "does not count"))
        else:
            told.append((r, "same hash" if r.hash == first.hash else "differs"))
    return told
