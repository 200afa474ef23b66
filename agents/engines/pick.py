"""Which token comes next: temperature, nucleus and floor, and ids that may not stand at a position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dream_envs.core import DreamEnvsError

#: For each row None (free), or for each position the ids that may stand there (None: any).
Allowed = Sequence[Sequence[Sequence[int] | None] | None]


def pick(
    logits: Tensor, draw: Tensor, temperature: float, top_p: float = 1.0, min_p: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Invert the cumulative distribution at ``draw[B]``: tokens ``[B]`` and their log-probabilities ``[B]``.

    With ``top_p`` < 1 only the smallest set of most likely tokens with at least this mass is left, with ``min_p`` > 0
    only tokens at least ``min_p`` times as likely as the most likely one; with both, what is in both sets (both of the
    tempered distribution: the order of transformers' warpers, in which ``min_p`` comes last, gives the same).
    """
    logits = logits.float()
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(draw, dtype=torch.float32)
    logp = torch.log_softmax(logits / temperature, -1)
    if top_p < 1 or min_p > 0:
        logp = torch.log_softmax(truncated(logp, top_p, min_p), -1)
    cumulative = logp.exp().double().cumsum(-1)
    tokens = (cumulative <= (draw * cumulative[:, -1])[:, None]).sum(-1)
    return tokens, logp.gather(-1, tokens[:, None])[:, 0]


def truncated(logp: Tensor, top_p: float, min_p: float) -> Tensor:
    """``logp[B, V]`` with -inf for what the nucleus or the floor leaves out; the most likely token always stays."""
    out = torch.zeros_like(logp, dtype=torch.bool)
    if min_p > 0:
        out |= logp < logp.amax(-1, keepdim=True) + math.log(min_p)
    if top_p < 1:
        ranked, places = torch.sort(logp, dim=-1, descending=True, stable=True)
        mass = ranked.exp().double()
        above = mass.cumsum(-1) - mass  # the mass of all that is more likely
        late = above >= top_p
        late[:, 0] = False
        out |= torch.zeros_like(out).scatter(-1, places, late)
    return logp.masked_fill(out, -math.inf)


class Barred:
    """Which ids may not stand where: one row of a table for each different list of allowed ids."""

    def __init__(self, given: Allowed, order: np.ndarray, steps: int, size: int, device: torch.device | str) -> None:
        if len(given) != len(order):
            raise DreamEnvsError(f"allowed has {len(given)} rows for {len(order)} prompts: one a prompt, None for free")
        allowed = [given[i] for i in order]
        table = [torch.zeros(size, dtype=torch.bool)]
        lists: dict[tuple[int, ...], int] = {}
        plan = np.zeros((len(allowed), steps), dtype=np.int64)
        seen: dict[int, int] = {}  # rows often share one list
        for i, row in enumerate(allowed):
            if row is None:
                continue
            if (first := seen.setdefault(id(row), i)) != i:
                plan[i] = plan[first]
                continue
            for k, ids in enumerate(row[:steps]):
                if ids is None:
                    continue
                key = tuple(ids)
                if not key or min(key) < 0 or max(key) >= size:
                    raise DreamEnvsError(
                        f"allowed[{i}][{k}]={list(key)}: one or more ids from 0 to {size - 1}, or None"
                    )
                if key not in lists:
                    lists[key] = len(table)
                    table.append(torch.ones(size, dtype=torch.bool).index_fill(0, torch.tensor(key), False))
                plan[i, k] = lists[key]
        self._table = torch.stack(table).to(device)
        self._plan = torch.from_numpy(plan).to(device)
        self._bound = [bool(column.any()) for column in plan.T]

    def mask(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """``logits[R, V]`` of these rows at this step, -inf where barred."""
        if not self._bound[step]:
            return logits
        return logits.float().masked_fill(self._table[self._plan[rows, step]], -math.inf)
