"""A run that takes a second: few episodes, the nano base, numbers of its own (nothing depends on the defaults)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dream_envs.agents.training.collector import Collector
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.agents.training.settings import (
    CriticSettings,
    LearnerSettings,
    ReviewSettings,
    RoleSettings,
    RowSettings,
    Updates,
)
from dream_envs.agents.training.sources import Demonstrations
from dream_envs.curriculum import gates
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import read_episodes
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.rounds import shared
from dream_envs.runs import Follower, Run

MIXTURE = Mixture(8, 3, 3)
NUMBERS: dict[str, Any] = {
    "lr": 1e-3, "warmup": 1, "save_every": 2, "review": ReviewSettings(count=12, roles=("solver",)),
}  # fmt: skip
SETTINGS = {
    "grpo": LearnerSettings(**NUMBERS, rows=RowSettings(48, {"solver": RoleSettings(8)})),
    "ppo": LearnerSettings(
        **NUMBERS, rows=RowSettings(None, {"solver": RoleSettings(12)}), baseline="critic",
        updates=Updates(epochs=2, minibatches=2), critic=CriticSettings(lr=1e-2, hidden=8),
    ),
    "rae": LearnerSettings(**NUMBERS, baseline="rae"),
}  # fmt: skip


def collector(
    path: Path, *, mixture: Mixture = MIXTURE, solvers: int = 4, seed: str = "tiny", reward: Any = None, **more: Any
) -> Collector:
    """A collector that writes into ``path`` (rank 0) and learns from its verifier."""
    first = more.get("rank", 0) == 0
    path.mkdir(parents=True, exist_ok=True)
    store = ChallengeStore(path / "challenges.jsonl" if first else None)
    game = ChallengerSolver("composition", solvers=solvers, gate=gates.archive(store), family_args={"max_level": 6})
    curriculum = Curriculum(game, mixture, seed=seed, store=store)
    run = Run(path, {"test": "tiny"}) if first else Follower(path, {"test": "tiny"})
    return Collector(game, curriculum, reward or shared(challenger_solver()), run, **more)


def learner(name: str = "grpo", **more: Any) -> PolicyLearner:
    """A learner on the nano base, on one thread; with this file's numbers where it has some."""
    torch.set_num_threads(1)
    given = {"settings": SETTINGS.get(name, name), "sources": (Demonstrations(),), "seed": "tiny"}
    return PolicyLearner("nano/compose", **{**given, **more})


def close(env: Collector) -> None:
    """Close the run's files."""
    env.run.close()
    env.curriculum.store.close()  # type: ignore[attr-defined]


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def everything(made: PolicyLearner) -> dict[str, torch.Tensor]:
    """The weights of the policy and of its value head, if it has one."""
    head = weights(made.critic) if made.critic is not None else {}
    return weights(made.engine.model) | {f"head.{k}": v for k, v in head.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether they are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def texts(path: Path) -> list[tuple[int, list[str]]]:
    """What was said in each episode of a run, in the order of the file."""
    return [(e.index, [t.text for t in e.turns]) for e in read_episodes(path / "episodes.jsonl")]


def metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
