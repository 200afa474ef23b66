"""What SleepCycle makes of its rows: against the Frontier Report's retention block, and with holes in it."""

from __future__ import annotations

from dream_envs.envs import sleep_cycle


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
