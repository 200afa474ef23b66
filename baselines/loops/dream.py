"""The flagship: a small pretrained model writes its own syllabus and learns from it; what it gained is exact.

One seed, one arm: ``dream-envs dream --out runs/dream``.  The same folder goes on after a kill with ``--resume`` and
ends in the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.experience import Buffer
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.learners import spec
from dream_envs.baselines import loop
from dream_envs.baselines.eval_set import Yardstick
from dream_envs.baselines.loops.arms import Arm, arm
from dream_envs.baselines.loops.nights import PLANS
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum import gates
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.curriculum.curriculum import Syllabus
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.runs import Run

ATTEMPTS = 8


class Settings(msgspec.Struct, frozen=True):
    """What decides a run's result."""

    arm: str = "sleep"
    learner: str = "grpo"
    seed: str = "0"
    base: str = "nano/compose"
    steps: int = 150
    attempts: int = ATTEMPTS
    per_depth: int = 128


def reviews(learner: str) -> bool:
    """Whether this learner learns from its review alone."""
    return spec(learner).settings().rows.play_every > 1


def own_arm(learner: str) -> str:
    """The loop that a learner runs where none is named."""
    return "full" if reviews(learner) else "sleep"


def check(settings: Settings) -> None:
    """Raise a one-line DreamEnvsError for what cannot be run."""
    if not arm(settings.arm).review and reviews(settings.learner):
        told = f"arm={settings.arm!r} has no review awake, and {settings.learner!r} learns from nothing else"
        raise DreamEnvsError(f"{told}: choose another learner, or an arm that reviews")
    for name in ("steps", "attempts", "per_depth"):
        if (value := getattr(settings, name)) < 1:
            raise DreamEnvsError(f"{name}={value}: 1 or more")


def job_of(settings: Settings) -> loop.Job:
    """The job of these settings.

    Raises:
        DreamEnvsError: if the base has no weights that could be named.
    """
    rule, chosen = spec(settings.learner).settings(), arm(settings.arm)
    if not chosen.review:
        rule = msgspec.structs.replace(rule, rows=msgspec.structs.replace(rule.rows, review=0))
    given = msgspec.to_builtins(settings)
    about = {k: given[k] for k in ("arm", "learner", "seed", "steps", "base")}
    config = {"command": "dream", **given, **loop.binding(settings.base, rule)}
    stages = tuple(_stages(settings, PLANS[chosen.night] if chosen.night else None))
    if chosen.night:
        config["night"] = msgspec.to_builtins(PLANS[chosen.night])
    return loop.Job(settings.base, settings.learner, settings.seed, rule, stages, config, about, settings.per_depth)


def _stages(settings: Settings, night: SleepSettings | None) -> Iterator[loop.Stage]:
    """One stage; with nights one for each day."""

    def practice(stand: loop.Stand, first: int) -> Practice:
        return build(settings, stand.run, stand.yardstick, stand.base, first=first)

    every = night.every if night is not None else settings.steps
    for done in range(0, settings.steps, every):
        yield loop.Stage("dream" if night is None else "day", min(every, settings.steps - done), practice, night=night)


def build(settings: Settings, run: Run, yardstick: Yardstick, base: LocalAgent, first: int = 0) -> Practice:
    """The game, the syllabus and the reward of this arm."""
    chosen: Arm = arm(settings.arm)
    store = ChallengeStore(run.path / "challenges.jsonl")
    gate = gates.every(gates.held_out(yardstick.reserved()), gates.archive(store))
    game = ChallengerSolver(yardstick.family, solvers=settings.attempts, gate=gate)
    syllabus = Syllabus(yardstick.family, chosen.share, seed=f"dream/{settings.seed}", store=store)
    seats = {"challenger": base} if chosen.frozen else {}
    memory = Buffer(PLANS[chosen.night].capacity) if chosen.night else None
    return Practice(game, syllabus, chosen.reward(), run, seats=seats, first=first, memory=memory)


def train(settings: Settings, out: Path, *, tick: loop.Tick, save_every: int | None = None) -> dict[str, Any]:
    """Run the loop in ``out`` to its end, from wherever it stands; returns the frontier.  See ``loop.train``."""
    return loop.train(job_of(settings), out, tick=tick, save_every=save_every)


def dream(
    out: Path,
    *,
    seed: str = "0",
    arm: str | None = None,
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
        arm: one of ``arms.ARMS``; None: ``sleep``, or ``full`` for a learner who lives on its review.
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
    settings = Settings(
        arm=arm or own_arm(learner),
        learner=learner,
        seed=str(seed),
        base=base,
        steps=default if steps is None else steps,
    )
    check(settings)
    out = Path(out)
    found = loop.conduct(job_of(settings), out, resume=resume, threads=threads, quiet=quiet or json)
    if not json:
        from rich.console import Console

        from dream_envs.report.terminal import show

        show(out, Console())
        print(f"report: {out / 'report.html'}")
    return found
