"""The curriculum card: was there something to learn in what the loop made, was it true, and did it grow harder?

``curriculum_card`` reads a run's folder and makes the ``curriculum`` block of ``frontier.json``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import AgentLike, Challenge, DreamEnvsError, Episode, TaskFamily, decode_episode
from dream_envs.curriculum.curriculum import author_of, challenge_of
from dream_envs.curriculum.store import read_challenges, wilson
from dream_envs.frontier import _checks
from dream_envs.frontier.difficulty import band_share, frontier_level, learnability, linear_drift, logit_drift
from dream_envs.metrics.health import label_agreement, truth_of
from dream_envs.metrics.probes import Probe, ProbeSet, draw

#: Points of a series over the run.
BINS = 10
#: Problems a level that ``exact`` in ``metrics.jsonl`` is the mean of.
EXACT = 64


class Tally(msgspec.Struct):
    """What one pass over ``episodes.jsonl`` counts.

    ``right`` and ``tried``: an entry each time a problem was played.  ``proposed``: what the challenger itself wrote;
    ``texts``: the different ones.  ``agree``, ``compared``: scores that the run believed, against the truth.
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


def curriculum_card(
    run: str | Path,
    *,
    family: TaskFamily | None = None,
    solvers: Mapping[str, AgentLike] | None = None,
    problems: int = 240,
    draws: int = 4,
) -> dict[str, Any]:
    """The card of a run.

    Args:
        run: a run's folder: ``episodes.jsonl`` is needed; ``challenges.jsonl``, ``metrics.jsonl`` and ``run.json`` add
            what they hold.
        family: checks the replies of ``solvers``.
        solvers: frozen models by name (``base``, ``external``) that the run's own problems are put to again.
        problems: how many of them, evenly over the run.
        draws: replies a problem and solver.

    Returns:
        A flat mapping, JSON-ready; None where nothing is known; (value, low, high) at 95 %: ``band`` (share of
        problems, as often as they were played, with success in 0.2 to 0.8), ``band_series`` (tenths of the run),
        ``learnability`` (mean p (1 - p), unbiased), ``solved``, ``unique`` (of the challenger's own proposals those
        that it had not written before), ``accepted``, ``label_accuracy``, ``depth_series`` (mean level of the accepted
        problems), ``drift_NAME`` (change of a frozen model's log-odds per step: negative is harder), ``frontier`` and
        ``frontier_series`` (the level that the learner solves half of the time on the run's fixed problems; above
        ``highest_level``, the hardest of them, it is extrapolated).

    Raises:
        DreamEnvsError: if there is no such run, a file of it is damaged, or ``solvers`` come without a family.
    """
    path = Path(run)
    if not (path / "episodes.jsonl").is_file():
        raise DreamEnvsError(f"{path}: no episodes.jsonl in it; give the folder of a run (--out of dream-envs dream)")
    if solvers and family is None:
        raise DreamEnvsError("solvers need family=: it says which replies are right")
    tally = Tally()
    for line in _lines(path / "episodes.jsonl"):
        try:
            tally.add(decode_episode(line))
        except msgspec.DecodeError as error:
            raise DreamEnvsError(f"{path / 'episodes.jsonl'} holds a line that is no episode ({error})") from error
    made = list(read_challenges(path / "challenges.jsonl")) if (path / "challenges.jsonl").is_file() else []
    card = {**_played(tally), "problems": len(made) or None, "depth_series": _depths(made)}
    card |= _measured(_metrics(path / "metrics.jsonl"), _anchors(path / "run.json"))
    for name, agent in (solvers or {}).items():
        assert family is not None
        card[f"drift_{name}"] = agent_drift(agent, family, made, problems, draws)
    return {k: _plain(v) for k, v in card.items()}


def _played(tally: Tally) -> dict[str, Any]:
    found: dict[str, Any] = {"episodes": tally.episodes, "played": len(tally.right)}
    right, tried = np.array(tally.right), np.array(tally.tried)
    if len(right):
        tenths = [t for t in np.array_split(np.arange(len(right)), min(BINS, len(right))) if len(t)]
        found |= {
            "band": band_share(right, tried),
            "band_series": [band_share(right[t], tried[t])[0] for t in tenths],
            "learnability": learnability(right, tried),
            "solved": float(right.sum() / tried.sum()),
            "solved_series": [float(right[t].sum() / tried[t].sum()) for t in tenths],
        }
    else:
        found |= dict.fromkeys(("band", "band_series", "learnability", "solved", "solved_series"))
    return {
        **found,
        "proposed": tally.proposed,
        "unique": _share(len(tally.texts), tally.proposed),
        "accepted": _share(tally.accepted, tally.proposed),
        "label_accuracy": _share(tally.agree, tally.compared),
    }


def _depths(made: Sequence[Challenge]) -> list[float] | None:
    levels = np.array([c.level for c in made], dtype=np.float64)
    return [float(t.mean()) for t in np.array_split(levels, min(BINS, len(levels))) if len(t)] if len(levels) else None


def _anchors(path: Path) -> int:
    """How many fixed problems a level the run was measured on (``baselines.measure`` takes 64 if it has them)."""
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
    fits = [_frontier(e, anchors) for e in exact]
    if fits:
        found["highest_level"] = max(int(k) for k in exact[-1])
        found["frontier"] = list(fits[-1]) if fits[-1] else None
        found["frontier_series"] = [f[0] if f else None for f in fits]
    return found


def _logit(log10_p: float) -> float:
    """Log-odds of a probability given by its log10, also where it is tiny."""
    log_p = min(log10_p * math.log(10), -1e-12)
    return log_p - math.log(-math.expm1(log_p))


def _frontier(exact: Mapping[str, float], anchors: int) -> tuple[float, float, float] | None:
    """The level of even odds from exact mean success by level: the anchors are the run's fixed problems."""
    levels = [float(k) for k in exact]
    means = np.clip([float(v) for v in exact.values()], 0.0, 1.0)
    return frontier_level(levels, anchors * means, anchors, slope=None)


def agent_drift(
    agent: AgentLike, family: TaskFamily, made: Sequence[Challenge], problems: int = 240, draws: int = 4
) -> list[float] | None:
    """Log-odds per step of a frozen agent on problems that a run made, in the order it made them.

    Args:
        agent: asked with seeds that depend on the problem alone.
        family: says which replies are right.
        made: the run's challenges.
        problems: how many of them are asked, evenly spaced.
        draws: replies to each.

    Returns:
        Slope, low, high; None if it is not determined (see ``difficulty.logit_drift``).
    """
    _checks.whole("problems", problems, 2)
    if len(made) < 2:
        return None
    places = np.unique(np.linspace(0, len(made) - 1, min(problems, len(made))).round().astype(int))
    chosen = [made[i] for i in places]
    right = draw(agent, ProbeSet(tuple(Probe(c, family, "made") for c in chosen), "curriculum-card"), draws).right
    assert right is not None
    return logit_drift([c.round for c in chosen], [sum(r) for r in right], draws)


def _share(count: int, n: int) -> list[float] | None:
    if not n:
        return None
    found = wilson(count, n)
    return [found.p, found.low, found.high]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _lines(path: Path) -> Iterator[bytes]:
    """Finished lines; a last one that a kill cut short is left out."""
    if path.is_file():
        with open(path, "rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def _metrics(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in _lines(path):
        try:
            row = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise DreamEnvsError(f"{path} holds a line that is not JSON ({error}): restore it from a copy") from error
        if isinstance(row, dict):
            rows.append(row)
    return rows
