"""Rewards of ``dream_envs/SleepCycle-v0``: what is known closed book, what is retained, and whether a dream is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dream_envs.core import Episode, Score
from dream_envs.rewards.base import Scores, agents_of, reward, worst

Row = dict[str, Any]


@reward("closed_book")
def closed_book(episode: Episode) -> Scores:
    """The default of ``SleepCycle``: what a learner knows once the context is gone; whether a dreamer dreams.

    Returns:
        Learner: the mean success of its own seat's ``recall`` questions, 0 to 1; components ``closed`` (the same),
        ``open`` (its questions with the context), ``gap`` (closed - open), ``answered`` of ``asked``.  Dreamer: the
        share of nights in which it proposed a question about the lesson that no other dreamer of that night proposed,
        0 to 1; components ``valid`` and ``distinct`` (shares).  A failed call is no answer: it counts in no mean, and a
        seat all of whose calls failed has the gravest of their statuses.
    """
    facts = episode.outcome.facts
    return _learners(episode, facts) | _dreamers(episode, facts)


@reward("retention")
def retention(episode: Episode) -> Scores:
    """As ``closed_book``, but a learner's is its success after the last night alone, on all lessons alike, 0 to 1."""
    facts = episode.outcome.facts
    return _learners(episode, facts, last=True) | _dreamers(episode, facts)


def _learners(episode: Episode, facts: dict[str, Any], last: bool = False) -> Scores:
    if "questions" not in facts:
        missing = Score(0.0, "error", detail="this game records no facts['questions']")
        return dict.fromkeys(agents_of(episode, "learner"), missing)
    rows = _by_agent(facts["questions"])

    def known(agent: str) -> Score:
        own = rows.get(agent, [])
        recall = [r for r in own if r["phase"] == "recall" and (not last or r["night"] == facts["nights"] - 1)]
        answered = [r["value"] for r in recall if r["value"] is not None]
        components = {"asked": float(len(recall)), "answered": float(len(answered))}
        opened = _mean([r["value"] for r in own if r["phase"] == "wake" and r["value"] is not None])
        value = _mean(answered)
        if value is None:
            return _none(recall, "no question was answered")
        components |= {"closed": value} if opened is None else {"open": opened, "closed": value, "gap": value - opened}
        return Score(value, components=components)

    return {agent: known(agent) for agent in agents_of(episode, "learner")}


def _dreamers(episode: Episode, facts: dict[str, Any]) -> Scores:
    rows, found = _by_agent(facts.get("dreams")), {}
    for agent in agents_of(episode, "dreamer"):
        own = [row for row in rows.get(agent, ()) if row["status"] == "ok"]
        valid = _mean([float(row["valid"]) for row in own])
        distinct = _mean([float(row["valid"] and not row["same"]) for row in own])
        if valid is None or distinct is None:
            found[agent] = _none(rows.get(agent, ()), "it was never asked")
        else:
            found[agent] = Score(distinct, components={"valid": valid, "distinct": distinct})
    return found


def _by_agent(rows: Sequence[Row] | None) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows or ():
        found.setdefault(row["agent"], []).append(row)
    return found


def _none(rows: Sequence[Row], why: str) -> Score:
    """The score of a seat without a value: the gravest status of its calls, ``abstain`` if it made none."""
    status = worst(row["status"] for row in rows)
    return Score(0.0, "abstain" if status == "ok" else status, detail=why)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
