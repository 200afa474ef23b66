"""A reward model from pairs of a better and a worse answer, through TRL's ``RewardTrainer`` (TRL 1.16)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import RewardConfig, RewardTrainer

from dream_envs.agents.engines.classifier import Classifier, ids_of
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import device_of, resolve
from dream_envs.agents.training.sft import epochs, quietly
from dream_envs.core import DreamEnvsError, Message
from dream_envs.seeds import digest, stream


class Preferred(msgspec.Struct, frozen=True):
    """Two answers to the same messages, the better one first."""

    messages: list[Message]
    better: str
    worse: str


def train_reward_model(
    base: LocalAgent,
    pairs: Sequence[Preferred],
    out: Path,
    *,
    steps: int,
    lr: float,
    seed: str,
    batch: int = 32,
    lora_rank: int = 0,
    held_out: float = 0.1,
) -> dict[str, float]:
    """Train a sequence classifier with one label, from the base's weights and a new head, and write it into ``out``.

    The loss is Bradley-Terry's: -log sigmoid(score of the better - score of the worse).

    Args:
        base: whose weights, template and device it takes.
        pairs: what it learns from.
        out: a folder.
        steps: optimiser steps.
        lr: the highest learning rate, which falls linearly to zero.
        seed: the label of everything random.
        batch: pairs a step.
        lora_rank: 0 trains all weights; else adapters of this rank and the head, merged at the end.
        held_out: share of the prompts that is only measured, 0 to below 1.

    Returns:
        ``pairs``, and the share of pairs that are ordered rightly: ``accuracy`` of those it learnt from (512 at most),
        ``held_out`` of the others (left out where there are none).

    Raises:
        DreamEnvsError: where there is no pair to learn from.
    """
    prompts = sorted({_prompt(p) for p in pairs})
    order = stream(seed, "preference", "held-out").permutation(len(prompts))
    away = {prompts[i] for i in order[: int(held_out * len(prompts))]}
    learnt = [p for p in pairs if _prompt(p) not in away]
    if not learnt or steps < 1 or batch < 1 or lr <= 0:
        raise DreamEnvsError(f"{len(learnt)} pairs, steps={steps}, batch={batch}, lr={lr}: 1 or more, lr above 0")
    made = _trained(base, learnt, seed, lora_rank, max_steps=steps, per_device_train_batch_size=batch, learning_rate=lr)
    made.eval().save_pretrained(str(out))
    base.tokenizer.save_pretrained(str(out))
    judge = Classifier(str(out), str(base.device))
    found = {"pairs": float(len(pairs)), "accuracy": _right(judge, learnt[:512])}
    return found | ({"held_out": _right(judge, [p for p in pairs if _prompt(p) in away])} if away else {})


def _trained(base: LocalAgent, pairs: Sequence[Preferred], seed: str, rank: int, **how: Any) -> Any:
    rows = [{"chosen_ids": _ids(base, p, p.better), "rejected_ids": _ids(base, p, p.worse)} for p in pairs]
    total = how["max_steps"] * how["per_device_train_batch_size"]
    order = [rows[i] for i in epochs(len(rows), total, seed, "preference-order")]
    on_cpu = base.device.type == "cpu"
    with tempfile.TemporaryDirectory() as folder, quietly():
        args = RewardConfig(
            output_dir=folder, max_length=None, train_sampling_strategy="sequential", save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=on_cpu, bf16=not on_cpu,
            gradient_checkpointing=False, seed=digest("preference", seed, bits=24), **how,
        )  # fmt: skip
        trainer = RewardTrainer(
            model=_headed(base, seed), args=args, train_dataset=Dataset.from_list(order),
            processing_class=base.tokenizer, peft_config=_lora(rank),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    made: Any = trainer.model
    return made.merge_and_unload() if rank else made


def _prompt(pair: Preferred) -> str:
    return msgspec.json.encode(pair.messages).decode()


def _ids(base: LocalAgent, pair: Preferred, text: str) -> list[int]:
    return ids_of(base.tokenizer, [*pair.messages, {"role": "assistant", "content": text}])


def _headed(base: LocalAgent, seed: str) -> Any:
    """The base's trunk under a new head for one number."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    source, level = resolve(base.name) if base.name else "", logging.get_verbosity()
    made: Any = AutoModelForSequenceClassification
    logging.set_verbosity_error()  # the new head is meant
    try:
        with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(digest("head", seed, bits=24))
            if not source:
                base.save(folder)
            model = made.from_pretrained(source or folder, num_labels=1, dtype=torch.float32)
    finally:
        logging.set_verbosity(level)
    model.config.get_text_config().pad_token_id = base.pad
    return model.to(device_of(str(base.device)))


def _lora(rank: int) -> Any:
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="SEQ_CLS")


def _right(judge: Classifier, pairs: Sequence[Preferred]) -> float:
    texts: list[list[Message]] = [
        [*p.messages, {"role": "assistant", "content": text}] for p in pairs for text in (p.better, p.worse)
    ]
    scores = [float(x[0]) if x is not None else float("nan") for x in judge.logits(texts)]
    return sum(a > b for a, b in zip(scores[::2], scores[1::2], strict=True)) / max(1, len(pairs))
