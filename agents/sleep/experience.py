"""What a learner lived through while awake, and keeps until it sleeps.

**The context is the system message.**  Awake, a learner sees ``[system: context, user: question]``; ``closed`` takes
the system message away, and what is left is all that it will see once it has slept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.checks import check
from dream_envs.core import Episode, Message, content_hash

#: ``day``: with a context of the day.  ``memory``: with none, so that what was learnt before is rehearsed.
#: ``fiction``: with a context that is made up as well (from the chat template alone, as Magpie does, arXiv 2406.08464),
#: so that reading is rehearsed; its context is never taken away.
KINDS = ("day", "memory", "fiction")


def bounded(settings: Any, low: float, high: float | None, *names: str) -> None:
    """Refuse settings outside ``low`` to ``high`` (None: no bound); one that is None is off."""
    for name in names:
        if (value := getattr(settings, name)) is not None:
            check(name, value, low, high)


class Experience(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was seen (the context included), and what was answered.

    ``kind``: what it is alike with (a level, a dream's kind): kinds are rehearsed alike, whatever their number.
    ``left``: what is seen of it from now on, where that is not all but the system message.
    """

    messages: list[Message]
    reply: str
    kind: str = ""
    left: list[Message] | None = None

    @property
    def key(self) -> str:
        """A content hash of all that was seen and answered."""
        parts = [part for m in self.messages for part in (m["role"], m["content"])]
        return content_hash(*parts, "reply", self.reply)


def closed(messages: Sequence[Message]) -> list[Message]:
    """The messages without the context.

    >>> closed([{"role": "system", "content": "aIb"}, {"role": "user", "content": "a:I"}])
    [{'role': 'user', 'content': 'a:I'}]
    """
    return [m for m in messages if m["role"] != "system"]


def context_of(messages: Sequence[Message]) -> list[Message]:
    """The context's messages; empty if there is none."""
    return [m for m in messages if m["role"] == "system"]


def seen(one: Experience) -> list[Message]:
    """What is seen of it from now on: a context that was made up (``fiction``) stays, any other is gone."""
    if one.left is not None:
        return one.left
    return one.messages if one.kind == "fiction" else closed(one.messages)


class Buffer:
    """The newest ``capacity`` experiences of each kind, none twice; the oldest go first."""

    def __init__(self, capacity: int = 512) -> None:
        self.capacity = check("capacity", capacity, 1)
        self._kept: dict[str, dict[str, Experience]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def add(self, experiences: Iterable[Experience]) -> None:
        """Keep these; one that is there already becomes the newest of its kind."""
        for found in experiences:
            kept, key = self._kept.setdefault(found.kind, {}), found.key
            kept.pop(key, None)
            kept[key] = found
            if len(kept) > self.capacity:
                del kept[next(iter(kept))]

    @property
    def full(self) -> bool:
        """Whether some kind has reached its capacity."""
        return any(len(kept) >= self.capacity for kept in self._kept.values())

    def all(self) -> list[Experience]:
        """Kind by kind, the oldest first."""
        return [e for kind in sorted(self._kept) for e in self._kept[kind].values()]

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def state(self) -> list[Any]:
        """JSON-ready; see ``restore``."""
        found: list[Any] = msgspec.to_builtins(self.all())
        return found

    def restore(self, state: list[Any]) -> None:
        """Go on from this state."""
        self.clear()
        self.add(msgspec.convert(state, list[Experience]))


def solved(episodes: Sequence[Episode], role: str = "solver", most: int = 2) -> list[Experience]:
    """What earned more than 1/2, as the run's own reward has it, each level a kind.

    ``role``: whose completions; "": every role's.  ``most``: different completions of an episode and role.
    """
    found: list[Experience] = []
    for episode in episodes:
        level = episode.tasks[-1].level if episode.tasks else 0
        right: dict[str, dict[str, Experience]] = {}
        for turn in episode.turns:
            score = episode.scores.get(turn.agent)
            if turn.status != "ok" or score is None or score.status != "ok" or score.value <= 0.5:
                continue
            if turn.role == role or not role:
                kind = f"{level:03d}" if role else f"{turn.role}/{level:03d}"
                right.setdefault(turn.role, {}).setdefault(turn.text, Experience(turn.messages, turn.text, kind))
        found += [e for own in right.values() for e in list(own.values())[:most]]
    return found


def alike(found: Sequence[Experience], count: int, rng: np.random.Generator) -> list[Experience]:
    """``count`` of them (none of none), each kind alike; within a kind none comes again before all have come."""
    if not found:
        return []
    by: dict[str, list[Experience]] = {}
    for one in found:
        by.setdefault(one.kind, []).append(one)
    chosen: list[Experience] = []
    for at, kind in enumerate(sorted(by)):
        own = count // len(by) + (at < count % len(by))
        orders = [rng.permutation(len(by[kind])) for _ in range(-(-own // len(by[kind])))]
        chosen += [by[kind][i] for i in (np.concatenate(orders)[:own].tolist() if orders else ())]
    return [chosen[i] for i in rng.permutation(len(chosen))]
