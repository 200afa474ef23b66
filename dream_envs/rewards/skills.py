"""The reward of ``dream_envs/SkillEvolution-v0``."""

from __future__ import annotations

from typing import Any

from dream_envs.core import Episode, Score, Status
from dream_envs.rewards.base import Scores, reward

Row = dict[str, Any]


@reward("skill_evolution")
def skill_evolution(episode: Episode) -> Scores:
    """Solved or not; failed tasks that are valid; agreement with the programs; what an edit brought.

    Returns:
        Reasoner: 1 if every rubric of its task was passed, 0 if one was failed, component ``share`` (of its rubrics).
        Challenger: mean over the tasks that it was asked for of 1 - solved, 0 for one that was turned away; those of
        unknown outcome are left out; components ``valid``, ``solved``.  Judge: 1 if its verdict is the program's, 0 if
        not or if it is unreadable; ``abstain`` where the rubric has no program.  Proposer and editor of the reasoner:
        the change of the mean share of rubrics on the same tasks, -1 to 1, where the game tried it again
        (``retest``), else ``abstain``; those of the challenger ``abstain``.
    """
    facts = episode.outcome.facts
    if "tasks" not in facts or "size" not in facts:
        return {turn.agent: Score(0.0, "abstain", detail="no round of skills in this game") for turn in episode.turns}
    rows, width = facts["tasks"], facts["size"]["rubrics"]
    truth = facts.get("truth", [])
    found: Scores = {}
    for slot in range(facts["size"]["tasks"]):
        row = rows[slot] if slot < len(rows) else {"valid": False}
        found[f"reasoner_{slot}"] = _solved(row)
        marks = truth[slot] if slot < len(truth) else []
        for k in range(width):
            found[f"judge_{slot * width + k}"] = _judged(row, marks, k)
    found["challenger_0"] = _challenged(rows, facts["size"]["tasks"], facts["posing"])
    change = facts.get("change")
    brought = Score(0.0, "abstain") if change is None else Score(float(change), components={"change": float(change)})
    silent = Score(0.0, "abstain", detail="what it brought is not known within the episode")
    for kind in ("proposer", "editor"):
        found |= {f"reasoner_{kind}_0": brought, f"challenger_{kind}_0": silent}
    return {agent: score for agent, score in found.items() if agent in facts["agents"]}


def _solved(row: Row) -> Score:
    if not row["valid"]:
        return Score(0.0, "abstain", detail="there was no valid task")
    status: Status = row.get("status", "abstain")
    if status != "ok":
        return Score(0.0, status)
    if row["solved"] is None:
        return Score(0.0, "abstain", detail="a verdict is missing and none is a failure")
    return Score(float(row["solved"]), components={} if row["share"] is None else {"share": row["share"]})


def _challenged(rows: list[Row], count: int, status: Status) -> Score:
    if status != "ok":
        return Score(0.0, status)
    valid = [row for row in rows if row["valid"]]
    known = [row["solved"] for row in valid if row.get("solved") is not None]
    missing = count - len(valid)
    if not known and not missing:
        return Score(0.0, "abstain", detail="no outcome is known")
    components = {"valid": len(valid) / count}
    if known:
        components["solved"] = sum(known) / len(known)
    return Score((len(known) - sum(known)) / (len(known) + missing), components=components)


def _judged(row: Row, marks: list[bool | None], k: int) -> Score:
    verdicts, statuses = row.get("verdicts", []), row.get("judged", [])
    if k >= len(verdicts) or statuses[k] == "abstain":
        return Score(0.0, "abstain", detail="it was not asked")
    if k >= len(marks) or marks[k] is None:
        return Score(0.0, "abstain", detail="no program knows this rubric")
    if statuses[k] not in ("ok", "invalid"):
        return Score(0.0, statuses[k])
    return Score(float(verdicts[k] is not None and bool(verdicts[k]) == marks[k]))
