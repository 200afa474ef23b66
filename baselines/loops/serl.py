"""SERL (arXiv 2511.07922): one model answers, judges its own answers in pairs, and is trained in both, with no truth.

Four answers to a prompt; each of their six pairs is judged four times, twice in either order.  An answer earns its
length-controlled win rate, a verdict the sign of its agreement with the ranking that all verdicts make.  Rewards,
groups and the weights of the two losses are those of the released code (``rewards.self_judge``).

Departures from the paper:
- the base is ``nano/judge``, which knows how to answer, with slips, and how to judge, and the prompts are problems of
  its declared support (``depths``), drawn from the run's seed, in place of open questions; so the truth is known, is
  recorded (``truth``, ``judge_accuracy``, ``label_accuracy``) and enters no reward;
- no thinking block: an answer is a trace and a verdict one token;
- length in characters, since an answer in compact notation is one word;
- 16 prompts a step (the paper: 8 with accumulation), temperature 1 (0.9, top-k 50), learning rate 5e-4 falling to 0
  (1e-6, cosine): the base has 0.25 M parameters;
- a fresh round a step, 30 of them, in place of 5 epochs over 4,999 prompts.

As in the paper there is no KL penalty and one update a round; the judge is trained first and both alike from half-way
on (``--set schedule=equal`` weighs them alike throughout).

Measured on nano/judge with the defaults, exact success before and after: depth 3 0.58 to 0.86 (seed 0) and 0.83 (seed
1), depth 4 0.003 to 0.08 and 0.004; Frontier Report of seed 0: *Sharpening*, +0.8 [-0.3, +1.6] points.  It unlearns its
slips and gains little deeper; while it does, the judge comes to prefer the first answer (0.5 to 0.7 of its verdicts).
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from dream_envs.baselines.loops.prompts import from_generator
from dream_envs.baselines.recipe import SELF_JUDGE, Loop, Phase, Recipe
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.rewards.self_judge import serl
from dream_envs.rewards.self_judge_groups import role_weights

#: Learners that self-judging cannot run with, and why.
REFUSED = {"expert": "has no verified traces to imitate"}


class Settings(msgspec.Struct, frozen=True):
    """``prompts`` of each level in all, ``batch`` of them a step; the judging, and the schedule of the two losses."""

    levels: tuple[int, ...] = (2, 3)
    prompts: int = 256
    batch: int = 16
    actors: int = 4
    judgements: int = 4
    swap: bool = True
    alpha: float = 0.2
    control: str = "serl"
    schedule: str = "serl"
    lr: float = 5e-4


def recipe(chosen: Settings, steps: int) -> Recipe:
    """Both roles learn in the same step; nothing here is verified, so there is no review."""
    prepare = functools.partial(from_generator, chosen.levels, chosen.prompts)

    def sources() -> tuple[Any, ...]:
        from dream_envs.agents.training.sources import RoleWeights

        return (RoleWeights(lambda progress: role_weights(progress, chosen.schedule)),)

    return Recipe(
        env=SELF_JUDGE, args={"actors": chosen.actors, "judgements": chosen.judgements, "order_swap": chosen.swap},
        family_args={"max_level": 10}, model="nano/judge", mixture=Mixture(0, 0, 0, dataset=chosen.batch), gates=(),
        reward={"": serl(alpha=chosen.alpha, length_control=chosen.control, length="chars")}, sources=sources,
        learning={"rows.roles": {"actor": {"groups": chosen.batch}, "judge": {}}, "lr": chosen.lr, "warmup": 2},
        phases=(Phase("serl", steps, prepare=prepare),), refused=REFUSED, steps=steps,
    )  # fmt: skip


LOOP = Loop("serl", "SERL (2511.07922): one model answers, judges its answers in pairs", Settings, recipe, 30)
