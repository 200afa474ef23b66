"""The headline: hand-worked vectors, exact geometric tails, a naive bootstrap as oracle, the words and the line."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import gain
from dream_envs.frontier import intervals as iv
from dream_envs.frontier import simulate as si
from dream_envs.seeds import stream


def evidence(n: int = 5, **changed: Any) -> gain.Evidence:
    """n problems on which nothing happened, but for ``changed``."""
    fields: dict[str, Any] = {
        "reliable": np.zeros(n), "first": np.zeros(n), "cap": 8192, "second_stage": np.zeros(n),
        "base_reliable": np.zeros(n), "trained_first": np.zeros(n), "loss_cap": 1024, "family": np.arange(n) % 2,
        "held_out": np.zeros(n),
    }  # fmt: skip
    return gain.Evidence(**(fields | changed))


def test_contributions_by_hand() -> None:
    """Never solved; in draw 3,000; in the second stage; half reliable; lost; found again by the trained model."""
    facts = evidence(
        6,
        reliable=[1, 1, 1, 0.5, 0, 0],
        first=[0, 3000, 0, 8192, 0, 0],
        second_stage=[0, 0, 1, 0, 0, 0],
        base_reliable=[0, 0, 0, 0, 0.75, 1],
        trained_first=[0, 0, 0, 0, 0, 1024],
    )
    expected = [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0] * 5, [0.5, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0.75], [0] * 5]
    assert gain.contributions(facts).tolist() == expected
    found = gain.headline(facts, stream("hand"), draws=200)
    assert found.by_budget == pytest.approx({"1024": 250 / 6, "2048": 250 / 6, "4096": 150 / 6, "8192": 100 / 6})
    assert found.persistence == pytest.approx(2 / 3) and found.s == pytest.approx(12.5)
    # D0 = 0, D1 = 1/6, D2 = 0.5/6: r = clip(1.5, 0, 0.9), E* = 1/6 - 9 * 0.5/6
    assert found.ratio == 0.9 and found.e_star == pytest.approx(100 * (1 - 4.5) / 6)
    assert found.fg == pytest.approx(found.e_star - found.s)


@given(st.floats(0, 1), st.floats(0.001, 1), st.floats(0.01, 0.89))
def test_a_geometric_tail_is_taken_off_exactly(rest: float, tail: float, ratio: float) -> None:
    e_star, found = gain.tail_corrected(rest + tail * ratio ** np.arange(4))
    assert found == pytest.approx(ratio, abs=1e-6)
    assert e_star == pytest.approx(rest, abs=1e-6)


def test_the_ratio_is_clipped_and_zero_without_drops() -> None:
    assert gain.tail_corrected(np.array([0.4, 0.4, 0.4, 0.4])) == (0.4, 0.0)
    e_star, ratio = gain.tail_corrected(np.array([0.5, 0.5, 0.4, 0.3]))
    assert ratio == 0.9 and e_star == pytest.approx(0.3 - 0.1 * 9)


@given(st.lists(st.integers(0, 8192), min_size=1, max_size=40))
def test_e_never_rises_with_the_budget(first: list[int]) -> None:
    facts = evidence(len(first), first=first, reliable=np.ones(len(first)))
    e = gain.contributions(facts).mean(0)[:4]
    assert (np.diff(e) <= 0).all()
    assert gain.tail_corrected(e)[0] <= e[3] + 1e-12


def test_e_is_unbiased() -> None:
    """E(k) = mean R_i (1 - p_i)^k, from 16 trained draws and draws until the first success."""
    rng = stream("unbiased")
    p, q = np.array([0.0, 2e-4, 1e-3, 0.3] * 25), np.array([0.4, 0.2, 0.9, 0.05] * 25)
    reliable = np.array([sum(math.comb(16, c) * x**c * (1 - x) ** (16 - c) for c in range(4, 17)) for x in q])
    truth = [(reliable * (1 - p) ** k).mean() for k in gain.BUDGETS]
    found = []
    for _ in range(2000):
        first = np.where(p > 0, rng.geometric(np.maximum(p, 1e-12)), 0)
        solved = rng.binomial(16, q) >= 4
        facts = evidence(100, reliable=solved, first=np.where((first > 8192) | ~solved, 0, first))
        found.append(gain.contributions(facts).mean(0)[:4])
    assert np.mean(found, 0) == pytest.approx(truth, abs=4 * float(np.std(found, 0).max()) / 2000**0.5)


def simulated(n: int = 400, **change: float) -> gain.Evidence:
    return si.draw(si.World(n=n), si.Change("", **change), 8192, stream("gain-world", n, str(change)))[0]


def test_the_interval_is_the_naive_bootstraps() -> None:
    """Resample indices within families one by one, and FG* afresh each time."""
    facts, rng = simulated(gained=5, lost=2, sharpen=6), stream("naive")
    table, naive = gain.contributions(facts), []
    places = [np.flatnonzero(facts.family == f) for f in np.unique(facts.family)]
    for _ in range(4000):
        picked = np.concatenate([rng.choice(place, len(place)) for place in places])
        e, s = table[picked, :4].mean(0), table[picked, 4].mean()
        r = min(max((e[1] - e[3]) / (e[0] - e[2]), 0), 0.9) if e[0] > e[2] else 0.0
        naive.append(100 * (e[3] - (e[2] - e[3]) * r / (1 - r) - s))
    found = gain.headline(facts, stream("quick"))
    assert (found.low, found.high) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.35)


def test_nothing_happened_is_not_printed_as_certainty() -> None:
    found = gain.headline(evidence(2000, family=np.arange(2000) // 100), stream("zero"), draws=100)
    assert (found.low, found.high) == pytest.approx((-0.15, 0.15), abs=0.001) and found.family_interval == (
        found.low,
        found.high,
    )


def test_no_loss_seen_is_not_no_loss() -> None:
    """2.5 points gained, resampled from 1.55 to 3.45; no loss in 2,000 adds 0.15 below, by squares."""
    table = np.zeros((2000, 5))
    table[::40, :4] = 1
    low, high = gain.widened(table, np.linspace(1.5, 3.5, 100_001))
    assert low == pytest.approx(2.5 - math.hypot(0.95, 0.14967), abs=1e-4) and high == pytest.approx(3.45)
    table[0, 4] = 1e-3  # a loss was seen: the bootstrap knows about losses now
    assert gain.widened(table, np.linspace(1.5, 3.5, 100_001)) == pytest.approx((1.55, 3.45))


def test_everything_gained_is_not_certain_either() -> None:
    found = gain.headline(evidence(100, reliable=np.ones(100)), stream("all"), draws=100)
    unseen = 100 * iv.rule_of_three(100)  # a problem not gained, and one lost
    assert (found.low, found.high) == pytest.approx((100 - math.hypot(unseen, unseen), 100))


def test_families_of_one_problem_have_spread() -> None:
    solved = np.arange(40) % 2
    found = gain.headline(evidence(40, reliable=solved, family=np.arange(40)), stream("single"), draws=2000)
    assert found.high - found.low > 20
    assert gain.headline(evidence(40, family=np.zeros(40)), stream("one"), draws=10).family_interval is None


def test_problems_are_resampled_within_their_families() -> None:
    """One family gained whole, the others not at all: only another set of families could have shown anything else."""
    facts = evidence(400, reliable=np.arange(400) < 100, family=np.arange(400) // 100)
    found = gain.headline(facts, stream("within"), draws=2000)
    assert (found.low, found.high) == pytest.approx((25 - 100 * iv.rule_of_three(400), 25))
    assert found.family_interval is not None and found.family_interval[1] >= 75 > 1 > found.family_interval[0]


def test_the_held_out_part_is_the_headline_of_its_problems() -> None:
    facts = simulated(gained=6, lost=1)
    held = facts.family % 3 == 0
    facts = gain.Evidence(**{**vars(facts), "held_out": held})
    only = {k: v[held] if isinstance(v, np.ndarray) else v for k, v in vars(facts).items()}
    part, alone = gain.headline(facts, stream("a")).held_out, gain.headline(gain.Evidence(**only), stream("b"))
    assert part is not None and (part.fg, part.n) == (alone.fg, alone.n)
    assert (part.low, part.high) == pytest.approx((alone.low, alone.high), abs=0.6)


def test_the_same_stream_gives_the_same_headline() -> None:
    facts = simulated(gained=3)
    assert gain.headline(facts, stream("x")) == gain.headline(facts, stream("x"))


@pytest.mark.parametrize("kind", ["indicators", "all different"])
def test_two_thousand_problems_take_less_than_a_second(kind: str) -> None:
    facts = simulated(2000, gained=4, lost=2, sharpen=7)
    if kind == "all different":
        facts = gain.Evidence(**{**vars(facts), "reliable": stream("r").random(2000)})
    gain.headline(facts, stream("warm"), draws=10)
    start = time.process_time()
    gain.headline(facts, stream("clock"))
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: evidence(5, reliable=[0.5] * 4), "reliable 4: one for each"),
        (lambda: evidence(5, reliable=[1.5] * 5), "reliable holds 1.5"),
        (lambda: evidence(5, reliable=[math.nan] * 5), "reliable holds nan"),
        (lambda: evidence(0), "empty"),
        (lambda: evidence(2, first=[1, 9000]), "first holds 9000"),
        (lambda: evidence(2, trained_first=[1, 1025]), "trained_first holds 1025"),
        (lambda: evidence(2, second_stage=[0, 2]), "second_stage holds 2"),
        (lambda: evidence(2, cap=0), "cap=0"),
        (lambda: gain.headline(evidence(4, cap=4096), stream("x")), "budget 8192: at most cap=4096"),
        (lambda: gain.headline(evidence(4), stream("x"), (1, 2, 4)), "four, each twice"),
        (lambda: gain.headline(evidence(4), stream("x"), (1, 2, 4, 9)), "four, each twice"),
        (lambda: gain.across_runs([], stream("x")), "no runs"),
        (lambda: gain.across_runs([evidence(4), evidence(5)], stream("x")), "different problems"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as told:
        call()
    assert "\n" not in str(told.value)


HEADLINE = gain.Headline(
    fg=2.3, low=1.6, high=3.0, e=2.5, e_star=2.5, s=0.2, persistence=0.98, by_budget={}, family_interval=None,
    held_out=gain.Part(fg=1.9, low=0.8, high=3.1, n=600), runs=None, n=2000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "certified", "pass1", "word"),
    [
        ({}, 10, 1.0, "Expansion"),
        ({}, 10, -1.0, "Expansion"),  # pass@1 has no say
        ({}, 9, 1.0, "Inconclusive"),
        ({"low": 0.5}, 50, 1.0, "Sharpening"),
        ({"low": 0.5}, 50, 0.0, "Inconclusive"),
        ({"held_out": None}, 50, 1.0, "Inconclusive"),
        ({"held_out": gain.Part(fg=1.0, low=0.0, high=2.0, n=600)}, 50, 1.0, "Inconclusive"),
        ({"fg": -2.0, "low": -3.0, "high": -0.1, "e": 0.0, "s": 2.0}, 0, 1.0, "Contraction"),
        ({"fg": -2.0, "low": -3.0, "high": -0.1, "e": 0.4, "s": 0.0}, 0, 1.0, "Sharpening"),  # nothing was lost
        ({"fg": -1.0, "low": -3.0, "high": 0.0, "e": 0.0, "s": 1.0}, 0, 0.0, "Inconclusive"),
    ],
)
def test_the_words(fields: dict[str, Any], certified: int, pass1: float, word: str) -> None:
    assert gain.verdict(msgspec.structs.replace(HEADLINE, **fields), certified, pass1) == word


def test_the_gradient_is_the_slope() -> None:
    for e in ([0.5, 0.4, 0.33, 0.3], [0.4, 0.4, 0.4, 0.4], [0.5, 0.5, 0.4, 0.25], [0.5, 0.3, 0.3, 0.3]):
        at, step = np.array(e), 1e-7
        slope = [
            (gain.tail_corrected(at + d)[0] - gain.tail_corrected(at - d)[0]) / (2 * step) for d in step * np.eye(4)
        ]
        if 0 < gain.tail_corrected(at)[1] < gain.MAX_RATIO or e[:2] == [0.5, 0.5]:
            assert gain._tail_gradient(at) == pytest.approx(slope, abs=1e-4)
        assert gain._tail_gradient(at) @ at == pytest.approx(gain.tail_corrected(at)[0])  # homogeneous


def runs(count: int, spread: float, *labels: Any) -> list[gain.Evidence]:
    """Runs on the same 400 problems; each gains a share of its own."""
    rng, hard = stream("runs", *labels), stream("hard", *labels).random(400) < 0.3
    found = []
    for _ in range(count):
        share = np.clip(0.3 + spread * rng.normal(), 0, 1)
        found.append(evidence(400, reliable=hard & (rng.random(400) < share), family=np.arange(400) // 20))
    return found


def test_runs_that_differ_widen_the_recipe_only() -> None:
    alike, apart = (gain.across_runs(runs(5, s, "a"), stream("b"), draws=2000) for s in (0.0, 0.2))
    assert alike.runs is not None and apart.runs is not None and apart.runs.n == 5
    assert alike.runs.fg == alike.fg
    assert alike.runs.high - alike.runs.low == pytest.approx(alike.high - alike.low, rel=0.35)
    assert apart.runs.high - apart.runs.low > 2 * (apart.high - apart.low)


def test_two_runs_are_not_a_recipe() -> None:
    assert gain.across_runs(runs(2, 0.2, "c"), stream("d"), draws=100).runs is None
    one = runs(1, 0.0, "e")
    assert gain.across_runs(one, stream("f"), draws=500) == gain.headline(one[0], stream("f"), draws=500)


def test_the_recipes_interval_covers() -> None:
    """Truth: 0.3 of the 30 % hard problems, 9 points; new problems and new runs each time."""
    hits = 0
    for i in range(120):
        found = gain.across_runs(runs(4, 0.15, "cover", i), stream("g", i), draws=50).runs
        assert found is not None
        hits += found.low <= 9 <= found.high
    assert hits >= 107
