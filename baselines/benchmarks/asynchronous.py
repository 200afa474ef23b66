"""Games beside TRL's asynchronous trainer, against our synchronous loop on the same games.

A completion counts once, in the step that it belongs to: what the worker plays ahead, and what TRL drops as too old or
as a group without a difference, counts for nothing, while our loop's groups all count.
"""

from __future__ import annotations

import importlib.util
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from transformers import PrinterCallback

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.agents.training.collector import Collector
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.agents.training.settings import LearnerSettings, RowSettings
from dream_envs.baselines.benchmarks import engines
from dream_envs.baselines.benchmarks.model import MODEL, SOLVERS, one_thread
from dream_envs.baselines.benchmarks.rows import Options, Row, compared, side_by_side
from dream_envs.baselines.loop import PhaseRun
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import as_agent
from dream_envs.rewards.base import as_reward
from dream_envs.runs import Run
from dream_envs.tasks.arithmetic import Arithmetic

RANK = 8


@dataclass(frozen=True)
class Setting:
    """What both train: ``mixture`` gives the problems of a step, ``budget`` bounds TRL's forward pass in tokens.

    ``vllm``: TRL's trainer has a vLLM server, our loop vLLM in its process; else both sample with our own engine.
    """

    told: str
    model: str
    game: ChallengerSolver
    mixture: Mixture
    lr: float
    budget: int
    micro: int = 0
    vllm: bool = False

    def rows(self) -> int:
        """Completions of a step, all of which are trained on."""
        return self.mixture.generator * self.game.solvers

    def problems(self) -> Curriculum:
        """The same for both."""
        return Curriculum(self.game, self.mixture, seed="bench", store=ChallengeStore())

    def seats(self) -> dict[str, Any]:
        """The solver alone learns."""
        return {"challenger": as_agent("generator", self.game)}


def beside(options: Options) -> list[Row]:
    """Completions a second of both: on nano, and on SmolLM2 where vLLM is installed."""
    mixture = Mixture(0, 0, 0, generator=32, levels=(4,))
    nano = Setting("depth 4 on nano", MODEL, ChallengerSolver(solvers=SOLVERS), mixture, 1e-3, 2048)
    steps = options.pick(3, 10, 30)
    with one_thread():
        works = {"apart": lambda: _apart(nano, options, steps), "in turn": lambda: _in_turn(nano, options, steps)}
        times = side_by_side(works, options.pick(1, 3, 5))
    rows = [_row(nano, steps, times)]
    if importlib.util.find_spec("vllm") is None:
        return [*rows, Row(what="one-digit sums on SmolLM2", note="vLLM is not installed here")]
    game = ChallengerSolver(Arithmetic(notation="english", operators="+"), solvers=SOLVERS, reply_tokens=24)
    mixture = Mixture(0, 0, 0, generator=4, levels=(1,))
    real = Setting("one-digit sums on SmolLM2, vLLM", engines.MODEL, game, mixture, 1e-4, 512, micro=8, vllm=True)
    steps = options.pick(2, 10, 20)
    # once each: a warm-up of minutes would change nothing, since starts are not counted
    return [
        *rows,
        _row(real, steps, {"apart": [_apart(real, options, steps)], "in turn": [_in_turn(real, options, steps)]}),
    ]


def _row(setting: Setting, steps: int, times: dict[str, list[float]]) -> Row:
    words = {"unit": "completions/s", "peer_name": "our synchronous loop", "note": f"{steps} steps, LoRA {RANK}"}
    what = f"{setting.told}: games beside TRL's asynchronous trainer, {setting.rows()} rows a step"
    return compared(times["apart"], times["in turn"], lambda s: 1 / s, "the loop's", what=what, **words)


def _apart(setting: Setting, options: Options, steps: int) -> float:
    """Seconds a completion that the asynchronous trainer trained on."""
    from peft import LoraConfig
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

    from dream_envs.adapters.trl_async import GameWorker, placeholder, without_cuda

    without_cuda()
    given: dict[str, Any] = {}
    how: dict[str, Any] = {"plan": setting.problems().plan, "seats": setting.seats()}
    with options.folder() as inside, ExitStack() as until_then:
        agent = LocalAgent(setting.model, dtype="float32")
        if setting.vllm:
            url = until_then.enter_context(engines.served(options, "float32", lora_rank=RANK)).base_url
            worker = GameWorker(setting.game, url=url, model=setting.model, **how)
            given["vllm_server_base_url"] = url.removesuffix("/v1")
        else:
            worker = GameWorker(setting.game, agent=agent, **how)
        args = AsyncGRPOConfig(
            output_dir=str(inside), per_device_train_batch_size=setting.rows(), max_steps=steps, use_cpu=True,
            bf16=False, dtype="float32", token_budget=setting.budget, report_to="none", gradient_checkpointing=False,
            save_strategy="no", disable_tqdm=True, learning_rate=setting.lr, **given,
        )  # fmt: skip
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = AsyncGRPOTrainer(
            resolve(setting.model), args=args, train_dataset=placeholder(), processing_class=agent.tokenizer,
            rollout_worker=worker, weight_transfer=worker.handover, peft_config=lora,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        return (time.perf_counter() - began) / (steps * setting.rows())


def _in_turn(setting: Setting, options: Options, steps: int) -> float:
    """Seconds a completion of our loop."""
    settings = LearnerSettings(
        lora_rank=RANK, lr=setting.lr, save_every=10**6, micro_batch=setting.micro,
        rows=RowSettings(rows=setting.rows()), engine="vllm" if setting.vllm else "local",
    )  # fmt: skip
    learner = PolicyLearner(LocalAgent(setting.model, dtype="float32"), settings=settings)
    with options.folder() as inside:
        run = Run(inside / "run", {"command": "bench"})
        collector = Collector(setting.game, setting.problems(), as_reward("correctness"), run, seats=setting.seats())
        began = time.perf_counter()
        learner.improve(collector, steps, PhaseRun(inside))
        spent = time.perf_counter() - began
        run.close()
    return spent / (steps * setting.rows())
