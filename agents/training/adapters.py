"""LoRA adapters on a policy: one for all roles or one each, and reset where other weights come in below (peft)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dream_envs.agents.engines.local import without_deprecations
from dream_envs.agents.engines.models import ADAPTERS, MAIN, save_adapter
from dream_envs.core import Action, DreamEnvsError, Request
from dream_envs.seeds import digest


def adapted(model: Any, rank: int, seed: int) -> Any:
    """The model with trainable adapters of this rank on every linear layer but the head, alpha twice the rank.

    The base's weights are frozen and shared; ``seed`` draws the adapters' start, at which they change nothing.
    """
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(), without_deprecations():
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config)


def add_roles(model: Any, main: str, roles: Iterable[str], seed: str) -> dict[str, str]:
    """Give every role but ``main``, which keeps the adapter that is there, one of its own; adapters by role.

    They share the base, start at nothing and train together: a row moves its role's alone.
    """
    names = {role: MAIN if role == main else role for role in sorted(roles)}
    if main not in names:
        raise DreamEnvsError(f"per_role={main!r}: a role that learns: {', '.join(names)}")
    for role in names:
        if role != main and role not in model.peft_config:
            with torch.random.fork_rng():
                torch.manual_seed(digest("lora", seed, role, bits=24))
                model.add_adapter(role, model.peft_config[MAIN])
    for name, value in model.named_parameters():
        value.requires_grad_("lora_" in name)
    return names


def load_roles(model: Any, names: dict[str, str], folder: Path) -> None:
    """Take over the roles' adapters of a folder that ``LocalAgent.save`` wrote."""
    from peft import load_peft_weights, set_peft_model_state_dict

    for role, name in names.items():
        set_peft_model_state_dict(model, load_peft_weights(str(folder / ADAPTERS / role), "cpu"), adapter_name=name)


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


def merged(model: Any, adapter: str = MAIN) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a model with this adapter merged in, by the base's names; the model is left as it is."""
    base = model.get_base_model()
    layers = {name: module for name, module in base.named_modules() if hasattr(module, "lora_A")}
    for name, value in base.named_parameters():
        if "lora_" in name:
            continue
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        plain = name.replace(".base_layer.", ".")
        yield plain, value.data if layer is None else value.data + layer.get_delta_weight(adapter).to(value.dtype)


def engine_of(agent: Any, **more: Any) -> Any:
    """A vLLM engine with the base and the decoding of a ``LocalAgent``.

    Raises:
        DreamEnvsError: where vLLM cannot be imported, or the base has no name to load it by.
    """
    from dream_envs.agents.engines.vllm import VllmAgent

    if not agent.name:
        raise DreamEnvsError("engine='vllm': name the model, which vLLM has to load as well; a loaded one has none")
    how, chat = agent.how, agent.chat
    kind = str(agent.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return VllmAgent(
        agent.name, temperature=how.temperature, top_p=how.top_p, min_p=how.min_p, top_k=how.top_k,
        system=chat.system, template=chat.template, dtype=kind, **more,
    )  # fmt: skip


class Merged:
    """A policy with one adapter on a vLLM engine: each step's merged weights are pushed into it."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.engine = agent, engine_of(agent, inside=True)
        self.publish()

    def publish(self) -> None:
        """Sample from the weights as they are now."""
        with torch.no_grad():
            self.engine.push(merged(self.agent.model))

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sample from the weights that were published last."""
        found: list[Action] = self.engine.act(requests)
        return found


class Published:
    """A policy's adapters on a vLLM engine: each step's are loaded under new names, beside those of past selves.

    Args:
        agent: the policy, a ``LocalAgent`` with adapters whose base has a name; its decoding and template are kept.
        rank: of the adapters.

    Raises:
        DreamEnvsError: where vLLM cannot be imported, or the base has no name to load it by.
    """

    def __init__(self, agent: Any, rank: int) -> None:
        self.agent, self.version = agent, 0
        self.engine = engine_of(agent, lora_rank=rank)
        self._folder = tempfile.TemporaryDirectory(prefix="dream-envs-adapters-")
        self._worn: dict[str, Any] = {}  # by the adapter's name here
        self.publish()

    def publish(self) -> None:
        """Sample from the adapters as they are now, under new names."""
        self.version += 1
        for name in {MAIN, *self.agent.adapters.values()}:
            self._worn[name] = self._add(name, f"step-{name}@{self.version}")  # past selves have names of their own

    def keep(self, role: str, name: str) -> None:
        """Load this role's adapter as it is now under a name of its own, for ``worn``."""
        self._add(self.agent.adapters.get(role, MAIN), name)

    def _add(self, adapter: str, name: str) -> Any:
        folder = save_adapter(self.agent.model, adapter, Path(self._folder.name) / name)
        self.engine.add(name, folder)
        return self.engine.adapter(name)._worn

    def worn(self, role: str, name: str) -> Any:
        """What a request of ``engine.act_as`` wears: an adapter that was kept; "": the role's newest."""
        return self.engine.adapter(name)._worn if name else self._worn[self.agent.adapters.get(role, MAIN)]

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sample from the adapters that were published last, in one batch."""
        return self.engine.act_as([self.worn(r.role, "") for r in requests], requests)
