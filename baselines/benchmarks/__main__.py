"""The benchmark: what this suite promises, measured beside what it is compared with.

``make bench``, or ``python -m dream_envs.baselines.benchmarks [--only games,start] [--quick | --full] [--json FILE]``.
Every comparison runs in turn on the same machine (A B A B ...) and reports medians; ratios are medians of the quotients
of neighbouring measurements, so they hold on a busy machine too, where the rates themselves are too low.  A section
that cannot run says why and the others go on.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from dream_envs import registry
from dream_envs.baselines.benchmarks.rows import Options, Row
from dream_envs.core import DreamEnvsError
from dream_envs.runs import provenance, write_json

#: What a section is about and its ``module:function``, imported when it is its turn: ``--only start`` needs no torch.
SECTIONS: dict[str, tuple[str, str]] = {
    "games": ("scripted two-turn episodes a second", "dream_envs.baselines.benchmarks.games:games"),
    "orchestration": ("what a rollout adds to the engine", "dream_envs.baselines.benchmarks.model:orchestration"),
    "training": ("a GRPO step against bare TRL", "dream_envs.baselines.benchmarks.model:training"),
    "asynchronous": (
        "games beside TRL's asynchronous trainer",
        "dream_envs.baselines.benchmarks.asynchronous:beside",
    ),
    "engines": ("tokens a second of each engine on SmolLM2", "dream_envs.baselines.benchmarks.engines:engines"),
    "step": ("a GRPO step with vLLM against bare TRL", "dream_envs.baselines.benchmarks.engines:step"),
    "draws": ("the Frontier Report's draws", "dream_envs.baselines.benchmarks.model:draws"),
    "flagship": ("where the flagship's time goes", "dream_envs.baselines.benchmarks.model:flagship"),
    "start": ("start of a process", "dream_envs.baselines.benchmarks.games:starting"),
}


def run_section(name: str, options: Options) -> list[Row]:
    """The rows of a section; one row with the reason if it fails."""
    title, target = SECTIONS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pkgutil.resolve_name(target)(options)
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        return [Row(what=title, note=f"failed: {type(error).__name__}: {text}"[:300])]


def figure(value: float | None, unit: str = "") -> str:
    """Three digits that matter, with thousands marked; a dash for None."""
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def table(found: dict[str, list[Row]]) -> Any:
    """The rows by section as a rich Table."""
    from rich.table import Table
    from rich.text import Text

    made = Table(show_lines=True)
    for name in ("section", "what", "ours", "peer", "ratio", "target", "met"):
        made.add_column(name, justify="right" if name in ("ours", "peer", "ratio") else "left", overflow="fold")
    words = {True: Text("yes", "green"), False: Text("no", "bold red"), None: Text("-")}
    for section, row in [(section, row) for section, rows in found.items() for row in rows]:
        what = Text(row.what).append(f"\n{row.note}" if row.note else "", "dim")
        peer = f"{figure(row.peer, row.unit)}\n{row.peer_name}" if row.peer_name else figure(row.peer, row.unit)
        ours = figure(row.ours, row.unit)
        made.add_row(section, what, ours, Text(peer), figure(row.ratio), row.target or "-", words[row.met])
    return made


def show(chosen: Sequence[str], options: Options, out: Path) -> None:
    """Measure, write after each section, so that a stop loses one section at most, and print."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=140)  # a pipe or a log has no width of its own
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    about = {"schema": 2, "size": options.size, "cores": cores, "load": load, **provenance()}
    found, seconds = dict[str, list[Row]](), dict[str, float]()
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        began = time.perf_counter()
        with console.status(f"{SECTIONS[name][0]} ..."):
            found[name] = run_section(name, options)
        seconds[name] = round(time.perf_counter() - began, 1)
        write_json(out, {**about, "seconds": seconds, "rows": msgspec.to_builtins(found)})
        console.print(f"[dim]{name}, {SECTIONS[name][0]}: {seconds[name]} s[/dim]")
    console.print(table(found))
    met = [row.met for rows in found.values() for row in rows if row.met is not None]
    busy = " (busy: believe the ratios, not the rates)" if load is not None and load > 0.5 else ""
    console.print(f"{sum(met)} of {len(met)} targets met. {cores} cores, load {load} before{busy}. Written to {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections, print the table, write the file; 0 whatever was met, 2 for a wrong option."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"with commas between them: {', '.join(SECTIONS)}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer repetitions")
    size.add_argument("--full", action="store_true", help="more repetitions")
    parser.add_argument("--json", type=Path, default=Path("runs/bench.json"), help="where the rows are written")
    given = parser.parse_args(arguments)
    chosen = given.only.split(",")
    try:
        for name in chosen:
            registry.named("sections", name, SECTIONS)
    except DreamEnvsError as error:
        print(error, file=sys.stderr)
        return 2
    which = "quick" if given.quick else "full" if given.full else "normal"
    show(chosen, Options(which, str(given.json.parent)), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
