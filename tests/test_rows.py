"""From episodes to rows: advantages worked by hand, groups that never mix, sources that do what they say."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from _episodes import GOLD, LOST, play, solved
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("trl")

from dream_envs import core
from dream_envs.agents.training.advantages import leave_one_out, relative
from dream_envs.agents.training.rows import Group, Round, Row, RowBuilder, groups_of
from dream_envs.agents.training.settings import ReviewSettings, RoleSettings, RowSettings
from dream_envs.agents.training.sources import Demonstrations, ReviewedTraces, RoleWeights
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.core import DreamEnvsError, Episode, Event, Message, Score
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.rewards.presets import challenger_solver
from dream_envs.seeds import stream

END = 999
GAME = ChallengerSolver(solvers=4)
FAMILY = GAME.family
BOTH = frozenset({"solver", "challenger"})
RNG = stream("rows-test")
NONE = RoleSettings(groups=0)


def ids(text: str) -> list[int]:
    return [*map(ord, text), END]


def encode(messages: Sequence[Message]) -> tuple[int, ...]:
    return tuple(map(ord, messages[-1]["content"]))


def episode(replies: Sequence[Any] = (), proposal: str = "c:BDA", author: str = "", index: int = 0) -> Episode:
    """A scored episode whose sampled turns carry token ids; a given proposal carries none."""
    played = play(replies, proposal)
    turns = [
        t if author and t.role == "challenger" else msgspec.structs.replace(t, token_ids=ids(t.text))
        for t in played.turns
    ]
    events = [*([Event("given", data={"author": author})] if author else []), *played.events]
    return msgspec.structs.replace(played, turns=turns, events=events, index=index, scores=challenger_solver()(played))


def numbered(*episodes: Episode) -> list[Episode]:
    return [msgspec.structs.replace(e, index=i) for i, e in enumerate(episodes)]


def builder(baseline: str = "group", sources: Sequence[Any] = (), roles: frozenset[str] = BOTH, **chosen: Any) -> Any:
    """A builder; settings of the two roles are given by their names, those of the rows by theirs."""
    by_role = {name: chosen.pop(name) for name in ("solver", "challenger") if name in chosen}
    return RowBuilder(GAME, RowSettings(roles=by_role, **chosen), baseline, roles, encode, ids, sources)


def told(rows: Sequence[TrainingRow]) -> list[tuple[str, str, float]]:
    """Prompt, completion without its end and advantage, readable."""
    return [("".join(map(chr, r.prompt)), "".join(map(chr, r.completion[:-1])), r.advantage) for r in rows]


def easy_and_invalid() -> list[Episode]:
    """Proposals of 3/4, 1/4 and, turned away, 0."""
    easy = FAMILY.make("d", "AB")
    return numbered(episode(solved(1, 4)), episode([easy.answer] * 3 + ["x"], easy.prompt), episode(["x"] * 4, "c:B!"))


def test_relative_by_hand() -> None:
    assert relative([1, 0, 0, 0], scale=False).tolist() == [0.75, -0.25, -0.25, -0.25]
    scaled = math.sqrt(3) / 4 + 1e-4  # the deviation of one right of four
    assert relative([1, 0, 0, 0], scale=True) == pytest.approx([0.75 / scaled] + [-0.25 / scaled] * 3)
    assert relative([1, 0, 0, 0], True, floor=0.5).tolist() == [1.5, -0.5, -0.5, -0.5]
    assert relative([0.5] * 5, scale=True).tolist() == [0.0] * 5


def test_attempts_by_hand() -> None:
    """Two of four right, unscaled: +1/2 for the right, -1/2 for the wrong."""
    right, wrong = ("c:BDA", GOLD, 0.5), [("c:BDA", f"wrong {i}", -0.5) for i in range(2)]
    assert told(builder(scale=False, challenger=NONE).rows([episode(solved(2, 4))], RNG)) == [right, right, *wrong]


def test_proposals_by_hand() -> None:
    """Values 1 - p: 0.75, 0.25, 0 (invalid); mean 1/3, deviation sqrt(7/72) = 0.3118."""
    rows = told(builder(solver=NONE).rows(easy_and_invalid(), RNG))
    unit = 1 / (math.sqrt(7 / 72) + 1e-4)
    assert [r[:2] for r in rows] == [("new", "c:BDA"), ("new", "d:AB"), ("new", "c:B!")]
    assert [r[2] for r in rows] == pytest.approx([unit * (v - 1 / 3) for v in (0.75, 0.25, 0.0)])
    flat = [msgspec.structs.replace(e, scores={"challenger_0": Score(0.3)}) for e in easy_and_invalid()]
    assert builder().rows(flat, RNG) == []  # a round that is all alike teaches nothing


def test_leave_one_out_by_hand() -> None:
    """One of four right: 1 and three times -1/3.  Proposals of 3/4, 1/4 and 0: 3/4 - 1/8, 1/4 - 3/8, 0 - 1/2."""
    assert leave_one_out([0.3]).tolist() == [0.0]  # with nobody to compare it with
    attempts = told(builder("leave_one_out").rows([episode(solved(1, 4))], RNG))
    assert [a for _, _, a in attempts] == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3]) and attempts[0][1] == GOLD
    found = builder("leave_one_out", solver=NONE).rows(easy_and_invalid(), RNG)
    assert [r.advantage for r in found] == pytest.approx([5 / 8, -1 / 8, -1 / 2])
    assert {r.role for r in found} == {"challenger"}


def test_the_role_mean_is_of_all_problems_of_the_round() -> None:
    """Solvers 1 0 0 0 and 0 0 0 0: mean 1/8; the group without variance counts, as it would not in its own."""
    round_ = numbered(episode(solved(1, 4)), episode(["x"] * 4, "d:AB"))
    found = builder("role", scale=False).rows(round_, RNG)
    values = {(r.role, r.value): r.advantage for r in found}
    assert values["solver", 1.0] == 7 / 8 and values["solver", 0.0] == -1 / 8
    assert values["challenger", 0.75] == 3 / 8 and Counter(r.role for r in found) == {"solver": 8, "challenger": 2}


def test_the_running_mean_is_read_before_it_moves() -> None:
    """SPIRAL's, decay 0.9: solvers 1/4 then 1/2 right, proposals 3/4 then 1/2, each role with a mean of its own.

    First episode: the values themselves.  Then b = 0.1 * 1/4 = 0.025 and 0.1 * 3/4 = 0.075; at the end
    0.9 * 0.025 + 0.1 * 1/2 = 0.0725 and 0.9 * 0.075 + 0.1 * 1/2 = 0.1175.
    """
    made = builder("rae", decay=0.9)
    round_ = numbered(episode(solved(1, 4)), episode(solved(2, 4)))
    expected = {"solver": [1.0] + [0.975] * 2 + [-0.025] * 2, "challenger": [0.75, 0.425]}  # zeros are not sent
    found = made.rows(round_[::-1], RNG)  # whatever the order of the list, episodes count by their index
    for role, advantages in expected.items():
        assert sorted(r.advantage for r in found if r.role == role) == pytest.approx(sorted(advantages)), role
    means = {"composition/solver": 0.0725, "composition/challenger": 0.1175}
    assert made.baseline.values == pytest.approx(means)
    again = builder("rae", decay=0.9)
    again.restore(json.loads(json.dumps(made.state())))
    third = [episode(solved(1, 4), index=2)]
    assert told(again.rows(third, stream("x"))) == told(made.rows(third, stream("x")))
    assert again.state() == made.state() != builder("rae").state()
    other = msgspec.structs.replace(FAMILY.make("c", "BDA"), family="other")
    made.rows([msgspec.structs.replace(episode(solved(2, 4)), tasks=[other])], RNG)
    assert made.baseline.values["other/solver"] == pytest.approx(0.05)  # a family of its own begins at 0


def test_a_running_mean_learns_from_what_is_all_alike() -> None:
    """Two players who always win and lose: a group's mean says nothing, the role's running mean does."""
    made = builder("rae", decay=0.5)
    found = [r.advantage for r in made.rows([episode([GOLD] * 2)], RNG) if r.role == "solver"]
    assert found == [1.0, 1.0] and made.used == {"challenger": 1, "solver": 1}
    assert builder().rows([episode([GOLD] * 2)], RNG) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["c:BDA", "d:AB", "e:C", "??"]), st.booleans()), max_size=8)
)
def test_groups_never_mix(drawn: list[tuple[int, str, bool]]) -> None:
    round_ = []
    for i, (k, text, mutated) in enumerate(drawn):
        gold = getattr(FAMILY.parse(text), "answer", "none")
        replies = [gold] * k + [f"no {j}" for j in range(4 - k)]
        round_.append(episode(replies, text, author="mutation" if mutated else "", index=i))
    groups = groups_of(GAME, round_, BOTH)
    solving = [g for g in groups if g.role == "solver"]
    assert len(solving) == sum(text != "??" for _, text, _ in drawn)
    for group in solving:
        assert len({r.messages[0]["content"] for r in group.rows}) == len({r.episode for r in group.rows}) == 1
        task: Any = FAMILY.parse(group.rows[0].messages[0]["content"])
        assert task.level == group.level and group.values == [float(r.ids == ids(task.answer)) for r in group.rows]
        assert group.informative == (0 < sum(group.values) < 4)
    own = [g for g in groups if g.role == "challenger"]
    assert sum(len(g.rows) for g in own) == sum(not m for _, _, m in drawn) and len(own) <= 1
    # Every row that is sent is a solver's on its problem or a proposal on its prompt, and no reply is sent twice.
    rows = told(builder().rows(round_, stream("x")))
    sampled = Counter((e.tasks[1].prompt if t.role == "solver" else "new", t.text) for e in round_ for t in e.turns)
    assert not Counter((p, c) for p, c, _ in rows) - sampled


def test_what_was_not_scored_or_not_sampled_is_left_out() -> None:
    one = episode([GOLD, LOST, "x", "y"])
    one.scores["solver_3"] = Score(0.0, "abstain")
    (group,) = groups_of(GAME, [one], frozenset({"solver"}))
    assert group.values == [1.0, 0.0]
    plain = msgspec.structs.replace(one, turns=[msgspec.structs.replace(t, token_ids=None) for t in one.turns])
    assert groups_of(GAME, [plain], BOTH) == [] == builder().rows([plain], RNG) == builder().rows([], RNG)
    assert groups_of(GAME, [episode(["x"], "nonsense")], frozenset({"solver"})) == []


class Bids:
    """A stranger's game without tasks: two bidders at once, three times over, then a clerk; its own groups."""

    roles = (core.RoleSpec("bidder", 2, "a number", (0.0, 1.0)), core.RoleSpec("clerk", 1, "a word", (0.0, 1.0)))

    def group(self, episode: Episode, turn: core.Turn) -> str:
        return turn.messages[0]["content"]


def test_groups_of_a_strangers_game_with_moves_at_once() -> None:
    """Each of three simultaneous moves is compared with its own kind, of both bidders and all episodes."""
    seats = [*[(f"bidder_{i}", f"bid {n}") for n in range(3) for i in range(2)], ("clerk_0", "bid 3")]
    said = [(agent, [{"role": "user", "content": asked}]) for agent, asked in seats]
    turns = [
        core.Turn(agent=agent, role=agent[:-2], messages=messages, text="x", token_ids=ids("x"))  # type: ignore[arg-type]
        for agent, messages in said
    ]
    agents = ("bidder_0", "bidder_1", "clerk_0")
    values = [{agent: Score(0.25 * (k + i)) for i, agent in enumerate(agents)} for k in range(3)]
    scored = [
        msgspec.structs.replace(episode(["x"]), index=k, tasks=[], turns=turns, scores=v) for k, v in enumerate(values)
    ]
    groups = groups_of(Bids(), scored, frozenset({"bidder", "clerk"}))
    names = [("bidder", "bid 0"), ("bidder", "bid 1"), ("bidder", "bid 2"), ("clerk", "bid 3")]
    assert [(g.role, g.name) for g in groups] == names
    for group in groups[:3]:
        assert group.values == [0.0, 0.25, 0.25, 0.5, 0.5, 0.75] and group.level == 0
        assert [r.episode for r in group.rows] == [0, 0, 1, 1, 2, 2]
    assert groups[3].values == [0.5, 0.75, 1.0]
    found = RowBuilder(Bids(), RowSettings(scale=False), "rae", frozenset({"bidder"}), encode, ids).rows(scored, RNG)
    assert len(found) == 18 - 3 and {r.role for r in found} == {"bidder"}  # three bids of the first are worth 0
    del Bids.group  # the default: all of a role in a problem
    assert [len(g.rows) for g in groups_of(Bids(), scored, frozenset({"bidder", "clerk"}))] == [18, 3]


def test_roles_that_others_play_are_not_trained_on() -> None:
    round_ = numbered(episode(solved(2, 4)), episode(["x"] * 4, "c:?"))
    for roles, prompts in (({"solver"}, {"c:BDA"}), ({"challenger"}, {"new"}), (set(), set())):
        assert {p for p, _, _ in told(builder(roles=frozenset(roles)).rows(round_, RNG))} == prompts


def test_a_critic_is_sent_everything_with_its_value_and_role() -> None:
    """Groups without variance too, behind the informative ones; zero rows too; demonstrations and reviews as ever."""
    flat, mixed, given_ = numbered(
        episode(["x"] * 3, "d:AB"), episode(solved(1, 3)), episode(solved(1, 4), author="mutation")
    )
    extra = (Demonstrations(), ReviewedTraces(ReviewSettings(count=2, roles=("solver",))))
    found = builder("critic", extra).rows([flat, mixed, given_], RNG)
    solver = [r for r in found if r.role == "solver"]
    assert {r.advantage for r in found if r.role} == {1.0}
    assert sorted(r.value for r in solver if r.value is not None) == [0.0] * 8 + [1.0] * 2
    assert Counter(r.role for r in found) == {"solver": 10, "challenger": 2, "": 2 + 1}
    assert [r.role for r in found[-2:]] == ["", ""]
    first = builder("critic", solver=RoleSettings(1), challenger=NONE).rows([flat, mixed], RNG)
    assert {r.prompt for r in first} == {tuple(map(ord, "c:BDA"))}  # the informative one comes first


def test_rows_and_groups_are_bounded_and_what_is_added_is_cut_first() -> None:
    round_ = [episode(solved(2, 4), index=i) for i in range(10)]
    settings_ = {"solver": RoleSettings(3), "challenger": NONE}
    one, twice = (builder(sources=[review(50)], **settings_) for _ in range(2))
    assert len(one.rows(round_, stream("a"))) == 3 * 4 + 50 and one.used == {"solver": 3, "challenger": 0}
    assert twice.rows(round_, stream("a")) == builder(sources=[review(50)], **settings_).rows(round_, stream("a"))
    few = builder(sources=[review(50)], rows=10, **settings_)
    cut = few.rows(round_, stream("a"))
    assert [(r.role, r.advantage < 0) for r in cut[:8]] == [("solver", x) for x in (False, False, True, True) * 2]
    assert [r.role for r in cut[8:]] == ["", ""] and few.used["solver"] == 2  # a third group does not fit whole
    order = builder(solver=RoleSettings(), challenger=RoleSettings()).rows([*round_, *easy_and_invalid()], RNG)
    assert [r.role for r in order] == sorted((r.role for r in order), reverse=True)  # the settings' order


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RowSettings(rows=0), lambda: RowSettings(rows=7), lambda: RowSettings(play_every=0),
        lambda: RowSettings(decay=1.0), lambda: RowSettings(roles={"solver": RoleSettings(groups=-1)}),
        lambda: ReviewSettings(cap=0), lambda: ReviewSettings(count=-1),
        lambda: builder("rae", [Demonstrations()]).restore(builder("rae").state()),
    ],
)  # fmt: skip
def test_impossible_settings_are_one_line(wrong: Any) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_demonstrations_are_learnable_mutations_alone() -> None:
    other, easy, hard = (FAMILY.make("e", ops) for ops in ("AB", "AC", "AD"))
    round_ = numbered(
        episode(solved(2, 4), "c:BDA"),  # 0.5, its own
        episode(["x"] * 4, "c:?"),  # 0
        episode([other.answer, "x", "y", "z"], other.prompt, author="mutation"),  # 0.75
        episode([easy.answer] * 4, easy.prompt, author="mutation"),  # everybody can: 0
        episode(["x"] * 4, hard.prompt, author="mutation"),  # nobody can: 0
        episode([hard.answer, "x", "y", "z"], hard.prompt, author="replay"),  # not new
        episode(["x"] * 4, "e:??", author="mutation"),  # no problem
    )
    rows = told(builder(sources=[Demonstrations()], solver=NONE).rows(round_, RNG))
    assert [r[:2] for r in rows] == [("new", "c:BDA"), ("new", "c:?"), ("new", "e:AB")]
    assert rows[2][2] == pytest.approx((0.75 - 0.25) / 0.25)
    assert builder(sources=[Demonstrations()], solver=NONE).rows(round_[2:3], RNG) == []  # nothing to compare with


def looked_at(*groups: Group) -> Round:
    return Round(GAME, (), groups, encode, ids, RowSettings(), "group", 0.0)


def group(level: int, values: Sequence[float], tag: str = "t", role: str = "solver") -> Group:
    named = [f"{tag}{level}/{i}" for i in range(len(values))]
    prompt: list[Message] = [{"role": "user", "content": f"{tag}{level}"}]
    return Group(role, f"{tag}{level}", level, [Row(prompt, ids(n), v) for n, v in zip(named, values, strict=True)])


def review(count: int, cap: int = 512, weight: float = 1.0, **more: Any) -> ReviewedTraces:
    return ReviewedTraces(ReviewSettings(count, weight, cap, **{"roles": ("solver",), **more}))


def test_only_right_attempts_are_kept_two_of_a_mixed_group_one_of_a_mastered_one() -> None:
    kept = review(500, weight=0.5)
    others = group(4, [1, 0], role="judge"), group(5, [0.5, 0.5])
    rows = kept.apply([], looked_at(group(1, [1] * 3), group(2, [0, 1, 0, 1, 1]), group(3, [0, 0]), *others), RNG)
    assert {c for _, c, _ in told(rows)} == {"t1/0", "t2/1", "t2/3"} and {r.advantage for r in rows} == {0.5}
    assert {r.role for r in rows} == {""} and len(rows) == 500 and review(9).apply([], looked_at(), RNG) == []
    everyone = review(500, roles=()).apply([], looked_at(*others), RNG)
    assert {c for _, c, _ in told(everyone)} == {"t4/0"}


def test_levels_are_reviewed_alike_and_the_oldest_go() -> None:
    kept = review(4000, cap=4)
    drawn = kept.apply([], looked_at(*[group(1, [1], f"n{i}") for i in range(50)], group(9, [1])), stream("alike"))
    levels = Counter(chr(r.prompt[-1]) for r in drawn)
    assert abs(levels["9"] - 2000) < 5 * math.sqrt(1000)
    tags = Counter("".join(map(chr, r.prompt)) for r in drawn if chr(r.prompt[-1]) == "1")
    assert set(tags) == {"n461", "n471", "n481", "n491"}  # tag and level: the newest four of fifty
    assert max(abs(n - levels["1"] / 4) for n in tags.values()) < 5 * math.sqrt(levels["1"] / 4)


def test_a_restored_review_draws_the_same() -> None:
    kept, again = review(40, cap=8), review(40, cap=8)
    kept.apply([], looked_at(*[group(level, [1, 0, 1], f"g{i}") for i in range(9) for level in (1, 2, 3)]), RNG)
    again.restore(json.loads(json.dumps(kept.state())))
    for step in ("d", "e"):  # and both go on alike
        assert again.apply([], looked_at(group(2, [1, 1], step)), stream(step)) == kept.apply(
            [], looked_at(group(2, [1, 1], step)), stream(step)
        )
    assert again.state() == kept.state()


def test_each_roles_share_of_the_loss_is_its_weight() -> None:
    """Whatever it wrote: sums of advantage times tokens stand as the weights do; a role of weight 0 is left out."""
    rows = [TrainingRow((1,), [2] * n, 1.0, None, role) for role, n in (("a", 3), ("a", 5), ("b", 40), ("c", 7))]
    made = RoleWeights(lambda progress: {"a": 3.0, "b": 1.0, "c": 0.0})
    found = made.apply(rows, looked_at(group(1, [1], role="a")), RNG)
    sums = Counter[str]()
    for row in found:
        sums[row.role] += row.advantage * len(row.completion)
    assert set(sums) == {"a", "b"} and sums["a"] == pytest.approx(3 * sums["b"])
    assert sum(sums.values()) == pytest.approx(48)  # as many as there are tokens
    late = RoleWeights(lambda progress: {"a": 1 - progress, "c": progress})
    done = msgspec.structs.replace(looked_at(group(1, [1], role="a")), progress=1.0)
    assert {r.role for r in late.apply(rows, done, RNG)} == {"c"}


def test_a_source_of_ones_own_sees_the_round_and_has_a_state() -> None:
    """Applied in order; what has a state is in the builder's, what has none is passed over."""

    class Longest:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def apply(self, rows: list[TrainingRow], round: Round, rng: np.random.Generator) -> list[TrainingRow]:
            self.seen.append(len(round.episodes))
            return [*rows, TrainingRow(round.encode([{"role": "user", "content": "p"}]), round.tokenize("q"), 0.5)]

        def state(self) -> list[int]:
            return self.seen

        def restore(self, state: list[int]) -> None:
            self.seen = list(state)

    made = builder(sources=[Demonstrations(), Longest()], solver=NONE, challenger=NONE)
    assert told(made.rows(numbered(*[episode(solved(1, 4))] * 3), RNG)) == [("p", "q", 0.5)]
    assert told(made.rows([], RNG)) == [("p", "q", 0.5)]
    again = builder(sources=[Demonstrations(), Longest()])
    again.restore(json.loads(json.dumps(made.state())))
    assert again.sources[1].seen == [3, 0]
