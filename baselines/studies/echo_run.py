"""One run of the echo study: a base with three answer formats, GRPO on a fixed set of problems, exams on others."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from dream_envs.agents.training.grpo import GRPO, GRPOSettings

from dream_envs.agents.engines.local import LocalAgent, keep_memory, resolve
from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.rows import RowConfig
from dream_envs.baselines.nano.recipe import weights_hash
from dream_envs.baselines.studies.echo_measure import Exam, K, rounds
from dream_envs.baselines.studies.echo_task import CompositionFormats
from dream_envs.core import Action, DreamEnvsError, Episode, Start, Task
from dream_envs.curriculum.curriculum import CHALLENGER, Share, Syllabus
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import read_episodes
from dream_envs.rewards.solver import correctness
from dream_envs.runs import Run, read_json
from dream_envs.seeds import stream

RESULT = "echo.json"


class EchoSettings(msgspec.Struct, frozen=True):
    """What decides a run's result.

    ``kl``: coefficient of the divergence from the base in the loss (k3, as in the paper's GRPO runs).  ``prompts``
    problems a step, ``attempts`` replies each.  ``train`` problems are passed through in random order, again and again:
    an epoch is one pass.  ``test`` others are for exams, ``draws`` replies each.
    """

    base: str = "nano/echo"
    kl: float = 0.0
    seed: str = "0"
    steps: int = 96
    prompts: int = 32
    attempts: int = 8
    train: int = 768
    test: int = 128
    draws: int = 64
    depth: int = 3
    lr: float = 5e-4
    warmup: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "prompts", "attempts", "train", "test"):
            if (value := getattr(self, name)) < 1:
                raise DreamEnvsError(f"{name}={value}: 1 or more")
        if self.train % self.prompts:
            raise DreamEnvsError(f"train={self.train}: a multiple of prompts={self.prompts}, so that epochs are whole")
        if self.draws % max(K) or self.draws < 1:
            raise DreamEnvsError(f"draws={self.draws}: a multiple of {max(K)}")
        if not self.kl >= 0:
            raise DreamEnvsError(f"kl={self.kl}: 0 or more")

    @property
    def epoch(self) -> int:
        """Steps an epoch."""
        return self.train // self.prompts


class Passes(Syllabus):
    """A fixed list of problems, passed through again and again, each time in another random order.

    Args:
        family: the problems' family.
        tasks: the problems, a multiple of ``prompts``.
        prompts: problems a round.
        seed: the run's seed label.
    """

    def __init__(self, family: CompositionFormats, tasks: Sequence[Task], prompts: int, *, seed: str) -> None:
        super().__init__(family, Share(0, 0, 0, prompts), seed=seed, store=ChallengeStore(None))
        self.tasks, self.prompts = list(tasks), prompts

    def plan(self, round: int) -> list[Start]:
        """The next ``prompts`` problems of this pass."""
        size = len(self.tasks) // self.prompts
        order = stream(self.seed, "pass", round // size).permutation(len(self.tasks))
        at = round % size * self.prompts
        chosen = [self.tasks[i] for i in order[at : at + self.prompts]]
        first = round * self.prompts
        return [
            Start(first + i, None, {CHALLENGER: Action(self.family.as_proposal(t))}, "generator")
            for i, t in enumerate(chosen)
        ]

    def absorb(self, round: int, episodes: Sequence[Episode]) -> None:
        """Nothing: the list is fixed."""


def family_of(base: str, depth: int) -> CompositionFormats:
    """The world that a nano base was pre-trained on, by its ``nano.json``, with all three formats accepted.

    Raises:
        DreamEnvsError: if the folder does not say.
    """
    folder = Path(resolve(base))
    card = read_json(folder / "nano.json")
    try:
        arguments = dict(card["recipe"]["support"]["family_args"])
    except (KeyError, TypeError) as error:
        raise DreamEnvsError(f"base={base!r}: {folder}/nano.json names no family_args; give a nano base") from error
    return CompositionFormats(**{**arguments, "max_level": depth + 1})


def problems(family: CompositionFormats, depth: int, train: int, test: int) -> tuple[list[Task], list[Task]]:
    """Distinct problems of this depth, the same for every run: ``train`` to learn from, ``test`` to be asked.

    Raises:
        DreamEnvsError: if the world does not have so many.
    """
    if depth not in family.levels:
        raise DreamEnvsError(f"depth={depth}: {family.levels.start} to {family.levels.stop - 1}")
    every = [
        family.make(start, "".join(ops))
        for start in family.states
        for ops in itertools.product(family.operations, repeat=depth)
    ]
    every = [t for t in every if not t.meta["held_out"]]
    if len(every) < train + test:
        raise DreamEnvsError(f"train={train}, test={test}: this world has {len(every)} problems of depth {depth}")
    order = stream("echo-problems", family.world, depth).permutation(len(every))
    return [every[i] for i in order[test : test + train]], [every[i] for i in order[:test]]


def marks(steps: int) -> list[int]:
    """Log-spaced steps, two an octave, with 0 and ``steps``: 0, 1, 2, 3, 4, 6, 8, 11, 16 ..."""
    octaves = (round(2 ** (i / 2)) for i in itertools.count())
    return sorted({0, steps, *itertools.takewhile(lambda s: s < steps, octaves)})


def config_of(settings: EchoSettings) -> dict[str, Any]:
    """What a run's folder is bound to."""
    folder = Path(resolve(settings.base))
    return {"command": "echo", **msgspec.to_builtins(settings), "weights_hash": weights_hash(folder)}


def rule(settings: EchoSettings, save_every: int) -> GRPOSettings:
    """Every reply of an informative group is a row; nothing is reviewed, no gold reply exists anywhere."""
    rows = RowConfig(rows=settings.prompts * settings.attempts, groups=settings.prompts, review=0)
    return GRPOSettings(lr=settings.lr, kl=settings.kl, warmup=settings.warmup, save_every=save_every, rows=rows)


def run(
    settings: EchoSettings, out: Path, *, save_every: int = 64, tick: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """One run in ``out`` to its end, from wherever it stands; returns ``echo.json``.

    Args:
        settings: what is run.
        out: the run folder; one that holds a finished run of these settings is only read.
        save_every: steps between checkpoints.
        tick: called with the step before each step.

    Raises:
        DreamEnvsError: if the folder holds another run.
    """
    began = time.perf_counter()
    folder = Run(out, config_of(settings))
    if (done := folder.read(RESULT)) is not None:
        folder.close()
        return done
    base = LocalAgent(settings.base)
    family = family_of(settings.base, settings.depth)
    train, test = problems(family, settings.depth, settings.train, settings.test)
    exam = Exam(family, test, base, seed=settings.seed, draws=settings.draws, group=settings.attempts)
    at = set(marks(settings.steps))

    def evaluate(step: int, agent: LocalAgent) -> dict[str, Any]:
        if tick:
            tick(step)
        return {"exam": exam(agent)} if step in at else {}

    game = ChallengerSolver(family, solvers=settings.attempts)
    syllabus = Passes(family, train, settings.prompts, seed=f"echo/{settings.seed}")
    practice = Practice(game, syllabus, correctness(), folder)
    learner = GRPO(settings.base, settings=rule(settings, save_every), seed=settings.seed, evaluate=evaluate)
    learner.improve(practice, {}, settings.steps, folder)
    learner.save(str(folder.path / "final"))
    result = collect(settings, folder, family, exam(learner.engine), time.perf_counter() - began)
    folder.write(RESULT, result)
    folder.close()
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return result


def collect(
    settings: EchoSettings, folder: Run, family: CompositionFormats, last: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The run's whole record, JSON-ready."""
    metrics = [msgspec.json.decode(x) for x in (folder.path / "metrics.jsonl").read_bytes().splitlines()]
    exams = [{"step": row["step"], **row["exam"]} for row in metrics if "exam" in row]
    return {
        "schema": 1,
        "kind": "echo",
        "settings": msgspec.to_builtins(settings),
        "weights_hash": folder.config["weights_hash"],
        "trained_hash": weights_hash(folder.path / "final"),
        "epoch_steps": settings.epoch,
        "chance": 1.0 / len(family.states),
        "exams": [*exams, {"step": settings.steps, **last}],
        "rounds": rounds(read_episodes(folder.path / "episodes.jsonl"), settings.prompts),
        "seconds": round(seconds, 1),
    }


def prepare(threads: int = 1) -> None:
    """Settings of the process that a run wants: one thread is fastest for models this small."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()
