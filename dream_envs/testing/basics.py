"""Checks that hold for anything with a seed: games, their adapters, and other people's environments."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dream_envs.play import roles_by_agent
from dream_envs.testing.report import Failure, Skip
from dream_envs.testing.subject import Subject, resolve
from dream_envs.testing.walks import GameWalk, Walk, difference, plain, shared, walk

SEEDS = (0, 1, 2)


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
            copied = pickle.loads(pickle.dumps(standing))
        except Exception as error:
            raise Failure(f"{part.name}: {type(error).__name__}: {error}"[:200]) from error
        if isinstance(trail, GameWalk):
            other: Walk = trail.branch(*copied)
        else:
            trail, other = walk(part, env, 5, reset=False), walk(part, copied, 5, reset=False)
        if trail.finish().log != other.finish().log:
            raise Failure(f"{part.name}: the copy goes on otherwise: {difference(trail.log, other.log)}")


def snapshot(subject: Subject, parts: Sequence[Subject]) -> None:
    """Restored from a snapshot, twice and from a pickle, it goes on exactly as before, into the next episode too."""
    tried = 0
    for part in parts:
        env = part.new()
        if part.kind == "game":
            _game_snapshot(part, env)
            tried += 1
            continue
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


def _game_snapshot(part: Subject, game: Any) -> None:
    trail = walk(part, game, 7)
    assert isinstance(trail, GameWalk)
    trail.step()
    stored = pickle.dumps(trail.table)
    branches = [trail.branch(game, pickle.loads(stored)) for _ in range(2)]
    first = trail.finish().log
    for what, branch in zip(("", " a second time"), branches, strict=True):
        if branch.finish().log != first:
            raise Failure(f"{part.name}: a copy of the state goes on otherwise{what}: {difference(first, branch.log)}")


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
