"""Every touch of TRL is in this file (TRL 1.16): ``GRPOTrainer`` with rows and advantages of our own.

What is relied on, and held by a contract test against the installed version:

- ``rollout_func(prompts, trainer)`` returns exactly one row a prompt with ``prompt_ids``, ``completion_ids``,
  ``logprobs`` and ``env_mask``; further lists reach the reward functions as keyword arguments;
- ``_generate_and_score_completions`` returns a dict whose ``advantages[B]`` are used as they stand;
- with one generation batch an optimiser step the probability ratio is one, so rows that the policy did not sample
  itself (reviewed traces, demonstrations) enter as plain weighted likelihood.

TRL normalises rewards by position in blocks of ``num_generations`` rows.  Rows here come in groups of (task, role) of
any size, so their advantages are computed before (``agents.advantage``) and put in place of TRL's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

#: TRL asks for at least two rows a block; nothing of ours depends on the number.
BLOCK = 2


class TrainingRow(msgspec.Struct, frozen=True):
    """One row of a step: token ids, and the weight of its log-likelihood (its advantage)."""

    prompt: Sequence[int]
    completion: Sequence[int]
    advantage: float
    value: float | None = None


class RowTrainer(GRPOTrainer):
    """TRL's GRPO trainer, fed by ``source(step) -> rows``."""

    def __init__(
        self,
        source: Callable[[int], list[TrainingRow]],
        rows: int,
        metrics: Callable[[], dict[str, float]] = dict,
        **kwargs: Any,
    ) -> None:
        self._source, self._row_count, self._measure = source, rows, metrics
        self._rows: list[TrainingRow] = []
        rollout: Any = _rollout  # it is given this class, where TRL's annotation names its own
        super().__init__(reward_funcs=_value, rollout_func=rollout, **kwargs)

    def fetch(self, count: int) -> list[TrainingRow]:
        """This step's rows, filled up with rows that the loss does not see."""
        rows = self._source(self.state.global_step)[:count]
        filler = TrainingRow((self._tokenizer.pad_token_id,), (self.eos_token_ids[0],), 0.0)
        self._rows = rows + [filler] * (count - len(rows))
        for name, value in self._measure().items():
            self._metrics["train"][name].append(value)
        return self._rows

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)
        values = [row.advantage for row in self._rows]
        out["advantages"] = torch.tensor(values, dtype=out["advantages"].dtype, device=out["advantages"].device)
        return out


def _rollout(prompts: list[Any], trainer: RowTrainer) -> dict[str, Any]:
    rows = trainer.fetch(len(prompts))
    return {
        "prompt_ids": [list(r.prompt) for r in rows],
        "completion_ids": [list(r.completion) for r in rows],
        "logprobs": None,
        "env_mask": [[int(r.advantage != 0.0)] * len(r.completion) for r in rows],
        "value": [r.value for r in rows],
    }


def _value(value: Sequence[float | None], **_: Any) -> list[float | None]:
    return list(value)


_value.__name__ = "value"


class CheckpointCallback(TrainerCallback):
    """Calls ``save(folder)`` after each TRL checkpoint and ``log(step, metrics)`` after each step; on every rank."""

    def __init__(self, save: Callable[[Path], None], log: Callable[[int, dict[str, float]], None]) -> None:
        self._save, self._log = save, log

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """TRL has written ``checkpoint-N``: complete it."""
        self._save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """One step's metrics."""
        if logs and "loss" in logs:
            self._log(state.global_step, logs)


class TrainSettings(msgspec.Struct, frozen=True):
    """What the optimiser needs to know."""

    out: str
    rows: int
    steps: int
    lr: float
    seed: int
    save_every: int
    kl: float = 0.0
    warmup: int = 10
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: str = "linear"
    tensorboard: str | None = None


def make_trainer(
    model: Any,
    tokenizer: Any,
    source: Callable[[int], list[TrainingRow]],
    settings: TrainSettings,
    callback: CheckpointCallback,
    metrics: Callable[[], dict[str, float]] = dict,
) -> RowTrainer:
    """A trainer that asks ``source`` for rows at every step, and ``metrics`` for what is logged beside TRL's own."""
    gpu = next(model.parameters()).device.type != "cpu"
    if settings.tensorboard:
        os.environ["TENSORBOARD_LOGGING_DIR"] = settings.tensorboard
    config = GRPOConfig(
        output_dir=settings.out,
        per_device_train_batch_size=settings.rows,
        gradient_accumulation_steps=1,
        num_generations=BLOCK,
        max_completion_length=4096,
        max_steps=settings.steps,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=0.0,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        max_grad_norm=settings.clip,
        beta=settings.kl,
        loss_type="dapo",
        scale_rewards="none",
        shuffle_dataset=False,
        save_steps=settings.save_every,
        save_strategy="steps",
        save_total_limit=3,
        logging_steps=1,
        report_to=["tensorboard"] if settings.tensorboard else "none",
        disable_tqdm=True,
        use_cpu=not gpu,
        bf16=False,
        gradient_checkpointing=False,
        ddp_find_unused_parameters=False,
        seed=settings.seed,
    )
    placeholder = Dataset.from_dict({"prompt": ["-"] * (settings.rows * max(1, _world()) // BLOCK)})
    trainer = RowTrainer(
        source,
        settings.rows,
        metrics,
        model=model,
        args=config,
        train_dataset=placeholder,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # the run reports its own progress
    return trainer


class _Quiet(logging.Filter):
    """Drops warnings, several a step, about rows without a reward: reviewed and filler rows have none by design."""

    _about = ("All reward functions returned None", "Trainer is attempting to log a value of")

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(about in str(record.msg) for about in self._about)  # accelerate puts the rank in front


_BOARD = "transformers.integrations.integration_utils"  # whose rewards are None where no row of a step has one
for _name in ("trl.trainer.grpo_trainer", "trl.trainer.utils", "trl.trainer.base_trainer", _BOARD):
    logging.getLogger(_name).addFilter(_Quiet())


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
