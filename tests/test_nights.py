"""The flagship's nights: two days of two steps, a night that was broken off, one that is undone, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dream_envs.baselines.loops.arms import ARMS, NIGHTS

from dream_envs.agents.sleep.dreams import DreamSettings
from dream_envs.agents.sleep.seeding import SeedingSettings
from dream_envs.baselines.loops import dream, nights
from dream_envs.core import DreamEnvsError

SMALL = msgspec.structs.replace(
    nights.FULL,
    every=2,
    learning=SeedingSettings(steps=2, batch=8, lam=0.0, alpha=1.0, hard=1.0),
    dreaming=DreamSettings(dreams=2, memory=2, fiction=0, size=8, top=1, random=0, probe=6, inner_steps=1, draft=1),
    experience=16,
)


def train(out: Path, arm: str = "sleep") -> dict[str, Any]:
    return dream.train(dream.Settings(arm=arm, steps=4, per_depth=8), out, tick=lambda step, found: None)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nights.PLANS, "full", SMALL)


def test_a_run_that_was_broken_off_in_its_second_night_ends_in_the_same_weights(tmp_path: Path, small: None) -> None:
    found = train(tmp_path / "whole")
    assert [n["stage"] for n in found["nights"]] == ["00-day", "01-day"]
    assert all(n["night"]["tokens"] > 0 and set(n["dawn"]) == set(n["evening"]) for n in found["nights"])
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    second = tmp_path / "broken" / "stages" / "01-day" / "night"
    for name in (nights.TOLD, "night.json"):
        (second / name).unlink()
    (tmp_path / "broken" / "frontier.json").unlink()
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "final")
    again = train(tmp_path / "broken")
    assert again["run"]["trained_hash"] == found["run"]["trained_hash"] and again["nights"] == found["nights"]
    dawn = tmp_path / "whole" / "stages" / "01-day" / "night" / "dawn" / "model.safetensors"
    assert dawn.read_bytes() == (tmp_path / "whole" / "checkpoints" / "final" / "model.safetensors").read_bytes()


def test_an_undone_night_leaves_the_evenings_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = msgspec.structs.replace(SMALL.learning, lr=1.0)
    monkeypatch.setitem(nights.PLANS, "full", msgspec.structs.replace(SMALL, learning=poisoned, tolerance=0.0))
    found = train(tmp_path)
    assert all(n["night"]["undone"] and n["dawn"] == n["evening"] for n in found["nights"])
    evening = tmp_path / "stages" / "01-day" / "checkpoints" / "final" / "model.safetensors"
    assert evening.read_bytes() == (tmp_path / "checkpoints" / "final" / "model.safetensors").read_bytes()


def test_every_arm_with_a_night_names_a_plan_and_reviews_nothing() -> None:
    for name, arm in ARMS.items():
        assert not arm.night or (arm.night in nights.PLANS and not arm.review and name in NIGHTS)
    stages = dream.job_of(dream.Settings(arm="sleep", steps=60)).stages
    assert [s.steps for s in stages] == [25, 25, 10] and all(s.night for s in stages)
    assert [s.steps for s in dream.job_of(dream.Settings(arm="awake", steps=60)).stages] == [60]


def test_a_learner_that_lives_on_review_is_refused_where_there_is_none() -> None:
    with pytest.raises(DreamEnvsError, match=r"\Aarm='sleep' has no review[^\n]+\Z"):
        dream.check(dream.Settings(arm="sleep", learner="expert"))
