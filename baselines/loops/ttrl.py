"""TTRL (arXiv 2504.16084): reinforcement learning on unlabelled problems, the majority's answer as the label.

Departures from the paper:
- the prompts are problems of a fixed list of depths just past the base's support, drawn from the run's seed, and not a
  benchmark; what is reported (the evaluation, the Frontier Report) is measured on other problems, where the paper
  measures on the prompts that it trained on;
- a tie gives no label and nobody is scored (the paper's code takes the answer that came first);
- learning rate 1e-4 (the paper: 5e-7), no KL penalty unless ``--set kl=0.05``: the base has 0.15 M parameters.

As in the paper there is one role, GRPO, and of 64 votes a problem 32 are trained on.  The label's accuracy is recorded
(``label_accuracy``) and never enters a reward.

On the nano base this ends in collapse, not in the paper's gain: with the defaults (seed 0, 40 steps) exact success at
depth 4 goes from 0.24 to 0.007 while the reward rises, since its wrong answers agree.  Learning rate 5e-4, and depth 5
as well, only made it faster.
"""

from __future__ import annotations

import functools

import msgspec

from dream_envs.baselines.loops.dream import MAX_LEVEL, rows
from dream_envs.baselines.loops.prompts import from_generator
from dream_envs.baselines.recipe import Loop, Phase, Recipe
from dream_envs.core import DreamEnvsError, Episode, Score
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.rewards import reward
from dream_envs.rewards.solver import majority


class Settings(msgspec.Struct, frozen=True):
    """``prompts`` of each level in all, ``batch`` of them a step, ``votes`` on each, of which ``trained`` are used."""

    levels: tuple[int, ...] = (3, 4)
    prompts: int = 64
    batch: int = 8
    votes: int = 64
    trained: int = 32
    lr: float = 1e-4
    kl: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.trained <= self.votes or min(self.prompts, self.batch) < 1 or not self.levels:
            raise DreamEnvsError(f"{self}: 1 <= trained <= votes, prompts and batch 1 or more, at least one level")


@reward("ttrl_vote")
def vote(episode: Episode, *, trained: int = 32) -> dict[str, Score]:
    """``majority`` over all votes; those after the first ``trained`` only vote (``abstain``)."""
    found = majority()(episode)
    for agent, score in found.items():
        if int(agent.rpartition("_")[2]) >= trained and score.status == "ok":
            found[agent] = Score(0.0, "abstain", score.components, "voted, not trained on")
    return found


def recipe(chosen: Settings, steps: int) -> Recipe:
    """Only the solver learns; of every group the trained half has rows."""
    prepare = functools.partial(from_generator, chosen.levels, chosen.prompts)
    return Recipe(
        args={"solvers": chosen.votes}, family_args={"max_level": MAX_LEVEL}, seats={"challenger": "base"},
        mixture=Mixture(0, 0, 0, dataset=chosen.batch), gates=(), reward={"solver": vote(trained=chosen.trained)},
        learning={**rows(chosen.batch), "lr": chosen.lr, "kl": chosen.kl},
        phases=(Phase("ttrl", steps, prepare=prepare),), steps=steps,
    )  # fmt: skip


LOOP = Loop("ttrl", "TTRL (2504.16084): the majority's answer on unlabelled problems", Settings, recipe, 40)
