"""A run's folder: what was run, every episode, every challenge, the metrics; cut back to a checkpoint on resume."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from dream_envs.core import DreamEnvsError, encode
from dream_envs.play import EpisodeWriter

PACKAGES = ("dream-envs", "numpy", "gymnasium", "pettingzoo", "torch", "transformers", "trl", "accelerate")


class Run:
    """An open run folder, made if it is not there.

    ``config``: what decides the run's result; a folder that was made with another config is refused.
    """

    def __init__(self, path: str | Path, config: dict[str, Any]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
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
        self.episodes.close()
        self.episodes = EpisodeWriter(self.path / "episodes.jsonl", keep=state["episodes"])
        self._metrics.truncate(min(state["metrics"], self._metrics.seek(0, os.SEEK_END)))
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


def write_json(path: Path, data: Any) -> Path:
    """Write a JSON file by way of a temporary one, so that a kill leaves the old or the new, never half."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(json.dumps(json.loads(encode(data)), indent=1).encode() + b"\n")
    os.replace(part, path)
    return path


def read_json(path: Path) -> Any:
    """A JSON file's data, or None if it is not there."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DreamEnvsError(f"{path} is not JSON ({error}): remove it or restore it from a copy") from error


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
