"""Dream Envs: environments in which language models write, escalate, reward and consolidate their own practice.

Importing the package registers every game: ``pettingzoo.make("aec", "dream_envs/ChallengerSolver-v0")`` or
``"parallel"``, and one Gymnasium id a role, ``gymnasium.make("dream_envs/ChallengerSolver-Solver-v0")``, also for
``gymnasium.make_vec``.  Games of other packages (entry points of the group ``dream_envs.envs``, or
``registry.register``) are registered in the same way.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import TYPE_CHECKING, Any

import gymnasium.envs.registration as _gymnasium
import pettingzoo as _pettingzoo

from dream_envs import registry

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from dream_envs.envs.aec import AEC
    from dream_envs.envs.parallel import Parallel

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
    **dict.fromkeys(("as_agent", "episode_from", "play"), "dream_envs.acting"),
    "UnicodeText": "dream_envs.spaces",
    "check": "dream_envs.testing",
}  # fmt: skip
__all__ = ["__version__", "make", "make_vec", "parallel_env", "registry", *_LAZY]


def make(id: str, **kwargs: Any) -> AEC:
    """The PettingZoo AEC environment of a game.

    Args:
        id: ``dream_envs/ChallengerSolver-v0``, or without the namespace; or ``module:Class`` of anybody's game.
        kwargs: ``reward``, ``render_mode`` and the game's own arguments.

    Raises:
        DreamEnvsError: for a wrong id or keyword, with the nearest right ones.
    """
    from dream_envs.envs.aec import AEC

    return AEC(id, **kwargs)


def parallel_env(id: str, **kwargs: Any) -> Parallel:
    """The PettingZoo Parallel environment of a game; arguments as for ``make``."""
    from dream_envs.envs.parallel import Parallel

    return Parallel(id, **kwargs)


def make_vec(id: str, num_envs: int = 1, **kwargs: Any) -> VectorEnv:
    """``num_envs`` copies of one role's view, stepped in this process with one batched call an agent.

    Args:
        id: a role's id (``dream_envs/ChallengerSolver-Solver-v0``), or a game's with ``role=``; the namespace may be
            left out.
        num_envs: how many games, 1 or more.
        kwargs: see ``envs.vector.VectorSingleRole``.

    Raises:
        DreamEnvsError: for a wrong id or keyword, with the nearest right ones.
    """
    from dream_envs.envs._common import NAMESPACE, full_id
    from dream_envs.envs.vector import VectorSingleRole

    for name in (id, NAMESPACE + id):
        spec = _gymnasium.registry.get(name)
        if spec is not None and spec.vector_entry_point == _VECTOR:
            return _gymnasium.make_vec(name, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs)
    roles = [n for n, s in _gymnasium.registry.items() if s.vector_entry_point == _VECTOR]
    full_id(id, [*registry.rows("envs"), *roles])  # a wrong id is answered with games and roles
    if "role" not in kwargs and "seat" not in kwargs:
        own = [n for n in roles if _gymnasium.registry[n].kwargs["game"] == full_id(id)]
        raise registry.DreamEnvsError(f"{id} has several roles: say role= or take one of {', '.join(own)}")
    return VectorSingleRole(num_envs, game=id, **kwargs)


def role_id(env_id: str, role: str) -> str:
    """The Gymnasium id of a role: ``acme/Debate-v0`` and ``pro`` give ``acme/Debate-Pro-v0``."""
    name = "".join(part[:1].upper() + part[1:] for part in role.split("_"))
    head, version = re.fullmatch(r"(.*?)(-v\d+)?", env_id, re.S).groups()  # type: ignore[union-attr]
    return f"{head}-{name}{version or ''}"


_VECTOR = "dream_envs.envs.vector:VectorSingleRole"


def _register(kind: str, env_id: str) -> None:
    """Ids in Gymnasium's and PettingZoo's registries, by string entry points: nothing of the game is imported."""
    if kind != "envs":
        return
    for face, entry in (("aec", "dream_envs.envs.aec:AEC"), ("parallel", "dream_envs.envs.parallel:Parallel")):
        if env_id not in getattr(_pettingzoo, f"{face}_registry"):
            _pettingzoo.register(face, env_id, entry, kwargs={"game": env_id})
    for role in registry.roles(env_id):
        if (name := role_id(env_id, role)) not in _gymnasium.registry:
            _gymnasium.register(
                name,
                entry_point="dream_envs.envs.gym:SingleRole",
                vector_entry_point=_VECTOR,
                kwargs={"game": env_id, "role": role},
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
