"""SeRL (arXiv 2505.20347): few seed problems; the model writes more and learns from the vote of its own answers.

A round: the newest weights write instructions, malformed ones and those like a seed or an accepted one are turned away,
and the rest joins the seeds; sixteen answers to each, 1 for the most frequent one; a problem whose mean reward lies
outside of the band is left out of the step (the online filter).  Writing is not trained by reward.  Not ``serl``.

Departures from the paper:
- the brief is ``new`` without examples (the paper shows eight): the nano base knows no other, so seeds reach the
  instructions only through the weights that were trained on them;
- ROUGE-L (0.7, as in the paper) compares characters, since a problem is one word here; there is nothing to apply the
  other filters to (length, banned words);
- 64 seeds of depths 3 and 4, with no answers, and 256 replies a round, instead of 500 and 2,000; a round trains on the
  seeds and on what it wrote;
- a tie gives no label and the problem is left out;
- Reinforce++ as its batch-wide advantage alone (``baseline="role"``), without KL penalty; other learners keep theirs;
- learning rate 1e-4 falling to 0 in each round (the paper: 5e-7): the base has 0.15 M parameters;
- evaluation problems are turned away.

What was written and why the rest was turned away lies in each stage's ``instructions.json``; the labels' accuracy is
recorded (``label_accuracy``) and enters no reward.

Measured on nano/compose with the defaults, exact success before and after: depth 3 0.89 to 0.93, 0.95, 0.94 (seeds 0
to 2), depth 4 0.24 to 0.86, 0.24, 0.48; Frontier Report of seed 0: *Sharpening*, +0.8 [-0.3, +1.6] points.  What
becomes of depth 4 is luck, as the vote settles on right answers or on wrong ones: 0.02 and 0.80 without ROUGE-L (seeds
0 and 1), 0.21 without the band (seed 0).  From the third round on ROUGE-L leaves 7 to 18 of 256 replies, and half of
the steps have no problem in the band.
"""

from __future__ import annotations

import functools

import msgspec

from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.grpo import GRPOSettings, PolicySettings
from dream_envs.agents.training.rows import RowConfig
from dream_envs.baselines.loop import Stage, Stand
from dream_envs.baselines.loops.prompts import drawn, written
from dream_envs.baselines.recipes import Recipe
from dream_envs.core import DreamEnvsError, Episode, Task
from dream_envs.curriculum.deck import Deck
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.rewards.solver import majority
from dream_envs.runs import read_json, write_json

FILE = "instructions.json"


class Knobs(msgspec.Struct, frozen=True):
    """``seeds`` of each depth, ``instructions`` asked for a round of ``round_steps``, ``batch`` problems a step."""

    depths: tuple[int, ...] = (3, 4)
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


def in_band(episodes: list[Episode], *, low: float, high: float) -> list[Episode]:
    """The round; problems whose mean reward is below ``low`` or above ``high`` teach nothing (``abstain``)."""
    found = []
    for episode in episodes:
        values = [s.value for a, s in episode.scores.items() if a.startswith("solver_") and s.status == "ok"]
        mean = sum(values) / len(values) if values else 0.0
        if values and not low - 1e-9 <= mean <= high + 1e-9:
            why = {"status": "abstain", "detail": f"mean reward {mean:.2f}: outside of the band"}
            scores = {
                agent: msgspec.structs.replace(score, **why) if score.status == "ok" else score
                for agent, score in episode.scores.items()
            }
            episode = msgspec.structs.replace(episode, scores=scores)
        found.append(episode)
    return found


def stages(knobs: Knobs, steps: int, seed: str) -> tuple[Stage, ...]:
    """Rounds until ``steps`` are used up."""
    lengths = [min(knobs.round_steps, steps - done) for done in range(0, steps, knobs.round_steps)]
    return tuple(Stage("round", n, functools.partial(_practice, knobs, seed, i)) for i, n in enumerate(lengths))


def instructions(stand: Stand, knobs: Knobs, seed: str, number: int, seeds: list[Task]) -> list[Task]:
    """What the newest weights write for round ``number``, compared with the seeds and all earlier rounds."""
    family = stand.yardstick.family
    folders = [stand.run.path / "stages" / f"{i:02d}-round" for i in range(number + 1)]
    before = [its["prompt"] for folder in folders[:-1] for its in read_json(folder / FILE)["instructions"]]
    known = [*seeds, *[task for prompt in before if isinstance(task := family.parse(prompt), Task)]]
    label, agent = f"{seed}/{number}/instructions", stand.agent("policy")
    tasks, replies = written(stand, agent, knobs.instructions, label, known, knobs.rouge)
    folders[-1].mkdir(parents=True, exist_ok=True)
    shown = [{"prompt": family.as_proposal(t), "level": t.level} for t in tasks]
    write_json(folders[-1] / FILE, {"replies": replies, "instructions": shown})
    return tasks


def _practice(knobs: Knobs, seed: str, number: int, stand: Stand, first: int) -> Practice:
    family, store = stand.yardstick.family, ChallengeStore(stand.run.path / "challenges.jsonl")
    seeds = drawn(stand, knobs.depths, knobs.seeds, seed)
    tasks = [*seeds, *instructions(stand, knobs, seed, number, seeds)]
    deck = Deck(family, tasks, knobs.batch, seed=f"{seed}/{number}", store=store)
    game, band = (
        ChallengerSolver(family, solvers=knobs.answers),
        functools.partial(in_band, low=knobs.low, high=knobs.high),
    )
    practice = Practice(game, deck, majority(), stand.run, first=first, regrade=band)
    practice.samples["challenger"] += knobs.instructions
    return practice


def rows(knobs: Knobs) -> RowConfig:
    """All answers of a step; no review."""
    count = knobs.batch * knobs.answers
    return RowConfig(rows=count + count % 2, groups=knobs.batch, review=0)


def rule(settings: GRPOSettings, knobs: Knobs) -> GRPOSettings:
    """Reinforce++'s baseline in place of GRPO's, its own rate, and no warm-up: a round is a few steps long."""
    settings = msgspec.structs.replace(settings, lr=knobs.lr, warmup=0)
    if isinstance(settings, PolicySettings):
        return settings
    plain = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return PolicySettings(**plain, baseline=knobs.baseline)


RECIPE = Recipe("serl_limited", Knobs, stages, rows, steps=60, rule=rule)
