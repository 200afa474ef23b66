"""The flagship: a small pretrained model writes its own syllabus and learns from it; what it gained is exact.

One seed, one arm: ``dream-envs dream --out runs/dream``.  The same folder goes on after a kill with ``--resume`` and
ends in the same weights.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from dream_envs.agents.learners import learner as make_learner
from dream_envs.agents.learners import spec
from dream_envs.agents.local import LocalAgent, keep_memory, resolve
from dream_envs.agents.practice import Practice
from dream_envs.baselines.arms import Arm, arm
from dream_envs.baselines.measure import Yardstick, drift, entropies, frontier
from dream_envs.baselines.nano.recipe import weights_hash
from dream_envs.baselines.watch import Watch
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum import gates
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.curriculum.syllabus import Syllabus
from dream_envs.games.challenger_solver import ChallengerSolver
from dream_envs.runs import Run, read_json
from dream_envs.tasks.composition import Composition

ATTEMPTS = 8
MAX_LEVEL = 10
MEASURE_EVERY = 20


class Settings(msgspec.Struct, frozen=True):
    """What decides a run's result."""

    arm: str = "full"
    learner: str = "grpo"
    seed: str = "0"
    base: str = "nano/compose"
    steps: int = 150
    attempts: int = ATTEMPTS
    per_depth: int = 128


def check(settings: Settings) -> None:
    """Raise a one-line DreamEnvsError for what cannot be run."""
    arm(settings.arm)
    spec(settings.learner)
    for name in ("steps", "attempts", "per_depth"):
        if (value := getattr(settings, name)) < 1:
            raise DreamEnvsError(f"{name}={value}: 1 or more")


def config_of(settings: Settings) -> dict[str, Any]:
    """What a run's folder is bound to: the settings, the learner's rule and the base's weights.

    Raises:
        DreamEnvsError: if the base is not a folder with safetensors, so that its weights have no name.
    """
    folder = Path(resolve(settings.base))
    if not (folder / "model.safetensors").is_file():
        raise DreamEnvsError(f"base={settings.base!r}: no {folder}/model.safetensors; give nano/compose or a folder")
    rule = msgspec.to_builtins(spec(settings.learner).settings())
    del rule["save_every"]  # decides where a resumed run starts again, not where it ends
    return {
        "command": "dream",
        **msgspec.to_builtins(settings),
        "weights_hash": weights_hash(folder),
        "rule": rule,
    }


def build(settings: Settings, run: Run, yardstick: Yardstick, base: LocalAgent) -> Practice:
    """The game, the syllabus and the reward of this arm."""
    chosen: Arm = arm(settings.arm)
    store = ChallengeStore(run.path / "challenges.jsonl")
    gate = gates.every(gates.held_out(yardstick.reserved()), gates.archive(store))
    game = ChallengerSolver(yardstick.family, solvers=settings.attempts, gate=gate)
    syllabus = Syllabus(yardstick.family, chosen.share, seed=f"dream/{settings.seed}", store=store)
    seats = {"challenger": base} if chosen.frozen else {}
    return Practice(game, syllabus, chosen.reward(), run, seats=seats)


def train(
    settings: Settings, out: Path, *, tick: Callable[[int, dict[str, Any]], None], save_every: int | None = None
) -> dict[str, Any]:
    """Run the loop in ``out`` to its end, from wherever it stands; returns the frontier.

    Args:
        settings: what is run.
        out: the run folder.
        tick: called with (step, measurements) before each step.
        save_every: steps between checkpoints; None is the learner's default.
    """
    began = time.perf_counter()
    config = config_of(settings)
    base = LocalAgent(settings.base)
    yardstick = Yardstick(Composition(max_level=MAX_LEVEL), settings.per_depth)
    run = Run(out, config)
    practice = build(settings, run, yardstick, base)
    rule = spec(settings.learner).settings()
    watch = Watch(yardstick, base, run.path / "metrics.jsonl", settings.steps, rule.rows.play_every)

    def evaluate(step: int, agent: LocalAgent) -> dict[str, Any]:
        found: dict[str, Any] = {"seconds": time.perf_counter() - began}
        if step % MEASURE_EVERY == 0:
            newest = practice.syllabus.store.select(lambda e: e.challenge.author == "challenger", last=48)
            found |= {"exact": yardstick.means(agent), "drift": drift(base, [e.challenge for e in newest])}
        if watch.due(step):
            found |= watch.look(step, agent)
        tick(step, found)
        return found

    if save_every is not None:
        rule = msgspec.structs.replace(rule, save_every=save_every)
    learner = make_learner(settings.learner, settings.base, settings=rule, seed=settings.seed, evaluate=evaluate)
    learner.improve(practice, {}, settings.steps, run)
    learner.save(str(run.path / "checkpoints" / "final"))
    result = measure(settings, run, yardstick, base, learner.engine, practice, time.perf_counter() - began, watch)
    run.close()
    return result


def measure(
    settings: Settings,
    run: Run,
    yardstick: Yardstick,
    base: LocalAgent,
    trained: LocalAgent,
    practice: Practice,
    seconds: float,
    watch: Watch,
) -> dict[str, Any]:
    """Write ``frontier.json``: exact success before and after under every decoder, and what became of variety."""
    probe = [t for d in yardstick.support for t in yardstick.tasks["any", d][:24]]
    result = {
        "schema": 1,
        "run": {
            **{k: getattr(settings, k) for k in ("arm", "learner", "seed", "steps", "base")},
            "weights_hash": run.config["weights_hash"],
            "trained_hash": weights_hash(run.path / "checkpoints" / "final"),
            "seconds": round(seconds, 1),
            "support": {"depths": list(yardstick.support)},
        },
        **frontier(yardstick, yardstick.exact(base), yardstick.exact(trained), practice.samples),
        "entropy": {"base": entropies(base, probe), "trained": entropies(trained, probe)},
        "diversity": watch.block(trained),
        "label_accuracy": practice.history[-1].label_accuracy,
    }
    run.write("frontier.json", result)
    return result


def dream(
    out: Path,
    *,
    seed: str = "0",
    arm: str = "full",
    learner: str = "grpo",
    steps: int | None = None,
    resume: bool = False,
    base: str = "nano/compose",
    threads: int = 1,
    quiet: bool = False,
    json: bool = False,
) -> dict[str, Any]:
    """The whole job: train, measure, report.  Returns the frontier.

    Args:
        out: the run folder.
        seed: the label of everything random.
        arm: one of ``arms.ARMS``.
        learner: one of ``agents.learners.LEARNERS``: ``grpo``, ``ppo``, ``rloo``, ``expert`` (expert iteration).
        steps: optimiser steps; None is the learner's default.
        resume: go on in a folder that holds an unfinished run.
        base: the model to start from.
        threads: torch threads; 0 leaves torch's choice, which is far slower on a model this small.
        quiet: no progress on the terminal.
        json: the caller prints the result itself: no table either.

    Raises:
        DreamEnvsError: for settings that cannot be run, or a folder that is taken.
    """
    default = spec(learner).steps
    settings = Settings(arm=arm, learner=learner, seed=str(seed), base=base, steps=default if steps is None else steps)
    check(settings)
    out = Path(out)
    if (out / "run.json").exists() and not (out / "frontier.json").exists() and not resume:
        raise DreamEnvsError(f"{out} holds an unfinished run: add --resume to go on with it, or choose another --out")
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()
    done = read_json(out / "frontier.json")
    if done is None:
        with _progress(settings.steps, quiet or json) as tick:
            train(settings, out, tick=tick)
    else:
        Run(out, config_of(settings)).close()
    from dream_envs.report.page import write_report
    from dream_envs.report.terminal import show

    page = write_report(out)
    if not json:
        from rich.console import Console

        show(out, Console())
        print(f"report: {page}")
    return read_json(out / "frontier.json")


class _progress:
    """A progress line with rate and time left; nothing if ``quiet``."""

    def __init__(self, steps: int, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, disable=quiet, transient=False)
        self._steps = steps

    def __enter__(self) -> Callable[[int, dict[str, Any]], None]:
        self._bar.start()
        task = self._bar.add_task("loading", total=self._steps)

        def tick(step: int, found: dict[str, Any]) -> None:
            self._bar.update(task, completed=step)
            if exact := found.get("exact"):
                depths = "  ".join(f"d{d} {exact[str(d)]:.2f}" for d in (3, 4, 6, 8))
                self._bar.update(task, description=f"exact {depths}")

        return tick

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
