"""What sleep is made of, without a model: the buffer, even shares, what is seen closed book, which dreams are tried."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from dream_envs.agents.sleep.dreams import DreamSettings, select
from dream_envs.agents.sleep.experience import Buffer, Experience, alike, closed, context_of, seen, solved
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.agents.sleep.seeding import SeedingSettings
from dream_envs.core import DreamEnvsError, Episode, Outcome, Score, Task, Turn
from dream_envs.seeds import stream


def one(text: str, kind: str = "day", context: str = "") -> Experience:
    head = [{"role": "system", "content": context}] if context else []
    return Experience([*head, {"role": "user", "content": text}], text.upper(), kind)


LIVED = st.lists(
    st.builds(one, st.text("abc", max_size=2), st.sampled_from(["day", "memory", "002"]), st.sampled_from(["", "x"])),
    max_size=40,
)


@given(LIVED, st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_a_buffer_keeps_the_newest_of_each_kind_and_none_twice(lived, capacity):
    buffer = Buffer(capacity)
    for cut in range(0, len(lived), 7):
        buffer.add(lived[cut : cut + 7])
    oracle: list[Experience] = []
    for kind in sorted({e.kind for e in lived}):
        newest: list[Experience] = []
        for e in reversed([e for e in lived if e.kind == kind]):
            if e not in newest:
                newest.append(e)
        oracle += reversed(newest[:capacity])
    assert buffer.all() == oracle and len(buffer) == len(oracle)
    assert buffer.full == any(count == capacity for count in Counter(e.kind for e in oracle).values())
    again = Buffer(capacity)
    again.restore(json.loads(json.dumps(buffer.state())))
    more = [one("new"), one("new", "memory")]
    for b in (buffer, again):
        b.add(more)
    assert again.all() == buffer.all()  # it goes on from there: the order of the oldest is kept too
    buffer.clear()
    assert len(buffer) == 0 and buffer.all() == [] and not buffer.full


def test_a_key_tells_apart_what_a_join_would_not():
    pairs = [
        (one("ab"), one("ab", context="x")),
        (Experience([{"role": "user", "content": "a"}], "b"), Experience([{"role": "user", "content": "ab"}], "")),
        (Experience([{"role": "user", "content": "a"}], "b"), Experience([{"role": "system", "content": "a"}], "b")),
    ]
    for a, b in pairs:
        assert a.key != b.key
    assert one("a").key == one("a", "memory").key  # a kind is how it is rehearsed, not what happened


@given(LIVED, st.integers(0, 60), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_kinds_come_alike_and_nothing_again_before_all_have_come(lived, count, seed):
    lived = list({(e.kind, e.key): e for e in lived}.values())
    found = alike(lived, count, stream("alike", seed))
    assert len(found) == (count if lived else 0)
    sizes = Counter(e.kind for e in lived)
    got = Counter(e.kind for e in found)
    shares = [got[kind] for kind in sizes]
    assert not shares or max(shares) - min(shares) <= 1
    times = Counter((e.kind, e.key) for e in found)
    for kind in sizes:
        own = [times[e.kind, e.key] for e in lived if e.kind == kind]
        assert max(own) - min(own) <= 1 and sum(own) == got[kind]
    assert found == alike(lived, count, stream("alike", seed))


def test_a_context_is_gone_unless_it_was_made_up():
    day, fiction = one("a:I", "day", "I=a>f"), one("a:I", "fiction", "I=a>f")
    assert seen(day) == closed(day.messages) == [{"role": "user", "content": "a:I"}] != day.messages
    assert seen(fiction) == fiction.messages and context_of(fiction.messages) == fiction.messages[:1]
    assert seen(one("a:B", "memory")) == [{"role": "user", "content": "a:B"}]


def episode(*turns: tuple[str, str, str, Score]) -> Episode:
    """Attempts at one problem of level 7: agent, text, status, score."""
    task = Task(family="composition", level=7, prompt="c:AB", answer="")
    return Episode(
        env_id="x-v0", version=1, seed="0", index=0, tasks=[task], events=[], outcome=Outcome("ok"),
        turns=[
            Turn(agent=agent, role=agent.partition("_")[0], messages=[{"role": "user", "content": "c:AB"}], text=text,
                 status=status)
            for agent, text, status, _ in turns
        ],
        scores={agent: score for agent, _, _, score in turns},
    )  # fmt: skip


def test_what_was_solved_is_what_the_reward_believed():
    right, wrong, lost = Score(1.0, grader="g"), Score(0.0, grader="g"), Score(1.0, status="abstain", grader="g")
    found = solved(
        [
            episode(
                ("solver_0", "x", "ok", right), ("solver_1", "x", "ok", right), ("solver_2", "no", "ok", wrong),
                ("solver_3", "late", "timeout", right), ("solver_4", "eh", "ok", lost), ("solver_5", "y", "ok", right),
                ("solver_6", "z", "ok", right), ("challenger_0", "c:AB", "ok", right),
            )
        ]
    )  # fmt: skip
    assert [(e.reply, e.kind) for e in found] == [("x", "007"), ("y", "007")]


@given(st.lists(st.just(0.0) | st.floats(0.1, 9, allow_nan=False), max_size=20), st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_the_largest_are_tried_some_others_and_never_an_empty_dream(weights, top, random):
    found = select(weights, top, random, stream("select"))
    assert len(found) == len(weights)
    full = [i for i, w in enumerate(weights) if w > 0]
    chosen = {how: [i for i, f in enumerate(found) if f == how] for how in ("top", "random", "rejected")}
    assert len(chosen["top"]) == min(top, len(full))
    assert len(chosen["random"]) == min(random, max(0, len(full) - top))
    assert set(chosen["top"] + chosen["random"]) <= set(full)
    rest = [weights[i] for i in full if i not in chosen["top"]]
    assert all(weights[i] >= max(rest, default=0) for i in chosen["top"])


def test_the_others_are_drawn_and_not_the_next_largest():
    """Six others, one drawn: each about as often."""
    weights = [9.0, *(6.0 - i for i in range(6))]
    drawn = Counter(select(weights, 1, 1, stream("draw", i)).index("random") for i in range(600))
    assert set(drawn) == set(range(1, 7)) and max(drawn.values()) < 150


@pytest.mark.parametrize(("make", "says"), [
    (lambda: Buffer(0), "capacity=0"), (lambda: SeedingSettings(lam=1.1), "lam=1.1"),
    (lambda: SeedingSettings(beta=float("nan")), "beta=nan"), (lambda: SeedingSettings(steps=0), "steps=0"),
    (lambda: SeedingSettings(lr=0), "lr=0"), (lambda: SeedingSettings(rank=0), "rank=0"),
    (lambda: SeedingSettings(hard=-1), "hard=-1"), (lambda: DreamSettings(dreams=2, memory=2, fiction=1), "fiction=1"),
    (lambda: DreamSettings(top=0, random=0), "top=0"), (lambda: DreamSettings(size=0), "size=0"),
    (lambda: DreamSettings(proposals=2), "proposals=2"), (lambda: SleepSettings(every=0), "every=0"),
    (lambda: SleepSettings(apart=1.0), "apart=1.0"), (lambda: SleepSettings(tolerance=-0.1), "tolerance=-0.1"),
])  # fmt: skip
def test_a_knob_out_of_its_range_is_one_line(make, says):
    with pytest.raises(DreamEnvsError) as caught:
        make()
    assert says in str(caught.value) and "\n" not in str(caught.value)
