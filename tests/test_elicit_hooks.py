"""Steering: hooks on any architecture, seen by sampling and by teacher forcing alike, gone when the call is over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from dream_envs.agents.elicitation import steering
from dream_envs.agents.elicitation.cot_decoding import CotDecoding
from dream_envs.agents.elicitation.steering import Steered, contrast_vector, gradient_vector, residuals
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.sft import fine_tune
from dream_envs.core import DreamEnvsError, Limits, Request
from dream_envs.seeds import stream


def _gpt2(tokenizer: Any) -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3,
                   bos_token_id=None, eos_token_id=1, pad_token_id=0)
    )  # fmt: skip


def _qwen2(tokenizer: Any) -> Any:
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=4,
                    num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, bos_token_id=None,
                    eos_token_id=1, pad_token_id=0)
    )  # fmt: skip


@pytest.fixture(scope="module", params=["nano", "gpt2", "qwen2"])
def agent(request: pytest.FixtureRequest) -> LocalAgent:
    """Three architectures, two of them with random weights; one tokenizer."""
    torch.set_num_threads(1)
    nano = LocalAgent("nano/compose")
    if request.param == "nano":
        return nano
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = {"gpt2": _gpt2, "qwen2": _qwen2}[request.param](nano.tokenizer)
    return LocalAgent(model.eval().requires_grad_(False), tokenizer=nano.tokenizer)


def _chat(text: str) -> list:
    return [{"role": "user", "content": text}]


def _size(agent: LocalAgent) -> int:
    return int(agent.model.config.get_text_config().hidden_size)


def _vector(agent: LocalAgent, label: str = "v") -> np.ndarray:
    return stream("hook-test", label).normal(size=_size(agent)).astype(np.float32) * 3


def _requests(count: int) -> list[Request]:
    prompts = ("a:BD", "c:A", "p:HGF")
    return [
        Request(messages=_chat(prompts[i % 3]), agent="s", role="solver", seed=i, limits=Limits(8))
        for i in range(count)
    ]


POSITIVE = [(_chat("a:BD"), "BfDk"), (_chat("c:A"), "Ad"), (_chat("c:A"), "Abcde")]
NEGATIVE = [(_chat("a:BD"), "f"), (_chat("p:HGF"), "xyz")]


def test_layers_and_their_names(agent: LocalAgent) -> None:
    names = list(steering.layers(agent.model))
    assert len(names) == agent.model.config.num_hidden_layers
    modules = dict(agent.model.named_modules())
    assert all(steering.layer_of(agent.model, i) is modules[name] for i, name in enumerate(names))
    assert steering.layer_of(agent.model, -1) is modules[names[-1]] is steering.layer_of(agent.model, names[-1])
    for wrong in (len(names), -len(names) - 1, "model.layer.0", "lm_head"):
        with pytest.raises(DreamEnvsError) as caught:
            Steered(agent, wrong, _vector(agent))
        assert names[0] in str(caught.value) and names[-1] in str(caught.value) and "\n" not in str(caught.value)


def test_residuals_are_what_the_model_says(agent: LocalAgent) -> None:
    """Against the library's own hidden states, row by row without padding."""
    for layer in (0, 1):
        for (messages, text), found in zip(POSITIVE, residuals(agent, POSITIVE, layer, batch=2), strict=True):
            prompt, said = list(agent.encode(messages)), agent.completion(text)
            with torch.no_grad():
                out = agent.model(torch.tensor([prompt + said]), output_hidden_states=True)
            # hidden_states[0] is the embedding, [i + 1] what layer i puts out (the last one is normed)
            expected = out.hidden_states[layer + 1][0, len(prompt) - 1 : -1]
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_contrast_is_the_difference_of_means(agent: LocalAgent) -> None:
    p, n = residuals(agent, POSITIVE, 1), residuals(agent, NEGATIVE, 1)
    expected = np.vstack([x[1:] for x in p]).mean(0) - np.vstack([x[1:] for x in n]).mean(0)
    np.testing.assert_allclose(contrast_vector(agent, POSITIVE, NEGATIVE, 1), expected, atol=1e-5)
    with pytest.raises(DreamEnvsError, match="3 positive and 0 negative"):
        contrast_vector(agent, POSITIVE, [], 1)


def _log_p(agent: LocalAgent, replies: list) -> float:
    """Mean log-probability of replies, the end included."""
    logits, ids = agent.completion_logits([m for m, _ in replies], [r for _, r in replies])
    rows = [torch.log_softmax(torch.from_numpy(x).double(), -1)[range(len(y)), y].sum() for x, y in zip(logits, ids)]  # noqa: B905
    return float(torch.stack(rows).mean())


@pytest.mark.parametrize("first_tokens", [1, 2, None])
def test_gradient_against_finite_differences(agent: LocalAgent, first_tokens: int | None) -> None:
    vector = gradient_vector(agent, POSITIVE, NEGATIVE, 1, first_tokens, batch=2)
    lengths = [np.linalg.norm(x[0]) for x in residuals(agent, [*POSITIVE, *NEGATIVE], 1)]
    assert np.linalg.norm(vector) == pytest.approx(np.mean(lengths), rel=1e-4)
    slopes = {}
    unit = vector / np.linalg.norm(vector)
    other = _vector(agent, "other")
    other -= other @ unit * unit
    for name, direction in (("along", unit), ("across", other / np.linalg.norm(other))):
        up, down = (Steered(agent, 1, direction, s * 0.02, first_tokens) for s in (1, -1))
        rise = [(_log_p(up, kind) - _log_p(down, kind)) / 0.04 for kind in (POSITIVE, NEGATIVE)]
        slopes[name] = rise[0] - rise[1]
    assert slopes["along"] > 0.01
    assert abs(slopes["across"]) < 0.05 * slopes["along"]  # the gradient has no part across itself


@pytest.mark.parametrize("first_tokens", [1, 3, None])
def test_sampling_and_teacher_forcing_are_steered_alike(agent: LocalAgent, first_tokens: int | None) -> None:
    """What was sampled under the shift has the log-probability that the steered model gives it when it reads it."""
    steered = Steered(agent, 1, _vector(agent), 1.0, first_tokens)
    assert any(a.text != b.text for a, b in zip(steered.act(_requests(30)), agent.act(_requests(30)), strict=True))
    for request, action in zip(_requests(12), steered.act(_requests(12)), strict=True):
        prompt, ids = agent.encode(request.messages), action.token_ids or []
        logits = steered.read([prompt], [ids]).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits.float(), -1)[range(len(ids)), ids].detach()
        np.testing.assert_allclose(action.logprobs, expected, atol=2e-3)


def test_only_the_first_steps_are_changed(agent: LocalAgent) -> None:
    """Rows of different lengths in one batch: the layer's own output moves at two positions and nowhere else."""
    plain, shifted = agent, Steered(agent, 1, _vector(agent), 0.5, 2)
    found = [residuals(a, POSITIVE, 1) for a in (plain, shifted)]
    for before, after in zip(*found, strict=True):
        expected = np.zeros_like(before)
        expected[:2] = 0.5 * _vector(agent)
        np.testing.assert_allclose(after - before, expected, atol=1e-4)
    heads = [residuals(a, [(_chat("a:BD"), "BfDk")], 0)[0] for a in (plain, shifted)]
    assert np.array_equal(*heads)  # the layer before does not know
    prompts, replies = [agent.encode(_chat("a:BD"))] * 2, [agent.completion("Bf"), agent.completion("BfDkAa")]
    start = len(prompts[0]) - 1
    whole = [a.read(prompts, replies).logits[:, :start].detach().numpy() for a in (plain, shifted)]
    assert np.array_equal(*whole)  # nothing before the first step is touched


def test_hooks_are_gone_afterwards(agent: LocalAgent) -> None:
    def hooks() -> list[int]:  # transformers keeps hooks of its own
        return [len(m._forward_hooks) for m in agent.model.modules()]

    def now() -> list[np.ndarray]:
        return agent.completion_logits([_chat("a:BD")] * 2, ["BfDk", "k"])[0]

    before, there, texts = now(), hooks(), [a.text for a in agent.act(_requests(20))]
    steered = Steered(agent, 0, _vector(agent), 2.0)
    steered.act(_requests(20))
    steered.completion_logits([_chat("a:BD")], ["Bf"])
    contrast_vector(agent, POSITIVE, NEGATIVE, 0)
    gradient_vector(agent, POSITIVE, NEGATIVE, 0)
    with pytest.raises(RuntimeError), steering.changed(agent.model, 0, lambda hidden: hidden[..., :-1]):
        agent.model(torch.tensor([[3, 9]]))
    assert all(np.array_equal(a, b) for a, b in zip(before, now(), strict=True))
    assert [a.text for a in agent.act(_requests(20))] == texts
    assert hooks() == there
    assert all(p.grad is None for p in agent.model.parameters())


def test_a_shift_of_nothing_changes_nothing_and_shifts_add_up(agent: LocalAgent) -> None:
    vector = _vector(agent)
    plain = agent.completion_logits([_chat("a:BD")], ["BfDk"])[0][0]
    assert np.array_equal(Steered(agent, 1, vector, 0.0).completion_logits([_chat("a:BD")], ["BfDk"])[0][0], plain)
    twice = Steered(Steered(agent, 1, vector, 0.5), 1, vector, 1.0)
    once = Steered(agent, 1, vector, 1.5)
    both = [s.completion_logits([_chat("a:BD")], ["BfDk"])[0][0] for s in (twice, once, twice.snapshot())]
    np.testing.assert_allclose(both[0], both[1], atol=1e-3)
    np.testing.assert_allclose(both[0], both[2], atol=1e-5)
    assert np.abs(both[0] - plain).max() > 0.1
    for wrong, says in (({"vector": vector[:-1]}, "shape"), ({"vector": vector, "first_tokens": 0}, "first_tokens=0")):
        with pytest.raises(DreamEnvsError, match=says):
            Steered(agent, 1, **wrong)


def test_a_row_does_not_depend_on_its_neighbours(agent: LocalAgent) -> None:
    for acting in (Steered(agent, 1, _vector(agent), 1.0, 2), CotDecoding(agent, 8)):
        together = acting.act(_requests(30))
        assert [a.text for a in acting.act(_requests(30)[::-1])][::-1] == [a.text for a in together]
        assert acting.act(_requests(30)[17:18])[0].text == together[17].text


def test_fine_tuning_serves_every_architecture(agent: LocalAgent) -> None:
    pairs = [(_chat("a:BD"), "no")]
    for rank in (None, 4):
        tuned = fine_tune(agent, pairs, steps=40, lr=1e-2, seed="a", batch=4, lora_rank=rank)
        assert _log_p(tuned, pairs) > max(np.log(0.5), _log_p(agent, pairs) + 1)
