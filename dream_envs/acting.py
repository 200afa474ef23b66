"""Who acts, and how a game is moved on: agents from anything, batched waves, and the Episode at the end.

A *wave* is one move in each of many games: every policy is called once, with the requests of all its seats.  ``play``
runs one game to its end; the faces and ``rollout`` move many at once with the same ``Runner``.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from dream_envs import registry, seeds
from dream_envs.core import (
    Action,
    Agent,
    AgentLike,
    DreamEnvsError,
    Episode,
    Game,
    Message,
    Request,
    RewardModel,
    Score,
    Seat,
    Task,
    Turn,
)

#: A game that has not ended after so many waves is taken to be endless.
MAX_WAVES = 10_000
_MESSAGE_NAMES = {"messages", "conversation", "chat", "history"}


class PrivilegedRequest(Request, frozen=True, kw_only=True):
    """A Request that also carries the truth; only agents with ``privileged = True`` (scripted ones) are given it.

    ``task``: the newest task of the game, answer included.  ``state``: the game's state, not to be changed.
    """

    task: Task | None = None
    state: Any = None


def text_of(messages: Sequence[Message]) -> str:
    """Messages as one text: the content of a single message, else ``role: content`` blocks with a blank line between.

    >>> text_of([{"role": "user", "content": "c:BDA"}])
    'c:BDA'
    """
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join([f"{m['role']}: {m['content']}" for m in messages])


class FunctionAgent:
    """A plain function as an Agent: one call a request; an async function is called for all requests at once.

    The first parameter decides what the function is given.  Annotated ``str``: the text (see ``text_of``).  Annotated
    otherwise, or without annotation and named ``messages``, ``conversation``, ``chat`` or ``history``: a fresh list of
    messages.  Anything else: the text.  It returns a str or an ``Action``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._wants_messages = _wants_messages(function)
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  an object with an async __call__
        )

    def act(self, requests: Sequence[Request]) -> Sequence[Action] | Awaitable[Sequence[Action]]:
        """Call the function for each request, in order; async functions concurrently."""
        if self._is_async:
            return self._act_async(requests)
        return [_as_action(self.function(self._argument(r)), self.function) for r in requests]

    async def _act_async(self, requests: Sequence[Request]) -> Sequence[Action]:
        replies = await asyncio.gather(*[self.function(self._argument(r)) for r in requests])
        return [_as_action(reply, self.function) for reply in replies]

    def _argument(self, request: Request) -> Any:
        if self._wants_messages:
            return [dict(m) for m in request.messages]
        return text_of(request.messages)


def as_agent(obj: AgentLike | str, game: Game | None = None) -> Agent:
    """An Agent from an Agent, a plain function (sync or async, see ``FunctionAgent``) or a registry name (``oracle``).

    Args:
        obj: what to make an agent of.
        game: handed to registered agents whose constructor takes ``game``.

    Raises:
        DreamEnvsError: if it is none of these, or there is no such name.
    """
    if isinstance(obj, str):
        factory = registry.load("agents", obj)
        takes_game = "game" in inspect.signature(factory).parameters
        return registry.create("agents", obj, **({"game": game} if takes_game else {}))
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


def ask(agent: Agent, requests: Sequence[Request]) -> list[Action]:
    """One batched call; waits for an async agent, also from inside a running event loop.

    Raises:
        DreamEnvsError: if the answers are not one Action (or str) a request.
    """
    answers = agent.act(requests)
    if inspect.isawaitable(answers):
        answers = asyncio.run_coroutine_threadsafe(_wait(answers), background_loop()).result()
    return _checked(agent, requests, answers)


def request_for(game: Game, state: Any, seat: Seat, *, label: str, turn: int, privileged: bool = False) -> Request:
    """What ``seat`` is asked.  Its seed depends on the episode's label, the agent and how many turns went before."""
    number = seeds.digest("request", label, seat.agent, turn)
    seen = game.view(state, seat.agent)
    plain = Request(messages=seen, agent=seat.agent, role=seat.role, seed=number, limits=seat.limits)
    if not privileged:
        return plain
    tasks, _ = game.record(state)
    return PrivilegedRequest(**msgspec.structs.asdict(plain), task=tasks[-1] if tasks else None, state=state)


class Table:
    """One running game: its label (which all its randomness is made from), its state and the turns so far."""

    __slots__ = ("label", "state", "turns")

    def __init__(self, game: Game, label: str, task: Task | None = None) -> None:
        self.label = label
        self.state = game.start(task, seeds.stream("episode", label))
        self.turns: list[Turn] = []


class Runner:
    """Moves tables on.  ``policies`` maps agent names to Agents; the seats of nobody must be given to ``wave``."""

    def __init__(self, game: Game, policies: Mapping[str, Agent]) -> None:
        self.game, self.policies = game, dict(policies)

    def wave(self, tables: Sequence[Table], given: Sequence[Mapping[str, Action]] | None = None) -> None:
        """One move in each table, with one batched call a policy; ``given[i]`` are the moves already made at table i.

        Raises:
            DreamEnvsError: if a seat has neither a policy nor a given move.
        """
        game, policies = self.game, self.policies
        moves: list[dict[str, Action]] = [dict(g) for g in given] if given else [{} for _ in tables]
        seats = [game.turns(table.state) for table in tables]
        asked: list[dict[str, Request]] = [{} for _ in tables]
        calls: dict[int, tuple[Agent, list[Request], list[int]]] = {}
        for i, table in enumerate(tables):
            turn = len(table.turns)
            for seat in seats[i]:
                if seat.agent in moves[i]:
                    continue
                policy = policies.get(seat.agent)
                if policy is None:
                    raise DreamEnvsError(f"nobody plays {seat.agent}: name an agent for it or for role {seat.role!r}")
                privileged = getattr(policy, "privileged", False)
                request = request_for(
                    game, table.state, seat, label=table.label, turn=turn, privileged=bool(privileged)
                )
                asked[i][seat.agent] = request
                _, requests, where = calls.setdefault(id(policy), (policy, [], []))
                requests.append(request)
                where.append(i)
        began = time.perf_counter()
        answers = self.ask_all([(policy, requests) for policy, requests, _ in calls.values()])
        seconds = (time.perf_counter() - began) / max(1, sum(len(a) for a in answers))
        for (_, requests, where), actions in zip(calls.values(), answers, strict=True):
            for i, request, action in zip(where, requests, actions, strict=True):
                moves[i][request.agent] = action
        for table, here, move, requested in zip(tables, seats, moves, asked, strict=True):
            for agent, action in move.items():
                if not action.text.isascii():
                    move[agent] = storable(action)
            for seat in here:
                asked_of = requested.get(seat.agent)
                seen = asked_of.messages if asked_of else None
                spent = seconds if asked_of else 0.0
                table.turns.append(turn_from(game, table.state, seat, move[seat.agent], seen, spent))
            table.state = game.apply(table.state, move)

    def ask_all(self, calls: Sequence[tuple[Agent, list[Request]]]) -> list[list[Action]]:
        """Every policy's answers of one wave; ``rollout`` puts deadlines and concurrency here."""
        return [ask(policy, requests) for policy, requests in calls]


def turn_from(
    game: Game,
    state: Any,
    seat: Seat,
    action: Action,
    seen: list[Message] | None = None,
    seconds: float = 0.0,
) -> Turn:
    """The record of one move, made before ``apply``; ``seen``: the messages the agent was shown, if at hand."""
    return Turn(
        agent=seat.agent,
        role=seat.role,
        messages=game.view(state, seat.agent) if seen is None else seen,
        text=action.text,
        status=action.status,
        token_ids=action.token_ids,
        logprobs=action.logprobs,
        usage=action.usage,
        seconds=seconds,
    )


def episode_from(
    game: Game,
    state: Any,
    turns: Sequence[Turn],
    *,
    seed: str,
    index: int = 0,
    reward: RewardModel | Callable[[Episode], dict[str, Score]] | None = None,
) -> Episode:
    """The Episode of a finished game, scored if a reward is given.

    Args:
        game: the game.
        state: a state that has an outcome.
        turns: every move, in order.
        seed: the label that the game's randomness was made from.
        index: the episode's place in the run.
        reward: scores the episode; an agent that it leaves out gets the status ``abstain``.

    Raises:
        DreamEnvsError: if the game is not over.
    """
    outcome = game.outcome(state)
    if outcome is None:
        raise DreamEnvsError(f"{game.env_id} is not over: {[s.agent for s in game.turns(state)]} have still to act")
    tasks, events = game.record(state)
    episode = Episode(
        env_id=game.env_id,
        version=game.version,
        seed=seed,
        index=index,
        tasks=list(tasks),
        turns=list(turns),
        events=list(events),
        outcome=outcome,
    )
    return episode if reward is None else score(episode, reward, game.agents)


def score(
    episode: Episode, reward: RewardModel | Callable[[Episode], dict[str, Score]], agents: Sequence[str] = ()
) -> Episode:
    """The episode with this reward's scores; an agent of ``agents`` that is left out gets the status ``abstain``."""
    name = str(getattr(reward, "grader", "") or getattr(reward, "name", "") or getattr(reward, "__name__", "reward"))
    found: Any = reward(episode) if callable(reward) else reward.score([episode])
    scores = dict(found if callable(reward) else found[0])
    for agent in agents:
        if agent not in scores:
            scores[agent] = Score(0.0, "abstain", detail="the reward does not score this agent", grader=name)
    return msgspec.structs.replace(episode, scores=scores, grader=name)


def cast(game: Game, agents: Mapping[str, AgentLike | str]) -> dict[str, Agent]:
    """Agents by seat from agents by role or by seat (the seat's own entry wins); the same object is made once.

    Raises:
        DreamEnvsError: for a key that is neither a role nor an agent of the game.
    """
    role_of = roles_by_agent(game)
    known = [*dict.fromkeys(role_of.values()), *game.agents]
    for key in agents:
        if key not in known:
            raise DreamEnvsError(registry.unknown(f"seats of {game.env_id}", key, known))
    # A function in two seats is one agent, asked once; a name makes a new agent for each of its entries.
    once = {id(value): as_agent(value, game) for value in agents.values() if not isinstance(value, str)}
    made = {k: as_agent(v, game) if isinstance(v, str) else once[id(v)] for k, v in agents.items()}
    return {
        name: made.get(name, made.get(role))  # type: ignore[misc]
        for name, role in role_of.items()
        if name in made or role in made
    }


def roles_by_agent(game: Game) -> dict[str, str]:
    """Each agent's role, in the order of ``game.agents``: ``solver_3`` is a ``solver``."""
    return {agent: agent.rpartition("_")[0] for agent in game.agents}


def play(
    game: Game,
    agents: Mapping[str, AgentLike | str],
    *,
    seed: str = "0",
    index: int = 0,
    task: Task | None = None,
    reward: RewardModel | Callable[[Episode], dict[str, Score]] | None = None,
    max_waves: int = MAX_WAVES,
) -> Episode:
    """One game from start to end, played by ``agents`` (by role or by seat).

    Raises:
        DreamEnvsError: if a seat has no agent, or the game has no end after ``max_waves`` moves.
    """
    runner, table = Runner(game, cast(game, agents)), Table(game, seed, task)
    for _ in range(max_waves):
        if game.outcome(table.state) is not None:
            return episode_from(game, table.state, table.turns, seed=seed, index=index, reward=reward)
        runner.wave([table])
    raise DreamEnvsError(f"{game.env_id} has no outcome after {max_waves} moves")


def as_action(value: Any) -> Action:
    """A move from a str or an Action.

    Raises:
        DreamEnvsError: for anything else.
    """
    return _as_action(value, "the environment")


def storable(action: Action) -> Action:
    """The action with every lone surrogate (half a character, which no UTF-8 file can hold) replaced by U+FFFD."""
    try:
        action.text.encode("utf-8")
    except UnicodeEncodeError:
        text = action.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return msgspec.structs.replace(action, text=text)
    return action


def _as_action(value: Any, source: Any) -> Action:
    if isinstance(value, str):
        return Action(str(value))
    if isinstance(value, Action):
        return value
    who = getattr(source, "__name__", None) or (source if isinstance(source, str) else type(source).__name__)
    raise DreamEnvsError(f"{who}: a move is a str or a core.Action, not {type(value).__name__} ({value!r:.60})")


def _checked(agent: Agent, requests: Sequence[Request], answers: Any) -> list[Action]:
    who = type(agent).__name__
    if isinstance(answers, (str, Action)) or not isinstance(answers, Sequence):
        raise DreamEnvsError(f"{who}.act returned {type(answers).__name__}: return one Action a request, in a list")
    if len(answers) != len(requests):
        raise DreamEnvsError(f"{who}.act returned {len(answers)} actions for {len(requests)} requests")
    return [a if type(a) is Action else _as_action(a, agent) for a in answers]


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


async def _wait(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loop_lock = threading.Lock()


def background_loop(fresh: bool = False) -> asyncio.AbstractEventLoop:
    """One event loop a process, in a daemon thread: clients keep their connections.  ``fresh`` leaves a blocked one."""
    with _loop_lock:
        loop = _loops.get(os.getpid())  # by process: a loop does not survive a fork
        if loop is None or fresh:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="dream-envs-agents", daemon=True).start()
            _loops[os.getpid()] = loop
        return loop
