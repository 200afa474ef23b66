"""Self-Rewarding Language Models (arXiv 2401.10020): a model scores its own answers, the best is set against the worst.

An iteration: four answers to a prompt, each scored three times by the weights that the iteration began with; the answer
with the highest mean score is preferred to the one with the lowest, and prompts whose answers all score alike are left
out.  The next iteration's judge is what came of it.

Departures from the paper:
- the loss is not DPO's: the two answers of a pair are trained on with GRPO's advantages (+1 and -1), which is the
  direction of DPO's gradient where policy and reference are the same, per token; the pair is sampled anew for each
  step and there is no reference to stay near to (``--agent rloo`` weighs whole answers, as DPO does);
- the judge says right or wrong (``rubric``) instead of 0 to 5 points: ``nano/judge`` was pre-trained on that question,
  which stands for the seed data of judging (EFT), as its solving does for that of answers (IFT);
- prompts are written by the base to the brief ``new`` without examples (the paper: few-shot, by a fixed model too), and
  problems reserved for evaluation are turned away;
- 16 prompts a step for 10 steps in each of 3 iterations, learning rate 2e-4 falling to 0 in each: 0.25 M parameters.

As in the paper judging is not trained by a reward; it changes since the weights are shared.  The judge's accuracy
(``judge_accuracy``), the pairs' (``label_accuracy``) and the answers' (``truth``) are recorded and enter no reward.

Measured on nano/judge with the defaults, exact success before and after: depth 3 0.58 to 0.89 (seed 0) and 0.86 (seed
1), depth 4 0.003 to 0.01 and 0.02; Frontier Report of seed 0: *Sharpening*, +0.0 [-0.7, +0.7] points.  As in the paper
there is no escalation: the base writes no problem deeper than it was shown.
"""

from __future__ import annotations

import functools

import msgspec

from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.grpo import GRPOSettings
from dream_envs.agents.training.rows import RowConfig
from dream_envs.agents.training.self_practice import SelfPractice
from dream_envs.baselines.loop import Stage, Stand
from dream_envs.baselines.loops.prompts import written
from dream_envs.baselines.recipes import Recipe
from dream_envs.core import Episode
from dream_envs.curriculum.deck import PromptDeck
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.rewards.self_judge_points import self_rubric


class Knobs(msgspec.Struct, frozen=True):
    """Steps an ``iteration``; ``prompts`` the base is asked to write in all, ``batch`` a step; answers and scores."""

    iteration: int = 10
    prompts: int = 1024
    batch: int = 16
    actors: int = 4
    judgements: int = 3
    lr: float = 2e-4


def best_and_worst(episodes: list[Episode]) -> list[Episode]:
    """The round; of each prompt's answers only the best and the worst are left with an ``ok`` score.

    Of answers with the same score the first counts, which is no choice: they are exchangeable draws.  Where all are
    alike there is no pair and nobody is left.
    """
    found = []
    for episode in episodes:
        scored = {a: s.value for a, s in episode.scores.items() if a.startswith("actor_") and s.status == "ok"}
        pair: tuple[str, ...] = ()
        if scored and max(scored.values()) > min(scored.values()):
            pair = (max(scored, key=lambda a: scored[a]), min(scored, key=lambda a: scored[a]))
        scores = {
            agent: msgspec.structs.replace(score, status="abstain", detail="neither best nor worst")
            if agent in scored and agent not in pair
            else score
            for agent, score in episode.scores.items()
        }
        found.append(msgspec.structs.replace(episode, scores=scores))
    return found


def stages(knobs: Knobs, steps: int, seed: str) -> tuple[Stage, ...]:
    """Iterations until ``steps`` are used up."""
    lengths = [min(knobs.iteration, steps - done) for done in range(0, steps, knobs.iteration)]
    return tuple(Stage("iteration", n, functools.partial(_practice, knobs, seed, i, n)) for i, n in enumerate(lengths))


def _practice(knobs: Knobs, seed: str, number: int, steps: int, stand: Stand, first: int) -> Practice:
    family, store = stand.yardstick.family, ChallengeStore(stand.run.path / "challenges.jsonl")
    tasks, _ = written(stand, stand.base, knobs.prompts, f"{seed}/instructions")
    deck = PromptDeck(family, tasks, knobs.batch, seed=f"{seed}/{number}", store=store)
    game = SelfJudge(family, actors=knobs.actors, judgements=knobs.judgements, judging="rubric")
    practice = SelfPractice(
        game,
        deck,
        self_rubric(),
        stand.run,
        steps=steps,
        schedule="actor",
        seats={"judge": stand.agent("policy")},
        first=first,
        regrade=best_and_worst,
    )
    if number == 0:
        practice.samples["challenger"] += knobs.prompts
    return practice


def rows(knobs: Knobs) -> RowConfig:
    """A pair a prompt; nothing here is verified, so there is no review."""
    return RowConfig(rows=2 * knobs.batch, groups=knobs.batch, review=0)


def rule(settings: GRPOSettings, knobs: Knobs) -> GRPOSettings:
    """Its own rate, and no warm-up: an iteration is a few steps long."""
    return msgspec.structs.replace(settings, lr=knobs.lr, warmup=0)


REFUSED = {"expert": "has no verified traces to imitate"}
RECIPE = Recipe("self_rewarding", Knobs, stages, rows, steps=30, rule=rule, base="nano/judge", refused=REFUSED)
