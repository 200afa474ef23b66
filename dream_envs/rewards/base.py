"""Reward models: pure functions of a finished Episode, their factories, and honest averages over their scores.

A reward is one function and one registry row::

    @reward("brevity")
    def brevity(episode: Episode, *, cap: int = 100) -> dict[str, Score]:
        return {t.agent: Score(max(0.0, 1 - len(t.text) / cap)) for t in episode.turns}

    model = brevity(cap=50)      # a Model: model.grader == "brevity-1(cap=50)"
    scores = model(episode)      # {"challenger_0": Score(...), ...}

Everything a model needs is in the episode, so that a run can be scored again offline.  Status ``ok`` means that the
value is a measurement; every other status means that there is none, and then the value is 0.0 and must not be used.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from dream_envs import registry
from dream_envs.core import Challenge, DreamEnvsError, Episode, Score, Status, Turn, content_hash

#: From harmless to grave; where several statuses meet, the gravest wins.
STATUS_ORDER: tuple[Status, ...] = ("ok", "abstain", "invalid", "timeout", "error")
_RANK = {status: rank for rank, status in enumerate(STATUS_ORDER)}

RewardFunction = Callable[..., Mapping[str, Score | float | None]]


class Model:
    """A reward model: call it with an Episode, get one clean Score for each agent it speaks about.

    It guarantees what the function behind it may have missed: an ``ok`` value (and every component) is a finite
    float, a value that is not ``ok`` is 0.0, None is ``abstain``, and an exception is the status ``error`` for every
    agent (with one warning) instead of the end of a run.  ``DreamEnvsError``, a user's mistake, is passed on.

    Attributes:
        name: the registered name.
        version: goes up when the same episode would get another score.
        knobs: the knobs that ``grader`` shows.
        grader: ``name-version(knob=value)``: the knobs that differ from their defaults.
    """

    __slots__ = ("_args", "_fn", "_rebuild", "grader", "knobs", "name", "version")

    def __init__(
        self,
        name: str,
        version: int,
        fn: RewardFunction,
        args: Mapping[str, Any] | None = None,
        knobs: Mapping[str, Any] | None = None,
        rebuild: tuple[Any, ...] = (),
    ) -> None:
        self.name, self.version, self._fn = name, version, fn
        self._args, self.knobs, self._rebuild = dict(args or {}), dict(knobs or {}), rebuild
        inner = ",".join(f"{k}={show(v)}" for k, v in self.knobs.items())
        self.grader = f"{name}-{version}" + (f"({inner})" if inner else "")

    def __call__(self, episode: Episode) -> dict[str, Score]:
        """Score every agent that this model speaks about.

        Raises:
            DreamEnvsError: if the function behind it is asynchronous or was used wrongly.
        """
        try:
            found = self._fn(episode, **self._args)
        except DreamEnvsError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            warnings.warn(f"reward {self.grader} raised {text}", RuntimeWarning, stacklevel=2)
            return {agent: Score(0.0, "error", detail=text, grader=self.grader) for agent in roles(episode)}
        if inspect.isawaitable(found):
            cast(Any, found).close()
            raise DreamEnvsError(f"reward {self.name!r} is asynchronous: a reward is a plain function of the episode")
        if not isinstance(found, Mapping):
            text = f"returned {type(found).__name__}, not a dict of scores"
            return {agent: Score(0.0, "error", detail=text, grader=self.grader) for agent in roles(episode)}
        return {agent: clean(value, self.grader) for agent, value in found.items()}

    def score(self, episodes: Sequence[Episode]) -> list[dict[str, Score]]:
        """Score many episodes, in order."""
        return [self(episode) for episode in episodes]

    def __repr__(self) -> str:
        return self.grader

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self._fn is other._fn and self._args == other._args

    def __hash__(self) -> int:
        return hash(self.grader)

    def __reduce__(self) -> tuple[Any, ...]:
        # The function behind a decorated name cannot be found by that name, so a copy is made by its factory.
        return (_restore, self._rebuild) if self._rebuild else (Model, (self.name, self.version, self._fn, self._args))


def reward(
    name: str,
    *,
    version: int = 1,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    always: tuple[str, ...] = (),
) -> Callable[[RewardFunction], Callable[..., Model]]:
    """Turn a function ``(episode, *, knobs) -> {agent: Score}`` into a factory ``(knobs) -> Model``.

    Args:
        name: the name that graders carry; register it as well to be found by it.
        version: raise it when the same episode would get another score.
        prepare: checks and resolves the knobs once, when the model is made; a dict in, a dict out.
        always: knobs that the grader shows even at their default.

    Raises:
        DreamEnvsError: for an asynchronous function, or one that takes no episode.
    """

    def decorate(fn: RewardFunction) -> Callable[..., Model]:
        _must_be_sync(fn, name)
        parameters = list(inspect.signature(fn).parameters.values())
        if not parameters:
            raise DreamEnvsError(f"reward {name!r} takes no argument: its first one is the episode")
        signature = inspect.Signature(parameters[1:])

        @functools.wraps(fn)
        def factory(*args: Any, **kwargs: Any) -> Model:
            bound = _bind(signature, name, args, kwargs)
            resolved = prepare(dict(bound)) if prepare else bound
            shown = {
                key: value
                for key, value in resolved.items()
                if key in always or (key in bound and not _same(bound[key], signature.parameters[key].default))
            }
            return Model(name, version, fn, resolved, shown, (factory, args, kwargs))

        factory.__dict__["__signature__"] = signature
        factory.__dict__["reward_name"] = name
        return factory

    return decorate


def as_reward(obj: Any, **knobs: Any) -> Model:
    """A Model from whatever a user may call a reward.

    Args:
        obj: a registered or plug-in name, ``module:attribute``, a Model, a factory, any object with ``name`` that can
            be called with an episode, or a bare function ``Episode -> {agent: Score or float or None}``.
        knobs: passed on to a factory or to what a name stands for.

    Raises:
        DreamEnvsError: for an unknown name, a wrong knob, an asynchronous function, or something else altogether.
    """
    if isinstance(obj, str):
        return as_reward(registry.load("rewards", obj), **knobs)
    if hasattr(obj, "reward_name") or inspect.isclass(obj):
        return as_reward(obj(**knobs))
    if isinstance(obj, Model) or not callable(obj):
        if knobs or not callable(obj):
            hint = "knobs go with a name or a factory" if knobs else "pass a name, a function of an episode or a model"
            raise DreamEnvsError(f"{obj!r} cannot be used as a reward: {hint}")
        return obj
    name = str(getattr(obj, "name", "") or getattr(obj, "__name__", type(obj).__name__))
    _must_be_sync(obj, name)
    needed = [p.name for p in _positional(obj) if p.default is inspect.Parameter.empty]
    if not needed:
        registry.check_kwargs(obj, knobs, name)
        made = obj(**knobs)
        if made is obj or not callable(made):
            raise DreamEnvsError(f"{name}() gave {type(made).__name__}, not a reward model")
        return as_reward(made)
    if len(needed) > 1:
        raise DreamEnvsError(f"reward {name!r} needs {', '.join(needed)}: a reward takes one argument, the episode")
    if knobs:
        raise DreamEnvsError(f"reward {name!r} is a bare function without knobs: decorate it with @reward({name!r})")
    version = getattr(obj, "version", 0)
    return Model(name, version if isinstance(version, int) else 0, obj, rebuild=(as_reward, (obj,), {}))


def rescore(episode: Episode, model: Any) -> Episode:
    """The same episode with this reward's scores and grader in place of its old ones."""
    found = as_reward(model)
    return msgspec.structs.replace(episode, scores=found(episode), grader=found.grader)


class Summary(msgspec.Struct, frozen=True):
    """An average with both denominators.

    Attributes:
        mean: over the ``n_ok`` scores that have a value; None if there is none.
        n_ok: how many scores are ``ok``.
        n_total: how many scores there are.
        counts: how many there are of each status; only statuses that occur.
    """

    mean: float | None
    n_ok: int
    n_total: int
    counts: dict[str, int]


def aggregate(scores: Iterable[Score] | Mapping[str, Score]) -> Summary:
    """The mean over ``ok`` scores only, and how many of all there were of each status.

    An ``ok`` score whose value is not finite can only come from outside; it is counted as ``error``.
    """
    counts: dict[str, int] = {}
    values = []
    for score in scores.values() if isinstance(scores, Mapping) else scores:
        status = score.status if score.status != "ok" or math.isfinite(score.value) else "error"
        counts[status] = counts.get(status, 0) + 1
        if status == "ok":
            values.append(score.value)
    mean = math.fsum(values) / len(values) if values else None
    return Summary(mean, len(values), sum(counts.values()), counts)


def roles(episode: Episode) -> dict[str, str]:
    """The role of every agent seated in the episode: ``{"solver_0": "solver"}``, in seating order.

    Agents that never came to move are known from ``outcome.facts["agents"]``, the others from their turns.
    """
    seated = episode.outcome.facts.get("agents") or ()
    found = {name: role_of(name) for name in seated}
    for turn in episode.turns:
        found[turn.agent] = turn.role
    return found


def role_of(agent: str) -> str:
    """``solver_0`` -> ``solver``."""
    return agent.rpartition("_")[0] or agent


def agents_of(episode: Episode, role: str) -> list[str]:
    """The agents of this role, in seating order."""
    return [agent for agent, its in roles(episode).items() if its == role]


def last_turns(episode: Episode, role: str) -> dict[str, Turn]:
    """The last turn of each agent of this role that moved at all."""
    return {turn.agent: turn for turn in episode.turns if turn.role == role}


def challenge_of(episode: Episode) -> Challenge | None:
    """The problem that was made in this episode, None if the proposal was turned away."""
    return next((task for task in reversed(episode.tasks) if isinstance(task, Challenge)), None)


def rejected(episode: Episode) -> str:
    """The code under which the proposal was turned away, "" if it was accepted or the game has no proposals."""
    facts = episode.outcome.facts
    return "" if facts.get("valid", True) else str(facts.get("reject") or "unknown")


def unanswered(turn: Turn | None, code: str, why: str = "no reply") -> Score:
    """The score of an agent without an answer to measure: its call's status, or ``abstain``."""
    if turn is not None and turn.status != "ok":
        return Score(0.0, turn.status, detail=f"the call ended in {turn.status}")
    return Score(0.0, "abstain", detail=f"proposal rejected: {code}" if code else why)


def episode_key(episode: Episode) -> str:
    """16 hex digits of what was played: seed, place, tasks and every reply; not of scores, graders or timings."""
    said = [part for turn in episode.turns for part in (turn.agent, turn.status, turn.text)]
    tasks = [task.id for task in episode.tasks]
    return content_hash(
        episode.env_id, str(episode.version), episode.seed, str(episode.index), str(len(tasks)), *tasks, *said
    )


def worst(statuses: Iterable[str]) -> Status:
    """The gravest status: error > timeout > invalid > abstain > ok; ``ok`` if there is none."""
    return max((cast(Status, s) for s in statuses), key=_RANK.__getitem__, default="ok")


def clean(value: Score | float | None, grader: str) -> Score:
    """A Score that keeps the contract of ``Model``, from anything that a reward function may return."""
    if value is None:
        return Score(0.0, "abstain", grader=grader)
    score = value if isinstance(value, Score) else Score(cast(float, value))
    grader = score.grader or grader
    if score.status not in _RANK:
        return Score(0.0, "error", detail=f"unknown status {score.status!r}", grader=grader)
    try:
        number = float(score.value) if score.status == "ok" else 0.0
        components = {k: float(v) for k, v in score.components.items()} if score.components else {}
    except (TypeError, ValueError, OverflowError):
        return Score(0.0, "error", detail=f"not a number: {score.value!r:.80}", grader=grader)
    if not math.isfinite(number):
        return Score(0.0, "error", detail=f"value {number} is not finite", grader=grader)
    # JSON has no NaN: a component that is not finite would not survive the episode's file.
    if bad := [k for k, v in components.items() if not math.isfinite(v)]:
        return Score(0.0, "error", detail=f"component {bad[0]!r} is not finite", grader=grader)
    return Score(number, score.status, components, score.detail, grader)


def show(value: Any) -> str:
    """A knob's value as a grader writes it: short, and the same in every process."""
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


def _bind(signature: inspect.Signature, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    allowed = list(signature.parameters)
    for key in kwargs:
        if key not in allowed:
            what = f"arguments of {name}" if allowed else f"arguments of {name} (it takes none)"
            raise DreamEnvsError(registry.unknown(what, key, allowed))
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise DreamEnvsError(f"{name}: {error}; it takes {name}{signature}") from error
    bound.apply_defaults()
    return dict(bound.arguments)


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


def _positional(fn: Any) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(fn).parameters.values() if p.kind in kinds]


def _must_be_sync(fn: Any, name: str) -> None:
    call = fn if inspect.isroutine(fn) else getattr(fn, "__call__", fn)  # noqa: B004
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise DreamEnvsError(f"reward {name!r} is asynchronous: a reward is a plain function of the episode")


def _restore(factory: Callable[..., Model], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
    return factory(*args, **kwargs)
