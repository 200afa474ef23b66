"""Wrappers around another reward that compare the episodes of a round, or keep only some of its scores.

A changed score has the component ``before``, what is left out the status ``abstain``; all else is passed on as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

from dream_envs.core import Episode, Score, author_of, challenge_of
from dream_envs.rewards.algebra import ordered
from dream_envs.rewards.base import Combination, Scores, agents_of, revalued, reward
from dream_envs.rewards.diversity import repetition_penalty

_RANGE = {"low": (None, None), "high": (None, None)}


@reward("less_repetition", within={"distance": (0, 1), "floor": (None, None)}, models=("model",), batched=True)
def less_repetition(
    episodes: Sequence[Episode], model: Any, *, distance: float = 0.5, floor: float = 0.0, role: str = "challenger"
) -> Combination:
    """The ok scores of ``role`` less the share of the round's own proposals that is like its own (R-Zero).

    Problems that were given (a mutation, a replay) are neither counted nor changed.  ``distance``: see
    ``repetition_penalty``.  ``floor``: the least that a score becomes.  Component ``cluster_share``.
    """
    (found,) = yield (model,)
    own = [i for i, episode in enumerate(episodes) if author_of(episode) == "challenger" and episode.turns]
    shares = repetition_penalty([episodes[i].turns[0].text for i in own], distance=distance)
    made = [dict(scores) for scores in found]
    for i, share in zip(own, shares, strict=True):
        for agent, score in _ok(episodes[i], made[i], role).items():
            made[i][agent] = _changed(score, max(floor, score.value - share), cluster_share=share)
    return made


@reward("shared", models=("model",), batched=True)
def shared(episodes: Sequence[Episode], model: Any, *, role: str = "challenger") -> Combination:
    """The value of a problem that was proposed several times in the round is divided among its copies.

    Only positive values are shared (a penalty is nobody's to share), and only the policy's own proposals count:
    problems that were given do not.  Component ``copies``.
    """
    (found,) = yield (model,)
    own = {i: challenge_of(episode) for i, episode in enumerate(episodes) if author_of(episode) == "challenger"}
    copies = Counter(challenge.id for challenge in own.values() if challenge is not None)
    made = [dict(scores) for scores in found]
    for i, challenge in own.items():
        count = copies[challenge.id] if challenge is not None else 1
        for agent, score in _ok(episodes[i], made[i], role).items():
            if count > 1 and score.value > 0:
                made[i][agent] = _changed(score, score.value / count, copies=float(count))
    return made


@reward("in_range", within=_RANGE, prepare=ordered("low", "high"), models=("model",), batched=True)
def in_range(episodes: Sequence[Episode], model: Any, low: float, high: float, *, role: str = "solver") -> Combination:
    """Only episodes whose mean ok value of ``role`` lies in ``low`` to ``high``, inclusive, keep their scores (SeRL).

    What is always or never right teaches nothing.  An episode without an ok value of the role is left as it is.
    """
    (found,) = yield (model,)
    made: list[Scores] = []
    for episode, scores in zip(episodes, found, strict=True):
        values = [score.value for score in _ok(episode, scores, role).values()]
        mean = sum(values) / len(values) if values else 0.0
        out = scores if values and not low - 1e-9 <= mean <= high + 1e-9 else ()
        made.append(_without(scores, out, f"mean reward {mean:.2f}, outside {low} to {high}"))
    return made


@reward("best_and_worst", models=("model",), batched=True)
def best_and_worst(episodes: Sequence[Episode], model: Any, *, role: str = "actor") -> Combination:
    """Of each episode's completions of ``role`` only the best and the worst keep their scores (Self-Rewarding LMs).

    Of completions with the same score the first counts, which is no choice: they are exchangeable samples.  Where all
    are alike there is no pair and nobody is left.
    """
    (found,) = yield (model,)
    made: list[Scores] = []
    for episode, scores in zip(episodes, found, strict=True):
        values = {agent: score.value for agent, score in _ok(episode, scores, role).items()}
        pair = {max(values, key=values.__getitem__), min(values, key=values.__getitem__)} if values else set()
        left = pair if len(set(values.values())) > 1 else set()
        made.append(_without(scores, values.keys() - left, "neither best nor worst"))
    return made


def _ok(episode: Episode, scores: Scores, role: str) -> Scores:
    """The ok scores of a role, in seating order."""
    found = {agent: scores[agent] for agent in agents_of(episode, role) if agent in scores}
    return {agent: score for agent, score in found.items() if score.status == "ok"}


def _changed(score: Score, value: float, **components: float) -> Score:
    return revalued(score, value, before=score.value, **components)


def _without(scores: Scores, agents: Container[str], why: str) -> Scores:
    """These scores, of which the ok ones of some agents are left out."""
    out = [agent for agent, score in scores.items() if agent in agents and score.status == "ok"]
    return scores | {
        agent: Score(0.0, "abstain", scores[agent].components, why, judgements=scores[agent].judgements)
        for agent in out
    }
