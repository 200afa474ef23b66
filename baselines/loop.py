"""What every self-made curriculum shares: stages of training in one run folder, exact success before and after, resume.

A ``Job`` is a list of stages; ``dream`` has one, R-Zero alternates between two sets of weights.  Only what a loop
changes is written in its own file (``baselines.dream``, ``baselines.azr`` ...).  A killed job goes on from its newest
checkpoint and ends in the same weights.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from dream_envs.agents.engines.local import LocalAgent, keep_memory, resolve
from dream_envs.agents.sleep.days import Place
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.grpo import COMPLETE, GRPO, GRPOSettings, newest_checkpoint
from dream_envs.agents.training.learners import learner as make_learner
from dream_envs.baselines.eval_set import Yardstick, drift, entropies, frontier
from dream_envs.baselines.loops import nights
from dream_envs.baselines.nano.recipe import weights_hash
from dream_envs.baselines.watch import Watch
from dream_envs.core import DreamEnvsError
from dream_envs.runs import Run, read_json, write_json
from dream_envs.tasks.composition import Composition

MAX_LEVEL = 10
MEASURE_EVERY = 20
Tick = Callable[[int, dict[str, Any]], None]


class Stage(msgspec.Struct, frozen=True):
    """A stretch of training with one practice, and the night behind it.

    ``weights``: which of the job's weights it trains, and goes on from.  ``practice``: makes what is practised; given
    the round that it begins at, it is to pass it on as ``first``.  ``night``: how its weights sleep on what the
    practice's ``memory`` holds; None: they do not.
    """

    name: str
    steps: int
    practice: Callable[[Stand, int], Practice]
    weights: str = "policy"
    night: SleepSettings | None = None


class Job(msgspec.Struct, frozen=True):
    """A loop, ready to run.

    ``config``: what the run folder is bound to, ``config_of`` and the loop's own settings.  ``about``: the block
    ``run`` of ``frontier.json``.  ``final``: the weights that the run delivers.
    """

    base: str
    learner: str
    seed: str
    rule: GRPOSettings
    stages: tuple[Stage, ...]
    config: dict[str, Any]
    about: dict[str, Any]
    per_depth: int = 128
    final: str = "policy"

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


class Stand:
    """Where a job stands: its run, what it is measured with, and the newest weights of every name."""

    def __init__(self, run: Run, yardstick: Yardstick, base: LocalAgent) -> None:
        self.run, self.yardstick, self.base = run, yardstick, base
        self.folders: dict[str, str] = {}
        self._agents: dict[str, LocalAgent] = {}

    def agent(self, weights: str) -> LocalAgent:
        """The newest finished weights of this name, frozen; the base where no stage has trained them yet."""
        folder = self.folders.get(weights)
        if folder is None:
            return self.base
        if folder not in self._agents:
            self._agents[folder] = LocalAgent(folder)
        return self._agents[folder]


def binding(base: str, rule: GRPOSettings) -> dict[str, Any]:
    """What a run's folder is bound to besides the loop's own settings: the base's weights and the learner's rule.

    Raises:
        DreamEnvsError: if the base is not a folder with safetensors, so that its weights have no name.
    """
    folder = Path(resolve(base))
    if not (folder / "model.safetensors").is_file():
        raise DreamEnvsError(f"base={base!r}: no {folder}/model.safetensors; give nano/compose or a folder")
    found = msgspec.to_builtins(rule)
    del found["save_every"]  # decides where a resumed run starts again, not where it ends
    return {"weights_hash": weights_hash(folder), "rule": found}


def train(job: Job, out: Path, *, tick: Tick, save_every: int | None = None) -> dict[str, Any]:
    """Run the job in ``out`` to its end, from wherever it stands; returns the frontier.

    Args:
        job: what is run.
        out: the run folder.
        tick: called with (step, measurements) before each step.
        save_every: steps between checkpoints; None is the learner's default.

    Raises:
        KeyboardInterrupt: at Ctrl-C, behind a checkpoint.
    """
    began = time.perf_counter()
    base = LocalAgent(job.base)
    yardstick = Yardstick(Composition(max_level=MAX_LEVEL), job.per_depth)
    run = Run(out, job.config)
    stand = Stand(run, yardstick, base)
    watch = Watch(yardstick, base, run.path / "metrics.jsonl", job.steps, job.rule.rows.play_every)
    practice = walk(job, stand, watch, tick, save_every=save_every, began=began)
    final = run.path / "checkpoints" / "final"
    if len(job.stages) > 1 or job.stages[0].night is not None:
        shutil.copytree(stand.folders.get(job.final, resolve(job.base)), final, dirs_exist_ok=True)
    result = measure(job, stand, LocalAgent(str(final)), practice, time.perf_counter() - began, watch)
    run.close()
    return result


def walk(
    job: Job,
    stand: Stand,
    watch: Watch | None,
    tick: Tick,
    *,
    save_every: int | None = None,
    began: float | None = None,
) -> Practice:
    """Every stage in turn, without the measurement behind them; finished ones are only read.

    Args:
        job: what is run.
        stand: the open run; holds the newest weights in the end.
        watch: looks at the variety of replies; None does not.
        tick: as ``train``'s.
        save_every: as ``train``'s.
        began: when, on ``time.perf_counter``'s clock.

    Returns:
        The last stage's practice.
    """
    first, state, run = 0, None, stand.run
    began = time.perf_counter() if began is None else began
    for number, stage in enumerate(job.stages):
        place = run.path if len(job.stages) == 1 else run.path / "stages" / f"{number:02d}-{stage.name}"
        final = place / "checkpoints" / "final"
        done = read_json(final / COMPLETE)
        if done is not None and number + 1 < len(job.stages) and nights.rested(stage.night, place):
            slept = str(nights.dawn(place)) if stage.night else str(final)
            state, stand.folders[stage.weights], first = done["practice"], slept, first + stage.steps
            continue
        practice = stage.practice(stand, first)
        if done is None:
            if state is not None and newest_checkpoint(place / "checkpoints", remove=False) is None:
                _carry(practice, state)  # else the files would be cut back behind what the checkpoint knows
            look = _looker(job, stage, stand, practice, watch, first, began, tick)
            _improve(job, stage, stand, practice, place, (number, save_every), look)
        else:
            practice.restore(done["practice"])
        state = practice.state()
        practice.syllabus.store.close()
        if stage.night is not None:
            morning = stand.folders.get(stage.weights, resolve(job.base))
            final = nights.night(job, number, stand, practice, place, morning)
        stand.folders[stage.weights] = str(final)
        first += stage.steps
    return practice


def _carry(practice: Practice, state: Mapping[str, Any]) -> None:
    """Go on where another practice of the run ended; what this one has sampled to begin with is counted on top."""
    own = {**practice.syllabus.state(), "store": state["syllabus"]["store"]}
    before = dict(practice.samples)
    practice.restore({**state, "syllabus": own})
    for role, count in before.items():
        practice.samples[role] = practice.samples.get(role, 0) + count


def _improve(
    job: Job, stage: Stage, stand: Stand, practice: Practice, place: Path, at: tuple[int, int | None], look: Any
) -> None:
    number, save_every = at
    rule = job.rule if save_every is None else msgspec.structs.replace(job.rule, save_every=save_every)
    seed = job.seed if len(job.stages) == 1 else f"{job.seed}/{number}-{stage.name}"
    model = stand.folders.get(stage.weights, job.base)
    learner = make_learner(job.learner, model, settings=rule, seed=seed, evaluate=look)
    if isinstance(learner, GRPO) and model != job.base:
        learner.load(model)  # a critic's head as well
    with _until_interrupted() as stopped:
        learner.stop = stopped
        learner.improve(practice, {}, stage.steps, Place(place))
        if stopped():
            stand.run.close()
            raise KeyboardInterrupt
    final = place / "checkpoints" / "final"
    learner.save(str(final))
    write_json(final / COMPLETE, {"practice": practice.state()})  # the last file: where it is, the stage is over


def _looker(
    job: Job, stage: Stage, stand: Stand, practice: Practice, watch: Watch | None, first: int, began: float, tick: Tick
) -> Callable[[int, LocalAgent], dict[str, Any]]:
    def look(step: int, agent: LocalAgent) -> dict[str, Any]:
        step += first
        seen = agent if stage.weights == job.final else stand.agent(job.final)
        found: dict[str, Any] = {"seconds": time.perf_counter() - began}
        if step % MEASURE_EVERY == 0:
            newest = practice.syllabus.store.select(lambda e: e.challenge.author == "challenger", last=48)
            found |= {"exact": stand.yardstick.means(seen), "drift": drift(stand.base, [e.challenge for e in newest])}
        if watch is not None and watch.due(step):
            found |= watch.look(step, seen)
        if len(job.stages) > 1:
            found["stage"] = stage.name
        tick(step, found)
        return found

    return look


def measure(
    job: Job, stand: Stand, trained: LocalAgent, practice: Practice, seconds: float, watch: Watch
) -> dict[str, Any]:
    """Write ``frontier.json``: exact success before and after under every decoder, and what became of variety."""
    run, yardstick, base = stand.run, stand.yardstick, stand.base
    probe = [t for d in yardstick.support for t in yardstick.tasks["any", d][:24]]
    result = {
        "schema": 1,
        "run": {
            **job.about,
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
    if told := nights.timeline(run.path):
        result["nights"] = told
    run.write("frontier.json", result)
    return result


def conduct(job: Job, out: Path, *, resume: bool, threads: int, quiet: bool) -> dict[str, Any]:
    """Train unless that is done, and write the run's report page; returns the frontier.

    Args:
        job: what is run.
        out: the run folder.
        resume: go on in a folder that holds an unfinished run.
        threads: torch threads; 0 leaves torch's choice, which is far slower on a model this small.
        quiet: no progress on the terminal.

    Raises:
        DreamEnvsError: if the folder is taken.
    """
    if (out / "run.json").exists() and not (out / "frontier.json").exists() and not resume:
        raise DreamEnvsError(f"{out} holds an unfinished run: add --resume to go on with it, or choose another --out")
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()
    if read_json(out / "frontier.json") is None:
        with progress(job.steps, quiet) as tick:
            train(job, out, tick=tick)
    else:
        Run(out, job.config).close()
    from dream_envs.report.page import write_report

    write_report(out)
    found: dict[str, Any] = read_json(out / "frontier.json")
    return found


@contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; pressed again, it interrupts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)
        print("saving behind this step; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    if before is signal.default_int_handler:  # else somebody has a handler of their own, or SIGINT is ignored
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress(steps: int, quiet: bool) -> Iterator[Tick]:
    """A progress line with rate and time left; nothing if ``quiet``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

    class Rate(TextColumn):
        def render(self, task: Task) -> Any:
            self.text_format = f"{60 * task.speed:.1f} steps/min" if task.speed else ""
            return super().render(task)

    text = TextColumn("{task.description}")
    columns = (text, BarColumn(bar_width=20), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, disable=quiet, speed_estimate_period=120) as bar:
        task = bar.add_task("loading", total=steps)
        shown: list[int] = []

        def tick(step: int, found: dict[str, Any]) -> None:
            if not shown:  # a resumed run's rate is that of its own steps
                bar.reset(task, completed=step, total=steps, description="training")
            shown.append(step)
            bar.update(task, completed=step)
            if exact := found.get("exact"):
                depths = "  ".join(f"d{d} {exact[str(d)]:.2f}" for d in (3, 4, 6, 8))
                bar.update(task, description=f"exact {depths}")

        yield tick
        bar.update(task, completed=steps)
