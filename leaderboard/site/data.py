"""What the pages show: rounds, entries and lines of a board, read once and put in order; nothing is rendered here."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import entry as entries
from dream_envs.leaderboard import environments, objections, scores
from dream_envs.leaderboard.budget import CLASSES, Budget
from dream_envs.leaderboard.checkpoint import Judged
from dream_envs.leaderboard.commit_reveal import PRACTICE, Round
from dream_envs.leaderboard.entry import NAME, Read
from dream_envs.leaderboard.environments import Environment, Listed
from dream_envs.leaderboard.goal import GOAL, LEVELS
from dream_envs.leaderboard.objections import Objection
from dream_envs.leaderboard.scores import Result, Standing

#: What the names of files with lines of checkpoints end in.
JUDGED = "-checkpoints"
#: The name of the file with lines of environments.
ENVIRONMENTS = "environments"


class Row(NamedTuple):
    """An entry in a group.  ``why``: what keeps it from a rank, "" for a ranked one; ``record``: it holds it."""

    standing: Standing
    why: str
    record: bool


class Group(NamedTuple):
    """A round and a class: what one table shows.  ``base``: mean success of the untrained bases at the last level."""

    round: str
    number: int
    budget: Budget
    ranked: list[Row]
    unranked: list[Row]
    lines: list[Result]
    base: float | None

    @property
    def key(self) -> str:
        """Part of file names and anchors."""
        return f"{self.round}-class{self.number}"

    @property
    def rows(self) -> list[Row]:
        """Ranked, then unranked."""
        return [*self.ranked, *self.unranked]


class Board(NamedTuple):
    """All of it.

    ``broken``: entries that cannot be read, and why; ``odd``: numbers of lines in a wrong file; ``checkpoints``: of all
    rounds, the highest gain first; ``environments``: by name, with what was found in the wheel that is named today.
    """

    entries: dict[str, Read]
    broken: dict[str, str]
    rounds: list[Round]
    groups: list[Group]
    odd: dict[str, int]
    checkpoints: list[Judged]
    objections: list[Objection]
    environments: list[tuple[str, Environment, Listed | None]]


def load(root: Path) -> Board:
    """Read a board's folder.

    Raises:
        DreamEnvsError: if there is no board, or a line or a round cannot be read.
    """
    if not (root / "entries").is_dir():
        raise DreamEnvsError(f"{root} holds no entries/: give a board's folder by --board")
    read, broken = dict[str, Read](), dict[str, str]()
    for folder in sorted((root / "entries").iterdir()):
        if folder.name[0] in "._" or not folder.is_dir():
            continue
        try:
            read[folder.name] = entries.read(folder)
        except DreamEnvsError as error:
            broken[folder.name] = str(error)
    known = sorted((_round(file) for file in (root / "rounds").glob("*.json")), key=lambda r: (r.opened, r.name))[::-1]
    groups, odd, against = list[Group](), dict[str, int](), objections.read(root)
    for one in [*known, None]:
        name = one.name if one else PRACTICE
        lines = scores.load(root / "results" / f"{name}.jsonl")
        own = [r for r in lines if r.round == name and r.budget in CLASSES]
        if len(own) < len(lines):
            odd[name] = len(lines) - len(own)
        fixed = one.frozen if one else {n: e.hash for n, e in read.items()}
        upheld = [o for o in against if o.upheld and o.round in ("", name)]
        lost = {o.entry: f"an objection was upheld: {o.answer}" for o in upheld}
        groups += [_group(name, number, own, fixed, lost, practice=one is None) for number in CLASSES]
    files = {file.stem for file in (root / "results").glob("*.jsonl")}
    judged = [
        one for name in sorted(files) if name.endswith(JUDGED) for one in _judged(root / "results" / f"{name}.jsonl")
    ]
    for name in sorted(files - {r.name for r in known} - {PRACTICE, ENVIRONMENTS}):
        if not name.endswith(JUDGED):
            odd[name] = len(scores.load(root / "results" / f"{name}.jsonl"))
    judged.sort(key=lambda j: (-j.gain[0], j.checkpoint, j.date))
    return Board(read, broken, known, [g for g in groups if g.rows], odd, judged, against, environments.load(root))


def _judged(file: Path) -> list[Judged]:
    lines = [line for line in file.read_bytes().splitlines() if line]
    try:
        return [msgspec.json.decode(line, type=Judged) for line in lines]
    except msgspec.DecodeError as error:
        raise DreamEnvsError(f"results/{file.name}: {error}") from None


def _round(file: Path) -> Round:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Round)
    except msgspec.DecodeError as error:
        raise DreamEnvsError(f"rounds/{file.name}: {error}") from None
    if found.name != file.stem or not NAME.fullmatch(found.name):
        raise DreamEnvsError(f"rounds/{file.name} is of round {found.name!r:.60}: name and file have to agree")
    return found


def _group(
    name: str, number: int, lines: Sequence[Result], fixed: dict[str, str], lost: dict[str, str], *, practice: bool
) -> Group:
    """``fixed``: the hash that each entry's runs have to have here: of the freeze, in practice of its files today.

    ``lost``: why entries have no rank, whatever their runs were.
    """
    own = [r for r in lines if r.budget == number]
    current = [r for r in own if fixed.get(r.entry) == r.entry_hash]
    stale = [r for r in own if r.entry not in {c.entry for c in current}]
    every = scores.standings(current, number)
    usual = median_low([len(s.results) for s in every]) if every else 0
    why = {s.entry: lost.get(s.entry) or _unranked(s, usual) for s in every}
    ranked = scores.standings([r for r in current if not why[r.entry]], number)
    first = ranked[:1] if len(ranked) > 1 and scores.record(ranked[0], ranked[1]) else []
    unranked = [Row(s, why[s.entry], False) for s in every if why[s.entry]]
    changed = "its files have changed since these runs" if practice else "not the files that were frozen"
    absent = "no entry of this name" if practice else "not frozen in this round"
    for s in scores.standings(stale, number):
        unranked.append(Row(s, changed if s.entry in fixed else absent, False))
    bases = [r.curve[0][-1] for r in current if usable(r) and r.curve[0][0] == 0]
    base = float(np.mean(bases)) if bases else None
    return Group(name, number, CLASSES[number], [Row(s, "", s in first) for s in ranked], unranked, own, base)


def _unranked(standing: Standing, usual: int) -> str:
    """Why an entry has no rank; ``usual``: in how many worlds half of the entries or more ran."""
    for r in standing.results:
        if r.status != "ok":
            return f"world {r.world}: {r.status}" + (f": {r.detail}" if r.detail else "")
    count = len(standing.results)
    return f"incomplete: {count} of {usual} worlds" if count < usual else ""


def usable(result: Result) -> bool:
    """Whether a line's curve has the columns that it should, all finite."""
    width = 4 + len(LEVELS)
    return bool(result.curve) and all(len(row) == width and all(map(math.isfinite, row)) for row in result.curve)


def curve_of(result: Result, level: int) -> tuple[list[float], list[float]]:
    """Samples and success at a level, over a run."""
    rows = result.curve if usable(result) else []
    return [row[0] for row in rows], [row[4 + LEVELS.index(level)] for row in rows]


def band(runs: Sequence[Result], level: int, grid: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """(samples, median, lowest, highest) over worlds, where at least half of the runs were measured on both sides."""
    curves = [curve_of(r, level) for r in runs if usable(r)]
    found = []
    for x in grid:
        values = [float(np.interp(x, xs, ys)) for xs, ys in curves if xs[0] <= x <= xs[-1]]
        if values and 2 * len(values) >= len(curves):
            found.append((x, float(np.median(values)), min(values), max(values)))
    return found


def misses(standing: Standing) -> str:
    """Which halves of the goal were missed, in how many worlds."""
    halves = Counter(
        f"depth {LEVELS[-1]} missed" if r.best < GOAL else f"depths {LEVELS[0]} to {LEVELS[-2]} lost"
        for r in standing.results
        if r.status == "ok" and r.samples is None
    )
    return ", ".join(f"{half} in {count}" for half, count in sorted(halves.items()))


def mean(standing: Standing, name: str) -> float:
    """Mean over worlds of ``best``, or of something that was used."""
    return float(np.mean([r.best if name == "best" else getattr(r.used, name) for r in standing.results]))


def flat(group: Group, row: Row, board: Board) -> dict[str, Any]:
    """A row of the table for downloads; None for what is infinite or not there."""
    s, about = row.standing, board.entries.get(row.standing.entry)
    numbers = {"median_samples": s.median, "low_samples": s.low, "high_samples": s.high}
    gain = msgspec.to_builtins(s.gain) if s.gain is not None else {}
    return {
        "round": group.round, "class": group.number, "entry": s.entry, "entry_hash": s.entry_hash,
        "says": about.about.says if about else "", "ranked": not row.why, "why_not": row.why,
        "rank_best": None if row.why else s.rank[0], "rank_worst": None if row.why else s.rank[1],
        **{k: v if math.isfinite(v) else None for k, v in numbers.items()},
        "hits": s.hits, "worlds": len(s.results), "misses": misses(s), "best": round(mean(s, "best"), 6),
        **{f"gain_{k}": gain.get(k) for k in ("value", "low", "high", "word")},
        **{f"used_{k}": round(mean(s, k), 1) for k in ("samples", "trained", "steps", "seconds")},
        "reproduced_by": s.reproduced, "differs": s.differs, "record": row.record,
    }  # fmt: skip


def commitment_holds(round: Round) -> bool | None:
    """Whether the published secret is the one that was committed to; None before it is published."""
    if not round.secret:
        return None
    return hashlib.sha256(f"{round.secret}\n{round.name}".encode()).hexdigest() == round.commitment
