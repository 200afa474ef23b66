"""R-Zero (arXiv 2508.05004): a challenger and a solver with weights of their own, trained in turn, by vote.

An iteration: the challenger is trained against the frozen solver (1 - 2|p - 1/2|, p the share of the solver's answers
that agree with their majority, less the share of its batch that repeats it); then it writes candidates, the solver
votes on them, those in the band are kept with the majority's answer as label, and the solver is trained on that.

Departures from the paper:
- 64 proposals and 64 problems a step and 256 candidates an iteration, instead of groups of 4 in batches of 16, 128
  questions and 8,000 candidates; all proposals of a step are one group, since there is one brief;
- copies of a problem within a round share what it earns, on top of the penalty;
- an update is one on-policy step; no KL penalty (paper: 1e-2); the learning rate falls from 1e-4 to 0 in each half
  (paper: 1e-6, constant): the base has 0.15 M parameters;
- evaluation problems are turned away (the paper does not decontaminate);
- where fewer than 8 candidates lie in the band, the 8 nearest to a half are kept;
- ``cluster`` is 1 - BLEU over characters, as proposals are single words.

Floored at 0 as in the paper; in its code, malformed proposals earn -1 less their penalty and valid ones may go below 0
(``--set floor=-2 --set malformed=-1``).  The pseudo-labels and how many are right lie in each solver stage's
``labels.json``; the truth never enters a reward.
"""

from __future__ import annotations

import functools

import msgspec

from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.grpo import GRPOSettings
from dream_envs.agents.training.regrade import less_repetition
from dream_envs.agents.training.rows import RowConfig
from dream_envs.baselines.loop import Stage, Stand
from dream_envs.baselines.recipes import Recipe
from dream_envs.core import Start, Task
from dream_envs.curriculum import gates
from dream_envs.curriculum.deck import Deck
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.curriculum.syllabus import Share, Syllabus, challenge_of
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.rewards.algebra import per_role, weighted
from dream_envs.rewards.base import last_turns
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.solver import format_reward, majority, pseudo_label
from dream_envs.rollout import rollout
from dream_envs.runs import write_json

#: Problems nearest to a half that the solver is trained on where fewer lie in the band.
FEWEST = 8


class Knobs(msgspec.Struct, frozen=True):
    """Steps of each half of an iteration, episodes a ``round``, the band, and the weights of the rewards."""

    challenger_steps: int = 5
    solver_steps: int = 15
    round: int = 64
    attempts: int = 10
    lr: float = 1e-4
    groups: int = 24
    candidates: int = 256
    low: float = 0.3
    high: float = 0.7
    cluster: float = 0.5
    floor: float = 0.0
    malformed: float = 0.0
    format: float = 0.1


def dataset(stand: Stand, knobs: Knobs, seed: str, name: str) -> tuple[list[Task], dict[str, str], dict[str, int]]:
    """Problems of the newest challenger in the newest solver's band, their labels, and how much was sampled."""
    game = ChallengerSolver(
        stand.yardstick.family, solvers=knobs.attempts, gate=gates.held_out(stand.yardstick.reserved())
    )
    seats = {"challenger": stand.agent("challenger"), "solver": stand.agent("solver")}
    starts = [Start(i) for i in range(knobs.candidates)]
    played = sorted(rollout(game, seats, starts, seed=f"{seed}/candidates", reward=majority()), key=lambda e: e.index)
    voted: dict[str, tuple[float, Task, str]] = {}
    for episode in played:
        task = challenge_of(episode)
        top = next((a for a, s in episode.scores.items() if s.status == "ok" and s.value == 1.0), None)
        if task is not None and top is not None:
            share = episode.scores[top].components["share"]
            voted.setdefault(task.id, (share, task, last_turns(episode, "solver")[top].text))
    near = sorted(voted.values(), key=lambda v: (abs(v[0] - 0.5), v[1].id))
    kept = [v for i, v in enumerate(near) if i < FEWEST or knobs.low - 1e-9 <= v[0] <= knobs.high + 1e-9]
    tasks, labels = [t for _, t, _ in kept], {t.id: label for _, t, label in kept}
    right = sum(label == t.answer for _, t, label in kept)
    where = stand.run.path / "stages" / name
    where.mkdir(parents=True, exist_ok=True)
    shown = [{"prompt": t.prompt, "level": t.level, "share": share, "label": label} for share, t, label in kept]
    accuracy = right / len(kept) if kept else None
    write_json(where / "labels.json", {"kept": len(kept), "label_accuracy": accuracy, "labels": shown})
    counts = {"challenger": len(played), "solver": sum(t.role == "solver" for e in played for t in e.turns)}
    return tasks, labels, counts


def stages(knobs: Knobs, steps: int, seed: str) -> tuple[Stage, ...]:
    """Challenger and solver in turn until ``steps`` are used up."""
    found: list[Stage] = []
    while left := steps - sum(stage.steps for stage in found):
        half, label = _solver if len(found) % 2 else _challenger, f"{seed}/{len(found)}"
        name, most = ("solver", knobs.solver_steps) if half is _solver else ("challenger", knobs.challenger_steps)
        place = f"{len(found):02d}-{name}"
        found.append(Stage(name, min(left, most), functools.partial(half, knobs, label, place), weights=name))
    return tuple(found)


def _challenger(knobs: Knobs, seed: str, place: str, stand: Stand, first: int) -> Practice:
    family, run = stand.yardstick.family, stand.run
    store = ChallengeStore(run.path / "challenges.jsonl")
    game = ChallengerSolver(family, solvers=knobs.attempts, gate=gates.held_out(stand.yardstick.reserved()))
    uncertainty = learnability(form="r_zero", rate="majority", invalid=knobs.malformed)
    rewards = per_role({"challenger": uncertainty, "solver": majority()})
    syllabus = Syllabus(family, Share(knobs.round, 0, 0), seed=seed, store=store)
    seats, penalty = (
        {"solver": stand.agent("solver")},
        functools.partial(less_repetition, distance=knobs.cluster, floor=knobs.floor),
    )
    return Practice(game, syllabus, rewards, run, seats=seats, first=first, regrade=penalty)


def _solver(knobs: Knobs, seed: str, place: str, stand: Stand, first: int) -> Practice:
    tasks, labels, counts = dataset(stand, knobs, seed, place)
    family, store = stand.yardstick.family, ChallengeStore(stand.run.path / "challenges.jsonl")
    deck = Deck(family, tasks, knobs.round, seed=seed, store=store)
    rewards = weighted({pseudo_label(labels): 1 - knobs.format, format_reward(): knobs.format})
    game = ChallengerSolver(family, solvers=knobs.attempts)
    seats = {"challenger": stand.agent("challenger")}
    practice = Practice(game, deck, per_role({"solver": rewards}), stand.run, seats=seats, first=first)
    practice.samples.update(counts)
    return practice


def rows(knobs: Knobs) -> RowConfig:
    """Proposals in one half, attempts in the other; no review."""
    count = max(knobs.round, knobs.groups * knobs.attempts)
    return RowConfig(rows=count + count % 2, groups=knobs.groups, review=0)


def rule(settings: GRPOSettings, knobs: Knobs) -> GRPOSettings:
    """No warm-up: a half is a few steps long."""
    return msgspec.structs.replace(settings, lr=knobs.lr, warmup=0)


RECIPE = Recipe("r_zero", Knobs, stages, rows, steps=60, rule=rule, final="solver")
