"""How the reports write numbers and hostile text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
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


def signed(x: float | None) -> str:
    """Points with their sign: ``+2.3``, ``-0.4``, ``0.0``."""
    shown = decimal(x)
    return f"+{shown}" if shown not in (NONE, "0.0") and shown[0] != "-" else shown


def points(x: float) -> str:
    """Points without a sign for what cannot be negative: ``2.5``; small but not zero does not look like zero."""
    return f"{x:.1g}" if x and decimal(x) == "0.0" else decimal(x)


def interval(low: float | None, high: float | None) -> str:
    """``0.832 to 0.891``."""
    return NONE if low is None or high is None else f"{probability(low)} to {probability(high)}"


def bracket(low: float | None, high: float | None, write: Callable[[Any], str] = signed) -> str:
    """``[+1.6, +3.0]``, or nothing without both ends."""
    return "" if low is None or high is None else f"[{write(low)}, {write(high)}]"


def estimate(value: Sequence[float | None] | None, write: Callable[[Any], str] = signed) -> str:
    """A value with its interval, such as ``+2.3 [+1.6, +3.0]``; by default points."""
    return NONE if value is None else f"{write(value[0])} {bracket(value[1], value[2], write)}".strip()


def ratio(value: Sequence[float | None] | None) -> str:
    """``0.75 [0.65, 0.85]``."""
    return estimate(value, "{:.2f}".format)


def visible(text: Any, cap: int = 2000, spelled: Callable[[str], str] | None = None) -> str:
    r"""Text that cannot do anything: capped, with control, bidirectional and lone surrogate characters spelled out.

    Line ends and tabs stay.  Markup is not escaped here: that is the template's job.  What is beyond ``cap`` characters
    is counted.  ``spelled``: another spelling than ``\x1b``.
    """
    text, spelled = str(text), spelled or _spelled
    clean = text[:cap]
    if not clean.replace("\n", "").replace("\t", "").isprintable():  # else there is nothing to spell out
        clean = "".join(c if c in "\n\t" or unicodedata.category(c) not in _HIDDEN else spelled(c) for c in clean)
    return clean if len(text) <= cap else f"{clean} ... ({len(text) - cap:,} more characters)"


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def label(value: str, cap: int = 28) -> str:
    r"""A name on one line, fit for XML, at most ``cap`` characters.

    >>> label("a\x00b\nc"), label("x" * 50, 5)
    ('a\\x00b c', 'xxxx…')
    """
    text = " ".join(visible(value, 400).split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= cap else text[: cap - 1] + "…"


def readable(name: str, cap: int = 60) -> str:
    """The name of a measure, to be read: ``answer_entropy`` is ``answer entropy``."""
    return label(name, cap).replace("_", " ")
