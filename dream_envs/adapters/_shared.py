"""What adapters share: the problems of a family, agents of ours in games that another framework drives."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dream_envs import pace
from dream_envs.core import Agent, DreamEnvsError, Episode, Game, Request, RewardModel, Task, TaskFamily
from dream_envs.seeds import Label, stream

_ONE = threading.RLock()  # one for all: an agent and a reward may be the same weights


class SharedRunner(pace.GuardedRunner):
    """A runner for games in many threads: an agent of ours is called by one of them at a time, as in ``rollout``."""

    def __init__(self, game: Game[Any], policies: Mapping[str, Agent]) -> None:
        super().__init__(game, policies, None)

    def _call(self, policy: Agent, requests: list[Request]) -> Any:
        with _ONE:  # an asynchronous agent is waited for outside of it
            return super()._call(policy, requests)


class SharedReward:
    """A reward model that one thread calls at a time; an asynchronous one is waited for outside of the call."""

    def __init__(self, model: RewardModel) -> None:
        self.model, self.name, self.grader = model, model.name, str(getattr(model, "grader", "") or model.name)

    def score(self, episodes: Sequence[Episode]) -> Any:
        """What the model returns."""
        with _ONE:
            return self.model.score(episodes)


def levels_of(family: TaskFamily, levels: Sequence[int] | None) -> tuple[int, ...]:
    """The levels asked for, or all of the family's where None are."""
    low, high = family.levels.start, family.levels.stop - 1
    if isinstance(levels, (str, int)) or (levels is not None and not [*levels]):
        raise DreamEnvsError(f"levels={levels!r}: a list of one or more levels, {low} to {high}")
    if wrong := [level for level in levels or () if level not in family.levels]:
        raise DreamEnvsError(f"levels: {wrong[0]!r} is none of {family.name}'s {low} to {high}")
    return tuple(levels or family.levels)


def problems(family: TaskFamily, levels: Sequence[int], seed: Label) -> Iterator[Task]:
    """Problems without end, by turns of each level; problem ``i`` depends on the family, ``seed`` and ``i`` alone."""
    for i in itertools.count():
        yield family.generate(stream("problems", family.name, seed, i), levels[i % len(levels)])
