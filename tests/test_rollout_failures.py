"""Agents that hang, raise or answer nonsense, rewards that are no numbers, mistakes: a status or one line."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import broken_envs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rollout import GAME, SEATS, Counting, plain

from dream_envs.core import Action, DreamEnvsError, Episode, Request, Score, Task
from dream_envs.play import EpisodeWriter, play, read_episodes, rollout, score
from dream_envs.rewards.presets import challenger_solver


class Failing(Counting):
    """Does something else than answer."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def act(self, requests: Sequence[Request]) -> Any:
        self.batches.append(list(requests))
        return self.what(requests)


def raises(error: BaseException) -> Any:
    raise error


def statuses(episodes: Sequence[Episode], role: str) -> Counter[str]:
    return Counter(t.status for e in episodes for t in e.turns if t.role == role)


class Sleeper:
    def act(self, requests: Sequence[Request]) -> list[Action]:
        time.sleep(3)
        return [Action("late") for _ in requests]


class Blocking(Sleeper):
    """Blocks the event loop that it should share: the deadline of a coroutine cannot be kept from inside."""

    async def act(self, requests: Sequence[Request]) -> list[Action]:  # type: ignore[override]
        return super().act(requests)


class AsyncSleeper:
    async def act(self, requests: Sequence[Request]) -> list[Action]:
        await asyncio.sleep(1000)
        return []


class Stubborn:
    """Swallows the cancellation that a deadline sends."""

    async def act(self, requests: Sequence[Request]) -> list[Action]:
        for _ in range(3000):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return []


@pytest.mark.parametrize("agent", [Sleeper(), AsyncSleeper(), Stubborn(), Blocking()], ids=lambda a: type(a).__name__)
def test_a_hanging_agent_is_a_timeout_and_the_run_ends(agent: Any) -> None:
    began = time.perf_counter()
    seats = {"challenger": "oracle", "solver_0": agent, "solver_1": "oracle", "solver_2": "oracle"}
    episodes = list(rollout(GAME, seats, 3, deadline=0.1, reward=challenger_solver()))
    assert time.perf_counter() - began < 2.5, "the run waited for the agent"
    for episode in episodes:
        assert [t.status for t in episode.turns] == ["ok", "timeout", "ok", "ok"]
        assert episode.scores["solver_0"].status == "timeout" and episode.scores["solver_1"].value == 1.0
        assert episode.outcome.facts["solve_rate"] == 1.0  # the one that hung is not counted as wrong

    (lost,) = rollout(GAME, {"challenger": AsyncSleeper(), "solver": "oracle"}, 1, deadline=0.05)
    assert lost.outcome.status == "timeout" and [t.status for t in lost.turns] == ["timeout"]

    # The next run is not poisoned by what is still hanging about.
    async def quick(text: str) -> str:
        return "x"

    (after,) = rollout(GAME, {"challenger": "oracle", "solver": quick}, 1, deadline=5.0)
    assert statuses([after], "solver") == {"ok": 3}


def _generator(requests: Sequence[Request]) -> Any:
    yield Action("x")
    raise RuntimeError("half way")


class _Odd(list[Any]):
    """A list that breaks when it is read."""

    def __iter__(self) -> Any:
        raise OSError("gone")


GARBAGE: dict[str, Any] = {
    "raises": lambda r: raises(RuntimeError("a\nb")),
    "raises_nothing": lambda r: raises(Exception()),
    "none": lambda r: None,
    "too_few": lambda r: [Action("x")] * (len(r) - 1),
    "too_many": lambda r: [Action("x")] * (len(r) + 1),
    "one_string_of_the_right_length": lambda r: "x" * len(r),
    "a_dict_of_the_right_length": lambda r: {str(i): "x" for i in range(len(r))},
    "numbers": lambda r: list(range(len(r))),
    "bytes": lambda r: [b"x"] * len(r),
    "action_without_text": lambda r: [Action(None)] * len(r),  # type: ignore[arg-type]
    "action_of_bytes": lambda r: [Action(b"c:BDA")] * len(r),  # type: ignore[arg-type]
    "action_with_a_status_of_its_own": lambda r: [Action("x", status="fine")] * len(r),  # type: ignore[arg-type]
    "action_with_an_unhashable_status": lambda r: [Action("x", status=["ok"])] * len(r),  # type: ignore[arg-type]
    "action_without_usage": lambda r: [Action("x", usage=None)] * len(r),  # type: ignore[arg-type]
    "generator_that_raises": _generator,
    "list_that_raises": lambda r: _Odd(r),
    "cancelled": lambda r: raises(asyncio.CancelledError()),
}


@pytest.mark.parametrize("deadline", [None, 5.0])
@pytest.mark.parametrize("style", ["sync", "async"])
@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_an_error_with_one_warning(what: str, style: str, deadline: float | None, tmp_path: Path) -> None:
    if (what, style) == ("cancelled", "sync"):
        pytest.skip("a BaseException of a synchronous agent is the user's own way out")

    class Async(Failing):
        async def act(self, requests: Sequence[Request]) -> Any:
            return self.what(requests)

    agent = (Failing if style == "sync" else Async)(GARBAGE[what])
    seats = {"challenger": "oracle", "solver": agent, "solver_2": "oracle"}
    path = tmp_path / "e.jsonl"
    with warnings.catch_warnings(record=True) as caught, EpisodeWriter(path) as out:
        warnings.simplefilter("always")
        episodes = list(rollout(GAME, seats, 3, deadline=deadline, reward=challenger_solver(), out=out))
    assert len(episodes) == 3
    for episode in episodes:
        assert [t.status for t in episode.turns] == ["ok", "error", "error", "ok"]
        assert episode.scores["solver_0"].status == "error"
    mine = [str(w.message) for w in caught if "status 'error'" in str(w.message)]
    assert len(mine) == 1, mine
    assert [plain(e) for e in read_episodes(path)] == [plain(e) for e in episodes]  # what was written can be read


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec=None, exclude_categories=()), max_size=200))
def test_any_text_can_be_played_written_and_read(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, EpisodeWriter(Path(folder) / "e.jsonl") as out:
        agent = Counting(text)
        seats = {"challenger": "oracle", "solver": agent}
        (episode,) = rollout(GAME, seats, 1, out=out, reward=challenger_solver())
        assert [plain(e) for e in read_episodes(out.path)] == [plain(episode)]
        (rejected,) = rollout(GAME, {"challenger": agent, "solver": agent}, 1)
        assert rejected.outcome.status == "ok"


@pytest.mark.parametrize(
    ("seats", "width", "says"),
    [
        ({"challenger": "oracle", "slover": "oracle"}, 1, "solver"),
        ({"challenger": "oracle", "solver_9": "oracle"}, 1, "solver_0"),
        ({"challenger": "oracle"}, 1, "solver_0"),
        ({"challenger": "oracle", "solver": 7}, 1, "7"),
        ({"challenger": "oracle", "solver": "oracle"}, 0, "width=0"),
    ],
)
def test_a_mistake_is_one_line(seats: dict[str, Any], width: int, says: str) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        list(rollout(GAME, seats, 1, width=width))
    assert says in str(caught.value) and "\n" not in str(caught.value)


class OverAtOnce(broken_envs.Sums):
    """A game whose start may be its end: nobody ever moves."""

    def start(self, task: Task | None, rng: np.random.Generator) -> broken_envs.State:
        return broken_envs.State(self.draw(rng), ["", "", "", ""] * int(rng.integers(2)))


def test_a_game_that_starts_at_its_end_is_an_episode_without_turns() -> None:
    episodes = list(rollout(OverAtOnce(), {"player": Counting()}, 40))
    assert sorted(e.index for e in episodes) == list(range(40))
    assert Counter(len(e.turns) for e in episodes).keys() == {0, 4}


class Batched:
    """A reward model that scores a batch, also asynchronously, and remembers how many episodes came at once."""

    name = "batched"

    def __init__(self, score: Any = None, wait: bool = False) -> None:
        self.own, self.wait, self.sizes = score, wait, list[int]()

    def score(self, episodes: Sequence[Episode]) -> Any:
        self.sizes.append(len(episodes))
        found = [{"solver_0": Score(float(e.index)), "solver_1": e.index} for e in episodes]
        found = self.own(found) if self.own is not None else found
        return self._later(found) if self.wait else found

    async def _later(self, found: Any) -> Any:
        await asyncio.sleep(0.01)
        return found


@pytest.mark.parametrize("wait", [False, True])
def test_the_episodes_of_one_step_are_scored_in_one_call(wait: bool) -> None:
    model = Batched(wait=wait)
    episodes = list(rollout(GAME, SEATS, 6, reward=model, width=4))  # type: ignore[arg-type]
    assert model.sizes == [4, 2] and [e.grader for e in episodes] == ["batched"] * 6
    for episode in episodes:
        values = {a: (s.value, s.status) for a, s in episode.scores.items()}
        assert values["solver_0"] == values["solver_1"] == (float(episode.index), "ok")
        assert values["challenger_0"] == values["solver_2"] == (0.0, "abstain")  # left out, never a zero that counts
    (alone,) = score([play(GAME, SEATS, index=3)], model)  # type: ignore[arg-type]
    assert alone.scores["solver_0"].value == 3.0
    assert play(GAME, SEATS, index=7, reward=model).scores["solver_1"].value == 7.0  # type: ignore[arg-type]


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda found: raises(RuntimeError("endpoint\ngone")),
        lambda found: found[:-1],
        lambda found: None,
        lambda found: [None] * len(found),
        lambda found: dict(enumerate(found)),
    ],
    ids=["raises", "too_few", "nothing", "no_dicts", "a_dict"],
)
def test_a_reward_model_that_fails_costs_its_batch_and_not_the_run(wrong: Any, wait: bool, tmp_path: Path) -> None:
    calls: list[int] = []

    def second(found: Any) -> Any:
        calls.append(len(found))
        return wrong(found) if len(calls) == 2 else found

    with warnings.catch_warnings(record=True) as caught, EpisodeWriter(tmp_path / "e.jsonl") as out:
        warnings.simplefilter("always")
        episodes = list(rollout(GAME, SEATS, 6, reward=Batched(second, wait), width=2, out=out))  # type: ignore[arg-type]
    assert calls == [2, 2, 2]
    statuses = [{s.status for s in e.scores.values()} for e in episodes]
    assert statuses == [{"ok", "abstain"}] * 2 + [{"error"}] * 2 + [{"ok", "abstain"}] * 2
    assert all(set(e.scores) == set(GAME.agents) for e in episodes)
    mine = [str(w.message) for w in caught if "reward batched failed" in str(w.message)]
    assert len(mine) == 1 and "\n" not in mine[0]
    assert [plain(e) for e in read_episodes(out.path)] == [plain(e) for e in episodes]


def test_a_model_of_a_strangers_is_cleaned() -> None:
    model = Batched(lambda found: [{"solver_0": float("nan"), "solver_1": "x", "solver_2": None} for _ in found])
    (episode,) = rollout(GAME, SEATS, 1, reward=model)  # type: ignore[arg-type]
    assert [episode.scores[f"solver_{i}"].status for i in range(3)] == ["error", "error", "abstain"]
    assert {s.value for s in episode.scores.values()} == {0.0}


def test_what_an_agent_does_to_its_messages_is_not_in_the_record() -> None:
    class Meddler(Counting):
        def act(self, requests: Sequence[Request]) -> list[Action]:
            for request in requests:
                request.messages[0]["content"] = "forged"
                request.messages.clear()
            return super().act(requests)

    (episode,) = rollout(GAME, {"challenger": "oracle", "solver": Meddler()}, 1)
    assert [t.messages for t in episode.turns[1:]] == [[{"role": "user", "content": episode.turns[0].text}]] * 3
