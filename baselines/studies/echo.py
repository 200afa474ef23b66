"""The echo study: does training by reward let one answer format of the pre-training mixture win, and when?

``python -m dream_envs.baselines.studies.echo [--out runs/echo] [--seeds 5]``: two bases of different size,
KL coefficients 0, 1e-3 and 1e-2, five seeds each; two runs at a time.  Finished runs are skipped and unfinished ones
are resumed, so the same command goes on after a stop.  Writes ``echo_study.json``, ``table.md``, ``echo.svg`` and
``echo.png`` into the folder.

The bases (``nano/echo``, ``nano/echo_wide``) solve the same problems in three formats in known shares, of which the
commonest is the least accurate; the reward asks for the right final state alone, in any of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dream_envs import registry
from dream_envs.baselines.studies.echo_report import markdown, plot
from dream_envs.baselines.studies.echo_study import summary
from dream_envs.core import DreamEnvsError
from dream_envs.runs import read_json, write_json

BASES = ("nano/echo", "nano/echo_wide")
COEFFICIENTS = (0.0, 1e-3, 1e-2)
RESULT = "echo.json"


class Job(NamedTuple):
    """One run."""

    base: str
    kl: float
    seed: str

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{Path(self.base).name}-kl{self.kl:g}-{self.seed}"


def jobs(bases: Sequence[str], coefficients: Sequence[float], seeds: Sequence[str]) -> list[Job]:
    """Every run, seed by seed, so that an early stop leaves whole seeds.

    Raises:
        DreamEnvsError: if two runs would share a folder, or there is none.
    """
    found = [Job(b, float(k), s) for s in seeds for k in coefficients for b in bases]
    if not found or len({j.name for j in found}) < len(found):
        raise DreamEnvsError(
            f"bases={list(bases)}, kl={list(coefficients)}, seeds={list(seeds)}: one or more of each, each once"
        )
    return found


def command(out: Path, job: Job, changes: dict[str, Any]) -> list[str]:
    """The command line of one run."""
    given = [f"{k}={v}" for k, v in changes.items()]
    line = [
        sys.executable,
        "-m",
        "dream_envs.baselines.studies.echo",
        "--out",
        str(out),
        "--run",
        job.base,
        f"{job.kl:g}",
    ]
    return [*line, job.seed, *(["--set", *given] if given else [])]


def run_all(out: Path, plan: Sequence[Job], side_by_side: int, changes: dict[str, Any]) -> None:
    """Run what is missing; one line a finished run.

    Raises:
        DreamEnvsError: if a run fails, with where its output is.
    """
    out.mkdir(parents=True, exist_ok=True)
    waiting = [j for j in plan if not (out / j.name / RESULT).exists()]
    total, began, finished = len(waiting), time.monotonic(), 0
    live: list[tuple[subprocess.Popen[bytes], Job]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        while waiting or live:
            while waiting and len(live) < side_by_side:
                job = waiting.pop(0)
                with open(out / f"{job.name}.log", "ab") as log:  # the child has its own handle
                    line = command(out, job, changes)
                    live.append((subprocess.Popen(line, stdout=log, stderr=log, env=environment), job))
            time.sleep(0.2)
            for process, job in list(live):
                if process.poll() is None:
                    continue
                live.remove((process, job))
                if process.returncode:
                    raise DreamEnvsError(
                        f"{job.name} failed: see {out / job.name}.log; the same command goes on from here"
                    )
                finished += 1
                spent = time.monotonic() - began
                left = spent / finished * (total - finished)
                print(f"{finished}/{total}  {job.name}  {spent:.0f} s  {left:.0f} s left", flush=True)
    finally:
        for process, _ in live:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process runs in this folder: a child may outlive a killed study, which is started again."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as file:
        with contextlib.suppress(ImportError):  # no fcntl, no lock: Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def one(out: Path, job: Job, changes: dict[str, Any]) -> dict[str, Any]:
    """One run in its folder, from wherever it stands; returns its record."""
    from dream_envs.baselines.studies import echo_run

    settings = settings_of(job, changes)
    echo_run.prepare()
    with alone(out / job.name):
        return echo_run.run(settings, out / job.name)


def settings_of(job: Job, changes: dict[str, Any]) -> Any:
    """The settings of a run; ``changes`` are fields of ``EchoSettings``, as text or as values.

    Raises:
        DreamEnvsError: for a field that there is not, or a value that it cannot have.
    """
    from dream_envs.baselines.studies.echo_run import EchoSettings

    known = EchoSettings.__struct_fields__
    if wrong := [k for k in changes if k not in known]:
        raise DreamEnvsError(registry.unknown("settings of a run", wrong[0], list(known)))
    try:
        return msgspec.convert(
            {"base": job.base, "kl": job.kl, "seed": job.seed, **changes}, EchoSettings, strict=False
        )
    except msgspec.ValidationError as error:
        raise DreamEnvsError(f"{changes}: {error}") from error


def echo(
    out: Path,
    *,
    seeds: int = 5,
    bases: Sequence[str] = BASES,
    coefficients: Sequence[float] = COEFFICIENTS,
    side_by_side: int = 2,
    changes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole job: run what is missing, sum up, write; returns the content of ``echo_study.json``.

    Args:
        out: the study's folder; it goes on from whatever is there.
        seeds: runs of each base and coefficient, named "0", "1" and so on.
        bases: nano bases, or folders of some.
        coefficients: KL coefficients.
        side_by_side: runs at a time, one thread each.
        changes: other values for fields of ``EchoSettings``; the same for every run.

    Raises:
        DreamEnvsError: for settings that cannot be run, a run that fails, or a folder of another study.
    """
    out, changes = Path(out), dict(changes or {})
    plan = jobs(bases, coefficients, [str(s) for s in range(seeds)])
    if side_by_side < 1:
        raise DreamEnvsError(f"side_by_side={side_by_side}: 1 or more")
    expected = [msgspec.to_builtins(settings_of(job, changes)) for job in plan]  # fails before anything is run
    run_all(out, plan, side_by_side, changes)
    runs = [read_json(out / job.name / RESULT) for job in plan]
    for job, found, wanted in zip(plan, runs, expected, strict=True):
        if found["settings"] != wanted:
            raise DreamEnvsError(f"{out / job.name} holds a run with other settings: choose another --out")
    study = summary(runs)
    write_json(out / "echo_study.json", study)
    words = [f"--seeds {seeds}", "--kl " + " ".join(f"{k:g}" for k in coefficients), "--bases " + " ".join(bases)]
    words += ["--set " + " ".join(f"{k}={v}" for k, v in changes.items())] if changes else []
    (out / "table.md").write_text(
        markdown(study, " ".join(["python -m dream_envs.baselines.studies.echo", *words])), "utf-8"
    )
    plot(study, out)
    return read_json(out / "echo_study.json")


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m dream_envs.baselines.studies.echo [--seeds 5] [--kl 0 0.001 0.01] [--set lr=1e-4 ...]``."""
    parser = argparse.ArgumentParser(description="which answer format training by reward keeps, and when")
    parser.add_argument("--out", type=Path, default=Path("runs/echo"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kl", type=float, nargs="+", default=COEFFICIENTS)
    parser.add_argument("--bases", nargs="+", default=BASES)
    parser.add_argument("--side-by-side", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other run settings")
    parser.add_argument("--run", nargs=3, metavar=("BASE", "KL", "SEED"), help="only this run, in this process")
    given = parser.parse_args(argv)
    changes = dict(item.partition("=")[::2] for item in given.set)
    before = signal.signal(signal.SIGTERM, _stop)  # so that the children end with us
    try:
        if given.run:
            base, kl, seed = given.run
            one(given.out, Job(base, float(kl), seed), changes)
            return
        echo(
            given.out,
            seeds=given.seeds,
            bases=tuple(given.bases),
            coefficients=tuple(given.kl),
            side_by_side=given.side_by_side,
            changes=changes,
        )
        print((given.out / "table.md").read_text("utf-8"))
    except DreamEnvsError as error:
        sys.exit(f"echo: {error}")
    except KeyboardInterrupt:
        sys.exit("echo: stopped; the same command goes on from here")
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
