"""The process of an entry's own code, in the sandbox.

It holds no weights, no verifier and no world.  It is asked for the recipe, for rewards and for advantages, or runs the
entry's ``train(policy)``, which asks the trainer for everything else.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError, Episode, Score
from dream_envs.leaderboard import wire
from dream_envs.seeds import stream


class BudgetSpent(Exception):
    """Nothing is left of the budget: what was learnt so far is the result.  ``train`` need not catch it."""


class Sample(msgspec.Struct, frozen=True):
    """A completion of the policy.

    ``task``: the number of the problem that it solves, or that it proposed (None: it was turned away, ``reject`` says
    why).  ``reward``: the verifier's, 0 or 1; 0 for a proposal.  ``logprob``: of the whole completion when sampled.
    """

    id: int
    text: str
    tokens: int
    logprob: float
    task: int | None
    reward: float = 0.0
    reject: str = ""


class Problem(msgspec.Struct, frozen=True):
    """A problem by number; the answer stays with the trainer."""

    id: int
    level: int
    prompt: str


class Used(msgspec.Struct, frozen=True):
    """What is used up, and what of it is left, of samples, trained tokens and optimiser steps."""

    samples: int
    tokens: int
    steps: int
    samples_left: int
    tokens_left: int
    steps_left: int


class Policy:
    """The policy under training, at the other end of a pipe.  Every call may end in ``BudgetSpent``.

    It can be trained on what it sampled itself, and on nothing else.
    """

    def __init__(self, fds: tuple[int, int], seed: str) -> None:
        self._fds, self.seed = fds, seed

    def problems(self, level: int, count: int) -> list[Problem]:
        """Generated problems of a level, 1 to 10."""
        return msgspec.convert(self._ask("problems", level=level, count=count), list[Problem])

    def propose(self, count: int) -> list[Sample]:
        """Problems of the policy's own: what it says when asked for one."""
        return msgspec.convert(self._ask("propose", count=count), list[Sample])

    def mutate(self, task: int) -> Problem | None:
        """The problem with one operation more; None at the deepest level."""
        return msgspec.convert(self._ask("mutate", task=task), Problem | None)

    def solve(self, tasks: Sequence[int], attempts: int) -> list[list[Sample]]:
        """So many attempts at each of these problems."""
        return msgspec.convert(self._ask("solve", tasks=list(tasks), attempts=attempts), list[list[Sample]])

    def step(self, weights: Mapping[int, float], lr: float) -> float:
        """One AdamW step on - sum(weight * logp(sample)) / tokens; the loss.  ``weights``: by number of the sample."""
        rows = [[int(k), float(v)] for k, v in weights.items()]
        return float(self._ask("step", rows=rows, lr=float(lr)))

    def keep(self, name: str) -> None:
        """Remember the weights under a name (at most 8)."""
        self._ask("keep", name=name)

    def back(self, name: str) -> None:
        """Go back to remembered weights; ``base`` is always there."""
        self._ask("back", name=name)

    def used(self) -> Used:
        """The meter."""
        return msgspec.convert(self._ask("used"), Used)

    def _ask(self, what: str, **words: Any) -> Any:
        wire.send(self._fds[1], {"ask": what, "with": words})
        found = wire.receive(self._fds[0])
        if found.get("spent"):
            raise BudgetSpent
        if "error" in found:
            raise ValueError(found["error"])
        return found["ok"]


def _loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("entry", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["entry"] = module
    spec.loader.exec_module(module)
    return module


class Guest:
    """Answers what the trainer calls."""

    def __init__(self, module: ModuleType, fds: tuple[int, int]) -> None:
        self.module, self.fds = module, fds
        self.rewards: dict[str, Any] = {}

    def recipe(self, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
        """The entry's recipe as data; rewards that are objects stay here, and are named by their roles."""
        if not hasattr(self.module, "LOOP"):
            if not callable(getattr(self.module, "train", None)):
                raise ValueError("loop.py has neither LOOP (a Loop) nor train(policy)")
            return {"trains": True}
        from dream_envs.baselines.recipe import changed

        loop = self.module.LOOP
        made = loop.recipe(changed(loop.settings(), changes, loop.name), steps)
        self.rewards = {r: v for r, v in made.reward.items() if not isinstance(v, str)}
        if made.phases and any(p.prepare or p.reward for p in made.phases):
            raise ValueError("phases of an entry have no prepare and no reward of their own")
        if made.learn is not None:
            raise ValueError("an entry has no learn=: write train(policy) instead")
        sources = made.sources
        named = f"{sources.__module__}:{sources.__qualname__}" if sources is not tuple else ""
        data = {
            "args": made.args, "mixture": made.mixture, "gates": made.gates, "novelty": made.novelty,
            "reward": {r: v if isinstance(v, str) else None for r, v in made.reward.items()}, "seats": made.seats,
            "phases": [{"name": p.name, "steps": p.steps, "weights": p.weights, "seats": p.seats, "gates": p.gates}
                       for p in made.phases],
            "final": made.final, "learner": made.learner, "learning": made.learning, "sources": named,
            "nights": made.nights, "advantages": callable(getattr(self.module, "advantages", None)),
        }  # fmt: skip
        found: dict[str, Any] = msgspec.to_builtins(data)
        return found

    def reward(self, role: str, episodes: list[Any]) -> list[dict[str, Score]]:
        """The entry's reward of a role."""
        from dream_envs.rewards.base import as_reward

        given = msgspec.convert(episodes, list[Episode])
        return list(as_reward(self.rewards[role]).score(given))

    def advantages(self, rows: list[dict[str, Any]], seed: str) -> list[float]:
        """The entry's ``advantages(rows, rng)``: a number a row."""
        found = [float(x) for x in self.module.advantages(rows, stream(seed))]
        if len(found) != len(rows) or not np.isfinite(found).all():
            raise ValueError(f"advantages of {len(rows)} rows: {len(found)} numbers, not all finite")
        return found

    def train(self, seed: str) -> None:
        """The entry's own algorithm, to its end or the budget's."""
        try:
            self.module.train(Policy(self.fds, seed))
        except BudgetSpent:
            return


def serve(file: str, fds: tuple[int, int]) -> None:
    """Answer what comes through ``fds`` (to read from, to write to) until they are closed."""
    guest: Guest | None = None
    while True:
        try:
            call = wire.receive(fds[0])
        except DreamEnvsError:  # the trainer has ended
            return
        try:
            guest = guest or Guest(_loaded(Path(file)), fds)
            found = {"ok": getattr(guest, call["call"])(**call["with"])}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        wire.send(fds[1], found)
