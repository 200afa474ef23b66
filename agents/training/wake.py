"""From episodes to training rows: groups of (task, role), never mixed.

A learner does not see environments, only rows: a prompt, a completion, a value.  Rows of one group are exchangeable
(same prompt, same role), so that a group baseline is right; another role is another group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from dream_envs.core import Episode, Message, Turn
from dream_envs.curriculum.syllabus import author_of, challenge_of


class Row(msgspec.Struct, frozen=True):
    """One completion with the value it earned; ``ids`` are the sampled tokens, the end token included."""

    messages: list[Message]
    ids: list[int]
    value: float


class Group(msgspec.Struct, frozen=True):
    """Rows of one prompt and one role.  ``task``: the problem's id; ``level``: its level; ``text``: its proposal."""

    role: str
    task: str
    level: int
    author: str
    rows: list[Row]

    @property
    def values(self) -> list[float]:
        """The rows' values."""
        return [r.value for r in self.rows]

    @property
    def informative(self) -> bool:
        """Whether the rows differ in value at all."""
        values = self.values
        return max(values) > min(values)


def solver_groups(episodes: Sequence[Episode]) -> list[Group]:
    """One group an accepted problem; replies without an ``ok`` score or without token ids are left out."""
    groups = []
    for episode in episodes:
        challenge = challenge_of(episode)
        if challenge is None:
            continue
        rows = [row for turn in episode.turns if turn.role == "solver" and (row := _row(episode, turn)) is not None]
        if rows:
            groups.append(Group("solver", challenge.id, challenge.level, author_of(episode), rows))
    return groups


def challenger_group(episodes: Sequence[Episode]) -> Group | None:
    """All proposals of the round that the policy itself sampled.

    The value of a problem that was proposed several times in the round is shared among its copies, so that repeating
    oneself does not pay (R-Zero penalises the share of a proposal's cluster for the same reason).
    """
    copies = Counter(c.id for e in episodes if author_of(e) == "challenger" and (c := challenge_of(e)) is not None)
    rows = []
    for episode in episodes:
        if author_of(episode) != "challenger":
            continue
        challenge = challenge_of(episode)
        row = _row(episode, episode.turns[0])
        if row is not None:
            share = copies[challenge.id] if challenge is not None else 1
            value = row.value / share if row.value > 0 else row.value  # a penalty is nobody's to share
            rows.append(msgspec.structs.replace(row, value=value))
    return Group("challenger", "brief", 0, "challenger", rows) if rows else None


def demonstrations(episodes: Sequence[Episode], author: str = "mutation") -> list[tuple[Episode, float]]:
    """Given proposals of this author with the challenger's value of each: what the policy could have proposed."""
    found = []
    for episode in episodes:
        score = episode.scores.get("challenger_0")
        if author_of(episode) == author and challenge_of(episode) is not None and score and score.status == "ok":
            found.append((episode, score.value))
    return found


def _row(episode: Episode, turn: Turn) -> Row | None:
    score = episode.scores.get(turn.agent)
    if score is None or score.status != "ok" or not turn.token_ids:
        return None
    return Row(turn.messages, turn.token_ids, score.value)
