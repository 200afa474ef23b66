"""Rewards that look at one answer at a time: self-given scores, self-given verdicts, the writer's own confidence."""

from __future__ import annotations

import math

from dream_envs.core import Episode, Score, Turn
from dream_envs.rewards.base import Scores, by_agent, each, reward
from dream_envs.rewards.self_judge import INVALID, not_judged, unreadable

_CHOICES = {"judge": ("agreement", "format"), **INVALID}


@reward("self_score", choices=_CHOICES)
def self_score(episode: Episode, *, judge: str = "agreement", invalid: str = "penalty") -> Scores:
    """The mean of the scores that an answer was given, 0 to 1 (Self-Rewarding Language Models, arXiv 2401.10020).

    Actor: ``mean of score / 10`` (a digit / 9 in compact notation) over the readable judgements of its answer.  The
    paper averages three scores of 0 to 5 and does not train the judge by reward; here it may be.

    ``judge``: ``agreement`` is ``1 - |v - mean of the other readable verdicts on the same answer|``, 0 to 1, or
    ``abstain`` if there is no other; ``format`` is 1 for a readable verdict (Multi-Agent Evolve, arXiv 2510.23595).
    ``invalid``: an unreadable verdict costs the judge a 0 (``penalty``) or gives it no score (``abstain``).

    Returns:
        Actor: 0 to 1, component ``judged``; ``abstain`` without a readable verdict.  Judge: 0 to 1.
    """
    return _points(episode, "score", judge, invalid)


@reward("self_rubric", choices=_CHOICES)
def self_rubric(episode: Episode, *, judge: str = "agreement", invalid: str = "penalty") -> Scores:
    """The share of verdicts that call an answer right, 0 to 1: a verifier's reward with the model as its own verifier.

    Arguments and scores as for ``self_score``.
    """
    return _points(episode, "rubric", judge, invalid)


def _points(episode: Episode, kind: str, paid_for: str, invalid: str) -> Scores:
    facts = episode.outcome.facts
    if facts.get("judging") != kind:
        return not_judged(episode, f"no judgements of kind {kind!r} in this game")
    verdicts: dict[str, list[float]] = {}
    for row in facts["judgements"]:
        if row["verdict"] is not None:
            verdicts.setdefault(row["of"], []).append(row["verdict"])

    def judged(agent: str) -> Score | None:
        its = verdicts.get(agent)
        return Score(math.fsum(its) / len(its), "ok", {"judged": float(len(its))}) if its else None

    found = by_agent(episode, "actor", judged, "no readable verdict")
    for row in facts["judgements"]:
        agent, verdict = row["judge"], row["verdict"]
        others = len(verdicts.get(row["of"], ())) - 1
        if verdict is None:
            found[agent] = unreadable(episode, agent, invalid, 0.0)
        elif paid_for == "format":
            found[agent] = Score(1.0)
        elif others:
            rest = (math.fsum(verdicts[row["of"]]) - verdict) / others
            found[agent] = Score(min(1.0, max(0.0, 1.0 - abs(verdict - rest))))
        else:
            found[agent] = Score(0.0, "abstain", detail="no other verdict on this answer")
    return found


@reward("self_certainty")
def self_certainty(episode: Episode, *, role: str = "actor") -> Scores:
    """How likely the writer found its own completion: ``exp(mean log-probability of the sampled tokens)``.

    Departs from its namesake (self-certainty, arXiv 2502.18581; the reward of Intuitor, arXiv 2505.19590), the mean
    divergence of the uniform distribution from the next token's: that needs the whole distribution at every position,
    and a turn keeps the sampled tokens' log-probabilities.  Their mean is an unbiased estimate of minus the entropy, so
    both reward sharpness; they weigh the tail differently.  No judge is asked.

    Returns:
        Above 0, at most 1, the geometric mean of the tokens' probabilities.  Component ``tokens``.  ``abstain`` for a
        turn without log-probabilities.
    """

    def certainty(turn: Turn) -> Score | None:
        if not turn.logprobs:
            return None
        mean = math.fsum(turn.logprobs) / len(turn.logprobs)
        return Score(min(1.0, math.exp(min(0.0, mean))), "ok", {"tokens": float(len(turn.logprobs))})

    return each(episode, role, certainty, "no log-probabilities in this turn")
