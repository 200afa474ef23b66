"""What SleepCycle makes of its rows: against the formulas on the whole matrix, and with holes in it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.envs import sleep_cycle
from dream_envs.seeds import stream


def row(phase, night, lesson, value, status="ok"):
    return {"phase": phase, "night": night, "lesson": lesson, "value": value, "status": status}


@given(st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_transfer_is_that_of_the_whole_matrix_of_scores(nights, seed):
    """From the filled matrix ``R[night, lesson]`` in numpy, as Lopez-Paz & Ranzato (arXiv 1706.08840) write it."""
    full = stream("measures", seed).integers(2, size=(nights + 1, nights, 4)).astype(float)
    rows = [row("wake", j, j, value) for j in range(nights) for value in full[0, j]]
    for night, lesson in itertools.product(range(-1, nights), range(nights)):
        phase = "before" if night < 0 else "recall" if lesson <= night else "ahead"
        if lesson <= night + 1 or night < 0:
            rows += [row(phase, night, lesson, value) for value in full[night + 1, lesson]]
    r = full.mean(2)  # row 0 is the base, row i + 1 the model after night i
    asked = np.tri(nights + 1, nights, 0, bool)
    asked[0] = True  # of what is not asked, nothing may enter
    found, old = sleep_cycle.measures(rows, nights, True), np.arange(nights - 1)
    best = np.where(asked, r, -1.0)[:-1].max(0)
    assert found["backward_transfer"] == pytest.approx((r[-1] - best)[:-1].mean(), abs=1e-5)
    assert found["since_learnt"] == pytest.approx((r[-1, old] - r[old + 1, old]).mean(), abs=1e-5)
    assert found["forward_transfer"] == pytest.approx((r[old + 1, old + 1] - r[0, old + 1]).mean(), abs=1e-5)
    assert found["average_accuracy"] == pytest.approx(r[-1].mean(), abs=1e-5)


def test_what_was_not_measured_is_none_and_leaves_the_rest_alone():
    rows = [
        row("wake", 0, 0, None, "timeout"),
        row("wake", 1, 1, 1.0),
        row("recall", 0, 0, 1.0),
        row("recall", 1, 0, 0.0),
        row("recall", 1, 0, None, "error"),
        row("recall", 1, 1, None, "error"),
    ]
    found = sleep_cycle.measures(rows, 2, False)
    assert found["open"] == [None, 1.0] and found["before"] is None
    assert found["closed"] == [[1.0, None], [0.0, None]]
    assert (found["average_accuracy"], found["backward_transfer"], found["forgetting"]) == (0.0, -1.0, 1.0)
    assert found["forward_transfer"] is None and found["gap"] is None
    assert found["failed"] == {"error": 2, "timeout": 1}


def test_one_night_has_nothing_to_forget():
    found = sleep_cycle.measures([row("wake", 0, 0, 1.0), row("recall", 0, 0, 0.5)], 1, True)
    assert found["gap"] == -0.5 and found["average_accuracy"] == 0.5 and found["before"] == [None]
    assert (
        found["backward_transfer"] is found["forgetting"] is found["since_learnt"] is found["forward_transfer"] is None
    )


def test_the_same_dream_in_another_night_is_another_dream():
    rows = [
        {"night": night, "question": q, "valid": bool(q), "status": "ok", "reject": "" if q else "empty"}
        for night, q in ((0, "x"), (0, "x"), (0, "y"), (0, ""), (0, ""), (1, "x"))
    ]
    assert [r["same"] for r in sleep_cycle.with_sames(rows)] == [1, 1, 0, 0, 0, 0]
    assert sleep_cycle.dreaming(rows) == {
        "asked": 6, "valid": 4, "distinct": 3, "failed": 0, "rejects": {"empty": 2},
    }  # fmt: skip
