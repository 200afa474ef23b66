"""Self-Rewarding Language Models (arXiv 2401.10020): a model scores its own answers, the best is set against the worst.

An iteration: four answers to a prompt, each scored three times by the weights that the iteration began with; the answer
with the highest mean score is preferred to the one with the lowest, and prompts whose answers all score alike are left
out.  The next iteration's judge is what came of it.

Departures from the paper:
- the loss is not DPO's: the two answers of a pair are trained on with GRPO's advantages (+1 and -1), which is the
  direction of DPO's gradient where policy and reference are the same, per token; the pair is sampled anew for each
  step and there is no reference to stay near to (``--learner rloo`` weighs whole answers, as DPO does);
- the judge says right or wrong (``rubric``) instead of 0 to 5 points: ``nano/judge`` was pre-trained on that question,
  which stands for the seed data of judging (EFT), as its solving does for that of answers (IFT);
- prompts are written by the base to the challenger prompt ``new`` without examples (the paper: few-shot, by a fixed
  model too), and problems reserved for evaluation are turned away;
- 16 prompts a step for 10 steps in each of 3 iterations, learning rate 2e-4 falling to 0 in each: 0.25 M parameters.

As in the paper judging is not trained by a reward; it changes since the weights are shared.  The judge's accuracy
(``judge_accuracy``), the pairs' (``label_accuracy``) and the answers' (``truth``) are recorded and enter no reward.

Measured on nano/judge with the defaults, exact success before and after: depth 3 0.58 to 0.89 (seed 0) and 0.86 (seed
1), depth 4 0.003 to 0.01 and 0.02; Frontier Report of seed 0: *Sharpening*, +0.0 [-0.7, +0.7] points.  As in the paper
there is no escalation: the base writes no problem deeper than it was shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.baselines.loops.prompts import listed, rounds, written
from dream_envs.baselines.loops.serl import REFUSED
from dream_envs.baselines.recipe import SELF_JUDGE, Loop, Recipe
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.rewards.rounds import best_and_worst
from dream_envs.rewards.self_judge import self_rubric

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context


class Settings(msgspec.Struct, frozen=True):
    """Steps an ``iteration``; ``prompts`` the base is asked to write in all, ``batch`` a step; answers and scores."""

    iteration: int = 10
    prompts: int = 1024
    batch: int = 16
    actors: int = 4
    judgements: int = 3
    lr: float = 2e-4


def iteration(chosen: Settings, number: int, ctx: Context, game: Any, label: str) -> Any:
    """Prompts that the base writes, the same in every iteration."""
    tasks, _ = written(ctx, ctx.base, chosen.prompts, f"{label}/instructions")
    if number == 0:
        ctx.count(challenger=chosen.prompts)
    return listed(ctx, game, f"{label}/{number}", tasks)


def recipe(chosen: Settings, steps: int) -> Recipe:
    """Iterations until ``steps`` are used up; no warm-up, since one is a few steps long."""
    return Recipe(
        env=SELF_JUDGE, args={"actors": chosen.actors, "judgements": chosen.judgements, "judging": "rubric"},
        family_args={"max_level": 10}, model="nano/judge", mixture=Mixture(0, 0, 0, dataset=chosen.batch), gates=(),
        reward={"": best_and_worst(self_rubric())}, seats={"judge": "policy"}, refused=REFUSED, steps=steps,
        learning={"rows.roles": {"actor": {"groups": chosen.batch}}, "lr": chosen.lr, "warmup": 0},
        phases=rounds("iteration", chosen.iteration, steps, iteration, chosen),
    )  # fmt: skip


SAYS = "Self-Rewarding LMs (2401.10020): scores its own answers, best against worst"
LOOP = Loop("self_rewarding", SAYS, Settings, recipe, 30)
