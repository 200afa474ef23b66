"""CoT-decoding: every first token among the k most likely gets its turn (Wang and Zhou, arXiv 2402.10200).

A base whose best way of answering begins with an unlikely token shows it as soon as that token is forced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dream_envs.agents.engines.decode import left_padded
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import Action, DreamEnvsError, Request, Usage
from dream_envs.seeds import digest


class CotDecoding:
    """An agent that branches on the first token and goes on from there as ``agent`` decodes.

    A request takes one of the k likeliest first tokens (end tokens do not count), all alike likely, by its own seed:
    completions of a prompt are independent and identically distributed.
    """

    def __init__(self, agent: LocalAgent, k: int = 16) -> None:
        size = agent.model.config.get_text_config().vocab_size - len(agent.ends)
        if not 1 <= k <= size:
            raise DreamEnvsError(f"k={k}: 1 to {size}, the model's tokens")
        if agent.form is not None:
            raise DreamEnvsError("CoT-decoding chooses the first token itself: give it an agent without a form")
        self.agent, self.k = agent, k

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """A completion of each request; log-probabilities are those of the branching policy."""
        prompts = [self.agent.encode(r.messages) for r in requests]
        branches = self.branches(prompts)
        chosen = [f[digest("branch", r.seed) * len(f) >> 64] for r, f in zip(requests, branches, strict=True)]
        seeds = np.array([r.seed for r in requests], dtype=np.uint64)
        limits = np.array([r.limits.max_tokens for r in requests])
        allowed = [[[first]] for first in chosen]
        samples = self.agent.sample(prompts, seeds, limits, allowed, self.agent.expected(requests))
        texts = self.agent.decode([s.ids for s in samples])
        return [
            Action(text, s.ids, [-float(np.log(len(f))), *s.logprobs[1:]], Usage(len(prompt), len(s.ids)))
            for text, s, prompt, f in zip(texts, samples, prompts, branches, strict=True)
        ]

    def stopping(self, accepted: Callable[[Request], str]) -> CotDecoding:
        """The same policy that stops a completion where it leaves the only accepted one; see ``LocalAgent``."""
        twin = copy.copy(self)
        twin.agent = self.agent.stopping(accepted)
        return twin

    def branches(self, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """The k most likely first tokens of each prompt, the likeliest first."""
        unique = list(dict.fromkeys(prompts))
        found: dict[tuple[int, ...], list[int]] = {}
        for at in range(0, len(unique), 256):
            part = unique[at : at + 256]
            ends = torch.tensor(self.agent.ends, device=self.agent.device)
            logits = self._first_logits(part).index_fill(-1, ends, -torch.inf)
            ranked = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, : self.k].tolist()
            found.update(zip(part, ranked, strict=True))
        return [found[p] for p in prompts]

    @torch.inference_mode()
    def _first_logits(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        ids, mask = left_padded(prompts, self.agent.pad, self.agent.device)
        ones = torch.ones(len(prompts), dtype=torch.long, device=self.agent.device)
        return self.agent.engine().prefill(ids, mask, ones, 1).float()
