"""The report against the truth, on 100 pairs of models: ``python -m dream_envs.baselines.studies validate``.

Models on the way from the base to the final weights of the flagship's runs (linear in the weights), each measured on
fresh problems; the exact E of the suite is computed by teacher forcing on many more problems.  The 95 % interval of E
has to hold it in 93 of 100.  The runs are those of the study ``flagship``, setting ``full``, in the folder of that name
beside this study's: as many as there are seeds.

Grid ``simulated`` repeats such a report so often with draws from the exact probabilities, without an engine: coverage
to a percent in a few minutes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.frontier.elicited import Elicited, Model, by_method, load_model
from dream_envs.baselines.frontier.job import DRAWS, Options, plan_of
from dream_envs.baselines.studies.grid import Row
from dream_envs.core import DreamEnvsError
from dream_envs.frontier.draws import SampleCache, cache_path
from dream_envs.frontier.gain import Evidence, expansion_curve, subsample
from dream_envs.frontier.protocol import EvaluatedModel, Plan, evidence, measure
from dream_envs.frontier.sections import exact_gain
from dream_envs.frontier.simulate import first_success
from dream_envs.frontier.suite import Problem
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import stream

#: Problems a stratum for the truth.
TRUTH = 800
RESULT = "validate.json"
#: Shares of the way from base to trained model: 20 for five runs each, and those of ``simulated``.
STEPS, PER_SHARE = 20, 5
SHARES = (0.35, 0.5, 0.65, 0.8, 0.95)


class Way(msgspec.Struct, frozen=True):
    """A ``share`` of the way from base to trained model; ``number`` among the pairs; ``repetitions``: simulated."""

    share: float
    number: int = 0
    repetitions: int = 0


_PAIRS = [Way(round(0.3 + 0.7 * (i + 0.5) / STEPS, 4), i) for i in range(STEPS)]
SETTINGS = {f"pair-{way.share:g}": way for way in _PAIRS}
SETTINGS |= {f"simulated-{share:g}": Way(share, repetitions=300) for share in SHARES}
GRIDS = {kind: tuple(name for name in SETTINGS if name.startswith(kind)) for kind in ("pair", "simulated")}
MARKS: dict[str, str] = {}


def between(base: LocalAgent, trained: LocalAgent, share: float) -> LocalAgent:
    """The model at this share of the way from ``base`` to ``trained``, in the weights."""
    made = base.snapshot()
    theirs = trained.model.state_dict()
    mixed = {k: torch.lerp(v, theirs[k], share) for k, v in base.model.state_dict().items()}
    made.model.load_state_dict(mixed)
    return made


class Truth:
    """Exact E of the suite for any trained model, on problems that no pair is measured on."""

    def __init__(self, plan: Plan, base: Model, methods: Sequence[Any]) -> None:
        self.plan, self.model, self.methods = plan, base, methods
        problems = plan.suite.problems("truth", TRUTH)
        allowed = plan.suite.eligible(problems, plan.budget)
        self.problems = [p for p in problems if allowed[p.stratum]]
        self.base = by_method(plan.suite, self.problems, base, methods)

    def gain(self, trained: Model, configuration: str) -> float:
        """E at the largest budget, in percentage points; every stratum counts alike, as in a report."""
        mine = [a for a in self.methods if a.name == configuration]
        configured = by_method(self.plan.suite, self.problems, trained, mine)[0]
        each = exact_gain(self.plan, self.base, configured, self.plan.budget)
        strata = np.array([p.stratum for p in self.problems])
        return 100 * float(np.mean([each[strata == s].mean() for s in np.unique(strata)]))


@functools.cache
def _truth() -> Truth:
    """Once a process."""
    plan, methods, _ = plan_of(Options())
    return Truth(plan, load_model("nano/compose"), methods)


def pair(plan: Plan, base: Model, trained: Model, arms: Sequence[Any], cache: Path) -> tuple[dict[str, Any], str]:
    """One report's E with its interval, and the configuration that the trained model was measured in."""
    sides = []
    for model, side in ((base, "base"), (trained, "trained")):
        path = cache_path(cache, base.identity, DRAWS, "validate") if side == "base" else None
        elicited = Elicited(plan.suite, model)
        elicited.answers = {plan.suite.messages(p.task)[0]["content"]: p.task.answer for p in _problems(plan)}
        sides.append(EvaluatedModel(SampleCache(path, side), [elicited.method(a) for a in arms]))
    try:
        found = measure(plan, sides[0], sides[1])
    finally:
        for side_ in sides:
            side_.cache.close()
    facts, _ = evidence(plan, found)
    curve = expansion_curve(facts, [plan.budget], stream("validate", plan.seed, trained.name))
    return {"e": curve.mean[0], "low": curve.low[0], "high": curve.high[0]}, found.configurations["trained"]


def _problems(plan: Plan) -> list[Problem]:
    return plan.suite.problems(plan.seed, plan.per_stratum)


def score(folder: Path) -> dict[str, Any]:
    """``held`` of ``reports``, and each pair's figures."""
    found: dict[str, Any] = read_json(folder / RESULT)
    return found


def table(rows: Sequence[Row], out: Path) -> str:
    """How many intervals hold the truth."""
    held, reports = (sum(r[key] for r in rows) for key in ("held", "reports"))
    lines = [f"The interval of E holds the truth in {held} of {reports}.", ""]
    error = np.array([r["e"] - r["truth"] for r in rows if "e" in r])
    if error.size:
        lines.insert(1, f"Bias {error.mean():+.2f}, root mean square error {np.sqrt((error**2).mean()):.2f} points.")
    return "\n".join(lines)


def run(settings: Way, seed: str, out: Path) -> None:
    """A pair, or repeated reports, at one share of the way."""
    trained = out.parent.parent / "flagship" / f"full-{seed}"
    if not (trained / "summary.json").is_file():
        raise DreamEnvsError(f"{trained} is no finished run: run the study flagship --only full first")
    truth = _truth()
    agent = between(truth.model.engine, load_model(str(trained)).engine, settings.share)
    made = simulated(truth, agent, settings) if settings.repetitions else measured(truth, agent, settings, seed, out)
    write_json(out / RESULT, made)


def measured(truth: Truth, agent: LocalAgent, settings: Way, seed: str, out: Path) -> dict[str, Any]:
    """One report on this model, beside the truth."""
    label = f"validate-{settings.number * PER_SHARE + int(seed)}"
    trained = Model(label.replace("validate", "pair"), label.replace("validate", "pair"), agent)
    plan = msgspec.structs.replace(truth.plan, seed=label)
    found, configuration = pair(plan, truth.model, trained, truth.methods, out / "cache")
    exact = truth.gain(trained, configuration)
    return {"truth": exact, **found, "held": int(found["low"] <= exact <= found["high"]), "reports": 1}


def simulated(truth: Truth, agent: LocalAgent, settings: Way) -> dict[str, Any]:
    """Coverage of E's interval when reports are repeated with draws from the exact probabilities."""
    plan, trained = truth.plan, Model("between", "between", agent)
    mine = [a for a in truth.methods if a.name == "forced"]
    configured = by_method(plan.suite, truth.problems, trained, mine)[0]
    pool, exact, held = np.array([p.stratum for p in truth.problems]), truth.gain(trained, "forced"), 0
    for i in range(settings.repetitions):
        rng = stream("validate-simulated", settings.share, i)
        facts = _drawn(plan, pool, np.exp(truth.base).T, np.minimum(np.exp(configured), 1), rng)
        curve = expansion_curve(facts, [plan.budget], rng, 1000)
        held += int(curve.low[0] <= exact <= curve.high[0])
    return {"held": held, "reports": settings.repetitions}


def _drawn(plan: Plan, pool: np.ndarray, base: np.ndarray, trained: np.ndarray, rng: np.random.Generator) -> Evidence:
    """What one report would have drawn: problems from the pool, then the protocol."""
    each = plan.per_stratum
    at = np.concatenate([rng.choice(np.flatnonzero(pool == s), each) for s in np.unique(pool)])
    reliable = (rng.binomial(plan.trained_draws, trained[at]) >= plan.need).astype(float)
    first = np.where(reliable > 0, first_success(base[at], plan.budget, rng), 0)
    left = (reliable > 0) & ((first == 0) | (first > plan.stage))
    followed = ~left
    held = np.array([plan.suite.strata[s].held_out for s in pool[at]], dtype=int)
    if left.any():
        followed[left] = subsample(held[left], plan.follow, rng)
    none = np.zeros(len(at))
    seen = np.where(followed, first, 0)
    lots = None if followed.all() else followed
    return Evidence(reliable, seen, plan.budget, none, none, none, plan.loss_budget, pool[at], none, lots, plan.stage)
