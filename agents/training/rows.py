"""The learning rule in one place: which rows a step trains on, and with what advantage.

Three sources, each with its reason.

*Attempts.*  Solver groups in which some but not all attempts were right, with the advantage of the learner's baseline:
GRPO's group mean and deviation, or RLOO's mean of the others.  Groups without variance carry no signal and are not
sent.  With a critic (PPO) groups without variance fill the places that are left, since its values are to be right
about what is always and never solved too, and the advantage here is only a weight.

*Proposals.*  All proposals of the round are one group; the mutations that turned out learnable join it as
demonstrations.

*Review.*  Verified traces of the run's own, each level alike, as plain likelihood: rare first successes are learnt from
more than once, and what is mastered stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.training.advantages import leave_one_out, relative
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.agents.training.wake import Group, Row, challenger_group, demonstrations, solver_groups
from dream_envs.core import DreamEnvsError, Episode, Message, TaskFamily

Encode = Callable[[Sequence[Message]], tuple[int, ...]]

#: What a value is compared with: its group, the others of its group, a learnt value, or its role's mean in the round.
BASELINES = ("group", "leave_one_out", "critic", "role")


class RowConfig(msgspec.Struct, frozen=True):
    """How many rows of each kind, and their weights.

    ``rows``: rows a step, an even number; what is missing is filled with rows that the loss does not see, what is too
    much is cut from the review.  ``groups``: solver groups a step at most.  ``review``: reviewed traces a step.
    ``*_negative``: factor on negative advantages.  ``scale``: divide a group's advantages by their deviation.
    ``play_every``: steps per round of play; the steps between only review (expert iteration).
    ``proposals``: ``fresh`` (advantages of this round's proposals) or ``review`` (learnable ones as plain likelihood).
    """

    rows: int = 584
    groups: int = 48
    review: int = 128
    review_weight: float = 1.0
    review_cap: int = 512
    solver_negative: float = 1.0
    challenger_negative: float = 1.0
    challenger_weight: float = 1.0
    scale: bool = True
    play_every: int = 1
    proposals: str = "fresh"

    def __post_init__(self) -> None:
        if self.rows < 2 or self.rows % 2 or self.play_every < 1 or self.proposals not in ("fresh", "review"):
            raise DreamEnvsError(f"{self}: rows is even, play_every >= 1, proposals is 'fresh' or 'review'")
        if min(self.groups, self.review) < 0 or self.review_cap < 1:
            raise DreamEnvsError(f"{self}: groups and review are 0 or more, review_cap 1 or more")


class Review:
    """Verified traces of the run's own by level, and learnable proposals; the newest ``cap`` of each kind."""

    PROPOSALS = "proposals"

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._kept: dict[str, list[tuple[list[int], list[int]]]] = {}

    def add(self, groups: Sequence[Group], encode: Encode) -> None:
        """Keep up to two right attempts of each group (one where all were right)."""
        for group in groups:
            right = [r for r in group.rows if r.value > 0.5]
            for row in right[: 2 if group.informative else 1]:
                self._keep(f"{group.level:03d}", encode(row.messages), row.ids)

    def add_proposal(self, prompt: Sequence[int], ids: Sequence[int]) -> None:
        """Keep a proposal that some but not all solvers got right."""
        self._keep(self.PROPOSALS, prompt, ids)

    def _keep(self, key: str, prompt: Sequence[int], ids: Sequence[int]) -> None:
        kept = self._kept.setdefault(key, [])
        kept.append((list(prompt), list(ids)))
        del kept[: -self.cap]

    def traces(self, count: int, weight: float, rng: np.random.Generator) -> list[TrainingRow]:
        """``count`` traces, each level alike."""
        levels = sorted(k for k in self._kept if k != self.PROPOSALS)
        return [self._draw(levels[int(rng.integers(len(levels)))], weight, rng) for _ in range(count if levels else 0)]

    def proposals(self, count: int, weight: float, rng: np.random.Generator) -> list[TrainingRow]:
        """``count`` proposals."""
        there = self.PROPOSALS in self._kept
        return [self._draw(self.PROPOSALS, weight, rng) for _ in range(count if there else 0)]

    def _draw(self, key: str, weight: float, rng: np.random.Generator) -> TrainingRow:
        kept = self._kept[key]
        prompt, ids = kept[int(rng.integers(len(kept)))]
        return TrainingRow(prompt, ids, weight)

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(self._kept)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        self._kept = {key: [(list(p), list(i)) for p, i in kept] for key, kept in state.items()}


class RowMaker:
    """Turns a round's episodes into the rows of one step.

    Args:
        config: how many and how weighted.
        family: writes a mutation as the proposal that the policy could have made.
        encode: messages to prompt ids.
        tokenize: a reply to completion ids, the end token included.
        brief: what the challenger sees, for demonstrations.
        roles: the roles that the learner itself plays; what others said is not trained on.
        baseline: one of ``BASELINES``, what a value is compared with.
    """

    def __init__(
        self,
        config: RowConfig,
        family: TaskFamily,
        encode: Encode,
        tokenize: Callable[[str], list[int]],
        brief: list[Message],
        roles: frozenset[str] = frozenset({"challenger", "solver"}),
        baseline: str = "group",
    ) -> None:
        if baseline not in BASELINES:
            raise DreamEnvsError(f"baseline={baseline!r}: one of {', '.join(BASELINES)}")
        self.baseline = baseline
        self.roles = roles
        self.config, self.family, self.encode, self.tokenize, self.brief = config, family, encode, tokenize, brief
        self.review = Review(config.review_cap)
        self.used = 0

    def rows(self, episodes: Sequence[Episode], rng: np.random.Generator) -> list[TrainingRow]:
        """The rows of a step; ``used`` is the number of solver groups among them."""
        config = self.config
        groups = solver_groups(episodes) if "solver" in self.roles else []
        informative = [g for g in groups if g.informative]
        if self.baseline == "role":  # what all or none got right differs from the round's mean too
            informative = groups
        chosen = [informative[i] for i in rng.permutation(len(informative))[: config.groups]]
        if self.baseline == "critic":
            rest = [g for g in groups if not g.informative]
            chosen += [rest[i] for i in rng.permutation(len(rest))[: config.groups - len(chosen)]]
        self.used = len(chosen)
        if self.baseline == "role" and chosen:  # TRR++ (arXiv 2505.03335): one group a role, over all its problems
            merged = [row for group in chosen for row in group.rows]
            rows = self._attempts(msgspec.structs.replace(chosen[0], rows=merged))
        else:
            rows = [row for group in chosen for row in self._attempts(group)]
        fresh = self._proposals(episodes) if "challenger" in self.roles else []
        self.review.add(groups, self.encode)
        if config.proposals == "review":
            for row in fresh:
                if row.advantage > 0:  # the review is plain likelihood: what is to be avoided has no place in it
                    self.review.add_proposal(row.prompt, row.completion)
            fresh = []
        return [*rows, *fresh, *self.reviewed(rng)][: config.rows]

    def reviewed(self, rng: np.random.Generator) -> list[TrainingRow]:
        """Rows of review alone, in random order."""
        config = self.config
        rows = self.review.traces(config.review, config.review_weight, rng)
        if config.proposals == "review":
            rows += self.review.proposals(config.review // 3, config.review_weight, rng)
        return [rows[i] for i in rng.permutation(len(rows))]

    def _attempts(self, group: Group) -> list[TrainingRow]:
        negative = self.config.solver_negative
        if self.baseline == "critic":
            return [TrainingRow(self.encode(r.messages), r.ids, 1.0, r.value, group.role, negative) for r in group.rows]
        if self.baseline == "leave_one_out":
            advantages = leave_one_out(group.values)
        else:
            advantages = relative(group.values, self.config.scale)
        rows = []
        for row, advantage in zip(group.rows, advantages, strict=True):
            if weight := _damp(advantage, negative):
                rows.append(TrainingRow(self.encode(row.messages), row.ids, weight, row.value, group.role))
        return rows

    def _proposals(self, episodes: Sequence[Episode]) -> list[TrainingRow]:
        """Proposals above their mean, and the mutations that proved learnable, as if the policy had made them."""
        group, weight = challenger_group(episodes), self.config.challenger_weight
        if group is None or not weight:
            return []
        values = np.array(group.values)
        mean, deviation = values.mean(), max(float(values.std()), 0.1)
        if self.baseline == "leave_one_out":
            deviation = 1.0  # RLOO does not scale
        rows = [self._proposal(row, weight * (row.value - mean) / deviation, len(values)) for row in group.rows]
        rows = [row for row in rows if row.advantage]
        prompt = self.encode(self.brief)
        for episode, value in demonstrations(episodes):
            if value > mean:
                ids = self.tokenize(episode.turns[0].text)
                rows.append(TrainingRow(prompt, ids, float(weight * (value - mean) / deviation), value))
        return rows

    def _proposal(self, row: Row, advantage: float, count: int) -> TrainingRow:
        """A sampled proposal of ``count``, ``advantage`` above their mean."""
        prompt, negative = self.encode(row.messages), self.config.challenger_negative
        if self.baseline == "critic":
            return TrainingRow(prompt, row.ids, self.config.challenger_weight, row.value, "challenger", negative)
        if self.baseline == "leave_one_out" and count > 1:
            advantage *= count / (count - 1)
        return TrainingRow(prompt, row.ids, _damp(advantage, negative), row.value, "challenger")


def _damp(advantage: float, negative: float) -> float:
    return float(advantage if advantage > 0 else advantage * negative)
