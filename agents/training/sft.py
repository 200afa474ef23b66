"""Supervised fine-tuning of a copy, through TRL's ``SFTTrainer`` (TRL 1.16).

Replies are tokenised here, with the template that the agent acts with and the end token behind, and reach TRL as ids
and labels.  Relied on, and held by a test: the loss is the mean over the labelled tokens of the whole batch.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from random import getstate, setstate
from typing import Any

import numpy as np

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from dream_envs.agents.engines.local import LocalAgent, without_deprecations
from dream_envs.agents.engines.meter import METER
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
    decay: float = 0.0,
    unfinished: Collection[int] = (),
) -> LocalAgent:
    """A copy of the agent, fine-tuned on these replies; the agent itself is left as it is.

    The pairs are gone through in a new random order each epoch; AdamW with betas 0.9 and 0.95, gradients clipped to a
    norm of 1.  The same arguments give the same weights, to the last bit on a CPU with the same number of threads.

    Args:
        agent: the base.
        pairs: (messages, reply); a reply is learnt with the end token behind it.
        steps: optimiser steps.
        lr: the highest learning rate, which falls linearly to zero.
        seed: the label of everything random (order, LoRA's start).
        batch: pairs a step.
        lora_rank: None trains all weights; a number trains LoRA matrices of this rank (alpha twice the rank) on every
            linear layer but the head and merges them at the end.
        out: folder to write the result into, as a plain Hugging Face folder; None writes nothing.
        warmup: steps of linear warm-up.
        decay: weight decay.
        unfinished: places of pairs whose reply was cut off: no end token is learnt behind these.
    """
    for name, value in {"steps": steps, "batch": batch, "lora_rank": 1 if lora_rank is None else lora_rank}.items():
        if value < 1:
            raise DreamEnvsError(f"{name}={value}: 1 or more")
    if lr <= 0:
        raise DreamEnvsError(f"lr={lr}: above 0")
    if not pairs:
        raise DreamEnvsError("pairs is empty: fine-tuning needs one (messages, reply) or more")
    copy = agent.snapshot()
    how = {
        "max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": lr, "warmup_steps": warmup,
        "weight_decay": decay, "use_cpu": copy.device.type == "cpu", "seed": digest("sft", seed, bits=24),
    }  # fmt: skip
    order = epochs(len(pairs), steps * batch, seed, "sft-order")
    copy.model = _trained(copy, tokenized(agent, pairs, unfinished), order, how, lora_rank)
    if out is not None:
        copy.model.save_pretrained(str(out))
        copy.tokenizer.save_pretrained(str(out))
    return copy


def _trained(
    copy: LocalAgent, rows: Sequence[tuple[list[int], list[int]]], order: np.ndarray, how: dict[str, Any], rank: Any
) -> Any:
    with tempfile.TemporaryDirectory() as folder, quietly():
        args = SFTConfig(
            output_dir=folder, gradient_accumulation_steps=1, adam_beta1=0.9, adam_beta2=0.95, max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False, logging_strategy="no",
            train_sampling_strategy="sequential", save_strategy="no", report_to="none", disable_tqdm=True, bf16=False,
            gradient_checkpointing=False, **how,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=copy.model.requires_grad_(True),
            args=args,
            train_dataset=Dataset.from_dict({"row": order}),
            data_collator=Collator(rows, copy.pad),
            processing_class=copy.tokenizer,
            peft_config=lora(rank),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model: Any = trainer.model
    if rank is not None:
        model = model.merge_and_unload()
    vars(model).pop("forward", None)  # TRL's fused head
    return model.requires_grad_(False).eval()


def tokenized(
    agent: LocalAgent, pairs: Sequence[Pair], unfinished: Collection[int] = ()
) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and completion ids of each pair, the end token included but for those at places of ``unfinished``."""
    return [
        (list(agent.encode(messages)), agent.completion(reply)[: -1 if place in unfinished else None])
        for place, (messages, reply) in enumerate(pairs)
    ]


class Collator:
    """Rows by number into a batch padded on the right: ``input_ids``, ``attention_mask``, ``labels``, ``int64[B, T]``.

    ``rows``: (prompt ids, completion ids); labels outside the completions are ``IGNORED``.
    """

    def __init__(self, rows: Sequence[tuple[list[int], list[int]]], pad: int) -> None:
        self._ids = [torch.tensor(prompt + reply) for prompt, reply in rows]
        self._labels = [torch.tensor([IGNORED] * len(prompt) + reply) for prompt, reply in rows]
        self._pad = pad

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """The batch of these rows."""
        rows = [example["row"] for example in examples]
        METER.trained += sum(int((self._labels[row] != IGNORED).sum()) for row in rows)
        ids = [self._ids[row] for row in rows]
        return {
            "input_ids": pad_sequence(ids, True, self._pad),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], True),
            "labels": pad_sequence([self._labels[row] for row in rows], True, IGNORED),
        }


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
