"""Format labels: known replies, the substring classifier's mistakes, hostile text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dream_envs.metrics.formats import GENERIC, formats_of
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

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
