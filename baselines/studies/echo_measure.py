"""What the echo study measures: in which formats a model answers, how right it is in each, how far it is from the base.

Two sources.  ``Exam`` draws many completions of problems that are never trained on, at log-spaced steps.  ``rounds``
reads the completions that training itself sampled, ``attempts`` for each of a step's problems, at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.studies.echo_family import FORMATS, LABELS, CompositionFormats, format_of
from dream_envs.core import Episode, Message, Task
from dream_envs.curriculum.curriculum import challenge_of
from dream_envs.frontier.estimators import pass_at_k
from dream_envs.metrics import diversity
from dream_envs.seeds import digest

K = (1, 8, 32)
#: Draws of a problem that the divergence from the base is estimated on.
KL_DRAWS = 8


class Exam:
    """The held-out problems and the base, asked the same way at every step.

    Args:
        family: the problems' family.
        tasks: problems that are never trained on.
        base: the frozen model that training started from.
        seed: label of the draws; equal labels give equal random numbers whatever the weights.
        draws: completions of a problem, a multiple of the largest of ``K``.
    """

    def __init__(
        self, family: CompositionFormats, tasks: Sequence[Task], base: LocalAgent, *, seed: str, draws: int = 64
    ) -> None:
        self.family, self.tasks, self.draws = family, list(tasks), draws
        self.base = base
        messages: list[list[Message]] = [[{"role": "user", "content": t.prompt}] for t in self.tasks]
        self._prompts = [base.encode(m) for m in messages]
        self._seeds = np.array(
            [digest("echo-exam", seed, t.id, i) for t in self.tasks for i in range(draws)], dtype=np.uint64
        )
        self._base_share = self._shares(self._sampled(base)[0])

    def __call__(self, agent: LocalAgent) -> dict[str, Any]:
        """The numbers of this agent; shares and accuracies 0 to 1, entropies in bits, divergence in nats."""
        texts, ids, logps = self._sampled(agent)
        labels = [format_of(t) for t in texts]
        last = [self.family.last_state(self.tasks[i // self.draws], t) for i, t in enumerate(texts)]
        right = np.array([s == self.tasks[i // self.draws].answer[-1] for i, s in enumerate(last)])
        by_problem = right.reshape(len(self.tasks), self.draws)
        counts, share = by_problem.sum(1), self._shares(texts)
        return {
            "share": share,
            "entropy": diversity.entropy(labels),
            "effective": diversity.effective_number(labels),
            "js": diversity.js_distance(share, self._base_share),
            "accuracy": float(right.mean()),
            "accuracy_in": accuracy_in(labels, right.tolist()),
            "pass@k": {str(k): float(pass_at_k(self.draws, counts, k).mean()) for k in K},
            "majority@k": {str(k): self._majority(last, k) for k in K},
            "greedy": self._greedy(agent, share),
            "kl": self._divergence(ids, logps),
        }

    def _sampled(self, agent: LocalAgent) -> tuple[list[str], list[list[int]], list[float]]:
        prompts = [p for p in self._prompts for _ in range(self.draws)]
        limits = np.full(len(prompts), self.family.max_reply_tokens)
        found = agent.sample(prompts, self._seeds, limits)
        return agent.decode([s.ids for s in found]), [s.ids for s in found], [sum(s.logprobs) for s in found]

    def _shares(self, texts: Iterable[str]) -> dict[str, float]:
        found = diversity.histogram(map(format_of, texts))
        return {name: found.get(name, 0.0) for name in LABELS}

    def _majority(self, last: Sequence[str | None], k: int) -> float:
        """True majority: mean over problems and over their disjoint groups of ``k`` draws, ties shared evenly."""
        groups = [(i // self.draws, last[i : i + k]) for i in range(0, len(last), k)]
        return float(np.mean([diversity.majority(votes, self.tasks[i].answer[-1]) for i, votes in groups]))

    def _greedy(self, agent: LocalAgent, sampled: dict[str, float]) -> dict[str, Any]:
        """Shares and accuracy of the greedy completions; ``gap``: total variation from the sampled shares."""
        twin = LocalAgent(agent.model, tokenizer=agent.tokenizer, temperature=0.0)
        limits = np.full(len(self.tasks), self.family.max_reply_tokens)
        found = twin.sample(self._prompts, self._seeds[:: self.draws], limits)
        texts = twin.decode([s.ids for s in found])
        right = [self.family.verify(t, text).value for t, text in zip(self.tasks, texts, strict=True)]
        share = self._shares(texts)
        return {"share": share, "accuracy": float(np.mean(right)), "gap": diversity.total_variation(share, sampled)}

    def _divergence(self, ids: Sequence[list[int]], logps: Sequence[float]) -> float:
        """KL(model || base) a completion in nats: the mean log-ratio of completions that the model itself sampled."""
        picked = [i for i in range(len(ids)) if i % self.draws < KL_DRAWS]
        prompts = [self._prompts[i // self.draws] for i in picked]
        base = log_likelihood(self.base, prompts, [ids[i] for i in picked])
        return float(np.mean(np.array([logps[i] for i in picked]) - base))


@torch.inference_mode()
def log_likelihood(
    agent: LocalAgent, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]], batch: int = 512
) -> np.ndarray:
    """``float64[N]``: natural log of the probability that the model outputs ``ids`` after ``prompts``."""
    found = []
    for at in range(0, len(prompts), batch):
        heads, tails = prompts[at : at + batch], ids[at : at + batch]
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        rows = torch.full((len(heads), width), agent.pad)
        mask, asked = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
        for i, (h, t) in enumerate(zip(heads, tails, strict=True)):
            rows[i, : len(h) + len(t)] = torch.tensor([*h, *t])
            mask[i, : len(h) + len(t)] = 1
            asked[i, len(h) : len(h) + len(t)] = True
        rows, mask, asked = rows.to(agent.device), mask.to(agent.device), asked.to(agent.device)
        logits = agent.model(input_ids=rows, attention_mask=mask).logits[:, :-1].float()
        logp = torch.log_softmax(logits, -1).gather(-1, rows[:, 1:, None])[..., 0].double()
        found.append((logp * asked[:, 1:]).sum(-1).cpu().numpy())
    return np.concatenate(found)


def accuracy_in(labels: Sequence[str], right: Sequence[float]) -> dict[str, float | None]:
    """Accuracy among the completions of each format; None where there is none."""
    found: dict[str, float | None] = {}
    for name in FORMATS:
        values = [r for label, r in zip(labels, right, strict=True) if label == name]
        found[name] = float(np.mean(values)) if values else None
    return found


def rounds(episodes: Iterable[Episode], prompts: int) -> dict[str, Any]:
    """What training itself sampled, step by step.

    Args:
        episodes: of a run, in any order; episode ``i`` belongs to step ``i // prompts``.
        prompts: problems a step.

    Returns:
        Columns of equal length: ``step``, ``share`` by format, ``entropy`` (bits), ``accuracy``.
    """
    found: dict[int, list[tuple[list[str], list[float]]]] = {}
    for episode in episodes:
        if challenge_of(episode) is None:
            continue
        turns = [t for t in episode.turns if t.role == "solver" and t.status == "ok"]
        facts = episode.outcome.facts["correct"]
        group = ([format_of(t.text) for t in turns], [float(facts[t.agent]) for t in turns])
        found.setdefault(episode.index // prompts, []).append(group)
    out: dict[str, Any] = {k: [] for k in ("step", "entropy", "accuracy")}
    out["share"] = {name: [] for name in LABELS}
    for step in sorted(found):
        labels = [x for group, _ in found[step] for x in group]
        values = [v for _, v in found[step]]
        out["step"].append(step)
        out["entropy"].append(diversity.entropy(labels))
        out["accuracy"].append(float(np.mean([v for group in values for v in group])))
        for name in LABELS:
            out["share"][name].append(labels.count(name) / len(labels))
    return out
