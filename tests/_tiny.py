"""A practice that takes a second: few episodes, the nano base, numbers of its own (nothing depends on the defaults)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from dream_envs.agents.training.grpo import GRPO, GRPOSettings, PolicySettings
from dream_envs.agents.training.learners import learner as learner_named
from dream_envs.agents.training.updates import Updates

from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.critic import CriticSettings
from dream_envs.agents.training.rows import RowConfig
from dream_envs.curriculum import gates
from dream_envs.curriculum.curriculum import Share, Syllabus
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import read_episodes
from dream_envs.rewards.presets import challenger_solver
from dream_envs.runs import Follower, Run

SETTINGS = GRPOSettings(lr=1e-3, warmup=1, save_every=2, rows=RowConfig(rows=48, groups=8, review=12))
PPO_SETTINGS = PolicySettings(
    **{name: getattr(SETTINGS, name) for name in ("lr", "warmup", "save_every")},
    rows=RowConfig(rows=64, groups=12, review=12),
    baseline="critic",
    updates=Updates(epochs=2, minibatches=2),
    critic=CriticSettings(lr=1e-2, hidden=8),
)


def practice(path: Path, *, share: Share | None = None, solvers: int = 4, seed: str = "tiny", **more: Any) -> Practice:
    """A practice that writes into ``path`` (rank 0) and learns from its verifier."""
    first = more.get("rank", 0) == 0
    path.mkdir(parents=True, exist_ok=True)
    store = ChallengeStore(path / "challenges.jsonl" if first else None)
    game = ChallengerSolver("composition", solvers=solvers, gate=gates.archive(store), family_args={"max_level": 6})
    syllabus = Syllabus(game.family, share or Share(8, 3, 3), seed=seed, store=store)
    run = Run(path, {"test": "tiny"}) if first else Follower(path, {"test": "tiny"})
    return Practice(game, syllabus, challenger_solver(), run, **more)


def learner(**more: Any) -> GRPO:
    """A learner on the nano base, on one thread."""
    torch.set_num_threads(1)
    return GRPO("nano/compose", **{"settings": SETTINGS, "seed": "tiny", **more})


def named(name: str, **more: Any) -> GRPO:
    """A learner of this name with the numbers of this file."""
    torch.set_num_threads(1)
    chosen = {"grpo": SETTINGS, "ppo": PPO_SETTINGS}
    given = {"settings": chosen[name]} if name in chosen else {}
    return learner_named(name, "nano/compose", **{**given, "seed": "tiny", **more})


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether they are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def texts(path: Path) -> list[tuple[int, list[str]]]:
    """What was said in each episode of a run, in the order of the file."""
    return [(e.index, [t.text for t in e.turns]) for e in read_episodes(path / "episodes.jsonl")]
