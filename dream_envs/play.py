"""Who acts, and how games are moved on: agents from anything, batched steps, one loop over many games, the Episodes.

A *step* is one move in each of many games, with one call a policy.  Requests carry seeds hashed from (the episode's
label, agent, turn): an episode is the same whatever runs beside it, and a resumed run repeats and skips nothing.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

import msgspec

from dream_envs import core, registry, seeds
from dream_envs.core import Action, Agent, AgentLike, DreamEnvsError, Episode, Game, Message, Request, Score, Task, Turn
from dream_envs.rewards.base import Model, as_reward, clean, roles

#: A game that has not ended after so many steps is taken to be endless.
MAX_STEPS = 10_000
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

    If its first parameter is annotated as ``Request`` it is given the request itself (its limits, its seed, and whose
    turn it writes); annotated otherwise than ``str``, or without an annotation and named ``messages``,
    ``conversation``, ``chat`` or ``history``, a fresh list of messages; else the text (see ``text_of``).  It returns a
    str or an ``Action``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.name = function, getattr(function, "__name__", type(function).__name__)
        self._wants = _wanted(function)
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

    def act_guarded(
        self, requests: Sequence[Request], failed: Callable[[BaseException, int], list[Action]]
    ) -> Sequence[Action] | Awaitable[Sequence[Action]]:
        """The same, but a call that fails is one completion as ``failed`` makes it."""
        if self._is_async:
            return self._act_async_guarded(requests, failed)
        answers = list[Action]()
        for request in requests:
            try:
                answers.append(as_action(self.function(self._argument(request)), self.name))
            except Exception as error:
                answers += failed(error, 1)
        return answers

    async def _act_async_guarded(
        self, requests: Sequence[Request], failed: Callable[[BaseException, int], list[Action]]
    ) -> Sequence[Action]:
        async def one(request: Request) -> Action:
            try:
                return as_action(await self.function(self._argument(request)), self.name)
            except (Exception, SystemExit) as error:  # an exit would end the loop that all games share
                return failed(error, 1)[0]

        return await asyncio.gather(*[one(request) for request in requests])

    def _argument(self, request: Request) -> Any:
        if self._wants == "request":
            return request
        return [dict(m) for m in request.messages] if self._wants == "messages" else text_of(request.messages)


def _wanted(function: Callable[..., Any]) -> str:
    """What a function is called with: ``request``, ``messages`` or ``text``."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some C functions have no signature: str -> str
        return "text"
    if not parameters:
        raise DreamEnvsError(f"{getattr(function, '__name__', function)!r} takes no argument: an agent takes one")
    first = parameters[0]
    if first.annotation is first.empty:
        return "messages" if first.name in _MESSAGE_NAMES else "text"
    if first.annotation is Request or str(first.annotation).rpartition(".")[2] == "Request":
        return "request"
    plain = first.annotation in (str, "str", Any, "Any", "typing.Any", object, "object")
    return "text" if plain else "messages"


def as_agent(obj: AgentLike | str, game: Game | None = None, **config: Any) -> Agent:
    """An Agent from an Agent, a plain function (sync or async, see ``FunctionAgent``), or a name.

    A name is a registered one (``oracle``) or ``module:attribute``; ``noisy(tpr=0.9)`` has arguments.  A class behind
    it, or a function that needs no more than ``game``, is called, with ``config`` and with ``game`` if it takes that.
    """
    if isinstance(obj, str):
        url = obj.startswith(("http://", "https://"))
        name, given = ("openai", {"base_url": obj}) if url else registry.spec_of(obj, "agent")
        config = {**given, **config}
        found = registry.load("agents", name)
        if inspect.isclass(found) or not callable(getattr(found, "act", None)):
            parameters = inspect.signature(found).parameters
            loose = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            needed = {n for n, p in parameters.items() if p.default is p.empty and p.kind not in loose}
            if inspect.isclass(found) or config or not needed - {"game"}:
                registry.check_kwargs(found, config, name)
                found = registry.made(name, found, ({"game": game} if "game" in parameters else {}) | config)
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


class _Asked(NamedTuple):
    """A step: by table the moves so far, the seats, what was shown; and each policy's requests with their tables."""

    moves: list[dict[str, Action]]
    seats: list[list[core.Seat]]
    seen: list[dict[str, list[Message]]]
    calls: list[tuple[Agent, list[Request], list[int]]]


class Runner:
    """Moves tables on.  ``policies`` maps agent names to Agents; the seats of nobody must be given to ``step``."""

    def __init__(self, game: Game, policies: Mapping[str, Agent]) -> None:
        self.game, self.policies = game, dict(policies)

    def step(self, tables: Sequence[Table], given: Sequence[Mapping[str, Action]] | None = None) -> None:
        """One move in each table, with one batched call a policy; ``given[i]``: moves already made at table i."""
        asked = self._asked(tables, given)
        began = time.perf_counter()
        answers = self._ask_all([(policy, requests) for policy, requests, _ in asked.calls])
        self._move(tables, asked, answers, time.perf_counter() - began)

    def _asked(self, tables: Sequence[Table], given: Sequence[Mapping[str, Action]] | None = None) -> _Asked:
        """Whom to ask what for the next move in each table."""
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
        return _Asked(moves, seats, seen, list(calls.values()))

    def _move(self, tables: Sequence[Table], asked: _Asked, answers: Sequence[list[Action]], took: float) -> None:
        """Make the moves, those that were given and those that were answered in ``took`` seconds."""
        game, extracted = self.game, core.hook(self.game, "extracted")
        seconds = took / max(1, sum(map(len, answers)))
        for (_, requests, where), actions in zip(asked.calls, answers, strict=True):
            for i, request, action in zip(where, requests, actions, strict=True):
                asked.moves[i][request.agent] = action
        for table, here, made, shown in zip(tables, asked.seats, asked.moves, asked.seen, strict=True):
            move = {agent: storable(action) for agent, action in made.items()}
            for seat in here:
                known = seat.agent in shown
                messages = shown[seat.agent] if known else game.view(table.state, seat.agent)
                action = move[seat.agent]
                answer = extracted(table.state, seat.agent, action) if action.status == "ok" else None
                table.turns.append(_turn(seat, messages, action, seconds if known else 0.0, answer))
            table.state = game.apply(table.state, move)

    def _ask_all(self, calls: Sequence[tuple[Agent, list[Request]]]) -> list[list[Action]]:
        """Every policy's answers of one step."""
        return [ask(policy, requests) for policy, requests in calls]


def _request(game: Game, table: Table, seat: core.Seat, privileged: bool) -> Request:
    number = seeds.digest("request", table.label, seat.agent, len(table.turns))
    seen = game.view(table.state, seat.agent)
    who: dict[str, Any] = {"agent": seat.agent, "role": seat.role, "episode": table.label, "writes": seat.writes}
    plain = Request(messages=seen, seed=number, limits=seat.limits, **who)
    if not privileged:
        return plain
    tasks, _ = game.record(table.state)
    return PrivilegedRequest(**msgspec.structs.asdict(plain), task=tasks[-1] if tasks else None, state=table.state)


def _turn(seat: core.Seat, messages: list[Message], action: Action, seconds: float, extracted: str | None) -> Turn:
    return Turn(
        agent=seat.agent, role=seat.role, messages=messages, text=action.text, status=action.status,
        token_ids=action.token_ids, logprobs=action.logprobs, usage=action.usage, seconds=seconds,
        finish_reason=action.finish_reason, extracted=extracted, author=action.author, writes=seat.writes,
    )  # fmt: skip


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
            moves = [Counter(turn.agent for turn in e.turns) for e in episodes]
            found = [{a: clean(v, name, n[a]) for a, v in s.items()} for s, n in zip(found, moves, strict=True)]
    except DreamEnvsError:
        raise
    except Exception as error:
        why = registry.told(error)
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
        """Append and flush.

        Raises:
            DreamEnvsError: some field is not what a reader will take; nothing is written.
        """
        if not self.tokens:
            turns = [msgspec.structs.replace(turn, token_ids=None, logprobs=None) for turn in episode.turns]
            episode = msgspec.structs.replace(episode, turns=turns)
        line = core.encode(episode)
        try:
            core.decode_episode(line)
        except msgspec.ValidationError as error:
            raise DreamEnvsError(f"episode {episode.index} of {episode.env_id} cannot be recorded: {error}") from error
        self._file.write(line + b"\n")
        self._file.flush()

    def drop(self, unwanted: Callable[[Episode], bool]) -> int:
        """Take episodes out of the file, which is replaced as a whole; how many."""
        kept = [e for e in read_episodes(self.path) if not unwanted(e)]
        count = sum(1 for _ in read_episodes(self.path)) - len(kept)
        if count:
            part = self.path.with_name(self.path.name + ".part")
            part.write_bytes(b"".join(core.encode(e) + b"\n" for e in kept))
            self.close()
            part.replace(self.path)
            self._file = open(self.path, "ab+")  # noqa: SIM115
        return count

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
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise DreamEnvsError(f"{path} is no regular file: move it away")
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
    retry: Sequence[str] = (),
) -> Iterator[Episode]:
    """Play episodes and yield each as it ends.

    With synchronous agents alone the games move on together, in an order that depends on the arguments alone; where an
    agent is asynchronous each game goes on at its own pace (``dream_envs.pace``).  The episodes are the same.

    Args:
        game: the rules.
        seats: an agent for each role (``solver``) or seat (``solver_1``, which wins); one object is asked in one call.
        starts: the episodes, or how many.
        seed: the run's seed label; episode ``i`` draws everything from the label ``{seed}/{i}``.
        reward: scores the episodes that end in one step together; None leaves ``scores`` empty.
        out: where episodes are written; those that it already holds are not played again.
        width: games in play at once, at least 1.
        deadline: seconds for one call; past it all its completions have status ``timeout``, and it goes on in the
            background.  An agent that fails gives completions of status ``error`` and one warning.
        retry: episodes of ``out`` with a turn of one of these statuses are taken out of it and played again.
    """
    from dream_envs import pace  # which stands on this module

    model = None if reward is None else reward_model(reward)
    runner = pace.GuardedRunner(game, assign_agents(game, seats), deadline)
    todo, _ = unplayed(starts, out, width, retry)
    together = not any(map(pace.is_asynchronous, runner.policies.values()))
    steps = (pace.together if together else pace.paced)(runner, todo, str(seed), width)
    for ended in steps:
        episodes = [_ended(game, start, table) for start, table in ended]
        for episode in episodes if model is None else score(episodes, model, game.agents):
            if out is not None:
                out.write(episode)
            yield episode


def unplayed(
    starts: Iterable[core.Start] | int, out: EpisodeWriter | None, width: int = 1, retry: Sequence[str] = ()
) -> tuple[Iterator[core.Start], int]:
    """What a rollout (see there) has still to play, without what ``out`` holds, and how many (0: not known)."""
    if width < 1:
        raise DreamEnvsError(f"width={width}: at least 1")
    if unknown := set(retry) - {"error", "timeout"}:
        raise DreamEnvsError(f"retry={sorted(unknown)}: error, timeout")
    if out is not None and retry:
        out.drop(lambda e: any(t.status in retry for t in e.turns))
    done = {e.index for e in read_episodes(out.path)} if out is not None else set()
    if isinstance(starts, int):
        return (core.Start(i) for i in range(starts) if i not in done), starts - sum(i < starts for i in done)
    return (s for s in starts if s.index not in done), 0


def _ended(game: Game, start: core.Start, table: Table) -> Episode:
    episode = episode_from(game, table.state, table.turns, seed=table.label, index=start.index)
    if not start.author:
        return episode
    note = core.Event("given", data={"author": start.author})
    return msgspec.structs.replace(episode, events=[note, *episode.events])
