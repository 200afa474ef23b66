"""The protocol of the Frontier Report, step by step: which model is drawn how often, and what is made of it.

Steps: each model's configuration, the method that does best on development problems; fixed draws of both models on
every problem in their configurations; the base, early-stopped and in turn over all its methods, only where the trained
model is reliable; second-stage methods on what is left; the mirror image for losses.  Both models choose alike and are
elicited alike, so that a model against itself has no gain and no loss.  Everything is a function of agents and a seed
label: no model is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import estimators
from dream_envs.frontier.draws import Count, Method, SampleCache, SampleSequence, Unavailable
from dream_envs.frontier.gain import Evidence, subsample
from dream_envs.frontier.suite import Problem, Suite
from dream_envs.seeds import stream

#: Draws of a second-stage method on a survivor.
SECOND_STAGE_DRAWS = 256
#: Called with (what, done, of).
Tick = Callable[[str, int, int], None]


class Plan(msgspec.Struct, frozen=True):
    """What is fixed before anything is drawn."""

    suite: Suite  # where the problems come from
    seed: str = "0"  # label of the problems
    per_stratum: int = 20  # problems a stratum
    # draws of the trained model (and of the base's best method) a problem; ``need`` right ones are reliable
    trained_draws: int = 16
    need: int = 4  # see ``trained_draws``
    # the most draws of the base a problem; the tail correction looks at an eighth, a quarter and a half too
    budget: int = 1024
    stage: int = 128  # draws of the base that every problem gets where the trained model is reliable
    # how many of the problems that are unsolved then are drawn on up to ``budget``, see ``gain.subsample``
    follow: int = 120
    loss_budget: int = 1024  # the most draws of the trained model where the base is reliable
    dev: int = 4  # development problems a stratum, from which each model's best method is told (never counted)

    def budgets(self) -> tuple[int, ...]:
        """The four budgets of the tail correction."""
        return tuple(self.budget // 2**i for i in (3, 2, 1, 0))

    def check(self) -> None:
        """Raise a one-line DreamEnvsError for a plan that cannot be carried out."""
        if not 1 <= self.need <= self.trained_draws:
            raise DreamEnvsError(f"need={self.need}: 1 to trained_draws={self.trained_draws}")
        if self.budget < 8 or self.budget % 8:
            raise DreamEnvsError(f"budget={self.budget}: a multiple of 8")
        if not 1 <= self.stage <= self.budget // 8:
            raise DreamEnvsError(f"stage={self.stage}: 1 to an eighth of budget={self.budget}")
        for name in ("per_stratum", "loss_budget", "dev", "follow"):
            if (value := getattr(self, name)) < 1:
                raise DreamEnvsError(f"{name}={value}: 1 or more")


class EvaluatedModel(msgspec.Struct):
    """A model that is drawn from: where its draws are kept, its methods, and those of the second stage."""

    cache: SampleCache
    methods: Sequence[Method]
    second_stage: Sequence[Method] = ()


class Measured(msgspec.Struct):
    """All that was drawn; lists and arrays are by problem, in the order of ``problems``."""

    problems: list[Problem]  # N problems
    eligible: np.ndarray  # ``bool[N]``, whether luck is ruled out
    trained: list[Count]  # ``trained_draws`` draws of the trained model in its configuration
    base: list[Count]  # as many of the base in its own
    # names of the methods that base and trained model do best with on the development set
    configurations: dict[str, str]
    followed: np.ndarray  # ``bool[N]``, whether the base's sequence was not given up at ``plan.stage``
    # the base's sequence in turn; not drawn (``made`` 0) where the trained model is not reliable
    first: list[SampleSequence]
    losses: list[SampleSequence]  # the trained model's sequence where the base is reliable
    second_stage: list[str]  # which second-stage method solved it, or ""
    second_stage_draws: int = 0  # draws of those
    unavailable: dict[str, str] = {}  # second-stage methods that the base gave nothing to work with, and why


def measure(
    plan: Plan, base: EvaluatedModel, trained: EvaluatedModel, avoid: Collection[str] = (), tick: Tick | None = None
) -> Measured:
    """Carry out the plan; ``avoid`` are ids of problems that must not occur (what the trained model practised)."""
    plan.check()
    say = tick or (lambda *_: None)
    problems = plan.suite.problems(plan.seed, plan.per_stratum, avoid)
    allowed = plan.suite.eligible(problems, plan.budget)
    eligible = np.array([allowed[p.stratum] for p in problems])
    mine, own = best_method(plan, trained, say), best_method(plan, base, say)
    after = trained.cache.count(mine, problems, plan.trained_draws, tick=_part(say, "trained model"))
    before = base.cache.count(own, problems, plan.trained_draws, tick=_part(say, "base"))
    reliable = eligible & (reliability(plan, after) > 0)
    first, followed = _first(plan, base, problems, reliable, say)
    known = eligible & (reliability(plan, before) > 0)
    losses = _where(
        known,
        lambda chosen: trained.cache.first(trained.methods, chosen, plan.loss_budget, _part(say, "losses")),
        problems,
    )
    found = Measured(
        problems=problems,
        eligible=eligible,
        trained=after,
        base=before,
        configurations={"base": own.name, "trained": mine.name},
        followed=followed,
        first=first,
        losses=losses,
        second_stage=[""] * len(problems),
    )
    _second_stage(found, base, [i for i in np.flatnonzero(reliable & followed).tolist() if not first[i].first], say)
    return found


def _first(
    plan: Plan, base: EvaluatedModel, problems: list[Problem], reliable: np.ndarray, say: Tick
) -> tuple[list[SampleSequence], np.ndarray]:
    """The base's sequences, and ``bool[N]`` which were not given up at the stage."""

    def draw(cap: int) -> Callable[[list[Problem]], list[SampleSequence]]:
        return lambda chosen: base.cache.first(base.methods, chosen, cap, _part(say, f"base, up to {cap:,} draws"))

    first = _where(reliable, draw(plan.stage), problems)
    left = reliable & np.array([not s.first for s in first])
    held = np.array([plan.suite.strata[p.stratum].held_out for p in problems], dtype=int)
    picked = np.zeros(len(problems), bool)
    if left.any():
        picked[left] = subsample(held[left], plan.follow, stream("frontier-lots", plan.suite.name, plan.seed))
    later = _where(picked, draw(plan.budget), problems)
    return [b if p else a for a, b, p in zip(first, later, picked, strict=True)], ~left | picked


def best_method(plan: Plan, model: EvaluatedModel, say: Tick) -> Method:
    """The method that solves most of the development problems (the first of them in a tie)."""
    dev = plan.suite.problems("development", plan.dev)
    rates = []
    for method in model.methods:
        tick = _part(say, f"{model.cache.side} on development problems, {method.name}")
        rates.append(sum(sum(c.right) for c in model.cache.count(method, dev, 4, shared=True, tick=tick)))
    return model.methods[int(np.argmax(rates))]


def reliability(plan: Plan, counts: Sequence[Count]) -> np.ndarray:
    """``float64[N]``: unbiased estimate of P(at least ``need`` of ``trained_draws`` are right)."""
    c = np.array([sum(x.right) for x in counts])
    return estimators.reliable(plan.trained_draws, c, plan.need, plan.trained_draws)


def evidence(plan: Plan, found: Measured) -> tuple[Evidence, np.ndarray]:
    """What the headline is made of, and which problems (indices) it is about: the eligible ones."""
    chosen = np.flatnonzero(found.eligible)
    strata = np.array([found.problems[i].stratum for i in chosen])
    return (
        Evidence(
            reliable=reliability(plan, found.trained)[chosen],
            first=np.array([s.first for s in found.first])[chosen],
            cap=plan.budget,
            second_stage=np.array([bool(v) for v in found.second_stage])[chosen],
            base_reliable=reliability(plan, found.base)[chosen],
            trained_first=np.array([s.first for s in found.losses])[chosen],
            loss_cap=plan.loss_budget,
            family=np.unique(strata, return_inverse=True)[1],
            held_out=np.array([plan.suite.strata[s].held_out for s in strata]),
            followed=None if found.followed.all() else found.followed[chosen],
            stage=plan.stage,
        ),
        chosen,
    )


def _second_stage(found: Measured, base: EvaluatedModel, survivors: list[int], say: Tick) -> None:
    for method in base.second_stage:
        left = [i for i in survivors if not found.second_stage[i]]
        if not left:
            return
        tick = _part(say, f"second stage, {method.name}")
        try:
            runs = base.cache.first([method], [found.problems[i] for i in left], SECOND_STAGE_DRAWS, tick)
        except Unavailable as error:  # told in the report, not hidden
            found.unavailable[method.name] = str(error)
            continue
        for i, run in zip(left, runs, strict=True):
            found.second_stage_draws += run.made
            if run.first:
                found.second_stage[i] = method.name


def _where(
    mask: np.ndarray, draw: Callable[[list[Problem]], list[SampleSequence]], problems: Sequence[Problem]
) -> list[SampleSequence]:
    drawn = iter(draw([p for p, wanted in zip(problems, mask, strict=True) if wanted]) if mask.any() else [])
    return [next(drawn) if wanted else SampleSequence() for wanted in mask]


def _part(say: Tick, what: str) -> Callable[[int, int], None]:
    return lambda done, of: say(what, done, of)
