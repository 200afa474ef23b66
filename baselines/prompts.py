"""Where a recipe's problems come from that no challenger is trained to write."""

from __future__ import annotations

from collections.abc import Sequence

from dream_envs.baselines.loop import Stand
from dream_envs.core import DreamEnvsError, Task
from dream_envs.seeds import stream


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
