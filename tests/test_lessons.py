"""Families of lessons: what is asked and accepted, what is split, what a guesser gets, what a dreamer may say."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import REJECT_CODES, DreamEnvsError, Reject, Task
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.tasks.lessons import OperationLessons, lesson_family

WORLD = Composition()
TABLE = dict(zip("abcdefghijklmnop", "fkmabcdeghijlnop", strict=True))
NOTATIONS = ("compact", "english")


def lesson_i(notation: str = "compact", **arguments):
    family = OperationLessons(notation, **arguments)
    return family, family.lesson_of(0, family.names[0], TABLE)


def test_context_question_and_reply_by_hand():
    family, lesson = lesson_i()
    assert lesson.context == "I=a>fb>kc>md>ae>bf>cg>dh>ei>gj>hk>il>jm>ln>no>op>p"
    task = family.make(lesson, "a", "IAI")
    known = WORLD.step("A", "f")
    assert task.prompt == "a:IAI" and task.answer == f"IfA{known}I{TABLE[known]}"
    family, lesson = lesson_i("english")
    task = family.make(lesson, "a", "IA")
    assert "a to f, b to k" in lesson.context and task.answer == f"I -> f, A -> {known}"
    assert "I:" not in task.prompt and "a>f" not in task.prompt and f"f>{known}" in task.prompt


@pytest.mark.parametrize("notation", NOTATIONS)
@given(seed=st.integers(0, 10**6), level=st.sampled_from([1, 2, 3]), split=st.sampled_from(["wake", "probe"]))
@settings(max_examples=100, deadline=None)
def test_the_answer_is_what_an_interpreter_of_the_context_finds(notation, seed, level, split):
    family = OperationLessons(notation)
    rng = stream("lessons", seed)
    lesson = family.lesson(rng, seed % family.capacity)
    task = family.question(lesson, rng, split, level)
    words = lesson.context.partition("=")[2] or lesson.context.partition("It takes ")[2].rstrip(".")
    read = [words[i : i + 3] for i in range(0, 48, 3)] if notation == "compact" else words.split(", ")
    table = {entry[0]: entry[-1] for entry in read}
    assert sorted(table) == sorted(table.values()) == list(WORLD.states)
    state, steps = task.meta["start"], []
    for op in task.meta["ops"]:
        state = table[state] if op == lesson.name else WORLD.step(op, state)
        steps.append((op, state))
    said = "".join(o + s for o, s in steps) if notation == "compact" else ", ".join(f"{o} -> {s}" for o, s in steps)
    assert family.verify(task, said).value == 1.0 and family.gold(task) == said
    assert task.level == level == len(steps) and lesson.name in task.meta["ops"]
    assert family.parse(lesson, family.as_proposal(task)).answer == said


def test_questions_are_split_and_every_one_of_a_half_is_as_likely():
    family, lesson = lesson_i(n_states=4, n_operations=2, names="I", levels=(1, 2))
    assert family.states == "abcd"
    lesson = family.lesson(stream("split"), 0)
    rng, seen = stream("split", "draws"), {}
    for split in ("wake", "probe"):
        seen[split] = Counter(family.question(lesson, rng, split, 2).prompt for _ in range(6000))
        assert {family.question(lesson, rng, split, 1).prompt for _ in range(100)} == {f"{s}:I" for s in "abcd"}
    every = {f"{s}:{a}{b}" for s in "abcd" for a, b in itertools.product("ABI", repeat=2) if "I" in (a, b)}
    assert not set(seen["wake"]) & set(seen["probe"])
    assert set(seen["wake"]) | set(seen["probe"]) == every and len(every) == 20
    for counts in seen.values():
        expected = 6000 / len(counts)
        squares = sum((n - expected) ** 2 / expected for n in counts.values())
        assert squares < len(counts) + 5 * math.sqrt(2 * len(counts))  # chi-squared, five standard deviations


def test_halves_are_halves():
    ops = [a + b for a, b in itertools.product("ABCDEFGHI", repeat=2) if "I" in (a, b)]
    for name in "IJKL":
        awake = [OperationLessons.half(s, o.replace("I", name)) == "wake" for s in WORLD.states for o in ops]
        assert len(awake) == 272 and abs(sum(awake) - 136) < 4 * math.sqrt(272 / 4)


def test_a_guess_succeeds_by_chance():
    family, lesson = lesson_i()
    rng = stream("guesses")
    # III from a: a, f, c are looked up, three of sixteen entries; IA: one; I from n, a fixed point, again: one.
    assert TABLE["a"] == "f" and TABLE["f"] == "c" and TABLE["n"] == "n"
    expected = {"a:I": 1 / 16, "a:IA": 1 / 16, "a:II": 1 / 240, "a:III": 1 / 3360, "n:II": 1 / 16}
    for text, chance in expected.items():
        task = family.parse(lesson, text)
        assert family.chance(task) == pytest.approx(chance)
    for text in ("a:IA", "a:II", "n:II"):
        task, draws = family.parse(lesson, text), 30_000
        hits = sum(family.verify(task, family.guess(task, rng)).value for _ in range(draws))
        spread = math.sqrt(expected[text] * draws)
        assert abs(hits - expected[text] * draws) < 5 * spread, text


def test_no_two_lessons_of_an_episode_share_an_operation_and_neighbours_share_no_table():
    family = OperationLessons()
    found = [family.lesson(stream("episode", 1), i) for i in range(family.capacity)]
    assert [x.name for x in found] == list("IJKLMNOP")
    tables = {str(family.lesson(stream("episode", n), 0).facts["table"]) for n in range(50)}
    assert len(tables) == 50
    with pytest.raises(DreamEnvsError, match="0 to 7"):
        family.lesson(stream("x"), 8)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty"),
        ("c:I" + "A" * 40, "too_long"),
        ("c:IAAA", "limits"),
        *[(text, "grammar") for text in ("c:A", "cI", "c:", "new", "I=a>f")],
        *[(text, "charset") for text in ("c:IJ", "z:I", "c:I\n")],
    ],
)
def test_what_a_dreamer_may_not_say(text, code):
    family, lesson = lesson_i()
    found = family.parse(lesson, text)
    assert isinstance(found, Reject) and found.code == code


@pytest.mark.parametrize("notation", NOTATIONS)
@given(text=st.text(max_size=40) | st.text(alphabet="abcI:A;, starply", max_size=30))
@settings(max_examples=200, deadline=None)
def test_nothing_that_is_said_raises(notation, text):
    family, lesson = lesson_i(notation)
    found = family.parse(lesson, text)
    assert found.code in REJECT_CODES if isinstance(found, Reject) else family.as_proposal(found) == text
    task = family.make(lesson, "a", "IA")
    bare = text.strip(" \t\r\n") if notation == "english" else text
    assert family.verify(task, text).value == float(bare == task.answer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OperationLessons("latin"), "'compact' or 'english'"),
        (lambda: OperationLessons(levels=0), "1 to 16"),
        (lambda: OperationLessons(levels=[]), "1 to 16"),
        (lambda: OperationLessons(levels=(1, True)), "1 to 16"),
        (lambda: OperationLessons(names="AB"), "IJKL"),
        (lambda: OperationLessons(names="II"), "each once"),
        (lambda: OperationLessons(n_states=3), "4 to 26"),
        (lambda: lesson_family("operation"), "did you mean 'operations'"),
        (lambda: lesson_family("operations", args={"level": 1}), "'levels'"),
        (lambda: lesson_family(OperationLessons(), notation="compact"), "the family object itself"),
        (lambda: lesson_family(WORLD), "lacks capacity"),
        (lambda: lesson_family("dream_envs.tasks.lessons:Nothing"), "no 'Nothing'"),
    ],
)
def test_a_wrong_argument_is_said_in_one_line(make, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_families_are_found_by_name_path_and_object():
    assert lesson_family("operations", notation="english").notation == "english"
    assert lesson_family("dream_envs.tasks.lessons:OperationLessons", args={"levels": 1}).levels == (1,)
    own = OperationLessons()
    assert lesson_family(own) is own
    family, lesson = lesson_i()
    for split, level in (("sleep", 1), ("wake", 4)):
        with pytest.raises(DreamEnvsError):
            family.question(lesson, stream("x"), split, level)
    assert isinstance(family.question(lesson, stream("x")), Task)
