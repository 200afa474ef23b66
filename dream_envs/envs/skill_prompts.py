r"""What the roles of ``SkillEvolution`` are told, and how a challenger's tasks are read.

``english``: the context and the role's own skills as system message, then what is asked.  A challenger's reply::

    Task: How much does a child pay at 22:00?
    Rubric: Says that the fare is 8 crowns.
    Rubric: Names the rule for the night.

A question may run over lines; a rubric is one.  ``compact``, one message: a letter and fields, ``|`` before each, with
``\|``, ``\\`` and ``\n`` within: ``t|CONTEXT|SKILLS|TASKS|RUBRICS``, ``a|CONTEXT|SKILLS|QUESTION``,
``p|CONTEXT|SKILLS`` and for each task ``|QUESTION|ANSWER|RUBRICS``, ``e|CONTEXT|SKILLS|PROPOSAL``; a task is a line
``|QUESTION|RUBRIC|RUBRIC``.  Edits: ``tasks.skills``; judges: ``envs.judging``.  Everything read is total.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from dream_envs.core import Message, Reject
from dream_envs.tasks.answers import visible
from dream_envs.tasks.skills import SkillSet, pack, unpack

#: Characters of a question and of a rubric at most.
QUESTION, RUBRIC = 2_000, 400
_TASK = re.compile(r"^[ \t>*_#`-]*(?:task|question)(?:[ \t]*#?\d+)?[ \t*_`]*[:.][ \t*_`]*(.*)$", re.I)
_RUBRIC = re.compile(r"^[ \t>*_#`-]*rubric(?:[ \t]*#?\d+)?[ \t*_`]*:[ \t*_`]*(.*)$", re.I)
_BULLET = re.compile(r"^[ \t]*(?:[-*\u2022]|\d{1,2}[.)])[ \t]+(.*)$")
_EDITING = (
    "Reply with one edit and nothing else:\nEdit: add (or merge, replace, delete, none)\nName: small-letters-and-dashes"
    "\nText:\nthe skill in Markdown, as short as it can be (merge appends it to the skill of that name)"
)


class Posed(msgspec.Struct, frozen=True):
    """A task that a challenger wrote; ``reject``: why it is none; ``own``: it is one of the context's own."""

    question: str = ""
    rubrics: tuple[str, ...] = ()
    reject: Reject | None = None
    own: bool = False


class Case(msgspec.Struct, frozen=True):
    """A task as a proposer sees it: ``answer`` is empty where it is not shown, ``rubrics`` are those that matter."""

    question: str
    answer: str
    rubrics: tuple[str, ...]


def briefing(role: str, notation: str, context: str, skills: SkillSet, rest: Sequence[str], asks: str) -> list[Message]:
    """The messages of a role: compact fields, or the context and skills and what it is asked."""
    if notation == "compact":
        return [{"role": "user", "content": role + pack([context, skills.markdown(), *rest])}]
    own = skills.markdown().strip() or "(none yet)"
    system = f"Context:\n\n{context}\n\nYour skills, notes from earlier work on this context:\n\n{own}"
    return [{"role": "system", "content": system}, {"role": "user", "content": asks}]


def challenger(notation: str, context: str, skills: SkillSet, tasks: int, rubrics: int) -> list[Message]:
    """Write tasks."""
    asks = (
        f"Write {tasks} tasks for somebody who has the context too, each with 2 to {rubrics} rubrics. A task can be "
        "solved from the context alone, and is hard. A rubric is one thing that a right answer does and that can be "
        "told from the answer alone. Write each task as a line 'Task: ' with the question, and under it a line "
        "'Rubric: ' for each rubric."
    )
    return briefing("t", notation, context, skills, (str(tasks), str(rubrics)), asks)


def reasoner(notation: str, context: str, skills: SkillSet, question: str) -> list[Message]:
    """Answer a question."""
    return briefing("a", notation, context, skills, (question,), question)


def proposer(notation: str, context: str, skills: SkillSet, cases: Sequence[Case], side: str) -> list[Message]:
    """Say what should change: the reasoner's from what was failed, the challenger's from what was passed."""
    told, rest = [], list[str]()
    for number, case in enumerate(cases, 1):
        rest += [case.question, case.answer, "\n".join(case.rubrics)]
        answer = f"\nAnswer {number}:\n{quoted(case.answer)}" if side == "reasoner" else ""
        listed = "\n".join(f"- {rubric}" for rubric in case.rubrics)
        told.append(f"Task {number}:\n{quoted(case.question)}{answer}\nRubrics:\n{listed}")
    head = (
        "You answered these tasks, and failed the rubrics below each."
        if side == "reasoner"
        else "You wrote these tasks, and they were too easy: every rubric was passed."
    )
    asks = (
        f"{head}\n\n" + "\n\n".join(told) + "\n\nWhich one skill should be added, merged into, replaced or deleted "
        "so that this goes better next time? Say its name, what it should say and why; or 'none'."
    )
    return briefing("p", notation, context, skills, rest, asks)


def editor(notation: str, context: str, skills: SkillSet, proposal: str) -> list[Message]:
    """Make the change."""
    asks = f"Your skills are to be changed after this proposal:\n\n{quoted(proposal)}\n\n{_EDITING}"
    return briefing("e", notation, context, skills, (proposal,), asks)


def criterion(question: str, rubric: str) -> str:
    """The prompt of a judge's question: the task, and the one criterion that counts."""
    return f"{question}\n\nThe answer is right if and only if it fulfils this criterion: {rubric}"


def quoted(text: str) -> str:
    """Every line behind ``> ``, so that no text can end its own quotation."""
    return "\n".join([f"> {line}" for line in text.splitlines() or [""]])


def write_tasks(tasks: Sequence[tuple[str, Sequence[str]]], notation: str) -> str:
    """The reply that ``read_tasks`` reads as these questions with their rubrics."""
    if notation == "compact":
        return "\n".join(pack([question, *rubrics]) for question, rubrics in tasks)
    return "\n\n".join("\n".join([f"Task: {q}", *(f"Rubric: {r}" for r in rubrics)]) for q, rubrics in tasks)


def read_tasks(reply: str, notation: str, most: int) -> list[Posed]:
    """The tasks in a reply, valid by their own shape or with the reason why not."""
    found: list[Posed] = []
    if notation == "compact":
        for line in reply.split("\n"):
            fields = unpack(line) if line else []
            if fields is None:
                found.append(Posed(line[:QUESTION], reject=Reject("grammar", "expected |question|rubric|rubric")))
            elif line:
                found.append(_shaped(fields[0], fields[1:], most))
        return found
    shown = visible(reply)
    if shown is None:
        return []
    question, rubrics, listing, begun = list[str](), list[str](), False, False
    for line in [*shown.split("\n"), "Task:"]:  # one more, which ends the last
        if (task := _TASK.match(line)) is not None:
            if begun:
                found.append(_shaped("\n".join(question).strip(), rubrics, most))
            question, rubrics, listing, begun = [task[1]], [], False, True
        elif (rubric := _RUBRIC.match(line)) is not None:
            rubrics.append(rubric[1].strip())
        elif re.match(r"^[ \t>*_#`-]*rubrics[ \t*_`]*:?[ \t*_`]*$", line, re.I):
            listing = True
        elif listing and (bullet := _BULLET.match(line)) is not None:
            rubrics.append(bullet[1].strip())
        elif not rubrics and not listing:
            question.append(line)
    return found


def _shaped(question: str, rubrics: Sequence[str], most: int) -> Posed:
    kept = tuple(dict.fromkeys(r for r in rubrics if r.strip()))
    reject = None
    if not question.strip():
        reject = Reject("empty", "no question")
    elif not kept:
        reject = Reject("grammar", "no rubric")
    elif len(question) > QUESTION or any(len(r) > RUBRIC for r in kept):
        reject = Reject("too_long", f"a question has at most {QUESTION} characters, a rubric {RUBRIC}")
    elif len(kept) > most:
        reject = Reject("limits", f"{len(kept)} rubrics, at most {most}")
    return Posed(question[:QUESTION], tuple(r[:RUBRIC] for r in kept[:most]), reject)
