"""Rewards that carry no information about the answers: what a loop gains under them is not learning from its reward.

Spurious Rewards (arXiv 2506.10947) found models that improve under random and under format rewards, so that a claim
about a reward needs these controls beside it.  They are pure functions of the episode: scoring a run again gives the
same numbers, although nothing in the completion decides them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dream_envs.checks import check
from dream_envs.core import Episode, Score
from dream_envs.rewards.base import (
    Combination,
    Scores,
    agents_of,
    episode_key,
    last_turns,
    rejected,
    reward,
    roles,
    unanswered,
)
from dream_envs.rewards.solver import check_pattern, format_reward
from dream_envs.seeds import digest, stream


def _check_random(given: dict[str, Any]) -> dict[str, Any]:
    check("rate", given["rate"], 0, 1, what="the probability of a 1")
    return given


@reward("random", prepare=_check_random)
def random_reward(episode: Episode, *, seed: str = "random", rate: float = 0.5, role: str | None = None) -> Scores:
    """1 with probability ``rate``, else 0, drawn from the episode's content, the agent's name and the label ``seed``.

    ``role``: who is scored; None: everybody who moved.
    """
    key, found = episode_key(episode), {}
    moved = {turn.agent: turn for turn in episode.turns}
    for agent, its in roles(episode).items():
        if role is not None and its != role:
            continue
        turn = moved.get(agent)
        if turn is None or turn.status != "ok":
            found[agent] = unanswered(turn, rejected(episode))
        else:
            draw = (digest("random-reward", seed, key, agent) >> 11) * 2.0**-53  # uniform in [0, 1)
            found[agent] = Score(float(draw < rate))
    return found


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
    found = format_reward(pattern=pattern)(episode)
    turns, valid = last_turns(episode, "challenger"), episode.outcome.facts.get("valid")
    for agent in agents_of(episode, "challenger"):
        turn = turns.get(agent)
        failed = turn is None or turn.status != "ok" or valid is None
        found[agent] = unanswered(turn, "", "no proposal") if failed else Score(1.0 if valid else 0.0)
    return found
