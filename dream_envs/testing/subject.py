"""What is under test (a game core with its adapters, or somebody's environment), and what was found: named checks."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium
import pettingzoo

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Game
from dream_envs.envs import _adapter as adapter
from dream_envs.envs.gym import SingleRole
from dream_envs.envs.pettingzoo import AEC, Parallel
from dream_envs.play import roles_by_agent


@dataclasses.dataclass(frozen=True)
class Subject:
    """The thing under test: ``kind`` is ``game``, ``gymnasium``, ``aec`` or ``parallel``; ``new`` makes a fresh one.

    ``variants``: a maker for each arrangement worth testing: as it is, and a game with its optional roles.  ``reward``:
    the one under test, None: the game's own.  ``target``: what ``resolve`` was given, for another process.
    """

    name: str
    kind: str
    new: Callable[[], Any]
    variants: tuple[Callable[[], Any], ...] = ()
    reward: Any = None
    target: Any = None


def resolve(target: Any, reward: Any = None, kwargs: Mapping[str, Any] | None = None) -> Subject:
    """A Subject from an id, ``module:Class``, a class, a function that makes one, or an object, and their arguments."""
    kwargs = dict(kwargs or {})
    if isinstance(target, str):
        maker, name = _by_name(target), target
    elif callable(target):
        maker, name = target, getattr(target, "__name__", type(target).__name__)
    else:
        if kwargs:
            raise DreamEnvsError(f"{next(iter(kwargs))}=: an object takes no more arguments; give its class")
        maker, name = _copier(target), type(target).__name__

    def new() -> Any:
        made = maker(**kwargs)
        return made.unwrapped if isinstance(made, gymnasium.Env) else made

    kind = _kind(new(), name)
    extra = _optional_roles(target, new(), kwargs) if kind == "game" else {}
    variants = (new, lambda: maker(**kwargs, **extra)) if extra else (new,)
    return Subject(name, kind, new, variants, reward, (target, reward, kwargs))


def _kind(made: Any, name: str) -> str:
    kinds = {"gymnasium": gymnasium.Env, "aec": pettingzoo.AECEnv, "parallel": pettingzoo.ParallelEnv}
    if known := [kind for kind, base in kinds.items() if isinstance(made, base)]:
        return known[0]
    members = ["env_id", "version", "roles", "agents", "start", "turns", "view", "apply", "outcome", "record"]
    if missing := [member for member in members if not hasattr(made, member)]:
        what = "no environment of Gymnasium or PettingZoo, and no game"
        raise DreamEnvsError(f"{name} is {what}: it lacks {', '.join(missing)}")
    return "game"


def _by_name(name: str) -> Callable[..., Any]:
    games = list(registry.rows("envs"))
    for full in (name, adapter.NAMESPACE + name):
        if full in games:
            return lambda **kw: adapter.build_game(full, kw, resolve)
        if full in gymnasium.registry:
            return lambda **kw: gymnasium.make(full, **kw)
    for api in ("aec", "parallel"):
        if name in getattr(pettingzoo, f"{api}_registry"):
            return lambda **kw: pettingzoo.make(api, name, **kw)
    if ":" not in name:
        ours = [n for n in gymnasium.registry if n.startswith(adapter.NAMESPACE)]
        raise DreamEnvsError(registry.unknown("environments", name, list(dict.fromkeys(games + ours))))
    found = registry.load("envs", name)
    return found if callable(found) else _copier(found)


def _copier(thing: Any) -> Callable[..., Any]:
    def copied() -> Any:
        try:
            return copy.deepcopy(thing)
        except Exception:  # what cannot be copied is tested as it is; the check "pickling" says so
            return thing

    return copied


def _optional_roles(target: Any, game: Game, kwargs: Mapping[str, Any]) -> dict[str, bool]:
    """Roles that the registry names and the game does not seat by itself, where a keyword of that name seats them."""
    if not isinstance(target, str) or ":" in target:
        return {}
    env_id = adapter.full_id(target)
    seated = {spec.name for spec in game.roles}
    parameters = inspect.signature(registry.load("envs", env_id)).parameters
    return {r: True for r in registry.roles(env_id) if r not in seated and r in parameters and r not in kwargs}


def adapters_of(subject: Subject) -> list[Subject]:
    """The subject and, for a game, its adapters: AEC, Parallel and one single-role view a role."""

    def part(name: str, kind: str, wrap: Callable[..., Any], maker: Callable[[], Any], **kwargs: Any) -> Subject:
        return Subject(f"{subject.name} {name}", kind, lambda: wrap(maker(), reward=subject.reward, **kwargs))

    if subject.kind != "game":
        return [subject]
    parts, whole = [subject], subject.variants[-1]
    for maker, suffix in zip(subject.variants, ("", " (all roles)"), strict=False):
        parts += [part(f"AEC{suffix}", "aec", AEC, maker), part(f"Parallel{suffix}", "parallel", Parallel, maker)]
    views = dict.fromkeys(roles_by_agent(whole()).values())
    return parts + [part(f"view of {role}", "gymnasium", SingleRole, whole, role=role) for role in views]


class Failure(AssertionError):
    """A check's finding: what is wrong, in one line."""


class Skip(Exception):
    """A check that does not apply, and why."""


def need(truth: bool, text: str) -> None:
    """Raise ``Failure`` with this text unless it is true."""
    if not truth:
        raise Failure(text)


@dataclasses.dataclass(frozen=True)
class Check:
    """One check's result; ``seconds`` is its wall-clock time."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""
    seconds: float = 0.0


def run_check(name: str, function: Callable[..., None], *arguments: Any) -> Check:
    """One check's result; whatever it raises becomes a line of reason."""
    status: Literal["passed", "failed", "skipped"] = "failed"
    reason, began = "", time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*arguments)
        status = "passed"
    except Skip as why:
        status, reason = "skipped", str(why)
    except Failure as why:
        reason = " ".join(str(why).split())
    except Exception as error:
        reason = "raised " + " ".join(f"{type(error).__name__}: {error}".split())[:240]
    return Check(name, status, reason, time.perf_counter() - began)


@dataclasses.dataclass(frozen=True)
class Report:
    """All results, in the order the checks ran; a check that builds on a failed one is skipped."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The failed checks."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def raise_if_failed(self) -> None:
        """Raise an AssertionError with one line a failed check, if any failed."""
        if not self.ok:
            lines = [f"  {c.name}: {c.reason}" for c in self.failed]
            raise AssertionError("\n".join([f"{self.subject} fails {len(lines)} check(s)", *lines]))

    def __str__(self) -> str:
        width = max((len(c.name) for c in self.checks), default=0)
        mark = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}
        lines = [f"{mark[c.status]} {c.name:<{width}} {c.seconds:6.2f} s  {c.reason}".rstrip() for c in self.checks]
        return "\n".join([self.subject, *lines])
