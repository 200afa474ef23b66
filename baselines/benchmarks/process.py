"""Sections 5, 6 and 7 of the benchmark: the archive at a million challenges, the start of a process, kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dream_envs.baselines.benchmarks.rows import Options, Row, at_most, side_by_side
from dream_envs.core import Task
from dream_envs.curriculum.novelty import NoveltyIndex
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

DEPTH, ASKED = 12, 1000
IMPORT, HELP = 0.3, 0.5
TIMEOUT = 3600.0


def archive(options: Options) -> list[Row]:
    """Microseconds a look-up and an addition, with 10^4 and with 10^6 challenges."""
    sizes = (10**4, options.pick(10**5, 10**6, 10**6))
    tasks = _tasks(sizes[1] + 4 * ASKED)
    store, index = ChallengeStore(), NoveltyIndex()
    found: dict[str, list[float]] = {}
    filled = 0
    for size in sizes:
        for task in tasks[filled:size]:
            store.add(task, round=0)
        index.extend(tasks[filled:size])
        filled = size
        new, more = tasks[size : size + ASKED], tasks[size + ASKED : size + 2 * ASKED]
        held = tasks[: size : size // ASKED][:ASKED]
        works: dict[str, Callable[[], Any]] = {
            "store look-up": partial(_all, lambda task: task.id in store, [*new, *held]),
            "index look-up, new": partial(_all, index.similarity, new),
            "index look-up, held": partial(_all, index.similarity, held),
        }
        for name, times in side_by_side(works, options.pick(3, 5, 9)).items():
            count = 2 * ASKED if name == "store look-up" else ASKED
            found.setdefault(name, []).append(1e6 * statistics.median(times) / count)
        for name, add in (("store add", lambda t: store.add(t, round=0)), ("index add", index.add)):
            found.setdefault(name, []).append(1e6 * _each(add, more))
    growth = sizes[1] // sizes[0]
    return [
        Row(
            section=5,
            what=f"{name}: {sizes[1]:,} challenges against {sizes[0]:,}",
            unit="µs",
            ours=at[1],
            peer=at[0],
            peer_name=f"at {sizes[0]:,}",
            ratio=at[1] / at[0],
            target=f"<= 4 for {growth} x as many" if "look-up" in name else "",
            met=at_most(at[1] / at[0], 4.0) if "look-up" in name else None,
        )
        for name, at in found.items()
    ]


def _all(work: Callable[[Any], Any], items: Sequence[Any]) -> None:
    for item in items:
        work(item)


def _each(work: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Median seconds of one item: a table that grows once in a while does not count."""
    times = []
    for item in items:
        began = time.perf_counter()
        work(item)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _tasks(count: int) -> list[Task]:
    """So many different problems."""
    family, rng, made = Composition(), stream("bench", "archive"), dict[str, Task]()
    while len(made) < count:
        ops = rng.integers(len(family.operations), size=(count, DEPTH)).tolist()
        starts = rng.integers(len(family.states), size=count).tolist()
        for start, row in zip(starts, ops, strict=True):
            task = family.make(family.states[start], "".join([family.operations[o] for o in row]))
            made[task.id] = task
    return list(made.values())[:count]


def starting(options: Options) -> list[Row]:
    """Seconds that a process needs to import the package, and to print its help."""
    bare = [sys.executable, "-c", "pass"]
    lines = {
        "import dream_envs": [sys.executable, "-c", "import dream_envs"],
        "dream-envs --help": [sys.executable, "-m", "dream_envs.cli", "--help"],
    }
    works: dict[str, Callable[[], Any]] = {"python": lambda: _quiet(bare)}
    works |= {name: partial(_quiet, line) for name, line in lines.items()}
    times = side_by_side(works, options.pick(3, 5, 9))
    python = statistics.median(times["python"])
    importing = statistics.median(a - b for a, b in zip(times["import dream_envs"], times["python"], strict=True))
    helping = statistics.median(times["dream-envs --help"])
    return [
        Row(
            section=6,
            what="import dream_envs, without the interpreter's own start",
            unit="s",
            ours=importing,
            target=f"<= {IMPORT} s",
            met=at_most(importing, IMPORT),
        ),
        Row(
            section=6,
            what="dream-envs --help, the whole process",
            unit="s",
            ours=helping,
            peer=python,
            peer_name="python -c pass",
            target=f"<= {HELP} s",
            met=at_most(helping, HELP),
        ),
    ]


def _quiet(line: Sequence[str]) -> None:
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60)


def killing(options: Options) -> list[Row]:
    """The shortened flagship, killed at random moments and resumed, against an undisturbed run."""
    what, target = f"dream --steps {options.kill_steps}, killed {options.kill} times and resumed", "same files"
    if not options.kill:
        return [Row(section=7, what="dream, killed and resumed", target=target, note="left out: --kill N")]
    home = options.folder("bench") / "kill"
    shutil.rmtree(home, ignore_errors=True)
    plain, began = home / "plain", time.monotonic()
    if reason := _finish(_dream(plain, options.kill_steps), plain):
        return [Row(section=7, what=what, target=target, note=f"the undisturbed run failed: {reason}")]
    whole, right = time.monotonic() - began, _facts(plain)
    rng, reached, runs, wrong = stream("bench", "kill", options.kill), list[str](), 0, list[str]()
    found: dict[str, Any] = {}
    while len(reached) < options.kill and not wrong:  # a run that ends before its kills is compared, then the next
        runs += 1
        killed = home / f"killed-{runs}"
        while (process := _dream(killed, options.kill_steps)) and len(reached) < options.kill:
            try:
                process.wait(timeout=float(rng.uniform(0.1, 1.0)) * whole)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                reached.append(_where(killed))
        if reason := _finish(process, killed):
            wrong.append(f"a resume failed: {reason}")
        else:
            found = _facts(killed)
            wrong += [f"{key}: {found[key]}, undisturbed {right[key]}" for key in right if found[key] != right[key]]
    note = f"undisturbed {whole:.0f} s; {runs} runs; killed after {', '.join(reached)}"
    return [
        Row(
            section=7,
            what=what,
            unit="episodes",
            ours=found.get("lines"),
            peer=right["lines"],
            peer_name="undisturbed",
            target="same weights, episodes, challenges, metrics",
            met=not wrong,
            note="; ".join([note, *wrong]),
        )
    ]


def _dream(out: Path, steps: int) -> subprocess.Popen[bytes]:
    """The flagship in a process group of its own; what it prints goes beside its folder."""
    line = [sys.executable, "-m", "dream_envs.cli", "dream", "--steps", str(steps), "--out", str(out)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            [*line, "--threads", "1", "--resume", "--json"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _finish(process: subprocess.Popen[bytes], out: Path) -> str:
    """Wait for the end; why it failed, or nothing."""
    try:
        process.wait(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"no end after {TIMEOUT:.0f} s"
    return "" if process.returncode == 0 else _last_line(out)


def _last_line(out: Path) -> str:
    lines = out.with_suffix(".log").read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else "it printed nothing"


def _where(out: Path) -> str:
    """How far a killed run had come."""
    metrics = out / "metrics.jsonl"
    steps = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    saved = max((int(p.name.partition("-")[2]) for p in out.glob("checkpoints/checkpoint-*")), default=0)
    return f"step {steps} (checkpoint {saved})"


def _facts(out: Path) -> dict[str, Any]:
    """What has to be the same after any number of kills."""
    frontier = json.loads((out / "frontier.json").read_text())
    weights = (out / "checkpoints" / "final" / "model.safetensors").read_bytes()
    episodes = (out / "episodes.jsonl").read_bytes()
    return {
        "trained_hash": frontier["run"]["trained_hash"],
        "weights": hashlib.sha256(weights).hexdigest()[:16],
        "lines": episodes.count(b"\n"),
        "challenges": hashlib.sha256((out / "challenges.jsonl").read_bytes()).hexdigest()[:16],
        "metrics": (out / "metrics.jsonl").read_bytes().count(b"\n"),
    }
