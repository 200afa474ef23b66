"""The one loop: many games at once, one batched call a policy a wave, every episode recorded as it ends.

A wave collects the turns of all running games, asks each policy once for all of its requests, and applies the answers;
finished games are scored, written and replaced.  Requests carry seeds hashed from (run seed, episode, agent, turn), so
an episode is the same whatever runs beside it, and a resumed run repeats and skips nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import threading
import warnings
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

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
    Status,
    Turn,
    Usage,
    decode_episode,
    encode,
)
from dream_envs.rewards.base import as_reward

_STATUSES = get_args(Status)
#: Seconds past the deadline after which an event loop that has not answered is taken to be blocked by an agent.
_SLACK = 1.0


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
        reward: scores each finished episode: a model, or a function of an episode; None leaves ``scores`` empty.
        out: where episodes are written; episodes that ``out`` already holds are not played again.
        width: games in play at once, at least 1.
        deadline: seconds that one batched call may take; past it every reply of the call has status ``timeout``.
            An agent that fails gives replies of status ``error`` and one warning.  A call that hangs goes on in the
            background: threads cannot be killed.

    Yields:
        Episodes, in an order that depends on the arguments alone, not on timing.

    Raises:
        DreamEnvsError: for a seat that the game does not have, a role that nobody plays, or a game without an end.
    """
    if width < 1:
        raise DreamEnvsError(f"width={width}: at least 1")
    model = None if reward is None else as_reward(reward)
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
        # Only a new table can be over already; the others are here because they were not.
        moving = [(s, t) for s, t in live if t.turns or game.outcome(t.state) is None]
        runner.wave([t for _, t in moving], [s.given if not t.turns else {} for s, t in moving])
        still = []
        for start, table in live:
            if game.outcome(table.state) is None:
                if not table.turns or len(table.turns) > acting.MAX_WAVES * len(game.agents):
                    raise DreamEnvsError(f"{game.env_id} has no outcome after {len(table.turns)} turns ({table.label})")
                still.append((start, table))
                continue
            episode = _finish(game, start, table, model)
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
            answers = self._await([results[i] for i in later], [len(calls[i][1]) for i in later])
            for i, answer in zip(later, answers, strict=True):
                results[i] = answer
        return [_checked(result, len(requests)) for result, (_, requests) in zip(results, calls, strict=True)]

    def _call(self, policy: Agent, requests: list[Request]) -> Any:
        if self.deadline is None or inspect.iscoroutinefunction(policy.act):
            return _guarded(policy, requests)
        box: list[Any] = []

        def call() -> None:
            try:
                box.append(_guarded(policy, requests))
            except BaseException as error:  # sys.exit in a thread of ours ends nothing: it is the agent's failure
                box.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self.deadline)
        if not box:
            return _timed_out(len(requests))
        return _failed(box[0], len(requests)) if isinstance(box[0], BaseException) else box[0]

    def _await(self, results: Sequence[Awaitable[Any]], counts: Sequence[int]) -> list[list[Action]]:
        """Wait for all at once, but no longer than the deadline even where an agent blocks the event loop."""

        async def together() -> list[list[Action]]:
            return await asyncio.gather(*[self._wait(r, n) for r, n in zip(results, counts, strict=True)])

        future = asyncio.run_coroutine_threadsafe(together(), acting.background_loop())
        try:
            return future.result(None if self.deadline is None else self.deadline + _SLACK)
        except concurrent.futures.TimeoutError:
            acting.background_loop(fresh=True)
            return [_timed_out(n) for n in counts]

    async def _wait(self, result: Awaitable[Any], count: int) -> list[Action]:
        try:
            task = asyncio.ensure_future(result)
            # Not wait_for, which would wait for an agent that swallows its cancellation.
            await asyncio.wait([task], timeout=self.deadline)
            if not task.done():
                task.cancel()
                return _timed_out(count)
            return _checked(task.result(), count)
        except (Exception, asyncio.CancelledError) as error:
            return _failed(error, count)


def _guarded(policy: Agent, requests: list[Request]) -> Any:
    try:
        return policy.act(requests)
    except Exception as error:
        return _failed(error, len(requests))


def _timed_out(count: int) -> list[Action]:
    return [Action("", status="timeout")] * count


def _failed(error: BaseException, count: int) -> list[Action]:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    warnings.warn(f"an agent failed: {why}; its replies have status 'error'", stacklevel=3)
    return [Action("", status="error")] * count


def _checked(actions: Any, count: int) -> list[Action]:
    """The actions if there is one for each request (a str item is one); anything else is the agent's error."""
    try:
        # A str or a dict has a length and items too, but is no list of replies.
        good = isinstance(actions, Sequence) and not isinstance(actions, (str, bytes))
        listed = [Action(str(a)) if isinstance(a, str) else a for a in actions] if good else []
    except Exception as error:
        return _failed(error, count)
    if not good or len(listed) != count or not all(_is_move(a) for a in listed):
        told = f"{len(listed)} items" if good else type(actions).__name__
        return _failed(TypeError(f"act() returned {told} for {count} requests, or not Actions"), count)
    return listed


def _is_move(action: Any) -> bool:
    """Whether it can be played and written: records are not checked when they are made, only when they are read."""
    if not isinstance(action, Action) or not isinstance(action.text, str):
        return False
    return action.status in _STATUSES and isinstance(action.usage, Usage)
