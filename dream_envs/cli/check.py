"""The verb ``check``: the conformance kit on whatever a name stands for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dream_envs import registry
from dream_envs.cli.info import kind_of
from dream_envs.core import DreamEnvsError
from dream_envs.play import as_agent
from dream_envs.rewards.base import as_reward
from dream_envs.testing import Report
from dream_envs.testing import check as check_env
from dream_envs.testing.parts import check_agent, check_family, check_reward

GAME = "dream_envs/ChallengerSolver-v0"


def check(name: str, settings: Mapping[str, Any], only: Sequence[str] | None, skip: Sequence[str]) -> Report:
    """Test an environment, or a family (by itself and in ``ChallengerSolver``), a reward or an agent.

    ``name``: an id, a registered name, or ``module:attribute``; ``settings``: its arguments.  ``only``, ``skip``: names
    of checks, for environments alone.
    """
    kinds = [kind for kind in registry.KINDS if name in registry.rows(kind)]
    if not kinds and ":" in name:
        kinds = [kind_of(registry.load("envs", name))]
    if not kinds or "envs" in kinds:
        return check_env(name, only=only or None, skip=skip, **settings)
    if only or skip:
        raise DreamEnvsError(f"--only and --skip are for environments; {name} is among the {kinds[0]}: leave them out")
    if untested := {"loops", "learners", "suites"} & set(kinds):
        raise DreamEnvsError(
            f"check tests environments, families, rewards and agents; {name} is among the {min(untested)}"
        )
    return Report(name, tuple(check for kind in kinds for check in _part(kind, name, settings)))


def _part(kind: str, name: str, settings: Mapping[str, Any]) -> Sequence[Any]:
    if kind == "rewards":
        return check_reward(as_reward(name, **settings), name).checks
    if kind == "agents":
        return check_agent(lambda game: as_agent(name, game, **settings), name).checks
    found = registry.load("tasks", name)
    family = registry.create("tasks", name, **settings) if inspect.isclass(found) else found
    return (*check_family(family).checks, *check_env(GAME, family=family).checks)
