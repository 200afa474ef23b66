"""Checks of anything with a seed (games, their adapters, other people's environments), the Farama projects' own too."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np

from dream_envs.play import roles_by_agent
from dream_envs.testing.subject import Failure, Skip, Subject, resolve
from dream_envs.testing.walks import GameWalk, GymWalk, Walk, difference, plain, sample, shared, walk

SEEDS = (0, 1, 2)
CYCLES = 60


def plays(subject: Subject, parts: Sequence[Subject]) -> None:
    """An episode runs from start to end, with well-named agents and well-formed views."""
    for part in parts:
        env = part.new()
        trail = walk(part, env, 0).finish()
        if part.kind != "game":
            continue
        if not isinstance(trail, GameWalk) or trail.episode is None:
            raise Failure("the game has no outcome")
        if odd := [agent for agent in env.agents if not re.fullmatch(r"[a-z][a-z_]*_\d+", agent)]:
            raise Failure(f"agent {odd[0]!r}: names are word_number, as in solver_0")
        names = {spec.name for spec in env.roles}
        if stray := set(roles_by_agent(env).values()) - names:
            raise Failure(f"agents of roles {sorted(stray)}, but the game's roles are {sorted(names)}")
        for view in trail.returned:
            if not all(isinstance(m, dict) and {type(m.get(k)) for k in ("role", "content")} == {str} for m in view):
                raise Failure(f"a view is a list of {{'role': str, 'content': str}}, not {view!r:.80}")


def global_rng(subject: Subject, parts: Sequence[Subject]) -> None:
    """Nothing is drawn from ``random``, ``numpy.random`` or torch's global generator, and none of them is seeded."""
    was = random.getstate(), np.random.get_state()
    try:
        for part in parts:
            random.seed(0xBADC0FFEE)  # states that nobody else seeds to, so that seeding shows as drawing does
            np.random.seed(0xBADC0FF)
            before = _global_states()
            walk(part, part.new(), 0).finish()
            for name, state in _global_states().items():
                if before.get(name, state) != state:
                    raise Failure(f"{part.name}: an episode changed the global generator {name}; use the one given")
    finally:
        random.setstate(was[0])
        np.random.set_state(was[1])


def seed_determinism(subject: Subject, parts: Sequence[Subject]) -> None:
    """The same seed gives the same episode: in a second copy, and in the same copy after another episode."""
    for part in parts:
        for seed in SEEDS:
            env = part.new()
            first = walk(part, env, seed).finish()
            for what, other in (("a second copy", part.new()), ("the same copy again", env)):
                again = walk(part, other, seed).finish()
                if again.log != first.log:
                    raise Failure(f"{part.name}: seed {seed} in {what}: {difference(first.log, again.log)}")


def process_determinism(subject: Subject, parts: Sequence[Subject]) -> None:
    """The same seed gives the same episode in two other processes with other PYTHONHASHSEEDs."""
    try:
        payload = pickle.dumps((sys.path, subject.target))
        pickle.loads(payload)
    except Exception as error:
        raise Skip(f"cannot be sent to another process: {type(error).__name__}: {error}"[:200]) from error
    here = fingerprints(subject)
    command = [sys.executable, "-c", "from dream_envs.testing import basics; basics.child()"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    path = os.pathsep.join(filter(None, sys.path))
    children = [
        subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}, **pipes)
        for seed in ("1", "2")
    ]
    for child in children:  # both have the payload before either is waited for: they run side by side
        assert child.stdin is not None
        child.stdin.write(payload)
        child.stdin.close()
        child.stdin = None
    for child in children:
        try:
            out, err = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            raise Failure("another process did not finish the same episodes in 60 s") from None
        if child.returncode:
            last = (err.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            raise Failure(f"another process could not play it: {last[:200]}")
        if (found := out.decode().split()) != here:
            which = next((i for i, (a, b) in enumerate(zip(found, here, strict=False)) if a != b), 0)
            raise Failure(f"another process plays another episode {which} from the same seed (hash(), sets, time?)")


def siblings(subject: Subject, parts: Sequence[Subject]) -> None:
    """Two episodes played in turns, in two copies and (games) in one, are those played alone."""
    for part in parts:
        alone = [walk(part, part.new(), seed).finish().log for seed in SEEDS[:2]]
        one = part.new()
        pairs = [("two copies", (part.new(), part.new()))]
        if part.kind == "game":
            pairs.append(("one game object", (one, one)))
        for what, envs in pairs:
            trails = [walk(part, env, seed) for env, seed in zip(envs, SEEDS, strict=False)]
            moving = trails
            while moving:
                moving = [trail for trail in moving if trail.step()]
            for trail, log in zip(trails, alone, strict=True):
                if trail.log != log:
                    raise Failure(f"{part.name}: {what} disturb each other: {difference(log, trail.log)}")


def fresh_returns(subject: Subject, parts: Sequence[Subject]) -> None:
    """What is returned shares no mutable object with an earlier return, and spoiling it spoils nothing else."""
    for part in parts:
        clean = walk(part, part.new(), 1).finish()
        for i, later in enumerate(clean.returned):
            for j in range(max(0, i - 12), i):
                if shared(clean.returned[j], later):
                    raise Failure(f"{part.name}: returns {j} and {i} share a list, dict or array: return new ones")
        spoiled = walk(part, part.new(), 1, deface=True).finish()
        if spoiled.log != clean.log:
            where = difference(clean.log, spoiled.log)
            raise Failure(f"{part.name}: changing what was returned changes the episode: {where}")


def pickling(subject: Subject, parts: Sequence[Subject]) -> None:
    """Pickled in the middle of an episode and read back, it goes on in the same way."""
    for part in parts:
        env = part.new()
        trail: Walk = walk(part, env, 1)
        trail.step()
        if trail.over:  # a game of one step: stand at its beginning
            trail = walk(part, env, 1)
        standing = (env, trail.table) if isinstance(trail, GameWalk) else env
        try:
            stored = pickle.dumps(standing)
            copies = [pickle.loads(stored) for _ in range(2)]
        except Exception as error:
            raise Failure(f"{part.name}: {type(error).__name__}: {error}"[:200]) from error
        if isinstance(trail, GameWalk):
            others: list[Walk] = [trail.branch(*copied) for copied in copies]
            others.append(trail.branch(env, pickle.loads(stored)[1]))  # the state alone, in the same game
        else:
            trail, *others = [walk(part, its, 5, reset=False) for its in (env, *copies)]
        first = trail.finish().log
        for other in others:
            if other.finish().log != first:
                raise Failure(f"{part.name}: the copy goes on otherwise: {difference(first, other.log)}")


def snapshot(subject: Subject, parts: Sequence[Subject]) -> None:
    """Restored from a snapshot, twice and from a pickle, it goes on exactly as before, into the next episode too."""
    tried = 0
    for part in parts:
        env = part.new()
        if not (callable(getattr(env, "snapshot", None)) and callable(getattr(env, "restore", None))):
            continue
        tried += 1
        for moves in (0, 1, 3):
            trail = walk(part, env, 7)
            for _ in range(moves):
                trail.step()
            if trail.over:
                continue
            taken = env.snapshot()
            stored = pickle.dumps(taken)
            first = _continuation(part, env)
            for what, again in (("", taken), (" a second time", taken), (" from a pickle", pickle.loads(stored))):
                env.restore(taken)
                walk(part, env, 12, reset=False).finish()  # restored from the end of an episode, too
                env.restore(again)
                if (log := _continuation(part, env)) != first:
                    raise Failure(f"{part.name}: restored{what} after {moves} moves: {difference(first, log)}")
    if not tried:
        raise Skip("it has no snapshot() and restore()")


def random_episodes(subject: Subject, parts: Sequence[Subject], episodes: int = 200) -> None:
    """Many episodes with random moves raise nothing."""
    for part in parts:
        env = part.new()
        for seed in range(100, 100 + max(1, episodes // len(parts))):
            try:
                walk(part, env, seed).finish()
            except Failure:
                raise
            except Exception as error:
                raise Failure(f"{part.name}: seed {seed}: {type(error).__name__}: {error}"[:240]) from error


def fingerprints(subject: Subject) -> list[str]:
    """One digest an episode, to compare between processes."""
    found = []
    for maker in subject.variants:
        env = maker()
        found += [walk(subject, env, seed).finish().digest() for seed in SEEDS]
    return found


def child() -> None:
    """The other process of ``process_determinism``: reads a target from stdin, prints a digest an episode."""
    path, target = pickle.load(sys.stdin.buffer)  # written by our own parent process a moment ago
    sys.path[:] = path
    print("\n".join(fingerprints(resolve(*target))))


def _continuation(part: Subject, env: Any) -> list[Any]:
    log = walk(part, env, 11, reset=False).finish().log
    result = env.reset()
    if part.kind == "aec":
        result = env.last()
    return [*log, plain(result)]


def _global_states() -> dict[str, Any]:
    states: dict[str, Any] = {"random": random.getstate()}
    _, keys, position, *rest = np.random.get_state(legacy=True)
    states["numpy.random"] = (keys.tobytes(), position, tuple(rest))  # type: ignore[union-attr]
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        states["torch"] = torch.random.get_rng_state().numpy().tobytes()
    return states


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

    Compared: the in-process vector, worker processes without shared memory, and the native vector.  With shared memory
    (Gymnasium's default for worker processes) construction must fail, unless what comes out is right.
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
