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

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from dream_envs.core import DreamEnvsError
from dream_envs.registry import unknown
from dream_envs.testing import basics, cores, private, processes
from dream_envs.testing.subject import Check, Failure, Report, Skip, Subject, adapters_of, resolve, run_check

__all__ = ["CHECKS", "Check", "Report", "Rule", "check"]


class Rule(NamedTuple):
    """A check, named as its function, of each part that is of one of ``kinds``, if none of ``needs`` has failed."""

    function: Callable[[Subject, Sequence[Subject]], None]
    needs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("game", "gymnasium", "aec", "parallel")

    @property
    def name(self) -> str:
        """The check's name."""
        return self.function.__name__

    def run(self, parts: Sequence[Subject]) -> None:
        """Raise what the first faulty part raises, or ``Skip`` if the check applies to none."""
        skipped, mine = [], [part for part in parts if part.kind in self.kinds]
        for part in mine:
            try:
                self.function(part, parts)
            except Skip as why:
                skipped.append(str(why))
            except Failure as why:
                raise Failure(str(why) if part is parts[0] else f"{part.name}: {why}") from why
        if len(skipped) == len(mine):
            raise Skip(skipped[0] if skipped else f"not for {parts[0].kind} environments")


_SOUND = ("plays", "global_rng", "seed_determinism", "siblings")
_SCORED = (*_SOUND, "hostile_replies", "reward_range")
_APIS = (*_SCORED, "fresh_returns", "no_truncation_on_first_step", "pickling", "snapshot")
_GAME, _GYM, _AEC, _PARALLEL = ("game",), ("gymnasium",), ("aec",), ("parallel",)
CHECKS: tuple[Rule, ...] = (
    Rule(basics.plays),
    Rule(basics.global_rng, ("plays",)),
    Rule(basics.seed_determinism, ("plays", "global_rng")),
    Rule(basics.siblings, ("plays", "global_rng", "seed_determinism")),
    Rule(basics.fresh_returns, _SOUND),
    Rule(basics.pickling, (*_SOUND, "fresh_returns")),
    Rule(basics.snapshot, (*_SOUND, "fresh_returns", "pickling")),
    Rule(cores.hostile_replies, ("plays",), _GAME),
    Rule(private.private_information, ("plays", "hostile_replies"), _GAME),
    Rule(cores.in_place, ("plays", "hostile_replies"), _GAME),
    Rule(cores.reward_range, ("plays", "hostile_replies"), _GAME),
    Rule(cores.oracle_top, _SCORED, _GAME),
    Rule(cores.floor_bottom, _SCORED, _GAME),
    Rule(cores.rescoring, _SCORED, _GAME),
    Rule(processes.process_determinism, (*_SCORED, "rescoring")),
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
        if (only is not None and rule.name not in only) or rule.name in skip:
            continue
        broken = [need for need in rule.needs if need in done and done[need].status == "failed"]
        skipped = Check(rule.name, "skipped", f"after {broken[0]} failed") if broken else None
        done[rule.name] = skipped or run_check(rule.name, rule.run, parts)
    report = Report(subject.name, tuple(done.values()))
    if raise_on_failure:
        report.raise_if_failed()
    return report
