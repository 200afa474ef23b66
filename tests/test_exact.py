"""Exact probabilities against enumeration, against sampling, and the tables that are made of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.frontier import exact as ex
from dream_envs.seeds import digest, stream
from dream_envs.tasks.composition import Composition

#: Two operations, two states, an end token and one token that the form never allows.
TOKENS = {"A": 0, "B": 1, "a": 2, "b": 3, "end": 4, "other": 5}
DEPTH = 2
LENGTH = 2 * DEPTH + 1
GRAMMAR = ex.composition_grammar(lambda c: TOKENS[c], TOKENS["end"], "ab", "AB", DEPTH)
REPLY = np.array([0, 3, 1, 2, 4])  # A b B a end


def table(*labels: Any) -> np.ndarray:
    """Logits of a model whose prediction depends on the position alone; ``float[LENGTH, 6]``."""
    return stream("exact-table", *labels).normal(scale=2.0, size=(LENGTH, 6)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def enumerated(logits: np.ndarray, temperature: float, allowed: list[list[int]] | None = None) -> float:
    """The reply's share among all token strings (those of the form, if given): products summed one by one."""
    weights = np.exp(logits.astype(np.float64) / temperature)
    choices = allowed or [list(range(6))] * LENGTH
    total = right = 0.0
    for string in itertools.product(*choices):
        weight = math.prod(weights[t, token] for t, token in enumerate(string))
        total += weight
        right += weight * (list(string) == REPLY.tolist())
    return right / total


@pytest.mark.parametrize("label", range(4))
def test_every_decoder_is_the_enumeration(label: int) -> None:
    logits = table(label)
    found = {d: math.exp(p) for d, p in ex.log_probability(logits, REPLY, GRAMMAR).items()}
    assert set(found) == set(ex.DECODERS)
    assert found["T=1"] == pytest.approx(enumerated(logits, 1.0), rel=1e-9)
    assert found["best_T"] == pytest.approx(max(enumerated(logits, t) for t in ex.TEMPERATURES), rel=1e-9)
    forced = [enumerated(logits, t, GRAMMAR.allowed) for t in ex.TEMPERATURES]
    assert found["forced"] == pytest.approx(max(forced), rel=1e-9)
    fixed = [[token] if i % 2 == 0 else GRAMMAR.allowed[i] for i, token in enumerate(REPLY.tolist())]
    given_ = [enumerated(logits, t, fixed) for t in ex.TEMPERATURES]  # operations and end are handed over
    assert found["given"] == pytest.approx(max(given_), rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(scale=st.floats(0.01, 60), seed=st.integers(0, 10**9), shift=st.floats(-1e4, 1e4))
def test_help_never_hurts(scale: float, seed: int, shift: float) -> None:
    """T=1 <= best_T <= forced <= given <= 1, and a constant added to all logits of a position changes nothing."""
    logits = stream("help", seed).normal(scale=scale, size=(LENGTH, 6))
    found = ex.log_probability(logits, REPLY, GRAMMAR)
    assert found["T=1"] <= found["best_T"] + 1e-9 and found["best_T"] <= found["forced"] + 1e-9
    assert found["forced"] <= found["given"] + 1e-9 and found["given"] <= 1e-9
    moved = ex.log_probability(logits + shift, REPLY, GRAMMAR)
    assert all(moved[d] == pytest.approx(found[d], abs=1e-6) for d in ex.DECODERS)


def test_extremes() -> None:
    sure = np.full((LENGTH, 6), -500.0)
    sure[np.arange(LENGTH), REPLY] = 500.0
    assert all(abs(p) < 1e-9 for p in ex.log_probability(sure, REPLY, GRAMMAR).values())
    hopeless = ex.log_probability(-sure, REPLY, GRAMMAR)
    assert all(math.isfinite(p) for p in hopeless.values()) and hopeless["T=1"] < -4000
    flat = ex.log_probability(np.zeros((LENGTH, 6)), REPLY, GRAMMAR)
    assert flat["T=1"] == pytest.approx(LENGTH * math.log(1 / 6))
    assert flat["forced"] == pytest.approx(4 * math.log(1 / 2)) and flat["given"] == pytest.approx(2 * math.log(1 / 2))
    forbidden = np.array([5, 3, 1, 2, 4])  # a reply outside of the form has no probability under it
    assert ex.log_probability(np.zeros((LENGTH, 6)), forbidden, GRAMMAR)["forced"] == -math.inf


def test_the_grammar_is_the_familys() -> None:
    family = Composition()
    grammar = ex.composition_grammar(ord, 0, family.states, family.operations, 3)
    task = family.generate(stream("grammar"), 3)
    ids = [*map(ord, task.answer), 0]
    assert all(token in allowed for token, allowed in zip(ids, grammar.allowed, strict=True))
    shown = "".join(c for c, predicted in zip(task.answer, grammar.predicted, strict=False) if not predicted)
    assert shown == task.meta["ops"]
    assert math.prod(len(a) for a in grammar.allowed) == (8 * 16) ** 3


# ----------------------------------------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def nano() -> Any:
    pytest.importorskip("torch").set_num_threads(1)
    return pytest.importorskip("dream_envs.agents.engines.local").LocalAgent("nano/compose")


def grammars(nano: Any, depth: int, count: int) -> list[ex.Grammar]:
    family = Composition()

    def token(c: str) -> int:
        return int(nano.tokenizer(c, add_special_tokens=False)["input_ids"][0])

    return [ex.composition_grammar(token, nano.ends[0], family.states, family.operations, depth)] * count


def test_exact_is_the_frequency_of_sampled_replies(nano: Any) -> None:
    """20,000 replies to each of the problems whose exact probability is farthest from 0 and 1; five deviations."""
    from dream_envs.core import Limits, Request

    family, n = Composition(), 20_000
    tasks = [family.generate(stream("sampled", i), 2) for i in range(200)]
    p = np.exp(ex.exact(nano, tasks, grammars(nano, 2, 200))["T=1"])
    for i in np.argsort(np.abs(p - 0.5))[:3]:
        requests = [
            Request(
                messages=[{"role": "user", "content": tasks[i].prompt}],
                agent="solver_0",
                role="solver",
                seed=digest("exact-draw", int(i), k),
                limits=Limits(max_tokens=12),
            )
            for k in range(n)
        ]
        right = np.mean([a.text == tasks[i].answer for a in nano.act(requests)])
        assert abs(right - p[i]) < 5 * math.sqrt(p[i] * (1 - p[i]) / n), (tasks[i].prompt, right, p[i])


def test_exact_does_not_depend_on_the_batch(nano: Any) -> None:
    family = Composition()
    tasks = [family.generate(stream("batch", i), 1 + i % 4) for i in range(24)]
    forms = [grammars(nano, t.level, 1)[0] for t in tasks]
    together = ex.exact(nano, tasks, forms)
    for i in (0, 7, 23):
        alone = ex.exact(nano, tasks[i : i + 1], forms[i : i + 1])
        for decoder in ex.DECODERS:
            assert alone[decoder][0] == pytest.approx(together[decoder][i], abs=2e-4)


def test_teacher_forcing_is_the_plain_forward_pass(nano: Any) -> None:
    import torch

    task = Composition().make("c", "BDAHC")
    (logits,), (ids,) = nano.completion_logits([[{"role": "user", "content": task.prompt}]], [task.answer])
    head = nano.encode([{"role": "user", "content": task.prompt}])
    with torch.no_grad():
        full = nano.model(torch.tensor([[*head, *ids.tolist()]])).logits[0].numpy()
    assert nano.decode([ids.tolist()]) == [task.answer] and ids[-1] in nano.ends
    np.testing.assert_allclose(logits, full[len(head) - 1 : -1], atol=1e-3)


# ---------------------------------------------------------------------------------------------------------- numbers


@given(p=st.floats(1e-6, 1.0), k=st.integers(1, 1000))
def test_pass_at_k_is_the_naive_formula_where_that_is_exact_enough(p: float, k: int) -> None:
    assert ex.pass_at_k(np.log(np.array([p])), k)[0] == pytest.approx(1 - (1 - p) ** k, rel=1e-7)


def test_pass_at_k_keeps_small_probabilities() -> None:
    """1 - (1 - 1e-30)^k is 0 in floating point; k p is the answer to 16 digits."""
    log_p = np.log(np.array([1e-30, 1e-9, 1.0])) + np.array([0.0, 0.0, 1e-12])  # the last one rounds above 1
    found = ex.pass_at_k(log_p, 1000)
    assert found[0] == pytest.approx(1e-27, rel=1e-9) and found[1] == pytest.approx(1e-6, rel=1e-5) and found[2] == 1.0
    assert ex.pass_at_k(np.array([-math.inf]), 10**6)[0] == 0.0


def test_tiers_have_sharp_ends() -> None:
    samples = 10_000
    p = np.array([1.0, 1e-2, 0.999e-2, 1.001e-4, 0.999e-4, 1e-30])
    base = {d: np.log(p) - (i > 0) * 50 for i, d in enumerate(("best_T", "T=1", "forced"))} | {"given": np.zeros(6)}
    assert ex.tiers(base, samples).tolist() == [0, 0, 1, 1, 2, 2]  # given does not set the tier
    assert ex.tiers({**base, "forced": np.full(6, np.log(0.5))}, samples).tolist() == [0] * 6
    assert ex.tiers(base, 10).tolist() == [0, 0, 2, 2, 2, 2]  # a tiny budget: nothing between
    assert ex.tiers(base, 10**9).tolist() == [0, 0, 1, 1, 1, 2]
    assert (ex.best_decoder(base) == base["best_T"]).all()


def test_summary_by_hand() -> None:
    found = ex.summary(np.log(np.array([0.9, 0.6, 0.5, 1e-6])))
    assert found == {
        "mean": pytest.approx(0.50000025), "median_log10": pytest.approx((math.log10(0.6) + math.log10(0.5)) / 2),
        "solved": 0.5, "max": pytest.approx(0.9),
    }  # fmt: skip


def test_the_bootstrap_covers() -> None:
    """200 samples of 60 from a skewed distribution: the 95 % interval holds the mean in 85 to 99 % of them."""
    rng, inside = stream("coverage"), 0
    for _ in range(200):
        values = rng.beta(0.7, 1.4, size=60)
        low, high = ex.bootstrap(values, rng, draws=400)
        assert low <= values.mean() <= high
        inside += low <= 0.7 / 2.1 <= high
    assert 170 <= inside <= 198
    assert ex.bootstrap(np.full(9, 0.25), rng) == [0.25, 0.25]
    wide, narrow = ex.bootstrap(values, rng, level=0.99), ex.bootstrap(values, rng, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
