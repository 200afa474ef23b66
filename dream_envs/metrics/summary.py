"""What a run's metrics say of its roles, for the summary."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.schema import Role

#: Rows of metrics at either end that the first and the last reward are means of.
ENDS = 5


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, an unfinished last line left out.

    Raises:
        DreamEnvsError: for a line that is no object, with its number.
    """
    path, rows = Path(run) / "metrics.jsonl", list[dict[str, Any]]()
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DreamEnvsError(f"{path}, line {number}: not an object ({error}); restore or remove it") from error
    return rows


def roles_of(run: Path, game: Any, learns: Collection[str]) -> list[Role]:
    """Each role's mean reward in the first and the last rounds, and its statuses over all."""
    rows = [row for row in read_rows(run) if any(key.startswith("reward/") for key in row)]
    found = []
    for spec in game.roles:
        means = [row[key] for row in rows if (key := f"reward/{spec.name}/mean") in row]
        prefix = f"status/{spec.name}/"
        names = sorted({key.removeprefix(prefix) for row in rows for key in row if key.startswith(prefix)})
        statuses = {name: float(np.mean([row.get(prefix + name, 0.0) for row in rows])) for name in names}
        first, last = (float(np.mean(part)) if part else None for part in (means[:ENDS], means[-ENDS:]))
        low, high = spec.reward_range
        found.append(Role(spec.name, spec.reply, low, high, spec.name in learns, first, last, statuses))
    return found
