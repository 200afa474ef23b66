"""``report.html`` of a Frontier Report: one file that shows whether training pushed the frontier, and what may fool it.

Like the run report: no script, nothing from outside, everything from the JSON capped, made visible and escaped; the
same ``frontier.json`` gives the same bytes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dream_envs.report import frontier_bars as bars
from dream_envs.report import frontier_plots as curves
from dream_envs.report import frontier_read as fr
from dream_envs.report import frontier_tables as tables
from dream_envs.report import svg, words
from dream_envs.report.page import command, load_template
from dream_envs.report.plots import Plot
from dream_envs.report.read import items, walk
from dream_envs.report.words import number, visible, whole

#: Every plot, in the page's order.
MAKERS: tuple[Callable[[dict[str, Any]], Plot | None], ...] = (
    curves.headline_plot, curves.decay_plot, curves.pass_plot, curves.compute_plot, bars.support_plot,
    curves.cover_plot, bars.forest_plot, curves.scatter_plot, bars.tiers_plot, bars.retention_plot, bars.formats_plot,
    bars.ratio_plot, bars.series_plot, bars.curriculum_plot,
)  # fmt: skip
#: What to do about a block that is null.
HOW = {
    "retention": "It needs suites that were scored before and after training.",
    "diversity": "It needs replies of both models that were kept.",
    "curriculum": "It needs the folder of the training run.",
    "judge": "No judge took part, or it was not compared with known truths.",
}
GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "FG*",
        "Frontier Gain, in points of problems: E* minus S. The share of problems that training moved from beyond the "
        "base's reach to reliable, less the share that it lost.",
    ),
    (
        "E(k) and E",
        "Share of problems that the trained model solves reliably and that the base, asked in turn by every arm, "
        "does not solve in k draws; E is E(k) at the largest budget.",
    ),
    (
        "E*",
        "E(k) carried on to infinitely many draws of the base. What sharpening converts falls by about the same factor "
        "with every doubling of k; the rest of that fall is taken off. It may be negative.",
    ),
    ("S", "Share of problems that the base solves reliably and the trained model does not solve any more."),
    (
        "Persistence",
        "E at the largest budget divided by E at half of it. Near 1, the gain is out of the base's reach; well below "
        "it, the base is catching up.",
    ),
    (
        "Expansion",
        "The word of the verdict when the lower end of the interval is above 0.5 points, at least ten problems are "
        "certified, and the lower end on held-out families is above 0.",
    ),
    (
        "Sharpening",
        "pass@1 has risen, but the interval of FG* includes 0.5 points or less: the model does more reliably what the "
        "base could already do.",
    ),
    ("Contraction", "The whole interval of FG* is below 0: more was lost than gained."),
    ("Inconclusive", "None of the three: the evaluation is too small, or the effect is."),
    (
        "Certified",
        "A problem for which a one-sided test rejects that the trained model is at most 32 times as likely to solve it "
        "as the base, with the Benjamini-Hochberg procedure at 5 % over all problems.",
    ),
    ("Eligible", "A problem whose answer cannot be had by luck, however often the base is drawn."),
    ("Held out", "Families whose generators neither training nor its authors had seen."),
    ("Arm", "One fixed way to ask the base: a prompt, a sampler. The base takes its arms in turn."),
    ("Veto", "An arm too dear to run everywhere. What it solves is taken off the gain."),
    ("pass@k", "Share of problems with at least one success in k draws."),
    ("Cover@tau", "Share of problems that a single draw solves with probability at least tau."),
    ("Interval", "95 %, by resampling problems within families unless another kind is named."),
)


def write_frontier(folder: Path) -> Path:
    """Write ``report.html`` into a folder from its ``frontier.json``.

    Args:
        folder: holds a ``frontier.json`` of schema 2.

    Returns:
        The page's path.

    Raises:
        DreamEnvsError: if the file is absent, broken or of another schema, or jinja2 or matplotlib is not installed.
    """
    path = Path(folder) / "report.html"
    part = path.with_name(path.name + ".part")
    part.write_text(render_frontier(fr.load(Path(folder))), encoding="utf-8")
    os.replace(part, path)
    return path


def render_frontier(data: dict[str, Any]) -> str:
    """The page as text.

    Args:
        data: the content of ``frontier.json``.

    Raises:
        DreamEnvsError: as ``write_frontier``.
    """
    data = fr.checked(data)
    template, markup = load_template("frontier.html")
    made = {name: p._replace(svg=markup(p.svg)) for name, p in all_plots(data).items()}  # ours, escaped there
    return template.render(plots=made, **_content(data))


def all_plots(data: dict[str, Any]) -> dict[str, Plot]:
    """Every plot that there is data for, by its name."""
    found: dict[str, Plot] = {}
    for make in MAKERS:
        with svg.style():
            plot = make(data)
        if plot is not None:
            found[plot.name] = plot
    return found


def _content(data: dict[str, Any]) -> dict[str, Any]:
    protocol, verdict = data["protocol"], data["verdict"]
    word = visible(verdict["word"], 40)
    return {
        "base": fr.label(data["base"].get("name"), 80),
        "trained": fr.label(data["trained"].get("name"), 80),
        "word": word,
        "word_class": word.lower() if word in ("Expansion", "Contraction") else "",
        "sentence": visible(verdict["sentence"], 600),
        "headline": fr.headline(data),
        "tiles": tables.tiles(data),
        "kinds": tables.kind_rows(data),
        "need": whole(protocol.get("need")),
        "draws": whole(protocol.get("trained_draws")),
        "budgets": whole(max((number(b) or 0 for b in items(protocol.get("budgets"))), default=None)),
        "loss_budget": whole(protocol.get("loss_budget")) if number(protocol.get("loss_budget")) else "",
        "follow": whole(protocol["follow"]) if number(protocol.get("follow")) else "",
        "stage": whole(protocol.get("stage")),
        "configurations": _pairs(protocol.get("configurations")),
        "unavailable": _pairs(protocol.get("unavailable")),
        "kept_flag": walk(data["retention"], "flag") is True,
        "support_rows": tables.support_rows(data),
        "family_rows": tables.family_rows(data),
        "decoder_rows": tables.decoder_rows(data),
        "exact_note": tables.exact_note(data),
        "certified_rows": tables.certified_rows(data),
        "certified_total": None if data["certified"] is None else len(data["certified"]),
        "problem_rows": tables.problem_rows(data),
        "problem_total": len(fr.problems(data)),
        "retention_rows": tables.retention_rows(data),
        "transfer": tables.transfer(data),
        "matrix": tables.matrix(data),
        "alarm": visible(alarm, 600) if (alarm := walk(data["diversity"], "alarm")) else "",
        "diversity_rows": tables.diversity_rows(data),
        "curriculum_rows": tables.card_rows(data["curriculum"]),
        "judge_rows": tables.card_rows(data["judge"]),
        "arm_rows": tables.arm_rows(data),
        "cost_rows": tables.cost_rows(data) if data["cost"] is not None else [],
        "command": command(data) or _command(data),
        "about": _about(data),
        "glossary": GLOSSARY,
        "fooled": tables.fooled(data),
        "how": HOW,
        "words": words,
    }


def _pairs(value: Any) -> str:
    """``base: forced_cool, trained: plain``."""
    pairs = value.items() if isinstance(value, dict) else ()
    return ", ".join(f"{fr.label(k, 40)}: {fr.label(v, 200)}" for k, v in pairs)


def _command(data: dict[str, Any]) -> str:
    """The command line that measures this again, from what the file tells; empty if that is not enough."""
    base, trained = walk(data, "base", "name"), walk(data, "trained", "run") or walk(data, "trained", "name")
    names = [base, trained, walk(data, "suite", "name"), walk(data, "suite", "seed")]
    if not all(isinstance(n, str) and n for n in names):
        return ""
    top = max((number(b) or 0.0 for b in items(data["protocol"].get("budgets"))), default=0.0)
    size = {1024.0: "mini", 8192.0: "standard"}.get(top)
    argv = ["dream-envs", "frontier"]
    for flag, value in zip(("--base", "--trained", "--suite", "--seed"), names, strict=True):
        argv += [flag, value]
    argv += ["--size", size] if size else []
    for flag, veto in (("--arms", False), ("--vetoes", True)):
        chosen = [a for a in items(data["protocol"].get("arms")) if isinstance(a, dict) and bool(a.get("veto")) == veto]
        argv += [flag, ",".join(str(a.get("name")) for a in chosen) or "none"]
    return visible(shlex.join(argv), 2000)


def _about(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Names, hashes and labels of what was measured."""
    named = (
        ("Base", ("base", "name")), ("Base, hash of the weights", ("base", "weights_hash")),
        ("Trained", ("trained", "name")), ("Trained, hash of the weights", ("trained", "weights_hash")),
        ("Training run", ("trained", "run")), ("Suite", ("suite", "name")), ("Seed of the problems", ("suite", "seed")),
        ("Problems", ("suite", "n")),
    )  # fmt: skip
    rows = [(name, visible(value, 300)) for name, keys in named if (value := walk(data, *keys)) not in (None, "")]
    for key in ("commit", "version", "created"):
        if isinstance(data.get(key), str):
            rows.append((key.capitalize(), visible(data[key], 200)))
    return rows
