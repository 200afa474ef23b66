"""Rewards of self-judging: every formula against tables worked by hand, ties, unreadable verdicts, lengths, groups."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from _judged import judged, prefers
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import Action, Score
from dream_envs.rewards.self_judge import bradley_terry, copeland, self_certainty, self_judge

from dream_envs.rewards.self_judge import self_rubric, self_score, serl, strengths  # isort: skip
from dream_envs.rewards.self_judge_groups import groups, role_weights


def words(n):
    return " ".join(["w"] * n)


def values(scores, role):
    return [None if s.status != "ok" else s.value for a, s in scores.items() if a.startswith(role)]


#: Three answers of 10, 11 and 20 words; K = 2.  The verdict on (first, second) as shown:
#: 0 beats 1 in one order, 1 beats 0 in the other; 2 beats 0 twice; 1 beats 2 once, the other is unreadable.
SAID = {(0, 1): "1", (1, 0): "1", (0, 2): "2", (2, 0): "1", (1, 2): "1", (2, 1): "?"}


def table(invalid=None):
    return judged([words(10), words(11), words(20)], lambda a, b, trial: SAID[a, b])


def test_serl_by_hand():
    # Denominator (N - 1) K = 4.  0 over 1: in the band (8.8 < 10 < 13.2), worth 11 / 10.  1 over 0: in the band
    # (8 < 11 < 12), worth 10 / 11.  2 over 0 (8 < 20 < 12 fails) and 1 over 2 (16 < 11 fails): out of band, worth 0.
    scores = serl()(table())
    assert values(scores, "actor") == pytest.approx([1.1 / 4, (10 / 11) / 4, 0.0])
    # R(0) > R(1) > R(2): 0 over 1 is right, 1 over 0 wrong, 2 over 0 wrong twice, 1 over 2 right, the last unreadable.
    assert values(scores, "judge") == [1.0, -1.0, -1.0, -1.0, 1.0, -1.0]
    assert scores["actor_2"].components == {"wins": 2.0, "counted": 0.0, "judged": 3.0}


def test_serl_in_our_mode_leaves_unreadable_verdicts_out_of_both_sides():
    scores = serl(invalid="abstain")(table())
    # Readable verdicts about 0, 1, 2: four, three, three.
    assert values(scores, "actor") == pytest.approx([1.1 / 4, (10 / 11) / 3, 0.0])
    # Now 1 (0.303) is above 0 (0.275): the two judges of that pair change places.
    assert values(scores, "judge") == [-1.0, 1.0, -1.0, -1.0, 1.0, None]
    assert scores["judge_5"].status == "abstain"


def test_serl_without_length_control_and_with_the_band_alone():
    off = serl(length_control="off")(table())
    assert values(off, "actor") == [1 / 4, 2 / 4, 2 / 4]
    assert values(off, "judge") == [-1.0, 1.0, 1.0, 1.0, 0.0, -1.0]  # 1 and 2 are level: 0
    assert values(serl(length_control="band")(table()), "actor") == [1 / 4, 1 / 4, 0.0]


@pytest.mark.parametrize(("mine", "other", "worth"), [
    (10, 10, 1), (8, 10, 0), (9, 10, 10 / 9), (12, 10, 0), (11, 10, 10 / 11), (0, 10, 0), (10, 0, 0), (0, 0, 0),
])  # fmt: skip
def test_both_ends_of_the_length_band_are_open(mine, other, worth):
    episode = judged([words(mine), words(other)], prefers([0, 1]))
    assert values(serl()(episode), "actor") == pytest.approx([worth, 0.0])


def test_an_always_first_judge_under_swap_prefers_the_shorter_through_beta_alone():
    # seeds.md 4.1: lengths 100 and 110, K = 4, all verdicts "1": 0.55 against 0.4545.
    first = judged([words(100), words(110)], lambda a, b, trial: "1", judgements=4)
    assert values(serl()(first), "actor") == pytest.approx([0.55, 0.5 / 1.1])
    assert set(values(serl()(first), "judge")) == {1.0, -1.0}
    for control in ("band", "symmetric", "off"):
        scores = serl(length_control=control)(first)
        assert values(scores, "actor") == [0.5, 0.5] and set(values(scores, "judge")) == {0.0}


def test_length_is_what_it_is_said_to_be():
    episode = judged([Action("a b c", token_ids=[1] * 10), Action("abcde", token_ids=[1] * 11)], prefers([0, 1]))
    for unit, worth in (("words", 0.0), ("chars", 1.0), ("tokens", 1.1)):
        assert values(serl(length=unit)(episode), "actor") == pytest.approx([worth, 0.0]), unit
    bare = judged(["a b c", "abcde"], prefers([0, 1]))
    assert {s.status for s in serl(length="tokens")(bare).values()} == {"error"}
    assert values(serl(length="tokens", length_control="off")(bare), "actor") == [1.0, 0.0]


def test_a_failed_call_is_neither_an_unreadable_verdict_nor_a_lost_comparison():
    lost = Action("", status="timeout")
    episode = judged(["a", "b", lost], lambda a, b, trial: lost if a == 1 else "1")
    for invalid in ("penalty", "abstain"):
        scores = serl(invalid=invalid)(episode)
        assert scores["actor_2"].status == scores["judge_1"].status == "timeout"
        assert {scores[f"judge_{i}"].status for i in (2, 3, 4, 5)} == {"abstain"}
        assert scores["judge_0"] == Score(1.0, "ok", {"lead": scores["actor_0"].value}, grader=scores["judge_0"].grader)
    assert serl()(episode)["actor_0"].value == 1 / 4  # SERL's denominator stays (N - 1) K
    assert serl(invalid="abstain")(episode)["actor_0"].value == 1.0


def test_copeland_by_hand():
    # 0 and 1 tie, 2 beats 0, 1 beats 2 (its unreadable verdict aside).
    scores = copeland()(table())
    assert values(scores, "actor") == [0.25, 0.75, 0.5]
    assert values(scores, "judge") == [-1.0, 1.0, 1.0, 1.0, 1.0, -1.0]
    assert values(copeland(form="net")(table()), "actor") == [-0.5, 0.5, 0.0]
    cycle = judged(["a", "b", "c"], lambda a, b, trial: "1" if (b - a) % 3 == 1 else "2")
    assert values(copeland()(cycle), "actor") == [0.5] * 3 and set(values(copeland()(cycle), "judge")) == {0.0}


def test_nobody_readable():
    episode = judged(["a", "b"], lambda a, b, trial: "?")
    for model in (copeland, bradley_terry):
        assert {s.status for a, s in model()(episode).items() if a.startswith("actor")} == {"abstain"}
        assert values(model()(episode), "judge") == [-1.0, -1.0]
    assert values(serl()(episode), "actor") == [0.0, 0.0]
    assert {s.status for s in serl(invalid="abstain")(episode).values()} == {"abstain"}


@given(st.integers(2, 5), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_bradley_terry_satisfies_its_score_equations(n, seed):
    # At the maximum every answer's wins, virtual ones included, are what the strengths expect of it.
    w = np.random.default_rng(seed).integers(0, 7, (n, n)).astype(float)
    np.fill_diagonal(w, 0)
    for prior in (0.1, 0.5):
        p = strengths(w, prior)
        games = w + w.T
        expected = (games * p[:, None] / (p[:, None] + p[None, :])).sum(1) + 2 * prior * p / (1 + p)
        assert np.isfinite(p).all() and expected == pytest.approx(w.sum(1) + prior, abs=1e-6)


def test_bradley_terry_by_hand():
    # Two answers, 3 to 1: with a vanishing prior the chance to win is the share of wins.
    episode = judged(["a", "b"], lambda a, b, trial: "1" if (a, trial) != (1, 1) else "2", judgements=4)
    won = [r["verdict"] for r in episode.outcome.facts["judgements"]]
    assert won == ["actor_0", "actor_0", "actor_1", "actor_0"]
    assert values(bradley_terry(prior=0.01)(episode), "actor") == pytest.approx([0.75, 0.25], abs=0.01)
    # An answer that never lost stays finite, and an even split is level.
    swept = values(bradley_terry()(judged(["a", "b", "c"], prefers([2, 0, 1]))), "actor")
    assert 0 < swept[1] < swept[0] < swept[2] < 1
    level = bradley_terry()(judged(["a", "b"], lambda a, b, trial: "1"))
    assert values(level, "actor") == [0.5, 0.5] and values(level, "judge") == [0.0, 0.0]


def test_bradley_terry_compares_parts_that_no_verdict_joins():
    # 0 beats 1 and 2 beats 3, nothing readable between the pairs: by symmetry 0 and 2 are level, and so are 1 and 3.
    said = {(0, 1): "1", (1, 0): "2", (2, 3): "1", (3, 2): "2"}
    episode = judged(list("abcd"), lambda a, b, trial: said.get((a, b), "?"))
    scores = bradley_terry()(episode)
    a, b, c, d = values(scores, "actor")
    assert a == c > b == d and scores["actor_0"].components["strength"] > 0 > scores["actor_1"].components["strength"]


@given(st.permutations(range(4)), st.integers(0, 2**24 - 1))
@settings(max_examples=40, deadline=None)
def test_rewards_do_not_depend_on_the_numbering_of_the_answers(order, coins):
    # The same answers and verdicts under other numbers: each answer keeps its reward.
    lengths, place = [9, 10, 11, 12], {n: i for i, n in enumerate(order)}

    def verdict(a, b, trial):
        i, j = sorted((a, b))
        winner = i if coins >> (2 * (4 * i + j) + (a > b)) & 1 else j
        return "1" if winner == a else "2"

    plain = judged([words(n) for n in lengths], verdict)
    moved = judged([words(lengths[i]) for i in order], lambda a, b, trial: verdict(order[a], order[b], trial))
    for model in (serl(), copeland(), bradley_terry()):
        before, after = values(model(plain), "actor"), values(model(moved), "actor")
        assert [after[place[i]] for i in range(4)] == pytest.approx(before, abs=1e-9)
        assert sorted(values(model(plain), "judge")) == sorted(values(model(moved), "judge"))


def test_scores_and_rubrics_by_hand():
    marks = {0: ["9", "3", "?"], 1: ["0", "0", "0"]}
    episode = judged(["a", "b"], lambda of, _, trial: marks[of][trial], judging="score", judgements=3)
    scores = self_score()(episode)
    assert values(scores, "actor") == pytest.approx([(1 + 1 / 3) / 2, 0.0])
    assert values(scores, "judge") == pytest.approx([1 / 3, 1 / 3, 0.0, 1.0, 1.0, 1.0])
    assert values(self_score(invalid="abstain")(episode), "judge")[2] is None
    assert values(self_score(judge="format")(episode), "judge") == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    said = {0: "110", 1: "0?0"}
    episode = judged(["a", "b"], lambda of, _, trial: said[of][trial], judging="rubric", judgements=3)
    scores = self_rubric()(episode)
    assert values(scores, "actor") == pytest.approx([2 / 3, 0.0])
    assert values(scores, "judge") == pytest.approx([0.5, 0.5, 0.0, 1.0, 0.0, 1.0])
    alone = judged(["a"], lambda of, _, trial: "1", judging="rubric", judgements=1)
    assert self_rubric()(alone)["judge_0"].status == "abstain"  # there is nobody to agree with
    assert {s.status for s in self_score()(episode).values()} == {"abstain"}  # another kind of judging


def test_self_certainty_is_the_geometric_mean_probability():
    half = Action("ab", token_ids=[1, 2], logprobs=[math.log(0.5), math.log(0.125)])
    episode = judged([half, "no log-probabilities"], prefers([0, 1]))
    scores = self_certainty()(episode)
    assert scores["actor_0"].value == pytest.approx(0.25) and scores["actor_1"].status == "abstain"


@pytest.mark.parametrize(
    ("judging", "grader"), [("pairwise", "serl-1"), ("score", "self_score-1"), ("rubric", "self_rubric-1")]
)
def test_the_default_goes_by_the_kind_of_judging(judging, grader):
    episode = judged(["a", "b"], lambda a, b, trial: "1", judging=judging)
    assert {s.grader for s in self_judge()(episode).values()} == {grader}
    assert {s.grader for s in self_judge(invalid="abstain")(episode).values()} == {grader + "(invalid=abstain)"}


def test_groups_never_cross_roles():
    episode = msgspec.structs.replace(table(), scores=serl()(table()))
    assert {len({a.partition("_")[0] for a in members}) for members in groups(episode).values()} == {1}
    assert sorted(map(len, groups(episode).values())) == [2, 2, 2, 3]
    fewer = msgspec.structs.replace(table(), scores=serl(invalid="abstain")(table()))
    assert sorted(map(len, groups(fewer).values())) == [1, 2, 2, 3], "an unreadable verdict is in no group"


@pytest.mark.parametrize(
    ("progress", "weights"), [(0, (0, 1)), (0.25, (0.25, 0.75)), (0.5, (0.5, 0.5)), (1, (0.5, 0.5))]
)
def test_the_judge_is_trained_first(progress, weights):
    assert tuple(role_weights(progress).values()) == pytest.approx(weights)
