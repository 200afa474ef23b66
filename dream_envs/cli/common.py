"""What the verbs of ``dream-envs`` share: output, values on the command line, games and rewards from text."""

from __future__ import annotations

import contextlib
import errno
import importlib
import inspect
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import msgspec
import typer

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Episode, Game, encode
from dream_envs.report.words import visible

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Cache = Annotated[
    Path | None, typer.Option(help="Where draws are kept for all reports; default: $DREAM_ENVS_CACHE or ~/.cache.")
]
Workers = Annotated[
    str, typer.Option(metavar="N|auto|ray://HOST:PORT", help="Ray actors that compute: N here, or a cluster's.")
]
#: Stands for the escape character in what ``style`` makes, until ``clean``: nobody else's text can have it.
ESC = f"\x1b{os.urandom(8).hex()}"
BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


class Interrupted(Exception):
    """Ctrl-C, with one line that says how to go on."""


class ReaderGone(Exception):
    """Nobody reads stdout any more (``| head``); not an OSError, which typer would answer in its own way."""


def clean(text: str) -> str:
    """``text`` for a terminal: what could steer it is spelled out, but for the colours that ``style`` made."""
    return "\x1b".join(visible(part, len(part)) for part in text.split(ESC))


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print to stdout, or to ``file``, at once and ``clean``."""
    try:
        print(clean(text), file=file, end=end, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        error.filename = "stdout" if file is None else "stderr"
        raise


def let_go() -> None:
    """Send what stdout cannot take to nowhere: the interpreter would try it again when it ends, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def to_json(data: Any) -> str:
    """``data`` as one line of JSON, in which what could steer a terminal is escaped."""
    line = encode(data).decode()
    return visible(line, len(line), lambda char: json.dumps(char)[1:-1])


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whoever finds no room in here is told that it was for ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            error.filename = error.filename or str(path)
        raise


def page_at(path: Path) -> Path:
    """``path``, if a page may be written there: data and devices are easily overwritten by a slip."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise DreamEnvsError(f"--out {path}: the page's name, which ends in .html")
    if os.path.lexists(path) and not path.is_file():
        raise DreamEnvsError(f"--out {path}: what is there is no regular file, and is left alone; choose another name")
    return path


def emit(data: Any, write: Callable[[Any], str], as_json: bool) -> None:
    """Print ``data`` as one line of JSON, or what ``write`` makes of it for people."""
    say(to_json(data) if as_json else write(data))


def style(text: str, code: str, file: TextIO | None = None) -> str:
    """``text`` for ``say``, in colour where the terminal shows it and nobody has set ``NO_COLOR``."""
    stream = sys.stdout if file is None else file
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or stream is None or not stream.isatty():
        return text
    return f"{ESC}[{code}m{text}{ESC}[0m"


def console_text(show: Callable[[Console], None]) -> str:
    """What ``show`` prints on a console of rich, for ``say``: as wide, and in what characters, as the terminal has."""
    from rich.console import Console

    file = io.TextIOWrapper(io.BytesIO(), sys.stdout.encoding or "utf-8", "backslashreplace", newline="")
    width = shutil.get_terminal_size((100, 24)).columns
    show(Console(file=file, force_terminal=style("x", BOLD) != "x", width=width))
    file.seek(0)
    return file.read().rstrip().replace("\x1b", ESC)


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Columns padded with blanks, two apart.  None is shown as ``-``."""
    cells = [["-" if cell is None else visible(cell) for cell in row] for row in [*([head] if head else []), *rows]]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*cells, fillvalue="")]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    if head:
        lines[0] = style(lines[0], DIM)
    return "\n".join(lines)


def number(value: Any) -> Any:
    """A float in four significant digits; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else value


def game_id(name: str) -> str:
    """The game behind the Gymnasium id of one of its roles; any other name as it is."""
    import gymnasium

    from dream_envs.envs._adapter import NAMESPACE

    for full in (name, NAMESPACE + name):
        spec = gymnasium.registry.get(full)
        if spec is not None and "game" in spec.kwargs:
            return spec.kwargs["game"]
    return name


def game_of(
    name: str, settings: Mapping[str, Any], roles: Iterable[str] = (), family: str = "", notation: str = ""
) -> Game:
    """The game of an id, of one of its roles' Gymnasium ids, or of ``module:Class``, with these arguments.

    ``roles``: those that shall be there; an optional one is switched on.  ``family``, ``notation``: where its problems
    come from; "": the game's own.
    """
    from dream_envs.envs import _adapter as adapter

    name = adapter.full_id(game_id(name))
    factory = registry.load("envs", name)
    parameters = inspect.signature(factory).parameters if callable(factory) else {}
    wanted = {role for seat in roles for role in (seat, seat.rpartition("_")[0])}
    extra: dict[str, Any] = {role: True for role in wanted if role in parameters and role not in settings}
    if family or notation:
        words = {"notation": notation} if notation else {}
        extra["family"] = registry.create("tasks", family or "composition", **words)
    return adapter.build_game(name, {**settings, **extra})


def reward_of(texts: Sequence[str], game: Game | None = None) -> Any:
    """The reward of ``ROLE=EXPRESSION`` texts (one without a role is for all): roles not named keep the game's own."""
    from dream_envs.envs._adapter import build_reward
    from dream_envs.rewards.algebra import per_role
    from dream_envs.rewards.expressions import by_role, parse

    asked = {role: parse(text) for role, text in by_role(texts).items()}
    if "" in asked:
        return asked[""]
    assert game is not None, "rewards by role need a game"
    own, names = build_reward(None, game), [role.name for role in game.roles]
    for role in asked:
        if role not in names:
            raise DreamEnvsError(registry.unknown(f"roles of {game.env_id}", role, names))
    return per_role({**dict.fromkeys(names, own), **asked}) if asked else own


def ranges_of(text: str, option: str, most: int | None = None) -> list[range]:
    """``3,5,10-19`` as ranges, of at most so many numbers."""
    spans = []
    for part in text.split(",") if text else []:
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or len(part) > 40:
            raise DreamEnvsError(f"{option} {text!r:.80}: numbers and ranges such as 7 or 2,3 or 10-19")
        spans.append(range(int(low), int(high if dash else low) + 1))
    if most is not None and sum(max(0, span.stop - span.start) for span in spans) > most:
        raise DreamEnvsError(f"{option} {text!r}: at most {most} numbers")
    return spans


def needs(module: str) -> Any:
    """A module of ours that needs an extra; one line where that is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dream_envs"):
            raise
        raise DreamEnvsError(f"{module} needs {error.name}: pip install 'dream-envs[train]'") from error


def run_file(run: Path, name: str) -> Path:
    """``run/name``, or ``run`` itself if it is a file."""
    path = run if run.is_file() else run / name
    if not path.is_file():
        what = f"has no {name}" if run.is_dir() else "is not there"
        raise DreamEnvsError(f"{run} {what}: give a run's folder, such as runs/demo, or the file itself")
    return path


def episodes_of(path: Path) -> Iterator[Episode]:
    """The episodes of a file, one at a time; a line that is none is named."""
    from dream_envs.play import read_episodes

    line = 1
    try:
        for episode in read_episodes(path):
            yield episode
            line += 1
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise DreamEnvsError(f"{path}, line {line}: not an episode ({error})") from error
