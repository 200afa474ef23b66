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

import msgspec

from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.grpo import GRPOSettings
from dream_envs.agents.training.rows import RowConfig
from dream_envs.agents.training.self_practice import SelfPractice
from dream_envs.baselines.loop import Stage, Stand
from dream_envs.baselines.loops.prompts import drawn
from dream_envs.baselines.recipes import Recipe
from dream_envs.curriculum.deck import PromptDeck
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.rewards.self_judge import serl


class Knobs(msgspec.Struct, frozen=True):
    """``prompts`` of each depth in all, ``batch`` of them a step; the judging, and the schedule of the two losses."""

    depths: tuple[int, ...] = (2, 3)
    prompts: int = 256
    batch: int = 16
    actors: int = 4
    judgements: int = 4
    swap: bool = True
    alpha: float = 0.2
    control: str = "serl"
    schedule: str = "serl"
    lr: float = 5e-4


def stages(knobs: Knobs, steps: int, seed: str) -> tuple[Stage, ...]:
    """One stage: both roles learn in the same step."""

    def practice(stand: Stand, first: int) -> Practice:
        family, store = stand.yardstick.family, ChallengeStore(stand.run.path / "challenges.jsonl")
        deck = PromptDeck(family, drawn(stand, knobs.depths, knobs.prompts, seed), knobs.batch, seed=seed, store=store)
        game = SelfJudge(family, actors=knobs.actors, judgements=knobs.judgements, order_swap=knobs.swap)
        reward = serl(alpha=knobs.alpha, length_control=knobs.control, length="chars")
        return SelfPractice(game, deck, reward, stand.run, steps=steps, schedule=knobs.schedule, first=first)

    return (Stage("serl", steps, practice),)


def rows(knobs: Knobs) -> RowConfig:
    """All answers and all verdicts of a round; nothing here is verified, so there is no review."""
    pairs = knobs.actors * (knobs.actors - 1) // 2
    count = knobs.batch * (knobs.actors + pairs * knobs.judgements)
    return RowConfig(rows=count + count % 2, groups=knobs.batch, review=0)


def rule(settings: GRPOSettings, knobs: Knobs) -> GRPOSettings:
    """Its own learning rate; the library's loss without a KL penalty is the paper's."""
    return msgspec.structs.replace(settings, lr=knobs.lr, warmup=2)


REFUSED = {"expert": "has no verified traces to imitate"}
RECIPE = Recipe("serl", Knobs, stages, rows, steps=30, rule=rule, base="nano/judge", refused=REFUSED)
