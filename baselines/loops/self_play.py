"""Self-play on any game: one policy in every seat that nobody else has, rounds of the game's own starts.

The loop for a game without a challenger, and for a stranger's: ``dream-envs train self_play --env ID --learner rae``.
``--seats ROLE=AGENT`` gives a role to somebody who does not learn.  With ``sleep`` what earned more than 1/2 is
consolidated every 25 steps.  ``spiral`` is the same loop with role-conditioned advantages (SPIRAL, arXiv 2506.24119).

Departures of ``spiral`` from the paper: one game instead of three, of one or two tokens a move, so no reasoning traces;
a step is one on-policy update; a KL penalty to the base (0.1) keeps moves mixed: without one exploitability stays near
0.33, with it it falls from 0.46 to about 0.1 (seed 11); 0.02 M parameters instead of 4 B.
"""

from __future__ import annotations

import functools

import msgspec

from dream_envs.baselines.recipe import Loop, Recipe
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.curriculum import Mixture


class Settings(msgspec.Struct, frozen=True):
    """``episodes`` a step, ``copies`` of each beginning, so that group baselines have what to compare with.

    ``sleep``: nights every 25 steps.
    """

    episodes: int = 128
    copies: int = 8
    sleep: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= self.episodes:
            raise DreamEnvsError(f"episodes={self.episodes}, copies={self.copies}: 1 <= copies <= episodes")


def recipe(chosen: Settings, steps: int, *, env: str = "dream_envs/ChallengerSolver-v0", model: str = "nano/compose",
           learner: str = "grpo", **learning: float) -> Recipe:  # fmt: skip
    """One phase."""
    nights = None
    if chosen.sleep:
        from dream_envs.agents.sleep.night import SleepSettings

        nights = SleepSettings(forget=False)
    return Recipe(
        env=env, model=model, mixture=Mixture(chosen.episodes, 0, 0, copies=chosen.copies), gates=(),
        learner=learner, learning=learning, nights=nights, steps=steps,
    )  # fmt: skip


spiral = functools.partial(recipe, env="dream_envs/Kuhn-v0", model="nano/kuhn", learner="rae", lr=1e-3, kl=0.1)
LOOP = Loop("self_play", "self-play on any game: one policy in every free seat", Settings, recipe, 50)
SPIRAL = Loop("spiral", "SPIRAL (2506.24119): zero-sum self-play, a running mean of each role", Settings, spiral, 200)
