"""What SleepCycle makes of its rows: against the Frontier Report's retention block, and with holes in it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.envs import sleep_cycle
from dream_envs.metrics.retention import retention
from dream_envs.seeds import stream


@given(st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_measures_are_those_of_the_retention_block(nights, seed):
    rng, probes = stream("measures", seed), 4
    rows, tables = [], {}
    waves = [("before", -1, j) for j in range(nights)]
    for night in range(nights):
        waves += [("wake", night, night), *[("recall", night, j) for j in range(night + 1)]]
        waves += [("ahead", night, night + 1)] if night + 1 < nights else []
    for phase, night, lesson in waves:
        values = rng.integers(2, size=probes).astype(float).tolist()
        rows += [{"phase": phase, "night": night, "lesson": lesson, "value": v, "status": "ok"} for v in values]
        if phase != "wake":
            tables[night, lesson] = values
    found = sleep_cycle.measures(rows, nights, True)
    # What was not asked is filled with zeros, which are never the best score before, nor that before a lesson's day.
    stages = {
        f"night {i}": {f"lesson {j}": tables.get((i, j), [0.0] * probes) for j in range(nights)}
        for i in range(-1, nights)
    }
    block = retention(stages, rng, learned={f"lesson {j}": j + 1 for j in range(nights)}, draws=10)
    gains = [suite["gain"][0] for suite in block["suites"][:-1]]  # the last lesson was only just learnt
    assert found["backward_transfer"] == pytest.approx(sum(gains) / len(gains), abs=1e-5)
    assert found["forward_transfer"] == pytest.approx(block["fwt"][0], abs=1e-5)
    for i, j in itertools.product(range(nights), repeat=2):
        if found["closed"][i][j] is not None:
            assert found["closed"][i][j] == pytest.approx(block["matrix"]["values"][i + 1][j], abs=1e-5)


def row(phase, night, lesson, value, status="ok"):
    return {"phase": phase, "night": night, "lesson": lesson, "value": value, "status": status}


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
