"""Settings of the learners, as data: checked before torch is imported.

Sources: GRPO arXiv 2402.03300, PPO 1707.06347, RLOO 2402.14740, RAE (SPIRAL) 2506.24119, expert iteration (ReST-EM)
2312.06585, TRR++ 2505.03335.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from dream_envs import registry
from dream_envs.core import DreamEnvsError

#: The completions of a group (GRPO), the others of it (RLOO), all of the role in the round (TRR++, arXiv 2505.03335),
#: the role's running mean (SPIRAL, arXiv 2506.24119), a learnt value (PPO).
BASELINES = ("group", "leave_one_out", "role", "rae", "critic")
#: TRL asks for at least two rows a block; nothing of ours depends on the number.
BLOCK = 2


class RoleSettings(msgspec.Struct, frozen=True):
    """How the rows of one role count.

    ``groups``: groups a step at most, None: all.  ``floor``: least deviation that its advantages are divided by.
    """

    groups: int | None = None
    floor: float = 0.0


class RowSettings(msgspec.Struct, frozen=True):
    """Which rows a step trains on.

    ``rows``: rows a step, an even number: what is missing is filled with rows that the loss does not see, what is too
    much is cut; None: as many as there are.  ``roles``: settings by role; their order is the order of the rows.
    ``scale``: divide a group's advantages by their deviation.  ``decay``: of ``rae``.  ``play_every``: steps per round
    of play; the steps between train on what the sources give alone (expert iteration).
    """

    rows: int | None = None
    roles: dict[str, RoleSettings] = {}
    scale: bool = True
    decay: float = 0.95
    play_every: int = 1

    def __post_init__(self) -> None:
        if (self.rows is not None and (self.rows < 2 or self.rows % 2)) or self.play_every < 1:
            raise DreamEnvsError(f"rows={self.rows}, play_every={self.play_every}: rows is even, play_every 1 or more")
        if not 0.0 <= self.decay < 1.0:
            raise DreamEnvsError(f"decay={self.decay}: 0 or more and below 1 (SPIRAL: 0.95)")
        for name, role in self.roles.items():
            if role.groups is not None and role.groups < 0:
                raise DreamEnvsError(f"roles.{name}.groups={role.groups}: 0 or more, or None")

    def role(self, name: str) -> RoleSettings:
        """The settings of this role."""
        return self.roles.get(name, RoleSettings())


class Updates(msgspec.Struct, frozen=True):
    """How often a round's rows are used, and how far the policy may move on them.

    ``epochs``: passes over the rows; ``minibatches``: optimiser steps a pass (of the same split in every pass).
    ``epsilon``: the probability ratio is clipped to 1 - epsilon ... 1 + epsilon.  ``level``: ``token``, or ``sequence``
    for one ratio a row (the geometric mean of its tokens').  ``average``: the loss is a mean over ``tokens``, or over
    ``rows`` of the sum over each row's tokens.  ``kl_in``: the penalty for leaving the reference is a term of the
    ``loss`` (k3), or of each sampled token's ``reward`` (k1, needs a critic).
    """

    epochs: int = 1
    minibatches: int = 1
    epsilon: float = 0.2
    level: Literal["token", "sequence"] = "token"
    average: Literal["tokens", "rows"] = "tokens"
    kl_in: Literal["loss", "reward"] = "loss"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1 or not 0 < self.epsilon < 1:
            raise DreamEnvsError(f"{self}: epochs and minibatches are 1 or more, epsilon is above 0 and below 1")
        for name in ("level", "average", "kl_in"):
            allowed = get_args(get_type_hints(type(self))[name])
            if (value := getattr(self, name)) not in allowed:
                raise DreamEnvsError(f"{name}={value!r}: {' or '.join(allowed)}")

    @property
    def steps(self) -> int:
        """Optimiser steps a round."""
        return self.epochs * self.minibatches


class CriticSettings(msgspec.Struct, frozen=True):
    """Settings of the critic.

    ``gamma``: discount a token; ``lam``: of the advantage estimate (both 0 to 1).  ``lr``: the head's own, above 0.
    ``weight``: of the value loss beside the policy's; 0 leaves the trunk and the head alone.  ``clip``: how far a value
    may move from what it was when the round was played before its loss is cut off; 0 does not cut.  ``hidden``: units
    of a hidden layer, 0 for a linear head.  ``whiten``: bring each role's advantages to mean 0 and deviation 1.
    """

    gamma: float = 1.0
    lam: float = 0.95
    lr: float = 1e-3
    weight: float = 0.5
    clip: float = 0.2
    hidden: int = 0
    whiten: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise DreamEnvsError(f"gamma={self.gamma}, lam={self.lam}: each from 0 to 1")
        if self.lr <= 0 or self.weight < 0 or self.clip < 0 or self.hidden < 0:
            raise DreamEnvsError(f"{self}: lr is above 0; weight, clip and hidden are 0 or more")


class ReviewSettings(msgspec.Struct, frozen=True):
    """How many traces are replayed a step, their weight, and how many of each kind are kept.

    ``roles``: whose traces, () for all that learn.
    """

    count: int = 128
    weight: float = 1.0
    cap: int = 512
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 0 or self.cap < 1:
            raise DreamEnvsError(f"count={self.count}, cap={self.cap}: count is 0 or more, cap 1 or more")


class PoolSettings(msgspec.Struct, frozen=True):
    """``share`` of the episodes have a past self in one role; one is kept every ``every`` rounds, ``size`` at most.

    ``strength``: how much likelier a stronger past self is drawn: weights are ``exp(strength * rating / 400)``, 0 draws
    all alike.  ``step``: the K of Elo's update.
    """

    share: float = 0.5
    every: int = 5
    size: int = 8
    strength: float = 1.0
    step: float = 16.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.every < 1 or self.size < 1 or self.strength < 0 or self.step < 0:
            raise DreamEnvsError(f"{self}: share is 0 to 1, every and size 1 or more, strength and step 0 or more")


class LearnerSettings(msgspec.Struct, frozen=True):
    """The optimiser's settings and the rows of a step.

    ``kl``: weight of the penalty for leaving the base, where ``updates.kl_in`` says.  ``clip``: of the gradient's norm.
    ``save_every``: steps between checkpoints, which changes no result.  ``baseline``: one of
    ``advantages.BASELINES``.  ``critic``: the value head, with ``baseline="critic"`` alone.  ``review``: replay of the
    run's own good traces; None: none.

    ``lora_rank``: train adapters of this rank on every linear layer but the head, 0: all weights.  ``micro_batch``:
    rows in one forward pass, 0: all of an optimiser step.  ``checkpointing``: compute activations twice instead of
    keeping them.  ``engine``: what samples, ``local`` or ``vllm`` in the same process (which needs adapters:
    one is merged and pushed each step; several, or past selves, are loaded under new names).  ``pool``: past selves
    that it plays against; None: none.

    ``per_role``: "": one adapter for all roles; a role's name: each role that learns has its own on the same base, they
    train side by side, and this role's weights are what is measured and delivered (the others lie in
    ``adapters/ROLE``).
    """

    lr: float = 5e-4
    kl: float = 0.0
    warmup: int = 10
    clip: float = 1.0
    save_every: int = 20
    rows: RowSettings = RowSettings()
    baseline: str = "group"
    updates: Updates = Updates()
    critic: CriticSettings | None = None
    review: ReviewSettings | None = None
    lora_rank: int = 0
    micro_batch: int = 0
    checkpointing: bool = False
    engine: str = "local"
    pool: PoolSettings | None = None
    per_role: str = ""

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise DreamEnvsError(f"baseline={self.baseline!r}: one of {', '.join(BASELINES)}")
        if (self.critic is not None) != (self.baseline == "critic"):
            raise DreamEnvsError(f"baseline={self.baseline!r}: critic=CriticSettings() with 'critic', None with others")
        if self.critic is not None and self.rows.play_every > 1:
            raise DreamEnvsError(
                f"play_every={self.rows.play_every}: 1 with a critic, which learns from the round alone"
            )
        if self.lr <= 0 or self.save_every < 1 or self.kl < 0 or self.warmup < 0:
            told = f"lr={self.lr}, save_every={self.save_every}, kl={self.kl}, warmup={self.warmup}"
            raise DreamEnvsError(f"{told}: lr above 0, save_every 1 or more, kl and warmup 0 or more")
        if self.engine not in ("local", "vllm") or (self.engine == "vllm" and not self.lora_rank):
            raise DreamEnvsError(f"engine={self.engine!r}: local, or vllm with lora_rank 1 or more")
        if self.per_role and (not self.lora_rank or self.checkpointing):
            raise DreamEnvsError(f"per_role={self.per_role!r}: with lora_rank 1 or more, and without checkpointing")
        if self.lora_rank < 0 or self.micro_batch < 0:
            raise DreamEnvsError(
                f"lora_rank={self.lora_rank}, micro_batch={self.micro_batch}: 1 or more, or 0 for all weights and rows"
            )


class LearnerSpec(msgspec.Struct, frozen=True):
    """A learner by name: its default settings, and it in words.

    ``imitates``: it learns from its review alone.  ``make``: what it is made by, with ``PolicyLearner``'s arguments;
    None: ``PolicyLearner``.
    """

    settings: LearnerSettings
    says: str
    imitates: bool = False
    make: Callable[..., Any] | None = None


GRPO = LearnerSpec(LearnerSettings(), "group-relative advantages")


GRPO4 = LearnerSpec(LearnerSettings(updates=Updates(minibatches=4)), "GRPO with PPO's four updates a round, no critic")


PPO = LearnerSpec(
    LearnerSettings(baseline="critic", updates=Updates(minibatches=4), critic=CriticSettings(lr=1e-2, hidden=64)),
    "a value head, GAE, clipped passes over each round",
)


# A sum over about ten tokens has ten times the gradient of a mean, so its norm is clipped at ten times as much.
RLOO = LearnerSpec(
    LearnerSettings(clip=10.0, baseline="leave_one_out", updates=Updates(level="sequence", average="rows")),
    "the mean of the others as baseline, whole sequences",
)


RAE = LearnerSpec(LearnerSettings(baseline="rae"), "a running mean of each role as baseline (SPIRAL)")


EXPERT = LearnerSpec(
    LearnerSettings(rows=RowSettings(play_every=10), review=ReviewSettings(count=144)),
    "likelihood of good traces (ReST-EM)",
    imitates=True,
)


def spec(name: str) -> LearnerSpec:
    """The learner of this name, or at ``module:object``; a class of somebody's own is made with its own defaults."""
    found = registry.load("learners", name)
    return found if isinstance(found, LearnerSpec) else LearnerSpec(LearnerSettings(), name, make=found)


def accumulation(count: int, updates: Updates, micro_batch: int) -> int:
    """Forward passes an optimiser step, so that no more than ``micro_batch`` of ``count`` rows (0: all) are in one."""
    rows = count // updates.minibatches
    return 1 if not micro_batch else -(-rows // max(BLOCK, micro_batch))
