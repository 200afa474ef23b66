"""Agreement with labels that somebody made before the episode was played: a vote, a teacher, a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dream_envs.core import DreamEnvsError, Episode, Score, challenge_of, content_hash
from dream_envs.rewards.base import agents_of, last_turns, rejected, reward, unanswered


class Labels:
    """Labels by problem id, as they were when this was made; a grader shows their number and hash, not all of them."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.of = dict(labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self.of == other.of

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{len(self.of)}#{content_hash(*sorted(f'{k}={v}' for k, v in self.of.items()))}"


def _resolve(knobs: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(labels := knobs["labels"], (Mapping, Labels)):
        raise DreamEnvsError(f"labels={labels!r:.60}: a dict of problem ids and the replies that count as right")
    return {**knobs, "labels": Labels(labels) if isinstance(labels, Mapping) else labels}


@reward("pseudo_label", prepare=_resolve)
def pseudo_label(episode: Episode, labels: Any, *, role: str = "solver") -> dict[str, Score]:
    """1 for the reply that is the problem's label, 0 for any other; the truth is not asked.

    Args:
        episode: reads the accepted problem and the replies.
        labels: a dict, problem id -> the reply that counts as right.
        role: who is scored.

    Returns:
        0 or 1.  ``abstain`` where the problem has no label, or the call's own status if the agent's call failed.
    """
    problem, turns = challenge_of(episode), last_turns(episode, role)
    label = labels.of.get(problem.id) if problem is not None else None
    found = {}
    for agent in agents_of(episode, role):
        turn = turns.get(agent)
        if label is None or turn is None or turn.status != "ok":
            found[agent] = unanswered(turn, rejected(episode), "no label")
        else:
            found[agent] = Score(float(turn.text == label))
    return found
