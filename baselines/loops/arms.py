"""The arms of the flagship study: what is taken away from the full loop, at the same number of episodes a round.

Departures from the published loops: challenger and solver share weights and step (as in AZR), mutations of learnable
problems are offered besides the challenger's own (as in PopuLoRA's operators) and serve it as demonstrations, and
verified traces are reviewed.  There is no gold data anywhere: every trace was sampled by the run itself.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dream_envs import registry
from dream_envs.core import RewardModel
from dream_envs.curriculum.syllabus import Share
from dream_envs.rewards.algebra import per_role
from dream_envs.rewards.controls import random_reward
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.solver import correctness, majority

OWN, MUTATED, REPLAYED = 60, 12, 44
GIVEN = OWN + MUTATED


def _truth() -> RewardModel:
    return challenger_solver()


def _vote() -> RewardModel:
    return per_role({"challenger": learnability(rate="majority"), "solver": majority()})


def _coin() -> RewardModel:
    return random_reward(rate=0.5)


def _blind() -> RewardModel:
    return per_role({"challenger": random_reward(rate=0.5), "solver": correctness()})


class Arm(msgspec.Struct, frozen=True):
    """A loop with something taken away.

    ``night``: how it sleeps, a name of ``nights.PLANS``; empty: it does not.  ``review``: traces are reviewed awake.
    ``share``: what a round is made of.  ``reward``: what the loop believes.  ``frozen``: the challenger is a frozen
    copy of the base.  ``says``: the arm in words.
    """

    says: str
    share: Share = Share(OWN, MUTATED, REPLAYED)
    reward: Callable[[], RewardModel] = _truth
    frozen: bool = False
    night: str = ""
    review: bool = True


#: The full loop with sleep, and with one of its parts taken away: the ablation of the four ingredients.
NIGHTS = ("sleep", "awake", "no_dreaming", "no_seeding", "no_self_data", "no_escalation", "no_internal_reward")
ARMS: dict[str, Arm] = {
    "full": Arm("own proposals, mutations, replays, verified reward"),
    "frozen_proposer": Arm("the challenger stays the base model", frozen=True),
    "no_mutation": Arm("no mutations: the challenger alone escalates", Share(GIVEN, 0, REPLAYED)),
    "fixed_depth": Arm(
        "generated problems of depth 3, the end of the base's support", Share(0, 0, REPLAYED, OWN + MUTATED, 3)
    ),
    "hardest_only": Arm("generated problems of depth 8 only", Share(0, 0, REPLAYED, GIVEN, 8)),
    "majority_reward": Arm("the solvers' vote in place of the verifier", reward=_vote),
    "awake": Arm("neither sleep nor review: what is learnt in a day is all there is", review=False),
    "sleep": Arm("a night every 25 steps in place of the review", night="full", review=False),
    "no_dreaming": Arm("nights that only seed what was verified by day", night="no_dreaming", review=False),
    "no_seeding": Arm("nights of plain fine-tuning on the day and on dreams", night="no_seeding", review=False),
    "no_self_data": Arm(
        "sleep, on generated problems of depth 3", Share(0, 0, REPLAYED, GIVEN, 3), night="full", review=False
    ),
    "no_escalation": Arm(
        "sleep, no mutations, the challenger stays the base",
        Share(GIVEN, 0, REPLAYED),
        frozen=True,
        night="full",
        review=False,
    ),
    "no_internal_reward": Arm(
        "sleep, coin tosses in place of learnability for the challenger", reward=_blind, night="full", review=False
    ),
    "random_reward": Arm("coin tosses in place of rewards", reward=_coin),
}


def arm(name: str) -> Arm:
    """The arm of this name.

    Raises:
        DreamEnvsError: with the nearest names.
    """
    return registry.named("arms", name, ARMS)
