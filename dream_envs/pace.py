"""How many games move on side by side: together, with one call a policy, or each at its own pace.

Where all agents are synchronous the games move together.  Asynchronous ones (endpoints) are asked by each game as soon
as its last answers are there: each is a coroutine in the background event loop.  Synchronous agents in other seats are
still asked in batches then: whatever has come up while their last call ran.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import os
import queue
import threading
import time
import warnings
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any

from dream_envs import registry
from dream_envs.core import Action, Agent, DreamEnvsError, Game, Request, Start
from dream_envs.play import (
    MAX_STEPS,
    FunctionAgent,
    Runner,
    Table,
    _background_loop,
    _checked,
)

Ended = tuple[Start, Table]
_SLACK = 1.0  # seconds past the deadline after which an event loop is taken to be blocked by an agent
_TIMEOUT = Action("", status="timeout")


def is_asynchronous(policy: Agent) -> bool:
    """Whether an agent answers with an awaitable."""
    return bool(
        getattr(policy, "asynchronous", False)
        or getattr(policy, "_is_async", False)
        or inspect.iscoroutinefunction(policy.act)
    )


def table_of(game: Game, start: Start, seed: str) -> Table:
    """The table of an episode of this run."""
    begins = f"{seed}/{start.index if start.draw is None else start.draw}"
    return Table(game, f"{seed}/{start.index}", start.task, begins)


def going_on(game: Game, table: Table) -> bool:
    """Whether the game is not over yet.

    Raises:
        DreamEnvsError: for one that takes forever.
    """
    if game.outcome(table.state) is not None:
        return False
    if len(table.turns) <= MAX_STEPS * len(game.agents):
        return True
    raise DreamEnvsError(f"{game.env_id} has no outcome after {len(table.turns)} turns ({table.label})")


class GuardedRunner(Runner):
    """A Runner whose calls cannot end a run: deadlines, failures as statuses, asynchronous policies side by side."""

    def __init__(self, game: Game[Any], policies: Mapping[str, Agent], deadline: float | None) -> None:
        super().__init__(game, policies)
        self.deadline, self._told = deadline, set[str]()

    def failed(self, error: BaseException, count: int) -> list[Action]:
        """Completions of status ``error``, with one warning a failure of this kind."""
        if (text := f"an agent failed: {registry.told(error)}; its completions have status 'error'") not in self._told:
            self._told.add(text)
            warnings.warn(text, stacklevel=3)
        return [Action("", status="error")] * count

    def _ask_all(self, calls: Sequence[tuple[Agent, list[Request]]]) -> list[list[Action]]:
        results = [self._call(policy, requests) for policy, requests in calls]
        waiting = {
            i: asyncio.run_coroutine_threadsafe(self._wait(*calls[i], result), _background_loop(os.getpid()))
            for i, result in enumerate(results)
            if inspect.isawaitable(result)
        }
        _, late = concurrent.futures.wait(waiting.values(), None if self.deadline is None else self.deadline + _SLACK)
        if late:  # an agent blocks the event loop: leave it behind
            _background_loop.cache_clear()
        for i, future in waiting.items():
            results[i] = [_TIMEOUT] * len(calls[i][1]) if future in late else future.result()
        return results

    def _call(self, policy: Agent, requests: list[Request]) -> Any:
        """The actions, or the awaitable of an asynchronous policy."""
        box: list[Any] = []
        threaded = self.deadline is not None and not inspect.iscoroutinefunction(policy.act)

        def call() -> None:
            try:
                if isinstance(policy, FunctionAgent):
                    answers = policy.act_guarded(requests, self.failed)
                else:
                    answers = policy.act(requests)
                box.append(answers if inspect.isawaitable(answers) else _checked(policy, answers, len(requests)))
            except BaseException as error:
                if not threaded and not isinstance(error, Exception):
                    raise  # Ctrl-C; in a thread of ours sys.exit ends nothing: it is the agent's failure
                box.append(self.failed(error, len(requests)))

        if not threaded:
            call()
            return box[0]
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self.deadline)
        return box[0] if box else [_TIMEOUT] * len(requests)

    async def _wait(self, policy: Agent, requests: list[Request], result: Awaitable[Any]) -> list[Action]:
        try:
            task = asyncio.ensure_future(_no_exit(result))
            # Not wait_for, which would wait for an agent that swallows its cancellation.
            await asyncio.wait([task], timeout=self.deadline)
            if not task.done():
                task.cancel()
                return [_TIMEOUT] * len(requests)
            return _checked(policy, task.result(), len(requests))
        except (Exception, asyncio.CancelledError) as error:
            if (own := asyncio.current_task()) is not None and own.cancelling():
                raise  # nobody waits for the episode any more
            return self.failed(error, len(requests))


async def _no_exit(result: Awaitable[Any]) -> Any:
    """What an agent answers; its ``sys.exit`` is its failure, and would end the event loop that all games share."""
    try:
        return await result
    except SystemExit as error:
        raise RuntimeError(f"sys.exit({error.code!r})") from error


def together(runner: GuardedRunner, waiting: Iterator[Start], seed: str, width: int) -> Iterator[list[Ended]]:
    """All live games one step at a time; what ended in each step."""
    game, live = runner.game, list[tuple[Start, Table]]()
    while True:
        while len(live) < width and (start := next(waiting, None)) is not None:
            live.append((start, table_of(game, start, seed)))
        if not live:
            return
        # Only a new table can be over already; the others are here because they were not.
        moving = [(s, t) for s, t in live if t.turns or game.outcome(t.state) is None]
        runner.step([t for _, t in moving], [s.given if not t.turns else {} for s, t in moving])
        ended, running = [], []
        for start, table in live:
            if not going_on(game, table):
                ended.append((start, table))
            elif table.turns:
                running.append((start, table))
            else:
                raise DreamEnvsError(f"{game.env_id} has no outcome after 0 turns ({table.label})")
        yield ended
        live = running


class _Batcher:
    """A synchronous agent, called in a thread for all requests that have come up meanwhile."""

    def __init__(self, runner: GuardedRunner, policy: Agent) -> None:
        self.runner, self.policy = runner, policy
        self.waiting: list[tuple[list[Request], asyncio.Future[list[Action]]]] = []
        self.task: asyncio.Task[None] | None = None

    async def ask(self, requests: list[Request]) -> list[Action]:
        """The answers to these requests, out of a call that may hold others as well."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((requests, future))
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self.waiting:
            await asyncio.sleep(0)  # whoever is ready to ask does so first
            batch, self.waiting = self.waiting, []
            everything = [request for requests, _ in batch for request in requests]
            answers = await asyncio.to_thread(self.runner._call, self.policy, everything)
            if inspect.isawaitable(answers):
                answers = await self.runner._wait(self.policy, everything, answers)
            at = 0
            for requests, future in batch:
                if not future.done():
                    future.set_result(answers[at : at + len(requests)])
                at += len(requests)
        self.task = None


class _Drive:
    """The games under way in one event loop; ``dead``: the loop hangs, and others play them to their end."""

    def __init__(self, runner: GuardedRunner, waiting: Iterator[Ended]) -> None:
        self.runner, self.waiting, self.dead = runner, waiting, False
        self.live: dict[int, Ended] = {}
        self.ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._batchers: dict[int, _Batcher] = {}

    async def run(self, width: int) -> None:
        """Play to the end of ``waiting``; what ends, None at the end, or an error goes to ``ended``."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(width):
                    group.create_task(self._seat())
            self.ended.put(None)
        except BaseExceptionGroup as group:
            self.ended.put(group.exceptions[0])
        except BaseException as error:
            self.ended.put(error)
            raise

    async def _seat(self) -> None:
        while not self.dead and (here := next(self.waiting, None)) is not None:
            self.live[id(here[1])] = here
            if await self._play(*here):
                del self.live[id(here[1])]
                self.ended.put(here)

    async def _play(self, start: Start, table: Table) -> bool:
        while going_on(self.runner.game, table):
            asked = self.runner._asked([table], [start.given if not table.turns else {}])
            began = time.perf_counter()
            found = await asyncio.gather(*[self._answers(policy, requests) for policy, requests, _ in asked.calls])
            if self.dead:
                return False
            self.runner._move([table], asked, found, time.perf_counter() - began)
        return True

    async def _answers(self, policy: Agent, requests: list[Request]) -> list[Action]:
        if not is_asynchronous(policy):
            return await self._batchers.setdefault(id(policy), _Batcher(self.runner, policy)).ask(requests)
        found = self.runner._call(policy, requests)
        return await self.runner._wait(policy, requests, found) if inspect.isawaitable(found) else found

    def abandoned(self) -> list[Ended]:
        """The games under way, each with the move made that it was waiting for: asynchronous agents have timed out."""
        self.dead = True
        games = list(self.live.values())
        for start, table in games:
            asked = self.runner._asked([table], [start.given if not table.turns else {}])
            answers = [
                [_TIMEOUT] * len(requests) if is_asynchronous(policy) else self.runner._call(policy, requests)
                for policy, requests, _ in asked.calls
            ]
            self.runner._move([table], asked, answers, 0.0)
        return games


def paced(runner: GuardedRunner, waiting: Iterator[Start], seed: str, width: int) -> Iterator[list[Ended]]:
    """Play games of ``waiting``, at most ``width`` at once; those that have ended since the last were asked for.

    A game's own error ends everything, as it does where games move together.  An agent that blocks the event loop past
    the deadline has timed out everywhere, and what is left is played in another loop.
    """
    games: Iterator[Ended] = ((start, table_of(runner.game, start, seed)) for start in waiting)
    while True:
        drive, loop = _Drive(runner, games), _background_loop(os.getpid())
        work = asyncio.run_coroutine_threadsafe(drive.run(width), loop)
        try:
            while (found := _next(drive.ended, loop, runner.deadline)) is not None:
                if done := [item for item in found if isinstance(item, tuple)]:
                    yield done
                if failed := [item for item in found if isinstance(item, BaseException)]:
                    raise failed[0]
                if None in found:
                    return
        finally:
            work.cancel()
        _background_loop.cache_clear()
        games = itertools.chain(drive.abandoned(), games)


def _next(ended: queue.SimpleQueue[Any], loop: asyncio.AbstractEventLoop, deadline: float | None) -> list[Any] | None:
    """What has come in, at least one; None where the loop does not turn any more, ``deadline`` seconds and a bit on."""
    while True:
        try:
            found = [ended.get(timeout=_SLACK if deadline is None else deadline + _SLACK)]
        except queue.Empty:
            if not loop.is_running():
                _background_loop.cache_clear()
                raise DreamEnvsError("an agent called sys.exit in a task: the event loop of all has ended") from None
            if deadline is None:  # it may take as long as it likes
                continue
            turned = threading.Event()
            loop.call_soon_threadsafe(turned.set)
            if turned.wait(_SLACK):
                continue
            return None
        while not ended.empty():
            found.append(ended.get())
        return found
