"""Was there something to learn in what the loop made, was it true, and did it grow harder?

Self-rated difficulty means nothing in self-play, since both players move: difficulty is what a frozen model says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError, Episode, author_of, challenge_of
from dream_envs.curriculum.store import read_challenges, share
from dream_envs.frontier.schema import Curriculum, Estimate
from dream_envs.metrics.diversity import rounded
from dream_envs.metrics.rounds import label_agreement, read_rows, truth_of
from dream_envs.play import read_episodes

#: Points of a series over the run.
BINS = 10
#: Success rates, both included, of problems that are neither too hard nor too easy to learn from.
LEARNABLE = (0.2, 0.8)
#: In ``metrics.jsonl``: mean -log10 of the frozen base's success on the newest problems.
DRIFT = "curriculum/drift"


def curriculum_card(run: str | Path) -> Curriculum:
    """The card of a run's folder: ``episodes.jsonl`` is needed; its other files add what they hold.

    Returns:
        None where nothing is known: ``learnable`` (share of problems, as often as they were played, with success in
        0.2 to 0.8; its series is of tenths of the run), ``learnability`` (mean p (1 - p), unbiased), ``solved``,
        ``unique`` (of the challenger's own proposals those that it had not written before), ``accepted``,
        ``label_accuracy``, ``depth_series`` (mean level of the accepted problems), ``drift_base`` (change of the frozen
        base's log-odds per step: negative is harder).

    Raises:
        DreamEnvsError: if there is no such run, or a file of it is damaged.
    """
    path = Path(run)
    episodes, challenges = path / "episodes.jsonl", path / "challenges.jsonl"
    if not episodes.is_file():
        raise DreamEnvsError(f"{path}: no episodes.jsonl in it; give the folder of a run (--out of dream-envs dream)")
    try:
        card = _played(read_episodes(episodes))
    except msgspec.DecodeError as error:
        raise DreamEnvsError(f"{episodes} holds a line that is no episode ({error})") from error
    levels = [c.level for c in read_challenges(challenges)] if challenges.is_file() else []
    drift = [(r["step"], _logit(-float(r[DRIFT]))) for r in read_rows(path) if r.get(DRIFT) is not None]
    card |= {
        "problems": len(levels) or None,
        "depth_series": [float(t.mean()) for t in _tenths(np.array(levels, dtype=np.float64))] or None,
        "drift_base": linear_drift(drift),
        "drift_base_series": [v for _, v in drift] or None,
    }
    return Curriculum(**rounded(card))


def _played(episodes: Iterable[Episode]) -> dict[str, Any]:
    """What one pass over the episodes counts."""
    count, texts = 0, set[str]()
    accepted, agree, played = list[bool](), list[bool](), list[tuple[int, int]]()
    for episode in episodes:
        count += 1
        made = challenge_of(episode) is not None
        if author_of(episode) == "challenger" and episode.turns:
            accepted.append(made)
            texts.add(episode.turns[0].text)
        if made and (truth := truth_of(episode)):
            played.append((sum(v > 0.5 for v in truth.values()), len(truth)))
        agree += label_agreement(episode)
    found: dict[str, Any] = {
        "episodes": count,
        "played": len(played),
        "proposed": len(accepted),
        "unique": share(len(texts), len(accepted)),
        "accepted": share(sum(accepted), len(accepted)),
        "label_accuracy": share(sum(agree), len(agree)),
        **dict.fromkeys(("learnable", "learnable_series", "learnability", "solved", "solved_series")),
    }
    if played:
        table = np.array(played)
        rate = table[:, 0] / table[:, 1]
        inside = (rate >= LEARNABLE[0] - 1e-12) & (rate <= LEARNABLE[1] + 1e-12)
        found |= {
            "learnable": share(int(inside.sum()), len(inside)),
            "learnable_series": [float(t.mean()) for t in _tenths(inside)],
            "learnability": learnability(*table.T),
            "solved": float(table[:, 0].sum() / table[:, 1].sum()),
            "solved_series": [float(t[:, 0].sum() / t[:, 1].sum()) for t in _tenths(table)],
        }
    return found


def _tenths(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, min(BINS, len(rows))) if len(rows) else []


def learnability(c: ArrayLike, n: ArrayLike) -> float:
    """Mean p (1 - p) without bias: c (n - c) / (n (n - 1)), of problems with two attempts or more; nan for none.

    The plain c/n (1 - c/n) is too low by a factor 1 - 1/n.
    """
    right, tried = np.broadcast_arrays(np.asarray(c, dtype=np.float64), n)
    right, tried = right[tried > 1], tried[tried > 1]
    return float((right * (tried - right) / (tried * (tried - 1))).mean()) if len(tried) else math.nan


def _logit(log10_p: float) -> float:
    """Log-odds of a probability given by its log10, also where it is tiny."""
    log_p = min(log10_p * math.log(10), -1e-12)
    return log_p - math.log(-math.expm1(log_p))


def linear_drift(points: Sequence[tuple[float, float]]) -> Estimate | None:
    """Least-squares slope of (step, value) with its 95 % t interval; None below three different steps.

    Neighbouring steps share problems and models, which the interval does not know: read it as a summary of the course.
    """
    from scipy.special import stdtrit

    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if len(np.unique(x)) < 3:
        return None
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread
    rest = y - y.mean() - slope * centred
    half = float(stdtrit(len(x) - 2, 0.975)) * math.sqrt(float((rest**2).sum()) / (len(x) - 2) / spread)
    return slope, slope - half, slope + half
