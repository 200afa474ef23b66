"""What every round logs, whatever the game: rewards and statuses by role, lengths, and what judges said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dream_envs.core import Episode
from dream_envs.rewards.base import roles


def round_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """By role: ``reward/ROLE/mean`` and ``std`` over ``ok`` scores, ``status/ROLE/STATUS`` as shares, ``length/ROLE``.

    ``length``: mean tokens of a completion, or characters where no turn of the role has tokens.
    """
    values: dict[str, list[float]] = {}
    statuses: dict[str, Counter[str]] = {}
    tokens: dict[str, list[int]] = {}
    chars: dict[str, list[int]] = {}
    for episode in episodes:
        seated = roles(episode)
        for agent, score in episode.scores.items():
            role = seated.get(agent, agent)
            statuses.setdefault(role, Counter())[score.status] += 1
            if score.status == "ok":
                values.setdefault(role, []).append(score.value)
        for turn in episode.turns:
            chars.setdefault(turn.role, []).append(len(turn.text))
            if turn.token_ids:
                tokens.setdefault(turn.role, []).append(len(turn.token_ids))
    found: dict[str, float] = {}
    for role, own in values.items():
        found |= {f"reward/{role}/mean": float(np.mean(own)), f"reward/{role}/std": float(np.std(own))}
    for role, counts in statuses.items():
        found |= {f"status/{role}/{status}": n / counts.total() for status, n in counts.items()}
    return found | {f"length/{role}": float(np.mean(tokens.get(role) or own)) for role, own in chars.items()}


def judging(episodes: Sequence[Episode]) -> dict[str, float]:
    """What a round says of answers and judges, where the facts have verdicts; a share of nothing is left out.

    ``judge/truth``: share of right answers; ``judge/length``: mean characters of an answer; ``judge/accuracy`` over
    verdicts on a right and a wrong answer, ``judge/first``, ``judge/flip``, ``judge/cycles`` (share of triples) and
    ``judge/readable``.
    """
    facts = [f for e in episodes if "judging" in (f := e.outcome.facts) and isinstance(f.get("truth"), dict)]
    told = [f for f in facts if "judgements" in f and "asked" in f]
    truth = [t for f in facts for t in f["truth"].values() if t is not None]
    lengths = [its["chars"] for f in facts for its in f.get("lengths", {}).values()]
    pairwise = [f for f in told if f["judging"] == "pairwise"]
    rows = [r for f in pairwise for r in f["judgements"] if r["verdict"] is not None]
    scores = [f["judge_accuracy"] for f in told]
    parts: dict[str, tuple[float, float]] = {
        "truth": (sum(truth), len(truth)),
        "length": (sum(lengths), len(lengths)),
        "accuracy": (sum(s["right"] for s in scores), sum(s["of"] for s in scores)),
        "readable": (sum(f["readable"] for f in told), sum(f["asked"] for f in told)),
        "first": (sum(r["verdict"] == r["first"] for r in rows), len(rows)),
        "flip": (
            sum((f["flip_rate"] or 0.0) * f["swapped_pairs"] for f in pairwise),
            sum(f["swapped_pairs"] for f in pairwise),
        ),
        "cycles": (sum(f["cycles"] for f in pairwise), sum(f["triples"] for f in pairwise)),
    }
    return {f"judge/{name}": count / of for name, (count, of) in parts.items() if of}
