"""What a learner does with the scores of a self-judging episode: groups, and the weights of the two losses."""

from __future__ import annotations

from collections.abc import Callable

from dream_envs.checks import check
from dream_envs.core import Episode
from dream_envs.registry import named

#: Progress of the run, 0 to 1, to the weights of the actor's and of the judge's loss.
SCHEDULES: dict[str, Callable[[float], tuple[float, float]]] = {
    "serl": lambda t: (min(t, 0.5), max(1.0 - min(t, 0.5), 0.5)),
    "equal": lambda t: (0.5, 0.5),
    "actor": lambda t: (1.0, 0.0),
    "judge": lambda t: (0.0, 1.0),
}


def role_weights(progress: float, schedule: str = "serl") -> dict[str, float]:
    """The weights of the two roles' losses at a share of the run, 0 to 1: ``actor * L_actor + judge * L_judge``.

    ``serl`` (its code, not its paper): actor ``min(progress, 1/2)``, judge ``max(1 - actor, 1/2)``: the judge is
    trained first, and both alike from half-way on.  ``equal``, ``actor`` and ``judge`` are constant.
    """
    actor, judge = named("schedules", schedule, SCHEDULES)(float(check("progress", progress, 0, 1)))
    return {"actor": actor, "judge": judge}


def groups(episode: Episode) -> dict[str, list[str]]:
    """The agents with an ``ok`` score by group, in seating order; groups are never empty and hold one role each.

    SERL's groups, by ``facts["groups"]``: the answers to a prompt; the judgements of a pair in both orders.
    """
    found: dict[str, list[str]] = {}
    for agent, name in episode.outcome.facts.get("groups", {}).items():
        score = episode.scores.get(agent)
        if score is not None and score.status == "ok":
            found.setdefault(name, []).append(agent)
    return found
