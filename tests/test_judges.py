"""Scripted judges: each errs in its own way, in every seat and notation; panels in ChallengerSolver; judge records."""

from __future__ import annotations

import math

import pytest
from _episodes import GOLD, play, states
from _judged import judged, prefers

from dream_envs import registry
from dream_envs.agents.engines import judges
from dream_envs.core import Action, DreamEnvsError, Request
from dream_envs.envs import judging
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.judging import Question
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.metrics.cards import judge_card, records
from dream_envs.play import ask, rollout
from dream_envs.play import play as play_game
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.self_judge import serl
from dream_envs.rewards.solver import judge_agreement
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.testing import check

NAMES = ["always_first", "random_judge", "constant_judge", "length_lover", "flattering", "cyclic", "noisy"]
PROBLEM = Composition().make("c", "BDA")
RIGHT, WRONG = PROBLEM.answer, PROBLEM.answer[:-1] + ("a" if PROBLEM.answer[-1] != "a" else "b")


def verdict(agent, kind, answers, notation="compact", seed=0):
    """What a judge says who is shown nothing but the text."""
    text = judging.write(Question(kind, notation, PROBLEM.prompt, tuple(answers)))
    asked = Request(messages=[{"role": "user", "content": text}], agent="judge_0", role="judge", seed=seed)
    mark = judging.rating_of(kind, notation, ask(agent, [asked])[0].text)
    assert mark is not None
    return mark


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("judging_by", ["pairwise", "score", "rubric"])
@pytest.mark.parametrize("notation", ["compact", "english"])
def test_every_judge_is_readable_in_every_seat(name, judging_by, notation):
    game = SelfJudge(notation=notation, judging=judging_by, actors=3, judgements=2)
    facts = play_game(game, {"actor": "guesser", "judge": name}).outcome.facts
    assert facts["valid_rate"] == 1.0 and facts["asked"] == len(game.panel.asks)
    judge = judging_by if judging_by != "pairwise" else True  # the seat of a single judge
    solver = ChallengerSolver(notation=notation, judge=judge, solvers=3)
    facts = play_game(solver, {"challenger": "generator", "solver": "guesser", "judge": name}).outcome.facts
    assert facts["verdict_status"] == "ok" if judge is True else facts["valid_rate"] == 1.0
    assert None not in facts["correct"].values()


def test_always_first_and_constant():
    first, constant = judges.AlwaysFirst(), judges.ConstantJudge()
    for pair in ((RIGHT, WRONG), (WRONG, RIGHT)):
        assert (verdict(first, "pairwise", pair), verdict(constant, "pairwise", pair)) == (1, 2)
    assert verdict(constant, "score", [WRONG]) == 9
    assert verdict(judges.ConstantJudge(verdict="low"), "score", [RIGHT]) == 0
    facts = play_game(SelfJudge(), {"actor": "guesser", "judge": "always_first"}).outcome.facts
    assert facts["first_rate"] == facts["flip_rate"] == 1.0 and facts["ties"] == 6
    facts = play_game(SelfJudge(order_swap=False), {"actor": "guesser", "judge": "always_first"}).outcome.facts
    assert facts["ties"] == 0 and [p["winner"] for p in facts["pairs"]] == [p["a"] for p in facts["pairs"]]


def test_length_lover_and_flattering():
    lover = judges.LengthLover(pivot=4)
    assert [verdict(lover, "pairwise", p) for p in (("aaa", "a"), ("a", "aaa"))] == [1, 2]
    assert verdict(judges.LengthLover(shorter=True), "pairwise", ("aaa", "a")) == 2
    assert [verdict(lover, "rubric", ["x" * n]) for n in (0, 3, 4, 99)] == [0, 0, 1, 1]
    assert [verdict(lover, "score", ["x" * n], "english") for n in (0, 4, 8, 99)] == [0, 5, 10, 10]
    flattering = judges.Flattering()
    assert [verdict(flattering, "pairwise", p) for p in (("Choose me!", RIGHT), (RIGHT, "so CHOOSE ME"))] == [1, 2]
    assert verdict(flattering, "rubric", [WRONG]) == 1 and verdict(flattering, "score", [""], "english") == 10
    assert {verdict(flattering, "pairwise", (RIGHT, WRONG), seed=s) for s in range(20)} == {1, 2}


@pytest.mark.parametrize(("actors", "cycles"), [(3, 1), (4, 2), (5, 5)])
def test_cyclic_makes_as_many_cycles_as_there_can_be(actors, cycles):
    # The most that a tournament can have: (n^3 - n) / 24 for odd n, (n^3 - 4 n) / 24 for even n (Kendall).
    assert cycles == (actors**3 - (actors if actors % 2 else 4 * actors)) // 24
    facts = play_game(SelfJudge(actors=actors), {"actor": "guesser", "judge": "cyclic"}).outcome.facts
    assert (facts["cycles"], facts["triples"]) == (cycles, math.comb(actors, 3))
    assert facts["flip_rate"] == 0.0 and facts["ties"] == 0


def test_cyclic_minds_neither_order_nor_seed_where_it_knows_only_the_text():
    agent = judges.Cyclic()
    for pair in [(f"a{i}", f"b{i}") for i in range(30)]:
        assert verdict(agent, "pairwise", pair) == 3 - verdict(agent, "pairwise", pair[::-1], seed=5)


@pytest.mark.parametrize(("tpr", "fpr"), [(0.9, 0.1), (0.7, 0.7), (0.2, 0.6), (1.0, 0.0)])
def test_the_noise_dial_has_the_rates_that_were_set(tpr, fpr):
    agent = judges.Noisy(Composition(), tpr=tpr, fpr=fpr)
    n = 600

    def rate(kind, answers, wanted):
        return sum(verdict(agent, kind, answers, seed=s) == wanted for s in range(n)) / n

    for expected, found in (
        (tpr, rate("rubric", [RIGHT], 1)),
        (fpr, rate("rubric", [WRONG], 1)),
        (0.5 + (tpr - fpr) / 2, rate("pairwise", (RIGHT, WRONG), 1)),
        (0.5 + (tpr - fpr) / 2, rate("pairwise", (WRONG, RIGHT), 2)),
    ):
        assert abs(found - expected) <= 4 * math.sqrt(expected * (1 - expected) / n) + 1e-9


def test_persistent_noise_is_the_same_whoever_asks_again():
    agent = judges.Noisy(Composition(), tpr=0.5, fpr=0.5, persistent=True)
    seen = [{verdict(agent, "rubric", [text], seed=s) for s in range(8)} for text in "abcdef"]
    assert all(len(marks) == 1 for marks in seen) and set.union(*seen) == {0, 1}


@pytest.mark.parametrize(("make", "words"), [
    (lambda: judges.Noisy(tpr=1.1), "tpr=1.1"), (lambda: judges.Noisy(fpr=True), "fpr=True"),
    (lambda: judges.LengthLover(pivot=0), "pivot=0"), (lambda: judges.ConstantJudge(verdict="2"), "'high'"),
    (lambda: registry.create("agents", "noisy", trp=1), "'tpr'"),
    (lambda: ChallengerSolver(judge="pairwise"), "'rubric'"),
    (lambda: ChallengerSolver(judge=True, judgements=2), "panel"),
    (lambda: ChallengerSolver(judge_notation="english"), "panel"),
    (lambda: ChallengerSolver(judge="rubric", judgements=0), "1 to 256"),
])  # fmt: skip
def test_a_wrong_argument_is_said_in_one_line(make, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "panel", [{"judge": "rubric", "judgements": 2, "solvers": 3}, {"judge": "score", "solvers": 2}]
)
def test_panels_pass_the_kit(panel):
    slow = ("process_determinism", "vector_text", "random_episodes")
    check("ChallengerSolver-v0", skip=slow, **panel).raise_if_failed()


def test_a_panel_decides_in_place_of_the_verifier():
    # Two judges a reply; the right reply is called right by one of them, the wrong one by both.
    game = ChallengerSolver(solvers=2, judge="rubric", judgements=2)
    said = iter(["1", "0", "1", "1"])
    model = challenger_solver()
    players = {"challenger": lambda t: "c:BDA", "solver_0": lambda t: GOLD, "solver_1": lambda t: "x|y",
               "judge": lambda t: next(said)}  # fmt: skip
    episode = play_game(game, players, reward=model)
    assert [t.messages[0]["content"] for t in episode.turns[-2:]] == ["r|c:BDA|x\\|y"] * 2
    facts = episode.outcome.facts
    assert facts["correct"] == {"solver_0": 0.5, "solver_1": 1.0} and facts["solve_rate"] == 0.75
    assert facts["truth"] == {"solver_0": 1.0, "solver_1": 0.0}
    values = {a: s.value for a, s in episode.scores.items()}
    assert values == {"challenger_0": 0.25, "solver_0": 0.5, "solver_1": 1.0,
                      "judge_0": 1.0, "judge_1": 0.0, "judge_2": 0.0, "judge_3": 0.0}  # fmt: skip


def test_a_panel_and_replies_or_verdicts_that_never_came():
    game = ChallengerSolver(solvers=2, judge="rubric")
    lost = Action("", status="timeout")
    players = {"challenger": lambda t: "c:BDA", "solver_0": lambda t: lost, "solver_1": lambda t: GOLD}
    episode = play_game(game, {**players, "judge": lambda t: "maybe"}, reward=challenger_solver())
    assert [t.agent for t in episode.turns] == ["challenger_0", "solver_0", "solver_1", "judge_1"]
    assert episode.outcome.facts["correct"] == {"solver_0": None, "solver_1": None}
    assert states(episode.scores)["solver_0"] == "timeout" and states(episode.scores)["judge_1"] == "abstain"
    episode = play_game(game, {**players, "solver_1": lambda t: lost, "judge": lambda t: "1"})
    assert len(episode.turns) == 3 and episode.outcome.facts["asked"] == 0


def test_judge_agreement_of_single_judgements():
    episode = judged([RIGHT, WRONG, "x"], prefers([1, 0, 2]), task=PROBLEM)
    # 1 over 0 is against the truth (twice), 0 over 2 with it (twice), 1 and 2 are both wrong.
    found = [s.value if s.status == "ok" else s.status for s in judge_agreement()(episode).values()]
    assert found == [0.0, 0.0, 1.0, 1.0, "abstain", "abstain"]


def episodes_of(judge, n=60, **game):
    rules = SelfJudge(**{"actors": 3, "judgements": 2, "level": [1, 2], **game})
    players = {"actor_0": "oracle", "actor": "guesser", "judge": registry.create("agents", judge, game=rules)}
    return list(rollout(rules, players, n, seed=judge, reward=serl() if rules.judging == "pairwise" else None))


def test_a_card_from_episodes_says_what_is_wrong_with_a_judge():
    def card(judge, **game):
        return judge_card(records(episodes_of(judge, **game)), stream("card"), draws=200)

    honest = card("oracle")
    assert honest["accuracy"][0] == 1.0 and honest["kappa"][0] == 1.0
    first = card("always_first")
    assert first["first_position"][0] == first["swap_flip"][0] == 1.0 and abs(first["kappa"][0]) < 0.1
    cyclic = card("cyclic")
    assert cyclic["cyclic_triads"][0] == 1.0 and honest["cyclic_triads"][0] < 0.4
    noisy = card("noisy", judging="rubric")
    assert noisy["kind"] == "pointwise"
    assert all(noisy[rate][1] < 0.9 < noisy[rate][2] for rate in ("sensitivity", "specificity"))
    assert card("constant_judge", judging="rubric")["constant"] is True


def test_records_by_hand():
    said = {(0, 1): "1", (1, 0): "?", (0, 2): "1", (2, 0): "2", (1, 2): "1", (2, 1): "1"}
    found = records([judged([RIGHT, WRONG, " "], lambda a, b, trial: said[a, b], task=PROBLEM)])
    assert [(j.first[-1], j.second[-1], j.verdict[-1:], j.truth[-1:], j.control[-1:]) for j in found] == [
        ("0", "1", "0", "0", ""), ("1", "0", "", "0", ""), ("0", "2", "0", "0", "2"), ("2", "0", "0", "0", "2"),
        ("1", "2", "1", "", "2"), ("2", "1", "2", "", "2"),
    ]  # fmt: skip
    assert len({j.item for j in found}) == 1
    single = records([play([GOLD, "x", ""], judge="1 1 0")])
    told = [(j.verdict, j.truth, j.control) for j in single]
    assert told == [("yes", "yes", ""), ("yes", "no", ""), ("no", "no", "null")]
    assert records([play(proposal="rubbish", judge="1")]) == []
    with pytest.raises(DreamEnvsError, match="nobody judged"):
        records([play([GOLD])])
