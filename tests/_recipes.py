"""Loops small enough for a test: a few episodes a step, few problems to measure with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dream_envs.baselines import loop
from dream_envs.baselines.recipe import Options
from dream_envs.core import Action

_NIGHTS = {"nights": 2, "probes": 4, "wakes": 1, "eval.problems": 4, "nights.learning.steps": 2,
           "nights.learning.batch": 8, "nights.experience": 16}  # fmt: skip
_DREAMS = {"dreams": 2, "memory": 1, "fiction": 0, "size": 8, "top": 1, "random": 0, "probe": 6, "inner_steps": 1,
           "draft": 1}  # fmt: skip
DREAMS = {f"nights.dreaming.{k}": v for k, v in _DREAMS.items()}
SMALL: dict[str, dict[str, Any]] = {
    "azr": {"proposals": 6, "replays": 4, "attempts": 3, "groups": 4},
    "r_zero": {"challenger_steps": 1, "solver_steps": 1, "round": 6, "attempts": 3, "candidates": 12, "groups": 4},
    "ttrl": {"levels": [2, 3], "prompts": 4, "batch": 3, "votes": 4, "trained": 2},
    "serl": {"prompts": 4, "batch": 3, "actors": 3, "judgements": 2, "schedule": "equal"},
    "serl_limited": {"seeds": 4, "instructions": 12, "batch": 5, "answers": 6, "round_steps": 1},
    "self_rewarding": {"iteration": 1, "prompts": 16, "batch": 4, "actors": 3},
    "preference": {"round": 4, "attempts": 4, "candidates": 48, "model_steps": 4, "model_batch": 4},
    "magpie": {"dreams": 12, "checks": 10, "batch": 2, "preset": "filter5"},
    "dream": {"variant": "sleep", "attempts": 4, "nights.every": 2, "nights.learning.steps": 2,
              "nights.learning.batch": 8, "nights.experience": 16, **DREAMS},
    "ctx2skill": {"sample": 1, "tasks": 2, "repeats": 1, "tests": 2, "game.rubrics": 2},
    "self_play": {"episodes": 8, "copies": 2, "eval.games": 4},
    "spiral": {"episodes": 8, "copies": 2, "eval.games": 4},
    **{name: {**_NIGHTS, **(DREAMS if name in ("sleep", "seal", "static_expert", "placebo") else {})}
       for name in ("sleep", "seal", "replay_sft", "l2", "static_expert", "placebo")},
    "discovery": {"days": 2, "practices": 1, "challengers": 3, "attempts": 2, "eval.problems": 4,
                  **{k: v for k, v in _NIGHTS.items() if k.startswith("nights.")}, **DREAMS},
    "in_context": {k: v for k, v in _NIGHTS.items() if not k.startswith("nights.")},
}  # fmt: skip
#: The loops that train by day, from a paper each.
PAPERS = ("azr", "r_zero", "ttrl", "serl", "serl_limited", "self_rewarding", "preference")
NIGHTS = ("sleep", "seal", "replay_sft", "in_context", "l2", "static_expert", "placebo")


class Says:
    """Replies in the order of the seats."""

    def __init__(self, *replies: str) -> None:
        self.replies = replies

    def act(self, requests: Any) -> list[Action]:
        return [Action(self.replies[int(r.agent.rpartition("_")[2]) % len(self.replies)]) for r in requests]


def options(name: str, steps: int | None = 2, set: dict[str, Any] | None = None, **more: Any) -> Options:
    """The loop with the numbers of this file; nights are one step, an episode of two days."""
    steps = 1 if name in (*NIGHTS, "discovery") else steps
    return Options(name, steps=steps, set={**SMALL[name], "eval.problems": 4, **(set or {})}, **more)


def walked(chosen: Options, out: Path, tick: Any = None, **more: Any) -> loop.Context:
    """Run its phases in ``out``, from wherever they stand, without the measurement behind them."""
    torch.set_num_threads(1)
    ctx = loop.Context(chosen, out)
    try:
        loop.walk(ctx, None, tick or (lambda *_: None), **more)
    finally:
        ctx.run.close()
    return ctx


def hashed(agent: Any) -> str:
    return str(hash(tuple(p.detach().numpy().tobytes() for p in agent.model.parameters())))


def hashes(ctx: loop.Context) -> dict[str, str]:
    """Every name's final weights, hashed by value."""
    return {name: hashed(agent) for name, agent in ctx.weights.items()}


def base_hash(ctx: loop.Context) -> str:
    return hashed(ctx.base)
