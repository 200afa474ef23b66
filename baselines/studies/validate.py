"""Does the interval of G(K) hold the truth?  ``python -m dream_envs.baselines.studies validate``.

Grid ``simulated``: coverage of the 95 % interval in 2,000 simulated reports of each population and size, the share that
is called beyond, and whether E stays within its bounds at multiples of K.  A cell fails where the upper 95 % bound of
its coverage is below 95 %, or a gain that is not there is called beyond in more than 2.5 %.  Grid ``power``: gains of
2, 5 and 10 points.  Grid ``pair`` (``--first-seed 20``): 100 pairs of base and half-trained models against exact truth,
by teacher forcing on many more problems: models on the way from the base to the final weights of the runs ``RUN`` of
the study ``equal``, in the folder of that name beside this study's.
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
from dream_envs.baselines.studies.grid import Row, markdown
from dream_envs.core import DreamEnvsError
from dream_envs.frontier import gain, simulate
from dream_envs.frontier.draws import SampleCache, cache_path
from dream_envs.frontier.intervals import lower_bound, upper_bound
from dream_envs.frontier.protocol import EvaluatedModel, Measured, Plan, evidence, measure
from dream_envs.frontier.sections import exact_gain
from dream_envs.frontier.verdict import MARGIN
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import stream

#: Problems a stratum for the truth.
TRUTH = 800
RESULT = "validate.json"
#: The setting of the study ``equal`` whose runs are used.
RUN = "awake-grpo"
#: Models on the way, for each of five runs.
STEPS, PER_SHARE = 20, 5
#: Problems a stratum, K and survivors followed, by size.
SIZES = {"mini": (20, 1024, 0), "standard": (100, 8192, 0), "followed": (100, 8192, 512)}
REPORTS = 2000


class Way(msgspec.Struct, frozen=True):
    """A ``share`` of the way from base to trained model; ``number`` among the pairs."""

    share: float
    number: int = 0


class Cell(msgspec.Struct, frozen=True):
    """Simulated reports of a population at a size."""

    change: simulate.Change
    size: str
    reports: int = REPORTS


_CELLS = {
    kind: {f"{c.name.replace(' ', '-').replace(',', '')}-{size}": Cell(c, size) for c in some for size in SIZES}
    for kind, some in {"simulated": simulate.COVERAGE, "power": simulate.POWER}.items()
}
_WAYS = {f"pair-{way.share:g}": way for way in (Way(round(0.3 + 0.7 * (i + 0.5) / STEPS, 4), i) for i in range(STEPS))}
SETTINGS: dict[str, Way | Cell] = {**_CELLS["simulated"], **_CELLS["power"], **_WAYS}
GRIDS = {**{kind: tuple(cells) for kind, cells in _CELLS.items()}, "pair": tuple(_WAYS)}


def between(base: LocalAgent, trained: LocalAgent, share: float) -> LocalAgent:
    """The model at this share of the way from ``base`` to ``trained``, in the weights."""
    made = base.snapshot()
    theirs = trained.model.state_dict()
    mixed = {k: torch.lerp(v, theirs[k], share) for k, v in base.model.state_dict().items()}
    made.model.load_state_dict(mixed)
    return made


class Truth:
    """Exact G(K) of the suite for any trained model, on problems that no pair is measured on."""

    def __init__(self) -> None:
        self.plan, specs = plan_of(Options())
        self.methods = [m for m in specs if m.envelope == "decoding"]
        self.model = load_model("nano/compose")
        problems = self.plan.suite.problems("truth", TRUTH)
        allowed = self.plan.suite.eligible(problems, self.plan.budget)
        self.problems = [p for p in problems if allowed[p.stratum]]
        self.strata = np.array([p.stratum for p in self.problems])
        self.base = self.of(self.model, self.methods)

    def of(self, model: Model, methods: Sequence[Any]) -> np.ndarray:
        """``float64[A, N]`` log-probabilities of a sample of each method."""
        return by_method(self.plan.suite, self.problems, model, methods)

    def gain(self, trained: Model, found: Measured) -> float:
        """G(K) in percentage points, for the methods that this report used; every stratum counts alike."""
        names, plan = [m.name for m in self.methods], self.plan
        base = self.base[[names.index(n) for n in found.turns]]
        own = self.base[names.index(found.configurations["base"])]
        theirs = self.of(trained, self.methods)
        mine = theirs[names.index(found.configurations["trained"])]
        e = exact_gain(plan, base, mine, plan.budget)
        s = exact_gain(plan, theirs[[names.index(n) for n in found.their_turns]], own, plan.budget)
        return 100 * float(np.mean([(e - s)[self.strata == i].mean() for i in np.unique(self.strata)]))


#: One a process.
_truth = functools.cache(Truth)


def pair(plan: Plan, base: Model, trained: Model, methods: Sequence[Any], cache: Path) -> tuple[Any, Measured]:
    """One report's G(K) with its interval, and what was measured."""
    asked = plan.suite.problems(plan.seed, plan.per_stratum)
    answers, sides = {plan.suite.messages(p.task)[0]["content"]: p.task.answer for p in asked}, []
    for model, side in ((base, "base"), (trained, "trained")):
        path = cache_path(cache, base.identity, DRAWS, "validate") if side == "base" else None
        elicited = Elicited(plan.suite, model)
        elicited.answers = answers
        sides.append(EvaluatedModel(SampleCache(path, side), [elicited.method(m) for m in methods]))
    try:
        found = measure(plan, sides[0], sides[1])
    finally:
        for side_ in sides:
            side_.cache.close()
    return gain.gain(evidence(plan, found)[0])[0], found


def score(folder: Path) -> dict[str, Any]:
    """``held`` of ``reports``, and each pair's figures."""
    return read_json(folder / RESULT)


def table(rows: Sequence[Row], out: Path) -> str:
    """A line a cell, and how many intervals of pairs hold the truth."""
    cells, pairs = [r for r in rows if "covered" in r], [r for r in rows if "held" in r]
    figures = ("truth", "of it E", "estimate", "width", "covered", "beyond", "in bounds")
    head = ("population", "problems", "K", "followed", *figures, "")
    lines = [
        [
            r["change"], f"{r['n']:,}", f"{r['k']:,}", f"{r['follow']}" if r["follow"] else "all",
            *(f"{r[key]:.2f}" for key in ("truth", "gained", "mean", "width")),
            *(f"{100 * r[key]:.1f} %" for key in ("covered", "beyond", "bounds")), "FAILS" if fails(r) else "",
        ]
        for r in cells
    ]  # fmt: skip
    text = markdown(head, lines) if lines else ""
    if pairs:
        error = np.array([r["g"] - r["truth"] for r in pairs])
        text += (
            f"\nThe interval of G(K) holds the exact truth in {sum(r['held'] for r in pairs)} of {len(pairs)} pairs; "
            f"bias {error.mean():+.2f}, root mean square error {np.sqrt((error**2).mean()):.2f} points.\n"
        )
    return text


def fails(row: Row) -> bool:
    """Whether a cell misses its target: coverage shown to be below 95 %, or too often beyond where nothing is."""
    n = row["repetitions"]
    covered, beyond = round(n * row["covered"]), round(n * row["beyond"])
    low = float(upper_bound(covered, n)) < 0.95
    return low or (row["gained"] <= MARGIN and float(lower_bound(beyond, n)) > 0.025)


def run(settings: Way | Cell, seed: str, out: Path) -> None:
    """A cell, or a pair at one share of the way."""
    write_json(out / RESULT, measured(settings, seed, out) if isinstance(settings, Way) else simulated(settings, seed))


def simulated(cell: Cell, seed: str) -> dict[str, Any]:
    """What the simulated reports of a cell say."""
    each, k, follow = SIZES[cell.size]
    rng = stream("validate", cell.change.name, cell.size, seed)
    return simulate.simulate(cell.change, rng, each, k, cell.reports, follow)


def measured(settings: Way, seed: str, out: Path) -> dict[str, Any]:
    """One report on this model, beside the truth."""
    source = out.parent.parent / "equal" / f"{RUN}-{seed}"
    if not (source / "summary.json").is_file():
        raise DreamEnvsError(f"{source} is no finished run: run the study equal --only {RUN} first, with these seeds")
    truth = _truth()
    agent = between(truth.model.engine, load_model(str(source)).engine, settings.share)
    number = settings.number * PER_SHARE + int(seed)
    trained = Model(f"pair-{number}", f"pair-{number}", agent)
    plan = msgspec.structs.replace(truth.plan, seed=f"validate-{number}", reach=1)
    (g, low, high), found = pair(plan, truth.model, trained, truth.methods, out / "cache")
    exact = truth.gain(trained, found)
    return {"truth": exact, "g": g, "low": low, "high": high, "held": int(low <= exact <= high)}
