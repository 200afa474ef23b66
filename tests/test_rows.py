"""From episodes to rows: advantages worked by hand, groups that never mix, a review that remembers what it should."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from _episodes import GOLD, play, solved
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("trl")

from dream_envs.agents.training.wake import Group, Row, challenger_group, demonstrations, solver_groups

from dream_envs.agents.training.rows import Review, RowConfig, RowMaker, relative
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.core import DreamEnvsError, Episode, Event, Message, Score
from dream_envs.rewards.presets import challenger_solver
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

END = 999
BRIEF: list[Message] = [{"role": "user", "content": "new"}]
FAMILY = Composition()
RNG = stream("rows-test")


def ids(text: str) -> list[int]:
    return [*map(ord, text), END]


def encode(messages: Sequence[Message]) -> tuple[int, ...]:
    return tuple(map(ord, messages[-1]["content"]))


def episode(
    replies: Sequence[Any] = (), proposal: str = "c:BDA", author: str = "", index: int = 0, **game: Any
) -> Episode:
    """A scored episode whose sampled turns carry token ids; a given proposal carries none."""
    played = play(replies, proposal, **game)
    turns = [
        t
        if (author and t.role == "challenger") or t.status != "ok"
        else msgspec.structs.replace(t, token_ids=ids(t.text))
        for t in played.turns
    ]
    events = [*([Event("given", data={"author": author})] if author else []), *played.events]
    return msgspec.structs.replace(played, turns=turns, events=events, index=index, scores=challenger_solver()(played))


def maker(**config: Any) -> RowMaker:
    chosen = {"rows": 1000, "groups": 100, "review": 0, "solver_negative": 0.0, "challenger_negative": 0.0, **config}
    return RowMaker(RowConfig(**chosen), FAMILY, encode, ids, BRIEF)


def told(rows: Sequence[TrainingRow]) -> list[tuple[str, str, float]]:
    """Prompt, completion without its end and advantage, readable."""
    return [("".join(map(chr, r.prompt)), "".join(map(chr, r.completion[:-1])), r.advantage) for r in rows]


# -------------------------------------------------------------------------------------------------------- advantages


def test_relative_by_hand() -> None:
    assert relative([1, 0, 0, 0], scale=False).tolist() == [0.75, -0.25, -0.25, -0.25]
    scaled = math.sqrt(3) / 4 + 1e-4  # the deviation of one right of four
    assert relative([1, 0, 0, 0], scale=True) == pytest.approx([0.75 / scaled] + [-0.25 / scaled] * 3)
    assert relative([0.5] * 5, scale=True).tolist() == [0.0] * 5


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=20), st.floats(-5, 5))
def test_relative_is_centred_and_knows_no_offset(values: list[float], offset: float) -> None:
    found = relative(values, scale=True)
    assert found.sum() == pytest.approx(0, abs=1e-6 / (np.std(values) + 1e-4))
    assert relative([v + offset for v in values], scale=False) == pytest.approx(relative(values, scale=False), abs=1e-9)
    assert np.abs(found).max() <= math.sqrt(len(values))  # a z-score cannot be larger


@pytest.mark.parametrize("negative", [0.0, 0.25, 1.0])
def test_attempts_by_hand(negative: float) -> None:
    """Two of four right, unscaled: +1/2 for the right, -1/2 times the factor for the wrong; zero rows are not sent."""
    rows = told(maker(solver_negative=negative, scale=False, challenger_weight=0.0).rows([episode(solved(2, 4))], RNG))
    right, wrong = ("c:BDA", GOLD, 0.5), [("c:BDA", f"wrong {i}", -0.5 * negative) for i in range(2)]
    assert rows == [right, right, *(wrong if negative else [])]


def test_proposals_by_hand() -> None:
    """Values 1 - p: 0.75, 0.25, 0 (invalid); mean 1/3, deviation sqrt(7/72) = 0.3118; times the weight of 2."""
    easy = FAMILY.make("d", "AB")
    round_ = [
        episode(solved(1, 4), "c:BDA"),
        episode([easy.answer] * 3 + ["x"], easy.prompt),
        episode(["x"] * 4, "c:B!"),
    ]
    rows = told(maker(challenger_negative=0.5, challenger_weight=2.0, groups=0).rows(round_, RNG))
    unit = 2.0 / math.sqrt(7 / 72)
    assert [r[:2] for r in rows] == [("new", "c:BDA"), ("new", "d:AB"), ("new", "c:B!")]
    assert [r[2] for r in rows] == pytest.approx(
        [unit * (3 / 4 - 1 / 3), 0.5 * unit * (1 / 4 - 1 / 3), -0.5 * unit / 3]
    )
    assert told(maker(challenger_weight=0.0, groups=0).rows(round_, RNG)) == []


def test_a_flat_round_of_proposals_teaches_nothing() -> None:
    round_ = [episode(solved(2, 4), "c:BDA", index=0), episode(["x"] * 4, "c:A?", index=1)]
    flat = [msgspec.structs.replace(e, scores={**e.scores, "challenger_0": Score(0.3)}) for e in round_]
    assert told(maker(challenger_negative=1.0, groups=0).rows(flat[1:], RNG)) == []


def test_copies_share_their_value() -> None:
    """Three times the same problem at 3/4 each: 1/4 a copy; a problem of its own keeps 3/4."""
    own = FAMILY.make("d", "AB")
    round_ = [episode(solved(1, 4)) for _ in range(3)] + [episode([own.answer, "x", "y", "z"], own.prompt)]
    group = challenger_group(round_)
    assert group is not None and group.values == pytest.approx([0.25] * 3 + [0.75])
    given_ = episode(solved(1, 4), author="mutation")  # the same problem, but nobody repeated himself
    again = challenger_group([*round_[:1], given_, given_])
    assert again is not None and again.values == [0.75]


# ------------------------------------------------------------------------------------------------------------ groups


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["c:BDA", "d:AB", "e:C", "??"]), st.booleans()), max_size=8)
)
def test_groups_never_mix(drawn: list[tuple[int, str, bool]]) -> None:
    round_ = []
    for i, (k, text, mutated) in enumerate(drawn):
        task = FAMILY.parse(text)
        gold = getattr(task, "answer", "none")
        replies = [gold] * k + [f"no {j}" for j in range(4 - k)]
        round_.append(episode(replies, text, author="mutation" if mutated else "", index=i))
    groups = solver_groups(round_)
    assert len(groups) == sum(text != "??" for _, text, _ in drawn)
    for group in groups:
        assert group.role == "solver" and len({r.messages[0]["content"] for r in group.rows}) == 1
        task = FAMILY.parse(group.rows[0].messages[0]["content"])
        assert task.id == group.task and task.level == group.level  # type: ignore[union-attr]
        assert group.values == [float(r.ids == ids(task.answer)) for r in group.rows]  # type: ignore[union-attr]
        assert group.informative == (0 < sum(group.values) < 4)
    own = challenger_group(round_)
    assert (own is None) == all(m for _, _, m in drawn)
    if own is not None:
        assert len(own.rows) == sum(not m for _, _, m in drawn)
        assert {r.messages[0]["content"] for r in own.rows} == {"new"}
    # Every row that is sent is a solver's on its problem or a proposal on the brief, and no reply is sent twice.
    rows = told(maker(solver_negative=1.0, challenger_negative=1.0).rows(round_, stream("x")))
    assert all((prompt == "new") != (prompt in {t for _, t, _ in drawn}) for prompt, _, _ in rows)
    sampled = Counter((e.tasks[1].prompt if t.role == "solver" else "new", t.text) for e in round_ for t in e.turns)
    assert not Counter((p, c) for p, c, _ in rows) - sampled


def test_what_was_not_scored_or_not_sampled_is_left_out() -> None:
    from dream_envs.core import Action

    one = episode([GOLD, Action("", status="timeout"), "x", "y"])
    (group,) = solver_groups([one])
    assert group.values == [1.0, 0.0, 0.0]
    plain = msgspec.structs.replace(one, turns=[msgspec.structs.replace(t, token_ids=None) for t in one.turns])
    assert solver_groups([plain]) == [] and challenger_group([plain]) is None
    assert maker().rows([plain], RNG) == []
    assert solver_groups([episode(["x"], "nonsense")]) == [] and challenger_group([]) is None


def test_demonstrations_are_learnable_mutations_alone() -> None:
    other, easy, hard = (FAMILY.make("e", ops) for ops in ("AB", "AC", "AD"))
    round_ = [
        episode(solved(2, 4), "c:BDA"),  # 0.5, its own
        episode(["x"] * 4, "c:?"),  # 0
        episode([other.answer, "x", "y", "z"], other.prompt, author="mutation"),  # 0.75
        episode([easy.answer] * 4, easy.prompt, author="mutation"),  # everybody can: 0
        episode(["x"] * 4, hard.prompt, author="mutation"),  # nobody can: 0
        episode([hard.answer, "x", "y", "z"], hard.prompt, author="replay"),  # not new
        episode(["x"] * 4, "e:??", author="mutation"),  # no problem
    ]
    assert [(e.tasks[1].prompt, v) for e, v in demonstrations(round_)] == [("e:AB", 0.75), ("e:AC", 0.0), ("e:AD", 0.0)]
    rows = told(maker(groups=0).rows(round_, RNG))
    assert [r[:2] for r in rows] == [("new", "c:BDA"), ("new", "e:AB")]
    assert rows[1][2] == pytest.approx((0.75 - 0.25) / 0.25)


def test_roles_that_others_play_are_not_trained_on() -> None:
    round_ = [episode(solved(2, 4)), episode(["x"] * 4, "c:?")]
    for roles, prompts in (({"solver"}, {"c:BDA"}), ({"challenger"}, {"new"}), (set(), set())):
        made = RowMaker(RowConfig(review=0), FAMILY, encode, ids, BRIEF, frozenset(roles))
        assert {p for p, _, _ in told(made.rows(round_, RNG))} == prompts


# ------------------------------------------------------------------------------------------------------------ limits


def test_rows_and_groups_are_bounded_and_the_review_is_cut_first() -> None:
    round_ = [episode(solved(2, 4), index=i) for i in range(10)]
    made = maker(groups=3, challenger_weight=0.0, review=50)
    rows = made.rows(round_, stream("a"))
    assert made.used == 3 and len(rows) == 3 * 2 + 50
    few = maker(groups=3, challenger_weight=0.0, review=50, rows=10, solver_negative=1.0)
    cut = few.rows(round_, stream("a"))
    assert len(cut) == 10 and few.used == 3
    assert [r.advantage < 0 for r in cut] == [False, False, True, True] * 2 + [False, False]
    assert told(maker(groups=3, review=9).rows(round_, stream("q"))) == told(
        maker(groups=3, review=9).rows(round_, stream("q"))
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"rows": 7},
        {"play_every": 0},
        {"proposals": "both"},
        {"review_cap": 0},
        {"review": -1},
        {"groups": -1},
    ],
)
def test_impossible_settings_are_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        RowConfig(**wrong)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ review


def group(level: int, values: Sequence[float], tag: str = "t") -> Group:
    rows = [
        Row([{"role": "user", "content": f"{tag}{level}"}], ids(f"{tag}{level}/{i}"), v) for i, v in enumerate(values)
    ]
    return Group("solver", f"{tag}{level}", level, "challenger", rows)


def test_only_right_attempts_are_kept_two_of_a_mixed_group_one_of_a_mastered_one() -> None:
    review = Review(100)
    review.add([group(1, [1, 1, 1]), group(2, [0, 1, 0, 1, 1]), group(3, [0, 0])], encode)
    found = {"".join(map(chr, r.completion[:-1])) for r in review.traces(500, 0.5, stream("r"))}
    assert found == {"t1/0", "t2/1", "t2/3"}
    assert {r.advantage for r in review.traces(20, 0.5, stream("r"))} == {0.5}


def test_levels_are_reviewed_alike_and_the_oldest_go() -> None:
    review = Review(4)
    review.add([group(1, [1], f"n{i}") for i in range(50)] + [group(9, [1])], encode)
    drawn = review.traces(4000, 1.0, stream("alike"))
    levels = Counter(chr(r.prompt[-1]) for r in drawn)
    assert abs(levels["9"] - 2000) < 5 * math.sqrt(1000)
    kept = Counter("".join(map(chr, r.prompt)) for r in drawn if chr(r.prompt[-1]) == "1")
    assert set(kept) == {"n461", "n471", "n481", "n491"}  # tag and level: the newest four of fifty
    assert max(abs(n - levels["1"] / 4) for n in kept.values()) < 5 * math.sqrt(levels["1"] / 4)
    assert Review(4).traces(10, 1.0, RNG) == [] == Review(4).proposals(10, 1.0, RNG)


def test_a_restored_review_draws_the_same() -> None:
    review = Review(8)
    review.add([group(level, [1, 0, 1], f"g{i}") for i in range(9) for level in (1, 2, 3)], encode)
    review.add_proposal((1, 2), [3, END])
    again = Review(8)
    again.restore(json.loads(json.dumps(review.state())))
    assert again.traces(40, 1.0, stream("d")) == review.traces(40, 1.0, stream("d"))
    assert again.proposals(5, 1.0, stream("d")) == review.proposals(5, 1.0, stream("d"))
    for other in (review, again):  # and both go on alike
        other.add([group(2, [1, 1], "new")], encode)
    assert again.state() == review.state()
    before = json.dumps(review.state())
    again.add([group(1, [1])], encode)
    assert json.dumps(review.state()) == before, "two reviews share their lists"


def test_reviewed_proposals_are_good_ones_whatever_the_factor_on_bad_ones() -> None:
    """Expert iteration: plain likelihood, so that a proposal below the mean must not come in with its sign turned."""
    round_ = [episode(solved(1, 4), "c:BDA"), episode(["x"] * 4, "c:?"), episode(["y"] * 4, "c:!!")]
    for negative in (0.0, 1.0):
        made = maker(groups=0, review=30, proposals="review", challenger_negative=negative)
        rows = told(made.rows(round_, stream("expert")))
        assert {c for p, c, _ in rows if p == "new"} == {"c:BDA"}
        assert all(weight > 0 for _, _, weight in rows)
        assert {c for p, c, _ in rows if p == "c:BDA"} == {GOLD}
        assert sorted(told(made.reviewed(stream("later")))) != [] and made.used == 0
