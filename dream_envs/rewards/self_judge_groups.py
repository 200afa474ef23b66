"""What a learner does with the scores of a self-judging episode: groups, advantages, and the weights of the two losses.

SERL normalises an actor among the answers to its prompt and a judge among the judgements of its pair, both orders
together; ``facts["groups"]`` names the group of every agent, and no group holds two roles.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dream_envs.core import DreamEnvsError, Episode
from dream_envs.registry import unknown

#: Progress of the run, 0 to 1, to the weights of the actor's and of the judge's loss.
SCHEDULES: dict[str, Callable[[float], tuple[float, float]]] = {
    "serl": lambda t: (min(t, 0.5), max(1.0 - min(t, 0.5), 0.5)),
    "equal": lambda t: (0.5, 0.5),
    "actor": lambda t: (1.0, 0.0),
    "judge": lambda t: (0.0, 1.0),
}


def role_weights(progress: float, schedule: str = "serl") -> dict[str, float]:
    """The weights of the two roles' losses: ``total = actor * L_actor + judge * L_judge``.

    ``serl`` (its code, not its paper): actor ``min(progress, 1/2)``, judge ``max(1 - actor, 1/2)``: the judge is
    trained first, and both alike from half-way on.  ``equal``, ``actor`` and ``judge`` are constant.

    Args:
        progress: share of the run that is done, 0 to 1.
        schedule: a key of ``SCHEDULES``.

    Raises:
        DreamEnvsError: for a progress outside 0 to 1 or an unknown schedule.
    """
    if not 0 <= progress <= 1:
        raise DreamEnvsError(f"progress={progress!r}: 0 to 1, the share of the run that is done")
    if schedule not in SCHEDULES:
        raise DreamEnvsError(unknown("schedules", str(schedule), list(SCHEDULES)))
    actor, judge = SCHEDULES[schedule](float(progress))
    return {"actor": actor, "judge": judge}


def groups(episode: Episode) -> dict[str, list[str]]:
    """The agents with an ``ok`` score by group, in seating order; groups are never empty."""
    found: dict[str, list[str]] = {}
    for agent, name in episode.outcome.facts.get("groups", {}).items():
        score = episode.scores.get(agent)
        if score is not None and score.status == "ok":
            found.setdefault(name, []).append(agent)
    return found


def advantages(episode: Episode, *, eps: float = 1e-4, unbiased: bool = True) -> dict[str, float]:
    """``(r - mean) / (std + eps)`` within each group; agents without an ``ok`` score are left out, of the mean too.

    Args:
        episode: a scored episode with ``facts["groups"]``.
        eps: added to the deviation.
        unbiased: divide by n - 1 in the variance (torch's ``std``, which SERL uses).

    Returns:
        By agent; 0 for a group of one and for a group without variance.
    """
    found = {}
    for members in groups(episode).values():
        values = [episode.scores[agent].value for agent in members]
        mean = math.fsum(values) / len(values)
        below = len(values) - 1 if unbiased else len(values)
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / below) if below else 0.0
        for agent, value in zip(members, values, strict=True):
            found[agent] = (value - mean) / (spread + eps) if spread else 0.0
    return found


def zero_variance(episode: Episode) -> dict[str, tuple[int, int]]:
    """By role: how many of its groups of two or more have no variance in their scores, and how many there are."""
    found: dict[str, tuple[int, int]] = {}
    for name, members in groups(episode).items():
        if len(members) > 1:
            flat, total = found.get(role := name.partition(" ")[0], (0, 0))
            values = {episode.scores[agent].value for agent in members}
            found[role] = flat + (len(values) == 1), total + 1
    return found
