"""All arms of the flagship, five seeds each: ``make study``, or ``python -m dream_envs.baselines.studies.study``.

Two runs side by side, one thread each.  Finished runs are skipped and unfinished ones are resumed, so the same command
goes on after a stop.  The table goes into ``README.md`` between the marks ``<!-- study -->`` and ``<!-- /study -->``.

``--learners`` runs another plan: the full loop under every learner, each with as many samples drawn.  ``--nights`` runs
a third: the loop that sleeps, and without each of its ingredients.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dream_envs.agents.training.learners import LEARNERS
from dream_envs.baselines.loops.arms import ARMS, NIGHTS

from dream_envs.baselines.studies.intervals import paired, show, sign
from dream_envs.baselines.studies.side_by_side import positive
from dream_envs.core import DreamEnvsError
from dream_envs.report import figures
from dream_envs.report.study import study_table
from dream_envs.runs import read_json

MARKS = ("<!-- study -->", "<!-- /study -->")
LEARNER_MARKS = ("<!-- learners -->", "<!-- /learners -->")
NIGHT_MARKS = ("<!-- nights -->", "<!-- /nights -->")

#: (arm, learner): every arm under GRPO, and the full loop under expert iteration as well.
PLAN = (*((arm, "grpo") for arm in ARMS if arm not in NIGHTS), ("full", "expert"))

#: Sleep, and what it comes to without one of the four ingredients.
NIGHT_PLAN = tuple((arm, "grpo") for arm in NIGHTS)

#: The full loop under every learner.
LEARNER_PLAN = tuple(("full", name) for name in LEARNERS)

#: Steps after which a learner has drawn what the others draw in their 150 (some 145,000 replies); without an entry it
#: is the learner's default.  Expert iteration plays every tenth step and is asked shallower problems.
EQUAL_STEPS = {"expert": 1710}

Plan = Sequence[tuple[str, str]]


def folder(out: Path, arm: str, learner: str, seed: int) -> Path:
    """Where this run lives."""
    return out / f"{arm}-{learner}-{seed}"


def jobs(out: Path, seeds: Sequence[int], plan: Plan | None = None) -> Iterator[tuple[str, str, int]]:
    """What is still to be run, seed by seed, so that an early stop leaves whole seeds; ``plan`` is ``PLAN`` if none."""
    for seed in seeds:
        for arm, learner in plan or PLAN:
            if not (folder(out, arm, learner, seed) / "frontier.json").exists():
                yield arm, learner, seed


def command(out: Path, arm: str, learner: str, seed: int) -> list[str]:
    """The command line of one run."""
    where = str(folder(out, arm, learner, seed))
    line = [sys.executable, "-m", "dream_envs.cli", "dream", "--out", where, "--arm", arm, "--learner", learner]
    return [*line, "--seed", str(seed), "--threads", "1", "--resume", "--json"]


def run(
    out: Path,
    seeds: Sequence[int],
    side_by_side: int,
    plan: Plan | None = None,
    steps: Mapping[str, int] | None = None,
) -> None:
    """Run what is missing; one line a finished run.

    Args:
        out: the study's folder.
        seeds: of each run.
        side_by_side: runs at a time.
        plan: (arm, learner) pairs; ``PLAN`` if none.
        steps: by learner, where it is not the learner's default.

    Raises:
        DreamEnvsError: if a run fails, with where its output is.
    """
    out.mkdir(parents=True, exist_ok=True)
    waiting = list(jobs(out, seeds, plan))
    total, began = len(waiting), time.monotonic()
    live: list[tuple[subprocess.Popen[bytes], tuple[str, str, int]]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = 0
    try:
        while waiting or live:
            while waiting and len(live) < side_by_side:
                job = waiting.pop(0)
                line = command(out, *job) + (["--steps", str(steps[job[1]])] if steps and job[1] in steps else [])
                with open(folder(out, *job).with_suffix(".log"), "wb") as log:  # the child has its own handle
                    live.append((subprocess.Popen(line, stdout=log, stderr=log, env=environment), job))
            time.sleep(0.5)
            for process, job in list(live):
                if process.poll() is None:
                    continue
                live.remove((process, job))
                if process.returncode:
                    log_path = folder(out, *job).with_suffix(".log")
                    raise DreamEnvsError(f"{job} failed: see {log_path}; the same command goes on from here")
                finished += 1
                spent = time.monotonic() - began
                left = spent / finished * (total - finished)
                done = f"{finished}/{total}  {job[0]} {job[1]} seed {job[2]}"
                print(f"{done}  {spent:.0f} s  {left:.0f} s left", flush=True)
    finally:  # two processes in one run's folder would spoil it, and the same command starts these again
        for process, _ in live:
            process.terminate()
            process.wait()


def rows(out: Path, plan: Plan | None = None) -> list[dict[str, Any]]:
    """Every finished run of a study folder."""
    found = []
    for arm, learner in plan or PLAN:
        for path in sorted(out.glob(f"{arm}-{learner}-*/frontier.json")):
            data = read_json(path)
            row = {"arm": arm, "learner": learner, "seed": data["run"]["seed"], "frontier": data}
            found.append({**row, "label_accuracy": data.get("label_accuracy")})
    return found


def night_answers(found: Sequence[Mapping[str, Any]]) -> str:
    """What each part of the loop that sleeps is worth: differences over seeds that both arms have, as Markdown."""

    def exact(arm: str, depth: int) -> dict[str, float | None]:
        own = [row for row in found if row["arm"] == arm]
        return {row["seed"]: figures.stat(figures.at(row["frontier"], depth), "trained", "T=1", "mean") for row in own}

    head = "Exact success of `sleep` less that of the arm, mean and 95 % t-interval over seeds, paired, each by itself:"
    lines = [head, ""]
    for arm in NIGHTS[1:]:
        told = []
        for depth in (6, 8):
            gain = paired(exact(NIGHTS[0], depth), exact(arm, depth))
            told.append(f"depth {depth} {show(gain)} ({sign(gain, 1)})")
        lines.append(f"- above `{arm}`: {', '.join(told)}")
    return "\n".join([*lines, ""])


def into_readme(table: str, readme: Path, marks: tuple[str, str] = MARKS) -> None:
    """Put the table between the marks.

    Raises:
        DreamEnvsError: if the marks are not there.
    """
    text = readme.read_text("utf-8")
    head, mark, rest = text.partition(marks[0])
    _, end, tail = rest.partition(marks[1])
    if not mark or not end:
        raise DreamEnvsError(f"{readme} has no {marks[0]} ... {marks[1]}: put them where the table belongs")
    readme.write_text(f"{head}{marks[0]}\n{table.strip()}\n{marks[1]}{tail}", "utf-8")


def main() -> None:
    """``python -m dream_envs.baselines.studies.study [--seeds 5] [--readme FILE] [--learners | --nights]``."""
    parser = argparse.ArgumentParser(description="all arms of the flagship over several seeds")
    parser.add_argument("--out", type=Path, default=None, help="default: runs/study, or runs/learners")
    parser.add_argument("--learners", action="store_true", help="the full loop under every learner, equal samples")
    parser.add_argument("--nights", action="store_true", help="the loop that sleeps, less each of its ingredients")
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--side-by-side", type=positive, default=2)
    parser.add_argument("--readme", type=Path, default=None, help="write the table into this file")
    given = parser.parse_args()
    plan, marks, steps, name = PLAN, MARKS, None, "study"
    if given.learners:
        plan, marks, steps, name = LEARNER_PLAN, LEARNER_MARKS, EQUAL_STEPS, "learners"
    elif given.nights:
        plan, marks, name = NIGHT_PLAN, NIGHT_MARKS, "nights"
    out = given.out or Path("runs") / name
    try:
        run(out, range(given.seeds), given.side_by_side, plan, steps)
        found = rows(out, plan)
        table = study_table(found) + (f"\n{night_answers(found)}" if given.nights else "")
        (out / "table.md").write_text(table, "utf-8")
        if given.readme:
            into_readme(table, given.readme, marks)
        print(table)
    except DreamEnvsError as error:
        sys.exit(f"study: {error}")
    except KeyboardInterrupt:
        sys.exit("study: stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
