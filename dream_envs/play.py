"""Who acts, and how games are moved on: agents from anything, batched steps, one loop over many games, the Episodes.

A *step* is one move in each of many games, with one call a policy.  Requests carry seeds hashed from (the episode's
label, agent, turn): an episode is the same whatever runs beside it, and a resumed run repeats and skips nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import msgspec

from dream_envs import core, registry, seeds
from dream_envs.core import Action, Agent, AgentLike, DreamEnvsError, Episode, Game, Message, Request, Score, Task, Turn
from dream_envs.rewards.base import Model, as_reward, clean, roles

#: A game that has not ended after so many steps is taken to be endless.
MAX_STEPS = 10_000
_SLACK = 1.0  # seconds past the deadline after which an event loop is taken to be blocked by an agent
_TIMEOUT = Action("", status="timeout")
_STATUSES = get_args(core.Status)
_MESSAGE_NAMES = {"messages", "conversation", "chat", "history"}
RewardLike = core.RewardModel | Callable[[Episode], dict[str, Score]] | str


class PrivilegedRequest(Request, frozen=True, kw_only=True):
    """A Request with the newest task, answer included, and the state; only for agents with ``privileged = True``."""

    task: Task | None = None
    state: Any = None


def text_of(messages: Sequence[Message]) -> str:
    """Messages as one text: a single message's content, else ``role: content`` blocks with a blank line between."""
    many = len(messages) != 1
    return "\n\n".join([f"{m['role']}: {m['content']}" for m in messages]) if many else messages[0]["content"]


class FunctionAgent:
    """A plain function as an Agent: one call a request; an async function is called for all requests at once.

    If its first parameter is annotated otherwise than ``str``, or has no annotation and is named ``messages``,
    ``conversation``, ``chat`` or ``history``, it is given a fresh list of messages, else the text (see ``text_of``).
    It returns a str or an ``Action``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.name = function, getattr(function, "__name__", type(function).__name__)
        self._wants_messages = _wants_messages(function)
        called = getattr(function, "__call__", None)  # noqa: B004  an object's may be async
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)

    def act(self, requests: Sequence[Request]) -> Sequence[Action] | Awaitable[Sequence[Action]]:
        """Call the function for each request, in order; async functions concurrently."""
        if self._is_async:
            return self._act_async(requests)
        return [as_action(self.function(self._argument(r)), self.name) for r in requests]

    async def _act_async(self, requests: Sequence[Request]) -> Sequence[Action]:
        answers = await asyncio.gather(*[self.function(self._argument(r)) for r in requests])
        return [as_action(answer, self.name) for answer in answers]

    def _argument(self, request: Request) -> Any:
        return [dict(m) for m in request.messages] if self._wants_messages else text_of(request.messages)


def _wants_messages(function: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some C functions have no signature: str -> str
        return False
    if not parameters:
        raise DreamEnvsError(f"{getattr(function, '__name__', function)!r} takes no argument: an agent takes one")
    first = parameters[0]
    if first.annotation is first.empty:
        return first.name in _MESSAGE_NAMES
    return first.annotation not in (str, "str", Any, "Any", "typing.Any", object, "object")


def as_agent(obj: AgentLike | str, game: Game | None = None, **config: Any) -> Agent:
    """An Agent from an Agent, a plain function (sync or async, see ``FunctionAgent``), or a name.

    A name is a registered one (``oracle``) or ``module:attribute``; ``noisy(tpr=0.9)`` has arguments.  A class behind
    it, or a function that needs no more than ``game``, is called, with ``config`` and with ``game`` if it takes that.
    """
    if isinstance(obj, str):
        name, given = registry.spec_of(obj, "agent")
        config = {**given, **config}
        found = registry.load("agents", name)
        if inspect.isclass(found) or not callable(getattr(found, "act", None)):
            parameters = inspect.signature(found).parameters
            loose = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            needed = {n for n, p in parameters.items() if p.default is p.empty and p.kind not in loose}
            if inspect.isclass(found) or config or not needed - {"game"}:
                registry.check_kwargs(found, config, name)
                found = found(**({"game": game} if "game" in parameters else {}), **config)
        obj = found
    if isinstance(obj, type):
        raise DreamEnvsError(f"{obj.__name__} is a class, not an agent: give an instance, {obj.__name__}(...)")
    if callable(getattr(obj, "act", None)):
        return obj  # type: ignore[return-value]
    if callable(obj):
        return FunctionAgent(obj)
    raise DreamEnvsError(
        f"{obj!r:.80} is not an agent: give an object with act(requests), a function str -> str or "
        "messages -> str, or a name from registry.rows('agents')"
    )


def roles_by_agent(game: Game) -> dict[str, str]:
    """Each agent's role, in the order of ``game.agents``: ``solver_3`` is a ``solver``."""
    return {agent: agent.rpartition("_")[0] for agent in game.agents}


def assign_agents(game: Game, agents: Mapping[str, AgentLike | str]) -> dict[str, Agent]:
    """Agents by seat from agents by role or by seat (the seat's own entry wins); the same object is made once."""
    role_of = roles_by_agent(game)
    known = [*dict.fromkeys(role_of.values()), *game.agents]
    for key in agents:
        if key not in known:
            raise DreamEnvsError(registry.unknown(f"seats of {game.env_id}", key, known))
    # A function in two seats is one agent, asked once; a name makes a new agent for each of its entries.
    once = {id(value): as_agent(value, game) for value in agents.values() if not isinstance(value, str)}
    made = {k: as_agent(v, game) if isinstance(v, str) else once[id(v)] for k, v in agents.items()}
    return {n: made[n if n in made else role] for n, role in role_of.items() if n in made or role in made}


def as_action(value: Any, source: str = "the environment") -> Action:
    """A move from a str or an Action that can be stored; ``source`` is named in the error for anything else."""
    if isinstance(value, str):
        return Action(str(value))
    known = isinstance(value, Action) and isinstance(value.text, str) and isinstance(value.usage, core.Usage)
    if known and value.status in _STATUSES:  # records are not checked when they are made, only when they are read
        return value
    raise DreamEnvsError(f"{source}: a move is a str or a core.Action, not {type(value).__name__} ({value!r:.60})")


def storable(action: Action) -> Action:
    """The action with every lone surrogate (half a character, which no UTF-8 file can hold) replaced by U+FFFD."""
    if action.text.isascii():
        return action
    text = action.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return action if text == action.text else msgspec.structs.replace(action, text=text)


def ask(agent: Agent, requests: Sequence[Request]) -> list[Action]:
    """One batched call, checked; waits for an async agent, also from inside a running event loop."""
    return _checked(agent, _awaited(agent.act(requests)), len(requests))


def _checked(agent: Agent, answers: Any, count: int) -> list[Action]:
    who = type(agent).__name__
    # A str or a dict has a length and items too, but is no list of completions.
    if isinstance(answers, (str, bytes)) or not isinstance(answers, Sequence):
        raise DreamEnvsError(f"{who}.act returned {type(answers).__name__}: return one Action a request, in a list")
    if len(answers) != count:
        raise DreamEnvsError(f"{who}.act returned {len(answers)} actions for {count} requests")
    return [as_action(answer, who) for answer in answers]


def _awaited(value: Any) -> Any:
    if not inspect.isawaitable(value):
        return value

    async def wait() -> Any:
        return await value

    return asyncio.run_coroutine_threadsafe(wait(), _background_loop(os.getpid())).result()


@functools.cache
def _background_loop(process: int) -> asyncio.AbstractEventLoop:
    """One event loop a process (it does not survive a fork), in a daemon thread: clients keep their connections."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="dream-envs-agents", daemon=True).start()
    return loop


class Table:
    """One running game: its label (of all its randomness), its state, the turns so far, the episode at the end.

    ``redraws``: how many games an API adapter threw away before it, see ``envs.gym.SeatEngine``.
    """

    __slots__ = ("episode", "label", "redraws", "state", "turns")

    def __init__(self, game: Game, label: str, task: Task | None = None, begins: str | None = None) -> None:
        self.label, self.redraws = label, 0
        self.state = game.start(task, seeds.stream("episode", label if begins is None else begins))
        self.turns: list[Turn] = []
        self.episode: Episode | None = None


class Runner:
    """Moves tables on.  ``policies`` maps agent names to Agents; the seats of nobody must be given to ``step``."""

    def __init__(self, game: Game, policies: Mapping[str, Agent]) -> None:
        self.game, self.policies = game, dict(policies)

    def step(self, tables: Sequence[Table], given: Sequence[Mapping[str, Action]] | None = None) -> None:
        """One move in each table, with one batched call a policy; ``given[i]``: moves already made at table i."""
        game = self.game
        moves: list[dict[str, Action]] = [dict(g) for g in given] if given else [{} for _ in tables]
        seats = [game.turns(table.state) for table in tables]
        seen: list[dict[str, list[Message]]] = [{} for _ in tables]
        calls: dict[int, tuple[Agent, list[Request], list[int]]] = {}
        for i, table in enumerate(tables):
            for seat in seats[i]:
                if seat.agent in moves[i]:
                    continue
                policy = self.policies.get(seat.agent)
                if policy is None:
                    raise DreamEnvsError(f"nobody plays {seat.agent}: name an agent for it or for role {seat.role!r}")
                privileged = bool(getattr(policy, "privileged", False))
                request = _request(game, table, seat, privileged)
                ours = privileged or isinstance(policy, FunctionAgent)  # what others do to a message is not recorded
                seen[i][seat.agent] = request.messages if ours else [m.copy() for m in request.messages]
                _, requests, where = calls.setdefault(id(policy), (policy, [], []))
                requests.append(request)
                where.append(i)
        began = time.perf_counter()
        answers = self._ask_all([(policy, requests) for policy, requests, _ in calls.values()])
        seconds = (time.perf_counter() - began) / max(1, sum(map(len, answers)))
        for (_, requests, where), actions in zip(calls.values(), answers, strict=True):
            for i, request, action in zip(where, requests, actions, strict=True):
                moves[i][request.agent] = action
        for table, here, made, shown in zip(tables, seats, moves, seen, strict=True):
            move = {agent: storable(action) for agent, action in made.items()}
            for seat in here:
                asked = seat.agent in shown
                messages = shown[seat.agent] if asked else game.view(table.state, seat.agent)
                table.turns.append(_turn(seat, messages, move[seat.agent], seconds if asked else 0.0))
            table.state = game.apply(table.state, move)

    def _ask_all(self, calls: Sequence[tuple[Agent, list[Request]]]) -> list[list[Action]]:
        """Every policy's answers of one step."""
        return [ask(policy, requests) for policy, requests in calls]


def _request(game: Game, table: Table, seat: core.Seat, privileged: bool) -> Request:
    number = seeds.digest("request", table.label, seat.agent, len(table.turns))
    seen = game.view(table.state, seat.agent)
    plain = Request(messages=seen, agent=seat.agent, role=seat.role, seed=number, limits=seat.limits)
    if not privileged:
        return plain
    tasks, _ = game.record(table.state)
    return PrivilegedRequest(**msgspec.structs.asdict(plain), task=tasks[-1] if tasks else None, state=table.state)


def _turn(seat: core.Seat, messages: list[Message], action: Action, seconds: float) -> Turn:
    return Turn(
        agent=seat.agent, role=seat.role, messages=messages, text=action.text, status=action.status,
        token_ids=action.token_ids, logprobs=action.logprobs, usage=action.usage, seconds=seconds,
    )  # fmt: skip


class _GuardedRunner(Runner):
    """A Runner whose calls cannot end a run: deadlines, failures as statuses, asynchronous policies side by side."""

    def __init__(self, game: Game[Any], policies: Mapping[str, Agent], deadline: float | None) -> None:
        super().__init__(game, policies)
        self.deadline = deadline

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
                answers = policy.act(requests)
                box.append(answers if inspect.isawaitable(answers) else _checked(policy, answers, len(requests)))
            except BaseException as error:
                if not threaded and not isinstance(error, Exception):
                    raise  # Ctrl-C; in a thread of ours sys.exit ends nothing: it is the agent's failure
                box.append(_failed(error, len(requests)))

        if not threaded:
            call()
            return box[0]
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(self.deadline)
        return box[0] if box else [_TIMEOUT] * len(requests)

    async def _wait(self, policy: Agent, requests: list[Request], result: Awaitable[Any]) -> list[Action]:
        try:
            task = asyncio.ensure_future(result)
            # Not wait_for, which would wait for an agent that swallows its cancellation.
            await asyncio.wait([task], timeout=self.deadline)
            if not task.done():
                task.cancel()
                return [_TIMEOUT] * len(requests)
            return _checked(policy, task.result(), len(requests))
        except (Exception, asyncio.CancelledError) as error:
            return _failed(error, len(requests))


def _failed(error: BaseException, count: int) -> list[Action]:
    warnings.warn(f"an agent failed: {_one_line(error)}; its completions have status 'error'", stacklevel=3)
    return [Action("", status="error")] * count


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def reward_model(reward: RewardLike) -> core.RewardModel:
    """The reward as a model: one that scores many episodes as it is, anything else by ``rewards.base.as_reward``."""
    batched = callable(getattr(reward, "score", None)) and not isinstance(reward, type)
    return reward if batched else as_reward(reward)  # type: ignore[return-value]


def score(episodes: Sequence[Episode], model: core.RewardModel, agents: Sequence[str] | None = None) -> list[Episode]:
    """The episodes with this model's scores, from one call; an asynchronous model is waited for.

    Where the model raises anything but a DreamEnvsError (a user's mistake), or does not return one dict an episode,
    all these scores have status ``error``, with one warning.  Agents that it leaves out have status ``abstain``:
    ``agents``, or None for those that the episode itself knows.
    """
    if not episodes:
        return []
    name = str(getattr(model, "grader", "") or getattr(model, "name", "") or type(model).__name__)
    try:
        found = _awaited(model.score(episodes))
        if not isinstance(found, Sequence) or len(found) != len(episodes):
            what = f"{len(found)} items" if isinstance(found, Sequence) else type(found).__name__
            raise TypeError(f"score() returned {what} for {len(episodes)} episodes")
        if not isinstance(model, Model):  # which cleans its own
            found = [{agent: clean(value, name) for agent, value in scores.items()} for scores in found]
    except DreamEnvsError:
        raise
    except Exception as error:
        why = _one_line(error)
        warnings.warn(f"reward {name} failed: {why}; its scores have status 'error'", stacklevel=2)
        found = [{a: Score(0.0, "error", detail=why, grader=name) for a in agents or roles(e)} for e in episodes]
    silent = Score(0.0, "abstain", detail="the reward does not score this agent", grader=name)
    scored = []
    for episode, scores in zip(episodes, found, strict=True):
        missing = dict.fromkeys([a for a in (roles(episode) if agents is None else agents) if a not in scores], silent)
        scored.append(msgspec.structs.replace(episode, scores={**scores, **missing}, grader=name))
    return scored


def episode_from(
    game: Game, state: Any, turns: Sequence[Turn], *, seed: str, index: int = 0, reward: RewardLike | None = None
) -> Episode:
    """The Episode of a finished game, scored if a reward is given; ``seed`` is the label of its random stream."""
    outcome = game.outcome(state)
    if outcome is None:
        raise DreamEnvsError(f"{game.env_id} is not over: {[s.agent for s in game.turns(state)]} have still to act")
    tasks, events = game.record(state)
    episode = Episode(
        env_id=game.env_id, version=game.version, seed=seed, index=index, tasks=list(tasks), turns=list(turns),
        events=list(events), outcome=outcome,
    )  # fmt: skip
    return episode if reward is None else score([episode], reward_model(reward), game.agents)[0]


class EpisodeWriter:
    """Appends episodes to a JSONL file, one flushed line each; a line that a kill cut short is removed on opening.

    ``keep``: only so many bytes of what is there (a checkpoint's position), None for all.  ``tokens``: also write token
    ids and log-probabilities.
    """

    def __init__(self, path: str | Path, *, keep: int | None = None, tokens: bool = False) -> None:
        self.path, self.tokens = Path(path), tokens
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")  # noqa: SIM115  (closed by close())
        size = self._file.seek(0, os.SEEK_END)
        whole = size if keep is None else min(keep, size)
        while whole:  # back to the last end of a line, a piece at a time: files of runs are large
            start = max(0, whole - 2**16)
            self._file.seek(start)
            if (found := self._file.read(whole - start).rfind(b"\n") + 1) > 0:
                whole = start + found
                break
            whole = start
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def write(self, episode: Episode) -> None:
        """Append and flush."""
        if not self.tokens:
            turns = [msgspec.structs.replace(turn, token_ids=None, logprobs=None) for turn in episode.turns]
            episode = msgspec.structs.replace(episode, turns=turns)
        self._file.write(core.encode(episode) + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes so far, for a checkpoint."""
        return self._file.tell()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """The episodes of a file, in the order they ended; an unfinished last line is left out."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield core.decode_episode(line)


def play(
    game: Game,
    agents: Mapping[str, AgentLike | str],
    *,
    seed: str = "0",
    index: int = 0,
    task: Task | None = None,
    reward: RewardLike | None = None,
) -> Episode:
    """One game from start to end, played by ``agents`` (by role or by seat); what they raise is passed on."""
    runner, table = Runner(game, assign_agents(game, agents)), Table(game, seed, task)
    for _ in range(MAX_STEPS):
        if game.outcome(table.state) is not None:
            return episode_from(game, table.state, table.turns, seed=seed, index=index, reward=reward)
        runner.step([table])
    raise DreamEnvsError(f"{game.env_id} has no outcome after {MAX_STEPS} moves")


def rollout(
    game: Game[Any],
    seats: Mapping[str, AgentLike | str],
    starts: Iterable[core.Start] | int,
    *,
    seed: str | int = 0,
    reward: RewardLike | None = None,
    out: EpisodeWriter | None = None,
    width: int = 256,
    deadline: float | None = None,
) -> Iterator[Episode]:
    """Play episodes and yield each as it ends, in an order that depends on the arguments alone.

    Args:
        game: the rules.
        seats: an agent for each role (``solver``) or seat (``solver_1``, which wins); one object is asked in one call.
        starts: the episodes, or how many.
        seed: the run's seed label; episode ``i`` draws everything from the label ``{seed}/{i}``.
        reward: scores the episodes that end in one step together; None leaves ``scores`` empty.
        out: where episodes are written; those that it already holds are not played again.
        width: games in play at once, at least 1.
        deadline: seconds for one batched call; past it all its completions have status ``timeout``, and it goes on in
            the background.  An agent that fails gives completions of status ``error`` and one warning.
    """
    if width < 1:
        raise DreamEnvsError(f"width={width}: at least 1")
    model = None if reward is None else reward_model(reward)
    runner = _GuardedRunner(game, assign_agents(game, seats), deadline)
    done = {e.index for e in read_episodes(out.path)} if out is not None else set()
    todo = (core.Start(i) for i in range(starts)) if isinstance(starts, int) else iter(starts)
    waiting = (s for s in todo if s.index not in done)
    live: list[tuple[core.Start, Table]] = []
    while True:
        while len(live) < width and (start := next(waiting, None)) is not None:
            begins = f"{seed}/{start.index if start.draw is None else start.draw}"
            live.append((start, Table(game, f"{seed}/{start.index}", start.task, begins)))
        if not live:
            return
        # Only a new table can be over already; the others are here because they were not.
        moving = [(s, t) for s, t in live if t.turns or game.outcome(t.state) is None]
        runner.step([t for _, t in moving], [s.given if not t.turns else {} for s, t in moving])
        episodes, running = [], []
        for start, table in live:
            if game.outcome(table.state) is not None:
                episodes.append(_ended(game, start, table))
            elif table.turns and len(table.turns) <= MAX_STEPS * len(game.agents):
                running.append((start, table))
            else:
                raise DreamEnvsError(f"{game.env_id} has no outcome after {len(table.turns)} turns ({table.label})")
        for episode in episodes if model is None else score(episodes, model, game.agents):
            if out is not None:
                out.write(episode)
            yield episode
        live = running


def _ended(game: Game, start: core.Start, table: Table) -> Episode:
    episode = episode_from(game, table.state, table.turns, seed=table.label, index=start.index)
    if not start.author:
        return episode
    note = core.Event("given", data={"author": start.author})
    return msgspec.structs.replace(episode, events=[note, *episode.events])
