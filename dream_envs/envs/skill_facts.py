"""What ``SkillEvolution`` says of a round: tasks, verdicts, both denominators, edits, lengths, costs, the truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dream_envs.core import Action, Reject, Status
from dream_envs.envs.judging import Verdict
from dream_envs.envs.skill_prompts import Posed
from dream_envs.tasks.skills import Edit, SkillSet

Row = dict[str, Any]


class Answer(msgspec.Struct, frozen=True):
    """What became of one task: the call's status, the answer as a judge sees it, a verdict a rubric."""

    status: Status
    text: str = ""
    verdicts: tuple[Verdict, ...] = ()

    @property
    def marks(self) -> list[int | None]:
        """1 for passed, 0 for failed, None without a verdict."""
        return [v.rating for v in self.verdicts]

    @property
    def solved(self) -> int | None:
        """1 if every rubric is passed, 0 if one is failed, None where neither is known."""
        marks = self.marks
        if self.status != "ok" or not marks:
            return None
        return 0 if 0 in marks else None if None in marks else 1

    @property
    def share(self) -> float | None:
        """The share of the verdicts that are passes; None without any."""
        return mean(self.marks) if self.status == "ok" else None


class Change(msgspec.Struct, frozen=True):
    """What one side did to its skills: a proposal, its edit or why there is none, and the set after it."""

    after: SkillSet
    proposal: str = ""
    edit: Edit | None = None
    reject: Reject | None = None
    status: Status = "abstain"


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None if none is."""
    found = [v for v in values if v is not None]
    return math.fsum(found) / len(found) if found else None


def tasks(posed: Sequence[Posed], answers: Sequence[Answer]) -> list[Row]:
    """A row a task: its text, why it is turned away, what it was answered, verdicts, ``solved`` and ``share``."""
    rows = []
    for number, its in enumerate(posed):
        row: Row = {"task": number, "question": its.question, "rubrics": list(its.rubrics), "own": its.own}
        row |= {"valid": its.reject is None, "reject": "" if its.reject is None else its.reject.code}
        row["detail"] = "" if its.reject is None else its.reject.detail
        if number < len(answers) and its.reject is None:
            answer = answers[number]
            row |= {"status": answer.status, "answer": answer.text, "verdicts": answer.marks}
            row |= {"solved": answer.solved, "share": answer.share, "judged": [v.status for v in answer.verdicts]}
        rows.append(row)
    return rows


def rates(rows: Sequence[Row]) -> dict[str, Any]:
    """How much is solved, with both denominators.

    ``dropped``: over tasks whose outcome is known; ``counted``: over all valid ones, unknown is not solved; ``unknown``
    counts them, ``valid`` is the number of all.  ``share``: mean share of rubrics passed.
    """
    valid = [row for row in rows if row["valid"]]
    known = [row["solved"] for row in valid if row.get("solved") is not None]
    return {
        "valid": len(valid),
        "unknown": len(valid) - len(known),
        "dropped": mean(known),
        "counted": sum(known) / len(valid) if valid else None,
        "share": mean(row.get("share") for row in valid),
    }


def agreement(rows: Sequence[Row], truth: Sequence[Sequence[bool | None]]) -> dict[str, Any]:
    """Verdicts against programs: ``right`` of ``of``, false passes and false failures, ``unread`` verdicts."""
    pairs = [
        (verdict, bool(true))
        for row, marks in zip(rows, truth, strict=True)
        for verdict, true in zip(row.get("verdicts", ()), marks, strict=False)
        if true is not None
    ]
    read = [(bool(verdict), true) for verdict, true in pairs if verdict is not None]
    return {
        "of": len(pairs),
        "right": sum(verdict == true for verdict, true in read),
        "false_pass": sum(verdict and not true for verdict, true in read),
        "false_fail": sum(true and not verdict for verdict, true in read),
        "unread": len(pairs) - len(read),
    }


def edit_row(before: SkillSet, change: Change) -> Row:
    """What one side changed; ``diff`` is unified."""
    edit, reject = change.edit, change.reject or Reject("")
    return {
        "status": change.status, "proposal": change.proposal, "op": edit.op if edit is not None else "",
        "name": edit.name if edit is not None else "", "reject": reject.code, "detail": reject.detail,
        "before": before.hash, "after": change.after.hash, "diff": before.diff(change.after),
    }  # fmt: skip


def size(skills: SkillSet) -> dict[str, Any]:
    """Hash and lengths; no text."""
    return {"hash": skills.hash, "skills": len(skills.skills), "words": skills.words, "chars": skills.chars}


def spent(role: str, action: Action) -> Row:
    """What a call cost; ``written`` is None where nobody counted."""
    usage, ids = action.usage, action.token_ids
    written = usage.completion_tokens or len(ids or ())
    told = written or usage.prompt_tokens or ids is not None
    return {"role": role, "status": action.status, "read": usage.prompt_tokens, "written": written if told else None}


def costs(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """By role: ``calls``, those that ``failed``, tokens ``read`` and ``written``, and ``uncounted`` completions."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        own = found.setdefault(row["role"], dict.fromkeys(("calls", "failed", "read", "written", "uncounted"), 0))
        own["calls"] += 1
        own["failed"] += row["status"] != "ok"
        own["read"] += row["read"]
        own["written"] += row["written"] or 0
        own["uncounted"] += row["written"] is None
    return found
