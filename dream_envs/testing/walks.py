"""One way to walk through a game or any environment, so that each check is written once.

A walk is one episode with scripted moves that depend on its seed alone.  It keeps a log (plain values, compared between
walks) and the very objects that the environment returned (looked at for sharing, and defaced on demand).
"""

from __future__ import annotations

import copy
import hashlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs import seeds
from dream_envs.core import Agent, Episode, Game, hook
from dream_envs.envs._adapter import build_reward
from dream_envs.play import MAX_STEPS as MAX_MOVES
from dream_envs.play import Runner, Table, as_agent, assign_agents, episode_from, roles_by_agent, score
from dream_envs.testing.subject import Failure, Subject

#: Steps after which a walk through somebody's endless environment is broken off.
MAX_STEPS = 60


class Walk:
    """The base, for PettingZoo; ``over``: the next step is not one of the episode."""

    over = truncated = False
    limit = MAX_STEPS

    def __init__(self, env: Any, seed: int = 0, deface: bool = False, reset: bool = True) -> None:
        self.env, self.seed, self.deface, self.steps = env, seed, deface, 0
        self.log: list[Any] = []
        self.returned: list[Any] = []
        self._spaces: dict[str, Any] = {}
        self._seen: tuple[Any, ...] = ({}, {})
        if reset:
            self._note(env.reset(seed=seed))

    def step(self) -> bool:
        """One move; False when there is nothing more to do."""
        if self.steps >= self.limit or not self._live():
            return False
        self.steps += 1
        self._go()
        return True

    def _live(self) -> bool:
        return bool(self.env.agents)

    def _go(self) -> None:
        raise NotImplementedError

    def finish(self) -> Walk:
        """Step to the end."""
        while self.step():
            pass
        return self

    def digest(self) -> str:
        """A fingerprint of the log that is the same in every process."""
        return hashlib.blake2b(repr(self.log).encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()

    def _note(self, told: Any) -> None:
        """Log what came back; observation and info, its first and last part, are kept."""
        self.log.append(plain(told))
        if isinstance(told, tuple):  # an AECEnv's reset gives nothing
            kept = (told[0], told[-1])
            # What the next move is made from is not the object that is looked at, and defaced.
            self._seen = copy.deepcopy(kept) if self.deface else kept
            self._keep(kept)

    def _keep(self, returned: Any) -> None:
        self.returned.append(returned)
        if self.deface:
            deface(returned)

    def _move(self, space: Any, agent: str = "", observation: Any = None, info: Any = None) -> Any:
        """A sample of the agent's action space, which is seeded once; an ``action_mask`` is kept to."""
        if agent not in self._spaces:
            self._spaces[agent] = copy.deepcopy(space)
            self._spaces[agent].seed(seeds.digest("walk", self.seed, *([agent] if agent else []), bits=32))
        masks = [its.get("action_mask") for its in (observation, info) if isinstance(its, dict)]
        mask = next((m for m in masks if m is not None), None)
        return sample(self._spaces[agent]) if mask is None else self._spaces[agent].sample(mask)


class GameWalk(Walk):
    """A game core, moved directly; ``players`` by role or seat, default: guessers, with a generator as challenger.

    ``look=False``: nothing is logged and no view is asked for but theirs who move; the episode is all there is.
    """

    def __init__(
        self, game: Game, label: str, reward: Any = None, players: Mapping[str, Any] | None = None,
        deface: bool = False, look: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(game, deface=deface, reset=False)
        self.game, self.reward, self.looks = game, reward, look
        self.runner = Runner(game, seat_players(game, players or default_players(game)))
        self.table = Table(game, label)
        self.episode: Episode | None = None
        self.infos: list[dict[str, Any]] = []
        self._look()

    def step(self) -> bool:
        """One step of all who act."""
        game, table = self.game, self.table
        if self.episode is None and game.outcome(table.state) is None:
            if self.steps > MAX_MOVES or not game.turns(table.state):
                raise Failure(f"no outcome after {self.steps} moves, and nobody or nothing moves on")
            self.runner.step([table])
            self.steps += 1
            self._look()
            return True
        if self.episode is None:
            turns = [msgspec.structs.replace(turn, seconds=0.0) for turn in table.turns]
            episode = episode_from(game, table.state, turns, seed=table.label)
            self.episode = score([episode], self.reward, game.agents)[0] if self.reward is not None else episode
            if self.looks:
                self.log.append(plain(msgspec.to_builtins(self.episode, enc_hook=str)))
        return False

    def played(self) -> Episode:
        """The episode, stepped to its end."""
        self.finish()
        assert self.episode is not None
        return self.episode

    def branch(self, game: Game, table: Table) -> GameWalk:
        """A walk that goes on from here with another copy of the game and its table."""
        other = GameWalk(game, table.label, self.reward)
        other.table, other.log, other.steps = table, list(self.log), self.steps
        return other

    def _look(self) -> None:
        if not self.looks:
            return
        self.infos.append(dict(hook(self.game, "public_info")(self.table.state)))
        self.log.append(plain(self.infos[-1]))
        for agent in self.game.agents:
            view = self.game.view(self.table.state, agent)
            self.log.append((agent, plain(view)))
            self._keep(view)


class GymWalk(Walk):
    """A ``gymnasium.Env`` with sampled actions (random text where actions are text)."""

    def _live(self) -> bool:
        return not self.over

    def _go(self) -> None:
        result = self.env.step(self._move(self.env.action_space))
        self.truncated = bool(result[3])
        self.over = bool(result[2]) or self.truncated
        self._note(result)


class AecWalk(Walk):
    """A PettingZoo ``AECEnv`` with sampled actions."""

    limit = 4 * MAX_STEPS

    def _go(self) -> None:
        env = self.env
        agent, told = env.agent_selection, env.last()
        self.log.append(agent)
        self._note(told)
        env.step(None if told[2] or told[3] else self._move(env.action_space(agent), agent, *self._seen))
        self.over = all(env.terminations[a] or env.truncations[a] for a in env.agents)


class ParallelWalk(Walk):
    """A PettingZoo ``ParallelEnv`` with sampled actions."""

    def _go(self) -> None:
        env, (look, infos) = self.env, self._seen
        self._note(env.step({a: self._move(env.action_space(a), a, look.get(a), infos.get(a)) for a in env.agents}))
        self.over = not env.agents


def walk(part: Subject, seed: int, env: Any = None, *, deface: bool = False, reset: bool = True) -> Walk:
    """A walk of the part's kind through ``env``, None: a new one; ``reset=False`` goes on from where it stands."""
    env = part.new() if env is None else env
    if part.kind == "game":
        return GameWalk(env, f"conformance/{seed}", build_reward(part.reward, env), deface=deface)
    kinds: dict[str, Any] = {"gymnasium": GymWalk, "aec": AecWalk, "parallel": ParallelWalk}
    return kinds[part.kind](env, seed, deface, reset)


def default_players(game: Game) -> dict[str, Any]:
    """Guessers in every role; challengers draw problems and judges know the truth."""
    names = {"challenger": "generator", "judge": "oracle"}
    return {role: names.get(role, "guesser") for role in dict.fromkeys(roles_by_agent(game).values())}


def seat_players(game: Game, players: Mapping[str, Any]) -> dict[str, Agent]:
    """Agents by seat; random text for seats that ``players`` leaves empty."""
    return {**dict.fromkeys(game.agents, as_agent("random", game)), **assign_agents(game, players)}


def sample(space: Any) -> Any:
    """A sample; never the empty text, which has a check of its own."""
    return next((found for _ in range(100) if (found := space.sample()) != ""), "")


def plain(value: Any) -> Any:
    """Nested tuples of plain values: equal for equal content, the same ``repr`` in every process."""
    kind = type(value)
    if kind in _PLAIN:  # the commonest first: a kit plains millions of these
        return "nan" if value != value else value  # equal to itself, as two runs that both give it are
    if kind is dict or isinstance(value, Mapping):
        return tuple(sorted([(repr(k), plain(v)) for k, v in value.items()], key=_first))
    if isinstance(value, (list, tuple)):
        return tuple([plain(v) for v in value])
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(repr(plain(v)) for v in value))
    if isinstance(value, np.ndarray):
        return ("array", value.shape, str(value.dtype), plain(value.tolist()))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, (str, int, float, bytes)):
        return "nan" if value != value else value
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


_PLAIN = frozenset({str, int, bool, float, bytes, type(None)})
_first = operator.itemgetter(0)


def deface(value: Any) -> None:
    """Spoil everything mutable in what an environment returned, as a careless user might."""
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            deface(item)
    if isinstance(value, dict):
        value |= {key: "defaced" for key, item in value.items() if not isinstance(item, (dict, list))}
    elif isinstance(value, list):
        value.append("defaced")
    elif isinstance(value, np.ndarray) and value.flags.writeable and value.dtype.kind in "fiub":
        value[...] = 1


def shared(one: Any, other: Any) -> bool:
    """Whether two returned structures have a mutable object in common, lists included."""
    return bool(_mutables(one) & _mutables(other))


def _mutables(value: Any) -> set[int]:
    found = {id(value)} if isinstance(value, (dict, list, np.ndarray)) else set()
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return found.union(*map(_mutables, inner))


def need_same(one: Sequence[Any], two: Sequence[Any], what: str) -> None:
    """Raise ``Failure`` with ``what`` is wrong and where two logs part, if they do."""
    if one == two:
        return
    for i, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            left, right = repr(a), repr(b)
            at = next((k for k, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), 0)
            start = max(0, at - 30)
            raise Failure(f"{what}: entry {i}: …{left[start : at + 30]}… and …{right[start : at + 30]}…")
    raise Failure(f"{what}: {len(one)} and {len(two)} entries")
