"""Objections: what somebody has to say against an entry's runs, and what the organiser answered.

``objections/*.toml``: ``entry``, ``by``, ``date`` and ``says``; ``round`` where it is about one; later ``answer``, and
``upheld = true`` where the entry loses its ranks for it.  Nothing is removed: entry, runs and objection stay.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.entry import NAME, text_of

_MOST = 16_384


class Objection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of them.  ``round``: "" for all; ``date``: YYYY-MM-DD; ``upheld``: the entry has no rank any more."""

    entry: str
    by: str
    date: str
    says: str
    round: str = ""
    answer: str = ""
    upheld: bool = False

    def __post_init__(self) -> None:
        for name in (self.entry, *([self.round] if self.round else [])):
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r:.60}: the name of an entry or a round")
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", self.date):
            raise ValueError(f"date={self.date!r:.60}: YYYY-MM-DD")
        for field, most in (("by", 80), ("says", 4000), ("answer", 4000)):
            text = getattr(self, field)
            if len(text) > most or (field != "answer" and not text.strip()):
                raise ValueError(f"{field}: 1 to {most} characters")
        if self.upheld and not self.answer.strip():
            raise ValueError("upheld: with an answer that says why")


def read(root: Path) -> list[Objection]:
    """All of a board, the newest first.

    Raises:
        DreamEnvsError: for a file that is no objection, by its name.
    """
    found = list[Objection]()
    for file in sorted((root / "objections").glob("*.toml")):
        name = f"objections/{file.name}"
        if file.is_symlink() or not file.is_file() or file.stat().st_size > _MOST:
            raise DreamEnvsError(f"{name}: a regular file of at most {_MOST} bytes")
        try:
            found.append(msgspec.convert(tomllib.loads(text_of(name, file.read_bytes())), Objection))
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
            raise DreamEnvsError(f"{name}: {str(error).splitlines()[0]:.200}") from None
    return sorted(found, key=lambda o: (o.date, o.entry), reverse=True)
