"""Verbs about run folders: view, rescore, info RUN, report."""

from __future__ import annotations

import collections
import json
import statistics
import subprocess
import sys

import _run_folders as folders
import msgspec
import numpy as np
import pytest

from dream_envs.cli.play import Means
from dream_envs.core import Challenge, Score, decode_episode, encode
from dream_envs.play import read_episodes

GAME = "ChallengerSolver-v0"


def test_view_filters(verb_text, verb, played_run):
    every = [decode_episode(line) for line in verb_text("view", played_run, "--json").splitlines()]
    assert len(every) == 20
    some = verb_text("view", played_run, "--index", "3,5-7", "--json").splitlines()
    assert sorted(decode_episode(line).index for line in some) == [3, 5, 6, 7]
    assert len(verb_text("view", played_run, "--limit", "4", "--json").splitlines()) == 4
    text = verb_text("view", played_run, "--role", "solver_1", "--index", "3")
    assert "── solver_1" in text and "── solver_0" not in text and "challenger_0" not in text
    rejected = verb_text("view", played_run.parent / "bad", "--status", "abstain", "--json").splitlines()
    assert len(rejected) == 10
    for argv, word in (
        (["--status", "timeout"], "no episode with --status timeout"),
        (["--status", "late"], "'late'"),
        (["--role", "solvr"], "'solver'"),
        (["--index", "x"], "10-19"),
        (["--index", "99"], "--index 99"),
    ):
        status, out, err = verb("view", played_run, *argv)
        assert (status, out) == (2, "") and word in err and err.count("\n") == 1


def test_view_shows_control_characters_and_does_not_send_them(verb_text, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("def agent(text: str) -> str:\n    return '\\x1b[2J\\x07' + 'y' * 9000\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    verb_text("rollout", GAME, "--seats", "solver=evil:agent", "--episodes", "1", "--out", "r")
    text = verb_text("view", "r")
    assert "\\x1b[2J" in text and "\x1b" not in text and "9000" not in text.split("── solver_0")[0]


def test_a_broken_line_is_named(verb, played_run):
    file = played_run / "episodes.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b'{"not": "an episode"}\n', *lines[3:]]))
    for name in ("view", "rescore"):
        status, _, err = verb(name, played_run)
        assert status == 2 and "line 3" in err and err.count("\n") == 1


def test_rescore_reproduces_and_counts_both_denominators(verb_json, verb_text, played_run):
    found = verb_json("rescore", played_run)
    assert found["stored"] == found["reproduced"] == 20 * 5
    bad = verb_json("rescore", played_run.parent / "bad")
    assert bad["roles"]["solver"] == {"mean": None, "n_ok": 0, "n_total": 40, "counts": {"abstain": 40}}
    assert "40 abstain" in verb_text("rescore", played_run.parent / "bad")
    file = played_run / "episodes.jsonl"
    file.write_bytes(file.read_bytes()[:-10])  # cut short by a kill
    assert verb_json("rescore", played_run)["episodes"] == 19


def test_rescore_finds_a_score_that_was_tampered_with(verb_json, played_run):
    file = played_run / "episodes.jsonl"
    episodes = list(read_episodes(file))
    old = episodes[4].scores["solver_2"]
    episodes[4].scores["solver_2"] = msgspec.structs.replace(old, value=1.0 - old.value)
    file.write_bytes(b"".join(encode(e) + b"\n" for e in episodes))
    found = verb_json("rescore", played_run)
    assert found["stored"] - found["reproduced"] == 1
    assert (found["first_difference"]["index"], found["first_difference"]["agent"]) == (episodes[4].index, "solver_2")


def test_rescore_with_another_reward_writes_it(verb_json, verb, played_run, tmp_path):
    found = verb_json("rescore", played_run, "--reward", "learnability(form=r_zero)", "--out", "new/again.jsonl")
    new = list(read_episodes(tmp_path / "new" / "again.jsonl"))
    values = [e.scores["challenger_0"].value for e in new]
    # R-Zero: 1 - 2|p - 1/2|, with p from the solvers' verdicts
    rates = [e.outcome.facts["solve_rate"] for e in new]
    assert values == pytest.approx([1 - 2 * abs(p - 0.5) for p in rates])
    assert found["roles"]["challenger"]["mean"] == pytest.approx(statistics.fmean(values))
    status, _, err = verb("rescore", played_run, "--out", "new/again.jsonl")
    assert status == 2 and "there already" in err


def test_streaming_means_are_the_plain_ones():
    rng = np.random.Generator(np.random.PCG64(5))
    statuses = ["ok", "ok", "abstain", "error", "timeout"]
    scores = [Score(float(v), statuses[int(rng.integers(5))]) for v in rng.normal(size=1_001)]
    means = Means()
    for score in scores:
        means.add("all", score)
    found, counts = means.result()["all"], collections.Counter(s.status for s in scores)
    assert found["mean"] == pytest.approx(statistics.fmean(s.value for s in scores if s.status == "ok"), abs=1e-12)
    assert (found["n_ok"], found["n_total"], found["counts"]) == (counts["ok"], 1_001, counts)


def test_info_and_report_of_a_finished_run(verb_json, verb_text, tmp_path):
    """What the runner writes, counted by hand; the summary as it is, and each path told once."""
    pytest.importorskip("matplotlib")
    folders.write(tmp_path / "run", metrics=folders.metric_rows(4))
    made = ((1, "challenger", "executed"), (2, "challenger", "executed"), (2, "mutation", "verified"))
    rows = (Challenge(family="f", level=at, prompt="p", answer="a", author=a, truth=t) for at, a, t in made)
    (tmp_path / "run" / "challenges.jsonl").write_bytes(b"".join(encode(r) + b"\n" for r in rows) + b'{"cut')
    found, wanted = verb_json("info", "run"), json.loads(msgspec.json.encode(folders.summary()))
    assert found["summary"] == wanted
    levels = {"1": {"challenger": 1, "mutation": 0}, "2": {"challenger": 1, "mutation": 1}}
    assert found["curriculum"]["levels"] == levels
    assert found["curriculum"]["truth"] == {"executed": 2, "verified": 1} and found["metrics"]["step"] == 3
    text = verb_text("info", "run")
    assert "by mutation" in text and "Past the base" in text
    assert verb_json("report", "run")["summary"] == wanted
    text = verb_text("report", "run", "--out", "elsewhere/page.html")
    assert text.count(".html") == 1 and text.endswith("report: elsewhere/page.html\n")
    assert (tmp_path / "elsewhere" / "page.html").stat().st_size > 1000


def test_rescoring_takes_a_round_at_a_time(verb_json, tmp_path):
    """``less_repetition`` compares the proposals of a round: each has its share of 2, and not of 6."""
    assert verb_json("rollout", GAME, "--episodes", 6, "--out", "r", "--set", "level=8")["episodes"] == 6
    played = [msgspec.structs.replace(e, round=e.index // 2) for e in read_episodes(tmp_path / "r" / "episodes.jsonl")]
    played.sort(key=lambda e: e.index)
    found = []
    for name, episodes in (("rounds", played), ("one", [msgspec.structs.replace(e, round=0) for e in played])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "episodes.jsonl").write_bytes(b"".join(encode(e) + b"\n" for e in episodes))
        found.append(verb_json("rescore", name, "--reward", "challenger=less_repetition(learnability,floor=-1)"))
    assert found[0]["episodes"] == found[1]["episodes"] == 6
    means = [f["roles"]["challenger"]["mean"] for f in found]
    assert means[1] - means[0] == pytest.approx(1 / 2 - 1 / 6)


def test_a_reader_that_leaves_is_no_error(played_run):
    argv = [sys.executable, "-m", "dream_envs.cli", "view", str(played_run), "--json"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_report_of_a_rollout(verb, played_run):
    pytest.importorskip("matplotlib")
    status, out, _ = verb("report", played_run)
    assert status == 0 and out.count("report.html") == 1 and "not finished" in " ".join(out.split())
    assert (played_run / "report.html").read_text("utf-8").lstrip().startswith("<!")
