"""A recorded episode through its game again: whether what the file says can have happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from dream_envs.core import Action, Episode, Game, Turn, encode
from dream_envs.play import Runner, Table, episode_from

_SAID = ("messages", "extracted", "role", "writes")  # of a turn: what the game makes of it


def difference(game: Game, episode: Episode) -> str:
    """What comes out otherwise when the recorded moves are made again from the recorded seed, "" for nothing.

    For episodes that begin from their seed alone: rollouts, not those of a curriculum.
    """
    table, runner, left = Table(game, episode.seed), Runner(game, {}), iter(episode.turns)
    while game.outcome(table.state) is None:
        moves = dict[str, Action]()
        for seat in game.turns(table.state):
            turn = next(left, None)
            if turn is None or turn.agent != seat.agent:
                there = "the record ends" if turn is None else f"the record has {turn.agent}"
                return f"turn {len(table.turns) + len(moves)}: {seat.agent} is to move, {there}"
            moves[seat.agent] = _action(turn)
        runner.step([table], [moves])
    if next(left, None) is not None:
        return f"turn {len(table.turns)}: the game is over, the record goes on"
    for number, (was, now) in enumerate(zip(episode.turns, table.turns, strict=True)):
        for name in _SAID:
            if getattr(was, name) != getattr(now, name):
                return f"turn {number} of {was.agent}: other {name}"
    again = episode_from(game, table.state, table.turns, seed=episode.seed, index=episode.index)
    for name in ("outcome", "tasks", "events"):
        one, other = (msgspec.json.decode(encode(getattr(e, name))) for e in (episode, again))
        if one != other:
            return next(_where(name, one, other))
    return ""


def _action(turn: Turn) -> Action:
    return Action(
        turn.text, turn.token_ids, turn.logprobs, turn.usage, status=turn.status, finish_reason=turn.finish_reason,
        author=turn.author,
    )  # fmt: skip


def _where(name: str, one: Any, other: Any) -> Iterator[str]:
    """The first place at which two JSON values are not the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                yield from _where(f"{name}.{key}", one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                yield from _where(f"{name}[{i}]", a, b)
    else:
        yield f"{name}: {one!r:.40} stored, {other!r:.40} when it is played again"
