"""The PettingZoo adapters: every seat of a game, one agent after another (``AEC``) or all at once (``Parallel``).

Where several agents act at the same time (all solvers), ``AEC`` asks them in turn; none sees what the others said
before all have spoken.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Dict
from pettingzoo.utils.env import AECEnv, ParallelEnv

from dream_envs import registry
from dream_envs.core import Action, DreamEnvsError, Game
from dream_envs.envs import _adapter as adapter
from dream_envs.play import RewardLike, Runner, Table, as_action, episode_from, roles_by_agent, text_of
from dream_envs.spaces import MAX_ACTION, MAX_OBSERVATION, UnicodeText

Dicts = tuple[dict[str, dict[str, str]], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]


class _AllSeats(adapter.Adapter):
    """What both adapters have: the game, its reward, spaces, and what an agent sees."""

    def __init__(
        self,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        *,
        reward: RewardLike | None = None,
        render_mode: str | None = None,
        **game_kwargs: Any,
    ) -> None:
        self.game: Game = adapter.build_game(game, game_kwargs, type(self))
        self.reward = adapter.build_reward(reward, self.game)
        self.render_mode = adapter.check_render_mode(render_mode)
        version = self.game.env_id.rpartition("-v")[2] if "-v" in self.game.env_id else self.game.version
        name = f"{adapter.snake_name(self.game.env_id)}_v{version}"  # Parallel is native, there is no converter:
        self.metadata = {"name": name, "render_modes": ["ansi"], "render_fps": 1, "is_parallelizable": False}
        self.possible_agents = list(self.game.agents)
        self.agents: list[str] = []
        # No key "observation", whose dtype PettingZoo's test would ask for.
        seen: dict[str, Any] = {"role": UnicodeText(256), "text": UnicodeText(MAX_OBSERVATION)}
        self.observation_spaces = {agent: Dict(copy.deepcopy(seen)) for agent in self.possible_agents}
        self.action_spaces = {agent: UnicodeText(MAX_ACTION) for agent in self.possible_agents}
        self._role = roles_by_agent(self.game)
        self._np_random: np.random.Generator | None = None
        self._runner = Runner(self.game, {})

    def observation_space(self, agent: str) -> Any:
        """``Dict({"role", "text"})``, the same on every call."""
        return self.observation_spaces[self._known(agent)]

    def action_space(self, agent: str) -> Any:
        """``UnicodeText``, the same object on every call."""
        return self.action_spaces[self._known(agent)]

    def observe(self, agent: str) -> dict[str, str]:
        """What ``agent`` sees now."""
        state = self._begun().state
        return {"role": self._role[self._known(agent)], "text": text_of(self.game.view(state, agent))}

    def _known(self, agent: str) -> str:
        if agent not in self._role:
            raise DreamEnvsError(registry.unknown(f"agents of {self.game.env_id}", str(agent), self.possible_agents))
        return agent

    def close(self) -> None:
        """Nothing to release."""

    def _begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        self._np_random = adapter.generator(seed, self._np_random)
        task = adapter.task_option(options)
        self._table = Table(self.game, adapter.new_label(self._np_random), task)
        self.agents = list(self.possible_agents)

    def _acting(self) -> list[str]:
        """Who acts now; nobody at the end, and then the episode is scored."""
        table = self._begun()
        if self.game.outcome(table.state) is None:
            return [seat.agent for seat in self.game.turns(table.state)]
        if table.episode is None:
            table.episode = episode_from(self.game, table.state, table.turns, seed=table.label, reward=self.reward)
        return []

    def _info(self, agent: str, active: bool) -> dict[str, Any]:
        return {"active": active, **adapter.info_of(self.game, self._begun(), agent)}


class AEC(_AllSeats, AECEnv[str, dict[str, str], str]):
    """Any game as a PettingZoo ``AECEnv``.

    Observations are ``{"role": str, "text": str}``; actions are plain strings (or a ``core.Action``, which may carry
    token ids).  ``infos[agent]`` has ``messages`` (fresh OpenAI-style messages), ``active`` (whether the agent acts
    now) and, at the end, ``score`` (value, status, components, detail) and the game's ``facts``, if it makes any
    public.  All agents end together, with ``terminated``.  ``reset(options={"task": Task})`` begins from that task.

    Args:
        game: an id (``dream_envs/ChallengerSolver-v0``), ``module:Class``, a game class or a game object.
        reward: a reward model, a function ``Episode -> {agent: Score}`` or a registered name; None: the game's own.
        render_mode: ``ansi`` (the transcript) or None.
        game_kwargs: the game's own arguments.
    """

    _POSITION = (
        "_np_random", "_table", "_pending", "_queue", "_skip_agent_selection", "agents", "agent_selection",
        "rewards", "_cumulative_rewards", "terminations", "truncations", "infos",
    )  # fmt: skip
    agent_selection: str = ""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a game."""
        self._begin(seed, options)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {}
        self._skip_agent_selection: str | None = None
        self._next_phase()

    def step(self, action: str | Action | None) -> None:
        """The selected agent's move; None for an agent whose game is over."""
        table, agent = self._begun(), self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self._pending[agent] = as_action(action)
        self._queue.pop(0)
        if self._queue:
            self.agent_selection = self._queue[0]
            self.infos[agent] = self._info(agent, False)
            return
        self._runner.step([table], [self._pending])
        self._next_phase()
        if self.episode is not None:
            self._accumulate_rewards()

    def _next_phase(self) -> None:
        self._pending: dict[str, Action] = {}
        self._queue = self._acting()
        if self.episode is not None:
            self.rewards = {agent: float(self.episode.scores[agent].value) for agent in self.agents}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self._queue[0] if self._queue else self.agents[0]
        active = set(self._queue)
        self.infos = {agent: self._info(agent, agent in active) for agent in self.agents}


class Parallel(_AllSeats, ParallelEnv[str, dict[str, str], str]):
    """Any game as a PettingZoo ``ParallelEnv``, natively.

    ``infos[agent]["active"]`` says who acts next; whatever the others send is ignored, and an active agent that sends
    nothing has said "".  Arguments, observations, infos and ending are those of ``AEC``.
    """

    _POSITION = ("_np_random", "_table", "agents")

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
        """Begin a game."""
        self._begin(seed, options)
        return self._look()

    def step(self, actions: Mapping[str, str | Action]) -> Dicts:
        """The moves of the agents whose turn it is; entries of the others are not looked at."""
        table = self._begun()
        if not self.agents:
            raise DreamEnvsError("step after the end of the game: call reset() first")
        if not isinstance(actions, Mapping):
            wanted = f"{{agent: text}}, such as {{{self.agents[0]!r}: 'text'}}; {{}} where nobody says anything"
            raise DreamEnvsError(f"step({actions!r:.60}): actions are a dict, {wanted}")
        for name in actions:
            self._known(name)
        if self.episode is None:  # a game may be over before anybody has moved
            seats = self.game.turns(table.state)
            self._runner.step([table], [{s.agent: as_action(actions.get(s.agent, "")) for s in seats}])
        observations, infos = self._look()
        agents, scores = self.agents, self.episode.scores if self.episode is not None else None
        rewards = {agent: float(scores[agent].value) if scores is not None else 0.0 for agent in agents}
        over = dict.fromkeys(agents, scores is not None)
        if scores is not None:
            self.agents = []
        return observations, rewards, over, dict.fromkeys(agents, False), infos

    def _look(self) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
        active = set(self._acting())
        infos = {agent: self._info(agent, agent in active) for agent in self.agents}
        return {a: {"role": self._role[a], "text": text_of(info["messages"])} for a, info in infos.items()}, infos
