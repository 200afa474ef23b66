"""SelfJudge: the game's facts, what is hidden, both notations, odd arrangements, and the API adapters."""

from __future__ import annotations

import itertools
import json
import pathlib
import re

import gymnasium
import pytest
from _judged import judged, prefers
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import Action, DreamEnvsError, Task, content_hash, encode
from dream_envs.envs import judge_facts, judging
from dream_envs.envs.judging import Question
from dream_envs.envs.pettingzoo import AEC
from dream_envs.envs.self_judge import HIDDEN, SelfJudge
from dream_envs.play import play
from dream_envs.tasks.composition import Composition
from dream_envs.testing import check

FAMILY = Composition()
PROBLEM = FAMILY.make("c", "BDA")
GOLD = PROBLEM.answer
GAME = "dream_envs/SelfJudge-v0"
HOSTILE = st.text(alphabet=st.sampled_from(list("ab|\\12<>\n\r \u2028jsr:")), max_size=20) | st.text(max_size=20)


@given(st.sampled_from(judging.KINDS), HOSTILE, HOSTILE, HOSTILE)
@settings(max_examples=300, deadline=None)
def test_a_compact_question_is_read_back_whatever_the_answers_hold(kind, prompt, one, two):
    answers = (one, two)[: judging.ANSWERS[kind]]
    asked = Question(kind, "compact", prompt, answers)
    text = judging.write(asked)
    assert judging.read(text) == asked
    bare = text.replace("\\\\", "").replace("\\|", "")
    assert bare.count("|") == 1 + len(answers)  # the separators, and no other: a reader of tokens can rely on them


@given(st.sampled_from(judging.KINDS), HOSTILE, HOSTILE, HOSTILE)
@settings(max_examples=300, deadline=None)
def test_an_english_question_keeps_every_answer_inside_its_quotation(kind, prompt, one, two):
    answers = (one, two)[: judging.ANSWERS[kind]]
    found = judging.read(judging.write(Question(kind, "english", prompt, answers)))
    assert found is not None and found.kind == kind

    def shown(text):
        return "\n".join(text.replace("<|", "< |").splitlines())

    assert (found.prompt, found.answers) == (shown(prompt), tuple(map(shown, answers)))


def test_the_compact_grammar_by_example():
    assert judging.write(Question("pairwise", "compact", "c:BDA", ("BfDkAa", ""))) == "j|c:BDA|BfDkAa|"
    assert judging.write(Question("rubric", "compact", "a|b", ("\\",))) == "r|a\\|b|\\\\"
    for text in ("j|c:BDA|x", "j|a|b|c|d", "s|a", "j:BDA", "j|a\\b|c|d", "j|a|b|c\\", "", "j", "x|a|b|c"):
        assert judging.read(text) is None, text


@pytest.mark.parametrize(("kind", "notation", "reply", "mark"), [
    ("pairwise", "compact", "1", 1),
    ("pairwise", "compact", "2", 2),
    *[
        ("pairwise", "compact", reply, None)
        for reply in ("", "0", "3", "12", "1 ", "\n1", "\u00b2", "\u0661", "one")
    ],
    ("score", "compact", "9", 9),
    ("score", "compact", "10", None),
    ("rubric", "compact", "2", None),
    ("pairwise", "english", "The second is wrong: 2 + 2 = 5.\n\nVerdict: 1\n", 1),
    ("pairwise", "english", "2", 2),
    ("pairwise", "english", "**Verdict: 2**", 2),
    ("pairwise", "english", "verdict \\boxed{1}.", 1),
    ("pairwise", "english", "Verdict: 1\nNo, wait.", 1),
    ("pairwise", "english", "Verdict: 1 or 2", None),
    ("pairwise", "english", "Verdict: 0", None),
    ("pairwise", "english", "x" * 400 + "1", None),
    ("score", "english", "Verdict: 10", 10),
    ("score", "english", "Verdict: 11", None),
    ("rubric", "english", "Verdict: 0", 0),
])  # fmt: skip
def test_verdicts(kind, notation, reply, mark):
    assert judging.rating_of(kind, notation, reply) == mark


def test_every_pair_is_judged_and_half_of_it_in_swapped_order():
    panel = SelfJudge(actors=4, judgements=4).panel
    assert len(panel.asks) == 24 and len(set(panel.judges)) == 24
    for pair in itertools.combinations(range(4), 2):
        assert sum(ask.who == pair for ask in panel.asks) == 2
        assert sum(ask.who == pair[::-1] and ask.swapped for ask in panel.asks) == 2
    assert all(ask.who[0] < ask.who[1] for ask in SelfJudge(actors=4, judgements=3, order_swap=False).panel.asks)


def test_what_each_seat_sees():
    game = SelfJudge(actors=2, judgements=2)
    state = game.start(PROBLEM, None)
    assert game.view(state, "judge_0") == [] and game.view(state, "actor_1")[0]["content"] == "c:BDA"
    state = game.apply(state, {"actor_0": Action("<think>a|b</think>\n x|y"), "actor_1": Action(GOLD)})
    assert [seat.agent for seat in game.turns(state)] == ["judge_0", "judge_1"]
    assert game.view(state, "judge_0")[0]["content"] == f"j|c:BDA|x\\|y|{GOLD}"
    assert game.view(state, "judge_1")[0]["content"] == f"j|c:BDA|{GOLD}|x\\|y"


def test_facts_of_a_table_worked_by_hand():
    # 0 and 1 split (order decides), 0 beats 2 twice, 1 against 2: one readable verdict for 2, one unreadable.
    said = {(0, 1): "1", (1, 0): "1", (0, 2): "1", (2, 0): "2", (1, 2): "2", (2, 1): "huh"}
    episode = judged(["x y", GOLD, "z"], lambda a, b, trial: said[a, b], task=PROBLEM)
    facts = episode.outcome.facts
    assert (facts["asked"], facts["readable"], facts["unreadable"], facts["failed"]) == (6, 5, 1, 0)
    assert facts["valid_rate"] == pytest.approx(5 / 6)
    assert [(p["wins_a"], p["wins_b"], p["winner"], p["tie"]) for p in facts["pairs"]] == [
        (1, 1, None, True), (2, 0, "actor_0", False), (0, 1, "actor_2", False),
    ]  # fmt: skip
    assert (facts["ties"], facts["cycles"], facts["triples"]) == (1, 0, 0)
    # The first wins in three of five (0 over 1, 1 over 0, 0 over 2); of the two pairs seen in both orders one flips.
    assert facts["first_rate"] == pytest.approx(3 / 5)
    assert (facts["swapped_pairs"], facts["flip_rate"]) == (2, 0.5)
    assert facts["zero_variance"] == {"answers": False, "pairs": 1}
    assert facts["truth"] == {"actor_0": 0.0, "actor_1": 1.0, "actor_2": 0.0}
    # Verdicts about a right and a wrong answer: 0-1 twice (one for 1, which is right), 1-2 once (for 2, wrong).
    assert facts["judge_accuracy"] == {"right": 1.0, "of": 3, "share": pytest.approx(1 / 3)}
    assert facts["lengths"]["actor_0"] == {"words": 2, "chars": 3, "tokens": None}
    assert [e.kind for e in episode.events] == ["unreadable"]
    assert facts["groups"]["actor_2"] == "actor" and facts["groups"]["judge_2"] == facts["groups"]["judge_3"]


def test_a_cycle_is_counted():
    beats = {(0, 1): 0, (1, 2): 1, (0, 2): 2}
    episode = judged(["a", "b", "c"], lambda a, b, trial: "1" if beats[tuple(sorted((a, b)))] == a else "2")
    assert (episode.outcome.facts["cycles"], episode.outcome.facts["triples"]) == (1, 1)
    assert episode.outcome.facts["zero_variance"] == {"answers": True, "pairs": 3}


@given(st.integers(3, 6), st.data())
@settings(max_examples=60, deadline=None)
def test_cycles_against_enumeration_of_orders(n, data):
    # A tournament's triple is cyclic unless one of the three beats both others.
    names = [f"actor_{i}" for i in range(n)]
    winners = {pair: data.draw(st.sampled_from([*pair, None])) for pair in itertools.combinations(names, 2)}
    table = [{"a": a, "b": b, "winner": w} for (a, b), w in winners.items()]
    decided = [t for t in itertools.combinations(names, 3) if all(winners[p] for p in itertools.combinations(t, 2))]
    tops = sum(any(sum(winners[p] == x for p in itertools.combinations(t, 2)) == 2 for x in t) for t in decided)
    assert judge_facts.cycles(table) == (len(decided) - tops, len(decided))


def test_the_truth_is_in_the_record_and_in_no_view_or_info():
    env = AEC(GAME, actors=2, judgements=2, level=3)
    env.reset(seed=3, options={"task": PROBLEM})
    seen = []
    while env.agents:
        agent = env.agent_selection
        observation, _, over, _, info = env.last()
        seen.append(json.dumps([observation, info]))
        env.step(None if over else "guess" if agent.startswith("actor") else "1")
    facts = info["facts"]
    assert not set(HIDDEN) & set(facts) and facts["first_rate"] == 1.0
    assert set(HIDDEN) <= set(env.episode.outcome.facts)
    assert not any(GOLD in text or "truth" in text or "accuracy" in text for text in seen)


@pytest.mark.parametrize("lost", ["timeout", "error"])
def test_an_answer_that_never_came_is_not_judged(lost):
    episode = judged(["a", Action("", status=lost), "c"], prefers([0, 1, 2]))
    rows = episode.outcome.facts["judgements"]
    assert [r["status"] for r in rows] == ["abstain"] * 2 + ["ok"] * 2 + ["abstain"] * 2
    assert len([t for t in episode.turns if t.role == "judge"]) == 2
    nobody = judged([Action("", status=lost), "b"], prefers([0, 1]))
    assert [t.role for t in nobody.turns] == ["actor", "actor"] and nobody.outcome.facts["asked"] == 0


def test_answers_are_cut_for_the_judge_and_that_is_an_event():
    episode = judged(["x" * 50, "y"], prefers([0, 1]), answer_chars=8)
    assert episode.events[0].kind == "cut" and episode.events[0].data == {"characters": 50, "shown": 8}
    assert "|xxxxxxxx|y" in episode.turns[2].messages[0]["content"]
    assert episode.outcome.facts["lengths"]["actor_0"]["chars"] == 50


@pytest.mark.parametrize("kind", ["score", "rubric"])
def test_pointwise_judging(kind):
    ratings = {0: ["0", "1"], 1: ["1", "1"]} if kind == "rubric" else {0: ["9", "0"], 1: ["6", "9"]}
    episode = judged(["bad", GOLD], lambda of, _, trial: ratings[of][trial], task=PROBLEM, judging=kind)
    facts = episode.outcome.facts
    assert len(facts["judgements"]) == 4 and facts["valid_rate"] == 1.0
    expected = {"actor_0": 0.5, "actor_1": 1.0 if kind == "rubric" else pytest.approx(7.5 / 9)}
    assert facts["values"] == expected
    # rubric: three of four are right; score: of (6, 9) against (9, 0) the right answer's is higher twice, level once.
    assert facts["judge_accuracy"]["share"] == pytest.approx(0.75 if kind == "rubric" else 2.5 / 4)
    assert ("correct" in facts) == (kind == "rubric")


def test_prompts_without_a_truth():
    game = SelfJudge(prompts=["Write a haiku.", "Name a colour."], notation="english", actors=2, judgements=2)
    seats = {"actor": str.upper, "judge": lambda text: "Verdict: 1"}
    episodes = [play(game, seats, seed=str(i)) for i in range(12)]
    assert {e.tasks[0].prompt for e in episodes} == {"Write a haiku.", "Name a colour."}
    assert set(episodes[0].outcome.facts["truth"].values()) == {None}
    assert episodes[0].outcome.facts["judge_accuracy"] == {"right": 0.0, "of": 0, "share": None}
    assert episodes[0].turns[2].messages[0]["content"].count("> ") == 3
    other = judged(["4", "5"], prefers([0, 1]), task=Task(family="sums", level=1, prompt="2+2", answer="4"))
    assert set(other.outcome.facts["truth"].values()) == {None}  # nor has a task of another family


@pytest.mark.parametrize(("arguments", "words"), [
    ({"actors": 1}, "2 to 64"), ({"actors": True}, "2 to 64"), ({"judgements": 3}, "even"),
    ({"judgements": 0}, "1 to 256"), ({"actors": 64, "judgements": 4}, "at most 4096"),
    ({"judging": "pairs"}, "'pairwise'"), ({"judge_notation": "latin"}, "'english'"), ({"level": 99}, "1 to 16"),
    ({"level": []}, "1 to 16"), ({"prompts": "one"}, "a list"), ({"prompts": [""]}, "empty"),
    ({"actor_tokens": 0}, "1 to"), ({"family": Composition(), "family_args": {"n_states": 4}}, "family_args"),
])  # fmt: skip
def test_a_wrong_argument_is_said_in_one_line(arguments, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        SelfJudge(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [
    {"notation": "english", "actors": 3, "judgements": 2}, {"judging": "score", "actors": 2, "judgements": 2},
    {"judging": "rubric", "judge_notation": "english", "actors": 2, "judgements": 2}, {"judging": "none", "actors": 3},
    {"family": "arithmetic", "order_swap": False, "judgements": 2, "actors": 3, "level": 2},
])  # fmt: skip
def test_other_arrangements_pass_the_kit(arguments):
    # process_determinism and the worker processes are slow and are run for the default arrangement by the kit's tests.
    skip = ["process_determinism", "vector_text", "random_episodes"]
    if arguments.get("judging") == "none":
        skip += ["floor_bottom", "oracle_top"]  # the vote among actors alone has other ends, and one of them is a tie
    check(GAME, skip=skip, **arguments).raise_if_failed()


def test_the_views_of_both_roles_and_the_vector():
    env = gymnasium.make("dream_envs/SelfJudge-Judge-v0", actors=2, judgements=2, others={"actor": "oracle"})
    text, _ = env.reset(seed=0)
    assert judging.read(text).kind == "pairwise"
    _, reward, over, _, info = env.step("nonsense")
    assert (reward, over) == (-1.0, True) and info["facts"]["unreadable"] == 1
    vec = gymnasium.make_vec("dream_envs/SelfJudge-Actor-v0", 3, actors=2, judgements=2)
    vec.reset(seed=0)
    _, rewards, over, _, infos = vec.step(["a", "b", "c"])
    assert over.all() and rewards.shape == (3,) and infos["final_info"]["facts"]["asked"].tolist() == [2, 2, 2]


def test_golden_episode():
    # The same seed and replies must give the same prompts, facts and ending: else the version goes up.
    episode = play(SelfJudge(), {"actor": "guesser", "judge": "oracle"}, seed="golden")
    turns = [(t.agent, t.messages, t.text) for t in episode.turns]
    text = json.dumps([turns, json.loads(encode(episode.outcome))], sort_keys=True)
    assert (episode.version, content_hash(text)) == (1, "5f42b23e53f5041c")


def test_the_page_of_documentation_keeps_to_the_grammar():
    page = (pathlib.Path(__file__).parent.parent / "docs" / "self_judge.md").read_text("utf-8")
    grammar = re.search(r"```\n(question = .*?)```", page, re.S).group(1)
    said = "\n".join([line.strip() for line in grammar.strip().splitlines()])
    assert said in "\n".join([line.strip() for line in judging.__doc__.splitlines()])
    rows = re.findall(r"^([jrs]\|\S+)  ", page, re.M)
    assert len(rows) == 4 and all(judging.read(row) is not None for row in rows)
    assert judging.read(rows[1]).answers == ("x|y", "")


class Leaky(SelfJudge):
    """Shows the answer in the facts that it makes public."""

    def public_facts(self, state):
        facts = super().public_facts(state)
        return None if facts is None else {**facts, "gold": state.task.answer}


def test_the_kit_finds_a_secret_among_the_public_facts():
    report = check(Leaky, only=("plays", "private_information"), actors=2, judgements=2, level=6)
    assert [c.name for c in report.failed] == ["private_information"] and "facts" in report.failed[0].reason
