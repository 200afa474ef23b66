"""CoT-decoding: every first token among the k most likely gets its turn (Wang and Zhou, arXiv 2402.10200).

A base whose best way of answering begins with an unlikely token shows it as soon as that token is forced.  The paper
goes on greedily behind each of the k first tokens and keeps the path whose answer the model is surest of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dream_envs.agents.engines.decode import Sample, left_padded
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import Action, DreamEnvsError, Request, Usage
from dream_envs.seeds import digest

#: The part of a reply that is its answer: (first character, one past the last).
Span = Callable[[str], tuple[int, int]]
_BATCH = 8  # logits of whole paths: a gigabyte where the vocabulary is large


class CotDecoding:
    """An agent that branches on the first token.

    For draws (``pick=False``) a request takes one of the k branches, all alike likely, by its own seed, and goes on
    from there as the agent decodes: replies to a prompt are independent and identically distributed.  With
    ``pick=True`` all k branches are followed greedily and the one with the largest ``Delta`` is the reply, the same
    for every seed.

    Args:
        agent: the base.
        k: how many first tokens; end tokens do not count (an empty reply is no path).
        greedy: go on greedily behind the first token instead of sampling.
        pick: see above.
        answer: for ``pick``, which part of a reply is the answer; None is all that follows the first token.
    """

    def __init__(
        self, agent: LocalAgent, k: int = 16, *, greedy: bool = False, pick: bool = False, answer: Span | None = None
    ) -> None:
        size = agent.model.config.get_text_config().vocab_size - len(agent.ends)
        if not 1 <= k <= size:
            raise DreamEnvsError(f"k={k}: 1 to {size}, the model's tokens")
        if agent.form is not None:
            raise DreamEnvsError("CoT-decoding chooses the first token itself: give it an agent without a form")
        self.agent = agent.decoding(temperature=0.0) if greedy or pick else agent
        self.k, self.pick, self.answer = k, pick, answer

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """A reply to each request; log-probabilities are those of the branching policy."""
        prompts = [self.agent.encode(r.messages) for r in requests]
        firsts = self.branches(prompts)
        if self.pick:
            return self._surest(requests, prompts, firsts)
        chosen = [f[digest("branch", r.seed) * len(f) >> 64] for r, f in zip(requests, firsts, strict=True)]
        samples = self._paths(requests, prompts, chosen)
        texts = self.agent.decode([s.ids for s in samples])
        return [
            _action(text, s, prompt, len(f)) for text, s, prompt, f in zip(texts, samples, prompts, firsts, strict=True)
        ]

    def stopping(self, accepted: Callable[[Request], str]) -> CotDecoding:
        """The same policy that stops a reply where it leaves the only accepted one; see ``LocalAgent.stopping``."""
        if self.pick:
            raise DreamEnvsError("pick compares whole paths: it cannot stop early")
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

    def _paths(
        self, requests: Sequence[Request], prompts: Sequence[tuple[int, ...]], firsts: Sequence[int]
    ) -> list[Sample]:
        seeds = np.array([r.seed for r in requests], dtype=np.uint64)
        limits = np.array([r.limits.max_tokens for r in requests])
        allowed = [[[first]] for first in firsts]
        return self.agent.sample(prompts, seeds, limits, allowed, self.agent.expected(requests))

    def _surest(
        self, requests: Sequence[Request], prompts: Sequence[tuple[int, ...]], firsts: Sequence[Sequence[int]]
    ) -> list[Action]:
        """All branches of all different requests in one batch; of each the surest path."""
        keys = [(p, r.limits.max_tokens) for p, r in zip(prompts, requests, strict=True)]
        asked = {key: i for i, key in reversed(list(enumerate(keys)))}  # the first request of each key
        rows = [(i, first) for i in asked.values() for first in firsts[i]]
        paths = [prompts[i] for i, _ in rows]
        samples = self._paths([requests[i] for i, _ in rows], paths, [first for _, first in rows])
        texts = self.agent.decode([s.ids for s in samples])
        delta = self.confidence(paths, samples, texts)
        best: dict[int, int] = {}
        for row, (i, _) in enumerate(rows):
            if i not in best or delta[row] > delta[best[i]]:
                best[i] = row
        chosen = [best[asked[key]] for key in keys]
        return [_action(texts[row], samples[row], paths[row], 1) for row in chosen]

    @torch.inference_mode()
    def confidence(
        self, prompts: Sequence[tuple[int, ...]], samples: Sequence[Sample], texts: Sequence[str]
    ) -> np.ndarray:
        """The paper's ``Delta`` of each path: mean over the answer's tokens of p(likeliest) - p(second), in [0, 1].

        The first token is not counted where it was forced; a path without an answer has -1.
        """
        found = []
        for at in range(0, len(samples), _BATCH):
            part = samples[at : at + _BATCH]
            logits = self.agent.read(prompts[at : at + _BATCH], [s.ids for s in part]).logits
            top = torch.softmax(logits.float(), -1).topk(2, -1).values
            margins = (top[..., 0] - top[..., 1]).cpu().numpy()
            for i, s in enumerate(part):
                start = len(prompts[at + i]) - 1
                row = margins[i, start : start + len(s.ids)]
                inside = self._inside(s, texts[at + i])
                found.append(float(row[inside].mean()) if inside.any() else -1.0)
        return np.array(found)

    def _inside(self, sample: Sample, text: str) -> np.ndarray:
        """``bool[T]``: which tokens of a path are its answer's."""
        if self.answer is None:
            return np.arange(len(sample.ids)) > 0
        start, stop = self.answer(text)
        ends = [len(t) for t in self.agent.decode([sample.ids[: i + 1] for i in range(len(sample.ids))])]
        begins = [0, *ends[:-1]]
        return np.array([b < stop and e > start for b, e in zip(begins, ends, strict=True)])


def _action(text: str, sample: Sample, prompt: Sequence[int], branches: int) -> Action:
    """The first token was drawn from ``branches`` alike, which is its log-probability."""
    logprobs = [-float(np.log(branches)), *sample.logprobs[1:]]
    return Action(text, sample.ids, logprobs, Usage(len(prompt), len(sample.ids)))
