"""Solver, judge and challenger rewards against hand-worked numbers, on episodes of the real game."""

import itertools
import math

import msgspec
import pytest
from _episodes import GOLD, LOST, REPLIES, play, solved, states, values
from hypothesis import given
from hypothesis import strategies as st

from dream_envs import registry
from dream_envs.rewards.base import roles
from dream_envs.rewards.learnability import FORMS, learnability
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.solver import REPLY_FORMS, correctness, format_reward, judge_agreement, majority
from dream_envs.seeds import stream

E8 = 0.3720341859374524  # exp(-((7/64 - 1/4) ** 2) / 0.02)
E0 = 0.0439369336234074  # exp(-3.125)


@pytest.mark.parametrize(("knobs", "expected"), [  # p = 0, 1/8, 1/2, 7/8, 1
    ({"form": "azr"}, (0, 0.875, 0.5, 0.125, 0)),
    ({"form": "azr", "zero_ends": -0.5}, (-0.5, 0.875, 0.5, 0.125, -0.5)),
    ({"form": "vhg"}, (1, 0.875, 0.5, 0.125, 0)),
    ({"form": "r_zero"}, (0, 0.25, 1, 0.25, 0)),
    ({"form": "r_zero_code"}, (0, 0.125, 0.5, 0.125, 0)),
    ({"form": "sqlm"}, (0, 1, 1, 1, 0)),
    ({"form": "spice"}, (E0, E8, 1, E8, E0)),
    ({"form": "parabola"}, (0, 0.4375, 1, 0.4375, 0)),
    ({"form": "band"}, (0, 0, 1, 0, 0)),
    ({"form": "band", "lo": 0.125, "hi": 0.875}, (0, 1, 1, 1, 0)),
    ({"form": "band", "lo": 0.0, "hi": 0.4}, (1, 1, 0, 0, 0)),
    ({"form": "lsp"}, (0, -0.125, -0.5, -0.875, -1)),
    ({"form": "pasodoble"}, (0, 0, 0.5, 0.125, 0)),
    ({"form": "pasodoble", "lo": 0.125}, (0, 0.875, 0.5, 0.125, 0)),
])  # fmt: skip
def test_learnability_by_hand(knobs, expected):
    model = learnability(**knobs)
    for k, value in zip((0, 1, 4, 7, 8), expected, strict=True):
        score = model(play(solved(k)))["challenger_0"]
        assert score.status == "ok"
        assert score.value == pytest.approx(value, abs=1e-12)
        assert math.copysign(1, score.value) == (1 if value == 0 else math.copysign(1, value))  # no -0.0
        assert score.components == {"p": k / 8, "attempts": 8.0}


def test_every_form_has_a_hand_worked_row():
    table = test_learnability_by_hand.pytestmark[0].args[1]
    assert {row[0]["form"] for row in table} == set(FORMS)


@pytest.mark.parametrize(("knobs", "expected"), [
    *(({"form": form}, 0.0) for form in FORMS if form not in ("spice", "lsp")), ({"form": "spice"}, -0.1),
    ({"form": "lsp"}, -1.0), ({"form": "azr", "zero_ends": -0.5}, -0.5), ({"form": "azr", "invalid": -1.0}, -1.0),
    ({"form": "spice", "invalid": 0}, 0.0),
])  # fmt: skip
def test_an_invalid_proposal_has_an_explicit_value(knobs, expected):
    score = learnability(**knobs)(play(proposal="nonsense"))["challenger_0"]
    assert (score.status, score.value) == ("ok", expected)
    assert "charset" in score.detail


@pytest.mark.parametrize("form", FORMS)
def test_by_default_no_valid_proposal_is_worth_less_than_an_invalid_one(form):
    for ends in (0.0, -0.5) if form == "azr" else (0.0,):
        model = learnability(form=form, zero_ends=ends)
        worst_valid = min(model(play(solved(k, 5)))["challenger_0"].value for k in range(6))
        assert model(play(proposal=""))["challenger_0"].value <= worst_valid


def test_an_invalid_proposal_can_be_left_out_and_a_failed_call_is_none():
    score = learnability(invalid="exclude")(play(proposal=""))["challenger_0"]
    assert (score.status, score.value) == ("invalid", 0.0)
    for model in (learnability(invalid=-1.0), learnability(invalid="exclude")):
        assert model(play(proposal=LOST))["challenger_0"].status == "timeout"


def test_without_verdicts_there_is_no_learnability_and_lost_calls_do_not_enter_the_rate():
    assert states(learnability()(play(solved(1, 2), judge="no idea")))["challenger_0"] == "abstain"
    lost = learnability()(play([GOLD, LOST, LOST]))["challenger_0"]
    assert (lost.status, lost.detail) == ("abstain", "1 of 3 verdicts, 2 needed")
    score = learnability()(play([GOLD, "x", "y", LOST, LOST]))["challenger_0"]
    assert score.value == pytest.approx(2 / 3)
    assert score.components == {"p": 1 / 3, "attempts": 3.0}


def test_slip_1_one_attempt_is_no_estimate():
    """loops.md 3.4, 1: from one sample p is 0 or 1, so that 1 - p with zero ends is 0 whatever the problem."""
    for reply in (GOLD, "x"):
        score = learnability()(play([reply]))["challenger_0"]
        assert score.status == "error"
        assert "seat 2 or more" in score.detail


def test_the_rate_can_be_agreement_instead_of_truth():
    """R-Zero's p: three of four solvers agree (on a wrong reply); one is right."""
    episode = play(["x", "x", "x", GOLD])
    assert learnability(form="r_zero")(episode)["challenger_0"].value == pytest.approx(0.5)  # p = 1/4
    agreed = learnability(form="r_zero_code", rate="majority")(episode)["challenger_0"]
    assert agreed.value == pytest.approx(0.25)
    assert agreed.components["p"] == 0.75


def test_correctness_by_hand():
    scores = correctness()(play([GOLD, GOLD + " ", "", LOST]))
    assert values(scores) == {"solver_0": 1, "solver_1": 0, "solver_2": 0, "solver_3": 0}
    assert list(states(scores).values()) == ["ok", "ok", "ok", "timeout"]


@pytest.mark.parametrize(
    ("verdicts", "expected"), [("1 0 0 0", 1.0), ("0 1 1 1", 0.0), ("1 1 1 0", 0.5), ("0 0 0 0", 0.75)]
)
def test_judge_agreement_by_hand(verdicts, expected):
    score = judge_agreement()(play([GOLD, "x", "y", "z"], judge=verdicts))["judge_0"]
    assert (score.value, score.status, score.components) == (expected, "ok", {"judged": 4.0})


def test_a_judge_without_a_verdict_abstains_and_a_lost_one_timed_out():
    model = challenger_solver()
    for said, status in (("maybe", "abstain"), ("1", "abstain"), ("1 0 1", "abstain"), (LOST, "timeout")):
        scores = model(play([GOLD, "x"], judge=said))
        assert states(scores) == {"challenger_0": "abstain", "solver_0": "abstain", "solver_1": "abstain"} | {
            "judge_0": status
        }


def test_slip_4_nobody_is_dropped():
    """loops.md 3.4, 4: every seat has a score in every episode, also those who never came to move."""
    for kwargs in ({"proposal": "?"}, {"proposal": LOST}, {"proposal": "c:BDA"}):
        episode = play([GOLD, LOST, "x"], judge="1 0 0", **kwargs)
        scores = challenger_solver()(episode)
        assert list(scores) == list(roles(episode)) == ["challenger_0", "solver_0", "solver_1", "solver_2", "judge_0"]
    rejected = challenger_solver()(play([GOLD, "x"], proposal="?"))
    assert states(rejected) == {"challenger_0": "ok", "solver_0": "abstain", "solver_1": "abstain"}


def test_majority_by_hand():
    scores = majority()(play(["x", "x", GOLD, LOST]))
    assert list(values(scores).values()) == [1, 1, 0, 0]
    assert states(scores)["solver_3"] == "timeout"
    assert scores["solver_0"].components == {"share": 2 / 3, "votes": 3.0, "label_right": 0.0}
    for judge in (None, "0 0 0"):  # the truth, not the judge
        assert majority()(play([GOLD, GOLD, "x"], judge=judge))["solver_2"].components["label_right"] == 1.0


def test_majority_ties_and_silence():
    tied = play(["x", "x", GOLD, GOLD, "z"])
    assert set(states(majority()(tied)).values()) == {"abstain"}
    assert list(values(majority(tie="share")(tied)).values()) == [0.5, 0.5, 0.5, 0.5, 0]

    assert list(values(majority()(play(["", "", "", "x"]))).values()) == [0, 0, 0, 1]
    assert set(states(majority()(play(["", "", ""]))).values()) == {"abstain"}


@given(REPLIES, st.randoms(use_true_random=False))
def test_permuting_the_solvers_permutes_their_scores(replies, shuffler):
    order = list(range(len(replies)))
    shuffler.shuffle(order)
    first, second = play(replies), play([replies[i] for i in order])
    voting = (majority(), majority(tie="share"))
    for model in (*voting, correctness(), format_reward(), learnability(), challenger_solver()):
        a, b = model(first), model(second)
        for new, old in enumerate(order):
            assert a.get(f"solver_{old}") == b.get(f"solver_{new}")
        assert a.get("challenger_0") == b.get("challenger_0")


def test_format_knows_the_built_in_families_and_is_not_correctness():
    for name, notation in itertools.product(REPLY_FORMS, ("compact", "english")):
        family = registry.create("tasks", name, notation=notation)
        model, rng = format_reward(), stream("format", name, notation)
        task = family.generate(rng, 3)
        gold = family.gold(task)
        replies = [gold, family.guess(task, rng), "", "I do not know", gold + " so there", f" {gold}\n"]
        episode = play(replies, proposal=family.as_proposal(task), family=family)
        scores = list(values(model(episode)).values())
        assert scores[:5] == [1, 1, 0, 0, 0], (name, notation)
        assert scores[5] >= family.verify(task, replies[5]).value, (name, notation)  # what is right has the form


def test_format_by_pattern_by_facts_and_without_either():
    episode = play(["12", "x", LOST])
    assert list(values(format_reward(pattern=r"\d+")(episode)).values()) == [1, 0, 0]
    facts = episode.outcome.facts | {"format": {"solver_0": 0.0, "solver_1": 1.0}}
    told = msgspec.structs.replace(episode, outcome=msgspec.structs.replace(episode.outcome, facts=facts))
    assert list(values(format_reward()(told)).values()) == [0, 1, 0]
    task = msgspec.structs.replace(episode.tasks[-1], family="somebody_elses")
    unknown = format_reward()(msgspec.structs.replace(episode, tasks=[task]))
    assert unknown["solver_0"].status == "error"
    assert "pattern=" in unknown["solver_0"].detail
    assert values(format_reward()(play(["9" * 10**6])))["solver_0"] == 0
