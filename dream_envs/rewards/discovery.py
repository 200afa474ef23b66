"""Rewards of ``dream_envs/Discovery-v0``: what was found, what is known, and what its own judge pays for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dream_envs.checks import check
from dream_envs.core import Episode, Score
from dream_envs.rewards.base import Scores, agents_of, reward, worst

Row = Mapping[str, Any]
_ROLES = ("scientist", "challenger", "learner", "judge", "dreamer")


@reward("discovery")
def discovery(episode: Episode) -> Scores:
    """The default of ``Discovery``; see its manual page.

    Returns:
        Scientist: the share of its experiments that told something new.  Challenger: the mean over its proposals of
        1 - p, where p is the mean verdict on the answers and neither 0 nor 1, else 0; components ``valid``, ``level``.
        Learner: mean success in all its exams, components by kind of question and ``practice``, its mean verdict.
        Judge: the share of its verdicts that are right, of those that known tables and notes decide; an unreadable one
        is wrong.  Dreamer: the share of nights with a valid dream that no other dreamer had.  A failed call counts in
        no mean, and a seat without any other has the gravest of their statuses.
    """
    return _scored(episode, _examined)


@reward("own_verdicts")
def own_verdicts(episode: Episode, *, trust: float = 1.0) -> Scores:
    """As ``discovery``, but a learner is paid awake, by its own judge, and exams pay nothing.

    Args:
        episode: of ``Discovery``.
        trust: 0 to 1, the weight of the judge's verdict; the rest is 1 for an answer that known tables and notes
            decide to be right, else 0 (what experiments alone pay for).

    Returns:
        Learner: the mean of what its answers in practice were paid, with ``turns``; abstains if it had none to give.
    """
    check("trust", trust, 0.0, 1.0)
    return _scored(episode, lambda rows, turns: _paid(rows, turns, trust))


def _scored(episode: Episode, learner: Any) -> Scores:
    facts = episode.outcome.facts
    if "verdicts" not in facts:
        missing = Score(0.0, "error", detail="this game records no facts['verdicts']")
        return {a: missing for role in _ROLES for a in agents_of(episode, role)}
    found: Scores = {}
    plain = (("scientist", "experiments", _scientist), ("judge", "verdicts", _judge), ("dreamer", "dreams", _dreamer))
    for role, kind, scored in plain:
        rows = _by(facts[kind], "agent")
        for agent in agents_of(episode, role):
            found[agent] = scored(rows.get(agent, []))
    proposals, paid = _by(facts["practice"], "agent"), _by(facts["verdicts"], "challenger")
    for agent in agents_of(episode, "challenger"):
        found[agent] = _challenger(proposals.get(agent, []), paid.get(agent, []))
    exams, verdicts = _by(facts["questions"], "agent"), _by(facts["verdicts"], "learner")
    for agent in agents_of(episode, "learner"):
        turns = sum(turn.agent == agent for turn in episode.turns)
        found[agent] = learner((exams.get(agent, []), verdicts.get(agent, [])), turns)
    return found


def _scientist(rows: Sequence[Row]) -> Score:
    asked = [r for r in rows if r["status"] == "ok"]
    return _share([r["new"] for r in asked], rows, valid=[r["valid"] for r in asked])


def _judge(rows: Sequence[Row]) -> Score:
    told = [r for r in rows if r["decided"] is not None and r["status"] in ("ok", "invalid")]
    return _share([r["verdict"] is not None and bool(r["verdict"]) == r["decided"] for r in told], rows)


def _dreamer(rows: Sequence[Row]) -> Score:
    asked = [r for r in rows if r["status"] == "ok"]
    return _share([r["valid"] and not r["same"] for r in asked], rows, valid=[r["valid"] for r in asked])


def _challenger(rows: Sequence[Row], paid: Sequence[Row]) -> Score:
    """Each proposal is worth what its verdicts say."""
    asked, values = [r for r in rows if r["status"] == "ok"], list[float]()
    verdicts = _by(paid, "number")
    for row in asked:
        marks = [float(v["verdict"]) for v in verdicts.get(row["number"], ()) if v["verdict"] is not None]
        p = _mean(marks) if marks else 0.0
        values.append(1.0 - p if 0.0 < p < 1.0 else 0.0)
    level = [float(r["level"]) for r in asked if r["valid"]]
    return _share(values, rows, valid=[r["valid"] for r in asked], level=level)


def _examined(rows: tuple[Sequence[Row], Sequence[Row]], turns: int) -> Score:
    exams, verdicts = rows
    parts = {kind: [r["value"] for r in its if r["value"] is not None] for kind, its in _by(exams, "kind").items()}
    paid = [float(r["verdict"]) for r in verdicts if r["verdict"] is not None]
    values = [v for its in parts.values() for v in its]
    return _share(values, exams, practice=paid, **parts)


def _paid(rows: tuple[Sequence[Row], Sequence[Row]], turns: int, trust: float) -> Score:
    verdicts = [r for r in rows[1] if r["verdict"] is not None]
    if not verdicts:
        return _nothing(rows[1])
    each = [0.0] * turns
    for row in verdicts:
        each[row["turn"]] = (trust * row["verdict"] + (1.0 - trust) * (row["decided"] is True)) / len(verdicts)
    truth = _mean(float(r["truth"]) for r in verdicts)
    return Score(math.fsum(each), turns=each, components={"truth": truth})


def _share(values: Sequence[Any], rows: Sequence[Row], **parts: Sequence[Any]) -> Score:
    if not values:
        return _nothing(rows)
    return Score(_mean(values), components={name: _mean(its) for name, its in parts.items() if its})


def _nothing(rows: Sequence[Row]) -> Score:
    status = worst(r["status"] for r in rows)
    return Score(0.0, "abstain" if status in ("ok", "invalid") else status, detail="there was nothing to score")


def _by(rows: Iterable[Row], key: str) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _mean(values: Iterable[Any]) -> float:
    found = [float(v) for v in values]
    return math.fsum(found) / len(found)
