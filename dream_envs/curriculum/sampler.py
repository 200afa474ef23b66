"""Which known challenge to come back to: functions ``(entries, rng) -> entry``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dream_envs import registry
from dream_envs.curriculum.store import Entry

Sampler = Callable[[Sequence[Entry], np.random.Generator], Entry]


def solved(entry: Entry) -> bool:
    """Whether it was ever solved.  Not the newest rate: what is being forgotten would drop out of the review."""
    return entry.successes > 0


def uniform(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
    """Every entry alike."""
    return entries[int(rng.integers(len(entries)))]


def by_level(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
    """Every level alike, then every entry of the level: rare levels are rehearsed as often as common ones."""
    levels: dict[int, list[Entry]] = {}
    for entry in entries:
        levels.setdefault(entry.challenge.level, []).append(entry)
    return uniform(levels[sorted(levels)[int(rng.integers(len(levels)))]], rng)


def learnable(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
    """In proportion to p(1 - p) of the newest observation, with one pseudo-observation of 1/2."""
    return _weighted(entries, lambda p: p * (1 - p), rng)


def regret(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
    """In proportion to 1 - p: what is still got wrong, an upper bound on the regret against a perfect solver."""
    return _weighted(entries, lambda p: 1 - p, rng)


def _weighted(entries: Sequence[Entry], weight: Callable[[float], float], rng: np.random.Generator) -> Entry:
    weights = np.array([weight(((e.rate or 0.0) * e.n + 0.5) / (e.n + 1)) for e in entries])
    return entries[int(rng.choice(len(entries), p=weights / weights.sum()))]


SAMPLERS: dict[str, Sampler] = {"uniform": uniform, "by_level": by_level, "learnable": learnable, "regret": regret}


def sampler(name: str) -> Sampler:
    """The sampler of this name."""
    return registry.named("samplers", name, SAMPLERS)
