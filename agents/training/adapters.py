"""LoRA adapters on a policy: put on, and reset where other weights come in below them (peft)."""

from __future__ import annotations

from typing import Any

import torch


def adapted(model: Any, rank: int, seed: int) -> Any:
    """The model with trainable adapters of this rank on every linear layer but the head, alpha twice the rank.

    The base's weights are frozen and shared; ``seed`` draws the adapters' start, at which they change nothing.
    """
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config)


def take_over(model: Any, other: Any) -> None:
    """Copy the weights of ``other`` (plain, or with the same adapters) into ``model``.

    Plain weights go below the adapters of ``model``, which are set to nothing.
    """
    if not hasattr(model, "peft_config") or hasattr(other, "peft_config"):
        model.load_state_dict(other.state_dict())
        return
    plain = other.state_dict()
    with torch.no_grad():
        for name, value in model.get_base_model().state_dict().items():
            if "lora_B" in name:
                value.zero_()
            elif "lora_" not in name:
                value.copy_(plain[name.replace(".base_layer.", ".")])
