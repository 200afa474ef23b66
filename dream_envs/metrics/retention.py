"""What a model could do before and should still do: paired success before and after, with what losses are not excluded.

Sources: Lopez-Paz and Ranzato 2017 (backward transfer); no change at all is bounded as no event in so many problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.frontier import checks
from dream_envs.frontier.intervals import bootstrap_means, share_interval
from dream_envs.frontier.schema import Estimate, Kept, Retention
from dream_envs.metrics.diversity import rounded

#: Both ends of a 95 % interval.
TAILS = (0.025, 0.975)
#: A suite that fell is flagged unless a loss of so much can be excluded at 95 % (one-sided): 1 point.
MARGIN = 0.01
#: Facts of an episode that are single rows and not measures.
ROWS = frozenset({"questions", "dreams", "experiments", "practice", "verdicts"})


def retention(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike], rng: np.random.Generator, draws: int = 10_000
) -> Retention:
    """The change of each suite and of their mean; intervals resample problems, paired over the two models.

    Args:
        before: scores of the base, 0 to 1: ``float[N_suite]`` by suite, one suite at least.
        after: those of the trained model on the same problems.
        rng: resampling.
        draws: resamples.

    Returns:
        A suite is flagged where the gain is negative and its lower one-sided 95 % bound below -1 point (more than that
        may be lost), and ``lost`` where the upper one is below 0 (a loss is shown).
    """
    suites, gains = [], []
    for name in before:
        scores = np.stack([checks.numbers(name, x[name], 0.0, 1.0, 1) for x in (before, after)], axis=1)
        means = bootstrap_means(scores, rng, draws=draws)
        resampled, (was, now) = means[:, 1] - means[:, 0], scores.mean(0)
        gains.append(resampled)
        gain: Estimate = rounded((now - was, *np.quantile(resampled, TAILS)))
        if (scores[:, 0] == scores[:, 1]).all():  # no event in so many is no certainty
            bound = rounded(share_interval(np.zeros(len(scores)))[2])
            gain = 0.0, -bound, bound
        lower, upper = np.quantile(resampled, (0.05, 0.95))
        flag = bool(gain[0] < 0 and lower < -MARGIN)
        suites.append(Kept(name, rounded(was), rounded(now), gain, flag, lost=bool(upper < 0)))
    value, total = float(np.mean([s.gain[0] for s in suites])), np.mean(gains, axis=0)
    own = np.array([s.gain for s in suites], dtype=float)  # where nothing changed anywhere
    mean = (value, *np.quantile(total, TAILS)) if total.any() else tuple(own.mean(0))
    flag = bool(value < 0 and np.quantile(total, 0.05) < -MARGIN)
    return Retention(suites=suites, mean=rounded(mean), flag=flag)


def lessons(episodes: Sequence[Any]) -> dict[str, Any] | None:
    """What the newest episode of lessons says is left of each after each night; None if there is none.

    The facts of ``SleepCycle`` or ``Discovery`` without single rows, success by level (``levels``: awake, closed book
    after the lesson's own night, and after the last), and a ``verdict`` in one sentence.
    """
    facts = next((e.outcome.facts for e in reversed(episodes) if "closed" in e.outcome.facts), None)
    if facts is None or not facts["closed"]:
        return None
    opened, own = (
        [v for v in values if v is not None]
        for values in (facts["open"], (row[i] for i, row in enumerate(facts["closed"])))
    )
    told = f"Of {fmean(opened):.2f} in context, " if opened else ""
    after = f"and {facts['average_accuracy']:.2f} after the last one" if facts["average_accuracy"] is not None else ""
    return {
        **{k: v for k, v in facts.items() if k not in ROWS},
        "levels": _by_level(facts["questions"]),
        "verdict": (
            f"{told}{fmean(own):.2f} is known closed book after a lesson's own night {after}, mean of "
            f"{len(facts['closed'])} lessons; one run, no interval."
            if own
            else "No question was answered closed book."
        ),
    }


def _by_level(questions: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    last = max(q["night"] for q in questions)
    found: dict[str, dict[str, float]] = {}
    for level in sorted({q["level"] for q in questions}):
        own = [q for q in questions if q["level"] == level and q["value"] is not None]
        parts = {
            "open": [q["value"] for q in own if q["phase"] == "wake"],
            "closed": [q["value"] for q in own if q["phase"] == "recall" and q["night"] == q["lesson"]],
            "last": [q["value"] for q in own if q["phase"] == "recall" and q["night"] == last],
        }
        found[str(level)] = {name: sum(values) / len(values) for name, values in parts.items() if values}
    return found
