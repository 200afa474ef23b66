"""Tokens a second of every engine on one model, and what a rollout adds to vLLM (section ``engines``)."""

from __future__ import annotations

import contextlib
import socket
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.baselines.benchmarks.model import Recorder
from dream_envs.baselines.benchmarks.rows import Options, Row, compared, side_by_side
from dream_envs.core import Action, DreamEnvsError, Limits, Request
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import ask, rollout

MODEL, TOKENS = "smollm2", 32


def asked(count: int) -> list[Request]:
    """Requests for so many short replies."""
    messages: Any = [{"role": "user", "content": "Tell me about arithmetic."}]
    limits, who = Limits(TOKENS), {"agent": "solver_0", "role": "solver"}
    return [Request(messages=messages, seed=i, limits=limits, **who) for i in range(count)]


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
def served(options: Options, dtype: str) -> Iterator[Any]:
    """An endpoint of a server of our own."""
    from dream_envs.agents.engines.endpoint import Endpoint
    from dream_envs.agents.engines.server import Server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    eager = ["--enforce-eager"] if not torch.cuda.is_available() else []
    log = Path(options.scratch) / "bench-vllm.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with Server(resolve(MODEL), port=port, dtype=dtype, max_model_len=512, log=log, arguments=eager) as server:
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
