"""What a Frontier Report would cost, from a pilot: ``dream-envs frontier plan``, before anything is spent."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from dream_envs.baselines.frontier import job
from dream_envs.baselines.frontier.elicited import Elicited, Model, load_model
from dream_envs.frontier import methods
from dream_envs.frontier.draws import SampleCache
from dream_envs.frontier.protocol import ATOM_DRAWS, DEV_DRAWS, TRAINING_DRAWS
from dream_envs.frontier.suite import Problem, Suite

#: Problems of the pilot, and completions of each model where one call takes no more.
PILOT = 64


class Step(msgspec.Struct, frozen=True):
    """A step of the protocol: most completions, tokens and hours; ``side`` samples them."""

    name: str
    side: str
    completions: int
    tokens: int
    hours: float


class Cost(msgspec.Struct, frozen=True):
    """The steps, and what the pilot on ``problems`` saw of each model: share right, tokens and seconds a completion."""

    steps: list[Step]
    problems: int
    right: dict[str, float]
    tokens: dict[str, float]
    seconds: dict[str, float]


def plan(base: str, trained: str, options: job.Options, device: str = "cpu") -> Cost:
    """Upper bounds from ``PILOT`` completions of each model; early stopping, and what is solved early, only save.

    ``base``, ``trained``: names or folders, as for ``job.run``.
    """
    after = load_model(trained, device)
    before = load_model(base or (after.began[0] if after.began else "nano/compose"), device)
    chosen, specs = job.plan_of(options)
    problems = chosen.suite.problems("development", -(-PILOT // len(chosen.suite.strata)))[:PILOT]
    right, tokens, seconds = dict[str, float](), dict[str, float](), dict[str, float]()
    for side, model in (("base", before), ("trained", after)):
        right[side], tokens[side], seconds[side] = _pilot(chosen.suite, model, problems, specs[0], options, side)
    n = len(chosen.suite.strata) * chosen.per_stratum
    ways = {e: sum(s.envelope == e for s in specs) for e in methods.ENVELOPES}
    dev = chosen.dev * len(chosen.suite.strata) * DEV_DRAWS
    reliable, k = round(n * right["trained"]), chosen.budget
    survivors = min(chosen.follow or n, reliable)
    fixed = (chosen.trained_draws + chosen.reach + 1 + ATOM_DRAWS) * n
    counts = [
        ("development problems", "base", dev * (ways["decoding"] + ways["scaffolds"])),
        ("development problems", "trained", dev * ways["decoding"]),
        ("fixed samples and the panel", "base", fixed),
        ("fixed samples and the panel", "trained", fixed),
        ("in turn, to the stage", "base", chosen.stage * reliable),
        ("in turn, to K", "base", (k - chosen.stage) * survivors),
        ("losses", "trained", k * round(n * right["base"])),
        ("scaffolds, to K attempts", "base", k * survivors if ways["scaffolds"] else 0),
        ("training, by each copy", "base", TRAINING_DRAWS * ways["training"] * survivors),
    ]
    steps = [
        Step(name, side, count, round(count * tokens[side]), count * seconds[side] / 3600)
        for name, side, count in counts
        if count
    ]
    return Cost(steps, len(problems), right, tokens, seconds)


def _pilot(
    suite: Suite, model: Model, problems: Sequence[Problem], spec: methods.MethodSpec, options: job.Options, side: str
) -> tuple[float, float, float]:
    """Share right, tokens and seconds a completion, in one call as large as a report's are; the first one warms up."""
    method, cache = Elicited(suite, model).method(spec), SampleCache(None, side, job.rows_of(model, options))
    cache.count(method, problems[:1], 1)
    draws, began = max(1, cache.rows // len(problems)), time.perf_counter()
    found = cache.count(method, problems, draws)
    count, spent = draws * len(problems), time.perf_counter() - began
    return sum(sum(c.right) for c in found) / count, sum(c.tokens for c in found) / count, spent / count


def total(found: Cost) -> Step:
    """The sum of all steps."""
    sums = [sum(of) for of in zip(*((s.completions, s.tokens, s.hours) for s in found.steps), strict=True)]
    return Step("in all, at most", "", *sums)
