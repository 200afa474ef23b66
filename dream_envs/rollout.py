"""The one loop: many games at once, one batched call a policy a wave, every episode recorded as it ends.

A wave collects the turns of all running games, asks each policy once for all of its requests, and applies the answers;
finished games are scored, written and replaced.  Requests carry seeds hashed from (run seed, episode, agent, turn), so
an episode is the same whatever runs beside it, and a resumed run repeats and skips nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import warnings
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dream_envs import acting
from dream_envs.core import (
    Action,
    Agent,
    AgentLike,
    DreamEnvsError,
    Episode,
    Event,
    Game,
    Request,
    RewardModel,
    Start,
    Turn,
    decode_episode,
    encode,
)


class EpisodeWriter:
    """Appends episodes to a JSONL file, one flushed line each; a line that a kill cut short is removed on opening.

    Args:
        path: the file; made with its folder if it is not there.
        keep: keep only so many bytes of what is there (a checkpoint's position), None for all.
        tokens: also write token ids and log-probabilities.
    """

    def __init__(self, path: str | Path, *, keep: int | None = None, tokens: bool = False) -> None:
        self.path, self.tokens = Path(path), tokens
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")  # noqa: SIM115  (closed by close())
        size = self._file.seek(0, os.SEEK_END) if keep is None else min(keep, self._file.seek(0, os.SEEK_END))
        self._file.seek(0)
        whole = self._file.read(size).rfind(b"\n") + 1
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def write(self, episode: Episode) -> None:
        """Append and flush."""
        if not self.tokens:
            turns = [_without_tokens(t) for t in episode.turns]
            episode = msgspec.structs.replace(episode, turns=turns)
        self._file.write(encode(episode) + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes so far, for a checkpoint."""
        return self._file.tell()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _without_tokens(turn: Turn) -> Turn:
    if turn.token_ids is None and turn.logprobs is None:
        return turn
    return Turn(
        agent=turn.agent,
        role=turn.role,
        messages=turn.messages,
        text=turn.text,
        status=turn.status,
        usage=turn.usage,
        seconds=turn.seconds,
    )


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """The episodes of a file, in the order they ended; an unfinished last line is left out."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode_episode(line)


def rollout(
    game: Game[Any],
    seats: Mapping[str, AgentLike | str],
    starts: Iterable[Start] | int,
    *,
    seed: str | int = 0,
    reward: RewardModel | None = None,
    out: EpisodeWriter | None = None,
    width: int = 256,
    deadline: float | None = None,
) -> Iterator[Episode]:
    """Play episodes and yield each as it ends.

    Args:
        game: the rules.
        seats: an agent for each role (``solver``) or single seat (``solver_1``, which wins over its role).  Seats that
            name the same object are asked in one call.
        starts: the episodes, or how many.
        seed: the run's seed label; episode ``i`` draws everything from the label ``{seed}/{i}``.
        reward: scores each finished episode; None leaves ``scores`` empty.
        out: where episodes are written; episodes that ``out`` already holds are not played again.
        width: games in play at once, at least 1.
        deadline: seconds that one batched call may take; past it every reply of the call has status ``timeout``.
            An agent that fails gives replies of status ``error`` and one warning.

    Yields:
        Episodes, in an order that depends on the arguments alone, not on timing.

    Raises:
        DreamEnvsError: for a seat that the game does not have, or a role that nobody plays.
    """
    if width < 1:
        raise DreamEnvsError(f"width={width}: at least 1")
    runner = _Runner(game, acting.cast(game, seats), deadline)
    done = {e.index for e in read_episodes(out.path)} if out is not None else set()
    todo = (Start(i) for i in range(starts)) if isinstance(starts, int) else iter(starts)
    waiting = (s for s in todo if s.index not in done)
    live: list[tuple[Start, acting.Table]] = []
    while True:
        while len(live) < width and (start := next(waiting, None)) is not None:
            live.append((start, acting.Table(game, f"{seed}/{start.index}", start.task)))
        if not live:
            return
        runner.wave([t for _, t in live], [s.given if not t.turns else {} for s, t in live])
        still = []
        for start, table in live:
            if game.outcome(table.state) is None:
                still.append((start, table))
                continue
            episode = _finish(game, start, table, reward)
            if out is not None:
                out.write(episode)
            yield episode
        live = still


def _finish(game: Game[Any], start: Start, table: acting.Table, reward: RewardModel | None) -> Episode:
    episode = acting.episode_from(game, table.state, table.turns, seed=table.label, index=start.index)
    if start.author:
        note = Event("given", data={"author": start.author})
        episode = msgspec.structs.replace(episode, events=[note, *episode.events])
    return episode if reward is None else acting.score(episode, reward, game.agents)


class _Runner(acting.Runner):
    """A Runner whose calls cannot end a run: deadlines, failures as statuses, asynchronous policies side by side."""

    def __init__(self, game: Game[Any], policies: Mapping[str, Agent], deadline: float | None) -> None:
        super().__init__(game, policies)
        self.deadline = deadline

    def ask_all(self, calls: Sequence[tuple[Agent, list[Request]]]) -> list[list[Action]]:
        results = [self._call(policy, requests) for policy, requests in calls]
        later = [i for i, result in enumerate(results) if inspect.isawaitable(result)]
        if later:

            async def together() -> list[list[Action]]:
                return await asyncio.gather(*[self._wait(results[i], len(calls[i][1])) for i in later])

            answers = asyncio.run_coroutine_threadsafe(together(), acting.background_loop()).result()
            for i, answer in zip(later, answers, strict=True):
                results[i] = answer
        return [_checked(result, len(requests)) for result, (_, requests) in zip(results, calls, strict=True)]

    def _call(self, policy: Agent, requests: list[Request]) -> Any:
        if self.deadline is None or inspect.iscoroutinefunction(policy.act):
            return _guarded(policy, requests)
        box: list[Any] = []
        thread = threading.Thread(target=lambda: box.append(_guarded(policy, requests)), daemon=True)
        thread.start()
        thread.join(self.deadline)
        return box[0] if box else [Action("", status="timeout")] * len(requests)

    async def _wait(self, result: Awaitable[Any], count: int) -> list[Action]:
        try:
            return _checked(await asyncio.wait_for(result, self.deadline), count)
        except TimeoutError:
            return [Action("", status="timeout")] * count
        except Exception as error:
            return _failed(error, count)


def _guarded(policy: Agent, requests: list[Request]) -> Any:
    try:
        return policy.act(requests)
    except Exception as error:
        return _failed(error, len(requests))


def _failed(error: Exception, count: int) -> list[Action]:
    warnings.warn(f"an agent failed: {type(error).__name__}: {error}; its replies have status 'error'", stacklevel=3)
    return [Action("", status="error")] * count


def _checked(actions: Any, count: int) -> list[Action]:
    """The actions if there is one for each request (a str counts as one); anything else is the agent's error."""
    try:
        listed = [Action(a) if isinstance(a, str) else a for a in actions]
    except TypeError as error:
        return _failed(error, count)
    if len(listed) != count or not all(isinstance(a, Action) for a in listed):
        return _failed(TypeError(f"act() returned {len(listed)} items for {count} requests, or not Actions"), count)
    return listed
