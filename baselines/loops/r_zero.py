"""R-Zero (arXiv 2508.05004): a challenger and a solver with weights of their own, trained in turn, by vote.

An iteration: the challenger is trained against the frozen solver (1 - 2|p - 1/2|, p the share of the solver's answers
that agree with their majority, less the share of its batch that repeats it); then it writes candidates, the solver
votes on them, those of middling agreement are kept with the majority's answer as label, and the solver is trained on
that.

Departures from the paper:
- 64 proposals and 64 problems a step and 256 candidates an iteration, instead of groups of 4 in batches of 16, 128
  questions and 8,000 candidates; all proposals of a step are one group, since there is one challenger prompt;
- copies of a problem within a round share what it earns, on top of the penalty;
- an update is one on-policy step; no KL penalty (paper: 1e-2); the learning rate falls from 1e-4 to 0 in each half
  (paper: 1e-6, constant): the base has 0.15 M parameters;
- evaluation problems are turned away (the paper does not decontaminate);
- where fewer than 8 candidates lie between ``low`` and ``high``, the 8 nearest to a half are kept;
- ``cluster`` is 1 - BLEU over characters, as proposals are single words.

Floored at 0 as in the paper; in its code, malformed proposals earn -1 less their penalty and valid ones may go below 0
(``--set floor=-2 --set malformed=-1``).  The pseudo-labels and how many are right lie in the run's
``labels-N.json``; the truth never enters a reward.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.baselines.loops.dream import MAX_LEVEL, rows
from dream_envs.baselines.recipe import Loop, Phase, Recipe
from dream_envs.core import Start, Task, challenge_of
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.play import rollout
from dream_envs.rewards import last_turns
from dream_envs.rewards.algebra import weighted
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.rounds import less_repetition, shared
from dream_envs.rewards.solver import format_reward, majority, pseudo_label

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context

#: Problems nearest to a half that the solver is trained on where fewer are of middling agreement.
FEWEST = 8


class Settings(msgspec.Struct, frozen=True):
    """Steps of each half of an iteration, episodes a ``round``, the agreement that is kept, the rewards' weights."""

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


def labelled(chosen: Settings, number: int, ctx: Context, game: Any, label: str) -> tuple[Curriculum, dict[str, Any]]:
    """The solver's half: what the newest challenger writes, labelled by vote, and agreement with that as reward."""
    candidates, label = ctx.game(("held_out",)), f"{label}/{number}"
    seats = {"challenger": ctx.agent("challenger"), "solver": ctx.agent("solver")}
    starts = [Start(i) for i in range(chosen.candidates)]
    played = rollout(candidates, seats, starts, seed=f"{label}/candidates", reward=majority())
    voted: dict[str, tuple[float, Task, str]] = {}
    answers = 0
    for episode in sorted(played, key=lambda e: e.index):
        answers += sum(t.role == "solver" for t in episode.turns)
        task = challenge_of(episode)
        top = next((a for a, s in episode.scores.items() if s.status == "ok" and s.value == 1.0), None)
        if task is not None and top is not None:
            share = episode.scores[top].components["share"]
            voted.setdefault(task.id, (share, task, last_turns(episode, "solver")[top].text))
    near = sorted(voted.values(), key=lambda v: (abs(v[0] - 0.5), v[1].id))
    low, high = chosen.low - 1e-9, chosen.high + 1e-9
    kept = [v for i, v in enumerate(near) if i < FEWEST or low <= v[0] <= high]
    shown = [{"prompt": t.prompt, "level": t.level, "share": share, "label": answer} for share, t, answer in kept]
    accuracy = sum(answer == t.answer for _, t, answer in kept) / len(kept) if kept else None
    ctx.note(f"labels-{number}.json", {"kept": len(kept), "label_accuracy": accuracy, "labels": shown})
    ctx.count(challenger=chosen.candidates, solver=answers)
    mixture = Mixture(0, 0, 0, dataset=chosen.round)
    curriculum = Curriculum(game, mixture, seed=label, store=ctx.store(), dataset=[t for _, t, _ in kept])
    labels = pseudo_label({t.id: answer for _, t, answer in kept})
    return curriculum, {"solver": weighted({labels: 1 - chosen.format, format_reward(): chosen.format})}


def recipe(chosen: Settings, steps: int) -> Recipe:
    """Challenger and solver in turn until ``steps`` are used up; no warm-up, since a half is a few steps long."""
    uncertainty = learnability(form="r_zero", rate="majority", invalid=chosen.malformed)
    proposing = shared(less_repetition(uncertainty, distance=chosen.cluster, floor=chosen.floor))
    phases: list[Phase] = []
    while left := steps - sum(phase.steps for phase in phases):
        if len(phases) % 2 == 0:
            wanted = {"challenger": proposing, "solver": majority()}
            half = Phase("challenger", min(left, chosen.challenger_steps), "challenger", {"solver": "solver"}, wanted)
        else:
            seats = {"challenger": "challenger"}
            prepare = functools.partial(labelled, chosen, len(phases))
            half = Phase("solver", min(left, chosen.solver_steps), "solver", seats, {}, (), prepare)
        phases.append(half)
    return Recipe(
        args={"solvers": chosen.attempts}, family_args={"max_level": MAX_LEVEL}, mixture=Mixture(chosen.round, 0, 0),
        learning={**rows(chosen.groups), "lr": chosen.lr, "warmup": 0},
        phases=tuple(phases), final="solver", steps=steps,
    )  # fmt: skip


LOOP = Loop("r_zero", "R-Zero (2508.05004): challenger and solver in turn, by vote", Settings, recipe, 60)
