"""What the verbs of ``dream-envs`` share: output, values on the command line, games, agents and rewards from text."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from dream_envs import registry
from dream_envs.core import AgentLike, DreamEnvsError, Episode, Game, encode
from dream_envs.registry import pairs_of as pairs_of
from dream_envs.registry import value_of as value_of
from dream_envs.registry import values_of as values_of

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


class Interrupted(Exception):
    """Ctrl-C, with one line that says how to go on."""


class ReaderGone(Exception):
    """Nobody reads stdout any more (``| head``); not an OSError, which typer would answer in its own way."""


def say(text: str) -> None:
    """Print to stdout, at once.

    Raises:
        ReaderGone: if nobody reads it.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def emit(data: Any, text: str | Callable[[], str], as_json: bool) -> None:
    """Print ``data`` as one line of JSON, or ``text`` for people."""
    if as_json:
        say(encode(data).decode())
    else:
        say(text() if callable(text) else text)


def style(text: str, code: str, file: TextIO | None = None) -> str:
    """``text`` in colour where the terminal shows it and nobody has set ``NO_COLOR``."""
    stream = sys.stdout if file is None else file
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Columns padded with blanks, two apart; the last one is left as it is.  None is shown as ``-``."""
    cells = [["-" if c is None else str(c) for c in row] for row in rows]
    listed = [list(head), *cells] if head else cells
    widths = [max((len(row[i]) for row in listed), default=0) for i in range(max(map(len, listed), default=0))]
    lines = ["  ".join([c.ljust(w) for c, w in zip(row, widths, strict=False)]).rstrip() for row in listed]
    if head:
        lines[0] = style(lines[0], DIM)
    return "\n".join(lines)


def number(value: Any) -> str | None:
    """A number in at most four significant digits; None stays None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None if value is None else str(value)
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def game_of(
    name: str, settings: Mapping[str, Any], roles: Iterable[str] = (), family: str = "", notation: str = ""
) -> Game:
    """The game of an id, of one of its roles' Gymnasium ids, or of ``module:Class``.

    Args:
        name: the id.
        settings: the game's arguments.
        roles: roles or seats that shall be there; an optional one is switched on.
        family: where its problems come from; "": the game's own.
        notation: the family's.

    Raises:
        DreamEnvsError: for a wrong id or argument, with the nearest right ones.
    """
    import gymnasium

    from dream_envs.envs import _adapter as adapter

    for full in (name, adapter.NAMESPACE + name):
        spec = gymnasium.registry.get(full)
        if spec is not None and "game" in spec.kwargs:
            name = spec.kwargs["game"]
    factory = registry.load("envs", adapter.full_id(name))
    parameters = inspect.signature(factory).parameters if callable(factory) else {}
    wanted = [role for r in roles if (role := r.rpartition("_")[0] or r) in parameters or r in parameters]
    extra: dict[str, Any] = {role: True for role in wanted if role in parameters and role not in settings}
    if family or notation:
        words = {"notation": notation} if notation else {}
        extra["family"] = registry.create("tasks", family or "composition", **words)
    return adapter.build_game(name, {**settings, **extra})


def seats_of(texts: Iterable[str], game: Game) -> dict[str, AgentLike]:
    """``["solver=oracle,challenger=generator"]`` as agents by role or seat; equal texts are one agent.

    Raises:
        DreamEnvsError: for a role that the game does not have, or an agent that cannot be made.
    """
    from dream_envs.play import as_agent, roles_by_agent

    named = pairs_of(texts, "--seats")
    role_of = roles_by_agent(game)
    known = [*dict.fromkeys(role_of.values()), *game.agents]
    for key in named:
        if key not in known:
            raise DreamEnvsError(registry.unknown(f"seats of {game.env_id}", key, known))
    made = {text: as_agent(text, game) for text in dict.fromkeys(named.values())}
    return {key: made[text] for key, text in named.items()}


def reward_of(texts: Sequence[str], game: Game | None = None) -> Any:
    """The reward of ``ROLE=EXPRESSION`` texts (one without a role is for all): roles not named keep the game's own."""
    from dream_envs.envs._adapter import build_reward
    from dream_envs.rewards.algebra import per_role
    from dream_envs.rewards.expressions import by_role, parse

    asked = {role: parse(text) for role, text in by_role(texts).items()}
    if "" in asked:
        return asked[""]
    assert game is not None, "rewards by role need a game"
    own = build_reward(None, game)
    for role in asked:
        if role not in (names := [r.name for r in game.roles]):
            raise DreamEnvsError(registry.unknown(f"roles of {game.env_id}", role, names))
    return per_role({**{role.name: own for role in game.roles}, **asked}) if asked else own


def ranges_of(text: str, option: str) -> list[range]:
    """``3,5,10-19`` as ranges.

    Raises:
        DreamEnvsError: for anything else.
    """
    spans = []
    for part in text.split(",") if text else []:
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise DreamEnvsError(f"{option} {text!r}: numbers and ranges such as 7 or 2,3 or 10-19")
        spans.append(range(int(low), int(high if dash else low) + 1))
    return spans


def needs(module: str) -> Any:
    """A module of ours that needs an extra.

    Raises:
        DreamEnvsError: where a package that it imports is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dream_envs"):
            raise
        raise DreamEnvsError(f"{module} needs {error.name}: pip install 'dream-envs[train]'") from error


def run_file(run: Path, name: str) -> Path:
    """``run/name``, or ``run`` itself if it is a file.

    Raises:
        DreamEnvsError: if it is not there.
    """
    path = run if run.is_file() else run / name
    if not path.is_file():
        what = f"has no {name}" if run.is_dir() else "is not there"
        raise DreamEnvsError(f"{run} {what}: give a run's folder, such as runs/demo, or the file itself")
    return path


def episodes_of(path: Path) -> Iterator[Episode]:
    """The episodes of a file, one at a time.

    Raises:
        DreamEnvsError: for a line that is no episode, with its number.
    """
    import msgspec

    from dream_envs.play import read_episodes

    source, line = read_episodes(path), 0
    while True:
        line += 1
        try:
            episode = next(source, None)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise DreamEnvsError(f"{path}, line {line}: not an episode ({error})") from error
        if episode is None:
            return
        yield episode
