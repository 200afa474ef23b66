"""The learning rule in one place: which rows a step trains on, and with what advantage.

Three sources, each with its reason.

*Attempts.*  Solver groups in which some but not all attempts were right, GRPO's group-relative advantage.  Groups without
variance carry no signal and are not sent.

*Proposals.*  All proposals of the round are one group; the mutations that turned out learnable join it as
demonstrations.  Only advantages above zero are used (``challenger_negative=0``): pushing proposals down pushes down
"stop here" after as many operations for the solver too, since both roles share weights, and mastered depths are
forgotten within a hundred steps (``LOG.md``).

*Review.*  Verified traces of the run's own, each level alike, as plain likelihood: rare first successes are learnt from
more than once, and what is mastered stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.trl_adapter import TrainingRow
from dream_envs.agents.wake import Group, challenger_group, demonstrations, solver_groups
from dream_envs.core import Episode, Message, TaskFamily

Encode = Callable[[Sequence[Message]], tuple[int, ...]]


class RowConfig(msgspec.Struct, frozen=True):
    """How many rows of each kind, and their weights.

    ``groups``: solver groups a step at most.  ``review``: reviewed traces a step.  ``*_negative``: factor on negative
    advantages.  ``scale``: divide a group's advantages by their standard deviation.  ``estimator``: ``grpo``, or
    ``expert`` (positive-only likelihood on right attempts: expert iteration with fresh samples).
    """

    groups: int = 48
    review: int = 96
    review_weight: float = 1.0
    solver_negative: float = 1.0
    challenger_negative: float = 0.0
    challenger_weight: float = 1.0
    scale: bool = True
    review_cap: int = 512

    def most(self, attempts: int, proposals: int, mutations: int) -> int:
        """Rows a step at most."""
        rows = self.groups * attempts + self.review + (proposals + mutations if self.challenger_weight else 0)
        return rows + rows % 2


def relative(values: Sequence[float], scale: bool) -> np.ndarray:
    """Values minus their mean, over their standard deviation if ``scale`` (GRPO; Dr. GRPO leaves it out)."""
    array = np.asarray(values, dtype=np.float64)
    centred = array - array.mean()
    return centred / (array.std() + 1e-4) if scale else centred


class Review:
    """Verified traces of the run's own, by level, the newest ``cap`` of each."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._traces: dict[int, list[tuple[list[int], list[int]]]] = {}

    def add(self, groups: Sequence[Group], encode: Encode) -> None:
        """Keep up to two right attempts of each group (one where all were right)."""
        for group in groups:
            right = [r for r in group.rows if r.value > 0.5]
            for row in right[: 2 if group.informative else 1]:
                kept = self._traces.setdefault(group.level, [])
                kept.append((list(encode(row.messages)), list(row.ids)))
                del kept[: -self.cap]

    def sample(self, count: int, weight: float, rng: np.random.Generator) -> list[TrainingRow]:
        """``count`` traces, each level alike."""
        levels = sorted(self._traces)
        rows = []
        for _ in range(count if levels else 0):
            kept = self._traces[levels[int(rng.integers(len(levels)))]]
            prompt, ids = kept[int(rng.integers(len(kept)))]
            rows.append(TrainingRow(prompt, ids, weight))
        return rows

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {str(level): kept for level, kept in self._traces.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        self._traces = {int(level): [(list(p), list(i)) for p, i in kept] for level, kept in state.items()}


class RowMaker:
    """Turns a round's episodes into the rows of one step.

    Args:
        config: how many and how weighted.
        family: writes a mutation as the proposal that the policy could have made.
        encode: messages to prompt ids.
        tokenize: a reply to completion ids, the end token included.
        brief: what the challenger sees, for demonstrations.
    """

    def __init__(
        self,
        config: RowConfig,
        family: TaskFamily,
        encode: Encode,
        tokenize: Callable[[str], list[int]],
        brief: list[Message],
    ) -> None:
        self.config, self.family, self.encode, self.tokenize, self.brief = config, family, encode, tokenize, brief
        self.review = Review(config.review_cap)
        self.used = 0

    def rows(self, episodes: Sequence[Episode], rng: np.random.Generator) -> list[TrainingRow]:
        """The rows of a step; ``used`` is the number of solver groups among them."""
        groups = solver_groups(episodes)
        informative = [g for g in groups if g.informative]
        chosen = [informative[i] for i in rng.permutation(len(informative))[: self.config.groups]]
        self.used = len(chosen)
        rows = [row for group in chosen for row in self._attempts(group)]
        rows += self._proposals(episodes)
        self.review.add(groups, self.encode)
        return rows + self.review.sample(self.config.review, self.config.review_weight, rng)

    def _attempts(self, group: Group) -> list[TrainingRow]:
        advantages = relative(group.values, self.config.scale)
        return [
            TrainingRow(self.encode(r.messages), r.ids, _damp(a, self.config.solver_negative), r.value)
            for r, a in zip(group.rows, advantages, strict=True)
        ]

    def _proposals(self, episodes: Sequence[Episode]) -> list[TrainingRow]:
        group, weight = challenger_group(episodes), self.config.challenger_weight
        if group is None or not weight:
            return []
        values = np.array(group.values)
        mean, deviation = values.mean(), max(float(values.std()), 0.1)
        rows = []
        for row in group.rows:
            advantage = _damp(weight * (row.value - mean) / deviation, self.config.challenger_negative)
            if advantage:
                rows.append(TrainingRow(self.encode(row.messages), row.ids, advantage, row.value))
        prompt = self.encode(self.brief)
        for episode, value in demonstrations(episodes):
            if value > mean:
                ids = self.tokenize(episode.turns[0].text)
                rows.append(TrainingRow(prompt, ids, float(weight * (value - mean) / deviation), value))
        return rows


def _damp(advantage: float, negative: float) -> float:
    return float(advantage if advantage > 0 else advantage * negative)
