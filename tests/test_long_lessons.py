"""Long lessons: several tables a day, archives of thousands of tokens; reading them in pieces."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError, Request
from dream_envs.seeds import stream
from dream_envs.tasks.documents import FACTS
from dream_envs.tasks.lessons import OperationLessons, lesson_family
from dream_envs.tasks.long_lessons import FORMS, ArchiveLessons, TableLessons


@given(seed=st.integers(0, 10**6), tables=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_a_question_is_about_one_of_the_days_tables(seed, tables):
    """Against the family of one table, from the line of the context that has it."""
    family, plain, rng = TableLessons(tables=tables), OperationLessons(), stream("tables", seed)
    lesson = family.lesson(rng, seed % family.capacity)
    lines = dict(line.split("=") for line in lesson.context.split("\n"))
    assert len(lines) == tables and "".join(lines) == lesson.name
    task = family.question(lesson, rng, ("wake", "probe")[seed % 2])
    (new,) = set(task.meta["ops"]) & set(lines)
    table = {lines[new][i]: lines[new][i + 2] for i in range(0, 48, 3)}
    assert plain.make(plain.lesson_of(0, new, table), task.meta["start"], task.meta["ops"]).answer == task.answer
    assert family.parse(lesson, task.prompt).answer == task.answer


def test_lessons_of_an_episode_share_no_operation_and_two_tables_are_no_question():
    family = TableLessons(tables=3)
    lessons = [family.lesson(stream("x", i), i) for i in range(family.capacity)]
    assert [x.name for x in lessons] == ["IJK", "LMN"]
    assert family.parse(lessons[0], "a:IJ").code == "charset" and family.parse(lessons[0], "a:L").code == "charset"
    asked = Counter(family.question(lessons[0], stream("even", i)).meta["new"] for i in range(600))
    assert set(asked) == set("IJK") and min(asked.values()) > 140
    assert "I, J, K" in TableLessons("english", tables=3).brief(lessons[0])


@pytest.mark.parametrize("form", FORMS)
def test_every_fact_of_an_archive_stands_in_it_once(form):
    family = ArchiveLessons(form=form, records=30)
    lesson = family.lesson(stream("archive", form), 2)
    records = lesson.facts["records"]
    assert len(records) == 30 and all(name.startswith("Quil") for name in records)
    for name, own in records.items():
        for fact in FACTS[own["kind"]]:
            value = own["values"][fact.key]
            if form == "table":
                assert len(re.findall(rf"^{name} \|.*\b{value}\b", lesson.context, re.M)) == 1
            else:
                told = fact.sentence.format(v=value)
                lines = [line for line in lesson.context.split("\n") if told in line and name in line]
                assert len(lines) == 1
    assert (lesson.context.count("\n") > 6 * 30) == (form == "log")


def test_an_archive_is_as_long_as_asked_and_a_log_scatters_what_belongs_together():
    words = [len(ArchiveLessons(records=n).lesson(stream("long"), 0).context.split()) for n in (10, 40, 160)]
    assert 3 * words[0] < words[1] < words[2] / 3 and words[1] > 2000
    lesson = ArchiveLessons(form="log", records=20).lesson(stream("log"), 0)
    places = [i for i, line in enumerate(lesson.context.split("\n")) if f"On the {lesson.name}:" in line]
    assert len(places) == 7 and max(places) - min(places) > 40


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TableLessons(tables=9), "1 to 8"),
        (lambda: ArchiveLessons(records=0), "1 to 200"),
        (lambda: ArchiveLessons(form="poem"), "'book'"),
        (lambda: lesson_family("tables", args={"level": 1}), "'levels'"),
        (lambda: lesson_family("archive"), "did you mean 'archives'"),
    ],
)
def test_a_wrong_argument_is_said_in_one_line(make, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ in pieces


def asking(context: str, question: str, role: str = "learner", seed: int = 0) -> Request:
    messages = [{"role": "system", "content": context}, {"role": "user", "content": question}]
    return Request(messages=messages, agent=f"{role}_0", role=role, seed=seed)  # type: ignore[arg-type]


def test_a_question_gets_the_table_that_it_needs():
    pytest.importorskip("torch")
    from dream_envs.agents.sleep.pieces import Pieces
    from dream_envs.baselines.nano import tokenizer

    pieces, family = Pieces(tokenizer.build(pairs=True), 20), TableLessons(tables=8)
    for seed in range(200):
        rng = stream("pieces", seed)
        lesson = family.lesson(rng, 0)
        task = family.question(lesson, rng)
        (system, user) = pieces.fitted(asking(lesson.context, task.prompt)).messages
        assert system["content"] == family.part(lesson, task.meta["new"]).context and user["content"] == task.prompt
    got = {pieces.fitted(asking(lesson.context, "new", "dreamer", i)).messages[0]["content"][0] for i in range(8)}
    assert got == set(lesson.name)
    short = asking("I=a>fb>k", "a:I")
    assert pieces.fitted(short) is short
    bare = Request(messages=[{"role": "user", "content": "a:I"}], agent="learner_0", role="learner", seed=0)
    assert pieces.fitted(bare) is bare
    with pytest.raises(DreamEnvsError, match="18 or more") as caught:
        Pieces(tokenizer.build(pairs=True), 10).fitted(asking(lesson.context, "a:I"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("form", "least"), [("book", 1.0), ("log", 0.7)])
def test_a_question_gets_the_section_that_it_needs(form, least):
    """Whole lines, all of them, in order, none too long; awake the piece has the answer's sentence."""
    pytest.importorskip("torch")
    from _bpe import tokenizer

    from dream_envs.agents.sleep.pieces import Pieces

    made = tokenizer()
    pieces, family = Pieces(made, 900), ArchiveLessons(form=form, records=20)
    rng = stream("sections", form)
    lesson = family.lesson(rng, 0)
    parts = pieces.split(lesson.context)
    assert "\n".join(parts) == lesson.context and len(parts) > 3
    assert all(len(made(part, add_special_tokens=False)["input_ids"]) <= 900 for part in parts)
    right = 0
    for _ in range(100):
        task = family.question(lesson, rng)
        piece = pieces.fitted(asking(lesson.context, task.prompt)).messages[0]["content"]
        name, its = next((n, r) for n, r in lesson.facts["records"].items() if n in task.prompt)
        fact = next(a for a in FACTS[its["kind"]] if a.key == task.meta["fact"])
        right += any(fact.sentence.format(v=task.answer) in x and name in x for x in piece.split("\n"))
    assert right >= 100 * least


def test_a_sleeping_learner_reads_and_keeps_pieces():
    """By day the piece is what is answered from and what is kept for the night; without the setting nothing changes."""
    pytest.importorskip("trl")
    from _sleep import SMALL, reader, with_

    from dream_envs.agents.sleep.consolidation import SleepConsolidation
    from dream_envs.agents.sleep.frozen import FrozenLearner

    family = TableLessons(tables=4, levels=1)
    lesson = family.lesson(stream("day"), 0)
    tasks = [family.question(lesson, stream("day", i)) for i in range(48)]
    asked = [asking(lesson.context, t.prompt, seed=i) for i, t in enumerate(tasks)]
    right = {}
    for piece in (None, 20):
        learner = SleepConsolidation(FrozenLearner(reader()), settings=with_(SMALL, dreaming=None, piece=piece))
        if piece is None:
            assert learner.fitted(asked) is asked
        told = learner.act(asked)
        right[piece] = sum(a.text == t.answer for a, t in zip(told, tasks, strict=True)) / 48
        contexts = {e.messages[0]["content"] for e in learner.buffer.all()}
        assert contexts == ({lesson.context} if piece is None else {family.part(lesson, x).context for x in "IJKL"})
    assert right[None] < 0.3 and right[20] > 0.9


def test_a_prompt_that_the_model_cannot_read_is_one_line():
    pytest.importorskip("torch")
    from _sleep import reader

    long = asking("I=" + "a>b" * 1020, "a:I")
    with pytest.raises(
        DreamEnvsError, match=r"a prompt of 10\d\d tokens: this model reads 1024.*nights\.piece"
    ) as caught:
        reader().act([long])
    assert "\n" not in str(caught.value)


def test_the_examination_prints_a_row_a_value(capsys):
    pytest.importorskip("torch")
    from dream_envs.baselines import lesson_exam

    words = "nano/context tables --vary tables=1,4 --levels 1 --count 48 --piece 20"
    lesson_exam.main(words.split(" "))
    rows = [re.findall(r"[\d.]+", line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["1", "1", "18"], ["4", "1", "75"]]
    (one, four) = rows
    assert float(one[3]) > 0.9 > 0.3 > float(four[3]) and float(four[6]) > 0.9 and four[-2:] == ["0.0625", "1"]
    with pytest.raises(SystemExit, match=r"lesson_exam: .*'tables'"):
        lesson_exam.main(["nano/context", "table"])
