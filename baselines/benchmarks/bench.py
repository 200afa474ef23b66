"""The benchmark: what this suite promises, measured beside what it is compared with.

``make bench``, or ``python -m dream_envs.baselines.benchmarks.bench [--only 1,3]
[--quick | --full] [--kill N] [--json FILE]``.
Every comparison runs in turn on the same machine (A B A B ...) and reports medians; ratios are medians of the quotients
of neighbouring measurements, so they hold on a busy machine too, where the rates themselves are too low.  A section
that cannot run says why and the others go on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from dream_envs.baselines.benchmarks.rows import Options, Row
from dream_envs.core import DreamEnvsError
from dream_envs.runs import provenance, write_json

#: Title and ``module:function`` of each section; imported when it is its turn, so ``--only 6`` needs no torch.
SECTIONS: dict[int, tuple[str, str]] = {
    1: ("scripted episodes a second", "dream_envs.baselines.benchmarks.games:games"),
    2: ("what a rollout adds to the engine", "dream_envs.baselines.benchmarks.model:overhead"),
    3: ("decode loop", "dream_envs.baselines.benchmarks.model:decoding"),
    4: ("training step", "dream_envs.baselines.benchmarks.model:training"),
    5: ("archive and near duplicates", "dream_envs.baselines.benchmarks.process:archive"),
    6: ("start of a process", "dream_envs.baselines.benchmarks.process:starting"),
    7: ("kill -9 and resume", "dream_envs.baselines.benchmarks.process:killing"),
}
COMMAND = "python -m dream_envs.baselines.benchmarks.bench --only {}"


def run_section(number: int, options: Options) -> list[Row]:
    """The rows of a section; one row with the reason if it fails."""
    title, target = SECTIONS[number]
    module, _, name = target.partition(":")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work: Callable[[Options], list[Row]] = getattr(importlib.import_module(module), name)
            return work(options)
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        return [Row(section=number, what=title, note=f"failed: {type(error).__name__}: {text}"[:300])]


def numbers(text: str | None) -> list[int]:
    """Section numbers from ``1,3``; all without a text.

    Raises:
        DreamEnvsError: for anything that is no section.
    """
    if text is None:
        return list(SECTIONS)
    parts = [p.strip() for p in text.split(",") if p.strip()]
    wrong = [p for p in parts if not p.isdecimal() or int(p) not in SECTIONS]
    if wrong or not parts:
        raise DreamEnvsError(f"--only {text}: sections are 1 to {len(SECTIONS)}, for example --only 1,3")
    return sorted({int(p) for p in parts})


def figure(value: float | None, unit: str = "") -> str:
    """Three digits that matter, with thousands marked; a dash for None."""
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def table(rows: Sequence[Row]) -> Any:
    """The rows as a rich Table."""
    from rich.table import Table
    from rich.text import Text

    made = Table(show_lines=True)
    for name, right in (("", True), ("what", False), ("ours", True), ("peer", True), ("ratio", True)):
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    made.add_column("target", overflow="fold")
    made.add_column("met")
    words = {True: Text("yes", "green"), False: Text("no", "bold red"), None: Text("-")}
    for row in rows:
        what = Text(row.what).append(f"\n{row.note}" if row.note else "", "dim")
        peer = f"{figure(row.peer, row.unit)}\n{row.peer_name}" if row.peer_name else figure(row.peer, row.unit)
        made.add_row(
            str(row.section),
            what,
            figure(row.ours, row.unit),
            Text(peer),
            figure(row.ratio),
            row.target or "-",
            words[row.met],
        )
    return made


def machine() -> dict[str, Any]:
    """What else a reader has to know: processors and how busy they were."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"cores": cores, "load_before": load}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections, print the table, write the file; 0 whatever was met, 2 for a wrong option."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", help="sections, for example 1,3: " + ", ".join(f"{k} {v[0]}" for k, v in SECTIONS.items())
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer repetitions, 10^5 challenges")
    size.add_argument("--full", action="store_true", help="more repetitions, 20 kills")
    parser.add_argument("--kill", type=int, help="kills in section 7 (0; 20 with --full)")
    parser.add_argument("--kill-steps", type=int, default=30, help="steps of the run that is killed")
    parser.add_argument("--json", default="runs/bench.json", help="where the rows are written")
    given = parser.parse_args(arguments)
    try:
        chosen = numbers(given.only)
        kill = given.kill if given.kill is not None else 20 * given.full
        if kill < 0 or given.kill_steps < 1:
            raise DreamEnvsError(f"--kill {kill} --kill-steps {given.kill_steps}: 0 or more kills, 1 or more steps")
    except DreamEnvsError as error:
        print(error, file=sys.stderr)
        return 2
    options = Options(
        size="quick" if given.quick else "full" if given.full else "normal",
        kill=kill,
        kill_steps=given.kill_steps,
        scratch=str(Path(given.json).parent),
    )
    show(chosen, options, Path(given.json))
    return 0


def show(chosen: Sequence[int], options: Options, out: Path) -> None:
    """Measure, write after each section, so that a stop loses one section at most, and print."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=140)  # a pipe or a log has no width of its own
    about, rows, seconds = machine(), list[Row](), dict[str, float]()
    out.parent.mkdir(parents=True, exist_ok=True)
    for number in chosen:
        began = time.perf_counter()
        with console.status(f"{number}  {SECTIONS[number][0]} ..."):
            rows += run_section(number, options)
        seconds[str(number)] = round(time.perf_counter() - began, 1)
        about["load_after"] = machine()["load_before"]
        written = [{**msgspec.to_builtins(row), "command": COMMAND.format(row.section)} for row in rows]
        write_json(
            out, {"schema": 1, "size": options.size, **about, "seconds": seconds, **provenance(), "rows": written}
        )
        console.print(f"[dim]{number}  {SECTIONS[number][0]}: {seconds[str(number)]} s[/dim]")
    console.print(table(rows))
    met = [row.met for row in rows if row.met is not None]
    busy = about["load_before"] is not None and about["load_before"] > 0.5
    console.print(
        f"{sum(met)} of {len(met)} targets met. {about['cores']} cores, load {about['load_before']} before"
        + (" (busy: believe the ratios, not the rates)" if busy else "")
        + f" and {about['load_after']} after. Written to {out}; one section again: {COMMAND.format('N')}"
    )


if __name__ == "__main__":
    sys.exit(main())
