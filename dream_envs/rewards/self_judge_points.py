"""Rewards that look at one answer at a time: self-given scores, self-given verdicts, the writer's own confidence.

``self_score`` and ``self_rubric`` read the pointwise judgements of ``SelfJudge(judging="score")`` and ``"rubric"``: an
actor's value is the mean verdict on its answer, a judge's its agreement with the other verdicts on the same answer.
"""

from __future__ import annotations

import math
from typing import Any

from dream_envs.checks import one_of
from dream_envs.core import Episode, Score, Turn
from dream_envs.rewards.base import Scores, agents_of, each, last_turns, reward, unanswered
from dream_envs.rewards.self_judge import check_invalid, not_judged, unreadable


def _check_points(given: dict[str, Any]) -> dict[str, Any]:
    one_of("judge", given["judge"], ("agreement", "format"), "'agreement' is with the others' verdicts")
    return check_invalid(given)


@reward("self_score", prepare=_check_points)
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


@reward("self_rubric", prepare=_check_points)
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
    found: Scores = {}
    turns = last_turns(episode, "actor")
    for agent in agents_of(episode, "actor"):
        if agent in verdicts:
            its = verdicts[agent]
            found[agent] = Score(math.fsum(its) / len(its), "ok", {"judged": float(len(its))})
        else:
            found[agent] = unanswered(turns.get(agent), "", "no readable verdict")
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


def _check_certainty(given: dict[str, Any]) -> dict[str, Any]:
    one_of("form", given["form"], ("probability", "mean_logprob"))
    return given


@reward("self_certainty", prepare=_check_certainty)
def self_certainty(episode: Episode, *, form: str = "probability", role: str = "actor") -> Scores:
    """How likely the writer found its own completion: ``exp(mean log-probability of the sampled tokens)``.

    Departs from its namesake (self-certainty, arXiv 2502.18581; the reward of Intuitor, arXiv 2505.19590), the mean
    divergence of the uniform distribution from the next token's: that needs the whole distribution at every position,
    and a turn keeps the sampled tokens' log-probabilities.  Their mean is an unbiased estimate of minus the entropy, so
    both reward sharpness; they weigh the tail differently.  No judge is asked.

    Returns:
        ``probability``: above 0, at most 1, the geometric mean of the tokens' probabilities; ``mean_logprob``: the
        exponent itself, at most 0.  Component ``tokens``.  ``abstain`` for a turn without log-probabilities.
    """

    def certainty(turn: Turn) -> Score:
        if not turn.logprobs:
            return unanswered(turn, "", "no log-probabilities in this turn")
        mean = math.fsum(turn.logprobs) / len(turn.logprobs)
        value = min(1.0, math.exp(min(0.0, mean))) if form == "probability" else mean
        return Score(value, "ok", {"tokens": float(len(turn.logprobs))})

    return each(episode, role, certainty, "no log-probabilities in this turn")
