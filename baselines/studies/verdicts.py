"""The README's table of Frontier Reports: runs that should and models that must not look like an expansion.

``python -m dream_envs.baselines.studies.verdicts runs/study/full-grpo-0 ... [--readme FILE]`` reports on the runs and
on every control, each in a folder of its own that is not measured twice, and puts the table between the README's marks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from dream_envs.baselines.frontier import controls, job
from dream_envs.baselines.studies.study import into_readme
from dream_envs.frontier.schema import Report, read_report

MARKS = ("<!-- frontier -->", "<!-- /frontier -->")
_HEAD = ("model", "verdict", "FG*", "E", "S", "held-out FG*", "pass@1 gain", "certified", "base draws")


def reports(runs: Sequence[Path], out: Path, seed: str) -> list[tuple[str, Report]]:
    """A mini report on every run, then on every control; those that are in ``out`` already are read."""
    found = []
    for run in runs:
        folder = out / f"run-{run.name}"
        done = read_report(folder) if (folder / "frontier.json").is_file() else None
        found.append(
            (run.name, done or job.run("nano/compose", str(run), folder, out / "cache", job.Options(seed=seed)))
        )
    for name in controls.CONTROLS:
        folder = out / f"control-{name}"
        done = read_report(folder) if (folder / "frontier.json").is_file() else None
        found.append((f"control: {name}", done or controls.run(name, folder, seed=seed, cache=out / "cache")))
    return found


def table(found: Sequence[tuple[str, Report]]) -> str:
    """Markdown, a report a row; points of problems with 95 % intervals."""
    lines = ["| " + " | ".join(_HEAD) + " |", "| --- | --- |" + " ---: |" * (len(_HEAD) - 2)]
    for name, data in found:
        head, gain, held = data.headline, data.pass1.gain, data.headline.held_out
        cells = [
            name.replace("_", "\\_"),
            data.verdict.word,
            _interval(head.fg, head.low, head.high),
            f"{head.e:.1f}",
            f"{head.s:.1f}",
            "-" if held is None else _interval(held.fg, held.low, held.high),
            _interval(*(100 * (x or 0.0) for x in gain)),
            str(len(data.certified)),
            f"{data.cost.round_robin_draws + data.cost.second_stage_draws:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value + 0.0:+.1f} [{low + 0.0:+.1f}, {high + 0.0:+.1f}]"


def main() -> None:
    """``python -m dream_envs.baselines.studies.verdicts RUN [RUN ...] [--out runs/verdicts] [--readme README.md]``."""
    parser = argparse.ArgumentParser(description="Frontier Reports of runs and of all controls, as a table")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/verdicts"))
    parser.add_argument("--seed", default="0")
    parser.add_argument("--readme", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = table(reports(given.runs, given.out, given.seed))
    print(made)
    if given.readme is not None:
        into_readme(made, given.readme, MARKS)


if __name__ == "__main__":
    main()
