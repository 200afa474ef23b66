"""From the runs of the echo study to its table and its verdict.

The claim (Zhao et al., arXiv 2504.07912): training by reward lets one of the formats of the pre-training mixture win
within the first epoch, at the time of the largest gain in accuracy.  A format has *won* when nine replies in ten have
it.  ``verdict`` fixes what counts as confirmed and what as refuted; it was written before the study was run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dream_envs.baselines.studies.echo_task import FORMATS
from dream_envs.core import DreamEnvsError

WON = 0.9
#: Steps over which a training series is averaged, centred: a step's 256 replies alone cross a line by chance.
WINDOW = 5
#: A share of a smaller gain in accuracy than this would be noise over noise.
LEAST_GAIN = 0.05


def t_interval(values: Sequence[float], level: float = 0.95) -> list[float]:
    """Mean and Student's t interval over runs.

    Returns:
        ``[mean, low, high]``; the ends are nan for fewer than two runs.

    Raises:
        DreamEnvsError: for no value or one that is not finite.
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    if not x.size or not np.isfinite(x).all():
        raise DreamEnvsError(f"t_interval of {list(values)!r:.80}: one finite value or more")
    mean = float(x.mean())
    if len(x) < 2:
        return [mean, math.nan, math.nan]
    half = float(t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return [mean, mean - half, mean + half]


def smooth(series: Sequence[float], window: int = WINDOW) -> np.ndarray:
    """Centred mean over ``window`` steps, over fewer at the ends."""
    x, half = np.asarray(series, dtype=np.float64), window // 2
    total = np.concatenate([[0.0], np.cumsum(x)])
    low = np.maximum(np.arange(len(x)) - half, 0)
    high = np.minimum(np.arange(len(x)) + half + 1, len(x))
    return (total[high] - total[low]) / (high - low)


def first(condition: np.ndarray, steps: Sequence[int]) -> int | None:
    """The first step at which the condition holds."""
    found = np.flatnonzero(condition)
    return int(steps[found[0]]) if len(found) else None


def at(exams: Sequence[dict[str, Any]], key: str, step: float) -> float:
    """An exam's number at a step between two exams, by linear interpolation."""
    return float(np.interp(step, [e["step"] for e in exams], [e[key] for e in exams]))


def derive(run: dict[str, Any]) -> dict[str, Any]:
    """What one run shows.

    Args:
        run: the content of its ``echo.json``.

    Returns:
        ``base_best`` and ``base_majority`` (formats), ``winner`` (the commonest format at the end) with its ``share``,
        ``won_step`` and ``half_step`` (None: not within the run), the same in epochs, ``epoch_share`` (the winner's
        share in the exam at the end of the first epoch), ``gain_by_half`` and ``gain_by_epoch`` (shares of the gain in
        accuracy made by then; None for a gain below ``LEAST_GAIN``), ``gain_by_choice`` (see there), and the exams
        before and after.
    """
    exams, rounds, epoch = run["exams"], run["rounds"], run["epoch_steps"]
    before, after = exams[0], exams[-1]
    winner = max(FORMATS, key=lambda f: after["share"][f])
    won = first(smooth(rounds["share"][winner]) >= WON, rounds["step"])
    half = first(smooth(rounds["entropy"]) <= before["entropy"] / 2, rounds["step"])
    gain = after["accuracy"] - before["accuracy"]
    shares = [{"step": e["step"], "share": e["share"][winner]} for e in exams]

    def made(step: int | None) -> float | None:
        return None if step is None or gain < LEAST_GAIN else (at(exams, "accuracy", step) - before["accuracy"]) / gain

    return {
        "base_best": max(FORMATS, key=lambda f: before["accuracy_in"][f] or 0.0),
        "base_majority": max(FORMATS, key=lambda f: before["share"][f]),
        "winner": winner,
        "share": after["share"][winner],
        "won_step": won,
        "won_epochs": None if won is None else won / epoch,
        "half_step": half,
        "half_epochs": None if half is None else half / epoch,
        "epoch_share": at(shares, "share", epoch),
        "epoch_entropy": at(exams, "entropy", epoch),
        "gain": gain,
        "gain_by_half": made(half),
        "gain_by_epoch": made(epoch),
        "gain_by_choice": by_choice(before, after),
        "before": before,
        "after": after,
    }


def by_choice(before: dict[str, Any], after: dict[str, Any]) -> float | None:
    """Share of the gain that the choice of formats alone explains: the new shares at the old accuracies in each.

    The rest is better answers within the formats.  None for a gain below ``LEAST_GAIN``.
    """
    gain = after["accuracy"] - before["accuracy"]
    chosen = sum(after["share"][f] * (before["accuracy_in"][f] or 0.0) for f in FORMATS)
    return (chosen - before["accuracy"]) / gain if gain >= LEAST_GAIN else None


def over(found: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean and interval over the runs that have the value, and how many those are; None if none has."""
    known = [v for v in found if v is not None]
    return {"interval": t_interval(known), "runs": len(known), "of": len(found)} if known else None


def cell(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All seeds of one base and one coefficient: means with intervals, the series, the word."""
    facts = [derive(r) for r in runs]
    winners = Counter(f["winner"] for f in facts)
    found: dict[str, Any] = {
        "base": runs[0]["settings"]["base"],
        "kl": runs[0]["settings"]["kl"],
        "seeds": [r["settings"]["seed"] for r in runs],
        "winners": dict(winners.most_common()),
        "base_best": facts[0]["base_best"],
        "base_majority": facts[0]["base_majority"],
        "won_in_first_epoch": sum(f["won_epochs"] is not None and f["won_epochs"] <= 1 for f in facts),
        **{k: over([f[k] for f in facts]) for k in ("won_step", "won_epochs", "half_step", "half_epochs")},
        **{k: over([f[k] for f in facts]) for k in ("share", "epoch_share", "epoch_entropy", "gain")},
        **{k: over([f[k] for f in facts]) for k in ("gain_by_half", "gain_by_epoch", "gain_by_choice")},
    }
    for name in ("before", "after"):
        found[name] = _exam([f[name] for f in facts])
    found["series"] = _series(runs)
    found["word"] = word(found)
    return found


def _exam(exams: Sequence[dict[str, Any]]) -> dict[str, Any]:
    flat = ("accuracy", "entropy", "effective", "simpson", "js", "kl", "group_std", "incomplete")
    return {
        **{k: over([e[k] for e in exams]) for k in flat},
        **{k: {i: over([e[k][i] for e in exams]) for i in exams[0][k]} for k in ("pass@k", "majority@k")},
        "share": {f: over([e["share"][f] for e in exams]) for f in exams[0]["share"]},
        "accuracy_in": {f: over([e["accuracy_in"][f] for e in exams]) for f in FORMATS},
        "greedy_accuracy": over([e["greedy"]["accuracy"] for e in exams]),
        "greedy_gap": over([e["greedy"]["gap"] for e in exams]),
        "greedy_share": {f: over([e["greedy"]["share"][f] for e in exams]) for f in exams[0]["share"]},
    }


def _series(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Columns by exam step: interval triples of entropy, accuracy, divergence and of each format's share."""
    steps = [e["step"] for e in runs[0]["exams"]]
    rows = [[r["exams"][i] for r in runs] for i in range(len(steps))]
    return {
        "step": steps,
        **{k: [t_interval([e[k] for e in row]) for row in rows] for k in ("entropy", "accuracy", "kl", "js")},
        "share": {f: [t_interval([e["share"][f] for e in row]) for row in rows] for f in runs[0]["exams"][0]["share"]},
    }


def word(found: dict[str, Any]) -> str:
    """``confirmed``, ``refuted`` or ``mixed`` for one base and coefficient.

    Confirmed: in every run the same format won, and the interval of when it did lies within the first epoch.
    Refuted: no format won in at least half of the runs, or the interval of when lies past the first epoch.
    """
    won = found["won_epochs"]
    if won is None or won["runs"] * 2 <= won["of"]:
        return "refuted"
    _, low, high = won["interval"]
    if low > 1:
        return "refuted"
    return "confirmed" if won["runs"] == won["of"] and len(found["winners"]) == 1 and high <= 1 else "mixed"


def verdict(cells: Sequence[dict[str, Any]]) -> str:
    """The word for the whole study: that of all its cells if they agree, else ``mixed``."""
    words = {c["word"] for c in cells}
    return words.pop() if len(words) == 1 else "mixed"


def paired(cells: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Effect of the coefficient: an exam's last number minus that of the same seed at the smallest coefficient."""
    found = []
    for c in cells:
        mine = {r["settings"]["seed"]: r for r in runs if _where(r) == (c["base"], c["kl"])}
        least = min(x["kl"] for x in cells if x["base"] == c["base"])
        other = {r["settings"]["seed"]: r for r in runs if _where(r) == (c["base"], least)}
        both = sorted(mine.keys() & other.keys())
        if c["kl"] > least and both:
            values = [mine[s]["exams"][-1][key] - other[s]["exams"][-1][key] for s in both]
            row = {"base": c["base"], "kl": c["kl"], "against": least, "difference": t_interval(values)}
            found.append({**row, "runs": len(both)})
    return found


def _where(run: dict[str, Any]) -> tuple[str, float]:
    return run["settings"]["base"], run["settings"]["kl"]


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole study, JSON-ready.

    Raises:
        DreamEnvsError: without a single finished run.
    """
    if not runs:
        raise DreamEnvsError("no finished run: nothing to sum up")
    places = sorted({_where(r) for r in runs})
    cells = [cell([r for r in runs if _where(r) == p]) for p in places]
    settings = {k: v for k, v in runs[0]["settings"].items() if k not in ("base", "kl", "seed")}
    return {
        "schema": 1,
        "kind": "echo_study",
        "settings": settings,
        "epoch_steps": runs[0]["epoch_steps"],
        "chance": runs[0]["chance"],
        "weights_hash": {r["settings"]["base"]: r["weights_hash"] for r in runs},
        "cells": cells,
        "effect_of_kl": {k: paired(cells, runs, k) for k in ("entropy", "accuracy", "effective")},
        "verdict": verdict(cells),
        "seconds": round(sum(r["seconds"] for r in runs), 1),
    }
