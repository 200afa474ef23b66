"""When it is time to sleep (a full buffer, enough read, too much lost), and fast and slow weights (``block``)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _sleep import LEARNING, SMALL, bits, day, generator, reader, with_

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep import night as night_module
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.frozen import FrozenLearner
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.core import Action, DreamEnvsError, Request, Usage

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
    FrozenLearner(scaled(1.1)).save(str(tmp_path / "began"))
    root = tmp_path / "one"
    for number, by in enumerate((1.0, 0.9, 0.8, 0.7)):
        one = sleeper(with_(STILL, block=block), scaled(by))
        if number:
            one.load(str(root / "state"))
            one.learner = FrozenLearner(scaled(by))
        one.live(day())
        shutil.copytree(tmp_path / "began", root / "began" / str(number))
        night = one.sleep(root / "nights" / str(number), root / "began" / str(number))
        assert close(root / "nights" / str(number), scaled(begins[number]))
        assert night.slow == (begins[number] == 1.1) and night.number == number
        one.save(str(root / "state"))
        if number == 0:
            root = Path(shutil.move(root, tmp_path / "two"))


def test_a_block_whose_slow_night_is_undone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sleeper(with_(SMALL, dreaming=None, block=2, tolerance=0.5))
    nights = []
    for number in range(4):
        one.live(day())
        with monkeypatch.context() as patch:
            if number == 1:
                values = iter([0.0, -9.0])
                patch.setattr(night_module, "likelihood", lambda *a: next(values))  # noqa: B023
            nights.append(one.sleep(tmp_path / str(number)))
        assert (one.slow is None) == (number == 2), number
    assert [(n.slow, n.undone) for n in nights] == [(False, False), (True, True), (True, False), (False, False)]


def test_a_block_is_lived_through_until_its_slow_night(tmp_path: Path) -> None:
    """Two days of a block of two: behind the fast night the first day is still there, behind the slow one nothing."""
    one = sleeper(with_(STILL, block=2))
    one.live(day("0"))
    one.sleep(tmp_path / "0")
    assert one.buffer.all() == day("0")
    one.live(day("1", "J"))
    slow = one.sleep(tmp_path / "1")
    assert slow.slow and slow.lived == 32 and len(one.buffer) == 0


def test_what_was_said_at_first_and_is_lost_awake_is_due(tmp_path: Path) -> None:
    one = sleeper(with_(SMALL, alert=0.1))
    inner: Any = one.learner
    assert one.due() is None and one.rested is None  # nobody rested yet
    one.rest()
    assert one.rested is not None and len(one.rested[0]) > 0 and one.due() is None
    inner.agent = scaled(0.5)
    assert one.due() == "retention"
    one.save(str(tmp_path / "saved"))
    other = sleeper(with_(SMALL, alert=0.1))
    other.load(str(tmp_path / "saved"))
    assert other.due() == "retention" and other.rested == one.rested
    inner.agent = scaled(float("nan"))
    assert one.due() == "retention"
    inner.agent = scaled(0.5)
    one.live(day())
    one.sleep(tmp_path / "night")
    assert one.due() is None  # a new day: what is said now is what is to be kept


class Ten:
    """A learner whose every prompt has ten tokens."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        return [Action(f"reply {r.messages[-1]['content']}", usage=Usage(10, 1)) for r in requests]

    def improve(self, collector: Any, budget: int, run: Any) -> Any:
        raise NotImplementedError

    def save(self, path: str) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)

    def load(self, path: str) -> None:
        assert Path(path).is_dir()

    def snapshot(self) -> Any:
        return self


def asked(text: str, context: bool = True, role: str = "learner") -> Request:
    head = [{"role": "system", "content": "a context"}] if context else []
    return Request(messages=[*head, {"role": "user", "content": text}], agent=f"{role}_0", role=role, seed=0)  # type: ignore[list-item]


def test_the_context_budget_counts_what_was_read_with_a_context(tmp_path: Path) -> None:
    one, other = (SleepConsolidation(Ten(), settings=SleepSettings(dreaming=None, reading=30)) for _ in range(2))
    one.act([asked("a"), asked("b"), asked("c", context=False)])
    assert one.due() is None and one.read == 20 and len(one.buffer) == 2
    one.act([asked("d", role="dreamer")])
    assert one.due() == "context" and len(one.buffer) == 2
    one.save(str(tmp_path / "x"))
    other.load(str(tmp_path / "x"))
    assert other.due() == "context" and other.buffer.all() == one.buffer.all()


def test_a_full_buffer_is_due() -> None:
    one = SleepConsolidation(Ten(), settings=SleepSettings(dreaming=None, capacity=2))
    one.act([asked("a")])
    assert one.due() is None
    one.act([asked("b")])
    assert one.due() == "buffer"


@pytest.mark.parametrize("bad", [{"block": -1}, {"alert": -0.1}, {"reading": 0}, {"waits": True, "forget": False}])
def test_numbers_out_of_range_are_one_line(bad: dict[str, Any]) -> None:
    with pytest.raises(DreamEnvsError, match=rf"\A[^\n]*{next(iter(bad))}=[^\n]*\Z"):
        SleepSettings(**bad)
