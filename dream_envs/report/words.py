"""How the report writes numbers and hostile text, and what its words mean."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

NONE = "-"
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def number(value: Any) -> float | None:
    """A finite float, or None for whatever else a JSON file may hold there."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int beyond 1e308
        return None


def probability(value: Any) -> str:
    """Three decimals from 0.01 up, two significant digits below: ``0.863``, ``2.5e-9``, ``0``."""
    p = number(value)
    if p is None:
        return NONE
    if p == 0 or abs(p) >= 0.01:
        return "0" if p == 0 else f"{p:.3f}"
    mantissa, exponent = f"{p:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def decimal(value: Any, digits: int = 1) -> str:
    """A fixed number of decimals: a median log10, an entropy in bits."""
    x = number(value)
    return NONE if x is None else f"{round(x, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.00"


def log10(value: Any) -> str:
    """A logarithm, its size in at most four characters: ``-0.05``, ``-33.6``."""
    x = number(value)
    return decimal(value, 2 if x is None or abs(x) < 9.995 else 1)


def whole(value: Any) -> str:
    """A count with thousands separated: ``153,600``."""
    x = number(value)
    return NONE if x is None else f"{x:,.0f}"


def percent(value: Any) -> str:
    """A share as whole per cent; what is not quite all or not quite nothing does not look like it."""
    x = number(value)
    if x is None:
        return NONE
    shown = f"{100 * x:.0f} %"
    if shown == "100 %" and x < 1:
        return ">99 %"
    return "<1 %" if shown == "0 %" and x > 0 else shown


def interval(value: Any) -> str:
    """``0.832 to 0.891``, or nothing where there is no interval."""
    if not isinstance(value, list | tuple) or len(value) != 2 or None in (number(value[0]), number(value[1])):
        return ""
    return f"{probability(value[0])} to {probability(value[1])}"


def visible(text: Any, cap: int = 2000) -> str:
    """Text that cannot do anything: capped, with control, bidirectional and lone surrogate characters spelled out.

    Line ends and tabs stay.  Markup is not escaped here: that is the template's job.

    Args:
        text: anything; what is not a str is written as ``str`` does.
        cap: characters kept; the number of those left out is noted.
    """
    whole_text = text if isinstance(text, str) else str(text)
    shown = whole_text[:cap]
    clean = "".join(c if c in "\n\t" or unicodedata.category(c) not in _HIDDEN else _spelled(c) for c in shown)
    left = len(whole_text) - len(shown)
    return clean if left <= 0 else f"{clean} ... ({left:,} more characters)"


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


#: What the tables and plots name; a page explains what it uses.
GLOSSARY: dict[str, str] = {
    "Success P": (
        "The probability that the model solves a problem. Where the evaluation is exact: that it samples the one "
        "accepted completion, a product of teacher-forced token probabilities; nothing is sampled. Else: the share of "
        "sampled completions that are right."
    ),
    "Level": (
        "Difficulty as the task family counts it; for compositions the number of operations. * marks problems with a "
        "pair of operations that pre-training never showed."
    ),
    "T=1": "Decoder: plain sampling at temperature 1.",
    "best_T": "Decoder: the best temperature of a grid, chosen for each problem with hindsight.",
    "forced": ("Decoder: the grammar and the length of the completion are imposed, with the best temperature on top."),
    "given": (
        "Decoder: the operations are handed over and only the states are predicted. It shows the latent single-step "
        "skill and does not set the tier."
    ),
    "T0, sharpening": (
        "Tier: the base already has P of at least 0.01 under its best decoder of T=1, best_T and forced."
    ),
    "T1, edge": "Tier: the base's best decoder lies between 1 / samples and 0.01.",
    "T2, beyond the samples": (
        "Tier: the base's best decoder lies below 1 / all samples that the run drew, so that all of them together are "
        "not expected to solve it once."
    ),
    "T3, absent": (
        "The problem is longer than the base's pre-training, or uses a pair of operations held out from it; it can be "
        "T2 as well."
    ),
    "Chance": "The success of somebody who knows the format but guesses what is not in the problem.",
    "Learnable": "Share of problems that some but not all attempts solve: only these carry a learning signal.",
    "Drift": (
        "Mean -log10 P of the frozen base on the newest problems of the policy's own: difficulty on a scale that does "
        "not move with the players."
    ),
    "Label accuracy": "Share of the rewards given for answers that agree with the executed truth.",
}
