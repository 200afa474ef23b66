"""The protocol on models whose success rates are known, and the lots by which survivors are followed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from test_frontier_draws import Coin, method

from dream_envs.core import DreamEnvsError, Task
from dream_envs.frontier import gain, sections
from dream_envs.frontier.draws import SampleCache, Unavailable
from dream_envs.frontier.gain import expansion_curve
from dream_envs.frontier.protocol import EvaluatedModel, Plan, evidence, measure
from dream_envs.frontier.schema import ModelInfo
from dream_envs.frontier.suite import Stratum, Suite, suite
from dream_envs.seeds import stream


class Family:
    """Problems without content; luck solves one in a million."""

    name, version, notation, levels, max_chars, max_reply_tokens = "toy", 1, "compact", range(1, 4), 9, 9

    def generate(self, rng, level):
        return Task(family="toy", level=level, prompt=f"{level}:{rng.integers(10**12)}", answer="yes")

    def chance(self, task):
        return 1e-6 if task.level > 1 else 0.5


TOY = Suite("toy", tuple(Stratum(f"s{i}", Family(), i, "longer composition", i == 3) for i in (1, 2, 3)), ("plain",))


def side(rates, name: str) -> EvaluatedModel:
    return EvaluatedModel(SampleCache(None, name), [method(Coin(rates), f"arm{i}") for i in range(2)])


class Law(dict):
    """Success rates by prompt from a function, made when asked for."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def __missing__(self, prompt):
        level, _, number = prompt.partition(":")
        self[prompt] = self.law(int(level), stream("law", number).random())
        return self[prompt]


def base_law(level: int, u: float) -> float:
    return 0.0 if u < 0.5 else u**6 / level


def trained_law(level: int, u: float) -> float:
    return 0.9 if 0.3 < u < 0.5 else base_law(level, u)  # a fifth of the problems gained


PLAN = Plan(TOY, per_stratum=150, budget=256, stage=16, follow=40, loss_budget=64)


def report(plan: Plan, base, trained, **more):
    sides = side(base, "base"), side(trained, "trained")
    found = measure(plan, *sides, **more)
    return found, gain.headline(evidence(plan, found)[0], stream("h"), plan.budgets(), draws=2000)


def truth(plan: Plan) -> float:
    """E(budget) in points of the problems that count, from the rates themselves."""
    from scipy.stats import binom

    total = []
    for p in plan.suite.problems(plan.seed, plan.per_stratum):
        if p.task.level > 1:
            base, trained = Law(base_law)[p.task.prompt], Law(trained_law)[p.task.prompt]
            total.append(binom.sf(plan.need - 1, plan.trained_draws, trained) * (1 - base) ** plan.budget)
    return 100 * float(np.mean(total))


def test_finds_what_was_gained():
    found, head = report(PLAN, Law(base_law), Law(trained_law))
    assert head.n == 300 and not found.eligible[:150].any()
    assert abs(head.e - truth(PLAN)) < 2.5
    assert head.low < truth(PLAN) < head.high and head.low > 5
    assert sum(s.made for s in found.first) < 300 * PLAN.budget / 5


def test_following_some_estimates_what_following_all_does():
    few, all_ = (report(msgspec.structs.replace(PLAN, follow=f), Law(base_law), Law(trained_law)) for f in (25, 10**6))
    assert not few[0].followed.all() and all_[0].followed.all()
    assert evidence(PLAN, all_[0])[0].followed is None
    assert abs(few[1].e - all_[1].e) < 3 and few[1].low <= all_[1].e <= few[1].high
    draws = [sum(s.made for s in found.first) for found, _ in (few, all_)]
    assert draws[0] < draws[1] / 1.5


def test_a_model_against_itself_shows_nothing():
    found, head = report(PLAN, Law(base_law), Law(base_law))
    assert abs(head.fg) < 0.3 and head.low < 0 < head.high
    assert found.configurations["base"] == found.configurations["trained"]
    assert gain.verdict(head, 0, -0.01) == "Inconclusive"


def test_what_is_lost_counts_against_it():
    _, head = report(PLAN, Law(trained_law), Law(base_law))
    assert head.s > 10 and head.high < 0 and gain.verdict(head, 0, -0.1) == "Contraction"


def test_the_second_stage_can_only_lower_it():
    sides = side(Law(base_law), "base"), side(Law(trained_law), "trained")
    sides[0].second_stage = [method(Coin(Law(trained_law)), "knows")]
    found = measure(PLAN, *sides)
    lowered = gain.headline(evidence(PLAN, found)[0], stream("h"), PLAN.budgets(), draws=500)
    assert set(found.second_stage) == {"", "knows"} and found.second_stage_draws > 0
    assert lowered.e < 0.5 < report(PLAN, Law(base_law), Law(trained_law))[1].e


class Nothing:
    """An arm that cannot be made."""

    def act(self, requests):
        raise Unavailable("no two kinds of replies")


def test_an_arm_that_cannot_be_made_is_told():
    sides = side(Law(base_law), "base"), side(Law(trained_law), "trained")
    sides[0].second_stage = [method(Nothing(), "steering")]
    found = measure(PLAN, *sides)
    assert found.unavailable == {"steering": "no two kinds of replies"} and not any(found.second_stage)


def test_problems_that_were_met_are_drawn_anew():
    met = {p.task.id for p in TOY.problems("0", 150)}
    found, _ = report(PLAN, Law(base_law), Law(base_law), avoid=met)
    assert not met & {p.task.id for p in found.problems} and len(found.problems) == 450


def test_the_report_holds_together():
    sides = side(Law(base_law), "base"), side(Law(trained_law), "trained")
    found = measure(PLAN, *sides)
    sources = sections.Sources(ModelInfo(name="b"), ModelInfo(name="t"), ())
    data = sections.report(PLAN, found, sources)
    assert data.suite.n == 300 and len(data.problems) == 450
    assert data.decay.k[-1] == 256 and abs(data.decay.mean[-1] - data.headline.e) < 1e-9
    assert data.exact is None and data.verdict.kinds["held-out pairs"] == 0
    assert {c.problem for c in data.certified} == {p.id for p in data.problems if p.certified}
    assert data.headline.e == pytest.approx(data.headline.by_budget["256"])
    assert msgspec.json.decode(msgspec.json.encode(data), type=type(data)) == data


@pytest.mark.parametrize(
    "change", [{"need": 17}, {"budget": 100}, {"stage": 33}, {"stage": 0}, {"follow": 0}, {"per_stratum": 0}]
)
def test_a_plan_that_cannot_be_carried_out_is_one_line(change):
    plan = msgspec.structs.replace(PLAN, **change)
    with pytest.raises(DreamEnvsError, match=f"{next(iter(change))}={next(iter(change.values()))}"):
        plan.check()


def test_lots_by_enumeration():
    """Every group in proportion, at least one of each, and every member alike likely."""
    groups = np.repeat([0, 1, 2], [8, 3, 1])
    often = np.zeros(12)
    for i in range(3000):
        picked = gain.subsample(groups, 4, stream("lots", i))
        assert [picked[groups == g].sum() for g in range(3)] == [3, 1, 1]
        often += picked
    assert np.allclose(often / 3000, np.repeat([3 / 8, 1 / 3, 1], [8, 3, 1]), atol=0.05)
    assert gain.subsample(groups, 12, stream("x")).all()


def test_following_by_lot_is_unbiased():
    """The mean of the estimate over all lots is what following everybody gives."""
    n, kept = 60, 12
    rng = stream("lots-unbiased")
    first = np.where(rng.random(n) < 0.3, rng.integers(20, 200, n), 0)
    first[:20] = rng.integers(1, 16, 20)  # solved before the stage
    none = np.zeros(n)
    facts = {"reliable": np.ones(n), "cap": 256, "second_stage": none, "base_reliable": none, "trained_first": none}
    facts |= {"loss_cap": 64, "family": none, "held_out": none}
    whole = gain.headline(gain.Evidence(first=first, **facts), rng, (32, 64, 128, 256), draws=10).e
    found = []
    left = (first == 0) | (first > 16)
    for i in range(800):
        followed = ~left
        followed[left] = gain.subsample(np.zeros(left.sum(), int), kept, stream("lot", i))
        seen = np.where(followed, first, 0)
        lots = gain.Evidence(first=seen, followed=followed, stage=16, **facts)
        found.append(100 * gain.scaled(gain.contributions(lots, (32, 64, 128, 256)).mean(0))[3])
    assert abs(np.mean(found) - whole) < 4 * np.std(found) / np.sqrt(800)
    curve = expansion_curve(lots, [1, 16, 64, 256], stream("c"))
    assert curve.mean[0] == 100 * np.mean((first == 0) | (first > 1))  # before the stage everybody is counted
    assert curve.mean[-1] == pytest.approx(found[-1])


def test_no_drop_among_the_followed_is_not_certainty():
    n = 100
    facts = gain.Evidence(
        reliable=np.ones(n), first=np.zeros(n), cap=256, second_stage=np.zeros(n), base_reliable=np.zeros(n),
        trained_first=np.zeros(n), loss_cap=64, family=np.zeros(n), held_out=np.zeros(n),
        followed=np.arange(n) < 10, stage=16,
    )  # fmt: skip
    curve = expansion_curve(facts, [16, 256], stream("c"))
    assert curve.low[1] < 80 and curve.high[1] == pytest.approx(100)
    with pytest.raises(DreamEnvsError, match="stage=16"):
        gain.contributions(facts, (8, 16, 32, 64))


def test_suites_draw_fresh_problems():
    for name in ("nano", "english"):
        chosen = suite(name)
        one, two = chosen.problems("0", 12), chosen.problems("1", 12)
        counted = [s for s, ok in zip(chosen.strata, chosen.eligible(one, 1024), strict=True) if ok]
        assert len(counted) >= 15 and sum(s.held_out for s in counted) >= 0.3 * len(counted)
        assert len({p.task.id for p in one}) == len(one)
        big = {i for i, s in enumerate(chosen.strata) if s.level > 4}
        assert not {p.task.id for p in one if p.stratum in big} & {p.task.id for p in two if p.stratum in big}
        assert [p.task.id for p in one] == [p.task.id for p in chosen.problems("0", 12)]


def test_the_form_of_a_suite_fits_its_answers():
    chosen = suite("nano")
    assert chosen.form is not None and chosen.one_reply
    for p in chosen.problems("form", 3):
        form = chosen.form(p.task.prompt)
        assert len(form) == len(p.task.answer)
        assert all(c in allowed for c, allowed in zip(p.task.answer, form, strict=True))


def test_the_final_field_is_graded():
    chosen = suite("english")
    assert chosen.reply("so 2 + 2 is 5\nAnswer: 4 \nbye") == "4" and chosen.reply("no field") == "no field"
    for written in ("**4**", "`4`", "$\\boxed{4}$", "4.", "\\boxed{4}.", " 4"):
        assert chosen.reply(f"**Answer:** {written}") == "4", written
    task = chosen.problems("0", 1)[0].task
    assert chosen.messages(task)[0]["content"].endswith("the answer alone.")


def test_a_suite_without_problems_left_is_one_line():
    small = Suite("tiny", (Stratum("s", Family(), 1, "longer composition", draw=lambda rng: TASK),), ())
    assert len(small.problems("0", 5)) == 1
    with pytest.raises(DreamEnvsError, match="no problem left"):
        small.problems("0", 1, {TASK.id})


TASK = Task(family="toy", level=1, prompt="p", answer="yes")
