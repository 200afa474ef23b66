"""Scaffolds of the unchanged base: several calls an attempt, and nothing but its own replies in between.

``OneOfSeveral``: the likeliest, or what most say.  ``TwoTurns``: a second look after its first completion.  ``Pieces``:
the family cuts the prompt into problems of the declared support (``tasks.family.Family.piece``), each is asked by
itself with what came out before, and the replies are joined.  No checker and no fact enters: what is cut, and how
replies are joined, is read off the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import Action, Agent, Request, TaskFamily
from dream_envs.play import ask
from dream_envs.seeds import digest, stream

#: Calls of one attempt at most.
MOST = 64
#: Samples at T = 1 with weights p^3 are samples of p^4, the paper's exponent.
POWER = 3.0


class TwoTurns:
    """Asks twice: the first completion is shown back, then ``followup``, and the second completion counts."""

    def __init__(self, agent: Agent, followup: str) -> None:
        self.agent, self.followup = agent, followup

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Two batched calls; tokens of both are counted."""
        opened = ask(self.agent, requests)
        last, again = {"role": "user", "content": self.followup}, []
        for r, a in zip(requests, opened, strict=True):
            messages: Any = [*r.messages, {"role": "assistant", "content": a.text}, last]
            again.append(msgspec.structs.replace(r, messages=messages, seed=digest("second-turn", r.seed)))
        return [_both(a, b, b.text) for a, b in zip(opened, ask(self.agent, again), strict=True)]


class OneOfSeveral:
    """Asks ``count`` times and answers once.

    ``read``: the part of a reply that is an answer: what most say is taken, the first of them in a tie.  None: one of
    the completions with probability p^``POWER``, which resamples those of an agent at T = 1 from the model's power
    distribution.
    """

    def __init__(self, agent: Agent, count: int, read: Callable[[str], str] | None = None) -> None:
        self.agent, self.count, self.read = agent, count, read

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """One batched call; tokens of all completions are counted."""
        change, count = msgspec.structs.replace, self.count
        rows = [change(r, seed=digest("one-of", r.seed, i)) for r in requests for i in range(count)]
        said = list(ask(self.agent, rows))
        groups = [said[i : i + count] for i in range(0, len(said), count)]
        return [self._one(r, group) for r, group in zip(requests, groups, strict=True)]

    def _one(self, request: Request, group: list[Action]) -> Action:
        if self.read is not None:
            answers = [self.read(a.text) for a in group]
            chosen = max(group, key=lambda a: answers.count(self.read(a.text)))  # type: ignore[misc]
        else:
            weights = POWER * np.array([sum(a.logprobs or ()) for a in group])
            weights = np.exp(weights - weights.max())
            place = stream("power", request.seed).choice(len(group), p=weights / weights.sum())
            chosen = group[int(place)]
        tokens = sum(a.usage.completion_tokens for a in group)
        failed = next((a.status for a in group if a.status != "ok"), "ok")
        usage = msgspec.structs.replace(chosen.usage, completion_tokens=tokens)
        return msgspec.structs.replace(chosen, usage=usage, status=failed, token_ids=None, logprobs=None)


class Pieces:
    """Asks for the pieces of a problem one after the other.

    ``families``: whoever can cut a prompt does; a prompt that nobody cuts is asked as a whole.  ``size``: the largest
    level of a piece.  ``instruction``: stands behind every prompt.  ``read``: the part of a reply that is an answer.
    ``written``: an answer as a reply.
    """

    def __init__(
        self, agent: Agent, families: Sequence[TaskFamily], size: int, instruction: str,
        read: Callable[[str], str], written: Callable[[str], str],
    ) -> None:  # fmt: skip
        self.agent, self.size, self.instruction, self.read, self.written = agent, size, instruction, read, written
        self.families: list[Any] = [f for f in families if hasattr(f, "piece")]

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """One batched call a piece; tokens of all are counted."""
        prompts = [r.messages[-1]["content"].removesuffix(self.instruction) for r in requests]
        families = [next((f for f in self.families if f.piece(p, (), self.size)), None) for p in prompts]
        said: list[list[str]] = [[] for _ in requests]
        done: list[Action | None] = [None] * len(requests)
        for call in range(MOST):
            asked, places = [], []
            for i, (request, prompt, family) in enumerate(zip(requests, prompts, families, strict=True)):
                whole = prompt if not said[i] else None
                piece = whole if family is None else family.piece(prompt, said[i], self.size)
                if piece is not None:
                    messages: Any = [*request.messages[:-1], {"role": "user", "content": piece + self.instruction}]
                    seed = digest("piece", request.seed, call)
                    asked.append(msgspec.structs.replace(request, messages=messages, seed=seed))
                    places.append(i)
            if not asked:
                break
            for i, action in zip(places, ask(self.agent, asked), strict=True):
                before = done[i]
                said[i].append(self.read(action.text))
                done[i] = action if before is None else _both(before, action, action.text)
        texts = [s[-1] if f is None else f.joined(s) for f, s in zip(families, said, strict=True)]
        return [_both(None, a, self.written(t)) for a, t in zip(done, texts, strict=True) if a is not None]


def _both(first: Action | None, second: Action, text: str) -> Action:
    """The second with the first one's tokens counted and its failure kept."""
    change, before = msgspec.structs.replace, first.usage.completion_tokens if first else 0
    usage = change(second.usage, completion_tokens=before + second.usage.completion_tokens)
    status = first.status if first is not None and first.status != "ok" else second.status
    return change(second, text=text, usage=usage, status=status, token_ids=None, logprobs=None)
