"""Rewards as text, for command lines and TOML files.

``0.9*correctness + 0.1*format``, ``learnability(form=azr)``, ``gate(correctness, by=format)``,
``less_repetition(learnability(form=r_zero))``, ``acme.rewards:brevity(cap=50)``: a name is a registered reward or
``module:attribute``; arguments are numbers, strings (bare words too), booleans, lists and, where a reward takes
rewards, expressions; sums are ``weighted``, whose long form is ``weighted(SUM, gate=REWARD)``; and
``per_role(solver=..., challenger=...)`` gives each role its own.  The text is parsed with Python's ``ast`` and never
evaluated; ``module:attribute`` imports and calls the user's own code.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from dream_envs import registry
from dream_envs.core import DreamEnvsError
from dream_envs.rewards.algebra import per_role, weighted
from dream_envs.rewards.base import Model, as_reward

MAX_CHARS = 2000
_LARGEST = 1e300
#: A string, to be left alone, or ``module:attribute``, which is no Python and is read as ``_['module:attribute']``.
_STRING_OR_PATH = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)""")
_SIGNS: dict[type[ast.AST], float] = {ast.UAdd: 1.0, ast.Add: 1.0, ast.USub: -1.0, ast.Sub: -1.0}

#: A sum of rewards with their weights.
Terms = dict[Model, float]


def parse(text: str) -> Model:
    """The reward that an expression describes."""
    if not isinstance(text, str) or len(text) > MAX_CHARS:
        raise DreamEnvsError(f"reward {text!r:.60}: a text of at most {MAX_CHARS} characters")
    if text.strip() in registry.rows("rewards"):  # a plug-in's name may be no Python
        return as_reward(text.strip())
    python = _STRING_OR_PATH.sub(lambda found: found[1] or f"_[{found[2]!r}]", text.strip())
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(python, mode="eval")
        return _reward(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, DreamEnvsError):
            raise
        why = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise DreamEnvsError(f"reward {text!r:.80}: no expression such as 0.9*correctness+0.1*format ({why})") from None


def by_role(options: Iterable[str]) -> dict[str, str]:
    """Expressions by role of options such as ``solver=0.9*correctness+0.1*format``; "" is for all roles.

    An option that names a TOML file stands for its ``rewards``: a table ``role = "expression"``, or one for all.
    """
    table: dict[str, str] = {}
    for text in options:
        if text.endswith(".toml"):
            table |= _toml(text)
            continue
        role, equals, expression = text.partition("=")
        named = equals and re.fullmatch(r"[A-Za-z_]\w*", role.strip())
        key, value = (role.strip(), expression) if named else ("", text)
        if key in table:
            raise DreamEnvsError(f"role {key!r} has two rewards: add them up in one expression")
        table[key] = value
    if "" in table and len(table) > 1:
        raise DreamEnvsError(f"{table['']!r:.80} is for all roles: say ROLE=REWARD for each, or one alone")
    for value in table.values():
        parse(value)
    return table


def _toml(path: str) -> dict[str, str]:
    try:
        data = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DreamEnvsError(f"{path}: {str(error).splitlines()[0]}") from error
    for key in data:
        registry.named(path, key, {"rewards": None})
    rewards = data.get("rewards")
    table = {"": rewards} if isinstance(rewards, str) else rewards
    if not isinstance(table, dict) or not table or not all(isinstance(text, str) for text in table.values()):
        raise DreamEnvsError(f'{path}: a table [rewards] of role = "expression", or one expression for all')
    return table


def _reward(node: ast.expr) -> Model:
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        return weighted(_terms(node))
    if not isinstance(node, ast.Call):
        return as_reward(_name(node))
    name = _name(node.func)
    factory = registry.load("rewards", name)
    if factory is per_role and not node.args:
        return per_role({_key(word): _reward(word.value) for word in node.keywords})
    if not callable(factory):
        _fail(node, f"{name} is a {type(factory).__name__}, no reward")
    readers: dict[str, Callable[[ast.expr], Any]] = dict.fromkeys(getattr(factory, "reward_models", ()), _reward)
    readers |= {"parts": _terms} if factory is weighted else {}
    places, words = list(inspect.signature(factory).parameters), {_key(word): word.value for word in node.keywords}
    registry.check_kwargs(factory, words, name)
    given = dict(zip(places, node.args, strict=False)) | words
    if len(given) < len(node.args) + len(words):
        _fail(node, f"{name} takes each of {', '.join(places)} once")
    return as_reward(factory, **{key: readers.get(key, _literal)(value) for key, value in given.items()})


def _terms(node: ast.expr) -> Terms:
    found = _sum(node)
    return found if isinstance(found, dict) else _fail(node, "a name, a call such as learnability(form=azr) is wanted")


def _sum(node: ast.expr) -> float | Terms:
    """A sum as rewards and their weights, or a product of numbers."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(_finite(node, node.value))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _scaled(node, _sum(node.operand), _SIGNS[type(node.op)])
    if not isinstance(node, ast.BinOp):
        return {_reward(node): 1.0}
    if isinstance(node.op, ast.Mult):
        left, right = _sum(node.left), _sum(node.right)
        if isinstance(left, float):
            return _scaled(node, right, left)
        return _scaled(node, left, right) if isinstance(right, float) else _fail(node, "one side of * is a number")
    if type(node.op) not in _SIGNS:
        _fail(node, "rewards are added, subtracted and multiplied by numbers")
    found = _terms(node.left)
    for model, weight in _terms(node.right).items():
        found[model] = found.get(model, 0.0) + _SIGNS[type(node.op)] * weight
    return found


def _scaled(node: ast.expr, terms: float | Terms, by: float) -> float | Terms:
    if isinstance(terms, dict):
        return {model: weight * by for model, weight in terms.items()}
    return _finite(node, terms * by)


def _finite(node: ast.expr, value: float) -> float:
    return value if abs(value) <= _LARGEST else _fail(node, "not a finite number")


def _literal(node: ast.expr) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:  # a bare word
        return _name(node)


def _name(node: ast.expr) -> str:
    """A bare word or ``module:attribute``."""
    if isinstance(node, ast.Name):
        return node.id
    path = node.slice if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "_" else None
    if isinstance(path, ast.Constant) and isinstance(path.value, str):
        return path.value
    return _fail(node, "a name, a call such as learnability(form=azr), a number or a string is wanted here")


def _key(word: ast.keyword) -> str:
    return word.arg if word.arg is not None else _fail(word.value, "** is not allowed")


def _fail(node: ast.expr, why: str) -> NoReturn:
    raise DreamEnvsError(f"reward: {' '.join(ast.unparse(node).split())!r:.60}: {why}")
