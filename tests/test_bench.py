"""The benchmark's frame: what it prints and writes, what happens to a section that fails; no figure is asserted."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dream_envs.baselines.benchmarks import __main__ as bench
from dream_envs.baselines.benchmarks import games
from dream_envs.baselines.benchmarks.rows import Options, Row, median_ratio, side_by_side
from dream_envs.core import Action
from dream_envs.play import rollout

PEERS = Path(games.__file__).with_name("peers.py")


def shown(rows):
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(bench.table({"part": rows}))
    return console.export_text()


def test_the_table_shows_what_a_row_says():
    full = Row(what="a [thing]", unit="x/s", ours=12345.6, peer=0.01234, peer_name="them", ratio=2.0, met=True)
    text = shown([full, Row(what="late", note="failed: [because]", met=False), Row(what="nothing")])
    lines = text.splitlines()
    first, second, third = (next(line for line in lines if name in line) for name in ("thing", "late", "nothing"))
    assert "a [thing]" in first and "12,346 x/s" in first and "0.0123 x/s" in first and "yes" in first
    assert "no" in second and "failed: [because]" in text and "them" in text
    assert "yes" not in third and "no " not in third.replace("nothing", "")


def test_a_section_that_fails_is_a_row_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(options):
        raise RuntimeError("no such luck\nsecond line")

    def sound(options):
        return [Row(what="sound", ours=1.0, met=True)]

    monkeypatch.setattr(bench, "SECTIONS", {"one": ("bad", "bad_module:f"), "two": ("good", "good_module:f")})
    monkeypatch.setitem(sys.modules, "bad_module", type("m", (), {"f": staticmethod(broken)}))
    monkeypatch.setitem(sys.modules, "good_module", type("m", (), {"f": staticmethod(sound)}))
    out = tmp_path / "deep" / "bench.json"
    assert bench.main(["--json", str(out), "--only", "one,two"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert rows["one"][0]["note"] == "failed: RuntimeError: no such luck" and rows["one"][0]["met"] is None
    assert rows["two"][0]["what"] == "sound" and "1 of 1 targets met" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", ["8", "games,,start", "", ","])
def test_sections_that_there_are_not(text, capsys):
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
    """Run by a bare interpreter: every peer that is missing is a reason, one line each."""
    given, asked = [sys.executable, "-I", "-S", str(PEERS)], "gem 1 0\ntextarena 1 1\nnonsense\n"
    done = subprocess.run(given, input=asked, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["error"].split(":")[0] for a in answers] == ["PackageNotFoundError"] * 2 + ["ValueError"]


def test_peers_that_cannot_be_had_are_rows_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(games, "_prepare", lambda venv: "no index")
    rows = games.games(Options(size="quick", scratch=str(tmp_path), venv=str(tmp_path / "none")))
    kinds = {"number guessing on the core", "number guessing rolled out and recorded"}
    assert len(rows) == 9 and {r.what.split(",")[0] for r in rows} == kinds
    assert all(r.peer is None and r.met is None and r.note == "no index" and r.ours for r in rows)


def test_number_guessing_is_a_sound_game():
    """Bisection finds every number in at most five guesses; a guess off the form or the range counts as a turn."""
    game = games.GuessNumber()

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


def test_a_profile_says_where_the_time_went():
    """A stack belongs to the outermost thing that it is done for: sampling at night is the night's."""
    model = pytest.importorskip("dream_envs.baselines.benchmarks.model")
    night, engine = ("/x/agents/sleep/night.py", "sleep"), ("/x/agents/engines/local.py", "act")
    play, trainer = ("/x/agents/training/collector.py", "round"), ("/y/transformers/trainer.py", "train")
    assert [model.part_of(s) for s in ([engine, night], [engine, play, trainer], [play, trainer], [trainer], [])] == [
        "nights", "sampling", "play, scoring and recording", "optimiser and the trainer's own",
        "start, loading and saving",
    ]  # fmt: skip
    with model.Sampler() as sampler:
        time.sleep(0.5)
    assert 2 <= sampler.seen.total() <= 30
