"""What a night is rewarded by: Learning-to-Imitate and dreams ("Language Models Need Sleep", arXiv 2606.03979)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from dream_envs.checks import check
from dream_envs.core import Score

T = TypeVar("T")


def levenshtein(a: Sequence[T], b: Sequence[T], most: int | None = None) -> int:
    """Insertions, deletions and substitutions from ``a`` to ``b``; with ``most``, all above it is ``most + 1``.

    O(len(a) len(b)) in numpy rows: 1,000 by 1,000 tokens take some milliseconds.
    """
    if len(a) < len(b):
        a, b = b, a
    if most is not None and len(a) - len(b) > most:
        return most + 1
    codes: dict[T, int] = {}
    left, right = (np.array([codes.setdefault(x, len(codes)) for x in s], dtype=np.int64) for s in (a, b))
    row = steps = np.arange(len(b) + 1)
    for i, code in enumerate(left, 1):
        # What a substitution or a deletion gives, then insertions: a running minimum of (cost - column) + column.
        found = np.concatenate([[i], np.minimum(row[:-1] + (right != code), row[1:] + 1)])
        row = np.minimum.accumulate(found - steps) + steps
        if most is not None and row.min() > most:
            return most + 1
    distance = int(row[-1])
    return distance if most is None else min(distance, most + 1)


def imitation(dream: Sequence[T], copy: Sequence[T], same: bool, *, gamma: float = 0.5, z0: int | None = None) -> Score:
    """``gamma same + (1 - gamma) (1 - Lev / max length)``; the second term is 0 where ``Lev > z0``.

    ``dream`` is the teacher's output, ``copy`` what the student made of a prefix of it, that prefix included (tokens or
    characters); ``same``: whether a judge finds that both mean the same (r_sem); ``z0``: the largest edit distance that
    earns anything, None: any.  0 to 1; components ``semantic`` and ``literal``, each before its weight.
    """
    check("gamma", gamma, 0, 1)
    if z0 is not None:
        check("z0", z0, 0)
    distance = levenshtein(dream, copy, z0)
    longest = max(len(dream), len(copy))
    literal = 1.0 if longest == 0 else 0.0 if z0 is not None and distance > z0 else 1 - distance / longest
    value = gamma * same + (1 - gamma) * literal
    return Score(value, components={"semantic": float(same), "literal": literal}, grader="imitation-1")


def dream_reward(before: float, after: float) -> Score:
    """1 if the probe is better with the dream than without it, else 0; components ``before`` and ``after``."""
    return Score(float(after > before), components={"before": before, "after": after}, grader="dream-1")
