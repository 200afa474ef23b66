"""A sequence-classification model that scores conversations: batched, on a device, with its chat template."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dream_envs.agents.engines.models import device_of, dtype_of, resolve, weights_hash
from dream_envs.core import DreamEnvsError, Message
from dream_envs.runs import read_json


class Classifier:
    """``AutoModelForSequenceClassification`` of a folder or hub id; its weights are loaded at the first call.

    Args:
        model: whole weights, or an adapter's folder (LoRA of task type SEQ_CLS).
        device: ``cpu``, ``cuda``, ``auto`` ...
        dtype: as for ``LocalAgent``.
        batch: conversations in one forward pass.

    Raises:
        DreamEnvsError: where the folder holds no such model.
    """

    def __init__(self, model: str, device: str = "cpu", dtype: str = "auto", batch: int = 32) -> None:
        self.name, self.batch, self.calls = model, batch, 0
        self.folder = resolve(model)
        self._how = device_of(device), dtype_of(dtype, device_of(device))
        facts = read_json(Path(self.folder) / "config.json") or {}
        adapter = read_json(Path(self.folder) / "adapter_config.json") or {}
        kinds = facts.get("architectures") or [adapter.get("task_type", "nothing")]
        if not any("SequenceClassification" in kind or kind == "SEQ_CLS" for kind in kinds):
            raise DreamEnvsError(f"reward model {model!r} is a {kinds[0]}: a ...ForSequenceClassification is wanted")
        self._hash = weights_hash(Path(self.folder))

    def __repr__(self) -> str:
        return f"{self.name}#{self._hash}"

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        device, dtype = self._how
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
            if (Path(self.folder) / "config.json").is_file():
                made: Any = AutoModelForSequenceClassification
                how = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
                model = made.from_pretrained(self.folder, **how)
            else:
                from peft import AutoPeftModelForSequenceClassification

                labels = len(read_json(Path(self.folder) / "labels.json") or [0])
                model = AutoPeftModelForSequenceClassification.from_pretrained(
                    self.folder, num_labels=labels, dtype=dtype
                ).merge_and_unload()
            model = model.to(device).eval().requires_grad_(False)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DreamEnvsError(f"reward model {self.name!r} cannot be loaded: {first}") from error
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        tokenizer.padding_side = "right"
        return model, tokenizer

    @torch.inference_mode()
    def logits(self, conversations: Sequence[Sequence[Message]]) -> list[np.ndarray | None]:
        """``float64[labels]`` of each conversation; None for one that is longer than the model can read.

        A model without a chat template reads the contents, joined by blank lines.  Rounded to six decimals: what is
        beside a row in its batch changes the last bits.
        """
        if not conversations:
            return []
        model, tokenizer = self._loaded
        rows = [ids_of(tokenizer, conversation) for conversation in conversations]
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
        found: list[np.ndarray | None] = [None] * len(rows)
        order = sorted((i for i, row in enumerate(rows) if len(row) <= most), key=lambda i: (len(rows[i]), i))
        for at in range(0, len(order), self.batch):
            part = order[at : at + self.batch]
            given = tokenizer.pad({"input_ids": [rows[i] for i in part]}, return_tensors="pt").to(model.device)
            out = model(**given).logits.double().cpu().numpy()
            self.calls += 1
            for i, values in zip(part, out, strict=True):
                found[i] = np.round(values, 6)
        return found


def ids_of(tokenizer: Any, conversation: Sequence[Message]) -> list[int]:
    """What a classifier reads of a conversation."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template([dict(m) for m in conversation], tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer("\n\n".join(m["content"] for m in conversation))["input_ids"])


@functools.lru_cache(maxsize=8)
def classifier(model: str, device: str, dtype: str, batch: int) -> Classifier:
    """One loaded model for all rewards that name it."""
    return Classifier(model, device, dtype, batch)
