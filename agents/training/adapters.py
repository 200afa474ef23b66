"""LoRA adapters on a policy: put on, and reset where other weights come in below them (peft)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from dream_envs.agents.engines.local import without_deprecations
from dream_envs.core import Action, DreamEnvsError, Request


def adapted(model: Any, rank: int, seed: int) -> Any:
    """The model with trainable adapters of this rank on every linear layer but the head, alpha twice the rank.

    The base's weights are frozen and shared; ``seed`` draws the adapters' start, at which they change nothing.
    """
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(), without_deprecations():
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


class Published:
    """A policy's adapter on a vLLM engine in this process: what learns is here, what samples is there.

    Args:
        agent: the policy, a ``LocalAgent`` with adapters whose base has a name; its decoding and template are kept.
        rank: of the adapters.

    Raises:
        DreamEnvsError: where vLLM cannot be imported, or the base has no name to load it by.
    """

    def __init__(self, agent: Any, rank: int) -> None:
        from dream_envs.agents.engines.vllm import VllmAgent

        if not agent.name:
            raise DreamEnvsError("engine='vllm': name the model, which vLLM has to load as well; a loaded one has none")
        how, chat = agent.how, agent.chat
        self.agent, self.version = agent, 0
        kind = str(agent.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
        self.engine = VllmAgent(
            agent.name, temperature=how.temperature, top_p=how.top_p, min_p=how.min_p, top_k=how.top_k,
            system=chat.system, template=chat.template, dtype=kind, lora_rank=rank,
        )  # fmt: skip
        self._folder = tempfile.TemporaryDirectory(prefix="dream-envs-adapters-")
        self._worn = self.engine
        self.publish()

    def publish(self) -> None:
        """Sample from the adapter as it is now, under a new name."""
        self.version += 1
        name = f"step@{self.version}"
        folder = f"{self._folder.name}/{self.version}"
        self.agent.model.save_pretrained(folder)
        self.engine.add(name, folder)
        self._worn = self.engine.adapter(name)

    def keep(self, name: str) -> None:
        """Load the adapter as it is now under a name of its own, for ``worn``."""
        folder = f"{self._folder.name}/{name}"
        self.agent.model.save_pretrained(folder)
        self.engine.add(name, folder)

    def worn(self, name: str) -> Any:
        """What a request of ``engine.act_as`` wears: an adapter that was kept; "": the one that was published last."""
        return self.engine.adapter(name)._worn if name else self._worn._worn

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sample from the adapter that was published last."""
        return self._worn.act(requests)
