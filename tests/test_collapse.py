"""Two models compared on one set of prompts, and the alarm on a series of checkpoints."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dream_envs.core import Task
from dream_envs.metrics.collapse import collapse, cusum, log_spaced
from dream_envs.metrics.replies import Replies, compare, measure, replies, series
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

FAMILY = Composition()
BASE = {"vendi": 8.0, "vendi_across": 20.0, "top_share": 0.5, "effective_formats": 2.0, "duplicates": 0.1}


def sampled(label: str, right: float = 0.5, prose: float = 0.4) -> Replies:
    """A model that writes traces, right or guessed, and lists of states, in shares that do not depend on the prompt."""
    rng, tasks = stream("replies", label), [FAMILY.generate(stream("prompt", i), 3) for i in range(24)]

    def said(task: Task) -> str:
        text = task.answer if rng.random() < right else FAMILY.guess(task, rng)
        return text[1::2] if rng.random() < prose else text

    return replies([[said(task) for _ in range(4)] for task in tasks], tasks, [FAMILY] * 24)


def constant(text: str) -> Replies:
    return replies([[text] * 4] * 24, [FAMILY.make("c", "BDA")] * 24, [FAMILY] * 24)


def test_measures_worked_by_hand() -> None:
    tasks = [FAMILY.make("c", "B"), FAMILY.make("c", "D")]
    gold = [t.answer for t in tasks]
    found = measure(replies([[gold[0], gold[0], "Bz", "?"], [gold[1]] * 4], tasks, [FAMILY] * 2))
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["top_share"] == pytest.approx(6 / 8)  # "Bz" and "?" are no traces: z is no state
    assert found["format_entropy_plug_in"] == pytest.approx(-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25))
    assert found["answer_entropy_plug_in"] == pytest.approx(1.5 / 2)  # (1/2, 1/4, 1/4) and one answer
    assert found["answer_entropy_wrong"] == pytest.approx(1 + 1 / (4 * math.log(2)))  # two wrong answers, once each
    assert found["duplicates"] == pytest.approx((0.25 + 0.75) / 2)
    assert 1 < found["vendi"] < 2 and found["simpson"] == pytest.approx((6 * 5 + 2 * 1) / 56)


def test_learning_the_answer_is_no_loss_across_prompts() -> None:
    before, after = (measure(sampled("a", right=r, prose=0.0)) for r in (0.1, 1.0))
    assert after["vendi"] == pytest.approx(1.0) and before["vendi"] > 2.0  # within a prompt it looks like collapse
    assert after["vendi_across"] > 0.8 * before["vendi_across"]
    assert measure(constant("BfDk"))["vendi_across"] == pytest.approx(1.0)


def test_compare_fills_the_block() -> None:
    base, trained = sampled("base"), sampled("trained", right=0.9, prose=0.02)
    block = compare(base, trained, stream("compare"))
    assert msgspec.json.decode(msgspec.json.encode(block), type=type(block)) == block
    for name, (value, low, high) in block.ratio.items():
        assert low <= value <= high, name
        assert value == pytest.approx(block.trained[name] / block.base[name], rel=1e-4), name
    assert {"format_entropy", "answer_entropy", "vendi"} <= set(block.ratio)
    assert block.ratio["answer_entropy"][2] < 1 and block.ratio["effective_formats"][2] < 1
    assert sum(block.formats.base.values()) == pytest.approx(1.0, abs=1e-5)
    assert 0.2 < block.trained["tv_to_base"] < 0.6 and 0 < block.trained["js_to_base"] < 1
    assert compare(base, trained, stream("compare")) == block


def test_intervals_of_ratios_cover_one_for_equal_models() -> None:
    """60 pairs of runs of one model: a 95 % interval misses 1 in about three of them."""
    missed = {"answer_entropy": 0, "format_entropy": 0, "vendi": 0}
    for i in range(60):
        ratio = compare(sampled(f"x{i}"), sampled(f"y{i}"), stream("coverage", i)).ratio
        for name in missed:
            missed[name] += not ratio[name][1] <= 1.0 <= ratio[name][2]
    assert max(missed.values()) <= 10, missed  # P(more than 10 of 60 at 5 %) is 2e-4


def test_nothing_to_divide_by_is_no_ratio() -> None:
    block = compare(constant("7"), constant("7"), stream("same"))
    assert "answer_entropy" not in block.ratio and "format_entropy" not in block.ratio
    assert block.ratio["vendi"] == (1.0, 1.0, 1.0) and block.trained["js_to_base"] == 0.0


def test_what_is_right_may_be_known_already() -> None:
    said = replies([["x", "x", "y"]], [FAMILY.make("c", "B")], [FAMILY], right=[[True, True, False]])
    assert measure(said)["accuracy"] == pytest.approx(2 / 3)


def points(**changed: list[float | None]) -> list[dict[str, float | None]]:
    length = len(next(iter(changed.values())))
    return [dict(BASE), *[{**BASE, **{k: v[i] for k, v in changed.items()}} for i in range(length)]]


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (points(vendi_across=[9.9, 9.8]), "Vendi score fell from 20.0 to 9.8"),
        (points(vendi_across=[9.9]), ""),  # once is not twice
        (points(vendi_across=[9.9, 15.0, 9.9]), ""),
        (points(vendi=[3.9, 3.9]), ""),  # alike within a prompt: it may be right
        (points(top_share=[0.95, 0.91]), "one format has 0.91"),
        (points(top_share=[0.95, 0.90]), ""),
        ([{**BASE, "top_share": 0.6}, *points(top_share=[1.0, 1.0])[1:]], ""),
        (points(duplicates=[0.9, 0.9]), ""),
        (points(vendi_across=[13.0] * 8), ""),
        (points(vendi_across=[13.0] * 9), "CUSUM 1.09"),  # 9 (log2(20 / 13) - 1/2)
        (points(vendi_across=[15.0] * 40), ""),
        (points(effective_formats=[0.99, 0.99, 0.99]), "effective number of formats"),
        ([{**p, "top_share": 0.8} for p in points(effective_formats=[0.9] * 9)], ""),
        (points(vendi_across=[11.0] * 5 + [20.0] * 3), ""),  # recovered
        (points(vendi_across=[None, math.nan, 0.0]), ""),
        ([BASE], ""),
        ([], ""),
        ([{}, {}, {}], ""),
    ],
)  # fmt: skip
def test_each_rule_rings_for_its_own_failure(history: list[dict], words: str) -> None:
    found = collapse(history)
    assert (words in found[0] and len(found) == 1) if words else found == []
    assert all(": " in text for text in found)  # the run report folds alarms by what stands behind the colon


def test_false_alarms_are_rare() -> None:
    """Checkpoints drawn from the base itself, 24 prompts of 4: at most 1 in 1,000 runs of twelve rings."""
    pool = [measure(sampled(f"pool{i}")) for i in range(60)]
    rng = stream("false-alarms")
    rung = 0
    for _ in range(1000):
        order = rng.integers(len(pool), size=13)
        rung += any(collapse([pool[i] for i in order[: n + 1]]) for n in range(1, 13))
    assert rung <= 1


def test_a_real_collapse_is_found_at_once() -> None:
    words = " / ".join(collapse([measure(sampled("start", prose=0.45)), *[measure(constant("BfDkAa"))] * 2]))
    assert "Vendi" in words and "format" in words


@given(st.lists(st.floats(-3, 3), max_size=20))
def test_cusum_is_the_largest_sum_that_ends_here(values: list[float]) -> None:
    for t, here in enumerate(cusum(values), 1):
        ends_here = [sum(values[i:t]) - (t - i) / 2 for i in range(t)]
        assert here == pytest.approx(max(0.0, *ends_here), abs=1e-9)


def test_log_spaced_steps() -> None:
    assert [s for s in range(150) if log_spaced(s, last=149)] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 149]
    assert [s for s in range(100) if log_spaced(s, every=10)] == [0, 10, 20, 40, 80]


def test_series() -> None:
    assert series([0, 4], [{"a": 1.0}, {"a": math.nan, "b": np.float64(2.0)}]) == {
        "step": [0, 4], "a": [1.0, None], "b": [None, 2.0],
    }  # fmt: skip
