"""Nights in loops: every setting of them in the flagship, kills by day and by night, and the methods of SleepCycle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _recipes import NIGHTS, options

from dream_envs.baselines import loop
from dream_envs.baselines.loops import dream, nights
from dream_envs.baselines.recipe import Options, settled
from dream_envs.core import DreamEnvsError
from dream_envs.runs import read_json
from dream_envs.schema import Summary

WAITS = {"waits": True, "forget": True, "capacity": 100_000}


def trained(out: Path, name: str = "dream", **more: Any) -> Summary:
    torch.set_num_threads(1)
    settings = {k if k.startswith("learner.") else f"nights.{k}": v for k, v in more.items()}
    if name == "dream":
        settings["variant"] = "sleep"
    return loop.train(options(name, steps=4, set=settings), out)


def weights(out: Path) -> bytes:
    return (out / "checkpoints" / "final" / "model.safetensors").read_bytes()


def broken(whole: Path, out: Path, *gone: str) -> Path:
    """A copy of a run without these, as a kill would have left it: nothing that is written later is there."""
    shutil.copytree(whole, out)
    for name in (*gone, "summary.json", "checkpoints/final"):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """Two days of two steps, a night after each."""
    out = tmp_path_factory.mktemp("nights") / "whole"
    return out, trained(out)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [("nights/01/night.json",), ("nights/01", "days/01")])
def test_a_run_that_was_broken_off_ends_in_the_same_weights(
    gone: tuple[str, ...], whole: tuple[Path, Summary], tmp_path: Path
) -> None:
    """In its second night; in its second day."""
    out, found = whole
    assert [night["number"] for night in found.nights] == [0, 1]
    assert all(n["tokens"] > 0 and n["curve_before"] and n["curve_after"] for n in found.nights)
    assert weights(out) == (out / "nights" / "01" / "model.safetensors").read_bytes()
    again = trained(broken(out, tmp_path / "run", *gone))
    assert again.run.trained_hash == found.run.trained_hash and again.nights == found.nights
    assert weights(tmp_path / "run") == weights(out)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "slept", "slow"), [
    (WAITS, [], []),
    ({**WAITS, "reading": 1}, ["00", "01"], [False, False]),
    ({**WAITS, "alert": 0.0, "learner.lr": 0.05}, ["00"], [False]),  # what is lost on the first day is lost
    ({"block": 2}, ["00", "01"], [False, True]),
], ids=["waits", "reading", "alert", "block"])  # fmt: skip
def test_every_setting_works_in_the_flagship(
    settings: dict[str, Any], slept: list[str], slow: list[bool], whole: tuple[Path, Summary], tmp_path: Path
) -> None:
    """What waits sleeps only if it is due; a block's slow night begins with the base; resumed, it ends the same."""
    out = tmp_path / "run"
    found = trained(out, **settings)
    assert sorted(p.name for p in (out / "nights").glob("*")) == slept and [n["slow"] for n in found.nights] == slow
    assert weights(out) != weights(whole[0])
    gone = ["days/01/sleep.json"] if not slept else ["nights/01"]
    again = trained(broken(out, tmp_path / "again", *gone), **settings)
    assert again.nights == found.nights and weights(tmp_path / "again") == weights(out)


@pytest.mark.slow
def test_an_undone_night_leaves_the_days_weights(tmp_path: Path) -> None:
    found = trained(tmp_path, tolerance=0.0, **{"learning.lr": 1.0})
    assert all(n["undone"] and n["curve_before"] != n["curve_after"] for n in found.nights)
    assert weights(tmp_path) == (tmp_path / "days" / "01" / "model.safetensors").read_bytes()


def test_every_variant_with_a_night_reviews_nothing_and_the_methods_are_the_registrys() -> None:
    for name, variant in dream.VARIANTS.items():
        _, recipe = settled(Options("dream", set={"variant": name}))
        assert (recipe.nights is not None) == bool(variant.nights) and (not variant.nights or not variant.review)
        assert ("review" in recipe.learning) == bool(variant.review)
    assert set(dream.ABLATION) < set(dream.VARIANTS) and set(NIGHTS) < set(nights.METHODS)


@pytest.mark.parametrize("name", ["in_context", "dream_envs.baselines.loops.discovery:IN_CONTEXT"])
def test_a_control_that_never_sleeps_takes_no_settings_of_nights(name: str) -> None:
    """They would have put it to sleep, with settings that nobody chose."""
    assert settled(Options(name))[1].nights is None
    with pytest.raises(DreamEnvsError, match=r"nights\.piece: \w+ never sleeps; leave it out"):
        settled(Options(name, set={"nights.piece": 20}))


# ---- SleepCycle: a lesson a day ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NIGHTS)
def test_a_method_ends_in_its_matrix_and_after_a_kill_in_the_same(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    found, count = loop.train(options(name), tmp_path / "whole"), 0 if name == "in_context" else 2
    assert found.retention is not None and found.verdict == found.retention["verdict"]
    assert len(found.retention["closed"]) == 2 and len(found.nights) == count
    if name not in ("sleep", "static_expert"):
        return
    gone = broken(tmp_path / "whole", tmp_path / "broken", "nights/01/night.json")
    again = loop.train(options(name), gone)
    assert again.retention == found.retention and again.nights == found.nights
    assert weights(gone) == weights(tmp_path / "whole")
    assert read_json(gone / "nights" / "01" / "night.json")["nights"] == found.nights
