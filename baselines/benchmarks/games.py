"""Section ``games``: scripted two-turn episodes a second, ours and other suites'; section ``start``: of a process.

The peers play number guessing, so the fair comparison is a number-guessing game written on our core (``GuessNumber``),
with the same two moves.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs import seeds
from dream_envs.baselines.benchmarks.rows import Options, Row, compared, side_by_side
from dream_envs.core import Action, Event, Message, Outcome, RoleSpec, Seat, Task
from dream_envs.play import EpisodeWriter, rollout

#: Seconds that importing the package and printing its help may take.
IMPORT, HELP = 0.3, 0.5
#: Seconds that a peer may take for one answer, its imports included.
PATIENCE = 300.0
#: The two suites as they are, without what they ask for; then what importing them and this game really needs.
PEERS = ("textarena==0.7.4", "gem-llm==0.1.0")
NEEDED = ("numpy", "nltk", "requests", "rich", "websockets", "reasoning-gym")
NAMES = {"gem": "GEM 0.1.0", "textarena_raw": "TextArena 0.7.4 raw", "textarena": "TextArena 0.7.4"}


class Guessing(msgspec.Struct, frozen=True):
    """The number to find and the (guess, hint) pairs so far."""

    number: int
    past: tuple[tuple[str, str], ...] = ()
    done: bool = False


class GuessNumber:
    r"""Number guessing on our core, with GEM's rules: a number in ``\boxed{}``, hints, at most 10 guesses."""

    env_id, version = "bench/GuessNumber-v0", 0
    agents: tuple[str, ...] = ("player_0",)
    roles: tuple[RoleSpec, ...] = (RoleSpec("player", 1, "a number in \\boxed{}", (0.0, 1.0)),)
    low, high, turns_allowed = 1, 20, 10
    _form = re.compile(r"\\boxed{(\d+)}")
    _seats: Sequence[Seat] = (Seat("player_0", "player"),)
    _text = (
        f"You are playing Guess The Number.\nFind the number between {low} and {high} (inclusive) within "
        f"{turns_allowed} turns.\nEach guess is answered with 'higher' or 'lower'.\nOnly the number inside "
        f"\\boxed{{}} counts, for example \\boxed{{{high}}}.\n"
    )

    def start(self, task: Task | None, rng: np.random.Generator) -> Guessing:
        """A number from ``rng``."""
        return Guessing(self.low + int(rng.random() * (self.high - self.low + 1)))

    def turns(self, state: Guessing) -> list[Seat]:
        """The player, until the end."""
        return [] if state.done else list(self._seats)

    def view(self, state: Guessing, agent: str) -> list[Message]:
        """The rules, then every guess with its answer."""
        messages: list[Message] = [{"role": "user", "content": self._text}]
        for guess, hint in state.past:
            messages += [{"role": "assistant", "content": guess}, {"role": "user", "content": hint}]
        return messages

    def apply(self, state: Guessing, actions: Mapping[str, Action]) -> Guessing:
        """One guess."""
        text = actions["player_0"].text
        found = self._form.findall(text)
        guess = int(found[-1]) if found and len(found[-1]) < 9 else None
        if guess == state.number:
            hint = f"{guess} is right."
        elif guess is None or not self.low <= guess <= self.high:
            hint = "That was no number of the range."
        else:
            hint = f"The number is {'lower' if guess > state.number else 'higher'} than {guess}."
        past = (*state.past, (text, hint))
        return Guessing(state.number, past, guess == state.number or len(past) >= self.turns_allowed)

    def outcome(self, state: Guessing) -> Outcome | None:
        """Whether it was found, and after how many guesses."""
        if not state.done:
            return None
        return Outcome("ok", {"found": state.past[-1][1].endswith("right."), "guesses": len(state.past)})

    def record(self, state: Guessing) -> tuple[list[Any], list[Event]]:
        """No task; the number as an event."""
        return [], [Event("number", data={"number": state.number})]


class Told:
    """Plays the game's two moves, a wrong number and then the right one, of which it is told."""

    privileged = True

    def act(self, requests: Sequence[Any]) -> list[Action]:
        """The next guess of each game."""
        return [Action(f"\\boxed{{{wrong_then_right(r.state)}}}") for r in requests]


def wrong_then_right(state: Guessing) -> int:
    """The next of the two moves."""
    return state.number if state.past else 1 if state.number != 1 else 2


def guessing(episodes: int, seeded: bool) -> None:
    """``episodes`` games of two moves on the bare core."""
    game = GuessNumber()
    moves = [{"player_0": Action(f"\\boxed{{{number}}}")} for number in range(game.high + 1)]
    rng = seeds.stream("bench", "guessing")
    for episode in range(episodes):
        state = game.start(None, seeds.stream("episode", episode) if seeded else rng)
        for _ in range(2):
            for seat in game.turns(state):
                game.view(state, seat.agent)
            state = game.apply(state, moves[wrong_then_right(state)])
        outcome = game.outcome(state)
        assert outcome is not None and outcome.facts["found"]


def guessing_by_rollout(episodes: int, options: Options) -> None:
    """The same through ``rollout``, each seeded by its label and one flushed line of a file."""
    with options.folder() as inside, EpisodeWriter(inside / "episodes.jsonl") as out:
        played = list(rollout(GuessNumber(), {"player": Told()}, episodes, out=out))
        assert len(played) == episodes and all(e.outcome.facts["found"] for e in played)
        assert out.path.read_bytes().count(b"\n") == episodes


class Peers:
    """The other suites in a process of their own interpreter; a failure to get one is a reason, not an exception."""

    def __init__(self, venv: Path) -> None:
        self.problem, self.process = _prepare(venv), None
        if not self.problem:
            line = [str(_python(venv)), str(Path(__file__).with_name("peers.py"))]
            own = {**os.environ, "PYTHONPATH": "", "MPLCONFIGDIR": str(venv)}
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(line, text=True, env=own, **pipes)

    def ask(self, what: str, episodes: int, seeded: bool) -> dict[str, Any]:
        """``seconds`` of this work, or ``error``."""
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            return {"error": self.problem}
        alarm = threading.Timer(PATIENCE, self.process.kill)
        alarm.start()
        try:
            print(what, episodes, int(seeded), file=self.process.stdin, flush=True)
            found: dict[str, Any] = json.loads(self.process.stdout.readline())
            return found
        except (OSError, ValueError) as error:
            return {"error": f"the peers' process ended, or gave no answer in {PATIENCE:.0f} s: {error}"}
        finally:
            alarm.cancel()

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


def _python(venv: Path) -> Path:
    return venv / ("Scripts" if os.name == "nt" else "bin") / "python"


def _prepare(venv: Path) -> str:
    """Make the virtual environment if it is not whole; the reason if that cannot be done."""
    whole = venv / ".peers"
    wanted = "\n".join([*PEERS, *NEEDED])
    if whole.exists() and whole.read_text() == wanted:
        return ""
    pip = [str(_python(venv)), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pip += shlex.split(os.environ.get("PIP_ARGS", ""))
    steps = [[sys.executable, "-m", "venv", str(venv)], [*pip, "--no-deps", *PEERS], [*pip, *NEEDED]]
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=900)
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or error.stdout.strip() or str(error)).splitlines()[-1]
            return f"{' '.join(step[1:4])} ... failed: {last[:160]}"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"[:200]
    whole.write_text(wanted)
    return ""


def games(options: Options) -> list[Row]:
    """Episodes a second: number guessing, ours on the core and through a rollout, beside the peers."""
    peers = Peers(Path(options.venv))
    try:
        return [row for seeded in (False, True) for row in _against(peers, options, seeded)]
    finally:
        peers.close()


def _against(peers: Peers, options: Options, seeded: bool) -> list[Row]:
    """The core in both ways of drawing, and the rollout in the seeded one."""
    count, rounds = options.pick(500, 5000, 20000), options.pick(3, 7, 11)
    reasons = {what: str(peers.ask(what, 10, seeded).get("error", "")) for what in NAMES}
    ours: dict[str, Callable[[], Any]] = {"on the core": lambda: guessing(count, seeded)}
    if seeded:  # with agents, requests, records and a file, none of which the peers have
        ours["rolled out and recorded"] = lambda: guessing_by_rollout(count, options)

    def work(what: str) -> Callable[[], float]:
        return lambda: float(peers.ask(what, count, seeded)["seconds"])

    there = {what: work(what) for what, reason in reasons.items() if not reason}
    times = side_by_side({**ours, **there}, rounds)
    how = "each seeded by its own label" if seeded else "one stream for all"
    rows = []
    for mine, what in itertools.product(ours, NAMES):
        more: dict[str, Any] = {"what": f"number guessing {mine}, {how}", "unit": "episodes/s", "note": reasons[what]}
        more["peer_name"] = NAMES[what]
        if (what, mine) != ("gem", "on the core"):  # what the target is about
            more |= {"target": "", "met": None}
        if what in times:
            rows.append(compared(times[mine], times[what], lambda s: count / s, **more))
        else:
            rows.append(Row(ours=count / statistics.median(times[mine]), **{"target": ">= 1.00", **more}))
    return rows


def starting(options: Options) -> list[Row]:
    """Seconds that a process needs to import the package, and to print its help."""

    def work(*line: str) -> Callable[[], Any]:
        how: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "timeout": 60}
        return lambda: subprocess.run([sys.executable, *line], **how)

    works = {"python": work("-c", "pass"), "import": work("-c", "import dream_envs")}
    works["help"] = work("-m", "dream_envs.cli", "--help")
    times = side_by_side(works, options.pick(3, 5, 9))
    python, helping = (statistics.median(times[name]) for name in ("python", "help"))
    own = statistics.median(a - b for a, b in zip(times["import"], times["python"], strict=True))
    imported = Row(
        what="import dream_envs, without the interpreter's own start", unit="s", ours=own,
        target=f"<= {IMPORT} s", met=own <= IMPORT,
    )  # fmt: skip
    helped = Row(
        what="dream-envs --help, the whole process", unit="s", ours=helping, peer=python, peer_name="python -c pass",
        target=f"<= {HELP} s", met=helping <= HELP,
    )  # fmt: skip
    return [imported, helped]
