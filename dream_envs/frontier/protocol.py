"""The protocol of the Frontier Report, step by step: which model is sampled how often, and what is made of it.

Steps: what each method does on development problems (those that solve none are idle); fixed samples of both models on
every problem in their best method that leaves the reply free; the base, early-stopped and in turn over its decoding
methods, only where the trained model is reliable; the later envelopes, each on what is left; the mirror image for
losses; and for the panel beside the headline both models on every problem, in turn over the same methods.  Both models
choose alike and decode alike, so that a model against itself has no gain and no loss.  Everything is a function of
agents and a seed label: no model is loaded here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier.draws import Count, Method, SampleCache, SampleSequence, Settled, Unavailable
from dream_envs.frontier.gain import Evidence, subsample
from dream_envs.frontier.suite import Problem, Suite
from dream_envs.seeds import stream

#: Samples of a trained copy of the base on what is left: making it is dear, and it is one model, not a way to ask.
TRAINING_DRAWS = 256
#: Samples of a method on each development problem, and of each problem by its isolated steps and for the check.
DEV_DRAWS, ATOM_DRAWS = 4, 4
#: Why a base that can do nothing is refused.
NOTHING = (
    "against it everything would be a gain; check its weights, configuration and chat template, or give another base"
)
#: Called with (what, done, of).
Tick = Callable[[str, int, int], None]


class Plan(msgspec.Struct, frozen=True):
    """What is fixed before anything is sampled."""

    suite: Suite  # where the problems come from
    seed: str = "0"  # label of the problems
    per_stratum: int = 20  # problems a stratum
    # samples of the trained model (and of the base's best method) a problem; ``need`` right ones are reliable
    trained_draws: int = 16
    need: int = 4  # see ``trained_draws``
    budget: int = 1024  # K: the most samples of the base a problem and envelope, and of the trained model for losses
    stage: int = 128  # samples of the base that every problem gets where the trained model is reliable
    follow: int = 0  # how many of those that are unsolved then are followed up to ``budget``; 0: all
    dev: int = 4  # development problems a stratum, from which each model's best method is told (never counted)
    reach: int = 16  # samples of both models on every problem, early-stopped, for pass@k at matched k; at most budget

    def check(self) -> None:
        """Raise a one-line DreamEnvsError for a plan that cannot be carried out."""
        for name, most in (("need", "trained_draws"), ("stage", "budget")):
            if not 1 <= (value := getattr(self, name)) <= getattr(self, most):
                raise DreamEnvsError(f"{name}={value}: 1 to {most}={getattr(self, most)}")
        for name, least in (("budget", 8), ("per_stratum", 1), ("dev", 1), ("follow", 0), ("reach", 1)):
            if (value := getattr(self, name)) < least:
                raise DreamEnvsError(f"{name}={value}: {least} or more")


class EvaluatedModel(msgspec.Struct):
    """A model that is sampled: where its samples are kept, its decoding methods, and those of later envelopes."""

    cache: SampleCache
    methods: Sequence[Method]
    later: Mapping[str, Sequence[Method]] = {}
    greedy: Method | None = None  # one reply by the likeliest tokens
    atoms: Method | None = None  # the problem step by step, each step by itself
    plain: Method | None = None  # T = 1, for the check of samples against exact probabilities


class Panel(msgspec.Struct):
    """One model on every problem: its sequence in turn, and ``float64[N]`` shares of right replies where asked so."""

    sequences: list[SampleSequence]
    greedy: np.ndarray | None = None
    atoms: np.ndarray | None = None
    plain: np.ndarray | None = None


class Measured(msgspec.Struct):
    """All that was sampled; lists and arrays are by problem, in the order of ``problems``."""

    problems: list[Problem]  # N problems
    eligible: np.ndarray  # ``bool[N]``, whether luck is ruled out
    trained: list[Count]  # ``trained_draws`` samples of the trained model in its best method
    base: list[Count]  # as many of the base in its own
    # names of the methods that base and trained model do best with on the development set
    configurations: dict[str, str]
    turns: list[str]  # the base's decoding methods that were given samples, in the order of their turns
    their_turns: list[str]  # the trained model's, where losses are looked for
    idle: list[str]  # its methods of any envelope that solved no development problem
    followed: np.ndarray  # ``bool[N]``, whether the base's sequence was not given up at ``plan.stage``
    # the base's sequence in turn; not sampled (``made`` 0) where the trained model is not reliable
    first: list[SampleSequence]
    losses: list[SampleSequence]  # the trained model's sequence where the base is reliable
    reached: list[str]  # which method of a later envelope solved it, or ""
    envelopes: list[str]  # those that were tried, decoding first
    envelope_of: dict[str, str]  # by method of a later envelope
    panel: dict[str, Panel] = {}  # by side, ``base`` and ``trained``
    draws: dict[str, int] = {}  # samples by later envelope
    seconds: dict[str, float] = {}  # and what it took, copies that were trained included
    unavailable: dict[str, str] = {}  # methods that the base gave nothing to work with, and why


def measure(
    plan: Plan, base: EvaluatedModel, trained: EvaluatedModel, avoid: Collection[str] = (), tick: Tick | None = None
) -> Measured:
    """Carry out the plan; ``avoid`` are ids of problems that must not occur (what the trained model practised).

    Raises:
        DreamEnvsError: for a base that solves no development problem in any way: against it everything is a gain.
    """
    plan.check()
    say = tick or (lambda *_: None)
    problems = plan.suite.problems(plan.seed, plan.per_stratum, avoid)
    allowed = plan.suite.eligible(problems, plan.budget)
    eligible = np.array([allowed[p.stratum] for p in problems])
    (own, turns), (mine, their_turns) = _working(plan, base, say), _working(plan, trained, say)
    if not turns:
        raise DreamEnvsError(f"the base solves no development problem by any method: {NOTHING}")
    after = trained.cache.count(mine, problems, plan.trained_draws, tick=partial(say, "trained model"))
    before = base.cache.count(own, problems, plan.trained_draws, tick=partial(say, "base"))
    known = [sum(c.right) for c, p in zip(before, problems, strict=True) if plan.suite.strata[p.stratum].practice]
    if known and not any(known):
        raise DreamEnvsError(f"the base solves nothing of its declared support in free replies: {NOTHING}")
    reliable, their_turns = eligible & reliability(plan, after), their_turns or list(trained.methods)
    first, followed = _first(plan, base, turns, problems, reliable, say)
    mask = eligible & reliability(plan, before)
    losses = _where(mask, trained.cache, their_turns, problems, plan.budget, partial(say, "losses"))
    found = Measured(
        problems=problems, eligible=eligible, trained=after, base=before,
        configurations={"base": own.name, "trained": mine.name}, turns=[m.name for m in turns],
        their_turns=[m.name for m in their_turns], idle=[m.name for m in base.methods if m not in turns],
        followed=followed, first=first, losses=losses, reached=[""] * len(problems),
        envelopes=["decoding", *base.later],
        envelope_of={m.name: envelope for envelope, some in base.later.items() for m in some},
    )  # fmt: skip
    for model, ways in ((base, turns), (trained, their_turns)):
        found.panel[model.cache.side] = _panel(plan, model, ways, found, say)
    left = [i for i in np.flatnonzero(reliable & followed).tolist() if not first[i].first]
    for envelope, some in base.later.items():
        began = time.perf_counter()
        _later(plan, found, base.cache, envelope, some, left, say)
        found.seconds[envelope] = time.perf_counter() - began
        left = [i for i in left if not found.reached[i]]
    again = stream("frontier-check", plan.seed)
    for model, ways in ((base, turns), (trained, their_turns)):
        model.cache.check(ways, problems, again)
    return found


def _working(plan: Plan, model: EvaluatedModel, say: Tick) -> tuple[Method, list[Method]]:
    """The method that solves most of the development problems (the first of them in a tie), and all that solve any.

    The former writes its reply freely, if any method does: what a form or a grammar adds is not the model's.
    """
    rates = [_solved(plan, model.cache, method, say) for method in model.methods]
    free = [i for i, m in enumerate(model.methods) if m.free] or list(range(len(rates)))
    best = max(free, key=lambda i: rates[i])
    return model.methods[best], [m for m, n in zip(model.methods, rates, strict=True) if n]


def _solved(plan: Plan, cache: SampleCache, method: Method, say: Tick) -> int:
    dev = plan.suite.problems("development", plan.dev)
    tick = partial(say, f"{cache.side} on development problems, {method.name}")
    return sum(sum(c.right) for c in cache.count(method, dev, DEV_DRAWS, shared=True, tick=tick))


def _first(
    plan: Plan, base: EvaluatedModel, turns: Sequence[Method], problems: list[Problem], reliable: np.ndarray, say: Tick
) -> tuple[list[SampleSequence], np.ndarray]:
    """The base's sequences, and ``bool[N]`` which were not given up at the stage."""
    cap = plan.stage if plan.follow else plan.budget
    first = _where(reliable, base.cache, turns, problems, cap, partial(say, f"base, up to {cap:,} samples"))
    left = reliable & np.array([not s.first for s in first])
    if not plan.follow or not left.any():
        return first, np.ones(len(problems), bool)
    kinds = [s.kind for s in plan.suite.strata]
    groups = np.array([kinds.index(plan.suite.strata[p.stratum].kind) for p in problems])
    picked = np.zeros(len(problems), bool)
    picked[left] = subsample(groups[left], plan.follow, stream("frontier-lots", plan.suite.name, plan.seed))
    later = _where(
        picked, base.cache, turns, problems, plan.budget, partial(say, f"base, up to {plan.budget:,} samples")
    )
    return [b if p else a for a, b, p in zip(first, later, picked, strict=True)], ~left | picked


def _panel(plan: Plan, model: EvaluatedModel, ways: Sequence[Method], measured: Measured, say: Tick) -> Panel:
    cap, problems = min(plan.reach, plan.budget), measured.problems
    tick = partial(say, f"{model.cache.side}, every problem")
    found = Panel(_where(measured.eligible, model.cache, ways, problems, cap, tick))
    asked = (("greedy", model.greedy, 1), ("atoms", model.atoms, ATOM_DRAWS), ("plain", model.plain, ATOM_DRAWS))
    for name, method, draws in asked:
        if method is not None:
            counts = model.cache.count(method, problems, draws)
            setattr(found, name, np.array([sum(c.right) / draws for c in counts]))
    return found


def reliability(plan: Plan, counts: Sequence[Count]) -> np.ndarray:
    """``bool[N]``: whether at least ``need`` of the draws are right: 59.5 % of problems at p = 0.25."""
    return np.array([sum(c.right) >= plan.need for c in counts])


def evidence(plan: Plan, found: Measured, envelope: str = "decoding") -> tuple[Evidence, np.ndarray]:
    """What is known against this envelope and those before it, and of which problems (indices): the eligible ones."""
    counted = found.envelopes[: found.envelopes.index(envelope) + 1]
    whole = Evidence(
        reliable=reliability(plan, found.trained), base_reliable=reliability(plan, found.base),
        first=np.array([s.first for s in found.first]), trained_first=np.array([s.first for s in found.losses]),
        cap=plan.budget, reached=np.array([found.envelope_of.get(m, "") in counted for m in found.reached]),
        family=np.array([p.stratum for p in found.problems]),
        followed=None if found.followed.all() else found.followed, stage=plan.stage,
    )  # fmt: skip
    return whole.of(found.eligible), np.flatnonzero(found.eligible)


def _later(
    plan: Plan, found: Measured, cache: SampleCache, envelope: str, some: Sequence[Method], left: list[int], say: Tick
) -> None:
    """Try an envelope on what is left: scaffolds in turn, trained copies of the base one after the other."""
    groups = [([m], TRAINING_DRAWS, m.name) for m in some]
    if envelope != "training":
        working = [m for m in some if _solved(plan, cache, m, say)]
        found.idle += [m.name for m in some if m not in working]
        groups = [(working, plan.budget, envelope)] if working else []
    for group, cap, name in groups:
        left = [i for i in left if not found.reached[i]]
        if not left:
            return
        some_left = [found.problems[i] for i in left]
        try:
            runs = cache.first(group, some_left, cap, partial(say, f"base, {name}"))
            cache.check(group, some_left, stream("frontier-check", plan.seed, name))
        except Unavailable as error:  # told in the report, not hidden
            found.unavailable[name] = str(error)
            continue
        for i, run in zip(left, runs, strict=True):
            found.draws[envelope] = found.draws.get(envelope, 0) + run.made
            if run.first:
                found.reached[i] = group[(run.first - 1) % len(group)].name


def _where(
    mask: np.ndarray, cache: SampleCache, ways: Sequence[Method], problems: Sequence[Problem], cap: int, tick: Settled
) -> list[SampleSequence]:
    """The sequences of these problems, empty ones of the others."""
    some = [p for p, wanted in zip(problems, mask, strict=True) if wanted]
    drawn = iter(cache.first(ways, some, cap, tick) if some else ())
    return [next(drawn) if wanted else SampleSequence() for wanted in mask]
