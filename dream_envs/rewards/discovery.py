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
        no mean, and a seat without any other has the gravest of their statuses.  ``turns`` has each turn's part.
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
        missing = Score(0.0, "abstain", detail="this game records no facts['verdicts']")
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
    return _each([r["new"] if r["status"] == "ok" else None for r in rows], rows, valid=_valid(rows))


def _judge(rows: Sequence[Row]) -> Score:
    def right(r: Row) -> bool | None:
        if r["decided"] is None or r["status"] not in ("ok", "invalid"):
            return None
        return r["verdict"] is not None and bool(r["verdict"]) == r["decided"]

    return _each([right(r) for r in rows], rows)


def _dreamer(rows: Sequence[Row]) -> Score:
    told = [r["valid"] and not r["same"] if r["status"] == "ok" else None for r in rows]
    return _each(told, rows, valid=_valid(rows))


def _challenger(rows: Sequence[Row], paid: Sequence[Row]) -> Score:
    """Each proposal is worth what its verdicts say."""
    verdicts, values = _by(paid, "number"), list[float | None]()
    for row in rows:
        marks = [float(v["verdict"]) for v in verdicts.get(row["number"], ()) if v["verdict"] is not None]
        p = _mean(marks) if marks else 0.0
        values.append(None if row["status"] != "ok" else 1.0 - p if 0.0 < p < 1.0 else 0.0)
    level = [float(r["level"]) for r in rows if r["status"] == "ok" and r["valid"]]
    return _each(values, rows, valid=_valid(rows), level=level)


def _examined(rows: tuple[Sequence[Row], Sequence[Row]], turns: int) -> Score:
    exams, verdicts = rows
    parts = {kind: [r["value"] for r in its if r["value"] is not None] for kind, its in _by(exams, "kind").items()}
    paid = [float(r["verdict"]) for r in verdicts if r["verdict"] is not None]
    each: list[float | None] = [None] * turns
    for row in exams:
        each[row["turn"]] = row["value"]
    return _each(each, exams, practice=paid, **parts)


def _paid(rows: tuple[Sequence[Row], Sequence[Row]], turns: int, trust: float) -> Score:
    verdicts = [r for r in rows[1] if r["verdict"] is not None]
    if not verdicts:
        return _nothing(rows[1])
    each = [0.0] * turns
    for row in verdicts:
        each[row["turn"]] = (trust * row["verdict"] + (1.0 - trust) * (row["decided"] is True)) / len(verdicts)
    truth = _mean(float(r["truth"]) for r in verdicts)
    return Score(math.fsum(each), turns=each, components={"truth": truth})


def _each(values: Sequence[Any], rows: Sequence[Row], **parts: Sequence[Any]) -> Score:
    """The mean of a seat's turns that are worth something (None: they are not), and each one's part in it."""
    told = [float(v) for v in values if v is not None]
    if not told:
        return _nothing(rows)
    each = [0.0 if v is None else float(v) / len(told) for v in values]
    found = {name: _mean(its) for name, its in parts.items() if its}
    return Score(math.fsum(told) / len(told), turns=each, components=found)


def _valid(rows: Sequence[Row]) -> list[bool]:
    return [r["valid"] for r in rows if r["status"] == "ok"]


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
