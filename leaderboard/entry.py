"""An entry: a folder with ``entry.toml``, and with ``loop.py`` where it is no loop of the suite's own.

Nothing of an entry is executed here.  It is read as bytes of files that are what they seem to be, with limits on all.
"""

from __future__ import annotations

import ast
import hashlib
import re
import stat
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.budget import budget_of

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
FILE, CODE, NOTES = "entry.toml", "loop.py", "README.md"
#: Bytes of each file that an entry may have.
FILES = {FILE: 16_384, CODE: 65_536, NOTES: 65_536}
LINES, WIDTH = 400, 160
#: What ``loop.py`` may import.
IMPORTS = frozenset({
    "__future__", "collections", "dataclasses", "dream_envs", "enum", "functools", "heapq", "itertools", "math",
    "msgspec", "numpy", "operator", "random", "re", "statistics", "string", "typing",
})  # fmt: skip
#: Packages that decide a run's numbers; an entry names the versions it was written for.
LOCKED = ("dream-envs", "numpy", "torch", "transformers", "trl")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"budget": "class"}):
    """What ``entry.toml`` says.

    ``says``: in one line, what it does.  ``parent``: the entry that it changes; its page shows the difference.
    ``budget``: the class that it is meant for (``class`` in the file).  ``loop``: a loop of the suite, or ``loop.py``.
    ``learner``, ``steps``, ``set``: as in ``dream-envs train``; ``steps`` sets the schedule, the budget ends the run.
    ``lock``: versions of packages.
    """

    says: str
    authors: list[str]
    loop: str
    lock: dict[str, str]
    parent: str = ""
    budget: int = 1
    learner: str = ""
    steps: int = 150
    set: dict[str, Any] = {}

    def __post_init__(self) -> None:
        _line("says", self.says, 200)
        for author in self.authors:
            _line("authors", author, 80)
        if not 1 <= len(self.authors) <= 20:
            raise ValueError(f"{len(self.authors)} authors: 1 to 20")
        budget_of(self.budget)
        if not 1 <= self.steps <= 100_000:
            raise ValueError(f"steps={self.steps}: 1 to 100000")
        if self.parent and not NAME.fullmatch(self.parent):
            raise ValueError(f"parent {self.parent!r:.60}: the name of an entry")
        for text in (self.loop, self.learner):
            if not re.fullmatch(r"[a-z0-9_.]{0,40}", text):  # no module:object, which would import the entrant's code
                raise ValueError(f"{text!r:.60}: a name of the suite's")
        for value in _strings(
            self.set
        ):  # a setting may name things of the suite, and nothing that is imported or opened
            if not re.fullmatch(r"[\w .,+*()=-]{0,200}", value):
                raise ValueError(f"set: {value!r:.60}: letters, digits and . , + * ( ) = - alone")
        if unknown := sorted(set(self.lock) - set(LOCKED)) or sorted(set(LOCKED) - set(self.lock)):
            raise ValueError(f"lock: {', '.join(unknown)}; it names {', '.join(LOCKED)}, each with its version")


class Read(msgspec.Struct, frozen=True):
    """An entry as it lies in its folder; ``hash`` is of all its files."""

    name: str
    folder: Path
    about: Entry
    files: Mapping[str, bytes]
    hash: str

    @property
    def coded(self) -> bool:
        """Whether it has code of its own, which runs in the sandbox alone."""
        return self.about.loop == CODE

    def unlocked(self) -> list[str]:
        """Where the installed versions are not those of the lock: ``torch 2.12.0, the entry wants 2.13.0``."""
        found = {name: installed(name) for name in LOCKED}
        return [f"{n} {found[n]}, the entry wants {v}" for n, v in self.about.lock.items() if found[n] != v]


def installed(package: str) -> str:
    """The version of a package without its build (``2.13.0+cpu`` is 2.13.0); "none" where it is not installed."""
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return "none"


def read(folder: Path) -> Read:
    """Read an entry.

    Raises:
        DreamEnvsError: for whatever is not as it has to be, by the first such thing.
    """
    name = folder.name
    if not NAME.fullmatch(name):
        raise DreamEnvsError(f"entry {name!r:.60}: lower-case letters, digits, - and _, at most 40")
    files = {path.name: _bytes(path) for path in _listed(folder)}
    if FILE not in files:
        raise DreamEnvsError(f"{name}: no {FILE}; dream-envs new entry NAME writes one")
    for file, data in files.items():
        text_of(f"{name}/{file}", data)
    try:
        about = msgspec.convert(tomllib.loads(files[FILE].decode()), Entry)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, DreamEnvsError, ValueError, RecursionError) as error:
        raise DreamEnvsError(f"{name}/{FILE}: {_first(error)}") from None
    if (about.loop == CODE) != (CODE in files):
        raise DreamEnvsError(f"{name}: loop = {CODE!r} and the file {CODE} go together")
    if about.parent == name:
        raise DreamEnvsError(f"{name}: it is its own parent")
    if CODE in files:
        _code(name, files[CODE].decode())
    if len(str(about.set)) > 4096:
        raise DreamEnvsError(f"{name}: settings of {len(str(about.set))} characters, at most 4096")
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file} {len(files[file])}\n".encode() + files[file])
    return Read(name, folder, about, files, digest.hexdigest()[:16])


def _listed(folder: Path) -> list[Path]:
    """The folder's files, each a regular one of a known name and size; nothing is opened."""
    if folder.is_symlink() or not folder.is_dir():
        raise DreamEnvsError(f"{folder.name}: no folder; entries lie in leaderboard/entries/NAME")
    found = []
    for number, path in enumerate(folder.iterdir()):
        if number >= 2 * len(FILES):
            raise DreamEnvsError(f"{folder.name}: too many files; {', '.join(FILES)} and no others")
        if path.name == "__pycache__":
            continue
        if path.name not in FILES:
            raise DreamEnvsError(f"{folder.name}: {path.name!r:.60} is no file of an entry: {', '.join(FILES)}")
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise DreamEnvsError(f"{folder.name}/{path.name}: a regular file with one name, no link, pipe or device")
        if info.st_size > FILES[path.name]:
            raise DreamEnvsError(f"{folder.name}/{path.name}: {info.st_size} bytes, at most {FILES[path.name]}")
        found.append(path)
    return found


def _bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(FILES[path.name] + 1)
    if len(data) > FILES[path.name]:  # it grew meanwhile
        raise DreamEnvsError(f"{path.parent.name}/{path.name}: more than {FILES[path.name]} bytes")
    return data


def text_of(name: str, data: bytes) -> str:
    """The text of a file that is what it looks like: UTF-8, without control characters or such that turn its direction.

    Raises:
        DreamEnvsError: naming the first byte or character that is not.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DreamEnvsError(f"{name}: no UTF-8 at byte {error.start}") from None
    for place, c in enumerate(text):
        if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            line = text.count("\n", 0, place) + 1
            raise DreamEnvsError(f"{name}, line {line}: character U+{ord(c):04X} is not shown as what it is: remove it")
    return text


def _code(name: str, text: str) -> None:
    lines = text.splitlines()
    if len(lines) > LINES or max(map(len, lines), default=0) > WIDTH:
        raise DreamEnvsError(f"{name}/{CODE}: {len(lines)} lines, at most {LINES} of {WIDTH} characters")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DreamEnvsError(f"{name}/{CODE}: {_first(error)}") from None
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["." if node.level else str(node.module)]
        for module in names:
            if module.partition(".")[0] not in IMPORTS:
                told = f"imports {module!r}; an entry may import {', '.join(sorted(IMPORTS))}"
                raise DreamEnvsError(f"{name}/{CODE}, line {getattr(node, 'lineno', 0)}: {told}")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _strings(item)


def _line(name: str, text: str, most: int) -> None:
    if not 1 <= len(text) <= most or "\n" in text:
        raise ValueError(f"{name}={text!r:.60}: one line of 1 to {most} characters")


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
