"""TTRL (arXiv 2504.16084): reinforcement learning on unlabelled problems, the majority's answer as the label.

Departures from the paper:
- the prompts are problems of a fixed list of depths just past the base's support, drawn from the run's seed, and not a
  benchmark; what is reported (the yardstick, the Frontier Report) is measured on other problems, where the paper
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

import msgspec

from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.grpo import GRPOSettings
from dream_envs.agents.training.rows import RowConfig
from dream_envs.baselines.loop import Stage, Stand
from dream_envs.baselines.loops.prompts import drawn
from dream_envs.baselines.recipes import Recipe
from dream_envs.core import DreamEnvsError, Episode, Score
from dream_envs.curriculum.deck import Deck
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.rewards.base import reward
from dream_envs.rewards.solver import majority


class Knobs(msgspec.Struct, frozen=True):
    """``prompts`` of each depth in all, ``batch`` of them a step, ``votes`` on each, of which ``trained`` are used."""

    depths: tuple[int, ...] = (3, 4)
    prompts: int = 64
    batch: int = 8
    votes: int = 64
    trained: int = 32
    lr: float = 1e-4
    kl: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.trained <= self.votes or min(self.prompts, self.batch) < 1 or not self.depths:
            raise DreamEnvsError(f"{self}: 1 <= trained <= votes, prompts and batch 1 or more, at least one depth")


@reward("ttrl_vote")
def vote(episode: Episode, *, trained: int = 32) -> dict[str, Score]:
    """``majority`` over all votes; those after the first ``trained`` only vote (``abstain``)."""
    found = majority()(episode)
    for agent, score in found.items():
        if int(agent.rpartition("_")[2]) >= trained and score.status == "ok":
            found[agent] = Score(0.0, "abstain", score.components, "voted, not trained on")
    return found


def stages(knobs: Knobs, steps: int, seed: str) -> tuple[Stage, ...]:
    """One stage: only the solver learns."""

    def practice(stand: Stand, first: int) -> Practice:
        family, store = stand.yardstick.family, ChallengeStore(stand.run.path / "challenges.jsonl")
        deck = Deck(family, drawn(stand, knobs.depths, knobs.prompts, seed), knobs.batch, seed=seed, store=store)
        game = ChallengerSolver(family, solvers=knobs.votes)
        return Practice(game, deck, vote(trained=knobs.trained), stand.run, first=first)

    return (Stage("ttrl", steps, practice),)


def rows(knobs: Knobs) -> RowConfig:
    """The trained half of every group; no review."""
    count = knobs.batch * knobs.trained
    return RowConfig(rows=count + count % 2, groups=knobs.batch, review=0)


def rule(settings: GRPOSettings, knobs: Knobs) -> GRPOSettings:
    """A smaller step than a verifier allows, and the paper's penalty if it is wanted."""
    return msgspec.structs.replace(settings, lr=knobs.lr, kl=knobs.kl)


RECIPE = Recipe("ttrl", Knobs, stages, rows, steps=40, rule=rule)
