"""Seeds: labels are told apart by type, boundary and value; streams and rows do not depend on one another."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.seeds import digest, stream, uniforms

LABEL = st.text(max_size=8) | st.integers() | st.floats() | st.binary(max_size=8) | st.booleans() | st.none()


def kolmogorov(values: np.ndarray) -> float:
    """sqrt(n) times the largest distance from the uniform distribution; above 1.95 once in 1000."""
    ordered, n = np.sort(values.ravel()), values.size
    ranks = np.arange(n)
    return math.sqrt(n) * float(max((ordered - ranks / n).max(), ((ranks + 1) / n - ordered).max()))


def test_type_and_boundary_matter() -> None:
    lists: list[tuple] = [
        (), ("",), ("", ""), (None,), ("None",), (0,), ("0",), (0.0,), (-0.0,), (b"0",), (False,), ("False",), (1,),
        (True,), ("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("a|b",), ("a", "|b"), ("1|int1:1",), (1, 1),
        (11,), ("1", "1"), (1, "1"), ("1", 1), (b"ab",), ("ab",), ("'ab'",), ("str4:'ab'",), (1e300,), (10**300,),
        ("é",), ("e\u0301",),
    ]  # fmt: skip
    for bits in (64, 128):
        assert len({digest(*labels, bits=bits) for labels in lists}) == len(lists)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(a=st.lists(LABEL, max_size=4), b=st.lists(LABEL, max_size=4))
def test_digests_are_equal_only_for_equal_labels(a: list, b: list) -> None:
    def kinds(labels: list) -> list:
        return [(type(x), repr(x)) for x in labels]

    assert (digest(*a) == digest(*b)) == (kinds(a) == kinds(b))
    assert 0 <= digest(*a) < 2**64 and 0 <= digest(*a, bits=128) < 2**128


def test_numpy_integers_count_as_integers() -> None:
    assert digest("x", np.int64(7)) == digest("x", np.uint8(7)) == digest("x", 7) != digest("x", 7.0)


@pytest.mark.parametrize("label", [[1], (1, 2), {"a": 1}, np.zeros(2), object(), 1j])
def test_other_labels_are_errors(label: object) -> None:
    with pytest.raises(TypeError, match="a seed label is"):
        digest("x", label)  # type: ignore[arg-type]


def test_frozen_values() -> None:
    """A change here changes every problem, split and world of the suite."""
    assert digest("composition", 42, "level", 3) == 8017778687203855963
    drawn = [0.32038872099451476, 0.17087840390733777, 0.9202012343385741]
    assert stream("composition", 42).random(3).tolist() == stream("composition", 42).random(3).tolist() == drawn


@pytest.mark.parametrize("step", [1, 2, 2**32])
def test_neighbouring_labels_are_uncorrelated(step: int) -> None:
    n = 5000
    first = np.array([stream("task", i * step).random() for i in range(n + 3)])
    assert kolmogorov(first) < 1.95
    for lag in (1, 2, 3):
        assert abs(np.corrcoef(first[:n], first[lag : n + lag])[0, 1]) < 5 / math.sqrt(n)


def test_neighbouring_streams_share_no_stretch() -> None:
    """Not one draw of a stream turns up in the next ones, at any shift."""
    draws = [set(stream("task", seed).integers(2**63, size=2000).tolist()) for seed in range(42, 52)]
    assert all(not a & b for a, b in itertools.combinations(draws, 2))
    long = [stream("task", seed).standard_normal(5000) for seed in (42, 43)]
    correlation = np.correlate(long[0], long[1], "full") / 5000
    assert np.abs(correlation).max() < 6 / math.sqrt(5000)


def test_rows_of_uniforms_depend_on_their_own_seed_only() -> None:
    seeds = np.array([stream("row", i).integers(2**63) for i in range(64)], dtype=np.uint64)
    whole = uniforms(seeds, 32)
    assert whole.shape == (64, 32) and whole.dtype == np.float64
    order = stream("order").permutation(64)[:40]
    assert np.array_equal(uniforms(seeds[order], 32), whole[order])
    assert np.array_equal(uniforms(seeds, 7), whole[:, :7])
    assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("kind", ["counting", "hashed", "high"])
def test_uniforms_are_uniform(kind: str) -> None:
    seeds = {
        "counting": np.arange(4000, dtype=np.uint64),
        "hashed": np.array([digest("u", i) for i in range(4000)], dtype=np.uint64),
        "high": np.arange(4000, dtype=np.uint64) << np.uint64(48),
    }[kind]
    u = uniforms(seeds, 25)
    assert u.min() >= 0.0 and u.max() < 1.0
    assert kolmogorov(u) < 1.95
    cells = np.bincount((u.ravel() * 100).astype(int), minlength=100)
    chi = float(((cells - u.size / 100) ** 2).sum() / (u.size / 100))
    assert abs(chi - 99) < 5 * math.sqrt(2 * 99)  # too even is as wrong as too uneven
    pairs = np.bincount(((u[:, :-1] * 16).astype(int) * 16 + (u[:, 1:] * 16).astype(int)).ravel(), minlength=256)
    expected = pairs.sum() / 256
    assert float(((pairs - expected) ** 2).sum() / expected) < 255 + 5 * math.sqrt(2 * 255)
    for lag in (1, 2):
        assert abs(np.corrcoef(u[lag:, 0], u[:-lag, 0])[0, 1]) < 5 / math.sqrt(len(u))


def test_uniforms_of_extreme_seeds() -> None:
    u = uniforms(np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64), 100_000)
    assert u.min() >= 0.0 and u.max() < 1.0
    assert np.all(np.abs(u.mean(axis=1) - 0.5) < 5 / math.sqrt(12 * 100_000))
    assert uniforms(np.array([], dtype=np.uint64), 3).shape == (0, 3)
    assert uniforms(np.array([1], dtype=np.uint64), 0).shape == (1, 0)
