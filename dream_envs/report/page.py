"""``report.html``: one file that shows what a run did, what it shows and what it does not.

The page needs no script and loads nothing; everything that came from a model or a file is capped, made visible and
escaped.  The same run folder gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.report import figures, nights, plots, read, samples, words
from dream_envs.report.read import walk

_PARTS = ("run.json", "frontier.json", "sleeping.json", "metrics.jsonl", "episodes.jsonl")
_DEFAULT_VERDICT = "The frontier of this run has not been measured yet, so nothing can be said about a gain."


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder from whatever of the run is there.

    Args:
        run_dir: a folder with any of ``run.json``, ``frontier.json``, ``metrics.jsonl`` and ``episodes.jsonl``.

    Returns:
        The page's path.

    Raises:
        DreamEnvsError: if the folder holds none of them, one of the JSON files is broken, or jinja2 or matplotlib is
            not installed.
    """
    run_dir = Path(run_dir)
    if not any((run_dir / part).is_file() for part in _PARTS):
        raise DreamEnvsError(f"{run_dir} holds no run: expected one of {', '.join(_PARTS)} in it")
    path = run_dir / "report.html"
    part = path.with_name(path.name + ".part")
    part.write_text(render(run_dir), encoding="utf-8")
    os.replace(part, path)
    return path


def render(run_dir: Path) -> str:
    """The page as text; see ``write_report``.  The folder of a Frontier Report gets that report's page."""
    if read.read_object(run_dir / "frontier.json").get("kind") == "frontier":
        from dream_envs.frontier.schema import read_report
        from dream_envs.report.frontier_page import render_frontier

        return render_frontier(read_report(run_dir))
    template, markup = load_template("report.html")
    content = _content(run_dir)
    for group in ("measured", "logged"):
        content[group] = [p._replace(svg=markup(p.svg)) for p in content[group]]  # made by us, escaped there
    return template.render(**content)


def load_template(name: str) -> tuple[Any, Any]:
    """A page's template, in which every text is made visible and escaped, and what marks an SVG of ours as safe.

    Args:
        name: a file beside this one; it may include others.

    Returns:
        A jinja2 Template, and markupsafe.Markup.

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
    return value if hasattr(value, "__html__") or not isinstance(value, str) else words.visible(value, 4000)


def _content(run_dir: Path) -> dict[str, Any]:
    frontier, run = read.read_frontier(run_dir), read.read_object(run_dir / "run.json")
    metrics = read.read_metrics(run_dir)
    about = frontier.get("run") if isinstance(frontier.get("run"), dict) else run
    names = [walk(about, k) for k in ("arm", "method", "learner", "seed")]
    slept = read.read_object(run_dir / "sleeping.json")
    told = frontier or {"nights": [{"night": n} for n in read.items(slept.get("nights"))]}
    return {
        "title": " ".join(words.visible(name, 40) for name in names if name not in (None, "")),
        "verdict": words.visible(frontier.get("verdict") or slept.get("verdict") or _DEFAULT_VERDICT, 600),
        "support": _depths(walk(frontier, "run", "support", "depths")),
        "held_out": any(figures.held_out(e) for e in figures.rows(frontier)),
        "headline": figures.headline(frontier) if frontier else [],
        "rows": [_row(e) for e in figures.rows(frontier)],
        "decoder_rows": [_decoder_row(e) for e in figures.rows(frontier)],
        "decoders": figures.DECODERS,
        "tiers": figures.TIERS,
        "examples": _examples(frontier),
        "measured": plots.frontier_plots(frontier),
        "logged": plots.metric_plots(metrics),
        "entropy": _entropy(frontier),
        "nights": nights.nights(told),
        "retention": nights.retention(slept),
        "alarms": metrics.alarms,
        "more_alarms": metrics.more_alarms,
        "steps": len(metrics.samples),
        "unread_metrics": metrics.unread,
        "samples": samples.pick(run_dir),
        "settings": _settings(run),
        "command": command(run),
        "glossary": words.GLOSSARY,
        "cautions": figures.cautions(frontier) if frontier else [],
        "words": words,
    }


def _depths(value: Any) -> str:
    return ", ".join(words.visible(d, 10) for d in read.items(value)[:20])


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """One line of the main table, as text."""
    cells: dict[str, Any] = {
        "depth": figures.label(entry),
        "n": words.whole(entry.get("n")),
        "chance": words.probability(entry.get("chance")),
        "tiers": [figures.tier_cell(entry, t) for t in figures.TIERS],
    }
    for who in figures.WHO:
        cells[who] = {
            "mean": words.probability(figures.stat(entry, who, "T=1", "mean")),
            "ci": words.interval(walk(entry, who, "T=1", "ci")),
            "median": words.log10(figures.stat(entry, who, "T=1", "median_log10")),
            "forced": words.probability(figures.stat(entry, who, "forced", "mean")),
        }
    return cells


def _decoder_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Mean, share solved and largest P under every decoder."""
    return {
        "depth": figures.label(entry),
        "cells": [
            [
                words.probability(figures.stat(entry, who, decoder, "mean")),
                words.percent(figures.stat(entry, who, decoder, "solved")),
                words.probability(figures.stat(entry, who, decoder, "max")),
            ]
            for who in figures.WHO
            for decoder in figures.DECODERS
        ],
    }


def _examples(frontier: dict[str, Any]) -> list[dict[str, str]]:
    found = [e for e in read.items(walk(frontier, "beyond", "examples")) if isinstance(e, dict)]
    return [
        {
            "prompt": words.visible(e.get("prompt", ""), 120),
            "depth": words.whole(e.get("depth")),
            "held_out": "yes" if e.get("held_out") else "no",
            "base": words.log10(e.get("base_best_log10")),
            "trained": words.probability(e.get("trained")),
        }
        for e in found[:12]
    ]


def _entropy(frontier: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(which entropy, base, trained) in bits."""
    both = {who: walk(frontier, "entropy", who) for who in figures.WHO}
    keys = [k for k in ("format", "answer") if any(words.number(walk(e, k)) is not None for e in both.values())]
    before, after = (both[who] for who in figures.WHO)
    return [(k, words.decimal(walk(before, k), 2), words.decimal(walk(after, k), 2)) for k in keys]


def _settings(run: dict[str, Any]) -> list[tuple[str, str]]:
    """What was run, key by key; ``config`` repeats the others and is left out."""
    rows = []
    for key, value in list(run.items())[:80]:
        if key in ("config", "schema", "argv"):
            continue
        for name, item in value.items() if isinstance(value, dict) and value else ((None, value),):
            text = item if isinstance(item, str) else json.dumps(item)
            full = key if name is None else f"{key}.{name}"
            rows.append((words.visible(full, 60), words.visible(text, 200)))
    return rows[:200]


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
    commit = run.get("commit")
    if isinstance(commit, str) and commit:
        found = f"git checkout {shlex.quote(commit)}\n{found}"
    return words.visible(found, 2000)
