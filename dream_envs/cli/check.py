"""The verb ``check``: the conformance kit on whatever a name stands for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dream_envs import registry
from dream_envs.cli import info as _info
from dream_envs.core import DreamEnvsError
from dream_envs.play import as_agent
from dream_envs.testing import Report
from dream_envs.testing import check as check_env
from dream_envs.testing.parts import check_agent, check_family, check_reward

GAME = "dream_envs/ChallengerSolver-v0"


def check(name: str, settings: Mapping[str, Any], only: Sequence[str] | None, skip: Sequence[str]) -> Report:
    """Test an environment, or a family (by itself and in ``ChallengerSolver``), a reward or an agent.

    Args:
        name: an id of Gymnasium, PettingZoo or ours, a registered name, or ``module:attribute``.
        settings: arguments of what is tested.
        only: names of checks to run; None: all.  For environments, as ``skip``.
        skip: names of checks to leave out.

    Raises:
        DreamEnvsError: if there is nothing of that name to test.
    """
    kinds = [kind for kind in registry.KINDS if name in registry.rows(kind)]
    if not kinds and ":" in name:
        kinds = [_info.kind_of(registry.load("envs", name))]
    if not kinds or "envs" in kinds:
        return check_env(name, only=only or None, skip=skip, **settings)
    if only or skip:
        raise DreamEnvsError(f"--only and --skip are for environments; {name} is among the {kinds[0]}: leave them out")
    if untested := {"loops", "learners", "suites"} & set(kinds):
        raise DreamEnvsError(
            f"check tests environments, families, rewards and agents; {name} is among the {min(untested)}"
        )
    reports = [_part(kind, name, settings) for kind in kinds]
    return Report(name, tuple(check for report in reports for check in report.checks))


def _part(kind: str, name: str, settings: Mapping[str, Any]) -> Report:
    if kind == "rewards":
        from dream_envs.rewards.base import as_reward

        return check_reward(as_reward(name, **settings), name)
    if kind == "agents":
        return check_agent(lambda game: as_agent(name, game, **settings), name)
    found = registry.load("tasks", name)
    family = found
    if inspect.isclass(found):
        registry.check_kwargs(found, dict(settings), name)
        family = found(**settings)
    alone, played = check_family(family), check_env(GAME, family=family)
    return Report(name, (*alone.checks, *played.checks))


def as_data(report: Report) -> dict[str, Any]:
    """The report for ``--json``."""
    checks = [{"name": c.name, "status": c.status, "reason": c.reason, "seconds": c.seconds} for c in report.checks]
    return {"subject": report.subject, "ok": report.ok, "checks": checks}
