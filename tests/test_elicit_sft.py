"""Fine-tuning of a copy: TRL's steps against the same steps in plain torch; what is learnt, and what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _tiny import same, weights

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.sft import Collator, fine_tune, tokenized
from dream_envs.core import DreamEnvsError, Limits, Request
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

STEPS, BATCH, LR = 3, 8, 1e-3


@pytest.fixture(scope="module")
def agent() -> LocalAgent:
    torch.set_num_threads(1)
    return LocalAgent("nano/compose")


def _chat(text: str) -> list:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def pairs() -> list:
    family, rng = Composition(), stream("sft-test")
    return [(_chat(t.prompt), t.answer) for t in (family.generate(rng, 1 + i % 5) for i in range(24))]


def _by_hand(agent: LocalAgent, pairs: list, order: np.ndarray) -> dict[str, torch.Tensor]:
    """The same steps without TRL: mean over the replies' tokens and ends, AdamW, linear to zero, norm clipped to 1."""
    model = agent.snapshot().model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0, eps=1e-8)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * (1 - step / STEPS)
        total, count = torch.zeros(()), 0
        for row in order[step * BATCH : (step + 1) * BATCH]:
            messages, reply = pairs[row]
            prompt = list(agent.encode(messages))
            said = [*agent.tokenizer(reply)["input_ids"], agent.tokenizer.eos_token_id]
            logp = torch.log_softmax(model(torch.tensor([prompt + said])).logits[0].float(), -1)
            for i, token in enumerate(said):
                total, count = total - logp[len(prompt) - 1 + i, token], count + 1
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return weights(model)


def test_trl_takes_the_steps_that_we_mean(agent: LocalAgent, pairs: list) -> None:
    tuned = fine_tune(agent, pairs, steps=STEPS, lr=LR, seed="a", batch=BATCH)
    order = np.concatenate([stream("sft-order", "a", 0).permutation(24)])
    expected = _by_hand(agent, pairs, order)
    found, before = weights(tuned.model), weights(agent.model)
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) < 2e-5, name
    assert max(float((found[n] - before[n]).abs().max()) for n in found) > 1e-4  # a step is far above the tolerance


def test_labels_are_the_reply_and_its_end(agent: LocalAgent) -> None:
    rows = tokenized(agent, [(_chat("a:B"), "Bf"), (_chat("c:DA"), "DkAa")])
    batch = Collator(rows, agent.pad)([{"row": 1}, {"row": 0}])
    for i, reply in enumerate(("DkAa", "Bf")):
        labels = batch["labels"][i]
        kept = labels[labels != -100]
        assert agent.tokenizer.decode(kept) == reply + "<|end|>"
        assert torch.equal(batch["input_ids"][i][labels != -100], kept)
        assert int(batch["attention_mask"][i].sum()) == len(rows[1 - i][0]) + len(rows[1 - i][1])
        assert agent.tokenizer.decode(batch["input_ids"][i][:3]).startswith("<|user|>")


def test_same_seed_same_weights_and_nothing_else_touched(agent: LocalAgent, pairs: list) -> None:
    before, numpy_state = weights(agent.model), np.random.get_state()[1].copy()
    torch_state = torch.random.get_rng_state()
    one, two, other = (weights(fine_tune(agent, pairs, steps=2, lr=LR, seed=s, batch=4).model) for s in ("a", "a", "b"))
    assert same(one, two) and not same(one, other)
    assert same(before, weights(agent.model)) and all(p.grad is None for p in agent.model.parameters())
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


def test_a_reply_is_learnt_with_its_end(agent: LocalAgent) -> None:
    tuned = fine_tune(agent, [(_chat("a:BD"), "hello world")], steps=40, lr=3e-3, seed="a", batch=4)
    request = Request(messages=_chat("a:BD"), agent="s", role="solver", seed=0, limits=Limits(64))
    (action,) = tuned.decoding(temperature=0.0).act([request])
    assert action.text == "hello world" and action.token_ids is not None and action.token_ids[-1] in agent.ends
    assert agent.decoding(temperature=0.0).act([request])[0].text != "hello world"


def test_lora_is_merged_and_leaves_the_rest(agent: LocalAgent, pairs: list, tmp_path: Any) -> None:
    tuned = fine_tune(agent, pairs, steps=5, lr=1e-2, seed="a", batch=8, lora_rank=2, out=tmp_path / "tuned")
    found, before = weights(tuned.model), weights(agent.model)
    assert found.keys() == before.keys() and type(tuned.model) is type(agent.model)
    moved = {n for n in found if not torch.equal(found[n], before[n])}
    assert moved and all("proj" in n for n in moved)
    for name in moved:
        assert int(torch.linalg.matrix_rank(found[name] - before[name], atol=1e-5, rtol=0)) <= 2
    requests = [Request(messages=_chat("a:BDA"), agent="s", role="solver", seed=i) for i in range(20)]
    read = LocalAgent(str(tmp_path / "tuned"))
    assert [a.text for a in read.act(requests)] == [a.text for a in tuned.act(requests)]


@pytest.mark.parametrize(("wrong", "says"), [
    ({"steps": 0}, "steps=0"), ({"batch": 0}, "batch=0"), ({"lr": 0.0}, "lr=0.0"), ({"lora_rank": 0}, "lora_rank=0"),
])  # fmt: skip
def test_numbers_out_of_range(agent: LocalAgent, pairs: list, wrong: dict, says: str) -> None:
    with pytest.raises(DreamEnvsError, match=says):
        fine_tune(agent, pairs, **{"steps": 1, "lr": LR, "seed": "a", **wrong})
    with pytest.raises(DreamEnvsError, match="pairs is empty"):
        fine_tune(agent, [], steps=1, lr=LR, seed="a")
