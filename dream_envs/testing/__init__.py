"""The conformance kit: ``check(env_or_id)`` for our environments and for anybody's.

>>> from dream_envs.testing import check
>>> report = check("dream_envs/ChallengerSolver-v0")   # an id, "module:Class", a class, a function or an object
>>> print(report)                                       # doctest: +SKIP

Every check is named, passes, fails or is skipped, and gives one line of reason.  A check that builds on a failed one is
skipped, so that the failures name causes.  A game core is tested with all its faces; a plain ``gymnasium.Env``,
``AECEnv`` or ``ParallelEnv`` with what applies to it.

What a game may have beyond ``core.Game``, for the faces and for this kit:

- ``default_reward``: a registered name, or a method ``(episode) -> {agent: Score}``; else the reward row of its name.
- ``default_others``: ``{role: agent}`` for seats that nobody names in the single-role view.
- ``scripted(kind, request, rng) -> str | None``: its own oracle, floor and guesser (``agents.scripted``).
- ``public_facts(state)``: what goes into ``info["facts"]`` at the end; it must hold no secret.
- ``public_info(state)``: what goes into every ``info``, of all seats alike; it must hold no secret either.
- ``reachable``: ``{role: (low, high)}`` where the range of a role's reward ends in limits that play only approaches.
- ``top_casts``, ``bottom_casts``: ``{role: {role or seat: agent}}``, who must play for the best and the worst reward of
  a role, where a search among oracles and floors does not find it.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.registry import unknown
from dream_envs.testing import basics, cores, standard
from dream_envs.testing.report import Check, Failure, Report, Skip
from dream_envs.testing.subject import Subject, resolve

__all__ = ["CHECKS", "Check", "Failure", "Report", "Rule", "Skip", "Subject", "check", "resolve"]

_SOUND = ("plays", "global_rng", "seed_determinism", "siblings")


@dataclasses.dataclass(frozen=True)
class Rule:
    """A check: its name is its function's; it runs on subjects of ``kinds`` if none of ``needs`` has failed."""

    function: Callable[..., None]
    needs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("game", "gymnasium", "aec", "parallel")

    @property
    def name(self) -> str:
        """The check's name."""
        return self.function.__name__


_GAME = ("game",)
_APIS = (
    *_SOUND,
    "fresh_returns",
    "no_truncation_on_first_step",
    "pickling",
    "snapshot",
    "hostile_replies",
    "reward_range",
)
CHECKS: tuple[Rule, ...] = (
    Rule(basics.plays),
    Rule(basics.global_rng, ("plays",)),
    Rule(basics.seed_determinism, ("plays", "global_rng")),
    Rule(basics.process_determinism, _SOUND),
    Rule(basics.siblings, ("plays", "global_rng", "seed_determinism")),
    Rule(basics.fresh_returns, _SOUND),
    Rule(basics.pickling, (*_SOUND, "fresh_returns")),
    Rule(basics.snapshot, (*_SOUND, "fresh_returns", "pickling")),
    Rule(cores.private_information, ("plays",), _GAME),
    Rule(cores.hostile_replies, ("plays",), _GAME),
    Rule(cores.reward_range, ("plays", "hostile_replies"), _GAME),
    Rule(cores.oracle_top, (*_SOUND, "hostile_replies", "reward_range"), _GAME),
    Rule(cores.floor_bottom, (*_SOUND, "hostile_replies", "reward_range"), _GAME),
    Rule(cores.rescoring, (*_SOUND, "hostile_replies", "reward_range"), _GAME),
    Rule(cores.faces_agree, (*_SOUND, "fresh_returns"), _GAME),
    Rule(basics.random_episodes, ("plays", "hostile_replies")),
    Rule(standard.no_truncation_on_first_step, ("plays",), ("game", "gymnasium")),
    Rule(standard.gymnasium_api, _APIS, ("game", "gymnasium")),
    Rule(standard.aec_api, _APIS, ("game", "aec")),
    Rule(standard.aec_seed, (*_APIS, "aec_api"), ("game", "aec")),
    Rule(standard.parallel_api, _APIS, ("game", "parallel")),
    Rule(standard.parallel_seed, (*_APIS, "parallel_api"), ("game", "parallel")),
    Rule(standard.vector_text, (*_APIS, "gymnasium_api"), ("game", "gymnasium")),
)


def check(
    target: Any,
    *,
    reward: Any = None,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    raise_on_failure: bool = False,
    **kwargs: Any,
) -> Report:
    """Run every check that applies.

    Args:
        target: a game's or an environment's id, ``module:Class``, a class, a function that makes one, or an object
            (which is copied for every check).
        reward: for games: the reward to test with, an object or a name; None: the game's own.
        only: names of checks to run; None: all.
        skip: names of checks to leave out.
        raise_on_failure: raise an AssertionError that lists the failed checks.
        kwargs: arguments of the id, class or function.

    Returns:
        The Report; ``report.ok``, ``report.failed``, ``report["pickling"].reason``.

    Raises:
        DreamEnvsError: if the target is nothing that can be tested, or there is no check of a name.
        AssertionError: with ``raise_on_failure``, if a check failed.
    """
    names = [rule.name for rule in CHECKS]
    for name in [*(only or ()), *skip]:
        if name not in names:
            raise DreamEnvsError(unknown("checks", name, names))
    subject = resolve(target, reward, kwargs)
    done: dict[str, Check] = {}
    parts: list[Subject] | None = None
    for rule in CHECKS:
        if (only is not None and rule.name not in only) or rule.name in skip:
            continue
        if parts is None:
            parts = faces_of(subject)
        done[rule.name] = _run(rule, subject, parts, done)
    report = Report(subject.name, tuple(done.values()))
    if raise_on_failure:
        report.raise_if_failed()
    return report


def faces_of(subject: Subject) -> list[Subject]:
    """The subject and, for a game, its faces: AEC, Parallel and one single-role view a role."""
    if subject.kind != "game":
        return [subject]
    from dream_envs.envs.aec import AEC
    from dream_envs.envs.gym import SingleRole
    from dream_envs.envs.parallel import Parallel

    parts = [subject]
    for number, maker in enumerate(subject.variants):
        suffix = "" if number == 0 else " (all roles)"
        for kind, face in (("aec", AEC), ("parallel", Parallel)):
            new = _maker(face, maker, subject.reward)
            parts.append(Subject(f"{subject.name} {face.__name__}{suffix}", kind, new, (new,), None, None))
    game = subject.variants[-1]()
    for role in dict.fromkeys(agent.rpartition("_")[0] for agent in game.agents):
        new = _maker(SingleRole, subject.variants[-1], subject.reward, role=role)
        parts.append(Subject(f"{subject.name} view of {role}", "gymnasium", new, (new,), None, None))
    return parts


def _maker(face: Callable[..., Any], maker: Callable[[], Any], reward: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: face(maker(), reward=reward, **kwargs)


def _run(rule: Rule, subject: Subject, parts: Sequence[Subject], done: dict[str, Check]) -> Check:
    if subject.kind not in rule.kinds:
        return Check(rule.name, "skipped", f"not for {subject.kind} environments")
    broken = [need for need in rule.needs if need in done and done[need].status == "failed"]
    if broken:
        return Check(rule.name, "skipped", f"after {broken[0]} failed")
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rule.function(subject, parts)
    except Skip as why:
        return Check(rule.name, "skipped", str(why), time.perf_counter() - began)
    except Failure as why:
        return Check(rule.name, "failed", " ".join(str(why).split()), time.perf_counter() - began)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:240]
        return Check(rule.name, "failed", f"raised {text}", time.perf_counter() - began)
    return Check(rule.name, "passed", "", time.perf_counter() - began)
