"""Games, or anything else, on Ray actors: of this machine or of a cluster (extra: ray).

An episode depends on its seed label alone and a draw on its request's, so that who plays what makes no difference.  The
caller's process hands out and writes; workers only compute.  A worker that dies costs what it was at: others do it
again.  ``WORKERS`` in text: ``4`` starts a Ray of four actors here, one thread each, and ends it; ``auto`` and
``ray://HOST:PORT`` join a cluster, with ``auto(actors=16,gpus=1)`` for so many actors and what each takes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import queue
import socket
import sys
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import msgspec

import dream_envs
from dream_envs import registry
from dream_envs.core import AgentLike, DreamEnvsError, Episode, Game, RewardModel, Start
from dream_envs.envs._adapter import build_game, full_id
from dream_envs.play import EpisodeWriter, RewardLike, as_agent, assign_agents, reward_model, unplayed
from dream_envs.play import rollout as play_here
from dream_envs.rewards.base import Model

#: How often work is given to another worker because one died over it.
RETRIES = 3
#: Seconds that a cluster has to find room for the first worker.
ROOM = 60.0
#: What ``Pool.wait`` gives for work whose worker died, and for a worker that has just begun.
LOST, BEGUN = object(), object()
#: Batched rewards that score each episode by itself: they join what others say of it.
_BY_ITSELF = {"weighted", "gate", "clip", "per_role", "zero_sum"}
#: No word to its makers nor of its own; and actors that ask for no GPU may see them.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_STORE = 2**28  # bytes of Ray's object store: what is passed is small


class Cast(msgspec.Struct, frozen=True):
    """A game, who plays it and what scores it, by name: called in each worker to make its own.

    ``seats``: an agent for each role or seat, a name (``oracle``, ``local(model=...)``, a URL) or an object that can be
    pickled; equal names are one agent.  ``args``: arguments of the game.
    """

    env: str
    seats: Mapping[str, AgentLike | str]
    args: Mapping[str, Any] = {}
    reward: RewardLike | None = None

    def __call__(self) -> Made:
        """The game, its agents and the reward.

        Raises:
            DreamEnvsError: for a name or an argument that is none.
        """
        game = build_game(full_id(self.env), dict(self.args))
        names = dict.fromkeys(who for who in self.seats.values() if isinstance(who, str))
        made = {name: as_agent(name, game) for name in names}
        seats = {seat: made[who] if isinstance(who, str) else who for seat, who in self.seats.items()}
        return game, assign_agents(game, seats), None if self.reward is None else reward_model(self.reward)


Made = tuple[Game[Any], Mapping[str, Any], RewardModel | None]


class _Asked(msgspec.Struct, frozen=True):
    """What ``WORKERS`` says; ``actors`` 0: as many as there is room for."""

    address: str
    actors: int
    gpus: float


def asked(text: str) -> _Asked:
    """What a text of ``--workers`` means.

    Raises:
        DreamEnvsError: for anything else.
    """
    name, words = registry.spec_of(text, "--workers")
    for key in words:
        if key not in ("actors", "gpus"):
            raise DreamEnvsError(registry.unknown(f"arguments of --workers {name}", key, ["actors", "gpus"]))
    cluster = name == "auto" or (name.startswith("ray://") and len(name) > len("ray://"))
    if not cluster and not (name.isdecimal() and "actors" not in words):
        raise DreamEnvsError(f"--workers {text!r}: a number, auto, ray://HOST:PORT, or auto(actors=16,gpus=1)")
    actors, gpus = words.get("actors", 0 if cluster else int(name)), words.get("gpus", 0)
    low = 1 if "actors" in words or not cluster else 0
    if not isinstance(actors, int) or not low <= actors <= 1024:
        raise DreamEnvsError(f"--workers {text!r}: 1 to 1024 actors")
    if not isinstance(gpus, (int, float)) or not 0 <= gpus <= 16 or (gpus > 1 and gpus % 1):
        raise DreamEnvsError(f"--workers {text!r}: gpus={gpus!r}: a share below 1, or 1 to 16 whole ones, an actor")
    return _Asked(name if cluster else "local", actors, float(gpus))


class _Worker:
    """An actor: holds what ``make`` made and calls its methods."""

    def begin(self, data: bytes, version: str, folder: str, path: Sequence[str]) -> None:
        """Make it, in the caller's folder and with its import path where this machine has them."""
        os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
        sys.path += [entry for entry in path if entry not in sys.path]
        with contextlib.suppress(OSError):
            os.chdir(folder)
        if version != dream_envs.__version__:
            raise DreamEnvsError(
                f"a worker has dream-envs {dream_envs.__version__}, this is {version}: install the same everywhere"
            )
        import cloudpickle

        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()
        warnings.showwarning = lambda message, *_, **__: self.said.put(str(message))
        try:
            make = cloudpickle.loads(data)
        except (ImportError, AttributeError) as error:
            raise DreamEnvsError(f"a worker cannot unpack its work ({error}): install it on every machine") from error
        self.own = make()

    def call(self, name: str, given: Sequence[Any]) -> tuple[Any, list[str]]:
        """What a method of it returns, and the warnings since the last call."""
        found = getattr(self.own, name)(*given)
        return found, [self.said.get() for _ in range(self.said.qsize())]

    def placed(self) -> None:
        """Answers as soon as there is room for this worker."""


class Pool:
    """Workers that each hold an object of their own.

    Args:
        where: ``WORKERS`` in text; a Ray that this process has joined already is used as it is.
        make: called in each worker, pickled; makes the object whose methods are called.

    Raises:
        DreamEnvsError: where Ray is not installed, the cluster is not there or has no room, ``make`` cannot be sent or
            tells of a mistake.
    """

    def __init__(self, where: str, make: Callable[[], Any]) -> None:
        wanted = asked(where)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)  # read when Ray is imported
        try:
            import cloudpickle
            import ray
        except ImportError as error:
            raise DreamEnvsError("--workers needs Ray: pip install 'dream-envs[ray]'") from error
        try:
            self._data = cloudpickle.dumps(make)
        except Exception as error:  # whatever an object's own pickling raises
            told = " ".join(str(error).split())[:160]
            raise DreamEnvsError(
                f"this cannot be sent to workers ({told}): name agents and rewards by text, 'local(model=...)', "
                "or give objects that can be pickled"
            ) from error
        self._ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            _join(ray, wanted)
        self._calls: dict[Any, int] = {}
        self._warned, self._deaths = set[str](), 0
        self.begun = set[int]()  # workers that have made their object
        try:
            self._kind: Any = ray.remote(num_cpus=1, num_gpus=wanted.gpus)(_Worker)
            self.size = self._room(wanted)
            self._actors: list[Any] = [self._kind.remote() for _ in range(self.size)]
            placed = [actor.placed.remote() for actor in self._actors]
            if not ray.wait(placed, num_returns=1, timeout=ROOM)[0]:
                raise DreamEnvsError(f"--workers {where!r}: no room for a worker within {ROOM:g} s; see ray status")
            for number in range(self.size):
                self._begin(number)
            while not self.begun:  # a mistake in ``make`` is told here
                self.wait()
        except BaseException:
            self.close()
            raise

    def _room(self, wanted: _Asked) -> int:
        there = self._ray.cluster_resources()
        rooms = [int(there.get("CPU", 0))]
        if wanted.gpus:
            rooms.append(int(there.get("GPU", 0) / wanted.gpus))
        if not min(rooms):
            kinds = f"{int(there.get('CPU', 0))} CPUs and {int(there.get('GPU', 0))} GPUs"
            raise DreamEnvsError(f"--workers: no room for a worker with gpus={wanted.gpus:g}: Ray has {kinds}")
        return min(wanted.actors or rooms[0], *rooms)

    def _begin(self, number: int) -> None:
        given = self._data, dream_envs.__version__, os.getcwd(), sys.path
        self._calls[self._actors[number].begin.remote(*given)] = number

    def idle(self) -> list[int]:
        """The workers that have begun and are at nothing."""
        busy = set(self._calls.values())
        return [n for n in sorted(self.begun) if n not in busy]

    def ask(self, number: int, name: str, *given: Any) -> None:
        """Call a method of a worker's object; ``wait`` gives what it returns."""
        self._calls[self._actors[number].call.remote(name, given)] = number

    def wait(self) -> tuple[int, Any]:
        """The next worker that is done with what it was asked, and what came of it, ``BEGUN`` or ``LOST``.

        Raises:
            DreamEnvsError: for a user's mistake in a worker, or where worker after worker dies.
        """
        errors = self._ray.exceptions
        (ref, *_), _ = self._ray.wait(list(self._calls), num_returns=1)
        number = self._calls.pop(ref)
        try:
            found = self._ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, DreamEnvsError):
                raise DreamEnvsError(str(error.cause)) from None
            raise
        except errors.RayError as error:  # the actor's process, its machine, or what it had to say
            self._deaths += 1
            if self._deaths > RETRIES * self.size:
                told = " ".join(str(error).split())[:200]
                raise DreamEnvsError(f"worker after worker dies ({told}); the same command goes on") from error
            self.begun.discard(number)
            self._ray.kill(self._actors[number])
            self._actors[number] = self._kind.remote()
            self._begin(number)
            return number, LOST
        if found is None:
            self.begun.add(number)
            return number, BEGUN
        self._deaths = 0
        for text in found[1]:
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, stacklevel=2)
        return number, found[0]

    def map(self, name: str, work: Sequence[Sequence[Any]]) -> list[Any]:
        """``method(*given)`` for each of ``work``, by whoever is idle; in order.

        Raises:
            DreamEnvsError: where a piece of work has cost too many workers.
        """
        found: list[Any] = [None] * len(work)
        todo, at, left = deque(range(len(work))), dict[int, int](), len(work)
        lost = Counter[int]()
        while left:
            for number in self.idle():
                if todo:
                    at[number] = todo.popleft()
                    self.ask(number, name, *work[at[number]])
            number, value = self.wait()
            if number not in at:  # one that has begun, or died before it had
                continue
            piece = at.pop(number)
            if value is LOST:
                _lost(lost, [piece])
                todo.append(piece)
            else:
                found[piece], left = value, left - 1
        return found

    def close(self) -> None:
        """End the workers, and Ray where it was started here."""
        for actor in getattr(self, "_actors", ()):
            self._ray.kill(actor)
        self._actors = []
        if self._ours:
            self._ray.shutdown()
        self._ours = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _join(ray: Any, wanted: _Asked) -> None:
    """Start a quiet Ray here, or join the cluster."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if wanted.address == "local":
        quiet |= {"num_cpus": wanted.actors, "include_dashboard": False, "object_store_memory": _STORE}
    try:
        named = os.environ.get("RAY_ADDRESS", "") if wanted.address == "auto" else wanted.address
        host, colon, port = named.removeprefix("ray://").rpartition(":")
        if colon and port.isdecimal():  # Ray itself would try for minutes, aloud
            socket.create_connection((host, int(port)), timeout=10.0).close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters comes as an exception
            ray.init(wanted.address, **quiet)
    except Exception as error:  # each way to be unreachable has a class of its own
        told = " ".join(str(error).split())[:160]
        way = "ray start --head starts one" if wanted.address != "local" else "see its logs"
        raise DreamEnvsError(f"--workers: Ray at {wanted.address!r} does not answer ({told}); {way}") from error


def _lost(count: Counter[int], pieces: Iterable[int]) -> None:
    """Count what a dead worker was at."""
    count.update(list(pieces))
    if count and max(count.values()) > RETRIES:
        raise DreamEnvsError(
            f"{RETRIES + 1} workers died over the same work: see to their memory; what has ended is kept, and the same "
            "command goes on"
        )


def compares(model: Any) -> bool:
    """Whether a reward may compare the episodes of a round: a batched one, unless it joins others that do not."""
    if not isinstance(model, Model):
        return model is not None
    values = [v for value in model.arguments.values() for v in (value.values() if isinstance(value, dict) else [value])]
    return (model.batched and model.name not in _BY_ITSELF) or any(compares(v) for v in values if isinstance(v, Model))


class _Player:
    """In a worker: one rollout that goes on for as long as there are starts."""

    def __init__(self, make: Callable[[], Made], seed: str, width: int, deadline: float | None) -> None:
        game, seats, reward = make()
        if compares(reward):
            name = getattr(reward, "grader", type(reward).__name__)
            raise DreamEnvsError(
                f"reward {name} may compare episodes that end together, and with workers that is chance: play with "
                "another --reward, then dream-envs rescore RUN --reward ..."
            )
        self._play = functools.partial(
            play_here, game, assign_agents(game, seats), seed=seed, reward=reward, width=width, deadline=deadline
        )
        self._todo, self._ended = queue.SimpleQueue[Start](), queue.SimpleQueue[Any]()
        threading.Thread(target=self._run, daemon=True).start()

    def exchange(self, starts: Sequence[Start]) -> list[Episode]:
        """Take more starts; the episodes that have ended since, at least one."""
        for start in starts:
            self._todo.put(start)
        found = [self._ended.get()]
        while isinstance(found[-1], Episode) and not self._ended.empty():
            found.append(self._ended.get())
        if isinstance(found[-1], Episode):
            return found
        if len(found) == 1:
            raise found[0]
        self._ended.put(found.pop())  # first what had ended before
        return found

    def _run(self) -> None:
        try:
            while True:
                for episode in self._play(starts=self._starts(self._todo.get())):
                    self._ended.put(episode)
        except BaseException as error:
            self._ended.put(error)

    def _starts(self, first: Start) -> Iterator[Start]:
        """Those that are there; where there are none for now the games under way are played to their end first."""
        yield first
        while not self._todo.empty():
            yield self._todo.get()


class Players(Pool):
    """Workers that play one game: ``play.rollout`` on many processors.

    Args:
        where: as for ``Pool``.
        make: makes game, agents and reward in each worker: a ``Cast``, or a function that can be pickled.
        seed: the run's seed label.
        width: games in play at once in each worker; it is given a quarter more, to go on with.
        deadline: as for ``play.rollout``.

    Raises:
        DreamEnvsError: for what ``Pool`` refuses, a mistake in ``make``, and a reward that may compare episodes.
    """

    def __init__(
        self, where: str, make: Callable[[], Made], *, seed: str | int = 0, width: int = 256,
        deadline: float | None = None,
    ) -> None:  # fmt: skip
        self.width = width
        super().__init__(where, functools.partial(_Player, make, str(seed), width, deadline))

    def rollout(
        self, starts: Iterable[Start] | int, *, out: EpisodeWriter | None = None, retry: Sequence[str] = ()
    ) -> Iterator[Episode]:
        """The episodes of ``play.rollout``, each as it ends, in an order that is chance; this process writes ``out``.

        ``starts``: as there, each index once.

        Raises:
            DreamEnvsError: for a mistake that a worker found, and where episodes cost worker after worker.
        """
        todo, left = unplayed(starts, out, self.width, retry)
        again, tries, most = deque[Start](), Counter[int](), self.width + self.width // 4
        most = min(most, math.ceil(left / self.size)) if left else most
        live: list[dict[int, Start]] = [{} for _ in range(self.size)]
        while True:
            for number in self.idle():
                room = most - len(live[number])
                more = [again.popleft() for _ in range(min(room, len(again)))]
                more += itertools.islice(todo, room - len(more))
                live[number] |= {start.index: start for start in more}
                if live[number]:
                    self.ask(number, "exchange", more)
            if self.begun and not again and not any(live):
                return
            number, found = self.wait()
            if found is LOST:
                _lost(tries, live[number])
                again.extend(live[number].values())
                live[number] = {}
            elif found is not BEGUN:
                for episode in found:
                    del live[number][episode.index]
                    if out is not None:
                        out.write(episode)
                    yield episode
