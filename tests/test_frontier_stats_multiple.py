"""Many tests at once: hand-worked adjustments, error rates under the null, the certified list's examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import multiple as mu
from dream_envs.seeds import stream

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_adjustments_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert mu.benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])


@given(SHARES)
def test_adjusted_values_are_ordered(p: list[float]) -> None:
    raw, adjusted = np.array(p), mu.benjamini_hochberg(p)
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()
    assert (adjusted >= raw - 1e-12).all() and (adjusted <= 1).all()


@given(SHARES, st.sampled_from([0.01, 0.05, 0.3]))
def test_the_textbook_procedure(p: list[float], alpha: float) -> None:
    """Step up, as it is written in the paper."""
    raw, m = sorted(p), len(p)
    up = max((i + 1 for i in range(m) if raw[i] * m / (i + 1) <= alpha), default=0)
    assert (mu.benjamini_hochberg(p) <= alpha).sum() == up


def test_error_rates_under_the_null() -> None:
    rng = stream("null")
    p = rng.random((2000, 20))
    p[:, :5] *= 1e-4  # five true effects
    false = [(mu.benjamini_hochberg(row) <= 0.05) for row in p]
    rate = np.mean([chosen[5:].sum() / max(chosen.sum(), 1) for chosen in false])
    assert rate <= 0.05 * 15 / 20 + 0.01


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mu.benjamini_hochberg([]), "empty"),
        (lambda: mu.benjamini_hochberg([0.5, math.nan]), "nan"),
        (lambda: mu.benjamini_hochberg([1.5]), "p holds 1.5"),
        (lambda: mu.certified(3, 2, 4, 16), "base_c=3"),
        (lambda: mu.certified(0, 8192, 17, 16), "c=17 of n=16"),
        (lambda: mu.certified(0, 8192, 4, 16, rho=0), "rho holds 0"),
        (lambda: mu.certified([0, 0], 8192, [4, 4, 4], 16), "do not go together"),
        (lambda: mu.certified(0, 8192, 4, 16, fdr=1.0), "fdr=1.0"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as told:
        call()
    assert "\n" not in str(told.value)


def test_certified_examples() -> None:
    """4 of 16 against 0 of 8,192: 1.2e-5, certifiable among 2,000; against 0 of 1,024: 0.012, not."""
    p = mu.ratio_p_value(0, [8192, 1024], 4, 16)
    assert p == pytest.approx([1.2e-5, 0.012], rel=0.03)
    assert p == pytest.approx([(512 / 8704) ** 4, (512 / 1536) ** 4], rel=1e-12)
    trained = np.repeat([4, 0], [20, 1980])
    assert mu.certified(0, 8192, trained, 16).count == 20
    assert mu.certified(0, 1024, trained, 16).count == 0


@given(st.integers(0, 16), st.integers(0, 40), st.integers(0, 5000), st.floats(0.5, 200))
def test_ratio_test_is_the_conditional_binomial(c: int, base_c: int, more: int, rho: float) -> None:
    """By summing P(Binomial(t, s) = j) for j >= c in whole numbers."""
    base_n = base_c + more
    share = rho * 16 / (rho * 16 + base_n)
    t = c + base_c
    tail = math.fsum(math.comb(t, j) * share**j * (1 - share) ** (t - j) for j in range(c, t + 1))
    assert mu.ratio_p_value(base_c, base_n, c, 16, rho) == pytest.approx(tail, rel=1e-6, abs=1e-12)


@given(st.integers(1, 16), st.integers(0, 20), st.integers(21, 5000))
def test_more_evidence_is_a_smaller_p(c: int, base_c: int, n: int) -> None:
    p = mu.ratio_p_value(base_c, n, c, 16)
    assert mu.ratio_p_value(base_c, n, c - 1, 16) >= p >= mu.ratio_p_value(base_c, n + 1, c, 16)
    assert mu.ratio_p_value(base_c + 1, n, c, 16) >= p


def test_nothing_drawn_certifies_nothing() -> None:
    assert mu.ratio_p_value(0, 0, 16, 16) == 1.0
    assert mu.ratio_p_value(0, 8192, 0, 16) == 1.0


def pmf(n: int, p: float, top: int) -> np.ndarray:
    return np.exp([
        math.lgamma(n + 1) - math.lgamma(c + 1) - math.lgamma(n - c + 1) + c * math.log(p) + (n - c) * math.log1p(-p)
        for c in range(min(n, top) + 1)
    ])  # fmt: skip


@pytest.mark.parametrize("base_n", [64, 1024, 8192])
def test_the_ratio_test_keeps_its_size(base_n: int) -> None:
    """At the edge of the hypothesis, p_T = 32 p_B: P(p-value <= alpha), summed over all counts, for binomial draws."""
    top = 60
    c, base_c = np.arange(17), np.arange(min(top, base_n) + 1)
    p_value = mu.ratio_p_value(base_c[:, None], base_n, c, 16)
    for base_p in (1e-5, 1e-4, 5e-4, 2e-3, 8e-3, 2e-2, 0.031):
        joint = pmf(base_n, base_p, top)[:, None] * pmf(16, 32 * base_p, 16)
        for alpha in (0.05, 0.01, 1e-3, 1e-5):
            assert joint[p_value <= alpha].sum() <= alpha


def test_a_base_that_stopped_counts_its_misses() -> None:
    """First success in draw J goes in as 0 of J - 1: the size holds for that stopping rule too."""
    c, j = np.arange(17), np.arange(1, 4001)
    p_value = mu.ratio_p_value(0, j[:, None] - 1, c, 16)
    for base_p in (1e-3, 4e-3, 1e-2, 3e-2):
        stop = base_p * (1 - base_p) ** (j - 1)
        joint = stop[:, None] * pmf(16, 32 * base_p, 16)
        for alpha in (0.05, 1e-3):
            assert joint[p_value <= alpha].sum() <= alpha
