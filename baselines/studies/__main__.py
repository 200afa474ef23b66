"""``python -m dream_envs.baselines.studies STUDY``: run what is missing of a study, and print its table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_envs import registry
from dream_envs.baselines.studies import grid
from dream_envs.core import DreamEnvsError


def positive(text: str) -> int:
    """A whole number of 1 or more, for ``argparse``; anything else is told in its one line, exit status 2."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of 1 or more")
    return int(text)


def natural(text: str) -> int:
    """A whole number of 0 or more; see ``positive``."""
    return 0 if text == "0" else positive(text)


def value(text: str) -> Any:
    """JSON, or the text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def job(given: argparse.Namespace) -> str:
    """Everything that is asked for; the table."""
    study = grid.study(given.study)
    which = given.grid or next(iter(study.GRIDS))
    names = given.only.split(",") if given.only else registry.named("grids", which, study.GRIDS)
    out = given.out or Path("runs") / given.study
    changes = {key: value(text) for key, _, text in (item.partition("=") for item in given.set)}
    jobs = grid.plan(study, names, given.seeds, out, changes, given.first_seed)
    grid.run_all(jobs, given.side_by_side, lambda line: print(line, flush=True))
    made: str = study.table(grid.rows(study, jobs), out)
    (out / f"{which}.md").write_text(made, "utf-8")
    if given.page is not None:
        marks = getattr(study, "MARKS", {})
        if which not in marks:
            raise DreamEnvsError(f"{given.study} {which} has no place in a page: leave --page out")
        grid.into_page(made, given.page, marks[which])
    return made


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, and say in one line what went wrong."""
    parser = argparse.ArgumentParser(prog="studies", description="run a study, as far as it is not done, and show it")
    parser.add_argument("study", help=", ".join(grid.STUDIES))
    parser.add_argument("--grid", help="which settings, by the study's own name for them")
    parser.add_argument("--only", help="names of settings with commas between them")
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--first-seed", type=natural, default=0, help="seeds are FIRST, FIRST + 1, ...")
    parser.add_argument("--out", type=Path, help="default: runs/STUDY")
    parser.add_argument("--side-by-side", type=positive, default=2, help="runs at a time, one thread each")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="another value for every run")
    parser.add_argument("--page", type=Path, help="write the table between the marks of this file")
    given = parser.parse_args(argv)
    before = signal.signal(signal.SIGTERM, _stop)  # so that the children end with us
    try:
        print(job(given))
    except DreamEnvsError as error:
        sys.exit(f"{given.study}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{given.study}: stopped; the same command goes on from here")
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
