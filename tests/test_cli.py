"""Every verb: what it prints for people and for programs, and what it says to somebody who made a mistake."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import dream_envs
from dream_envs import cli, progress, registry
from dream_envs.cli import info
from dream_envs.cli.common import clean, style
from dream_envs.core import decode_episode, encode
from dream_envs.play import read_episodes

GAME = "ChallengerSolver-v0"


def test_help_of_every_verb(verb):
    status, out, _ = verb("--help")
    assert status == 0
    verbs = [c.name or c.callback.__name__ for c in cli.app.app.registered_commands]
    assert len(verbs) >= 12 and "dream" in verbs
    for name in verbs:
        assert f"  {name} " in out
        status, page, _ = verb(name, "--help")
        assert status == 0 and "--json" in page


def test_version(verb_text):
    assert verb_text("--version") == f"{dream_envs.__version__}\n"


MISTAKES = [
    (["lsit"], ["'lsit'", "'list'"]),
    (["list", "env"], ["'env'", "'envs'"]),
    (["info", "compositon"], ["'compositon'", "'composition'"]),
    (["play", "ChalengerSolver-v0"], ["'dream_envs/ChallengerSolver-v0'"]),
    (["play", GAME, "--set", "sovlers=3"], ["'sovlers'", "'solvers'"]),
    (["play", GAME, "--set", "solvers=0"], ["solvers=0", "1 to 1024"]),
    (["play", GAME, "--set", "solvers"], ["'solvers'", "KEY=VALUE"]),
    (["play", GAME, "--set", "solvers=2,solvers=3"], ["twice"]),
    (["play", GAME, "--seats", "solvr=oracle"], ["'solvr'", "'solver'"]),
    (["play", GAME, "--seats", "solver=oracel"], ["'oracel'", "'oracle'"]),
    (["play", GAME, "--seats", "solver=generator(levels=3"], ["NAME(KEY=VALUE,...)"]),
    (["play", GAME, "--seats", "solver=no.such.module:Agent"], ["no.such.module"]),
    (["play", GAME, "--reward", "learnabilty"], ["'learnabilty'", "'learnability'"]),
    (["play", GAME, "--reward", "learnability(form=x)"], ["'x'", "azr"]),
    (["play", GAME, "--human", "slover"], ["'slover'", "'solver'"]),
    (["play", GAME, "--episodes", "0"], ["--episodes", "1"]),
    (["play", GAME, "--sed", "3"], ["--sed", "--seed"]),
    (["play"], ["ID"]),
    (["rollout", GAME], ["--out"]),
    (["rollout", GAME, "--out", "/dev/null/x"], ["/dev/null/x"]),
    (["play", GAME, "--reward", "slover=format"], ["'slover'", "'solver'"]),
    (["play", GAME, "--family", "arithmetc"], ["'arithmetc'", "'arithmetic'"]),
    (["train", "dreem"], ["'dreem'", "'dream'"]),
    (["train", "dream", "--levels", "a-b"], ["'a-b'", "2,3"]),
    (["train", "dream", "--set", "variants=full"], ["'variants'", "'variant'"]),
    (["train", "dream", "--reward", "solver=correctnes"], ["correctnes", "correctness"]),
    (["check", "dream"], ["dream", "loops"]),
    (["check", GAME, "--only", "pickle"], ["'pickle'", "'pickling'"]),
    (["check", "composition", "--set", "n_state=3"], ["'n_state'", "'n_states'"]),
    (["check", "no_such_module:Class"], ["no_such_module"]),
    (["check", "compositon"], ["'composition'", "module:attribute"]),
    (["check", "oracel"], ["'oracle'", "families, rewards and agents"]),
    (["check", "format_olny"], ["'format_only'"]),
    (["new", "game", "X"], ["'game'", "env, task, reward, agent, loop"]),
    (["new", "env", "../up"], ["'../up'"]),
    (["new", "task", "Composition"], ["'composition'", "another"]),
    (["new", "agent", "class"], ["class"]),
    (["view", "nowhere"], ["nowhere", "not there"]),
    (["view", "."], [". has no episodes.jsonl"]),
    (["report", "nowhere"], ["nowhere"]),
    (["nano", "compoze"], ["'compoze'", "'compose'"]),
]


@pytest.mark.parametrize(("argv", "words"), MISTAKES, ids=lambda v: " ".join(v)[:60])
def test_a_mistake_is_one_line_with_the_way_out(verb, argv, words):
    status, out, err = verb(*argv)
    assert status == 2
    assert out == ""
    assert err.startswith("dream-envs: ") and err.count("\n") == 1 and "Traceback" not in err
    assert all(word in err for word in words), err


def test_a_fault_of_ours_is_not_hidden(verb, monkeypatch):
    monkeypatch.setattr(info, "listing", lambda kind: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verb("list")


def test_list(verb_json, verb_text):
    rows = verb_json("list")
    assert {(r["kind"], r["name"]) for r in rows} == {(k, n) for k in registry.KINDS for n in registry.rows(k)}
    assert {r["kind"] for r in verb_json("list", "tasks")} == {"tasks"}
    assert "composition" in verb_text("list", "tasks")


def test_info_of_every_name(verb_json):
    """Each manual page is there, and a family's examples are what its own verifier accepts."""
    for kind in registry.KINDS:
        for name in registry.rows(kind):
            if name == "local" or kind in ("loops", "learners", "suites"):
                continue  # imports torch; below
            pages = [p for p in verb_json("info", name)["pages"] if p["kind"] == kind]
            assert len(pages) == 1 and len(pages[0]["manual"]) > 20
            for example in pages[0].get("examples", []):
                family = registry.create("tasks", name)
                task = family.parse(example["proposal"])
                assert task.prompt == example["prompt"]
                score = family.verify(task, example["gold"])
                assert score.value == 1.0 or (family.judged and score.status == "abstain")
                assert family.chance(task) == example["chance"]


def test_info_of_an_environment(verb_json, verb_text):
    page = verb_json("info", GAME)["pages"][0]
    assert page["gymnasium_ids"][1] == "dream_envs/ChallengerSolver-Solver-v0"
    assert verb_json("info", page["gymnasium_ids"][1])["pages"] == [page]  # a role's id leads to the game
    text = verb_text("info", GAME)
    assert "What each sees" in text and "solver_3" in text and "(0, 1" not in text
    assert [p["kind"] for p in verb_json("info", "random")["pages"]] == ["rewards", "agents"]  # in two registries


@pytest.mark.parametrize("name", sorted(registry.rows("loops")))
def test_info_of_a_loop(verb_json, verb_text, name):
    """Its page, its settings with defaults and its recipe in words."""
    pytest.importorskip("torch")
    page = next(p for p in verb_json("info", name)["pages"] if p["kind"] == "loops")
    loop = registry.load("loops", name)
    assert page["settings"] == json.loads(encode(loop.settings())) and len(page["manual"]) > 200
    assert page["recipe"]["plays"].startswith("dream_envs/") and page["recipe"]["steps"] == str(loop.steps)
    text = verb_text("info", name)
    assert all(f"  {key} " in text for key in page["settings"])


def test_info_of_a_learner(verb_json):
    pytest.importorskip("trl")
    page = verb_json("info", "ppo")["pages"][0]
    assert page["settings"]["baseline"] == "critic" and page["settings"]["updates.minibatches"] == 4


def test_rewards_by_role_mean_the_same_in_every_verb(verb_json, verb_text, tmp_path):
    """A role that is not named keeps the game's own reward; a rollout's scores come out again in ``rescore``."""
    words = ["--seats", "solver=oracle", "--set", "solvers=2", "--seed", "r", "--reward", "solver=0.5*correctness"]
    plain, scaled = verb_json("play", GAME, *words[:-2]), verb_json("play", GAME, *words)
    assert scaled["scores"]["challenger_0"]["value"] == plain["scores"]["challenger_0"]["value"]
    assert (plain["scores"]["solver_0"]["value"], scaled["scores"]["solver_0"]["value"]) == (1.0, 0.5)
    verb_text("rollout", GAME, *words, "--episodes", "5", "--out", "r")
    again = verb_json("rescore", "r", "--reward", "solver=0.5*correctness")
    assert again["stored"] == again["reproduced"] == 15
    assert verb_json("rescore", "r")["roles"]["solver"]["mean"] == 1.0


def test_a_family_in_another_notation(verb_json):
    episode = verb_json("play", GAME, "--family", "arithmetic", "--seats", "solver=oracle")
    assert episode["tasks"][-1]["family"] == "arithmetic" and episode["scores"]["solver_0"]["value"] == 1.0


def test_play_shows_what_happened(verb_text):
    text = verb_text("play", GAME, "--seats", "solver=oracle", "--set", "solvers=2,level=3", "--episodes", "2")
    assert text.count("── challenger_0") == 2 and text.count("── solver_1") == 2
    assert "solver_0: 1" in text and "accepted level=3" in text
    assert "\x1b" not in text  # not a terminal


def test_play_and_rollout_are_the_same_episodes(verb_text, tmp_path):
    words = [GAME, "--episodes", "3", "--seats", "challenger=generator,solver=guesser", "--seed"]
    lines = verb_text("play", *words, "x", "--json").splitlines()
    verb_text("rollout", *words, "x", "--out", "r")
    here = [decode_episode(line) for line in lines]
    there = sorted(read_episodes(tmp_path / "r" / "episodes.jsonl"), key=lambda e: e.index)
    told, kept = ([(e.seed, e.tasks, [t.text for t in e.turns], e.scores) for e in side] for side in (here, there))
    assert told == kept
    other = verb_text("play", *words, "y", "--json").splitlines()
    assert not {e.tasks[-1].id for e in here} & {decode_episode(line).tasks[-1].id for line in other}


def test_a_human_takes_a_seat(verb, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("c:BD\\\nA\nc:BDA\n"))
    status, out, err = verb("play", GAME, "--human", "challenger", "--episodes", "2", "--json")
    assert status == 0
    first, second = [decode_episode(line) for line in out.splitlines()]
    assert first.turns[0].text == "c:BD\nA" and not first.outcome.facts["valid"]
    assert second.turns[0].text == "c:BDA" and second.outcome.facts["valid"]
    assert "you are challenger_0" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))  # who leaves
    status, out, err = verb("play", GAME, "--human", "judge")
    assert (status, out) == (2, "") and "judge_0 had to reply" in err.splitlines()[-1]


def test_rollout_goes_on_where_it_stopped(verb_json, verb, tmp_path):
    first = verb_json("rollout", GAME, "--episodes", "7", "--out", "r")
    second = verb_json("rollout", GAME, "--episodes", "12", "--out", "r")
    whole = verb_json("rollout", GAME, "--episodes", "12", "--out", "whole")
    assert (first["new"], second["new"], whole["new"]) == (7, 5, 12)
    assert second["roles"] == whole["roles"]
    status, _, err = verb("rollout", GAME, "--episodes", "12", "--out", "r", "--seed", "1")
    assert status == 2 and "seed" in err and "--out" in err


def test_ctrl_c_says_how_to_go_on_and_loses_nothing(tmp_path):
    """A slow agent, a signal in the middle, then the same command again: no episode is missing or there twice."""
    (tmp_path / "slow.py").write_text(
        "import time\ndef agent(text: str) -> str:\n    time.sleep(0.02)\n    return 'x'\n"
    )
    argv = [sys.executable, "-m", "dream_envs.cli", "rollout", GAME, "--seats", "solver=slow:agent", "--width", "2"]
    argv += ["--episodes", "60", "--out", "r", "--json"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    file = tmp_path / "r" / "episodes.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not file.exists() or file.read_bytes().count(b"\n") < 4):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err.count("\n") == 1 and "the same command" in err
    before = file.read_bytes().count(b"\n")
    assert 4 <= before < 60
    again = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["new"] == 60 - before
    assert sorted(e.index for e in read_episodes(file)) == list(range(60))


def test_check_says_what_failed(verb, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dream_envs.tasks.composition import Composition\n"
        "from dream_envs.core import Score\n"
        "class Lenient(Composition):\n"
        "    def verify(self, task, reply):\n"
        "        return Score(float(task.answer in reply))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    status, out, err = verb("check", "mine:Lenient", "--json")
    assert status == 1 and err == ""
    found = json.loads(out)
    assert not found["ok"]
    assert "strict" in {c["name"] for c in found["checks"] if c["status"] == "failed"}
    status, out, _ = verb("check", "mine:Lenient")
    assert status == 1 and "FAIL strict" in out


def test_check_only(verb_json):
    found = verb_json("check", GAME, "--only", "plays", "--only", "pickling", "--set", "solvers=2")
    assert [c["name"] for c in found["checks"]] == ["plays", "pickling"] and found["ok"]


def test_new_never_overwrites(verb_json, verb, tmp_path):
    made = verb_json("new", "reward", "TwoWords")
    assert (made["name"], made["out"]) == ("two_words", "two_words")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    status, _, err = verb("new", "reward", "two_words")
    assert status == 2 and "--out" in err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert not [p for p, text in before.items() if b"{{" in text or b"}}" in text]


def test_doctor(verb_json, verb_text):
    found = verb_json("doctor")
    status = {f["name"]: f["status"] for f in found["findings"]}
    assert found["ok"] and status["python"] == status["numpy"] == status["dream_envs.agents"] == "ok"
    assert "dream_envs.baselines" in verb_text("doctor")


def test_doctor_sees_a_link_that_became_a_text_file(verb_json, verb, monkeypatch, tmp_path):
    """What git leaves where links are not allowed; nothing of the real checkout is touched."""
    (tmp_path / "agents").write_text("../agents")
    (tmp_path / "baselines").mkdir()
    real = importlib.util.find_spec
    monkeypatch.setattr(dream_envs, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name.startswith("dream_envs.agents") else real(name, *a)
    )
    status, out, _ = verb("doctor", "--json")
    broken = {f["name"]: f["detail"] for f in json.loads(out)["findings"] if f["status"] == "broken"}
    assert status == 1 and list(broken) == ["dream_envs.agents"] and "core.symlinks" in broken["dream_envs.agents"]


def test_nano_builds_a_base(verb_json, tmp_path):
    pytest.importorskip("transformers")
    made = verb_json("nano", "compose", "--steps", "2", "--out", "base")
    assert made["out"] == "base" and (tmp_path / "base" / "model.safetensors").is_file()
    episode = verb_json("play", GAME, "--seats", "solver='local(model=base)'".replace("'", ""), "--set", "solvers=1")
    assert episode["turns"][1]["agent"] == "solver_0"


def test_no_colour_when_asked_and_colour_in_a_terminal(monkeypatch):
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert clean(style("x", "1", terminal)) == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert style("x", "1", terminal) == "x"


def test_progress_says_how_long_it_takes_after_its_first_steps(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Progress() as tick:
        for step in range(6):
            tick("training", 10 + step, 100)  # resumed at 10: only what is measured here counts
            clock[0] += 4.0
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if "about" in line]
    assert len(told) == 1 and "training: about 6 minutes on" in told[0] and told[0].endswith("by its first 3 steps")
    assert "training 14/100  0:16, 5:44 left" in lines
    with progress.Progress(quiet=True) as tick:
        tick("training", 1, 100)
    assert capsys.readouterr().err == ""
