"""Dream Envs: environments in which language models write, escalate, reward and consolidate their own practice.

Importing the package registers every game: ``pettingzoo.make("aec", "dream_envs/ChallengerSolver-v0")`` or
``"parallel"`` for all its seats; for one seat, the others scripted, ``gymnasium.make`` and ``gymnasium.make_vec`` with
one id a role, ``"dream_envs/ChallengerSolver-Solver-v0"``, or with the game's id and ``role=``.  Games of other
packages (entry points of the group ``dream_envs.envs``, or ``registry.register``) are registered in the same way.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any

import gymnasium.envs.registration as _gymnasium
import pettingzoo as _pettingzoo

from dream_envs import registry

__version__ = "0.1.0"

_LAZY = {
    **dict.fromkeys(
        (
            "Action", "Agent", "Challenge", "DreamEnvsError", "Episode", "Event", "Game", "Learner", "Limits",
            "Message", "Outcome", "Progress", "Reject", "Request", "RewardModel", "RoleSpec", "Score", "Seat", "Task",
            "TaskFamily", "Turn", "Usage",
        ),
        "dream_envs.core",
    ),
    "UnicodeText": "dream_envs.spaces",
    "check": "dream_envs.testing",
}  # fmt: skip
__all__ = ["__version__", "registry", *_LAZY]


def role_id(env_id: str, role: str) -> str:
    """The Gymnasium id of a role: ``acme/Debate-v0`` and ``pro`` give ``acme/Debate-Pro-v0``."""
    name = "".join(part[:1].upper() + part[1:] for part in role.split("_"))
    head, version = re.fullmatch(r"(.*?)(-v\d+)?", env_id, re.S).groups()  # type: ignore[union-attr]
    return f"{head}-{name}{version or ''}"


def _register(kind: str, env_id: str) -> None:
    """Ids in Gymnasium's and PettingZoo's registries, by string entry points: nothing of the game is imported."""
    if kind != "envs":
        return
    for api, name in (("aec", "AEC"), ("parallel", "Parallel")):
        if env_id not in getattr(_pettingzoo, f"{api}_registry"):
            _pettingzoo.register(api, env_id, f"dream_envs.envs.pettingzoo:{name}", kwargs={"game": env_id})
    # The game's own id takes role=, and says so where it is left out.
    named: dict[str, dict[str, str]] = {role_id(env_id, role): {"role": role} for role in registry.roles(env_id)}
    for name, role in {env_id: {}, **named}.items():
        if name not in _gymnasium.registry:
            _gymnasium.register(
                name,
                entry_point="dream_envs.envs.gym:SingleRole",
                vector_entry_point="dream_envs.envs.vector:VectorSingleRole",
                kwargs={"game": env_id, **role},
            )


for _env_id in registry.rows("envs"):
    try:
        _register("envs", _env_id)
    except Exception as _error:  # somebody's malformed entry point must not stop the import of everything else
        warnings.warn(f"dream_envs: {_env_id!r} was not registered: {_error}", stacklevel=2)
if not any(getattr(listener, "__module__", "") == __name__ for listener in registry.listeners):
    registry.listeners.append(_register)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
