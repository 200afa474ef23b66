"""The learners by name: what ``--learner`` and ``--agent`` choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dream_envs import registry
from dream_envs.agents.training.grpo import GRPO, GRPOSettings, expert_settings
from dream_envs.agents.training.ppo import PPO, RLOO, grpo4_settings, ppo_settings, rloo_settings


class LearnerSpec(msgspec.Struct, frozen=True):
    """A learner: its class, its default settings, the flagship's steps with it, and it in words."""

    make: Callable[..., GRPO]
    settings: Callable[[], GRPOSettings]
    steps: int
    says: str


LEARNERS: dict[str, LearnerSpec] = {
    "grpo": LearnerSpec(GRPO, GRPOSettings, 150, "group-relative advantages"),
    "grpo4": LearnerSpec(
        GRPO, grpo4_settings, 150, "GRPO with PPO's four clipped updates a round: PPO less its critic"
    ),
    "ppo": LearnerSpec(PPO, ppo_settings, 150, "a value head, GAE, clipped passes over each round"),
    "rloo": LearnerSpec(RLOO, rloo_settings, 150, "the mean of the others as baseline, whole sequences"),
    "expert": LearnerSpec(GRPO, expert_settings, 800, "likelihood of verified traces (ReST-EM)"),
}


def spec(name: str) -> LearnerSpec:
    """The learner of this name.

    Raises:
        DreamEnvsError: with the nearest names.
    """
    return registry.named("learners", name, LEARNERS)


def learner(name: str, model: Any = "nano/compose", **more: Any) -> GRPO:
    """A learner of this name on a model; ``settings`` and the rest as ``GRPO``'s.

    Raises:
        DreamEnvsError: for a name that is not there.
    """
    found = spec(name)
    return found.make(model, **{"settings": found.settings(), **more})
