"""The default reward of each environment, role by role."""

from __future__ import annotations

from dream_envs.rewards.algebra import per_role
from dream_envs.rewards.base import Model
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.solver import correctness, judge_agreement


def challenger_solver(*, form: str = "azr", invalid: float | str | None = None, zero_ends: float = 0.0) -> Model:
    """The default of ``dream_envs/ChallengerSolver-v0``: every seat gets a score in every episode.

    Solvers: ``correctness``.  Challenger: ``learnability``, whose arguments these are.  Judge, if there is one:
    ``judge_agreement``.
    """
    challenger = learnability(form=form, invalid=invalid, zero_ends=zero_ends)
    return per_role({"challenger": challenger, "solver": correctness(), "judge": judge_agreement()})
