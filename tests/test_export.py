"""A run's turns as a data set: typed, whole, in bounded memory, and never over something else."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")

import datasets
import msgspec
from _episodes import GOLD, LOST, play
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.adapters import export as exporting
from dream_envs.core import Episode, Score, Usage, encode
from dream_envs.play import read_episodes


def load(path: Path) -> Any:
    kind = {".parquet": "parquet", ".jsonl": "json"}[path.suffix]
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


def episode(index: int = 0, **turn: Any) -> Episode:
    """A game with a right answer, a lost call and scores of three statuses."""
    made = play([GOLD, LOST])
    turns = [msgspec.structs.replace(t, **turn) for t in made.turns]
    scores = {"challenger_0": Score(0.5, components={"p": 0.5, "attempts": 2.0}, grader="learnability-1")}
    scores["solver_1"] = Score(0.0, "timeout", detail="late")
    return msgspec.structs.replace(made, index=index, round=7, turns=turns, scores=scores, grader="whole-1")


def test_the_verb_and_the_round_trip(verb_json: Any, verb: Any, played_run: Path) -> None:
    episodes = list(read_episodes(played_run / "episodes.jsonl"))
    told = verb_json("export", played_run)
    file = played_run / "export" / "turns.parquet"
    assert told == {"out": str(file), "episodes": 20, "rows": 100} and file.is_file()
    rows = load(file)
    assert rows.features == exporting.features()
    wanted = [(e.index, t.agent, t.text, e.scores[t.agent].value) for e in episodes for t in e.turns]
    assert [(r["episode"], r["agent"], r["completion"][0]["content"], r["value"]) for r in rows] == wanted
    turns = [(e, t) for e in episodes for t in e.turns]
    for row, (e, t) in zip(rows, turns, strict=True):
        assert row["prompt"] == t.messages and row["task_answer"] == e.tasks[-1].answer and row["level"] == 2
        assert row["grader"] == e.scores[t.agent].grader and row["outcome"] == "ok" and row["turn"] == e.turns.index(t)
    before = file.read_bytes()
    status, out, err = verb("export", played_run)
    assert (status, out) == (2, "") and "is there already" in err and err.count("\n") == 1
    assert file.read_bytes() == before
    other = verb_json("export", played_run / "episodes.jsonl", "--format", "jsonl", "--out", "elsewhere")
    lines = [json.loads(line) for line in Path(other["out"]).read_text("utf-8").splitlines()]
    assert lines == list(rows) and len(load(Path(other["out"]))) == 100


def test_every_column_of_every_status(tmp_path: Path) -> None:
    more = {"token_ids": [1, 2], "logprobs": [-0.5, -math.inf], "usage": Usage(3, 2), "extracted": "", "author": "p@3"}
    made = [episode(0), episode(1, **more, finish_reason="length")]
    made.append(msgspec.structs.replace(episode(2), tasks=[], scores={}, grader=""))
    assert exporting.export(iter(made), tmp_path / "a" / "turns.parquet") == {"episodes": 3, "rows": 9}
    rows = load(tmp_path / "a" / "turns.parquet")
    assert rows.features == exporting.features()
    first, second, late = rows[0], rows[1], rows[2]
    assert (first["value"], first["score_status"], first["grader"]) == (0.5, "ok", "learnability-1")
    assert first["components"] == [{"name": "p", "value": 0.5}, {"name": "attempts", "value": 2.0}]
    assert first["token_ids"] is None and first["logprobs"] is None and first["extracted"] is None
    assert (second["value"], second["score_status"], second["components"]) == (None, None, [])
    assert (late["value"], late["score_status"], late["score_detail"]) == (None, "timeout", "late")
    assert (late["status"], late["grader"], late["round"]) == ("timeout", "whole-1", 7)
    full = rows[3]
    assert full["token_ids"] == [1, 2] and full["logprobs"] == [-0.5, -math.inf] and full["extracted"] == ""
    assert (full["prompt_tokens"], full["completion_tokens"]) == (3, 2)
    assert (full["author"], full["finish_reason"], full["episode"], full["task_prompt"]) == (
        "p@3",
        "length",
        1,
        "c:BDA",
    )
    bare = rows[6]
    assert [bare[n] for n in ("task_id", "family", "level", "task_prompt", "task_answer", "value")] == [None] * 6


@settings(max_examples=25, deadline=None)
@given(said=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_text_comes_back(tmp_path_factory: Any, said: list[str]) -> None:
    folder = tmp_path_factory.mktemp("t")
    for kind in exporting.FORMATS:
        exporting.export([play(said)], folder / f"turns.{kind}", kind)
    parquet = exporting.framework("pyarrow.parquet").read_table(folder / "turns.parquet").to_pylist()
    lines = [json.loads(line) for line in (folder / "turns.jsonl").read_bytes().decode("utf-8").split("\n")[:-1]]
    assert parquet == lines and [r["completion"][0]["content"] for r in parquet[1:]] == said


def test_memory_is_bounded(tmp_path: Path) -> None:
    def many(count: int) -> Any:
        for index in range(count):
            yield episode(index, text=f"{index} " + "x" * 20_000)

    peaks, parquet = [], exporting.framework("pyarrow.parquet")
    for count in (500, 3000):
        tracemalloc.start()
        file = tmp_path / f"{count}" / "turns.parquet"
        assert exporting.export(many(count), file)["rows"] == 3 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert parquet.ParquetFile(file).num_row_groups >= 3 * count * 20_000 // exporting._SIZE
    assert peaks[1] < 1.5 * peaks[0] and peaks[1] < 3000 * 3 * 20_000 / 2


def test_hostile_runs(verb: Any, verb_json: Any, played_run: Path, tmp_path: Path) -> None:
    file = played_run / "episodes.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])  # cut short by a kill
    assert verb_json("export", played_run, "--out", "cut")["episodes"] == 19
    lines = whole.splitlines(keepends=True)
    huge = encode(msgspec.structs.replace(next(read_episodes(file)), index=2**63)) + b"\n"
    (tmp_path / "empty").mkdir()
    for name, data, said in (
        ("nothing", b"", "nothing to write"),
        ("no turn", encode(msgspec.structs.replace(episode(), turns=[])) + b"\n", "no turn in 1 episodes"),
        ("torn", b"".join([*lines[:2], b"{}\n"]), "line 3"),
        ("huge", b"".join([*lines[:2], huge]), "does not fit"),
    ):
        file.write_bytes(data)
        status, out, err = verb("export", played_run, "--out", name)
        assert (status, out) == (2, "") and said in err and err.count("\n") == 1, name
        assert not list((tmp_path / name).iterdir())
    for argv, said in (
        (["missing"], "is not there"),
        (["empty"], "has no episodes.jsonl"),
        ([played_run, "--format", "csv"], "'parquet', 'jsonl' or 'inspect'"),
        ([played_run, "--out", file], "File exists"),
    ):
        status, out, err = verb("export", *argv)
        assert (status, out) == (2, "") and said in err and err.count("\n") == 1, argv
    file.write_bytes(whole)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "turns.parquet.part").write_bytes(b"an export that was killed")
    assert verb_json("export", played_run, "--out", "half")["rows"] == 100
    assert [p.name for p in (tmp_path / "half").iterdir()] == ["turns.parquet"]


def test_without_the_extra(verb: Any, verb_json: Any, played_run: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    status, _, err = verb("export", played_run)
    assert status == 2 and "pip install 'dream-envs[train]'" in err and err.count("\n") == 1
    assert verb_json("export", played_run, "--format", "jsonl")["rows"] == 100
