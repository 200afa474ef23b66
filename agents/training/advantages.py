"""What a sampled completion is compared with: the baselines of the policy-gradient learners.

Groups and roles are never mixed.  All baselines give one number a row, but for ``critic``: it leaves the comparison to
a learnt value, through ``gae``, which gives one number a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from dream_envs.agents.training.rows import Group
    from dream_envs.agents.training.settings import RowSettings

#: Sums a tensor over all processes; the identity where there is one.
Sum = Callable[[torch.Tensor], torch.Tensor]


class Baseline:
    """One of ``BASELINES``, for the groups of a round; its state is that of ``rae``, the others have none.

    ``rae`` is SPIRAL's role-conditioned advantage estimation: a value less its role's running mean, **read before
    updated**.  ``b <- decay * b + (1 - decay) * value``, from 0, one ``b`` for each family of problems and role.  Seats
    are not exchangeable, so a mean over all of them would be wrong, and one that holds the value it is subtracted from
    is biased.  All rows of a role in an episode are read first; then ``b`` moves once, by their mean.
    """

    def __init__(self, name: str, settings: RowSettings) -> None:
        self.name, self.settings = name, settings
        #: Running means by ``family/role``, and what the newest round's rows were worth beyond them.
        self.values: dict[str, float] = {}
        self._found: dict[int, float] = {}

    @property
    def needs_variance(self) -> bool:
        """Whether groups whose values are all alike say nothing, and are left out."""
        return self.name in ("group", "leave_one_out")

    def observe(self, groups: Sequence[Group]) -> None:
        """Read and move the running means, episode by episode, before any group of the round is asked about."""
        self._found = {}
        turns: dict[tuple[int, str], list[Any]] = {}
        for group in groups if self.name == "rae" else ():
            for row in group.rows:
                turns.setdefault((row.episode, f"{row.family}/{group.role}"), []).append(row)
        for episode, key in sorted(turns):
            rows, before = turns[episode, key], self.values.get(key, 0.0)
            self._found |= {id(row): row.value - before for row in rows}
            mean = float(np.mean([row.value for row in rows]))
            self.values[key] = self.settings.decay * before + (1.0 - self.settings.decay) * mean

    def advantages(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """One number a row, for groups of one role."""
        if self.name == "critic":  # whose advantages take their place in the trainer
            return [np.ones(len(group.rows)) for group in groups]
        if self.name == "rae":
            return [np.array([self._found[id(row)] for row in group.rows]) for group in groups]
        if self.name == "leave_one_out":
            return [leave_one_out(group.values) for group in groups]
        if not groups:
            return []
        scale, floor = self.settings.scale, self.settings.role(groups[0].role).floor
        if self.name == "group":
            return [relative(group.values, scale, floor) for group in groups]
        found: dict[int, np.ndarray] = {}
        for kind in dict.fromkeys(group.stream for group in groups):  # one baseline a role and kind of problem (TRR++)
            mine = [i for i, group in enumerate(groups) if group.stream == kind]
            merged = relative([value for i in mine for value in groups[i].values], scale, floor)
            parts = np.split(merged, np.cumsum([len(groups[i].rows) for i in mine])[:-1])
            found |= dict(zip(mine, parts, strict=True))
        return [found[i] for i in range(len(groups))]

    def state(self) -> Any:
        """JSON-ready; see ``restore``."""
        return dict(self.values) if self.name == "rae" else None

    def restore(self, state: Any) -> None:
        """Go on from this state."""
        self.values = {str(key): float(value) for key, value in state.items()}


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


def whiten(x: torch.Tensor, masks: Iterable[torch.Tensor], total: Sum) -> torch.Tensor:
    """``x[B, T]`` at mean 0 and deviation 1 over each of the masks ``[B, T]``, of all processes together; else 0."""
    out = torch.zeros_like(x)
    for mask in masks:
        mean, variance = moments(x, mask, total)
        out = out + mask.to(x.dtype) * (x - mean) / (variance.sqrt() + 1e-4)
    return out
