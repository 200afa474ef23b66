"""Documents: each fact stands in its text and in no other and is asked in two wordings; replies are strict."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import REJECT_CODES, DreamEnvsError, Reject
from dream_envs.seeds import stream
from dream_envs.tasks import documents
from dream_envs.tasks.documents import FACTS, DocumentLessons
from dream_envs.tasks.documents import WORDS as DATA
from dream_envs.tasks.lessons import SPLITS, lesson_family

FAMILY = DocumentLessons()
WORDS, NUMBERS = DATA["words"], DATA["numbers"]
SUBJECTS, OTHERS, MIDDLES, ENDS = (DATA[name] for name in ("subjects", "others", "middles", "ends"))
ATTRIBUTES = [(kind, a) for kind, attributes in FACTS.items() for a in attributes]


def one_of(kind: str, seed: int = 0, index: int = 3):
    return DocumentLessons(kinds=kind).lesson(stream("document", kind, seed), index)


@pytest.mark.parametrize("kind", FACTS)
def test_a_text_states_each_of_its_facts_once(kind):
    lesson = one_of(kind)
    sentences = re.split(r"(?<=\.) ", lesson.context)
    assert 5 <= len(sentences) <= 8 and lesson.name in sentences[0]
    for key, value in lesson.facts["values"].items():
        stated = [s for s in sentences if re.search(rf"\b{value}\b", s)]
        assert len(stated) == 1, (key, value)


@pytest.mark.parametrize(("kind", "attribute"), ATTRIBUTES, ids=[f"{k}-{a.key}" for k, a in ATTRIBUTES])
def test_each_fact_is_asked_in_two_other_wordings(kind, attribute):
    lesson = one_of(kind)
    wake, probe = (FAMILY.make(lesson, attribute.key, split) for split in SPLITS)
    assert wake.prompt != probe.prompt and wake.answer == probe.answer == lesson.facts["values"][attribute.key]
    for task in (wake, probe):
        assert lesson.name in task.prompt and task.answer not in task.prompt
        assert FAMILY.parse(lesson, FAMILY.as_proposal(task)).id == task.id
    # No wording repeats half of the words of another: what is remembered must be the fact.
    said = [attribute.sentence, attribute.wake, attribute.probe]
    bags = [set(re.findall(r"[a-z]{4,}", text.lower())) for text in said]
    assert bags[1] != bags[2] and len(bags[1] & bags[2]) <= len(bags[1] | bags[2]) / 2


def test_no_two_lessons_of_an_episode_are_about_the_same_thing_and_words_do_not_repeat():
    names = [{first + m + e for m in MIDDLES for e in ENDS} for first in SUBJECTS]
    assert len(set().union(*names)) == len(SUBJECTS) * len(MIDDLES) * len(ENDS)
    people = {first + m + e for first in OTHERS for m in MIDDLES for e in ENDS}
    assert len(people) == documents.count("name") == 8000 and not people & set().union(*names)
    assert all(len(set(words)) == len(words) == documents.count(kind) for kind, words in WORDS.items())
    assert all(word.isascii() for words in WORDS.values() for word in words)
    every = [a.kind for _, a in ATTRIBUTES]
    assert set(every) == {"name", *WORDS, *NUMBERS}
    for attributes in FACTS.values():  # a value tells which fact it belongs to
        kinds = [a.kind for a in attributes]
        assert len(set(kinds)) == len(kinds)


def test_a_guess_succeeds_by_chance():
    lesson, rng = one_of("bridge"), stream("guesses")
    for key, chance in (("stone", 1 / 16), ("guards", 1 / 20), ("closed", 1 / 12), ("opened", 1 / 400)):
        task, draws = FAMILY.make(lesson, key, "probe"), 20_000
        assert FAMILY.chance(task) == chance
        hits = sum(FAMILY.verify(task, FAMILY.guess(task, rng)).value for _ in range(draws))
        assert abs(hits - draws * chance) < 5 * math.sqrt(draws * chance), key
    assert FAMILY.chance(FAMILY.make(lesson, "builder")) == 1 / 8000
    assert FAMILY.chance(FAMILY.make(lesson, "length")) == 1 / 980


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        *[
            (text, 1)
            for text in ("{a}", " {a}\n", "{a}.", "{A}", "\n{a}. ", "The answer is {a}", "'{a}'", "They sold {a}.")
        ],
        *[
            (text, 0)
            for text in ("", ".", "{a}\u0301", "{a} or honey", "not {a}", "{a}s", "{a}, honey, bells", "x" * 10**6)
        ],
    ],
)
def test_an_answer_is_the_value_that_is_stated(reply, value):
    task = FAMILY.make(one_of("town"), "trade")
    said = reply.replace("{a}", task.answer).replace("{A}", task.answer.upper())
    assert FAMILY.verify(task, said).value == value


def test_proposals_by_hand():
    lesson = one_of("ship")
    name, values = lesson.name, lesson.facts["values"]
    captain, sails, crew = values["captain"], values["sails"], values["crew"]
    right = FAMILY.parse(lesson, f"Q: Who was the first captain of the {name}?\nA: {captain}")
    assert (right.answer, right.meta["truth"], right.meta["fact"]) == (captain, "executed", "captain")
    own = FAMILY.parse(lesson, f"Q: Name the first master of {name}?\nA: {captain}\n")
    assert (own.answer, own.meta["truth"]) == (captain, "claimed") and FAMILY.chance(own) == 1 / 8000
    for chat in (
        f"Here it is.\n\nQ: Who commands the {name}?\nA: {captain}",
        f"**Q:** Who commands the {name}?\n**A:** {captain}",
    ):
        assert FAMILY.parse(lesson, chat).answer == captain
    for text, code in {
        "": "empty",
        "  \n": "empty",
        "x" * 301: "too_long",
        f"Q: Who is {name}\u2019s captain?\nA: {captain}": "charset",
        f"Q: Who commands the {name}?": "grammar",
        f"Q: Who commands the {name}.\nA: {captain}": "grammar",
        f"Q: Who commands her?\nA: {captain}": "grammar",
        f"Q: Who commands the {name}s?\nA: {captain}": "grammar",
        f"Q: Who commands the {name}?\nA: Nobody": "certificate",
        f"Q: Who was the first captain of the {name}?\nA: {crew}": "certificate",
        f"Q: Who commands the {name}?\nA: {captain.upper()}": "not_canonical",
        f"Q: Is it {captain} who commands the {name}?\nA: {captain}": "leak",
        f"Q: Were the {sails.upper()} sails of {name} pretty?\nA: {sails}": "leak",
    }.items():
        found = FAMILY.parse(lesson, text)
        assert isinstance(found, Reject) and found.code == code, (text, found)


@given(text=st.text(max_size=80) | st.text(alphabet="QA: \n?aeTBrandu", max_size=60))
@settings(max_examples=300, deadline=None)
def test_nothing_that_is_said_raises(text):
    lesson = one_of("tower")
    assert FAMILY.parse(lesson, text).code in REJECT_CODES  # none of these names the tower
    named = FAMILY.parse(lesson, f"Q: {lesson.name}{text}?\nA: {lesson.facts['values']['door']}")
    assert isinstance(named, Reject) or named.answer == lesson.facts["values"]["door"]
    assert FAMILY.verify(FAMILY.make(lesson, "door"), text).value in (0.0, 1.0)


def test_every_fact_is_asked_and_every_kind_is_written_about():
    lesson, rng = one_of("guild"), stream("asked")
    found = {FAMILY.question(lesson, rng, split).prompt for split in SPLITS for _ in range(200)}
    assert len(found) == 12
    kinds = {FAMILY.lesson(stream("kinds", i), i % FAMILY.capacity).facts["kind"] for i in range(200)}
    assert kinds == set(FACTS)
    contexts = [FAMILY.lesson(stream("neighbours", i), 0).context for i in range(40)]
    assert all(one != other for one, other in itertools.combinations(contexts, 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DocumentLessons("compact"), "'english'"),
        (lambda: DocumentLessons(kinds=["castle"]), "town"),
        (lambda: DocumentLessons(kinds=[]), "town"),
        (lambda: FAMILY.lesson(stream("x"), 24), "0 to 23"),
        (lambda: FAMILY.question(one_of("town"), stream("x"), "probe", 2), "level=2"),
        (lambda: lesson_family("documents", notation="compact"), "'english'"),
    ],
)
def test_a_wrong_argument_is_said_in_one_line(make, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
