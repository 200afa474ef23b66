"""The algebra of rewards, the controls and diversity, on episodes of the real game."""

import itertools
import math
from collections import Counter

import msgspec
import numpy as np
import pytest
from _episodes import GOLD, LOST, REPLIES, play, solved, states, values
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError, Event, Score
from dream_envs.rewards.algebra import clip, gate, per_role, weighted, zero_sum
from dream_envs.rewards.base import STATUS_ORDER, as_reward, roles
from dream_envs.rewards.controls import format_only, random_reward, shuffled
from dream_envs.rewards.diversity import bleu_similarity, novelty, repetition, repetition_penalty
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.rounds import best_and_worst, in_range, less_repetition, shared
from dream_envs.rewards.solver import correctness
from dream_envs.tasks.composition import Composition

FINITE = st.floats(-1e6, 1e6)
TEXTS = st.lists(st.text("ab ", max_size=12), min_size=1, max_size=9)


def constant(value, name="constant"):
    """A reward that gives every seat this score or value."""

    def fn(episode):
        return dict.fromkeys(roles(episode), value)

    fn.__name__ = name
    return as_reward(fn)


def one(model, episode=None):
    return model(episode or play(["x", "y"]))["solver_0"]


@given(st.lists(st.tuples(FINITE, st.floats(-10, 10)), min_size=1, max_size=5))
def test_weighted_is_linear_where_all_is_ok(rows):
    parts = {constant(value, f"part{i}"): weight for i, (value, weight) in enumerate(rows)}
    score = one(weighted(parts))
    assert score.status == "ok"
    assert score.value == pytest.approx(math.fsum(v * w for v, w in rows))
    assert score.components == {f"part{i}": value for i, (value, _) in enumerate(rows)}


@given(st.lists(st.sampled_from(STATUS_ORDER), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_sum_has_the_gravest_status_of_its_parts(statuses, shuffler):
    grave = ["error", "timeout", "invalid", "abstain", "ok"]
    parts = [(constant(Score(1.0, status), f"part{i}"), 1.0) for i, status in enumerate(statuses)]
    shuffler.shuffle(parts)
    score = one(weighted(dict(parts)))
    assert score.status == min(statuses, key=grave.index)
    assert score.value == (len(parts) if score.status == "ok" else 0.0)
    if score.status != "ok":
        assert score.detail.startswith("part")


def test_a_part_that_is_silent_about_an_agent_is_not_a_zero():
    scores = weighted({"correctness": 1.0, "learnability": 1.0})(play(solved(1, 2)))
    assert set(states(scores).values()) == {"abstain"}
    assert scores["solver_0"].detail == "learnability: learnability has no score for solver_0"
    assert scores["solver_0"].components == {"correctness": 1.0}


def test_equal_names_keep_their_components_apart():
    score = weighted({learnability(form="azr"): 1, learnability(form="spice"): 1})(play(solved(2, 4)))["challenger_0"]
    assert score.components == {"learnability-1(form=azr)": 0.5, "learnability-1(form=spice)": 1.0}
    with pytest.raises(DreamEnvsError, match="twice"):
        weighted({"correctness": 1, correctness(): 1})


@pytest.mark.parametrize(("by", "expected", "status"), [
    (1.0, 0.7, "ok"), (0.0, 0, "ok"), (-1.0, 0, "ok"), (None, 0, "abstain"), (Score(0.0, "timeout"), 0, "timeout"),
])  # fmt: skip
def test_gate(by, expected, status):
    for model in (gate(constant(0.7), constant(by, "by")), weighted({constant(0.7): 1.0}, gate=constant(by, "by"))):
        score = one(model)
        assert (score.value, score.status) == (expected, status)
    assert one(gate(constant(0.7), constant(0.0, "by"), closed=-1.0)).value == -1.0
    assert one(gate(constant(0.7), constant(0.3, "by"), above=0.3)).value == 0.0
    # a closed gate does not hide that the reward behind it failed
    assert one(gate(constant(Score(0.0, "error")), constant(0.0, "by"))).status == "error"


@given(FINITE, FINITE, FINITE)
def test_clip_keeps_within_bounds(value, a, b):
    lo, hi = sorted((a, b))
    score = one(clip(constant(value), lo, hi))
    assert lo <= score.value <= hi
    assert score.value == value or score.components["unclipped"] == value
    assert one(clip(constant(None), 1, 2)) == Score(0.0, "abstain", grader="constant-0")


def test_per_role_scores_every_seat():
    scores = per_role({"solver": "majority"})(play(["x", "x"], judge="1 1"))
    assert values(scores) == {"challenger_0": 0, "solver_0": 1, "solver_1": 1, "judge_0": 0}
    assert states(scores)["challenger_0"] == "abstain"
    assert scores["judge_0"].detail == "no reward for role 'judge'"


@given(REPLIES)
def test_zero_sum_sums_to_zero_between_the_sides(replies):
    scores = zero_sum("correctness")(play(replies))
    ok = [scores[a].value for a in scores if a.startswith("solver") and scores[a].status == "ok"]
    assert states(scores)["challenger_0"] == ("ok" if ok else "timeout")
    if ok:
        assert scores["challenger_0"].value + sum(ok) / len(ok) == pytest.approx(0)


def test_zero_sum_never_makes_an_invalid_proposal_the_best_one():
    model = zero_sum("correctness")
    invalid = model(play(proposal="?"))["challenger_0"]
    assert (invalid.value, invalid.status) == (-1.0, "ok")
    assert min(model(play(solved(k, 4)))["challenger_0"].value for k in range(5)) >= invalid.value
    assert model(play(proposal=LOST))["challenger_0"].status == "timeout"


def proposed(text, author="", **more):
    """An episode about this proposal, made by the challenger or given by ``author``."""
    episode = play(solved(1, 2), proposal=text, **more)
    events = [*episode.events, *([Event("given", "challenger_0", {"author": author})] if author else [])]
    return msgspec.structs.replace(episode, events=events)


def challengers(found):
    return [scores["challenger_0"].value for scores in found]


ROUND = [proposed("c:BDA"), proposed("c:BDA"), proposed("f:HGEC"), proposed("c:BDA", "mutation"), proposed("?")]
POINTS = constant(0.8, "points")


def test_repetition_is_subtracted_and_given_problems_neither_count_nor_pay():
    """Four own proposals: two copies (a share of 1/2), one other, one rejected ("?", alone): 0.8 less the share."""
    found = less_repetition(POINTS).score(ROUND)
    assert challengers(found) == pytest.approx([0.3, 0.3, 0.55, 0.8, 0.55])
    assert found[0]["challenger_0"].components == {"before": 0.8, "cluster_share": 0.5}
    assert values(found[0])["solver_0"] == 0.8 and found[0]["challenger_0"].grader.startswith("less_repetition-1(model")
    assert challengers(less_repetition(POINTS, floor=0.5).score(ROUND[:2])) == [0.5, 0.5]
    assert less_repetition(constant(None)).score(ROUND)[0]["challenger_0"].status == "abstain"


def test_copies_share_a_value_but_not_a_penalty():
    assert challengers(shared(POINTS).score(ROUND)) == [0.4, 0.4, 0.8, 0.8, 0.8]
    assert challengers(shared(constant(-1.0)).score(ROUND)) == [-1.0] * 5
    assert shared(POINTS).score(ROUND)[0]["challenger_0"].components == {"before": 0.8, "copies": 2.0}
    assert values(shared(POINTS).score(ROUND)[0])["solver_0"] == 0.8


def test_episodes_outside_a_range_have_no_scores():
    """Means of the ok solvers: 0, 1/4, 1/2, 1; a lost call is in none."""
    rounds = [play(solved(k, 4)) for k in (0, 1, 2, 4)] + [play([GOLD, "x", LOST]), play([LOST])]
    found = in_range(per_role({"solver": "correctness", "challenger": POINTS}), 0.25, 0.5).score(rounds)
    assert [its["solver_0"].status for its in found] == ["abstain", "ok", "ok", "abstain", "ok", "timeout"]
    assert [its["challenger_0"].status for its in found] == ["abstain", "ok", "ok", "abstain", "ok", "ok"]
    assert found[0]["solver_0"].detail == "mean reward 0.00, outside 0.25 to 0.5" and found[0]["solver_0"].value == 0.0


def test_of_each_episode_the_best_and_the_worst_are_left():
    def listed(episode):
        return {f"solver_{i}": float(turn.text or "nan") for i, turn in enumerate(episode.turns[1:])}

    model = best_and_worst(as_reward(listed), role="solver")
    found = model.score([play(["2", "5", "1", "5", "1", ""]), play(["3", "3"])])
    assert list(states(found[0]).values()) == ["abstain", "ok", "ok", "abstain", "abstain", "error"]
    assert set(states(found[1]).values()) == {"abstain"}


def test_random_reward_is_a_fair_coin_that_forgets_nothing():
    base = play(["x"] * 4)
    episodes = [msgspec.structs.replace(base, index=i) for i in range(500)]
    model = random_reward(rate=0.3, role="solver")
    drawn = np.array([[s.value for s in model(e).values()] for e in episodes])
    assert abs(drawn.mean() - 0.3) < 4 * math.sqrt(0.21 / drawn.size)
    assert abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 4 / math.sqrt(500)  # seats are independent
    turns = [msgspec.structs.replace(t, seconds=9.0) for t in base.turns]
    later = msgspec.structs.replace(base, turns=turns, scores={"x": Score(1.0)}, grader="other")
    assert random_reward()(later) == random_reward()(base)
    assert any(values(random_reward(seed="b")(e)) != values(random_reward(seed="a")(e)) for e in episodes[:20])
    assert states(random_reward()(play([LOST], proposal="c:BDA")))["solver_0"] == "timeout"


def test_shuffling_keeps_the_scores_of_a_role_and_cuts_their_link():
    base, plain = play([GOLD, GOLD, "x", "y"]), challenger_solver()
    model = shuffled(plain)
    hits = []
    for i in range(400):
        episode = msgspec.structs.replace(base, index=i)
        before, after = plain(episode), model(episode)
        assert model(episode) == after
        assert after["challenger_0"] == before["challenger_0"]
        assert Counter(values(after).values()) == Counter(values(before).values())
        hits.append(after["solver_0"].value)
    assert abs(np.mean(hits) - 0.5) < 4 * 0.5 / math.sqrt(400)


def test_format_only_is_blind_to_the_answer():
    scores = format_only()(play([GOLD, "BaDaAa", "?"]))
    assert values(scores) == {"solver_0": 1, "solver_1": 1, "solver_2": 0, "challenger_0": 1}
    assert values(format_only()(play(["x"], proposal="?")))["challenger_0"] == 0.0


def test_bleu_by_hand():
    """Precisions 5/6, 3/5, 2/4, 1/3, equal lengths: (1/12) ** (1/4)."""
    pair = bleu_similarity(["the cat sat on the mat", "the cat sat on a mat"])
    assert pair[0, 1] == pair[1, 0] == pytest.approx((1 / 12) ** 0.25)
    # three of six words: n up to 3, all precisions 1 one way (brevity e ** -1), 3/6, 2/5, 1/4 the other way
    short = bleu_similarity(["the cat sat", "the cat sat on a mat"])[0, 1]
    assert short == pytest.approx((math.exp(-1) + (3 / 6 * 2 / 5 * 1 / 4) ** (1 / 3)) / 2)
    # nothing in common: method 1 counts 0.1, n = 2: sqrt(0.1/2 * 0.1/1)
    assert bleu_similarity(["a b", "c d"])[0, 1] == pytest.approx(math.sqrt(0.005))


def slow_clusters(texts, limit):
    """Average linkage from its definition: the mean distance of all pairs between two clusters."""
    distance = 1 - bleu_similarity(texts)
    clusters = [[i] for i in range(len(texts))]
    while len(clusters) > 1:
        pairs = itertools.combinations(range(len(clusters)), 2)
        gap, a, b = min((distance[np.ix_(clusters[a], clusters[b])].mean(), a, b) for a, b in pairs)
        if gap >= limit - 1e-12:
            break
        clusters[a] += clusters.pop(b)
    return [next(len(c) for c in clusters if i in c) / len(texts) for i in range(len(texts))]


def test_clusters_agree_with_the_definition():
    rng = np.random.default_rng(5)
    for limit in np.linspace(0.2, 0.8, 40):
        texts = sorted({" ".join(rng.choice(list("abc"), rng.integers(3, 10))) for _ in range(14)})
        assert repetition_penalty(texts, distance=limit) == pytest.approx(slow_clusters(texts, limit))


@settings(max_examples=50)
@given(TEXTS, st.randoms(use_true_random=False))
def test_repetition_does_not_depend_on_the_order(texts, shuffler):
    order = list(range(len(texts)))
    shuffler.shuffle(order)
    matrix = bleu_similarity(texts)
    assert np.array_equal(matrix, matrix.T) and (np.diag(matrix) == 1).all() and ((matrix >= 0) & (matrix <= 1)).all()
    shares, other = repetition_penalty(texts), repetition_penalty([texts[i] for i in order])
    assert [shares[i] for i in order] == other
    assert all(texts.count(t) / len(texts) <= s <= 1 for t, s in zip(texts, shares, strict=True))


def test_repetition_sees_copies_of_one_word_notation():
    assert repetition_penalty(["c:BDA", "c:BDA", "f:HGEC", "c:BDA"]) == [0.75, 0.75, 0.25, 0.75]
    assert repetition_penalty([]) == []
    limit = 1.0 - bleu_similarity(["a b", "c d"])[0, 1]  # only what is closer than the limit is merged
    assert repetition_penalty(["a b", "c d"], distance=limit) == [0.5, 0.5]
    scores = repetition()(play(["x", "x", "x", GOLD, LOST]))
    assert list(values(scores).values()) == pytest.approx([-2 / 3, -2 / 3, -2 / 3, 0, 0])
    assert states(scores)["solver_4"] == "timeout"
    near = play(["a b c d e f", "a b c d e f g", "z y"])
    assert list(values(repetition(distance=0.5)(near)).values()) == [-0.5, -0.5, 0.0]
    assert one(repetition(), play(["x"])).value == 0.0


def test_novelty_by_hand():
    """Trigrams of c:BDA are c:B, :BD, BDA; of c:BDC c:B, :BD, BDC: 2 of 4 shared."""
    episode = play(["x"])
    for reference, expected in ((["c:BDC", "f:HGE"], 0.5), (["c:BDA"], 0.0), (["zzzz"], 1.0), ([], 1.0)):
        assert novelty(reference)(episode)["challenger_0"].value == pytest.approx(expected)
    family = Composition()
    same_skill = [family.make("a", "BDA")]  # another start state, the same pairs of operations and depth
    assert novelty(same_skill, features=family.features)(episode)["challenger_0"].value == 0.0
    assert novelty(same_skill)(episode)["challenger_0"].value == pytest.approx(1 - 2 / 4 + 0.0)
    assert novelty(same_skill)(play(["x"], proposal="?"))["challenger_0"].status == "abstain"
