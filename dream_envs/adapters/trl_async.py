"""Our games under TRL's ``AsyncGRPOTrainer`` (TRL 1.16): a rollout worker that plays while the learner trains.

    worker = GameWorker(game, url="http://127.0.0.1:8000/v1", model="smollm2")  # vLLM; weights come as adapters
    AsyncGRPOTrainer(model, args=args, train_dataset=placeholder(), rollout_worker=worker, peft_config=lora).train()

Every role that no seat is given for is played by the policy and trained on.  A round of games is played with one
version of the weights; its rows carry that version, and the trainer drops those older than ``args.max_staleness``.
Without vLLM the policy plays in this process: ``GameWorker(game, agent=LocalAgent(...))`` and
``weight_transfer=worker.handover``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from dream_envs.agents.engines.chat import of_folder
from dream_envs.agents.engines.endpoint import Endpoint
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.agents.training.rows import RowBuilder
from dream_envs.agents.training.settings import RowSettings
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.core import Action, AgentLike, DreamEnvsError, Episode, Game, Request, Start
from dream_envs.envs._adapter import build_reward
from dream_envs.play import EpisodeWriter, RewardLike, reward_model, rollout
from dream_envs.seeds import stream

#: The name under which TRL publishes a version of the adapter on the server.
_PUBLISHED = "trl-policy-v{}"
#: Rounds in a row that gave nothing to train on, after which it is no chance.
_BARREN = 8


def placeholder() -> Dataset:
    """The dataset that TRL asks for: what is played comes from the games."""
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": "-"}]]})


class GameWorker:
    """TRL's ``RolloutWorkerProtocol`` over a game; a thread that plays rounds and puts their rows into the queue.

    Args:
        game: what is played.
        url: a vLLM server (up to ``/v1``), started with adapters allowed; the policy is the newest one published there.
        model: with ``url``: the served model, as its name here.
        agent: in place of ``url``: a ``LocalAgent`` with a copy of the weights, refreshed through ``handover``.
        seats: agents for roles that do not learn.
        reward: scores the episodes; None: the game's own.
        plan: the starts of a round by its number; None: ``episodes`` new games in blocks of ``copies``.
        episodes: games a round.
        copies: games of a round that share a beginning, for group baselines.
        rows: which rows a round gives.
        baseline: of ``agents.training.settings.BASELINES``, without a critic.
        seed: the label of everything random.
        out: where episodes are written.
        ahead: rows that wait for the trainer at most, before another round is played.

    Raises:
        DreamEnvsError: where not one of ``url`` and ``agent`` is given, or nobody learns.
    """

    def __init__(
        self,
        game: Game[Any],
        *,
        url: str = "",
        model: str = "",
        agent: LocalAgent | None = None,
        seats: Mapping[str, AgentLike | str] | None = None,
        reward: RewardLike | None = None,
        plan: Callable[[int], Sequence[Start]] | None = None,
        episodes: int = 32,
        copies: int = 8,
        rows: RowSettings = RowSettings(),  # noqa: B008  it is frozen
        baseline: str = "group",
        seed: str = "0",
        out: EpisodeWriter | None = None,
        ahead: int = 256,
    ) -> None:
        if bool(url) == (agent is not None) or (url and not model):
            raise DreamEnvsError("GameWorker: url=... with model=..., or agent=LocalAgent(...)")
        if baseline == "critic" or episodes < 1 or copies < 1 or ahead < 1:
            raise DreamEnvsError(f"{baseline=}, {episodes=}, {copies=}, {ahead=}: no critic, the others 1 or more")
        self.game, self.url, self.seats, self.seed = game, url, dict(seats or {}), seed
        self.reward = reward_model(reward) if reward is not None else build_reward(None, game)
        self.learns = frozenset(r.name for r in game.roles) - set(self.seats)
        if not self.learns:
            raise DreamEnvsError(f"seats={list(self.seats)}: a role of {game.env_id} is left to learn")
        self.handover = Handover(agent) if agent is not None else None
        if agent is not None:
            encode, completion = agent.encode, agent.completion
        else:
            chat = of_folder(resolve(model))
            encode = chat.encode

            def completion(text: str) -> list[int]:
                return [*chat.tokenizer(text, add_special_tokens=False)["input_ids"], chat.end]

        self.builder = RowBuilder(game, rows, baseline, self.learns, encode, completion)
        self.plan = plan or (lambda number: [
            Start(i, draw=i - i % copies) for i in range(number * episodes, (number + 1) * episodes)
        ])  # fmt: skip
        self.out, self.ahead = out, ahead
        self.rollout_buffer: Any = queue.Queue()
        self.metrics_queue: Any = queue.Queue()
        self.version, self.rounds, self.samples, self._barren = 0, 0, 0, 0
        self._over, self._alive, self._failed = threading.Event(), time.time(), list[BaseException]()
        self._thread = threading.Thread(target=self._work, name="dream-envs-games", daemon=True)

    def start(self) -> None:
        """Begin to play; the first weights are there."""
        self._thread.start()

    def stop(self) -> None:
        """Play no further round; waits for the one under way."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=600)

    def update_model_version(self, model_version: int) -> None:
        """These weights are live now."""
        self.version = model_version

    def check_health(self, stale_after_s: float) -> None:
        """Raise what ended the worker, or that it has made nothing for so long."""
        if self._failed:
            raise DreamEnvsError(f"the games' thread ended: {self._failed[0]}") from self._failed[0]
        if time.time() - self._alive > stale_after_s:
            raise DreamEnvsError(f"no round of games within {stale_after_s:g} s: fewer episodes, or a longer limit")

    def _work(self) -> None:
        try:
            while not self._over.is_set():
                if self.rollout_buffer.qsize() >= self.ahead:
                    self._alive = time.time()  # it waits for the trainer
                    self._over.wait(0.05)
                    continue
                self._round()
                self._alive = time.time()
        except BaseException as error:
            self._failed.append(error)

    def _round(self) -> None:
        from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

        version, began = self.version, time.time()
        if self.handover is not None:
            policy: Any = self.handover
        else:
            policy = Endpoint(self.url, _PUBLISHED.format(version), token_ids=True)
        seats = {**dict.fromkeys(self.learns, policy), **self.seats}
        starts = self.plan(self.rounds)
        label = f"{self.seed}/{self.rounds}"
        played: list[Episode] = list(
            rollout(self.game, seats, starts, seed=label, reward=self.reward, out=self.out, width=len(starts) or 1)
        )
        played.sort(key=lambda e: e.index)
        rows = self.builder.rows(played, stream(label, "rows"))
        self._barren = 0 if rows else self._barren + 1
        if self._barren == _BARREN:  # the trainer would wait for ever
            found = Counter(s.status for e in played for s in e.scores.values())
            raise DreamEnvsError(f"{_BARREN} rounds without a row to train on; scores of the newest: {dict(found)}")
        for number, row in enumerate(rows):
            if row.logprobs is None:
                raise DreamEnvsError(f"{type(policy).__name__} gives no log-probabilities: they are needed off-policy")
            self.rollout_buffer.put(_sample(RolloutSample, row, version, self.rounds * 100_000 + number))
        self.samples += sum(1 for e in played for t in e.turns if t.role in self.learns)
        told: dict[str, Any] = {f"rollout/reward/{role}": _mean(played, role) for role in sorted(self.learns)}
        self.metrics_queue.put({**told, "rollout/rows": float(len(rows)), "rollout/seconds": time.time() - began})
        self.rounds += 1


def _mean(episodes: Sequence[Episode], role: str) -> tuple[float, float]:
    """Sum and count of the ok scores of a role: TRL makes a mean of them."""
    values = [
        s.value for e in episodes for a, s in e.scores.items() if s.status == "ok" and a.rpartition("_")[0] == role
    ]
    return sum(values), float(len(values))


def _sample(made: Any, row: TrainingRow, version: int, number: int) -> Any:
    prompt, said = list(row.prompt), list(row.completion)
    return made(
        prompt=[], completion=[],
        input_ids=np.array([*prompt, *said]), completion_mask=np.array([0] * len(prompt) + [1] * len(said)),
        old_log_probs=np.array([0.0] * len(prompt) + list(row.logprobs or ()), dtype=np.float32),
        advantage=float(row.advantage), model_version=version, group_id=number,
        metrics={"reward": float(row.value or 0.0)}, enqueued_at=time.time(),
    )  # fmt: skip


class Handover:
    """TRL's ``WeightTransferProtocol`` within one process: the merged weights go into the agent that plays."""

    def __init__(self, agent: LocalAgent) -> None:
        self.agent, self._lock = agent.copied(), threading.RLock()
        self._held = False

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Answer with the weights as they were handed over last."""
        with self._lock:
            return self.agent.act(requests)

    def init_weight_transfer(self) -> None:
        """Nothing to set up."""

    def pause(self) -> None:
        """Wait for the call under way; no other begins."""
        self._lock.acquire()
        self._held = True

    def send_weights(self, iterator: Any) -> None:
        """Take over these tensors by name."""
        with torch.no_grad():
            own = self.agent.model.state_dict()
            for name, value in iterator:
                if name in own:  # a tied head is sent as well
                    own[name].copy_(value)

    def resume(self) -> None:
        """Calls go on."""
        if self._held:
            self._held = False
            self._lock.release()

    def destroy(self) -> None:
        """Nothing to take down."""
        self.resume()


def without_cuda() -> None:
    """Let ``AsyncGRPOTrainer`` run on a CPU: call it before one is made.

    TRL reads its packed trees with a CUDA kernel (FlashAttention 3) and asks CUDA for the card's peak rate; here torch
    reads them itself, and the share of the peak is not reported.
    """
    from trl.experimental.async_grpo import async_grpo_trainer, packing

    packing.tree_attention = _attend
    async_grpo_trainer.get_peak_flops_per_device = lambda *_: None


def _attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, tree_kv_index: Any, tree_cu_seqlens_q: Any,
    tree_cu_seqlens_k: Any, scaling: float | None = None, sliding_window: int | None = None, **_: Any,
) -> tuple[Any, None]:  # fmt: skip
    """Each segment's queries over its own path from the root; ``[1, H, T, D]`` in, ``[1, T, H, D]`` out."""
    ends, paths = tree_cu_seqlens_q.tolist(), tree_cu_seqlens_k.tolist()
    parts = []
    for i in range(len(ends) - 1):
        own = query[:, :, ends[i] : ends[i + 1]]
        path = tree_kv_index[paths[i] : paths[i + 1]]
        count, length = own.size(2), len(path)
        at = torch.arange(length - count, length, device=query.device)[:, None]
        seen = torch.arange(length, device=query.device)[None]
        mask = seen <= at if not sliding_window else (seen <= at) & (seen > at - sliding_window)
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                own, key[:, :, path], value[:, :, path], attn_mask=mask, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None
