"""A loop as data: what is played, what feeds it, how it is rewarded, who sits where, how it learns, how it is measured.

A loop is one file in ``baselines/loops/`` and one row of the registry (or an entry point ``dream_envs.loops`` of
another package): a ``Loop`` with its settings and the ``Recipe`` that they make.  ``baselines.loop`` runs every recipe;
nothing heavy is imported before it does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dream_envs import registry
from dream_envs.agents.training.settings import LearnerSettings, accumulation, spec
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.envs._adapter import full_id

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context

CHALLENGER_SOLVER, SELF_JUDGE = "dream_envs/ChallengerSolver-v0", "dream_envs/SelfJudge-v0"
S = TypeVar("S", bound=msgspec.Struct)


class EvalSettings(msgspec.Struct, frozen=True):
    """How a run is measured: ``kind`` auto, exact, sampled or play; ``levels`` of the problems, () for the family's.

    ``kind="none"``: weights stay as they are, and the loop's learner says itself what came of it (its ``verdict``).

    ``problems`` a level; ``attempts``: completions of each, where success is sampled; ``games`` a role, where it is
    played.  ``family``: whose problems, where the game has none of its own.  ``every``: steps between the points of the
    learning curve.
    """

    kind: str = "auto"
    levels: tuple[int, ...] = ()
    problems: int = 128
    attempts: int = 8
    games: int = 256
    family: str = ""
    every: int = 20

    def __post_init__(self) -> None:
        for name in ("problems", "attempts", "games", "every"):
            if (value := getattr(self, name)) < 1:
                raise DreamEnvsError(f"eval.{name}={value}: 1 or more")


class Phase(msgspec.Struct, frozen=True):
    """A stretch of training.

    ``weights``: which of the recipe's weights it trains, and goes on from.  ``seats``, ``reward``, ``gates``: in place
    of the recipe's, where they are given.  ``prepare``: called when the phase begins, with the context, the game and
    the phase's seed label; makes its curriculum, and rewards by role ({}: as above).  None: the recipe's mixture.
    """

    name: str
    steps: int
    weights: str = "policy"
    seats: Mapping[str, str] | None = None
    reward: Mapping[str, Any] | None = None
    gates: tuple[str, ...] | None = None
    prepare: Callable[[Context, Any, str], tuple[Curriculum, Mapping[str, Any]]] | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A loop, settled.

    ``env``, ``args``: the game and its arguments; ``family``, ``family_args``: its problems, for games that take a
    family.  ``mixture``: the sources of a round.  ``gates``: what is turned away, of ``held_out``, ``archive`` and
    ``novel`` (threshold ``novelty``).  ``reward``: by role, an expression or a reward model; {}: the game's own.
    ``seats``: who sits where the learner does not: ``base``, a name of weights (frozen as they are when a phase
    begins), or an agent's name.  ``phases``: () for one of all steps.  ``final``: the weights that the run delivers.
    ``learner``: by name; ``learning``: dotted settings of it that the loop changes (a ``baseline`` only where the
    learner has the plain one).  ``sources``: makes the rows that are added to what was sampled.  ``nights``: how it
    sleeps (``agents.sleep.SleepSettings``).  ``learn``: makes the learner itself, where a loop learns in a way of its
    own.  ``label``: names the curriculum's draws; "": the loop's name.  ``engine``: arguments of the base's
    ``LocalAgent``.  ``preset``: see ``PRESETS``.  ``max_tokens``: the budget of every reply; None: the game's.
    ``refused``: learners that it cannot run with.  ``trained``: roles that only the run's own weights can play.
    ``idle``: settings of the nights that would do nothing.
    """

    env: str = CHALLENGER_SOLVER
    args: Mapping[str, Any] = {}
    family: str = "composition"
    family_args: Mapping[str, Any] = {}
    mixture: Mixture = Mixture()
    gates: tuple[str, ...] = ("held_out",)
    novelty: float = 1.0
    reward: Mapping[str, Any] = {}
    seats: Mapping[str, str] = {}
    phases: tuple[Phase, ...] = ()
    final: str = "policy"
    learner: str = "grpo"
    learning: Mapping[str, Any] = {}
    sources: Callable[[], Sequence[Any]] = tuple
    nights: Any = None
    learn: Callable[[Context, Any, str, Path], Any] | None = None
    label: str = ""
    eval: EvalSettings = EvalSettings()
    steps: int = 100
    model: str = "nano/compose"
    engine: Mapping[str, Any] = {}
    preset: str = "nano"
    max_tokens: int | None = None
    refused: Mapping[str, str] = {}
    trained: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


class Loop(msgspec.Struct, frozen=True):
    """A loop by name: one line about it, its settings, and the recipe that they and the steps in all make.

    ``lm``: settings that change with the preset ``lm``, by the names of ``Options.set``.
    """

    name: str
    says: str
    settings: type[msgspec.Struct]
    recipe: Callable[[Any, int], Recipe]
    steps: int = 100
    lm: Mapping[str, Any] = {}


class Options(msgspec.Struct, frozen=True):
    """What decides a run's result, as it is asked for; None and {} leave what the loop has.

    ``set``: the loop's own settings by name, and parts of the recipe by dotted name: ``game.``, ``family.``,
    ``mixture.``, ``learner.``, ``nights.``, ``eval.``, ``engine.``.  ``reward``: by role, an expression or a model.
    ``preset``: ``nano`` or ``lm`` (see ``PRESETS``); "": by the size of the model's weights.  ``max_tokens``: of every
    reply.
    """

    loop: str
    seed: str = "0"
    steps: int | None = None
    env: str | None = None
    family: str | None = None
    notation: str | None = None
    levels: tuple[int, ...] | None = None
    reward: Mapping[str, Any] = {}
    seats: Mapping[str, str] = {}
    learner: str | None = None
    model: str | None = None
    preset: str = ""
    dtype: str | None = None
    max_tokens: int | None = None
    set: Mapping[str, Any] = {}


#: Parts of a recipe that ``set`` reaches by dotted names.
PARTS = ("game", "family", "mixture", "learner", "nights", "eval", "engine")
#: What a size of model changes in a loop's learner, whose own numbers are a nano model's.
PRESETS: dict[str, dict[str, Any]] = {
    "nano": {},
    "lm": {"lr": 1e-4, "lora_rank": 32, "micro_batch": 8},
}
_NANO_BYTES = 64 * 2**20


def preset_of(name: str, model: str) -> str:
    """The preset: as asked for, or ``nano`` for weights of at most 64 MiB and ``lm`` for others.

    Raises:
        DreamEnvsError: for another name.
    """
    if name:
        registry.named("presets", name, PRESETS)
        return name
    if model.startswith("nano/"):
        return "nano"
    weights = sum(path.stat().st_size for path in Path(model).glob("*.safetensors"))
    return "nano" if 0 < weights <= _NANO_BYTES else "lm"


def _takes_notation(recipe: Recipe) -> str:
    """What has notations: the ``family`` of the recipe's problems, or the ``game`` itself; "" for neither."""
    takes = inspect.signature(registry.load("envs", full_id(recipe.env))).parameters
    if "family" not in takes:
        return "game" if "notation" in takes else ""
    if not recipe.family or "notation" not in inspect.signature(registry.load("tasks", recipe.family)).parameters:
        return ""
    return "family"


def loop(name: str) -> Loop:
    """The loop of this name, or at ``module:object``.

    Raises:
        DreamEnvsError: with the nearest names, or if there is no Loop.
    """
    found = registry.load("loops", name)
    if not isinstance(found, Loop):
        raise DreamEnvsError(
            f"loop {name!r} is a {type(found).__name__}: an entry names a dream_envs.baselines.recipe.Loop"
        )
    return found


def changed(record: S, changes: Mapping[str, Any], name: str) -> S:
    """The record with settings changed by dotted name.

    Raises:
        DreamEnvsError: for a name that is not there, or a value of the wrong type.
    """
    if not changes:
        return record
    data: Any = msgspec.to_builtins(record)
    for key, value in changes.items():
        at, *rest = reversed(key.split("."))
        here = data
        for part in reversed(rest):
            if isinstance(here, dict) and here.get(part, 0) is None:  # a part that is switched off
                here[part] = {}
            here = _member(here, part, f"{name}.{key}")
        if here is data and at not in record.__struct_fields__:
            raise DreamEnvsError(registry.unknown(f"settings of {name}", at, list(record.__struct_fields__)))
        here[at] = msgspec.to_builtins(value)
    try:
        made = msgspec.convert(data, type(record), strict=False)
    except msgspec.ValidationError as error:
        raise DreamEnvsError(f"{name}: {error}") from error
    _known(data, msgspec.to_builtins(made), name)
    return made


def _known(asked: Any, made: Any, name: str) -> None:
    """Raise if something that was asked for is not in what was made: a struct leaves out what it does not know."""
    if isinstance(asked, dict) and isinstance(made, dict):
        for key, value in asked.items():
            if key not in made:
                raise DreamEnvsError(registry.unknown(f"settings {name}", str(key), list(made)))
            _known(value, made[key], f"{name}.{key}")


def _member(data: Any, part: str, name: str) -> Any:
    if not isinstance(data, dict) or part not in data:
        raise DreamEnvsError(registry.unknown(f"settings {name}", part, list(data) if isinstance(data, dict) else []))
    return data[part]


def _apart(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A loop's own settings, and those of each part of the recipe."""
    own, parts = dict[str, Any](), {name: dict[str, Any]() for name in PARTS}
    for key, value in settings.items():
        part, dot, rest = key.partition(".")
        if dot and part not in parts:
            raise DreamEnvsError(registry.unknown("parts of a recipe", part, list(parts)))
        if dot:
            parts[part][rest] = value
        else:
            own[key] = value
    return own, parts


def settled(options: Options) -> tuple[Loop, Recipe]:
    """The loop and its recipe with everything that was asked for.

    Raises:
        DreamEnvsError: for settings that there are not.
    """
    found = loop(options.loop)
    steps = found.steps if options.steps is None else options.steps
    if steps < 1:
        raise DreamEnvsError(f"steps={steps}: 1 or more")
    model = options.model or found.recipe(found.settings(), steps).model
    size = preset_of(options.preset, model)
    own, parts = _apart({**(found.lm if size == "lm" else {}), **options.set})
    recipe = found.recipe(changed(found.settings(), own, found.name), steps)
    new: dict[str, Any] = {"steps": steps}
    for field in ("env", "family", "learner", "model"):
        if (value := getattr(options, field)) is not None:
            new[field] = value
    if options.env is not None and options.env != recipe.env:  # another game: arguments and gates of the old one go
        new |= {"args": {}, "gates": (), "seats": {}, "reward": {}, "sources": tuple}
    if options.family is not None and options.family != recipe.family:
        new["family_args"] = {}
    recipe = msgspec.structs.replace(recipe, **new)
    nights = recipe.nights
    if parts["nights"]:
        if nights is None and recipe.learn is not None:  # a control without nights would silently sleep
            name = next(iter(parts["nights"]))
            raise DreamEnvsError(f"nights.{name}: {found.name} never sleeps; leave it out")
        if nights is None:
            from dream_envs.agents.sleep.night import SleepSettings

            nights = SleepSettings()
        nights = changed(nights, parts["nights"], "nights")
    levels = {"levels": options.levels} if options.levels is not None else {}
    dtype = {} if options.dtype is None else {"dtype": options.dtype}
    takes = _takes_notation(recipe) if options.notation or size == "lm" else ""
    notation = options.notation or ("english" if size == "lm" and takes else None)
    if options.notation and not takes:
        raise DreamEnvsError(f"notation={options.notation!r}: {recipe.family or recipe.env} has no notations")
    written = {} if notation is None else {"notation": notation}
    recipe = msgspec.structs.replace(
        recipe,
        family_args={**recipe.family_args, **(written if takes == "family" else {}), **parts["family"]},
        args={**recipe.args, **(written if takes == "game" else {}), **parts["game"]},
        seats={**recipe.seats, **options.seats},
        nights=nights,
        mixture=changed(recipe.mixture, {**levels, **parts["mixture"]}, "mixture"),
        eval=changed(recipe.eval, parts["eval"], "eval"),
        learning={**recipe.learning, **PRESETS[size], **parts["learner"]},
        engine={**recipe.engine, **dtype, **parts["engine"]},
        preset=size,
        max_tokens=options.max_tokens,
    )
    _together(found, recipe)
    rule_of(recipe)  # told now, before torch is imported
    return found, recipe


def _together(found: Loop, recipe: Recipe) -> None:
    """Raise where parts of a settled recipe do not go together."""
    if recipe.learn is not None and recipe.nights is not None:
        from dream_envs.agents.sleep.night import refuse

        refuse(recipe.nights, ["waits", "reading", "alert"], "every day has its night here")
        refuse(recipe.nights, recipe.idle, f"a night of {found.name} has no use for it")
    if recipe.learner in recipe.refused:
        raise DreamEnvsError(
            f"learner={recipe.learner!r}: {found.name} {recipe.refused[recipe.learner]}; choose another"
        )
    if role := next((r for r in recipe.trained if r in recipe.seats), None):
        raise DreamEnvsError(
            f"--seats {role}={recipe.seats[role]!r:.60}: {found.name} trains the weights of {role} here, which have to "
            "be those of a local --model; leave that seat out"
        )


def rule_of(chosen: Recipe) -> LearnerSettings:
    """The learner's settings as the recipe changes them.

    Raises:
        DreamEnvsError: for settings that there are not, or that do not go together.
    """
    own = spec(chosen.learner).settings
    changes = dict(chosen.learning)
    if own.baseline != "group":
        changes.pop("baseline", None)
    if spec(chosen.learner).imitates:  # it lives on its review: what it trains on stays its own
        changes = {k: v for k, v in changes.items() if not k.startswith(("rows.rows", "review", "baseline"))}
    made = changed(own, changes, "learner")
    rows = made.rows.rows
    parts = 2 * made.updates.minibatches * accumulation(rows or 0, made.updates, made.micro_batch)
    if rows is not None and rows % parts:  # masked rows fill the last minibatch
        made = changed(made, {"rows.rows": rows + -rows % parts}, "learner")
    if made.per_role and (chosen.nights is not None or chosen.phases or chosen.learn is not None):
        raise DreamEnvsError(f"per_role={made.per_role!r}: one phase, awake, with a policy learner")
    return made
