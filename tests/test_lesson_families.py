"""What holds for every family of lessons: one battery, whatever it is about."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from dream_envs.core import REJECT_CODES, Reject
from dream_envs.envs.sleep_cycle import SleepCycle
from dream_envs.play import play, text_of
from dream_envs.seeds import stream
from dream_envs.tasks.lessons import FAMILIES, LessonFamily, lesson_family
from dream_envs.testing.cores import HOSTILE

#: Every family in every notation, and in what else changes its texts.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{name}-{n}": (name, {"notation": n})
        for name in ("operations", "rules", "tables")
        for n in ("compact", "english")
    },
    "rules-shift": ("rules", {"rules": "shift", "shown": 3}),
    "documents": ("documents", {}),
    **{f"archives-{form}": ("archives", {"form": form, "records": 12}) for form in ("book", "log", "table")},
}  # fmt: skip


@pytest.fixture(params=CASES)
def family(request: pytest.FixtureRequest) -> LessonFamily:
    name, args = CASES[request.param]
    return lesson_family(name, args=args)


def test_every_family_is_here() -> None:
    assert {name for name, _ in CASES.values()} == set(FAMILIES)


def test_gold_is_right_and_what_is_asked_can_be_proposed(family: LessonFamily) -> None:
    for seed in range(60):
        rng = stream("battery", family.name, seed)
        lesson = family.lesson(rng, seed % family.capacity)
        assert msgspec.json.decode(msgspec.json.encode(lesson), type=type(lesson)) == lesson
        assert family.lesson(stream("battery", family.name, seed), lesson.index) == lesson, "a lesson is its draws'"
        task = family.question(lesson, rng, ("wake", "probe")[seed % 2])
        assert family.verify(task, family.gold(task)).value == 1.0 and task.family == family.name
        assert task.meta["lesson"] == lesson.index and task.level in family.levels
        assert lesson.context not in task.prompt and family.brief(lesson)
        again = family.parse(lesson, family.as_proposal(task))
        assert not isinstance(again, Reject) and (again.prompt, again.answer) == (task.prompt, task.answer)


def test_hostile_replies_are_worth_nothing_and_raise_nothing(family: LessonFamily) -> None:
    rng = stream("hostile", family.name)
    lesson = family.lesson(rng, 1)
    for split in ("wake", "probe"):
        task = family.question(lesson, rng, split)  # type: ignore[arg-type]
        listed = " ".join(dict.fromkeys([*(family.guess(task, rng) for _ in range(200)), family.gold(task)]))
        for reply in (*HOSTILE.values(), lesson.context, task.prompt, listed, family.brief(lesson)):
            assert family.verify(task, reply).value == 0.0
            found = family.parse(lesson, reply)
            assert not isinstance(found, Reject) or found.code in REJECT_CODES


def test_chance_is_the_rate_of_a_guess(family: LessonFamily) -> None:
    """30,000 draws over 100 questions (10^5 and more over all families), five standard deviations."""
    rng, expected, hits, spread = stream("chance", family.name), 0.0, 0.0, 0.0
    for i in range(100):
        task = family.question(family.lesson(rng, i % family.capacity), rng, "probe")
        chance = family.chance(task)
        assert 0 < chance <= 1 / 12
        expected, spread = expected + 300 * chance, spread + 300 * chance * (1 - chance)
        hits += sum(family.verify(task, family.guess(task, rng)).value for _ in range(300))
    assert abs(hits - expected) < 5 * math.sqrt(spread)


def test_closed_book_nothing_of_a_context_is_in_any_view(family: LessonFamily) -> None:
    game = SleepCycle(family, nights=2, probes=3, wakes=1)
    episode = play(game, {"learner": "amnesiac", "dreamer": "oracle"}, seed="battery")
    contexts = [t.prompt for t in episode.tasks if t.origin == "lesson"]
    closed = [text_of(t.messages) for t in episode.turns if t.messages[0]["role"] != "system"]
    pieces = [
        c[i : i + 12] for c in contexts for i in range(0, len(c) - 12, 12) if any(x in c[i : i + 12] for x in ">|")
    ]
    assert len(contexts) == 2 and closed and not [p for p in pieces for text in closed if p in text]
    facts = episode.outcome.facts
    assert facts["open"] == [1.0, 1.0] and facts["dreaming"]["valid"] == facts["dreaming"]["asked"]
