"""Diversity of replies: hand-worked numbers, bounds and symmetries, and what each measure refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.metrics import diversity as dv
from dream_envs.metrics.health import entropy_of_counts
from dream_envs.seeds import stream

TEXTS = st.lists(st.text(alphabet="ab c\n", max_size=12), min_size=1, max_size=8)
SHARES = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1.0), min_size=1, max_size=6)


def test_entropies_of_known_histograms() -> None:
    """7, 2, 1 of 10: 0.7 log 0.7 + ... = 1.156780 bits, and (3 - 1) / (20 ln 2) = 0.144270 on top."""
    labels = ["trace"] * 7 + ["states"] * 2 + ["other"]
    assert dv.entropy(labels, corrected=False) == pytest.approx(1.156780, abs=1e-6)
    assert dv.entropy(labels) == pytest.approx(1.156780 + 0.144270, abs=1e-6)
    assert dv.effective_number(labels, corrected=False) == pytest.approx(math.exp(0.801819), abs=1e-5)
    assert dv.effective_number(list("abcd") * 100, corrected=False) == pytest.approx(4.0)
    assert dv.simpson(labels) == pytest.approx((7 * 6 + 2 * 1) / 90)
    assert list(dv.histogram(labels).items()) == [("trace", 0.7), ("states", 0.2), ("other", 0.1)]
    assert dv.effective_number([]) == 0.0 and math.isnan(dv.simpson(["a"])) and dv.histogram([]) == {}


def test_miller_madow_takes_most_of_the_bias_away() -> None:
    """Twelve unequal labels, 80 draws, 4,000 repetitions: what is left is labels that were never seen."""
    rng = stream("miller-madow")
    p = np.arange(1, 13) / 78
    truth = float(-(p * np.log2(p)).sum())
    counts = rng.multinomial(80, p, size=4000)
    plug_in = float(entropy_of_counts(counts, corrected=False).mean()) - truth
    corrected = float(entropy_of_counts(counts).mean()) - truth
    assert plug_in == pytest.approx(-11 / (160 * math.log(2)), abs=0.02)  # (12 - 1) / (2 n ln 2) bits too low
    assert abs(corrected) < 0.2 * abs(plug_in)


def test_js_by_hand_and_at_the_bounds() -> None:
    """p = (1, 0), q = (1/2, 1/2): the mixture is (3/4, 1/4), the divergence 0.311278 bits."""
    assert dv.js_distance({"a": 1.0}, {"a": 0.5, "b": 0.5}) == pytest.approx(math.sqrt(0.311278), abs=1e-6)
    assert dv.js_distance({"a": 3}, {"a": 7}) == 0.0 and dv.js_distance({"a": 3}, {"b": 7}) == 1.0
    assert dv.total_variation({"a": 0.7, "b": 0.3}, {"a": 0.4, "c": 0.6}) == pytest.approx(0.6)
    for bad in ({}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": math.nan}):
        with pytest.raises(DreamEnvsError, match="histogram q"):
            dv.js_distance({"a": 1.0}, bad)


@given(SHARES, SHARES, SHARES)
def test_js_is_a_metric_and_bounds_hold(p: dict[str, float], q: dict[str, float], r: dict[str, float]) -> None:
    d, tv = dv.js_distance(p, q), dv.total_variation(p, q)
    assert d == pytest.approx(dv.js_distance(q, p), abs=1e-9) and 0.0 <= d <= 1.0
    assert dv.js_distance(p, p) < 1e-7
    assert d <= dv.js_distance(p, r) + dv.js_distance(r, q) + 1e-7
    assert tv * tv / (2 * math.log(2)) - 1e-9 <= d * d <= tv + 1e-9  # Pinsker's bound and Lin's (1991), in bits


def test_distinct_at_a_fixed_budget() -> None:
    texts = ["a b a b", "a b"]
    assert dv.distinct(texts, 1, 6, stream("d")) == pytest.approx(2 / 6)
    assert dv.distinct(texts, 2, 6, stream("d")) == pytest.approx(2 / 4)  # ab ba ab + ab: none reaches over the end
    with pytest.raises(DreamEnvsError, match="texts have 6 tokens"):
        dv.distinct(texts, 1, 7, stream("d"))
    assert math.isnan(dv.distinct(["a", "b"], 2, 2, stream("d")))
    rng = stream("words")
    words = [" ".join(str(w) for w in rng.integers(100, size=20)) for _ in range(60)]
    shorter, longer = (dv.distinct(words, 1, b, stream("order")) for b in (100, 1000))
    assert shorter > 3 * longer  # the same model: only the amount of text differs
    assert dv.distinct(words, 1, 100, stream("order")) == shorter != dv.distinct(words, 1, 100, stream("other"))


def test_vendi_of_alike_and_of_strangers() -> None:
    assert dv.vendi(["same text"] * 9) == pytest.approx(1.0)
    assert dv.vendi(["aa", "bb", "cc", "dd"]) == pytest.approx(4.0)
    assert dv.vendi(["aa", "bb"] * 5) == pytest.approx(2.0)
    assert dv.vendi(["", "x", "y z"]) == pytest.approx(3.0)
    assert dv.vendi(["aa"] * 9 + ["bb"]) == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))
    half = np.array([[1.0, 0.5], [0.5, 1.0]])  # eigenvalues of K / 2: 3/4 and 1/4
    assert dv.vendi_of_kernel(half) == pytest.approx(4 / 3**0.75)
    assert dv.vendi(["p", "q"], lambda texts: half) == pytest.approx(4 / 3**0.75)


@given(TEXTS)
@settings(deadline=None)
def test_the_kernel_is_one(texts: list[str]) -> None:
    kernel = dv.gram_kernel(texts)
    assert np.allclose(np.diag(kernel), 1.0) and np.allclose(kernel, kernel.T)
    assert kernel.min() >= 0.0 and kernel.max() <= 1.0 + 1e-9
    assert np.linalg.eigvalsh(kernel)[0] > -1e-9
    units = dv.units_of(texts)
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            if dv.tokens_of(a, units) == dv.tokens_of(b, units):
                assert kernel[i, j] > 1 - 1e-9


@given(TEXTS, st.randoms())
@settings(deadline=None)
def test_vendi_counts_between_one_and_all(texts: list[str], random: object) -> None:
    score = dv.vendi(texts)
    assert 1.0 - 1e-9 <= score <= len(set(texts)) + 1e-9
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert dv.vendi(shuffled) == pytest.approx(score)
    assert dv.vendi(texts * 3) == pytest.approx(score)  # shares count, not sizes
    kernel = dv.gram_kernel(texts)
    assert dv.vendi_of_kernel(kernel) == pytest.approx(score)  # folding equal texts changes nothing


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "finite"),
        (np.array([[1.0, 0.5], [0.4, 1.0]]), "symmetric"),
        (np.array([[2.0, 0.0], [0.0, 2.0]]), "diagonal"),
        (np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]]), "eigenvalue"),
    ],
)
def test_what_is_no_similarity_is_refused(kernel: np.ndarray, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words):
        dv.vendi_of_kernel(kernel)


def test_self_bleu() -> None:
    assert dv.self_bleu(["the cat sat"] * 3) == pytest.approx(1.0)
    assert dv.self_bleu(["a b c d e f", "u v w x y z"]) < 0.05
    assert math.isnan(dv.self_bleu(["alone"]))


def test_long_texts_cost_little_and_mistakes_are_told() -> None:
    long = ["ab" * 500_000, "ba" * 500_000, "c" * 1_000_000]
    assert 1.5 < dv.vendi(long) < 2.5
    with pytest.raises(DreamEnvsError, match="1 to 4096"):
        dv.vendi([])
    with pytest.raises(DreamEnvsError, match="'letters'"):
        dv.gram_kernel(["a"], "letters")  # type: ignore[arg-type]
    with pytest.raises(DreamEnvsError, match="weights for"):
        dv.vendi_of_kernel(np.eye(2), [1.0])
