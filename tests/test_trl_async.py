"""Our games under TRL's own AsyncGRPOTrainer, on a CPU: what is read is what was sampled, ages are bounded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch

pytest.importorskip("trl")

from peft import LoraConfig
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

from dream_envs.adapters.trl_async import GameWorker, placeholder, without_cuda
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.core import Action, DreamEnvsError
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.kuhn import Kuhn
from dream_envs.play import EpisodeWriter, read_episodes, score
from dream_envs.rewards.base import as_reward


def trainer(folder: Path, worker: GameWorker, model: str, steps: int, **more: Any) -> AsyncGRPOTrainer:
    torch.set_num_threads(1)
    without_cuda()
    args = AsyncGRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=16, max_steps=steps, use_cpu=True, bf16=False,
        dtype="float32", token_budget=1024, report_to="none", gradient_checkpointing=False, save_strategy="no",
        logging_steps=1, max_staleness=2, disable_tqdm=True, **{"learning_rate": 3e-3, **more},
    )  # fmt: skip
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    assert worker.handover is not None
    return AsyncGRPOTrainer(
        resolve(model), args=args, train_dataset=placeholder(), processing_class=worker.handover.agent.tokenizer,
        rollout_worker=worker, weight_transfer=worker.handover, peft_config=lora,
    )  # fmt: skip


def solving(level: int, **more: Any) -> GameWorker:
    game = ChallengerSolver(solvers=8)
    plan = Curriculum(game, Mixture(0, 0, 0, generator=8, levels=(level,)), seed="async", store=ChallengeStore()).plan
    return GameWorker(game, agent=LocalAgent("nano/compose"), plan=plan, seats={"challenger": "generator"}, **more)


def test_it_learns_off_policy_within_the_allowed_age(tmp_path: Path) -> None:
    """Success at depth 4 rises; at the first step the ratio to what was sampled is one for every token."""
    worker = solving(4)
    made = trainer(tmp_path, worker, "nano/compose", 12)
    before = LocalAgent("nano/compose")
    made.train()
    rows = [{k: float(v) for k, v in row.items()} for row in made.state.log_history if "ratio" in row]
    assert len(rows) == 12 and abs(rows[0]["ratio"] - 1) < 1e-4 and rows[0]["kl"] < 1e-6
    ages = [row["sample/staleness_max"] for row in rows]
    assert 0 < max(ages) <= 2
    told = [row["rollout/reward/solver"] for row in rows if "rollout/reward/solver" in row]
    assert told[-1] > told[0] + 0.2
    assert worker.handover is not None and worker.samples >= 64 * 12 / 4
    own, now = before.model.state_dict(), worker.handover.agent.model.state_dict()
    assert any(not torch.equal(own[k], now[k]) for k in own)


def test_a_game_of_two_roles_is_played_recorded_and_trained(tmp_path: Path) -> None:
    out = EpisodeWriter(tmp_path / "episodes.jsonl")
    agent = LocalAgent("nano/kuhn")
    worker = GameWorker(Kuhn(), agent=agent, episodes=32, copies=8, baseline="rae", out=out)
    made = trainer(tmp_path / "t", worker, "nano/kuhn", 3)
    made.train()
    out.close()
    episodes = list(read_episodes(tmp_path / "episodes.jsonl"))
    assert len(episodes) == 32 * worker.rounds
    again = score(episodes, as_reward(worker.reward))
    assert all(a.scores == b.scores for a, b in zip(episodes, again, strict=True))
    told = {key for row in made.state.log_history for key in row}
    assert told >= {"rollout/reward/first", "rollout/reward/second"}


def test_what_ends_the_games_ends_the_training_in_one_line(tmp_path: Path) -> None:
    class Silent:
        def act(self, requests: Any) -> list[Action]:
            raise DreamEnvsError("the key is wrong: set OPENAI_API_KEY")

    worker = GameWorker(Kuhn(), agent=LocalAgent("nano/kuhn"), seats={"second": Silent()})
    with pytest.raises(DreamEnvsError, match=r"8 rounds without a row to train on; .*'error': 32"):
        trainer(tmp_path, worker, "nano/kuhn", 2).train()
    worker._failed.clear()
    with pytest.raises(DreamEnvsError, match="no round of games within -1 s"):
        worker.check_health(-1)


def test_what_cannot_be_is_refused() -> None:
    agent = LocalAgent("nano/kuhn")
    for how, why in (
        ({}, "url=... with model=..., or agent"),
        ({"url": "http://127.0.0.1:1/v1"}, "url=... with model=..."),
        ({"agent": agent, "url": "http://127.0.0.1:1/v1", "model": "nano/kuhn"}, "or agent"),
        ({"agent": agent, "baseline": "critic"}, "no critic"),
        ({"agent": agent, "seats": {"first": "random", "second": "random"}}, "is left to learn"),
    ):
        with pytest.raises(DreamEnvsError, match=why):
            GameWorker(Kuhn(), **how)  # type: ignore[arg-type]
