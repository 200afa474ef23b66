"""A simulated Frontier Report for the report tests, made by the protocol's own code from draws at known rates.

A world of families with a base rate for every problem; training sharpens the rates, adds new problems and loses old
ones.  Draws are binomial, first successes geometric.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import Task
from dream_envs.frontier import schema as sc
from dream_envs.frontier.draws import Count, SampleSequence
from dream_envs.frontier.protocol import Measured, Panel, Plan
from dream_envs.frontier.sections import Exact, Sources, report
from dream_envs.frontier.suite import Problem, Stratum, Suite
from dream_envs.metrics.retention import retention
from dream_envs.seeds import stream

BUDGET = 8192
#: Name, kind, practised, level.
FAMILIES = (
    ("composition/depth-4", "longer", True, 4), ("composition/depth-5", "longer", True, 5),
    ("composition/depth-6", "longer", False, 6), ("composition/pairs", "held-out combinations", False, 5),
    ("composition/operations", "new facts", False, 4), ("small-answers", "declared support", True, 2),
)  # fmt: skip
METHODS = ("plain", "step_by_step", "few_shot", "decompose")


class Toy:
    """Problems without content; luck solves one in 32^level."""

    name, version, notation, levels, max_chars, max_reply_tokens = "toy", 1, "compact", range(1, 9), 9, 9

    def generate(self, rng, level):
        return Task(family="toy", level=level, prompt=f"{level}:{rng.integers(10**12)}", answer="yes")

    def chance(self, task):
        return 32.0**-task.level if task.level > 2 else 0.5


@functools.cache
def frontier(per_family: int = 40) -> sc.Report:
    """The report after a training that sharpened, gained a quarter of the impossible problems and lost a few."""
    strata = tuple(Stratum(name, Toy(), level, kind) for name, kind, _, level in FAMILIES)
    plan = Plan(Suite("toy", strata, METHODS), "round-1", per_family, budget=BUDGET, stage=1024)
    rng = stream("frontier-tests", str(per_family))
    problems = plan.suite.problems(plan.seed, per_family)
    levels = np.array([p.task.level for p in problems])
    impossible = rng.random(len(problems)) < 0.1 + 0.15 * (levels - 2) * (levels > 3)
    p = np.where(impossible, 0.0, rng.beta(0.2, 1.0, len(problems)))
    q = 1 / (1 + math.exp(-2) * (1 - p) / np.maximum(p, 1e-12)) * (p > 0)
    q = np.where(impossible & (rng.random(len(p)) < 0.25), rng.uniform(0.4, 0.99, len(p)), q)
    q[rng.random(len(p)) < 0.02] = 0.0
    found = _measured(plan, problems, p, q, rng)
    with np.errstate(divide="ignore"):
        log_p, log_q = (np.maximum(np.log(x), -60.0) for x in (p, q))
    base, trained = (dict.fromkeys(("T=1", "best_T", "forced", "given"), x) for x in (log_p, log_q))
    known = Exact(base, trained, methods=np.stack([log_p] * 3), configured=log_q)
    easy = np.flatnonzero(~found.eligible)
    sources = Sources(
        base=sc.ModelInfo("nano/compose", "0f" * 32),
        trained=sc.ModelInfo("runs/full-0", "a1" * 32, "runs/full-0"),
        methods=[
            sc.MethodInfo(m, f"The method '{m}'.", "scaffolds" if m == METHODS[3] else "decoding") for m in METHODS
        ],
        exact=known,
        qualified=["the problems are those of a public seed"],
        practised=[practised for _, _, practised, _ in FAMILIES],
    )
    kept = retention({"small": p[easy], "other": q[easy]}, {"small": q[easy], "other": q[easy] * 0.9}, rng, 200)
    return report(plan, found, sources, retention=kept, diversity=DIVERSITY, curriculum=CURRICULUM, commit="0a1b2c3")


def _measured(plan: Plan, problems: list[Problem], p: np.ndarray, q: np.ndarray, rng: np.random.Generator) -> Measured:
    n, allowed = plan.trained_draws, plan.suite.eligible(problems, plan.budget)
    eligible = np.array([allowed[x.stratum] for x in problems])

    def counts(rates: np.ndarray) -> list[Count]:
        return [Count(row.astype(int).tolist(), 40 * n) for row in rng.random((len(rates), n)) < rates[:, None]]

    def sequences(rates: np.ndarray, wanted: list[Count], cap: int) -> list[SampleSequence]:
        made = []
        for rate, count, counted in zip(rates, wanted, eligible, strict=True):
            first = int(rng.geometric(rate)) if rate > 0 else 0
            first = first if first <= cap else 0
            drawn = counted and sum(count.right) >= plan.need
            made.append(SampleSequence(first or cap, first, 40 * (first or cap)) if drawn else SampleSequence())
        return made

    base, trained = counts(p), counts(q)
    everything = [Count([1] * n, 0)] * len(p)
    panel = {
        name: Panel(sequences(rates, everything, plan.reach), rates > 0.5, None)
        for name, rates in (("base", p), ("trained", q))
    }
    return Measured(
        panel=panel, problems=problems, eligible=eligible, trained=trained, base=base,
        configurations={"base": METHODS[0], "trained": METHODS[1]}, followed=np.ones(len(problems), bool),
        first=sequences(p, trained, plan.budget), losses=sequences(q, base, plan.budget), turns=list(METHODS[:3]),
        their_turns=list(METHODS[:3]), idle=[], reached=[""] * len(problems), envelopes=["decoding", "scaffolds"],
        envelope_of={METHODS[3]: "scaffolds"}, draws={"scaffolds": 77},
    )  # fmt: skip


_STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 160]
DIVERSITY = sc.Diversity(
    base={"format_entropy": 2.31, "answer_entropy": 1.12, "vendi": 9.1},
    trained={"format_entropy": 1.74, "answer_entropy": 0.33, "vendi": None},
    ratio={"format_entropy": (0.75, 0.65, 0.85), "answer_entropy": (0.29, 0.21, 0.37)},
    formats=sc.Formats(base={"steps": 0.44, "list": 0.46, "code": 0.1}, trained={"steps": 0.93, "code": 0.07}),
    series={"step": list(_STEPS), "format_entropy": [2.31 - 0.003 * s for s in _STEPS], "vendi": [None, *[2.0] * 9]},
    alarm="Vendi ratio 0.46 is below 0.5 on two consecutive checkpoints",
)
CURRICULUM = sc.Curriculum(
    episodes=4000, played=3000, learnable=(0.3, 0.28, 0.33), learnable_series=[0.2, 0.31, 0.45], learnability=0.1,
    solved=0.5, solved_series=[0.1], proposed=100, unique=(0.97, 0.9, 0.99), accepted=None, label_accuracy=None,
    problems=1234, depth_series=None, drift_base=None, drift_base_series=[0.1, 1.4, 3.3, 4.0],
)  # fmt: skip


def changed(value: Any, path: str, new: Any) -> Any:
    """A copy of JSON data with the value at ``a.b.0`` replaced."""
    head, _, rest = path.partition(".")
    key: Any = int(head) if isinstance(value, list) else head
    inner = changed(value[key], rest, new) if rest else new
    if isinstance(value, list):
        return [inner if i == key else v for i, v in enumerate(value)]
    return {**value, key: inner}


def data(per_family: int = 40) -> Any:
    """The report as JSON data."""
    return msgspec.json.decode(msgspec.json.encode(frontier(per_family)))


def write(folder: Path, content: Any) -> Path:
    """The folder, with this ``frontier.json`` in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frontier.json").write_bytes(msgspec.json.encode(content))
    return folder
