"""Rewards of a night: closed-book knowledge, retention, distinct dreams, Learning-to-Imitate and its distance."""

from __future__ import annotations

import functools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs import registry
from dream_envs.core import Episode, Outcome, Score
from dream_envs.rewards.base import as_reward
from dream_envs.rewards.imitation import dream_reward, imitation, levenshtein
from dream_envs.rewards.sleep import closed_book, retention

NOTHING = {"night": 0, "lesson": 0, "level": 1, "status": "ok"}


def episode(questions=(), dreams=(), nights=2, agents=("learner_0", "learner_1", "dreamer_0", "dreamer_1")) -> Episode:
    facts = {"agents": list(agents), "nights": nights, "questions": list(questions), "dreams": list(dreams)}
    return Episode(
        env_id="dream_envs/SleepCycle-v0", version=0, seed="0", index=0, tasks=[], turns=[], events=[],
        outcome=Outcome("ok", facts),
    )  # fmt: skip


def asked(agent, phase, night, value, status="ok"):
    return {**NOTHING, "agent": agent, "phase": phase, "night": night, "value": value, "status": status}


def dreamt(agent, night, valid=True, same=0, status="ok"):
    return {"agent": agent, "night": night, "valid": valid, "same": same, "status": status}


LIFE = [
    asked("learner_0", "before", -1, 1.0),  # a lucky guess before the first day is nobody's knowledge
    asked("learner_0", "wake", 0, 1.0), asked("learner_0", "wake", 1, 0.0), asked("learner_0", "recall", 0, 1.0),
    asked("learner_0", "ahead", 0, 1.0), asked("learner_0", "recall", 1, 0.0), asked("learner_0", "recall", 1, 1.0),
    asked("learner_1", "wake", 0, None, "timeout"), asked("learner_1", "recall", 0, 1.0),
    asked("learner_1", "recall", 1, None, "error"), asked("learner_1", "recall", 1, None, "timeout"),
]  # fmt: skip


def test_closed_book_and_retention_by_hand():
    scores = closed_book()(episode(LIFE))
    assert scores["learner_0"].value == pytest.approx(2 / 3) and scores["learner_0"].components == {
        "asked": 3.0, "answered": 3.0, "open": 0.5, "closed": pytest.approx(2 / 3), "gap": pytest.approx(1 / 6),
    }  # fmt: skip
    # A failed call is no wrong answer: one question was answered, and it was right; nothing is known of its day.
    assert (scores["learner_1"].value, scores["learner_1"].status) == (1.0, "ok")
    assert scores["learner_1"].components == {"asked": 3.0, "answered": 1.0, "closed": 1.0}
    last = retention()(episode(LIFE))
    assert last["learner_0"].value == 0.5 and last["learner_0"].components["gap"] == 0.0
    assert (last["learner_1"].value, last["learner_1"].status) == (0.0, "error")  # the gravest of error and timeout


def test_dreams_by_hand():
    rows = [
        dreamt("dreamer_0", 0), dreamt("dreamer_1", 0, valid=False), dreamt("dreamer_0", 1, same=1),
        dreamt("dreamer_1", 1, same=1), dreamt("dreamer_0", 2), dreamt("dreamer_1", 2, False, status="timeout"),
    ]  # fmt: skip
    scores = closed_book()(episode((), rows, nights=3))
    assert scores["dreamer_0"].value == pytest.approx(2 / 3)
    assert scores["dreamer_0"].components == {"valid": 1.0, "distinct": pytest.approx(2 / 3)}
    assert scores["dreamer_1"].value == 0.0 and scores["dreamer_1"].components["valid"] == 0.5  # of two calls
    assert scores["learner_0"].status == "abstain"
    lost = closed_book()(episode((), [dreamt("dreamer_0", 0, valid=False, status="error")]))
    assert lost["dreamer_0"].status == "error" and lost["dreamer_1"].status == "abstain"


def test_an_episode_of_another_game_is_an_error_and_no_zero():
    other = msgspec.structs.replace(episode(), outcome=Outcome("ok", {"agents": ["learner_0", "dreamer_0"]}))
    for name in ("closed_book", "retention"):
        assert name in registry.rows("rewards")
        scores = as_reward(name)(other)
        assert scores["learner_0"].status == "error" and "questions" in scores["learner_0"].detail
        assert scores["dreamer_0"].status == "abstain"


def naive(a, b):
    """The definition."""

    @functools.cache
    def between(i, j):
        if not i or not j:
            return i + j
        swap = between(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(swap, between(i - 1, j) + 1, between(i, j - 1) + 1)

    return between(len(a), len(b))


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12), st.integers(0, 14))
@settings(max_examples=300, deadline=None)
def test_the_distance_is_that_of_its_definition_with_and_without_a_cut(a, b, most):
    true = naive(a, b)
    assert levenshtein(a, b) == levenshtein(bytes(b), bytes(a)) == true
    assert levenshtein(a, b, most) == min(true, most + 1)


@pytest.mark.parametrize(("dream", "copy", "same", "knobs", "value"), [
    ("BfDk", "BfDa", False, {}, 0.5 * 0.75), ("BfDk", "BfDa", True, {"gamma": 0.2}, 0.2 + 0.8 * 0.75),
    ("BfDk", "BfDa", False, {"gamma": 0.0, "z0": 1}, 0.75), ("BfDk", "BfDa", False, {"gamma": 0.0, "z0": 0}, 0.0),
    ("BfDk", "BfDkAa", True, {"z0": 1}, 0.5), ("", "", False, {"gamma": 0.5}, 0.5),
    ([1, 2, 3, 4], [1, 2, 4], False, {"gamma": 0.0}, 0.75),
])  # fmt: skip
def test_imitation_by_hand(dream, copy, same, knobs, value):
    found = imitation(dream, copy, same, **knobs)
    assert found.value == pytest.approx(value) and found.status == "ok"
    assert found.components["semantic"] == float(same)


WORD = st.text("abc", max_size=8)


@given(WORD, WORD, st.booleans(), st.floats(0, 1), st.none() | st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_imitation_is_between_its_parts(dream, copy, same, gamma, z0):
    found = imitation(dream, copy, same, gamma=gamma, z0=z0)
    low, high = sorted(found.components.values())
    assert 0.0 <= low <= high <= 1.0 and low - 1e-12 <= found.value <= high + 1e-12
    back = imitation(copy, dream, same, gamma=gamma, z0=z0)
    assert back.value == pytest.approx(found.value)
    assert imitation(dream, dream, True, gamma=gamma, z0=z0).value == pytest.approx(1.0)


def test_a_dream_is_good_if_its_copy_does_better():
    assert [dream_reward(0.5, after).value for after in (0.4, 0.5, np.nextafter(0.5, 1), 1.0)] == [0.0, 0.0, 1.0, 1.0]
    assert dream_reward(0.25, 0.75) == Score(1.0, components={"before": 0.25, "after": 0.75}, grader="dream-1")
