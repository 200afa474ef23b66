"""Checks of anything with a seed (games, their adapters, other people's environments), the Farama projects' own too."""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np

from dream_envs.play import roles_by_agent
from dream_envs.testing.subject import Failure, Skip, Subject, need
from dream_envs.testing.walks import GameWalk, Walk, need_same, plain, sample, shared, walk

SEEDS = (0, 1, 2)
CYCLES = 60


def plays(part: Subject, parts: Sequence[Subject]) -> None:
    """An episode runs from start to end, with well-named agents and well-formed views."""
    env = part.new()
    trail = walk(part, 0, env).finish()
    if not isinstance(trail, GameWalk):
        return
    need(trail.episode is not None, "the game has no outcome")
    odd = [agent for agent in env.agents if not re.fullmatch(r"[a-z][a-z_]*_\d+", agent)]
    need(not odd, f"agents {odd}: names are word_number, as in solver_0")
    names = {spec.name for spec in env.roles}
    stray = set(roles_by_agent(env).values()) - names
    need(not stray, f"agents of roles {sorted(stray)}, but the game's roles are {sorted(names)}")
    for view in trail.returned:
        fine = all(isinstance(m, dict) and {type(m.get(k)) for k in ("role", "content")} == {str} for m in view)
        need(fine, f"a view is a list of {{'role': str, 'content': str}}, not {view!r:.80}")


def global_rng(part: Subject, parts: Sequence[Subject]) -> None:
    """Nothing is drawn from ``random``, ``numpy.random`` or torch's global generator, and none of them is seeded."""
    was = random.getstate(), np.random.get_state()
    try:
        random.seed(0xBADC0FFEE)  # states that nobody else seeds to, so that seeding shows as drawing does
        np.random.seed(0xBADC0FF)
        before = _global_states()
        walk(part, 0).finish()
        for name, state in _global_states().items():
            same = before.get(name, state) == state
            need(same, f"an episode changed the global generator {name}; use the one given")
    finally:
        random.setstate(was[0])
        np.random.set_state(was[1])


def _global_states() -> dict[str, Any]:
    _, keys, *rest = np.random.get_state()
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": (np.asarray(keys).tobytes(), rest)}
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.random.get_rng_state().numpy().tobytes()
    return states


def seed_determinism(part: Subject, parts: Sequence[Subject]) -> None:
    """The same seed gives the same episode: in a second copy, and in the same copy after another episode."""
    for seed in SEEDS:
        env = part.new()
        first = walk(part, seed, env).finish().log
        for what, other in (("a second copy", part.new()), ("the same copy again", env)):
            need_same(first, walk(part, seed, other).finish().log, f"seed {seed} in {what}")


def fingerprints(subject: Subject) -> list[str]:
    """One digest an episode, to compare between processes."""
    games = [maker() for maker in subject.variants]
    return [walk(subject, seed, env).finish().digest() for env in games for seed in SEEDS]


def siblings(part: Subject, parts: Sequence[Subject]) -> None:
    """Two episodes played in turns, in two copies and (games) in one, are those played alone."""
    alone = [walk(part, seed).finish().log for seed in SEEDS[:2]]
    pairs = {"two copies": (part.new(), part.new())}
    if part.kind == "game":
        pairs["one game object"] = (part.new(),) * 2
    for what, envs in pairs.items():
        trails = [walk(part, seed, env) for env, seed in zip(envs, SEEDS, strict=False)]
        moving = trails
        while moving:
            moving = [trail for trail in moving if trail.step()]
        for trail, log in zip(trails, alone, strict=True):
            need_same(log, trail.log, f"{what} disturb each other")


def fresh_returns(part: Subject, parts: Sequence[Subject]) -> None:
    """What is returned shares no mutable object with an earlier return, and spoiling it spoils nothing else."""
    clean = walk(part, 1).finish()
    for i, later in enumerate(clean.returned):
        for j in range(max(0, i - 12), i):
            fresh = not shared(clean.returned[j], later)
            need(fresh, f"returns {j} and {i} share a list, dict or array: return new ones")
    spoiled = walk(part, 1, deface=True).finish()
    need_same(clean.log, spoiled.log, "changing what was returned changes the episode")


def pickling(part: Subject, parts: Sequence[Subject]) -> None:
    """Pickled in the middle of an episode and read back, it goes on in the same way."""
    env = part.new()
    trail: Walk = walk(part, 1, env)
    trail.step()
    if trail.over:  # a game of one step: stand at its beginning
        trail = walk(part, 1, env)
    standing = (env, trail.table) if isinstance(trail, GameWalk) else (env,)
    try:
        stored = pickle.dumps(standing)
        copies = [pickle.loads(stored) for _ in range(2)]
    except Exception as error:
        raise Failure(f"{type(error).__name__}: {error}"[:200]) from error
    if isinstance(trail, GameWalk):
        alone = (env, pickle.loads(stored)[1])  # the state alone, in the same game
        others: list[Walk] = [trail.branch(*copied) for copied in (*copies, alone)]
    else:
        trail, *others = [walk(part, 5, its, reset=False) for (its,) in (standing, *copies)]
    first = trail.finish().log
    for other in others:
        need_same(first, other.finish().log, "the copy goes on otherwise")


def snapshot(part: Subject, parts: Sequence[Subject]) -> None:
    """Restored from a snapshot, twice and from a pickle, it goes on exactly as before, into the next episode too."""
    env = part.new()
    if not (callable(getattr(env, "snapshot", None)) and callable(getattr(env, "restore", None))):
        raise Skip("it has no snapshot() and restore()")
    for moves in (0, 1, 3):
        trail = walk(part, 7, env)
        for _ in range(moves):
            trail.step()
        if trail.over:
            continue
        taken = env.snapshot()
        stored = pickle.dumps(taken)
        first = _continuation(part, env)
        for what, again in (("", taken), (" a second time", taken), (" from a pickle", pickle.loads(stored))):
            env.restore(taken)
            walk(part, 12, env, reset=False).finish()  # restored from the end of an episode, too
            env.restore(again)
            need_same(first, _continuation(part, env), f"restored{what} after {moves} moves")


def _continuation(part: Subject, env: Any) -> list[Any]:
    log = walk(part, 11, env, reset=False).finish().log
    result = env.reset()
    return [*log, plain(env.last() if part.kind == "aec" else result)]


def random_episodes(part: Subject, parts: Sequence[Subject]) -> None:
    """200 episodes with random moves, shared by the parts, raise nothing."""
    env = part.new()
    for seed in range(100, 100 + max(1, 200 // len(parts))):
        try:
            walk(part, seed, env).finish()
        except Exception as error:
            raise Failure(f"seed {seed}: {type(error).__name__}: {error}"[:240]) from error


def no_truncation_on_first_step(part: Subject, parts: Sequence[Subject]) -> None:
    """An episode of one step ends with ``terminated``; ``truncated`` would tell a learner to bootstrap from it."""
    for seed in range(5):
        trail = walk(part, seed)
        trail.step()
        need(not trail.truncated, "the first step is truncated; end the episode with terminated=True")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The checkers print and warn a lot; what they assert becomes a Failure in one line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        text = " ".join(str(error).split())
        raise Failure(f"{type(error).__name__}: {text}"[:300]) from error


def gymnasium_api(part: Subject, parts: Sequence[Subject]) -> None:
    """``gymnasium.utils.env_checker.check_env`` on every single-role view."""
    from gymnasium.utils.env_checker import check_env

    with _quiet():
        try:
            check_env(part.new())
        except gymnasium.error.DependencyNotInstalled:  # somebody's drawing library: the rest can be checked
            check_env(part.new(), skip_render_check=True)


def _farama(name: str, test: str) -> Callable[[Subject, Sequence[Subject]], None]:
    """A check that runs one of PettingZoo's tests."""

    def check(part: Subject, parts: Sequence[Subject]) -> None:
        import pettingzoo.test

        with _quiet():
            given = part.new if name.endswith("seed") else part.new()
            getattr(pettingzoo.test, test)(given, num_cycles=CYCLES)

    check.__name__, check.__doc__ = name, f"``pettingzoo.test.{test}``."
    return check


aec_api = _farama("aec_api", "api_test")
aec_seed = _farama("aec_seed", "seed_test")
parallel_api = _farama("parallel_api", "parallel_api_test")
parallel_seed = _farama("parallel_seed", "parallel_seed_test")


def vector_text(part: Subject, parts: Sequence[Subject]) -> None:
    """Text comes whole through the vector environments, and the one that would destroy it refuses loudly.

    Compared, with the last view of a game: the in-process vector, worker processes without shared memory, and the
    native vector.  With shared memory (Gymnasium's default for worker processes) construction must fail, unless what
    comes out is right.
    """
    from dream_envs.envs.vector import VectorSingleRole

    one = part.new()
    if part is not parts[-1] or not _has_text(one.observation_space.sample()):
        raise Skip("its observations are not text")
    make = [part.new, part.new]
    workers = functools.partial(gymnasium.vector.AsyncVectorEnv, make)
    sync = _vector_log(gymnasium.vector.SyncVectorEnv(make))
    others = {"worker processes return": _vector_log(workers(shared_memory=False))}
    if len(parts) > 1:
        mode = gymnasium.vector.AutoresetMode.NEXT_STEP  # that of Gymnasium's own vectors
        native = VectorSingleRole(2, game=one.game, seat=one.seat, reward=one.engine.reward, autoreset_mode=mode)
        others["the native vector returns"] = _vector_log(native)
    sharing = None
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):  # to fail is what is wanted
        sharing = workers()
    if sharing is not None:
        derived = "(derive the observation space from gymnasium.spaces.Space, as UnicodeText does)"
        others[f"worker processes with shared memory, the default, {derived} return"] = _vector_log(sharing)
    for who, log in others.items():
        need_same(sync, log, f"{who} other text")


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


def _has_text(value: Any) -> bool:
    inner = list(value.values()) if isinstance(value, dict) else value
    return any(map(_has_text, inner)) if isinstance(inner, (list, tuple)) else isinstance(inner, str)
