"""SeRL (arXiv 2505.20347): few seed problems; the model writes more and learns from the vote of its own answers.

A round: the newest weights write instructions, malformed ones and those like a seed or an accepted one are turned away,
and the rest joins the seeds; sixteen answers to each, 1 for the most frequent one; a problem whose mean reward lies
outside of the range is left out of the step (the online filter).  Writing is not trained by reward.  Not ``serl``.

Departures from the paper:
- the challenger prompt is ``new`` without examples (the paper shows eight): the nano base knows no other, so seeds
  reach the instructions only through the weights that were trained on them;
- ROUGE-L (0.7, as in the paper) compares characters, since a problem is one word here; there is nothing to apply the
  other filters to (length, banned words);
- 64 seeds of depths 3 and 4, with no answers, and 256 replies a round, instead of 500 and 2,000; a round trains on the
  seeds and on what it wrote;
- a tie gives no label and the problem is left out;
- Reinforce++ as its batch-wide advantage alone (``baseline="role"``), without KL penalty; other learners keep theirs;
- learning rate 1e-4 falling to 0 in each round (the paper: 5e-7): the base has 0.15 M parameters;
- evaluation problems are turned away.

What was written and why the rest was turned away lies in ``instructions-N.json`` of the run; the labels' accuracy is
recorded (``label_accuracy``) and enters no reward.

Measured on nano/compose with the defaults, exact success before and after: depth 3 0.89 to 0.93, 0.95, 0.94 (seeds 0
to 2), depth 4 0.24 to 0.86, 0.24, 0.48; Frontier Report of seed 0: *Sharpening*, +0.8 [-0.3, +1.6] points.  What
becomes of depth 4 is luck, as the vote settles on right answers or on wrong ones: 0.02 and 0.80 without ROUGE-L (seeds
0 and 1), 0.21 without the range (seed 0).  From the third round on ROUGE-L leaves 7 to 18 of 256 replies, and half of
the steps have no problem in the range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.baselines.loops.dream import MAX_LEVEL, rows
from dream_envs.baselines.loops.prompts import drawn, listed, rounds, written
from dream_envs.baselines.recipe import Loop, Recipe
from dream_envs.core import DreamEnvsError, Task
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.rewards.rounds import in_range
from dream_envs.rewards.solver import majority

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context


class Settings(msgspec.Struct, frozen=True):
    """``seeds`` of each level, ``instructions`` asked for a round of ``round_steps``, ``batch`` problems a step."""

    levels: tuple[int, ...] = (3, 4)
    seeds: int = 32
    round_steps: int = 10
    instructions: int = 256
    batch: int = 16
    answers: int = 16
    low: float = 0.2
    high: float = 0.8
    rouge: float = 0.7
    baseline: str = "role"
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if min(self.seeds, self.round_steps, self.instructions, self.batch) < 1 or self.answers < 2:
            raise DreamEnvsError(f"{self}: counts are 1 or more, answers 2 or more")
        if not 0 <= self.low < self.high <= 1:
            raise DreamEnvsError(f"low={self.low}, high={self.high}: 0 <= low < high <= 1")


def instructions(chosen: Settings, number: int, ctx: Context, game: Any, label: str) -> Any:
    """The seeds, and what the newest weights write for round ``number``, unlike the seeds and all earlier rounds."""
    family, count = ctx.family, chosen.instructions
    seeds = drawn(ctx, chosen.levels, chosen.seeds, label)
    label = f"{label}/{number}"
    before = [ctx.run.read(f"instructions-{i}.json")["instructions"] for i in range(number)]
    earlier = [family.parse(its["prompt"]) for rows in before for its in rows]
    known = [*seeds, *[task for task in earlier if isinstance(task, Task)]]
    tasks, counts = written(ctx, ctx.agent(), count, f"{label}/instructions", known, chosen.rouge)
    shown = [{"prompt": family.as_proposal(t), "level": t.level} for t in tasks]
    ctx.note(f"instructions-{number}.json", {"replies": counts, "instructions": shown})
    ctx.count(challenger=count)
    return listed(ctx, game, label, [*seeds, *tasks])


def recipe(chosen: Settings, steps: int) -> Recipe:
    """Rounds until ``steps`` are used up; no warm-up, since a round is a few steps long."""
    return Recipe(
        args={"solvers": chosen.answers}, family_args={"max_level": MAX_LEVEL}, seats={"challenger": "base"},
        mixture=Mixture(0, 0, 0, dataset=chosen.batch), gates=(), steps=steps,
        reward={"solver": in_range(majority(), chosen.low, chosen.high)},
        learning={**rows(chosen.batch), "lr": chosen.lr, "warmup": 0, "baseline": chosen.baseline},
        phases=rounds("round", chosen.round_steps, steps, instructions, chosen),
    )  # fmt: skip


LOOP = Loop("serl_limited", "SeRL (2505.20347): few seeds, self-written, by vote", Settings, recipe, 60)
