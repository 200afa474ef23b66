"""RLVR on problems that the base solves already: the learner of the flagship, with nothing new to learn from.

A short GRPO run on a fixed list of problems whose base pass rate is high but not perfect.  It sharpens: what the base
does most of the time it then does nearly always.  Whatever this method solves, reinforcement with a verifier brings out
of the base without a curriculum, so a claim to have gone past the base has to go past it too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from dream_envs.agents.elicitation.attempts import pass_rates
from dream_envs.agents.elicitation.elicit import RlvrSettings
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.collector import Collector
from dream_envs.agents.training.learner import LearnerSettings, PolicyLearner
from dream_envs.agents.training.rows import RoleSettings, RowSettings
from dream_envs.agents.training.sft import quietly
from dream_envs.core import DreamEnvsError, Task, TaskFamily
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.rewards.presets import challenger_solver
from dream_envs.runs import Run


def rlvr(base: LocalAgent, tasks: Sequence[Task], family: TaskFamily, settings: RlvrSettings, seed: str) -> LocalAgent:
    """A copy of the base, trained by GRPO on those of the problems that it solves already.

    Raises:
        DreamEnvsError: if there are none.
    """
    rates = pass_rates(base, tasks, family, settings.draws, f"{seed}/support")
    chosen = [t for t, rate in zip(tasks, rates, strict=True) if settings.low <= rate <= settings.high]
    if not chosen:
        raise DreamEnvsError(
            f"none of {len(tasks)} problems has a base pass rate from {settings.low} to {settings.high} "
            f"(the highest is {rates.max():.3f}): there is nothing solved to practise on"
        )
    twin = base.snapshot()
    twin.model.requires_grad_(True)
    rule = LearnerSettings(
        lr=settings.lr,
        warmup=min(5, settings.steps),
        save_every=settings.steps + 1,
        rows=RowSettings(roles={"solver": RoleSettings(settings.problems)}),
    )
    with tempfile.TemporaryDirectory() as folder, quietly():
        game, mixture = ChallengerSolver(family, solvers=settings.attempts), Mixture(0, 0, 0, dataset=settings.problems)
        curriculum = Curriculum(
            game, mixture, seed=f"{seed}/tasks", store=ChallengeStore(None), dataset=chosen, label="fixed", anew=True
        )
        run = Run(Path(folder) / "run", {"command": "rlvr"})
        collector = Collector(game, curriculum, challenger_solver(), run, seats={"challenger": _silent})
        PolicyLearner(twin, settings=rule, seed=f"{seed}/grpo").improve(collector, settings.steps, run)
        run.close()
    twin.model = twin.model.requires_grad_(False).eval()
    vars(twin.model).pop("forward", None)  # TRL's fused head
    return twin


def _silent(text: str) -> str:
    """The challenger's seat: every proposal is given."""
    return ""
