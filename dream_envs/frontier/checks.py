"""What every statistic asks of its input, in one place: arrays of the right kind, or a one-line DreamEnvsError."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError


def numbers(
    name: str, value: ArrayLike, low: float = -np.inf, high: float = np.inf, ndim: int | None = None
) -> np.ndarray:
    """``float64`` array of finite numbers from ``low`` to ``high``, not empty."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DreamEnvsError(f"{name}: numbers, not {type(value).__name__}") from None
    if found.size == 0:
        raise DreamEnvsError(f"{name} is empty: at least one value is needed")
    if ndim is not None and found.ndim != ndim:
        raise DreamEnvsError(f"{name} has shape {found.shape}: {ndim} dimension{'s' * (ndim != 1)} expected")
    bad = ~((found >= low) & (found <= high) & np.isfinite(found))
    if bad.any():
        raise DreamEnvsError(f"{name} holds {float(found[bad].flat[0])}: finite numbers from {low:g} to {high:g}")
    return found


def counts(name: str, value: ArrayLike, low: int = 0, high: int = 2**53, ndim: int | None = None) -> np.ndarray:
    """``int64`` array of whole numbers from ``low`` to ``high``, not empty; True and False count as 1 and 0."""
    found = numbers(name, value, low, high, ndim)
    if (found != np.floor(found)).any():
        raise DreamEnvsError(f"{name} holds {float(found[found != np.floor(found)].flat[0])}: whole numbers only")
    return found.astype(np.int64)


def whole(name: str, value: Any, low: int, high: int = 2**53) -> int:
    """``value`` as an int if it is one whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise DreamEnvsError(f"{name}={value!r}: a whole number from {low} to {high}")
    return int(value)


def successes(c: ArrayLike, n: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(c, n) as ``int64`` arrays that broadcast together, n >= 1 and c <= n everywhere."""
    right, of = together(c=counts("c", c), n=counts("n", n, 1))
    if (right > of).any():
        at = np.flatnonzero((right > of).ravel())[0]
        raise DreamEnvsError(f"c={right.flat[at]} of n={of.flat[at]}: no more successes than draws")
    return right, of


def together(**arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays broadcast to one shape."""
    try:
        return np.broadcast_arrays(*arrays.values())
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DreamEnvsError(f"shapes {shapes}: they do not go together") from None


def strata(name: str, value: ArrayLike | None, n: int) -> np.ndarray:
    """``int64[n]`` stratum of each row, numbered 0, 1, ... without gaps; None is one stratum."""
    if value is None:
        return np.zeros(n, dtype=np.int64)
    found = np.asarray(value)
    if found.shape != (n,):
        raise DreamEnvsError(f"{name} has shape {found.shape}: one stratum for each of {n} problems")
    return np.unique(found, return_inverse=True)[1].reshape(n).astype(np.int64)
