"""The decode loop against the library's own model: same distribution, batch-invariant, exact log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dream_envs.agents.engines.decode import CachedForward, LlamaForward, sample
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import DreamEnvsError, Limits, Request
from dream_envs.frontier import exact
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


def _next(model: LlamaForCausalLM, prompt: list[int], temperature: float) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / temperature, -1).double().numpy()


@pytest.mark.parametrize(("top_p", "min_p"), [(1.0, 0.0), (0.6, 0.0), (1.0, 0.3), (0.8, 0.2), (1e-6, 0.0), (1.0, 1.0)])
def test_sampling(rotary: LlamaForCausalLM, top_p: float, min_p: float) -> None:
    """What is kept, by a loop over the sorted distribution; frequencies and log-probabilities of what is drawn."""
    n, prompt, temperature = 4000, [4, 8], 1.3
    p = _next(rotary, prompt, temperature)
    kept, mass = [], 0.0
    for i in np.argsort(-p, kind="stable"):
        if mass >= top_p:
            break
        kept.append(int(i))
        mass += p[i]
    kept = [i for i in kept if p[i] >= min_p * p.max() * (1 - 1e-6)]
    expected = {i: p[i] / p[kept].sum() for i in kept}
    seeds = stream("truncated").integers(0, 2**63, size=n).astype(np.uint64)
    drawn = _sample(
        LlamaForward(rotary), [prompt] * n, seeds, steps=1, temperature=temperature, top_p=top_p, min_p=min_p
    )
    counts = np.bincount([s.ids[0] for s in drawn], minlength=50)
    assert set(np.flatnonzero(counts)) <= set(expected)
    for i, q in expected.items():
        assert abs(counts[i] - n * q) <= 5 * np.sqrt(n * q * (1 - q)) + 1e-9
    for s in drawn[:50]:
        assert s.logprobs[0] == pytest.approx(np.log(expected[s.ids[0]]), abs=1e-4)


def test_truncation_off_changes_nothing(agent: LocalAgent) -> None:
    requests = [Request(messages=_chat("a:BDA"), agent="s", role="solver", seed=i) for i in range(50)]
    assert agent.decoding(top_p=1.0, min_p=0.0).act(requests) == agent.act(requests)
    cool = agent.decoding(temperature=0.5)
    assert cool.temperature == 0.5 and agent.temperature == 1.0 and cool.model is agent.model
    assert cool.decoding(min_p=0.1).temperature == 0.5


@pytest.mark.parametrize(
    "wrong", [{"top_p": 0.0}, {"top_p": 1.5}, {"min_p": -0.1}, {"min_p": 2}, {"temperature": -1.0}, {"temperature": 11}]
)
def test_decoding_out_of_range(agent: LocalAgent, wrong: dict) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(DreamEnvsError, match=f"{name}={value}") as caught:
        agent.decoding(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", [LlamaForward, CachedForward])
def test_allowed_ids_renormalise(rotary: LlamaForCausalLM, engine: type) -> None:
    """Rows with different lists, and free ones, in one batch; frequencies of the restricted rows."""
    n, prompt = 3000, [4, 8]
    allowed = [[[7, 9, 11], None, [1]], None, [[3]]] * n
    seeds = stream("allowed").integers(0, 2**63, size=3 * n).astype(np.uint64)
    drawn = _sample(engine(rotary), [prompt] * 3 * n, seeds, steps=4, allowed=allowed)
    p = _next(rotary, prompt, 1.0)
    first = np.bincount([s.ids[0] for s in drawn[::3]], minlength=50)
    for i in (7, 9, 11):
        q = p[i] / p[[7, 9, 11]].sum()
        assert abs(first[i] - n * q) < 5 * np.sqrt(n * q)
        assert next(s for s in drawn[::3] if s.ids[0] == i).logprobs[0] == pytest.approx(np.log(q), abs=1e-4)
    assert first.sum() == first[[7, 9, 11]].sum()
    assert all(s.ids[-1] == 1 and len(s.ids) <= 3 for s in drawn[::3])
    free = _sample(engine(rotary), [prompt] * n, seeds[1::3], steps=4)
    assert [s.ids for s in free] == [s.ids for s in drawn[1::3]]
    assert {s.ids[0] for s in drawn[2::3]} == {3} and drawn[2].logprobs[0] == 0.0
    assert len({s.ids[1] for s in drawn[2::3] if len(s.ids) > 1}) > 5  # free behind its list


@pytest.mark.parametrize("wrong", [[[[]]], [[[50]]], [[[-1]]], [None, None]])
def test_wrong_allowed_ids(rotary: LlamaForCausalLM, wrong: list) -> None:
    with pytest.raises(DreamEnvsError, match="allowed"):
        _sample(LlamaForward(rotary), [[4]], np.zeros(1, np.uint64), allowed=wrong)


def test_constrained_is_the_exact_forced_decoder(agent: LocalAgent) -> None:
    """Forced into the form of a trace, right replies come as often as ``frontier.exact`` says."""
    family, depth, n = Composition(), 5, 4000

    def form(request: Request) -> list[list[str]]:
        return [list(family.operations), list(family.states)] * depth

    task = family.generate(stream("forced"), depth)
    requests = [
        Request(messages=_chat(task.prompt), agent="s", role="solver", seed=i, limits=Limits(20)) for i in range(n)
    ]
    forced = agent.constrained(form)
    actions = forced.act(requests)
    assert all(len(a.text) == 2 * depth and a.text[::2].isupper() and a.text[1::2].islower() for a in actions)
    grammar = exact.composition_grammar(agent.token, agent.ends[0], family.states, family.operations, depth)
    (logits,), (ids,) = agent.completion_logits([_chat(task.prompt)], [task.answer])
    mask = np.full(logits.shape, -np.inf)
    for i, allowed in enumerate(grammar.allowed):
        mask[i, allowed] = 0
    limited = torch.log_softmax(torch.from_numpy(logits.astype(np.float64) + mask), -1).numpy()
    p = float(np.exp(limited[np.arange(len(ids)), ids].sum()))
    right = [a for a in actions if a.text == task.answer]
    assert abs(len(right) - n * p) < 5 * np.sqrt(n * p) + 1
    if right:
        assert sum(right[0].logprobs or []) == pytest.approx(np.log(p), abs=1e-3)
    with pytest.raises(DreamEnvsError, match="'ab' is 2 tokens"):
        agent.constrained(lambda request: [["ab"]]).act(requests[:1])


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


def _chat(text: str) -> list:
    return [{"role": "user", "content": text}]


def test_wrong_models_are_one_line() -> None:
    for name in ("nano/nothing", "/no/such/folder"):
        with pytest.raises(DreamEnvsError) as caught:
            LocalAgent(name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
