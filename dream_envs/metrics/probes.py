"""Frozen problems that models are queried on again and again: the same problems, the same seeds, named by one hash."""

from __future__ import annotations

import msgspec

from dream_envs.core import AgentLike, DreamEnvsError, Limits, Request, Task, TaskFamily, content_hash
from dream_envs.metrics.replies import Replies, replies
from dream_envs.play import as_agent, ask
from dream_envs.seeds import digest

#: Requests of one call of an agent.
ROWS = 4096


class Probe(msgspec.Struct, frozen=True):
    """One problem, the family that checks it, and the suite it is counted in."""

    task: Task
    family: TaskFamily
    suite: str


class ProbeSet(msgspec.Struct, frozen=True):
    """Problems in a fixed order; ``seed`` labels the samples, so that two checkpoints get the same randomness."""

    probes: tuple[Probe, ...]
    seed: str

    @property
    def hash(self) -> str:
        """16 hex digits that name the problems, their order, their suites and the seed of the samples."""
        parts = [part for p in self.probes for part in (p.suite, p.family.name, str(p.family.version), p.task.id)]
        return content_hash(self.seed, *parts)


def draw(agent: AgentLike, probes: ProbeSet, draws: int) -> Replies:
    """``draws`` completions of every problem; sample i of a problem has the same seed for every agent.

    Raises:
        DreamEnvsError: if a completion does not come (status other than ``ok``): a failed engine is no wrong answer.
    """
    requests = [
        Request(
            messages=[{"role": "user", "content": p.task.prompt}],
            agent="solver_0",
            role="solver",
            seed=digest("probe", probes.seed, p.task.id, i),
            limits=Limits(max_tokens=p.family.max_reply_tokens),
        )
        for p in probes.probes
        for i in range(draws)
    ]
    queried = as_agent(agent)
    actions = [a for at in range(0, len(requests), ROWS) for a in ask(queried, requests[at : at + ROWS])]
    if failed := sum(a.status != "ok" for a in actions):
        raise DreamEnvsError(f"{failed} of {len(actions)} probes have no reply: see to the engine and ask again")
    texts = [[a.text for a in actions[i : i + draws]] for i in range(0, len(actions), draws)]
    return replies(texts, tasks=[p.task for p in probes.probes], families=[p.family for p in probes.probes])
