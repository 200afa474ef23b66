"""Lessons of few-shot rules: what is shown, what is asked, and what a guess is worth; the base that finds them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.envs.sleep_cycle import SleepCycle
from dream_envs.play import play, text_of
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.tasks.lessons import lesson_family
from dream_envs.tasks.rules import RULES, RuleLessons, table_of

WORLD = Composition()
NOTATIONS = ("compact", "english")


def test_a_lesson_by_hand():
    family = RuleLessons()
    lesson = family.lesson_of(0, "I", table_of("mirror", 3, family.states), "bcg")
    assert lesson.context == "I=b>cc>bg>n"
    task = family.make(lesson, "a", "IA")
    assert task.prompt == "a:IA" and task.answer == f"IdA{WORLD.step('A', 'd')}" and family.name == task.family
    english = RuleLessons("english")
    told = english.lesson_of(0, "I", table_of("shift", 2, family.states), "bcg").context
    assert told.endswith("Examples: b to d, c to e, g to i.") and "circle" in told


@pytest.mark.parametrize("notation", NOTATIONS)
@given(seed=st.integers(0, 10**6), level=st.sampled_from([1, 2, 3]), split=st.sampled_from(["wake", "probe"]))
@settings(max_examples=100, deadline=None)
def test_examples_tell_the_rule_and_no_question_looks_one_up_first(notation, seed, level, split):
    family, rng = RuleLessons(notation), stream("rules", seed)
    lesson = family.lesson(rng, seed % family.capacity)
    shown, table = lesson.facts["shown"], lesson.facts["table"]
    every = [table_of(rule, k, family.states) for rule in RULES for k in range(16)]
    assert [t for t in every if all(t[s] == table[s] for s in shown)] == [table] and len(shown) == family.shown
    pairs = [f"{s}>{table[s]}" if notation == "compact" else f"{s} to {table[s]}" for s in family.states]
    assert [p[0] for p in pairs if p in lesson.context] == list(shown)
    task = family.question(lesson, rng, split, level)
    state, looked_up, steps = task.meta["start"], [], []
    for op in task.meta["ops"]:
        looked_up += state if op == lesson.name else ""
        state = table[state] if op == lesson.name else WORLD.step(op, state)
        steps.append((op, state))
    said = "".join(o + s for o, s in steps) if notation == "compact" else ", ".join(f"{o} -> {s}" for o, s in steps)
    assert family.verify(task, said).value == 1.0 == family.verify(task, family.gold(task)).value
    assert looked_up[0] not in shown and task.level == level
    assert family.half(task.meta["start"], task.meta["ops"]) == split
    assert split == "probe" or {family.half(s, lesson.name) for s in looked_up} == {"wake"}
    assert family.parse(lesson, family.as_proposal(task)).answer == said


def test_what_probes_look_up_is_never_shown_nor_asked_awake():
    """Halves of an operation's states: over many lessons no probe's first state is an example or a day's question."""
    family = RuleLessons()
    seen: dict[str, dict[str, set[str]]] = {}
    for i in range(400):
        rng = stream("rule-halves", i)
        lesson = family.lesson(rng, i % 8)
        own = seen.setdefault(lesson.name, {"day": set(), "probe": set()})
        own["day"] |= {*lesson.facts["shown"], *(family.question(lesson, rng, "wake", 1).prompt[0] for _ in range(4))}
        own["probe"] |= {family.question(lesson, rng, "probe", 1).prompt[0] for _ in range(4)}
    for own in seen.values():
        assert not own["day"] & own["probe"] and len(own["day"]) == len(own["probe"]) == 8


def test_every_question_of_a_half_is_as_likely():
    family = RuleLessons(n_operations=2, levels=2)
    lesson, rng = family.lesson(stream("even"), 0), stream("even", "draws")
    counts = Counter(family.question(lesson, rng, "probe").prompt for _ in range(9000))
    asked = {
        f"{s}:{a}{b}"
        for s in family.states
        for a, b in itertools.product("ABI", repeat=2)
        if "I" in (a, b) and family.half(s, a + b) == "probe" and family.fresh(lesson, s, a + b)
    }
    expected = 9000 / len(asked)
    squares = sum((counts[p] - expected) ** 2 / expected for p in asked)
    assert set(counts) == asked and squares < len(asked) + 5 * math.sqrt(2 * len(asked))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RuleLessons(shown=2), "3 to 4"),
        (lambda: RuleLessons(rules="turn"), "'shift'"),
        (lambda: RuleLessons(rules=[]), "'mirror'"),
        (lambda: RuleLessons(n_states=8), "12 to 26"),
        (lambda: lesson_family("rules", args={"level": 1}), "'levels'"),
        (lambda: lesson_family("rule"), "did you mean 'rules'"),
    ],
)
def test_a_wrong_argument_is_said_in_one_line(make, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@given(start=st.text(max_size=2), ops=st.text(alphabet="ABIJz:>", max_size=4))
def test_the_half_of_anything_is_told(start, ops):
    assert RuleLessons().half(start, ops) in ("wake", "probe", "both")


def test_closed_book_no_example_is_in_any_view():
    game = SleepCycle("rules", nights=2, probes=3)
    episode = play(game, {"learner": "amnesiac", "dreamer": "oracle"}, seed="rules")
    contexts = [t.prompt for t in episode.tasks if t.origin == "lesson"]
    closed = [text_of(t.messages) for t in episode.turns if t.messages and t.messages[0]["role"] != "system"]
    assert len(contexts) == 2 and closed and not any(c[2:5] in text for c in contexts for text in closed)
    assert episode.outcome.facts["open"] == [1.0, 1.0] and episode.outcome.facts["dreaming"]["valid"] > 0


# ------------------------------------------------------------------------------------------------- the base that reads


def test_what_the_base_was_shown_follows_its_rule():
    """Against the 32 tables: every context has one rule, and what is answered is true of it, shown or not."""
    pytest.importorskip("torch")
    from dream_envs.baselines.nano import contexts
    from dream_envs.baselines.nano.recipe import BASES

    reading, every = BASES["rules"].support.reading, [table_of(r, k, WORLD.states) for r in RULES for k in range(16)]
    rng, kinds, new = stream("test-induced"), dict.fromkeys(("recite", "propose", "solve"), 0), 0
    for _ in range(2000):
        context, prompt, reply = contexts.induced(WORLD, reading, "I", rng)
        shown = {context[i]: context[i + 2] for i in range(2, len(context), 3)}
        (table,) = [t for t in every if all(t[s] == image for s, image in shown.items())]
        assert 4 <= len(shown) <= 8 and list(shown) == sorted(shown)
        kinds["recite" if prompt[1] == "?" else "propose" if prompt == "new" else "solve"] += 1
        if prompt[1] == "?":
            assert reply == "".join(s + table[s] for s in prompt[2:]) and len(prompt) == 10
            new += sum(s not in shown for s in prompt[2:])
        elif prompt != "new":
            assert contexts.traced(WORLD, prompt[0], prompt[2:], {"I": table}) == reply
    assert kinds["recite"] / 2000 == pytest.approx(reading.continued, abs=0.04) and new > 4 * kinds["recite"]


def test_its_card_holds_and_the_base_that_only_reads_finds_no_rule():
    """Exact, 96 probes of one entry: nano/rules far above chance (1/16), nano/context and closed book at nothing."""
    pytest.importorskip("torch")
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.baselines.nano.exams import success

    family, asked, told = RuleLessons(levels=1), [], []
    for i in range(96):
        rng = stream("test-card", i)
        lesson = family.lesson(rng, i % 8)
        task = family.question(lesson, rng, "probe")
        asked.append([{"role": "system", "content": lesson.context}, {"role": "user", "content": task.prompt}])
        told.append(task.answer)
    finds, reads = LocalAgent("nano/rules"), LocalAgent("nano/context")
    assert success(finds, asked, told).mean() > 0.72 and success(reads, asked, told).mean() < 0.04
    assert success(finds, [m[1:] for m in asked], told).mean() < 0.06


def test_its_card_names_the_recipe_that_made_it():
    pytest.importorskip("torch")
    from dream_envs.agents.engines.models import resolve, weights_hash
    from dream_envs.baselines.nano.recipe import BASES, recipe_hash
    from dream_envs.runs import read_json

    for name in ("rules", "explore", "context"):  # whose recipe a new one must not change
        card = read_json(Path(resolve(f"nano/{name}")) / "nano.json")
        assert card["recipe_hash"] == recipe_hash(BASES[name]) and card["name"] == f"nano/{name}"
        assert card["weights_hash"] == weights_hash(Path(resolve(f"nano/{name}"))) and card["parameters"] == 266_816
