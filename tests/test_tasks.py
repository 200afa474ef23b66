"""One battery for every row of the task registry in both notations: a new family is tested the day it is added.

``python tests/test_tasks.py`` writes the golden file anew, which is right only after a family's version has gone up.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from _families import CASES, NAMES
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs import core, registry
from dream_envs.core import REJECT_CODES, DreamEnvsError, Reject, Score, Task
from dream_envs.seeds import stream
from dream_envs.tasks import answers

GOLDEN = pathlib.Path(__file__).parent / "golden" / "tasks.json"
HUGE = 1_000_000
every_case = pytest.mark.parametrize(("name", "notation"), CASES)
quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@functools.cache
def family(name: str, notation: str) -> Any:
    return registry.create("tasks", name, notation=notation)


def sample(name: str, notation: str, count: int, levels: int = 4) -> list[Task]:
    """``count`` problems, going round the lowest ``levels`` levels."""
    f = family(name, notation)
    return [f.generate(stream("battery", name, i), f.levels[i % min(levels, len(f.levels))]) for i in range(count)]


def one_line_error(call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        call(*args, **kwargs)
    assert str(caught.value) and "\n" not in str(caught.value)


@every_case
def test_gold_scores_one_and_survives_the_record(name: str, notation: str) -> None:
    f = family(name, notation)
    assert isinstance(f, core.TaskFamily)
    for task in sample(name, notation, 60):
        assert f.verify(task, f.gold(task)) == Score(1.0, grader=f"{name}-{f.version}")
        back = core.decode_task(core.encode(task))
        assert back == task
        assert f.verify(back, f.gold(back)).value == 1.0
        assert all(method(back) == method(task) for method in (f.as_proposal, f.features, f.chance))


def hostile(task: Task, gold: str, others: list[str], chat: bool) -> list[str]:
    """Replies that deserve nothing, whatever the family.

    ``chat``: what only the strict protocol turns away is left out; ``test_answers.py`` has what is read then.
    """
    wide = gold.translate({c: c + 0xFEE0 for c in range(0x21, 0x7F)})  # NFKC makes the gold reply of it
    arabic = gold.translate({ord("0") + i: 0x660 + i for i in range(10)})
    texts = ["", " ", "\n", "\x00", "None", "0" * 40, gold[:-1], gold + "x", "x" + gold, gold + gold, task.prompt]
    texts += [gold + odd for odd in ("\x00", "\u0301", f" or {gold}x")] + [odd + gold for odd in ("\u202e", "\ud800")]
    if not chat:
        texts += [gold + ".", task.prompt + gold, f"`{gold}`", f'"{gold}"', f"The answer is {gold}", f"{gold}\n{gold}"]
        texts += [gold + odd for odd in ("\u200b", "\u2028", "\u3000", f" or {gold}")]
        texts += [odd + gold for odd in ("\ufeff", "\u00a0")] + [f"\\boxed{{{gold}}}"]
        texts += [f"<answer>{gold}</answer>", gold.swapcase() + "!"]
    texts += [separator.join([*others, gold]) for separator in ("\n", " ", ",", ", ", " or ", "=", "")]
    return texts + ([wide] if wide != gold else []) + ([arabic] if arabic != gold else [])


@every_case
def test_anything_but_the_gold_reply_scores_nothing(name: str, notation: str) -> None:
    f = family(name, notation)
    tasks = sample(name, notation, 40)
    golds = [f.gold(t) for t in tasks]
    for task, gold in zip(tasks, golds, strict=True):
        for text in hostile(task, gold, [g for g in golds if g != gold], notation == "english"):
            score = f.verify(task, text)
            assert (score.value, score.status) == (0.0, "ok"), (task, text[:80])


@every_case
def test_blanks_around_a_reply(name: str, notation: str) -> None:
    """``english`` forgives a few, ``compact`` none: there, one text is one reply."""
    f = family(name, notation)
    for task in sample(name, notation, 20):
        gold = f.gold(task)
        for text in (gold + "\n", " " + gold, "\n\n" + gold, f"\t{gold} \r\n"):
            assert f.verify(task, text).value == float(notation == "english"), repr(text)


@every_case
def test_a_megabyte_is_cheap(name: str, notation: str) -> None:
    f = family(name, notation)
    task = sample(name, notation, 1)[0]
    gold = f.gold(task)
    for unit in ("9", "(", "()", "1+", "a", "\n", " ", "é", gold, task.prompt, f.as_proposal(task), "\ud800"):
        text = unit * (HUGE // len(unit))
        started = time.perf_counter()
        found, score = f.parse(text), f.verify(task, text)
        assert time.perf_counter() - started < 0.25
        assert isinstance(found, Reject) and score.value == 0.0


@every_case
def test_a_proposal_is_the_problem(name: str, notation: str) -> None:
    f = family(name, notation)
    for task in sample(name, notation, 60, levels=100):
        text = f.as_proposal(task)
        found = f.parse(text)
        assert isinstance(found, Task), (text, found)
        assert (found.prompt, found.answer, found.id, found.level) == (task.prompt, task.answer, task.id, task.level)
        assert f.as_proposal(found) == text
        assert len(text) <= f.max_chars
        assert len(f.gold(task)) < f.max_reply_tokens  # holds even for one token a character and an end token
        assert task.family == name and task.meta.get("truth", "executed") in ("executed", "verified")


@every_case
def test_the_proposal_form_is_an_example(name: str, notation: str) -> None:
    f = family(name, notation)
    examples = re.findall(r"'([^']+)'", f.proposal_form())
    assert examples and all(isinstance(f.parse(e), Task) for e in examples)
    task = sample(name, notation, 1)[0]
    brief = f.brief(task.level, task)
    if notation == "english":
        assert f.proposal_form() in brief and str(task.level) in brief
        assert f.brief(task.level) != f.brief() != brief
        assert not re.search(rf"(?<!\w){re.escape(f.gold(task))}(?!\w)", brief.replace(f.proposal_form(), ""))


@every_case
def test_mutation_is_one_step_harder_up_to_the_cap(name: str, notation: str) -> None:
    f = family(name, notation)
    for start in range(3):
        task, rng = f.generate(stream("mutate", name, start), f.levels.start), stream("mutate", start)
        while (harder := f.mutate(task, rng)) is not None:
            assert harder.level == task.level + 1 and harder.id != task.id and harder.origin == "mutation"
            assert f.verify(harder, f.gold(harder)).value == 1.0
            found = f.parse(f.as_proposal(harder))
            assert isinstance(found, Task) and found.id == harder.id
            task = harder
        assert task.level == f.levels.stop - 1


LETTER = st.one_of(*[st.integers(0, 10**4)] * 4, st.sampled_from("0129+-*/()=:, AB\né"))
EDITS = st.lists(st.tuples(st.sampled_from("irrdsc"), st.integers(0, 10**4), LETTER), min_size=1, max_size=3)


def edited(text: str, edits: list[tuple[str, int, int | str]], vocabulary: str) -> str:
    """``text`` after insertions, replacements, deletions, swaps and copies; a number picks from ``vocabulary``."""
    for kind, place, pick in edits:
        at = place % (len(text) + 1)
        letter = vocabulary[pick % len(vocabulary)] if isinstance(pick, int) else pick
        if kind == "i":
            text = text[:at] + letter + text[at:]
        elif kind == "r":
            text = text[:at] + letter + text[at + 1 :]
        elif kind == "d":
            text = text[:at] + text[at + 1 :]
        elif kind == "s":
            text = text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]
        else:
            text = text[:at] + text[max(0, at - 3) : at] + text[at:]
    return text


def check_proposal(f: Any, text: str) -> None:
    found = f.parse(text)
    if isinstance(found, Reject):
        assert found.code in REJECT_CODES and "\n" not in found.detail
        assert found.code == "empty" if not text else found.code != "empty" or f.protocol == "chat"
        return
    form = f.as_proposal(found)  # in the chat protocol it is found in the text, markup and blanks left out
    assert form == text if f.protocol == "strict" else answers.plain(text).find(form) >= 0
    assert found.level in f.levels and found.origin == "proposal"
    assert f.verify(found, f.gold(found)).value == 1.0 and len(f.gold(found)) < f.max_reply_tokens
    assert 0.0 <= f.chance(found) <= 1.0


@every_case
@quick
@given(seed=st.integers(0, 10**6), edits=EDITS)
def test_a_changed_proposal_is_turned_away_or_canonical(name: str, notation: str, seed: int, edits: Any) -> None:
    f = family(name, notation)
    text = f.as_proposal(f.generate(stream("edit", seed), f.levels[seed % min(4, len(f.levels))]))
    check_proposal(f, edited(text, edits, text))


@every_case
@quick
@given(text=st.text(st.characters(), max_size=60), seed=st.integers(0, 50), edits=EDITS)
def test_any_text_is_survived(name: str, notation: str, text: str, seed: int, edits: Any) -> None:
    f = family(name, notation)
    check_proposal(f, text)
    task = f.generate(stream("any", seed), f.levels[seed % min(4, len(f.levels))])
    for reply in (text, edited(f.gold(task), edits, task.prompt)):
        score = f.verify(task, reply)
        assert score.value in (0.0, 1.0) and score.status == "ok"


@every_case
def test_levels(name: str, notation: str) -> None:
    f = family(name, notation)
    for level in f.levels:
        assert f.generate(stream("levels", level), level).level == level
        assert f.generate(stream("levels", level), np.int64(level)) == f.generate(stream("levels", level), level)
    for bad in (f.levels.start - 1, f.levels.stop, -1, 1.5, float(f.levels.start), "2", None, True, math.nan):
        one_line_error(f.generate, stream(0), bad)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_told_in_one_line(name: str) -> None:
    for bad in ("klingon", "", None, 3, ["compact"]):
        one_line_error(registry.create, "tasks", name, notation=bad)
    one_line_error(registry.create, "tasks", name, no_such_knob=1)
    knobs = [p for p in inspect.signature(registry.load("tasks", name)).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert knobs
    for knob in knobs:
        wrong: list[Any] = [[], None, 1.5, object()]
        if type(knob.default) is int:
            wrong += [-1, 10**30, math.nan, "3", True]
        for value in wrong:
            one_line_error(registry.create, "tasks", name, **{knob.name: value})


@every_case
def test_the_prompt_does_not_hold_its_answer(name: str, notation: str) -> None:
    for task in sample(name, notation, 400):
        assert not re.search(rf"(?<!\w){re.escape(task.answer)}(?!\w)", task.prompt), task


@pytest.mark.parametrize("name", NAMES)
def test_neighbouring_seeds_share_nothing(name: str) -> None:
    """At a level with far more than 200 * 200 problems; ``seed + i`` would share 199 of 200."""
    f = family(name, "compact")
    level = f.levels[min(5, len(f.levels) - 1)]
    a, b = ([f.generate(stream(name, seed, i), level).prompt for i in range(200)] for seed in (42, 43))
    assert len(set(a)) == len(set(b)) == 200
    assert not set(a) & set(b)


LISTING = """
import json
from dream_envs import registry
from dream_envs.seeds import stream
from dream_envs.tasks import answers
rows = {}
for name in NAMES:
    for notation in ("compact", "english"):
        f, rng = registry.create("tasks", name, notation=notation), stream(name, 7)
        tasks = [f.generate(rng, f.levels[i % 3]) for i in range(12)]
        tasks += [m for t in tasks if (m := f.mutate(t, rng))] + [f.parse(f.as_proposal(t)) for t in tasks]
        rows[name + " " + notation] = [
            [t.id, t.prompt, t.answer, f.guess(t, rng), f.chance(t), list(f.features(t))] for t in tasks
        ]
listing = json.dumps(rows, sort_keys=True)
"""


def test_a_fresh_process_draws_the_same_problems() -> None:
    here: dict[str, Any] = {"NAMES": NAMES}
    exec(LISTING, here)
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    code = f"NAMES = {NAMES}" + LISTING + "print(listing)"
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(there.stdout) == json.loads(here["listing"])


@every_case
def test_chance_is_the_rate_of_the_guesser(name: str, notation: str) -> None:
    """10^5 draws for two tasks of the lowest levels whose chance is nearest to 1/50: where a slip would show."""
    f, draws = family(name, notation), 100_000 if notation == "compact" else 20_000
    tasks = sample(name, notation, 40, levels=2)
    assert all(0.0 <= f.chance(t) <= 0.5 for t in tasks)
    near = sorted(tasks, key=lambda t: abs(math.log(f.chance(t) * 50 + 1e-12)))
    for number, task in enumerate(near[:2]):
        chance, rng = f.chance(task), stream("chance", name, notation, number)
        hits = sum(f.verify(task, f.guess(task, rng)).value for _ in range(draws))
        assert chance * draws > 20, "too rare to be tested by drawing"
        assert abs(hits / draws - chance) <= 5 * math.sqrt(chance * (1 - chance) / draws), (task, hits / draws, chance)


def golden() -> dict[str, list[str]]:
    """The ids of the first five problems of level 2 (or the lowest above it), by family, version and notation."""
    rows = {}
    for name, notation in CASES:
        f = family(name, notation)
        rng = stream("golden", name, notation)
        rows[f"{name}-{f.version} {notation}"] = [f.generate(rng, max(2, f.levels.start)).id for _ in range(5)]
    return rows


def test_golden_ids() -> None:
    kept, now = json.loads(GOLDEN.read_text()), golden()
    if "python" not in NAMES:  # no sandbox here
        kept = {name: ids for name, ids in kept.items() if not name.startswith("python-")}
    assert now == kept, (
        "the same seed gives other problems: raise the family's version, then write the golden file anew"
    )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
