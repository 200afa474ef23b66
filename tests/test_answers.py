"""How replies are read: every family, lesson and judge against chat models' usual forms, and against listers."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dream_envs.core import Action, Reject, Task
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.judging import RATINGS, rating_of, say
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.envs.sleep_cycle import SleepCycle
from dream_envs.play import play
from dream_envs.seeds import stream
from dream_envs.tasks import answers
from dream_envs.tasks.arithmetic import Arithmetic
from dream_envs.tasks.composition import Composition
from dream_envs.tasks.countdown import Countdown
from dream_envs.tasks.documents import DocumentLessons
from dream_envs.tasks.lessons import OperationLessons
from dream_envs.tasks.reverse_addition import ReverseAddition

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "answers.json").read_text())
VERDICTS = json.loads((GOLDEN / "judge_verdicts.json").read_text())["cases"]
FAMILIES: list[Any] = [Arithmetic("english"), Countdown("english"), Composition("english"), ReverseAddition("english")]
LESSONS: list[Any] = [OperationLessons("english"), DocumentLessons()]
EVERY = pytest.mark.parametrize("family", FAMILIES + LESSONS, ids=lambda f: f.name)

#: More usual forms of a right reply, and the ways in which several answers are put side by side.
MORE = [
    "{g}!", "Sure! The answer is **{g}**.", "The final answer is: $\\boxed{{g}}$", "I get {g}.", "So the result is {g}",
    "<answer>{g}</answer>", "**Final Answer**\n\n{g}", "**Final Answer:** $${g}$$", "Result: {g}",
    "My final answer: {g} (checked).", "1. First.\n2. Then.\n\nTherefore the answer is {g}.",
    "The value is **{g}**.", "<think>or is it\n{o}?</think>\nThe answer is {g}.", "Answer: {o}\nNo, wait.\nAnswer: {g}",
    "hm, {o}?</think>{g}", "◁think▷{o}◁/think▷{g}", "[THINK]{o}[/THINK]\n{g}",
]  # fmt: skip
JOINS = [", ", " ", "\n", " or ", " and ", "; ", "/", " | ", ". ", "\n\n", "\n- ", "\n* ", "\t", " = ", " vs. "]
OPENINGS = ["", "Answer: ", "The answer is ", "- ", "Possible values: ", "\\boxed{", "It is one of "]


def tasks(family: Any, count: int = 30) -> list[Task]:
    """Problems of the easier levels."""
    rng, found = stream("answers", family.name), []
    for i in range(count):
        if family in LESSONS:
            found.append(family.question(family.lesson(rng, i % family.capacity), rng))
        else:
            found.append(family.generate(rng, family.levels[i % 5]))
    return found


def others(family: Any, task: Task, count: int) -> list[str]:
    """Different wrong answers."""
    guesses = [family.guess(task, stream("other", task.id, i)) for i in range(60)]
    return [g for g in dict.fromkeys(guesses) if family.verify(task, g).value < 1][:count]


@EVERY
def test_usual_forms_are_read_and_no_others(family: Any) -> None:
    for task in tasks(family):
        gold, other = family.gold(task), others(family, task, 1)[0]
        for text, right in CASES["cases"]:
            assert family.verify(task, text.replace("{g}", gold)).value == right, (text, gold)
        for text in MORE:
            assert family.verify(task, text.replace("{g}", gold).replace("{o}", other)).value == 1, (text, gold)
        for text in ("The answer is not {g}.", "It isn't {g}", "<think>{g}", "Answer: {g}\n<think>is it?"):
            assert family.verify(task, text.replace("{g}", gold)).value == 0, (text, gold)


@EVERY
def test_several_answers_are_none(family: Any) -> None:
    for task in tasks(family, 8):
        wrong = others(family, task, 4)
        for place in range(len(wrong) + 1):
            several = [*wrong[:place], family.gold(task), *wrong[place:]]
            texts = [o + j.join(several) + ("}" if "{" in o else "") for o in OPENINGS for j in JOINS]
            texts.append("\n".join(f"{i}. {v}" for i, v in enumerate(several, 1)))
            texts.append(" ".join(f"\\boxed{{{v}}}" for v in several))
            for text in texts:
                assert family.verify(task, text).value == 0, text


@EVERY
def test_hostile_replies_are_wrong_and_read_in_time(family: Any) -> None:
    task = tasks(family, 3)[-1]
    unit = [
        "*",
        "(",
        "\\boxed{",
        "<think>",
        "</think>",
        "answer ",
        "1+",
        "1 ",
        "A -> ",
        "= ",
        "\n",
        ". ",
        "\u2212",
        "Answer:\n",
        "the answer is 1 ",
        "[",
        "9",
    ]
    began = time.process_time()
    for piece in unit:
        for text in (piece * 20_000, "Answer: " + piece * 20_000, "1" + piece * 20_000 + "1"):
            assert family.verify(task, text).value == 0
    assert time.process_time() - began < 20
    assert family.verify(task, task.prompt).value == 0


@pytest.mark.parametrize(("gold", "reply", "right"), CASES["documents"]["cases"])
def test_documents(gold: str, reply: str, right: bool) -> None:
    asked = "In what year did the first cart cross the Tessanard Bridge?"
    task = Task(
        family="documents", level=1, prompt=asked, answer=gold, meta={"of": "number" if gold.isdigit() else "name"}
    )
    assert DocumentLessons().verify(task, reply).value == right


def test_numbers_are_read_as_they_are_written() -> None:
    family = Arithmetic("english", digits=4, max_magnitude=10**9)
    task = family.parse("compute 1200 + 34")
    assert isinstance(task, Task)
    for text in ("1,234", "1234.0", "1200 + 34 = 1234", "1200 + 34 = 1,234.", "It makes 1,234 in all."):
        assert family.verify(task, text).value == 1, text
    for text in ("12,34", "1234.5", "41234", "1234th", "1200 + 34 = 1234 = 1235", "-1234", "1234/2"):
        assert family.verify(task, text).value == 0, text
    half = family.parse("compute 2 / 6")
    assert isinstance(half, Task) and half.answer == "1/3"
    for text in ("1/3", "1 / 3", "$\\frac{1}{3}$", "2 / 6 = 1/3", "It is \\(\\dfrac{1}{3}\\)."):
        assert family.verify(half, text).value == 1, text


@pytest.mark.parametrize(("kind", "text", "want"), VERDICTS)
def test_verdicts(kind: str, text: str, want: int | None) -> None:
    assert rating_of(kind, "english", text) == want


def test_every_verdict_that_is_said_is_read() -> None:
    for (kind, notation), (low, high) in RATINGS.items():
        for rating in range(low, high + 1):
            assert rating_of(kind, notation, say(kind, notation, rating)) == rating
    for text in ("Verdict: 1\nVerdict: 2", "\\boxed{2}", "2", "Final verdict: **2**."):
        assert rating_of("pairwise", "english", text) == 2, text
    for text in ("Verdict: 7/5", "Verdict: 3 or 4", "Verdict: 11/10", "Verdict:", "I'd say 7"):
        assert rating_of("score", "english", text) is None, text


def test_a_cut_reply_has_only_the_answer_that_it_finished() -> None:
    family, task = FAMILIES[0], tasks(FAMILIES[0])[0]
    gold = family.gold(task)

    def value(text: str, why: str) -> tuple[float, str | None]:
        score, read = answers.graded(family, task, Action(text, finish_reason=why))
        return score.value, read

    assert value(f"The sum is {gold}", "stop") == (1.0, gold)
    assert value(f"The sum is {gold}", "length") == value(f"Answer: {gold}", "length") == (0.0, "")
    assert value(f"Answer: {gold}\nHope th", "length") == value(f"so \\boxed{{{gold}}} and", "length") == (1.0, gold)
    assert value(f"<think>Answer: {gold}\nHmm", "length") == (0.0, "")
    failed, read = answers.graded(family, task, Action(gold, status="timeout"))
    assert failed.status == "timeout" and read is None


def test_compact_notation_forgives_nothing() -> None:
    for family in (Arithmetic(), Countdown(), Composition(), ReverseAddition(), OperationLessons()):
        rng = stream("strict", family.name)
        task = family.question(family.lesson(rng, 0), rng) if family.name == "operations" else family.generate(rng, 3)
        gold = family.gold(task)
        assert family.verify(task, gold).value == 1 and family.protocol == "strict"
        for text in (f" {gold}", f"{gold}\n", f"Answer: {gold}", f"**{gold}**", f"<think></think>{gold}"):
            assert family.verify(task, text).value == 0
        assert answers.graded(family, task, Action(gold))[1] is None


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_proposals_are_found_in_a_chat_reply(family: Any) -> None:
    for task in tasks(family, 10):
        text = family.as_proposal(task)
        for form in (
            "{p}",
            "Here is one:\n\n```\n{p}\n```",
            "<think>compute 1</think>\n- **{p}**",
            "`{p}`",
            "1. {p}\nEnjoy!",
        ):
            found = family.parse(form.replace("{p}", text))
            assert isinstance(found, Task) and found.id == task.id, (form, text)
        for form in ("<think>{p}", "not {p} at all", ""):
            assert isinstance(family.parse(form.replace("{p}", text)), Reject)


def test_dreams_are_found_in_a_chat_reply() -> None:
    for lessons in LESSONS:
        rng = stream("dreams", lessons.name)
        lesson = lessons.lesson(rng, 0)
        task = lessons.question(lesson, rng)
        text = lessons.as_proposal(task)
        bold = re.sub(r"(?m)^(Q:|A:)", r"**\1**", text) if lessons.name == "documents" else f"**{text}**"
        for form in (
            text,
            f"Sure!\n\n{text}\n\nAnything else?",
            f"<think>hm</think>{text}",
            bold.replace("**Q:**", "Q:"),
        ):
            found = lessons.parse(lesson, form)
            assert isinstance(found, Task) and found.prompt == task.prompt, form


def thinker(text: str, answer: str) -> str:
    return f"<think>\n{text[:20]} ...\n</think>\n\nThe answer is **{answer}**."


@pytest.mark.parametrize("name", ["arithmetic", "countdown", "composition", "reverse_addition"])
def test_a_thinking_model_that_is_right_is_right_everywhere(name: str) -> None:
    """In the game, in judged games and asleep: the same reader, and the answer is in the record."""
    game: Any = ChallengerSolver(name, notation="english", solvers=2, reply_tokens=64)

    class Thinks:
        privileged = True

        def act(self, requests: Any) -> list[Action]:
            said = []
            for r in requests:
                family = game.family
                text = family.as_proposal(family.generate(stream(r.seed), 2)) if r.role == "challenger" else ""
                said.append(Action(text or thinker(r.messages[-1]["content"], family.gold(r.task))))
            return said

    episode = play(game, {"challenger": Thinks(), "solver": Thinks()}, seed="x")
    assert set(episode.outcome.facts["correct"].values()) == {1.0}
    solved = [t for t in episode.turns if t.role == "solver"]
    assert all(t.extracted and game.family.accepts(episode.tasks[-1], t.extracted) for t in solved)
    judged: Any = SelfJudge(name, notation="english", judging="none", level=2)
    episode = play(judged, {"actor": Thinks()}, seed="x")
    assert set(episode.outcome.facts["truth"].values()) == {1.0}


def test_documents_are_answered_in_sentences() -> None:
    game = SleepCycle("documents", nights=2, dreams=0)

    class Talks:
        privileged = True

        def act(self, requests: Any) -> list[Action]:
            step = [game._now(r.state).tasks[game._place[r.agent]] for r in requests]
            return [Action(f"As the text says, it was **{t.answer}**, I believe.") for t in step]

    episode = play(game, {"learner": Talks()}, seed="1")
    assert episode.outcome.facts["average_accuracy"] == 1.0
    assert all(t.extracted for t in episode.turns)
    assert np.mean([t.finish_reason == "" for t in episode.turns]) == 1
