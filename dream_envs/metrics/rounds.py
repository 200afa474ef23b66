"""What every round logs, whatever the game: rewards and statuses by role, lengths, what judges said; and reading it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError, Episode
from dream_envs.rewards.base import roles
from dream_envs.schema import Role

#: Rows of metrics at either end that the first and the last reward are means of.
ENDS = 5


def round_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """By role: ``reward/ROLE/mean`` and ``std`` over ``ok`` scores, ``status/ROLE/STATUS`` as shares, ``length/ROLE``.

    ``length``: mean tokens of a completion, or characters where no turn of the role has tokens.
    """
    values: dict[str, list[float]] = defaultdict(list)
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    tokens: dict[str, list[int]] = defaultdict(list)
    chars: dict[str, list[int]] = defaultdict(list)
    for episode in episodes:
        seated = roles(episode)
        for agent, score in episode.scores.items():
            role = seated.get(agent, agent)
            statuses[role][score.status] += 1
            if score.status == "ok":
                values[role].append(score.value)
        for turn in episode.turns:
            chars[turn.role].append(len(turn.text))
            if turn.token_ids:
                tokens[turn.role].append(len(turn.token_ids))
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
    judged = [f for f in facts if "judgements" in f and "asked" in f]
    truth = [t for f in facts for t in f["truth"].values() if t is not None]
    lengths = [its["chars"] for f in facts for its in f.get("lengths", {}).values()]
    pairwise = [f for f in judged if f["judging"] == "pairwise"]
    rows = [r for f in pairwise for r in f["judgements"] if r["verdict"] is not None]
    scores = [f["judge_accuracy"] for f in judged]
    swapped = [f["swapped_pairs"] for f in pairwise]
    flipped = [(f["flip_rate"] or 0.0) * f["swapped_pairs"] for f in pairwise]
    parts: dict[str, tuple[float, float]] = {
        "truth": (sum(truth), len(truth)),
        "length": (sum(lengths), len(lengths)),
        "accuracy": (sum(s["right"] for s in scores), sum(s["of"] for s in scores)),
        "readable": (sum(f["readable"] for f in judged), sum(f["asked"] for f in judged)),
        "first": (sum(r["verdict"] == r["first"] for r in rows), len(rows)),
        "flip": (sum(flipped), sum(swapped)),
        "cycles": (sum(f["cycles"] for f in pairwise), sum(f["triples"] for f in pairwise)),
    }
    return {f"judge/{name}": count / of for name, (count, of) in parts.items() if of}


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, an unfinished last line left out.

    Raises:
        DreamEnvsError: for a line that is no object, with its number.
    """
    path, rows = Path(run) / "metrics.jsonl", list[dict[str, Any]]()
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DreamEnvsError(f"{path}, line {number}: not an object ({error}); restore or remove it") from error
    return rows


def roles_of(run: Path, game: Any, learns: Collection[str]) -> list[Role]:
    """Each role's mean reward in the first and the last rounds, and its statuses over all."""
    rows = [row for row in read_rows(run) if any(key.startswith("reward/") for key in row)]
    found = []
    for spec in game.roles:
        means = [row[key] for row in rows if (key := f"reward/{spec.name}/mean") in row]
        prefix = f"status/{spec.name}/"
        names = sorted({key.removeprefix(prefix) for row in rows for key in row if key.startswith(prefix)})
        statuses = {name: float(np.mean([row.get(prefix + name, 0.0) for row in rows])) for name in names}
        first, last = (float(np.mean(part)) if part else None for part in (means[:ENDS], means[-ENDS:]))
        low, high = spec.reward_range
        found.append(Role(spec.name, spec.reply, low, high, spec.name in learns, first, last, statuses))
    return found
