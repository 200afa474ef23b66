"""One way to walk through a game or any environment, so that each check is written once.

A walk is one episode with scripted moves that depend on its seed alone.  It keeps a log (plain values, compared between
walks) and the very objects that the environment returned (looked at for sharing, and defaced on demand).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import gymnasium
import msgspec
import numpy as np

from dream_envs import seeds
from dream_envs.core import Agent, Episode, Game, hook
from dream_envs.play import MAX_STEPS as MAX_MOVES
from dream_envs.play import Runner, Table, as_agent, assign_agents, episode_from, roles_by_agent, score
from dream_envs.testing.report import Failure
from dream_envs.testing.subject import Subject

#: Steps after which a walk through somebody's endless environment is broken off.
MAX_STEPS = 60


class Walk:
    """The base: ``step`` moves on and returns False at the end."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.returned: list[Any] = []
        self.over = False

    def step(self) -> bool:
        """One move; False when there is nothing more to do."""
        raise NotImplementedError

    def finish(self) -> Walk:
        """Step to the end."""
        while self.step():
            pass
        return self

    def digest(self) -> str:
        """A fingerprint of the log that is the same in every process."""
        return hashlib.blake2b(repr(self.log).encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()


class GameWalk(Walk):
    """A game core, moved directly; ``players`` by role or seat, default: guessers, with a generator as challenger."""

    def __init__(
        self, game: Game, label: str, reward: Any = None, players: Mapping[str, Any] | None = None, deface: bool = False
    ) -> None:
        super().__init__()
        self.game, self.reward, self.deface = game, reward, deface
        self.runner = Runner(game, seat_players(game, players or default_players(game)))
        self.table = Table(game, label)
        self.episode: Episode | None = None
        self.steps = 0
        self.infos: list[dict[str, Any]] = []
        self._look()

    def step(self) -> bool:
        """One step."""
        game = self.game
        if self.episode is None and game.outcome(self.table.state) is None:
            if self.steps > MAX_MOVES or not game.turns(self.table.state):
                raise Failure(f"no outcome after {self.steps} moves, and nobody or nothing moves on")
            self.runner.step([self.table])
            self.steps += 1
            self._look()
            return True
        if self.episode is None:
            episode = episode_from(game, self.table.state, self.table.turns, seed=self.table.label)
            turns = [msgspec.structs.replace(turn, seconds=0.0) for turn in episode.turns]
            episode = msgspec.structs.replace(episode, turns=turns)
            self.episode = score([episode], self.reward, game.agents)[0] if self.reward is not None else episode
            self.log.append(plain(msgspec.to_builtins(self.episode, enc_hook=str)))
        return False

    def played(self) -> Episode:
        """The episode, stepped to its end."""
        self.finish()
        assert self.episode is not None
        return self.episode

    def _look(self) -> None:
        self.infos.append(dict(hook(self.game, "public_info")(self.table.state)))
        self.log.append(plain(self.infos[-1]))
        for agent in self.game.agents:
            view = self.game.view(self.table.state, agent)
            self.log.append((agent, plain(view)))
            self.returned.append(view)
            if self.deface:
                deface(view)


class GymWalk(Walk):
    """A ``gymnasium.Env`` with sampled actions (random text where actions are text)."""

    def __init__(self, env: gymnasium.Env, seed: int, deface: bool = False, reset: bool = True) -> None:
        super().__init__()
        self.env, self.seed, self.deface, self.steps = env, seed, deface, 0
        self.space = copy.deepcopy(env.action_space)
        self.space.seed(seeds.digest("walk", seed, bits=32))
        if reset:
            self._note(env.reset(seed=seed))

    def step(self) -> bool:
        """One step, unless the episode is over or ``MAX_STEPS`` are made."""
        if self.over or self.steps >= MAX_STEPS:
            return False
        result = self.env.step(sample(self.space))
        self.steps += 1
        self.over = bool(result[2] or result[3])
        self._note(result)
        return True

    def _note(self, result: tuple[Any, ...]) -> None:
        self.log.append(plain(result))
        self.returned.append((result[0], result[-1]))
        if self.deface:
            deface(result[0])
            deface(result[-1])


class AecWalk(Walk):
    """A PettingZoo ``AECEnv`` with sampled actions."""

    def __init__(self, env: Any, seed: int, deface: bool = False, reset: bool = True) -> None:
        super().__init__()
        self.env, self.deface, self.steps, self.seed = env, deface, 0, seed
        if reset:
            env.reset(seed=seed)
        self.spaces: dict[str, Any] = {}

    def step(self) -> bool:
        """The selected agent's move."""
        env = self.env
        if not env.agents or self.steps >= 4 * MAX_STEPS:
            return False
        agent = env.agent_selection
        observation, reward, terminated, truncated, info = env.last()
        self.log.append((agent, plain((observation, reward, terminated, truncated, info))))
        self.returned.append((observation, info))
        action = None
        if not (terminated or truncated):
            action = _sample(self.spaces, env, agent, self.seed, observation, info)
        if self.deface:
            deface(observation)
            deface(info)
        env.step(action)
        self.steps += 1
        self.over = not env.agents or all(env.terminations[a] or env.truncations[a] for a in env.agents)
        return True


class ParallelWalk(Walk):
    """A PettingZoo ``ParallelEnv`` with sampled actions."""

    def __init__(self, env: Any, seed: int, deface: bool = False, reset: bool = True) -> None:
        super().__init__()
        self.env, self.deface, self.steps, self.seed = env, deface, 0, seed
        self.spaces: dict[str, Any] = {}
        self.seen: tuple[Any, ...] = ({}, {})
        if reset:
            self.seen = env.reset(seed=seed)
            self._note(self.seen)

    def step(self) -> bool:
        """All live agents' moves."""
        env = self.env
        if not env.agents or self.steps >= MAX_STEPS:
            return False
        look, infos = self.seen[0], self.seen[-1]
        moves = {a: _sample(self.spaces, env, a, self.seed, look.get(a), infos.get(a)) for a in env.agents}
        self.seen = env.step(moves)
        self.steps += 1
        self.over = not env.agents
        self._note(self.seen)
        return True

    def _note(self, result: tuple[Any, ...]) -> None:
        self.log.append(plain(result))
        self.returned.append((result[0], result[-1]))
        if self.deface:
            self.seen = copy.deepcopy(result)
            deface(result[0])
            deface(result[-1])


def walk(subject: Subject, env: Any, seed: int, *, deface: bool = False, reset: bool = True) -> Walk:
    """A walk of the subject's kind through ``env``; ``reset=False`` goes on from where an environment stands."""
    if subject.kind == "game":
        return GameWalk(env, f"conformance/{seed}", subject.build_reward(env), deface=deface)
    kinds: dict[str, Any] = {"gymnasium": GymWalk, "aec": AecWalk, "parallel": ParallelWalk}
    return kinds[subject.kind](env, seed, deface, reset)


def default_players(game: Game) -> dict[str, Any]:
    """Guessers in every role; challengers draw problems and judges know the truth."""
    names = {"challenger": "generator", "judge": "oracle"}
    return {role: names.get(role, "guesser") for role in dict.fromkeys(roles_by_agent(game).values())}


def seat_players(game: Game, players: Mapping[str, Any]) -> dict[str, Agent]:
    """Agents by seat; random text for seats that ``players`` leaves empty."""
    fallback = as_agent("random", game)
    seated = assign_agents(game, players)
    return {agent: seated.get(agent, fallback) for agent in game.agents}


def sample(space: Any) -> Any:
    """A sample; never the empty text, which has a check of its own."""
    for _ in range(100):
        if (found := space.sample()) != "":
            return found
    return found


def plain(value: Any) -> Any:
    """Nested tuples of plain values: equal for equal content, the same ``repr`` in every process."""
    if isinstance(value, Mapping):
        return tuple(sorted(((repr(k), plain(v)) for k, v in value.items()), key=lambda item: item[0]))
    if isinstance(value, (list, tuple)):
        return tuple(plain(v) for v in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(repr(plain(v)) for v in value))
    if isinstance(value, np.ndarray):
        return ("array", value.shape, str(value.dtype), plain(value.tolist()))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and value != value:
        return "nan"  # equal to itself, as two runs that both give it are
    if value is None or isinstance(value, (str, int, float, bool, bytes)):
        return value
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


def deface(value: Any) -> None:
    """Spoil everything mutable in what an environment returned, as a careless user might."""
    if isinstance(value, dict):
        for item in value.values():
            deface(item)
        for key in list(value):
            if not isinstance(value[key], (dict, list)):
                value[key] = "defaced"
    elif isinstance(value, (list, tuple)):
        for item in value:
            deface(item)
        if isinstance(value, list):
            value.append("defaced")
    elif isinstance(value, np.ndarray) and value.flags.writeable and value.dtype.kind in "fiub":
        value[...] = 1


def shared(one: Any, other: Any) -> bool:
    """Whether two returned structures have a mutable object in common, lists included."""
    mine, yours = _mutables(one), _mutables(other)
    return bool(mine.keys() & yours.keys())


def difference(one: list[Any], other: list[Any]) -> str:
    """Where two logs part, in a few words."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            left, right = repr(a), repr(b)
            at = next((k for k, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), 0)
            start = max(0, at - 30)
            return f"entry {i}: …{left[start : at + 30]}… and …{right[start : at + 30]}…"
    return f"{len(one)} and {len(other)} entries"


def _mutables(value: Any) -> dict[int, Any]:
    found: dict[int, Any] = {}
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, (dict, list, np.ndarray)):
            found[id(item)] = item
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return found


def _sample(spaces: dict[str, Any], env: Any, agent: str, seed: int, observation: Any, info: Any) -> Any:
    if agent not in spaces:
        spaces[agent] = copy.deepcopy(env.action_space(agent))
        spaces[agent].seed(seeds.digest("walk", seed, agent, bits=32))
    mask = observation.get("action_mask") if isinstance(observation, dict) else None
    mask = info.get("action_mask") if mask is None and isinstance(info, dict) else mask
    return sample(spaces[agent]) if mask is None else spaces[agent].sample(mask)
