"""Rounds: worlds that nobody could know while an entry could still change.

The organiser draws a secret and publishes its hash when the round opens; the freeze fixes every entry's files; the
worlds are then made of both, so that neither an entrant nor, without breaking the published hash, the organiser chooses
them.  An organiser who holds the secret could still choose among *entries* of their own before the freeze: a value that
is public later than the freeze (``public``, named when the round opens) closes that.  Closing publishes the secret.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.entry import NAME
from dream_envs.runs import write_json

PRACTICE = "practice"


class Round(msgspec.Struct, frozen=True):
    """A round as it is published.

    ``commitment``: SHA-256 of secret and name.  ``public``: in words, which value will be mixed in that nobody knows
    yet; "": none.  ``value``: that value.  ``frozen``: hashes of the entries by name.
    """

    name: str
    opened: str
    commitment: str
    public: str = ""
    value: str = ""
    frozen: dict[str, str] = {}
    closed: str = ""
    secret: str = ""


def file_of(root: Path, name: str) -> Path:
    """Where a round is published."""
    if not NAME.fullmatch(name) or name == PRACTICE:
        raise DreamEnvsError(f"round {name!r:.60}: lower-case letters, digits, - and _; practice is always open")
    return root / "rounds" / f"{name}.json"


def load(root: Path, name: str) -> Round:
    """The round of this name."""
    file = file_of(root, name)
    if not file.is_file():
        raise DreamEnvsError(f"no round {name!r}: dream-envs board round open {name} --secret FILE")
    return msgspec.json.decode(file.read_bytes(), type=Round)


def open_round(root: Path, name: str, secret: Path, public: str = "") -> Round:
    """Draw a secret into a file of the organiser's own, and publish its hash."""
    file = file_of(root, name)
    if file.exists() or secret.exists():
        raise DreamEnvsError(f"{file if file.exists() else secret} is there already: nothing is overwritten")
    if secret.absolute().is_relative_to(root.absolute()):
        raise DreamEnvsError(f"--secret {secret} lies in the board's folder, which is published: choose another place")
    drawn = os.urandom(32).hex()
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.touch(0o600)
    secret.write_text(drawn + "\n")
    return _write(file, Round(name, _now(), _hash(drawn, name), public))


def freeze(root: Path, name: str, entries: Mapping[str, str], value: str = "") -> Round:
    """Fix the entries of a round by their hashes; ``value``: what ``public`` promised, once it is known."""
    found = load(root, name)
    if found.frozen:
        raise DreamEnvsError(f"round {name} is frozen already, with {len(found.frozen)} entries")
    if not entries:
        raise DreamEnvsError(f"round {name}: no entry to freeze")
    return _write(
        file_of(root, name), msgspec.structs.replace(found, frozen=dict(sorted(entries.items())), value=value)
    )


def close(root: Path, name: str, secret: Path) -> Round:
    """Publish the secret."""
    found = load(root, name)
    if not found.frozen:
        raise DreamEnvsError(f"round {name} is not frozen: nothing was run in it")
    drawn = _secret(found, secret)
    return _write(file_of(root, name), msgspec.structs.replace(found, closed=_now(), secret=drawn))


def beacon_of(root: Path, name: str, entries: Mapping[str, str], secret: Path | None = None) -> str:
    """What the round's worlds are made of.

    ``entries``: hashes of those that are to run: a frozen round runs what was frozen and nothing else.

    Raises:
        DreamEnvsError: before the freeze; for another entry; without the secret, in a round that is not closed.
    """
    if name == PRACTICE:
        return PRACTICE
    found = load(root, name)
    if not found.frozen:
        raise DreamEnvsError(
            f"round {name} is not frozen: its worlds are not drawn yet; practice with --round practice"
        )
    for entry, own in entries.items():
        if found.frozen.get(entry) != own:
            what = "has changed since the freeze" if entry in found.frozen else "came after the freeze"
            raise DreamEnvsError(f"round {name}: entry {entry} {what}")
    if found.public and not found.value:
        raise DreamEnvsError(f"round {name}: its public value ({found.public}) is not given yet: freeze --value")
    if not found.secret and secret is None:
        raise DreamEnvsError(f"round {name} is not closed: its organiser runs it with --secret FILE")
    drawn = found.secret or _secret(found, secret)
    frozen = "".join(f"{entry}:{own}\n" for entry, own in found.frozen.items())
    return hashlib.sha256(f"{drawn}\n{found.value}\n{frozen}".encode()).hexdigest()


def _secret(found: Round, file: Path | None) -> str:
    drawn = file.read_text().strip() if file is not None and file.is_file() else ""
    if _hash(drawn, found.name) != found.commitment:
        raise DreamEnvsError(f"round {found.name}: {file} does not hold the secret that was committed to")
    return drawn


def _hash(secret: str, name: str) -> str:
    return hashlib.sha256(f"{secret}\n{name}".encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(file: Path, round: Round) -> Round:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, msgspec.to_builtins(round))
    return round
