"""``dream-envs train`` for what learns at night: runs to its report, is resumed, and mistakes are one line."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl")

from test_sleeping import LEARNING, small  # noqa: F401  (a fixture)

from dream_envs import cli
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.baselines import recipes
from dream_envs.baselines.loops import night_recipes
from dream_envs.baselines.studies import sleeping
from dream_envs.core import DreamEnvsError
from dream_envs.report.words import probability

NAMES = [name for name in recipes.ROWS if isinstance(recipes.recipe(name), recipes.NightRecipe)]
TINY = ["--set", "nights=2", "--set", "probes=4", "--set", "wakes=1", "--quiet"]
#: A user's own way through the night, found as ``test_night_recipes:MINE``.
MINE = recipes.NightRecipe(
    "mine",
    night_recipes.Knobs,
    sleeping.Method("two steps, all weights", SleepSettings(dreaming=None, learning=LEARNING, tolerance=None)),
)


def trained(name: str, out: Path, *more: str) -> int:
    return cli.main(["train", name, "--out", str(out), *TINY, *more])


def test_all_that_the_study_compares_by_name_are_methods_of_it() -> None:
    assert set(NAMES) <= set(sleeping.METHODS)
    wanted = {"sleep", "seal", "replay_sft", "in_context", "l2", "static_expert", "placebo"}
    assert set(NAMES) == wanted


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [*NAMES, "test_night_recipes:MINE"])
def test_a_recipe_ends_in_its_matrix(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert trained(name, tmp_path / "run") == 0
    told: dict[str, Any] = json.loads((tmp_path / "run" / "sleeping.json").read_text())
    shown, page = capsys.readouterr().out, unescape((tmp_path / "run" / "report.html").read_text())
    assert told["verdict"] in " ".join(shown.split()) and told["verdict"] in page
    assert ">What is left of each lesson</h2>" in page and (">Nights</h2>" in page) == (name != "in_context")
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] in (["1"], ["2"])]
    matrix = told["facts"]["closed"]
    assert [row[2:] for row in rows] == [[probability(v) for v in row[: i + 1]] for i, row in enumerate(matrix)]
    assert len(told["nights"]) == (0 if name == "in_context" else 2)
    for verb in ("info", "report"):
        assert cli.main([verb, str(tmp_path / "run"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["verdict"] == told["verdict"]


@pytest.mark.usefixtures("small")
def test_an_unfinished_run_asks_for_resume_and_then_ends_the_same(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert trained("sleep", tmp_path / "run") == 0
    first = json.loads((tmp_path / "run" / "sleeping.json").read_text())
    (tmp_path / "run" / "sleeping.json").unlink()
    (tmp_path / "run" / "nights" / "01" / "night.json").unlink()
    capsys.readouterr()
    assert trained("sleep", tmp_path / "run") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert trained("sleep", tmp_path / "run", "--resume") == 0
    again = json.loads((tmp_path / "run" / "sleeping.json").read_text())
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--agent", "grpo"], "agent"), (["--steps", "9"], "steps"), (["--set", "nigths=2"], "nights"),
        (["--set", "nights=99"], "nights"), (["--set", "probes=0"], "probes"), (["--set", "levels=[0]"], "level"),
        (["--model", "nano/contxt"], "nano/context"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_folder(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "sleep", *words, "--out", str(tmp_path / "run"), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not (tmp_path / "run").exists()


class Odd(night_recipes.Knobs, frozen=True):
    """A knob that nothing listens to."""

    rank: int = 16


def test_knobs_that_nothing_listens_to_are_refused(tmp_path: Path) -> None:
    odd = recipes.NightRecipe("mine", Odd, MINE.method)
    with pytest.raises(DreamEnvsError, match="rank"):
        night_recipes.settings_of(odd, recipes.Settings("mine"))


def test_a_night_that_would_wait_is_refused_where_every_day_has_one(tmp_path: Path) -> None:
    night = msgspec.structs.replace(MINE.method.night, waits=True)
    waits = msgspec.structs.replace(MINE, method=msgspec.structs.replace(MINE.method, night=night))
    with pytest.raises(DreamEnvsError, match="waits=True"):
        night_recipes.train(waits, recipes.Settings("mine"), tmp_path / "run", resume=False, threads=1)


def test_a_method_that_there_is_not_is_told_with_the_nearest() -> None:
    with pytest.raises(DreamEnvsError, match="sleep"):
        sleeping.method_of("slep")
    nobody = msgspec.structs.replace(MINE, method=None)
    with pytest.raises(DreamEnvsError, match="mine"):
        night_recipes.train(nobody, recipes.Settings("mine"), Path("nowhere"), resume=False, threads=1)
    assert not Path("nowhere").exists()
