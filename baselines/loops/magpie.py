"""MAGPIE: a model's own instructions, read out of its bare chat template, as its training data (arXiv 2406.08464).

The base dreams instructions and answers them greedily (``dream_envs/Dreaming-v0``), a preset of the paper filters the
pairs, and copies of the base are fine-tuned on what is kept, on as many valid dreams at random, and on as many of the
same reply lengths, at equal steps and reply tokens.  All are measured on held-out dreams, on instructions whose
following a program checks, and on the variety of their own dreams.  The run delivers the copy trained on what is kept.

Departures: the student is the dreamer itself and not another base model; hundreds of dreams for millions, so that the
paper's counts are shares; quality and difficulty are heuristics of form unless ``judge`` names a judge, and rules about
rewards are left out, and said to be, unless ``reward_model`` names one (its margin over a base model's reply is never
measured); distances are of character 4-grams and not of embeddings; repeats are dropped as ``curriculum.dreams`` says;
replies that the budget cut off are trained on without an end.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs import registry
from dream_envs.baselines.recipe import Loop, Recipe
from dream_envs.checks import check
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.curriculum.dreams import PRESETS

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context

ENV = "dream_envs/Dreaming-v0"
ROUND = 64  # dreams between two checkpoints, at most


def rounds(dreams: int) -> int:
    """Rounds that so many dreams are dreamt in."""
    return -(-dreams // ROUND)


class Settings(msgspec.Struct, frozen=True):
    """``dreams`` (rounded up to whole rounds of at most 64) at ``temperature`` and ``top_p``; the filter's ``preset``.

    ``judge``: an agent that rates quality and difficulty, ``base`` for the model itself; ``reward_model``: a folder
    that scores replies; "": none.  ``batch``: kept pairs a step; the controls take as many as make the same tokens.
    ``checks``: instructions to follow, and dreams of each copy, that are measured.
    """

    dreams: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    preset: str = "pro"
    judge: str = ""
    reward_model: str = ""
    batch: int = 8
    checks: int = 48

    def __post_init__(self) -> None:
        registry.named("presets", self.preset, PRESETS)
        for name, low in (("dreams", 8), ("batch", 1), ("checks", 10)):
            check(name, getattr(self, name), low, 10**7, whole=True)


def dreamer(ctx: Context, model: Any, seed: str, place: Path, chosen: Settings) -> Any:
    """The learner."""
    from dream_envs.baselines.dreams import Dreamer

    return Dreamer(ctx, model, seed, place, chosen)


def recipe(chosen: Settings, steps: int) -> Recipe:
    """Rounds of dreams, then ``steps`` of fine-tuning a copy."""
    each = -(-chosen.dreams // rounds(chosen.dreams))
    return Recipe(
        env=ENV, args={"dream_tokens": 32, "reply_tokens": 32}, family="", model="nano/compose", gates=(), steps=steps,
        mixture=Mixture(each, 0, 0), learn=functools.partial(dreamer, chosen=chosen),
        refused={name: "fine-tunes copies" for name in registry.rows("learners") if name != "grpo"},
    )  # fmt: skip


LOOP = Loop(
    "magpie", "MAGPIE (2406.08464): instructions from the bare template, filtered, against controls", Settings, recipe,
    30, lm={"dreams": 208, "checks": 40, "game.dream_tokens": 64, "game.reply_tokens": 96},
)  # fmt: skip
