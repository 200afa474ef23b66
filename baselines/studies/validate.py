"""The report against the truth: 100 pairs of base and trained model whose exact gain is known.

``python -m dream_envs.baselines.studies.validate runs/study/full-grpo-*``: models on the way from the base to each
run's final weights (linear in the weights), each measured on fresh problems; the exact E of the suite is computed by
teacher forcing on many more problems.  The 95 % interval of E has to hold it in 93 of 100.

``--simulated 300`` repeats each of five such reports so often with draws from the exact probabilities, without an
engine: coverage to a percent in a few minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.baselines.frontier.elicited import Elicited, Model, by_method, load_model
from dream_envs.baselines.frontier.job import DRAWS, Options, plan_of
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
#: Shares of the way from base to trained model in ``simulated``.
SHARES = (0.35, 0.5, 0.65, 0.8, 0.95)


def between(base: LocalAgent, trained: LocalAgent, share: float) -> LocalAgent:
    """The model at this share of the way from ``base`` to ``trained``, in the weights."""
    made = base.snapshot()
    theirs = trained.model.state_dict()
    mixed = {k: torch.lerp(v, theirs[k], share) for k, v in base.model.state_dict().items()}
    made.model.load_state_dict(mixed)
    return made


class Truth:
    """Exact E of the suite for any trained model, on problems that no pair is measured on."""

    def __init__(self, plan: Plan, base: Model, arms: Sequence[Any]) -> None:
        self.plan, self.arms = plan, arms
        problems = plan.suite.problems("truth", TRUTH)
        allowed = plan.suite.eligible(problems, plan.budget)
        self.problems = [p for p in problems if allowed[p.stratum]]
        self.base = by_method(plan.suite, self.problems, base, arms)

    def gain(self, trained: Model, configuration: str) -> float:
        """E at the largest budget, in points; every stratum counts alike, as in a report."""
        mine = [a for a in self.arms if a.name == configuration]
        configured = by_method(self.plan.suite, self.problems, trained, mine)[0]
        each = exact_gain(self.plan, self.base, configured, self.plan.budget)
        strata = np.array([p.stratum for p in self.problems])
        return 100 * float(np.mean([each[strata == s].mean() for s in np.unique(strata)]))


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


def validate(runs: Sequence[Path], pairs: int, out: Path, cache: Path, log: Any = print) -> dict[str, Any]:
    """Measure all pairs; a file in ``out`` for each, so that a killed validation goes on.

    Args:
        runs: folders of runs that trained from ``nano/compose``.
        pairs: how many, spread evenly over runs and shares of the way.
        out: folder of the results.
        cache: where base draws are kept.
        log: called with a line for every pair.
    """
    keep_memory()
    plan, arms, _ = plan_of(Options())
    base = load_model("nano/compose")
    truth = Truth(plan, base, arms)
    finals = [load_model(str(r)) for r in runs]
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(pairs):
        row = read_json(out / f"{i}.json")
        if row is None:
            share = round(0.3 + 0.7 * ((i // len(finals)) + 0.5) / -(-pairs // len(finals)), 4)
            agent = between(base.engine, finals[i % len(finals)].engine, share)
            trained = Model(f"pair-{i}", f"pair-{i}", agent)
            measured, configuration = pair(
                msgspec.structs.replace(plan, seed=f"validate-{i}"), base, trained, arms, cache
            )
            exact = truth.gain(trained, configuration)
            row = {"pair": i, "run": str(runs[i % len(runs)]), "share": share, "truth": exact, **measured}
            row["held"] = bool(row["low"] <= exact <= row["high"])
            write_json(out / f"{i}.json", row)
        rows.append(row)
        log(f"{i + 1}/{pairs}  E {row['e']:.2f} [{row['low']:.2f}, {row['high']:.2f}]  truth {row['truth']:.2f}")
    held = sum(r["held"] for r in rows)
    error = [r["e"] - r["truth"] for r in rows]
    return {
        "pairs": pairs,
        "held": held,
        "bias": float(np.mean(error)),
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
    }


def simulated(runs: Sequence[Path], repetitions: int, log: Any = print) -> dict[str, Any]:
    """Coverage of E's interval when reports are repeated with draws from the exact probabilities.

    Args:
        runs: as for ``validate``; the first one is used.
        repetitions: reports at each of five shares of the way.
        log: called with a line for every share.
    """
    plan, arms, _ = plan_of(Options())
    base, final = load_model("nano/compose"), load_model(str(runs[0]))
    truth = Truth(plan, base, arms)
    pool, held = np.array([p.stratum for p in truth.problems]), 0
    for share in SHARES:
        trained = Model("between", "between", between(base.engine, final.engine, share))
        mine = [a for a in arms if a.name == "forced"]
        configured = by_method(plan.suite, truth.problems, trained, mine)[0]
        exact, hits = truth.gain(trained, "forced"), 0
        for i in range(repetitions):
            rng = stream("validate-simulated", share, i)
            facts = _drawn(plan, pool, np.exp(truth.base).T, np.minimum(np.exp(configured), 1), rng)
            curve = expansion_curve(facts, [plan.budget], rng, 1000)
            hits += curve.low[0] <= exact <= curve.high[0]
        held += hits
        log(f"{share:.2f} of the way: E {exact:.2f}, held in {hits} of {repetitions}")
    return {"reports": len(SHARES) * repetitions, "held": held}


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


def main() -> None:
    """``python -m dream_envs.baselines.studies.validate RUN [RUN ...]``."""
    parser = argparse.ArgumentParser(description="the report's interval of E against exact truth")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--simulated", type=int, default=0, metavar="N", help="no engine: N reports at five shares")
    parser.add_argument("--out", type=Path, default=Path("runs/validate"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.simulated:
        print(json.dumps(simulated(given.runs, given.simulated)))
        return
    print(json.dumps(validate(given.runs, given.pairs, given.out, given.out / "cache")))


if __name__ == "__main__":
    main()
