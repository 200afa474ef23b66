"""Contexts and skills: programs against every mixture of right and wrong, hostile text, edits that are total."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError, Reject
from dream_envs.seeds import stream
from dream_envs.tasks import context_exams
from dream_envs.tasks.context_rubrics import clean
from dream_envs.tasks.contexts import PRACTICE, TESTS, Context, contexts_of, from_rows
from dream_envs.tasks.skills import SIGNS, Edit, SkillSet, pack, parse_edit, read_markdown, say_edit, unpack
from dream_envs.testing.cores import HOSTILE

BUNDLED = contexts_of("bundled")


@pytest.mark.parametrize("context", BUNDLED, ids=lambda c: c.id)
def test_programs_pass_just_what_is_right(context: Context) -> None:
    """Every mixture of right and wrong pieces is marked piece by piece; both halves are full, different and apart."""
    tests, practice = context.tests(), context.practice()
    assert (len(tests), len(practice)) == (TESTS, PRACTICE)
    questions = {e.question for e in (*tests, *practice)}
    assert len(questions) == TESTS + PRACTICE
    for exam in (*tests[:8], *practice[:4]):
        assert len(exam.rubrics) >= 5 and len({r.text for r in exam.rubrics}) == len(exam.rubrics)
        for mixture in itertools.product((False, True), repeat=len(exam.rubrics)):
            answer = exam.answer([i for i, right in enumerate(mixture) if right])
            assert exam.marks(answer) == list(mixture), answer
        dressed = f"<think>All wrong: {exam.answer([])}</think>\n```\n{exam.answer()}\n```\n"
        assert all(exam.marks(dressed)), dressed
        assert not any(exam.marks("<think>" + exam.answer())), "reasoning that is never closed says nothing"
        for text in (*HOSTILE.values(), context.text, exam.question):
            assert not all(exam.marks(text)), text[:80]


def test_no_exam_of_one_context_answers_another() -> None:
    """Not numbers alone: what is right in one context passes hardly a rubric elsewhere, so no two share a template."""
    golds = {c.id: c.tests(1)[0].answer() for c in BUNDLED}
    for context, (name, gold) in itertools.product(BUNDLED, golds.items()):
        if name != context.id:
            marks = context.tests(1)[0].marks(gold)
            assert sum(map(bool, marks)) <= len(marks) // 2, (context.id, name, gold)


def test_another_right_answer_is_another() -> None:
    """What is right for one question is wrong for most others of its context: there is no answer to everything."""
    for context in BUNDLED:
        exams = context.tests()
        passed = [all(a.marks(b.answer())) for a, b in itertools.permutations(exams[:12], 2)]
        assert sum(passed) <= len(passed) // 4, context.id


def test_texts_name_the_rules_and_kinds_are_balanced() -> None:
    assert len(BUNDLED) == 24 and len({c.id for c in BUNDLED}) == 24
    assert {k: sum(c.kind == k for c in BUNDLED) for k in ("rules", "procedure", "table", "api")} == dict.fromkeys(
        ("rules", "procedure", "table", "api"), 6
    )
    for context in BUNDLED:
        known = set(re.findall(r'[Rr]ule "([\w ]+)"', context.text))
        assert len(known) >= 4 and len(known & set(context.rules())) >= 3, context.id
        assert context.text.isascii() and 300 < len(context.text) < 2500


@pytest.mark.parametrize(("name", "asked", "gold"), [  # worked by hand from the texts
    ("ferry", "a passenger aged 9 with 3 bags on the 23:00 sailing", ["Base: 5", "Bags: 6", "Night: 3", "Total: 14"]),
    ("ferry", "a passenger aged 33 with 6 bags on the 4:00 sailing", ["Night: 6", "Total: 24", "Capped: yes"]),
    ("calendar", "day 21 of the year", ["21 Ost", "Elday", "wet season", "feast", "low tide"]),
    ("calendar", "day 247 of the year", ["7 Ilm", "Cenday", "dim season", "no feast", "low tide"]),
    ("measures", "A rope is 100 sut long", ["1 lok", "1 pim", "4 sut", "500 hair in all", "toll 2"]),
    ("fleetconf", "node 7: a machine with 10 GB and 3 disks", ["= standby", "= 7070", "= 5000", "= 6:8", "= lazy"]),
    ("trains", "at 7:00 with a bicycle", ["7:40", "T3", "W8", "11:00", "13"]),
    ("rebates", "20 boxes of braces to a new", ["gross 300", "rebate 15", "carriage 0", "due 285", "14 days"]),
])  # fmt: skip
def test_by_hand(name: str, asked: str, gold: list[str]) -> None:
    """The generator's answers to questions that somebody worked out on paper."""
    draw = getattr(context_exams, name)
    exams = (draw(stream("by-hand", name, i)) for i in range(20_000))
    exam = next((e for e in exams if asked in e.question), None)
    assert exam is not None, "the question is never drawn"
    assert all(piece in exam.answer() for piece in gold), exam.answer()


def test_halves_hold_whatever_the_seed_and_questions_are_found() -> None:
    context = BUNDLED[0]
    orders = [[e.question for e in context.tests(5, seed)] for seed in ("0", "1", "0")]
    assert orders[0] == orders[2] != orders[1]
    assert context.find("  ".join(context.tests(1)[0].question.split()))[0] == "test"  # type: ignore[index]
    assert context.find(context.practice(1)[0].question)[0] == "practice"  # type: ignore[index]
    assert context.find("Quote nothing.") is None


def test_contexts_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "a rule.md").write_text("Every Tuesday is free.", "utf-8")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 " * 9)
    (tmp_path / "c.json").write_text("{}")
    own = contexts_of(str(tmp_path))
    assert [c.id for c in own] == ["a-rule", "b"] and own[0].draw is None and own[0].tests() == []
    assert [c.id for c in contexts_of("bundled:table")] == ["peaks", "measures", "trains", "gauges", "rebates", "salts"]
    assert [c.id for c in from_rows([{"context": "x", "n": 7}], text="context", name="n")] == ["7"]
    for bad in (
        "bundled:feryr",
        "nowhere",
        str(tmp_path / "c.json"),
        [],
        [own[0], own[0]],
        [Context("x", "text", " ")],
        [Context("../x", "text", "y")],
    ):
        with pytest.raises(DreamEnvsError) as caught:
            contexts_of(bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(DreamEnvsError, match="did you mean 'ferry'"):
        contexts_of("bundled:feryr")


def test_what_is_cleaned_off() -> None:
    assert clean("<think>a</think>**Base:** `5`") == "Base: 5" and clean("<think>a") == ""


NAMES = st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,6}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, TEXTS, max_size=4), st.sampled_from([*SIGNS]), NAMES, TEXTS)
def test_an_edit_does_what_it_says_and_nothing_else(own: dict[str, str], op: str, name: str, text: str) -> None:
    before = SkillSet.of(own)
    made = before.changed(Edit(op, name, text))  # type: ignore[arg-type]
    assert before == SkillSet.of(own), "a set never changes"
    if (op == "add") == (name in own):
        assert isinstance(made, Reject) and made.code == ("duplicate" if op == "add" else "execution")
        return
    assert isinstance(made, SkillSet)
    after, rest = made.as_dict(), {k: v for k, v in own.items() if k != name}
    assert {k: v for k, v in after.items() if k != name} == rest
    if op == "delete":
        assert name not in after
    elif op == "merge":
        assert after[name].startswith(own[name]) and set(text.split("\n")) <= set(after[name].split("\n"))
        assert made.changed(Edit("merge", name, text)) == made, "merging twice is merging once"
    else:
        assert after[name] == text
    assert (made.hash == before.hash) == (made == before) == (before.diff(made) == "")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*SIGNS]), NAMES, TEXTS)
def test_edits_are_read_as_they_were_written(op: str, name: str, text: str) -> None:
    edit = Edit(op, name, "" if op == "delete" else text)  # type: ignore[arg-type]
    assert parse_edit(say_edit(edit, "compact"), "compact") == edit
    if text.isascii() and text.isprintable() and "<" not in text and "`" not in text and "[" not in text:
        assert parse_edit("Let me see.\nEdit: none\n\n" + say_edit(edit)) == edit
    assert unpack(pack([text, name])) == [text, name]


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=200)
    | st.sampled_from([*HOSTILE.values(), "Edit: add", "Edit: fly\nName: x\nText: y", "+", "+a|b|c"])
)
def test_no_reply_is_an_error(reply: str) -> None:
    before = SkillSet.of({"a": "x"})
    for notation in ("english", "compact"):
        found = parse_edit(reply, notation)
        made = before.changed(found) if isinstance(found, Edit) else before
        assert isinstance(made, (SkillSet, Reject)) and before.as_dict() == {"a": "x"}


def test_how_a_chat_model_writes_an_edit() -> None:
    said = "<think>Edit: delete\nName: a</think>Sure!\n\n"
    said += "**Edit:** Replace\n**Name:** `Night Fares`\n**Text:**\n```markdown\n# x\n\ny\n```"
    assert parse_edit(said) == Edit("replace", "night-fares", "# x\n\ny")
    assert parse_edit("Edit: none") is None and parse_edit(".", "compact") is None
    assert parse_edit("<think>Edit: none").code == "empty"  # type: ignore[union-attr]


def test_caps_names_and_markdown() -> None:
    full = SkillSet.of({f"s{i:02d}": "x" * 400 for i in range(32)})
    for edit, code in (
        (Edit("add", "one-more", "x"), "limits"), (Edit("replace", "s00", "x" * 9000), "limits"),
        (Edit("add", "No Name", "x"), "charset"), (Edit("add", "../up", "x"), "charset"),
        (Edit("add", "a", " \n"), "empty"),
    ):  # fmt: skip
        made = full.changed(edit)
        assert isinstance(made, Reject) and made.code == code
    assert isinstance(full.changed(Edit("replace", "s00", "x"), chars=10), SkillSet), "what shortens a set is allowed"
    headed = SkillSet.of({"a": "## b\n\n### c\n# d", "b": "- e"})
    assert read_markdown(headed.markdown()) == headed and headed.words == 8
    assert SkillSet.of({"a": "bc"}).hash != SkillSet.of({"ab": "c"}).hash
