"""What a small reader can do, exactly: probabilities of right replies with a table at hand and without, no sampling.

``python -m dream_envs.baselines.nano.context_exam nano/context`` prints the figures of the base's README.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

import msgspec
import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import fictions
from dream_envs.baselines.nano.judge_exam import likelihood
from dream_envs.core import Message
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.tasks.lessons import OperationLessons

DEPTHS = (1, 2, 3, 4, 5, 6)


class Asked(msgspec.Struct, frozen=True):
    """A question about a fresh operation, its context and its accepted reply."""

    context: str
    prompt: str
    answer: str


def questions(depth: int, count: int, label: str = "exam") -> list[Asked]:
    """``count`` questions of a depth, each about a table of its own; the same on every call."""
    lessons = OperationLessons(levels=depth)
    rng, found = stream("context-exam", label, depth), []
    for i in range(count):
        lesson = lessons.lesson(rng, i % lessons.capacity)
        task = lessons.question(lesson, rng, ("wake", "probe")[i % 2], depth)
        found.append(Asked(lesson.context, task.prompt, lessons.gold(task)))
    return found


def success(agent: LocalAgent, asked: Sequence[Sequence[Message]], answers: Sequence[str]) -> float:
    """Mean probability at T = 1 of the accepted replies, their end included."""
    logits, ids = agent.completion_logits([list(m) for m in asked], list(answers))
    return float(np.mean([likelihood(row, target) for row, target in zip(logits, ids, strict=True)]))


def reading_exam(agent: LocalAgent, depth: int, count: int = 256) -> dict[str, float]:
    """A depth in numbers: ``open`` with the table at hand, ``closed`` without, ``known`` of known operations alone.

    ``chance``: of somebody who knows the known tables and draws a permutation for the new one.
    """
    chosen, lessons = questions(depth, count), OperationLessons(levels=depth)
    user: list[list[Message]] = [[{"role": "user", "content": q.prompt}] for q in chosen]
    whole: list[list[Message]] = [
        [{"role": "system", "content": q.context}, *m] for q, m in zip(chosen, user, strict=True)
    ]
    answers = [q.answer for q in chosen]
    family, rng = Composition(), stream("context-exam", "known", depth)
    tasks = [family.generate(rng, depth) for _ in range(count)]
    known: list[list[Message]] = [[{"role": "user", "content": t.prompt}] for t in tasks]
    drawing = stream("context-exam", "chance", depth)
    chance = [lessons.chance(lessons.question(lessons.lesson(drawing, 0), drawing)) for _ in range(count)]
    return {
        "open": success(agent, whole, answers),
        "closed": success(agent, user, answers),
        "chance": float(np.mean(chance)),
        "known": success(agent, known, [t.answer for t in tasks]),
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


def main() -> None:
    """Print a table by depth and a line about what is made up."""
    parser = argparse.ArgumentParser(description="a nano reader's exact figures by depth")
    parser.add_argument("model", nargs="?", default="nano/context")
    parser.add_argument("--count", type=int, default=256)
    given = parser.parse_args()
    agent = LocalAgent(given.model)
    columns = ("open", "closed", "chance", "known")
    print("| depth | " + " | ".join(columns) + " |\n" + "| ---: " * 5 + "|")
    for depth in DEPTHS:
        found = reading_exam(agent, depth, given.count)
        print(f"| {depth} | " + " | ".join(f"{found[c]:.4f}" for c in columns) + " |")
    print("made up: " + ", ".join(f"{k} {v:.3f}" for k, v in fiction_exam(agent, given.count).items()))


if __name__ == "__main__":
    main()
