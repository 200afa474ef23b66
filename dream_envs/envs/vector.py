"""The vector face: many copies of the single-role view in one process, with one batched call an agent and wave.

A process vector environment pays for sending text between processes (and, with shared memory, destroys it); what is
slow in a language game is the model, and that is what is batched here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dream_envs import acting, seeds
from dream_envs.core import Action, AgentLike, DreamEnvsError, Episode, Game
from dream_envs.envs import _common as common
from dream_envs.envs._seat import SeatTable
from dream_envs.envs.gym import build_engine, seat_info
from dream_envs.spaces import MAX_ACTION, MAX_OBSERVATION, UnicodeText

Step = tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class VectorSingleRole(VectorEnv[tuple[str, ...], Sequence[str], np.ndarray]):
    """``num_envs`` copies of one role's view; what ``gymnasium.make_vec`` makes for the single-role ids.

    Observations are a tuple of ``num_envs`` strings, actions any sequence of as many strings; rewards are
    ``float64[num_envs]``, terminations and truncations ``bool[num_envs]``.  Infos follow Gymnasium: ``messages`` is an
    object array, ``score`` a dict of arrays, each key with its ``_key`` mask.

    Args:
        num_envs: how many games at once, 1 or more.
        autoreset_mode: ``NextStep`` (a game that is over is begun anew by the next step, whose action is not looked
            at), ``SameStep`` (begun anew at once; ``final_obs`` and ``final_info`` hold the end) or ``Disabled``
            (``reset(options={"reset_mask": bool[num_envs]})``).
        game: as for ``SingleRole``, and so are all the others.
        role: see ``SingleRole``.
        seat: see ``SingleRole``.
        others: see ``SingleRole``; each agent is asked once a wave for all games together.
        reward: see ``SingleRole``.
        levels: see ``SingleRole``.
        render_mode: ``ansi`` (a tuple of transcripts) or None.
        game_kwargs: the game's own arguments.

    Raises:
        DreamEnvsError: for a wrong argument, or not one action a game.
    """

    _POSITION = ("_np_random", "_np_random_seed", "_streams", "_tables", "_over")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        role: str | None = None,
        seat: str | None = None,
        others: Mapping[str, AgentLike | str] | None = None,
        reward: common.RewardLike | None = None,
        levels: Sequence[int] | None = None,
        render_mode: str | None = None,
        **game_kwargs: Any,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise DreamEnvsError(f"num_envs={num_envs!r}: a whole number of games, 1 or more")
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {"render_modes": ["ansi"], "render_fps": 1, "autoreset_mode": self.autoreset_mode}
        self.render_mode = common.check_render_mode(render_mode)
        self.engine = build_engine(
            game, game_kwargs, VectorSingleRole, role=role, seat=seat, others=others, reward=reward, levels=levels
        )
        self.game, self.seat, self.num_envs = self.engine.game, self.engine.seat, num_envs
        self.single_observation_space = UnicodeText(MAX_OBSERVATION)
        self.single_action_space = UnicodeText(MAX_ACTION)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._streams: list[np.random.Generator] = []
        self._tables: list[SeatTable] = []
        self._over = np.zeros(num_envs, dtype=np.bool_)

    @property
    def episodes(self) -> list[Episode | None]:
        """The finished episode of each game, or None while it goes on (and after an autoreset)."""
        return [table.episode for table in self._tables]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begin all games, or those of ``options["reset_mask"]``.

        Args:
            seed: a number gives every game its own hashed stream; a sequence seeds game i as ``SingleRole`` would be
                with ``seed[i]``; None goes on with the streams there are.
            options: ``task`` as for ``SingleRole``; ``reset_mask``: ``bool[num_envs]``.

        Raises:
            DreamEnvsError: for a list of seeds or a mask of the wrong length.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        which = self._masked(mask)
        self._seed(seed, which)
        self._begin(which, options)
        infos: dict[str, Any] = {}
        for i in which:
            infos = self._add_info(infos, seat_info(self.engine, self._tables[i]), i)
        return self._observe(), infos

    def step(self, actions: Sequence[str | Action]) -> Step:
        """One move in every game; see ``autoreset_mode`` for games that are over."""
        if not self._tables:
            raise DreamEnvsError("step before the first reset: call reset() first")
        if isinstance(actions, str) or len(actions) != self.num_envs:
            found = "one str" if isinstance(actions, str) else f"{len(actions)}"
            raise DreamEnvsError(f"step takes {self.num_envs} actions, one a game, not {found}")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._over.any():
            raise DreamEnvsError("a game is over: begin it anew with reset(options={'reset_mask': ...})")
        stale = np.flatnonzero(self._over) if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.array([], int)
        skipped = set(stale.tolist())
        live = [i for i in range(self.num_envs) if i not in skipped]
        self.engine.step([self._tables[i] for i in live], [acting.as_action(actions[i]) for i in live])
        if skipped:
            self._begin(sorted(skipped), {})
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        for i in live:
            episode = self._tables[i].episode
            if episode is not None:
                rewards[i], terminations[i] = episode.scores[self.seat].value, True
        infos = self._finish(terminations)
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        return self._observe(), rewards, terminations, truncations, infos

    def render(self) -> tuple[str, ...] | None:
        """The transcripts in ``ansi`` mode, else None."""
        if self.render_mode != "ansi":
            return None
        return tuple(common.transcript(t.turns, t.episode.scores if t.episode else None) for t in self._tables)

    def snapshot(self) -> common.Snapshot:
        """The position of all games, for ``restore``."""
        return common.take(self, self._POSITION)

    def restore(self, snapshot: common.Snapshot) -> None:
        """Go back to a position.

        Raises:
            DreamEnvsError: for the snapshot of another face, game or number of games.
        """
        if isinstance(snapshot, common.Snapshot) and len(snapshot.data.get("_over", ())) != self.num_envs:
            raise DreamEnvsError(f"restore needs a snapshot of {self.num_envs} games")
        common.put_back(self, snapshot, self._POSITION)

    def _finish(self, terminations: np.ndarray) -> dict[str, Any]:
        """Infos of this step; in ``SameStep`` mode the games that are over are begun anew."""
        infos: dict[str, Any] = {}
        ended = np.flatnonzero(terminations).tolist()
        self._over = terminations.copy()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended:
            for i in ended:
                final = {
                    "final_obs": self.engine.text(self._tables[i]),
                    "final_info": seat_info(self.engine, self._tables[i]),
                }
                infos = self._add_info(infos, final, i)
            self._begin(ended, {})
        for i, table in enumerate(self._tables):
            infos = self._add_info(infos, seat_info(self.engine, table), i)
        return infos

    def _observe(self) -> tuple[str, ...]:
        return tuple([self.engine.text(table) for table in self._tables])

    def _begin(self, which: Sequence[int], options: dict[str, Any]) -> None:
        draws: list[Callable[[], str]] = [
            lambda stream=self._streams[i]: common.new_label(stream)  # type: ignore[misc]
            for i in which
        ]
        tables = self.engine.begin(draws, common.task_option(options))
        if not self._tables:
            self._tables = tables
        for i, table in zip(which, tables, strict=True):
            self._tables[i] = table
            self._over[i] = False

    def _seed(self, seed: int | Sequence[int | None] | None, which: Sequence[int]) -> None:
        if not self._streams:
            self._streams = [seeding.np_random(None)[0] for _ in range(self.num_envs)]
        if seed is None:
            return
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
            for i in which:
                self._streams[i] = seeds.stream("vector", int(seed), i)
            return
        if len(seed) != self.num_envs:
            raise DreamEnvsError(f"seed has {len(seed)} numbers: give one number, or {self.num_envs}, one a game")
        for i in which:
            if seed[i] is not None:
                self._streams[i] = seeding.np_random(seed[i])[0]

    def _masked(self, mask: Any) -> list[int]:
        if mask is None or not self._tables:
            return list(range(self.num_envs))
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise DreamEnvsError(f"options['reset_mask'] is bool[{self.num_envs}], an array of numpy.bool_")
        return np.flatnonzero(mask).tolist()


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    known = {m.value: m for m in AutoresetMode} | {m.name: m for m in AutoresetMode}
    if isinstance(mode, AutoresetMode):
        return mode
    if mode not in known:
        raise DreamEnvsError(f"autoreset_mode={mode!r}: 'NextStep', 'SameStep' or 'Disabled'")
    return known[mode]
