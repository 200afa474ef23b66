"""Tokens a second of every engine on one model (section ``engines``), and a GRPO step with vLLM (``step``)."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from dream_envs import registry
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.agents.training.collector import Collector
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.agents.training.settings import LearnerSettings, RowSettings
from dream_envs.baselines.benchmarks.model import Clock, Recorder
from dream_envs.baselines.benchmarks.rows import Options, Row, compared, side_by_side
from dream_envs.baselines.loop import PhaseRun
from dream_envs.core import Action, DreamEnvsError, Episode, Limits, Request, Score
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import ask, rollout
from dream_envs.rewards.base import reward
from dream_envs.runs import Run
from dream_envs.seeds import digest, stream

MODEL, TOKENS = "smollm2", 32


def asked(count: int) -> list[Request]:
    """Requests for so many short replies."""
    messages: Any = [{"role": "user", "content": "Tell me about arithmetic."}]
    limits = Limits(TOKENS)
    return [Request(messages=messages, agent="solver_0", role="solver", seed=i, limits=limits) for i in range(count)]


class Generate:
    """``model.generate`` of transformers, for comparison."""

    def __init__(self, agent: LocalAgent) -> None:
        self.agent = agent

    @torch.inference_mode()
    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sampled replies, without ids."""
        ids = torch.tensor([list(self.agent.encode(r.messages)) for r in requests])
        how: dict[str, Any] = {"max_new_tokens": TOKENS, "do_sample": True, "pad_token_id": self.agent.pad, "top_k": 0}
        out = self.agent.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
        rows = out[:, ids.shape[1] :].tolist()
        ends = set(self.agent.ends)
        lengths = [next((i + 1 for i, t in enumerate(row) if t in ends), len(row)) for row in rows]
        return [Action("", row[:n]) for row, n in zip(rows, lengths, strict=True)]


@contextlib.contextmanager
def served(options: Options, dtype: str, *, lora_rank: int = 0) -> Iterator[Any]:
    """An endpoint of a server of our own."""
    from dream_envs.agents.engines.endpoint import Endpoint
    from dream_envs.agents.engines.server import Server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    eager = ["--enforce-eager"] if not torch.cuda.is_available() else []
    log = Path(options.scratch) / "bench-vllm.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"dtype": dtype, "max_model_len": 512, "lora_rank": lora_rank, "log": log}
    with Server(resolve(MODEL), port=port, arguments=eager, **how) as server:
        yield Endpoint(server.wait(), retries=0, token_ids=True)


def rates(name: str, agent: Any, options: Options) -> list[Row]:
    """Tokens a second at batch 1, 16 and 64."""
    rows = []
    for batch in (1, 16, 64):
        requests, counts = asked(batch), list[int]()

        def once(requests: list[Request] = requests, counts: list[int] = counts) -> None:
            counts.append(sum(len(a.token_ids or ()) for a in ask(agent, requests)))

        times = side_by_side({"engine": once}, options.pick(1, 3, 9))["engine"]
        rate = statistics.median(n / s for n, s in zip(counts[1:], times, strict=True))
        rows.append(Row(what=f"{name}, batch {batch}", unit="tokens/s", ours=rate))
    return rows


def engines(options: Options) -> list[Row]:
    """``generate``, our loop, vLLM in process and as a server; a rollout against the bare vLLM engine."""
    rows = list[Row]()
    for dtype in ("float32", "bfloat16"):
        agent = LocalAgent(MODEL, dtype=dtype)
        rows += rates(f"transformers' generate, {dtype}", Generate(agent), options)
        rows += rates(f"our engine (local), {dtype}", agent, options)
    try:
        from dream_envs.agents.engines.vllm import VllmAgent

        with served(options, "bfloat16") as endpoint:
            rows += rates("vLLM server, bfloat16", endpoint, options)
        inside = VllmAgent(MODEL, dtype="bfloat16", max_model_len=512)
    except DreamEnvsError as error:
        return [*rows, Row(what="vLLM", note=str(error)[:200])]
    return [*rows, *rates("vLLM in process, bfloat16", inside, options), _added(inside, options)]


def _added(agent: Any, options: Options) -> Row:
    """What a rollout adds to its vLLM calls."""
    game = ChallengerSolver("arithmetic", notation="english", solvers=8, reply_tokens=TOKENS)
    recorder = Recorder(agent)

    def play(player: Any) -> list[Any]:
        return list(rollout(game, {"challenger": "generator", "solver": player}, options.pick(4, 8, 32), seed="bench"))

    tokens = sum(len(t.token_ids or ()) for e in play(recorder) for t in e.turns)
    works = {"rollout": lambda: play(agent), "engine": lambda: [agent.act(requests) for requests in recorder.calls]}
    times = side_by_side(works, options.pick(2, 7, 15))
    words = {"what": "rollout against its vLLM calls alone", "unit": "tokens/s", "peer_name": "vLLM alone"}
    return compared(times["rollout"], times["engine"], lambda s: tokens / s, "the engine's", **words)


#: Of the step that is compared: problems, completions of each, tokens of a reply, rows in one forward pass.
GROUPS, COPIES, REPLY, MICRO = 8, 8, 16, 8


def step(options: Options) -> list[Row]:
    """A GRPO step with LoRA, sampled by vLLM in the same process: a round of games and ours, against bare TRL.

    The reward is drawn from the reply's text, so that every group has rows to train on in both.
    """
    steps, times = options.pick(3, 6, 12), dict[str, list[float]]()
    what = f"GRPO step, {GROUPS} x {COPIES} replies of at most {REPLY} tokens, LoRA 8, float32, vLLM in process"
    for name, work in (("ours", _our_steps), ("trl", _trl_steps)):
        # each in a process of its own: how vLLM lays out weights on a CPU is settled once in a process
        with options.folder() as inside, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            try:
                times[name] = alone.submit(work, steps, inside).result()
            except Exception as error:  # minutes have gone into the other side
                own = statistics.median(times["ours"]) if "ours" in times else None
                return [Row(what=what, unit="s", ours=own, note=f"{name} failed: {str(error).splitlines()[0][:200]}")]
    least = min(map(len, times.values()))
    times = {name: its[-least:] for name, its in times.items()}
    shown = "; ".join(f"{name} " + ", ".join(f"{x:.1f}" for x in its) for name, its in times.items())
    note = f"the last {least} of {steps + 2} steps each, in seconds: {shown}"
    words = {"what": what, "unit": "s", "peer_name": "bare TRL", "note": note}
    return [compared(times["ours"], times["trl"], lambda s: s, "bare TRL's", **words)]


def _by_text(text: str) -> float:
    return digest("bench", text, bits=16) / 2**16


@reward("by-text")
def by_text(episode: Episode) -> dict[str, Score]:
    """A number for each text."""
    return {turn.agent: Score(_by_text(turn.text)) for turn in episode.turns}


def _our_steps(steps: int, folder: Path) -> list[float]:
    """Seconds from the beginning of a step to that of the next: games, curriculum, records and all."""
    game = ChallengerSolver("arithmetic", notation="english", solvers=COPIES, reply_tokens=REPLY)
    settings = LearnerSettings(
        lora_rank=8, micro_batch=MICRO, engine="vllm", rows=RowSettings(rows=GROUPS * COPIES), save_every=10**6
    )
    began = list[float]()

    def begin(step: int, agent: LocalAgent) -> dict[str, Any]:
        began.append(time.perf_counter())
        return {}

    run = Run(folder / "run", {"command": "bench"})
    curriculum = Curriculum(game, Mixture(0, 0, 0, generator=GROUPS), seed="bench", store=ChallengeStore())
    learner = PolicyLearner(LocalAgent(MODEL, dtype="float32"), settings=settings, evaluate=begin)
    learner.improve(Collector(game, curriculum, by_text(), run), steps + 2, PhaseRun(folder))
    run.close()
    return [b - a for a, b in pairwise(began)][1:]


def _trl_steps(steps: int, folder: Path) -> list[float]:
    """The same of TRL alone: prompts of the same family as a dataset, its own colocated vLLM, its own rewards."""
    from peft import LoraConfig
    from vllm.model_executor.layers import utils

    def unpacked(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    if not torch.cuda.is_available():  # vLLM 0.32 packs a CPU's weights and then takes no new ones, which TRL sends it
        utils.dispatch_cpu_unquantized_gemm = unpacked

    family, rng = registry.create("tasks", "arithmetic", notation="english"), stream("bench", "prompts")
    tasks = [family.generate(rng, 1 + i % 3) for i in range(GROUPS * (steps + 2))]
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": t.prompt}]} for t in tasks])

    def score(completions: Sequence[Any], **_: Any) -> list[float | None]:
        return [_by_text(c[0]["content"]) for c in completions]

    agent = LocalAgent(MODEL, dtype="float32")
    config = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=MICRO, num_generations=COPIES,
        gradient_accumulation_steps=GROUPS * COPIES // MICRO, max_completion_length=REPLY, max_steps=steps + 2,
        learning_rate=5e-4, beta=0.0, use_cpu=not torch.cuda.is_available(), bf16=torch.cuda.is_available(),
        gradient_checkpointing=False, use_vllm=True, vllm_mode="colocate", vllm_max_model_length=4096,
        vllm_importance_sampling_correction=False, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = GRPOTrainer(
        agent.model, score, args=config, train_dataset=prompts, processing_class=agent.tokenizer, callbacks=[clock],
        peft_config=adapter,
    )  # fmt: skip
    trainer.train()
    return clock.seconds
