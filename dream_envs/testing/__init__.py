"""The conformance kit: ``check(env_or_id)`` for our environments and for anybody's.

>>> from dream_envs.testing import check
>>> report = check("dream_envs/ChallengerSolver-v0")   # an id, "module:Class", a class, a function or an object
>>> print(report)                                       # doctest: +SKIP

Every check is named, passes, fails or is skipped, and gives one line of reason.  A check that builds on a failed one is
skipped, so that the failures name causes.  A game core is tested with all its adapters; a plain ``gymnasium.Env``,
``AECEnv`` or ``ParallelEnv`` with what applies to it.  What a game may define for this kit: ``core.GameHooks``,
``scripted`` and ``bounds`` above all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.play import roles_by_agent
from dream_envs.registry import unknown
from dream_envs.testing import basics, cores
from dream_envs.testing.subject import Check, Failure, Report, Skip, Subject, resolve, run_check

__all__ = ["CHECKS", "Check", "Failure", "Report", "Rule", "Skip", "Subject", "check", "resolve"]

_GAME, _GYM, _AEC, _PARALLEL = ("game",), ("game", "gymnasium"), ("game", "aec"), ("game", "parallel")
_ALL = ("game", "gymnasium", "aec", "parallel")


@dataclasses.dataclass(frozen=True)
class Rule:
    """A check: its name is its function's; it runs on subjects of ``kinds`` if none of ``needs`` has failed."""

    function: Callable[..., None]
    needs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = _ALL

    @property
    def name(self) -> str:
        """The check's name."""
        return self.function.__name__


_SOUND = ("plays", "global_rng", "seed_determinism", "siblings")
_SCORED = (*_SOUND, "hostile_replies", "reward_range")
_APIS = (*_SCORED, "fresh_returns", "no_truncation_on_first_step", "pickling", "snapshot")
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
    Rule(cores.oracle_top, _SCORED, _GAME),
    Rule(cores.floor_bottom, _SCORED, _GAME),
    Rule(cores.rescoring, _SCORED, _GAME),
    Rule(cores.adapters_agree, (*_SOUND, "fresh_returns"), _GAME),
    Rule(basics.random_episodes, ("plays", "hostile_replies")),
    Rule(basics.no_truncation_on_first_step, ("plays",), _GYM),
    Rule(basics.gymnasium_api, _APIS, _GYM),
    Rule(basics.aec_api, _APIS, _AEC),
    Rule(basics.aec_seed, (*_APIS, "aec_api"), _AEC),
    Rule(basics.parallel_api, _APIS, _PARALLEL),
    Rule(basics.parallel_seed, (*_APIS, "parallel_api"), _PARALLEL),
    Rule(basics.vector_text, (*_APIS, "gymnasium_api"), _GYM),
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
        target: an id, ``module:Class``, a class, a function, or an object (which is copied for every check).
        reward: for games: the reward to test with, an object or a name; None: the game's own.
        only: names of checks to run; None: all.
        skip: names of checks to leave out.
        raise_on_failure: raise an AssertionError that lists the failed checks.
        kwargs: arguments of the id, class or function.
    """
    names = [rule.name for rule in CHECKS]
    for name in [*(only or ()), *skip]:
        if name not in names:
            raise DreamEnvsError(unknown("checks", name, names))
    subject = resolve(target, reward, kwargs)
    parts = adapters_of(subject)
    done: dict[str, Check] = {}
    for rule in CHECKS:
        if (only is None or rule.name in only) and rule.name not in skip:
            done[rule.name] = _run(rule, subject, parts, done)
    report = Report(subject.name, tuple(done.values()))
    if raise_on_failure:
        report.raise_if_failed()
    return report


def adapters_of(subject: Subject) -> list[Subject]:
    """The subject and, for a game, its adapters: AEC, Parallel and one single-role view a role."""
    if subject.kind != "game":
        return [subject]
    from dream_envs.envs.gym import SingleRole
    from dream_envs.envs.pettingzoo import AEC, Parallel

    parts = [subject]

    def add(name: str, kind: str, adapter: Callable[..., Any], maker: Callable[[], Any], **kwargs: Any) -> None:
        def new() -> Any:
            return adapter(maker(), reward=subject.reward, **kwargs)

        parts.append(Subject(f"{subject.name} {name}", kind, new, (new,), None, None))

    for number, maker in enumerate(subject.variants):
        suffix = "" if number == 0 else " (all roles)"
        add(f"AEC{suffix}", "aec", AEC, maker)
        add(f"Parallel{suffix}", "parallel", Parallel, maker)
    for role in dict.fromkeys(roles_by_agent(subject.variants[-1]()).values()):
        add(f"view of {role}", "gymnasium", SingleRole, subject.variants[-1], role=role)
    return parts


def _run(rule: Rule, subject: Subject, parts: Sequence[Subject], done: dict[str, Check]) -> Check:
    if subject.kind not in rule.kinds:
        return Check(rule.name, "skipped", f"not for {subject.kind} environments")
    broken = [need for need in rule.needs if need in done and done[need].status == "failed"]
    if broken:
        return Check(rule.name, "skipped", f"after {broken[0]} failed")
    return run_check(rule.name, rule.function, subject, parts)
