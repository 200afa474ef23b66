"""Somebody else's package, installed outside the repository, is an equal of ours in every verb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
Verb = Callable[..., subprocess.CompletedProcess[str]]


def install(target: Path, *sources: Path) -> None:
    """pip install, without an index: what is needed is here already."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), *map(str, sources)], check=True, capture_output=True, text=True)


def runner(target: Path, where: Path) -> Verb:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(target), str(HERE.parent))), "NO_COLOR": "1"}
    env.pop("PYTEST_CURRENT_TEST", None)

    def run(*argv: str, code: bool = False) -> subprocess.CompletedProcess[str]:
        head = [sys.executable, "-c"] if code else [sys.executable, "-m", "dream_envs.cli"]
        return subprocess.run([*head, *argv], env=env, cwd=where, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="module")
def acme(tmp_path_factory) -> Verb:
    home = tmp_path_factory.mktemp("acme")
    shutil.copytree(HERE / "acme", home / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    install(home / "site", home / "source")
    shutil.rmtree(home / "source")  # so that nothing is found but what is installed
    return runner(home / "site", home)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_list_shows_every_row_with_its_origin(acme):
    rows = json.loads(ok(acme("list", "--json")))
    found = {(r["kind"], r["name"]) for r in rows if r["source"] == "acme-dreams 3.1"}
    names = {"envs": "acme/Auction-v0", "tasks": "acme_parity", "rewards": "acme_terse", "agents": "acme_bold"}
    assert found == {*names.items(), ("loops", "acme_loop")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acme/Auction-v0", ["Vickrey", "bidder", "-0.9", "acme/Auction-Bidder-v0"]),
        ("acme_parity", ["number of 1s", "odd", "0.5"]),
        ("acme_terse", ["each character said", "cap"]),
        ("acme_bold", ["Bids nine"]),
    ],
)
def test_info(acme, name, words):
    text = ok(acme("info", name))
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    "name", ["acme/Auction-v0", "acme_dreams.auction:Auction", "acme_parity", "acme_terse", "acme_bold"]
)
def test_check(acme, name):
    found = json.loads(ok(acme("check", name, "--json")))
    assert found["ok"] and sum(c["status"] == "passed" for c in found["checks"]) >= 3


def test_play_with_its_game_agent_and_reward(acme):
    done = acme("play", "acme/Auction-v0", "--seats", "bidder_0=acme_bold(bid=8),bidder_1=acme_bold", "--json")
    episode = json.loads(ok(done))
    assert [t["text"] for t in episode["turns"]] == ["8", "9"]
    value = episode["tasks"][0]["meta"]["values"][1]
    scores = {name: s["value"] for name, s in episode["scores"].items()}
    assert scores == {"bidder_0": 0.0, "bidder_1": pytest.approx((value - 8) / 10)}


def test_rollout_and_rescore_with_its_reward(acme, tmp_path):
    common = ("--out", str(tmp_path / "run"), "--episodes", "20", "--json")
    ok(acme("rollout", "acme/Auction-v0", "--reward", "acme_terse(cap=10)", *common))
    for cap, reproduced in ((10, 40), (4, 0)):
        other = json.loads(ok(acme("rescore", str(tmp_path / "run"), "--reward", f"acme_terse(cap={cap})", "--json")))
        assert (other["stored"], other["reproduced"]) == (40, reproduced)
    assert other["roles"]["bidder"]["mean"] == pytest.approx(0.75)  # one character of four


def test_its_family_in_our_game(acme):
    text = ok(acme("play", "ChallengerSolver-v0", "--set", "family=acme_parity", "--seats", "solver=oracle", "--json"))
    episode = json.loads(text)
    assert episode["tasks"][-1]["family"] == "acme_parity"
    assert episode["outcome"]["facts"]["solve_rate"] == 1.0


def test_gymnasium_knows_its_role(acme):
    code = (
        "import gymnasium, dream_envs\n"
        "env = gymnasium.make('acme/Auction-Bidder-v0', others={'bidder_1': 'acme_bold'})\n"
        "seen, info = env.reset(seed=1)\n"
        "print(env.step('0')[1:4], 'acme' in repr(gymnasium.spec('acme/Auction-Bidder-v0')))\n"
    )
    assert ok(acme(code, code=True)).strip() == "(0.0, True, False) True"


def test_a_broken_plugin_is_one_line_where_it_is_used(tmp_path):
    """A row whose module does not import must not spoil the others."""
    info = tmp_path / "site" / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dream_envs.agents]\nbroken = no_such_module:Thing\n")
    run = runner(tmp_path / "site", tmp_path)
    assert "broken 1.0" in ok(run("list", "agents"))
    used = run("play", "ChallengerSolver-v0", "--seats", "solver=broken")
    assert used.returncode == 2 and "Traceback" not in used.stderr and "no_such_module" in used.stderr
    assert len(used.stderr.strip().splitlines()) == 1
    examined = run("doctor", "--json")
    assert examined.returncode == 1
    broken = [f for f in json.loads(examined.stdout)["findings"] if f["status"] == "broken"]
    assert [f["name"] for f in broken] == ["agents broken"]


BROKEN = {
    "syntax": "def broken(:\n",
    "raises": "raise RuntimeError('no licence\\nhere')\n",
    "leaves": "import sys; sys.exit(0)\n",
    "unmade": "class Thing:\n    def __init__(self): raise KeyError('size')\n",
}


def test_whatever_a_plugin_does_is_one_line_in_every_verb(tmp_path):
    """Import and construction, of an agent, a reward and a game; and our short names stay ours."""
    info = tmp_path / "site" / "bad-1.0.dist-info"
    info.mkdir(parents=True)
    for name, text in BROKEN.items():
        (tmp_path / "site" / f"bad_{name}.py").write_text(text)
    rows = [
        f"[dream_envs.{kind}]\n" + "".join(f"{prefix}{n} = bad_{n}:Thing\n" for n in BROKEN)
        for kind, prefix in (("agents", ""), ("rewards", ""), ("envs", "bad/"))
    ]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join([*rows, "ChallengerSolver-v0 = bad_syntax:Thing\n"]))
    run = runner(tmp_path / "site", tmp_path)
    for name in BROKEN:
        for line in (
            ["play", "Kuhn-v0", "--seats", f"first={name}"],
            ["play", "Kuhn-v0", "--reward", name],
            ["play", f"bad/{name}"],
            ["check", f"bad/{name}"],
        ):
            done = run(*line)
            assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, (line, done.stderr)
            assert name in done.stderr and "Traceback" not in done.stderr
    assert run("play", "ChallengerSolver-v0").returncode == 0
    broken = [f["name"] for f in json.loads(run("doctor", "--json").stdout)["findings"] if f["status"] == "broken"]
    assert {"agents leaves", "rewards raises", "envs bad/syntax"} <= set(broken)


def test_what_new_writes_works_as_written(tmp_path):
    """The five kinds of package: installed, checked by the kit (a loop: run), and their own tests pass."""
    run = runner(tmp_path / "site", tmp_path)
    names = {"env": "HigherLower", "task": "letter_count", "reward": "shortness", "agent": "Parrot", "loop": "my_loop"}
    made = {kind: json.loads(ok(run("new", kind, name, "--json"))) for kind, name in names.items()}
    folders = [tmp_path / m["out"] for m in made.values()]
    install(tmp_path / "site", *folders)
    for m in made.values():
        if m["kind"] != "loop":
            assert json.loads(ok(run("check", m["name"], "--json")))["ok"]
    trained = ok(
        run("train", "my_loop", "--steps", "1", "--no-frontier", "--set", "problems=4,attempts=2,eval.problems=4")
    )
    assert "runs/my_loop/report.html" in trained and "challenger" in trained
    assert "problems=" not in ok(run("info", "my_loop")).partition("settings")[0]
    tests = [str(path) for folder in folders for path in (folder / "tests").glob("test_*.py")]
    code = f"import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *{tests!r}]))"
    assert "14 passed" in ok(run(code, code=True))
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,I,UP,B,SIM,C4", "."]
    for folder in folders:
        checked = subprocess.run(lint, capture_output=True, text=True, cwd=folder)
        assert checked.returncode == 0, checked.stdout
