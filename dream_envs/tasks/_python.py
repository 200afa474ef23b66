"""The parts of the family ``python`` that run nothing: values, guesses, flaws, programs as text and as drawn."""

from __future__ import annotations

import ast
import functools
import itertools
import operator
import re
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dream_envs.core import Task
from dream_envs.seeds import stream
from dream_envs.tasks import _programs as lang
from dream_envs.tasks import programs
from dream_envs.tasks._programs import Fault

_POOL, _PROBES = 64, 32
_PROGRAM_CHARS, _VALUE_CHARS, _DEPTH = 960, 300, 12
_LONGEST, _LARGEST = 6, 9  # of inputs that are drawn
_MODULES = frozenset(["bisect", "collections", "functools", "heapq", "itertools", "math", "operator", "re", "string"])
_CHARACTERS = frozenset(string.printable) - frozenset("\r\t\x0b\x0c")
_COUNTED = (
    ast.BinOp, ast.BoolOp, ast.Compare, ast.Call, ast.Subscript, ast.comprehension, ast.IfExp, ast.If, ast.For,
    ast.While, ast.AugAssign,
)  # fmt: skip
#: What makes a program one step harder: its result ``e`` in an expression, with a digit ``d``.
_STEPS = (
    "({e}) + {d}", "({e}) * {d}", "{d} - ({e})", "({e}) % {d}", "({e}) // {d}", "abs({e})", "({e})[::-1]", "({e})[1:]",
    "sorted({e})", "sum({e})", "len({e})", "max({e})", "min({e})", "({e}) + [{d}]", "({e})[0]", "({e}) * 2", "str({e})",
)  # fmt: skip

# ---- values ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    """The one spelling of a literal.

    Raises:
        Fault: for a text that is none, or one that is too long.
    """
    text = text.strip(" \n")
    if len(text) > _VALUE_CHARS:
        raise Fault("limits", f"a value of more than {_VALUE_CHARS} characters")
    nested = max(itertools.accumulate((c in "([{") - (c in ")]}") for c in text), default=0)
    if not text or set(text) - _CHARACTERS or nested > _DEPTH or re.search(r"(?<![\w.'\"])0\d", text):
        raise Fault("grammar", "an input is a Python literal")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _text(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise Fault("grammar", "an input is a Python literal") from None
    if len(found) > _VALUE_CHARS:
        raise Fault("limits", f"a value of more than {_VALUE_CHARS} characters")
    return found


def _text(value: Any) -> str:
    """A value in letters, of sets and mappings in order.

    Raises:
        ValueError: for a value of another type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and value - value == 0):
        return ascii(value)
    if kind is list:
        return f"[{', '.join(map(_text, value))}]"
    if kind is tuple:
        return f"({', '.join(map(_text, value))}{',' * (len(value) == 1)})"
    if kind is dict:
        return f"{{{', '.join(sorted(f'{_text(k)}: {_text(v)}' for k, v in value.items()))}}}"
    if kind is set and value:
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    raise ValueError(f"no value: {kind.__name__}")


def _tidy(text: str) -> str:
    try:
        return _canonical(text)
    except Fault:
        return text


def _like(rng: np.random.Generator, value: Any) -> Any:
    """A random value of the same shape: numbers of this size and sign, lists and texts of a length of their own."""
    kind = type(value)
    if kind is bool:
        return bool(rng.integers(2))
    if kind is int:
        most = min(max(_LARGEST, abs(value)), 2**62)
        return int(rng.integers(-most if value < 0 else 0, most + 1))
    if kind is float:
        return round(float(rng.uniform(-1.0 if value < 0 else 0.0, 1.0)) * max(_LARGEST, abs(value)), 1)
    if kind in (str, list):
        if not value:
            return value
        size = int(rng.integers(1, max(_LONGEST, len(value)) + 1))
        chosen = [value[int(rng.integers(len(value)))] for _ in range(size)]
        return "".join(chosen) if kind is str else [_like(rng, item) for item in chosen]
    if kind is tuple:
        return tuple(_like(rng, item) for item in value)
    if kind is dict:
        return {_like(rng, k): _like(rng, value[k]) for k in sorted(value, key=_text)}
    if kind is set:
        return {_like(rng, item) for item in sorted(value, key=_text)}
    return value


@functools.lru_cache(maxsize=256)
def _likes(labels: tuple[str, ...], value: str) -> tuple[str, ...]:
    rng, found = stream("python", *labels), ast.literal_eval(value)
    return tuple(_text(_like(rng, found)) for _ in range(_POOL))


def _others(program: str, x: str) -> tuple[str, ...]:
    """More inputs of a problem; some may be alike."""
    return tuple(text if len(text) <= _VALUE_CHARS else x for text in _likes(("others", program, x), x))


def _guesses(task: Task) -> tuple[str, ...]:
    if task.meta["kind"] == "abduction":
        return _others(task.meta["program"], task.answer)
    if task.meta["kind"] == "deduction":
        return _likes(("guesses", task.id), task.answer)
    return _guessed_programs(min(task.level, 16))


@functools.cache
def _guessed_programs(level: int) -> tuple[str, ...]:
    rng = stream("python", "programs", level)
    return tuple(_program(_translated(_random(rng, level)))[0] for _ in range(_POOL))


def _flaw(y: str | None, inputs: Sequence[str], values: Sequence[str | None]) -> tuple[str, str] | None:
    """Why a program makes no problem on an input, None if nothing speaks against it."""
    if y is None:
        return "execution", "it has no value on this input, or not always the same"
    if y in ("None", "[]", "''", "()", "{}"):
        return "trivial", f"the output is {y}"
    probes = list(zip(inputs, values, strict=True))[:_PROBES]
    defined = [value for _, value in probes if value is not None]
    if 2 * len(defined) < len(probes):
        return "execution", "it has no value on most inputs"
    if 2 * Counter(defined).most_common(1)[0][1] > len(defined):
        return "trivial", "it gives the same on most inputs"
    if 2 * sum(value == x for x, value in probes) > len(probes):
        return "trivial", "it gives back most inputs"
    return None


# ---- programs --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _program(source: str) -> tuple[str, int]:
    """A program as Python writes it, and its operations.

    Raises:
        Fault: for a text that is none.
    """
    if len(source) > _PROGRAM_CHARS or set(source) - _CHARACTERS:
        raise Fault("limits", f"a program of at most {_PROGRAM_CHARS} characters of ASCII, without tabs")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            names = _checked(tree)
            text = ast.unparse(tree)
            compile(text, "program", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Fault("grammar", f"no program: {type(error).__name__}") from None
    if names.count("f") != 1 or len(set(names)) < len(names):
        raise Fault("grammar", "a program defines f(x) once, and else imports and functions of other names")
    if len(text) > _PROGRAM_CHARS:
        raise Fault("limits", f"a program of at most {_PROGRAM_CHARS} characters")
    return text, _operations(tree)


def _checked(tree: ast.Module) -> list[str]:
    """The names of the functions; docstrings are cut out."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
            arguments = node.args
            if node.name == "f" and (len(arguments.args) != 1 or ast.unparse(arguments) != arguments.args[0].arg):
                raise Fault("grammar", "f has one argument")
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            raise Fault("grammar", "beside functions and imports there is nothing in a program")
    for inner in ast.walk(tree):
        if (
            isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and ast.get_docstring(inner) is not None
        ):
            inner.body = inner.body[1:] or [ast.Pass()]
        imported = [a.name for a in inner.names] if isinstance(inner, ast.Import) else []
        imported += [f"{inner.module}{'.' * inner.level}"] if isinstance(inner, ast.ImportFrom) else []
        for name in imported:
            if name not in _MODULES:
                raise Fault("limits", f"it imports {name:.40}; it may import {', '.join(sorted(_MODULES))}")
    return names


def _operations(tree: ast.Module) -> int:
    return sum(isinstance(node, _COUNTED) for node in ast.walk(tree))


def _harder(program: str, rng: np.random.Generator) -> list[tuple[str, int]]:
    """The program with another operation on what it returns, in random order; none if it returns at several places."""
    tree = ast.parse(program)
    (f,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "f")
    returns = [node for node in ast.walk(f) if isinstance(node, ast.Return) and node.value is not None]
    if len(returns) != 1 or returns[0].value is None:
        return []
    inner, found = ast.unparse(returns[0].value), []
    for i in rng.permutation(len(_STEPS)).tolist():
        step = _STEPS[i].format(e=inner, d=int(rng.integers(2, 10)))
        returns[0].value = ast.parse(step, mode="eval").body
        try:
            found.append(_program(ast.unparse(tree)))
        except Fault:
            continue
    return found


def _random(rng: np.random.Generator, level: int) -> lang.Node:
    """A program of ``programs`` that has this level in Python: a small one, and operations around it."""
    while True:
        node = programs._draw(rng, int(rng.integers(1, min(level, 4) + 1)), "", "x")
        values = _varied(node, None)
        if values is None or programs._flaw(lang.symbols(node)):
            continue
        for _ in range(8 * level):
            if (size := _size(node)) >= level:
                break
            around = programs._around(rng, node)
            if _size(around) <= level and (found := _varied(around, values)):
                node, values = around, found
        if size == level:
            return node


def _size(node: lang.Node) -> int:
    return sum((each[0] in _DOUBLE) + (len(each) > 1) for each in lang.walk(node))


def _varied(node: lang.Node, before: list[lang.Value] | None) -> list[lang.Value] | None:
    """Its values on the probes, if it has all, and they are not mostly one, the inputs, or those of ``before``."""
    probes = programs._probes()
    try:
        values = [lang.run(node, x) for x in probes]
    except Fault:
        return None
    same = 2 * max(Counter(values).most_common(1)[0][1], sum(map(operator.eq, values, probes)))
    return None if same > len(probes) or values == before else values


def _translated(node: lang.Node) -> str:
    """A program of ``programs`` as Python: a line an operation, and the bodies of maps, filters and folds inside."""
    lines, names = list[str](), iter("abcdeghijklmnopqrstuvw")

    def value(node: lang.Node, inside: bool, top: bool = False) -> str:
        symbol, *operands = node
        if not operands:
            return str(symbol)
        takes = lang.OPERATIONS[symbol].takes
        texts = [
            value(child, inside or kind in (lang.BODY, lang.FOLD) or symbol == "w")
            for child, kind in zip(operands, takes, strict=True)
        ]
        text = _PYTHON[symbol].format(*texts)
        if inside or top:
            return text if top else f"({text})"
        lines.append(f"    {(name := next(names))} = {text}\n")
        return name

    last = value(node, False, True)
    head = "from functools import reduce\n" if any(each[0] == "F" for each in lang.walk(node)) else ""
    return f"{head}def f(x):\n{''.join(lines)}    return {last}"


_PYTHON = {
    "+": "{} + {}", "-": "{} - {}", "*": "{} * {}", "/": "{} // {}", "%": "{} % {}", "m": "min({}, {})",
    "M": "max({}, {})", "<": "int({} < {})", "=": "int({} == {})", "w": "{1} if {0} else {2}", "h": "{}[0]",
    "e": "{}[-1]", "n": "len({})", "s": "sum({})", "b": "min({})", "B": "max({})", "i": "{}[{}]", "c": "{}.count({})",
    "F": "reduce(lambda z, y: {}, {2}, {1})".replace("{}", "{0}"), "r": "{}[::-1]", "o": "sorted({})", "t": "{}[1:]",
    "u": "list(dict.fromkeys({}))", "T": "{}[:max(0, {})]", "D": "{}[max(0, {}):]", "a": "{} + [{}]", "j": "{} + {}",
    "g": "list(range({}))", "@": "[{} for y in {}]", "f": "[y for y in {1} if {0}]",
}  # fmt: skip


_DOUBLE = frozenset("<=uTDg")  # two operations in Python


def _output_of(node: lang.Node, x: str) -> str:
    found = lang.run(node, tuple(ast.literal_eval(x)))
    return _text(list(found) if isinstance(found, tuple) else found)
