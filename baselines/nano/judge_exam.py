"""What a small judge can do, exactly: probabilities of its verdicts on pairs whose truth is known, no sampling.

``python -m dream_envs.baselines.nano.judge_exam nano/judge`` prints the figures of the base's README.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.nano.judged import Judging, wrong_answer
from dream_envs.core import Task
from dream_envs.envs.judging import Question, write
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition


def likelihood(logits: np.ndarray, ids: np.ndarray) -> float:
    """Probability at T = 1 of a reply with these ids ``int[T]``, ``logits[T, V]`` being what predicted them."""
    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return float(np.exp((x[np.arange(len(ids)), ids] - np.log(np.exp(x).sum(-1))).sum()))


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
    asked = [[{"role": "user", "content": write(Question(kind, "compact", t.prompt, a))}] for t, a in questions]
    found = np.zeros((len(questions), 2))
    for at, mark in enumerate(marks):
        logits, ids = agent.completion_logits(asked, [mark] * len(asked))  # type: ignore[arg-type]
        for i, (row, target) in enumerate(zip(logits, ids, strict=True)):
            found[i, at] = likelihood(row, target)
    return found


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
    kinds = sorted({p.kind for p in chosen})
    by = {
        k: float(np.mean([(a + b) / 2 for a, b, p in zip(one, two, chosen, strict=True) if p.kind == k])) for k in kinds
    }
    return {
        "accuracy": float(both.mean()),
        "greedy": float(right.mean()),
        "by_kind": by,
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


def main() -> None:
    """Print a table by depth."""
    parser = argparse.ArgumentParser(description="a nano judge's exact figures by depth")
    parser.add_argument("model", nargs="?", default="nano/judge")
    parser.add_argument("--count", type=int, default=256)
    given = parser.parse_args()
    agent, family = LocalAgent(given.model), Composition()
    columns = ("accuracy", "greedy", "flip", "first", "confidence", "calibration", "readable")
    print("| depth | " + " | ".join(columns) + " | slip | rubric tpr | rubric fpr |\n" + "| ---: " * 11 + "|")
    for depth in (1, 2, 3, 4, 5, 6):
        chosen = pairs(family, depth, given.count)
        found, alone = pairwise_exam(agent, chosen), rubric_exam(agent, chosen)
        cells = [*(found[c] for c in columns), found["by_kind"]["slip"], alone["tpr"], alone["fpr"]]
        print(f"| {depth} | " + " | ".join(f"{x:.3f}" for x in cells) + " |")


if __name__ == "__main__":
    main()
