"""Published loops by name, and what ``dream-envs train NAME`` does with one.

A recipe is a row here and a file beside this one that holds only what its paper changes.  Other people's recipes are
found as ``module:object``.  Nothing heavy is imported before a recipe is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs import registry
from dream_envs.core import DreamEnvsError

if TYPE_CHECKING:
    from dream_envs.agents.training.grpo import GRPOSettings
    from dream_envs.agents.training.rows import RowConfig
    from dream_envs.baselines.loop import Job, Stage

_LOOPS = "dream_envs.baselines.loops"
_NIGHTS = f"{_LOOPS}.night_recipes"
#: name: where it lives, and it in one line.
ROWS: dict[str, tuple[str, str]] = {
    "azr": (f"{_LOOPS}.azr:RECIPE", "Absolute Zero (2505.03335): proposer, solver and a verifier"),
    "r_zero": (
        f"{_LOOPS}.r_zero:RECIPE",
        "R-Zero (2508.05004): challenger and solver in turn, by vote",
    ),
    "ttrl": (
        f"{_LOOPS}.ttrl:RECIPE",
        "TTRL (2504.16084): the majority's answer on unlabelled problems",
    ),
    "serl": (
        f"{_LOOPS}.serl:RECIPE",
        "SERL (2511.07922): one model answers, judges its answers in pairs",
    ),
    "serl_limited": (
        f"{_LOOPS}.serl_limited:RECIPE",
        "SeRL (2505.20347): few seeds, self-written, by vote",
    ),
    "self_rewarding": (
        f"{_LOOPS}.self_rewarding:RECIPE",
        "Self-Rewarding LMs (2401.10020): scores its own answers, best against worst",
    ),
    "sleep": (
        f"{_NIGHTS}:SLEEP",
        "Language Models Need Sleep (2606.03979): seeding and dreams move the day into weights",
    ),
    "seal": (f"{_NIGHTS}:SEAL", "SEAL (2506.10943): nights of fine-tuning on self-made edits that help a copy"),
    "replay_sft": (f"{_NIGHTS}:REPLAY_SFT", "nights of fine-tuning on the day's own replies"),
    "in_context": (f"{_NIGHTS}:IN_CONTEXT", "no nights: what is not before the eyes is gone"),
    "l2": (f"{_NIGHTS}:L2", "nights of fine-tuning, pulled towards the evening's weights"),
    "static_expert": (f"{_NIGHTS}:STATIC_EXPERT", "sleep, with one expert for all nights"),
    "placebo": (f"{_NIGHTS}:PLACEBO", "sleep, with a teacher who read another table"),
}
#: The short name of whichever shipped base fits the recipe.
NANO = "nano"


class Recipe(msgspec.Struct, frozen=True):
    """A published loop.

    ``knobs``: a Struct whose defaults are the recipe's; ``dream-envs train NAME --set KEY=VALUE`` changes them.
    ``stages``: given the knobs, the steps in all and the seed, the stages.  ``rows``: what a step trains on, given the
    knobs.  ``agent`` and ``steps``: where none are asked for.  ``rule``: changes the chosen learner's settings (its
    baseline, say).  ``final``: the weights that the run delivers.  ``base``: what ``--model nano`` means.
    ``refused``: learners that it cannot run with, and why.
    """

    name: str
    knobs: type[msgspec.Struct]
    stages: Callable[[Any, int, str], tuple[Stage, ...]]
    rows: Callable[[Any], RowConfig]
    steps: int
    agent: str = "grpo"
    rule: Callable[[GRPOSettings, Any], GRPOSettings] = lambda rule, knobs: rule
    final: str = "policy"
    base: str = "nano/compose"
    refused: Mapping[str, str] = {}


class NightRecipe(msgspec.Struct, frozen=True):
    """A way through the night: a learner that reads by day and sleeps, see ``baselines.night_recipes``.

    ``method``: a ``baselines.sleeping.Method``; None: the one of this name.  ``base``: what ``--model nano`` means.
    """

    name: str
    knobs: type[msgspec.Struct]
    method: Any = None
    base: str = "nano/context"


class Settings(msgspec.Struct, frozen=True):
    """What decides a recipe's result; None is the recipe's own."""

    recipe: str
    agent: str | None = None
    seed: str = "0"
    model: str = NANO
    steps: int | None = None
    per_depth: int = 128
    knobs: dict[str, Any] = {}


def place(name: str) -> str:
    """``module:object`` of a recipe; nothing is imported.

    Raises:
        DreamEnvsError: with the nearest names.
    """
    if name not in ROWS and ":" not in name:
        raise DreamEnvsError(registry.unknown("recipes", name, list(ROWS)))
    return ROWS[name][0] if name in ROWS else name


def recipe(name: str) -> Recipe | NightRecipe:
    """The recipe of this name, or behind ``module:object``.

    Raises:
        DreamEnvsError: with the nearest names, or if there is no recipe.
    """
    module, _, attribute = place(name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise DreamEnvsError(f"recipe {name!r}: no module {error.name!r}") from error
    if not isinstance(found, (Recipe, NightRecipe)):
        raise DreamEnvsError(f"recipe {name!r}: {module} has no Recipe called {attribute!r}")
    return found


def knobs_of(found: Recipe | NightRecipe, given: Mapping[str, Any]) -> Any:
    """The recipe's knobs with those that were given.

    Raises:
        DreamEnvsError: for a knob that there is not, or a value of the wrong type.
    """
    for key in given:
        if key not in found.knobs.__struct_fields__:
            names = list(found.knobs.__struct_fields__)
            raise DreamEnvsError(registry.unknown(f"settings of {found.name}", key, names))
    try:
        return msgspec.convert(dict(given), found.knobs)
    except msgspec.ValidationError as error:
        raise DreamEnvsError(f"{found.name}: {error}") from error


def _rule(found: Recipe, own: GRPOSettings, knobs: Any) -> GRPOSettings:
    """The learner's settings as the recipe changes them."""
    if own.rows.play_every > 1:  # expert iteration lives on its review: its rows stay its own
        changed = found.rule(own, knobs)
        return msgspec.structs.replace(own, lr=changed.lr, warmup=changed.warmup)
    rows = found.rows(knobs)
    parts = 2 * own.updates.minibatches if hasattr(own, "updates") else 2
    rows = msgspec.structs.replace(rows, rows=rows.rows + -rows.rows % parts)  # masked rows fill the last minibatch
    return found.rule(msgspec.structs.replace(own, rows=rows), knobs)


def job_of(settings: Settings) -> Job:
    """The job of these settings.

    Raises:
        DreamEnvsError: for what cannot be run.
    """
    from dream_envs.agents.training.learners import LEARNERS, spec
    from dream_envs.baselines import loop

    found = recipe(settings.recipe)
    if isinstance(found, NightRecipe):
        raise DreamEnvsError(f"recipe={found.name!r} is days and nights, not a job of stages")
    steps = found.steps if settings.steps is None else settings.steps
    for name, value in (("steps", steps), ("per_depth", settings.per_depth)):
        if value < 1:
            raise DreamEnvsError(f"{name}={value}: 1 or more")
    agent = settings.agent or found.agent
    if agent in found.refused:
        able = ", ".join(name for name in LEARNERS if name not in found.refused)
        raise DreamEnvsError(f"agent={agent!r}: {found.name} {found.refused[agent]}; {found.name} runs with {able}")
    knobs = knobs_of(found, settings.knobs)
    rule = _rule(found, spec(agent).settings(), knobs)
    base = found.base if settings.model == NANO else settings.model
    about = {"recipe": found.name, "learner": agent, "seed": settings.seed, "steps": steps, "base": base}
    given = {**about, "per_depth": settings.per_depth, "knobs": msgspec.to_builtins(knobs)}
    return loop.Job(
        base=base,
        learner=agent,
        seed=settings.seed,
        rule=rule,
        stages=found.stages(knobs, steps, f"{found.name}/{settings.seed}"),
        config={"command": "train", **given, **loop.binding(base, rule)},
        about=about,
        per_depth=settings.per_depth,
        final=found.final,
    )


def train(
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    threads: int = 1,
    frontier: bool = True,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """The whole job: train, measure, report, and the Frontier Report in ``out/frontier``.

    Args:
        settings: what is run.
        out: the run folder.
        resume: go on in a folder that holds an unfinished run.
        threads: torch threads; 0 leaves torch's choice.
        frontier: False leaves the Frontier Report out.
        cache: where its draws are kept, see ``baselines.frontier.cache_folder``.
        quiet: no progress on the terminal.

    Returns:
        ``run`` (the run's ``frontier.json``) and ``frontier`` (the Frontier Report's, or None).

    Raises:
        DreamEnvsError: for settings that cannot be run, or a folder that is taken.
    """
    chosen = recipe(settings.recipe)
    if isinstance(chosen, NightRecipe):
        from dream_envs.baselines.loops import night_recipes

        return {"run": night_recipes.train(chosen, settings, out, resume=resume, threads=threads), "frontier": None}
    from dream_envs.baselines import loop

    job = job_of(settings)
    found = loop.conduct(job, out, resume=resume, threads=threads, quiet=quiet)
    if not frontier:
        return {"run": found, "frontier": None}
    from dream_envs.baselines.frontier import job as report
    from dream_envs.frontier.schema import read_report

    where = out / "frontier"
    if not (where / "report.html").is_file():
        options = report.Options(size="mini", seed=f"recipe/{settings.seed}")
        report.run(job.base, str(out), where, cache, options, threads=threads, quiet=quiet)
    return {"run": found, "frontier": read_report(where)}
