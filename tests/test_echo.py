"""The echo study: three formats told apart, a reward that asks for the last state alone, bases of known shares."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("trl")

from dream_envs.agents.engines.local import LocalAgent, resolve
from dream_envs.baselines.nano import recipe
from dream_envs.baselines.studies import echo as study
from dream_envs.baselines.studies import echo_family as task
from dream_envs.baselines.studies import grid
from dream_envs.core import DreamEnvsError, Reject
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.runs import read_json
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.testing import check

quick = settings(max_examples=400, deadline=None, derandomize=True, database=None)
TINY = {"n_states": 3, "n_operations": 2, "held_out_pairs": 0}

# ---- the formats -----------------------------------------------------------------------------------------------


def by_hand(text: str) -> str:
    """The oracle: the pattern of small and capital ASCII letters, read character by character."""
    kinds = "".join("a" if c in string.ascii_lowercase else "A" if c in string.ascii_uppercase else "?" for c in text)
    if kinds == "a":
        return "final"
    if kinds and set(kinds) == {"a"}:
        return "states"
    return "trace" if kinds and kinds == "Aa" * (len(kinds) // 2) else "other"


@quick
@given(st.one_of(st.text(max_size=12), st.text(alphabet="abAB", max_size=9), st.text(alphabet="aA \n-", max_size=6)))
def test_every_text_has_exactly_one_format(text: str) -> None:
    assert task.format_of(text) == by_hand(text)
    assert sum(form.fullmatch(text) is not None for form in task._FORMS.values()) == (by_hand(text) != "other")


def test_hand_worked_formats() -> None:
    found = [task.format_of(t) for t in ("a", "fka", "fk", "BfDkAa", "Bf")]
    assert found == ["final", "states", "states", "trace", "trace"]
    none = ("", "a\n", " a", "ä", "ａ", "A", "aA", "Aa B", "Aab", "BfDkA", "B->f", "1", "a b", "\x00", "ſ", "ı")
    assert {task.format_of(text) for text in none} == {"other"}


# ---- the reward ------------------------------------------------------------------------------------------------


def test_of_all_short_texts_exactly_the_right_ones_are_accepted() -> None:
    """Two steps in a world of three states: each text of up to five characters, against a list made from the table."""
    family = task.CompositionFormats(**TINY)
    assert family.states == "abc" and family.operations == "AB"
    texts = ["".join(t) for n in range(6) for t in itertools.product("abcdABC", repeat=n)]
    for start, first, second in itertools.product("abc", "AB", "AB"):
        problem = family.make(start, first + second)
        middle = family.states[family.table["AB".index(first), "abc".index(start)]]
        end = family.states[family.table["AB".index(second), "abc".index(middle)]]
        right = {end} | {x + end for x in "abc"} | {first + x + second + end for x in "abc"}
        assert {t for t in texts if family.verify(problem, t).value == 1.0} == right
        assert all(family.verify(problem, t).status == "ok" for t in texts[:200])


def test_the_strict_family_stays_strict() -> None:
    strict, loose = Composition(**TINY), task.CompositionFormats(**TINY)
    problem = strict.make("a", "AB")
    for reply, accepted in ((problem.answer, (1, 1)), (problem.answer[1::2], (0, 1)), (problem.answer[-1], (0, 1))):
        assert (strict.verify(problem, reply).value, loose.verify(problem, reply).value) == accepted


def test_a_guess_is_right_as_often_as_chance_says_and_gold_always() -> None:
    family, rng = task.CompositionFormats(n_operations=4), stream("test-echo", "guess")
    drawn = [family.generate(rng, level) for level in (2, 3, 5) for _ in range(2000)]
    assert all(family.verify(t, family.gold(t)).value == 1.0 for t in drawn)
    rate = np.mean([family.verify(t, family.guess(t, rng)).value for t in drawn])
    assert family.chance(drawn[0]) == 1 / 16
    assert abs(rate - 1 / 16) < 4 * math.sqrt(1 / 16 * 15 / 16 / len(drawn))


def test_one_step_is_refused_since_two_formats_would_be_one() -> None:
    family = task.CompositionFormats(**TINY)
    found = family.parse("a:A")
    assert isinstance(found, Reject) and found.code == "limits"
    assert not isinstance(family.parse("a:AB"), Reject)
    for wrong in ({"max_level": 1}, {"notation": "english"}):
        with pytest.raises(DreamEnvsError) as caught:
            task.CompositionFormats(**wrong)
        assert "\n" not in str(caught.value) and str(next(iter(wrong.values()))) in str(caught.value)
    with pytest.raises(DreamEnvsError):
        family.generate(stream("x"), 1)


def test_the_game_on_this_family_passes_the_conformance_kit() -> None:
    game = ChallengerSolver(task.CompositionFormats(max_level=4), solvers=3)
    check(game, skip=("process_determinism",), raise_on_failure=True)


# ---- numbers over runs -----------------------------------------------------------------------------------------


def test_t_interval_by_hand() -> None:
    mean, low, high = grid.over([1, 2, None, 3, 4, 5])  # s = sqrt(2.5), t(0.975, 4) = 2.776445
    assert mean == 3 and (high - low) / 2 == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert grid.over([4.0])[0] == 4 and all(math.isnan(x) for x in grid.over([4.0])[1:]) and grid.over([]) is None
    with pytest.raises(DreamEnvsError):
        grid.over([1.0, math.nan])


@quick
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.sampled_from([1, 3, 5]))
def test_smooth_is_the_mean_of_what_is_within_reach(values: list[float], window: int) -> None:
    reach = window // 2
    expected = [np.mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
    assert study.smooth(values, window) == pytest.approx(expected, abs=1e-9)


def a_run(seed: str = "0", kl: float = 0.0, turn: int = 4, winner: str = "trace") -> dict[str, Any]:
    """A made-up run of 20 steps, five an epoch: at ``turn`` all replies change from ``final`` to the winner."""

    def exam(step: int) -> dict[str, Any]:
        late = step >= turn
        share = {"final": 0.5, "states": 0.25, "trace": 0.25, "other": 0.0}
        share = {f: float(f == winner) for f in share} if late else share
        numbers = dict.fromkeys(("effective", "js", "kl"), 0.5)
        return {
            "step": step, "share": share, "entropy": 0.0 if late else 1.5, "accuracy": 0.8 if late else 0.4, **numbers,
            "accuracy_in": {"final": 0.2, "states": None if late else 0.5, "trace": 0.9},
            "pass@k": {"1": 0.4}, "majority@k": {"1": 0.4}, "greedy": {"share": share, "accuracy": 0.5, "gap": 0.1},
        }  # fmt: skip

    late = [step >= turn for step in range(20)]
    shares = {f: [float(f == winner) if x else exam(0)["share"][f] for x in late] for f in task.LABELS}
    return {
        "settings": {"base": "b", "kl": kl, "seed": seed, "steps": 20, "prompts": 4, "attempts": 8, "lr": 1e-3},
        "epoch_steps": 5,
        "exams": [exam(s) for s in (0, 2, 4, 8, 20)],
        "rounds": {"step": list(range(20)), "entropy": [0.0 if x else 1.5 for x in late], "share": shares},
    }  # fmt: skip


def rows_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": f"b-kl{r['settings']['kl']:g}", "seed": r["settings"]["seed"], **study.derive(r)} for r in runs]


def test_a_run_read_by_hand() -> None:
    """Five-step means: at step 4 three of steps 2 to 6 are late, at step 6 all of 4 to 8."""
    found = study.derive(a_run())
    assert (found["base_best"], found["base_majority"], found["winner"]) == ("trace", "final", "trace")
    assert (found["won_step"], found["half_step"]) == (6, 4)  # entropy at 4: 1.5 * 2 / 5 = 0.6, half is 0.75
    assert (found["won_epochs"], found["gain_by_half"], found["gain_by_epoch"]) == (1.2, 1.0, 1.0)
    assert found["gain"] == pytest.approx(0.4) and found["epoch_share"] == 1.0
    # all completions change to the trace, which was right in 0.9: at the old accuracies 0.4 would have become 0.9
    assert found["gain_by_choice"] == pytest.approx((0.9 - 0.4) / (0.8 - 0.4))
    assert found["before/accuracy_in/trace"] == 0.9 and found["after/greedy/gap"] == 0.1
    found = study.derive(a_run(turn=99))
    assert found["won_step"] is found["half_epochs"] is found["gain_by_half"] is None and found["winner"] == "final"


@pytest.mark.parametrize(
    ("turns", "winners", "expected"),
    [
        ((1, 1, 1), ("trace",) * 3, "confirmed"),
        ((9, 10, 11), ("trace",) * 3, "refuted"),
        ((1, 1, 9), ("trace",) * 3, "mixed"),  # the interval of when reaches past the first epoch
        ((1, 1, 1), ("trace", "trace", "states"), "mixed"),
        ((1, 1, 99), ("trace",) * 3, "mixed"),  # one run never gets there
        ((99, 99, 99), ("trace",) * 3, "refuted"),
        ((99, 99, 1), ("trace",) * 3, "refuted"),
    ],
)
def test_the_word_of_a_setting(turns: tuple[int, ...], winners: tuple[str, ...], expected: str) -> None:
    runs = [a_run(str(i), turn=t, winner=w) for i, (t, w) in enumerate(zip(turns, winners, strict=True))]
    assert study.word(rows_of(runs)) == expected


def test_the_effect_of_the_coefficient_is_paired_by_seed() -> None:
    """Seeds 0 and 1 with 1e-2 end 0.1 and 0.3 above their twins with 0; a third seed has no twin."""
    runs = [a_run("0"), a_run("1"), a_run("0", 0.01), a_run("1", 0.01), a_run("2", 0.01)]
    for run, value in zip(runs, (0.5, 0.6, 0.6, 0.9, 0.0), strict=True):
        run["exams"][-1]["accuracy"] = value
    (row,) = [e for e in study.effects(rows_of(runs)) if e[2] == "accuracy"]
    assert row[:2] == ("b-kl0.01", "b-kl0") and row[3][0] == pytest.approx(0.2)


def test_the_report_shows_what_is_there(tmp_path: Path) -> None:
    runs = [a_run(str(i), kl, turn=1 if i else 99) for i in range(3) for kl in (0.0, 0.01)]
    for run in runs:
        for exam in run["exams"]:
            exam["pass@k"] = exam["majority@k"] = {"8": 0.25, "32": 0.5}
    text = study.table(rows_of(runs), tmp_path)
    assert "trace 2/3, final 1/3" in text and "(2/3)" in text and not re.search(r"\bnan\b", text)
    assert "within the first epoch: mixed** (0 confirmed, 2 mixed, 0 refuted)" in text
    assert (tmp_path / "echo.svg").read_text("utf-8").count("<svg") == 1
    assert (tmp_path / "echo.png").stat().st_size > 1000
    with pytest.raises(DreamEnvsError):
        study.table([], tmp_path)


# ---- the bases -------------------------------------------------------------------------------------------------


def test_new_rows_leave_nano_compose_as_it_was() -> None:
    """Recipe, data and weights of the published base, as they were before the others came."""
    made = recipe.BASES["compose"]
    first = list(itertools.islice(recipe.examples(made, stream("nano-data", made.seed)), 5000))
    assert recipe.recipe_hash(made) == "34a43da767b71895"
    assert hashlib.sha256(repr(first).encode()).hexdigest()[:16] == "254549b11130bfac"
    assert recipe.weights_hash(Path(resolve("nano/compose"))) == "aeb0216991e20894"


@pytest.mark.parametrize("name", ["compose", "discover", "echo", "echo_wide", "judge", "context", "kuhn"])
def test_what_is_shipped_is_what_the_recipe_says(name: str) -> None:
    folder = Path(resolve(f"nano/{name}"))
    card = read_json(folder / "nano.json")
    assert card["name"] == f"nano/{name}" and card["recipe_hash"] == recipe.recipe_hash(recipe.BASES[name])
    assert card["weights_hash"] == recipe.weights_hash(folder)
    assert (folder / "model.safetensors").stat().st_size <= 4 * 2**20
    assert sum(p.numel() for p in recipe.build_model(recipe.BASES[name], 0).parameters()) == card["parameters"]
    assert f"{card['parameters']:,} parameters" in (folder / "README.md").read_text("utf-8")


def test_the_corpus_has_the_declared_shares_and_only_right_answers() -> None:
    made = recipe.BASES["echo"]
    support, n = made.support, 20_000
    family = task.CompositionFormats(**support.family_args)
    pairs = list(itertools.islice(recipe.examples(made, stream("test-echo", "corpus")), n))
    counts = Counter(task.format_of(reply) for _, reply in pairs)
    for name, share in support.formats.items():
        assert abs(counts[name] / n - share) < 4 * math.sqrt(share * (1 - share) / n)
    for prompt, reply in pairs[:2000]:
        problem = family.parse(prompt)
        assert family.verify(problem, reply).value == 1.0 and problem.level in support.depths
        assert reply in (problem.answer, problem.answer[1::2], problem.answer[-1])


@pytest.mark.parametrize("name", ["nano/echo", "nano/echo_wide"])
def test_a_base_says_the_formats_in_the_shares_of_its_corpus(name: str) -> None:
    """Within 0.03 of what was declared, over both depths; and the commonest format is not the best one."""
    base, family = LocalAgent(name), task.CompositionFormats(**study.world_of(name, 3))
    found = {}
    for depth in (2, 3):
        tasks = study.problems(family, depth, 1, 96)[1]
        found[depth] = study.Exam(family, tasks, base, seed="test")(base)
    for form, share in recipe.BASES[name.removeprefix("nano/")].support.formats.items():
        said = np.mean([found[d]["share"][form] for d in (2, 3)])
        assert abs(said - share) < 0.03, (form, said)
    deep = found[3]["accuracy_in"]
    assert max(deep, key=deep.get) == "trace" and max(found[3]["share"], key=found[3]["share"].get) == "final"
    assert deep["trace"] - deep["final"] > 0.15 and 0.15 < deep["final"] < 0.7 and 0.75 < deep["trace"] < 0.92
