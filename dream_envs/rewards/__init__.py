"""Reward models: functions of a finished Episode, and a small algebra over them."""

from dream_envs.rewards.algebra import clip, gate, per_role, weighted, zero_sum
from dream_envs.rewards.base import Model, agents_of, as_reward, last_turns, rejected, reward

__all__ = ["Model", "agents_of", "as_reward", "clip", "gate", "last_turns", "per_role", "rejected", "reward"]
__all__ += ["weighted", "zero_sum"]
