"""The language of the family ``programs``: typed expressions over whole numbers and lists of them, parsed and run.

A program is one expression in ``x``, the input, a list.  It is written in two ways: every symbol before its operands,
one character each (``@+y1ox``), or as calls (``map(add(y, 1), sort(x))``).  Every operation has a fixed number of
operands of fixed types, so that the first needs no parentheses and a program has one text in each way.

A body is evaluated once an item of a list: ``y`` is the item, and in a fold ``z`` is what there is so far.  Nothing
loops but over a list, and steps, sizes and lengths are bounded: ``run`` always ends, the same way everywhere.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

INT, LIST, BODY, FOLD = "int", "list", "body", "fold"
#: Items of a list, the size of a number, and evaluated nodes of one run.
MOST_ITEMS, MOST_VALUE, MOST_STEPS = 16, 9999, 2000
#: Operations of a program that is read, whoever wrote it.
MOST_OPERATIONS = 32
#: An input: so many items, from ``-n`` to ``n``.
INPUT_ITEMS, INPUT_VALUE = 8, 99
DIGITS = "0123456789"
Value = int | tuple[int, ...]
#: A symbol and its operands; a leaf is ``x``, ``y``, ``z`` or a digit.
Node = tuple[Any, ...]


class Fault(Exception):
    """Why a text is no program, or a run has no value: a key of ``core.REJECT_CODES`` and a line of detail."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Operation(NamedTuple):
    """An operation: its name, the types of its operands, the type of its value, and what it gives in words."""

    name: str
    takes: tuple[str, ...]
    gives: str
    says: str


def _any_of(items: tuple[int, ...]) -> tuple[int, ...]:
    if not items:
        raise Fault("execution", "an item of an empty list")
    return items


def _divided(how: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def divide(a: int, b: int) -> int:
        if b == 0:
            raise Fault("execution", "division by zero")
        return how(a, b)

    return divide


def _get(items: tuple[int, ...], place: int) -> int:
    if not 0 <= place < len(items):
        raise Fault("execution", "no item at this place")
    return items[place]


def _span(n: int) -> tuple[int, ...]:
    if n > MOST_ITEMS:
        raise Fault("limits", f"a list of more than {MOST_ITEMS} items")
    return tuple(range(n))


OPERATIONS: dict[str, Operation] = {
    "+": Operation("add", (INT, INT), INT, "add(a, b): a plus b"),
    "-": Operation("sub", (INT, INT), INT, "sub(a, b): a minus b"),
    "*": Operation("mul", (INT, INT), INT, "mul(a, b): a times b"),
    "/": Operation("div", (INT, INT), INT, "div(a, b): a divided by b, rounded down"),
    "%": Operation("mod", (INT, INT), INT, "mod(a, b): a minus b times div(a, b)"),
    "m": Operation("smaller", (INT, INT), INT, "smaller(a, b): the smaller of the two"),
    "M": Operation("larger", (INT, INT), INT, "larger(a, b): the larger of the two"),
    "<": Operation("less", (INT, INT), INT, "less(a, b): one if a is below b, else zero"),
    "=": Operation("equal", (INT, INT), INT, "equal(a, b): one if a equals b, else zero"),
    "w": Operation("when", (INT, INT, INT), INT, "when(c, a, b): b if c is zero, else a"),
    "h": Operation("head", (LIST,), INT, "head(l): the first item"),
    "e": Operation("last", (LIST,), INT, "last(l): the last item"),
    "n": Operation("size", (LIST,), INT, "size(l): how many items"),
    "s": Operation("sum", (LIST,), INT, "sum(l): the sum of the items"),
    "b": Operation("least", (LIST,), INT, "least(l): the smallest item"),
    "B": Operation("most", (LIST,), INT, "most(l): the largest item"),
    "i": Operation("get", (LIST, INT), INT, "get(l, n): the item at place n, counted from zero"),
    "c": Operation("count", (LIST, INT), INT, "count(l, n): how many items equal n"),
    "F": Operation("fold", (FOLD, INT, LIST), INT, "fold(e, a, l): z starts as a and becomes e for each item y of l"),
    "r": Operation("reverse", (LIST,), LIST, "reverse(l): from the last item to the first"),
    "o": Operation("sort", (LIST,), LIST, "sort(l): in ascending order"),
    "t": Operation("tail", (LIST,), LIST, "tail(l): without the first item"),
    "u": Operation("unique", (LIST,), LIST, "unique(l): the first of each value, in their order"),
    "T": Operation("take", (LIST, INT), LIST, "take(l, n): the first n items"),
    "D": Operation("drop", (LIST, INT), LIST, "drop(l, n): without the first n items"),
    "a": Operation("append", (LIST, INT), LIST, "append(l, n): with n behind it"),
    "j": Operation("join", (LIST, LIST), LIST, "join(k, l): k and l behind it"),
    "g": Operation("range", (INT,), LIST, "range(n): from zero up to below n"),
    "@": Operation("map", (BODY, LIST), LIST, "map(e, l): e for each item y of l"),
    "f": Operation("filter", (BODY, LIST), LIST, "filter(e, l): the items y of l for which e is not zero"),
}
_RUNS: dict[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "m": min, "M": max,
    "/": _divided(operator.floordiv), "%": _divided(operator.mod),
    "<": lambda a, b: int(a < b), "=": lambda a, b: int(a == b),
    "h": lambda k: _any_of(k)[0], "e": lambda k: _any_of(k)[-1], "n": len, "s": sum,
    "b": lambda k: min(_any_of(k)), "B": lambda k: max(_any_of(k)), "i": _get, "c": lambda k, n: k.count(n),
    "r": lambda k: k[::-1], "o": lambda k: tuple(sorted(k)), "t": lambda k: k[1:],
    "u": lambda k: tuple(dict.fromkeys(k)), "T": lambda k, n: k[: max(0, n)], "D": lambda k, n: k[max(0, n) :],
    "a": lambda k, n: (*k, n), "j": operator.add, "g": _span,
}  # fmt: skip
_SYMBOLS = {operation.name: symbol for symbol, operation in OPERATIONS.items()}
LEAVES: Mapping[str, str] = {"x": LIST, "y": INT, "z": INT, **dict.fromkeys(DIGITS, INT)}
SYMBOLS = frozenset(OPERATIONS) | frozenset(LEAVES)
_TOKEN = re.compile(r"[a-z]+|[0-9]|[(),]")
_WHOLE = re.compile(r"-?[1-9][0-9]{0,7}|0")


def read(text: str) -> Node:
    """The program of a text of symbols.

    Raises:
        Fault: ``grammar``, or ``limits`` for too many operations.
    """
    if len(text) > 3 * MOST_OPERATIONS + 1:
        raise Fault("limits", f"more than {MOST_OPERATIONS} operations")
    node, end = _read(text, 0, "", "x")
    if end != len(text):
        raise Fault("grammar", f"the program ends before {text[end:]!r:.40}")
    if operations(node) > MOST_OPERATIONS:
        raise Fault("limits", f"more than {MOST_OPERATIONS} operations")
    return node


def _read(text: str, at: int, wanted: str, scope: str) -> tuple[Node, int]:
    symbol = text[at : at + 1]
    found = OPERATIONS.get(symbol)
    gives = found.gives if found is not None else LEAVES.get(symbol, "")
    if not gives or (wanted and gives != wanted):
        raise Fault("grammar", f"{wanted or 'program'} expected, {symbol!r} found")
    at += 1
    if found is None:
        if symbol in "xyz" and symbol not in scope:
            raise Fault("grammar", f"{symbol} stands outside of a body")
        return (symbol,), at
    node: list[Any] = [symbol]
    for takes in found.takes:
        inner = {BODY: scope.replace("y", "") + "y", FOLD: "xyz"}.get(takes, scope)
        child, at = _read(text, at, LIST if takes == LIST else INT, inner)
        node.append(child)
    return tuple(node), at


def read_calls(text: str) -> Node:
    """The program of a text of calls; blanks are free.

    Raises:
        Fault: as ``read``.
    """
    packed = "".join(text.split())
    tokens = _TOKEN.findall(packed[:2000])
    if "".join(tokens) != packed:
        raise Fault("grammar", "a program is names, digits, parentheses and commas")
    names = [_SYMBOLS.get(token, token) for token in tokens if token not in "(),"]
    if unknown := [name for name in names if name not in SYMBOLS or len(name) > 1]:
        raise Fault("grammar", f"no operation {unknown[0]!r:.40}")
    node = read("".join(names))
    if calls(node).replace(" ", "") != packed:  # the same symbols, but not these parentheses or one by its symbol
        raise Fault("grammar", f"read as {calls(node)}")
    return node


def symbols(node: Node) -> str:
    """The program as a text of symbols."""
    return "".join(each[0] for each in walk(node))


def calls(node: Node) -> str:
    """The program as a text of calls."""
    symbol, *operands = node
    return f"{OPERATIONS[symbol].name}({', '.join(map(calls, operands))})" if operands else symbol


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, in the order of their symbols."""
    yield node
    for child in node[1:]:
        yield from walk(child)


def operations(node: Node) -> int:
    """How many operations it has."""
    return sum(len(each) > 1 for each in walk(node))


def depth(node: Node) -> int:
    """How deep its operations are nested; 0 for a leaf."""
    return 1 + max(map(depth, node[1:])) if len(node) > 1 else 0


def gives(node: Node) -> str:
    """The type of its value."""
    return OPERATIONS[node[0]].gives if len(node) > 1 else LEAVES[node[0]]


def run(node: Node, x: tuple[int, ...]) -> Value:
    """The value of a program on an input.

    Raises:
        Fault: ``execution`` where it has none, ``limits`` where a bound is passed on the way.
    """
    left = MOST_STEPS

    def value(node: Node, y: int, z: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Fault("limits", f"more than {MOST_STEPS} steps")
        symbol = node[0]
        if len(node) == 1:
            return x if symbol == "x" else y if symbol == "y" else z if symbol == "z" else int(symbol)
        found: Any
        if symbol == "w":
            found = value(node[2 if value(node[1], y, z) else 3], y, z)
        elif symbol == "@":
            found = tuple([value(node[1], item, z) for item in value(node[2], y, z)])
        elif symbol == "f":
            found = tuple([item for item in value(node[2], y, z) if value(node[1], item, z)])
        elif symbol == "F":
            found = value(node[2], y, z)
            for item in value(node[3], y, z):
                found = value(node[1], item, found)
        else:
            found = _RUNS[symbol](*[value(child, y, z) for child in node[1:]])
        if isinstance(found, tuple):
            if len(found) > MOST_ITEMS:
                raise Fault("limits", f"a list of more than {MOST_ITEMS} items")
        elif not -MOST_VALUE <= found <= MOST_VALUE:
            raise Fault("limits", f"a number beyond {MOST_VALUE}")
        return found

    return value(node, 0, 0)


def value_text(value: Value, comma: str = ",") -> str:
    """``-3`` or ``[3,1,4]``; ``comma`` stands between the items."""
    return f"[{comma.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def read_input(text: str, comma: str = ",") -> tuple[int, ...]:
    """The input of a text that ``value_text`` would write.

    Raises:
        Fault: ``grammar``, or ``limits`` for too many or too large items.
    """
    if len(text) > 2 + INPUT_ITEMS * 12:
        raise Fault("limits", f"1 to {INPUT_ITEMS} items")
    items = text[1:-1].split(comma)
    if text[:1] != "[" or text[-1:] != "]" or not all(_WHOLE.fullmatch(item) for item in items):
        raise Fault("grammar", "an input is a list of whole numbers in brackets")
    if len(items) > INPUT_ITEMS or any(abs(int(item)) > INPUT_VALUE for item in items):
        raise Fault("limits", f"1 to {INPUT_ITEMS} items from -{INPUT_VALUE} to {INPUT_VALUE}")
    return tuple(map(int, items))
