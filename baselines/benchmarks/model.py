"""Sections with a model: what a rollout adds to the engine, the training step, where the flagship's time goes.

All of it runs the shipped nano base on one thread of the processor, so that two figures of one row share nothing but
the machine.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.agents.training.trl_adapter import RowTrainer, TrainCallback, TrainingRow
from dream_envs.baselines.benchmarks.rows import Options, Row, compared, side_by_side
from dream_envs.baselines.recipe import Options as Training
from dream_envs.core import Action, Message, Request
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import EpisodeWriter, rollout
from dream_envs.rewards.presets import challenger_solver
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

MODEL, WIDTH, SOLVERS, ROWS = "nano/compose", 112, 8, 448


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for the length of a section."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Recorder:
    """An agent that keeps what it is asked, to be asked again without the games."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.calls = agent, list[Sequence[Request]]()

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Answer, and remember the call."""
        self.calls.append(requests)
        found: list[Action] = self.agent.act(requests)
        return found


def orchestration(options: Options) -> list[Row]:
    """The whole rollout, recorded and scored, against the same engine calls alone."""
    agent, game, reward = LocalAgent(MODEL), ChallengerSolver(solvers=SOLVERS), challenger_solver()
    episodes, rounds = options.pick(28, WIDTH, WIDTH), options.pick(3, 9, 21)
    recorder = Recorder(agent)
    calls = recorder.calls

    def play(player: Any) -> list[Any]:
        seats = {"challenger": player, "solver": player}
        with options.folder() as inside, EpisodeWriter(inside / "e.jsonl") as out:
            return list(rollout(game, seats, episodes, seed="bench", reward=reward, out=out, width=WIDTH))

    def bare() -> None:
        for requests in calls:
            agent.act(requests)

    with one_thread():
        played = play(recorder)
        sampled = sorted(t.text for e in played for t in e.turns)
        if sampled != sorted(a.text for requests in calls for a in agent.act(requests)):
            raise AssertionError("the replayed calls did not give the rollout's tokens")
        times = side_by_side({"rollout": lambda: play(agent), "engine": bare}, rounds)
    tokens = sum(len(t.token_ids or ()) for e in played for t in e.turns)
    what = f"rollout of {episodes} games with {SOLVERS} solvers, {tokens} tokens, against its engine calls alone"
    note = "the same prompts, seeds and batches, recorded and replayed"
    words = {"what": what, "unit": "tokens/s", "peer_name": "engine alone", "note": note}
    return [compared(times["rollout"], times["engine"], lambda s: tokens / s, "the engine's", **words)]


class Clock(TrainerCallback):
    """Seconds from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step is done."""
        now = time.perf_counter()
        if self._last:
            self.seconds.append(now - self._last)
        self._last = now


def draws(options: Options) -> list[Row]:
    """Until the first success in turn over the decoding methods, stopped early, against all K samples of each."""
    from dream_envs.baselines.frontier.elicited import Elicited, load_model
    from dream_envs.baselines.frontier.job import Options as Report
    from dream_envs.baselines.frontier.job import plan_of
    from dream_envs.frontier.draws import SampleCache

    plan, specs = plan_of(Report(seed="bench"))
    base, k = load_model(MODEL), options.pick(32, 128, 1024)
    wanted = [i for i, s in enumerate(plan.suite.strata) if s.name in ("d4", "d5", "pairs-d4")]
    problems = [p for p in plan.suite.problems("bench", options.pick(4, 10, 20)) if p.stratum in wanted]
    elicited = Elicited(plan.suite, base)
    elicited.answers = {plan.suite.messages(p.task)[0]["content"]: p.task.answer for p in problems}
    ways = [elicited.method(s) for s in specs if s.envelope == "decoding"]
    whole = [msgspec.structs.replace(m, quick=None) for m in ways]
    found = dict[str, list[bool]]()

    def early() -> None:
        found["early"] = [bool(s.first) for s in SampleCache(None, "base").first(ways, problems, k)]

    def naive() -> None:
        cache, hits = SampleCache(None, "base"), [False] * len(problems)
        for method in whole:
            counts = cache.count(method, problems, -(-k // len(whole)))
            hits = [h or bool(sum(c.right)) for h, c in zip(hits, counts, strict=True)]
        found["naive"] = hits

    with one_thread():
        times = side_by_side({"early": early, "naive": naive}, options.pick(2, 3, 5))
    what = f"{k} samples of the base on each of {len(problems)} problems at the edge of its reach"
    note = f"solved: {sum(found['early'])} stopped early, {sum(found['naive'])} of independent whole samples"
    words = {"what": what, "unit": "problems/s", "peer_name": "all samples, whole replies", "note": note}
    return [compared(times["early"], times["naive"], lambda s: len(problems) / s, **words)]


def training(options: Options) -> list[Row]:
    """A step of ours through the adapter against plain GRPOTrainer with the same rows and configuration."""
    steps, rounds = options.pick(3, 5, 9), options.pick(2, 4, 8)
    rows = _rows(LocalAgent(MODEL))

    def run(make: Callable[[LocalAgent, list[TrainingRow], str, int], Any]) -> Callable[[], float]:
        def once() -> float:
            with options.folder() as inside:
                trainer, clock = make(LocalAgent(MODEL), rows, str(inside), steps + 1), Clock()
                trainer.add_callback(clock)
                trainer.train()
            return statistics.median(clock.seconds)

        return once

    with one_thread():
        times = side_by_side({"ours": run(_ours), "trl": run(_plain)}, rounds)
    note = f"{rounds} x {steps} steps each, in turn; no game, no sampling"
    what = f"GRPO step on {ROWS} given rows, one thread"
    words = {"what": what, "unit": "ms", "peer_name": "plain TRL", "note": note}
    return [compared(times["ours"], times["trl"], lambda s: 1000 * s, "plain TRL's", **words)]


def _rows(agent: LocalAgent) -> list[TrainingRow]:
    """Accepted traces of depths 1 to 8 with values and advantages that are not zero."""
    family, rng, rows = Composition(), stream("bench", "rows"), []
    for k in range(ROWS):
        task = family.generate(rng, 1 + k % 8)
        message: Message = {"role": "user", "content": task.prompt}
        completion = agent.completion(family.gold(task))
        rows.append(TrainingRow(agent.encode([message]), completion, float(rng.normal()), float(k % 2)))
    return rows


def _silent() -> TrainCallback:
    return TrainCallback(lambda path: None, lambda step, logs: None)


def _ours(agent: LocalAgent, rows: list[TrainingRow], out: str, steps: int) -> Any:
    how: dict[str, Any] = {"rows": ROWS, "lr": 1e-3, "seed": 0, "save_every": 10**6}
    made = RowTrainer(agent.model, agent.tokenizer, lambda step: rows, _silent(), out=out, steps=steps, **how)
    return _unsaved(made)


def _plain(agent: LocalAgent, rows: list[TrainingRow], out: str, steps: int) -> Any:
    """TRL's own class, with a ``rollout_func`` that gives these rows; its configuration is the adapter's."""
    ids: dict[str, Any] = {"prompt_ids": [list(r.prompt) for r in rows]}
    ids |= {"completion_ids": [list(r.completion) for r in rows], "logprobs": None, "value": [r.value for r in rows]}
    config = _ours(agent, rows, out, steps).args

    def value(value: Sequence[float | None], **_: Any) -> list[float | None]:
        return list(value)

    given: dict[str, Any] = {"rollout_func": lambda prompts, trainer: ids, "processing_class": agent.tokenizer}
    given["train_dataset"] = Dataset.from_dict({"prompt": ["-"] * (ROWS // config.num_generations)})
    trainer = GRPOTrainer(agent.model, value, args=config, callbacks=[_silent()], **given)
    trainer.remove_callback(PrinterCallback)
    return _unsaved(trainer)


def _unsaved(trainer: Any) -> Any:
    """No checkpoint at the end: writing files is not what is compared."""
    trainer.args.save_strategy = type(trainer.args.save_strategy)("no")
    return trainer


#: Where a sample of the stack belongs: the first of these that any of its frames matches, by file and function.
PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("nights", "agents/sleep/", ("sleep", "due")),
    ("measuring", "baselines/loop.py", ("look", "measure", "of", "make")),
    ("sampling", "agents/engines/", ("act",)),
    ("play, scoring and recording", "agents/training/collector.py", ("round", "log")),
    ("rows", "agents/training/learner.py", ("_rows",)),
    ("backward", "torch/", ("backward",)),
    ("forward and losses", "trl/", ("compute_loss", "_generate_and_score_completions")),
    ("forward and losses", "agents/training/trl_adapter.py", ("_compute_loss", "_get_per_token_logps_and_entropies")),
    ("optimiser and the trainer's own", "transformers/trainer.py", ("train", "_inner_training_loop")),
)
RATE = 50.0


def part_of(stack: Sequence[tuple[str, str]]) -> str:
    """The part that a stack of (file, function) belongs to."""
    for name, file, functions in PARTS:
        if any(file in path and function in functions for path, function in stack):
            return name
    return "start, loading and saving"


class Sampler:
    """Looks at the stack of the thread that made it, ``RATE`` times a second, while it is open; ``seen``: by part."""

    def __init__(self) -> None:
        self.seen = Counter[str]()
        self._main, self._over = threading.get_ident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(1 / RATE):
            frame, stack = sys._current_frames().get(self._main), list[tuple[str, str]]()
            while frame is not None:
                stack.append((frame.f_code.co_filename, frame.f_code.co_name))
                frame = frame.f_back
            self.seen[part_of(stack)] += 1

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def flagship(options: Options) -> list[Row]:
    """Shares of the time of a short run of the flagship, a night or two included."""
    from dream_envs.baselines.loop import train

    steps, every = options.pick(4, 25, 50), options.pick(2, 13, 25)
    chosen = Training("dream", "bench", steps, set={"nights.every": every})
    with one_thread(), options.folder() as inside, Sampler() as sampler:
        began = time.perf_counter()
        train(chosen, inside / "run")
        seconds = time.perf_counter() - began
    total = max(1, sampler.seen.total())
    rows = [Row(what=name, unit="%", ours=100 * n / total) for name, n in sampler.seen.most_common()]
    told = f"{steps} steps, a night every {every}, start and measuring included"
    return [Row(what="the whole run", unit="s", ours=seconds, note=told), *rows]
