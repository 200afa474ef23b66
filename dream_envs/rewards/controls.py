"""Rewards that carry no information about the answers: what a loop gains under them is not learning from its reward.

Models may improve under them (Spurious Rewards, arXiv 2506.10947).  They too are pure functions of the episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dream_envs.core import Episode, Turn
from dream_envs.rewards.base import Combination, Scores, each, episode_key, reward, roles
from dream_envs.rewards.solver import check_pattern, format_reward
from dream_envs.seeds import digest, stream


@reward("random", within={"rate": (0, 1)})
def random_reward(episode: Episode, *, seed: str = "random", rate: float = 0.5, role: str | None = None) -> Scores:
    """1 with probability ``rate``, else 0, drawn from the episode's content, the agent's name and the label ``seed``.

    ``role``: who is scored; None: everybody who moved.
    """
    key = episode_key(episode)

    def drawn(turn: Turn) -> float:  # from a uniform number in [0, 1)
        return float((digest("random-reward", seed, key, turn.agent) >> 11) * 2.0**-53 < rate)

    return each(episode, role, drawn)


@reward("shuffled", models=("model",), batched=True)
def shuffled(episodes: Sequence[Episode], model: Any, *, seed: str = "shuffled") -> Combination:
    """The scores of ``model``, dealt out again among the agents of each role, by the episode's content.

    The distribution of rewards stays what it was, episode by episode and role by role; their link to the completions is
    cut.  A role with one seat keeps its score.  ``seed`` is the label of the shuffle.
    """
    (found,) = yield (model,)
    return [_dealt(episode, scores, seed) for episode, scores in zip(episodes, found, strict=True)]


def _dealt(episode: Episode, scores: Scores, seed: str) -> Scores:
    seated, key, found = roles(episode), episode_key(episode), dict(scores)
    for role in dict.fromkeys(seated.values()):
        agents = [agent for agent in seated if seated[agent] == role and agent in scores]
        order = stream("shuffled-reward", seed, key, role).permutation(len(agents))
        found |= {agent: scores[agents[i]] for agent, i in zip(agents, order, strict=True)}
    return found


@reward("format_only", prepare=check_pattern)
def format_only(episode: Episode, *, pattern: str | None = None) -> Scores:
    """Form and nothing else: solvers get ``format``, a challenger 1 for an accepted proposal, 0 for a rejected one."""
    valid = episode.outcome.facts.get("valid")
    proposed = each(episode, "challenger", lambda turn: None if valid is None else float(bool(valid)), "no proposal")
    return format_reward(pattern=pattern)(episode) | proposed
