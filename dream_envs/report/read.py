"""What a run's folder holds, decoded once for the page and the terminal; a damaged file is one line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dream_envs.core import DreamEnvsError, Measure
from dream_envs.metrics.rounds import read_rows
from dream_envs.report.words import number, visible
from dream_envs.runs import read_json
from dream_envs.schema import SUMMARY, Summary, read_summary

_FILES = ("run.json", SUMMARY, "metrics.jsonl", "episodes.jsonl")
_MAX_ALARMS = 40
Points = list[tuple[float, float]]


class Alarm(msgspec.Struct):
    """One kind of alarm: its newest wording, the steps it first and last rang at, and how often."""

    text: str
    first: int | None
    last: int | None
    times: int = 1


class Night(msgspec.Struct, frozen=True):
    """A night as the report shows it; see ``agents.sleep.night.Night``."""

    number: int
    lived: int
    tokens: int = 0
    divergence: tuple[float, float] | None = None
    imitation: float | None = None
    dreams: list[Any] = []
    good: int = 0
    before: float | None = None
    after: float | None = None
    undone: bool = False
    curve_before: dict[str, float] = {}
    curve_after: dict[str, float] = {}


class Lessons(msgspec.Struct, frozen=True):
    """What is left of each lesson (column) after each night (row); see ``metrics.retention.lessons``."""

    lessons: list[str]
    open: list[float | None]
    closed: list[list[float | None]]
    average_accuracy: float | None = None
    across: list[float | None] = []
    backward_transfer: float | None = None
    forward_transfer: float | None = None
    forgetting: float | None = None
    levels: dict[str, dict[str, float]] = {}


class Diversity(msgspec.Struct, frozen=True):
    """Variety on fixed problems, of the base and of the trained model; see ``metrics.replies``."""

    base: dict[str, float | None]
    trained: dict[str, float | None]
    ratio: dict[str, tuple[float | None, float | None, float | None] | None] = {}
    alarm: str | None = None


class Shown(msgspec.Struct, frozen=True):
    """A dream to look at; ``dropped``: the rule that dropped it, "" if it was kept."""

    instruction: str
    reply: str
    dropped: str = ""


class Dreams(msgspec.Struct, frozen=True):
    """What a model dreamt, what a filter kept, and copies trained on it and on controls; see ``baselines.dreams``."""

    preset: str
    dreams: int
    valid: int
    kept: int
    held_out: int
    unmeasured: list[str]
    dropped: dict[str, int]
    copies: dict[str, dict[str, Measure]]
    gains: dict[str, dict[str, Measure]]
    trained: dict[str, dict[str, int]]
    examples: list[Shown]
    distinct: float = 0.0
    replies_cut: float = 0.0
    languages: dict[str, float] = {}
    distance: list[float] = []
    reply_tokens: list[float] = []


class Blocks(msgspec.Struct, frozen=True):
    """The blocks that ``Summary`` leaves untyped."""

    nights: list[Night] = []
    retention: Lessons | None = None
    diversity: Diversity | None = None
    dreams: Dreams | None = None


class Found(NamedTuple):
    """A run."""

    settings: dict[str, Any]  # of ``run.json``
    summary: Summary | None
    blocks: Blocks
    series: dict[str, Points]  # the points (x, value) of every numeric metric
    unit: str  # what x counts
    steps: int  # rows of metrics
    alarms: list[Alarm]

    def lines(self, prefix: str, names: Iterable[str] = ()) -> list[tuple[str, Points]]:
        """(label, points) of the metrics under a prefix; of these names, or all in order."""
        keys = names or sorted(key.removeprefix(prefix) for key in self.series if key.startswith(prefix))
        return [(name, self.series[prefix + name]) for name in keys if prefix + name in self.series]


def is_frontier(folder: Path) -> bool:
    """Whether this is the folder of a Frontier Report."""
    data = read_json(folder / "frontier.json")
    return isinstance(data, dict) and data.get("kind") == "frontier"


def load(path: Path) -> Found:
    """Everything but the episodes."""
    if not any((path / name).is_file() for name in _FILES):
        raise DreamEnvsError(f"{path} holds no run: expected one of {', '.join(_FILES)} in it")
    summary, series, alarms, x, unit = read_summary(path), dict[str, Points](), dict[str, Alarm](), 0.0, "step"
    rows = read_rows(path)
    for row in rows:
        if (at := number(row.get("samples"))) is not None:
            x, unit = at, "samples drawn"
        elif unit == "step":
            x = number(row.get("step")) or x
        for key, value in row.items():
            if (y := number(value)) is not None:
                series.setdefault(key, []).append((x, y))
        _note_alarms(alarms, row)
    settings = read_json(path / "run.json") or {}
    if not isinstance(settings, dict):
        raise DreamEnvsError(f"{path / 'run.json'} holds no object: restore it from a copy or remove it")
    try:
        blocks = Blocks() if summary is None else msgspec.convert(summary, Blocks, from_attributes=True)
    except msgspec.ValidationError as error:
        raise DreamEnvsError(f"{path / SUMMARY}: {error}; restore it from a copy or remove it") from error
    return Found(settings, summary, blocks, series, unit, len(rows), list(alarms.values()))


def _note_alarms(known: dict[str, Alarm], row: dict[str, Any]) -> None:
    """Fold each alarm into the one with the same explanation: the numbers before it differ."""
    step = row.get("step") if isinstance(row.get("step"), int) else None
    for text in row.get("alarms") or ():
        key = (str(text).partition(": ")[2] or str(text))[:200]
        if key in known:
            old = known[key]
            old.text, old.last, old.times = visible(text, 300), step, old.times + 1
        elif len(known) < _MAX_ALARMS:
            known[key] = Alarm(visible(text, 300), step, step)
