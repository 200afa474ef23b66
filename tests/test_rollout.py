"""The one loop: every episode once, whatever runs beside it, whatever the agents do, wherever a kill cuts the file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import Action, Episode, Event, Request, Start
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import EpisodeWriter, assign_agents, read_episodes, rollout
from dream_envs.rewards.presets import challenger_solver
from dream_envs.tasks.composition import Composition

GAME = ChallengerSolver(solvers=3)
SMALL = ChallengerSolver(Composition(max_level=2), solvers=1)
SEATS = {"challenger": "oracle", "solver": "guesser"}


def plain(episode: Episode) -> Episode:
    """What must not depend on timing."""
    return msgspec.structs.replace(episode, turns=[msgspec.structs.replace(t, seconds=0.0) for t in episode.turns])


def by_index(episodes: Sequence[Episode]) -> dict[int, Episode]:
    assert len({e.index for e in episodes}) == len(episodes), "an episode was played twice"
    return {e.index: plain(e) for e in episodes}


class Counting:
    """Answers with its own name; remembers every batch."""

    def __init__(self, text: str = "c:BDA") -> None:
        self.text, self.batches = text, list[list[Request]]()

    def act(self, requests: Sequence[Request]) -> list[Action]:
        self.batches.append(list(requests))
        return [Action(self.text) for _ in requests]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[int, Episode]]:
    """The file of a run of three short episodes, and its episodes."""
    path = tmp_path_factory.mktemp("whole") / "episodes.jsonl"
    with EpisodeWriter(path) as out:
        list(rollout(SMALL, SEATS, 3, seed="cut", reward=challenger_solver(), out=out, width=2))
    found = by_index(list(read_episodes(path)))
    assert sorted(found) == [0, 1, 2]
    return path.read_bytes(), found


def test_a_file_cut_anywhere_is_resumed(whole: tuple[bytes, dict[int, Episode]], tmp_path: Path) -> None:
    """Every byte offset: what is whole is kept, the rest is played again, and the result is the uncut run."""
    data, expected = whole
    path = tmp_path / "episodes.jsonl"
    for offset in range(len(data) + 1):
        path.write_bytes(data[:offset])
        kept = data[:offset].count(b"\n")
        with EpisodeWriter(path) as out:
            played = list(rollout(SMALL, SEATS, 3, seed="cut", reward=challenger_solver(), out=out, width=3))
        assert len(played) == 3 - kept
        assert by_index(list(read_episodes(path))) == expected, f"cut at byte {offset}"


def test_the_writer_keeps_a_checkpoint_and_cuts_the_rest(
    whole: tuple[bytes, dict[int, Episode]], tmp_path: Path
) -> None:
    data, _ = whole
    path = tmp_path / "e.jsonl"
    second = data.index(b"\n", data.index(b"\n") + 1) + 1
    for keep, left in ((second, second), (second + 5, second), (second - 1, data.index(b"\n") + 1), (0, 0)):
        path.write_bytes(data)
        with EpisodeWriter(path, keep=keep) as out:
            assert out.position() == left
        assert path.read_bytes() == data[:left]
    path.write_bytes(data[:-1])
    assert len(list(read_episodes(path))) == 2  # an unfinished line is not read
    path.write_bytes(data)
    with EpisodeWriter(path, keep=10 * len(data)) as out:
        assert out.position() == len(data)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 12), order=st.permutations(range(7)), extra=st.sets(st.integers(100, 110), max_size=4))
def test_an_episode_does_not_depend_on_what_runs_beside_it(width: int, order: list[int], extra: set[int]) -> None:
    reference = by_index(list(rollout(GAME, SEATS, 7, seed="s", reward=challenger_solver())))
    starts = [Start(i) for pair in zip(order, [*extra, *[None] * 7], strict=False) for i in pair if i is not None]
    found = by_index(list(rollout(GAME, SEATS, starts, seed="s", reward=challenger_solver(), width=width)))
    assert {i: found[i] for i in reference} == reference
    assert set(found) == set(reference) | {s.index for s in starts}


def test_another_seed_is_another_run_and_requests_have_seeds_of_their_own() -> None:
    one, other = (by_index(list(rollout(GAME, SEATS, 12, seed=s))) for s in ("0", "1"))
    assert len({e.turns[0].text for run in (one, other) for e in run.values()}) > 18  # hardly two alike
    agent = Counting()
    list(rollout(GAME, {"challenger": agent, "solver": agent}, 50, seed=3))
    seeds = [r.seed for b in agent.batches for r in b]
    assert len(set(seeds)) == len(seeds) == 200


@pytest.fixture(scope="module")
def nano() -> Any:
    pytest.importorskip("torch").set_num_threads(1)
    return pytest.importorskip("dream_envs.agents.engines.local").LocalAgent("nano/compose")


def test_written_and_yielded_are_the_same(tmp_path: Path, nano: Any) -> None:
    seats, kept = {"challenger": nano, "solver": nano}, tmp_path / "tokens.jsonl"
    with EpisodeWriter(kept, tokens=True) as out:
        yielded = list(rollout(GAME, seats, 3, seed="w", out=out, reward=challenger_solver()))
    assert list(read_episodes(kept)) == yielded
    with EpisodeWriter(tmp_path / "short.jsonl") as out:
        for episode in yielded:
            out.write(episode)
    short = list(read_episodes(tmp_path / "short.jsonl"))
    assert all(t.token_ids is None and t.logprobs is None for e in short for t in e.turns)
    assert [[t.text for t in e.turns] for e in short] == [[t.text for t in e.turns] for e in yielded]


def test_one_call_a_policy_and_step() -> None:
    one, other = Counting(), Counting()
    list(rollout(GAME, {"challenger": one, "solver": one}, 5))
    assert [len(b) for b in one.batches] == [5, 15]
    one.batches.clear()
    list(rollout(GAME, {"challenger": one, "solver": other, "solver_1": one}, 5, width=5))
    assert [len(b) for b in one.batches] == [5, 5] and [len(b) for b in other.batches] == [10]
    assert {r.agent for r in one.batches[1]} == {"solver_1"}
    narrow = Counting("nonsense")  # every proposal is turned away: one step an episode, and its place is filled again
    list(rollout(GAME, {"challenger": narrow, "solver": narrow}, 7, width=3))
    assert [len(b) for b in narrow.batches] == [3, 3, 1]


def test_one_object_in_two_seats_is_one_call_also_where_it_is_a_function() -> None:
    calls: list[int] = []

    class Batch:
        async def act(self, requests: Sequence[Request]) -> list[Action]:
            calls.append(len(requests))
            return [Action("x") for _ in requests]

    both = Batch()
    list(rollout(GAME, {"solver_0": both, "solver_1": both, "solver_2": both, "challenger": lambda text: "c:BDA"}, 4))
    assert calls == [3] * 4  # of each game by itself: asynchronous agents wait for no other game
    made = assign_agents(GAME, {"challenger": str.upper, "solver": str.upper, "solver_1": both})
    assert len({id(a) for a in made.values()}) == 2 and made["solver_1"] is both


def test_async_policies_run_side_by_side() -> None:
    """Two policies that each wait for the other: one after the other, neither would ever return."""
    log: list[str] = []

    class Meeting:
        def __init__(self, name: str, other: str) -> None:
            self.name, self.other = name, other

        async def act(self, requests: Sequence[Request]) -> list[Action]:
            log.append(f"{self.name} starts")
            while f"{self.other} starts" not in log:
                await asyncio.sleep(0.001)
            log.append(f"{self.name} ends")
            return [Action(self.name) for _ in requests]

    seats = {"challenger": Counting(), "solver_0": Meeting("a", "b"), "solver_1": Meeting("b", "a"), "solver": "oracle"}
    (episode,) = rollout(GAME, seats, 1, deadline=20.0)
    assert sorted(log[:2]) == ["a starts", "b starts"] and sorted(log[2:]) == ["a ends", "b ends"]
    assert [t.text for t in episode.turns[1:3]] == ["a", "b"]


def test_rollout_inside_a_running_loop() -> None:
    async def solver(text: str) -> str:
        await asyncio.sleep(0)
        return text[::-1]

    async def main() -> list[Episode]:
        return list(rollout(GAME, {"challenger": Counting(), "solver": solver}, 2))

    assert asyncio.run(main())[0].turns[1].text == "ADB:c"


def test_given_moves_are_played_and_noted() -> None:
    asked = Counting("BfDkAa")
    start = Start(5, given={"challenger_0": Action("c:BDA")}, author="mutation")
    (episode,) = rollout(GAME, {"challenger": asked, "solver": asked}, [start])
    assert [r.role for b in asked.batches for r in b] == ["solver"] * 3
    assert episode.index == 5 and episode.turns[0].text == "c:BDA" and episode.turns[0].agent == "challenger_0"
    assert episode.turns[0].messages == [{"role": "user", "content": "new"}] and episode.turns[0].seconds == 0.0
    assert episode.events[0] == Event("given", data={"author": "mutation"}) and episode.events[1].kind == "accepted"


def test_a_given_move_needs_no_agent_and_changes_nothing_else() -> None:
    """The same problem, given or asked: the solvers are asked the same with the same seeds."""
    given_ = [Start(0, given={"challenger_0": Action("c:BDA")})]
    runs = [({"solver": "guesser"}, given_), ({"solver": "guesser", "challenger": Counting("c:BDA")}, [Start(0)])]
    one, other = (next(rollout(GAME, seats, starts, seed="g")) for seats, starts in runs)
    assert [t.text for t in one.turns] == [t.text for t in other.turns]
    assert not [e for e in one.events if e.kind == "given"]


def test_mixed_given_and_asked_in_one_step() -> None:
    agent = Counting()
    starts = [Start(0), Start(1, given={"challenger_0": Action("d:AB")}, author="x"), Start(2)]
    found = by_index(list(rollout(GAME, {"challenger": agent, "solver": agent}, starts)))
    assert [found[i].turns[0].text for i in range(3)] == ["c:BDA", "d:AB", "c:BDA"]
    assert [len(b) for b in agent.batches] == [2, 9]
