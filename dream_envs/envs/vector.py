"""The vector adapter: many copies of one role's view in one process, with one batched call an agent and step.

A process vector environment pays for sending text between processes (and, with shared memory, destroys it); what is
slow in a language game is the model, and that is what is batched here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dream_envs import seeds
from dream_envs.core import Action, DreamEnvsError, Episode, Game
from dream_envs.envs import _adapter as adapter
from dream_envs.envs._shared import check_whole
from dream_envs.envs.gym import SeatEngine
from dream_envs.play import Table, as_action
from dream_envs.spaces import MAX_ACTION, MAX_OBSERVATION, UnicodeText

Step = tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class VectorSingleRole(adapter.Adapter, VectorEnv[tuple[str, ...], Sequence[str], np.ndarray]):
    """``num_envs`` copies of one role's view; what ``gymnasium.make_vec`` makes for the ids of this suite.

    Observations are a tuple of ``num_envs`` strings, actions any sequence of as many strings; rewards are
    ``float64[num_envs]``, terminations and truncations ``bool[num_envs]``.  Infos follow Gymnasium: ``messages`` is an
    object array, ``score`` a dict of arrays, each key with its ``_key`` mask.

    Args:
        num_envs: how many games at once, 1 or more.
        autoreset_mode: ``SameStep`` (a game that is over is begun anew at once; ``final_obs`` and ``final_info`` hold
            the end; no step is lost, which counts where a game is one move), ``NextStep`` (begun anew by the next step,
            whose action is not looked at) or ``Disabled`` (``reset(options={"reset_mask": bool[num_envs]})``).
        game: as for ``SingleRole``.
        render_mode: ``ansi`` (a tuple of transcripts) or None.
        kwargs: as for ``SingleRole``; each agent of ``others`` is asked once a step for all games together.
    """

    _POSITION = ("_np_random", "_np_random_seed", "_streams", "_tables", "_over")

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        game: str | type | Game = "dream_envs/ChallengerSolver-v0",
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_whole("num_envs", num_envs, 1, 2**20)
        known: dict[Any, AutoresetMode] = {key: mode for mode in AutoresetMode for key in (mode, mode.value, mode.name)}
        if autoreset_mode not in known:
            raise DreamEnvsError(f"autoreset_mode={autoreset_mode!r}: 'SameStep', 'NextStep' or 'Disabled'")
        self.autoreset_mode = known[autoreset_mode]
        self.metadata = {"render_modes": ["ansi"], "render_fps": 1, "autoreset_mode": self.autoreset_mode}
        self.render_mode = adapter.check_render_mode(render_mode)
        self.engine = SeatEngine(game, **kwargs)
        self.game, self.seat, self.num_envs = self.engine.game, self.engine.seat, num_envs
        self.single_observation_space = UnicodeText(MAX_OBSERVATION)
        self.single_action_space = UnicodeText(MAX_ACTION)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._streams: list[np.random.Generator] = []
        self._tables: list[Table] = []
        self._over = np.zeros(num_envs, dtype=np.bool_)

    @property
    def episodes(self) -> list[Episode | None]:
        """The finished episode of each game, or None while it goes on (and after an autoreset)."""
        return [table.episode for table in self._tables]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begin all games, or those of ``options["reset_mask"]``; ``options["task"]`` as in ``SingleRole``.

        ``seed``: one number (each game gets a stream hashed from it and its place), or one a game, which then is the
        game that ``SingleRole`` plays with that seed; None goes on.
        """
        options = dict(options or {})
        which = self._masked(options.pop("reset_mask", None))
        self._seed(seed, which)
        self._begin(which, options)
        infos: dict[str, Any] = {}
        for i in which:
            infos = self._add_info(infos, self.engine.info(self._tables[i]), i)
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
        skipped = np.flatnonzero(self._over).tolist() if self.autoreset_mode is AutoresetMode.NEXT_STEP else []
        live = sorted(set(range(self.num_envs)) - set(skipped))
        self.engine.step([self._tables[i] for i in live], [as_action(actions[i]) for i in live])
        self._begin(skipped, {})
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        over = np.zeros(self.num_envs, dtype=np.bool_)
        for i in live:
            rewards[i] = self.engine.earned(self._tables[i])
            over[i] = self._tables[i].episode is not None
        infos = self._finish(over)
        return self._observe(), rewards, over, np.zeros(self.num_envs, dtype=np.bool_), infos

    def render(self) -> tuple[str, ...] | None:
        """The transcripts in ``ansi`` mode, else None."""
        return tuple(map(adapter.transcript, self._tables)) if self.render_mode == "ansi" else None

    def restore(self, snapshot: adapter.Snapshot) -> None:
        """Go back to a position of as many games."""
        if isinstance(snapshot, adapter.Snapshot) and len(snapshot.data.get("_over", ())) != self.num_envs:
            raise DreamEnvsError(f"restore needs a snapshot of {self.num_envs} games")
        super().restore(snapshot)

    def _finish(self, over: np.ndarray) -> dict[str, Any]:
        """Infos of this step; in ``SameStep`` mode the games that are over are begun anew."""
        infos: dict[str, Any] = {}
        self._over = over.copy()
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            ended = np.flatnonzero(over).tolist()
            for i in ended:
                table = self._tables[i]
                final = {"final_obs": self.engine.text(table), "final_info": self.engine.info(table)}
                infos = self._add_info(infos, final, i)
            self._begin(ended, {})
        for i, table in enumerate(self._tables):
            infos = self._add_info(infos, self.engine.info(table), i)
        return infos

    def _observe(self) -> tuple[str, ...]:
        return tuple([self.engine.text(table) for table in self._tables])

    def _begin(self, which: Sequence[int], options: dict[str, Any]) -> None:
        draws = [functools.partial(adapter.new_label, self._streams[i]) for i in which]
        tables = self.engine.begin(draws, adapter.task_option(options))
        if not self._tables:
            self._tables = tables
        for i, table in zip(which, tables, strict=True):
            self._tables[i], self._over[i] = table, False

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
