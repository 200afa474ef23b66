"""Ctx2Skill (arXiv 2604.27660): skills as text that evolve on a context by self-play; no weights change by day.

A step is a round on every context: a challenger writes tasks with rubrics, a reasoner answers them, a judge gives
verdicts, and each side edits its own skills, the reasoner's after what it failed, the challenger's after what was
passed (``dream_envs/SkillEvolution-v0``).  After a round one hard and one easy task become probes.  After the last
every saved skill set answers all probes again, and the one with the largest ``rho_hard * rho_easy`` is taken.  What it
is worth is told by the contexts' private tests, beside the controls: no skills, first, last (no replay) and a random
round, the best round by other tests (the oracle), one prompt.  One-sided evolution: ``--set evolve=reasoner``.
``--set consolidate=true`` puts the chosen skills into weights behind that (``baselines.skill_night``).

Left in the run's folder: ``skills/CONTEXT/round-K.md`` and ``.diff``, ``challenger-K.md``, ``selected.md``,
``skills.json`` (replay table, choices, controls, costs), ``skills.md`` (the table), ``replay.jsonl``, ``tests.jsonl``.

Departures from the paper: a verdict a call; one edit of one skill a round instead of a set written anew; every probe
is answered 5 times by every skill set instead of once; S_0 can be chosen and ties have a rule (``tie``), neither of
which the paper tells; seats are whatever ``--seats`` names, so that the judge need not be another model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs import registry
from dream_envs.baselines.recipe import EvalSettings, Loop, Phase, Recipe
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.seeds import stream

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context

ENV = "dream_envs/SkillEvolution-v0"
SIDES = {"both": ("reasoner", "challenger"), "reasoner": ("reasoner",), "challenger": ("challenger",), "none": ()}
TIE_RULES = ("earliest", "latest", "shortest")


class Settings(msgspec.Struct, frozen=True):
    """``contexts``, of which ``sample`` are drawn (0: all), ``tasks`` a round.

    ``evolve``: whose skills may change: both, reasoner, challenger or none.
    ``repeats``: answers of a skill set to each probe, 1 or more.  ``tests``: private tests a context, 2 to 24, one half
    for the oracle's choice and the other for every score; ``attempts`` at each.  ``tie``: earliest, latest or shortest.
    ``base``: no skills at all can be chosen.  ``one_shot``: play the control of one prompt.  ``consolidate``: put the
    chosen skills into the weights of the reasoner, who has to be ``--model`` then; settings: ``nights.``.
    """

    contexts: str = "bundled"
    sample: int = 0
    tasks: int = 5
    evolve: str = "both"
    repeats: int = 5
    tests: int = 12
    attempts: int = 1
    tie: str = "earliest"
    base: bool = True
    one_shot: bool = True
    consolidate: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (("sample", 0, 10_000), ("repeats", 1, 1000), ("tests", 2, 24), ("attempts", 1, 1000)):
            if not low <= (value := getattr(self, name)) <= high:
                raise DreamEnvsError(f"{name}={value}: {low} to {high}")
        registry.named("evolve", self.evolve, SIDES)
        registry.named("tie", self.tie, dict.fromkeys(TIE_RULES))


def prepare(chosen: Settings, ctx: Context, game: Any, label: str) -> tuple[Curriculum, Mapping[str, Any]]:
    """The rounds on all contexts, or on a sample of them."""
    from dream_envs.baselines.skill_rounds import Rounds

    names = [context.id for context in game.contexts]
    if chosen.sample:
        order = stream(label, "contexts").permutation(len(names))[: chosen.sample]
        names = [names[i] for i in sorted(order)]
    return Rounds(game, names, ctx.run.path / "skills", seed=label, store=ctx.store()), {}


def learner(chosen: Settings, ctx: Context, model: Any, seed: str, place: Path) -> Any:
    """The frozen model that plays what nobody else does, and examines the skills in the end."""
    from dream_envs.baselines.skill_rounds import Examined, SkillLearner

    night = ctx.recipe.nights if chosen.consolidate else None
    how = Examined(chosen.repeats, chosen.tests, chosen.attempts, chosen.tie, chosen.base, chosen.one_shot, night)
    return SkillLearner(ctx.game(()), model, f"skills/{seed}", place, how)


def recipe(chosen: Settings, steps: int) -> Recipe:
    """One phase of so many rounds."""
    sleeps: dict[str, Any] = {}
    if chosen.consolidate:
        from dream_envs.baselines.skill_night import IDLE, night_settings

        sleeps = {"nights": night_settings(), "idle": IDLE, "trained": ("reasoner",)}
    args = {"contexts": chosen.contexts, "tasks": chosen.tasks, "evolve": list(SIDES[chosen.evolve])}
    return Recipe(
        env=ENV, args=args, family="", mixture=Mixture(1, 0, 0), gates=(), steps=steps,
        phases=(Phase("rounds", steps, prepare=functools.partial(prepare, chosen)),),
        learn=functools.partial(learner, chosen), eval=EvalSettings(kind="none"),
        refused={name: "trains no weights" for name in registry.rows("learners") if name != "grpo"}, **sleeps,
    )  # fmt: skip


LOOP = Loop("ctx2skill", "Ctx2Skill (2604.27660): skills as text evolve by self-play", Settings, recipe, 5)
