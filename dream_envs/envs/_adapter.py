"""What the API adapters share: building a game and its reward, spaces, infos, transcripts, snapshots."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from dream_envs import registry
from dream_envs.core import AgentLike, DreamEnvsError, Episode, Game, RewardModel, Score, Task, Turn, hook
from dream_envs.play import RewardLike, Table, assign_agents, reward_model, roles_by_agent

NAMESPACE = "dream_envs/"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An adapter's whole position: the game's state, the transcript and the random stream; it can be pickled.

    Agents given in ``others=`` and the spaces' own samplers are not part of it.
    """

    env_id: str
    adapter: str
    data: dict[str, Any]


class Adapter:
    """One game behind an API: the finished episode, the transcript as rendering, snapshots."""

    _POSITION: tuple[str, ...]
    game: Game
    render_mode: str | None
    _table: Table | None = None

    @property
    def episode(self) -> Episode | None:
        """The finished episode with every seat's score and the hidden answer, or None while the game goes on."""
        return self._table.episode if self._table else None

    def render(self) -> Any:
        """The transcript in ``ansi`` mode, else None."""
        return transcript(self._table) if self.render_mode == "ansi" else None

    def snapshot(self) -> Snapshot:
        """The whole position, for ``restore``."""
        data = {name: getattr(self, name) for name in self._POSITION}
        return Snapshot(self.game.env_id, type(self).__name__, copy.deepcopy(data))

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a position; it may be restored again, and in another copy of the same environment."""
        wanted = (self.game.env_id, type(self).__name__)
        if not isinstance(snapshot, Snapshot) or (snapshot.env_id, snapshot.adapter) != wanted:
            other = " ".join((snapshot.env_id, snapshot.adapter)) if isinstance(snapshot, Snapshot) else snapshot
            raise DreamEnvsError(f"restore needs a snapshot of {' '.join(wanted)}, not of {other!r:.80}")
        data = copy.deepcopy(snapshot.data)
        for name in self._POSITION:
            setattr(self, name, data[name])

    def _begun(self) -> Table:
        if self._table is None:
            raise DreamEnvsError("this needs a game that has begun: call reset() first")
        return self._table


def full_id(name: str) -> str:
    """``ChallengerSolver-v0`` -> ``dream_envs/ChallengerSolver-v0``; other known ids are returned as they are."""
    known = list(registry.rows("envs"))
    if name in known or ":" in name:
        return name
    if NAMESPACE + name in known:
        return NAMESPACE + name
    raise DreamEnvsError(registry.unknown("envs", name, known))


def build_game(
    game: str | type | Game,
    kwargs: Mapping[str, Any],
    outer: Callable[..., Any] | None = None,
    switch: str | None = None,
) -> Game:
    """The game behind an id, ``module:Class``, a class or an object, with its keyword arguments.

    ``outer``: whose keywords are named beside the game's where one is wrong.  ``switch``: a role to play; a keyword of
    the game of that name is set to True if it is not given (``judge=True`` for the role ``judge``).
    """
    if not isinstance(game, (str, type)):
        for key in kwargs:
            raise DreamEnvsError(f"{key}=: a game object takes no more arguments; give its class or its id")
        return game
    name = full_id(game) if isinstance(game, str) else game.__name__
    factory = registry.load("envs", name) if isinstance(game, str) else game
    if not callable(factory):
        return build_game(factory, kwargs)
    parameters = inspect.signature(factory).parameters
    own = [n for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        others = inspect.signature(outer).parameters if outer is not None else {}
        known = own + [n for n, p in others.items() if p.kind is p.KEYWORD_ONLY]
        for key in kwargs:
            if key not in own:
                raise DreamEnvsError(registry.unknown(f"arguments of {name}", key, known))
    extra = {switch: True} if switch in own and switch not in kwargs else {}
    return registry.made(name, factory, {**kwargs, **extra})


def build_reward(reward: RewardLike | None, game: Game) -> RewardModel:
    """The reward model: what is given, or the game's own (its ``default_reward``, else the row of its name)."""
    if reward is None:
        reward = hook(game, "default_reward") or snake_name(game.env_id)
        if isinstance(reward, str) and reward not in registry.rows("rewards"):
            raise DreamEnvsError(f"{game.env_id} has no default reward: give reward=, a function Episode -> scores")
    return reward_model(reward)


def snake_name(env_id: str) -> str:
    """``dream_envs/ChallengerSolver-v0`` -> ``challenger_solver``."""
    name = re.sub(r"-v\d+$", "", env_id.rpartition("/")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")


def check_render_mode(render_mode: str | None) -> str | None:
    """``ansi`` (the transcript as text) or None."""
    if render_mode not in (None, "ansi"):
        raise DreamEnvsError(f"render_mode={render_mode!r}: 'ansi' (the transcript as text) or None")
    return render_mode


def default_others(game: Game, role: str, levels: Sequence[int] | None) -> dict[str, AgentLike]:
    """Scripted agents for every role: the game's ``default_others``, else generator, oracle judge, guessers."""
    from dream_envs.agents.engines import scripted  # agents stand to the right of the adapters: only when needed

    named: dict[str, Any] = dict(hook(game, "default_others"))
    for spec in game.roles:
        if spec.name == "challenger" and spec.name not in named and role != "challenger":
            named[spec.name] = scripted.Generator(game, levels=levels)
        named.setdefault(spec.name, "oracle" if spec.name == "judge" else "guesser")
    return named


def assign_others(
    game: Game, role: str, seat: str, others: Mapping[str, AgentLike | str] | None, levels: Sequence[int] | None
) -> dict[str, Any]:
    """Agents for every seat but ``seat``: those given, and scripted ones for the rest."""
    named = dict(others or {})
    if isinstance(levels, int):
        raise DreamEnvsError(f"levels={levels}: a list of levels, such as [{levels}]")
    if levels is not None and (role == "challenger" or "challenger" in named):
        raise DreamEnvsError("levels= is for the scripted challenger; here another agent proposes: leave it out")
    policies = assign_agents(game, {**default_others(game, role, levels), **named})
    policies.pop(seat, None)
    return policies


def pick_seat(game: Game, role: str | None, seat: str | None) -> tuple[str, str]:
    """The role and the seat to play, from either; from neither where the game has one role."""
    role_of = roles_by_agent(game)
    names = list(dict.fromkeys(role_of.values()))
    if seat is not None and seat not in role_of:
        raise DreamEnvsError(registry.unknown(f"agents of {game.env_id}", seat, list(game.agents)))
    if role is None and seat is None and len(names) > 1:
        one = f"role= {', '.join(map(repr, names))} to play one, the others scripted"
        raise DreamEnvsError(f"{game.env_id}: {one}; all seats: pettingzoo.make('aec', '{game.env_id}')")
    role = role if role is not None else role_of[seat or game.agents[0]]
    if role not in names:
        raise DreamEnvsError(registry.unknown(f"roles of {game.env_id}", role, names))
    if seat is not None and role_of[seat] != role:
        raise DreamEnvsError(f"seat={seat!r} is a {role_of[seat]}, not a {role}")
    return role, seat or next(name for name, r in role_of.items() if r == role)


def score_info(score: Score) -> dict[str, Any]:
    """A Score as a plain dict: value, status, components, detail."""
    value, components = float(score.value), dict(score.components)
    return {"value": value, "status": score.status, "components": components, "detail": score.detail}


def info_of(game: Game, table: Table, agent: str) -> dict[str, Any]:
    """``messages``, the game's ``public_info`` and, at the end, ``score`` and its ``public_facts``; all of it fresh."""
    info: dict[str, Any] = {"messages": game.view(table.state, agent), **hook(game, "public_info")(table.state)}
    if table.episode is not None:
        info["score"] = score_info(table.episode.scores[agent])
        if facts := hook(game, "public_facts")(table.state):
            info["facts"] = facts
    return info


def new_label(rng: np.random.Generator) -> str:
    """The label of the next episode: 16 hex digits, one draw of 63 bits."""
    return f"{int(rng.integers(2**63)):016x}"


def generator(seed: int | None, current: np.random.Generator | None) -> np.random.Generator:
    """Gymnasium's rule: a seed makes a new generator, None goes on with the current one."""
    return seeding.np_random(seed)[0] if seed is not None or current is None else current


def task_option(options: Mapping[str, Any] | None) -> Task | None:
    """``options={"task": Task}`` begins the game from that task; other keys are left to wrappers."""
    task = (options or {}).get("task")
    if task is not None and not isinstance(task, Task):
        raise DreamEnvsError(f"options['task'] is a core.Task, not {type(task).__name__}")
    return task


def transcript(table: Table | None) -> str:
    """A game so far, with the scores at its end, as text for a terminal."""
    lines = [transcript_of(table.turns)] if table and table.turns else []
    scores = table.episode.scores if table and table.episode else {}
    return "\n".join(lines + [f"{agent}: {score.value:g} ({score.status})" for agent, score in scores.items()])


def transcript_of(turns: Sequence[Turn]) -> str:
    """Turns as text for a terminal."""
    lines = []
    for turn in turns:
        messages = [f"  {m['role']}: {shown(m['content'])}" for m in turn.messages]
        by = f" ({turn.author})" if turn.author else ""
        lines += [f"── {turn.agent}{by}", *messages, f"  > {shown(turn.text)}"]
        if turn.finish_reason == "length":
            lines.append("  [cut off by its budget]")
        if turn.extracted is not None:
            lines.append(f"  [read as {shown(turn.extracted, 200)}]" if turn.extracted else "  [no answer read]")
    return "\n".join(lines)


def shown(text: str, limit: int = 4000) -> str:
    """Text for a terminal: control characters are shown, not sent; at most ``limit`` characters."""
    cut = text[:limit] + (f" … ({len(text)} characters)" if len(text) > limit else "")
    return "".join([c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in cut])
