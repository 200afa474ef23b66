"""The parts of PPO and RLOO against hand-worked numbers and brute force: advantages, values, heads, mistakes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("trl")

from dream_envs.agents.training.advantages import gae, moments, whiten
from dream_envs.agents.training.critic import FILE, Critic, value_loss
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.agents.training.settings import CriticSettings, LearnerSettings, RowSettings, Updates, spec
from dream_envs.core import DreamEnvsError


def alone(x: torch.Tensor) -> torch.Tensor:
    return x


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**30))
def test_gae_is_the_sum_of_discounted_errors(length: int, gamma: float, lam: float, seed: int) -> None:
    """Of rows of every length up to ``length``, whatever stands in the padding."""
    rng = np.random.default_rng(seed)
    rewards, values = (rng.normal(size=(length, length)) for _ in range(2))
    mask = np.tril(np.ones((length, length)))  # row i has i + 1 tokens
    found, returns = gae(*(torch.tensor(x) for x in (rewards, values, mask)), gamma, lam)
    for row in range(length):
        n = row + 1
        r, v = rewards[row, :n], np.append(values[row, :n], 0.0)  # nothing is earned behind the end
        errors = r + gamma * v[1:] - v[:-1]
        for t in range(length):
            expected = sum((gamma * lam) ** i * errors[t + i] for i in range(n - t)) if t < n else 0.0
            assert found[row, t] == pytest.approx(expected, abs=1e-9)
            if lam == 1.0 and t < n:
                assert returns[row, t] == pytest.approx(sum(gamma**i * r[t + i] for i in range(n - t)), abs=1e-9)


def by_role(mask: torch.Tensor, roles: list[str], names: list[str]) -> list[torch.Tensor]:
    return [mask * torch.tensor([[r == name] for r in roles]) for name in names]


def test_whitening_is_of_each_role_by_itself() -> None:
    rng = torch.Generator().manual_seed(0)
    x, mask = torch.randn(6, 5, generator=rng) + 3, (torch.rand(6, 5, generator=rng) > 0.3).int()
    mask[:, 0] = 1
    roles = ["solver", "challenger", "solver", "", "challenger", "solver"]
    masks = by_role(mask, roles, ["challenger", "solver"])
    found = whiten(x, masks, alone)
    for own in [found[m.bool()] for m in masks]:
        assert own.mean().item() == pytest.approx(0, abs=1e-6)
        assert own.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    assert not found[mask == 0].any() and not found[3].any()
    moved = x.clone()
    moved[[1, 4]] = 100 * moved[[1, 4]] - 7  # what the challenger earns is no business of the solver's
    again = whiten(moved, masks, alone)
    solvers = [0, 2, 5]
    assert torch.equal(found[solvers], again[solvers])
    torch.testing.assert_close(found[[1, 4]], again[[1, 4]], atol=2e-3, rtol=0)


def together(work: Callable[[int, Callable[[torch.Tensor], torch.Tensor]], Any]) -> list[Any]:
    """``work(rank, total)`` in two threads, where ``total`` sums over both as processes do."""
    barrier, parts = threading.Barrier(2, timeout=30), dict[int, torch.Tensor]()

    def total(rank: int, x: torch.Tensor) -> torch.Tensor:
        parts[rank] = x
        barrier.wait()
        found = parts[0] + parts[1]
        barrier.wait()
        return found

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: work(rank, lambda x: total(rank, x)), range(2)))


def test_whitening_is_over_all_processes_even_where_one_has_none_of_a_role() -> None:
    x, mask = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), torch.ones(4, 3)
    masks = by_role(mask, ["a", "b", "a", "a"], ["a", "b"])
    whole = whiten(x, masks, alone)
    halves = [slice(0, 2), slice(2, 4)]
    parts = together(lambda r, total: whiten(x[halves[r]], [m[halves[r]] for m in masks], total))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert [m.item() for m in moments(x, torch.zeros(4, 3), alone)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("value", "goal", "loss", "slope"),
    [
        (0.55, 1.0, 0.10125, -0.45),  # within the clip: plain
        (0.90, 1.0, 0.045, 0.0),  # has moved up by 0.4 towards 1: cut at 0.7, half of 0.3 squared
        (0.10, 0.0, 0.045, 0.0),  # the same downwards
        (0.90, 0.0, 0.405, 0.90),  # has moved away from its goal: nothing is cut
        (0.10, 1.0, 0.405, -0.90),
    ],
)
def test_the_value_loss_is_clipped_on_both_sides(value: float, goal: float, loss: float, slope: float) -> None:
    """Old value 0.5, clip 0.2."""
    x = torch.tensor([value], requires_grad=True)
    found = value_loss(x, torch.tensor([0.5]), torch.tensor([goal]), 0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss, abs=1e-6) and x.grad is not None
    assert x.grad.item() == pytest.approx(slope, abs=1e-6)
    unclipped = value_loss(x.detach(), torch.tensor([0.5]), torch.tensor([goal]), 0.0)
    assert unclipped.item() == pytest.approx((value - goal) ** 2 / 2, abs=1e-6)


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_head_starts_at_zero_and_leaves_the_global_generator_alone(hidden: int, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    heads = [Critic(8, CriticSettings(hidden=hidden), seed) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    states = torch.randn(3, 4, 8, dtype=torch.bfloat16)
    assert heads[0](states).shape == (3, 4) and heads[0](states).dtype == torch.float32
    assert not heads[0](states).any()
    if hidden:
        weights = [h.body.weight for h in heads if h.body is not None]
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with torch.no_grad():
        heads[0].out.weight.normal_()
    heads[0].save(tmp_path)
    heads[1].restore(tmp_path)
    assert torch.equal(heads[0](states), heads[1](states)) and heads[0](states).any()
    for other, where, word in (
        (Critic(8, CriticSettings(hidden=3), 1), tmp_path, "shape"),
        (heads[0], tmp_path / "no", FILE),
    ):
        with pytest.raises(DreamEnvsError) as caught:
            other.restore(where)
        assert word in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: CriticSettings(gamma=1.1), "gamma=1.1"),
        (lambda: CriticSettings(lam=-0.1), "lam=-0.1"),
        (lambda: CriticSettings(lr=0.0), "lr"),
        (lambda: Updates(epochs=0), "epochs"),
        (lambda: Updates(epsilon=1.0), "epsilon"),
        (lambda: Updates(level="word"), "level"),
        (lambda: Updates(kl_in="both"), "kl_in='both'"),
        (lambda: LearnerSettings(baseline="critic"), "critic=CriticSettings()"),
        (lambda: LearnerSettings(critic=CriticSettings()), "baseline='group'"),
        (lambda: LearnerSettings(baseline="mean"), "leave_one_out"),
        (lambda: LearnerSettings(lr=0.0), "lr above 0"),
        (
            lambda: LearnerSettings(baseline="critic", critic=CriticSettings(), rows=RowSettings(play_every=2)),
            "play_every=2",
        ),
        (lambda: spec("pop"), "ppo"),
    ],
)
def test_a_mistake_is_one_line(make: Callable[[], Any], word: str) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        make()
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_learners_are_what_their_names_say() -> None:
    rules = {name: spec(name).settings for name in ("grpo", "grpo4", "ppo", "rloo", "rae", "expert")}
    assert [r.baseline for r in rules.values()] == ["group", "group", "critic", "leave_one_out", "rae", "group"]
    assert rules["grpo4"].updates == rules["ppo"].updates and rules["rloo"].updates.average == "rows"
    assert spec("expert").imitates and rules["expert"].review is not None and rules["grpo"].review is None
    assert PolicyLearner(settings="ppo").critic is not None and PolicyLearner().critic is None
    own = spec(f"{__name__}:Own")  # a class of somebody's own
    assert own.make is Own and own.settings == LearnerSettings()


class Own(PolicyLearner):
    """Named by the test above."""
