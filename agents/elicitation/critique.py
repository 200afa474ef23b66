"""Critique fine-tuning on one problem: learn to judge one's own attempts at it (Wang et al., arXiv 2506.03295).

The paper takes 100 candidate solutions of one problem from ten models and some 600 critiques of them from seven strong
teachers; training on those raised a 7B base by 15 points.  Ours has no teacher: the candidates are the base's own
samples on one problem, and a critique says what the family's verifier says of each, nothing more: the part of the
candidate that agrees with an accepted reply is repeated, and the verdict follows.  What a gain shows is therefore the
base's own skill; what a teacher would add is left out on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

from dream_envs.agents.elicitation.attempts import Attempt, attempts
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import DreamEnvsError, Message, Task, TaskFamily


def agreeing(family: TaskFamily, task: Task, reply: str) -> str:
    """The part of a reply before its first slip: what it shares from its start with the family's accepted reply."""
    gold = family.gold(task)
    if family.verify(task, reply).value >= 1:
        return reply
    count = next((i for i, (a, b) in enumerate(zip(reply, gold, strict=False)) if a != b), min(len(reply), len(gold)))
    return reply[:count]


def question(task: Task, reply: str) -> list[Message]:
    """What the critic is asked: the problem and one candidate, in few tokens where the problem is in few."""
    if len(task.prompt) < 80:
        return [{"role": "user", "content": f"{task.prompt}={reply}?"}]
    text = f"{task.prompt}\n\nA proposed reply:\n{reply}\n\nSay how far it is right, then whether it is right or wrong."
    return [{"role": "user", "content": text}]


def critique(family: TaskFamily, task: Task, reply: str) -> str:
    """What the verifier says of a completion, as text: the part that is right, then ``right`` or ``wrong``."""
    said = agreeing(family, task, reply)
    verdict = "right" if family.verify(task, reply).value >= 1 else "wrong"
    return f"{said} {verdict}" if said else verdict


def critiques(
    base: LocalAgent, tasks: Sequence[Task], family: TaskFamily, candidates: int, kept: int, seed: str
) -> list[tuple[list[Message], str]]:
    """Questions and critiques of ``kept`` of the base's own attempts at one of these problems.

    The problem is the one on which the base is nearest to right half of the time; where it is right always or never on
    each of them there is nothing to tell apart, which is an error.  ``candidates``: samples that are looked at to find
    right and wrong ones.
    """
    found = attempts(base, tasks, family, max(2, candidates // len(tasks)), f"{seed}/search")
    rates = [sum(a.value for a in row) / len(row) for row in found]
    mixed = [i for i, rate in enumerate(rates) if 0 < rate < 1]
    if not mixed:
        why = "a critique needs right and wrong ones"
        raise DreamEnvsError(f"the base is right always or never on each of {len(tasks)} problems: {why}")
    chosen = min(mixed, key=lambda i: abs(rates[i] - 0.5))
    task = tasks[chosen]
    (replies,) = attempts(base, [task], family, candidates, f"{seed}/candidates")
    some = _kept([*replies, *found[chosen]], kept)
    return [(question(task, a.text), critique(family, task, a.text)) for a in some]


def _kept(replies: Sequence[Attempt], count: int) -> list[Attempt]:
    """Right and wrong replies alike as far as there are enough; what there is too little of is repeated."""
    right = [a for a in replies if a.value >= 1]
    wrong = [a for a in replies if a.value < 1]
    return [kind[i % len(kind)] for i in range(count // 2) for kind in (right, wrong) if kind]
