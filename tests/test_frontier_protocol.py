"""The protocol on models whose success rates are known, and the lots by which survivors are followed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from test_frontier_draws import Coin, method

from dream_envs.core import DreamEnvsError, Task
from dream_envs.frontier import gain, sections
from dream_envs.frontier.draws import SampleCache, Unavailable
from dream_envs.frontier.protocol import EvaluatedModel, Plan, evidence, measure
from dream_envs.frontier.schema import ModelInfo
from dream_envs.frontier.suite import KINDS, Stratum, Suite, suite
from dream_envs.seeds import stream


class Family:
    """Problems without content; luck solves one in a million."""

    name, version, notation, levels, max_chars, max_reply_tokens = "toy", 1, "compact", range(1, 4), 9, 9

    def generate(self, rng, level):
        return Task(family="toy", level=level, prompt=f"{level}:{rng.integers(10**12)}", answer="yes")

    def chance(self, task):
        return 1e-6 if task.level > 1 else 0.5


TOY = Suite("toy", tuple(Stratum(f"s{i}", Family(), i, "longer") for i in (1, 2, 3)), ("plain",))


def side(rates, name: str) -> EvaluatedModel:
    return EvaluatedModel(SampleCache(None, name), [method(Coin(rates), f"arm{i}") for i in range(2)])


class Law(dict):
    """Success rates by prompt from a function of level and a uniform number, made when asked for."""

    def __init__(self, law):
        self.law = law

    def __missing__(self, prompt):
        level, _, number = prompt.partition(":")
        return self.setdefault(prompt, self.law(int(level), stream("law", number).random()))


def base_law(level: int, u: float) -> float:
    return 0.0 if u < 0.5 else u**6 / level


def trained_law(level: int, u: float) -> float:
    return 0.9 if 0.3 < u < 0.5 else base_law(level, u)  # a fifth of the problems gained


PLAN = Plan(TOY, per_stratum=150, budget=256, stage=16, follow=40, dev=24)


def report(plan: Plan, base, trained, **more):
    sides = side(base, "base"), side(trained, "trained")
    found = measure(plan, *sides, **more)
    return found, gain.headline([evidence(plan, found)[0]], stream("h"), draws=200)


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
    assert abs(head.e[0] - truth(PLAN)) < 2.5
    assert head.g[1] < truth(PLAN) < head.g[2] and head.g[1] > 5
    assert sum(s.made for s in found.first) < 300 * PLAN.budget / 5


def test_following_some_estimates_what_following_all_does():
    few, all_ = (report(msgspec.structs.replace(PLAN, follow=f), Law(base_law), Law(trained_law)) for f in (25, 0))
    assert not few[0].followed.all() and all_[0].followed.all()
    assert evidence(PLAN, all_[0])[0].followed is None
    assert abs(few[1].e[0] - all_[1].e[0]) < 3 and few[1].e[1] <= all_[1].e[0] <= few[1].e[2]
    draws = [sum(s.made for s in found.first) for found, _ in (few, all_)]
    assert draws[0] < draws[1] / 1.5


def test_a_model_against_itself_shows_nothing():
    found, head = report(PLAN, Law(base_law), Law(base_law))
    assert abs(head.g[0]) < 0.3 and head.g[1] < 0 < head.g[2]
    assert found.configurations["base"] == found.configurations["trained"] and found.turns == found.their_turns


def test_what_is_lost_counts_against_it():
    _, head = report(PLAN, Law(trained_law), Law(base_law))
    assert head.s[0] > 10 and head.g[2] < 0


def test_a_later_envelope_can_only_lower_it():
    """Two scaffolds, of which one does nothing: it is idle, and what the other solves is taken off scaffolds alone."""
    sides = side(Law(base_law), "base"), side(Law(trained_law), "trained")
    knows, idle = method(Coin(Law(trained_law)), "knows"), method(Coin(Law(lambda level, u: 0.0)), "idle")
    sides[0].later = {"scaffolds": [idle, knows], "training": [method(Coin(Law(trained_law)), "copy")]}
    found = measure(msgspec.structs.replace(PLAN, follow=0), *sides)
    assert set(found.reached) == {"", "knows"} and found.draws["scaffolds"] > 0 and found.idle == ["idle"]
    assert found.envelopes == ["decoding", "scaffolds", "training"]
    assert "training" not in found.draws  # nothing was left
    e = [gain.gain(evidence(PLAN, found, envelope)[0])[1][0] for envelope in found.envelopes]
    assert e[0] == report(msgspec.structs.replace(PLAN, follow=0), Law(base_law), Law(trained_law))[1].e[0]
    assert e[0] > 5 and e[1] == e[2] < 0.5


def test_methods_that_do_nothing_take_no_samples():
    sides = side(Law(base_law), "base"), side(Law(trained_law), "trained")
    sides[0].methods = [method(Coin(Law(lambda level, u: 0.0)), "idle"), *sides[0].methods]
    found = measure(PLAN, *sides)
    assert found.turns == ["arm0", "arm1"] and found.idle == ["idle"]
    assert [s.first for s in found.first] == [s.first for s in report(PLAN, Law(base_law), Law(trained_law))[0].first]


def test_a_base_that_does_nothing_is_refused():
    with pytest.raises(DreamEnvsError, match="everything would be a gain"):
        report(PLAN, Law(lambda level, u: 0.0), Law(trained_law))
    head = report(PLAN, Law(base_law), Law(lambda level, u: 0.0))[1]  # a trained model that lost all of it is not
    assert head.e[0] == 0 and head.s[0] > 5


class Nothing:
    """An arm that cannot be made."""

    def act(self, requests):
        raise Unavailable("no two kinds of replies")


def test_an_arm_that_cannot_be_made_is_told():
    sides = side(Law(base_law), "base"), side(Law(trained_law), "trained")
    sides[0].later = {"training": [method(Nothing(), "steering")]}
    found = measure(PLAN, *sides)
    assert found.unavailable == {"steering": "no two kinds of replies"} and not any(found.reached)


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
    assert data.decay.k[-1] == 256 and abs(data.decay.mean[-1] - data.headline.e[0]) < 1e-9
    assert data.exact is None and {c.kind for c in data.verdict.claims} == {"longer"}
    assert {c.problem for c in data.certified} == {p.id for p in data.problems if p.certified}
    assert msgspec.json.decode(msgspec.json.encode(data), type=type(data)) == data


@pytest.mark.parametrize(
    "change", [{"need": 17}, {"budget": 7}, {"stage": 257}, {"stage": 0}, {"follow": -1}, {"per_stratum": 0}]
)
def test_a_plan_that_cannot_be_carried_out_is_one_line(change):
    plan = msgspec.structs.replace(PLAN, **change)
    with pytest.raises(DreamEnvsError, match=f"{next(iter(change))}={next(iter(change.values()))}"):
        plan.check()


def test_suites_draw_fresh_problems():
    for name in ("nano", "english"):
        chosen = suite(name)
        one, two = chosen.problems("0", 12), chosen.problems("1", 12)
        counted = [s for s, ok in zip(chosen.strata, chosen.eligible(one, 1024), strict=True) if ok]
        assert len(counted) >= 15 and {s.kind for s in counted} <= set(KINDS)
        assert len({p.task.id for p in one}) == len(one)
        big = {i for i, s in enumerate(chosen.strata) if s.level > 4}
        assert not {p.task.id for p in one if p.stratum in big} & {p.task.id for p in two if p.stratum in big}
        assert [p.task.id for p in one] == [p.task.id for p in chosen.problems("0", 12)]


@pytest.mark.parametrize("name", ["nano", "english"])
def test_no_stratum_is_small_enough_for_a_table(name):
    """Of 400 draws at most 30 repeat: some 3,000 problems or more, of which a published seed shows one in thirty."""
    chosen = suite(name)
    problems = chosen.problems("0", 4)
    for stratum, counts in zip(chosen.strata, chosen.eligible(problems, 1024), strict=True):
        rng = stream("space", stratum.name)
        seen = {stratum.task(rng).id for _ in range(400)} if counts else set(range(400))
        assert len(seen) >= 370, (stratum.name, len(seen))


def test_the_form_of_a_suite_fits_its_answers():
    chosen = suite("nano")
    assert chosen.form is not None and chosen.fixed is not None and chosen.one_reply
    for p in chosen.problems("form", 3):
        for form in (chosen.form(p.task.prompt), chosen.fixed(p.task.prompt)):
            assert len(form) == len(p.task.answer)
            assert all(c in allowed for c, allowed in zip(p.task.answer, form, strict=True))
        assert [len(allowed) for allowed in form] == [1, 16] * p.task.level


def test_what_a_run_practised_is_told_by_its_problems():
    """A run up to depth 6 with a held-out pair at depth 5: longer ones, new operations and other families are not."""
    chosen, pool = suite("nano"), suite("nano").problems("met", 2)
    names = [s.name for s in chosen.strata]
    met = [p.task for p in pool if names[p.stratum] in ("d6", "pairs-d5")]
    practised = {n for n, s in zip(names, chosen.strata, strict=True) if s.practised(met)}
    assert practised == {*(f"d{d}" for d in range(1, 7)), *(f"pairs-d{d}" for d in range(2, 6))}
    assert not any(s.practised([TASK]) for s in chosen.strata)


def test_the_final_field_is_graded():
    chosen = suite("english")
    assert chosen.reply("so 2 + 2 is 5\nAnswer: 4 \nbye") == "4" and chosen.reply("no field") == "no field"
    for written in ("**4**", "`4`", "$\\boxed{4}$", "4.", "\\boxed{4}.", " 4"):
        assert chosen.reply(f"**Answer:** {written}") == "4", written
    task = chosen.problems("0", 1)[0].task
    assert chosen.messages(task)[0]["content"].endswith("the answer alone.")


def test_a_suite_without_problems_left_is_one_line():
    small = Suite("tiny", (Stratum("s", Family(), 1, "longer", draw=lambda rng: TASK),), ())
    assert len(small.problems("0", 5)) == 1
    with pytest.raises(DreamEnvsError, match="no problem left"):
        small.problems("0", 1, {TASK.id})


TASK = Task(family="toy", level=1, prompt="p", answer="yes")
