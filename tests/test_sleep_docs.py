"""The pages of SleepCycle and of sleep: their Python runs as it stands there, and what they show is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from dream_envs.envs.sleep_cycle import SleepCycle
from dream_envs.play import play
from dream_envs.seeds import stream
from dream_envs.tasks.documents import DocumentLessons
from dream_envs.tasks.lessons import OperationLessons

DOCS = Path(__file__).parent.parent / "docs"
PAGE, SLEEP = ((DOCS / name).read_text("utf-8") for name in ("sleep_cycle.md", "sleep.md"))
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_blocks_run_one_after_the_other():
    assert len(BLOCKS) == 4
    names: dict = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"block {number} of sleep_cycle.md", "exec"), names)
        if number == 1:
            closed = names["facts"]["closed"]
            assert closed[0][0] == closed[1][0] == closed[1][1] == closed[2][1] == closed[2][2] == 1.0
            assert closed[2][0] == 0.0 and names["facts"]["gap"] == 0.0 and names["facts"]["forgetting"] == 0.5
        if number == 2:
            seats = [*(f"learner_{i}" for i in range(8)), "dreamer_0", "dreamer_1"]
            assert names["rewards"] == dict.fromkeys(seats, 1.0)
    # Four lessons, room for two: the first two are lost but for what a guess finds.
    found = [episode.outcome.facts for episode in names["lives"]]
    assert len(found) == 3 and all(facts["gap"] == 0.0 and 0.4 < facts["forgetting"] <= 2 / 3 for facts in found)
    assert all(facts["dreaming"]["valid"] == 16 for facts in found)


def test_the_examples_of_operations_are_right():
    rows = dict(re.findall(r"^(context|brief)    +(\S+)", PAGE, re.M))
    family = OperationLessons()
    context = re.search(r"^context    (I=\S+)$", PAGE, re.M).group(1)
    lesson = family.lesson_of(0, "I", dict(re.findall("(.)>(.)", context)))
    assert lesson.context == context and family.brief(lesson) == rows["brief"]
    asked = re.findall(r"^question   (\S+) +accepted reply   (\S+)$", PAGE, re.M)
    assert len(asked) == 2
    for prompt, reply in asked:
        assert family.parse(lesson, prompt).answer == reply


def test_the_examples_of_documents_are_right():
    form = r"^(context|awake|probe|reply) +(The Vas.*?|Who .*?|Under .*?|Lor.*?)(?=\n\w|\n```)"
    shown = {k: " ".join(v.split()) for k, v in re.findall(form, PAGE, re.M | re.S)}
    values = {
        "launched": "1829", "captain": "Loruban", "sails": "pink", "crew": "163", "figure": "seal", "cargo": "pepper",
    }  # fmt: skip
    family = DocumentLessons(kinds="ship")
    drawn = family.lesson(stream("page"), 3)
    lesson = type(drawn)(3, "Vashetane", shown["context"], {"kind": "ship", "name": "Vashetane", "values": values})
    assert all(value in shown["context"] for value in values.values())
    assert family.make(lesson, "captain", "wake").prompt == shown["awake"]
    assert family.make(lesson, "captain", "probe").prompt == shown["probe"]
    assert family.make(lesson, "captain").answer == shown["reply"]
    proposal = re.search(r"^proposal   (Q: .*)\n +(A: .*)$", PAGE, re.M)
    assert family.parse(lesson, "\n".join(proposal.groups())).meta["truth"] == "executed"


def test_the_table_of_facts_names_them_all():
    table = PAGE.partition("## Facts")[2].partition("## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", "\n".join(first)))
    facts = play(SleepCycle(nights=1), {"learner": "floor", "dreamer": "floor"}).outcome.facts
    assert named == set(facts) - {"agents"}


def test_the_example_of_sleep_moves_a_table(tmp_path, monkeypatch):
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    names = {}
    (block,) = re.findall(r"^```python\n(.*?)^```$", SLEEP, re.M | re.S)
    exec(compile(block, "sleep.md", "exec"), names)
    right = ["I" + image for image in "fkmbaenohpcdgijl"]
    score = {name: sum(a == b for a, b in zip(names[name], right, strict=True)) for name in ("before", "told", "after")}
    assert score["told"] >= 15 and score["before"] <= 4 and score["after"] >= 13
    assert {"night.json", "config.json"} <= {p.name for p in Path("runs/first_night/nights/00").iterdir()}


@pytest.mark.parametrize("name", ["night.SleepSettings", "seeding.SeedingSettings", "dreams.DreamSettings"])
def test_the_tables_of_sleep_name_every_knob_with_its_default(name):
    pytest.importorskip("trl")
    module, _, kind = name.partition(".")
    settings = getattr(importlib.import_module(f"dream_envs.agents.sleep.{module}"), kind)()
    part = SLEEP[SLEEP.index(f"| `{kind}`") :].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", part, re.M))
    told.pop(kind, None)  # the head of the table
    nested = {"learning", "dreaming"}  # tables of their own
    assert told == {name: str(getattr(settings, name)) for name in settings.__struct_fields__ if name not in nested}
