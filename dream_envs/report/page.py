"""``report.html``: one file that shows what a run, or a Frontier Report, measured, and what it does not show.

The page needs no script and loads nothing; everything that came from a model or a file is capped, made visible and
escaped.  The same folder gives the same bytes.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.frontier.schema import Report, read_report
from dream_envs.report import frontier_tables as ft
from dream_envs.report import read, samples, sections, words
from dream_envs.report.words import label, visible, whole


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run, finished or not, or of a Frontier Report, to ``out`` or FOLDER/report.html; its path.

    Raises:
        DreamEnvsError: if the folder holds no run, a file of it is damaged, or jinja2 or matplotlib is not installed.
    """
    return write_page(out or Path(folder) / "report.html", render(Path(folder)))


def write_page(path: Path, text: str) -> Path:
    """Write a page in one piece: nobody reads half of it, and nothing is left where there was no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def render(run_dir: Path) -> str:
    """The page as text; the folder of a Frontier Report gets that report's page."""
    if read.is_frontier(run_dir):
        return render_frontier(read_report(run_dir))
    template, markup = _template("report.html")
    run = read.load(run_dir)
    about = run.summary.run if run.summary is not None else None
    named = (about.loop, about.env.rpartition("/")[2], about.learner, f"seed {about.seed}") if about is not None else ()
    made = [s._replace(plots=[p._replace(svg=markup(p.svg)) for p in s.plots if p]) for s in sections.sections(run)]
    page: str = template.render(
        title=" ".join(visible(name, 60) for name in named if name), run=run, visible=visible, sections=made,
        tiles=list(sections.tiles(run)), words={name for section in made for name in section.words},
        samples=samples.pick(run_dir), command=command(run.settings),
        frontier=(run_dir / "frontier" / "report.html").is_file(),
    )  # fmt: skip
    return page


def render_frontier(data: Report) -> str:
    """The page of a Frontier Report as text."""
    from dream_envs.report.frontier_plots import MAX_POINTS, all_plots

    template, markup = _template("frontier.html")
    page: str = template.render(
        data=data, tables=ft, words=words, max_points=MAX_POINTS, command=frontier_command(data),
        plots={name: markup(drawing) for name, drawing in all_plots(data).items()},  # ours, escaped there
        base=label(data.base.name, 80),
        trained=f"{len(data.runs)} runs" if data.runs else label(data.trained.name, 80),
        budget=whole(data.protocol.budget), reach=whole(data.pass_at_k.base.k[-1]),
        configurations=_pairs(data.protocol.configurations), unavailable=_pairs(data.protocol.unavailable),
    )  # fmt: skip
    return page


def _pairs(pairs: dict[str, str]) -> str:
    """``base: forced_cool, trained: plain``."""
    return ", ".join(f"{label(k, 40)}: {label(v, 200)}" for k, v in pairs.items())


def _template(name: str) -> tuple[Any, Any]:
    """A template that makes every text visible and escapes it, and what marks an SVG of ours as safe."""
    try:
        import jinja2
        import markupsafe
        import matplotlib  # noqa: F401  (the plots need it; told here in one line)
    except ImportError as error:
        raise DreamEnvsError(f"the report needs {error.name}: pip install 'dream-envs[train]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dream_envs.report", ""), undefined=jinja2.StrictUndefined, autoescape=True,
        finalize=_finalize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name), markupsafe.Markup


def _finalize(value: Any) -> Any:
    """Every plain text the template prints has been made visible, whatever path it came by."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else visible(value, 4000)


def command(run: dict[str, Any]) -> str:
    r"""Shell lines that run it again: the recorded command line, after the recorded commit; empty if neither is known.

    >>> command({"argv": ["dream-envs", "dream", "--out", "my run"], "commit": "0a1b2c3"})
    "git checkout 0a1b2c3\ndream-envs dream --out 'my run'"
    """
    argv = run.get("argv")
    if not argv or not isinstance(argv, list) or not all(isinstance(a, str) for a in argv):
        return ""
    program = ["python", argv[0]] if argv[0].endswith(".py") else argv[:1]
    if argv[0] in ("__main__.py", "cli.py"):
        program = ["python", "-m", "dream_envs.cli"]
    line = shlex.join([*program, *argv[1:]])
    if isinstance(commit := run.get("commit"), str) and commit:
        line = f"git checkout {shlex.quote(commit)}\n{line}"
    return visible(line, 2000)


def frontier_command(data: Report) -> str:
    """The command line that measures this again."""
    size = {1024: "mini", 8192: "standard"}.get(data.protocol.budget)
    argv = ["dream-envs", "frontier", "--base", data.base.name]
    for model in [row.model for row in data.runs] or [data.trained]:
        argv += ["--trained", model.run or model.name]
    argv += ["--suite", data.suite.name, "--seed", data.suite.seed, *(["--size", size] if size else [])]
    argv += ["--methods", ",".join(m.name for m in data.protocol.methods)]
    argv += ["--envelopes", ",".join(data.protocol.envelopes)]
    return visible(shlex.join(argv), 2000)
