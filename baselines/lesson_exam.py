"""What lessons are worth to a model before any night: with the context, in pieces of it, without it, and by chance.

    python -m dream_envs.baselines.lesson_exam nano/context tables --vary tables=1,2,3,4 --piece 20

Probes are asked once each at the decoding that is asked for, graded as the games grade, with 95 % intervals
(Clopper-Pearson).  A context that the model cannot read whole is told as ``too long`` and not averaged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from dream_envs import registry
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.experience import closed
from dream_envs.agents.sleep.pieces import Pieces
from dream_envs.core import DreamEnvsError, Request, Task
from dream_envs.envs._shared import reply_limits
from dream_envs.frontier.intervals import clopper_pearson
from dream_envs.seeds import digest, stream
from dream_envs.tasks import answers
from dream_envs.tasks.lessons import LessonFamily, lesson_family

COLUMNS = ("open", "pieces", "closed")


def exam(
    agent: LocalAgent, lessons: LessonFamily, count: int, *, seed: str = "0", level: int | None = None, piece: int = 0,
    reply_tokens: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """``count`` probes, each about a lesson of its own: right of asked by column, mean chance and context tokens.

    ``piece``: tokens of a piece; 0: whole contexts alone.
    """
    asked, tasks, tokens = list[Request](), list[Task](), list[int]()
    for i in range(count):
        rng = stream("lesson-exam", seed, lessons.name, level or 0, i)
        lesson = lessons.lesson(rng, i % lessons.capacity)
        task = lessons.question(lesson, rng, "probe", level)
        messages: Any = [{"role": "system", "content": lesson.context}, {"role": "user", "content": task.prompt}]
        who: Any = {"agent": "learner_0", "role": "learner", "limits": reply_limits(lessons, reply_tokens)}
        asked.append(Request(messages=messages, seed=digest("lesson-exam", seed, i), **who))
        tasks.append(task)
        tokens.append(len(agent.tokenizer(lesson.context, add_special_tokens=False)["input_ids"]))
    cut = Pieces(agent.tokenizer, piece) if piece else None
    found: dict[str, Any] = {
        "tokens": sum(tokens) / count,
        "open": _right(agent, lessons, tasks, asked),
        "pieces": None if cut is None else _right(agent, lessons, tasks, [cut.fitted(r) for r in asked]),
        "closed": _right(
            agent, lessons, tasks, [msgspec.structs.replace(r, messages=closed(r.messages)) for r in asked]
        ),
        "chance": sum(lessons.chance(task) for task in tasks) / count,
        "gold": sum(lessons.verify(task, lessons.gold(task)).value for task in tasks) / count,
    }
    return found


def _right(agent: LocalAgent, lessons: LessonFamily, tasks: Sequence[Task], asked: Sequence[Request]) -> Any:
    """Right answers, or why none were asked."""
    try:
        agent.need_room(max(len(agent.encode(r.messages)) for r in asked))
    except DreamEnvsError as error:
        return str(error)
    right, batch = 0.0, 16
    for at in range(0, len(asked), batch):
        actions = agent.act(asked[at : at + batch])
        right += sum(answers.graded(lessons, t, a)[0].value for t, a in zip(tasks[at:], actions, strict=False))
    return right


def shown(right: Any, count: int) -> str:
    """A share with its interval; ``too long`` for a context that does not fit."""
    if right is None or isinstance(right, str):
        return "-" if right is None else "too long"
    low, high = (float(x) for x in clopper_pearson(right, count))
    return f"{right / count:.3f} [{low:.3f}, {high:.3f}]"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="lesson_exam", description="what lessons are worth before any night")
    parser.add_argument("model", help="nano/context, smollm2, a folder")
    parser.add_argument("lessons", help="operations, rules, tables, documents, archives, module:Class")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of the lessons")
    parser.add_argument("--vary", default="", metavar="NAME=A,B,C", help="a row for each of these values")
    parser.add_argument("--levels", type=int, nargs="*", default=[], help="a row for each level; default: any")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--piece", type=int, default=0, help="tokens of a context that are read at once")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--reply-tokens", type=int, default=None)
    parser.add_argument("--seed", default="0")
    given = parser.parse_args(argv)
    try:
        args = registry.values_of(given.set, "--set")
        name, _, values = given.vary.partition("=")
        agent = LocalAgent(given.model, temperature=given.temperature)
        head = [name or "lessons", "level", "context tokens", *COLUMNS, "chance", "gold"]
        print("| " + " | ".join(head) + " |\n" + "| ---: " * len(head) + "|")
        for value in values.split(","):
            own = {**args, **(registry.values_of([f"{name}={value}"], "--vary") if name else {})}
            for level in given.levels or [None]:
                how: Any = {
                    "seed": given.seed,
                    "level": level,
                    "piece": given.piece,
                    "reply_tokens": given.reply_tokens,
                }
                row = exam(agent, lesson_family(given.lessons, args=own), given.count, **how)
                cells = [value or given.lessons, str(level or "any"), f"{row['tokens']:.0f}"]
                cells += [*(shown(row[c], given.count) for c in COLUMNS), f"{row['chance']:.4f}", f"{row['gold']:.0f}"]
                print("| " + " | ".join(cells) + " |", flush=True)
    except DreamEnvsError as error:
        sys.exit(f"lesson_exam: {error}")


if __name__ == "__main__":
    main()
