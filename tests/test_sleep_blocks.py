"""Fast and slow weights (``block``), and days that wait for a night until one is due (``waits``, ``alert``)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _sleep import DREAMS, LEARNING, SMALL, bits, day, generator, reader, same, with_
from _tiny import learner, practice
from dream_envs.agents.sleep.frozen import FrozenLearner

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep import night as night_module
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.dreams import FamilyQuestions
from dream_envs.agents.sleep.experience import Buffer
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.core import DreamEnvsError

#: With next to no learning rate a night ends where it began.
STILL = with_(SMALL, dreaming=None, learning=with_(LEARNING, lr=1e-12))


def scaled(by: float) -> LocalAgent:
    found = reader().snapshot()
    with torch.no_grad():
        for weight in found.model.parameters():
            weight *= by
    return found


def close(folder: Path, agent: LocalAgent) -> bool:
    found, expected = bits(LocalAgent(str(folder))), bits(agent)
    return all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def sleeper(settings: SleepSettings, agent: LocalAgent | None = None) -> SleepConsolidation:
    return SleepConsolidation(FrozenLearner(agent or reader().snapshot()), generator(), settings=settings)


@pytest.mark.parametrize(("block", "begins"), [(0, [1.0, 0.9, 0.8, 0.7]), (1, [1.1] * 4), (3, [1.0, 0.9, 1.1, 0.7])])
def test_a_block_ends_in_the_weights_it_began_with(block: int, begins: list[float], tmp_path: Path) -> None:
    """Every day scales the weights; the run is moved in the middle of a block, and its learner is read from disk."""
    FrozenLearner(scaled(1.1)).save(str(tmp_path / "morning"))
    root = tmp_path / "one"
    for number, by in enumerate((1.0, 0.9, 0.8, 0.7)):
        one = sleeper(with_(STILL, block=block), scaled(by))
        if number:
            one.load(str(root / "state"))
            one.learner = FrozenLearner(scaled(by))
        one.live(day())
        shutil.copytree(tmp_path / "morning", root / "mornings" / str(number))
        night = one.sleep(root / "nights" / str(number), root / "mornings" / str(number))
        assert close(root / "nights" / str(number) / "dawn", scaled(begins[number]))
        assert night.slow == (begins[number] == 1.1) and night.number == number
        one.save(str(root / "state"))
        if number == 0:
            root = Path(shutil.move(root, tmp_path / "two"))


def test_a_block_whose_slow_night_is_undone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sleeper(with_(SMALL, block=2, tolerance=0.5))
    nights = []
    for number in range(4):
        one.live(day())
        with monkeypatch.context() as patch:
            if number == 1:
                patch.setattr(night_module, "likelihood", _falling())
            nights.append(one.sleep(tmp_path / str(number)))
        began = one.slow
        assert (began is None) == (number == 2), number
    assert [(n.slow, n.undone) for n in nights] == [(False, False), (True, True), (True, False), (False, False)]


def _falling() -> Any:
    values = iter([0.0, -9.0, -9.0])
    return lambda *a: next(values)


def test_a_block_is_lived_through_until_its_slow_night(tmp_path: Path) -> None:
    """Two days of a block of two: behind the fast night the first day is still there, behind the slow one nothing."""
    one = sleeper(with_(STILL, block=2))
    one.live(day("0"))
    one.sleep(tmp_path / "0")
    assert one.buffer.all() == day("0")
    one.live(day("1", "J"))
    slow = one.sleep(tmp_path / "1")
    assert slow.slow and slow.lived == 32 and len(one.buffer) == 0


def test_what_was_said_in_the_morning_and_is_lost_awake_is_due(tmp_path: Path) -> None:
    one = sleeper(with_(SMALL, alert=0.1))
    assert one.due() is None and one.morning is None  # nobody rose yet
    one.rise()
    assert one.morning is not None and len(one.morning[0]) > 0 and one.due() is None
    assert isinstance(one.learner, FrozenLearner)
    one.learner.agent = scaled(0.5)
    assert one.due() == "retention"
    one.save(str(tmp_path / "saved"))
    other = sleeper(with_(SMALL, alert=0.1))
    other.load(str(tmp_path / "saved"))
    assert other.due() == "retention" and other.morning == one.morning
    one.learner.agent = scaled(float("nan"))
    assert one.due() == "retention"
    one.learner.agent = scaled(0.5)
    one.live(day())
    one.sleep(tmp_path / "night")
    assert one.due() is None  # a new morning: what is said now is what is to be kept


@pytest.mark.parametrize("bad", [{"block": -1}, {"alert": -0.1}])
def test_numbers_out_of_range_are_one_line(bad: dict[str, Any]) -> None:
    with pytest.raises(DreamEnvsError, match="0 or more") as caught:
        SleepSettings(**bad)
    assert "\n" not in str(caught.value)


def test_an_alert_without_an_imagination_is_one_line() -> None:
    with pytest.raises(DreamEnvsError, match="FamilyQuestions"):
        SleepConsolidation(FrozenLearner(reader()), settings=SleepSettings(dreaming=None, alert=0.1))


def test_what_would_do_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError, match="forget=True"):
        SleepSettings(waits=True, forget=False)
    env = practice(tmp_path / "run", memory=Buffer())
    one = SleepConsolidation(learner(), settings=SleepSettings(dreaming=None, waits=True, reading=9))
    with pytest.raises(DreamEnvsError, match="reading=9"):
        one.improve(env, {}, 2, env.run)


@pytest.mark.parametrize(("capacity", "nights"), [(10_000, []), (1, ["00", "01"])])
def test_days_that_wait_sleep_when_it_is_due(capacity: int, nights: list[str], tmp_path: Path) -> None:
    """Two days of two steps, twice in the same folder: as it was, and taken over from what is finished there."""
    torch.set_num_threads(1)
    rule = with_(SMALL, waits=True, capacity=capacity, dreaming=with_(DREAMS, dreams=1, memory=1, fiction=0), block=2)
    ends = []
    for _ in range(2):
        env = practice(tmp_path / "run", memory=Buffer())
        one = SleepConsolidation(learner(), FamilyQuestions(env.game.family), settings=rule, seed="waits")
        assert one.improve(env, {}, 4, env.run).steps == 4
        ends.append(bits(one.learner.engine))  # type: ignore[attr-defined]
        assert sorted(p.name for p in (tmp_path / "run" / "nights").glob("*")) == nights
        assert [n.slow for n in one.nights] == [False, True][: len(nights)]
    assert same(*ends)
