"""Diversity of replies: hand-worked numbers, bounds and symmetries, and what each measure refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.metrics import diversity as dv
from dream_envs.seeds import stream

TEXTS = st.lists(st.text(alphabet="ab c\n", max_size=12), min_size=1, max_size=8)
SHARES = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1.0), min_size=1, max_size=6)


def test_entropies_of_known_histograms() -> None:
    """7, 2, 1 of 10: 0.7 log 0.7 + ... = 1.156780 bits, and (3 - 1) / (20 ln 2) = 0.144270 on top."""
    labels = ["trace"] * 7 + ["states"] * 2 + ["other"]
    assert dv.entropy(labels, corrected=False) == pytest.approx(1.156780, abs=1e-6)
    assert dv.entropy(labels) == pytest.approx(1.156780 + 0.144270, abs=1e-6)
    assert dv.effective_number(labels) == pytest.approx(2**1.301050, abs=1e-5)
    assert dv.simpson(labels) == pytest.approx((7 * 6 + 2 * 1) / 90)
    assert list(dv.histogram(labels).items()) == [("trace", 0.7), ("states", 0.2), ("other", 0.1)]
    assert dv.effective_number([]) == 0.0 and math.isnan(dv.simpson(["a"])) and dv.histogram([]) == {}


def test_miller_madow_takes_most_of_the_bias_away() -> None:
    """Twelve unequal labels, 80 draws, 4,000 repetitions: what is left is labels that were never seen."""
    rng = stream("miller-madow")
    p = np.arange(1, 13) / 78
    truth = float(-(p * np.log2(p)).sum())
    counts = rng.multinomial(80, p, size=4000)
    plug_in = float(dv.entropy_of_counts(counts, corrected=False).mean()) - truth
    corrected = float(dv.entropy_of_counts(counts).mean()) - truth
    assert plug_in == pytest.approx(-11 / (160 * math.log(2)), abs=0.02)  # (12 - 1) / (2 n ln 2) bits too low
    assert abs(corrected) < 0.2 * abs(plug_in)


def test_js_by_hand_and_at_the_bounds() -> None:
    """p = (1, 0), q = (1/2, 1/2): the mixture is (3/4, 1/4), the divergence 0.311278 bits."""
    assert dv.js_distance({"a": 1.0}, {"a": 0.5, "b": 0.5}) == pytest.approx(math.sqrt(0.311278), abs=1e-6)
    assert dv.js_distance({"a": 3}, {"a": 7}) == 0.0 and dv.js_distance({"a": 3}, {"b": 7}) == 1.0
    assert dv.total_variation({"a": 0.7, "b": 0.3}, {"a": 0.4, "c": 0.6}) == pytest.approx(0.6)


@given(SHARES, SHARES, SHARES)
def test_js_is_a_metric_and_bounds_hold(p: dict[str, float], q: dict[str, float], r: dict[str, float]) -> None:
    d, tv = dv.js_distance(p, q), dv.total_variation(p, q)
    assert d == pytest.approx(dv.js_distance(q, p), abs=1e-9) and 0.0 <= d <= 1.0
    assert dv.js_distance(p, p) < 1e-7
    assert d <= dv.js_distance(p, r) + dv.js_distance(r, q) + 1e-7
    assert tv * tv / (2 * math.log(2)) - 1e-9 <= d * d <= tv + 1e-9  # Pinsker's bound and Lin's (1991), in bits


def test_majority_counts_every_draw() -> None:
    assert dv.majority(["7", "8", "8", None, None, None], "8") == 1.0
    assert dv.majority(["7", "8", "8"], "7") == 0.0  # the first answer is no winner
    assert dv.majority(["7", "8"], "7") == 0.5 and dv.majority(["7", "8", "9"], "5") == 0.0
    assert dv.majority([None, None], "7") == dv.majority([], "7") == 0.0


def vendi(texts: list[str]) -> float:
    return dv.vendi(texts, dv.units_of(texts))


def test_vendi_of_alike_and_of_strangers() -> None:
    assert vendi(["same text"] * 9) == pytest.approx(1.0)
    assert vendi(["aa", "bb", "cc", "dd"]) == pytest.approx(4.0)
    assert vendi(["aa", "bb"] * 5) == pytest.approx(2.0)
    assert vendi(["", "x", "y z"]) == pytest.approx(3.0)
    assert vendi(["aa"] * 9 + ["bb"]) == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))
    kernel = dv.gram_kernel(["ab", "ac"], "characters")  # 1-grams: 1/2, 2-grams and longer: 0; (1 +- 1/8) / 2
    assert kernel[0, 1] == pytest.approx(1 / 8)
    shares = np.array([0.5625, 0.4375])
    assert vendi(["ab", "ac"]) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


@given(TEXTS, st.randoms())
@settings(deadline=None)
def test_the_kernel_is_one_and_vendi_counts_between_one_and_all(texts: list[str], random: object) -> None:
    units = dv.units_of(texts)
    kernel = dv.gram_kernel(texts, units)
    assert np.allclose(np.diag(kernel), 1.0) and np.allclose(kernel, kernel.T)
    assert kernel.min() >= 0.0 and kernel.max() <= 1.0 + 1e-9
    assert np.linalg.eigvalsh(kernel)[0] > -1e-9
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            if a == b or (units == "words" and a.split() == b.split()):
                assert kernel[i, j] > 1 - 1e-9
    score = vendi(texts)
    assert 1.0 - 1e-9 <= score <= len(set(texts)) + 1e-9
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert vendi(shuffled) == pytest.approx(score)
    assert vendi(texts * 3) == pytest.approx(score)  # shares count, not sizes
    values = np.linalg.eigvalsh(kernel / len(texts))
    kept = values[values > 1e-12]
    assert math.exp(-(kept * np.log(kept)).sum()) == pytest.approx(score)  # folding equal texts changes nothing


def test_long_texts_cost_little() -> None:
    assert 1.5 < vendi(["ab" * 500_000, "ba" * 500_000, "c" * 1_000_000]) < 2.5


def test_rounded_is_ready_for_json() -> None:
    value = {"a": (1, math.nan, [np.float64(1 / 3)]), "b": {"c": math.inf, "d": "text", "e": True}}
    assert dv.rounded(value) == {"a": (1, None, [0.333333]), "b": {"c": None, "d": "text", "e": True}}
