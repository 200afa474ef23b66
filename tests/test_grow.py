"""Growth keeps the function: exact logits of wide models, what is refused, and copies that do not stay alike."""

from __future__ import annotations

import pytest
import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.grow import widen
from dream_envs.core import DreamEnvsError


@pytest.mark.parametrize("base", ["nano/compose", "nano/context", "nano/judge"])
def test_the_wide_model_says_what_the_narrow_one_says(base: str) -> None:
    narrow = LocalAgent(base)
    wide = widen(narrow, "test")
    ids = torch.randint(6, 100, (4, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = narrow.model(ids).logits, wide.model(ids).logits
    assert torch.allclose(before, after, atol=1e-4)
    assert wide.model.config.hidden_size == 2 * narrow.model.config.hidden_size


def test_an_untied_head_is_split() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=102, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=False, attention_bias=True, eos_token_id=1,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
    narrow = LocalAgent(model, tokenizer=LocalAgent("nano/compose").tokenizer)
    ids = torch.randint(6, 100, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, widen(narrow, "x").model(ids).logits, atol=1e-4)


def test_noise_makes_the_copies_different_and_zero_leaves_them_alike() -> None:
    narrow = LocalAgent("nano/compose")
    hidden = narrow.model.config.hidden_size

    def halves(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
        weight = widen(narrow, "x", noise).model.model.layers[0].mlp.down_proj.weight
        return weight[:hidden], weight[hidden:]

    assert torch.equal(*halves(0.0)) and not torch.allclose(*halves(0.5))


def test_what_cannot_be_widened_is_refused_in_one_line() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    agent = LocalAgent("nano/compose")
    with pytest.raises(DreamEnvsError, match="0 or more"):
        widen(agent, "x", -1.0)
    config = GPT2Config(vocab_size=102, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    other = LocalAgent(GPT2LMHeadModel(config), tokenizer=agent.tokenizer)
    with pytest.raises(DreamEnvsError, match=r"\A[^\n]+\Z"):
        widen(other, "x")
