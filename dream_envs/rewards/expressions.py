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
import keyword
import re
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from dream_envs import registry
from dream_envs.core import DreamEnvsError
from dream_envs.rewards.algebra import per_role, weighted
from dream_envs.rewards.base import Model, as_reward

MAX_CHARS = 2000
_LARGEST = 1e300
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: A string, to be left alone, or ``module:attribute``, which is no Python and is read as ``_['module:attribute']``.
_STRING_OR_PATH = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)""")


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


def show(model: Any) -> str:
    """The expression that ``parse`` turns into this reward; an argument that has no text is an error."""
    model = as_reward(model)
    if not model.made_by:
        raise DreamEnvsError(f"{model.grader} was not made by name and cannot be written as an expression")
    factory, args, kwargs = model.made_by
    if factory is weighted:
        terms = "+".join(_term(part, weight) for part, weight in model.arguments["parts"].items())
        key = model.arguments["gate"]
        return terms if key is None else f"weighted({terms}, gate={show(key)})"
    if factory is per_role:
        return f"per_role({', '.join(f'{role}={show(its)}' for role, its in model.arguments['models'].items())})"
    if factory is as_reward:
        return _name_of(args[0], model.name)
    given = inspect.signature(factory).bind(*args, **kwargs).arguments
    inner = [
        f"{key}={show(model.arguments[key]) if key in factory.reward_models else _value(value, key)}"
        for key, value in given.items()
    ]
    name = _name_of(factory, model.name)
    return f"{name}({', '.join(inner)})" if inner else name


def by_role(options: Iterable[str]) -> dict[str, str]:
    """Expressions by role of options such as ``solver=0.9*correctness+0.1*format``; "" is for all roles.

    An option that names a TOML file stands for its table ``[rewards]``.
    """
    table: dict[str, str] = {}
    for text in options:
        if text.endswith(".toml"):
            table |= _toml(text)
            continue
        role, equals, expression = text.partition("=")
        named = bool(equals and _WORD.fullmatch(role.strip()))
        key, value = (role.strip(), expression) if named else ("", text)
        if key in table:
            raise DreamEnvsError(f"role {key!r} has two rewards: add them up in one expression")
        table[key] = value
    if "" in table and len(table) > 1:
        raise DreamEnvsError(f"{table['']!r:.80} is for all roles: say ROLE=REWARD for each, or one alone")
    for value in table.values():
        parse(value)
    return table


def from_options(options: Iterable[str]) -> Model:
    """The reward of options such as ``solver=0.9*correctness+0.1*format``; one without ``role=`` is for all roles."""
    table = by_role([options] if isinstance(options, str) else options)
    return parse(table[""]) if "" in table else _from_table(table)


def from_toml(path: str | Path) -> Model:
    """The reward of a TOML file: a table ``[rewards]`` of ``role = "expression"``, or ``rewards = "expression"``."""
    table = _toml(path)
    return parse(table[""]) if "" in table else _from_table(table)


def _toml(path: str | Path) -> dict[str, str]:
    try:
        data = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DreamEnvsError(f"{path}: {str(error).splitlines()[0]}") from error
    for key in data:
        registry.named(str(path), key, {"rewards": None})
    rewards = data.get("rewards")
    table = {"": rewards} if isinstance(rewards, str) else rewards
    if not isinstance(table, dict) or not table or not all(isinstance(text, str) for text in table.values()):
        raise DreamEnvsError(f'{path}: a table [rewards] of role = "expression", or one expression for all')
    return table


def _from_table(table: Any) -> Model:
    if not isinstance(table, Mapping) or not table or not all(isinstance(text, str) for text in table.values()):
        raise DreamEnvsError("rewards: one expression, or a table of roles and their expressions")
    return per_role({role: parse(text) for role, text in table.items()})


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
    models: tuple[str, ...] = getattr(factory, "reward_models", ())
    places = list(inspect.signature(factory).parameters)
    if len(node.args) > len(places):
        _fail(node, f"{name} takes {len(places)} arguments")
    given = [*zip(places, node.args, strict=False), *((_key(word), word.value) for word in node.keywords)]
    arguments: dict[str, Any] = {}
    for key, value in given:
        registry.check_kwargs(factory, {key: value}, name)
        if key in arguments:
            _fail(node, f"{key} is given twice")
        if factory is weighted and key == "parts":
            arguments[key] = _terms(value)
        else:
            arguments[key] = _reward(value) if key in models else _literal(value)
    return as_reward(factory, **arguments)


def _terms(node: ast.expr) -> dict[Model, float]:
    """A sum as rewards and their weights."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return _scaled(_terms(node.operand), -1.0 if isinstance(node.op, ast.USub) else 1.0)
    if not isinstance(node, ast.BinOp):
        return {_reward(node): 1.0}
    if isinstance(node.op, ast.Mult):
        left, right = _number(node.left), _number(node.right)
        if left is not None:
            return _scaled(_terms(node.right), left)
        if right is not None:
            return _scaled(_terms(node.left), right)
        _fail(node, "one side of * is a number")
    if not isinstance(node.op, (ast.Add, ast.Sub)):
        _fail(node, "rewards are added, subtracted and multiplied by numbers")
    found = _terms(node.left)
    for model, weight in _scaled(_terms(node.right), -1.0 if isinstance(node.op, ast.Sub) else 1.0).items():
        found[model] = found[model] + weight if model in found else weight
    return found


def _scaled(terms: dict[Model, float], by: float) -> dict[Model, float]:
    return {model: weight * by for model, weight in terms.items()}


def _number(node: ast.expr) -> Any:
    """A number or a product of numbers, None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return _finite(node, node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _number(node.operand)
        return value if value is None or isinstance(node.op, ast.UAdd) else -value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _number(node.left), _number(node.right)
        return None if left is None or right is None else _finite(node, left * right)
    return None


def _finite(node: ast.expr, value: float) -> float:
    return value if abs(value) <= _LARGEST else _fail(node, "not a finite number")


def _literal(node: ast.expr) -> Any:
    if (number := _number(node)) is not None:
        return number
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (str, bool))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
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


def _term(part: Model, weight: float) -> str:
    inner = show(part)
    plain = part.made_by[:1] != (weighted,) or part.arguments["gate"] is not None
    return f"{weight!r}*{inner if plain else f'weighted({inner})'}"


def _name_of(target: Any, name: str) -> str:
    """The registered name of a factory or function, else ``module:attribute``."""
    if name in registry.rows("rewards") and registry.load("rewards", name) is target:
        return name
    path = f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', '')}"
    if not _STRING_OR_PATH.fullmatch(path):
        raise DreamEnvsError(f"{name!r} is no registered reward and not to be found as {path!r}: register it")
    return path


def _value(value: Any, key: str) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and not keyword.iskeyword(value) else repr(value)
    if isinstance(value, (int, float)) and abs(value) <= _LARGEST:
        return repr(int(value) if isinstance(value, int) else float(value))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item, key) for item in value)}]"
    raise DreamEnvsError(f"{key}={value!r:.60} cannot be written as an expression")
