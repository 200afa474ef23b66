"""The PettingZoo Parallel face, native: every live agent is stepped at once, those whose turn it is are heard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pettingzoo.utils.env import ParallelEnv

from dream_envs import acting, registry
from dream_envs.core import Action, DreamEnvsError, Episode, Game
from dream_envs.envs import _common as common

Dicts = tuple[dict[str, dict[str, str]], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]


class Parallel(ParallelEnv[str, dict[str, str], str]):
    """Any game as a PettingZoo ``ParallelEnv``.

    ``infos[agent]["active"]`` says who acts next; whatever the others send is ignored, and an active agent that sends
    nothing has said "".  Observations, infos and ending are those of the AEC face.

    Args:
        game: an id (``dream_envs/ChallengerSolver-v0``), ``module:Class``, a game class or a game object.
        reward: a reward model, a function ``Episode -> {agent: Score}`` or a registered name; None: the game's own.
        render_mode: ``ansi`` (the transcript) or None.
        game_kwargs: the game's own arguments.

    Raises:
        DreamEnvsError: for a wrong id, keyword, reward or render mode.
    """

    _POSITION = ("_np_random", "_table", "agents", "episode")

    def __init__(
        self,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        *,
        reward: common.RewardLike | None = None,
        render_mode: str | None = None,
        **game_kwargs: Any,
    ) -> None:
        self.game: Game = common.build_game(game, game_kwargs, Parallel)
        self.reward = common.build_reward(reward, self.game)
        self.render_mode = common.check_render_mode(render_mode)
        version = self.game.env_id.rpartition("-v")[2] if "-v" in self.game.env_id else self.game.version
        self.metadata = {
            "name": f"{common.snake_name(self.game.env_id)}_v{version}",
            "render_modes": ["ansi"],
            "render_fps": 1,
        }
        self.possible_agents = list(self.game.agents)
        self.agents: list[str] = []
        self.observation_spaces = common.observation_spaces(self.game)
        self.action_spaces = common.action_spaces(self.game)
        self._role = acting.roles_by_agent(self.game)
        self._np_random: np.random.Generator | None = None
        self.episode: Episode | None = None
        self._table: acting.Table | None = None

    def observation_space(self, agent: str) -> Any:
        """``Dict({"role", "text"})``, the same object on every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """``UnicodeText``, the same object on every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
        """Begin a game; ``options={"task": Task}`` begins from that task."""
        self._np_random = common.generator(seed, self._np_random)
        task = common.task_option(options)
        self._table = acting.Table(self.game, common.new_label(self._np_random), task)
        self.agents, self.episode = list(self.possible_agents), None
        self._score_if_over()
        return self._look(self.agents)

    def step(self, actions: Mapping[str, str | Action]) -> Dicts:
        """The moves of the agents whose turn it is.

        Args:
            actions: by agent name; entries of agents that are not to act are not looked at.

        Raises:
            DreamEnvsError: for an unknown agent, or after the end.
        """
        if self._table is None or not self.agents:
            raise DreamEnvsError("step after the end of the game: call reset() first")
        for name in actions:
            if name not in self._role:
                raise DreamEnvsError(registry.unknown(f"agents of {self.game.env_id}", name, self.possible_agents))
        if self.episode is None:  # a game may be over before anybody has moved
            heard = {s.agent: actions.get(s.agent, "") for s in self.game.turns(self._table.state)}
            moves = {agent: acting.as_action(action) for agent, action in heard.items()}
            acting.Runner(self.game, {}).wave([self._table], [moves])
            self._score_if_over()
        agents, over = self.agents, self.episode is not None
        observations, infos = self._look(agents)
        scores = self.episode.scores if self.episode is not None else {}
        rewards = {agent: float(scores[agent].value) if over else 0.0 for agent in agents}
        if over:
            self.agents = []
        return observations, rewards, dict.fromkeys(agents, over), dict.fromkeys(agents, False), infos

    def render(self) -> str | None:
        """The transcript in ``ansi`` mode, else None."""
        if self.render_mode != "ansi":
            return None
        turns = self._table.turns if self._table else []
        return common.transcript(turns, self.episode.scores if self.episode else None)

    def close(self) -> None:
        """Nothing to release."""

    def snapshot(self) -> common.Snapshot:
        """The whole position, for ``restore``."""
        return common.take(self, self._POSITION)

    def restore(self, snapshot: common.Snapshot) -> None:
        """Go back to a position; it may be restored again and in another copy of the same game.

        Raises:
            DreamEnvsError: for the snapshot of another face or game.
        """
        common.put_back(self, snapshot, self._POSITION)

    def _score_if_over(self) -> None:
        assert self._table is not None
        if self.game.outcome(self._table.state) is not None:
            self.episode = acting.episode_from(
                self.game, self._table.state, self._table.turns, seed=self._table.label, reward=self.reward
            )

    def _look(self, agents: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
        assert self._table is not None
        state = self._table.state
        active = {seat.agent for seat in self.game.turns(state)} if self.episode is None else set()
        observations, infos = {}, {}
        for agent in agents:
            messages = self.game.view(state, agent)
            observations[agent] = {"role": self._role[agent], "text": acting.text_of(messages)}
            infos[agent] = {"messages": messages, "active": agent in active, **common.running_info(self.game, state)}
            if self.episode is not None:
                infos[agent]["score"] = common.score_info(self.episode.scores[agent])
                if (facts := common.final_facts(self.game, state)) is not None:
                    infos[agent]["facts"] = facts
        return observations, infos
