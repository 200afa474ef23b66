"""Where a recipe's problems come from that no challenger is trained to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

from dream_envs.agents.local import LocalAgent
from dream_envs.baselines.loop import Stand
from dream_envs.core import DreamEnvsError, Limits, Reject, Request, Task
from dream_envs.curriculum import gates
from dream_envs.seeds import digest, stream


def drawn(stand: Stand, depths: Sequence[int], count: int, seed: str) -> list[Task]:
    """``count`` problems of each depth from the family's generator: none of the yardstick's, none twice.

    Raises:
        DreamEnvsError: for a depth that the family does not have or that has too few problems.
    """
    reserved = {t.id for t in stand.yardstick.reserved()}
    found: dict[str, Task] = {}
    for depth in depths:
        rng, wanted = stream(seed, "prompts", depth), len(found) + count
        for _ in range(100 * count):
            task = stand.yardstick.family.generate(rng, depth)
            if task.id not in reserved and len(found) < wanted:
                found[task.id] = task
        if len(found) < wanted:
            raise DreamEnvsError(f"depth {depth} has fewer than {count} problems: ask for fewer prompts")
    return list(found.values())


def written(
    stand: Stand, agent: LocalAgent, count: int, seed: str, known: Container[str]
) -> tuple[list[Task], dict[str, int]]:
    """The problems that ``agent`` writes in ``count`` replies to the family's brief, which names no example.

    Args:
        stand: its yardstick's family and reserved problems.
        agent: who writes.
        count: replies.
        seed: the label of their draws.
        known: ids that are turned away as duplicates.

    Returns:
        The accepted ones, none twice, in the order they came; and how many replies were ``accepted`` or turned away,
        by reason.
    """
    family = stand.yardstick.family
    gate = gates.every(gates.held_out(stand.yardstick.reserved()), gates.archive(known))
    brief, limits = [{"role": "user", "content": family.brief()}], Limits(max_tokens=family.max_chars + 1)
    asked = [
        Request(messages=brief, agent="challenger_0", role="challenger", seed=digest(seed, i), limits=limits)
        for i in range(count)
    ]
    found: dict[str, Task] = {}
    reasons = Counter[str]()
    for reply in agent.act(asked):
        task = family.parse(reply.text)
        refused = task if isinstance(task, Reject) else gate(task)
        if isinstance(task, Reject) or refused is not None:
            reasons[refused.code if refused is not None else ""] += 1
        elif task.id in found:
            reasons["duplicate"] += 1
        else:
            found[task.id] = task
            reasons["accepted"] += 1
    return list(found.values()), dict(sorted(reasons.items()))
