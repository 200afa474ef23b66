"""The curriculum: what is kept, what is drawn, what is planned, and that a restored one goes on as if never stopped."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import Action, Challenge, DreamEnvsError, Episode, Reject, Request, Task, author_of, challenge_of
from dream_envs.curriculum import gates
from dream_envs.curriculum.curriculum import SAMPLERS, Curriculum, Mixture, solved
from dream_envs.curriculum.novelty import NoveltyIndex
from dream_envs.curriculum.store import ChallengeStore, Entry, read_challenges, wilson
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.kuhn import Kuhn
from dream_envs.play import rollout
from dream_envs.rewards.presets import challenger_solver
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

FAMILY = Composition(max_level=6)
TASKS = [FAMILY.make("a", ops) for ops in ("A", "B", "AB", "ABC", "ABCD")]


def store_with(*rows: tuple[Task, float | None, int]) -> ChallengeStore:
    """A store of these tasks with (successes, attempts); None: never tried."""
    store = ChallengeStore()
    for task, right, n in rows:
        store.add(task, round=0, author="challenger")
        if right is not None:
            store.record(task.id, right, n, round=0)
    return store


def one_line(words: str, call: Any) -> None:
    """The call is refused in one line that has these words."""
    with pytest.raises(DreamEnvsError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_store_keeps_what_came_in_the_order_it_came(tmp_path: Path) -> None:
    store = ChallengeStore(tmp_path / "deep" / "c.jsonl")
    assert [store.add(t, round=i, author="challenger", parent="p") for i, t in enumerate(TASKS)] == [True] * 5
    assert not store.add(TASKS[2], round=9, author="somebody else")
    assert len(store) == 5 and TASKS[2].id in store and "nothing" not in store
    assert [e.challenge.id for e in store] == [t.id for t in TASKS] and list(store)[2].challenge.round == 2
    kept = list(read_challenges(tmp_path / "deep" / "c.jsonl"))
    assert kept == [e.challenge for e in store]
    assert kept[3].answer == TASKS[3].answer and kept[3].author == "challenger" and kept[3].parent == "p"


def test_records_add_up_and_the_newest_is_the_estimate() -> None:
    store = store_with((TASKS[0], 1, 8))
    store.record(TASKS[0].id, 6, 8, round=3)
    (entry,) = store
    assert entry == Entry(entry.challenge, successes=7, attempts=16, rate=0.75, n=8, round=3)


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2), (0, 0), (1, -1), (math.nan, 4)])
def test_impossible_counts_are_one_line_and_change_nothing(counts: tuple[float, int]) -> None:
    store = store_with((TASKS[0], 1, 8))
    before = store.state()
    for key in (TASKS[0].id, "nobody"):
        one_line(" ", lambda key=key: store.record(key, *counts, round=1))
    assert store.state() == before


@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=20),
    after=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=20),
    torn=st.binary(max_size=30),
)
def test_a_restored_store_goes_on_as_if_never_stopped(
    before: list[tuple[int, int]], after: list[tuple[int, int]], torn: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    drawn = [FAMILY.generate(stream("store", i), 3) for i in range(31)]

    def go(store: ChallengeStore, moves: list[tuple[int, int]], round: int) -> None:
        for i, right in moves:
            store.add(drawn[i], round=round, author="challenger")
            store.record(drawn[i].id, right, 4, round=round)

    whole = ChallengeStore(folder / "whole.jsonl")
    go(whole, before, 0)
    state = json.loads(json.dumps(whole.state()))  # as a checkpoint holds it
    go(whole, after, 1)

    killed = ChallengeStore(folder / "killed.jsonl")
    go(killed, before, 0)
    go(killed, after[::-1], 1)  # what came after the checkpoint was otherwise, and ends in half a line
    killed.close()
    with open(folder / "killed.jsonl", "ab") as file:
        file.write(torn)
    for _ in range(2):
        resumed = ChallengeStore(folder / "killed.jsonl")
        resumed.restore(state)
        go(resumed, after, 1)
        assert resumed.state() == whole.state()
        assert (folder / "killed.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
        (folder / "killed.jsonl").unlink()  # the second time the file is gone, the checkpoint is not


def test_select_the_newest_and_what_was_solved_once() -> None:
    store = store_with(*[(t, i % 2, 1) for i, t in enumerate(TASKS)])
    store.record(TASKS[1].id, 0, 8, round=1)  # forgotten: it stays under review
    assert [e.challenge.level for e in store.select(solved)] == [1, 3]
    assert [e.challenge.id for e in store.select(lambda e: True, last=2)] == [t.id for t in TASKS[-2:]]
    assert store.select(solved, last=9) == store.select(solved)


@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_wilson_is_the_set_of_rates_that_the_score_test_accepts(n: int, share: float) -> None:
    """By definition: |p - q| <= z sqrt(q (1 - q) / n) on the interval, and nowhere else on a grid."""
    k, z = round(share * n), 1.959963984540054
    found, grid = wilson(k, n), np.linspace(0, 1, 2001)
    accepted = np.abs(k / n - grid) <= z * np.sqrt(grid * (1 - grid) / n)
    inside = (grid >= found.low - 1e-9) & (grid <= found.high + 1e-9)
    borderline = np.minimum(np.abs(grid - found.low), np.abs(grid - found.high)) < 1e-6
    assert (accepted == inside)[~borderline].all()
    assert 0 <= found.low <= found.p <= found.high <= 1


ENTRIES = list(store_with((TASKS[0], 0, 8), (TASKS[1], 8, 8), (TASKS[2], 4, 8), (TASKS[3], 2, 8), (TASKS[4], None, 0)))


def test_samplers_draw_from_their_distributions() -> None:
    """10,000 draws each, chi-square within five deviations of the weights worked by hand from (k + 1/2) / (n + 1)."""
    p = np.array([0.5 / 9, 8.5 / 9, 4.5 / 9, 2.5 / 9, 0.5])
    levels = np.array([1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4])  # two of level 1 share what every level gets
    for name, weights in (
        ("uniform", np.ones(5)), ("by_level", levels), ("learnable", p * (1 - p)), ("regret", 1 - p)
    ):  # fmt: skip
        rng, draw = stream("samplers", name), SAMPLERS[name]
        counts = Counter(draw(ENTRIES, rng).challenge.id for _ in range(10_000))
        seen = np.array([counts[e.challenge.id] for e in ENTRIES])
        expected = 10_000 * weights / weights.sum()
        chi2 = ((seen - expected) ** 2 / expected).sum()
        assert chi2 < 4 + 5 * math.sqrt(2 * 4), (name, seen, expected)


def test_gates() -> None:
    store = store_with((TASKS[0], None, 0))
    both = gates.every(gates.held_out([TASKS[1]]), gates.archive(store))
    codes = [r.code if (r := both(t)) else "" for t in TASKS]
    assert codes == ["duplicate", "held_out", "", "", ""]
    store.add(TASKS[2], round=1)
    assert both(TASKS[2]) == Reject("duplicate", TASKS[2].id)  # the gate asks the store as it is now
    again: Any = FAMILY.parse(FAMILY.as_proposal(TASKS[1]))
    assert both(again).code == "held_out"  # type: ignore[union-attr]


GAME = ChallengerSolver(FAMILY, solvers=4)
MIXTURE = Mixture(6, 4, 5)


def curriculum(store: ChallengeStore | None = None, mixture: Mixture = MIXTURE, **more: Any) -> Curriculum:
    more = {"seed": "s", "store": ChallengeStore() if store is None else store, **more}
    return Curriculum(more.pop("game", GAME), mixture, **more)


class Player:
    """Proposes what the family generates and solves each attempt with probability 1/2, by the request's seed alone."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        said = []
        for r in requests:
            rng = stream("player", r.seed)
            if r.role == "challenger":
                said.append(Action(FAMILY.as_proposal(FAMILY.generate(rng, int(rng.integers(1, 4))))))
            else:
                task: Any = FAMILY.parse(r.messages[0]["content"])
                said.append(Action(task.answer if rng.random() < 0.5 else "x"))
        return said


def play(plan: Curriculum, round: int, *, gate: gates.Gate | None = None) -> list[Episode]:
    """A round of the real game."""
    game = ChallengerSolver(FAMILY, solvers=4, gate=gate or gates.archive(plan.store))
    seats = {"challenger": Player(), "solver": Player()}
    return list(rollout(game, seats, plan.plan(round), seed=plan.seed, reward=challenger_solver()))


def given_text(start: Any) -> str:
    return start.given["challenger_0"].text


def given_task(start: Any) -> Task:
    found = FAMILY.parse(given_text(start))
    assert isinstance(found, Task)
    return found


def test_a_plan_is_a_function_of_seed_round_and_store() -> None:
    one, other = curriculum(), curriculum()
    for round in range(4):
        assert one.plan(round) == one.plan(round) == other.plan(round)
        one.absorb(round, play(one, round))
        other.absorb(round, play(other, round)[::-1])  # in any order
        assert one.store.state() == other.store.state()
    one.plan(99)  # asking costs nothing
    drawn = [[given_text(s) for s in one.plan(r) if s.given] for r in (4, 5)]
    assert one.plan(4) == other.plan(4) and drawn[0] != drawn[1]  # each round draws anew
    assert curriculum(one.store, seed="t").plan(4) != one.plan(4)


def test_a_restored_curriculum_plans_the_same(tmp_path: Path) -> None:
    one = curriculum(ChallengeStore(tmp_path / "a.jsonl"))
    for round in range(3):
        one.absorb(round, play(one, round))
    state = json.loads(json.dumps(one.state()))
    expected = one.plan(3)
    one.absorb(3, play(one, 3))
    again = curriculum(ChallengeStore(tmp_path / "a.jsonl"))
    again.restore(state)
    assert again.plan(3) == expected
    again.absorb(3, play(again, 3))
    assert again.state() == one.state()
    for wrong, name in ((curriculum(seed="other"), "seed"), (curriculum(mixture=Mixture(1, 1, 1)), "mixture")):
        one_line(f"another {name} ", lambda wrong=wrong: wrong.restore(state))


def test_the_first_round_has_nothing_to_mutate_or_replay() -> None:
    assert all(not s.given and s.task is None for s in curriculum().plan(0))
    generated = curriculum(mixture=Mixture(0, 3, 3, 2, levels=(5,))).plan(0)
    assert [s.author for s in generated] == ["generator"] * 8  # nobody proposes in that arm: the generator does
    found = [given_task(s) for s in generated]
    assert {t.level for t in found} == {5} and len({t.id for t in found}) > 1


def test_mutations_are_of_solved_parents_and_replays_reach_as_far_as_was_solved() -> None:
    store = store_with((TASKS[0], 0, 4), (TASKS[2], 1, 4), (TASKS[3], 0, 4), (TASKS[4], 0, 4))
    plan = curriculum(store, Mixture(1, 30, 30)).plan(0)
    mutated, replayed = ([given_text(s) for s in plan if s.author == name] for name in ("mutation", "replay"))
    assert mutated and all(text.startswith("a:AB") and len(text) == 5 for text in mutated)
    assert len(set(mutated)) == len(mutated) and "a:ABC" not in mutated  # which the store knows
    assert set(replayed) == {"a:A", "a:AB"}  # level 3 and 4 were never solved: not yet
    assert {s.task.meta["reference"] for s in plan if s.task and s.author == "mutation"} == {TASKS[2].id}


def test_replays_pass_the_archive_and_proposals_do_not() -> None:
    plan = curriculum()
    plan.absorb(0, play(plan, 0))
    known = next(iter(plan.store)).challenge
    game = ChallengerSolver(FAMILY, solvers=4, gate=gates.archive(plan.store))
    starts = {s.author: s for r in range(1, 9) for s in plan.plan(r)}
    replayed, *_ = rollout(game, {"solver": Player()}, [starts["replay"]])
    assert replayed.outcome.facts["valid"] and author_of(replayed) == "replay"
    text = {"challenger_0": Action(FAMILY.as_proposal(known))}
    for author, changed in (("replay", {"task": None}), ("mutation", {})):
        start = msgspec.structs.replace(starts[author], given=text, **changed)
        (turned_away,) = rollout(game, {"solver": Player()}, [start])
        assert turned_away.outcome.facts["reject"] == "duplicate"


def test_the_generators_draws_are_never_duplicates() -> None:
    """Level 1 has 128 problems: 40 rounds of 12 would be nearly all known, and the arm would play nothing."""
    plan = curriculum(mixture=Mixture(0, 0, 2, 10, levels=(1,)))
    for round in range(40):
        episodes = play(plan, round)
        assert all(e.outcome.facts["valid"] for e in episodes)
        plan.absorb(round, episodes)
    assert len(plan.store) <= 128
    assert sum(e.attempts for e in plan.store) == 4 * 40 * 12


def test_absorb_counts_each_attempt_once_and_evaluation_problems_never_enter_the_store() -> None:
    reserved = [FAMILY.make(s, o) for s in FAMILY.states for o in FAMILY.operations]
    plan, refused, total = curriculum(), 0, 0
    for round in range(6):
        episodes = play(plan, round, gate=gates.every(gates.held_out(reserved), gates.archive(plan.store)))
        refused += sum(e.outcome.facts["reject"] == "held_out" for e in episodes)
        plan.absorb(round, episodes)
        total += sum(len(e.turns) - 1 for e in episodes if e.outcome.facts["valid"])
    assert refused > 0 and not {t.id for t in reserved} & {e.challenge.id for e in plan.store}
    assert sum(e.attempts for e in plan.store) == total
    for entry in plan.store:
        assert isinstance(entry, Entry) and 0 <= entry.successes <= entry.attempts
        assert isinstance(entry.challenge, Challenge) and entry.challenge.author in ("challenger", "mutation")
    mutated = [e.challenge for e in plan.store if e.challenge.author == "mutation"]
    assert mutated and all(m.parent in plan.store for m in mutated)  # where it came from can be looked up


def test_what_was_not_answered_is_not_counted() -> None:
    plan, seats = curriculum(), {"challenger": Player(), "solver": lambda text: Action("", status="timeout")}
    episodes = list(rollout(GAME, seats, plan.plan(0), reward=challenger_solver()))
    plan.absorb(0, episodes)
    assert len(plan.store) > 0 and all(e.attempts == 0 and e.rate is None for e in plan.store)
    assert all(challenge_of(e) for e in episodes)


def test_every_source_at_once_in_its_own_number_and_order() -> None:
    """3 of the challenger's, up to 2 each of mutations and replays, 3 of the dataset, 4 generated of levels in turn."""
    store = store_with((TASKS[2], 2, 4), (TASKS[3], 1, 4))
    mixture = Mixture(3, 2, 2, 4, 3, levels=(2, 5))
    plan = curriculum(store, mixture, dataset=TASKS)
    starts = plan.plan(2)
    authors = [s.author for s in starts]
    order = ["", "mutation", "replay", "dataset", "generator"]
    assert len(starts) == 14 == mixture.total and authors == sorted(authors, key=order.index)
    free = authors.count("")
    assert free >= 3 and [s.index for s in starts] == list(range(28, 42))
    given_: dict[str, list[Any]] = {}
    for start in starts[free:]:
        given_.setdefault(start.author, []).append(given_task(start))
    assert [t.level for t in given_["generator"]] == [2, 5, 2, 5]
    assert len(given_["dataset"]) == 3 and {t.id for t in given_["dataset"]} <= {t.id for t in TASKS}
    played = play(plan, 2)
    assert all(e.outcome.facts["valid"] for e in played if author_of(e) in ("dataset", "replay"))
    plan.absorb(2, played)
    assert {e.challenge.author for e in plan.store} >= {"challenger", "dataset", "generator"}
    assert plan.metrics()["curriculum/store"] == len(plan.store)


def test_a_dataset_is_passed_through_once_before_anything_comes_again() -> None:
    def ids(plan: Curriculum, rounds: int) -> list[str]:
        return [given_task(s).id for r in range(rounds) for s in plan.plan(r)]

    own = {"mixture": Mixture(0, 0, 0, 0, 2), "dataset": TASKS}
    drawn = ids(curriculum(**own), 10)  # four passes of five, two a round
    passes = [drawn[i : i + 5] for i in range(0, 20, 5)]
    assert all(set(p) == {t.id for t in TASKS} for p in passes) and len({tuple(p) for p in passes}) > 1
    assert drawn != ids(curriculum(**own, label="other"), 10) and drawn != ids(curriculum(**own, seed="t"), 10)
    anew = ids(curriculum(**own, anew=True), 10)
    assert all(len({*anew[i : i + 2]}) == 2 for i in range(0, 20, 2))  # within a round each once
    assert any({*anew[i : i + 5]} != {t.id for t in TASKS} for i in range(0, 20, 5))
    restored = curriculum(**{**own, "dataset": TASKS[:4]})
    one_line("dataset", lambda: restored.restore(curriculum(**own).state()))


def test_problems_without_a_challenger_are_tasks_that_the_game_starts_from() -> None:
    """A game without the hook is given the problem itself; whose scores count is its own to say."""

    class Bare(ChallengerSolver):
        proposer = ""

    plan = curriculum(game=Bare(FAMILY, solvers=4), mixture=Mixture(0, 0, 0, 3, 2), dataset=TASKS)
    assert all(s.task is not None and s.task.answer and not s.given for s in plan.plan(0))


def test_copies_share_the_beginning_and_nothing_else() -> None:
    plan = curriculum(game=Kuhn(), mixture=Mixture(10, 0, 0, copies=4), seed="k")
    starts = [s for r in range(2) for s in plan.plan(r)]
    assert [s.index for s in starts] == list(range(20)) and [s.draw for s in starts[:6]] == [0] * 4 + [4] * 2
    played = list(rollout(Kuhn(), dict.fromkeys(("first", "second"), "guesser"), plan.plan(0), seed="k"))
    deals = [e.tasks[0].answer for e in sorted(played, key=lambda e: e.index)]
    assert deals == [deals[0]] * 4 + [deals[4]] * 4 + [deals[8]] * 2
    assert len({tuple(t.text for t in e.turns) for e in played[:4]}) > 1
    plan.absorb(0, played)
    assert len(plan.store) == 0 and plan.metrics() == {}  # no role there answers a problem
    assert all(s.draw is None for s in curriculum().plan(0))


def test_what_is_like_something_accepted_is_turned_away_and_stays_so_after_a_restore() -> None:
    """The index learns a round at a time; replays pass; a restored curriculum fills the index of a new process."""
    same = FAMILY.make("a", "ABCDEF"), FAMILY.make("a", "ABCDEG")  # 5 of 7 trigrams

    def round_(plan: Curriculum, number: int, task: Task) -> dict[str, float]:
        game = ChallengerSolver(FAMILY, solvers=2, gate=gates.novel(plan.index, 0.6))
        seats: dict[str, Any] = {"challenger": lambda text: FAMILY.as_proposal(task), "solver": lambda text: "x"}
        plan.absorb(number, list(rollout(game, seats, plan.plan(number), reward=challenger_solver())))
        return plan.metrics()

    plan = curriculum(mixture=Mixture(2, 0, 0), index=NoveltyIndex(0.5))
    assert round_(plan, 0, same[0]) == {"curriculum/store": 1.0}  # twice in one round: accepted, stored once
    assert round_(plan, 1, same[1]) == {"curriculum/store": 1.0, "curriculum/reject/similar": 2.0}
    again = curriculum(mixture=Mixture(2, 0, 0), index=NoveltyIndex(0.5))
    again.restore(json.loads(json.dumps(plan.state())))
    assert len(again.index) == len(plan.index) == 1
    assert round_(again, 2, same[1])["curriculum/reject/similar"] == 2.0
    assert round_(again, 3, FAMILY.make("h", "HHH")) == {"curriculum/store": 2.0}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Mixture(0, 0, 0), lambda: Mixture(-1, 2, 2), lambda: Mixture(1, 1, 1, -1), lambda: Mixture(copies=0),
        lambda: curriculum(mixture=Mixture(1, 0, 0, 0, 1)), lambda: curriculum(game=Kuhn()),
        lambda: curriculum(mixture=Mixture(1, 0, 0, 1, levels=(7,))), lambda: Mixture(replays="uniforn"),
    ],
)  # fmt: skip
def test_an_impossible_mixture_is_one_line(wrong: Any) -> None:
    one_line(r"0 or more|empty|family|levels=|'uniform'", wrong)
