"""One round of self-made practice: plan, play, score, absorb, report.  The same for every learner."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.agents.sleep.experience import Buffer, solved
from dream_envs.core import AgentLike, Episode, RewardModel
from dream_envs.curriculum.syllabus import Syllabus
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.metrics.health import Health, health, ring
from dream_envs.play import rollout
from dream_envs.runs import Run
from dream_envs.seeds import stream

if TYPE_CHECKING:
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.agents.training.rows import RowConfig, RowMaker


class Practice:
    """A game, the syllabus that feeds it, the reward that judges it and the run that records it.

    Args:
        game: the game; its gate should ask ``syllabus.store``.
        syllabus: what is played in each round.
        reward: scores the episodes; learners and syllabus believe it, right or wrong.
        run: where episodes and metrics go.
        seats: agents for seats that the learner does not play (a frozen challenger, say), by role.
        first: the number of its first round, where it follows another practice in the same run.
        regrade: scores a whole round again, for rewards that compare its episodes (R-Zero's penalty on repetition);
            the same episodes in the same order, with other ``scores``.
        memory: keeps what was answered rightly, for the night; None keeps nothing.
        rank: which of ``world`` processes this is; each plays its share of a round and all absorb the whole.
        world: how many processes play.
        gather: collects a list from every process, in rank order (``accelerate.utils.gather_object``).

    Under ``torchrun`` or ``accelerate launch``, ``Practice(..., **processes())`` fills in the last three; all ranks but
    the first take a ``runs.Follower`` for the run and keep the syllabus' store in memory (``ChallengeStore(None)``).
    """

    def __init__(
        self,
        game: ChallengerSolver | SelfJudge,
        syllabus: Syllabus,
        reward: RewardModel,
        run: Run,
        *,
        seats: Mapping[str, AgentLike] | None = None,
        first: int = 0,
        regrade: Callable[[list[Episode]], list[Episode]] | None = None,
        memory: Buffer | None = None,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[list[Any]], list[Any]] = list,
    ) -> None:
        self.game, self.syllabus, self.reward, self.run = game, syllabus, reward, run
        self.seats = dict(seats or {})
        self.first, self.regrade, self.memory = first, regrade, memory
        self.rank, self.world = rank, world
        self.gather = gather if world > 1 else list
        self.history: list[Health] = []
        self.samples = {"solver": 0, "challenger": 0}

    def play(self, round: int, policy: AgentLike) -> list[Episode]:
        """Play a round with ``policy`` in every seat that nobody else has; this process's episodes, by index.

        The store has absorbed the episodes of all processes when this returns.
        """
        round += self.first
        starts = self.syllabus.plan(round)[self.rank :: self.world]
        seats = {**{role.name: policy for role in self.game.roles}, **self.seats}
        # The writer belongs to rank 0, which writes the episodes of all: one file, one order.
        mine = list(
            rollout(self.game, seats, starts, seed=self.syllabus.seed, reward=self.reward, width=len(starts) or 1)
        )
        mine.sort(key=lambda e: e.index)
        everyone = sorted(self.gather(mine), key=lambda e: e.index)
        if self.regrade is not None:
            everyone = self.regrade(everyone)
            played = {e.index for e in mine}
            mine = [e for e in everyone if e.index in played]
        self.syllabus.absorb(round, everyone)
        self.history.append(self.health(everyone))
        if self.memory is not None:
            self.memory.add(solved(everyone))
        for episode in everyone:
            for turn in episode.turns:
                if turn.token_ids:
                    self.samples[turn.role] = self.samples.get(turn.role, 0) + 1
            if self.rank == 0:
                self.run.episodes.write(episode)
        return mine

    def health(self, episodes: Sequence[Episode]) -> Health:
        """A round in numbers."""
        assert self.game.family is not None  # open prompts have none; ChallengerSolver always has one
        return health(episodes, self.game.family)

    def maker(self, engine: LocalAgent, config: RowConfig, baseline: str) -> RowMaker:
        """What turns this practice's episodes into the rows that a learner trains ``engine`` on."""
        from dream_envs.agents.training.rows import RowMaker

        assert isinstance(self.game, ChallengerSolver)  # other games' practices have a maker of their own
        brief = self.game.view(self.game.start(None, stream("brief")), "challenger_0")
        return RowMaker(config, self.game.family, engine.encode, engine.completion, brief, self.learns(), baseline)

    def learns(self) -> frozenset[str]:
        """The roles that the learner itself plays."""
        return frozenset(role.name for role in self.game.roles) - set(self.seats)

    def report(self, round: int, extra: Mapping[str, Any]) -> None:
        """Write the newest round's health with ``extra`` into ``metrics.jsonl``; alarms of both are joined."""
        if self.rank == 0:
            row = {
                "step": self.first + round,
                "samples": sum(self.samples.values()),
                **msgspec.to_builtins(self.history[-1]),
                **extra,
            }
            if alarms := [*extra.get("alarms", ()), *ring(self.history)]:
                row["alarms"] = alarms
            self.run.log(row)

    def begin(self) -> None:
        """Start at the first round: what a run left in the files that was killed before its first checkpoint goes."""
        self.syllabus.store.rewrite()
        if self.rank == 0:
            self.run.restore({"episodes": 0, "metrics": 0})

    def state(self) -> dict[str, Any]:
        """Everything that the next round depends on, JSON-ready."""
        return {
            "syllabus": self.syllabus.state(),
            "history": msgspec.to_builtins(self.history),
            "samples": self.samples,
            "run": self.run.state(),
            **({"memory": self.memory.state()} if self.memory is not None else {}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state; the run's files are cut back to it."""
        self.syllabus.restore(state["syllabus"])
        self.history = msgspec.convert(state["history"], list[Health])
        self.samples = dict(state["samples"])
        if self.memory is not None:
            self.memory.restore(state.get("memory", []))
        if self.rank == 0:
            self.run.restore(state["run"])


def processes(device: str = "cpu") -> dict[str, Any]:
    """``rank``, ``world`` and ``gather`` of this process, for ``Practice``; empty where there is only one.

    Joins the process group that ``torchrun`` or ``accelerate launch`` announces (gloo for ``device="cpu"``).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return {}
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=device == "cpu")
    return {"rank": state.process_index, "world": state.num_processes, "gather": gather_object}
