"""What a model could do before and should still do: the accuracy matrix, backward and forward transfer.

Input are per-problem scores, 0 to 1, on one frozen set of problems (``probes``): ``stages[name][suite]`` is
``float[N_suite]``, the stages in the order they happened, the base first.  Every interval resamples problems, paired
over stages.

Backward transfer is the mean over suites of (score at the end - best score before); its largest earlier score is chosen
again in each resample.  That maximum over noisy stages is biased upwards, so BWT is, if anything, too low.  Sources:
Lopez-Paz and Ranzato 2017 (transfer); Chaudhry et al. 2018 (forgetting is measured against the best, not the last).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import _checks
from dream_envs.frontier.intervals import bootstrap_means, rule_of_three

Stages = Mapping[str, Mapping[str, ArrayLike]]
#: A suite that fell is flagged unless a loss of so much can be excluded at 95 % (one-sided): 1 point.
MARGIN = 0.01


def retention(
    stages: Stages, rng: np.random.Generator, *, learned: Mapping[str, int] | None = None, draws: int = 10_000
) -> dict[str, Any]:
    """The ``retention`` block of ``frontier.json``.

    Args:
        stages: scores by stage and suite; at least two stages, all with the same suites and problems.
        rng: resampling.
        learned: for forward transfer, the index of the stage that first trained on a suite; a suite that is not named
            was never trained on.  None: forward transfer is not measured.
        draws: resamples.

    Returns:
        ``suites``: name, before (the best earlier stage's mean), after, gain (value and 95 % interval, shares), flag
        (the gain is negative and its lower one-sided 95 % bound below -1 point: more than that may be lost) and
        ``lost`` (the upper one is below 0: a loss is shown).  ``matrix``: rows (stages), columns (suites), values
        (means).  ``bwt``, ``fwt``: value, low, high; ``fwt`` None without ``learned`` or where no suite has a stage
        before its training.  ``flag``: the same rule on ``bwt``.

    Raises:
        DreamEnvsError: for stages that do not fit together, or scores that are not 0 to 1.
    """
    table = _tables(stages)
    names, rows = list(table), list(stages)
    means = {s: _resampled(table[s], rng, draws) for s in names}
    suites: list[dict[str, Any]] = []
    gains = []
    for name in names:
        values = table[name].mean(0)
        resampled = means[name][:, -1] - means[name][:, :-1].max(1)
        gains.append(resampled)
        best = int(values[:-1].argmax())
        gain = _gain(values[-1] - values[best], resampled, table[name][:, -1] - table[name][:, best])
        lower, upper = np.quantile(resampled, (0.05, 0.95))
        suites.append(
            {
                "name": name,
                "before": round(float(values[best]), 6),
                "after": round(float(values[-1]), 6),
                "gain": gain,
                "flag": bool(gain[0] < 0 and lower < -MARGIN),
                "lost": bool(upper < 0),
            }
        )
    bwt, flag = _mean_of([s["gain"] for s in suites], gains)
    values = [[round(float(table[s][:, i].mean()), 6) for s in names] for i in range(len(rows))]
    return {
        "suites": suites,
        "matrix": {"rows": rows, "columns": names, "values": values},
        "bwt": bwt,
        "fwt": None if learned is None else _forward(table, means, learned),
        "flag": flag,
    }


def _gain(value: float, resampled: np.ndarray, differences: np.ndarray) -> list[float]:
    """Value, low, high; where no problem changed, zero events bound the change by the rule of three, not by 0."""
    if not differences.any() and not resampled.any():
        bound = round(rule_of_three(len(differences), 0.975), 6)
        return [0.0, -bound, bound]
    return [round(float(x), 6) for x in (value, *np.quantile(resampled, (0.025, 0.975)))]


def _mean_of(suites: Sequence[list[float]], resampled: Sequence[np.ndarray]) -> tuple[list[float], bool]:
    """The mean over suites with its interval, and whether it is flagged."""
    value, total = float(np.mean([g[0] for g in suites])), np.mean(resampled, axis=0)
    if not total.any():  # nothing changed anywhere: the mean of the suites' own bounds
        return [round(float(x), 6) for x in np.mean(suites, axis=0)], False
    ends = [round(float(x), 6) for x in (value, *np.quantile(total, (0.025, 0.975)))]
    return ends, bool(value < 0 and np.quantile(total, 0.05) < -MARGIN)


def _forward(
    table: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray], learned: Mapping[str, int]
) -> list[float] | None:
    """Mean over suites of (score just before its own training, or at the end if it has none, - score of the base)."""
    count = next(iter(table.values())).shape[1]
    if unknown := set(learned) - set(table):
        raise DreamEnvsError(f"learned names {sorted(unknown)}: the suites are {', '.join(table)}")
    for suite, stage in learned.items():
        _checks.whole(f"learned[{suite!r}]", stage, 1, count - 1)
    ends = {s: learned.get(s, count) - 1 for s in table}
    there = [s for s, end in ends.items() if end >= 1]
    if not there:
        return None
    value = np.mean([table[s].mean(0)[ends[s]] - table[s].mean(0)[0] for s in there])
    resampled = np.mean([means[s][:, ends[s]] - means[s][:, 0] for s in there], axis=0)
    return [round(float(x), 6) for x in (value, *np.quantile(resampled, (0.025, 0.975)))]


def _resampled(scores: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """``float64[draws, stages]`` means of resampled problems, the same ones in every stage."""
    return bootstrap_means(scores, rng, draws=draws)


def _tables(stages: Stages) -> dict[str, np.ndarray]:
    """``float64[N, stages]`` by suite."""
    if len(stages) < 2:
        raise DreamEnvsError(f"{len(stages)} stages: retention needs two or more, the base first")
    first_name, first = next(iter(stages.items()))
    if not first:
        raise DreamEnvsError(f"stage {first_name!r} has no suites: at least one")
    columns: dict[str, list[np.ndarray]] = {s: [] for s in first}
    for stage, suites in stages.items():
        if set(suites) != set(first):
            differing = sorted(set(suites) ^ set(first))
            raise DreamEnvsError(
                f"stage {stage!r} and {first_name!r} differ in {', '.join(differing)}: score all suites"
            )
        for suite, values in suites.items():
            scores = _checks.numbers(f"{stage}/{suite}", values, 0.0, 1.0, 1)
            if columns[suite] and len(scores) != len(columns[suite][0]):
                there = len(columns[suite][0])
                raise DreamEnvsError(f"{stage}/{suite} has {len(scores)} scores, {first_name} {there}: score the same")
            columns[suite].append(scores)
    return {suite: np.stack(values, axis=1) for suite, values in columns.items()}


def lessons(episodes: Sequence[Any]) -> dict[str, Any] | None:
    """What the newest episode of lessons says is left of each after each night; None if there is none.

    The facts of ``SleepCycle`` without single questions and dreams, success by level (``levels``: awake, closed book
    after the lesson's own night, and after the last), and a ``verdict`` in one sentence.
    """
    facts = next((e.outcome.facts for e in reversed(episodes) if "closed" in e.outcome.facts), None)
    if facts is None or not facts["closed"]:
        return None
    kept = {k: v for k, v in facts.items() if k not in ("questions", "dreams")}
    own = sum(row[i] for i, row in enumerate(facts["closed"])) / len(facts["closed"])
    return {
        **kept,
        "levels": _by_level(facts["questions"]),
        "verdict": (
            f"Of {sum(facts['open']) / len(facts['open']):.2f} in context, {own:.2f} is known closed book after a "
            f"lesson's own night and {facts['average_accuracy']:.2f} after the last one, mean of "
            f"{len(facts['closed'])} lessons; one run, no interval."
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
