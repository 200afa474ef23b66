"""A board to try the site on: entries with files, and runs whose curves look like real ones."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from dream_envs import seeds
from dream_envs.leaderboard import commit_reveal, scores
from dream_envs.leaderboard.budget import CLASSES, Budget, Used
from dream_envs.leaderboard.entry import LOCKED, read
from dream_envs.leaderboard.goal import Point, outcome
from dream_envs.leaderboard.scores import Gain, Result

#: Entry, samples at which depth 8 is half learnt, steepness, what is left of depths 1 to 3 at the end.
ENTRIES = (
    ("replay", 21_000, 4.0, 0.97), ("sleep", 24_000, 4.0, 0.98), ("awake", 33_000, 3.0, 0.95),
    ("grpo", 38_000, 3.0, 0.94), ("ppo", 50_000, 2.0, 0.93), ("rloo", 39_000, 3.0, 0.94), ("azr", 44_000, 2.0, 0.93),
    ("r-zero", 52_000, 2.0, 0.92), ("ttrl", 90_000, 1.5, 0.93), ("majority-reward", 80_000, 1.5, 0.91),
    ("random-reward", 400_000, 1.0, 0.5), ("frozen-challenger", 70_000, 2.0, 0.94), ("fixed-depth", 57_000, 2.0, 0.95),
    ("hardest-only", 30_000, 3.0, 0.7), ("no-mutation", 65_000, 2.0, 0.94), ("expert", 26_000, 3.5, 0.97),
    ("nights-sft-with-a-rather-long-name-of-40", 45_000, 2.0, 0.95),
)  # fmt: skip


def write_entry(
    root: Path, name: str, *, says: str = "", parent: str = "", code: str = "", authors: Sequence[str] = ("A. Person",)
) -> str:
    """Write an entry; the hash of its files."""
    folder = root / "entries" / name
    folder.mkdir(parents=True, exist_ok=True)
    about = {"says": says or f"What {name} changes in a line", "authors": list(authors), "parent": parent, "steps": 150}
    about["loop"] = "loop.py" if code else "dream"
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in about.items() if value != ""]
    lines += ["", "[lock]", *(f'{package} = "1.0"' for package in LOCKED)]
    (folder / "entry.toml").write_text("\n".join(lines) + "\n", "utf-8")
    if code:
        (folder / "loop.py").write_text(code, "utf-8")
    return read(folder).hash


def curve(name: str, world: int, half: float, steep: float, kept: float, budget: Budget) -> list[Point]:
    """Readings of a run: depth 8 rises as a sigmoid in log samples, depths 1 to 3 go to ``kept`` and wobble."""
    rng = seeds.stream("board", name, world)
    half *= math.exp(0.25 * rng.standard_normal())
    found = []
    for i in range(budget.points + 1):
        samples = round(budget.samples * i / budget.points + (rng.integers(0, 400) if i else 0))
        share = samples / budget.samples
        deep = 1 / (1 + (half / samples) ** steep) if samples else 2e-4
        levels = [min(1.0, 0.98 + (kept - 0.98) * share + 0.006 * rng.standard_normal()) for _ in range(3)]
        success = dict(zip(("1", "2", "3", "8"), [*levels, 0.98 * deep], strict=True))
        used = Used(samples, 9 * samples, 16 * samples, samples // 150, round(260 * share, 2))
        found.append(Point(used, {k: round(max(v, 0.0), 6) for k, v in success.items()}))
    return found


def line(
    name: str,
    own: str,
    world: int,
    shape: Sequence[float],
    *,
    round: str = "practice",
    number: int = 1,
    by: str = "machine-1",
) -> Result:
    """The line of such a run."""
    budget = CLASSES[number]
    points = curve(name, world, *shape, budget)  # type: ignore[arg-type]
    found = outcome(points, budget)
    rows = [[p.used.samples, p.used.trained, p.used.steps, p.used.seconds, *p.success.values()] for p in points]
    made = Result(
        name, own, round, number, world, f"{world:016x}", "ok", samples=found.samples, miss=found.miss, best=found.best,
        used=points[-1].used, curve=rows, weights=f"{name[:4]:x<16}", by=by, date=f"2026-11-2{world}T10:00:00+00:00",
        source="0123456789abcdef", versions={"torch": "2.13.0", "python": "3.12.4"},
    )  # fmt: skip
    return msgspec.structs.replace(made, hash=scores.reproducible(made))


def whole(root: Path, worlds: int = 5) -> list[Result]:
    """All in practice, class 1, with gains, reproductions, a run that differs, an error, and one over time."""
    lines = []
    for i, (name, *shape) in enumerate(ENTRIES):
        own = write_entry(root, name, parent="replay" if i else "")
        runs = [line(name, own, world, shape) for world in range(worlds)]
        if i < 6:
            low = 14.0 - 2 * i
            runs[0] = msgspec.structs.replace(
                runs[0], gain=Gain(low + 3, low, low + 6.5, "expansion" if i < 3 else "sharpening")
            )
        if i < 2:
            runs += [msgspec.structs.replace(r, by="machine-2") for r in runs[:worlds]]
            runs.append(msgspec.structs.replace(runs[0], date="2026-12-01"))  # the first's own: no reproduction
        if i == 2:
            runs.append(msgspec.structs.replace(runs[1], by="machine-3", hash="f" * 16))
        lines += runs
    for name, status, detail in (
        ("broken-one", "error", "the loop ended in ValueError: shapes differ"),
        ("slow", "disqualified", "over 400 processor s"),
    ):
        own = write_entry(root, name)
        plain = line(name, own, 0, (40_000, 2.0, 0.95))
        lines.append(msgspec.structs.replace(plain, status=status, detail=detail, samples=None, curve=[], hash=""))
    scores.append(root / "results" / "practice.jsonl", lines)
    return lines


def closed_round(root: Path) -> None:
    """Six entries in a round of class 3 that is closed, and a line of one that was not frozen."""
    secret = root.parent / "secret.txt"
    commit_reveal.open_round(root, "autumn-2026", secret, "the first value that is public after 1 December")
    frozen = {name: read(root / "entries" / name).hash for name, *_ in ENTRIES[:6]}
    commit_reveal.freeze(root, "autumn-2026", frozen, "00000000abc")
    commit_reveal.close(root, "autumn-2026", secret)
    where = {"round": "autumn-2026", "number": 3}
    lines = [line(n, frozen[n], w, shape, **where) for n, *shape in ENTRIES[:6] for w in range(5)]  # type: ignore[arg-type]
    late = line("ttrl", read(root / "entries" / "ttrl").hash, 0, ENTRIES[8][1:], **where)  # type: ignore[arg-type]
    scores.append(root / "results" / "autumn-2026.jsonl", [*lines, late])


def spread_of(values: Sequence[float]) -> float:
    """Median by numpy, for a second opinion; infinite where the upper middle is."""
    ordered = np.sort(np.array(values))
    return float(np.median(ordered)) if math.isfinite(ordered[len(ordered) // 2]) else math.inf


def ahead(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is shown to be better: by counting all ways of dealing the worlds' wins, not by ranks."""

    def wins(own: Sequence[float], other: Sequence[float]) -> float:
        return sum((x < y) + (x == y) / 2 for x in own for y in other)

    if spread_of(a) >= spread_of(b):
        return False
    pooled, half = [*a, *b], len(a) * len(b) / 2
    seen, extreme, every = abs(wins(a, b) - half), 0, 0
    for chosen in itertools.combinations(range(len(pooled)), len(a)):
        own = [pooled[i] for i in chosen]
        rest = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        extreme += abs(wins(own, rest) - half) >= seen - 1e-9
        every += 1
    return extreme / every <= 0.05
