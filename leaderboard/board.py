"""The organiser's side of a run: a world, a trainer, a measurement, a line.

Each run is two processes: one trains (``trainer``), one measures what it left (``measure``); code of an entry's own has
a third one, in the sandbox.  What a run leaves is removed when its line is written, unless it is asked to stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import dream_envs
from dream_envs import sandbox
from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import entry as entries
from dream_envs.leaderboard import goal, scores, worlds
from dream_envs.leaderboard.budget import Budget, Used, budget_of
from dream_envs.leaderboard.entry import Read
from dream_envs.leaderboard.scores import Gain, Result
from dream_envs.runs import write_json
from dream_envs.seeds import digest

Tell = Callable[[str], None]
#: Wall-clock seconds a run may take, in times of its class's processor seconds: machines are shared.
PATIENCE = 6.0
#: Memory of an entry's own process, and address space of the trainer, for settings of a million games a round.
GUEST_MB, TRAINER_MB = 2048, 12_288


class Place(msgspec.Struct, frozen=True):
    """Where a board lies: ``entries/``, ``results/``, ``rounds/`` and ``site/`` in ``root``; worlds in ``cache``."""

    root: Path
    cache: Path

    def entry(self, name: str) -> Read:
        """The entry of this name, or in this folder."""
        given = Path(name)
        folder = given if given.is_dir() and len(given.parts) > 1 else self.root / "entries" / name
        if not folder.is_dir():
            known = ", ".join(self.names()) or "none yet"
            raise DreamEnvsError(f"no entry {name!r:.60} in {self.root / 'entries'} (there: {known})")
        return entries.read(folder)

    def names(self) -> list[str]:
        """All entries, by name."""
        folder = self.root / "entries"
        return (
            sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._") if folder.is_dir() else []
        )

    def results(self, round: str) -> Path:
        """The file of a round's lines."""
        return self.root / "results" / f"{round}.jsonl"


class Run(msgspec.Struct, frozen=True):
    """A run to be done: an entry in one world of a round.  ``label``: of the world, its seed and its base."""

    entry: Read
    round: str
    budget: int
    world: int
    label: str


def run_all(
    runs: Sequence[Run],
    place: Place,
    *,
    by: str,
    jobs: int = 2,
    keep: Path | None = None,
    gain: bool = False,
    any_version: bool = False,
    tell: Tell = print,
) -> list[Result]:
    """Do what has no line yet, ``jobs`` at a time; every run's line is written as it ends.  All lines, in order.

    ``keep``: a folder that what the runs leave stays in.  ``gain``: measure the Frontier Report's headline as well.
    ``any_version``: run entries whose lock names other versions than are installed.
    """
    for entry in {r.entry.name: r.entry for r in runs}.values():
        if (wrong := entry.unlocked()) and not any_version:
            raise DreamEnvsError(f"{entry.name}: {'; '.join(wrong)}: install it, or --any-version for a trial")
    done = {(r.entry, r.entry_hash, r.budget, r.world) for r in _lines(runs, place) if r.status != "error"}
    waiting = [r for r in runs if (r.entry.name, r.entry.hash, r.budget, r.world) not in done]
    began, found = time.monotonic(), list[Result]()
    if waiting:
        tell(f"{len(waiting)} runs, {jobs} side by side, a minute or more each; a new world's base takes minutes first")
    bases = prepare({r.label for r in waiting}, place.cache, jobs, tell)
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_one, r, bases[r.label], by=by, keep=keep, gain=gain): r for r in waiting}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                found.append(future.result())
                scores.append(place.results(futures[future].round), found[-1:])
                spent = time.monotonic() - began
                left = spent / number * (len(waiting) - number)
                tell(f"{number}/{len(waiting)}  {told(found[-1])}; {left:.0f} s left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    wanted = {(r.entry.hash, r.budget, r.world) for r in runs}
    return [r for r in _lines(runs, place) if (r.entry_hash, r.budget, r.world) in wanted]


def drawn(runs: Sequence[Run], place: Place, share: float, label: str) -> list[Run]:
    """That share of the runs which have a line, rounded up; the same for the same label (a date, say)."""
    there = {(line.entry_hash, line.budget, line.world) for line in _lines(runs, place) if line.status == "ok"}
    known = [run for run in runs if (run.entry.hash, run.budget, run.world) in there]
    known.sort(key=lambda run: digest("board-again", label, run.entry.hash, run.world))
    return known[: math.ceil(share * len(known))]


def reproduce(runs: Sequence[Run], place: Place, *, by: str, jobs: int, tell: Tell) -> list[dict[str, Any]]:
    """Do runs again that have a line, and add theirs; the two hashes of each, and whether they are equal.

    Raises:
        DreamEnvsError: for a run that nobody has done.
    """
    first = dict[tuple[str, int, int], Result]()
    for line in _lines(runs, place):
        if line.status == "ok":
            first.setdefault((line.entry_hash, line.budget, line.world), line)
    for run in runs:
        if (run.entry.hash, run.budget, run.world) not in first:
            told = f"{run.entry.name}, world {run.world} of {run.round}: no line of it yet"
            raise DreamEnvsError(
                f"{told}; dream-envs board run {run.entry.name} --round {run.round} --seeds {run.world + 1}"
            )
    bases = prepare({r.label for r in runs}, place.cache, jobs, tell)
    pairs = list[dict[str, Any]]()
    with ThreadPoolExecutor(jobs) as pool:
        for run, line in zip(runs, pool.map(lambda run: run_one(run, bases[run.label], by=by), runs), strict=True):
            scores.append(place.results(run.round), [line])
            was = first[run.entry.hash, run.budget, run.world].hash
            found = {"first": was, "now": line.hash or line.detail, "equal": was == line.hash}
            pairs.append({"entry": run.entry.name, "world": run.world, **found})
            tell(f"{len(pairs)}/{len(runs)}  {reproduced_text(pairs[-1:])}")
    return pairs


def reproduced_text(found: Sequence[dict[str, Any]]) -> str:
    """A line a world."""
    words = {True: "equal hashes", False: "DIFFERENT hashes"}
    return "\n".join(f"{p['entry']}, world {p['world']}: {words[p['equal']]} ({p['first']}, {p['now']})" for p in found)


def _lines(runs: Sequence[Run], place: Place) -> list[Result]:
    return [line for name in {r.round for r in runs} for line in scores.load(place.results(name))]


def told(result: Result) -> str:
    """A line for a terminal: what came of a run."""
    if result.status != "ok":
        return f"{result.entry}, world {result.world}: {result.status} ({result.detail})"
    what = f"{result.samples:,} samples to the goal" if result.samples is not None else f"missed: {result.miss}"
    return f"{result.entry}, world {result.world}: {what}; {result.used.seconds:.0f} processor s"


def prepare(labels: set[str], cache: Path, jobs: int, tell: Tell) -> dict[str, Path]:
    """The bases of these worlds, each pre-trained where the cache has none, ``jobs`` processes at a time."""

    def made(label: str) -> Path:
        code = (
            "import sys, pathlib, torch; torch.set_num_threads(1)\n"
            "from dream_envs.leaderboard.worlds import base_of\n"
            "print(base_of(sys.argv[1], pathlib.Path(sys.argv[2]), log=lambda line: None))"
        )
        began = time.monotonic()
        ended = run_child([sys.executable, "-c", code, label, str(cache)], cache, None, 1800)
        if ended.returncode:
            raise DreamEnvsError(f"the base of {label} was not made: {last_line(ended.stderr)}")
        folder = Path(ended.stdout.strip().splitlines()[-1])
        if (spent := time.monotonic() - began) > 20:
            tell(f"pre-trained the base of {label} in {spent:.0f} s")
        return folder

    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(sorted(labels), pool.map(made, sorted(labels)), strict=True))


def run_one(run: Run, base: Path, *, by: str, keep: Path | None = None, gain: bool = False) -> Result:
    """Train, measure, and make the line."""
    scratch = (keep or base.parent / "scratch") / f"{run.entry.name}-{run.budget}-{run.world}-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    plain = Result(
        run.entry.name, run.entry.hash, run.round, run.budget, run.world, worlds.card(base)["weights_hash"], "error",
        by=by, date=datetime.now(UTC).isoformat(timespec="seconds"), source=source_hash(),
        versions={**{n: entries.installed(n) for n in entries.LOCKED}, "python": platform.python_version()},
    )  # fmt: skip
    try:
        return _run(run, base, scratch, plain, gain)
    except DreamEnvsError as error:
        return msgspec.structs.replace(plain, detail=str(error))
    finally:
        if keep is None:
            shutil.rmtree(scratch, ignore_errors=True)


def _run(run: Run, base: Path, scratch: Path, plain: Result, gain: bool) -> Result:
    budget, about = budget_of(run.budget), run.entry.about
    job = {
        "loop": about.loop, "steps": about.steps, "world": run.label, "model": str(base), "seed": run.label,
        "budget": msgspec.to_builtins(budget), "out": str(scratch), "learner": about.learner, "set": about.set,
    }  # fmt: skip
    command = [sys.executable, "-m", "dream_envs.leaderboard.trainer", str(scratch / "job.json")]
    with contextlib.ExitStack() as stack:
        guest: Guest | None = None
        if run.entry.coded:
            guest = stack.enter_context(Guest(run.entry, budget))
            job["guest"] = guest.fds
        write_json(scratch / "job.json", job)
        ended = run_child(command, scratch, budget.seconds, PATIENCE * budget.seconds, guest.fds if guest else ())
    if guest is not None and guest.ended is not None and guest.ended.status not in ("ok", "error"):
        told = f"its own process: {guest.ended.status} ({guest.ended.detail})"
        return msgspec.structs.replace(plain, status="disqualified", detail=told)
    if ended.returncode in (-9, -24):  # SIGKILL and SIGXCPU: the limits of its own
        return msgspec.structs.replace(plain, status="disqualified", detail=f"over {budget.seconds:g} processor s")
    if ended.returncode:
        raise DreamEnvsError(last_line(ended.stdout if ended.returncode == 2 else ended.stderr))
    used = msgspec.json.decode(ended.stdout.strip().splitlines()[-1], type=Used)
    if used.seconds > budget.seconds:
        return msgspec.structs.replace(plain, status="disqualified", detail=f"{used.seconds:.0f} processor s")
    command = [sys.executable, "-m", "dream_envs.leaderboard.measure", str(scratch), run.label, str(base)]
    measured = run_child(command, scratch, None, 1800)
    if measured.returncode:
        raise DreamEnvsError(f"measuring failed: {last_line(measured.stderr)}")
    return _scored(scratch, plain, budget, used, _gain(run, base, scratch) if gain else None)


def _scored(scratch: Path, plain: Result, budget: Budget, used: Used, gain: Gain | None) -> Result:
    curve = msgspec.json.decode((scratch / "curve.json").read_bytes(), type=list[goal.Point])
    found = goal.outcome(curve, budget)
    final = sorted((scratch / "points").glob("*.safetensors"))[-1]
    made = msgspec.structs.replace(
        plain, status="ok", samples=found.samples, miss=found.miss, best=found.best, used=used, gain=gain,
        curve=[[p.used.samples, p.used.trained, p.used.steps, p.used.seconds, *p.success.values()] for p in curve],
        weights=hashlib.sha256(final.read_bytes()).hexdigest()[:16],
    )  # fmt: skip
    return msgspec.structs.replace(made, hash=scores.reproducible(made))


def _gain(run: Run, base: Path, scratch: Path) -> Gain:
    """The headline of a mini Frontier Report in the run's own world."""
    command = [
        sys.executable, "-m", "dream_envs.cli", "frontier", "--base", str(base), "--trained", str(scratch / "final"),
        "--suite", f"nano@{run.label}", "--out", str(scratch / "frontier"), "--cache", str(base.parent / "draws"),
        "--quiet",
    ]  # fmt: skip
    ended = run_child(command, scratch, None, 3600)
    if ended.returncode:
        raise DreamEnvsError(f"the Frontier Report failed: {last_line(ended.stderr)}")
    from dream_envs.frontier.schema import read_report

    found = read_report(scratch / "frontier")
    return Gain(*found.headline.g, found.verdict.word)


class Guest:
    """The process of an entry's own code, in the sandbox; ``fds`` are the trainer's ends of its pipes.

    It ends when the trainer's ends are closed.  ``ended``: what came of it.
    """

    def __init__(self, entry: Read, budget: Budget) -> None:
        if reason := sandbox.available():
            raise DreamEnvsError(f"{entry.name} has code of its own, which runs in a sandbox alone; {reason}")
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        self.fds, self.ended = (self._read, self._write), None
        box = sandbox.Sandbox(
            memory_mb=GUEST_MB, cpu_s=int(budget.seconds), wall_s=PATIENCE * budget.seconds, threads=1, output_kb=64,
            read_only={**suite_mounts(), str(entry.folder): "/entry"}, python_path=("/suite", "/site"),
        )  # fmt: skip
        source = f"from dream_envs.leaderboard.guest import serve\nserve('/entry/loop.py', ({to_read}, {to_write}))"

        def watch() -> None:
            try:
                self.ended = box.run(source, channel=(to_read, to_write))
            finally:
                os.close(to_read)
                os.close(to_write)

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        os.close(self._write)
        self._thread.join(PATIENCE * 60)


def suite_mounts() -> dict[str, str]:
    """Mounts of the suite's code and of the packages that it imports, by their places here."""
    root = Path(dream_envs.__file__).parent
    folders = {str(root.resolve()): "/suite/dream_envs", sysconfig.get_path("purelib"): "/site"}
    for name in ("agents", "baselines", "leaderboard"):
        if (root / name).is_symlink():  # a clone, whose links lead out of the package
            folders[str((root / name).resolve())] = f"/suite/{name}"
    return folders


def run_child(
    command: Sequence[str], folder: Path, seconds: float | None, patience: float, fds: Sequence[int] = ()
) -> Any:
    """Run a process of one thread to its end, within limits of processor time and memory; as ``subprocess.run``.

    Raises:
        DreamEnvsError: if it is not done after ``patience`` seconds of wall-clock time; it is killed then.
    """
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")}
    env = {**keep, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=tuple(fds)
    ) as child:
        if seconds is not None and hasattr(
            resource, "prlimit"
        ):  # from here: a function that runs between fork and exec may hang among threads
            most = int(seconds) + 1
            resource.prlimit(child.pid, resource.RLIMIT_CPU, (most, most + 1))
            resource.prlimit(child.pid, resource.RLIMIT_AS, (TRAINER_MB * 2**20,) * 2)
        try:
            out, error = child.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            child.kill()
            raise DreamEnvsError(f"not done after {patience:.0f} s of wall-clock time") from None
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, error)


def last_line(text: str) -> str:
    """What a process said last, for an error of one line."""
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


def source_hash() -> str:
    """A hash of the suite's own code: what else than an entry decides a run's numbers."""
    root, found = Path(dream_envs.__file__).parent, hashlib.sha256()
    for folder in (root, root / "agents", root / "baselines"):
        for file in sorted(folder.rglob("*.py")):
            found.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return found.hexdigest()[:16]


def runs_of(entry: Read, round: str, beacon: str, number: int, seeds: int) -> list[Run]:
    """An entry's runs in the first worlds of a round."""
    budget_of(number)
    return [Run(entry, round, number, i, worlds.label_of(beacon, i)) for i in range(seeds)]


def name_of_this_machine() -> str:
    """Who runs here, where nobody says so: the same for the same machine, and nobody's name."""
    return f"machine-{digest('board-machine', platform.node(), os.getuid() if hasattr(os, 'getuid') else 0):016x}"[:16]
