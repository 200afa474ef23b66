"""SleepCycle: phases, what is in view and what is gone, the matrix and what is made of it, budget, adapters, pages."""

from __future__ import annotations

import itertools
import json
import math
import re

import gymnasium
import numpy as np
import pettingzoo
import pytest
from _notebook import Notebook
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import Action, Challenge, DreamEnvsError, Task, Usage, content_hash, decode_episode, encode
from dream_envs.envs import sleep_cycle
from dream_envs.envs.sleep_cycle import SleepCycle
from dream_envs.play import Runner, Table, assign_agents, episode_from, play
from dream_envs.rewards.sleep import closed_book
from dream_envs.seeds import stream
from dream_envs.tasks.lessons import OperationLessons
from dream_envs.testing import check

GAME = "dream_envs/SleepCycle-v0"
KINDS = [{}, {"notation": "english"}, {"lessons": "documents"}]


def states(game, seed="0", agents=None):
    """Every state of an episode, the first and the last included."""
    runner = Runner(game, assign_agents(game, agents or {"learner": "guesser", "dreamer": "guesser"}))
    table = Table(game, seed)
    yield table.state
    while game.outcome(table.state) is None:
        runner.step([table])
        yield table.state


def place(game, state):
    info = game.public_info(state)
    return info["phase"], info["night"], info["lesson"]


def test_the_order_of_phases():
    game = SleepCycle(nights=2, wakes=2, probes=1, dreams=1)
    assert [place(game, state) for state in states(game)] == [
        ("before", -1, 0), ("before", -1, 1),
        ("wake", 0, 0), ("wake", 0, 0), ("sleep", 0, 0), ("recall", 0, 0), ("ahead", 0, 1),
        ("wake", 1, 1), ("wake", 1, 1), ("sleep", 1, 1), ("recall", 1, 0), ("recall", 1, 1), ("end", 1, -1),
    ]  # fmt: skip
    plain = SleepCycle(nights=2, wakes=1, probes=1, dreams=0, pretest=False)
    assert [place(plain, state) for state in states(plain, agents={"learner": "guesser"})] == [
        ("wake", 0, 0), ("recall", 0, 0), ("wake", 1, 1), ("recall", 1, 0), ("recall", 1, 1), ("end", 1, -1),
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", KINDS, ids=str)
@given(seed=st.integers(0, 10**6), nights=st.integers(1, 4), pretest=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_context_is_gone_after_the_night(arguments, seed, nights, pretest):
    game = SleepCycle(nights=nights, wakes=1, probes=2, dreams=2, pretest=pretest, **arguments)
    for state in states(game, str(seed)):
        phase, _, current = place(game, state)
        views = {agent: game.view(state, agent) for agent in game.agents}
        asked = {seat.agent for seat in game.turns(state)}
        assert {agent for agent, view in views.items() if view} == asked
        for agent in asked:
            system = [m["content"] for m in views[agent] if m["role"] == "system"]
            user = [m["content"] for m in views[agent] if m["role"] == "user"]
            assert len(user) == 1 and user[0] == views[agent][-1]["content"]
            # with the context: this lesson's and no other's; without: not a piece of any
            assert system == ([state.lessons[current].context] if phase in ("wake", "sleep") else [])
            for lesson in state.lessons:
                assert not any(stated(lesson, text) for text in user), (phase, user)


def stated(lesson, text):
    """Whether a text states a fact of a lesson: a value of a document, an entry of a table as its context writes it."""
    if "values" in lesson.facts:
        return any(re.search(rf"\b{value}\b", text) for value in lesson.facts["values"].values())
    entry = "{}>{}" if "=" in lesson.context else "{} to {}"
    return any(entry.format(*pair) in text for pair in lesson.facts["table"].items()) or f"\n{lesson.name}: " in text


@pytest.mark.parametrize("arguments", KINDS, ids=str)
def test_the_property_above_would_see_a_leak(arguments):
    lesson = next(states(SleepCycle(**arguments))).lessons[0]
    piece = re.findall(r".>.|\b. to .\b" if "values" not in lesson.facts else r"[^.]*\.", lesson.context)[-2]
    assert stated(lesson, lesson.context) and stated(lesson, f"c:I {piece}") and not stated(lesson, "c:I")


def test_probes_were_never_asked_awake():
    game = SleepCycle(nights=4, probes=16, wakes=4, lesson_args={"levels": (2, 3)})
    plan = game.start(None, stream("plan")).plan
    awake = {task.prompt for step in plan if step.phase == "wake" for task in step.tasks}
    probed = {task.prompt for step in plan if step.phase in ("before", "recall", "ahead") for task in step.tasks}
    assert len(awake) > 100 and len(probed) > 100 and not awake & probed


def played(game, right, seed="0", **others):
    """An episode in which ``right(agent, phase, night, lesson)`` says who is right; it may also be an Action."""
    table = Table(game, seed)
    runner = Runner(game, {})
    while seats := game.turns(table.state):
        phase, night, lesson = place(game, table.state)
        moves = {}
        for seat in seats:
            if seat.role == "dreamer":
                moves[seat.agent] = others.get("dream", lambda *_: Action(""))(seat.agent, night)
                continue
            said = right(seat.agent, phase, night, lesson)
            step = table.state.plan[len(table.state.results)]
            gold = game.lessons.gold(step.tasks[game.learners.index(seat.agent)])
            moves[seat.agent] = said if isinstance(said, Action) else Action(gold if said else "no")
        runner.step([table], [moves])
    return episode_from(game, table.state, table.turns, seed=seed, reward=others.get("reward"))


def test_the_matrix_and_its_measures_by_hand():
    # Two seats; who is right, as share of the two: in recall rows are nights, columns lessons.
    before, wake, ahead = [0, 0.5, 0], [1, 1, 0.5], [0.5, 0.5]  # ahead: after night 0 on lesson 1, after 1 on lesson 2
    recall = [[1, None, None], [0.5, 1, None], [0, 1, 0.5]]

    def right(agent, phase, night, lesson):
        rows = {"before": before, "wake": wake, "recall": recall[night]}
        share = ahead[night] if phase == "ahead" else rows[phase][lesson]
        return share > (0.25 if agent == "learner_0" else 0.75)

    facts = played(SleepCycle(probes=2), right).outcome.facts
    assert facts["open"] == [1.0, 1.0, 0.5] and facts["before"] == [0.0, 0.5, 0.0]
    assert facts["closed"] == [[1.0, 0.5, None], [0.5, 1.0, 0.5], [0.0, 1.0, 0.5]]
    assert facts["average_accuracy"] == pytest.approx(1.5 / 3)
    assert facts["backward_transfer"] == pytest.approx((-1.0 + 0.0) / 2) == -facts["forgetting"]
    assert facts["since_learnt"] == pytest.approx((-1.0 + 0.0) / 2)
    assert facts["forward_transfer"] == pytest.approx(((0.5 - 0.5) + (0.5 - 0.0)) / 2)
    assert facts["gap"] == pytest.approx((0.0 + 0.0 + 0.0) / 3)
    assert facts["failed"] == {} and facts["lessons"] == ["I", "J", "K"]


@pytest.mark.parametrize("status", ["timeout", "error", "invalid", "abstain"])
def test_a_failed_call_is_no_wrong_answer(status):
    lost = Action("", status=status)

    def right(agent, phase, night, lesson):
        return lost if phase == "recall" and (agent == "learner_0" or lesson == 1) else True

    episode = played(SleepCycle(nights=2, probes=2), right, reward=closed_book())
    facts = episode.outcome.facts
    assert facts["closed"][1] == [1.0, None] and facts["average_accuracy"] == 1.0
    assert facts["failed"] == {status: 4}
    assert episode.scores["learner_0"].status == status  # none of its questions was answered
    assert episode.scores["learner_1"].value == 1.0 and episode.scores["learner_1"].components["answered"] == 2.0


def test_tokens_are_counted_by_the_part_of_the_day():
    def right(agent, phase, night, lesson):
        if phase == "wake":
            return Action("no", usage=Usage(50, 4))
        return Action("no", token_ids=[1, 2, 3]) if phase == "recall" else False

    def dream(agent, night):
        return Action("a:I", usage=Usage(60, 5))

    facts = played(SleepCycle(nights=2, probes=2, wakes=3, dreams=2), right, dream=dream).outcome.facts
    assert facts["tokens"] == {
        "awake": {"read": 600, "written": 48, "uncounted": 0},
        "asleep": {"read": 240, "written": 20, "uncounted": 0},
        "probing": {"read": 0, "written": 18, "uncounted": 6},  # 6 recalls; 4 before and 2 ahead without counts
    }
    assert facts["budget"] == 65_536


def test_the_budget_holds_the_dreamers_and_is_told():
    for budget, tokens in ((10, 2), (65_536, SleepCycle().lessons.max_proposal_tokens)):
        game = SleepCycle(dreams=4, budget=budget)
        dreaming = next(state for state in states(game) if place(game, state)[0] == "sleep")
        assert [seat.limits.max_tokens for seat in game.turns(dreaming)] == [tokens] * 4
        assert game.public_info(dreaming) == {"phase": "sleep", "night": 0, "lesson": 0, "budget": budget}


def test_dreams_are_recorded_with_author_answer_and_fate():
    told = {"dreamer_0": "a:I", "dreamer_1": "a:I", "dreamer_2": "b:A", "dreamer_3": ""}
    said = {0: told, 1: {**told, "dreamer_0": "a:J", "dreamer_1": "b:J", "dreamer_2": "b:JA"}}
    episode = played(SleepCycle(nights=2, probes=1), lambda *_: True, dream=lambda who, night: Action(said[night][who]))
    facts = episode.outcome.facts
    assert facts["dreaming"] == {
        "asked": 8, "valid": 5, "distinct": 4, "failed": 0, "rejects": {"empty": 2, "grammar": 1},
    }  # fmt: skip
    assert [(r["valid"], r["same"]) for r in facts["dreams"][:4]] == [(True, 1), (True, 1), (False, 0), (False, 0)]
    dreams = [task for task in episode.tasks if isinstance(task, Challenge)]
    assert [(d.author, d.prompt) for d in dreams[:2]] == [("dreamer_0", "a:I"), ("dreamer_1", "a:I")]
    table = dict(re.findall("(.)>(.)", episode.tasks[0].prompt.partition("=")[2]))
    assert dreams[0].answer == f"I{table['a']}" and dreams[0].truth == "executed"
    kinds = [(e.kind, e.agent) for e in episode.events]
    assert kinds[:4] == [(k, f"dreamer_{i}") for i, k in enumerate(["accepted"] * 2 + ["rejected"] * 2)]
    assert decode_episode(encode(episode)) == episode


def test_groups_are_the_answers_to_one_question_and_all_dreams():
    game = SleepCycle(nights=2, probes=16, lesson_args={"levels": 1})
    one, other = (play(game, {"learner": "guesser", "dreamer": "oracle"}, index=i) for i in (0, 1))
    by_question = {}
    for turn in one.turns:
        by_question.setdefault((turn.role, turn.messages[-1]["content"]), set()).add(game.group(one, turn))
    assert all(len(groups) == 1 for groups in by_question.values())
    learners = {game.group(e, t) for e in (one, other) for t in e.turns if t.role == "learner"}
    assert len(learners) == 2 * sum(role == "learner" for role, _ in by_question)  # an episode's lessons are its own
    assert {game.group(e, t) for e in (one, other) for t in e.turns if t.role == "dreamer"} == {"dreams"}


@pytest.mark.parametrize("arguments", KINDS, ids=str)
def test_oracle_amnesiac_and_floor(arguments):
    game = SleepCycle(probes=16, nights=3, **arguments)
    kinds = ("oracle", "amnesiac", "floor")
    facts = {kind: play(game, {"learner": kind, "dreamer": kind}, seed="1").outcome.facts for kind in kinds}
    assert facts["oracle"]["average_accuracy"] == 1.0 and facts["oracle"]["gap"] == 0.0
    assert facts["floor"]["open"] == [0.0] * 3 and facts["floor"]["dreaming"]["valid"] == 0
    assert facts["amnesiac"]["open"] == [1.0] * 3 and facts["amnesiac"]["gap"] < -0.7
    assert facts["amnesiac"]["dreaming"]["valid"] == 12
    rows = [r for r in facts["amnesiac"]["questions"] if r["phase"] != "wake"]
    assert len(rows) == 16 * 11 and sum(r["value"] for r in rows) < 16 * 11 * 0.0625 + 5 * math.sqrt(176 * 0.0586)


def test_chance_is_what_a_guesser_gets():
    game = SleepCycle(probes=64, nights=2, lesson_args={"levels": 1})
    seats = {"learner": "guesser", "dreamer": "floor"}
    rows = [r for i in range(20) for r in play(game, seats, seed=str(i)).outcome.facts["questions"]]
    hits = [r["value"] for r in rows]
    assert abs(np.mean(hits) - 1 / 16) < 5 * math.sqrt(1 / 16 / len(hits)) and len(hits) > 10_000


def lived(learner, **arguments):
    """A life of a notebook through the Gymnasium view: it sleeps where waking ends."""
    env = gymnasium.make("dream_envs/SleepCycle-Learner-v0", probes=1, dreams=0, **arguments)
    _, info = env.reset(seed=4)
    over, phase, phases = False, info["phase"], [info["phase"]]
    while not over:
        if phase == "wake" and info["phase"] != "wake":
            learner.sleep()
        phase = info["phase"]
        _, reward, over, truncated, info = env.step(learner(info["messages"]))
        assert not truncated and info["budget"] == 65_536
        phases.append(info["phase"])
    return reward, info, phases


def test_a_learner_that_sleeps_and_one_that_does_not():
    reward, info, phases = lived(Notebook(holds=3))
    assert info["facts"]["closed"][-1] == [1.0, 1.0, 1.0] and info["facts"]["forgetting"] == 0.0 and reward == 1.0
    assert phases[:4] == ["before"] * 3 + ["wake"] and phases[-1] == "end"
    # The third lesson pushes the first out: R = [[1], [1, 1], [0, 1, 1]], five of six questions right.
    reward, info, _ = lived(Notebook(holds=2))
    assert [info["facts"]["closed"][i][: i + 1] for i in range(3)] == [[1.0], [1.0, 1.0], [0.0, 1.0, 1.0]]
    assert info["facts"]["forgetting"] == 0.5 and reward == pytest.approx(5 / 6) and info["facts"]["gap"] == 0.0
    awake = Notebook()
    awake.sleep = lambda: None
    reward, info, _ = lived(awake)
    assert info["facts"]["open"] == [1.0] * 3 and reward == 0.0 and info["facts"]["gap"] == -1.0


def test_pettingzoo_tells_the_night_to_everybody():
    learner, seen = Notebook(holds=2), []
    env = pettingzoo.make("parallel", GAME, nights=2, probes=2, dreams=2, wakes=1)
    _, infos = env.reset(seed=0)
    while env.agents:
        phases = {(infos[a]["phase"], infos[a]["night"]) for a in env.agents}
        assert len(phases) == 1
        seen += phases
        active = [a for a in env.agents if infos[a]["active"]]
        assert all(a.startswith("dreamer") == (seen[-1][0] == "sleep") for a in active)
        assert all(infos[a]["messages"] == [] for a in env.agents if a not in active)
        if seen[-1][0] == "sleep":
            learner.sleep()
            _, rewards, _, _, infos = env.step({"dreamer_0": "a:" + "IJ"[seen[-1][1]], "dreamer_1": "b:I"})
        else:
            _, rewards, _, _, infos = env.step({a: learner(infos[a]["messages"]) for a in active})
    assert seen.count(("sleep", 0)) == seen.count(("sleep", 1)) == 1
    # dreamer_1 asks about the first lesson in both nights: right once.
    assert rewards == {"learner_0": 1.0, "learner_1": 1.0, "dreamer_0": 1.0, "dreamer_1": 0.5}
    aec = pettingzoo.make("aec", GAME, nights=2)
    aec.reset(seed=0)
    assert aec.last()[4]["phase"] == "before" and aec.infos["dreamer_3"]["budget"] == 65_536


def test_the_vector_tells_phase_and_night_as_arrays_and_an_observation_shows_context_and_question():
    vec = gymnasium.make_vec("dream_envs/SleepCycle-Learner-v0", 3, nights=2, probes=1)
    _, infos = vec.reset(seed=0)
    assert infos["phase"].tolist() == ["before"] * 3 and infos["night"].tolist() == [-1] * 3
    for _ in range(3):
        observations, _, over, _, infos = vec.step(["x"] * 3)
    assert infos["phase"].tolist() == ["wake"] * 3 and not over.any() and infos["night"].tolist() == [0] * 3
    assert len(set(observations)) == 3
    assert all(re.fullmatch(r"system: I=([a-p]>[a-p]){16}\n\nuser: [a-p]:[A-I]+", text) for text in observations)
    assert [m["role"] for m in infos["messages"][0]] == ["system", "user"]


class Leaky(SleepCycle):
    """Tells an answer in the infos of everybody."""

    def public_info(self, state):
        tasks = self._now(state).tasks
        return {**super().public_info(state), "hint": tasks[-1].answer if tasks else ""}


def test_the_kit_finds_a_secret_among_the_running_infos():
    report = check(Leaky, only=("plays", "private_information"), nights=1, lesson_args={"levels": 3})
    assert [c.name for c in report.failed] == ["private_information"] and "infos" in report.failed[0].reason


@pytest.mark.parametrize("arguments", [
    {"lessons": "documents", "nights": 2}, {"notation": "english", "nights": 2},
    {"dreams": 0, "pretest": False, "nights": 1, "probes": 1, "wakes": 1},
], ids=str)  # fmt: skip
def test_other_arrangements_pass_the_kit(arguments):
    skip = ["process_determinism", "vector_text", "random_episodes"]
    report = check(GAME, skip=skip, **arguments)
    assert {c.status for c in report.checks} == {"passed"}, str(report)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"nights": 9}, "1 to 8 .operations has so many lessons"), ({"lessons": "documents", "nights": 25}, "1 to 24"),
    ({"probes": True}, "1 to 1024"), ({"dreams": -1}, "0 to 1024"), ({"budget": 3}, "4 dreamers"),
    ({"budget": 1.5}, "a whole number"), ({"pretest": 1}, "True or False"),
    ({"lessons": "operation"}, "did you mean 'operations'"), ({"lesson_args": {"level": 2}}, "'levels'"),
    ({"lessons": OperationLessons(), "lesson_args": {"levels": 2}}, "the family object itself"),
])  # fmt: skip
def test_a_wrong_argument_is_said_in_one_line(arguments, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        SleepCycle(**arguments)
    assert "\n" not in str(caught.value)


def test_it_begins_from_no_task():
    with pytest.raises(DreamEnvsError, match="from no task"):
        SleepCycle().start(Task(family="operations", level=1, prompt="a:I"), None)


@pytest.mark.parametrize(("arguments", "expected"), [
    ({}, "0524a3e1bb98054f"), ({"notation": "english"}, "1845a35392aac931"),
    ({"lessons": "documents"}, "9b80c5232fde6475"),
], ids=str)  # fmt: skip
def test_golden_episode(arguments, expected):
    # The same seed and replies must give the same prompts, facts and ending: else the version goes up.
    episode = play(SleepCycle(**arguments), {"learner": "guesser", "dreamer": "oracle"}, seed="golden")
    turns = [(t.agent, t.messages, t.text) for t in episode.turns]
    text = json.dumps([turns, json.loads(encode(episode.outcome))], sort_keys=True)
    assert (episode.version, content_hash(text)) == (1, expected)


# ---- what is made of its rows: against the formulas on the whole matrix, and with holes in it ----


def row(phase, night, lesson, value, status="ok"):
    return {"phase": phase, "night": night, "lesson": lesson, "value": value, "status": status}


@given(st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_transfer_is_that_of_the_whole_matrix_of_scores(nights, seed):
    """From the filled matrix ``R[night, lesson]`` in numpy, as Lopez-Paz & Ranzato (arXiv 1706.08840) write it."""
    full = stream("measures", seed).integers(2, size=(nights + 1, nights, 4)).astype(float)
    rows = [row("wake", j, j, value) for j in range(nights) for value in full[0, j]]
    for night, lesson in itertools.product(range(-1, nights), range(nights)):
        phase = "before" if night < 0 else "recall" if lesson <= night else "ahead"
        if lesson <= night + 1 or night < 0:
            rows += [row(phase, night, lesson, value) for value in full[night + 1, lesson]]
    r = full.mean(2)  # row 0 is the base, row i + 1 the model after night i
    asked = np.tri(nights + 1, nights, 0, bool)
    asked[0] = True  # of what is not asked, nothing may enter
    found, old = sleep_cycle.measures(rows, nights, True), np.arange(nights - 1)
    best = np.where(asked, r, -1.0)[:-1].max(0)
    assert found["backward_transfer"] == pytest.approx((r[-1] - best)[:-1].mean(), abs=1e-5)
    assert found["since_learnt"] == pytest.approx((r[-1, old] - r[old + 1, old]).mean(), abs=1e-5)
    assert found["forward_transfer"] == pytest.approx((r[old + 1, old + 1] - r[0, old + 1]).mean(), abs=1e-5)
    assert found["average_accuracy"] == pytest.approx(r[-1].mean(), abs=1e-5)


def test_what_was_not_measured_is_none_and_leaves_the_rest_alone():
    rows = [
        row("wake", 0, 0, None, "timeout"), row("wake", 1, 1, 1.0), row("recall", 0, 0, 1.0),
        row("recall", 1, 0, 0.0), row("recall", 1, 0, None, "error"), row("recall", 1, 1, None, "error"),
    ]  # fmt: skip
    found = sleep_cycle.measures(rows, 2, False)
    assert found["open"] == [None, 1.0] and found["before"] is None
    assert found["closed"] == [[1.0, None], [0.0, None]]
    assert (found["average_accuracy"], found["backward_transfer"], found["forgetting"]) == (0.0, -1.0, 1.0)
    assert found["forward_transfer"] is None and found["gap"] is None
    assert found["failed"] == {"error": 2, "timeout": 1}


def test_one_night_has_nothing_to_forget():
    found = sleep_cycle.measures([row("wake", 0, 0, 1.0), row("recall", 0, 0, 0.5)], 1, True)
    assert found["gap"] == -0.5 and found["average_accuracy"] == 0.5 and found["before"] == [None]
    assert {found[f"{name}_transfer"] for name in ("backward", "forward")} == {None}
    assert found["forgetting"] is found["since_learnt"] is None


def test_the_same_dream_in_another_night_is_another_dream():
    rows = [
        {"night": night, "question": q, "valid": bool(q), "status": "ok", "reject": "" if q else "empty"}
        for night, q in ((0, "x"), (0, "x"), (0, "y"), (0, ""), (0, ""), (1, "x"))
    ]
    assert [r["same"] for r in sleep_cycle.with_sames(rows)] == [1, 1, 0, 0, 0, 0]
    assert sleep_cycle.dreaming(rows) == {
        "asked": 6, "valid": 4, "distinct": 3, "failed": 0, "rejects": {"empty": 2},
    }  # fmt: skip
