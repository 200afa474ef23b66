"""The learning rule in one place: which rows a step trains on, and with what advantage; it knows no game.

A row is one turn of a role that learns: prompt, sampled completion, and the score of the agent who took it.  Groups
(``Game.group``) are of exchangeable draws.  One without variance carries no signal for a baseline of its own mean and
is not sent; with a critic they fill the places that are left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from dream_envs.agents.training.advantages import Baseline
from dream_envs.agents.training.settings import RowSettings
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.core import DreamEnvsError, Episode, Message, Writes, hook

#: Messages, and whose turn comes next where that is not the assistant's, to ids.
Encode = Callable[..., tuple[int, ...]]


class Row(msgspec.Struct, frozen=True):
    """One completion with the value it earned; ``ids`` are the sampled tokens, the end token included."""

    messages: list[Message]
    ids: list[int]
    value: float
    episode: int = 0
    family: str = ""
    logprobs: list[float] | None = None
    writes: Writes = "assistant"

    def prompt(self, encode: Encode) -> tuple[int, ...]:
        """Ids of what the completion was sampled behind."""
        return encode(self.messages) if self.writes == "assistant" else encode(self.messages, self.writes)


class Group(msgspec.Struct, frozen=True):
    """Rows that are compared with each other; ``level`` is that of the episode's last problem.

    ``stream``: the kind of problem, of a family that has several (``core.TaskFamily``).
    """

    role: str
    name: str
    level: int
    rows: list[Row]
    stream: str = ""

    @property
    def values(self) -> list[float]:
        """The rows' values."""
        return [r.value for r in self.rows]

    @property
    def informative(self) -> bool:
        """Whether the rows differ in value at all."""
        return len(set(self.values)) > 1


def groups_of(game: Any, episodes: Sequence[Episode], roles: frozenset[str]) -> list[Group]:
    """One row for each turn of these roles, in groups, in the order of the episodes.

    A row's value is its agent's score or, where the score says what each turn earned, what came from this turn on; such
    rows are compared at the same turn.

    Problems of different streams are never in one group.  Turns without an ``ok`` status, an ``ok`` score or token ids
    (given moves, scripted agents) have no row, nor have those of a past self.
    """
    group_name, found = hook(game, "group"), dict[tuple[str, str, str], Group]()
    for episode in episodes:
        level, family = (episode.tasks[-1].level, episode.tasks[-1].family) if episode.tasks else (0, "")
        stream = str(episode.tasks[-1].meta.get("stream", "")) if episode.tasks else ""
        made = Counter[str]()
        for turn in episode.turns:
            made[turn.agent] += 1
            score = episode.scores.get(turn.agent)
            if turn.role not in roles or not turn.token_ids or turn.author or score is None or score.status != "ok":
                continue
            name, value = str(group_name(episode, turn)), score.value
            if score.turns is not None:
                at = made[turn.agent] - 1
                name, value = f"{name}/turn {at}", math.fsum(score.turns[at:])
            key = (turn.role, name, stream)
            if key not in found:
                found[key] = Group(turn.role, name, level, [], stream)
            row = Row(turn.messages, turn.token_ids, value, episode.index, family, turn.logprobs, turn.writes)
            found[key].rows.append(row)
    return list(found.values())


class Round(msgspec.Struct, frozen=True):
    """What a source may look at: the round's episodes and groups, the model's encoding, and how far the run is.

    ``tokenize``: a completion's ids, the end token included.  ``progress``: 0 to 1.  In a step between two rounds there
    are no episodes and no groups.
    """

    game: Any
    episodes: Sequence[Episode]
    groups: Sequence[Group]
    encode: Encode
    tokenize: Callable[[str], list[int]]
    settings: RowSettings
    baseline: str
    progress: float


class RowSource(Protocol):
    """Changes the rows of a step: adds some, or weighs them anew.  With a state it is ``core.Stateful``."""

    def apply(self, rows: list[TrainingRow], round: Round, rng: np.random.Generator) -> list[TrainingRow]:
        """The rows so far, changed."""


class RowBuilder:
    """Turns a round's episodes into the rows of one step.

    ``baseline``: one of ``advantages.BASELINES``.  ``roles``: those that the learner itself plays; what others said is
    not trained on.  ``encode``: messages to prompt ids.  ``tokenize``: a completion to ids, the end token included.
    ``sources``: applied one after the other.
    """

    def __init__(
        self,
        game: Any,
        settings: RowSettings,
        baseline: str,
        roles: frozenset[str],
        encode: Encode,
        tokenize: Callable[[str], list[int]],
        sources: Sequence[RowSource] = (),
    ) -> None:
        self.game, self.settings, self.roles, self.sources = game, settings, roles, tuple(sources)
        self.baseline, self.encode, self.tokenize = Baseline(baseline, settings), encode, tokenize
        #: How many groups of each role are among the rows of the newest step.
        self.used: dict[str, int] = {}

    def rows(self, episodes: Sequence[Episode], rng: np.random.Generator, progress: float = 0.0) -> list[TrainingRow]:
        """The rows of a step behind a round of play; between two rounds (no episodes) those of the sources alone."""
        groups = groups_of(self.game, episodes, self.roles)
        self.baseline.observe(groups)
        order = [*self.settings.roles, *(r.name for r in self.game.roles)]
        rows: list[TrainingRow] = []
        self.used = {}
        for role in dict.fromkeys(name for name in order if name in self.roles):
            chosen = self._chosen([g for g in groups if g.role == role], len(rows), rng)
            self.used[role] = len(chosen)
            for group, advantages in zip(chosen, self.baseline.advantages(chosen), strict=True):
                rows += self._rows(group, advantages)
        encode, tokenize, chosen_by = self.encode, self.tokenize, self.baseline.name
        seen = Round(self.game, episodes, groups, encode, tokenize, self.settings, chosen_by, min(1.0, progress))
        for source in self.sources:
            rows = source.apply(rows, seen, rng)
        return rows if self.settings.rows is None else rows[: self.settings.rows]

    def _chosen(self, groups: list[Group], before: int, rng: np.random.Generator) -> list[Group]:
        """Groups in random order, informative ones first, as many as are wanted and fit whole."""
        most, room = self.settings.role(groups[0].role).groups if groups else 0, self.settings.rows
        flat = [g for g in groups if not g.informative] if self.baseline.name == "critic" else []
        first = [g for g in groups if g.informative] if self.baseline.needs_variance or flat else groups
        order = [first[i] for i in rng.permutation(len(first))]
        if flat and (most is None or len(order) < most):
            order += [flat[i] for i in rng.permutation(len(flat))]
        chosen: list[Group] = []
        for group in order:
            if most is not None and len(chosen) >= most:
                break
            if room is None or before + len(group.rows) <= room:
                chosen.append(group)
                before += len(group.rows)
        return chosen

    def _rows(self, group: Group, advantages: np.ndarray) -> list[TrainingRow]:
        return [
            TrainingRow(row.prompt(self.encode), row.ids, advantage, row.value, group.role, logprobs=row.logprobs)
            for row, advantage in zip(group.rows, advantages.tolist(), strict=True)
            if advantage
        ]

    def state(self) -> dict[str, Any]:
        """JSON-ready: the baseline's state and that of every source that has one."""
        return {"parts": states((self.baseline, *self.sources))}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        restore((self.baseline, *self.sources), state["parts"])


def states(parts: Sequence[Any]) -> list[Any]:
    """The state of each part, None for one that has none."""
    return [part.state() if hasattr(part, "state") else None for part in parts]


def restore(parts: Sequence[Any], saved: Sequence[Any]) -> None:
    """Put ``states`` back; an error if they belong to other parts."""
    if len(saved) != len(parts):
        raise DreamEnvsError(f"this checkpoint has {len(saved)} row sources, this run {len(parts)}")
    for part, state in zip(parts, saved, strict=True):
        if state is not None:
            part.restore(state)
