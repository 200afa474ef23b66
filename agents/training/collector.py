"""One round of experience: plan, play, score, absorb, log.  The same for every game and learner."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dream_envs.agents.sleep.experience import Buffer, solved
from dream_envs.core import AgentLike, Episode, RewardModel, hook
from dream_envs.curriculum.curriculum import Curriculum
from dream_envs.metrics.rounds import Health, health, judging, ring, round_metrics
from dream_envs.play import rollout, score
from dream_envs.runs import Run


class Collector:
    """A game, the curriculum that feeds it, the reward that scores it and the run that records it.

    Args:
        game: the game.
        curriculum: what is played in each round.
        reward: scores a whole round at once; learners and curriculum believe it, right or wrong.
        run: where episodes and metrics go.
        seats: agents for seats that the learner does not play (a frozen challenger, say), by role.
        first: the number of its first round, where it follows another collector in the same run.
        memory: keeps what was answered rightly, for the night; None keeps nothing.
        rank: which of ``world`` processes this is; each plays its share of a round and all absorb the whole.
        world: how many processes play.
        gather: collects a list from every process, in rank order (``accelerate.utils.gather_object``).

    Under ``torchrun`` or ``accelerate launch``, ``Collector(..., **processes())`` fills in the last three; all ranks
    but the first take a ``runs.Follower`` for the run and keep the curriculum's store in memory.
    """

    def __init__(
        self,
        game: Any,
        curriculum: Curriculum,
        reward: RewardModel,
        run: Run,
        *,
        seats: Mapping[str, AgentLike] | None = None,
        first: int = 0,
        memory: Buffer | None = None,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[list[Any]], list[Any]] = list,
    ) -> None:
        self.game, self.curriculum, self.reward, self.run = game, curriculum, reward, run
        self.seats, self.first, self.memory = dict(seats or {}), first, memory
        self.rank, self.world, self.gather = rank, world, gather if world > 1 else list
        self.offset = 0  # rounds of earlier days, which a learner that sleeps sets
        self.history: list[Health] = []
        self.played = 0
        self.samples: dict[str, int] = {}  # completions, by role
        self.read = 0  # prompt tokens of the learner's turns since the last night
        self.newest: list[Episode] = []
        self._newest: dict[str, Any] = {}

    def round(self, number: int, policy: AgentLike) -> list[Episode]:
        """Play a round with ``policy`` in every seat that nobody else has; this process's episodes, by index.

        The curriculum has absorbed the episodes of all processes when this returns.
        """
        number += self.first + self.offset
        starts = self.curriculum.plan(number)[self.rank :: self.world]
        seats = {**{role.name: policy for role in self.game.roles}, **self.seats}
        mine = list(rollout(self.game, seats, starts, seed=self.curriculum.seed, width=len(starts) or 1))
        everyone = sorted(self.gather(mine), key=lambda e: e.index)
        everyone = score([msgspec.structs.replace(e, round=number) for e in everyone], self.reward, self.game.agents)
        self.curriculum.absorb(number, everyone)
        self.played, self.newest = self.played + 1, everyone
        self.history.append(health(everyone, self.game))
        self._newest = {**round_metrics(everyone), **judging(everyone)}
        if self.memory is not None:
            self.memory.add(solved(everyone, hook(self.game, "solver_role")))
        for episode in everyone:
            for turn in episode.turns:
                if turn.token_ids:
                    self.samples[turn.role] = self.samples.get(turn.role, 0) + 1
                self.read += turn.usage.prompt_tokens if turn.role not in self.seats else 0
            if self.rank == 0:  # the writer is rank 0's: one file, one order
                self.run.episodes.write(episode)
        played = {e.index for e in mine}
        return [e for e in everyone if e.index in played]

    def learns(self) -> frozenset[str]:
        """The roles that the learner itself plays."""
        return frozenset(role.name for role in self.game.roles) - set(self.seats)

    def means(self) -> dict[str, float]:
        """The newest round's mean reward by role."""
        return {k: v for k, v in self._newest.items() if k.startswith("reward/") and k.endswith("/mean")}

    def log(self, number: int, extra: Mapping[str, Any]) -> None:
        """Write the newest round with ``extra`` into the run's metrics; alarms of both are joined."""
        if self.rank != 0:
            return
        found = {f"curriculum/{k}": v for k, v in msgspec.to_builtins(self.history[-1]).items() if v is not None}
        row: dict[str, Any] = {"step": self.first + self.offset + number, "samples": sum(self.samples.values())}
        row |= {**self._newest, **found, **self.curriculum.metrics(), **extra}
        if alarms := [*extra.get("alarms", ()), *ring(self.history)]:
            row["alarms"] = alarms
        self.run.log(row)

    def night(self, night: Any) -> None:
        """Write a night into the run's metrics, at the step of the last round."""
        if self.rank == 0:
            found = {k: float(v) for k, v in msgspec.to_builtins(night).items() if isinstance(v, (int, float))}
            self.run.log({"step": self.first + self.played - 1, **{f"night/{k}": v for k, v in found.items()}})

    def begin(self) -> None:
        """Start at the first round: what a run left in the files that was killed before its first checkpoint goes."""
        self.curriculum.begin()
        if self.rank == 0:
            self.run.restore({"episodes": 0, "metrics": 0})

    def state(self) -> dict[str, Any]:
        """Everything that the next round depends on, JSON-ready."""
        found = {
            "curriculum": self.curriculum.state(), "history": msgspec.to_builtins(self.history), "played": self.played,
            "samples": self.samples, "read": self.read, "newest": self._newest, "run": self.run.state(),
        }  # fmt: skip
        found |= {name: part.state() for name, part in self._parts.items()}
        if seats := {role: agent.state() for role, agent in self._stateful_seats.items()}:
            found["seats"] = seats
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state; the run's files are cut back to it."""
        self.curriculum.restore(state["curriculum"])
        self.history = msgspec.convert(state["history"], list[Health])
        self.played, self.samples = state["played"], dict(state["samples"])
        self.read, self._newest = state["read"], dict(state["newest"])
        for name, part in self._parts.items():
            if name in state:
                part.restore(state[name])
        for role, saved in state.get("seats", {}).items():
            self._stateful_seats[role].restore(saved)
        if self.rank == 0:
            self.run.restore(state["run"])

    @property
    def _parts(self) -> dict[str, Any]:
        return {k: v for k, v in (("memory", self.memory), ("reward", self.reward)) if hasattr(v, "state")}

    @property
    def _stateful_seats(self) -> dict[str, Any]:
        return {role: agent for role, agent in self.seats.items() if hasattr(agent, "state")}


def processes(device: str = "cpu") -> dict[str, Any]:
    """``rank``, ``world`` and ``gather`` of this process, for ``Collector``; empty where there is only one.

    Joins the process group that ``torchrun`` or ``accelerate launch`` announces (gloo for ``device="cpu"``).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return {}
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=device == "cpu")
    return {"rank": state.process_index, "world": state.num_processes, "gather": gather_object}


def leads() -> bool:
    """Whether this is the only process, or the first of several: the one that writes and speaks."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


def own_device(device: str) -> str:
    """This process's own of several accelerators, where several processes were started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or device not in ("cuda", "auto"):
        return device
    from accelerate import PartialState

    return str(PartialState().device)
