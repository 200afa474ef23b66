"""Knowledge Seeding: what is relied on in TRL, that it moves a table into weights, and that it touches nothing else."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("trl")

import torch
from _sleep import LEARNING, bits, day, generator, generators, reader, same, with_

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep import seeding
from dream_envs.agents.sleep.dreams import imagine, likelihood
from dream_envs.agents.sleep.experience import Experience
from dream_envs.agents.sleep.seeding import GKDTrainer, seed_knowledge
from dream_envs.agents.training.sft import quietly
from dream_envs.core import DreamEnvsError

TEACHER, STUDENT = [0.7, 0.2, 0.1], [0.25, 0.25, 0.5]


def kl(p: Any, q: Any) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def by_hand(beta: float) -> float:
    """Agarwal et al. (arXiv 2306.13649), equation 1; at its ends, the two one-sided divergences."""
    if beta in (0.0, 1.0):
        return kl(TEACHER, STUDENT) if beta == 0 else kl(STUDENT, TEACHER)
    middle = [beta * a + (1 - beta) * b for a, b in zip(TEACHER, STUDENT, strict=True)]
    return beta * kl(TEACHER, middle) + (1 - beta) * kl(STUDENT, middle)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0])
def test_the_divergence_is_the_textbooks(beta: float) -> None:
    """One position that counts, one that does not, and logits that are off by a constant."""
    here, there = (torch.tensor(p).log()[None, None].repeat(1, 2, 1) for p in (STUDENT, TEACHER))
    here[0, 1], labels = torch.tensor([5.0, -5.0, 0.0]), torch.tensor([[2, -100]])
    found = GKDTrainer.generalized_jsd_loss(here + 3.0, there - 1.0, labels, beta=beta)
    assert float(found) == pytest.approx(by_hand(beta), abs=1e-6)


def test_the_loss_is_asked_for_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, inner = list[int](), seeding._Trainer.compute_loss

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        steps.append(self.state.global_step)
        return inner(self, *args, **more)

    monkeypatch.setattr(seeding._Trainer, "compute_loss", counted)
    seed_knowledge(reader(), reader(), day(), LEARNING, "once")
    assert steps == list(range(LEARNING.steps))


def test_the_same_arguments_give_the_same_weights_and_nothing_else_changes() -> None:
    rule = with_(LEARNING, lam=0.5, alpha=0.7, hard=0.5)
    before, state = bits(reader()), generators()
    one, again = (seed_knowledge(reader(), reader(), day(), rule, "twice") for _ in range(2))
    other = seed_knowledge(reader(), reader(), day(), rule, "other")
    assert generators() == state and same(bits(reader()), before)
    assert same(bits(one.agent), bits(again.agent)) and not same(bits(one.agent), bits(other.agent))
    assert (one.tokens, one.divergence, one.reward) == (again.tokens, again.divergence, again.reward)
    assert bits(one.agent).keys() == before.keys()  # the expert is merged: a plain model again
    assert not any(p.requires_grad for p in one.agent.model.parameters()) and not one.agent.model.training


def test_generators_come_back_when_the_trainer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **more: Any) -> Any:
        np.random.seed(1)
        torch.manual_seed(1)
        raise RuntimeError("spoilt")

    state = generators()
    monkeypatch.setattr(seeding._Trainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="spoilt"):
        seed_knowledge(reader(), reader(), day(), LEARNING, "broken")
    assert generators() == state
    with quietly():
        assert generators() == state


def test_who_has_nothing_to_learn_stays_as_he_is() -> None:
    """Teacher and student are one and see the same.  Adam makes steps of rounding errors, hence what is allowed."""
    own = imagine(reader(), generator(), "memory", [], 24, "own")[0]
    found = seed_knowledge(reader(), reader(), own, with_(LEARNING, steps=1, lam=0.0, alpha=1.0), "same")
    assert found.divergence == pytest.approx((0.0, 0.0), abs=1e-6) and found.reward is None
    found = seed_knowledge(reader(), reader(), own, with_(LEARNING, lam=0.5, alpha=1.0), "same")
    assert max(found.divergence) < 0.01
    assert likelihood(found.agent, own) == pytest.approx(likelihood(reader(), own), abs=0.02)


def test_a_table_moves_from_the_context_into_the_weights() -> None:
    """Sixteen facts, each with the log-likelihood of about a guess before and nearly known behind the night."""
    facts = day()
    before = likelihood(reader(), facts)
    found = seed_knowledge(reader(), reader(), facts, with_(LEARNING, steps=24, batch=16, lr=5e-3, lam=0.1), "move")
    after = likelihood(found.agent, facts)
    assert before < -1.5 and after > -0.2
    assert found.divergence[0] > 1.0 > 0.2 > found.divergence[1]
    assert found.tokens <= 24 * 16 * 3  # name, image, end


def test_without_its_context_a_teacher_moves_nothing() -> None:
    facts = day()
    blind = [Experience(e.messages[1:], e.reply, "day") for e in facts]
    found = seed_knowledge(reader(), reader(), blind, with_(LEARNING, steps=6, lr=5e-3, alpha=1.0), "blind")
    assert likelihood(found.agent, facts) < likelihood(reader(), facts) + 0.5


def test_a_hard_label_counts_for_what_was_lived_and_not_for_dreams() -> None:
    """By hand: two rows of one token each, of which one counts; with none, nothing."""
    logits = torch.log(torch.tensor([[TEACHER], [STUDENT]]))
    labels = torch.tensor([[0], [2]])
    for counted, expected in (((True, False), -math.log(0.7)), ((False, True), -math.log(0.5)), ((False, False), 0.0)):
        assert float(seeding._unlikely(logits, labels, counted)) == pytest.approx(expected)
    assert float(seeding._unlikely(logits, labels, (True, True))) == pytest.approx(-(math.log(0.7 * 0.5)) / 2)
    blind = [Experience(e.messages[1:], e.reply, "day") for e in day()]
    rule = with_(LEARNING, steps=10, batch=16, lr=5e-3, lam=0.0, alpha=1.0, hard=1.0)
    lived = seed_knowledge(reader(), reader(), blind, rule, "hard").agent
    dreamt = [Experience(e.messages, e.reply, "memory") for e in blind]
    idle = seed_knowledge(reader(), reader(), dreamt, rule, "hard").agent
    assert likelihood(lived, blind) > likelihood(reader(), blind) + 1.0 > likelihood(idle, blind) + 0.5


def test_the_better_of_two_twins_becomes_likelier() -> None:
    """Two samples of one prefix, the first as the teacher said: its tokens' gradient says more, the other's less."""
    agent = reader()
    told = agent.completion("If")
    wrong = agent.completion("Ik")
    rows = [SimpleNamespace(reply=told)] * 2
    rule = with_(LEARNING, gamma=0.5, z0=8)
    scene = SimpleNamespace(_chosen=rule, _decoder=agent, _rewards=[], _same=seeding.exactly)
    for replies in ([told, wrong], [wrong, told], [told, told]):
        logits = torch.zeros(2, 3, agent.model.config.vocab_size, requires_grad=True)
        labels = seeding._labels(replies, [1, 1])  # the first token was given
        loss = seeding._Trainer._imitated(scene, logits, labels, rows, replies)  # type: ignore[arg-type]
        (slope,) = torch.autograd.grad(loss, logits)
        assert not slope[:, 0].any()  # no gradient on what was given
        for i, reply in enumerate(replies):
            push = -slope[i, 1, reply[1]]
            if replies[0] == replies[1]:
                assert push == 0
            else:
                assert push > 0 if reply == told else push < 0
    assert scene._rewards[:2] == pytest.approx([1.0, 0.5 * 0.5])  # one token of two is wrong


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40))
def test_rows_are_split_where_it_saves_and_none_is_lost(lengths: list[int]) -> None:
    parts = seeding.split(lengths)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths))) and all(parts)
    whole = len(lengths) * max(lengths)
    size = sum(len(part) * max(lengths[i] for i in part) for part in parts)
    tries = [sum(x <= edge for x in lengths) * edge + sum(x > edge for x in lengths) * max(lengths) for edge in lengths]
    assert size == (min(tries) if min(tries) <= 0.8 * whole else whole)


def test_short_and_long_rows_give_what_each_gives_alone() -> None:
    """Contexts among bare questions, replies of several lengths: split or not, it is the same up to rounding."""
    agent, known = reader(), day()
    asked = [known[0].messages, known[1].messages[1:], known[2].messages, *(e.messages[1:] for e in known[3:])]
    prompts, replies = [list(agent.encode(m)) for m in asked], [agent.completion("If"), *[agent.completion("I")] * 15]
    assert len(seeding.split([len(p) + len(r) for p, r in zip(prompts, replies, strict=True)])) == 2
    with torch.no_grad():
        found = seeding._logits(agent.model, prompts, replies, agent.pad)
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            alone = agent.model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
            assert torch.allclose(found[i, : len(reply)], alone, atol=1e-4)


def test_an_expert_on_every_layer_or_all_weights() -> None:
    """An expert leaves the embeddings alone; without one everything learns."""
    before = bits(reader())
    for rank, embeddings in ((4, False), (None, True)):
        after = bits(seed_knowledge(reader(), reader(), day(), with_(LEARNING, rank=rank), "rank").agent)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any("mlp" in name for name in changed) and any("self_attn" in name for name in changed)
        assert any("embed" in name for name in changed) == embeddings


def test_wrong_use_is_one_line() -> None:
    with pytest.raises(DreamEnvsError, match="no experience"):
        seed_knowledge(reader(), reader(), [], LEARNING, "none")
    with pytest.raises(DreamEnvsError, match="vocabularies of 358 and 102") as caught:
        seed_knowledge(reader(), LocalAgent("nano/compose"), day(), LEARNING, "other")
    assert "\n" not in str(caught.value)
