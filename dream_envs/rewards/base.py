"""Reward models: pure functions of finished episodes, many in one call.

A reward is one function and one registry row::

    @reward("brevity")
    def brevity(episode: Episode, *, cap: int = 100) -> dict[str, Score]:
        return {t.agent: Score(max(0.0, 1 - len(t.text) / cap)) for t in episode.turns}

    model = brevity(cap=50)          # a Model: model.grader == "brevity-1(cap=50)"
    scores = model.score(episodes)   # [{"challenger_0": Score(...), ...}, ...], one dict an episode
    scores = model(episode)          # the same for one episode

``@reward(name, batched=True)`` marks a function of a list of episodes, those of one round, that returns a list of
dicts: one call a round for a learned model or a judge, and a reward may compare episodes.  Either kind may be ``async
def``; ``score`` then returns an awaitable.  A batched function that builds on other rewards is a generator: it yields
their models once and is sent the scores of each for all episodes, whether those are asynchronous or not.

Everything a model needs is in the episode, so that a run can be scored again offline.  Status ``ok`` means that the
value is a measurement; every other status means that there is none, and then the value is 0.0 and must not be used.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from dream_envs import registry
from dream_envs.checks import check, one_of
from dream_envs.core import DreamEnvsError, Episode, Score, Stateful, Status, Turn, content_hash

#: From harmless to grave; where several statuses meet, the gravest wins.
STATUS_ORDER: tuple[Status, ...] = ("ok", "abstain", "invalid", "timeout", "error")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Scores = dict[str, Score]
RewardFunction = Callable[..., Any]
#: What a batched reward is that builds on others: it yields their models and is sent ``[scores by episode]`` of each.
Combination = Generator[Sequence["Model"], list[list[Scores]], list[Scores]]


class Model:
    """A reward model: one clean Score for each agent that it speaks about, in every episode.

    It guarantees what the function behind it may have missed: an ``ok`` value (and every component) is a finite
    float, a value that is not ``ok`` is 0.0, None is ``abstain``, and an exception is the status ``error`` for every
    agent (with one warning) instead of the end of a run.  ``DreamEnvsError``, a user's mistake, is passed on.

    ``arguments``: what that function is given besides the episodes, resolved.  ``grader``: ``name-version`` and those
    arguments that differ from their defaults.
    """

    __slots__ = ("_fn", "_remake", "arguments", "batched", "grader", "name")

    def __init__(
        self, name: str, grader: str, fn: RewardFunction, remake: Callable[[], Model], batched: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.grader, self.batched = name, grader, batched
        self._fn, self._remake, self.arguments = fn, remake, dict(arguments or {})

    def score(self, episodes: Sequence[Episode]) -> Any:
        """Score the episodes of one round: ``[{agent: Score}]``, in order; awaitable if any part is asynchronous."""
        calls: Sequence[Any] = [episodes] if self.batched else episodes
        return then([self._call(argument) for argument in calls], lambda found: self._clean(found, episodes))

    def __call__(self, episode: Episode) -> Scores:
        """Score one episode; an asynchronous reward is an error."""
        found = self.score([episode])
        if inspect.iscoroutine(found):
            found.close()
            raise DreamEnvsError(f"reward {self.name!r} is asynchronous: await score([episode]) instead of calling it")
        return cast(list[Scores], found)[0]

    def state(self) -> list[Any]:
        """The states of the arguments that have one (an index that grows), its parts' included; JSON-ready."""
        return [its.state() for its in self._stateful()]

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from what ``state`` gave."""
        for its, saved in zip(self._stateful(), state, strict=True):
            its.restore(saved)

    def __repr__(self) -> str:
        return self.grader

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self._fn is other._fn and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash(self.grader)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._remake, ()  # the function behind a decorated name cannot be found by that name

    def _stateful(self) -> Iterator[Stateful]:
        for value in self.arguments.values():
            for item in [*value, *value.values()] if isinstance(value, Mapping) else [value]:
                if isinstance(item, Model):
                    yield from item._stateful()
                elif isinstance(item, Stateful):
                    yield item

    def _call(self, argument: Any) -> Any:
        """What the function behind it returns, or the exception that it raised."""
        try:
            found = self._fn(argument, **self.arguments)
            return _combined(cast(Combination, found), argument) if inspect.isgenerator(found) else found
        except Exception as error:
            return error

    def _clean(self, found: list[Any], episodes: Sequence[Episode]) -> list[Scores]:
        """Clean scores from whatever the calls returned or raised."""
        if self.batched:
            (made,) = found
            listed = isinstance(made, Sequence) and not isinstance(made, str) and len(made) == len(episodes)
            if not listed and not isinstance(made, Exception):
                made = f"returned {type(made).__name__}, not a list of {len(episodes)} dicts of scores"
            found = list(made) if listed else [made] * len(episodes)
        for error in dict.fromkeys(one for one in found if isinstance(one, Exception)):
            if isinstance(error, DreamEnvsError):
                raise error
            warnings.warn(f"reward {self.grader} raised {_line(error)}", RuntimeWarning, stacklevel=3)
        return [self._clean_one(its, episode) for its, episode in zip(found, episodes, strict=True)]

    def _clean_one(self, found: Any, episode: Episode) -> Scores:
        if isinstance(found, Mapping):
            moves = Counter(turn.agent for turn in episode.turns)
            return {agent: clean(value, self.grader, moves[agent]) for agent, value in found.items()}
        text = _line(found) if isinstance(found, Exception) else found
        text = text if isinstance(text, str) else f"returned {type(text).__name__}, not a dict of scores"
        return dict.fromkeys(roles(episode), Score(0.0, "error", detail=text, grader=self.grader))


def reward(
    name: str, *, version: int = 1, batched: bool = False,
    within: Mapping[str, tuple[float | None, float | None]] | None = None,
    choices: Mapping[str, Iterable[str]] | None = None,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    models: tuple[str, ...] = (), always: tuple[str, ...] = (),
) -> Callable[[RewardFunction], Callable[..., Model]]:  # fmt: skip
    """Turn a function ``(episode, *, arguments) -> {agent: Score}`` into a factory ``(arguments) -> Model``.

    ``name``: what graders carry; register it as well to be found by it.  ``version``: raise it when the same episode
    would get another score.  ``batched``: see the module's head.  ``within``: the smallest and the largest value of
    arguments that are numbers; None: any that is finite.  ``choices``: the values that an argument may have.
    ``prepare``: checks and resolves the arguments once, when the model is made; a dict in, a dict out.  ``models``:
    arguments that are rewards themselves (anything that ``as_reward`` takes), or dicts of them.  ``always``: arguments
    that the grader shows even at their default.
    """

    def decorate(fn: RewardFunction) -> Callable[..., Model]:
        parameters = list(inspect.signature(fn).parameters.values())
        if not parameters or inspect.isasyncgenfunction(fn):
            raise DreamEnvsError(f"reward {name!r}: a function whose first argument is the episode (or the episodes)")
        signature = inspect.Signature(parameters[1:])
        default = {parameter.name: parameter.default for parameter in parameters[1:]}

        @functools.wraps(fn)
        def factory(*args: Any, **kwargs: Any) -> Model:
            registry.check_kwargs(factory, kwargs, name)
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise DreamEnvsError(f"{name}: {error}; it takes {name}{signature}") from error
            bound.apply_defaults()
            given = bound.arguments
            changed = [key for key in given if not _same(given[key], default[key])]
            for key in changed:
                if within and key in within:
                    check(key, given[key], *within[key])
                elif choices and key in choices:
                    one_of(key, given[key], choices[key])
            resolved = {key: _resolve(value) if key in models else value for key, value in given.items()}
            resolved = prepare(resolved) if prepare else resolved
            shown = ",".join(f"{key}={show(resolved[key])}" for key in resolved if key in (*always, *changed))
            grader = f"{name}-{version}" + (f"({shown})" if shown else "")
            return Model(name, grader, fn, functools.partial(factory, *args, **kwargs), batched, resolved)

        factory.__dict__.update(__signature__=signature, reward_name=name, reward_models=models)
        return factory

    return decorate


def as_reward(obj: Any, **arguments: Any) -> Model:
    """A Model from whatever a user may call a reward.

    ``obj``: a registered or plug-in name, ``module:attribute``, an expression (``rewards.expressions``), a Model, any
    object with a batched ``score``, a bare function ``Episode -> {agent: Score or float or None}``, sync or async, or a
    factory of these, which is called with ``arguments``.
    """
    if isinstance(obj, str) and not re.fullmatch(r"[\w.:]+", obj) and obj not in registry.rows("rewards"):
        from dream_envs.rewards.expressions import parse

        return as_reward(parse(obj), **arguments)
    if isinstance(obj, str):
        return as_reward(registry.load("rewards", obj), **arguments)
    if hasattr(obj, "reward_name") or inspect.isclass(obj):
        return as_reward(registry.made(f"{obj.__module__}:{obj.__qualname__}", obj, arguments))
    batched = callable(getattr(obj, "score", None))
    if isinstance(obj, Model) and not arguments:
        return obj
    if isinstance(obj, Model) or not (batched or callable(obj)):
        hint = "arguments go with a name or factory" if arguments else "a name, a function of an episode or a model"
        raise DreamEnvsError(f"{obj!r} cannot be used as a reward: {hint}")
    name = str(getattr(obj, "name", "") or getattr(obj, "__name__", type(obj).__name__))
    function = obj.score if batched else obj
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.kind in _POSITIONAL and p.default is p.empty]
    if not needed:
        registry.check_kwargs(obj, arguments, name)
        made = obj(**arguments)
        if made is obj or not callable(made):
            raise DreamEnvsError(f"{name}() gave {type(made).__name__}, not a reward model")
        return as_reward(made)
    if len(needed) > 1:
        raise DreamEnvsError(f"reward {name!r} needs {', '.join(needed)}: a reward takes one argument, the episode")
    if arguments:
        raise DreamEnvsError(f"reward {name!r} takes no arguments: decorate it with @reward({name!r})")
    return Model(name, f"{name}-{getattr(obj, 'version', 0)}", function, functools.partial(as_reward, obj), batched)


def roles(episode: Episode) -> dict[str, str]:
    """The role of every agent seated in the episode: ``{"solver_0": "solver"}``, in seating order.

    Agents that never came to move are known from ``outcome.facts["agents"]``, the others from their turns.
    """
    seated = episode.outcome.facts.get("agents") or ()
    return {name: role_of(name) for name in seated} | {turn.agent: turn.role for turn in episode.turns}


def role_of(agent: str) -> str:
    """``solver_0`` -> ``solver``."""
    return agent.rpartition("_")[0] or agent


def agents_of(episode: Episode, role: str | None) -> list[str]:
    """The agents of this role (None: of all), in seating order."""
    return [agent for agent, its in roles(episode).items() if role in (None, its)]


def last_turns(episode: Episode, role: str | None) -> dict[str, Turn]:
    """The last turn of each agent of this role (None: of all) that moved at all."""
    return {turn.agent: turn for turn in episode.turns if role in (None, turn.role)}


def said(turn: Turn) -> str:
    """The answer in a completion as it was read out, or the whole completion where that is the answer."""
    return turn.text if turn.extracted is None else turn.extracted


def rejected(episode: Episode) -> str:
    """The code under which the proposal was turned away, "" if it was accepted or the game has no proposals."""
    facts = episode.outcome.facts
    return "" if facts.get("valid", True) else str(facts.get("reject") or "unknown")


def unanswered(turn: Turn | None, code: str, why: str = "no reply") -> Score:
    """The score of an agent without an answer to measure: its call's status, or ``abstain``."""
    if turn is not None and turn.status != "ok":
        return Score(0.0, turn.status, detail=f"the call ended in {turn.status}")
    return Score(0.0, "abstain", detail=f"proposal rejected: {code}" if code else why)


def by_agent(episode: Episode, role: str | None, score: Callable[[str], Score | float | None], why: str) -> Scores:
    """The score of every agent of a role; ``unanswered`` for those whose score is None."""
    turns, code, found = last_turns(episode, role), rejected(episode), {}
    for agent in agents_of(episode, role):
        value = score(agent)
        value = unanswered(turns.get(agent), code, why) if value is None else value
        found[agent] = value if isinstance(value, Score) else Score(value)
    return found


def each(
    episode: Episode, role: str | None, score: Callable[[Turn], Score | float | None], why: str = "no reply"
) -> Scores:
    """The score of the last turn of every agent of a role; ``unanswered`` for those whose call failed or never came."""
    answered = {agent: turn for agent, turn in last_turns(episode, role).items() if turn.status == "ok"}
    return by_agent(episode, role, lambda agent: score(answered[agent]) if agent in answered else None, why)


def episode_key(episode: Episode) -> str:
    """16 hex digits of what was played: seed, place, tasks and every reply; not of scores, graders or timings."""
    said = [part for turn in episode.turns for part in (turn.agent, turn.status, turn.text)]
    tasks = [task.id for task in episode.tasks]
    place = (episode.env_id, str(episode.version), episode.seed, str(episode.index))
    return content_hash(*place, str(len(tasks)), *tasks, *said)


def worst(statuses: Iterable[str]) -> Status:
    """The gravest status: error > timeout > invalid > abstain > ok; ``ok`` if there is none."""
    return max((cast(Status, s) for s in statuses), key=STATUS_ORDER.index, default="ok")


def clean(value: Score | float | None, grader: str, moves: int | None = None) -> Score:
    """A Score that keeps the contract of ``Model``, from anything that a reward function may return.

    ``moves``: how many turns the agent has, where that is known: so many ``turns`` a score has, if any.
    """
    if value is None:
        return Score(0.0, "abstain", grader=grader)
    score = value if isinstance(value, Score) else Score(cast(float, value))
    grader = score.grader or grader
    wrong, number, components = "", 0.0, {}
    try:
        number = float(score.value) if score.status == "ok" else 0.0
        components = {k: float(v) for k, v in score.components.items()} if score.components else {}
    except (TypeError, ValueError, OverflowError):
        wrong = f"not a number: {score.value!r:.80}"
    if score.status not in STATUS_ORDER:
        wrong = f"unknown status {score.status!r}"
    elif not math.isfinite(number):
        wrong = f"value {number} is not finite"
    elif score.turns is not None and score.status == "ok" and (told := _turns(score.turns, moves)):
        wrong = told
    elif not all(map(math.isfinite, components.values())):  # JSON has no NaN: it would not survive the episode's file
        wrong = f"component {next(k for k, v in components.items() if not math.isfinite(v))!r} is not finite"
    if wrong:
        return Score(0.0, "error", detail=wrong, grader=grader, judgements=score.judgements)
    turns = [float(x) for x in score.turns] if score.turns is not None and score.status == "ok" else None
    number = number if turns is None else math.fsum(turns)
    return Score(number, score.status, components, score.detail, grader, turns, score.judgements)


def revalued(score: Score, value: float, **components: float) -> Score:
    """An ok score with another value; where its turns have their own, the last one's takes the difference."""
    turns = score.turns and [*score.turns[:-1], score.turns[-1] + value - score.value]
    return Score(value, "ok", score.components | components, score.detail, "", turns, score.judgements)


def _turns(turns: Any, moves: int | None) -> str:
    """What is wrong with these rewards by turn, "" if nothing is."""
    if not isinstance(turns, list) or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in turns):
        return f"turns is no list of finite numbers: {turns!r:.60}"
    if moves is not None and len(turns) != moves:
        return f"{len(turns)} rewards by turn for {moves} turns"
    return ""


def show(value: Any) -> str:
    """An argument as a grader writes it: short, and the same in every process."""
    if isinstance(value, Model):
        return value.grader
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{show(k)}:{show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w.:/+-]{1,80}", value) else f"#{content_hash(value)}"
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return "[" + ",".join(show(v) for v in value) + "]"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    if type(value).__repr__ is object.__repr__:  # holds a memory address
        return type(value).__qualname__
    text = repr(value)
    return text if len(text) <= 80 else f"#{content_hash(text)}"


class Shown:
    """An argument that a grader shows as its size and a hash, and that is equal to another of the same contents."""

    def __init__(self, texts: Collection[str]) -> None:
        self._shown = f"{len(texts)}#{content_hash(*sorted(texts))}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return self._shown


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


def _resolve(value: Any) -> Any:
    """An argument that is a reward, a dict of rewards by name, or None."""
    if isinstance(value, Mapping):
        return {str(key): as_reward(its) for key, its in value.items()}
    return None if value is None else as_reward(value)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _combined(step: Combination, episodes: Sequence[Episode]) -> Any:
    """What a combination makes of its parts' scores; each part is asked once."""

    def send(found: list[Any]) -> list[Scores]:
        for error in found:
            if isinstance(error, Exception):
                raise error
        try:
            step.send(found)
        except StopIteration as done:
            return cast(list[Scores], done.value)
        raise DreamEnvsError("a reward that builds on others yields their models once and then returns the scores")

    return then([model.score(episodes) for model in next(step)], send)


def then(found: list[Any], use: Callable[[list[Any]], Any]) -> Any:
    """``use(found)``, or its awaitable: after all that can be awaited, at the same time, an exception as its result."""
    if not any(map(inspect.isawaitable, found)):
        return use(found)

    async def later() -> Any:
        import asyncio

        done = iter(await asyncio.gather(*filter(inspect.isawaitable, found), return_exceptions=True))
        made = [next(done) if inspect.isawaitable(one) else one for one in found]
        for one in made:
            if isinstance(one, BaseException) and not isinstance(one, Exception):
                raise one
        return use(made)

    return later()
