"""How a round's rows are used: passes, minibatches, the clipped ratio, the penalty for leaving the reference."""

from __future__ import annotations

import msgspec

from dream_envs.core import DreamEnvsError


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
    level: str = "token"
    average: str = "tokens"
    kl_in: str = "loss"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1 or not 0 < self.epsilon < 1:
            raise DreamEnvsError(f"{self}: epochs and minibatches are 1 or more, epsilon is above 0 and below 1")
        if self.level not in ("token", "sequence") or self.average not in ("tokens", "rows"):
            raise DreamEnvsError(f"{self}: level is 'token' or 'sequence', average is 'tokens' or 'rows'")
        if self.kl_in not in ("loss", "reward"):
            raise DreamEnvsError(f"kl_in={self.kl_in!r}: 'loss' or 'reward'")

    @property
    def steps(self) -> int:
        """Optimiser steps a round."""
        return self.epochs * self.minibatches
