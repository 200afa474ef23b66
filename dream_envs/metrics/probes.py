"""Frozen problems that models are asked again and again: the same problems, the same seeds, named by one hash."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import numpy as np

from dream_envs.core import AgentLike, DreamEnvsError, Limits, Request, Task, TaskFamily, content_hash
from dream_envs.frontier import _checks
from dream_envs.metrics.replies import Replies, replies
from dream_envs.play import as_agent, ask
from dream_envs.seeds import digest, stream

#: Requests of one call of an agent.
ROWS = 4096
_TRIES = 200


class Probe(msgspec.Struct, frozen=True):
    """One problem, the family that checks it, and the suite it is counted in."""

    task: Task
    family: TaskFamily
    suite: str


class ProbeSet(msgspec.Struct, frozen=True):
    """Problems in a fixed order.  ``seed`` labels the draws, so two checkpoints are asked with the same randomness."""

    probes: tuple[Probe, ...]
    seed: str

    @property
    def hash(self) -> str:
        """16 hex digits that name the problems, their order, their suites and the seed of the draws."""
        parts = [part for p in self.probes for part in (p.suite, p.family.name, str(p.family.version), p.task.id)]
        return content_hash(self.seed, *parts)

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites, in the order they first occur."""
        return tuple(dict.fromkeys(p.suite for p in self.probes))

    def rows(self, suite: str) -> np.ndarray:
        """Indices of a suite's problems."""
        return np.flatnonzero([p.suite == suite for p in self.probes])

    def ids(self) -> frozenset[str]:
        """Ids of all problems, for a gate that keeps them out of training."""
        return frozenset(p.task.id for p in self.probes)


def probe_set(
    suites: Sequence[tuple[str, TaskFamily, Sequence[int]]], per_level: int, seed: str, avoid: Collection[str] = ()
) -> ProbeSet:
    """Draw a set: ``per_level`` different problems of each level, from ``seed`` and nothing else.

    Args:
        suites: (name, family, levels); the names are different.
        per_level: problems a level; a level that has fewer gives those.
        seed: label; a suite's problems do not depend on the other suites.
        avoid: ids that must not be in it (training problems, say).

    Raises:
        DreamEnvsError: for two suites of one name, or a level without a problem that may be taken.
    """
    _checks.whole("per_level", per_level, 1)
    names = [name for name, _, _ in suites]
    if not names or len({*names}) < len(names):
        raise DreamEnvsError(f"suites {names}: at least one, each name once")
    found: list[Probe] = []
    for name, family, levels in suites:
        for level in levels:
            rng, there = stream("probe-set", seed, name, family.name, level), {}
            for _ in range(_TRIES * per_level):
                task = family.generate(rng, level)
                if task.id not in avoid:
                    there[task.id] = task
                if len(there) == per_level:
                    break
            if not there:
                raise DreamEnvsError(f"suite {name!r}, level {level}: every problem is among those to avoid")
            found += [Probe(task, family, name) for task in there.values()]
    return ProbeSet(tuple(found), seed)


def draw(agent: AgentLike, probes: ProbeSet, draws: int, *, role: str = "solver") -> Replies:
    """Ask every problem ``draws`` times; draw i of a problem has the same seed whoever is asked, and whenever.

    Args:
        agent: an Agent, a function, or a registered name; its weights and any generator of its own stay as they are.
        probes: the problems.
        draws: replies a problem.
        role: the role it is asked in.

    Raises:
        DreamEnvsError: if a reply does not come (status other than ``ok``): a failed engine is no wrong answer.
    """
    _checks.whole("draws", draws, 1)
    asked = as_agent(agent)
    requests = [
        Request(
            messages=[{"role": "user", "content": p.task.prompt}],
            agent=f"{role}_0",
            role=role,
            seed=digest("probe", probes.seed, p.task.id, i),
            limits=Limits(max_tokens=p.family.max_reply_tokens),
        )
        for p in probes.probes
        for i in range(draws)
    ]
    actions = [a for at in range(0, len(requests), ROWS) for a in ask(asked, requests[at : at + ROWS])]
    if failed := sum(a.status != "ok" for a in actions):
        raise DreamEnvsError(f"{failed} of {len(actions)} probes have no reply: see to the engine and ask again")
    texts = [[a.text for a in actions[i : i + draws]] for i in range(0, len(actions), draws)]
    return replies(texts, tasks=[p.task for p in probes.probes], family=[p.family for p in probes.probes])


def scores(agent: AgentLike, probes: ProbeSet, draws: int = 1, *, role: str = "solver") -> dict[str, np.ndarray]:
    """For each suite ``float64[N]``, the share of right replies to each problem; arguments as in ``draw``."""
    right = draw(agent, probes, draws, role=role).right
    assert right is not None
    means = np.array([np.mean(row) for row in right])
    return {suite: means[probes.rows(suite)] for suite in probes.suites}
