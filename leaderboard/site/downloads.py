"""The rows of the tables for programs: CSV, JSON, and Hugging Face's YAML of evaluation results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from dream_envs.leaderboard.entry import NAME
from dream_envs.leaderboard.goal import LEVELS
from dream_envs.leaderboard.scores import Result
from dream_envs.leaderboard.site.data import Board, Group, Row, flat, mean
from dream_envs.leaderboard.site.draw import count
from dream_envs.report.words import label


def files(board: Board) -> dict[str, str]:
    """All downloads, by path in the site."""
    made = dict[str, str]()
    for group in board.groups:
        rows = [flat(group, row, board) for row in group.rows]
        made |= {f"data/{group.key}.csv": _csv(rows), f"data/{group.key}.json": _json(rows)}
    if board.checkpoints:
        judged = [msgspec.to_builtins(j) for j in board.checkpoints]
        flat_ones = [{**j, "gain": " ".join(map(str, j["gain"])), "authors": ", ".join(j["authors"])} for j in judged]
        made |= {"data/checkpoints.csv": _csv(flat_ones), "data/checkpoints.json": _json(judged)}
    for name in sorted({r.entry for group in board.groups for r in group.lines if NAME.fullmatch(r.entry)}):
        runs = [run(r) for group in board.groups for r in group.lines if r.entry == name]
        made |= {f"data/entry-{name}.csv": _csv(runs), f"data/entry-{name}.json": _json(runs)}
        if text := eval_results(name, board):
            made[f"data/eval_results/{name}.yaml"] = text
    return made


def run(result: Result) -> dict[str, Any]:
    """A line, flat; its curve is left to the page."""
    told = msgspec.to_builtins(result)
    used, gain, versions = told.pop("used"), told.pop("gain") or {}, told.pop("versions")
    del told["curve"]
    told |= {f"used_{k}": v for k, v in used.items()} | {
        f"gain_{k}": gain.get(k) for k in ("value", "low", "high", "word")
    }
    return {**told, "versions": " ".join(f"{k}={v}" for k, v in sorted(versions.items()))}


def eval_results(name: str, board: Board) -> str:
    """An entry's ranked rows as ``.eval_results/*.yaml`` of a model on the Hub has them; "" where there are none.

    The value is mean best success at the last depth, since a Hub's board wants a number and a miss has no finite count
    of samples; the samples are in the notes.
    """
    rows = [(g, row) for g in board.groups for row in g.ranked if row.standing.entry == name]
    head = (
        "# For .eval_results/ of a model repository. No dataset of this id is a registered benchmark of the Hub yet:\n"
        "# until it is, this file is a form of export and links to nothing.\n"
    )
    return head + "".join(_result(group, row) for group, row in rows) if rows else ""


def _result(group: Group, row: Row) -> str:
    s = row.standing
    notes = f"best success at depth {LEVELS[-1]}, mean over {len(s.results)} worlds; "
    notes += f"samples to the goal: median {count(s.median)}, {s.hits} of {len(s.results)} worlds reached it"
    date = max((r.date[:10] for r in s.results), default="")
    lines = [
        "- dataset:", "    id: dream-envs/leaderboard", f"    task_id: {_text(group.key)}",
        f"  value: {mean(s, 'best'):.6f}", f"  date: {_text(date)}", f"  notes: {_text(notes)}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """A string of JSON is one of YAML too."""
    return json.dumps(text)


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: _cell(v) for k, v in row.items()} for row in rows])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Text made visible; one that a spreadsheet would take for a formula gets an apostrophe in front of it."""
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else "") + label(value, 4000)
