"""Supervised fine-tuning of a copy, through TRL's ``SFTTrainer`` (TRL 1.16).

Replies are tokenised here, with the same template that the agent acts with and the end token behind, and reach TRL as
ids and labels: loss on the reply and its end alone, each token of a batch alike.  What TRL is relied on for, and held
to by a contract test: the loss is the mean negative log-likelihood of the labelled tokens of the whole batch.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import getstate, setstate
from typing import Any

import numpy as np

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from dream_envs.agents.engines.local import LocalAgent, without_deprecations
from dream_envs.core import DreamEnvsError, Message
from dream_envs.seeds import digest, stream

#: The messages that were seen, and the reply to learn.
Pair = tuple[Sequence[Message], str]
IGNORED = -100


def fine_tune(
    agent: LocalAgent,
    pairs: Sequence[Pair],
    *,
    steps: int,
    lr: float,
    seed: str,
    batch: int = 64,
    lora_rank: int | None = None,
    out: str | Path | None = None,
    warmup: int = 0,
    schedule: str = "linear",
    clip: float = 1.0,
    decay: float = 0.0,
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> LocalAgent:
    """A copy of the agent, fine-tuned on these replies; the agent itself is left as it is.

    The pairs are gone through in a new random order each epoch; AdamW with betas 0.9 and 0.95.  The same arguments
    give the same weights, to the last bit on a CPU with the same number of threads.

    Args:
        agent: the base.
        pairs: (messages, reply); a reply is learnt with the end token behind it.
        steps: optimiser steps.
        lr: the highest learning rate.
        seed: the label of everything random (order, LoRA's start).
        batch: pairs a step.
        lora_rank: None trains all weights; a number trains LoRA matrices of this rank (alpha twice the rank) on every
            linear layer but the head and merges them at the end.
        out: folder to write the result into, as a plain Hugging Face folder; None writes nothing.
        warmup: steps of linear warm-up.
        schedule: what comes after, by transformers' names: ``linear`` (to zero), ``constant``, ``cosine`` ...
        clip: bound on the gradient's norm.
        decay: weight decay.
        log: called with (step, metrics) after each step; makes each step a little slower.

    Raises:
        DreamEnvsError: without pairs, or for a number out of its range.
    """
    _check(pairs, lr, steps=steps, batch=batch, lora_rank=1 if lora_rank is None else lora_rank)
    copy = agent.snapshot()
    config = {
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": lr,
        "lr_scheduler_type": schedule,
        "warmup_steps": warmup,
        "max_grad_norm": clip,
        "weight_decay": decay,
        "logging_strategy": "steps" if log else "no",
        "use_cpu": copy.device.type == "cpu",
        "seed": digest("sft", seed, bits=24),
    }
    order = epochs(len(pairs), steps * batch, seed, "sft-order")
    copy.model = _trained(copy, tokenized(agent, pairs), order, config, lora_rank, log)
    if out is not None:
        copy.model.save_pretrained(str(out))
        copy.tokenizer.save_pretrained(str(out))
    return copy


def _trained(
    copy: LocalAgent,
    rows: Sequence[tuple[list[int], list[int]]],
    order: np.ndarray,
    config: dict[str, Any],
    lora_rank: int | None,
    log: Callable[[int, dict[str, float]], None] | None,
) -> Any:
    with tempfile.TemporaryDirectory() as folder, quietly():
        trainer = _Trainer(
            model=copy.model.requires_grad_(True),
            args=_config(output_dir=folder, **config),
            train_dataset=Dataset.from_dict({"row": order}),
            data_collator=Collator(rows, copy.pad),
            processing_class=copy.tokenizer,
            peft_config=lora(lora_rank),
            callbacks=[_Log(log)] if log else None,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model: Any = trainer.model
    if lora_rank is not None:
        model = model.merge_and_unload()
    vars(model).pop("forward", None)  # TRL's fused head
    return model.requires_grad_(False).eval()


def _check(pairs: Sequence[Pair], lr: float, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise DreamEnvsError(f"{name}={value}: 1 or more")
    if lr <= 0:
        raise DreamEnvsError(f"lr={lr}: above 0")
    if not pairs:
        raise DreamEnvsError("pairs is empty: fine-tuning needs one (messages, reply) or more")


def tokenized(agent: LocalAgent, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and completion ids of each pair, the end token included."""
    replies = agent.tokenizer([reply for _, reply in pairs], add_special_tokens=False)["input_ids"]
    return [
        (list(agent.encode(messages)), [*ids, agent.ends[0]]) for (messages, _), ids in zip(pairs, replies, strict=True)
    ]


class Collator:
    """Rows by number into a batch padded on the right: ``input_ids``, ``attention_mask``, ``labels``, ``int64[B, T]``.

    Args:
        rows: (prompt ids, completion ids).
        pad: the id to pad with.
    """

    def __init__(self, rows: Sequence[tuple[list[int], list[int]]], pad: int) -> None:
        self._ids = [np.array(prompt + reply) for prompt, reply in rows]
        self._starts = [len(prompt) for prompt, _ in rows]
        self._pad = pad

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """The batch of these rows; labels outside the reply are ``IGNORED``."""
        rows = [e["row"] for e in examples]
        shape = len(rows), max(len(self._ids[r]) for r in rows)
        ids, labels, mask = np.full(shape, self._pad), np.full(shape, IGNORED), np.zeros(shape, dtype=np.int64)
        for i, r in enumerate(rows):
            row, start = self._ids[r], self._starts[r]
            ids[i, : len(row)], labels[i, start : len(row)], mask[i, : len(row)] = row, row[start:], 1
        named = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: torch.from_numpy(values) for name, values in named.items()}


class _Trainer(SFTTrainer):
    """Rows in the order that they are given in."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(rows)


class _Log(TrainerCallback):
    def __init__(self, call: Callable[[int, dict[str, float]], None]) -> None:
        self._call = call

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._call(state.global_step, logs)


def _config(**given: Any) -> SFTConfig:
    return SFTConfig(
        gradient_accumulation_steps=1,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        **given,
    )


def lora(rank: int | None) -> Any:
    """Configuration for peft of a low-rank expert on every linear layer but the head, alpha twice the rank; None."""
    if rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def epochs(count: int, total: int, seed: str, label: str) -> np.ndarray:
    """``int[total]``: row numbers, a new permutation of all ``count`` each epoch."""
    return np.concatenate([stream(label, seed, e).permutation(count) for e in range(-(-total // count))])[:total]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Around a trainer: no progress bars, no warnings about its own settings, and the caller's global generators back.

    TRL seeds torch's, numpy's and Python's global generators.
    """
    from transformers.utils import logging

    python, state, bars = getstate(), np.random.get_state(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(), without_deprecations():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
            yield
    finally:
        setstate(python)
        np.random.set_state(state)
        if bars:
            logging.enable_progress_bar()
