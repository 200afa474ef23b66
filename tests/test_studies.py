"""The studies' runner on a study of its own making: what is still to do, what is refused, what stops, what is shown."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from dream_envs.baselines.recipe import Options, settled
from dream_envs.baselines.studies import __main__ as command
from dream_envs.baselines.studies import flagship, grid
from dream_envs.core import DreamEnvsError
from dream_envs.runs import read_json

STUDY = """
import time
from pathlib import Path
import msgspec
from dream_envs.baselines.studies.grid import table_of
from dream_envs.runs import read_json, write_json

class Settings(msgspec.Struct, frozen=True):
    value: float = 1.0
    wait: float = 0.0
    fails: bool = False

SETTINGS = {"one": Settings(), "two": Settings(2.0), "slow": Settings(wait=4), "bad": Settings(fails=True)}
GRIDS, MARKS = {"all": ("one", "two")}, {"all": "made"}

def run(settings, seed, out):
    time.sleep(settings.wait)
    if settings.fails:
        raise RuntimeError("no such luck\\nsecond line")
    with open(out / "ran", "a") as file:
        file.write("x")
    write_json(out / "result.json", {"value": settings.value + int(seed)})

def score(folder):
    return read_json(folder / "result.json")

def table(rows, out):
    return table_of(rows, {"value": "value"})
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The study, importable here and in the processes that the runner starts."""
    import importlib

    (tmp_path / "made_study.py").write_text(STUDY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(grid, "prepare", lambda: None)
    sys.modules.pop("made_study", None)
    return importlib.import_module("made_study")


def test_what_is_missing_is_run_once_whole_seeds_first(made: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = grid.plan(made, ("one", "two"), 2, out)
    assert [(j.name, j.seed) for j in jobs] == [("one", "0"), ("two", "0"), ("one", "1"), ("two", "1")]
    told: list[str] = []
    grid.run_all(jobs[:1], 1, told.append)
    kept = (out / "one-0" / grid.RECORD).read_bytes()
    assert len(told) == 1 and told[0].startswith("1/1  one-0") and "left" in told[0]
    grid.run_all(jobs, 2)
    assert [(j.out / "ran").read_text() for j in jobs] == ["x"] * 4
    assert (out / "one-0" / grid.RECORD).read_bytes() == kept
    rows = grid.rows(made, jobs)
    assert [(r["name"], r["seed"], r["value"]) for r in rows] == [
        ("one", "0", 1.0), ("two", "0", 2.0), ("one", "1", 2.0), ("two", "1", 3.0),
    ]  # fmt: skip
    (out / "two-1" / grid.RECORD).write_text('{"settings": {"value"')
    with pytest.raises(DreamEnvsError, match=r"study\.json"):
        grid.rows(made, jobs)


def test_a_folder_of_other_settings_is_refused_before_anything_runs(made: Any, tmp_path: Path) -> None:
    grid.run_all(grid.plan(made, ("one",), 1, tmp_path), 1)
    other = grid.plan(made, ("two", "one"), 1, tmp_path, {"value": "5"})
    assert other[0].settings.value == 5.0
    with pytest.raises(DreamEnvsError, match=r"other settings") as caught:
        grid.run_all(other, 1)
    assert "\n" not in str(caught.value) and not (tmp_path / "two-0").exists()
    for names, changes in ((("on",), {}), (("one",), {"valu": 1})):
        with pytest.raises(DreamEnvsError) as caught:
            grid.plan(made, names, 1, tmp_path, changes)
        assert "\n" not in str(caught.value)


def test_a_run_that_fails_is_named_and_leaves_nobody_running(made: Any, tmp_path: Path) -> None:
    """What is left running would write into the folders that the same command, run again, resumes."""
    with pytest.raises(DreamEnvsError) as caught:
        grid.run_all(grid.plan(made, ("slow", "bad"), 1, tmp_path), 2)
    text = str(caught.value)
    assert "bad-0 failed (RuntimeError: no such luck)" in text and "bad-0.log" in text and "\n" not in text
    time.sleep(5)
    assert not (tmp_path / "slow-0" / "ran").exists()


def test_two_processes_never_work_in_one_folder(tmp_path: Path) -> None:
    """A child that outlived its killed study holds the folder; the one that a new study starts waits for it."""
    pytest.importorskip("fcntl")
    order: list[str] = []

    def second() -> None:
        with grid.alone(tmp_path):
            order.append("second")

    with grid.alone(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join(5)
    assert order == ["first", "second"]


def test_tables_and_differences_are_paired_by_seed() -> None:
    """Two seeds whose levels differ by far more than the settings do: only a paired difference sees the settings."""
    rows: list[grid.Row] = [
        {"name": "a_b", "seed": "0", "x": 0.9}, {"name": "a_b", "seed": "1", "x": 0.5},
        {"name": "c", "seed": "1", "x": 0.401}, {"name": "c", "seed": "0", "x": 0.799},
        {"name": "c", "seed": "2", "x": None},
    ]  # fmt: skip
    found = grid.difference(rows, "a_b", "c", "x")
    assert found is not None and found[0] == pytest.approx(0.1) and 0.08 < found[1] < found[2] < 0.12
    assert grid.difference(rows, "a_b", "none", "x") is None
    half = grid.difference(rows, "a_b", "c", "x", 0.5)
    assert half is not None and half[0] == pytest.approx((0.9 - 0.3995 + 0.5 - 0.2005) / 2)
    lines = grid.table_of(rows, {"X": ("x", 1), "Y": "y"}, {"n": lambda own: str(len(own))}).splitlines()
    assert lines[0] == "| setting | runs | X | Y | n |" and lines[2].startswith("| a\\_b | 2 | 0.7 [-1.8, 3.2] | - | 2")
    assert lines[3].startswith("| c | 3 | 0.6 [") and "(2/3)" in lines[3]


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_runs_shows_and_writes_between_the_marks(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grid, "study", lambda name: made)
    readme, out = tmp_path / "README.md", tmp_path / "out"
    readme.write_text("# Höhe\n<!-- made -->\nold\n<!-- /made -->\nlast <!-- other -->\n", encoding="utf-8")
    line = ["made", "--out", str(out), "--seeds", "1", "--readme", str(readme), "--set", "value=3"]
    for _ in range(2):
        command.main(line)
        table = (out / "all.md").read_text()
        assert "| one | 1 | 3.00 |" in table and table.strip() in capsys.readouterr().out
        text = f"# Höhe\n<!-- made -->\n{table.strip()}\n<!-- /made -->\nlast <!-- other -->\n"
        assert readme.read_text("utf-8") == text
    with pytest.raises(SystemExit) as stopped:
        command.main([*line[:-2], "--grid", "al"])
    assert "\n" not in str(stopped.value) and "'al'" in str(stopped.value)


@pytest.mark.parametrize("text", ["", "<!-- made --> only", "<!-- /made --> <!-- made -->"])
def test_a_readme_without_marks_is_left_alone(text: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(DreamEnvsError) as caught:
        grid.into_readme("table", readme, "made")
    assert "\n" not in str(caught.value) and readme.read_text() == text


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "two", "²", ""])
def test_no_number_of_seeds_shows_a_traceback(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["nights", f"--seeds={given}"])
    assert stopped.value.code == 2 and "a whole number of 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("name", grid.STUDIES)
def test_every_study_has_what_the_runner_asks_for(name: str, tmp_path: Path) -> None:
    study = grid.study(name)
    assert callable(study.run) and callable(study.score) and callable(study.table)
    assert set(getattr(study, "MARKS", ())) <= set(study.GRIDS)
    for names in study.GRIDS.values():
        jobs = grid.plan(study, names, 2, tmp_path)
        assert len({j.out for j in jobs}) == len(jobs) == 2 * len(names)
        for job in jobs[: len(names)]:
            if isinstance(job.settings, Options):
                _, recipe = settled(job.settings)  # a loop and settings that there are
                assert recipe.steps >= 1


# ---- the flagship -----------------------------------------------------------------------------------------------


def test_a_flagship_run_in_miniature_and_its_table(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"mixture.challenger": 4, "mixture.mutation": 0, "mixture.replay": 0, "attempts": 2}
    (job,) = grid.plan(flagship, ("awake",), 1, tmp_path, {"steps": 1, "eval.problems": 4, **tiny})
    flagship.run(job.settings, job.seed, job.out)
    found = flagship.score(job.out)
    assert found["samples"] > 4 and 0 <= found["6"] <= 1 and found["worst"] == min(found[d] for d in "345")
    assert flagship.score(job.out) == found and read_json(job.out / "summary.json")["run"]["seed"] == "0"
    rows = [{"name": n, "seed": s, **found, "6": v} for n, s, v in (("sleep", "0", 0.9), ("awake", "0", 0.5))]
    text = flagship.table(rows, tmp_path)
    assert "above `awake`: depth 6 0.40 (yes (one seed))" in text and "(base, before) | 2 |" in text


def test_the_learners_grid_is_every_learner_at_equal_samples() -> None:
    own = {name: flagship.SETTINGS[name] for name in flagship.GRIDS["learners"]}
    assert {o.learner or "grpo" for o in own.values()} == {"grpo", "grpo4", "ppo", "rloo", "expert"}
    assert {o.steps for o in own.values()} == {None, flagship.EXPERT_EQUAL_STEPS}
    assert all(o.set == {"variant": "full"} for o in own.values())
