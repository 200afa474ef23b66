"""Reward models: functions of a finished Episode, and a small algebra over them."""

from dream_envs.rewards.algebra import RoleBaseline, clip, gate, per_role, weighted, zero_sum
from dream_envs.rewards.base import Model, Summary, aggregate, as_reward, reward

__all__ = [
    "Model",
    "RoleBaseline",
    "Summary",
    "aggregate",
    "as_reward",
    "clip",
    "gate",
    "per_role",
    "reward",
    "weighted",
    "zero_sum",
]
