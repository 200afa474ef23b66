"""One round of two sides: who sees what, what counts, hostile replies, both denominators, the kit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dream_envs.core import Action, DreamEnvsError, Episode, Request, Task, decode_episode, encode
from dream_envs.envs.skill_evolution import SkillEvolution, question_key
from dream_envs.envs.skill_prompts import QUESTION, Posed, read_tasks, write_tasks
from dream_envs.play import Runner, Table, assign_agents, play, text_of
from dream_envs.tasks.skills import Edit, SkillSet, say_edit
from dream_envs.testing import check
from dream_envs.testing.cores import HOSTILE

GAME = SkillEvolution("bundled:ferry,gauges", tasks=2)
FERRY = GAME.contexts[0]
EXAMS = FERRY.practice()


def posing(*exams: Any, notation: str = "english") -> str:
    return write_tasks([(e.question, [r.text for r in e.rubrics]) for e in exams], notation)


def answering(passes: Mapping[int, Any], exams: Any = EXAMS) -> Callable[[Any], Action]:
    """A reasoner that passes these rubrics of each exam (None: all), or replies with what is given."""

    class Reasoner:
        def act(self, requests: list[Request]) -> list[Action]:
            found = []
            for r in requests:
                i = int(r.agent.rpartition("_")[2])
                how = passes[i]
                found.append(how if isinstance(how, Action) else Action(exams[i].answer(how)))
            return found

    return Reasoner()  # type: ignore[return-value]


def played(seats: Mapping[str, Any] | None = None, game: SkillEvolution = GAME, **begin: Any) -> Episode:
    """A round on ferry fares whose challenger asks two of its own tasks; everybody else is the oracle."""
    every = {role.name: "oracle" for role in game.roles} | {"challenger": lambda text: posing(*EXAMS[:2])}
    return play(game, {**every, **(seats or {})}, task=game.begin("ferry", **begin), reward="skill_evolution")


def value(episode: Episode, agent: str) -> tuple[float, str]:
    return episode.scores[agent].value, episode.scores[agent].status


def test_a_round_by_hand() -> None:
    """Task 0 is solved, task 1 fails two rubrics; each side learns from its own half; y is the product of verdicts."""
    episode = played({"reasoner": answering({0: None, 1: [0, 1, 2]})})
    facts = episode.outcome.facts
    assert [row["verdicts"] for row in facts["tasks"]] == [[1] * 5, [1, 1, 1, 0, 0]]
    assert (facts["failed"], facts["passed"]) == ([1], [0])
    assert facts["rates"] == {"valid": 2, "unknown": 0, "dropped": 0.5, "counted": 0.5, "share": 0.8}
    assert [value(episode, f"reasoner_{i}") for i in (0, 1)] == [(1.0, "ok"), (0.0, "ok")]
    assert episode.scores["reasoner_1"].components == {"share": 0.6} and value(episode, "challenger_0") == (0.5, "ok")
    assert value(episode, "judge_0") == (1.0, "ok") and value(episode, "judge_5") == (0.0, "abstain"), "5 rubrics of 6"
    assert {episode.scores[a].status for a in ("reasoner_editor_0", "challenger_proposer_0")} == {"abstain"}
    lost = [r.text for r in EXAMS[1].rubrics[3:]]
    edit = facts["edits"]["reasoner"]
    assert (
        all(f"+- {text}" in edit["diff"] for text in lost) and edit["op"] == "add" and edit["before"] != edit["after"]
    )
    assert facts["texts"]["reasoner"]["after"] == {"round-0": "\n".join(f"- {t}" for t in lost)}
    assert facts["agreement"] == {"of": 10, "right": 10, "false_pass": 0, "false_fail": 0, "unread": 0}
    assert {k: v["calls"] for k, v in facts["costs"].items()} == {
        "challenger": 1, "reasoner": 2, "judge": 10, **dict.fromkeys(
            ("reasoner_proposer", "reasoner_editor", "challenger_proposer", "challenger_editor"), 1)
    }  # fmt: skip
    assert decode_episode(encode(episode)) == episode


@pytest.mark.parametrize("notation", ["english", "compact"])
def test_no_side_ever_sees_the_others_skills(notation: str) -> None:
    """Every view at every moment, every info and score, with skills that carry words found nowhere else."""
    game = SkillEvolution("bundled:ferry", tasks=2, notation=notation, retest=True)
    marks = {"reasoner": "QUOKKA", "challenger": "AXOLOTL"}
    edited = {side: f"new {word} skill" for side, word in marks.items()}
    seats: dict[str, Any] = {
        **{role.name: "oracle" for role in game.roles},
        "challenger": lambda text: posing(*EXAMS[:2], notation=notation),
        "reasoner": answering({0: None, 1: [0]}),
        **{f"{s}_proposer": (lambda text, s=s: f"say {marks[s]} more") for s in marks},
        **{f"{s}_editor": (lambda text, s=s: say_edit(Edit("add", "b", edited[s]), notation)) for s in marks},
    }
    sets = {side: SkillSet.of({"a": f"an old {word} skill"}) for side, word in marks.items()}
    table = Table(game, "views", game.begin("ferry", **sets))
    runner, saw = Runner(game, assign_agents(game, seats)), dict.fromkeys(game.agents, "")
    infos = ""
    while game.outcome(table.state) is None:
        for agent in game.agents:
            saw[agent] += text_of(game.view(table.state, agent)) if game.view(table.state, agent) else ""
        infos += str(game.public_info(table.state))
        runner.step([table])
    infos += str(game.public_facts(table.state))
    for agent, text in saw.items():
        own = agent.partition("_")[0]
        for side, word in marks.items():
            assert (word in text) == (side == own and (agent[-1] == "0" or own == "reasoner")), (agent, word)
    assert not any(word in infos for word in marks.values())
    asked = EXAMS[1].question
    assert (
        "reasoner_1" in saw and asked in saw["judge_6"].replace("\\n", "\n") and asked not in saw["challenger_editor_0"]
    )
    assert "new QUOKKA" in saw["reasoner_0"] and FERRY.text.split("\n")[0] not in saw["judge_0"]
    facts = game.outcome(table.state).facts  # type: ignore[union-attr]
    assert facts["texts"]["challenger"]["after"]["b"] == edited["challenger"]
    assert play(game, seats, task=game.begin("ferry", **sets)).tasks[0].meta["reasoner"] == sets["reasoner"].as_dict()


def test_both_denominators_and_who_is_to_blame() -> None:
    """A failed call and an unreadable verdict are unknown, a single failed rubric is known whatever else is missing."""
    down = Action("", status="timeout")
    episode = played({"reasoner": answering({0: None, 1: down})})
    rates = episode.outcome.facts["rates"]
    assert (rates["dropped"], rates["counted"], rates["unknown"]) == (1.0, 0.5, 1)
    assert value(episode, "reasoner_1") == (0.0, "timeout") and value(episode, "challenger_0") == (0.0, "ok")
    assert episode.outcome.facts["costs"]["reasoner"]["failed"] == 1

    def judge(text: str) -> str:
        return "no idea" if EXAMS[0].question in text else "Verdict: 0" if "line 'Bags" in text else "hm"

    episode = played({"judge": judge, "reasoner": answering({0: None, 1: None})})
    facts = episode.outcome.facts
    assert [row["solved"] for row in facts["tasks"]] == [None, 0] and facts["agreement"]["unread"] == 9
    assert value(episode, "reasoner_0")[1] == "abstain" and value(episode, "reasoner_1") == (0.0, "ok")
    assert value(episode, "judge_0") == (0.0, "ok"), "an unreadable verdict is not right"
    assert sum(e.kind == "unreadable" for e in episode.events) == 9
    silent = played({"reasoner": answering({0: Action("<think>still"), 1: Action("")})})
    assert value(silent, "reasoner_0") == (0.0, "ok") and "judge" not in silent.outcome.facts["costs"]


def test_judges_who_always_agree_or_never_do_are_found_out() -> None:
    for verdict, solved, right in (("high", [1, 1], 2), ("low", [0, 0], 8)):
        seats = {"judge": f"constant_judge(verdict={verdict})", "reasoner": answering({0: [0], 1: [1]})}
        facts = played(seats).outcome.facts
        assert [row["solved"] for row in facts["tasks"]] == solved
        assert facts["agreement"]["right"] == right and facts["agreement"]["of"] == 10
    noisy = [played({"judge": "noisy(tpr=0.5,fpr=0.5)"}).outcome.facts["agreement"] for _ in range(1)]
    assert 0 < noisy[0]["right"] < 10


@pytest.mark.parametrize(("reply", "codes"), [
    ("", []), ("nothing to ask", []), ("<think>Task: a\nRubric: b", []), ("Task: a", ["grammar"]),
    ("Task:\nRubric: x", ["empty"]), (f"Task: {'x' * (QUESTION + 1)}\nRubric: x", ["too_long"]),
    ("Task: a\n" + "Rubric: x\n" * 9, [""]), ("Task: a\n" + "\n".join(f"Rubric: {i}" for i in range(9)), ["limits"]),
    (posing(EXAMS[0], EXAMS[0]), ["", "duplicate"]), (posing(FERRY.tests(1)[0], EXAMS[0]), ["held_out", ""]),
    (posing(EXAMS[2]), ["duplicate"]),
    ("**Task 1:** How much?\nmore\n**Rubrics:**\n1. says so\n- ends\n### Task 2: b\nRubric 1: c", ["", ""]),
])  # fmt: skip
def test_why_tasks_are_turned_away(reply: str, codes: list[str]) -> None:
    episode = played({"challenger": lambda text: reply, "reasoner": "floor"}, asked=[question_key(EXAMS[2].question)])
    facts = episode.outcome.facts
    assert [row["reject"] for row in facts["tasks"]] == codes
    assert value(episode, "challenger_0")[0] == sum(not code for code in codes) / 2, "unsolved and valid, of two"
    assert [e.data["code"] for e in episode.events if e.kind == "rejected"] == [code for code in codes if code]


def test_how_tasks_are_written_and_read() -> None:
    told = [("a | b\\\nsecond line", ["r1", "r|2"]), ("c", ["d"])]
    for notation in ("english", "compact"):
        assert [(p.question, list(p.rubrics)) for p in read_tasks(write_tasks(told, notation), notation, 6)] == told
        assert all(isinstance(p, Posed) for text in HOSTILE.values() for p in read_tasks(text, notation, 6))
    chat = read_tasks("Sure.\n**Task 1:** How much?\nmore\n**Rubrics:**\n1. says so\n- ends", "english", 6)
    assert chat == [Posed("How much?\nmore", ("says so", "ends"))]


def test_more_tasks_than_asked_for_are_left_and_told() -> None:
    episode = played({"challenger": lambda text: posing(*EXAMS[:4])})
    assert len(episode.outcome.facts["tasks"]) == 2 and episode.outcome.facts["surplus"] == 2
    assert [e.data for e in episode.events if e.kind == "surplus"] == [{"tasks": 2}]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("role", ["challenger", "reasoner_proposer", "reasoner_editor", "challenger_editor"])
def test_a_bad_reply_is_an_event_and_changes_nothing(role: str, name: str) -> None:
    before = SkillSet.of({"a": "x"})
    seats = {"reasoner": answering({0: None, 1: []}), role: lambda text: HOSTILE[name]}
    facts = played(seats, reasoner=before, challenger=before).outcome.facts
    side = role.partition("_")[0]
    if role.endswith("editor"):
        assert facts["texts"][side]["after"] == before.as_dict() and facts["edits"][side]["diff"] == ""
        assert facts["edits"][side]["reject"] in ("empty", "grammar")


def test_what_an_edit_brought_is_measured_where_it_is_tried_again() -> None:
    """Skills that make the reasoner right pay proposer and editor; those that make it wrong cost them."""
    game = SkillEvolution("bundled:ferry", tasks=2, retest=True)

    class Reader:
        def act(self, requests: list[Request]) -> list[Action]:
            found = []
            for r in requests:
                passes = None if "LIGHT" in text_of(r.messages) else [] if "DARK" in text_of(r.messages) else [0, 1]
                found.append(Action(EXAMS[int(r.agent[-1])].answer(passes)))
            return found

    for word, gain in (("LIGHT", 0.6), ("DARK", -0.4)):
        editor = lambda text, word=word: say_edit(Edit("add", "a", word))  # noqa: E731
        episode = played({"reasoner": Reader(), "reasoner_editor": editor}, game)
        assert episode.outcome.facts["change"] == pytest.approx(gain)
        for agent in ("reasoner_proposer_0", "reasoner_editor_0"):
            assert value(episode, agent) == (pytest.approx(gain), "ok")
    unchanged = played({"reasoner": Reader(), "reasoner_editor": lambda text: "Edit: none"}, game)
    assert value(unchanged, "reasoner_editor_0") == (0.0, "ok") and unchanged.outcome.facts["again"] is None


def test_modes_and_sides() -> None:
    exam = GAME.variant(mode="exam", evolve=())
    tests = FERRY.tests(2)
    key = GAME.variant(mode="key")
    for game, judged in ((exam, True), (key, False)):
        seats = {"challenger": lambda text: posing(*tests), "reasoner": answering({0: None, 1: [0]}, tests)}
        facts = played(seats, game).outcome.facts
        assert [row["solved"] for row in facts["tasks"]] == [1, 0] and facts["edits"] == {}
        assert ("judge" in facts["costs"]) == judged and "reasoner_editor" not in facts["costs"]
    one_shot = played(game=GAME.variant(mode="one_shot")).outcome.facts
    assert set(one_shot["costs"]) == {"reasoner_editor"} and one_shot["tasks"] == []
    alone = played({"reasoner": answering({0: None, 1: []})}, GAME.variant(evolve=["reasoner"])).outcome.facts
    assert set(alone["edits"]) == {"reasoner"} and alone["texts"]["challenger"]["after"] == {}


def test_probes_and_tests_are_never_cut_by_a_challengers_budget() -> None:
    """A tiny budget cuts what a challenger writes in a round, and nothing that it is given to pose."""
    exams = FERRY.tests(12)
    for mode, posed in (("round", 0), ("exam", 12), ("key", 12)):
        game = GAME.variant(mode=mode, tasks=12, reply_tokens=4)
        facts = played({"challenger": lambda text: posing(*exams), "reasoner": "floor"}, game).outcome.facts
        assert sum(row["valid"] for row in facts["tasks"]) == posed, mode


def test_a_context_without_programs_is_judged_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("Tuesdays are free.\nMondays are not.", "utf-8")
    game = SkillEvolution(str(tmp_path), tasks=2)
    episode = play(game, {role.name: "oracle" for role in game.roles}, reward="skill_evolution")
    facts = episode.outcome.facts
    assert facts["rates"]["counted"] == 1.0 and facts["agreement"]["of"] == 0
    assert value(episode, "judge_0")[1] == "abstain" and value(episode, "reasoner_0") == (1.0, "ok")


@pytest.mark.parametrize(("arguments", "says"), [
    ({"tasks": 0}, "tasks"), ({"rubrics": 17}, "rubrics"), ({"evolve": ["judge"]}, "evolve"),
    ({"evolve": "both"}, "evolve"),
    ({"mode": "exams"}, "mode"), ({"notation": "latin"}, "notation"), ({"reply_tokens": 0}, "reply_tokens"),
    ({"contexts": "bundled:feryr"}, "ferry"),
])  # fmt: skip
def test_mistakes_are_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DreamEnvsError, match=says) as caught:
        SkillEvolution(**arguments)
    assert "\n" not in str(caught.value)


def test_only_its_own_tasks_start_it() -> None:
    for task in (Task(family="x", level=1, prompt="ferry"), Task(family="skill_evolution", level=1, prompt="nowhere")):
        with pytest.raises(DreamEnvsError, match="begin"):
            play(GAME, {role.name: "oracle" for role in GAME.roles}, task=task)


def test_turns_are_grouped_by_what_was_asked() -> None:
    one, two, other = (
        played({"reasoner": "guesser"}, reasoner=s) for s in (SkillSet(), SkillSet(), SkillSet.of({"a": "b"}))
    )
    groups = [[GAME.group(e, t) for t in e.turns if t.role == "reasoner"] for e in (one, two, other)]
    assert groups[0] == groups[1] and len(set(groups[0])) == 2 and not set(groups[0]) & set(groups[2])


@pytest.mark.parametrize(
    "arguments", [{"notation": "compact"}, {"retest": True}, {"mode": "key"}, {"mode": "one_shot"}]
)
def test_other_arrangements_pass_the_kit(arguments: dict[str, Any]) -> None:
    only = ("plays", "seed_determinism", "fresh_returns", "pickling", "hostile_replies", "reward_range", "rescoring")
    only += ("adapters_agree", *(() if arguments.get("retest") else ("oracle_top", "floor_bottom")))
    report = check("SkillEvolution-v0", only=only, contexts="bundled:ferry,gauges", tasks=2, **arguments)
    assert report.ok, str(report)


def test_the_manual_pages_example_earns_a_reward() -> None:
    page = (SkillEvolution.__module__, __import__(SkillEvolution.__module__, fromlist=["x"]).__doc__ or "")[1]
    lines = itertools.takewhile(
        lambda line: line.startswith("        ") or not line, page.split("earns 1::\n\n")[1].split("\n")
    )
    names: dict[str, Any] = {}
    exec("\n".join(line.strip() for line in lines), names)
    assert names["episode"].scores["judge_0"].value == 1.0 == names["episode"].scores["judge_1"].value
