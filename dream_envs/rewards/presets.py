"""The default reward of each environment, role by role."""

from __future__ import annotations

from dream_envs.rewards.algebra import per_role
from dream_envs.rewards.base import Model
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.solver import correctness, judge_agreement


def challenger_solver(*, form: str = "azr", invalid: float | str | None = None, zero_ends: float = 0.0) -> Model:
    """The default of ``dream_envs/ChallengerSolver-v0``: every seat gets a score in every episode.

    Solvers: ``correctness`` (0 or 1).  Challenger: ``learnability`` (0 to 1 with the default form).  Judge, if there
    is one: the share of its verdicts that agree with the truth (0 to 1, a coin 0.5), ``abstain`` without a verdict.
    ``form``, ``invalid`` and ``zero_ends`` are those of ``learnability``.
    """
    challenger = learnability(form=form, invalid=invalid, zero_ends=zero_ends)
    return per_role({"challenger": challenger, "solver": correctness(), "judge": judge_agreement()})
