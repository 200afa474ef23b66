"""What a base says by itself: draws on a set of problems, its pass rate, and a split of its replies by their length.

The elicitation mechanisms live on this: nothing in it tells a model anything that it did not say itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from dream_envs.core import Agent, DreamEnvsError, Limits, Message, Request, Task, TaskFamily
from dream_envs.seeds import digest


class Attempt(msgspec.Struct, frozen=True):
    """One reply: text, first token (-1: none), length in tokens, whether it ended within the limit, and its score."""

    text: str
    first: int
    length: int
    ended: bool
    value: float


def messages_of(task: Task) -> list[Message]:
    """What a solver sees of a problem."""
    return [{"role": "user", "content": task.prompt}]


def request(task: Task, family: TaskFamily, *labels: str | int) -> Request:
    """A solver's request for this problem, its randomness named by the labels."""
    limits = Limits(max_tokens=family.max_reply_tokens, max_chars=max(64, 8 * family.max_reply_tokens))
    seed = digest(*labels, task.id)
    return Request(messages=messages_of(task), agent="solver_0", role="solver", seed=seed, limits=limits)


def attempts(agent: Agent, tasks: Sequence[Task], family: TaskFamily, draws: int, seed: str) -> list[list[Attempt]]:
    """``draws`` replies to each problem, scored by the family's verifier; an agent that stops early is an error."""
    if getattr(agent, "accepted", None) is not None:
        raise DreamEnvsError("this agent stops at its first wrong token: give the one that stopping() was called on")
    requests = [request(task, family, "attempts", seed, i) for task in tasks for i in range(draws)]
    actions = list(agent.act(requests))  # type: ignore[arg-type]
    found = []
    for i, action in enumerate(actions):
        ids = action.token_ids or []
        limit = requests[i].limits.max_tokens
        value = family.verify(tasks[i // draws], action.text).value
        found.append(Attempt(action.text, ids[0] if ids else -1, len(ids), len(ids) < limit or not ids, value))
    return [found[i : i + draws] for i in range(0, len(found), draws)]


def pass_rates(agent: Agent, tasks: Sequence[Task], family: TaskFamily, draws: int, seed: str) -> np.ndarray:
    """``float64[N]``: the mean score of each problem."""
    return np.array([np.mean([a.value for a in row]) for row in attempts(agent, tasks, family, draws, seed)])


def own_replies(
    agent: Agent, tasks: Sequence[Task], family: TaskFamily, draws: int, seed: str
) -> list[tuple[list[Message], str]]:
    """``draws`` replies to each problem as (messages, reply), whatever their score."""
    rows = attempts(agent, tasks, family, draws, seed)
    return [(messages_of(task), a.text) for task, row in zip(tasks, rows, strict=True) for a in row]


def by_length(replies: Sequence[Attempt]) -> list[bool | None]:
    """True for replies longer than the median, False for the others; those that ran into the limit are left out."""
    lengths = [a.length for a in replies if a.ended]
    middle = float(np.median(lengths)) if lengths else 0.0
    return [a.length > middle if a.ended else None for a in replies]


def by_first_token(replies: Sequence[Attempt]) -> list[bool | None]:
    """True for replies that do not begin as most of them do, False for those that do."""
    firsts = [a.first for a in replies]
    common = max(sorted(set(firsts)), key=firsts.count)
    return [first != common for first in firsts]


class Kinds(msgspec.Struct, frozen=True):
    """Two kinds of replies of the same agent to the same problems, as (messages, reply)."""

    positive: list[tuple[list[Message], str]]
    negative: list[tuple[list[Message], str]]

    def fewer(self, most: int) -> Kinds:
        """At most so many of each kind, evenly over the problems; the two go on belonging together row by row."""
        chosen = np.linspace(0, len(self.positive) - 1, min(most, len(self.positive))).round().astype(int).tolist()
        return Kinds([self.positive[i] for i in chosen], [self.negative[i] for i in chosen])


def kinds(agent: Agent, tasks: Sequence[Task], family: TaskFamily, draws: int, seed: str) -> list[Kinds]:
    """The agent's own completions, told apart without a look at their scores: by length and by first token.

    From each problem as many of the one kind as of the other, so that the two differ in kind and not in problems.  If
    no split finds two kinds, that is an error.
    """
    rows = attempts(agent, tasks, family, draws, seed)
    found = []
    for split in (by_length, by_first_token):
        pair = Kinds([], [])
        for task, replies in zip(tasks, rows, strict=True):
            labels = split(replies)
            some, others = ([a.text for a, is_ in zip(replies, labels, strict=True) if is_ is k] for k in (True, False))
            for one, other in zip(some, others, strict=False):
                pair.positive.append((messages_of(task), one))
                pair.negative.append((messages_of(task), other))
        if pair.positive:
            found.append(pair)
    if not found:
        what = f"{draws} draws on each of {len(tasks)} problems"
        raise DreamEnvsError(f"{what} are all of one kind: nothing to steer between")
    return found
