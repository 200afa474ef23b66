"""The benchmark's frame: what it prints and writes, what happens to a section that fails; no figure is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dream_envs.baselines.benchmarks import bench
from dream_envs.baselines.benchmarks import games as bench_games
from dream_envs.baselines.benchmarks import process as bench_process
from dream_envs.baselines.benchmarks.rows import Options, Row, median_ratio, side_by_side
from dream_envs.core import Action, DreamEnvsError
from dream_envs.play import rollout

PEERS = Path(bench_games.__file__).with_name("bench_peers.py")


def shown(rows):
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(bench.table(rows))
    return console.export_text()


def test_the_table_shows_what_a_row_says():
    text = shown(
        [
            Row(section=1, what="a [thing]", unit="x/s", ours=12345.6, peer=0.01234, peer_name="them", ratio=2.0,
                target=">= 1", met=True),
            Row(section=2, what="late", note="failed: [because]", met=False),
            Row(section=3, what="nothing"),
        ]
    )  # fmt: skip
    first, second, third = (
        next(line for line in text.splitlines() if name in line) for name in ("thing", "late", "nothing")
    )
    assert "a [thing]" in first and "12,346 x/s" in first and "0.0123 x/s" in first and "yes" in first
    assert "no" in second and "failed: [because]" in text and "them" in text
    assert "yes" not in third and "no " not in third.replace("nothing", "")


def test_a_section_that_fails_is_a_row_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(options):
        raise RuntimeError("no such luck\nsecond line")

    def sound(options):
        return [Row(section=2, what="sound", ours=1.0, met=True)]

    monkeypatch.setattr(bench, "SECTIONS", {1: ("bad", "bad_module:f"), 2: ("good", "good_module:f")})
    monkeypatch.setitem(sys.modules, "bad_module", type("m", (), {"f": staticmethod(broken)}))
    monkeypatch.setitem(sys.modules, "good_module", type("m", (), {"f": staticmethod(sound)}))
    out = tmp_path / "deep" / "bench.json"
    assert bench.main(["--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(r["what"], r["met"]) for r in rows] == [("bad", None), ("sound", True)]
    assert rows[0]["note"] == "failed: RuntimeError: no such luck"
    assert rows[1]["command"].endswith("--only 2")
    assert "1 of 1 targets met" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", ["0", "8", "x", "1,,x", "", ","])
def test_sections_that_there_are_not(text, capsys):
    with pytest.raises(DreamEnvsError, match="--only 1,3"):
        bench.numbers(text)
    assert bench.main(["--only", text]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_works_are_measured_in_turn():
    order = []
    times = side_by_side({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 2.5}, 3)
    assert order == ["a", "b"] * 4, "one unmeasured round, then A B A B"
    assert times["b"] == [2.5] * 3 and len(times["a"]) == 3
    # neighbours: 2/1, 30/10, 4/4 -> median 2; the quotient of the medians would be 4/4
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


def test_the_peers_script_answers_in_an_interpreter_without_them():
    """Compiled and run by a bare interpreter: every peer that is missing is a reason, one line each."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(PEERS)],
        input="gem 1 0\ntextarena 1 1\nnonsense\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["error"].split(":")[0] for a in answers] == ["PackageNotFoundError"] * 2 + ["ValueError"]


def test_peers_that_cannot_be_had_are_rows_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_games, "_prepare", lambda venv: "no index")
    rows = bench_games.games(Options(size="quick", scratch=str(tmp_path), venv=str(tmp_path / "none")))
    peers = [r for r in rows if r.peer_name]
    assert len(peers) == 6
    assert all(r.peer is None and r.met is None and r.note == "no index" and r.ours for r in peers)


def test_number_guessing_is_a_sound_game():
    """Bisection finds every number in at most five guesses; a guess off the form or the range counts as a turn."""
    game = bench_games.GuessNumber()

    class Bisect:
        def act(self, requests):
            return [Action(f"\\boxed{{{self.guess(r.messages)}}}") for r in requests]

        def guess(self, messages):
            low, high = 1, 20
            for said, hint in zip(messages[1::2], messages[2::2], strict=True):
                middle = int(said["content"][7:-1])
                low, high = (middle + 1, high) if "higher" in hint["content"] else (low, middle - 1)
            return (low + high) // 2

    played = list(rollout(game, {"player": Bisect()}, 200))
    assert all(e.outcome.facts["found"] and e.outcome.facts["guesses"] <= 5 for e in played)
    assert {e.events[0].data["number"] for e in played} == set(range(1, 21))
    lost = next(rollout(game, {"player": lambda text: "\\boxed{99999999999} or 21"}, 1))
    assert lost.outcome.facts == {"found": False, "guesses": 10}


CHILD = """
import json, pathlib, sys, time
out, careless = pathlib.Path(sys.argv[1]), sys.argv[2] == "careless"
(out / "checkpoints" / "final").mkdir(parents=True, exist_ok=True)
lines = out / "episodes.jsonl"
done = 0 if careless or not lines.exists() else lines.read_bytes().count(b"\\n")
for step in range(done, 8):
    with open(lines, "ab") as file:
        file.write(b"%d\\n" % step)
    time.sleep(0.1)
for name in ("challenges.jsonl", "metrics.jsonl", "checkpoints/final/model.safetensors"):
    (out / name).write_bytes(lines.read_bytes())
(out / "frontier.json").write_text(json.dumps({"run": {"trained_hash": str(len(lines.read_bytes()))}}))
"""


@pytest.mark.parametrize("kind", ["sound", "careless"])
def test_the_kill_test_tells_a_run_that_resumes_from_one_that_does_not(kind, tmp_path, monkeypatch):
    def start(out, steps):
        line = [sys.executable, "-S", "-E", "-c", CHILD, str(out), kind]
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out.with_suffix(".log"), "wb") as log:
            return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    monkeypatch.setattr(bench_process, "_dream", start)
    (row,) = bench_process.killing(Options(kill=4, scratch=str(tmp_path)))
    assert row.met is (kind == "sound"), row.note
    assert row.peer == 8
    if kind == "sound":
        assert row.ours == 8 and row.note.count("step ") == 4
    else:
        assert row.ours > 8 and "lines: " in row.note


def test_a_run_that_cannot_be_is_a_reason(tmp_path, monkeypatch):
    def start(out, steps):
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out.with_suffix(".log"), "wb") as log:
            return subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit('no model')"], stderr=log)

    monkeypatch.setattr(bench_process, "_dream", start)
    (row,) = bench_process.killing(Options(kill=1, scratch=str(tmp_path)))
    assert row.met is None and "no model" in row.note
