"""The decode loop against the library's own model: same distribution, batch-invariant, exact log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dream_envs.agents.decode import CachedForward, LlamaForward, sample
from dream_envs.agents.local import LocalAgent
from dream_envs.core import DreamEnvsError, Limits, Request
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition


@pytest.fixture(scope="module")
def agent() -> LocalAgent:
    return LocalAgent("nano/compose")


@pytest.fixture(scope="module")
def rotary() -> LlamaForCausalLM:
    """A model with rotary positions and grouped queries, which nano has not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


def _prompts(count: int) -> list[list[int]]:
    rng = stream("decode-test")
    return [rng.integers(2, 50, size=int(rng.integers(1, 9))).tolist() for _ in range(count)]


def _sample(forward: object, prompts: list[list[int]], seeds: np.ndarray, steps: int = 12, **kwargs: object) -> list:
    return sample(forward, prompts, seeds, np.full(len(prompts), steps), end=[1], pad=0, **kwargs)  # type: ignore[arg-type]


def test_both_engines_sample_the_same(rotary: LlamaForCausalLM) -> None:
    prompts, seeds = _prompts(24), np.arange(24, dtype=np.uint64) * np.uint64(7919)
    assert LlamaForward.serves(rotary)
    fast, slow = (_sample(f, prompts, seeds) for f in (LlamaForward(rotary), CachedForward(rotary)))
    assert [s.ids for s in fast] == [s.ids for s in slow]
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-4)


def test_a_row_does_not_depend_on_its_neighbours(rotary: LlamaForCausalLM) -> None:
    prompts, seeds = _prompts(40), stream("row-seeds").integers(0, 2**63, size=40).astype(np.uint64)
    together = _sample(LlamaForward(rotary), prompts, seeds)
    for i in (0, 7, 39):
        alone = _sample(LlamaForward(rotary), [prompts[i]], seeds[i : i + 1])
        assert alone[0].ids == together[i].ids
    backwards = _sample(LlamaForward(rotary), prompts[::-1], seeds[::-1].copy())
    assert [s.ids for s in backwards[::-1]] == [s.ids for s in together]


def test_logprobs_are_the_models(rotary: LlamaForCausalLM) -> None:
    prompt = [5, 9, 3]
    drawn = _sample(LlamaForward(rotary), [prompt] * 8, np.arange(8, dtype=np.uint64), temperature=0.7)
    for s in drawn:
        with torch.no_grad():
            logits = rotary(torch.tensor([prompt + s.ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(s.ids)[:, None])[:, 0]
        np.testing.assert_allclose(s.logprobs, expected, atol=2e-4)


def test_first_token_frequencies(rotary: LlamaForCausalLM) -> None:
    """20,000 draws of one token against the model's distribution, chi-square within five deviations."""
    n, prompt = 20_000, [4, 8]
    seeds = stream("frequencies").integers(0, 2**63, size=n).astype(np.uint64)
    drawn = [s.ids[0] for s in _sample(LlamaForward(rotary), [prompt] * n, seeds, steps=1)]
    with torch.no_grad():
        p = torch.softmax(rotary(torch.tensor([prompt])).logits[0, -1], -1).double().numpy()
    expected = n * p
    often = expected > 5
    counts = np.bincount(drawn, minlength=50)
    chi2 = float((((counts - expected) ** 2) / expected)[often].sum())
    assert abs(chi2 - often.sum()) < 5 * np.sqrt(2 * often.sum())


def test_limits_and_greedy(rotary: LlamaForCausalLM) -> None:
    prompts, limits = _prompts(6), np.array([1, 2, 3, 4, 5, 6])
    drawn = sample(LlamaForward(rotary), prompts, np.zeros(6, np.uint64), limits, end=[1], pad=0, temperature=0.0)
    again = sample(LlamaForward(rotary), prompts, np.ones(6, np.uint64), limits, end=[1], pad=0, temperature=0.0)
    assert [s.ids for s in drawn] == [s.ids for s in again]
    for s, limit in zip(drawn, limits, strict=True):
        assert len(s.ids) == limit or (s.ended and s.ids[-1] == 1)


def test_act_is_batch_invariant_and_decodes(agent: LocalAgent) -> None:
    family, rng = Composition(), stream("act")
    tasks = [family.generate(rng, 1 + i % 3) for i in range(60)]
    requests = [
        Request(messages=_chat(t.prompt), agent="solver_0", role="solver", seed=i, limits=Limits(20))
        for i, t in enumerate(tasks)
    ]
    together = agent.act(requests)
    assert [a.text for a in agent.act(requests[::-1])][::-1] == [a.text for a in together]
    assert agent.act(requests[11:12])[0].text == together[11].text
    for action in together:
        assert action.token_ids is not None and action.logprobs is not None
        assert len(action.token_ids) == len(action.logprobs) == action.usage.completion_tokens
        assert agent.decode([action.token_ids])[0] == action.text
    right = np.mean([a.text == t.answer for a, t in zip(together, tasks, strict=True)])
    assert right > 0.6  # within its support the base can solve; chance is below 1e-2


def test_the_base_proposes_what_its_support_says(agent: LocalAgent) -> None:
    family = Composition()
    brief = Request(messages=_chat(family.brief()), agent="challenger_0", role="challenger", seed=0)
    texts = [a.text for a in agent.act([Request(**{**_fields(brief), "seed": i}) for i in range(200)])]
    parsed = [family.parse(t) for t in texts]
    depths = [p.level for p in parsed if hasattr(p, "level")]
    assert len(depths) > 180
    assert np.mean([d <= 3 for d in depths]) > 0.9


def _chat(text: str) -> list:
    return [{"role": "user", "content": text}]


def _fields(request: Request) -> dict:
    return {f: getattr(request, f) for f in request.__struct_fields__}


def test_wrong_models_are_one_line() -> None:
    for name in ("nano/nothing", "/no/such/folder"):
        with pytest.raises(DreamEnvsError) as caught:
            LocalAgent(name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    with pytest.raises(DreamEnvsError):
        LocalAgent("nano/compose", temperature=-1.0)
