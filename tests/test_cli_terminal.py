"""What a terminal, a locale, a full disk and a slip of the hand do to the verbs: one line each, and nothing is lost."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import json
import os
import resource
import sys
import unicodedata
import warnings
from types import SimpleNamespace

import msgspec
import pytest

from dream_envs import registry
from dream_envs.cli import app, common, doctor
from dream_envs.core import encode
from dream_envs.play import read_episodes
from dream_envs.report import terminal
from dream_envs.report.sections import Column

GAME = "ChallengerSolver-v0"
EVIL = "\x1b]0;PWN\x07\x1b[31m\x9b\u202e"


def one_line(err: str) -> bool:
    return err.startswith("dream-envs: ") and err.count("\n") == 1 and "Traceback" not in err


def steers(text: str) -> list[str]:
    return sorted({c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")})


# --- --out


OUTS = [
    (["report", "run", "--out", "run/episodes.jsonl"], ".html"),
    (["report", "run", "--out", "run/run.json"], ".html"),
    (["report", "run", "--out", "pipe.html"], "no regular file"),
    (["report", "run", "--out", "folder.html"], "no regular file"),
    (["view", "run", "--html", "--out", "run/metrics.jsonl"], ".html"),
    (["view", "run", "--html", "--out", "pipe.html"], "no regular file"),
    (["view", "run", "--html", "--out", "link.html"], "no regular file"),
    (["rescore", "run", "--out", "link.html"], "there already"),
    (["export", "run", "--format", "jsonl", "--out", "folder.html"], "there already"),
    (["frontier", "--trained", "run", "--out", "run"], "holds a run"),
    (["frontier", "control", "aa", "--out", "run"], "holds a run"),
    (["board", "card", "grpo", "--out", "site"], "index.html"),
    (["board", "build", "--board", "run", "--out", "site"], "something else"),
    (["nano", "compose", "--steps", "1", "--out", "site"], "something else"),
]


@pytest.mark.parametrize(("argv", "word"), OUTS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_no_slip_of_out_overwrites_anything(verb, tmp_path, argv, word):
    if argv[:2] == ["board", "build"]:
        pytest.importorskip("torch")
    for name in ("run/episodes.jsonl", "run/run.json", "run/metrics.jsonl", "folder.html/turns.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "link.html").symlink_to("nowhere")
    before = {p: (p.lstat().st_mode, p.is_file() and p.read_bytes()) for p in tmp_path.rglob("*")}
    status, out, err = verb(*argv)
    assert (status, out) == (2, "") and one_line(err) and word in err, err
    assert {p: (p.lstat().st_mode, p.is_file() and p.read_bytes()) for p in tmp_path.rglob("*")} == before


# --- control characters


@pytest.fixture
def hostile(verb_text, tmp_path):
    """A run folder whose every text is hostile."""
    verb_text("rollout", GAME, "--seats", "solver=oracle", "--episodes", 2, "--out", "run")
    file, row = tmp_path / "run" / "episodes.jsonl", {"step": 0, f"reward/{EVIL}/mean": 1.0, "alarms": [EVIL]}
    bad = [msgspec.structs.replace(e, env_id=EVIL, seed=EVIL, grader=EVIL) for e in read_episodes(file)]
    file.write_bytes(b"".join(encode(e) + b"\n" for e in bad))
    (tmp_path / "run" / "run.json").write_text(json.dumps({"config": {}, "loop": EVIL, f"k{EVIL}": EVIL}))
    (tmp_path / "run" / "metrics.jsonl").write_bytes(encode(row) + b"\n")
    (tmp_path / "steering.py").write_text(
        f"def reward(e):\n    raise RuntimeError({EVIL!r})\nclass Game:\n    def __init__(self):\n        reward(0)\n"
    )
    return tmp_path / "run"


HOSTILE = [
    *[["info", "run"], ["view", "run"], ["rescore", "run", "--reward", "format"], ["report", "run"]],
    *[["info", "run", "--json"], ["view", "run", "--json"], ["rescore", "run", "--reward", "format", "--json"]],
    *[["info", f"no{EVIL}"], ["play", f"no{EVIL}"], [f"no{EVIL}"], ["check", f"no{EVIL}"], ["view", f"no{EVIL}"]],
    *[["play", GAME, word, f"x{EVIL}=y"] for word in ("--seats", "--set", "--reward")],
    *[["rescore", "run"], ["view", "run", "--role", EVIL], ["train", EVIL], ["report", f"no{EVIL}"]],
    *[
        ["play", "Kuhn-v0", "--reward", "steering:reward"],
        ["rollout", "Kuhn-v0", "--episodes", "1", "--out", f"n{EVIL}"],
    ],
]


@pytest.mark.parametrize("argv", HOSTILE, ids=lambda v: ascii(" ".join(v))[:60])
def test_nothing_that_is_said_can_steer_the_terminal(verb, hostile, monkeypatch, tmp_path, argv):
    monkeypatch.syspath_prepend(str(tmp_path))
    with warnings.catch_warnings(record=True):
        _, out, err = verb(*argv)
    assert out + err and not steers(out + err), ascii(out + err)
    if "--json" in argv:
        assert json.dumps(EVIL)[1:-1] in json.dumps(json.loads(out.splitlines()[0]))


def test_warnings_tracebacks_and_plugins_cannot_steer_it_either(verb, capsys, monkeypatch):
    def broken(group):
        point = SimpleNamespace(name=f"p{EVIL}\x85", value=EVIL, dist=None)
        return [point] if group == "dream_envs.tasks" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", broken)
    monkeypatch.setattr(registry, "load", lambda kind, name: sys.exit(EVIL))  # SystemExit of a plug-in as well
    status, out, _ = verb("doctor")
    assert status == 1 and "PWN" in out and not steers(out)
    assert not steers(warnings.formatwarning(UserWarning(EVIL), UserWarning, "f.py", 1))
    app._in_full(RuntimeError, RuntimeError(EVIL), None)
    assert "PWN" in (err := capsys.readouterr().err) and not steers(err)


def test_colours_are_ours_alone(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    said = common.clean(common.style(f"a{EVIL}", common.BOLD, SimpleNamespace(isatty=lambda: True)) + EVIL)
    assert said.startswith("\x1b[1ma\\x1b]0;PWN\\x07") and said.count("\x1b") == 2 and "\x1b[0m" in said


# --- locale


LOCALES = [
    ["play", "dream_envs/Kuhn-v0"], ["view", "run"], ["view", "run", "--json"], ["rescore", "run", "--json"],
    ["info", "run"], ["rescore", "run", "--reward", "format"], ["info", "composition"], ["play", "日本"],
]  # fmt: skip


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("argv", LOCALES, ids=lambda v: ascii(" ".join(v)))
def test_a_poor_locale_is_in_nobodys_way(hostile, monkeypatch, argv, encoding):
    file = hostile / "episodes.jsonl"
    rows = [msgspec.structs.replace(e, env_id=f"dream_envs/{GAME}", seed="日本→é") for e in read_episodes(file)]
    file.write_bytes(b"".join(encode(e) + b"\n" for e in rows))
    (hostile / "run.json").write_text(json.dumps({"config": {}, "loop": "日本→é"}), "utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in "oe")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert app.main(argv) == (2 if "日本" in argv else 0)
    text = out.buffer.getvalue().decode("utf-8" if "--json" in argv else encoding)
    assert "--json" not in argv or json.loads(text.splitlines()[0]) is not None
    assert argv[:2] != ["view", "run"] or ("日本→é" if "--json" in argv else "\\u65e5") in text


# --- no room, nobody there


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", ["play Kuhn-v0", "list", "view run", "info run --json", "rescore run", "--help"])
def test_a_full_stdout_is_one_line(verb, played_run, monkeypatch, words):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        status, _, err = verb(*words.split())
        assert status == 2 and one_line(err) and os.strerror(errno.ENOSPC) in err


FULL = {
    "rollout Kuhn-v0 --episodes 200 --out new": "new", "rescore run --out again.jsonl": "again.jsonl",
    "view run --html": "run/transcripts.html", "report run --out p/page.html": "p/page.html",
    "export run --format jsonl": "run/export/turns.jsonl",
}  # fmt: skip


@pytest.mark.parametrize("words", FULL)
def test_a_file_without_room_is_named_and_its_half_is_gone(verb, played_run, tmp_path, words):
    if words.startswith("report"):
        pytest.importorskip("matplotlib")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        status, _, err = verb(*words.split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2 and one_line(err) and f"{FULL[words]}: {os.strerror(errno.EFBIG)}" in err
    left = {p.name for p in tmp_path.rglob("*") if p.is_file() and "new" not in p.parts}
    assert left <= {"run.json", "episodes.jsonl", "metrics.jsonl", "lock"}


def test_closed_streams(verb, verb_text, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    status, _, err = verb("play", GAME, "--human", "solver_0")
    assert status == 2 and "the input ended" in err
    monkeypatch.setattr(sys, "stderr", None)
    assert verb("list", "env")[0] == 2 and verb("list", "tasks")[0] == 0
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", None)
    status, _, err = verb("list")
    assert status == 2 and one_line(err) and "stdout is closed" in err


def test_numbers_without_an_end(verb, verb_text, played_run):
    many = "9" * 30
    assert len(verb_text("view", played_run, "--limit", many, "--index", f"0-{many}", "--json").splitlines()) == 20
    for argv in (
        ["view", played_run, "--index", "9" * 5000], ["train", "dream", "--levels", f"1-{many}"],
        ["serve", "nano/compose", "--port", "99999"], ["board", "serve", "--port", "99999"],
    ):  # fmt: skip
        status, _, err = verb(*argv)
        assert status == 2 and one_line(err) and len(err) < 400, err


# --- versions, names


@pytest.mark.parametrize(
    ("version", "requirement", "fits"),
    [
        *[("1.0.0", "gymnasium>=1.1", False), ("1.1.0", "gymnasium>=1.1", True), ("1.1", "a>=1.1.0", True)],
        *[("1.10", "a>=1.9", True), ("2.6.0+cpu", "torch>=2.6", True), ("1.16.3", "trl==1.16.*", True)],
        *[
            ("1.17.0", "trl==1.16.*", False),
            ("0.1.25", "a==0.1.25", True),
            ("5.20", "a>=5,<5.20", False),
            ("3", "a", True),
        ],
    ],
)
def test_bounds(version, requirement, fits):
    assert doctor._fits(version, requirement) is fits


def test_doctor_compares_what_is_installed_with_the_bounds(verb, monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["numpy>=1", "gymnasium>=99", 'pytest>=99; extra == "dev"']
    )
    status, out, _ = verb("doctor", "--json")
    told = {f["name"]: (f["status"], f["detail"]) for f in json.loads(out)["findings"]}
    assert status == 1 and told["numpy"][0] == "ok" and told["extra dev"][0] == "missing"
    assert told["core"][0] == "broken" and "(needs gymnasium>=99)" in told["core"][1] and "gymnasium" not in told


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_cut_stay_different(encoding):
    names = [f"composition/depth-{i}" for i in range(8)] + ["composition/pairs", "plain", "\x1b[31m"]
    columns, rows = [Column("family", words=True), Column("n")], [[name, "12,345"] for name in names]
    for width in (16, 20, 24, 80):
        file = io.TextIOWrapper(io.BytesIO(), encoding)
        from rich.console import Console

        Console(file=file, width=width).print(terminal.table(columns, rows, width, encoding=encoding))
        file.flush()
        lines = [line.split() for line in file.buffer.getvalue().decode(encoding).splitlines()[1:]]
        assert len({first for first, _ in lines}) == len(names) and {n for _, n in lines} == {"12,345"}


def test_the_first_play_earns_a_reward_and_says_who_played(verb_text, verb_json):
    text = verb_text("play", GAME)
    assert "solver_0: 1" in text and "challenger_0: 0.75" in text and "dream-envs info composition" in text
    seats = text.partition("--seats '")[2].partition("'")[0]
    told, again = verb_json("play", GAME), verb_json("play", GAME, "--seats", seats)
    assert told["tasks"][-1]["level"] <= 3 and told["scores"] == again["scores"]
    assert [turn["text"] for turn in told["turns"]] == [turn["text"] for turn in again["turns"]]
    other = verb_json("play", GAME, "--seats", "solver=guesser", "--set", "level=9")
    assert other["tasks"][-1]["level"] == 9 and other["scores"]["solver_0"]["value"] == 0.0
