"""One lazy row an entry: a name and ``module:attribute``, imported on first use.

Kinds: ``envs`` (games), ``tasks`` (families), ``rewards``, ``agents``, ``learners``, ``loops`` (recipes of training),
``suites`` (of the Frontier Report).  Other people's packages add rows by entry points of the groups
``dream_envs.envs``, ``dream_envs.tasks`` and so on, or by calling ``register`` at run time.

A row of ``envs`` may name its roles in brackets, ``"acme.debate:Debate [pro, con]"``: each role then has a Gymnasium
id (``acme/Debate-Pro-v0``) without the game being imported.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from dream_envs.core import DreamEnvsError

Row = TypeVar("Row")

_TRAIN_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "safetensors", "tensorboard")


def _rows(module: str, *names: str, **attributes: str) -> dict[str, str]:
    """Rows of one module; ``attributes``: those whose name is not the attribute's."""
    named = dict(zip(names, names, strict=True)) | attributes
    return {name: f"dream_envs.{module}:{attribute}" for name, attribute in named.items()}


_BUILT_IN: dict[str, dict[str, str]] = {
    "envs": {
        "dream_envs/ChallengerSolver-v0": (
            "dream_envs.envs.challenger_solver:ChallengerSolver [challenger, solver, judge]"
        ),
        "dream_envs/SelfJudge-v0": "dream_envs.envs.self_judge:SelfJudge [actor, judge]",
        "dream_envs/SleepCycle-v0": "dream_envs.envs.sleep_cycle:SleepCycle [learner, dreamer]",
        "dream_envs/Kuhn-v0": "dream_envs.envs.kuhn:Kuhn [first, second]",
        "dream_envs/SkillEvolution-v0": (
            "dream_envs.envs.skill_evolution:SkillEvolution [challenger, reasoner, judge, reasoner_proposer, "
            "reasoner_editor, challenger_proposer, challenger_editor]"
        ),
        "dream_envs/Dreaming-v0": "dream_envs.envs.dreaming:Dreaming [dreamer, responder, curator]",
        "dream_envs/Discovery-v0": (
            "dream_envs.envs.discovery:Discovery [scientist, challenger, learner, judge, dreamer]"
        ),
    },
    "tasks": {
        "composition": "dream_envs.tasks.composition:Composition",
        "arithmetic": "dream_envs.tasks.arithmetic:Arithmetic",
        "reverse_addition": "dream_envs.tasks.reverse_addition:ReverseAddition",
        "countdown": "dream_envs.tasks.countdown:Countdown",
        "programs": "dream_envs.tasks.programs:Programs",
        "python": "dream_envs.tasks.python:Python",
        "reasoning_gym": "dream_envs.tasks.reasoning_gym:ReasoningGym",
        "instructions": "dream_envs.tasks.instructions:Instructions",
    },
    "rewards": {
        **_rows("rewards.presets", "challenger_solver"),
        **_rows("rewards.solver", format="format_reward"),
        **_rows("rewards.solver", "correctness", "majority", "judge_agreement", "pseudo_label"),
        **_rows("rewards.controls", random="random_reward"),
        **_rows("rewards.controls", "shuffled", "format_only"),
        **_rows("rewards.learnability", "learnability"),
        **_rows("rewards.diversity", "repetition", "novelty"),
        **_rows("rewards.algebra", "weighted", "gate", "clip", "per_role", "zero_sum"),
        **_rows("rewards.rounds", "less_repetition", "shared", "in_range", "best_and_worst"),
        **_rows("rewards.adapters", trl="from_trl"),
        **_rows("agents.engines.learned", "reward_model", "judge"),
        **_rows("rewards.self_judge", "self_judge", "serl", "copeland", "bradley_terry"),
        **_rows("rewards.self_judge", "self_score", "self_rubric", "self_certainty"),
        **_rows("rewards.sleep", "closed_book", "retention"),
        **_rows("rewards.skills", "skill_evolution"),
        **_rows("rewards.dreaming", "dreaming", "measured"),
        **_rows("rewards.discovery", "discovery", "own_verdicts"),
    },
    "agents": {
        **_rows("agents.engines.scripted", oracle="Oracle", generator="Generator", floor="Floor", guesser="Guesser"),
        **_rows("agents.engines.scripted", random="RandomText", impossible="Impossible", duplicate="Duplicate"),
        **_rows("agents.engines.scripted", constant="Constant", leaking="Leaking", overlong="Overlong"),
        **_rows("agents.engines.scripted", amnesiac="Amnesiac", scientist="Scientist", fool="Fool"),
        **_rows("agents.engines.skilled", skilled="Skilled"),
        **_rows("agents.engines.judges", always_first="AlwaysFirst", random_judge="RandomJudge"),
        **_rows("agents.engines.judges", constant_judge="ConstantJudge", length_lover="LengthLover"),
        **_rows("agents.engines.judges", flattering="Flattering", cyclic="Cyclic", noisy="Noisy"),
        **_rows("agents.engines.local", local="LocalAgent"),
        **_rows("agents.engines.endpoint", openai="Endpoint"),
        **_rows("agents.engines.replicas", replicas="Replicas"),
        **_rows("agents.engines.vllm", vllm="VllmAgent"),
    },
    "learners": {
        name: f"dream_envs.agents.training.settings:{name.upper()}"
        for name in ("grpo", "grpo4", "ppo", "rloo", "rae", "expert")
    },
    "loops": {
        **_rows("baselines.loops.dream", dream="LOOP"),
        **_rows("baselines.loops.self_play", self_play="LOOP", spiral="SPIRAL"),
        **{
            name: f"dream_envs.baselines.loops.{name}:LOOP"
            for name in (
                "azr",
                "r_zero",
                "ttrl",
                "serl",
                "serl_limited",
                "self_rewarding",
                "preference",
                "ctx2skill",
                "magpie",
                "discovery",
            )
        },
        **{
            name: f"dream_envs.baselines.loops.nights:{name.upper()}"
            for name in ("sleep", "seal", "replay_sft", "in_context", "l2", "static_expert", "placebo")
        },
    },
    "suites": _rows("frontier.suite", "nano", "english"),
}
KINDS = tuple(_BUILT_IN)
_added: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_plugins: dict[str, dict[str, importlib.metadata.EntryPoint]] = {}
#: Called with kind and name after ``register``: how a new game gets its Gymnasium and PettingZoo ids.
listeners: list[Callable[[str, str], None]] = []


def register(kind: str, name: str, target: str | Any) -> None:
    """Add a row: ``target`` is ``"module:attribute"`` or the object itself; a name that is taken is an error."""
    if name in rows(kind):
        raise DreamEnvsError(f"{kind} already has {name!r}: choose another name")
    _added[kind][name] = target
    for listener in listeners:
        listener(kind, name)


def roles(env_id: str) -> tuple[str, ...]:
    """The roles that the row of a game names, or that the registered class or object has; empty if neither."""
    target = _targets("envs").get(env_id, "")
    if not isinstance(target, str):
        found = getattr(target, "roles", ())
        return tuple(role.name for role in found) if isinstance(found, tuple) else ()
    return tuple(role.strip() for role in target.partition("[")[2].rstrip("] ").split(",") if role.strip())


def rows(kind: str) -> dict[str, str]:
    """Every name of this kind with where it lives, in order: built in, registered, plug-ins."""
    found = _targets(kind).items()
    texts = {name: t if isinstance(t, str) else f"{t.__module__}:{t.__qualname__}" for name, t in found}
    return {name: text.partition("[")[0].strip() for name, text in texts.items()}


def load(kind: str, name: str) -> Any:
    """The object behind a name, or behind ``module:attribute`` of anybody's package."""
    found = _targets(kind)
    if name not in found and ":" not in name:
        raise DreamEnvsError(unknown(kind, name, list(found)))
    target = found.get(name, name)
    return _import(target) if isinstance(target, str) else target


def create(kind: str, name: str, **kwargs: Any) -> Any:
    """Call what ``load`` finds with ``kwargs``; a wrong keyword is an error that lists the right ones."""
    factory = load(kind, name)
    check_kwargs(factory, kwargs, name)
    return made(name, factory, kwargs)


def made(name: str, factory: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    """What the factory makes; its error names who it was of, with the original one as its cause."""
    try:
        return factory(**kwargs)
    except (DreamEnvsError, MemoryError):
        raise
    except Exception as error:
        raise DreamEnvsError(f"{name} cannot be made: {told(error)}") from error


def check_kwargs(factory: Callable[..., Any], kwargs: dict[str, Any], name: str) -> None:
    """Raise a one-line DreamEnvsError if ``factory`` does not take one of ``kwargs``."""
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    allowed = [n for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL]
    for key in kwargs:
        if key not in allowed:
            raise DreamEnvsError(unknown(f"arguments of {name}", key, allowed))


def unknown(what: str, name: str, known: list[str]) -> str:
    """``no X 'nmae'; did you mean 'name'? (all: ...)``."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near = near or [k for k in known if name.lower() in k.lower()][:3]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{what}: no {name!r}{hint} (all: {', '.join(known)})"


def pairs_of(texts: Iterable[str], option: str) -> dict[str, str]:
    """``["a=b,c=d", "e=f"]`` as a dict of texts.

    Raises:
        DreamEnvsError: for a part without ``=``, or a key that is there twice.
    """
    found: dict[str, str] = {}
    for part in [p for text in texts for p in _split_outside(text)]:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise DreamEnvsError(f"{option} {part!r}: KEY=VALUE, several of them separated by commas")
        if key in found:
            raise DreamEnvsError(f"{option} {part!r}: {key!r} is there twice")
        found[key] = value
    return found


def values_of(texts: Iterable[str], option: str) -> dict[str, Any]:
    """``pairs_of`` with values: JSON where a text is JSON (``4``, ``true``, ``[1,2]``), else the text itself."""
    found: dict[str, Any] = {}
    for key, text in pairs_of(texts, option).items():
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def spec_of(text: str, option: str) -> tuple[str, dict[str, Any]]:
    """``learnability(form=azr)`` as a name and its keyword arguments."""
    name, bracket, inner = text.partition("(")
    if bracket and not inner.endswith(")"):
        raise DreamEnvsError(f"{option} {text!r}: NAME or NAME(KEY=VALUE,...), in quotes for the shell")
    return name.strip(), values_of([inner[:-1]], option) if bracket else {}


def named(what: str, name: str, table: Mapping[str, Row]) -> Row:
    """The row of this name in a table of the project's own; an error tells the nearest names."""
    if name not in table:
        raise DreamEnvsError(unknown(what, name, list(table)))
    return table[name]


def _split_outside(text: str) -> list[str]:
    """Split at commas where no bracket is open: ``a=b(c=1,d=2),e=f`` has two parts."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _targets(kind: str) -> dict[str, Any]:
    """What is registered, by name: an object or ``module:attribute``."""
    own = named("registry", kind, _BUILT_IN) | _added[kind]
    if kind not in _plugins:
        _plugins[kind] = {p.name: p for p in importlib.metadata.entry_points(group=f"dream_envs.{kind}")}
    found = {name: point.value for name, point in _plugins[kind].items() if name not in own}
    # A game's short name stands for ours: a plug-in's has its package before it.
    return own | {name: target for name, target in found.items() if kind != "envs" or "/" in name}


def _import(target: str) -> Any:
    target = target.partition("[")[0].strip()
    module, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        missing = error.name or module
        extra = (
            "pip install 'dream-envs[train]'"
            if missing in (*_TRAIN_PACKAGES, "datasketch")
            else f"is {missing!r} installed?"
        )
        raise DreamEnvsError(f"cannot import {target!r}: no module {missing!r}; {extra}") from error
    except AttributeError as error:
        raise DreamEnvsError(f"cannot import {target!r}: {module} has no {attribute!r}") from error
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # somebody's module: whatever it does is its own fault, and it is named
        raise DreamEnvsError(f"cannot import {target!r}: {told(error)}") from error
    return found


def told(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
