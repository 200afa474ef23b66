"""Rows that a recipe adds to what the policy sampled, or weighs anew: demonstrations, replay of traces, role weights.

Rows of a source have no role, so that every learner trains on them as plain weighted likelihood.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.training.rows import Round
from dream_envs.agents.training.settings import ReviewSettings
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.core import author_of, challenge_of


class Demonstrations:
    """First moves of ``author`` that the curriculum gave and that proved good, as if ``role`` had made them.

    A given proposal whose score is above the mean of the role's own, which are one group a round, is shown with the
    advantage that it would have had.
    """

    def __init__(self, role: str = "challenger", author: str = "mutation") -> None:
        self.role, self.author = role, author

    def apply(self, rows: list[TrainingRow], round: Round, rng: np.random.Generator) -> list[TrainingRow]:
        """The rows, and a demonstration for each such move."""
        own = [v for g in round.groups if g.role == self.role for v in g.values]
        settings = round.settings.role(self.role)
        if not own:
            return rows
        mean, deviation = np.array(own).mean(), max(float(np.array(own).std()), settings.floor) or 1e-4
        if round.baseline == "leave_one_out" or not round.settings.scale:
            deviation = 1.0
        made = list(rows)
        for episode in round.episodes:
            first = episode.turns[0]
            score = episode.scores.get(first.agent)
            if author_of(episode) != self.author or challenge_of(episode) is None or score is None:
                continue
            if score.status == "ok" and score.value > mean:
                weight = float((score.value - mean) / deviation)
                ids = round.tokenize(first.text)
                made.append(TrainingRow(round.encode(first.messages), ids, weight, score.value, seat=self.role))
        return made


class ReviewedTraces:
    """The run's own traces that earned more than 1/2, each level alike, as plain likelihood.

    Rare first successes are learnt from more than once, and what is mastered stays.
    """

    def __init__(self, settings: ReviewSettings) -> None:
        self.settings = settings
        self._kept: dict[str, list[tuple[list[int], list[int]]]] = {}

    def apply(self, rows: list[TrainingRow], round: Round, rng: np.random.Generator) -> list[TrainingRow]:
        """The rows, and replayed traces."""
        chosen = self.settings
        for group in round.groups:
            if not chosen.roles or group.role in chosen.roles:
                kind = f"{group.level:03d}" if len(chosen.roles) == 1 else f"{group.role}/{group.level:03d}"
                right = [r for r in group.rows if r.value > 0.5]
                kept = self._kept.setdefault(kind, []) if right else []
                for trace in right[: 2 if group.informative else 1]:  # one where all are alike
                    kept.append((list(trace.prompt(round.encode)), list(trace.ids)))
                del kept[: -chosen.cap]
        levels = sorted(self._kept)
        found = [self._draw(levels[int(rng.integers(len(levels)))], rng) for _ in range(chosen.count if levels else 0)]
        return [*rows, *[found[i] for i in rng.permutation(len(found))]]

    def _draw(self, key: str, rng: np.random.Generator) -> TrainingRow:
        kept = self._kept[key]
        prompt, ids = kept[int(rng.integers(len(kept)))]
        role = key.rpartition("/")[0] or self.settings.roles[0]
        return TrainingRow(prompt, ids, self.settings.weight, seat=role)

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(self._kept)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        self._kept = {key: [(list(p), list(i)) for p, i in kept] for key, kept in state.items()}


class RoleWeights:
    """Each role's share of the loss is its weight, however many tokens it wrote.

    The loss is a sum over tokens; SERL's is ``actor * L_actor + judge * L_judge``, either a mean over its own tokens.
    ``weights``: of the roles, as a function of progress, 0 to 1; a role of weight 0 is left out.
    """

    def __init__(self, weights: Callable[[float], Mapping[str, float]]) -> None:
        self.weights = weights

    def apply(self, rows: list[TrainingRow], round: Round, rng: np.random.Generator) -> list[TrainingRow]:
        """The rows of weighted roles, scaled."""
        weights = {role: w for role, w in self.weights(round.progress).items() if w > 0}
        kept, whole, tokens = [r for r in rows if r.role in weights], sum(weights.values()), Counter[str]()
        if not round.groups:
            return kept
        for row in kept:
            tokens[row.role] += len(row.completion)
        total = sum(tokens.values())
        return [
            msgspec.structs.replace(r, advantage=r.advantage * weights[r.role] / whole * total / tokens[r.role])
            for r in kept
        ]
