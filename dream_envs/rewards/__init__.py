"""Reward models: functions of a finished Episode, and a small algebra over them."""

from dream_envs.rewards.algebra import clip, gate, per_role, weighted, zero_sum
from dream_envs.rewards.base import (
    Model,
    Summary,
    agents_of,
    aggregate,
    as_reward,
    last_turns,
    rejected,
    reward,
)

__all__ = [
    "Model",
    "Summary",
    "agents_of",
    "aggregate",
    "as_reward",
    "clip",
    "gate",
    "last_turns",
    "per_role",
    "rejected",
    "reward",
    "weighted",
    "zero_sum",
]
