"""Absolute Zero (arXiv 2505.03335): one model proposes and solves, a verifier decides, both roles learn at once.

With ``--family python``, or ``programs`` (a small language, for want of a sandbox), it has the paper's shape: three
task types (deduction, abduction, induction) and both roles, so six streams.  Every type is proposed as often as the
others, replayed from a buffer of its own, and compared with a baseline of its own in either role (``family.mode`` takes
one type alone).  The inputs of an induction problem beyond its own are drawn, not proposed.

Departures from the paper:
- by default one task type (deduction on composition problems) instead of three, so two streams instead of six;
- the proposer is not shown reference problems: the nano base knows one challenger prompt, ``new``;
- nothing seeds the buffer; the base proposes problems from its own support;
- the eight attempts that estimate a proposal's difficulty are trained on too (the paper draws one more to train on);
- the solver's batch is topped up from the buffer up to the highest level that was ever solved;
- copies of a problem within a round share what it earns, since a proposer with 16 states repeats itself far sooner;
- learning rate 5e-4 instead of 1e-6: the base has 0.15 M parameters;
- evaluation problems are turned away (the paper's domains do not meet its benchmarks).

As in the paper's own code, and not as in its text, a valid proposal that all solve or nobody solves earns -0.5
(``--set zero_ends=0`` is the text), and both roles lose 0.5 for what is well-formed and wrong and 1 for what is
malformed.  TRR++ (one baseline a role and task type over the whole batch, no KL penalty) is the default's baseline.
"""

from __future__ import annotations

import msgspec

from dream_envs.baselines.loops.dream import MAX_LEVEL, rows
from dream_envs.baselines.recipe import Loop, Recipe
from dream_envs.core import Episode, Score
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.rewards import agents_of, rejected, reward
from dream_envs.rewards.base import Scores
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.rounds import shared
from dream_envs.rewards.solver import correctness, format_reward

#: Rejections of what is no problem at all; others (too deep, known, reserved) are of well-formed proposals.
MALFORMED = frozenset({"empty", "charset", "grammar", "too_long"})


class Settings(msgspec.Struct, frozen=True):
    """``proposals`` and ``replays`` a round, ``attempts`` at each, solver groups trained on, and the penalties."""

    proposals: int = 64
    replays: int = 56
    attempts: int = 8
    groups: int = 48
    zero_ends: float = -0.5
    wrong: float = -0.5
    malformed: float = -1.0
    baseline: str = "role"


@reward("azr_proposer")
def proposer(episode: Episode, *, zero_ends: float = -0.5, wrong: float = -0.5, malformed: float = -1.0) -> Scores:
    """1 - p for 0 < p < 1, ``zero_ends`` at both ends, ``wrong`` for a problem turned away, ``malformed`` for none."""
    if (code := rejected(episode)) in MALFORMED:
        return dict.fromkeys(agents_of(episode, "challenger"), Score(malformed, detail=f"malformed: {code}"))
    return learnability(form="azr", zero_ends=zero_ends, invalid=wrong)(episode)


@reward("azr_solver")
def solver(episode: Episode, *, wrong: float = -0.5, malformed: float = -1.0) -> Scores:
    """1 for a right completion, ``wrong`` for another of the right form, ``malformed`` for the rest."""
    found, formed = correctness()(episode), format_reward()(episode)
    for agent, score in found.items():
        if score.status == "ok" and score.value < 1.0:
            found[agent] = Score(wrong if formed[agent].value else malformed)
    return found


def recipe(chosen: Settings, steps: int) -> Recipe:
    """Both roles learn jointly; there is no replay of old traces."""
    penalties = {"wrong": chosen.wrong, "malformed": chosen.malformed}
    return Recipe(
        args={"solvers": chosen.attempts}, family_args={"max_level": MAX_LEVEL}, steps=steps,
        mixture=Mixture(chosen.proposals, 0, chosen.replays, replays="uniform"),
        reward={"challenger": shared(proposer(zero_ends=chosen.zero_ends, **penalties)), "solver": solver(**penalties)},
        learning={**rows(chosen.groups), "baseline": chosen.baseline},
    )  # fmt: skip


LOOP = Loop("azr", "Absolute Zero (2505.03335): proposer, solver and a verifier", Settings, recipe, 150)
