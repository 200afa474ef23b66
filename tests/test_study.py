"""The study runner on folders of its own making: what is still to do, what is read, where the table goes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from _run_folders import frontier

from dream_envs.core import DreamEnvsError

study: Any = pytest.importorskip("dream_envs.baselines.studies.study")


def finished(out: Path, arm: str, learner: str, seed: int, **more: Any) -> None:
    data = frontier(learnt=arm == "full")
    data["run"] |= {"arm": arm, "learner": learner, "seed": str(seed)}
    where = study.folder(out, arm, learner, seed)
    where.mkdir(parents=True)
    (where / "frontier.json").write_text(json.dumps({**data, **more}))


def test_jobs_are_what_is_not_finished_whole_seeds_first(tmp_path: Path) -> None:
    everything = list(study.jobs(tmp_path, range(3)))
    assert len(everything) == len(set(everything)) == 3 * len(study.PLAN)
    assert [seed for *_, seed in everything] == sorted(seed for *_, seed in everything)
    assert {(a, learner) for a, learner, _ in everything} == set(study.PLAN) >= {("full", "grpo"), ("full", "expert")}
    finished(tmp_path, "full", "grpo", 1)
    study.folder(tmp_path, "full", "expert", 0).mkdir()  # begun, not finished
    left = list(study.jobs(tmp_path, range(3)))
    assert set(everything) - set(left) == {("full", "grpo", 1)}


def test_the_learners_plan_is_every_learner_on_the_full_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Resumable as the other; only a learner with an entry is told a number of steps; its marks are its own."""
    plan = study.LEARNER_PLAN
    assert set(plan) == {("full", name) for name in ("grpo", "grpo4", "ppo", "rloo", "expert")}
    finished(tmp_path, "full", "grpo", 0)
    left = list(study.jobs(tmp_path, range(1), plan))
    assert {learner for _, learner, _ in left} == {learner for _, learner in plan} - {"grpo"}
    code = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.mkdir(); (p / 'told').write_text(' '.join(sys.argv[2:]))"
    )
    monkeypatch.setattr(
        study, "command", lambda out, *job: [sys.executable, "-c", code, str(study.folder(out, *job))]
    )  # fmt: skip
    study.run(tmp_path, range(1), 3, plan, {"expert": 1710})
    told = {p.parent.name: p.read_text() for p in tmp_path.glob("*/told")}
    assert told == {"full-grpo4-0": "", "full-ppo-0": "", "full-rloo-0": "", "full-expert-0": "--steps 1710"}
    readme = tmp_path / "README.md"
    readme.write_text("<!-- study -->\na\n<!-- /study -->\n<!-- learners -->\nb\n<!-- /learners -->\n")
    study.into_readme("| c |", readme, study.LEARNER_MARKS)
    assert "\na\n" in readme.read_text() and "\n| c |\n" in readme.read_text() and "\nb\n" not in readme.read_text()


def test_every_job_has_a_folder_and_a_command_of_its_own(tmp_path: Path) -> None:
    from dream_envs.cli import app

    jobs = list(study.jobs(tmp_path, range(12)))
    lines = [study.command(tmp_path, *job) for job in jobs]
    assert len({study.folder(tmp_path, *job) for job in jobs}) == len(jobs) == len(set(map(tuple, lines)))
    assert all(line[:4] == [sys.executable, "-m", "dream_envs.cli", "dream"] and "--resume" in line for line in lines)
    from typer.main import get_command

    command = get_command(app).commands["dream"]  # type: ignore[attr-defined]
    for line, (arm, learner, seed) in zip(lines, jobs, strict=True):
        context = command.make_context("dream", list(line[4:]))  # every option is one that the verb has
        given = context.params
        assert (given["arm"], given["learner"], given["seed"]) == (arm, learner, str(seed))
        assert Path(given["out"]) == study.folder(tmp_path, arm, learner, seed)


def test_rows_are_the_finished_runs_and_no_others(tmp_path: Path) -> None:
    for seed in (0, 1, 10):
        finished(tmp_path, "full", "grpo", seed)
    finished(tmp_path, "full", "expert", 0)
    finished(tmp_path, "majority_reward", "grpo", 0, label_accuracy=0.4)
    finished(tmp_path, "somebody_else", "grpo", 0)
    study.folder(tmp_path, "no_mutation", "grpo", 0).mkdir()
    found = study.rows(tmp_path)
    assert sorted((r["arm"], r["learner"], r["seed"]) for r in found) == [
        ("full", "expert", "0"), ("full", "grpo", "0"), ("full", "grpo", "1"), ("full", "grpo", "10"),
        ("majority_reward", "grpo", "0"),
    ]  # fmt: skip
    assert {r["label_accuracy"] for r in found if r["arm"] == "majority_reward"} == {0.4}
    assert study.rows(tmp_path / "empty") == []
    table = study.study_table(found)
    assert "full" in table and "majority" in table


def test_a_torn_frontier_is_named(tmp_path: Path) -> None:
    finished(tmp_path, "full", "grpo", 0)
    (study.folder(tmp_path, "full", "grpo", 0) / "frontier.json").write_text('{"schema"')
    with pytest.raises(DreamEnvsError, match=r"frontier\.json"):
        study.rows(tmp_path)


def test_the_table_goes_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    before, after = "# Höhe\n\nfirst\n", "\nlast <!-- other -->\n"
    readme.write_text(f"{before}<!-- study -->\nold\n<!-- /study -->{after}", encoding="utf-8")
    for table in ("| a |\n| - |", "| b |", "| b |"):
        study.into_readme(f"\n{table}\n\n", readme)
        assert readme.read_text("utf-8") == f"{before}<!-- study -->\n{table}\n<!-- /study -->{after}"


def test_a_part_of_the_night_is_worth_the_difference_of_the_same_seeds() -> None:
    """Two seeds whose levels differ by far more than the arms do: only a paired difference sees the arms."""

    def row(arm: str, seed: str, d6: float) -> dict[str, Any]:
        exact = {"depth": 6, "trained": {"T=1": {"mean": d6}}}
        return {"arm": arm, "seed": seed, "frontier": {"depths": [exact]}}

    found = [row("sleep", "0", 0.9), row("sleep", "1", 0.5), row("awake", "1", 0.401), row("awake", "0", 0.799)]
    told = study.night_answers(found)
    assert "- above `awake`: depth 6 0.10 [0.09, 0.11] (yes), depth 8 - (not measured)" in told
    assert "- above `no_dreaming`: depth 6 - (not measured)" in told


@pytest.mark.parametrize("text", ["", "<!-- study --> only", "<!-- /study --> <!-- study -->"])
def test_a_readme_without_marks_is_left_alone(text: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(DreamEnvsError) as caught:
        study.into_readme("table", readme)
    assert "\n" not in str(caught.value) and readme.read_text() == text


def stub(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """In place of a run of minutes: a child that does what ``body`` says with its folder ``out``."""
    code = f"import sys, time, pathlib; out = pathlib.Path(sys.argv[1]); out.mkdir(exist_ok=True); {body}"
    monkeypatch.setattr(
        study, "command", lambda out, *job: [sys.executable, "-c", code, str(study.folder(out, *job)), *map(str, job)]
    )


def test_run_runs_what_is_missing_once_and_side_by_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study, "PLAN", (("full", "grpo"), ("full", "expert")))
    finished(tmp_path, "full", "grpo", 0)
    stub(monkeypatch, "(out / 'frontier.json').write_text('{}'); open(out / 'ran', 'a').write('x')")
    study.run(tmp_path, range(2), 2)
    ran = sorted(str(p.parent.name) for p in tmp_path.glob("*/ran"))
    assert ran == ["full-expert-0", "full-expert-1", "full-grpo-1"]
    study.run(tmp_path, range(2), 2)
    assert all((tmp_path / name / "ran").read_text() == "x" for name in ran)


def test_a_run_that_fails_is_named_and_leaves_nobody_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is left running would write into the folders that the same command, run again, resumes."""
    monkeypatch.setattr(study, "PLAN", (("full", "grpo"), ("full", "expert")))
    stub(monkeypatch, "time.sleep(4 if sys.argv[3] == 'grpo' else 0); open(out / 'late', 'w'); sys.exit(1)")
    with pytest.raises(DreamEnvsError) as caught:
        study.run(tmp_path, range(1), 2)
    assert "expert" in str(caught.value) and ".log" in str(caught.value) and "\n" not in str(caught.value)
    time.sleep(5)
    assert not (tmp_path / "full-grpo-0" / "late").exists()
