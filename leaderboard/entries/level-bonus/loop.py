"""The default loop, with a challenger that is paid for depth as well as for problems that are solved half the time."""

import msgspec

from dream_envs.baselines.loops import dream
from dream_envs.baselines.recipe import Loop
from dream_envs.core import Score, challenge_of
from dream_envs.rewards import agents_of, reward
from dream_envs.rewards.learnability import learnability


@reward("level_bonus")
def level_bonus(episode, *, weight: float = 0.05):
    """Learnability, and so much for each operation of an accepted problem that somebody solved."""
    found = dict(learnability()(episode))
    problem, rate = challenge_of(episode), episode.outcome.facts["solve_rate"]
    for agent in agents_of(episode, "challenger"):
        if problem is not None and rate and found[agent].status == "ok":
            found[agent] = Score(found[agent].value + weight * problem.level)
    return found


class Settings(msgspec.Struct, frozen=True):
    """``weight``: of a level."""

    weight: float = 0.05


def recipe(chosen, steps):
    """The default's recipe with another reward of the challenger."""
    plain = dream.recipe(dream.Settings(), steps)
    return msgspec.structs.replace(
        plain, reward={"challenger": level_bonus(weight=chosen.weight), "solver": "correctness()"}
    )


LOOP = Loop("level-bonus", "the default with a bonus for depth", Settings, recipe)
