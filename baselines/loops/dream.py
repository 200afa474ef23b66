"""The flagship: a small pretrained model writes its own curriculum and learns from it, awake or with nights between.

Challenger and solver share weights and step (as in AZR), mutations of learnable problems are offered besides the
challenger's own (as in PopuLoRA's operators) and serve it as demonstrations, and what was verified is replayed between
the new rows.  There is no gold data anywhere: every trace was sampled by the run itself.

``variant`` changes a part of it, at the same number of episodes a round; see ``VARIANTS``: ``sleep`` and its ablation
consolidate at night, every 25 steps, in place of the replay, which reaches less far at equal training.  ``novelty``
below 1 turns away proposals that are more like a known problem than that (Jaccard similarity of n-grams).
"""

from __future__ import annotations

from typing import Any

import msgspec

from dream_envs import registry
from dream_envs.baselines.recipe import Loop, Recipe
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.curriculum import Mixture

OWN, MUTATED, REPLAYED = 60, 12, 44
TRUTH = {"challenger": "shared(learnability())", "solver": "correctness()"}
RANDOM = "random(rate=0.5)"
MAX_LEVEL = 10


class Variant(msgspec.Struct, frozen=True):
    """A loop with something taken away.

    ``nights``: how it sleeps, a key of ``nights_of``; "": it does not.  ``review``: verified traces that are replayed
    awake, a step.  ``frozen``: the challenger is a frozen copy of the base.  ``learner``: by name.
    """

    says: str
    mixture: Mixture = Mixture(OWN, MUTATED, REPLAYED)
    reward: dict[str, str] = msgspec.field(default_factory=lambda: TRUTH)
    frozen: bool = False
    nights: str = ""
    review: int = 128
    learner: str = "grpo"


_SLEEPS: dict[str, Any] = {"nights": "full", "review": 0}
_ALONE = Mixture(OWN + MUTATED, 0, REPLAYED)
_UNPAID = {**TRUTH, "challenger": f"shared({RANDOM})"}
_FIXED = Mixture(0, 0, REPLAYED, OWN + MUTATED, levels=(3,))
_VOTE = {"challenger": "shared(learnability(rate=majority))", "solver": "majority()"}
#: The full loop with sleep, and with one of its parts taken away: the ablation of the four ingredients.
ABLATION = ("sleep", "awake", "no_dreaming", "no_seeding", "no_self_data", "no_escalation", "no_internal_reward")
VARIANTS: dict[str, Variant] = {
    # The default: what reached furthest in the same processor time (``baselines.studies.equal``).
    "replay": Variant("no nights: the run's own verified traces interleaved by day", review=228, learner="grpo4"),
    "sleep": Variant("a night every 25 steps in place of the review", **_SLEEPS),
    "awake": Variant("neither sleep nor review: what is learnt in a day is all there is", review=0),
    "no_dreaming": Variant("nights that only seed what was verified by day", nights="no_dreaming", review=0),
    "no_seeding": Variant("nights of plain fine-tuning on the day and on dreams", nights="no_seeding", review=0),
    "no_self_data": Variant("sleep, on generated problems of depth 3", _FIXED, **_SLEEPS),
    "no_escalation": Variant("sleep, no mutations, the challenger stays the base", _ALONE, frozen=True, **_SLEEPS),
    "no_internal_reward": Variant(
        "sleep, random reward in place of learnability for the challenger", reward=_UNPAID, **_SLEEPS
    ),
    "full": Variant("own proposals, mutations, replays, verified reward, a review in place of nights"),
    "frozen_proposer": Variant("the challenger stays the base model", frozen=True),
    "no_mutation": Variant("no mutations: the challenger alone escalates", _ALONE),
    "fixed_depth": Variant("generated problems of depth 3, the end of the base's support", _FIXED),
    "hardest_only": Variant("generated problems of depth 8 only", Mixture(0, 0, REPLAYED, OWN + MUTATED, levels=(8,))),
    "majority_reward": Variant("the solvers' vote in place of the verifier", reward=_VOTE),
    "random_reward": Variant("random reward", reward={"challenger": f"shared({RANDOM})", "solver": RANDOM}),
}


class Settings(msgspec.Struct, frozen=True):
    """``variant``: a key of ``VARIANTS``.  ``attempts`` at each problem.  ``novelty``: see above; 1 is off."""

    variant: str = "replay"
    attempts: int = 8
    novelty: float = 1.0

    def __post_init__(self) -> None:
        registry.named("variants", self.variant, VARIANTS)
        if not 1 <= self.attempts <= 1024 or not 0 < self.novelty <= 1:
            told = f"attempts={self.attempts}, novelty={self.novelty}"
            raise DreamEnvsError(f"{told}: attempts from 1 to 1024, novelty above 0, up to 1 (off)")


def nights_of(name: str) -> Any:
    """How the flagship sleeps.

    Nothing is read there, so nothing is dreamt with a context, and what seeds is what was verified by day (``hard``);
    the learner before consolidation is what the rest is held to.
    """
    from dream_envs.agents.sleep.dreams import DreamSettings
    from dream_envs.agents.sleep.night import SleepSettings
    from dream_envs.agents.sleep.seeding import SeedingSettings

    full = SleepSettings(
        every=25, experience=2048, apart=0.02, dreamt=0.4, forget=False, capacity=256,
        learning=SeedingSettings(steps=60, batch=96, lr=1e-3, lam=0.0, alpha=1.0, hard=1.0),
        dreaming=DreamSettings(dreams=4, memory=4, fiction=0, size=96, proposals=0.2, today=0.0),
    )  # fmt: skip
    if name == "no_dreaming":
        return msgspec.structs.replace(full, dreaming=None)
    return msgspec.structs.replace(full, seeding=False) if name == "no_seeding" else full


def rows(groups: int = 48, **more: Any) -> dict[str, Any]:
    """Rows of a game of challenger and solvers: so many groups of attempts, and all proposals as one group."""
    roles = {"solver": {"groups": groups}, "challenger": {"floor": 0.1}}
    return {"rows.roles": roles, **{f"rows.{k}": v for k, v in more.items()}}


def sources() -> tuple[Any, ...]:
    """Mutations that proved learnable are shown to the challenger."""
    from dream_envs.agents.training.sources import Demonstrations

    return (Demonstrations(),)


def recipe(chosen: Settings, steps: int) -> Recipe:
    """The flagship's recipe."""
    variant = VARIANTS[chosen.variant]
    review = {"review": {"roles": ["solver"], "count": variant.review}} if variant.review else {}
    why = "has no traces to imitate without a review: --set variant=full"
    return Recipe(
        args={"solvers": chosen.attempts}, family_args={"max_level": MAX_LEVEL}, mixture=variant.mixture,
        gates=("held_out", "archive", *(("novel",) if chosen.novelty < 1 else ())), novelty=chosen.novelty,
        reward=variant.reward, seats={"challenger": "base"} if variant.frozen else {},
        learner=variant.learner, learning={**rows(), **review}, sources=sources,
        nights=nights_of(variant.nights) if variant.nights else None,
        refused={} if variant.review else {"expert": why}, steps=steps,
    )  # fmt: skip


SAYS = "the flagship: self-made problems, escalation and reward; with nights or without"
LOOP = Loop("dream", SAYS, Settings, recipe, 150)
