"""Named by the kit: games that leak by influence, change their arguments, or depend on day, place and process."""

import sys
from pathlib import Path

import broken_influence
import pytest

from dream_envs.testing import check

TRIED = ("plays", "global_rng", "seed_determinism", "siblings", "private_information", "in_place")
sys.path.append(str(Path(__file__).parent / "debate"))


@pytest.mark.parametrize("broken", broken_influence.BAD, ids=lambda cls: cls.__name__)
def test_the_fault_is_named_and_nothing_else(broken):
    name, words = broken_influence.BAD[broken]
    report = check(broken, only={*TRIED, "rescoring", name})
    assert [c.name for c in report.failed] == [name], str(report)
    assert words in report[name].reason and "\n" not in report[name].reason


@pytest.mark.parametrize("sound", [*broken_influence.SOUND, "debate_env:Debate"])
def test_sound_games_pass(sound):
    report = check(sound, only=TRIED)
    assert report.ok and {c.status for c in report.checks} == {"passed"}, str(report)
