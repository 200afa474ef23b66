"""The loop ``acme_loop``: two rounds of its own starts, with its own reward."""

import msgspec

from dream_envs.baselines.recipe import Loop, Recipe
from dream_envs.curriculum.curriculum import Mixture


class Settings(msgspec.Struct, frozen=True):
    """``episodes`` a round."""

    episodes: int = 16


def recipe(chosen, steps):
    """Everything else comes from the command line."""
    return Recipe(
        env="debate/Debate-v0",
        args={"level": 2},
        family="acme_parity",
        mixture=Mixture(chosen.episodes, 0, 0, copies=4),
        gates=(),
        reward={"replier": "acme_terse(cap=10)", "opener": "acme_terse(cap=20)"},
        model="nano/judge",
        steps=steps,
    )


LOOP = Loop("acme_loop", "two rounds", Settings, recipe, 2)
