"""Sections 2, 3 and 4 of the benchmark: what the suite adds to the bare engine, the decode loop, the training step.

All of it runs the shipped nano base on one thread of the processor, so that two figures of one row share nothing but
the machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import GenerationConfig, PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from dream_envs.agents.engines.decode import forward_for, sample
from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.agents.training.trl_adapter import CheckpointCallback, TrainingRow, TrainSettings, make_trainer
from dream_envs.baselines.benchmarks.rows import Options, Row, at_least, at_most, median_ratio, side_by_side
from dream_envs.core import Action, Message, Request
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import EpisodeWriter, rollout
from dream_envs.rewards.presets import challenger_solver
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

MODEL, WIDTH, SOLVERS, BATCH, NEW_TOKENS, ROWS = "nano/compose", 112, 8, 256, 32, 448


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
    """Hands requests on to an agent, keeps them, and counts the seconds that the agent takes."""

    def __init__(self, agent: LocalAgent) -> None:
        self.agent, self.calls, self.seconds = agent, list[list[Request]](), 0.0

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """The agent's answers."""
        self.calls.append(list(requests))
        began = time.perf_counter()
        answers = self.agent.act(requests)
        self.seconds += time.perf_counter() - began
        return answers


def overhead(options: Options) -> list[Row]:
    """The whole rollout, recorded and scored, against the same engine calls alone."""
    agent, game, reward = LocalAgent(MODEL), ChallengerSolver(solvers=SOLVERS), challenger_solver()
    episodes, rounds = options.pick(28, WIDTH, WIDTH), options.pick(3, 9, 21)
    shares: list[float] = []
    first = Recorder(agent)

    def play(player: Any) -> list[Any]:
        home, seats = options.folder("bench"), {"challenger": player, "solver": player}
        with tempfile.TemporaryDirectory(dir=home) as inside, EpisodeWriter(Path(inside) / "e.jsonl") as out:
            return list(rollout(game, seats, episodes, seed="bench", reward=reward, out=out, width=WIDTH))

    def whole() -> None:
        recorder = Recorder(agent)
        began = time.perf_counter()
        play(recorder)
        shares.append((time.perf_counter() - began) / recorder.seconds - 1.0)

    def bare() -> None:
        for requests in first.calls:
            agent.act(requests)

    with one_thread():
        played = play(first)
        said = sorted(t.text for e in played for t in e.turns)
        again = sorted(a.text for requests in first.calls for a in agent.act(requests))
        if said != again:
            raise AssertionError("the replayed calls did not give the rollout's tokens")
        times = side_by_side({"rollout": whole, "engine": bare}, rounds)
    tokens = sum(len(t.token_ids or ()) for e in played for t in e.turns)
    added = median_ratio(times["rollout"], times["engine"]) - 1.0
    inside = statistics.median(shares)
    what = f"rollout of {episodes} games with {SOLVERS} solvers, {tokens} tokens, against its engine calls alone"
    ours, peer = tokens / statistics.median(times["rollout"]), tokens / statistics.median(times["engine"])
    return [
        Row(
            section=2,
            what=what,
            unit="tokens/s",
            ours=ours,
            peer=peer,
            peer_name="engine alone",
            ratio=1.0 + added,
            target="<= 1.05 x the engine's time",
            met=at_most(added, 0.05),
            note="the same prompts, seeds and batches, recorded and replayed",
        ),
        Row(
            section=2,
            what="the same, by the clock inside one rollout: time outside the engine over time in it",
            unit="%",
            ours=100 * inside,
            target="<= 5 %",
            met=at_most(inside, 0.05),
        ),
    ]


def decoding(options: Options) -> list[Row]:
    """Our decode loop against ``model.generate`` at the same number of new tokens, and against the matrix rate."""
    return [row for batch in (BATCH, 16) for row in _decode(options, batch)]


def _decode(options: Options, batch: int) -> list[Row]:
    agent, family, rng = LocalAgent(MODEL), Composition(), stream("bench", "decode")
    prompts = [
        agent.encode([{"role": "user", "content": family.generate(rng, 1 + i % 8).prompt}]) for i in range(batch)
    ]
    row_seeds, limits = rng.integers(2**63, size=batch, dtype=np.uint64), np.full(batch, NEW_TOKENS)

    def ours() -> None:
        found = sample(forward_for(agent.model), prompts, row_seeds, limits, end=[-1], pad=agent.pad)
        assert all(len(s.ids) == NEW_TOKENS for s in found)

    with one_thread():
        works = {"ours": ours, "generate": _generate(LocalAgent(MODEL), prompts), "matmul": _matmul}
        times = side_by_side(works, options.pick(3, 9, 21))
    seconds = {name: statistics.median(found) for name, found in times.items()}
    tokens, ratio = batch * NEW_TOKENS, median_ratio(times["generate"], times["ours"])
    reached = _decode_flops(agent.model, [len(p) for p in prompts]) / seconds["ours"] / 1e9
    possible = _MATMUL_FLOPS / seconds["matmul"] / 1e9
    return [
        Row(
            section=3,
            what=f"decode loop, batch {batch}, {NEW_TOKENS} new tokens, T = 1, one thread",
            unit="tokens/s",
            ours=tokens / seconds["ours"],
            peer=tokens / seconds["generate"],
            peer_name="model.generate",
            ratio=ratio,
            target=">= 3.00" if batch == BATCH else "",
            met=at_least(ratio, 3.0) if batch == BATCH else None,
            note="ours also returns log-probabilities and seeds each row",
        ),
        Row(
            section=3,
            what=f"its matrix work, batch {batch}, against the machine's matrix rate (1024 x 1024, one thread)",
            unit="GFLOP/s",
            ours=reached,
            peer=possible,
            peer_name="torch.mm",
            ratio=reached / possible,
        ),
    ]


def _generate(agent: LocalAgent, prompts: Sequence[Sequence[int]]) -> Callable[[], None]:
    """``model.generate`` on these prompts.  Without an end token neither loop looks for one: the same work for both."""
    width = max(map(len, prompts))
    ids = torch.tensor([[agent.pad] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=agent.pad,
        eos_token_id=None,
        bos_token_id=None,
    )
    agent.model.generation_config = config

    def theirs() -> None:
        with torch.inference_mode():
            out = agent.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        assert out.shape == (len(prompts), width + NEW_TOKENS)

    return theirs


_SIDE, _TIMES = 1024, 4
_MATMUL_FLOPS = 2.0 * _SIDE**3 * _TIMES


def _matmul() -> None:
    a = torch.ones(_SIDE, _SIDE)
    with torch.inference_mode():
        for _ in range(_TIMES):
            torch.mm(a, a)


def _decode_flops(model: Any, lengths: Sequence[int]) -> float:
    """Multiplications and additions of the matrix products that the batch needs: weights, head and attention."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = sum(p.numel() for name, p in model.model.layers.named_parameters() if p.dim() == 2)
    head = model.lm_head.weight.numel()
    flops = 0.0
    for length in lengths:
        seen = length + np.arange(NEW_TOKENS - 1)  # the last token is sampled and not read again
        read = length + NEW_TOKENS - 1
        attended = length * (length + 1) / 2 + float((seen + 1).sum())
        attention = 4.0 * config.num_hidden_layers * config.num_attention_heads * size * attended
        flops += 2.0 * weights * read + 2.0 * head * NEW_TOKENS + attention
    return flops


class _Clock(TrainerCallback):
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


def training(options: Options) -> list[Row]:
    """A step of ours through the adapter against plain GRPOTrainer with the same rows and configuration."""
    steps, rounds = options.pick(3, 5, 9), options.pick(2, 4, 8)
    rows = _rows(LocalAgent(MODEL))

    def run(make: Callable[[LocalAgent, list[TrainingRow], str, int], Any]) -> Callable[[], float]:
        def once() -> float:
            with tempfile.TemporaryDirectory(dir=options.folder("bench")) as inside:
                trainer, clock = make(LocalAgent(MODEL), rows, inside, steps + 1), _Clock()
                trainer.add_callback(clock)
                trainer.train()
            return statistics.median(clock.seconds)

        return once

    with one_thread():
        times = side_by_side({"ours": run(_ours), "trl": run(_plain)}, rounds)
    ratio = median_ratio(times["ours"], times["trl"])
    return [
        Row(
            section=4,
            what=f"GRPO step on {ROWS} given rows, one thread",
            unit="ms",
            ours=1000 * statistics.median(times["ours"]),
            peer=1000 * statistics.median(times["trl"]),
            peer_name="plain TRL",
            ratio=ratio,
            target="<= 1.05 x plain TRL's time",
            met=at_most(ratio, 1.05),
            note=f"{rounds} x {steps} steps each, in turn; no game, no sampling",
        )
    ]


def _rows(agent: LocalAgent) -> list[TrainingRow]:
    """Accepted traces of depths 1 to 8 with values and advantages that are not zero."""
    family, rng, rows = Composition(), stream("bench", "rows"), []
    for k in range(ROWS):
        task = family.generate(rng, 1 + k % 8)
        message: Message = {"role": "user", "content": task.prompt}
        ids = agent.tokenizer(family.gold(task), add_special_tokens=False)["input_ids"]
        rows.append(TrainingRow(agent.encode([message]), [*ids, agent.ends[0]], float(rng.normal()), float(k % 2)))
    return rows


def _settings(out: str, steps: int) -> TrainSettings:
    return TrainSettings(out=out, rows=ROWS, steps=steps, lr=1e-3, seed=0, save_every=10**6)


def _ours(agent: LocalAgent, rows: list[TrainingRow], out: str, steps: int) -> Any:
    silent = CheckpointCallback(lambda path: None, lambda step, logs: None)
    return _unsaved(make_trainer(agent.model, agent.tokenizer, lambda step: rows, _settings(out, steps), silent))


def _plain(agent: LocalAgent, rows: list[TrainingRow], out: str, steps: int) -> Any:
    """TRL's own class, with a ``rollout_func`` that gives these rows; its configuration is the adapter's."""
    given = {
        "prompt_ids": [list(r.prompt) for r in rows],
        "completion_ids": [list(r.completion) for r in rows],
        "logprobs": None,
        "value": [r.value for r in rows],
    }
    config = _ours(agent, rows, out, steps).args

    def value(value: Sequence[float | None], **_: Any) -> list[float | None]:
        return list(value)

    rollout_func: Any = lambda prompts, trainer: given  # noqa: E731  TRL's annotation names its own trainer
    trainer = GRPOTrainer(
        model=agent.model,
        reward_funcs=value,
        rollout_func=rollout_func,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["-"] * (ROWS // config.num_generations)}),
        processing_class=agent.tokenizer,
        callbacks=[CheckpointCallback(lambda path: None, lambda step, logs: None)],
    )
    trainer.remove_callback(PrinterCallback)
    return _unsaved(trainer)


def _unsaved(trainer: Any) -> Any:
    """No checkpoint at the end: writing files is not what is compared."""
    trainer.args.save_strategy = type(trainer.args.save_strategy)("no")
    return trainer
