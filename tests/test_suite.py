"""Whatever can be registered can be trained: every environment under every learner, and a stranger's package as ours.

``debate/`` is somebody's package (three roles, zero-sum, no challenger); nothing of the suite knows it.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")

from _children import child, ended
from test_plugins import HERE, install

from dream_envs import cli

LEARNERS = ("grpo", "ppo", "rloo", "rae", "expert")
TINY = ["--set", "eval.problems=2,eval.attempts=1,eval.games=4,episodes=8,copies=4", "--no-frontier", "--json"]
#: Name: what is said on the command line, and the roles that learn.
ENVIRONMENTS = {
    **{
        f"ChallengerSolver {family}": (["--env", "ChallengerSolver-v0", "--family", family], {"challenger", "solver"})
        for family in ("composition", "arithmetic", "reverse_addition", "countdown")
    },
    "ChallengerSolver panel": (
        ["--env", "ChallengerSolver-v0", "--model", "nano/judge", "--set", "game.judge=rubric"],
        {"challenger", "solver", "judge"},
    ),
    "SelfJudge": (["--env", "SelfJudge-v0", "--model", "nano/judge", "--set", "game.actors=2"], {"actor", "judge"}),
    "SleepCycle": (
        ["--env", "SleepCycle-v0", "--model", "nano/context", "--set", "game.nights=1,game.wakes=1"],
        {"learner", "dreamer"},
    ),
    "debate": (["--env", "debate/Debate-v0", "--model", "nano/judge"], {"opener", "replier", "judge"}),
    "Kuhn": (["--env", "Kuhn-v0", "--model", "nano/kuhn"], {"first", "second"}),
    "Discovery": (
        ["--env", "Discovery-v0", "--model", "nano/context", "--set", "game.practices=1"],
        {"scientist", "challenger", "learner", "judge", "dreamer"},
    ),
    "Dreaming": (
        ["--env", "Dreaming-v0", "--set", "game.dream_tokens=16,game.reply_tokens=8"],
        {"dreamer", "responder"},
    ),
}


def said(lines: list[list[str]]) -> None:
    for argv in lines:
        assert cli.main(argv) == 0, argv


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Both packages, installed where nothing of their sources is left."""
    home = tmp_path_factory.mktemp("site")
    for name in ("acme", "debate"):
        shutil.copytree(HERE / name, home / name, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    install(home / "site", home / "acme", home / "debate")
    return home / "site"


def verbs(site: Path, where: Path, *lines: list[str]) -> list[dict]:
    """Verbs of the command line in one child process; the JSON of each, all of which have to succeed."""
    argvs = [list(map(str, line)) for line in lines]
    out = ended(said, argvs, out=where / "said", where=where, path=str(site))
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_under_every_learner(site, tmp_path, name):
    words, learns = ENVIRONMENTS[name]
    lines = [
        ["train", "self_play", *words, "--learner", learner, "--steps", 1, "--out", tmp_path / learner, *TINY]
        for learner in LEARNERS
    ]
    for learner, found in zip(LEARNERS, verbs(site, tmp_path, *lines), strict=True):
        summary, row = found["run"], rows(tmp_path / learner)[0]
        assert summary["run"]["learner"] == learner
        assert {role["name"] for role in summary["roles"] if role["learns"]} == learns
        kinds = {"debate": "play", "Kuhn": "play", "Dreaming": "play", "SleepCycle": "play", "SelfJudge": "exact"}
        kinds["Discovery"] = "play"
        kind = "exact" if name.endswith(("composition", "panel")) else kinds.get(name, "sampled")
        assert summary["evaluation"]["kind"] == kind
        assert all(f"status/{role}/" in " ".join(row) for role in learns)
        assert all(f"groups/{role}" in row for role in learns)
        assert (tmp_path / learner / "report.html").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["grpo", "ppo", "rloo", "rae"])
def test_a_strangers_game_is_trained_in_every_role(site, tmp_path, learner):
    words, learns = ENVIRONMENTS["debate"]
    out = tmp_path / "run"
    settings = ["--set", "episodes=64,eval.games=32", "--no-frontier", "--json"]
    (found,) = verbs(
        site, tmp_path, ["train", "self_play", *words, "--learner", learner, "--steps", 3, "--out", out, *settings]
    )
    summary = found["run"]
    assert summary["run"]["trained_hash"] != summary["run"]["weights_hash"]
    newest = rows(out)[-1]
    assert all(newest[f"groups/{role}"] > 0 for role in learns) and newest["train/grad_norm"] > 0
    measures = {(m["role"], m["name"]): m for m in summary["evaluation"]["measures"]}
    for role in learns:
        rate = measures[role, "win rate"]["trained"]
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    page = (out / "report.html").read_text()
    told, heading, _ = page.partition("Settings")
    assert heading and all(role in told for role in learns)
    assert "solver" not in told and "challenger" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["debate", "Kuhn"])
def test_a_kill_changes_nothing(site, tmp_path, name):
    """SIGKILL behind the first checkpoint; the same command with --resume ends in the same weights."""

    def line(out: str) -> list[str]:
        words = ["--learner", "rae", "--steps", 6, "--set", "learner.save_every=2,episodes=32,eval.games=4"]
        return [
            "train",
            "self_play",
            *ENVIRONMENTS[name][0],
            *words,
            "--no-frontier",
            "--json",
            "--resume",
            "--out",
            out,
        ]

    (whole,) = verbs(site, tmp_path, line("whole"))
    argvs = [list(map(str, line("killed")))]
    process = child(said, argvs, out=tmp_path / "said", where=tmp_path, path=str(site))
    until = time.monotonic() + 300
    while not list((tmp_path / "killed" / "checkpoints").glob("checkpoint-*/state.json")):
        assert process.is_alive() and time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (tmp_path / "killed" / "summary.json").exists()
    (again,) = verbs(site, tmp_path, line("killed"))
    assert again["run"]["run"]["trained_hash"] == whole["run"]["run"]["trained_hash"]
    episodes = [(tmp_path / run / "episodes.jsonl").read_text().splitlines() for run in ("whole", "killed")]
    assert [json.loads(x)["index"] for x in episodes[0]] == [json.loads(x)["index"] for x in episodes[1]]
    assert [r["step"] for r in rows(tmp_path / "killed")] == list(range(6))
    state = json.loads((tmp_path / "whole" / "checkpoints" / "checkpoint-6" / "state.json").read_text())
    assert state["rows"][0]["parts"][0]  # the running means of the roles


@pytest.mark.slow
def test_a_loop_a_reward_a_family_an_environment_and_an_agent_of_strangers_in_one_run(site, tmp_path):
    words = [
        "--family",
        "acme_parity",
        "--seats",
        "judge=acme_bold(bid=1)",
        "--reward",
        "opener=0.5*acme_terse(cap=20)",
    ]
    words += ["--learner", "rae", "--set", "eval.games=4,episodes=8", "--no-frontier", "--json", "--out", "run"]
    (found,) = verbs(site, tmp_path, ["train", "acme_loop", *words])
    summary = found["run"]
    assert summary["run"]["loop"] == "acme_loop" and summary["run"]["family"] == "acme_parity"
    assert {r["name"] for r in summary["roles"] if r["learns"]} == {"opener", "replier"}
    episodes = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert {e["tasks"][0]["family"] for e in episodes} == {"acme_parity"}
    assert {t["text"] for e in episodes for t in e["turns"] if t["role"] == "judge"} == {"1"}
    said = {e["index"]: {t["role"]: len(t["text"]) for t in e["turns"]} for e in episodes}
    for episode in episodes:
        opener, replier = (episode["scores"][f"{role}_0"]["value"] for role in ("opener", "replier"))
        assert opener == pytest.approx(0.5 * max(0.0, 1 - said[episode["index"]]["opener"] / 20))
        assert replier == pytest.approx(max(0.0, 1 - said[episode["index"]]["replier"] / 10))
