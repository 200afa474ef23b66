"""Arithmetic expressions: a strict reader, exact rational values, and writing with as few parentheses as can be.

Grammar, whole text::

    expression = term (("+" | "-") term)*        left to right
    term       = factor (("*" | "/") factor)*    left to right, binds tighter
    factor     = number | "(" expression ")"
    number     = "0" | nonzero-digit digit*      ASCII digits; no sign, no leading zero

A text is canonical if it has no blank and every pair of parentheses changes the tree's value in general: ``a+(b-c)``,
``a*(b/c)``, ``(a*b)+c`` and ``(a)`` are not, ``a-(b-c)``, ``a/(b*c)`` and ``(a+b)*c`` are.

There is no ``eval`` and no recursion: one pass with two stacks, so that any text is read in time linear in its length.
"""

from __future__ import annotations

import math
import re

import msgspec

from dream_envs.core import Reject

OPERATORS = "+-*/"
CHARACTERS = frozenset("0123456789+-*/()")
ATOM = 3
#: How tightly a token binds; a closing token (``)`` and the end) completes every operator before it.
PRECEDENCE = {"(": 0, ")": 1, "": 1, "+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_SPACED = str.maketrans({o: f" {o} " for o in OPERATORS})

Rational = tuple[int, int]


class Expression(msgspec.Struct, frozen=True):
    """What was read: the value as ``(numerator, denominator)`` in lowest terms with a positive denominator.

    ``operands``: the numbers in order; ``operators``: how many; ``depth``: nesting of parentheses; ``precedence``: of
    the outermost operator (3 for a lone number).
    """

    value: Rational
    operands: tuple[int, ...]
    operators: int
    depth: int
    precedence: int


def combine(operator: str, left: Rational, right: Rational) -> Rational | None:
    """``left operator right`` in lowest terms, or None for a division by zero."""
    (n, d), (m, e) = left, right
    if operator == "+":
        n, d = n * e + m * d, d * e
    elif operator == "-":
        n, d = n * e - m * d, d * e
    elif operator == "*":
        n, d = n * m, d * e
    elif not m:
        return None
    else:
        n, d = (n * e, d * m) if m > 0 else (-n * e, -d * m)
    if d == 1:
        return n, d
    g = math.gcd(n, d)
    return n // g, d // g


def read(text: str, *, canonical: bool, max_depth: int, max_digits: int, max_magnitude: int) -> Expression | Reject:
    """Read a whole text whose characters are in ``CHARACTERS`` (blanks between tokens are skipped).

    ``canonical`` turns away parentheses that are not needed; ``max_depth`` limits nesting, ``max_digits`` a number and
    ``max_magnitude`` every numerator and denominator on the way, the end included.

    Returns:
        The expression, or the first fault in the order grammar, not_canonical, limits, execution.
    """
    tokens = [*_TOKEN.findall(text), ""]
    values: list[Rational] = []
    bindings: list[int] = []
    pending: list[str] = []
    operands: list[int] = []
    depth = deepest = operators = 0
    wants_operand, redundant, limit, fault = True, False, None, None
    for i, token in enumerate(tokens):
        if wants_operand:
            if token == "(":
                pending.append(token)
                depth += 1
                deepest = max(deepest, depth)
                continue
            if not token.isdigit() or (token[0] == "0" and len(token) > 1):
                return Reject("grammar", f"expected a number or '(' but found {token[:16]!r}")
            if len(token) > max_digits:
                limit, token = Reject("limits", f"a number of {len(token)} digits, at most {max_digits}"), "1"
            operands.append(int(token))
            values.append((operands[-1], 1))
            bindings.append(ATOM)
            wants_operand = False
            continue
        binding = PRECEDENCE.get(token)
        if not binding:
            return Reject("grammar", f"expected an operator but found {token[:16]!r}")
        if pending and PRECEDENCE[pending[-1]] >= binding:
            found = _complete(pending, values, bindings, binding, max_magnitude)
            fault = fault or found
        if token == ")":
            if not pending:
                return Reject("grammar", "')' without '('")
            pending.pop()
            depth -= 1
            redundant = redundant or not _needed(bindings[-1], pending[-1] if pending else "", tokens[i + 1])
            bindings[-1] = ATOM
        elif token:
            pending.append(token)
            operators += 1
            wants_operand = True
    if pending:
        return Reject("grammar", "'(' without ')'")
    if canonical and redundant:
        return Reject("not_canonical", "has parentheses that are not needed")
    if deepest > max_depth:
        limit = Reject("limits", f"parentheses {deepest} deep, at most {max_depth}")
    return limit or fault or Expression(values[0], tuple(operands), operators, deepest, bindings[0])


def join(operator: str, left: str, left_precedence: int, right: str, right_precedence: int) -> str:
    """``left operator right`` with the parentheses it needs; its own precedence is ``PRECEDENCE[operator]``."""
    mine = PRECEDENCE[operator]
    if left_precedence < mine:
        left = f"({left})"
    if right_precedence < mine or (right_precedence == mine and operator in "-/"):
        right = f"({right})"
    return f"{left}{operator}{right}"


def spaced(text: str) -> str:
    """``3+4*2`` as ``3 + 4 * 2``."""
    return text.translate(_SPACED)


def rational_text(value: Rational) -> str:
    """``n`` or ``n/d``, with the minus sign in front."""
    return str(value[0]) if value[1] == 1 else f"{value[0]}/{value[1]}"


def _complete(
    pending: list[str], values: list[Rational], bindings: list[int], binding: int, most: int
) -> Reject | None:
    """Carry out the pending operators that bind at least as tightly as ``binding``; the first fault, if any."""
    fault = None
    while pending and PRECEDENCE[pending[-1]] >= binding:
        operator, right = pending.pop(), values.pop()
        value = combine(operator, values[-1], right)
        if value is None:
            fault, value = fault or Reject("execution", "division by zero"), (1, 1)
        elif abs(value[0]) > most or value[1] > most:
            fault, value = fault or Reject("limits", f"a value beyond {most}"), (1, 1)
        values[-1] = value
        bindings.pop()
        bindings[-1] = PRECEDENCE[operator]
    return fault


def _needed(inside: int, before: str, after: str) -> bool:
    """Whether a group whose outermost operator binds with ``inside`` needs its parentheses between these tokens."""
    if inside == 1:
        return before in ("-", "*", "/") or after in ("*", "/")
    return inside == 2 and before == "/"
