"""Diversity of replies, and their formats: hand-worked numbers, bounds and symmetries, known and hostile texts."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.metrics import diversity as dv
from dream_envs.metrics.formats import GENERIC, formats_of
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

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


TINY_GSM = '''def simple_math_problem() -> int:
    """
    Anna has 3 apples and buys 4 more. How many?
    """
    apples = 3 + 4
    result = apples
    return result
'''


KNOWN = {
    "empty": ["", " \n\t\u2003"],
    "json": ['{"answer": 7}', "```json\n[1, 2]\n```"],
    "code": [
        "```python\n[1, 2]\n```",
        TINY_GSM,
        TINY_GSM[:-12],  # cut off at a token limit, within the last line
        "blah blah\n" * 20_000 + TINY_GSM,
        "Let us write a function.\n\ndef f(x):\n    return x\n\nIt returns x.",
        "We use the tool.\n<llm-code>\nprint(7)\n</llm-code>\n7",
        "Sure:\n```\nls -l\n```",
        "Sure:\n```\nx = [1",  # a fence that the token limit left open
        "a = 3\nb = a + 4\nprint(b)",
        *("import os", "from os import path", "assert x", "raise e", "if x: y", "print(3)", "f(x)\ny = 3"),
    ],
    "table": ["| a | b |\n|---|:-:|\n| 1 | 2 |", "a | b\n--|--\n1 | 2", "\\begin{tabular}{l}1\\end{tabular}"],
    "boxed": ["Hence\n1. first\n2. second\nso $\\boxed{\\frac{1}{2}}$."],
    "steps": ["1. Add.\n2. Subtract.", "Step 1: Add.\nthen\nStep 2: Subtract.", "**1.** Add.\n**2.** Subtract."],
    "bullets": ["- a\n- b"],
    "number": ["42", " -1,234.5 % ", "3/4"],
    "prose": [
        *('{"answer": 7', "Here is the JSON: {}", "Hello", "42 apples"),
        *("```\n```", "x = 3", "By definition, this is undefined.", "def"),  # an empty fence is no code
        "define x as 3: then class of x is import ant",
        "not sure",  # parses as Python
        "| a | b |\n|---|\n| 1 | 2 |",  # cells do not agree
        *("yes | no\nmaybe - or | not", "the command \\boxed draws a box", "\\boxed{1", "\\boxed{ }"),
        *("1. Add.", "In 1987. It was\n12. of May", "3.14 is pi\n4.5 is not", "- a\n* b", "-1\n-2"),
    ],
}


@pytest.mark.parametrize(
    ("text", "label"), [(t, label) for label in KNOWN for t in KNOWN[label]], ids=lambda t: repr(t[:20])
)
def test_known_replies(text: str, label: str) -> None:
    assert GENERIC.label(text) == label


HOSTILE = [
    *(c * 1_000_000 for c in "([|9"),
    *("{" * 500_000 + "}" * 500_000, "-" * 1_000_000 + "1", "not " * 250_000 + "x", "1" + "+1" * 500_000),
    *("x" + "[0]" * 5_000, "f" + "()" * 8_000, "[" + "9" * 100_000 + "]", " " * 1_000_000 + "|", "|-" * 500_000),
    *("a|b\n" + "-|" * 400_000, "\\boxed{" * 100_000, "```\n" * 200_000, "1. \n" * 200_000, "def f(\n" * 100_000),
    "\n".join(" " * i + "if x:" for i in range(150)),
    "".join(map(chr, range(256))) * 4_000,
    *("\x00def f():\n    return 1", "\ud800\udfff" * 10_000, "\u202e\u200b" * 1_000, "\r" * 100_000),
    *("'''" + "\\" * 100_000, "f'{" * 5_000, "lambda: " * 2_000 + "0", "a if b else " * 1_300 + "c"),
    "x = 1\n" + "y = (" * 90,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: repr(t[:8]))
def test_hostile_text_has_a_label_soon(text: str) -> None:
    began = time.perf_counter()
    assert GENERIC.label(text) in KNOWN
    assert formats_of(Composition())(text) in {"trace", "states", "other", "empty"}
    assert time.perf_counter() - began < 5.0  # milliseconds alone; a quadratic step over 1 MB would take minutes


@given(st.text(max_size=300) | st.text(alphabet="1.)-*|{}[]()\\boxed`def :=\n\t'\"", max_size=200))
def test_every_text_has_exactly_one_label(text: str) -> None:
    label = GENERIC.label(text)
    assert label in KNOWN
    assert (label == "empty") == (not text.strip())
    found = [name for name, parser in GENERIC.parsers.items() if parser(text)]
    assert label == (found or ["prose"])[0] or label == "empty"


@pytest.mark.parametrize("notation", ["compact", "english"])
def test_composition(notation: str) -> None:
    family = Composition(notation)
    label = formats_of(family)
    for level in (1, 3, 8):
        task = family.generate(stream("formats", level), level)
        states = [s for s in task.answer if s in family.states]
        assert label(task.answer) == "trace"
        assert label(family.guess(task, stream("guess", level))) == "trace"  # wrong, but in form
        assert label("".join(states)) == label(", ".join(states)) == "states"
    for text in ("the answer", "Bf D", "BfD", "fB", "Zf", "B -> f -> k", "B -> f,, D -> k", "c:BDA", "BfDz"):
        assert label(text) == "other", text
    assert label("") == "empty"
