"""What a run folder holds, read with bounded memory and without trusting any of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.core import DreamEnvsError
from dream_envs.report.words import number, visible

#: Longer lines are skipped and counted, so that memory is bounded whatever a reply was.
MAX_LINE = 16 << 20
_MAX_ALARMS = 40


def walk(data: Any, *keys: str) -> Any:
    """``data[key][key]...``, or None as soon as something is missing or not an object."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def items(value: Any) -> list[Any]:
    """The list, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; an absent file is an empty one.

    Raises:
        DreamEnvsError: if it is something else.
    """
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DreamEnvsError(f"{path} is not JSON ({error}): restore it from a copy or remove it") from error
    if not isinstance(data, dict):
        raise DreamEnvsError(
            f"{path} holds a {type(data).__name__}, not an object: restore it from a copy or remove it"
        )
    return data


def read_frontier(run_dir: Path) -> dict[str, Any]:
    """``frontier.json`` of schema 1; empty if the run has not been evaluated yet.

    Raises:
        DreamEnvsError: for another schema.
    """
    data = read_object(run_dir / "frontier.json")
    if data and data.get("schema", 1) != 1:
        raise DreamEnvsError(f"{run_dir / 'frontier.json'} has schema {data['schema']!r}: this version reads schema 1")
    return data


def lines(path: Path) -> Iterator[bytes | None]:
    """The finished lines of a file; None for one longer than ``MAX_LINE``; an unfinished last line is left out."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        while chunk := file.readline(MAX_LINE):
            if chunk.endswith(b"\n"):
                yield chunk
                continue
            too_long = len(chunk) == MAX_LINE
            while chunk and not chunk.endswith(b"\n"):
                chunk = file.readline(MAX_LINE)
            if too_long:
                yield None


class Alarm(msgspec.Struct):
    """One kind of alarm: its newest wording, the steps it first and last rang at, and how often."""

    text: str
    first: float | None
    last: float | None
    times: int = 1


class Metrics(msgspec.Struct):
    """``metrics.jsonl`` in columns, one value a step (nan where there was none).

    ``columns`` has every numeric key; ``samples`` is the x axis (the step's number where samples were not logged);
    ``exact``: for each depth the (samples, mean exact success) pairs.  ``unread`` counts lines that
    are not JSON objects.
    """

    samples: list[float]
    columns: dict[str, list[float]]
    exact: dict[int, list[tuple[float, float]]]
    alarms: list[Alarm]
    more_alarms: int
    unread: int


def read_metrics(run_dir: Path) -> Metrics:
    """The metrics of a run, empty if there are none."""
    found = Metrics([], {}, {}, [], 0, 0)
    alarms: dict[str, Alarm] = {}
    for line in lines(run_dir / "metrics.jsonl"):
        row = _row(line)
        if row is None:
            found.unread += 1
            continue
        count, step = len(found.samples), number(row.get("step"))
        at = number(row.get("samples"))
        at = at if at is not None else step if step is not None else float(count)
        found.samples.append(at)
        for key in {*found.columns, *(k for k, v in row.items() if number(v) is not None)}:
            value = number(row.get(key))
            found.columns.setdefault(key, [math.nan] * count).append(math.nan if value is None else value)
        for key, value in (row["exact"] if isinstance(row.get("exact"), dict) else {}).items():
            if key.isascii() and key.isdigit() and len(key) < 4 and (p := number(value)) is not None:
                found.exact.setdefault(int(key), []).append((at, p))
        for text in items(row.get("alarms")):
            found.more_alarms += _note_alarm(alarms, str(text), step)
    found.alarms = list(alarms.values())
    return found


def _row(line: bytes | None) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line is not None else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _note_alarm(alarms: dict[str, Alarm], text: str, step: float | None) -> int:
    """Fold an alarm into the one with the same explanation (the numbers before it differ); 1 if it did not fit."""
    key = (text.partition(": ")[2] or text)[:200]
    if key in alarms:
        known = alarms[key]
        known.text, known.last, known.times = visible(text, 300), step, known.times + 1
        return 0
    if len(alarms) >= _MAX_ALARMS:
        return 1
    alarms[key] = Alarm(visible(text, 300), step, step)
    return 0
