"""``report.html`` of a Frontier Report: one file that shows whether training pushed the frontier, and what may fool it.

Like the run report: no script, nothing from outside, everything from the JSON capped, made visible and escaped; the
same ``frontier.json`` gives the same bytes.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from dream_envs.frontier.schema import Report, read_report
from dream_envs.report import frontier_read as fr
from dream_envs.report import frontier_tables as tables
from dream_envs.report import words
from dream_envs.report.frontier_plots import MAX_POINTS, all_plots
from dream_envs.report.page import load_template
from dream_envs.report.words import visible, whole


def write_frontier(folder: Path) -> Path:
    """Write ``report.html`` into a folder from its ``frontier.json``; the page's path.

    Raises:
        DreamEnvsError: if the file is absent, broken or of another schema, or jinja2 or matplotlib is not installed.
    """
    path = Path(folder) / "report.html"
    part = path.with_name(path.name + ".part")
    part.write_text(render_frontier(read_report(Path(folder))), encoding="utf-8")
    os.replace(part, path)
    return path


def render_frontier(data: Report) -> str:
    """The page as text."""
    template, markup = load_template("frontier.html")
    plots = {name: markup(svg) for name, svg in all_plots(data).items()}  # ours, escaped there
    protocol, word = data.protocol, data.verdict.word
    return template.render(
        data=data,
        plots=plots,
        tables=tables,
        words=words,
        base=fr.label(data.base.name, 80),
        trained=fr.label(data.trained.name, 80),
        word_class={"Expansion": "expansion", "Trade": "trade", "Contraction": "contraction"}.get(word, ""),
        phrase=visible(data.verdict.phrase, 600),
        sentence=visible(data.verdict.sentence, 600),
        qualified=[visible(line, 400) for line in data.verdict.qualified],
        headline=fr.headline(data),
        budget=whole(protocol.budget),
        configurations=_pairs(protocol.configurations),
        unavailable=_pairs(protocol.unavailable),
        retained=fr.points_text(fr.times100(data.retention.mean)) if data.retention else "",
        max_points=MAX_POINTS,
        exact_note=exact_note(data),
        command=command(data),
        about=about(data),
    )


def _pairs(pairs: dict[str, str]) -> str:
    """``base: forced_cool, trained: plain``."""
    return ", ".join(f"{fr.label(k, 40)}: {fr.label(v, 200)}" for k, v in pairs.items())


def exact_note(data: Report) -> str:
    """What exact probabilities make of E beside the sampled figure."""
    if data.exact is None:
        return ""
    return (
        f"Mean exact probability of the accepted reply under each decoder, not sampled. From exact probabilities E("
        f"{whole(data.headline.k)}) is {fr.points(data.exact.e)} points; from samples {fr.points(data.headline.e[0])}."
    )


def command(data: Report) -> str:
    """The command line that measures this again."""
    size = {1024: "mini", 8192: "standard"}.get(data.protocol.budget)
    argv = ["dream-envs", "frontier", "--base", data.base.name, "--trained", data.trained.run or data.trained.name]
    argv += ["--suite", data.suite.name, "--seed", data.suite.seed, *(["--size", size] if size else [])]
    argv += ["--methods", ",".join(m.name for m in data.protocol.methods)]
    argv += ["--envelopes", ",".join(data.protocol.envelopes)]
    return visible(shlex.join(argv), 2000)


def about(data: Report) -> list[tuple[str, str]]:
    """Names, hashes and labels of what was measured."""
    rows = (
        ("Base", data.base.name),
        ("Base, hash of the weights", data.base.weights_hash),
        ("Trained", data.trained.name),
        ("Trained, hash of the weights", data.trained.weights_hash),
        ("Training run", data.trained.run),
        ("Suite", data.suite.name),
        ("Seed of the problems", data.suite.seed),
        ("Problems", str(data.suite.n)),
        ("Commit", data.commit),
    )
    return [(name, visible(value, 300)) for name, value in rows if value]
