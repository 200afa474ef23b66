"""What a sampled completion is compared with: the baselines of the policy-gradient learners.

``group`` (GRPO) and ``leave_one_out`` (RLOO) compare with the other completions of a group, ``role`` (TRR++, arXiv
2505.03335) with all of its role in the round, ``rae`` (SPIRAL, arXiv 2506.24119) with a running mean of its role, which
is part of a checkpoint; these give one number a row.  ``critic`` (PPO) leaves the comparison to a learnt value, through
``gae``, which gives one number a token.  Groups and roles are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dream_envs.core import DreamEnvsError

if TYPE_CHECKING:
    from dream_envs.agents.training.rows import Group, RowSettings

#: Sums a tensor over all processes; the identity where there is one.
Sum = Callable[[torch.Tensor], torch.Tensor]


class Baseline:
    """GRPO's: a value less its group's mean, over the group's deviation where rows are scaled.

    Args:
        settings: of the rows: ``scale``, and each role's ``floor`` of the deviation.
    """

    #: Groups whose values are all alike say nothing, and are left out.
    needs_variance = True

    def __init__(self, settings: RowSettings) -> None:
        self.settings = settings

    def observe(self, groups: Sequence[Group]) -> None:
        """See all groups of a round, in the order of their episodes, before any is asked about."""

    def advantages(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """One number a row, for groups of one role."""
        return [self._one(group.values, self.settings.role(group.role).floor) for group in groups]

    def _one(self, values: Sequence[float], floor: float) -> np.ndarray:
        return relative(values, self.settings.scale, floor)

    def state(self) -> Any:
        """JSON-ready; see ``restore``."""
        return None

    def restore(self, state: Any) -> None:
        """Go on from this state."""


class LeaveOneOut(Baseline):
    """RLOO's: a value less the mean of the others of its group."""

    def _one(self, values: Sequence[float], floor: float) -> np.ndarray:
        return leave_one_out(values)


class RoleMean(Baseline):
    """TRR++'s: one group a role, over all its problems of the round."""

    needs_variance = False

    def advantages(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """One number a row, for groups of one role."""
        if not groups:
            return []
        floor = self.settings.role(groups[0].role).floor
        merged = relative([v for group in groups for v in group.values], self.settings.scale, floor)
        return np.split(merged, np.cumsum([len(group.rows) for group in groups])[:-1])


class RoleAverage(Baseline):
    """SPIRAL's role-conditioned advantage estimation: a value less its role's running mean, **read before updated**.

    ``b <- decay * b + (1 - decay) * value``, from 0, one ``b`` for each family of problems and role.  Seats are not
    exchangeable, so a mean over all of them would be wrong, and one that holds the value it is subtracted from is
    biased.  All rows of a role in an episode are read first; then ``b`` moves once, by their mean.
    """

    needs_variance = False

    def __init__(self, settings: RowSettings) -> None:
        super().__init__(settings)
        self.values: dict[str, float] = {}
        self._found: dict[int, float] = {}

    def observe(self, groups: Sequence[Group]) -> None:
        """Read and move the means, episode by episode."""
        self._found = {}
        turns: dict[tuple[int, str], list[Any]] = {}
        for group in groups:
            for row in group.rows:
                turns.setdefault((row.episode, f"{row.family}/{group.role}"), []).append(row)
        for (_, key), rows in sorted(turns.items(), key=lambda item: item[0]):
            before = self.values.get(key, 0.0)
            for row in rows:
                self._found[id(row)] = row.value - before
            mean = float(np.mean([row.value for row in rows]))
            self.values[key] = self.settings.decay * before + (1.0 - self.settings.decay) * mean

    def advantages(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """One number a row."""
        return [np.array([self._found[id(row)] for row in group.rows]) for group in groups]

    def state(self) -> Any:
        """JSON-ready; see ``restore``."""
        return dict(self.values)

    def restore(self, state: Any) -> None:
        """Go on from this state."""
        self.values = {str(key): float(value) for key, value in state.items()}


class LearntValue(Baseline):
    """PPO's: every row counts alike here, the critic's advantages take their place in the trainer."""

    needs_variance = False

    def advantages(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """Ones."""
        return [np.ones(len(group.rows)) for group in groups]


BASELINES: dict[str, type[Baseline]] = {
    "group": Baseline,
    "leave_one_out": LeaveOneOut,
    "role": RoleMean,
    "rae": RoleAverage,
    "critic": LearntValue,
}


def check_baseline(name: str) -> None:
    """Raise a one-line DreamEnvsError for a name that is not there."""
    if name not in BASELINES:
        raise DreamEnvsError(f"baseline={name!r}: one of {', '.join(BASELINES)}")


def relative(values: Sequence[float], scale: bool, floor: float = 0.0) -> np.ndarray:
    """Values minus their mean, over their standard deviation if ``scale`` (GRPO; Dr. GRPO leaves it out).

    A ``floor`` above 0 is the least that is divided by; without one 1e-4 is added, as in GRPO.
    """
    array = np.asarray(values, dtype=np.float64)
    centred = array - array.mean()
    if not scale:
        return centred
    return centred / (max(float(array.std()), floor) if floor else array.std() + 1e-4)


def leave_one_out(values: Sequence[float]) -> np.ndarray:
    """Each value minus the mean of the others (RLOO, arXiv 2402.14740); 0 for a value that is alone."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return np.zeros_like(array)
    return (array - array.mean()) * (array.size / (array.size - 1))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates (arXiv 1506.02438) of completions that end where their mask ends.

    Args:
        rewards: ``[B, T]``, what was earned by each token.
        values: ``[B, T]``, the expected return before each token.
        mask: ``[B, T]``, 1 for tokens, 0 for the padding behind them; nothing behind the padding is looked at.
        gamma: discount a token, 0 to 1.
        lam: 0 (one step, all trust in the values) to 1 (the whole return, none).

    Returns:
        Advantages and returns (advantages plus values), ``[B, T]``, 0 where the mask is.
    """
    mask = mask.to(rewards.dtype)
    found = torch.zeros_like(rewards)
    after = torch.zeros_like(rewards[:, 0])  # the estimate one token on
    value = torch.zeros_like(after)
    for t in range(rewards.size(1) - 1, -1, -1):
        here = mask[:, t]
        after = here * (rewards[:, t] + gamma * value - values[:, t] + gamma * lam * after)
        value = here * values[:, t]
        found[:, t] = after
    return found, (found + values) * mask


def moments(x: torch.Tensor, mask: torch.Tensor, total: Sum) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population variance of the masked entries of all processes; 0 and 0 where there are none."""
    mask = mask.to(x.dtype)
    count, first = total(torch.stack([mask.sum(), (x * mask).sum()])).unbind()
    mean = first / count.clamp(min=1.0)
    return mean, total((((x - mean) ** 2) * mask).sum()) / count.clamp(min=1.0)


def whiten(x: torch.Tensor, mask: torch.Tensor, roles: Sequence[str], names: Sequence[str], total: Sum) -> torch.Tensor:
    """Mean 0 and deviation 1 over the masked tokens of each role, of all processes together.

    Args:
        x: ``[B, T]``.
        mask: ``[B, T]``.
        roles: the role of each of the ``B`` rows.
        names: the roles of all processes in one order, since each takes part in every sum.
        total: sums over processes.

    Returns:
        ``[B, T]``; 0 where the mask is.
    """
    out = torch.zeros_like(x)
    for name in names:
        own = mask.to(x.dtype) * torch.tensor([[r == name] for r in roles], dtype=x.dtype, device=x.device)
        mean, variance = moments(x, own, total)
        out = out + own * (x - mean) / (variance.sqrt() + 1e-4)
    return out
