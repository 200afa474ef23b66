"""What a small judge and a small reader can do, exactly: probabilities of their completions, no sampling.

``python -m dream_envs.baselines.nano.exams nano/judge`` (or ``nano/context``; ``nano/explore --notes``) prints the
figures of the base's README.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import fictions
from dream_envs.baselines.nano.judged import Judging, wrong_answer
from dream_envs.core import Message, Task
from dream_envs.envs.judging import Question, write
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.tasks.lessons import OperationLessons
from dream_envs.tasks.new_operations import NewOperations

DEPTHS = (1, 2, 3, 4, 5, 6)


def said_by_user(texts: Iterable[str]) -> list[list[Message]]:
    """Each text as a conversation of its own."""
    return [[{"role": "user", "content": text}] for text in texts]


def success(agent: LocalAgent, asked: Sequence[Sequence[Message]], answers: Sequence[str]) -> np.ndarray:
    """``float64[N]``: probability at T = 1 of these completions, their end included."""
    found = []
    for logits, ids in zip(*agent.completion_logits(asked, answers), strict=True):
        x = logits.astype(np.float64)
        x = x - x.max(-1, keepdims=True)
        found.append(np.exp((x[np.arange(len(ids)), ids] - np.log(np.exp(x).sum(-1))).sum()))
    return np.array(found)


class Pair(msgspec.Struct, frozen=True):
    """A right and a wrong answer to one problem; ``kind`` of the wrong one."""

    task: Task
    wrong: str
    kind: str


def pairs(family: Composition, depth: int, count: int, label: str = "exam") -> list[Pair]:
    """``count`` pairs, kinds of wrong answer in the shares of ``Judging``; the same on every call."""
    rng, rule = stream("judge-exam", label, family.world, depth), Judging()
    names, shares = list(rule.wrong), np.array(list(rule.wrong.values()))
    found = []
    for _ in range(count):
        task, kind = family.generate(rng, depth), names[int(rng.choice(len(names), p=shares / shares.sum()))]
        found.append(Pair(task, wrong_answer(family, task, rng, kind), kind))
    return found


def verdicts(agent: LocalAgent, kind: str, questions: Sequence[tuple[Task, tuple[str, ...]]]) -> np.ndarray:
    """``float64[N, 2]``: probability at T = 1 of the two verdicts (``1``, ``2``; of a rubric ``0``, ``1``).

    The end is included; what is missing to 1 is the probability of an unreadable reply.
    """
    marks = "12" if kind == "pairwise" else "01"
    asked = said_by_user(write(Question(kind, "compact", t.prompt, a)) for t, a in questions)
    return np.stack([success(agent, asked, [mark] * len(asked)) for mark in marks], 1)


def pairwise_exam(agent: LocalAgent, chosen: Sequence[Pair]) -> dict[str, Any]:
    """Every pair in both orders: shares at temperature 1, each an expectation and not a sample.

    ``accuracy``: the right answer wins, of readable verdicts; ``greedy``: so with the likelier verdict;
    ``by_kind``; ``flip``: the winner changes with the order; ``first``: the first wins; ``confidence``: mean
    probability of the likelier verdict; ``overconfidence``: that minus ``greedy``; ``calibration``: expected
    calibration error of that probability, ten bins; ``readable``.
    """
    told = verdicts(agent, "pairwise", [(p.task, (p.task.answer, p.wrong)) for p in chosen])
    back = verdicts(agent, "pairwise", [(p.task, (p.wrong, p.task.answer)) for p in chosen])
    readable = float((told.sum(1).mean() + back.sum(1).mean()) / 2)
    one, two = told[:, 0] / told.sum(1), back[:, 1] / back.sum(1)  # the right one wins: shown first, shown second
    both = np.concatenate([one, two])
    sure, right = np.maximum(both, 1 - both), (both > 0.5) + 0.5 * (both == 0.5)
    bins = np.minimum((sure * 10).astype(int), 9)
    off = [abs(float((sure[bins == b] - right[bins == b]).sum())) for b in range(10)]
    mean, kinds = (one + two) / 2, np.array([p.kind for p in chosen])
    return {
        "accuracy": float(both.mean()),
        "greedy": float(right.mean()),
        "by_kind": {k: float(mean[kinds == k].mean()) for k in sorted(set(kinds.tolist()))},
        "flip": float((one * (1 - two) + two * (1 - one)).mean()),
        "first": float((one + 1 - two).mean() / 2),
        "confidence": float(sure.mean()),
        "overconfidence": float(sure.mean() - right.mean()),
        "calibration": sum(off) / len(both),
        "readable": readable,
    }


def rubric_exam(agent: LocalAgent, chosen: Sequence[Pair]) -> dict[str, float]:
    """Both answers of every pair alone: ``accuracy`` at temperature 1, ``tpr`` and ``fpr``."""
    right = verdicts(agent, "rubric", [(p.task, (p.task.answer,)) for p in chosen])
    wrong = verdicts(agent, "rubric", [(p.task, (p.wrong,)) for p in chosen])
    tpr, fpr = float((right[:, 1] / right.sum(1)).mean()), float((wrong[:, 1] / wrong.sum(1)).mean())
    return {"accuracy": (tpr + 1 - fpr) / 2, "tpr": tpr, "fpr": fpr}


class Asked(msgspec.Struct, frozen=True):
    """A question about a fresh operation, its context and its accepted reply."""

    context: str
    prompt: str
    answer: str


def questions(depth: int, count: int) -> list[Asked]:
    """``count`` questions of a depth, each about a table of its own; the same on every call."""
    lessons = OperationLessons(levels=depth)
    rng, found = stream("context-exam", "exam", depth), []
    for i in range(count):
        lesson = lessons.lesson(rng, i % lessons.capacity)
        task = lessons.question(lesson, rng, ("wake", "probe")[i % 2], depth)
        found.append(Asked(lesson.context, task.prompt, lessons.gold(task)))
    return found


def reading_exam(agent: LocalAgent, depth: int, count: int = 256) -> dict[str, float]:
    """A depth in numbers: ``open`` with the table at hand, ``closed`` without, ``known`` of known operations alone.

    ``chance``: of somebody who knows the known tables and draws a permutation for the new one.
    """
    chosen, lessons = questions(depth, count), OperationLessons(levels=depth)
    closed, answers = said_by_user(q.prompt for q in chosen), [q.answer for q in chosen]
    context: list[list[Message]] = [[{"role": "system", "content": q.context}] for q in chosen]
    family, rng = Composition(), stream("context-exam", "known", depth)
    tasks = [family.generate(rng, depth) for _ in range(count)]
    drawing = stream("context-exam", "chance", depth)
    chance = [lessons.chance(lessons.question(lessons.lesson(drawing, 0), drawing)) for _ in range(count)]
    return {
        "open": float(success(agent, [[*c, *m] for c, m in zip(context, closed, strict=True)], answers).mean()),
        "closed": float(success(agent, closed, answers).mean()),
        "chance": float(np.mean(chance)),
        "known": float(success(agent, said_by_user(t.prompt for t in tasks), [t.answer for t in tasks]).mean()),
    }


def fiction_exam(agent: LocalAgent, count: int = 256) -> dict[str, float]:
    """Shares of ``count`` made-up contexts, of those that came to an end and are no repetition.

    ``told``: so many were; ``named``: they name one of the operations without a table; ``table``: and have one entry
    for each state, in order; ``permutation``: and no image comes twice; ``distinct``: mean share of different images.
    """
    lessons = OperationLessons()
    texts = [c[0]["content"] for c in fictions(agent, count, "context-exam")]
    named = [t for t in texts if re.match(f"[{lessons.names}]=", t)]
    entries = [re.fullmatch("".join(f"{s}>([{lessons.states}])" for s in lessons.states), t[2:]) for t in named]
    images = [set(m.groups()) for m in entries if m]
    size, told = len(lessons.states), max(1, len(texts))
    return {
        "told": len(texts) / count,
        "named": len(named) / told,
        "table": len(images) / told,
        "permutation": sum(len(i) == size for i in images) / told,
        "distinct": float(np.mean([len(i) / size for i in images])) if images else 0.0,
    }


def notes_exam(agent: LocalAgent, depth: int, count: int = 256) -> dict[str, float]:
    """A depth in numbers: problems with one or two noted operations, of half to all entries.

    ``open`` with the notes, ``closed`` without, ``chance`` as in ``tasks.new_operations``.
    """
    tasks, rng, found = NewOperations(days=8, operations=2), stream("notes-exam", depth), list[tuple[str, Task]]()
    while len(found) < count:
        tables, day = tasks.drawn(rng), len(found) % 8
        every = [name + state for name in tasks.names[day] for state in tasks.states]
        seen = [every[i] for i in rng.permutation(32)[: int(rng.integers(16, 33))].tolist()]
        notes, task = tasks.notes(day, tables, seen), tasks.within(rng, day, depth, tables)
        found += [(notes, task)] if tasks.shown(notes, task.prompt) else []
    closed, answers = said_by_user(t.prompt for _, t in found), [t.answer for _, t in found]
    context: list[list[Message]] = [[{"role": "system", "content": notes}] for notes, _ in found]
    asked = [[*notes, *its] for notes, its in zip(context, closed, strict=True)]
    return {
        "open": float(success(agent, asked, answers).mean()),
        "closed": float(success(agent, closed, answers).mean()),
        "chance": float(np.mean([tasks.chance(t) for _, t in found])),
    }


def asking_exam(agent: LocalAgent, count: int = 64) -> dict[str, float]:
    """Experiments on two operations, half of whose entries are noted: shares that are ``valid``, and that are ``new``.

    ``entropy``: bits of the entry that a valid one asks for, of 5.
    """
    tasks, rng, rows = NewOperations(days=8, operations=2), stream("asking-exam"), list[tuple[float, float, float]]()
    for i in range(count):
        tables, day = tasks.drawn(rng), i % 8
        every = [name + state for name in tasks.names[day] for state in tasks.states]
        seen = [every[j] for j in rng.permutation(32)[:16].tolist()]
        asked: list[Message] = [
            {"role": "system", "content": tasks.notes(day, tables, seen)},
            {"role": "user", "content": tasks.experiment_brief(day)},
        ]
        p = success(agent, [asked] * 32, every)
        share = p / p.sum()
        fresh = p[[entry not in seen for entry in every]]
        rows.append((float(p.sum()), float(fresh.sum()), float(-(share * np.log2(share)).sum())))
    return dict(zip(("valid", "new", "entropy"), np.mean(rows, 0).tolist(), strict=True))


def judge_rows(agent: LocalAgent, count: int) -> list[dict[str, float]]:
    """A judge's figures by depth."""
    columns, found = ("accuracy", "greedy", "flip", "first", "confidence", "calibration", "readable"), []
    for depth in DEPTHS:
        chosen = pairs(Composition(), depth, count)
        its, alone = pairwise_exam(agent, chosen), rubric_exam(agent, chosen)
        own = {"slip": its["by_kind"]["slip"], "rubric tpr": alone["tpr"], "rubric fpr": alone["fpr"]}
        found.append({c: its[c] for c in columns} | own)
    return found


def main() -> None:
    """Print a table by depth, and for a reader a line about what is made up."""
    parser = argparse.ArgumentParser(description="a nano base's exact figures by depth")
    parser.add_argument("model", help="nano/judge, nano/context, or a folder of such a base")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--notes", action="store_true", help="a reader of notes, who asks")
    given = parser.parse_args()
    agent = LocalAgent(given.model)
    reads = len(agent.tokenizer("a>b", add_special_tokens=False)["input_ids"]) == 1
    exam = notes_exam if given.notes else reading_exam
    rows = [exam(agent, d, given.count) for d in DEPTHS] if reads else judge_rows(agent, given.count)
    print("| depth | " + " | ".join(rows[0]) + " |\n" + "| ---: " * (1 + len(rows[0])) + "|")
    for depth, row in zip(DEPTHS, rows, strict=True):
        print(f"| {depth} | " + " | ".join(f"{x:.4f}" if reads else f"{x:.3f}" for x in row.values()) + " |")
    if given.notes:
        print("experiments: " + ", ".join(f"{k} {v:.3f}" for k, v in asking_exam(agent).items()))
    elif reads:
        print("made up: " + ", ".join(f"{k} {v:.3f}" for k, v in fiction_exam(agent, given.count).items()))


if __name__ == "__main__":
    main()
