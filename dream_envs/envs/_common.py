"""What the four faces share: building a game and its reward, spaces, infos, transcripts, snapshots."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from dream_envs import acting, registry
from dream_envs.core import AgentLike, DreamEnvsError, Episode, Game, RewardModel, Score, Task, Turn
from dream_envs.rewards.base import as_reward
from dream_envs.spaces import MAX_ACTION, MAX_OBSERVATION, UnicodeText

RewardLike = RewardModel | Callable[[Episode], dict[str, Score]] | str
NAMESPACE = "dream_envs/"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A face's whole position, made by ``snapshot()`` and taken back by ``restore()``; it can be pickled.

    It holds the game's state, the transcript and the face's random stream, so that a restored environment goes on
    exactly as this one would have.  Agents given in ``others=`` and the spaces' own samplers are not part of it.
    """

    env_id: str
    face: str
    data: dict[str, Any]


def full_id(name: str, known: Sequence[str] | None = None) -> str:
    """``ChallengerSolver-v0`` -> ``dream_envs/ChallengerSolver-v0``; other ids are returned as they are.

    Raises:
        DreamEnvsError: if there is no such game.
    """
    known = list(registry.rows("envs")) if known is None else known
    if name in known or ":" in name:
        return name
    if NAMESPACE + name in known:
        return NAMESPACE + name
    raise DreamEnvsError(registry.unknown("envs", name, list(known)))


def build_game(
    game: str | type | Game, kwargs: Mapping[str, Any], face: Callable[..., Any], switch: str | None = None
) -> Game:
    """The game behind an id, ``module:Class``, a class or an object, with its keyword arguments.

    Args:
        game: what to build.
        kwargs: the game's own arguments.
        face: whose keywords are named beside the game's in the message about a wrong one.
        switch: a role to play; a keyword of the game of that name is then set to True if it is not given
            (``judge=True`` for the role ``judge``).

    Raises:
        DreamEnvsError: for a wrong id or keyword (with the nearest right ones), or keywords with a finished object.
    """
    if not isinstance(game, (str, type)):
        if kwargs:
            raise DreamEnvsError(
                f"{next(iter(kwargs))}=: a game object takes no more arguments; give its class or its id"
            )
        return game
    name = full_id(game) if isinstance(game, str) else game.__name__
    factory = registry.load("envs", name) if isinstance(game, str) else game
    if not callable(factory):
        return build_game(factory, kwargs, face)
    parameters = inspect.signature(factory).parameters
    own = [n for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        outer = [n for n, p in inspect.signature(face).parameters.items() if p.kind is p.KEYWORD_ONLY]
        for key in kwargs:
            if key not in own:
                raise DreamEnvsError(registry.unknown(f"arguments of {name}", key, own + outer))
    extra = {switch: True} if switch in own and switch not in kwargs else {}
    return factory(**kwargs, **extra)


def build_reward(reward: RewardLike | None, game: Game) -> Callable[[Episode], dict[str, Score]]:
    """The reward model: an object, a name, or the game's own (its ``default_reward``, else the row of its name).

    Raises:
        DreamEnvsError: if the name is unknown, or nothing is given and the game has none.
    """
    if reward is None:
        reward = getattr(game, "default_reward", None) or snake_name(game.env_id)
        if isinstance(reward, str) and reward not in registry.rows("rewards"):
            raise DreamEnvsError(f"{game.env_id} has no default reward: give reward=, a function Episode -> scores")
    return as_reward(reward)


def snake_name(env_id: str) -> str:
    """``dream_envs/ChallengerSolver-v0`` -> ``challenger_solver``."""
    name = re.sub(r"-v\d+$", "", env_id.rpartition("/")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")


def check_render_mode(render_mode: str | None) -> str | None:
    """``ansi`` or None.

    Raises:
        DreamEnvsError: for any other mode.
    """
    if render_mode not in (None, "ansi"):
        raise DreamEnvsError(f"render_mode={render_mode!r}: 'ansi' (the transcript as text) or None")
    return render_mode


def default_others(game: Game, role: str, levels: Sequence[int] | None) -> dict[str, AgentLike]:
    """Scripted agents for every role: the game's ``default_others``, else generator, oracle judge, guessers."""
    from dream_envs.agents.engines import scripted  # agents stand to the right of the faces: only when needed

    named: dict[str, Any] = dict(getattr(game, "default_others", {}))
    for spec in game.roles:
        if spec.name == "challenger" and spec.name not in named and role != "challenger":
            named[spec.name] = scripted.Generator(game, levels=levels)
        named.setdefault(spec.name, "oracle" if spec.name == "judge" else "guesser")
    return named


def cast_others(
    game: Game, role: str, seat: str, others: Mapping[str, AgentLike | str] | None, levels: Sequence[int] | None
) -> dict[str, Any]:
    """Agents for every seat but ``seat``: those given, and scripted ones for the rest."""
    given = dict(others or {})
    if levels is not None and (role == "challenger" or "challenger" in given):
        raise DreamEnvsError("levels= is for the scripted challenger; here another agent proposes: leave it out")
    policies = acting.cast(game, {**default_others(game, role, levels), **given})
    policies.pop(seat, None)
    return policies


def pick_seat(game: Game, role: str | None, seat: str | None) -> tuple[str, str]:
    """The role and the seat to play.

    Raises:
        DreamEnvsError: if the game has no such role or seat.
    """
    role_of = acting.roles_by_agent(game)
    if seat is not None and seat not in role_of:
        raise DreamEnvsError(registry.unknown(f"agents of {game.env_id}", seat, list(game.agents)))
    role = role if role is not None else role_of[seat or game.agents[0]]
    if role not in role_of.values():
        raise DreamEnvsError(registry.unknown(f"roles of {game.env_id}", role, list(dict.fromkeys(role_of.values()))))
    if seat is not None and role_of[seat] != role:
        raise DreamEnvsError(f"seat={seat!r} is a {role_of[seat]}, not a {role}")
    return role, seat or next(name for name, r in role_of.items() if r == role)


def observation_spaces(game: Game) -> dict[str, Any]:
    """``Dict({"role", "text"})`` for each agent; no key ``observation``, whose dtype PettingZoo's test would ask."""
    from gymnasium.spaces import Dict

    return {agent: Dict({"role": UnicodeText(256), "text": UnicodeText(MAX_OBSERVATION)}) for agent in game.agents}


def action_spaces(game: Game) -> dict[str, UnicodeText]:
    """``UnicodeText`` for each agent: any text may be sent; what is too long for the game is an event."""
    return {agent: UnicodeText(MAX_ACTION) for agent in game.agents}


def score_info(score: Score) -> dict[str, Any]:
    """A Score as a plain dict: value, status, components, detail."""
    return {
        "value": float(score.value),
        "status": score.status,
        "components": dict(score.components),
        "detail": score.detail,
    }


def final_facts(game: Game, state: Any) -> dict[str, Any] | None:
    """What the game makes public at its end (its optional ``public_facts(state)``), fresh on every call; else None."""
    public = getattr(game, "public_facts", None)
    return public(state) if public is not None else None


def running_info(game: Game, state: Any) -> dict[str, Any]:
    """What the game tells in every info (its optional ``public_info(state)``), fresh on every call; else nothing."""
    public = getattr(game, "public_info", None)
    return dict(public(state)) if public is not None else {}


def new_label(rng: np.random.Generator) -> str:
    """The label of the next episode: 16 hex digits, one draw of 63 bits."""
    return f"{int(rng.integers(2**63)):016x}"


def generator(seed: int | None, current: np.random.Generator | None) -> np.random.Generator:
    """Gymnasium's rule: a seed makes a new generator, None goes on with the current one."""
    if seed is not None or current is None:
        return seeding.np_random(seed)[0]
    return current


def task_option(options: Mapping[str, Any] | None) -> Task | None:
    """``options={"task": Task}`` begins the game from that task; other keys are left to wrappers.

    Raises:
        DreamEnvsError: if it is not a Task.
    """
    task = (options or {}).get("task")
    if task is not None and not isinstance(task, Task):
        raise DreamEnvsError(f"options['task'] is a core.Task, not {type(task).__name__}")
    return task


def take(face: Any, names: Sequence[str]) -> Snapshot:
    """A Snapshot of these attributes of ``face``."""
    data = {name: getattr(face, name) for name in names}
    return Snapshot(face.game.env_id, type(face).__name__, copy.deepcopy(data))


def put_back(face: Any, snapshot: Snapshot, names: Sequence[str]) -> None:
    """Set the attributes of ``face`` from a Snapshot, which stays good for another time.

    Raises:
        DreamEnvsError: for the snapshot of another face or game.
    """
    wanted = (face.game.env_id, type(face).__name__)
    if not isinstance(snapshot, Snapshot) or (snapshot.env_id, snapshot.face) != wanted:
        found = f"{snapshot.env_id} {snapshot.face}" if isinstance(snapshot, Snapshot) else type(snapshot).__name__
        raise DreamEnvsError(f"restore needs a snapshot of {wanted[0]} {wanted[1]}, not of {found}")
    data = copy.deepcopy(snapshot.data)
    for name in names:
        setattr(face, name, data[name])


def transcript(turns: Sequence[Turn], scores: Mapping[str, Score] | None = None) -> str:
    """The game so far as text for a terminal; control characters are shown, not sent."""
    lines = []
    for turn in turns:
        lines.append(f"── {turn.agent}")
        lines += [f"  {m['role']}: {_shown(m['content'])}" for m in turn.messages]
        lines.append(f"  > {_shown(turn.text)}")
    for agent, score in (scores or {}).items():
        lines.append(f"{agent}: {score.value:g} ({score.status})")
    return "\n".join(lines)


def _shown(text: str, limit: int = 4000) -> str:
    cut = text[:limit] + (f" … ({len(text)} characters)" if len(text) > limit else "")
    return "".join([c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in cut])
