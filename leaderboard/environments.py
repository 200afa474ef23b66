"""Track E: environments of other packages, listed with their conformance record and their scripted agents' rewards.

``environments/NAME.toml`` names a package's wheel by its hash.  The wheel is unpacked here, file by file and within
limits, and imported in the sandbox alone: once for the conformance kit and the scripted agents, and once more under
another hash seed, whose episodes have to be the same.  The record is written by the process that the package runs in:
it is evidence against mistakes, and none against malice.
"""

from __future__ import annotations

import hashlib
import stat
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dream_envs import sandbox
from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.entry import NAME, text_of

_FILES, _BYTES, _DEPTH = 2000, 64 * 2**20, 12
#: Scripted agents that every role is given in turn, where the game has them, and episodes of each.
AGENTS, EPISODES = ("oracle", "floor", "random"), 32
#: Checks that start processes, which nothing in the sandbox can; the second run stands for the first of them.
_LEFT_OUT = ("process_determinism", "vector_text")
_OUT = "record.json"


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``environments/NAME.toml`` says.

    ``ids``: registered names, or ``module:Class``.  ``sha256``: of the wheel.
    """

    says: str
    authors: list[str]
    sha256: str
    ids: list[str]
    url: str = ""

    def __post_init__(self) -> None:
        for field, most in (("says", 200), ("url", 200)):
            text = getattr(self, field)
            if len(text) > most or "\n" in text or (field == "says" and not text.strip()):
                raise ValueError(f"{field}: one line of at most {most} characters")
        if not 1 <= len(self.authors) <= 20 or any(not 1 <= len(a) <= 80 for a in self.authors):
            raise ValueError("authors: 1 to 20 names of at most 80 characters")
        if not 1 <= len(self.ids) <= 20 or any(not 1 <= len(i) <= 120 for i in self.ids):
            raise ValueError("ids: 1 to 20 names of at most 120 characters")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"sha256={self.sha256!r:.80}: 64 hex digits of the wheel's hash")


class Finding(msgspec.Struct, frozen=True):
    """A check of the kit: ``passed``, ``failed`` or ``skipped``, and why."""

    name: str
    status: str
    reason: str = ""


class Record(msgspec.Struct, frozen=True):
    """One id.  ``rewards``: mean reward of a role where all roles are played by this scripted agent."""

    id: str
    kind: str
    checks: list[Finding]
    rewards: dict[str, dict[str, float]] = {}
    fingerprints: list[str] = []


class Listed(msgspec.Struct, frozen=True):
    """A line of ``results/environments.jsonl``; ``again``: another process had the same episodes, by id."""

    environment: str
    sha256: str
    records: list[Record]
    again: dict[str, bool]
    by: str = ""
    date: str = ""

    @property
    def sound(self) -> bool:
        """Whether no check failed."""
        return all(self.again.values()) and all(c.status != "failed" for r in self.records for c in r.checks)


def told(line: Listed) -> str:
    """A line an id, and one a failed check."""
    lines = []
    for one in line.records:
        failed = [c for c in one.checks if c.status == "failed"]
        passed = sum(c.status == "passed" for c in one.checks)
        lines.append(f"{one.id}: {passed} checks passed, {len(failed)} failed")
        lines += [f"  {c.name}: {c.reason}" for c in failed]
        if not line.again[one.id]:
            lines.append("  another process plays other episodes from the same seeds (hash(), sets, time?)")
    return "\n".join(lines)


def read(file: Path) -> Environment:
    """What a file of ``environments/`` says.

    Raises:
        DreamEnvsError: by the first thing that is not as it has to be.
    """
    if not file.exists():
        raise DreamEnvsError(f"no {file.name!r:.60} in {file.parent}: write it, with the hash of the wheel")
    if file.suffix != ".toml" or not NAME.fullmatch(file.stem) or file.is_symlink() or not file.is_file():
        raise DreamEnvsError(f"{file.name!r:.60}: environments/NAME.toml, of lower-case letters, digits, - and _")
    if file.stat().st_size > 16_384:
        raise DreamEnvsError(f"{file.name}: more than 16384 bytes")
    try:
        return msgspec.convert(tomllib.loads(text_of(file.name, file.read_bytes())), Environment)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise DreamEnvsError(f"{file.name}: {str(error).splitlines()[0]:.200}") from None


def conform(file: Path, wheel: Path, *, by: str, seconds: int = 900) -> Listed:
    """Run the kit and the scripted agents on a package, in the sandbox.

    Raises:
        DreamEnvsError: for a wheel that is not the one that was named, or that cannot be unpacked; where there is no
            sandbox; if the package ends without a record.
    """
    about = read(file)
    data = wheel.read_bytes() if wheel.is_file() and wheel.stat().st_size <= _BYTES else b""
    if hashlib.sha256(data).hexdigest() != about.sha256:
        raise DreamEnvsError(f"{wheel} is not the wheel that {file.name} names by its hash")
    with tempfile.TemporaryDirectory() as scratch:
        unpack(wheel, Path(scratch) / "package")
        runs = [_inside(Path(scratch) / "package", about.ids, seconds, seed, full=seed == "0") for seed in ("0", "1")]
    first, second = runs
    again = {a.id: a.fingerprints == b.fingerprints for a, b in zip(first, second, strict=True)}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Listed(file.stem, about.sha256, first, again, by, date)


def unpack(wheel: Path, out: Path) -> None:
    """Write a wheel's files below ``out``.

    Raises:
        DreamEnvsError: for too many or too large files, links, and names that lead out of it.
    """
    left = _BYTES
    try:
        with zipfile.ZipFile(wheel) as packed:
            names = packed.infolist()
            if len(names) > _FILES:
                raise DreamEnvsError(f"{wheel.name}: {len(names)} files, at most {_FILES}")
            for item in names:
                parts, mode = item.filename.split("/"), item.external_attr >> 16
                odd = not item.filename.isprintable() or "\\" in item.filename or len(parts) > _DEPTH
                if odd or any(p in ("", ".", "..") for p in parts[: None if not item.is_dir() else -1]):
                    raise DreamEnvsError(f"{wheel.name}: {item.filename!a:.80} is no name of a file in a package")
                if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode) and stat.S_IFMT(mode):
                    raise DreamEnvsError(f"{wheel.name}: {item.filename!a:.80} is no regular file")
                if item.is_dir():
                    continue
                with packed.open(item) as source:
                    content = source.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise DreamEnvsError(f"{wheel.name}: more than {_BYTES} bytes when unpacked")
                place = out.joinpath(*parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(place, "xb") as target:
                    target.write(content)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise DreamEnvsError(f"{wheel.name}: cannot be unpacked ({str(error)[:120]})") from None


def _inside(package: Path, ids: list[str], seconds: int, seed: str, *, full: bool) -> list[Record]:
    from dream_envs.leaderboard.board import last_line, suite_mounts

    box = sandbox.Sandbox(
        memory_mb=2048, cpu_s=seconds, wall_s=3.0 * seconds, scratch_mb=64, threads=1, output_kb=1024,
        read_only={**suite_mounts(), str(package): "/package"}, python_path=("/suite", "/site", "/package"),
        environment={"PYTHONHASHSEED": seed},
    )  # fmt: skip
    source = f"from dream_envs.leaderboard.environments import record; record({ids!r}, {full})"
    ended = box.run(source)
    said = ended.files.get(_OUT, b"")
    if ended.status != "ok" or not said:
        told = ended.detail or last_line(ended.stderr.decode("utf-8", "replace"))
        raise DreamEnvsError(f"the package ended without a record: {ended.status} ({told[:200]})")
    try:
        found = msgspec.json.decode(said, type=list[Record])
    except msgspec.DecodeError as error:
        raise DreamEnvsError(f"the package's record cannot be read: {error}") from None
    if [r.id for r in found] != ids:
        raise DreamEnvsError("the package's record is of other ids")
    return found


def record(ids: list[str], full: bool) -> None:
    """Inside of the sandbox: try every id, and write what was found."""
    found = [_tried(name, full) for name in ids]
    Path("out", _OUT).write_bytes(msgspec.json.encode(found))


def _tried(name: str, full: bool) -> Record:
    from dream_envs.testing import basics, check
    from dream_envs.testing.subject import resolve

    try:
        subject = resolve(name)
        digests = basics.fingerprints(subject)
        if not full:
            return Record(name, subject.kind, [], fingerprints=digests)
        report = check(name, skip=_LEFT_OUT)
        checks = [Finding(c.name, c.status, c.reason[:300]) for c in report.checks]
        rewards = _rewards(subject.new()) if subject.kind == "game" else {}
        return Record(name, subject.kind, checks, rewards, digests)
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        return Record(name, "none", [Finding("plays", "failed", told)])


def _rewards(game: Any) -> dict[str, dict[str, float]]:
    """Mean reward by role, with each scripted agent in all roles; what a game has no agent for is left out."""
    from dream_envs.envs._adapter import build_reward
    from dream_envs.play import as_agent, roles_by_agent, rollout

    made, role_of = dict[str, dict[str, float]](), roles_by_agent(game)
    for kind in AGENTS:
        try:
            seats = {role.name: as_agent(kind, game) for role in game.roles}
            totals: Mapping[str, list[float]] = {role.name: [] for role in game.roles}
            for episode in rollout(game, seats, EPISODES, seed="board-environments", reward=build_reward(None, game)):
                for agent, score in episode.scores.items():
                    if score.status == "ok":
                        totals[role_of[agent]].append(score.value)
        except DreamEnvsError:
            continue
        made[kind] = {role: round(sum(values) / len(values), 6) for role, values in totals.items() if values}
    return made


def load(root: Path) -> list[tuple[str, Environment, Listed | None]]:
    """Every environment of a board with its newest line, if that is of the wheel that is named today.

    Raises:
        DreamEnvsError: for a file or a line that cannot be read.
    """
    file, newest = root / "results" / "environments.jsonl", dict[str, Listed]()
    try:
        for line in file.read_bytes().splitlines() if file.is_file() else []:
            one = msgspec.json.decode(line, type=Listed)
            newest[one.environment] = one
    except msgspec.DecodeError as error:
        raise DreamEnvsError(f"results/{file.name}: {error}") from None
    found = [(path.stem, read(path)) for path in sorted((root / "environments").glob("*.toml"))]
    lines = [newest.get(name) for name, _ in found]
    return [(n, e, o if o and o.sha256 == e.sha256 else None) for (n, e), o in zip(found, lines, strict=True)]
