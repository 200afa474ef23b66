"""PPO and RLOO: GRPO's learner and trainer with another baseline.

TRL removed a PPO of its own in 1.13.  Here PPO is the trainer that GRPO uses (``agents.trl_adapter``) with a critic: a
value head on the policy's trunk (``agents.critic``), generalised advantage estimates in place of the group's mean, and
a clipped value loss beside the clipped policy loss.  What is earned arrives at a completion's last token.  Sampled
rows of a round are used in several passes and minibatches; reviewed traces and demonstrations, which the policy did not
sample, stay plain weighted likelihood, as under GRPO, and teach the critic nothing.

RLOO compares an attempt with the mean of the others of its group, does not divide by the deviation, and weighs each
sequence by the sum over its tokens (REINFORCE on whole replies; arXiv 2402.14740).

Departures from the usual PPO: the minibatches are the same in each pass (TRL splits a round once); the reference of
the KL penalty is the base model, and the penalty is off by default, as in the flagship's GRPO.
"""

from __future__ import annotations

from dream_envs.agents.training.critic import CriticSettings
from dream_envs.agents.training.grpo import GRPO, GRPOSettings, PolicySettings
from dream_envs.agents.training.rows import RowConfig
from dream_envs.agents.training.updates import Updates


def ppo_settings() -> PolicySettings:
    """PPO on GRPO's rows and a few groups more: one pass of four minibatches, gamma 1, lambda 0.95."""
    return PolicySettings(
        lr=5e-4,
        rows=RowConfig(rows=680, groups=60),
        baseline="critic",
        updates=Updates(epochs=1, minibatches=4),
        critic=CriticSettings(lr=1e-2, hidden=64),
    )


def grpo4_settings() -> PolicySettings:
    """GRPO with as many updates a round as PPO: what PPO is to be compared with to see what its critic is worth."""
    return PolicySettings(updates=Updates(epochs=1, minibatches=4))


def rloo_settings() -> PolicySettings:
    """RLOO on GRPO's rows: one update a round, the mean of the others, no scaling, whole sequences."""
    # A sum over about ten tokens has ten times the gradient of a mean, so its norm is clipped at ten times as much.
    return PolicySettings(clip=10.0, baseline="leave_one_out", updates=Updates(level="sequence", average="rows"))


class PPO(GRPO):
    """A local model that learns by PPO; arguments as ``GRPO``'s, ``settings`` a ``PolicySettings`` with a critic."""

    name = "ppo"

    @staticmethod
    def defaults() -> GRPOSettings:
        """``ppo_settings()``."""
        return ppo_settings()


class RLOO(GRPO):
    """A local model that learns by RLOO; arguments as ``GRPO``'s."""

    name = "rloo"

    @staticmethod
    def defaults() -> GRPOSettings:
        """``rloo_settings()``."""
        return rloo_settings()
