"""Scores of a whole round at once: what ``Practice(regrade=...)`` takes, for rewards that compare episodes."""

from __future__ import annotations

import msgspec

from dream_envs.core import Episode
from dream_envs.curriculum.curriculum import author_of
from dream_envs.rewards.base import agents_of
from dream_envs.rewards.diversity import repetition_penalty


def less_repetition(episodes: list[Episode], *, distance: float = 0.5, floor: float = 0.0) -> list[Episode]:
    """The challenger's ok scores less the share of the round's own proposals that is like its own (R-Zero).

    Args:
        episodes: a round; problems that were given are left as they are.
        distance: see ``rewards.diversity.repetition_penalty``.
        floor: the least that a score becomes.

    Returns:
        The same episodes in the same order; what was changed has the components ``before`` and ``cluster_share``.
    """
    own = [e for e in episodes if author_of(e) == "challenger" and e.turns]
    shares = repetition_penalty([e.turns[0].text for e in own], distance=distance)
    made = {}
    for episode, share in zip(own, shares, strict=True):
        scores = dict(episode.scores)
        for agent in agents_of(episode, "challenger"):
            score = scores.get(agent)
            if score is not None and score.status == "ok":
                parts = {**score.components, "before": score.value, "cluster_share": share}
                value = max(floor, score.value - share)
                scores[agent] = msgspec.structs.replace(score, value=value, components=parts)
        made[episode.index] = msgspec.structs.replace(episode, scores=scores)
    return [made.get(e.index, e) for e in episodes]
