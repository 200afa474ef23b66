"""The Gymnasium adapter: one seat of a game is yours, the others are played by the agents of ``others=``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium

from dream_envs.core import Action, AgentLike, DreamEnvsError, Game, Task
from dream_envs.envs import _adapter as adapter
from dream_envs.play import MAX_STEPS, RewardLike, Runner, Table, as_action, episode_from, score, text_of
from dream_envs.spaces import MAX_ACTION, MAX_OBSERVATION, UnicodeText

#: How often a game that ends before your seat has moved is replaced by a new one at reset.
REDRAWS = 16


class SeatEngine:
    """Moves many tables until ``seat`` has to act at each or the game is over; one call a policy and step.

    The arguments are those of ``SingleRole``.
    """

    def __init__(
        self,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        *,
        role: str | None = None,
        seat: str | None = None,
        others: Mapping[str, AgentLike | str] | None = None,
        reward: RewardLike | None = None,
        levels: Sequence[int] | None = None,
        **game_kwargs: Any,
    ) -> None:
        wanted = role or (seat.rpartition("_")[0] if seat else None)
        self.game: Game = adapter.build_game(game, game_kwargs, type(self), switch=wanted)
        role, self.seat = adapter.pick_seat(self.game, role, seat)
        self.runner = Runner(self.game, adapter.assign_others(self.game, role, self.seat, others, levels))
        self.reward = adapter.build_reward(reward, self.game)

    def begin(self, draws: Sequence[Callable[[], str]], task: Task | None = None) -> list[Table]:
        """New tables, one for each source of labels, played up to the seat's first move.

        A game that is over before the seat has moved (a rejected proposal, say) is thrown away and drawn again, at
        most ``REDRAWS`` times: after that it is returned as it is, over.
        """
        tables = [Table(self.game, draw(), task) for draw in draws]
        self._advance(tables)
        for _ in range(REDRAWS):
            lost = [i for i, table in enumerate(tables) if table.episode is not None]
            if not lost:
                break
            for i in lost:
                count, tables[i] = tables[i].redraws + 1, Table(self.game, draws[i](), task)
                tables[i].redraws = count
            self._advance([tables[i] for i in lost])
        return tables

    def step(self, tables: Sequence[Table], actions: Sequence[Action]) -> None:
        """The seat's move at each table, then everybody else's until the seat acts again or ``episode`` is set."""
        live = [(t, a) for t, a in zip(tables, actions, strict=True) if t.episode is None]
        self.runner.step([t for t, _ in live], [{self.seat: a} for _, a in live])
        self._advance([t for t, _ in live])

    def text(self, table: Table) -> str:
        """What the seat sees now, as text."""
        return text_of(self.game.view(table.state, self.seat))

    def info(self, table: Table) -> dict[str, Any]:
        """``messages``, ``redraws``, public infos and, at the end, ``score`` and public ``facts``."""
        return {"redraws": table.redraws, **adapter.info_of(self.game, table, self.seat)}

    def earned(self, table: Table) -> float:
        """The seat's reward: 0 until the game is over."""
        return float(table.episode.scores[self.seat].value) if table.episode is not None else 0.0

    def _advance(self, waiting: Sequence[Table]) -> None:
        game = self.game
        for _ in range(MAX_STEPS):
            over = [table for table in waiting if game.outcome(table.state) is not None]
            episodes = [episode_from(game, table.state, table.turns, seed=table.label) for table in over]
            for table, episode in zip(over, score(episodes, self.reward, game.agents), strict=True):
                table.episode = episode
            waiting = [
                t for t in waiting if t.episode is None and self.seat not in [s.agent for s in game.turns(t.state)]
            ]
            if not waiting:
                return
            self.runner.step(waiting)
        raise DreamEnvsError(f"{game.env_id}: {self.seat} was not asked in {MAX_STEPS} moves")


class SingleRole(adapter.Adapter, gymnasium.Env[str, str]):
    """One role of any game as a ``gymnasium.Env``: the observation and the action are plain strings.

    ``info`` has ``messages`` (fresh OpenAI-style messages), ``redraws`` (how many games were thrown away because they
    ended before this seat had moved, at most 16), the game's ``public_info`` and, at the end, ``score`` (value, status,
    components, detail) and the game's public ``facts``: a score that is not ``ok`` (no answer, an error, a judge who
    abstains) is paid 0.0, since Gymnasium wants a number, and its status says so.  An episode ends with ``terminated``.
    After 16 lost games in a row the first step ends the episode, with whatever score the seat got.
    ``reset(options={"task": Task})`` begins from that task.

    Args:
        game: an id (``dream_envs/ChallengerSolver-v0``), ``module:Class``, a game class or a game object.
        render_mode: ``ansi`` (the transcript) or None.
        kwargs: the game's own arguments (an optional role to be played is switched on by itself), and:

            ``role`` or ``seat``: what to play, ``solver`` (its first seat) or ``solver_2``; not needed for a game of
            one role.
            ``others``: agents by role or seat: an Agent, a function ``str -> str`` or ``messages -> str`` (sync or
            async), or a name such as ``oracle``.  The rest are scripted: a challenger that draws a fresh problem,
            guessers, and a judge who knows the truth, or what the game's ``default_others`` says.
            ``reward``: a model, a function ``Episode -> {agent: Score}`` or a name; None: the game's own.
            ``levels``: the levels that the scripted challenger draws from; None: all of the family's.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  Gymnasium's own convention
    _POSITION = ("_np_random", "_np_random_seed", "_table")
    _table: Table | None = None

    def __init__(
        self,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        *,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.render_mode = adapter.check_render_mode(render_mode)
        self.engine = SeatEngine(game, **kwargs)
        self.game, self.seat = self.engine.game, self.engine.seat
        self.observation_space = UnicodeText(MAX_OBSERVATION)
        self.action_space = UnicodeText(MAX_ACTION)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a game and play it up to this seat's first move."""
        super().reset(seed=seed)
        rng = self.np_random
        self._table = self.engine.begin([lambda: adapter.new_label(rng)], adapter.task_option(options))[0]
        return self.engine.text(self._table), self.engine.info(self._table)

    def step(self, action: str | Action) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """This seat's move; the others play on until it has to move again or the game is over."""
        table, engine = self._table, self.engine
        if table is None or (table.episode is not None and any(turn.agent == self.seat for turn in table.turns)):
            raise DreamEnvsError("step before the start or after the end of a game: call reset() first")
        engine.step([table], [as_action(action)])
        return engine.text(table), engine.earned(table), table.episode is not None, False, engine.info(table)
