"""The trainer with a critic, several updates and whole sequences against the formulas, row by row and without TRL."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

import msgspec
from test_trl_contract import Log, draw_ids, model
from test_trl_contract import train as run
from transformers import TrainerCallback

from dream_envs.agents.training.critic import Critic
from dream_envs.agents.training.settings import CriticSettings, Updates
from dream_envs.agents.training.trl_adapter import RowTrainer, TrainingRow
from dream_envs.core import DreamEnvsError
from dream_envs.seeds import stream

Grads = dict[str, torch.Tensor]
EPSILON = 0.2


def draw(count: int, *labels: str) -> list[TrainingRow]:
    """Sampled rows of two roles with weights, and given ones, of mixed lengths."""
    rng = stream("ppo-rows", count, *labels)
    rows = []
    for i in range(count):
        prompt, completion = draw_ids(rng)
        role = ("solver", "challenger", "")[i % 3]
        weight = {"solver": 1.0, "challenger": 0.5, "": float(rng.normal())}[role]
        rows.append(TrainingRow(prompt, completion, weight, float(rng.random()), role))
    return rows


def critic(trained: bool = True, **chosen: Any) -> Critic:
    """A critic for the little model; with a head that says something, unless told otherwise."""
    made = Critic(16, CriticSettings(**{"hidden": 4, **chosen}), seed=3)
    if trained:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(5)
            made.out.weight.normal_()
            made.out.bias.fill_(0.3)
    return made


class Grab(TrainerCallback):
    """Weights and gradients before each update, of the model and of the head."""

    def __init__(self, critic: Critic | None) -> None:
        self.critic, self.before, self.grads = critic, list[Any](), list[Grads]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        both = [("", model), *([("head.", self.critic)] if self.critic else [])]
        named = [(p + n, w.grad) for p, m in both for n, w in m.named_parameters()]
        self.grads.append({n: grad.clone() for n, grad in named if grad is not None})
        self.before.append([copy.deepcopy(m.state_dict()) for _, m in both])


def train(
    folder: Path,
    rows: Sequence[TrainingRow],
    made: Critic | None,
    *,
    size: int | None = 24,
    net: Any = None,
    **own: Any,
) -> tuple[RowTrainer, Grab, Log]:
    """One round."""
    grab = Grab(made)
    chosen = {"lr": 1e-2, "steps": 1, "rows": size, "critic": made, **own}
    trainer, log = run(folder, lambda step: list(rows), net, grab, **chosen)
    return trainer, grab, log


def look(net: Any, row: TrainingRow, head: Any = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each completion token and the value before it."""
    ids = torch.tensor([[*row.prompt, *row.completion]])
    first = len(row.prompt) - 1
    logp = torch.log_softmax(net(ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[first:, 0]
    values = None if head is None else head(net.base_model(ids)[0][0, :-1])[first:]
    return logp, values


def estimates(made: Critic, net: Any, rows: Sequence[TrainingRow], ref: Any, kl: float) -> list[tuple[Any, Any, Any]]:
    """(advantages, old values, returns) of each row's tokens, as the sums that define them."""
    s, found = made.settings, list[Any]()
    for row in rows:
        with torch.no_grad():
            logp, v = look(net, row, made)
            r = torch.zeros(len(row.completion))
            r[-1] = row.value
            if kl:
                r = r - kl * (logp - look(ref, row)[0])
            after = torch.cat([v[1:], torch.zeros(1)])  # type: ignore[index]
            errors = r + s.gamma * after - v
            n = len(r)
            a = torch.stack([sum((s.gamma * s.lam) ** (k - t) * errors[k] for k in range(t, n)) for t in range(n)])
            found.append([a, v, a + v])
    for role in {r.role for r in rows} if s.whiten else ():
        own = [i for i, r in enumerate(rows) if r.role == role]
        every = torch.cat([found[i][0] for i in own])
        for i in own:
            found[i][0] = (found[i][0] - every.mean()) / (every.std(unbiased=False) + 1e-4)
    return [tuple(f) for f in found]


def direct(
    net: Any, old: Any, made: Critic, rows: Sequence[TrainingRow], told: Sequence[Any]
) -> tuple[Grads, float, int]:
    """Gradients of the clipped policy loss and the clipped value loss; how many ratios are cut."""
    net.zero_grad(), made.zero_grad()
    policy, value, tokens, sampled, cut = torch.zeros(()), torch.zeros(()), 0, 0, 0
    for row, (a, v, returns) in zip(rows, told, strict=True):
        logp, now = look(net, row, made)
        tokens += len(row.completion)
        if not row.role:
            policy = policy - row.advantage * logp.sum()
            continue
        with torch.no_grad():
            before, _ = look(old, row)
        weighted = row.advantage * a
        ratio = (logp - before).exp()
        cut += int(((ratio - 1).abs() > EPSILON).sum())
        policy = policy - torch.min(ratio * weighted, ratio.clamp(1 - EPSILON, 1 + EPSILON) * weighted).sum()
        c = made.settings.clip or math.inf
        value = value + torch.max((now - returns) ** 2, (v + (now - v).clamp(-c, c) - returns) ** 2).sum() / 2
        sampled += len(row.completion)
    (policy / tokens + made.settings.weight * value / sampled).backward()
    both = [("", net), ("head.", made)]
    return {p + n: w.grad.clone() for p, m in both for n, w in m.named_parameters()}, float(value / sampled), cut


def close(found: Grads, expected: Grads) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize(("count", "size"), [(24, 24), (11, 24), (11, None)])
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"lam": 0.0, "gamma": 0.9, "whiten": False},
        {"lam": 1.0, "whiten": False},
        {"lam": 0.7, "clip": 0.0, "weight": 2.0, "hidden": 0},
        {"weight": 0.0, "whiten": True},
    ],
    ids=["default", "one_step", "whole_return", "linear", "frozen"],
)
def test_gradients_of_the_first_update_are_the_formula(
    count: int, size: int | None, chosen: dict[str, Any], tmp_path: Path
) -> None:
    """Fillers, both roles, given rows and weights included."""
    rows, made = draw(count), critic(**chosen)
    told = estimates(made, model(), rows, None, 0.0)
    expected, loss, _ = direct(model(), model(), copy.deepcopy(made), rows, told)
    _, grab, log = train(tmp_path, rows, made, size=size)
    if made.settings.weight:
        assert log.logs[0]["value/loss"] == pytest.approx(loss, rel=1e-4)
    else:  # the critic is held still
        expected = {k: v for k, v in expected.items() if not k.startswith("head.")}
    close(grab.grads[0], expected)


def test_later_passes_are_clipped_against_the_policy_that_sampled(tmp_path: Path) -> None:
    """Three passes: each update's gradient is the formula's at the weights it starts from, old ones those of the first.

    Rows that were given are not clipped; at this learning rate many ratios and values are.
    """
    rows, made = draw(18), critic(lr=0.05)
    told = estimates(made, model(), rows, None, 0.0)
    _, grab, log = train(tmp_path, rows, made, updates=Updates(epochs=3), lr=2e-2)
    assert len(grab.grads) == 3
    cuts = []
    for (weights, head), found in zip(grab.before, grab.grads, strict=True):
        net, now = model(), critic(lr=0.05)
        net.load_state_dict(weights)
        now.load_state_dict(head)
        expected, _, cut = direct(net, model(), now, rows, told)
        close(found, expected)
        cuts.append(cut)
    tokens = sum(len(r.completion) for r in rows if r.role)
    assert cuts[0] == 0 < cuts[1] and log.logs[0]["policy/clip_fraction"] == pytest.approx(sum(cuts) / 3 / tokens)
    assert log.logs[0]["policy/approx_kl"] > 0


def test_minibatches_are_parts_of_the_same_sum(tmp_path: Path) -> None:
    """With weights held still, the mean of the minibatches' gradients is the whole round's; no row is left out."""
    rows = draw(21)
    _, whole, _ = train(tmp_path / "a", rows, critic())
    still = {"lr": 1e-12, "updates": Updates(minibatches=4)}
    _, parts, log = train(tmp_path / "b", rows, critic(lr=1e-12), **still)
    assert len(parts.grads) == 4 and len(log.logs) == 1  # one log a round
    mean = {k: torch.stack([g[k] for g in parts.grads]).mean(0) for k in parts.grads[0]}
    close(mean, whole.grads[0])


def test_the_penalty_in_the_reward(tmp_path: Path) -> None:
    """k1 against the model on disk, in the rewards of sampled tokens alone, and no k3 in the loss."""
    rows, base = draw(12), model()
    base.save_pretrained(tmp_path / "base")
    net = type(base).from_pretrained(tmp_path / "base")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    made = critic()
    here = copy.deepcopy(net)
    told = estimates(made, here, rows, base, 0.3)
    expected, _, _ = direct(here, copy.deepcopy(net), copy.deepcopy(made), rows, told)
    for i, updates in enumerate((Updates(kl_in="reward"), Updates(kl_in="reward", epochs=2))):
        _, grab, _ = train(
            tmp_path / str(i), rows, copy.deepcopy(made), net=copy.deepcopy(net), kl=0.3, updates=updates
        )
        close(grab.grads[0], expected)


def test_rloo_is_reinforce_on_whole_sequences(tmp_path: Path) -> None:
    """A mean over rows of advantage times the log-probability of the whole reply; fillers do not count."""
    rows = [msgspec.structs.replace(r, advantage=a - 1.5) for r, a in zip(draw(10), range(10), strict=True)]
    net, total = model(), torch.zeros(())
    for row in rows:
        total = total - row.advantage * look(net, row)[0].sum()
    (total / len(rows)).backward()
    expected = {n: p.grad for n, p in net.named_parameters()}
    for level in ("sequence", "token"):
        _, grab, _ = train(tmp_path / level, rows, None, updates=Updates(level=level, average="rows"))
        close(grab.grads[0], expected)  # type: ignore[arg-type]


def test_given_rows_are_likelihood_in_every_pass_of_any_baseline(tmp_path: Path) -> None:
    rows = [msgspec.structs.replace(r, role="") for r in draw(9)]
    _, grab, _ = train(tmp_path, rows, None, updates=Updates(epochs=2), lr=5e-2)
    net = model()
    net.load_state_dict(grab.before[1][0])
    loss = sum(-r.advantage * look(net, r)[0].sum() for r in rows) / sum(len(r.completion) for r in rows)
    loss.backward()  # type: ignore[union-attr]
    close(grab.grads[1], {n: p.grad for n, p in net.named_parameters()})  # type: ignore[misc]


def test_a_round_without_rows_leaves_model_and_head(tmp_path: Path) -> None:
    made = critic()
    before = copy.deepcopy(made.state_dict())
    trainer, _, log = train(tmp_path, [], made, updates=Updates(epochs=2, minibatches=2))
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), model().parameters(), strict=True))
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())
    assert log.logs[0]["loss"] == 0.0 and log.logs[0]["policy/clip_fraction"] == 0.0


def test_the_head_has_a_rate_of_its_own_and_is_no_part_of_the_model(tmp_path: Path) -> None:
    made = critic(lr=0.125)
    trainer, _, _ = train(tmp_path, draw(8), made, lr_scheduler_type="linear")
    groups = trainer.optimizer.param_groups
    assert [g["initial_lr"] for g in groups] == [1e-2, 1e-2, 0.125]
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in made.parameters()}
    assert not any("head.body" in n or "value" in n for n, _ in trainer.model.named_parameters())
    assert not trainer.model.base_model._forward_hooks


def test_explained_variance_by_hand(tmp_path: Path) -> None:
    """Zero values explain nothing; returns are those of the round, role by role."""
    rows = draw(12)
    _, _, log = train(tmp_path, rows, critic(trained=False))
    for role in ("solver", "challenger"):
        own = [(r.value, len(r.completion)) for r in rows if r.role == role]
        mean = sum(v * n for v, n in own if v is not None) / sum(n for _, n in own)
        assert log.logs[0][f"value/returns_{role}"] == pytest.approx(mean, rel=1e-5)
        assert log.logs[0][f"value/explained_variance_{role}"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"updates": Updates(minibatches=5)}, "multiple of 10"), ({"updates": Updates(kl_in="reward")}, "critic")],
)
def test_what_cannot_be_trained_is_one_line(settings: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        train(tmp_path, draw(4), None, **settings)
    assert word in str(caught.value) and "\n" not in str(caught.value)
