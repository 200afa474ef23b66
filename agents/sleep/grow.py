"""Function-preserving growth: a model of twice the width that says exactly what the narrow one says (Net2Net).

Upward seeding needs a student with more room than its teacher.  ``widen`` doubles hidden size, heads and MLP of a model
of the Llama layout: every activation occurs twice, and every matrix that reads two copies splits its weights between
them, at random (``noise``), so that the copies get different gradients and the room is used.  Source: Net2Net (arXiv
1511.05641), in the form that bert2BERT (2110.07143) gives it for transformers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.checks import check
from dream_envs.core import DreamEnvsError
from dream_envs.seeds import digest

_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@torch.no_grad()
def widen(agent: LocalAgent, seed: str, noise: float = 0.5) -> LocalAgent:
    """A model of twice the width with the agent's function, and its tokenizer.

    The layers have ``q_proj`` ... ``down_proj`` and nothing else with weights but norms; another layout is an error.
    ``noise``: size of the split's random part, relative to a weight matrix's deviation; 0 keeps the copies alike for
    ever.
    """
    check("noise", noise, 0)
    old = agent.model
    config = copy.deepcopy(old.config)
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        if not isinstance(getattr(config, name, None), int):
            raise DreamEnvsError(f"{type(old).__name__} has no {name}: widen knows models of the Llama layout")
        setattr(config, name, 2 * getattr(config, name))
    with torch.random.fork_rng():
        new = type(old)(config).to(agent.device)
    generator = torch.Generator().manual_seed(digest("widen", seed, bits=32))
    tied = bool(getattr(config, "tie_word_embeddings", False))
    size = old.config.hidden_size
    weights = {name: _wider(name, w, size, tied, noise, generator) for name, w in old.state_dict().items()}
    try:
        new.load_state_dict(weights)
    except RuntimeError as error:
        raise DreamEnvsError(f"{type(old).__name__} cannot be widened: {str(error).splitlines()[1].strip()}") from error
    new.generation_config = copy.deepcopy(old.generation_config)
    return LocalAgent(new.requires_grad_(False).eval(), tokenizer=agent.tokenizer)


def fresh(agent: LocalAgent, seed: str) -> LocalAgent:
    """A model of the agent's shape that was never trained, and its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(digest("fresh", seed, bits=32))
        model = type(agent.model)(copy.deepcopy(agent.model.config)).to(agent.device)
    return LocalAgent(model.requires_grad_(False).eval(), tokenizer=agent.tokenizer)


def _wider(name: str, weight: Tensor, hidden: int, tied: bool, noise: float, generator: Any) -> Tensor:
    """One tensor of the wide model; every vector that it reads or writes is there twice."""
    part = name.split(".")[-2]
    if part in _LINEAR and weight.dim() == 2:
        return torch.cat([_split(weight, noise, generator) for _ in range(2)])
    if part == "lm_head" and not tied:
        return _split(weight, noise, generator)
    if part in ("embed_tokens", "lm_head"):
        return torch.cat([weight, weight], 1)
    if weight.dim() == 1 and (weight.numel() == hidden or part in _LINEAR):
        found = torch.cat([weight, weight])
        return found / 2 if tied and part == "norm" else found  # a tied head adds both copies up
    return weight


def _split(weight: Tensor, noise: float, generator: Any) -> Tensor:
    """``[out, 2 in]``: two parts that add up to the weight."""
    delta = torch.randn(weight.shape, generator=generator).to(weight) * (noise * weight.std() / 2)
    return torch.cat([weight / 2 + delta, weight / 2 - delta], 1)
