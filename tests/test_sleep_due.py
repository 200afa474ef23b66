"""When it is time to sleep: a full buffer, or enough context read; what counts as read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.core import Action, Request, Usage


class Ten:
    """A learner whose every prompt has ten tokens."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        return [Action(f"reply {r.messages[-1]['content']}", usage=Usage(10, 1)) for r in requests]

    def improve(self, env: Any, seats: Any, budget: int, run: Any) -> Any:
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
    sleeper = SleepConsolidation(Ten(), settings=SleepSettings(dreaming=None, reading=30))
    sleeper.act([asked("a"), asked("b"), asked("c", context=False)])
    assert sleeper.due() is None and sleeper.read == 20 and len(sleeper.buffer) == 2
    sleeper.act([asked("d", role="dreamer")])
    assert sleeper.due() == "context" and len(sleeper.buffer) == 2
    sleeper.save(str(tmp_path / "x"))
    other = SleepConsolidation(Ten(), settings=SleepSettings(dreaming=None, reading=30))
    other.load(str(tmp_path / "x"))
    assert other.due() == "context" and other.buffer.all() == sleeper.buffer.all()


def test_a_full_buffer_is_due() -> None:
    sleeper = SleepConsolidation(Ten(), settings=SleepSettings(dreaming=None, capacity=2))
    sleeper.act([asked("a")])
    assert sleeper.due() is None
    sleeper.act([asked("b")])
    assert sleeper.due() == "buffer"
