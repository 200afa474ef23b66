"""The only birthplace of randomness: generators made by hashing labels.

Streams of neighbouring labels share nothing, while ``Random(seed + index)`` gives shifted copies of one stream.
"""

from __future__ import annotations

import hashlib

import numpy as np

Label = str | int | float | bytes | bool | None
_NAMES = {kind: kind.__name__ for kind in (str, int, float, bytes, bool, type(None))}  # one look-up on the hot path


def digest(*labels: Label, bits: int = 64) -> int:
    """A whole number of ``bits`` bits that depends on every label and its type."""
    parts = []
    for label in labels:
        name = _NAMES.get(type(label))
        if name is None:
            if not isinstance(label, (str, int, float, bytes, np.integer)):
                raise TypeError(f"a seed label is a str, int, float, bytes, bool or None, not {type(label).__name__}")
            label = int(label) if isinstance(label, np.integer) else label
            name = type(label).__name__
        text = repr(label)
        parts.append(f"{name}{len(text)}:{text}")
    data = "|".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=bits // 8).digest(), "little")


def stream(*labels: Label) -> np.random.Generator:
    """An independent numpy Generator for these labels; the same labels always give the same stream."""
    return np.random.Generator(np.random.PCG64(digest(*labels, bits=128)))


_GOLDEN, _MIX1, _MIX2 = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniforms(seeds: np.ndarray, steps: int) -> np.ndarray:
    """Uniform numbers in [0, 1) for many rows at once, each row's from its own seed alone (splitmix64).

    ``seeds``: ``uint64[B]``.  Returns ``float64[B, steps]``; row ``i`` depends on ``seeds[i]`` only.
    """
    with np.errstate(over="ignore"):
        z = seeds.astype(np.uint64)[:, None] + _GOLDEN * np.arange(1, steps + 1, dtype=np.uint64)[None, :]
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
