"""The Farama projects' own checkers, and what they do not look at in environments made of text."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np

from dream_envs.testing.report import Failure, Skip
from dream_envs.testing.subject import Subject
from dream_envs.testing.walks import GymWalk, difference, plain, sample

CYCLES = 60


def gymnasium_api(subject: Subject, parts: Sequence[Subject]) -> None:
    """``gymnasium.utils.env_checker.check_env`` on every single-role view."""
    from gymnasium.utils.env_checker import check_env

    for part in _of(parts, "gymnasium"):
        env = part.new()
        with _quiet(part.name):
            try:
                check_env(env)
            except gymnasium.error.DependencyNotInstalled:  # somebody's drawing library: the rest can be checked
                check_env(part.new(), skip_render_check=True)


def no_truncation_on_first_step(subject: Subject, parts: Sequence[Subject]) -> None:
    """An episode of one step ends with ``terminated``; ``truncated`` would tell a learner to bootstrap from it."""
    for part in _of(parts, "gymnasium"):
        for seed in range(5):
            trail = GymWalk(part.new(), seed)
            trail.step()
            if trail.truncated:
                raise Failure(f"{part.name}: the first step is truncated; end the episode with terminated=True")


def _farama(kind: str, name: str, test: str) -> Callable[[Subject, Sequence[Subject]], None]:
    """A check that runs one of PettingZoo's tests on every adapter of a kind."""

    def check(subject: Subject, parts: Sequence[Subject]) -> None:
        import pettingzoo.test

        for part in _of(parts, kind):
            with _quiet(part.name):
                given = part.new if name.endswith("seed") else part.new()
                getattr(pettingzoo.test, test)(given, num_cycles=CYCLES)

    check.__name__, check.__doc__ = name, f"``pettingzoo.test.{test}``."
    return check


aec_api = _farama("aec", "aec_api", "api_test")
aec_seed = _farama("aec", "aec_seed", "seed_test")
parallel_api = _farama("parallel", "parallel_api", "parallel_api_test")
parallel_seed = _farama("parallel", "parallel_seed", "parallel_seed_test")


def vector_text(subject: Subject, parts: Sequence[Subject]) -> None:
    """Text comes whole through the vector environments, and the one that would destroy it refuses loudly.

    Compared for two copies and the same seeds: the in-process vector, worker processes without shared memory, and the
    native vector if there is one.  With shared memory (Gymnasium's default for worker processes) construction must
    fail, unless what comes out is right.
    """
    found = _of(parts, "gymnasium")
    part = found[-1] if subject.kind == "game" and len(found) > 1 else found[0]
    make = [part.new, part.new]
    if "str" not in _types(part.new().observation_space.sample()):
        raise Skip("its observations are not text")
    sync = _vector_log(gymnasium.vector.SyncVectorEnv(make))
    workers = _vector_log(gymnasium.vector.AsyncVectorEnv(make, shared_memory=False))
    if workers != sync:
        raise Failure(f"{part.name}: worker processes return other text: {difference(sync, workers)}")
    if subject.kind == "game":
        native = _vector_log(_native(part))
        if native != sync:
            raise Failure(f"{part.name}: the native vector returns other text: {difference(sync, native)}")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            vector = gymnasium.vector.AsyncVectorEnv(make)
    except Exception:
        return  # loud: what is wanted
    if (log := _vector_log(vector)) != sync:
        raise Failure(
            f"{part.name}: worker processes with shared memory (the default) silently return wrong text; derive the "
            f"observation space from gymnasium.spaces.Space, as UnicodeText does: {difference(sync, log)}"
        )


def _vector_log(vector: Any) -> list[Any]:
    """Observations, rewards and endings of two resets and three steps, the vector closed at the end."""
    moves = [["≤ é 🙂", "x"], ["", "≤"], ["plain", "🙂"]]
    try:
        text = isinstance(sample(vector.single_action_space), str)
        vector.action_space.seed(5)
        log = [plain(vector.reset(seed=[3, 4])[0])]
        for move in moves:
            actions = tuple(move) if text else vector.action_space.sample()
            observations, rewards, terminations, truncations, _ = vector.step(actions)
            log.append(plain((observations, np.asarray(rewards, float), terminations, truncations)))
        return log
    finally:
        vector.close()


def _native(part: Subject) -> Any:
    from dream_envs.envs.vector import VectorSingleRole

    one, mode = part.new(), gymnasium.vector.AutoresetMode.NEXT_STEP  # that of Gymnasium's own vectors
    return VectorSingleRole(2, game=one.game, seat=one.seat, reward=one.engine.reward, autoreset_mode=mode)


def _types(sample: Any) -> set[str]:
    if isinstance(sample, dict):
        sample = list(sample.values())
    if isinstance(sample, (list, tuple)):
        return set().union(*[_types(item) for item in sample]) if sample else set()
    return {type(sample).__name__}


def _of(parts: Sequence[Subject], kind: str) -> list[Subject]:
    found = [part for part in parts if part.kind == kind]
    if not found:
        raise Skip(f"it has no {kind} adapter")
    return found


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """The checkers print and warn a lot; what they assert becomes a Failure in one line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        text = " ".join(str(error).split())
        raise Failure(f"{name}: {type(error).__name__}: {text}"[:300]) from error
