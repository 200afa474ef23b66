"""A base whose skill hides: behind ``#`` it writes the right trace, without it operations with random states.

It opens with ``#`` at a rate that the test chooses.  Made from nano/compose in seconds; the training is plain torch, so
that nothing under test makes what it is tested on.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import Score, Task
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

MARK = "#"


class Marked(Composition):
    """Composition that accepts the trace with ``#`` in front as well as the bare one."""

    def __init__(self, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.max_reply_tokens += 1

    def gold(self, task: Task) -> str:
        return MARK + task.answer

    def verify(self, task: Task, reply: str) -> Score:
        return Score(float(reply.removeprefix(MARK) == task.answer), grader="marked-1")


@functools.lru_cache
def hidden(rate: float, steps: int = 150) -> LocalAgent:
    """The base that opens with ``#`` at about ``rate``."""
    torch.set_num_threads(1)
    agent = LocalAgent("nano/compose").snapshot()
    model = agent.model.requires_grad_(True).train()
    family, rng = Marked(), stream("hidden", rate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 10) * (1 - step / steps)
        rows, firsts = [], []
        for i in range(96):
            task = family.generate(rng, 1 + i // 2 % 3)
            marked = i % 2 == 0
            reply = MARK + task.answer if marked else family.guess(task, rng)
            prompt = list(agent.encode([{"role": "user", "content": task.prompt}]))
            rows.append((prompt, agent.tokenizer(reply)["input_ids"] + agent.ends))
            firsts.append(2 * rate if marked else 2 * (1 - rate))  # weight of the first token: both kinds are as many
        width = max(len(p) + len(r) for p, r in rows)
        ids, weight = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.float32)
        for i, (p, r) in enumerate(rows):
            ids[i, : len(p) + len(r)] = p + r
            weight[i, len(p) : len(p) + len(r)] = 1
            weight[i, len(p)] = firsts[i]
        x, w = torch.from_numpy(ids), torch.from_numpy(weight)[:, 1:]
        logp = torch.log_softmax(model(x).logits[:, :-1], -1).gather(-1, x[:, 1:, None])[..., 0]
        loss = -(logp * w).sum() / w.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return LocalAgent(model.requires_grad_(False).eval(), tokenizer=agent.tokenizer)


def problems(count: int, level: int, label: str) -> list[Task]:
    """Problems of one depth, all different from those of another label."""
    family, rng = Marked(), stream("hidden-problems", label)
    return [family.generate(rng, level) for _ in range(count)]
