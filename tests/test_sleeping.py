"""The study of nights: tiny runs of every method, resume, what the imagination leaves out, answers from intervals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from dream_envs.agents.sleep.dreams import DreamSettings
from dream_envs.agents.sleep.experience import context_of
from dream_envs.agents.sleep.seeding import SeedingSettings
from dream_envs.baselines.loops import sleepers
from dream_envs.baselines.studies import sleeping, upward
from dream_envs.baselines.studies import sleeping_report as report
from dream_envs.core import DreamEnvsError
from dream_envs.envs.sleep_cycle import SleepCycle
from dream_envs.runs import read_json
from dream_envs.tasks.lessons import OperationLessons

LEARNING = SeedingSettings(steps=2, batch=8, lam=0.5)
DREAMS = DreamSettings(dreams=3, memory=1, fiction=1, size=8, top=1, random=0, probe=6, inner_steps=1, draft=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method with nights of two steps."""

    def shrunk(method: sleeping.Method) -> sleeping.Method:
        if method.night is None:
            return method
        dreaming = DREAMS if method.night.dreaming is not None else None
        night = msgspec.structs.replace(method.night, learning=LEARNING, dreaming=dreaming, experience=16)
        return msgspec.structs.replace(method, night=night)

    monkeypatch.setattr(sleeping, "METHODS", {name: shrunk(m) for name, m in sleeping.METHODS.items()})


def tiny(method: str) -> sleeping.Settings:
    return sleeping.Settings(method=method, nights=2, probes=4, wakes=2)


@pytest.mark.parametrize("method", ["sleep", "in_context", "placebo", "static_expert", "replay_all"])
def test_a_run_of_every_kind_ends_in_its_result(method: str, tmp_path: Path, small: None) -> None:
    found = sleeping.run(tiny(method), tmp_path)
    assert len(found["facts"]["closed"]) == 2 and len(found["nights"]) == (0 if method == "in_context" else 2)
    assert sleeping.run(tiny(method), tmp_path) == found
    with pytest.raises(DreamEnvsError, match="other settings"):
        sleeping.run(msgspec.structs.replace(tiny(method), seed="1"), tmp_path)
    assert report.table(report.summary([found])).startswith("| method")


def test_a_table_is_not_made_of_runs_with_other_settings(tmp_path: Path, small: None) -> None:
    sleeping.run(tiny("replay_sft"), tmp_path / "replay_sft-0")
    assert sleeping.jobs(tmp_path, [0], ["replay_sft"]) == []
    other = msgspec.structs.replace(sleeping.METHODS["replay_sft"], says="another")
    sleeping.METHODS["replay_sft"] = other  # the fixture's copy
    with pytest.raises(DreamEnvsError, match="other settings"):
        sleeping.jobs(tmp_path, [0], ["replay_sft"])


def test_a_run_that_was_broken_off_in_a_night_ends_the_same(tmp_path: Path, small: None) -> None:
    whole = sleeping.run(tiny("sleep"), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    (tmp_path / "broken" / sleeping.RESULT).unlink()
    (tmp_path / "broken" / "nights" / "01" / "night.json").unlink()
    shutil.rmtree(tmp_path / "broken" / "nights" / "01" / "dawn")
    again = sleeping.run(tiny("sleep"), tmp_path / "broken")
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    weights = [
        (tmp_path / n / "nights" / "01" / "dawn" / "model.safetensors").read_bytes() for n in ("whole", "broken")
    ]
    assert weights[0] == weights[1]


def test_nothing_is_made_up_that_is_kept_for_probes() -> None:
    lessons = OperationLessons(levels=[1, 2])
    imagination = sleepers.LessonImagination(lessons)
    asked = dict.fromkeys(("wake", "probe"), 0)
    for start in lessons.states:
        for other in lessons.operations:
            half = lessons.half(start, f"I{other}")
            asked[half] += 1
            assert (imagination.question(f"{start}:I{other}") is None) == (half == "probe")
        assert imagination.question(f"{start}:I") == [{"role": "user", "content": f"{start}:I"}]
    assert min(asked.values()) > 30
    assert imagination.question("a:AB") is not None and imagination.question("nonsense") is None


def test_the_placebo_is_told_another_table(tmp_path: Path, small: None) -> None:
    game = SleepCycle(nights=2, probes=4, lesson_args={"levels": [1, 2]})
    sleeper = sleepers.sleeper_for(tiny("placebo"), sleeping.METHODS["placebo"], game, tmp_path)
    lesson = game.lessons.lesson(sleeping_rng(), 0)
    task = game.lessons.question(lesson, sleeping_rng())
    messages = [{"role": "system", "content": lesson.context}, {"role": "user", "content": task.prompt}]
    from dream_envs.agents.sleep.experience import Experience

    (lie,) = sleeper._lied([Experience(messages, task.answer, "day")], 0)
    told = context_of(lie.messages)[0]["content"]
    assert told != lesson.context and told[:2] == lesson.context[:2] and lie.messages[-1] == messages[-1]


def sleeping_rng() -> Any:
    from dream_envs.seeds import stream

    return stream("test-sleeping")


def test_a_static_expert_changes_no_matrix_by_more_than_its_rank(tmp_path: Path, small: None) -> None:
    rule = msgspec.structs.replace(LEARNING, rank=2, lr=1e-2)
    method = sleeping.METHODS["static_expert"]
    assert method.night is not None
    method = msgspec.structs.replace(method, night=msgspec.structs.replace(method.night, learning=rule))
    sleeping.METHODS["static_expert"] = method  # the fixture's copy
    sleeping.run(tiny("static_expert"), tmp_path)
    from dream_envs.agents.engines.local import LocalAgent

    base = LocalAgent("nano/context").model.state_dict()
    evening = LocalAgent(str(tmp_path / "nights" / "01" / "evening")).model.state_dict()
    name = "model.layers.4.mlp.down_proj.weight"
    singular = torch.linalg.svdvals(evening[name] - base[name])
    assert singular[0] > 1e-4 and singular[2] < 1e-4 * singular[0]


def made_run(method: str, seed: int, own: float, last: float, opened: float = 0.9) -> dict[str, Any]:
    closed = [[own, 0.0], [last, own]]
    facts = {"open": [opened, opened], "closed": closed, "average_accuracy": (own + last) / 2}
    known = [{"1": 1.0, "2": 1.0, "3": 1.0}] * 2
    return {
        "settings": {"method": method, "seed": str(seed)},
        "facts": facts,
        "known": known,
        "nights": [],
        "seconds": 1.0,
    }


def test_answers_follow_from_paired_intervals() -> None:
    """Forgetting: ours 0.1, theirs 0.6, so half of theirs is 0.3; every seed alike, so intervals are points."""
    runs = [made_run("sleep", s, 0.8, 0.7) for s in range(3)]
    runs += [made_run("replay_sft", s, 0.7, 0.1) for s in range(3)]
    runs += [made_run("in_context", s, 0.05, 0.05) for s in range(3)]
    runs += [made_run("placebo", s, 0.05 + 0.1 * (s - 1), 0.05) for s in range(3)]
    found = report.answers(*_grouped(runs))
    assert found["closed book after sleep is at least 0.8 of in context (ratio - 0.8)"].startswith("yes")
    assert found["sleep - in_context, closed book, is above 0.3 (difference - 0.3)"].startswith("yes, 0.45")
    assert found["sleep forgets at most half of what replay_sft does (sleep - half)"].startswith("yes, -0.20")
    assert found["placebo gains over in_context"].startswith("no change shown")


def _grouped(runs: list[dict[str, Any]]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    by: dict[str, list[Any]] = {}
    for run in runs:
        by.setdefault(run["settings"]["method"], []).append(run)
    return by, {name: report.cell(found) for name, found in by.items()}


def test_upward_gives_every_arm_the_same_rows(tmp_path: Path) -> None:
    settings = upward.Settings(problems=6, draws=2, depths=(1, 2), steps=2, batch=8)
    found = upward.run(settings, tmp_path)
    assert found == read_json(tmp_path / upward.RESULT) == upward.run(settings, tmp_path)
    assert found["parameters"]["upward"] == found["parameters"]["alone"] > 3 * found["parameters"]["teacher"]
    assert found["exact"]["upward"]["2"] > 0.8 > found["exact"]["alone"]["2"]
    assert "upward above alone" in upward.table([found])


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "two", "²", ""])
@pytest.mark.parametrize("module", ["sleeping", "upward", "self_judging", "study"])
def test_no_number_of_seeds_shows_a_traceback(
    module: str, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib
    import sys

    main = importlib.import_module(f"dream_envs.baselines.{module}").main
    monkeypatch.setattr(sys, "argv", [module, f"--seeds={given}"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "a whole number of 1 or more" in capsys.readouterr().err
