"""Was there something to learn in what the loop made, was it true, and did it grow harder?

Self-rated difficulty means nothing in self-play, since both players move; so difficulty is what a frozen model, or
fixed problems, say.  Sources: Rasch 1960 and Huber 1967 (logistic curve of success by level, robust variance).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import Challenge, DreamEnvsError, Episode, author_of, challenge_of, decode_episode
from dream_envs.curriculum.store import read_challenges, wilson
from dream_envs.frontier import checks
from dream_envs.frontier.schema import Curriculum, Estimate
from dream_envs.metrics.health import label_agreement, truth_of

#: Points of a series over the run.
BINS = 10
#: Problems a level that ``exact`` in ``metrics.jsonl`` is the mean of, at most.
EXACT = 64
#: Success rates, both included, of problems that are neither too hard nor too easy to learn from.
LEARNABLE = (0.2, 0.8)
_Z = 1.959963984540054
_STEPS, _STEEP = 60, 1e4


class Tally(msgspec.Struct):
    """What one pass over ``episodes.jsonl`` counts.

    ``right`` and ``tried``: an entry each time a problem was played.  ``proposed``: what the challenger itself wrote;
    ``texts``: the different ones.  ``agree``, ``compared``: scores that the run rewarded, against the truth.
    """

    episodes: int = 0
    right: list[int] = []
    tried: list[int] = []
    proposed: int = 0
    texts: set[str] = set()
    accepted: int = 0
    agree: int = 0
    compared: int = 0

    def add(self, episode: Episode) -> None:
        """Count one episode."""
        self.episodes += 1
        if author_of(episode) == "challenger" and episode.turns:
            self.proposed += 1
            self.texts.add(episode.turns[0].text)
            self.accepted += challenge_of(episode) is not None
        if challenge_of(episode) is not None and (truth := truth_of(episode)):
            self.right.append(sum(v > 0.5 for v in truth.values()))
            self.tried.append(len(truth))
        agree, compared = label_agreement(episode)
        self.agree, self.compared = self.agree + agree, self.compared + compared


def curriculum_card(run: str | Path) -> Curriculum:
    """The card of a run's folder: ``episodes.jsonl`` is needed; its other files add what they hold.

    Returns:
        None where nothing is known: ``learnable`` (share of problems, as often as they were played, with success in
        0.2 to 0.8; its series is of tenths of the run), ``learnability`` (mean p (1 - p), unbiased), ``solved``,
        ``unique`` (of the challenger's own proposals those that it had not written before), ``accepted``,
        ``label_accuracy``, ``depth_series`` (mean level of the accepted problems), ``drift_base`` (change of the frozen
        base's log-odds per step: negative is harder), ``frontier`` and its series (the level that the learner solves
        half of the time on the run's fixed problems; above ``highest_level`` it is extrapolated).

    Raises:
        DreamEnvsError: if there is no such run, or a file of it is damaged.
    """
    path = Path(run)
    if not (path / "episodes.jsonl").is_file():
        raise DreamEnvsError(f"{path}: no episodes.jsonl in it; give the folder of a run (--out of dream-envs dream)")
    tally = Tally()
    for line in _lines(path / "episodes.jsonl"):
        try:
            tally.add(decode_episode(line))
        except msgspec.DecodeError as error:
            raise DreamEnvsError(f"{path / 'episodes.jsonl'} holds a line that is no episode ({error})") from error
    made = list(read_challenges(path / "challenges.jsonl")) if (path / "challenges.jsonl").is_file() else []
    measured = _measured(_metrics(path / "metrics.jsonl"), _anchors(path / "run.json"))
    card = {**_played(tally), "problems": len(made) or None, "depth_series": _depths(made), **measured}
    return Curriculum(**{k: _plain(v) for k, v in card.items()})


def _played(tally: Tally) -> dict[str, Any]:
    right, tried = np.array(tally.right), np.array(tally.tried)
    found: dict[str, Any] = {
        "episodes": tally.episodes,
        "played": len(right),
        "proposed": tally.proposed,
        "unique": _share(len(tally.texts), tally.proposed),
        "accepted": _share(tally.accepted, tally.proposed),
        "label_accuracy": _share(tally.agree, tally.compared),
        **dict.fromkeys(("learnable", "learnable_series", "learnability", "solved", "solved_series")),
    }
    if len(right):
        tenths = [t for t in np.array_split(np.arange(len(right)), min(BINS, len(right))) if len(t)]
        rate = right / tried
        inside = (rate >= LEARNABLE[0] - 1e-12) & (rate <= LEARNABLE[1] + 1e-12)
        found |= {
            "learnable": _share(int(inside.sum()), len(inside)),
            "learnable_series": [float(inside[t].mean()) for t in tenths],
            "learnability": learnability(right, tried),
            "solved": float(right.sum() / tried.sum()),
            "solved_series": [float(right[t].sum() / tried[t].sum()) for t in tenths],
        }
    return found


def learnability(c: ArrayLike, n: ArrayLike) -> float:
    """Mean p (1 - p) without bias: c (n - c) / (n (n - 1)), of problems with two attempts or more; nan for none.

    The plain c/n (1 - c/n) is too low by a factor 1 - 1/n.
    """
    right, tried = (x.ravel().astype(np.float64) for x in checks.successes(c, n))
    kept = tried > 1
    right, tried = right[kept], tried[kept]
    return float((right * (tried - right) / (tried * (tried - 1))).mean()) if kept.any() else math.nan


def _depths(made: Sequence[Challenge]) -> list[float] | None:
    levels = np.array([c.level for c in made], dtype=np.float64)
    return [float(t.mean()) for t in np.array_split(levels, min(BINS, len(levels))) if len(t)] if len(levels) else None


def _anchors(path: Path) -> int:
    """How many fixed problems a level the run was measured on (64 if it has them)."""
    try:
        config = msgspec.json.decode(path.read_bytes())["config"] if path.is_file() else {}
        return max(1, min(EXACT, int(config.get("per_depth", EXACT))))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DreamEnvsError(f"{path} is no run.json ({error!r:.60}): restore it from a copy") from error


def _measured(rows: Sequence[Mapping[str, Any]], anchors: int) -> dict[str, Any]:
    """What the run measured as it went: the frozen base's drift and the success by level on fixed problems."""
    drift = [(r["step"], _logit(-float(r["drift"]))) for r in rows if r.get("drift") is not None and "step" in r]
    keys = ("drift_base", "drift_base_series", "frontier", "frontier_series", "highest_level")
    found: dict[str, Any] = dict.fromkeys(keys)
    if drift:
        found["drift_base"] = linear_drift([s for s, _ in drift], [v for _, v in drift])
        found["drift_base_series"] = [v for _, v in drift]
    exact = [r["exact"] for r in rows if isinstance(r.get("exact"), dict) and len(r["exact"]) > 2]
    if exact:
        means = [np.clip([float(v) for v in e.values()], 0.0, 1.0) for e in exact]
        fits = [frontier_level([float(k) for k in e], m, anchors) for e, m in zip(exact, means, strict=True)]
        found["highest_level"] = max(int(k) for k in exact[-1])
        found["frontier"] = fits[-1]
        found["frontier_series"] = [f[0] if f else None for f in fits]
    return found


def _logit(log10_p: float) -> float:
    """Log-odds of a probability given by its log10, also where it is tiny."""
    log_p = min(log10_p * math.log(10), -1e-12)
    return log_p - math.log(-math.expm1(log_p))


def linear_drift(steps: ArrayLike, values: ArrayLike) -> Estimate | None:
    """Least-squares slope of ``values`` per step with its 95 % t interval; None below three different steps.

    Neighbouring steps share problems and models, which the interval does not know: read it as a summary of the course.
    """
    from scipy.special import stdtrit

    x, y = checks.numbers("steps", steps, ndim=1), checks.numbers("values", values, ndim=1)
    if len(np.unique(x)) < 3:
        return None
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread
    rest = y - y.mean() - slope * centred
    half = float(stdtrit(len(x) - 2, 0.975)) * math.sqrt(float((rest**2).sum()) / (len(x) - 2) / spread)
    return slope, slope - half, slope + half


def frontier_level(levels: ArrayLike, shares: ArrayLike, n: int) -> Estimate | None:
    """The level that a model solves half of the time: p = 1 / (1 + exp(-slope (ability - level))), both estimated.

    Args:
        levels: ``float[L]``.
        shares: ``float[L]`` success, 0 to 1; exact probabilities too.
        n: fixed problems a level that they stand for.

    Returns:
        Value, low, high (95 %, robust to levels that deviate from the curve); None if everything or nothing was solved,
        or if success does not fall with the level.
    """
    x, p = checks.numbers("levels", levels, ndim=1), checks.numbers("shares", shares, 0, 1, ndim=1)
    fit = _logistic(x, p, np.full(len(x), float(n)))
    if fit is None or fit[0][1] >= 0:
        return None
    (a, b), cov = fit
    value, gradient = -a / b, np.array([-1 / b, a / b**2])
    half = _Z * math.sqrt(max(0.0, float(gradient @ cov @ gradient)))
    return value, value - half, value + half


def _logistic(x: np.ndarray, shares: np.ndarray, tried: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Intercept and slope with the larger of model and sandwich covariance; None if they are not determined."""
    scale = float(np.ptp(x))
    if scale == 0 or not 0 < (shares * tried).sum() < tried.sum():
        return None
    design = np.stack([np.ones_like(x), (x - x.mean()) / scale], axis=1)
    beta = np.zeros(2)
    for _ in range(_STEPS):
        p = 0.5 * (1 + np.tanh(design @ beta / 2))
        weight = tried * p * (1 - p)
        information = design.T @ (weight[:, None] * design)
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, design.T @ (tried * (shares - p)))
        step *= min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        beta = beta + step
        if np.abs(beta).max() > _STEEP:
            return None
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    inverse = np.linalg.inv(information)
    scores = (tried * (shares - p))[:, None] * design
    robust = inverse @ (scores.T @ scores) @ inverse
    cov = robust if robust[1, 1] > inverse[1, 1] else inverse
    turn = np.array([[1.0, -x.mean() / scale], [0.0, 1.0 / scale]])
    return turn @ beta, turn @ cov @ turn.T


def _share(count: int, n: int) -> Estimate | None:
    """Share with its Wilson interval, None of nothing."""
    if not n:
        return None
    found = wilson(count, n)
    return found.p, found.low, found.high


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(float(value), 6) if math.isfinite(value) else None
    return type(value)(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def _lines(path: Path) -> Iterator[bytes]:
    """Finished lines; a last one that a kill cut short is left out."""
    if path.is_file():
        with open(path, "rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def _metrics(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [msgspec.json.decode(line) for line in _lines(path)]
    except msgspec.DecodeError as error:
        raise DreamEnvsError(f"{path} holds a line that is not JSON ({error}): restore it from a copy") from error
    return [row for row in rows if isinstance(row, dict)]
