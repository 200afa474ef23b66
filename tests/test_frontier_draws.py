"""The base's draws: early stop, cache, resume, independence; against an engine whose every draw is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dream_envs.core import Action, DreamEnvsError, Task, Usage
from dream_envs.frontier import draws as draws_module
from dream_envs.frontier.draws import Method, SampleCache, Unavailable, cache_path
from dream_envs.frontier.suite import Problem
from dream_envs.seeds import digest


class Coin:
    """Right with probability ``rates[prompt]``, decided by the request's seed alone; counts what it was asked."""

    def __init__(self, rates: dict[str, float]) -> None:
        self.rates, self.asked, self.status = rates, 0, "ok"

    def act(self, requests):
        self.asked += len(requests)
        rates = [self.rates[r.messages[-1]["content"]] for r in requests]
        right = [digest("coin", r.seed) / 2**64 < rate for r, rate in zip(requests, rates, strict=True)]
        return [Action("yes" if hit else "no", usage=Usage(3, 5), status=self.status) for hit in right]


def problems(rates: dict[str, float]) -> list[Problem]:
    return [Problem(Task(family="f", level=1, prompt=p, answer="yes"), 0) for p in rates]


def method(coin, name: str = "plain", quick=None) -> Method:
    def messages(problem):
        return [{"role": "user", "content": problem.task.prompt}]

    return Method(name, coin, messages, lambda p, text: text == p.task.answer, lambda p: 8, quick)


RATES = {"never": 0.0, "rare": 0.004, "some": 0.05, "often": 0.6, "always": 1.0}


def by_hand(methods, problem: Problem, cap: int) -> int:
    """The first success, one draw at a time."""
    name = "+".join(m.name for m in methods)
    for j in range(cap):
        arm = methods[j % len(methods)]
        seed = digest("frontier-draw", "base", name, arm.name, problem.task.id, j)
        if digest("coin", seed) / 2**64 < arm.agent.rates[problem.task.prompt]:
            return j + 1
    return 0


@pytest.mark.parametrize("step", [1, 7, 256])
def test_stops_where_drawing_one_by_one_would(step, monkeypatch):
    monkeypatch.setattr(draws_module, "STEP", step)
    monkeypatch.setattr(draws_module, "ROWS", 33)
    methods = [method(Coin(RATES), "a"), method(Coin({p: r / 2 for p, r in RATES.items()}), "b")]
    chosen = problems(RATES)
    found = SampleCache(None, "base").first(methods, chosen, 300)
    assert [s.first for s in found] == [by_hand(methods, p, 300) for p in chosen]
    assert found[0].made == 300 and found[4].first == 1


def test_a_cap_in_the_cache_does_not_change_a_smaller_one():
    chosen = problems(RATES)
    kept = SampleCache(None, "base")
    fresh = SampleCache(None, "base").first([method(Coin(RATES))], chosen, 24)
    kept.first([method(Coin(RATES))], chosen, 2000)
    again = kept.first([method(Coin(RATES))], chosen, 24)
    assert [s.first for s in again] == [s.first for s in fresh]
    assert all(s.made <= 24 for s in again)


def test_goes_on_from_the_file_and_draws_nothing_twice(tmp_path):
    path, chosen = tmp_path / "b.jsonl", problems(RATES)
    whole = SampleCache(None, "base").first([method(Coin(RATES))], chosen, 200)
    kept = SampleCache(path, "base")
    kept.first([method(Coin(RATES))], chosen, 40)
    counted = kept.count(method(Coin(RATES)), chosen, 16)
    kept.close()
    coin = Coin(RATES)
    kept = SampleCache(path, "base")
    assert kept.first([method(coin)], chosen, 40) and coin.asked == 0
    assert kept.count(method(coin), chosen, 16) == counted and coin.asked == 0
    assert [s.first for s in kept.first([method(coin)], chosen, 200)] == [s.first for s in whole]
    kept.close()


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_line_cut_short_is_drawn_again(tmp_path, cut):
    path, chosen = tmp_path / "b.jsonl", problems(RATES)
    kept = SampleCache(path, "base")
    whole = kept.first([method(Coin(RATES))], chosen, 200)
    kept.close()
    path.write_bytes(path.read_bytes()[:-cut])
    kept = SampleCache(path, "base")
    assert [s.first for s in kept.first([method(Coin(RATES))], chosen, 200)] == [s.first for s in whole]
    kept.close()
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_foreign_file_is_one_line(tmp_path):
    path = tmp_path / "b.jsonl"
    path.write_text('{"other": 1}\n')
    with pytest.raises(DreamEnvsError, match=r"line 1 is no line of draws"):
        SampleCache(path, "base")


def test_two_sides_and_two_kinds_of_draws_are_independent():
    rates = {f"p{i}": 0.5 for i in range(400)}
    chosen = problems(rates)
    columns = [
        [c.right[0] for c in SampleCache(None, side).count(method(Coin(rates)), chosen, 1)]
        for side in ("base", "trained")
    ]
    columns.append([int(s.first == 1) for s in SampleCache(None, "base").first([method(Coin(rates))], chosen, 1)])
    table = np.corrcoef(np.array(columns))
    assert np.abs(table[np.triu_indices(3, 1)]).max() < 0.2  # 4 standard errors


def test_shared_draws_are_the_same_on_both_sides():
    rates = {f"p{i}": 0.5 for i in range(64)}
    caches = SampleCache(None, "base"), SampleCache(None, "trained")
    one, other = (kept.count(method(Coin(rates)), problems(rates), 4, shared=True) for kept in caches)
    assert one == other


def test_first_success_is_unbiased_for_every_k():
    rates = {f"p{i}": 0.03 for i in range(3000)}
    found = SampleCache(None, "base").first([method(Coin(rates))], problems(rates), 64)
    for k in (1, 8, 64):
        misses = np.mean([s.first == 0 or s.first > k for s in found])
        truth = 0.97**k
        assert abs(misses - truth) < 4 * np.sqrt(truth * (1 - truth) / 3000)


def test_a_draw_without_a_reply_is_no_failure_of_the_model():
    coin = Coin(RATES)
    coin.status = "timeout"
    with pytest.raises(DreamEnvsError, match="not a failure of the model"):
        SampleCache(None, "base").count(method(coin), problems(RATES), 2)


class Sometimes(Coin):
    """Every second call has a time-out in it."""

    calls = 0

    def act(self, requests):
        self.calls += 1
        replies = super().act(requests)
        return [Action("", status="timeout"), *replies[1:]] if self.calls % 2 else replies


def test_a_draw_is_asked_again_and_is_the_same():
    chosen = problems(RATES)
    one, other = (SampleCache(None, "base").count(method(c(RATES)), chosen, 8) for c in (Sometimes, Coin))
    assert one == other


def test_quick_draws_serve_only_where_the_first_success_matters():
    quick, slow = Coin(RATES), Coin(RATES)
    kept = SampleCache(None, "base")
    kept.first([method(slow, quick=quick)], problems(RATES), 8)
    assert slow.asked == 0 and quick.asked > 0
    kept.count(method(slow, quick=quick), problems(RATES), 2)
    assert slow.asked == 2 * len(RATES)


def test_another_model_or_protocol_has_another_file(tmp_path):
    names = {cache_path(tmp_path, m, p).name for m in ("a", "b") for p in ("x", "y", "")}
    assert len(names) == 6 and issubclass(Unavailable, DreamEnvsError)
