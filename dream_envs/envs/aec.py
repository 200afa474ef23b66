"""The PettingZoo AEC face: one agent acts after another.

Where several agents act at the same time (all solvers), they are asked in turn; none sees what the others said before
all have spoken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pettingzoo.utils.env import AECEnv

from dream_envs import acting
from dream_envs.core import Action, Episode, Game
from dream_envs.envs import _common as common


class AEC(AECEnv[str, dict[str, str], str]):
    """Any game as a PettingZoo ``AECEnv``.

    Observations are ``{"role": str, "text": str}``; actions are plain strings (or a ``core.Action``, which may carry
    token ids).  ``infos[agent]`` has ``messages`` (fresh OpenAI-style messages), ``active`` (whether the agent acts
    now) and, at the end, ``score`` (value, status, components, detail) and the game's ``facts``, if it makes any
    public.  All agents end together, with ``terminated``.

    Args:
        game: an id (``dream_envs/ChallengerSolver-v0``), ``module:Class``, a game class or a game object.
        reward: a reward model, a function ``Episode -> {agent: Score}`` or a registered name; None: the game's own.
        render_mode: ``ansi`` (the transcript) or None.
        game_kwargs: the game's own arguments.

    Raises:
        DreamEnvsError: for a wrong id, keyword, reward or render mode.
    """

    _POSITION = (
        "_np_random", "_table", "_pending", "_queue", "_skip_agent_selection", "agents", "agent_selection",
        "rewards", "_cumulative_rewards", "terminations", "truncations", "infos", "episode",
    )  # fmt: skip

    def __init__(
        self,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        *,
        reward: common.RewardLike | None = None,
        render_mode: str | None = None,
        **game_kwargs: Any,
    ) -> None:
        super().__init__()
        self.game: Game = common.build_game(game, game_kwargs, AEC)
        self.reward = common.build_reward(reward, self.game)
        self.render_mode = common.check_render_mode(render_mode)
        version = self.game.env_id.rpartition("-v")[2] if "-v" in self.game.env_id else self.game.version
        self.metadata = {
            "name": f"{common.snake_name(self.game.env_id)}_v{version}",
            "render_modes": ["ansi"],
            "render_fps": 1,
            "is_parallelizable": False,  # the Parallel face is native: same game, no converter
        }
        self.possible_agents = list(self.game.agents)
        self.agents: list[str] = []
        self.observation_spaces = common.observation_spaces(self.game)
        self.action_spaces = common.action_spaces(self.game)
        self._role = acting.roles_by_agent(self.game)
        self._np_random: np.random.Generator | None = None
        self.episode: Episode | None = None
        self._table: acting.Table | None = None
        self.agent_selection: str = self.possible_agents[0]

    def observation_space(self, agent: str) -> Any:
        """``Dict({"role", "text"})``, the same object on every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """``UnicodeText``, the same object on every call."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a game; ``options={"task": Task}`` begins from that task."""
        self._np_random = common.generator(seed, self._np_random)
        task = common.task_option(options)
        self._table = acting.Table(self.game, common.new_label(self._np_random), task)
        self.episode = None
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {}
        self._skip_agent_selection: str | None = None
        self._next_phase()

    def step(self, action: str | Action | None) -> None:
        """The selected agent's move; None for an agent whose game is over."""
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        assert self._table is not None
        self._cumulative_rewards[agent] = 0.0
        self._pending[agent] = acting.as_action(action)
        self._queue.pop(0)
        if self._queue:
            self.agent_selection = self._queue[0]
            self.infos[agent] = self._info(agent, False)
            return
        acting.Runner(self.game, {}).wave([self._table], [self._pending])
        self._next_phase()
        if self.episode is not None:
            self._accumulate_rewards()

    def observe(self, agent: str) -> dict[str, str]:
        """What ``agent`` sees now."""
        assert self._table is not None
        return {"role": self._role[agent], "text": acting.text_of(self.game.view(self._table.state, agent))}

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

    def _next_phase(self) -> None:
        assert self._table is not None
        state = self._table.state
        self._pending: dict[str, Action] = {}
        self._queue = [seat.agent for seat in self.game.turns(state)]
        if self.game.outcome(state) is not None:
            self._queue = []
            self.episode = acting.episode_from(
                self.game, state, self._table.turns, seed=self._table.label, reward=self.reward
            )
            self.rewards = {agent: float(self.episode.scores[agent].value) for agent in self.agents}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self._queue[0] if self._queue else self.agents[0]
        active = set(self._queue)
        self.infos = {agent: self._info(agent, agent in active) for agent in self.agents}

    def _info(self, agent: str, active: bool) -> dict[str, Any]:
        assert self._table is not None
        info: dict[str, Any] = {
            "messages": self.game.view(self._table.state, agent),
            "active": active,
            **common.running_info(self.game, self._table.state),
        }
        if self.episode is not None:
            info["score"] = common.score_info(self.episode.scores[agent])
            if (facts := common.final_facts(self.game, self._table.state)) is not None:
                info["facts"] = facts
        return info
