"""What a sampled completion is compared with: the baselines of the policy-gradient learners, as plain functions.

``relative`` (GRPO) and ``leave_one_out`` (RLOO) compare with the other completions of a group and give one number a
row; ``gae`` (PPO) compares with a learnt value and gives one a token.  Groups and roles are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

#: Sums a tensor over all processes; the identity where there is one.
Sum = Callable[[torch.Tensor], torch.Tensor]


def relative(values: Sequence[float], scale: bool) -> np.ndarray:
    """Values minus their mean, over their standard deviation if ``scale`` (GRPO; Dr. GRPO leaves it out)."""
    array = np.asarray(values, dtype=np.float64)
    centred = array - array.mean()
    return centred / (array.std() + 1e-4) if scale else centred


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
