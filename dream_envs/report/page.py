"""``report.html``: one file that shows what a run did, what it shows and what it does not.

The page needs no script and loads nothing; everything that came from a model or a file is capped, made visible and
escaped.  The same run folder gives the same bytes.
"""

from __future__ import annotations

import os
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.report import read, samples, sections, words
from dream_envs.report.words import visible
from dream_envs.runs import read_json

_UNFINISHED = "The run is not finished: nothing has been measured yet, so nothing can be said about a gain."


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run's folder, finished or not; its path.

    Raises:
        DreamEnvsError: if the folder holds no run, a file of it is damaged, or jinja2 or matplotlib is not installed.
    """
    path = Path(run_dir) / "report.html"
    text = render(Path(run_dir))
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return path


def is_frontier(folder: Path) -> bool:
    """Whether this is the folder of a Frontier Report."""
    data = read_json(folder / "frontier.json")
    return isinstance(data, dict) and data.get("kind") == "frontier"


def render(run_dir: Path) -> str:
    """The page as text; the folder of a Frontier Report gets that report's page."""
    if is_frontier(run_dir):
        from dream_envs.report import frontier_page

        return frontier_page.render_frontier(frontier_page.fr.load(run_dir))
    template, markup = load_template("report.html")
    found = read.load(run_dir)
    run = found.summary.run if found.summary is not None else None
    named = (run.loop, run.env.rpartition("/")[2], run.learner, f"seed {run.seed}") if run is not None else ()
    made = [s._replace(plots=[p._replace(svg=markup(p.svg)) for p in s.plots]) for s in sections.sections(found)]
    shown = samples.pick(run_dir)
    used = {name for section in made for name in section.words}
    page: str = template.render(
        title=" ".join(visible(name, 60) for name in named if name),
        question="What is left of each lesson?" if found.lessons else "Did the loop go past what the base could do?",
        verdict=visible(found.summary.verdict, 600) if found.summary is not None else _UNFINISHED,
        tiles=list(sections.tiles(found)),
        sections=made,
        samples=shown,
        command=command(found.settings),
        glossary=[(word, told) for word, told in words.GLOSSARY.items() if word in used],
        cautions=sections.cautions(found.summary),
        frontier=(run_dir / "frontier" / "report.html").is_file(),
    )
    return page


def load_template(name: str) -> tuple[Any, Any]:
    """A page's jinja2 template, in which every text is made visible and escaped, and what marks an SVG of ours as safe.

    ``name``: a file beside this one; it may include others.

    Raises:
        DreamEnvsError: if jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
        import markupsafe
        import matplotlib  # noqa: F401  (the plots need it; told here in one line)
    except ImportError as error:
        raise DreamEnvsError(f"the report needs {error.name}: pip install 'dream-envs[train]'") from error
    loader = jinja2.FunctionLoader(lambda n: files("dream_envs.report").joinpath(n).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_finalize, loader=loader
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template(name), markupsafe.Markup


def _finalize(value: Any) -> Any:
    """Every plain text the template prints has been made visible, whatever path it came by."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else visible(value, 4000)


def command(run: dict[str, Any]) -> str:
    r"""Shell lines that run it again: the recorded command line, after the recorded commit; empty if neither is known.

    >>> command({"argv": ["dream-envs", "dream", "--out", "my run"], "commit": "0a1b2c3"})
    "git checkout 0a1b2c3\ndream-envs dream --out 'my run'"
    """
    argv = [a for a in read.items(run.get("argv")) if isinstance(a, str)]
    if not argv:
        return ""
    if argv[0] in ("__main__.py", "cli.py"):
        program = ["python", "-m", "dream_envs.cli"]
    else:
        program = ["python", argv[0]] if argv[0].endswith(".py") else argv[:1]
    found = shlex.join([*program, *argv[1:]])
    if isinstance(commit := run.get("commit"), str) and commit:
        found = f"git checkout {shlex.quote(commit)}\n{found}"
    return visible(found, 2000)
