"""Learning from a reward model that was trained on the environment's own verified pairs (RLHF's second and third step).

The base answers problems of the family, the verifier tells right answers from wrong ones, a reward model is trained on
pairs of the two (TRL's ``RewardTrainer``), and the policy is trained on that model alone.  The truth never reaches the
policy; it is in the metrics (``curriculum/truth``), so that over-optimisation shows: the reward rises, the truth falls.
The reward model lies in the run's ``reward_model/``, how well it orders pairs in ``reward_model.json``.  The default
penalty is the one under which the truth held (``baselines.studies.overoptimise``); at a tenth of it, it did not.

Sources: Christiano et al. arXiv 1706.03741, Ouyang et al. 2203.02155; over-optimisation: Gao et al. 2210.10760.
Departures: preferences are the verifier's, not people's; groups instead of PPO by default (``--learner ppo``); the
policy starts from the same base as the reward model.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.baselines.loops.dream import MAX_LEVEL
from dream_envs.baselines.recipe import Loop, Phase, Recipe
from dream_envs.core import DreamEnvsError, hook
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.play import rollout
from dream_envs.rewards.base import as_reward
from dream_envs.rewards.solver import correctness
from dream_envs.runs import read_json
from dream_envs.seeds import stream

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context

FOLDER, ABOUT = "reward_model", "reward_model.json"


class Settings(msgspec.Struct, frozen=True):
    """``round`` problems a step and ``attempts`` at each; ``kl``: the penalty for leaving the base; the reward model.

    ``candidates``: problems that the base answers beforehand; ``pairs`` of a right and a wrong answer to one of them at
    most; ``model_steps`` of ``model_batch`` pairs at ``model_lr``; ``model_rank``: of its adapters, 0: all weights.
    """

    round: int = 48
    attempts: int = 8
    candidates: int = 256
    pairs: int = 4
    model_steps: int = 100
    model_batch: int = 32
    model_lr: float = 1e-3
    model_rank: int = 0
    lr: float = 5e-4
    kl: float = 0.5


def preferences(chosen: Settings, ctx: Context, game: Any, label: str) -> list[Any]:
    """Pairs of the base's right and wrong answers to the same messages, at most so many a problem."""
    from dream_envs.agents.training.preference import Preferred

    role, proposer = hook(game, "solver_role"), hook(game, "proposer")
    if not role or ctx.family is None:
        raise DreamEnvsError(f"{game.env_id}: nobody answers a family's problems here; ChallengerSolver, or its kin")
    mixture = msgspec.structs.replace(ctx.recipe.mixture, generator=chosen.candidates)
    starts = Curriculum(game, mixture, seed=f"{label}/pairs", store=ChallengeStore()).plan(0)
    seats = {r.name: ctx.base for r in game.roles} | ({proposer: "generator"} if proposer else {})
    made, answers = list[Any](), 0
    played = rollout(game, seats, starts, seed=f"{label}/pairs", reward=correctness(role=role), width=len(starts))
    for episode in sorted(played, key=lambda e: e.index):
        right, wrong = dict[str, Any](), dict[str, Any]()
        for turn in episode.turns:
            score = episode.scores.get(turn.agent)
            if turn.role == role and turn.status == "ok" and score is not None and score.status == "ok":
                answers += 1
                (right if score.value >= 1 else wrong).setdefault(turn.text, turn)
        both = list(itertools.product(right, wrong))
        order = stream(label, "pairs", episode.index).permutation(len(both))[: chosen.pairs]
        made += [Preferred(right[both[i][0]].messages, *both[i]) for i in order]
    ctx.count(**{role: answers})
    if not made:
        raise DreamEnvsError(
            f"no problem of {len(starts)} was answered rightly and wrongly: other --levels, or candidates"
        )
    return made


def prepare(chosen: Settings, ctx: Context, game: Any, label: str) -> tuple[Curriculum, Mapping[str, Any]]:
    """The reward model, made once a run, and the problems that the policy meets."""
    from dream_envs.agents.training.preference import train_reward_model

    folder = ctx.run.path / FOLDER
    pairs = preferences(chosen, ctx, game, label)
    if ctx.leads and read_json(ctx.run.path / ABOUT) is None:
        how: dict[str, Any] = {"steps": chosen.model_steps, "batch": chosen.model_batch, "lr": chosen.model_lr}
        found = train_reward_model(ctx.base, pairs, folder, seed=label, lora_rank=chosen.model_rank, **how)
        ctx.note(ABOUT, found)
    if ctx.world:
        ctx.world["gather"]([True])  # the others wait for its files
    role = hook(game, "solver_role")
    rewards = {role: as_reward("reward_model", model=str(folder), role=role, device=str(ctx.base.device))}
    return Curriculum(game, ctx.recipe.mixture, seed=label, store=ctx.store()), rewards


def recipe(chosen: Settings, steps: int) -> Recipe:
    """One phase."""
    return Recipe(
        args={"solvers": chosen.attempts}, family_args={"max_level": MAX_LEVEL}, steps=steps,
        mixture=Mixture(0, 0, 0, generator=chosen.round, levels=(3, 4, 5)),
        phases=(Phase("policy", steps, prepare=functools.partial(prepare, chosen)),),
        learning={"lr": chosen.lr, "kl": chosen.kl},
    )  # fmt: skip


LOOP = Loop(
    "preference", "RLHF: a reward model of the family's verified pairs, and a policy on it", Settings, recipe, 100,
    lm={"round": 8, "candidates": 48, "model_steps": 40, "model_batch": 8, "model_lr": 2e-4, "model_rank": 16,
        "lr": 1e-4, "eval.problems": 32, "eval.every": 10},
)  # fmt: skip
