"""Studies: their runner on one of its own making, the flagship and nights in miniature, answers, upward seeding."""

import importlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

pytest.importorskip("trl")

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.experience import Experience, context_of
from dream_envs.baselines.loop import Context, PhaseRun
from dream_envs.baselines.loops.nights import lesson_questions, sleeper
from dream_envs.baselines.recipe import Options, settled
from dream_envs.baselines.studies import __main__ as command
from dream_envs.baselines.studies import discovery, flagship, grid, nights, upward
from dream_envs.core import DreamEnvsError
from dream_envs.runs import read_json
from dream_envs.seeds import stream
from dream_envs.tasks.lessons import OperationLessons

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
    entered = threading.Event()

    def second() -> None:
        with grid.alone(tmp_path):
            entered.set()

    with grid.alone(tmp_path):
        threading.Thread(target=second).start()
        assert not entered.wait(0.3)
    assert entered.wait(5)


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
    line = ["made", "--out", str(out), "--seeds", "1", "--page", str(readme), "--set", "value=3"]
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
        grid.into_page("table", readme, "made")
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


# ---- nights, and upward seeding ---------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "nights": 2, "probes": 4, "wakes": 2, "eval.problems": 4,
    "nights.learning.steps": 2, "nights.learning.batch": 8, "nights.experience": 16,
    "nights.dreaming.dreams": 2, "nights.dreaming.size": 8, "nights.dreaming.top": 1, "nights.dreaming.random": 0,
    "nights.dreaming.memory": 1, "nights.dreaming.fiction": 0, "nights.dreaming.probe": 6,
    "nights.dreaming.inner_steps": 1, "nights.dreaming.draft": 1,
}  # fmt: skip


def test_a_stream_in_miniature_and_its_outcomes(tmp_path: Path) -> None:
    small = {k: v for k, v in TINY.items() if k.startswith("nights.")} | {"days": 2, "practices": 1, "challengers": 2}
    rows = []
    for job in grid.plan(discovery, ("full", "no_nights"), 1, tmp_path):
        tiny = {k: v for k, v in small.items() if not k.startswith("nights.") or job.name == "full"}
        discovery.run(msgspec.structs.replace(job.settings, set={**tiny, "eval.problems": 4}), job.seed, job.out)
        rows.append({"name": job.name, "seed": job.seed, **discovery.score(job.out)})
    assert all(0 <= row[k] <= 1 for row in rows for k in ("facts", "area", "within", "across", "known"))
    assert rows[0]["tokens"] > 0 == rows[1]["tokens"]
    assert "full - no_nights, across" in discovery.table(rows, tmp_path)


def test_a_run_in_miniature_and_its_figures(tmp_path: Path) -> None:
    (job,) = grid.plan(nights, ("sleep",), 1, tmp_path, TINY)
    nights.run(job.settings, job.seed, job.out)
    found = nights.score(job.out)
    assert 0 <= found["open"] <= 1 and 0 <= found["closed"] <= 1 and found["tokens"] > 0 and found["known"] > 0.5
    assert nights.table([{"name": "sleep", "seed": "0", **found}], tmp_path).startswith("| method")


def test_a_static_expert_changes_no_matrix_by_more_than_its_rank(tmp_path: Path) -> None:
    changes = {**TINY, "nights.learning.rank": 2, "nights.learning.lr": 1e-2}
    (job,) = grid.plan(nights, ("static_expert",), 1, tmp_path, changes)
    nights.run(job.settings, job.seed, job.out)
    before = LocalAgent("nano/context").model.state_dict()
    after = LocalAgent(str(job.out / "checkpoints" / "final")).model.state_dict()
    name = "model.layers.4.mlp.down_proj.weight"
    singular = torch.linalg.svdvals(after[name] - before[name])
    assert singular[0] > 1e-4 and singular[2] < 1e-4 * singular[0]


def test_the_placebo_is_shown_another_table(tmp_path: Path) -> None:
    (job,) = grid.plan(nights, ("placebo",), 1, tmp_path, TINY)
    ctx = Context(msgspec.structs.replace(job.settings, seed="0"), job.out)
    agent = sleeper(ctx, ctx.base, "0", PhaseRun(job.out), "placebo")
    lesson = agent.game.lessons.lesson(stream("test-sleeping"), 0)
    task = agent.game.lessons.question(lesson, stream("test-sleeping"))
    messages: Any = [{"role": "system", "content": lesson.context}, {"role": "user", "content": task.prompt}]
    (misled,) = agent._misled([Experience(messages, task.answer, "day")], 0)
    shown = context_of(misled.messages)[0]["content"]
    assert shown != lesson.context and shown[:2] == lesson.context[:2] and misled.messages[-1] == messages[-1]
    ctx.run.close()


def test_nothing_is_made_up_that_is_kept_for_probes() -> None:
    lessons = OperationLessons(levels=[1, 2])
    questions, asked = lesson_questions(lessons), dict.fromkeys(("wake", "probe"), 0)
    for start in lessons.states:
        for other in lessons.operations:
            half = lessons.half(start, f"I{other}")
            asked[half] += 1
            assert (questions.question(f"{start}:I{other}") is None) == (half == "probe")
        assert questions.question(f"{start}:I") == [{"role": "user", "content": f"{start}:I"}]
    assert min(asked.values()) > 30
    assert questions.question("a:AB") is not None and questions.question("nonsense") is None


def test_figures_of_a_matrix_worked_by_hand() -> None:
    """Own nights 0.8, 0.6 and 0.4; after the last 0.2, 0.3 and 0.4 are left of them: 0.6 and 0.3 are gone."""
    found = nights.matrix([[0.8, 0, 0], [0.5, 0.6, 0], [0.2, 0.3, 0.4]], [1.0, 0.9, 0.8])
    assert found == pytest.approx(
        {"open": 0.9, "closed": 0.6, "ratio": 2 / 3, "forgetting": 0.45, "forgotten": 0.45 / 0.7, "reading": 0.8}
    )
    assert nights.matrix([[0.05, 0], [0, 0.5]], [1.0, 1.0])["forgotten"] is None  # too little was learnt


def row_of(method: str, seed: int, own: float, last: float) -> grid.Row:
    figures = nights.matrix([[own, 0.0], [last, own]], [0.9, 0.9])
    return {"name": method, "seed": str(seed), **figures, "last": (own + last) / 2, "known": 1.0, "tokens": 0.0}


def test_answers_follow_from_paired_intervals() -> None:
    """Forgetting: ours 0.1, theirs 0.6, so half of theirs is 0.3; every seed alike, so intervals are points."""
    runs = [row_of("sleep", s, 0.8, 0.7) for s in range(3)]
    runs += [row_of("replay_sft", s, 0.7, 0.1) for s in range(3)]
    runs += [row_of("in_context", s, 0.05, 0.05) for s in range(3)]
    runs += [row_of("placebo", s, 0.05 + 0.1 * (s - 1), 0.05) for s in range(3)]
    found = nights.answers(runs)
    assert found["closed book after sleep is at least 0.8 of in context (ratio - 0.8)"].startswith("yes")
    assert found["sleep - in_context, closed book, is above 0.3 (difference - 0.3)"].startswith("yes, 0.45")
    assert found["sleep forgets at most half of what replay_sft does (sleep - half)"].startswith("yes, -0.20")
    assert found["placebo gains over in_context"].startswith("no change shown")
    assert nights.answers(runs[3:]) == {}


def test_upward_gives_every_student_the_same_rows(tmp_path: Path) -> None:
    settings = upward.Settings(problems=6, draws=2, depths=(1, 2), steps=2, batch=8)
    upward.run(settings, "0", tmp_path)
    found = upward.score(tmp_path)
    assert found["parameters"]["upward"] == found["parameters"]["alone"] > 3 * found["parameters"]["teacher"]
    assert found["exact"]["upward"]["2"] > 0.8 > found["exact"]["alone"]["2"]
    assert "upward above alone" in upward.table([{"name": "upward", "seed": "0", **found}], tmp_path)
