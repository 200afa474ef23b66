"""Fresh processes: the same seeds on another day, in another place, and stored episodes scored by who never saw them.

A child process is somebody else's machine as far as that can be played: another date, user, folder, time zone, locale,
host and hash seed, all of them before the code under test is imported.  Only where a child disagrees are more started,
with one difference each, to say which one it was.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import pickle
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from dream_envs.core import Episode, decode_episode, encode
from dream_envs.envs import _adapter as adapter
from dream_envs.play import score
from dream_envs.testing.basics import fingerprints
from dream_envs.testing.cores import assignments
from dream_envs.testing.subject import Failure, Skip, Subject, need, resolve
from dream_envs.testing.walks import GameWalk, plain

#: What is changed in a child, and how a failure names it; "" is the process alone.
CHANGES = {
    "": "in a fresh process (hash(), id(), sets, what earlier episodes left in memory?)",
    "hash": "with another PYTHONHASHSEED (hash(), the order of sets?)",
    "date": "on another date",
    "user": "with another HOME and user name",
    "folder": "in another working folder",
    "locale": "with another time zone or locale",
    "host": "on a host of another name",
}
SHIFT = 400 * 86_400 + 5 * 3_600 + 17 * 60  #: seconds: another year, month, day, weekday and hour
_CACHES = {"XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "XDG_DATA_HOME": ".local/share"}


def process_determinism(part: Subject, parts: Sequence[Subject]) -> None:
    """Fresh processes on another day and elsewhere play the same episodes and score stored ones as they were scored."""
    if part is not parts[0]:
        raise Skip("an adapter of what is tested")
    stored = list(_episodes(part))
    here = {"digests": fingerprints(part), "scores": [_told(episode) for _, episode in stored]}
    try:
        target = pickle.dumps((part.target, [(i, encode(episode)) for i, episode in stored]))
        pickle.loads(target)
    except Exception as error:
        raise Skip(f"cannot be sent to another process: {type(error).__name__}: {error}"[:200]) from error
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda seed: _elsewhere(target, [*CHANGES], seed), (1, 2)))
    if all(other == here for other in found):
        return
    for change, where in CHANGES.items():  # one difference at a time, for the reason
        if (other := _elsewhere(target, [change])) != here:
            _tell(here, other, where)
    _tell(here, next(other for other in found if other != here), "in another process elsewhere")


def _episodes(subject: Subject) -> Iterator[tuple[int, Episode]]:
    """Scored episodes with good and bad players, with the number of the variant that they are of."""
    for i, maker in enumerate(subject.variants if subject.kind == "game" else ()):
        game = maker()
        reward = adapter.build_reward(subject.reward, game)
        oracles = dict.fromkeys(game.agents, "oracle")
        for number, players in enumerate([oracles, *itertools.islice(assignments(game), 5)]):
            yield i, GameWalk(game, f"process/{number}", reward, players, look=False).played()


def _told(episode: Episode) -> dict[str, str]:
    return {agent: repr(plain(msgspec.to_builtins(its))) for agent, its in episode.scores.items()}


def _tell(here: dict[str, Any], other: dict[str, Any], where: str) -> None:
    need("error" not in other, f"it cannot be played {where}: {other.get('error')}")
    need(here["digests"] == other["digests"], f"the same seeds give other episodes {where}")
    for one, two in zip(here["scores"], other["scores"], strict=True):
        for agent in one:
            told = f"{agent} had {one[agent]}, and {two.get(agent)} when the stored episode is scored {where}"
            need(one[agent] == two.get(agent), told)
    raise Failure(f"other episodes or scores {where}")


def _elsewhere(target: bytes, changed: Collection[str], seed: int = 1) -> dict[str, Any]:
    """What a child finds with these changes: digests of episodes, scores of the stored ones, or an error."""
    path = [os.path.abspath(entry) for entry in sys.path]  # relative ones would be lost in another folder
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    env.setdefault("PYTHONHASHSEED", "0")
    if "hash" in changed:
        env["PYTHONHASHSEED"] = str(seed)
    with tempfile.TemporaryDirectory() as folder:
        if "user" in changed:  # downloads that are there already stay where they are
            env |= {key: os.path.expanduser(f"~/{place}") for key, place in _CACHES.items() if key not in env}
            env |= {"HOME": folder, "USERPROFILE": folder, "USER": "somebody", "LOGNAME": "somebody"}
        if "locale" in changed:
            env |= {"TZ": "ELS-5:45", "LC_ALL": "POSIX" if env.get("LC_ALL") == "C" else "C", "LANG": "C"}
        if "host" in changed:
            env["HOSTNAME"] = "elsewhere"
        command = [sys.executable, "-c", "from dream_envs.testing import processes; processes.child()"]
        given = pickle.dumps((path, [*changed], seed * SHIFT, target))
        cwd = folder if "folder" in changed else None
        try:
            done = subprocess.run(command, env=env, cwd=cwd, input=given, capture_output=True, timeout=120)
        except subprocess.TimeoutExpired:
            return {"error": "not finished in 120 s"}
    if done.returncode != 0:
        return {"error": (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])  # what was printed before is the environment's own


def child() -> None:
    """The other process: reads what to change and a target from stdin, prints what it found as one line of JSON."""
    path, changed, seconds, target = pickle.load(sys.stdin.buffer)  # written by our own parent a moment ago
    sys.path[:] = path
    if "date" in changed:
        _shift_clock(seconds)
    if "host" in changed:
        socket.gethostname = platform.node = lambda: "elsewhere"
    arguments, stored = pickle.loads(target)  # imports the target's module: after the changes
    subject = resolve(*arguments)
    scores = [_told(_rescored(subject, i, line)) for i, line in stored]  # before anything is played here
    print("\n" + json.dumps({"digests": fingerprints(subject), "scores": scores}))


def _rescored(subject: Subject, variant: int, line: bytes) -> Episode:
    game = subject.variants[variant]()
    bare = msgspec.structs.replace(decode_episode(line), scores={}, grader="")
    return score([bare], adapter.build_reward(subject.reward, game), game.agents)[0]


def _shift_clock(seconds: int) -> None:
    """Python's calendar goes ahead by so many seconds; ``date.today`` asks ``time.time`` and follows."""
    clock, real, clock_ns = time.time, datetime.datetime, time.time_ns
    time.time = lambda: clock() + seconds
    time.time_ns = lambda: clock_ns() + seconds * 10**9
    local, utc, ctime, strftime = time.localtime, time.gmtime, time.ctime, time.strftime
    time.localtime = lambda at=None: local(time.time() if at is None else at)
    time.gmtime = lambda at=None: utc(time.time() if at is None else at)
    time.ctime = lambda at=None: ctime(time.time() if at is None else at)
    time.strftime = lambda form, *at: strftime(form, *(at or (time.localtime(),)))

    class Kind(type):
        """What C code made is an instance too."""

        def __instancecheck__(cls, thing: Any) -> bool:
            return isinstance(thing, real)

    class Shifted(real, metaclass=Kind):  # type: ignore[misc,valid-type]
        """``datetime.datetime`` by the shifted clock."""

        now = classmethod(lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))
        utcnow = classmethod(lambda cls: cls.now(datetime.UTC).replace(tzinfo=None))

    Shifted.__name__ = Shifted.__qualname__ = "datetime"  # pickled by its name
    Shifted.__module__ = "datetime"
    datetime.datetime = Shifted  # type: ignore[misc]
