"""One seat of a game is yours, the others are played by agents: the engine of the single-role and the vector face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dream_envs import acting
from dream_envs.core import Action, Agent, Episode, Game, Score, Task

#: How often a game that ends before your seat has moved is replaced by a new one at reset.
REDRAWS = 16


class SeatTable(acting.Table):
    """A table with the answers to: is it over, is it worth playing, how many were thrown away before it."""

    __slots__ = ("episode", "redraws")

    def __init__(self, game: Game, label: str, task: Task | None = None, redraws: int = 0) -> None:
        super().__init__(game, label, task)
        self.episode: Episode | None = None
        self.redraws = redraws


class SeatEngine:
    """Moves many tables until ``seat`` has to act at each or the game is over; one call a policy and wave."""

    def __init__(
        self,
        game: Game,
        seat: str,
        policies: Mapping[str, Agent],
        reward: Callable[[Episode], dict[str, Score]],
    ) -> None:
        self.game, self.seat, self.reward = game, seat, reward
        self.runner = acting.Runner(game, policies)

    def begin(self, draws: Sequence[Callable[[], str]], task: Task | None = None) -> list[SeatTable]:
        """New tables, one for each source of labels, played up to the seat's first move.

        A game that is over before the seat has moved (a rejected proposal, say) is thrown away and drawn again, at
        most ``REDRAWS`` times: after that it is returned as it is, over.
        """
        tables = [SeatTable(self.game, draw(), task) for draw in draws]
        self._advance(tables)
        for _ in range(REDRAWS):
            lost = [i for i, table in enumerate(tables) if table.episode is not None]
            if not lost:
                break
            for i in lost:
                tables[i] = SeatTable(self.game, draws[i](), task, tables[i].redraws + 1)
            self._advance([tables[i] for i in lost])
        return tables

    def step(self, tables: Sequence[SeatTable], actions: Sequence[Action]) -> None:
        """The seat's move at each table, then everybody else's until the seat acts again or ``episode`` is set."""
        live = [(t, a) for t, a in zip(tables, actions, strict=True) if t.episode is None]
        self.runner.wave([t for t, _ in live], [{self.seat: a} for _, a in live])
        self._advance([t for t, _ in live])

    def text(self, table: SeatTable) -> str:
        """What the seat sees now, as text."""
        return acting.text_of(self.game.view(table.state, self.seat))

    def _advance(self, tables: Sequence[SeatTable]) -> None:
        game, seat = self.game, self.seat
        waiting = list(tables)
        for _ in range(acting.MAX_WAVES):
            still = []
            for table in waiting:
                if game.outcome(table.state) is not None:
                    table.episode = acting.episode_from(
                        game, table.state, table.turns, seed=table.label, reward=self.reward
                    )
                elif seat not in [s.agent for s in game.turns(table.state)]:
                    still.append(table)
            if not still:
                return
            self.runner.wave(still)
            waiting = still
        raise acting.DreamEnvsError(f"{game.env_id}: {seat} was not asked in {acting.MAX_WAVES} moves")
