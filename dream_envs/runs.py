"""A run's folder: what was run, every episode, every challenge, the metrics; cut back to a checkpoint on resume."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from dream_envs.core import DreamEnvsError, encode
from dream_envs.play import EpisodeWriter

_LARGEST = 2**28  # bytes of a JSON file
_HELD: dict[Path, IO[bytes]] = {}  # the locks of this process
PACKAGES = ("dream-envs", "numpy", "gymnasium", "pettingzoo", "torch", "transformers", "trl", "accelerate")


class Run:
    """An open run folder, made if it is not there.

    ``config``: what decides the run's result; a folder that was made with another config is refused.
    """

    def __init__(self, path: str | Path, config: dict[str, Any]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.path / "lock")
        config = json.loads(encode(config))
        old = self.read("run.json")
        had = old.get("config") if isinstance(old, dict) else None
        if old is None:
            self.write("run.json", {"schema": 1, "config": config, **config, **provenance()})
        elif not isinstance(had, dict):
            raise DreamEnvsError(f"{self.path / 'run.json'} says nothing of a run's settings: choose another --out")
        elif had != config:
            named = ", ".join(sorted(k for k in {*had, *config} if had.get(k) != config.get(k)))
            raise DreamEnvsError(f"{self.path} holds a run with other settings ({named}): choose another --out")
        self.config = config
        self.episodes = EpisodeWriter(self.path / "episodes.jsonl")
        self._metrics = open(self.path / "metrics.jsonl", "ab+")  # noqa: SIM115  (closed by close())
        self._board: Any = None

    def log(self, row: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``, and its numbers to TensorBoard at ``row["step"]``."""
        self._metrics.write(encode(row) + b"\n")
        self._metrics.flush()
        if self._board is None:
            self._board = _board(self.path)
        _chart(self._board, row)

    def state(self) -> dict[str, int]:
        """Where the files end now."""
        return {"episodes": self.episodes.position(), "metrics": self._metrics.tell()}

    def restore(self, state: dict[str, int]) -> None:
        """Cut the files back to where they ended then."""
        ends = {"episodes.jsonl": self.episodes.position(), "metrics.jsonl": self._metrics.seek(0, os.SEEK_END)}
        for name, end in ends.items():
            if end < (then := state[name.removesuffix(".jsonl")]):
                told = f"{end} bytes of {then} that the checkpoint knows"
                raise DreamEnvsError(f"{self.path / name} has {told}: restore it from a copy, or choose another --out")
        self.episodes.close()
        self.episodes = EpisodeWriter(self.path / "episodes.jsonl", keep=state["episodes"])
        self._metrics.truncate(state["metrics"])
        self._metrics.seek(0, os.SEEK_END)
        if self._board:
            self._board.close()
        self._board = None  # charted anew from what is left of the file

    def write(self, name: str, data: Any) -> Path:
        """Write a JSON file in one piece: a reader never sees half of it."""
        return write_json(self.path / name, data)

    def read(self, name: str) -> Any:
        """A JSON file's data, or None if it is not there."""
        return read_json(self.path / name)

    def close(self) -> None:
        """Close the files."""
        self.episodes.close()
        self._metrics.close()
        if self._board:
            self._board.close()
        self._board = False  # a closed writer refuses to be closed again
        self._lock.close()


def _board(run: Path) -> Any:
    """TensorBoard's writer for this run, with everything that ``metrics.jsonl`` holds but its newest row; or False."""
    try:
        from tensorboard.summary import Writer
    except ImportError:
        return False
    folder = run / "metrics"
    shutil.rmtree(folder, ignore_errors=True)  # no two event files lie over one another after a resume
    board = Writer(str(folder))
    with open(run / "metrics.jsonl", "rb") as file:
        for line in file.readlines()[:-1]:
            _chart(board, json.loads(line))
    return board


def _chart(board: Any, row: dict[str, Any]) -> None:
    if not board:
        return
    for name, value in row.items():
        if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
            board.add_scalar(name, value, row["step"])
    board.flush()


class Follower(Run):
    """The run of a process that writes nothing into it: of several, all but the first (``Collector``)."""

    def __init__(self, path: str | Path, config: dict[str, Any]) -> None:
        self.path, self.config = Path(path), config

    def log(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def write(self, name: str, data: Any) -> Path:
        """Nothing; where it would be."""
        return self.path / name

    def state(self) -> dict[str, int]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing."""


def locked(path: Path) -> IO[bytes]:
    """A lock file that is held until it is closed, or the process ends in whatever way.

    A process that asks for its own lock takes it over: an exception may have left the one before it open.

    Raises:
        DreamEnvsError: another process holds it.
    """
    if (held := _HELD.pop(path.resolve(), None)) is not None:
        held.close()
    file = open(path, "ab+")  # noqa: SIM115  (closed by who asked for it)
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        who = file.read(32).decode(errors="replace").strip()
        file.close()
        told = f"process {who or 'unknown'} writes into it now"
        raise DreamEnvsError(f"{path.parent}: {told}: wait for it, or choose another --out") from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n".encode())
    file.flush()
    _HELD[path.resolve()] = file
    return file


def write_json(path: Path, data: Any) -> Path:
    """Write a JSON file by way of a temporary one, so that a kill leaves the old or the new, never half."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(json.dumps(json.loads(encode(data)), indent=1).encode() + b"\n")
    os.replace(part, path)
    return path


def seal(path: Path, data: dict[str, Any]) -> Path:
    """Write a folder's last JSON file, with the hash of every other file in it; all of them are on the disk before.

    Checkpoints below the folder are sealed by themselves.
    """
    hashes = {}
    for file in sorted(path.parent.rglob("*")):
        place = file.relative_to(path.parent)
        if file.is_file() and file != path and not any(part.startswith("checkpoint") for part in place.parts[:-1]):
            hashes[place.as_posix()] = _digest(file, flush=True)
    written = write_json(path, {**data, "files": hashes})
    for folder in (written, written.parent):
        _flush(folder)
    return written


def unseal(path: Path) -> Any:
    """The data of ``seal``, None if the file is not there.

    Raises:
        DreamEnvsError: a file of the folder is not what it was, or is missing.
    """
    data = read_json(path)
    if data is None:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("files"), dict):
        raise DreamEnvsError(f"{path} is damaged: it names no files; restore it from a copy, or choose another --out")
    for name, told in data["files"].items():
        file = path.parent / name
        if not file.is_file() or _digest(file) != told:
            what = "is not what was written" if file.is_file() else "is missing"
            raise DreamEnvsError(f"{file} {what}: restore it from a copy, or choose another --out")
    return data


def _digest(file: Path, flush: bool = False) -> str:
    with open(file, "rb") as opened:
        if flush:
            os.fsync(opened.fileno())
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # a folder is no file there
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read_json(path: Path) -> Any:
    """A JSON file's data, or None if it is not there.

    Raises:
        DreamEnvsError: a pipe or a device has its name, it is larger than 256 MiB, or it is not JSON.
    """
    if not path.exists():
        return None
    if not path.is_file():  # reading a pipe would wait for ever
        raise DreamEnvsError(f"{path} is no regular file: move it away")
    if (size := path.stat().st_size) > _LARGEST:
        raise DreamEnvsError(f"{path} has {size / 2**20:.0f} MiB, at most {_LARGEST // 2**20} are read: move it away")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DreamEnvsError(f"{path} is not JSON ({error}): remove it or restore it from a copy") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if it is not there; see ``read_json``."""
    data = read_json(path)
    if data is not None and not isinstance(data, dict):
        raise DreamEnvsError(f"{path} holds {type(data).__name__} where an object is wanted: restore it from a copy")
    return data or {}


def provenance() -> dict[str, Any]:
    """Versions, platform, command line and commit: what a reader needs to run it again."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
