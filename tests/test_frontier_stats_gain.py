"""G@K: by hand, intervals against their target, bounds beyond K, several runs; the simulation and its coverage."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import gain
from dream_envs.frontier import simulate as si
from dream_envs.seeds import stream


def evidence(n: int = 5, **changed: Any) -> gain.Evidence:
    """n problems on which nothing happened, but for ``changed``."""
    fields: dict[str, Any] = {
        "reliable": np.zeros(n), "first": np.zeros(n), "cap": 1024, "reached": np.zeros(n),
        "base_reliable": np.zeros(n), "trained_first": np.zeros(n), "family": np.arange(n) % 2,
    }  # fmt: skip
    return gain.Evidence(**(fields | changed))


def test_gains_and_losses_by_hand() -> None:
    """Never solved; in sample 300; by a later envelope; half reliable, in the last sample; lost; found again."""
    facts = evidence(
        6, reliable=[1, 1, 1, 0.5, 0, 0], first=[0, 300, 0, 1024, 0, 0], reached=[0, 0, 1, 0, 0, 0],
        base_reliable=[0, 0, 0, 0, 0.75, 1], trained_first=[0, 0, 0, 0, 0, 1024],
    )  # fmt: skip
    assert gain.gained(facts, 1024).tolist() == [1, 0, 0, 0, 0, 0]
    assert gain.gained(facts, 1023).tolist() == [1, 0, 0, 0.5, 0, 0]
    assert gain.gained(facts, 299).tolist() == [1, 1, 0, 0.5, 0, 0]
    assert gain.lost(facts).tolist() == [0, 0, 0, 0, 0.75, 0]
    head = gain.headline([facts], stream("hand"), draws=200)
    assert (head.k, head.n, head.runs) == (1024, 6, 1)
    assert [head.e[0], head.s[0], head.g[0]] == pytest.approx([100 / 6, 12.5, 100 / 6 - 12.5])


@given(st.lists(st.integers(0, 1024), min_size=1, max_size=40))
def test_e_never_rises_with_the_budget(first: list[int]) -> None:
    facts = evidence(len(first), first=first, reliable=np.ones(len(first)))
    curve = gain.expansion_curve(facts, [1, 2, 4, 32, 256, 1024])
    assert (np.diff(curve.mean) <= 0).all() and all(
        0 <= low <= e <= high <= 100 for low, e, high in zip(curve.low, curve.mean, curve.high, strict=True)
    )


def test_e_is_unbiased() -> None:
    """E(k) = mean R_i (1 - p_i)^k, from 16 trained samples and samples until the first success."""
    rng = stream("unbiased")
    p, q = np.array([0.0, 2e-4, 1e-3, 0.3] * 25), np.array([0.4, 0.2, 0.9, 0.05] * 25)
    reliable = np.array([sum(math.comb(16, c) * x**c * (1 - x) ** (16 - c) for c in range(4, 17)) for x in q])
    ks = (128, 1024)
    truth = [(reliable * (1 - p) ** k).mean() for k in ks]
    found = []
    for _ in range(2000):
        first = np.where(p > 0, rng.geometric(np.maximum(p, 1e-12)), 0)
        solved = rng.binomial(16, q) >= 4
        facts = evidence(100, reliable=solved, first=np.where((first > 1024) | ~solved, 0, first))
        found.append([gain.gained(facts, k).mean() for k in ks])
    assert np.mean(found, 0) == pytest.approx(truth, abs=4 * float(np.std(found, 0).max()) / 2000**0.5)


def test_nothing_and_everything_are_not_printed_as_certainty() -> None:
    """Nothing happened to 2,000 problems: 0 events bound E and S at 1 - 0.025^(1/2000) each, squared and added."""
    family, unseen = np.arange(2000) // 100, 100 * -math.expm1(math.log(0.025) / 2000)
    none = gain.headline([evidence(2000, family=family)], stream("zero"), draws=100)
    assert none.e == pytest.approx((0, 0, unseen)) and none.g == pytest.approx((0, -unseen, unseen))
    every = gain.headline([evidence(2000, reliable=np.ones(2000), family=family)], stream("all"), draws=100)
    assert every.e == pytest.approx((100, 100 - unseen, 100))
    assert every.g == pytest.approx((100, 100 - math.hypot(unseen, unseen), 100))


def test_problems_are_counted_within_their_families() -> None:
    """One family gained whole, the others not at all: only another set of families could have shown anything else."""
    facts = evidence(400, reliable=np.arange(400) < 100, family=np.arange(400) // 100)
    found = gain.headline([facts], stream("within"), draws=2000)
    assert 23 < found.g[1] < 25 < found.g[2] < 27
    assert found.family_interval is not None and found.family_interval[1] >= 75 > 1 > found.family_interval[0]
    mixed = gain.headline([evidence(400, reliable=np.arange(400) % 4 == 0, family=np.arange(400) // 100)], stream("m"))
    assert mixed.g[0] == 25 and mixed.g[1] < 21.5 and mixed.g[2] > 28.5  # a binomial of 400
    assert gain.headline([evidence(40, family=np.zeros(40))], stream("one"), draws=10).family_interval is None


@pytest.mark.parametrize(
    ("gains", "losses", "each"),
    [
        ((0.0,) * 20, (0.0,) * 20, 20), ((0.005,) * 20, (0.005,) * 20, 20), ((0.02,) * 20, (0.0,) * 20, 20),
        ((0.99,) * 12 + (0.0,) * 8, (0.0,) * 12 + (0.01,) * 8, 20), (tuple(np.linspace(1, 0, 20)), (0.0,) * 20, 20),
        ((0.0,) * 4 + (0.6,) * 16, (0.8,) * 4 + (0.0,) * 16, 20), ((0.02,) * 17, (0.0,) * 17, 100),
        (tuple(np.linspace(1, 0.05, 17)), (0.001,) * 17, 100),
    ],
)  # fmt: skip
def test_the_interval_covers(gains: Any, losses: Any, each: int) -> None:
    """1,000 reports of strata in which each problem is gained or lost with a known chance: 95 %, less 3 errors."""
    rng, family, hits = stream("cover", str(gains), each), np.repeat(np.arange(len(gains)), each), 0
    g, s = (np.repeat(np.array(x), each) for x in (gains, losses))
    truth = 100 * float((g - s).mean())
    for _ in range(1000):
        u = rng.random(len(family))
        facts = evidence(len(family), reliable=u < g, base_reliable=(u >= g) & (u < g + s), family=family)
        _, low, high = gain.gain(facts)[0]
        hits += low <= truth <= high
    assert hits >= 950 - 3 * math.sqrt(1000 * 0.05 * 0.95)


def test_following_some_is_unbiased_and_widens() -> None:
    """The mean of the estimate over all subsamples is what following everybody gives; before the stage all count."""
    n, kept, rng = 60, 12, stream("lots-unbiased")
    first = np.where(rng.random(n) < 0.3, rng.integers(20, 200, n), 0)
    first[:20] = rng.integers(1, 16, 20)  # solved before the stage
    plain: dict[str, Any] = {"reliable": np.ones(n), "cap": 256, "family": np.zeros(n)}
    whole, left, found = evidence(n, first=first, **plain), (first == 0) | (first > 16), []
    for i in range(800):
        followed = ~left
        followed[left] = gain.subsample(np.zeros(left.sum(), int), kept, stream("lot", i))
        some = evidence(n, first=np.where(followed, first, 0), followed=followed, stage=16, **plain)
        found.append(gain.gained(some, 256).mean())
    error = 4 * np.std(found) / np.sqrt(800)
    assert abs(np.mean(found) - gain.gained(whole, 256).mean()) < error
    a, b = gain.expansion(whole, 256), gain.expansion(some, 256)
    assert b[0] == pytest.approx(found[-1]) and b[2] - b[1] > a[2] - a[1]
    assert gain.expansion_curve(some, [1, 16]).mean == gain.expansion_curve(whole, [1, 16]).mean
    ten = evidence(100, reliable=np.ones(100), family=np.zeros(100), followed=np.arange(100) < 10, stage=16)
    value, low, high = gain.expansion(ten, 1024)
    assert value == 1 and high == 1 and low < 0.75  # none of ten was solved: that is not none of a hundred


def test_lots_by_enumeration() -> None:
    """Every group in proportion, at least one of each, and every member alike likely."""
    groups = np.repeat([0, 1, 2], [8, 3, 1])
    often = np.zeros(12)
    for i in range(3000):
        picked = gain.subsample(groups, 4, stream("lots", i))
        assert [picked[groups == g].sum() for g in range(3)] == [3, 1, 1]
        often += picked
    assert np.allclose(often / 3000, np.repeat([3 / 8, 1 / 3, 1], [8, 3, 1]), atol=0.05)
    assert gain.subsample(groups, 12, stream("x")).all()


@pytest.mark.parametrize("law", ["heavy", "flat", "impossible"])
def test_e_stays_within_its_bounds(law: str) -> None:
    """Success rates of any mixture: E(8 K) and E(64 K), exact, in 300 reports."""
    rng, n, k = stream("bounds", law), 400, 256
    held = 0
    for _ in range(300):
        p = {"heavy": 10 ** -rng.uniform(0, 6, n), "flat": np.full(n, 3e-4), "impossible": np.zeros(n)}[law]
        first = rng.geometric(np.maximum(p, 1e-15))
        facts = evidence(n, reliable=np.ones(n), first=np.where((p == 0) | (first > k), 0, first), cap=k)
        truth = [100 * ((1 - p) ** (m * k)).mean() for m in gain.MULTIPLES]
        bounds = gain.beyond(facts)
        assert [b.k for b in bounds] == [8 * k, 64 * k]
        held += all(b.low - 1e-6 <= e <= b.high + 1e-6 for b, e in zip(bounds, truth, strict=True))
    assert held >= 278


def runs(count: int, spread: float, *labels: Any) -> list[gain.Evidence]:
    """Runs on the same 400 problems; each gains a share of its own."""
    rng, hard = stream("runs", *labels), stream("hard", *labels).random(400) < 0.3
    found = []
    for _ in range(count):
        share = np.clip(0.3 + spread * rng.normal(), 0, 1)
        found.append(evidence(400, reliable=hard & (rng.random(400) < share), family=np.arange(400) // 20))
    return found


def test_runs_that_differ_widen_the_recipe() -> None:
    alike, apart = (gain.headline(runs(5, s, "a"), stream("b"), draws=200) for s in (0.0, 0.2))
    width = [h.g[2] - h.g[1] for h in (alike, apart)]
    assert (alike.runs, apart.runs) == (5, 5) and width[1] > 2 * width[0]


def test_the_recipes_interval_covers() -> None:
    """Truth: 0.3 of the 30 % hard problems, 9 points; new problems and new runs each time."""
    hits = 0
    for i in range(120):
        _, low, high = gain.headline(runs(4, 0.15, "cover", i), stream("g", i), draws=10).g
        hits += low <= 9 <= high
    assert hits >= 107


def test_two_thousand_problems_take_less_than_a_second() -> None:
    rng = stream("speed")
    facts = evidence(2000, reliable=rng.random(2000), family=np.arange(2000) // 100)
    gain.headline([facts], stream("warm"), draws=10)
    start = time.process_time()
    gain.headline([facts], stream("clock"))
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
        (lambda: evidence(2, reached=[0, 2]), "reached holds 2"),
        (lambda: evidence(2, cap=0), "cap=0"),
        (lambda: gain.gained(evidence(4), 2048), "budget 2048: 1 to 1024"),
        (lambda: gain.headline([], stream("x")), "no runs"),
        (lambda: gain.headline([evidence(4), evidence(5)], stream("x")), "different problems"),
        (lambda: si.simulate(si.COVERAGE[0], stream("x"), 5, 4, 1), "k=4"),
        (lambda: si.simulate(si.Change("", gained=40), stream("x"), 5, 64, 1), "gained=40 points: this world has"),
        (lambda: si.simulate(si.Change("", lost=90), stream("x"), 5, 64, 1), "lost=90 points: this world has"),
        (lambda: si.simulate(si.Change("", lost=-1), stream("x"), 5, 64, 1), "lost holds -1"),
        (lambda: si.simulate(si.COVERAGE[0], stream("x"), 0, 64, 1), "per_stratum=0"),
        (lambda: si.simulate(si.COVERAGE[0], stream("x"), 5, 64, 0), "repetitions=0"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as told:
        call()
    assert "\n" not in str(told.value)


def test_first_success_has_the_exact_law() -> None:
    """Three methods in turn, one of them useless: P(J = j) is a product over the draws before it."""
    p = np.array([0.05, 0.0, 0.2])
    first = si.first_success(np.tile(p, (200_000, 1)), 10, stream("first"))
    missed = 1.0
    for j in range(1, 11):
        rate = p[(j - 1) % 3]
        assert (first == j).mean() == pytest.approx(missed * rate, abs=0.004)
        missed *= 1 - rate
    assert (first == 0).mean() == pytest.approx(missed, abs=0.004)


def test_first_success_at_the_ends() -> None:
    rng = stream("ends")
    assert si.first_success(np.zeros((50, 8)), 8192, rng).tolist() == [0] * 50
    assert si.first_success(np.array([[0.0, 1.0, 1.0]] * 50), 5, rng).tolist() == [2] * 50
    assert si.first_success(np.array([[0.0, 1.0]] * 50), 1, rng).tolist() == [0] * 50  # the cap comes first
    tiny = si.first_success(np.full((20_000, 8), 1e-5), 8192, rng)
    assert (tiny == 0).mean() == pytest.approx(math.exp(-0.08192), abs=0.01)


def test_reliability_table() -> None:
    """P(at least 4 of 16 are right), as the protocol has it."""
    found = si._tail(np.array([0.01, 0.05, 0.1, 0.25, 0.4]))
    assert found == pytest.approx([1.7e-5, 0.007, 0.068, 0.595, 0.935], rel=0.05)


@pytest.mark.parametrize("name", ["flagship-like", "sharpened, L = 4", "mixed"])
def test_reports_are_of_the_population(name: str) -> None:
    """The mean over 60 reports is the exact truth, which follows from the rates alone."""
    change = next(c for c in si.COVERAGE if c.name == name)
    world = si.world(change, stream("population", name))
    truth, e = world.truth(256)
    found = np.array([gain.gain(si.draw(world, 20, 256, stream("p", name, i))) for i in range(60)])[:, :, 0]
    for value, at in ((truth, 0), (e, 1)):
        assert abs(found[:, at].mean() - value) < 4 * found[:, at].std() / 60**0.5 + 0.01


@pytest.mark.parametrize("follow", [0, 60])
@pytest.mark.parametrize("change", si.COVERAGE, ids=lambda c: c.name)
def test_the_interval_covers_every_population(change: si.Change, follow: int) -> None:
    """250 mini reports: no cell is shown to be below 95 % (three errors); docs have 2,000 of each size."""
    row = si.simulate(change, stream("coverage", change.name), 20, 1024, 250, follow)
    assert row["covered"] >= 0.95 - 3 * (0.05 * 0.95 / 250) ** 0.5 and row["bounds"] >= 0.92
    if row["truth"] < 0.5:
        assert row["beyond"] <= 0.05


@pytest.mark.parametrize(("gained", "least"), [(2, 0.4), (5, 0.97), (10, 0.99)])
def test_power(gained: float, least: float) -> None:
    row = si.simulate(si.Change("", gained=gained), stream("power", gained), 20, 1024, 150)
    assert row["beyond"] >= least and row["mean"] == pytest.approx(gained, abs=1)


def test_the_same_stream_gives_the_same_row() -> None:
    one, two = (si.simulate(si.COVERAGE[3], stream("again"), 5, 256, 3) for _ in range(2))
    assert one == two
