"""Games and draws on Ray actors: what one process gives, whoever computes it and whoever dies over it."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("ray")

import _workers
import ray

from dream_envs import workers as pool
from dream_envs.core import DreamEnvsError, Episode, Start, encode
from dream_envs.play import EpisodeWriter, read_episodes, rollout
from dream_envs.rewards.algebra import per_role, weighted
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.rounds import shared
from dream_envs.rewards.solver import correctness
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition
from dream_envs.workers import Cast, Players, asked, compares

ENV = "ChallengerSolver-v0"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """A Ray with room for two workers, which pools of these tests join and leave as it is."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    assert ray.is_initialized()
    ray.shutdown()


def lines(episodes: Any) -> dict[int, bytes]:
    """Every episode as it is written, by index, with token ids but without the wall clock's share.

    Log-probabilities hang on the batch in their last digits, in one process too.
    """
    found: dict[int, bytes] = {}
    for e in episodes:
        assert e.index not in found, "an episode was played twice"
        turns = [msgspec.structs.replace(t, seconds=0.0, logprobs=None) for t in e.turns]
        found[e.index] = encode(msgspec.structs.replace(e, turns=turns))
    return dict(sorted(found.items()))


def here(cast: Cast, starts: Any, **more: Any) -> dict[int, bytes]:
    game, seats, reward = cast()
    return lines(rollout(game, seats, starts, reward=reward, **more))


def there(cast: Any, starts: Any, width: int = 256, seed: str = "0", **more: Any) -> dict[int, bytes]:
    with Players("2", cast, seed=seed, width=width) as players:
        return lines(players.rollout(starts, **more))


def starts() -> list[Start]:
    """Starts of every kind: a task, a shared beginning, first moves that were given."""
    task = Composition().generate(stream("workers"), 2)
    return [Start(3), Start(900, task=task), Start(5, draw=3), *map(Start, range(20, 60))]


@pytest.mark.parametrize("solver", ["guesser", "_workers:Slowly", "local(model=nano/compose)"])
def test_two_workers_and_one_process_play_the_same(two: None, solver: str) -> None:
    if "local" in solver:
        pytest.importorskip("torch")
    cast = Cast(ENV, {"challenger": "oracle", "solver": solver}, {"solvers": 3}, challenger_solver())
    expected = here(cast, starts(), seed="s")
    for width in (1, 4, 256) if solver == "guesser" else (8,):
        assert there(cast, starts(), width, "s") == expected
    assert len(expected) == 43


def test_a_function_may_make_the_game_and_objects_are_pickled(two: None) -> None:
    cast = Cast(ENV, {"challenger": "oracle", "solver": _workers.Pickled("ABD")})
    assert there(lambda: cast(), 30) == there(cast, 30) == here(cast, 30)
    locked = msgspec.structs.replace(cast, seats={"challenger": "oracle", "solver": _workers.Locked()})
    with pytest.raises(DreamEnvsError, match=r"cannot be sent to workers .*name agents and rewards by text") as told:
        Players("2", locked)
    assert "\n" not in str(told.value)


def test_both_play_and_a_killed_one_costs_its_games_in_flight_alone(two: None, tmp_path: Path) -> None:
    """SIGKILL in mid-run: every episode once, the dead one's games by others, and one more process than workers."""
    cast = Cast(ENV, {"challenger": "oracle", "solver": f"_workers:Noted(folder={tmp_path},seconds=0.05)"})
    expected = here(msgspec.structs.replace(cast, seats={**cast.seats, "solver": _workers.Pickled("ABCD")}), 120)
    killed = list[int]()
    with EpisodeWriter(tmp_path / "e.jsonl") as out, Players("2", cast, width=4) as players:
        for count, _ in enumerate(players.rollout(120, out=out)):
            if count == 30:
                killed += [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]
                (tmp_path / "killed").touch()
                os.kill(killed[0], signal.SIGKILL)
    assert len(killed) == 2 and lines(read_episodes(tmp_path / "e.jsonl")) == expected
    assert len({p.name for p in tmp_path.iterdir() if p.name.isdigit()}) == 3


def test_what_kills_every_worker_is_told_and_what_ended_is_kept(two: None, tmp_path: Path) -> None:
    cast = Cast(ENV, {"challenger": "oracle", "solver": "_workers:Deadly(episode=0/17)"})
    with (
        EpisodeWriter(tmp_path / "e.jsonl") as out,
        pytest.raises(DreamEnvsError, match=r"4 workers died over the same work|worker after worker dies") as told,
        Players("2", cast, width=2) as players,
    ):
        list(players.rollout(24, out=out))
    kept = lines(read_episodes(tmp_path / "e.jsonl"))
    assert "\n" not in str(told.value) and 17 not in kept and len(kept) >= 12
    mended = msgspec.structs.replace(cast, seats={"challenger": "oracle", "solver": "_workers:Deadly(episode=none)"})
    with EpisodeWriter(tmp_path / "e.jsonl") as out:
        again = there(mended, 24, out=out)
    assert not set(again) & set(kept) and {**kept, **again}.keys() == set(range(24))
    assert {**kept, **again} == here(mended, 24)


def test_a_file_is_gone_on_with_and_failures_are_played_again(two: None, tmp_path: Path) -> None:
    cast = Cast(ENV, {"challenger": "oracle", "solver": "guesser"})
    with EpisodeWriter(tmp_path / "e.jsonl") as out:
        first = there(cast, 9, out=out)
        rest = there(cast, 30, out=out)
        assert set(first) == set(range(9)) and set(rest) == set(range(9, 30)) and not there(cast, 30, out=out)
    some = list(read_episodes(tmp_path / "e.jsonl"))
    failed = [msgspec.structs.replace(e, turns=[msgspec.structs.replace(e.turns[0], status="error"), *e.turns[1:]])
              if e.index % 7 == 0 else e for e in some]  # fmt: skip
    (tmp_path / "e.jsonl").write_bytes(b"".join(encode(e) + b"\n" for e in failed))
    with EpisodeWriter(tmp_path / "e.jsonl") as out:
        assert set(there(cast, 30, out=out, retry=["error"])) == {0, 7, 14, 21, 28}
    assert lines(read_episodes(tmp_path / "e.jsonl")) == here(cast, 30)


def test_starts_without_an_end_are_taken_as_they_are_needed(two: None) -> None:
    taken = list[int]()

    def endless() -> Iterator[Start]:
        for index in range(10**9):
            taken.append(index)
            yield Start(index)

    with Players("2", Cast(ENV, {"challenger": "oracle", "solver": "guesser"}), width=4) as players:
        some = [e for _, e in zip(range(50), players.rollout(endless()), strict=False)]
    assert len(lines(some)) == 50 and len(taken) <= 50 + 2 * 2 * 5


@pytest.mark.parametrize(
    ("cast", "told"),
    [
        (Cast("NoSuchGame-v0", {}), "NoSuchGame"),
        (Cast(ENV, {"solvr": "oracle"}), "seats of dream_envs/ChallengerSolver-v0: no 'solvr'"),
        (Cast(ENV, {"solver": "orakle"}), "agents: no 'orakle'; did you mean 'oracle'"),
        (Cast(ENV, {"solver": "oracle"}, {"colour": 1}), "no 'colour'"),
        (Cast(ENV, {"solver": "oracle"}, reward=shared(challenger_solver())), "reward shared.* may compare episodes"),
        (Cast(ENV, {"solver": "oracle"}, reward=_workers.Together()), "may compare episodes"),
    ],
)
def test_mistakes_in_a_worker_are_told_in_a_line(two: None, cast: Cast, told: str) -> None:
    with pytest.raises(DreamEnvsError, match=told) as error:
        Players("2", cast)
    assert "\n" not in str(error.value) and type(error.value) is DreamEnvsError


def test_a_game_that_nobody_plays_is_told_while_it_is_played(two: None) -> None:
    with pytest.raises(DreamEnvsError, match="nobody plays"), Players("2", Cast(ENV, {"solver": "oracle"})) as players:
        list(players.rollout(4))


def test_which_rewards_compare_episodes() -> None:
    mixed = weighted({"correctness": 1.0, "format": 0.1})
    assert not any(map(compares, (None, correctness(), challenger_solver(), mixed, per_role({"solver": mixed}))))
    assert all(map(compares, (shared(correctness()), per_role({"solver": shared(correctness())}), _workers.Together())))


def test_warnings_of_workers_reach_the_caller_once(two: None) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there(Cast(ENV, {"challenger": "oracle", "solver": "_workers:Complains"}), 40, width=2)
    assert [str(w.message) for w in said if "kettle" in str(w.message)] == ["the kettle boils"]


WRONG = ("", "0", "-1", "two", "2(actors=3)", "auto(actors=0)", "auto(cpus=1)", "ray://", "auto(gpus=-1)", "1.5")


@pytest.mark.parametrize("text", [*WRONG, "auto(gpus=1.5)", "auto(actors=1025)", "auto(actors=x)"])
def test_what_workers_can_be_told_to_be(text: str) -> None:
    with pytest.raises(DreamEnvsError, match="--workers"):
        asked(text)


def test_what_workers_are_told_to_be() -> None:
    assert msgspec.structs.astuple(asked("8(gpus=0.5)")) == ("local", 8, 0.5)
    assert msgspec.structs.astuple(asked("auto")) == ("auto", 0, 0.0)
    assert msgspec.structs.astuple(asked("ray://h:10001(actors=16,gpus=2)")) == ("ray://h:10001", 16, 2.0)


def test_no_room_is_told_at_once(two: None) -> None:
    with pytest.raises(DreamEnvsError, match=r"no room for a worker with gpus=1: Ray has 2 CPUs and 0 GPUs"):
        Players("2(gpus=1)", Cast(ENV, {"solver": "oracle"}))


class Numbers:
    """For ``Pool.map``: squares, and a piece that ends every process, or only the first of them."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def square(self, number: int) -> int:
        if number == 13:
            os._exit(1)
        if number == 7 and not (self.folder / "seven").exists():
            (self.folder / "seven").touch()
            os._exit(1)
        return number * number


def test_work_is_mapped_in_order_and_done_again(two: None, tmp_path: Path) -> None:
    import functools

    with pool.Pool("2", functools.partial(Numbers, str(tmp_path))) as made:
        assert made.map("square", [(n,) for n in range(12)]) == [n * n for n in range(12)]
        assert (tmp_path / "seven").exists() and made.map("square", []) == []
        with pytest.raises(DreamEnvsError, match="died"):
            made.map("square", [(n,) for n in range(14)])


COMMAND = [sys.executable, "-m", "dream_envs.cli", "rollout", ENV, "--seats", "challenger=oracle,solver=guesser"]
QUIET = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "COLUMNS": "80"}


def test_the_verb_says_what_it_says_without_workers(tmp_path: Path) -> None:
    """Through pipes: no word of Ray's on either; Ray is gone behind it."""
    told = []
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        words = [*COMMAND, "--episodes", "40", "--out", name, *more]
        done = subprocess.run(words, cwd=tmp_path, env=QUIET, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told.append((re.sub(r"in \w+ \(40 new, [\d.]+/s\)", "", done.stdout), done.stderr))
    assert told[0] == told[1] and not told[0][1]
    assert lines(read_episodes(tmp_path / "one/episodes.jsonl")) == lines(
        read_episodes(tmp_path / "two/episodes.jsonl")
    )
    (one, two_) = (json.loads((tmp_path / name / "run.json").read_text())["config"] for name in ("one", "two"))
    assert one == two_  # so that a run may go on with another number of workers


def test_a_mistake_leaves_no_folder_and_ctrl_c_keeps_what_ended(tmp_path: Path) -> None:
    wrong = [*COMMAND[:-1], "solver=orakle", "--out", "run", "--workers", "2"]
    done = subprocess.run(wrong, cwd=tmp_path, env=QUIET, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "did you mean 'oracle'" in done.stderr
    assert not (tmp_path / "run").exists()
    slow = [*COMMAND[:-1], f"challenger=oracle,solver=_workers:Noted(folder={tmp_path},seconds=0.05)"]
    slow += ["--out", "run", "--workers", "2", "--episodes", "4000", "--width", "4"]
    how: dict = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    # a suite that is a shell's background job has it ignored, and children inherit that
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(slow, cwd=tmp_path, env=QUIET, preexec_fn=heard, **how)
    written, begun = tmp_path / "run" / "episodes.jsonl", time.monotonic()
    while not (written.exists() and written.stat().st_size > 20_000):
        assert process.poll() is None and time.monotonic() - begun < 90
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on from there" in err.splitlines()[-1]
    assert len(err.splitlines()) <= 2 and "ray" not in err.lower().replace(
        "array", ""
    )  # how long it will take, at most
    kept: list[Episode] = list(read_episodes(written))
    assert 0 < len(lines(kept)) < 4000
    workers = [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.slow
def test_a_frontier_report_is_that_of_one_process_though_a_worker_is_killed(two: None, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from _frontier_small import copied
    from safetensors.torch import load_file, save_file

    from dream_envs.baselines.frontier import job, spread

    weights = (folder := copied(tmp_path / "model")) / "model.safetensors"
    changed = load_file(weights)
    name = next(k for k in changed if "down_proj" in k)
    save_file({**changed, name: changed[name] * 1.02}, weights, metadata={"format": "pt"})
    ask, wait, calls, lost = spread._Remote.act, pool.Pool.wait, list[int](), list[Any]()

    def waited(self: Any) -> Any:
        lost.append(found := wait(self))
        return found

    def watched(self: Any, requests: Any) -> Any:
        calls.append(len(requests))
        if len(calls) == 3:  # in the middle of this call
            actor = self.pool._actors[0]
            threading.Timer(0.1, ray.kill, [actor]).start()
        return ask(self, requests)

    spread._Remote.act, pool.Pool.wait = watched, waited  # type: ignore[method-assign]
    found = []
    try:
        for name, how in (("one", ""), ("two", "2")):
            options = job.Options("_frontier_small:small", seed="x")
            given = ("nano/compose", str(folder), tmp_path / name, tmp_path / f"{name}-cache", options)
            job.run(*given, quiet=True, workers=how)
            data = json.loads((tmp_path / name / "frontier.json").read_text())
            data["cost"].update(seconds=0, envelope_seconds={})
            kept = [sorted(p.read_bytes().splitlines()) for p in sorted((tmp_path / f"{name}-cache").iterdir())]
            found.append((data, kept))
    finally:
        spread._Remote.act, pool.Pool.wait = ask, wait  # type: ignore[method-assign]
    assert pool.LOST in [value for _, value in lost]
    assert len(calls) > 10 and max(calls) > spread.LEAST and found[0] == found[1]


def test_what_a_report_cannot_spread_is_refused() -> None:
    pytest.importorskip("transformers")
    from dream_envs.baselines.frontier import job

    with pytest.raises(DreamEnvsError, match="they load models by name"):
        job.run("nano/compose", lambda base: base, Path("r"), workers="2")
