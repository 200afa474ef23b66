"""Recipes small enough for a test: a few episodes a step, and a run without the measurement behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines import loop, recipes
from dream_envs.baselines.eval_set import Yardstick
from dream_envs.runs import Run
from dream_envs.tasks.composition import Composition

SMALL: dict[str, dict[str, Any]] = {
    "azr": {"proposals": 6, "replays": 4, "attempts": 3, "groups": 4},
    "r_zero": {"challenger_steps": 1, "solver_steps": 1, "round": 6, "attempts": 3, "candidates": 12, "groups": 4},
    "ttrl": {"depths": [2, 3], "prompts": 4, "batch": 3, "votes": 4, "trained": 2},
    "serl": {"prompts": 4, "batch": 3, "actors": 3, "judgements": 2, "schedule": "equal"},
    "serl_limited": {"seeds": 4, "instructions": 12, "batch": 5, "answers": 6, "round_steps": 1},
    "self_rewarding": {"iteration": 1, "prompts": 16, "batch": 4, "actors": 3},
}


def job_of(name: str, agent: str | None = None, steps: int = 2, **knobs: Any) -> loop.Job:
    """The recipe's job with the numbers of this file."""
    given = {**SMALL[name], **knobs}
    return recipes.job_of(recipes.Settings(name, agent=agent, steps=steps, per_depth=4, knobs=given))


def walked(
    job: loop.Job, out: Path, tick: loop.Tick = lambda *_: None, made: list[loop.Stand] | None = None, **more: Any
) -> loop.Stand:
    """Run a job's stages in ``out``, from wherever they stand; ``made`` gets the stand before they begin."""
    torch.set_num_threads(1)
    stand = loop.Stand(Run(out, job.config), Yardstick(Composition(max_level=10), job.per_depth), LocalAgent(job.base))
    if made is not None:
        made.append(stand)
    try:
        loop.walk(job, stand, None, tick, **more)
    finally:
        stand.run.close()
    return stand
