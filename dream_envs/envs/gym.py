"""The Gymnasium face: one seat of a game is the agent's, the other seats are played by agents given in ``others=``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from dream_envs import acting
from dream_envs.core import Action, AgentLike, DreamEnvsError, Episode, Game
from dream_envs.envs import _common as common
from dream_envs.envs._seat import SeatEngine, SeatTable
from dream_envs.spaces import MAX_ACTION, MAX_OBSERVATION, UnicodeText


class SingleRole(gymnasium.Env[str, str]):
    """One role of any game as a ``gymnasium.Env``: the observation and the action are plain strings.

    ``info`` has ``messages`` (fresh OpenAI-style messages), ``redraws`` (how many games were thrown away because they
    ended before this seat had moved, at most 16), what the game tells everybody (its ``public_info``, if it has that)
    and, at the end, ``score`` (value, status, components, detail).  An episode ends with ``terminated``.  After 16 lost
    games in a row the observation is what there is to see, and the first step ends the episode with whatever score the
    seat got.

    Args:
        game: an id (``dream_envs/ChallengerSolver-v0``), ``module:Class``, a game class or a game object.
        role: the role to play (``solver``); None: that of ``seat``, else the game's first.
        seat: the seat to play (``solver_2``); None: the role's first.
        others: agents by role or seat: an Agent, a function ``str -> str`` or ``messages -> str`` (sync or async), or
            a registered name such as ``oracle``.  The rest are scripted: a challenger that draws a fresh problem from
            the family, guessers, and a judge who knows the truth, or what the game's ``default_others`` says.
        reward: a reward model, a function ``Episode -> {agent: Score}`` or a registered name; None: the game's own.
        levels: the levels that the scripted challenger draws from; None: all of the family's.
        render_mode: ``ansi`` (the transcript) or None.
        game_kwargs: the game's own arguments; an optional role to be played is switched on by itself.

    Raises:
        DreamEnvsError: for a wrong id, role, seat, agent, keyword, reward, level or render mode.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  Gymnasium's own convention
    _POSITION = ("_np_random", "_np_random_seed", "_table")

    def __init__(
        self,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        *,
        role: str | None = None,
        seat: str | None = None,
        others: Mapping[str, AgentLike | str] | None = None,
        reward: common.RewardLike | None = None,
        levels: Sequence[int] | None = None,
        render_mode: str | None = None,
        **game_kwargs: Any,
    ) -> None:
        self.render_mode = common.check_render_mode(render_mode)
        self.engine = build_engine(
            game, game_kwargs, SingleRole, role=role, seat=seat, others=others, reward=reward, levels=levels
        )
        self.game, self.seat = self.engine.game, self.engine.seat
        self.observation_space = UnicodeText(MAX_OBSERVATION)
        self.action_space = UnicodeText(MAX_ACTION)
        self._table: SeatTable | None = None

    @property
    def episode(self) -> Episode | None:
        """The finished episode with every seat's score and the hidden answer, or None while the game goes on."""
        return self._table.episode if self._table else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a game and play it up to this seat's first move; ``options={"task": Task}`` begins from that task."""
        super().reset(seed=seed)
        rng = self.np_random
        self._table = self.engine.begin([lambda: common.new_label(rng)], common.task_option(options))[0]
        return self.engine.text(self._table), self._info()

    def step(self, action: str | Action) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """This seat's move; the others play on until it has to move again or the game is over."""
        if self._table is None:
            raise DreamEnvsError("step before the first reset: call reset() first")
        if self._table.episode is not None and self._moved():
            raise DreamEnvsError("step after the end of the game: call reset() first")
        self.engine.step([self._table], [acting.as_action(action)])
        episode = self._table.episode
        reward = float(episode.scores[self.seat].value) if episode is not None else 0.0
        return self.engine.text(self._table), reward, episode is not None, False, self._info()

    def render(self) -> str | None:
        """The transcript in ``ansi`` mode, else None."""
        if self.render_mode != "ansi":
            return None
        turns = self._table.turns if self._table else []
        return common.transcript(turns, self.episode.scores if self.episode else None)

    def snapshot(self) -> common.Snapshot:
        """The whole position, for ``restore``; the others' agents are not part of it."""
        return common.take(self, self._POSITION)

    def restore(self, snapshot: common.Snapshot) -> None:
        """Go back to a position; it may be restored again and in another copy of the same environment.

        Raises:
            DreamEnvsError: for the snapshot of another face or game.
        """
        common.put_back(self, snapshot, self._POSITION)

    def _moved(self) -> bool:
        assert self._table is not None
        return any(turn.agent == self.seat for turn in self._table.turns)

    def _info(self) -> dict[str, Any]:
        assert self._table is not None
        return seat_info(self.engine, self._table)


def seat_info(engine: SeatEngine, table: SeatTable) -> dict[str, Any]:
    """``messages``, ``redraws`` and, at the end, ``score`` and the game's public ``facts``, if it has any."""
    info: dict[str, Any] = {
        "messages": engine.game.view(table.state, engine.seat),
        "redraws": table.redraws,
        **common.running_info(engine.game, table.state),
    }
    if table.episode is not None:
        info["score"] = common.score_info(table.episode.scores[engine.seat])
        if (facts := common.final_facts(engine.game, table.state)) is not None:
            info["facts"] = facts
    return info


def build_engine(
    game: str | type | Game,
    game_kwargs: Mapping[str, Any],
    face: type,
    *,
    role: str | None,
    seat: str | None,
    others: Mapping[str, AgentLike | str] | None,
    reward: common.RewardLike | None,
    levels: Sequence[int] | None,
) -> SeatEngine:
    """Game, seat, the others' agents and the reward, checked and put together."""
    wanted = role or (seat.rpartition("_")[0] if seat else None)
    built = common.build_game(game, game_kwargs, face, switch=wanted)
    role, seat = common.pick_seat(built, role, seat)
    policies = common.cast_others(built, role, seat, others, levels)
    return SeatEngine(built, seat, policies, common.build_reward(reward, built))
