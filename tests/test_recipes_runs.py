"""Loops as they are run: kills in a second phase, every learner, families, rewards by role, and the whole verb."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl")

from _children import child
from _recipes import PAPERS, SMALL, base_hash, hashes, options, walked
from _tiny import metrics, texts

from dream_envs import cli, registry
from dream_envs.baselines import loop
from dream_envs.baselines.frontier import job as frontier
from dream_envs.curriculum.store import read_challenges
from dream_envs.frontier import suite as suites
from dream_envs.play import read_episodes
from dream_envs.schema import read_summary


def told_steps(out: Path, given: dict[str, Any]) -> None:
    walked(options(**given), out, lambda what, step, *_: print(step, flush=True), save_every=1)


def killed(out: Path, given: dict[str, Any], at: int) -> int | None:
    """Run in a process of its own and SIGKILL it inside step ``at``; its exit status."""
    steps = out.with_name("steps")
    process = child(told_steps, out, given, out=steps)
    while process.is_alive() and not (steps.exists() and str(at) in steps.read_text().split()):
        time.sleep(0.005)
    time.sleep(0.05)
    process.kill()
    process.join(60)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize(("given", "at"), [
    ({"name": "r_zero", "steps": 5, "set": {"challenger_steps": 2, "solver_steps": 2}}, 3),  # second phase's second
    ({"name": "serl", "steps": 4}, 2),
], ids=["r_zero", "serl"])  # fmt: skip
def test_sigkill_in_the_middle_of_a_phase_changes_nothing(given: dict[str, Any], at: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = walked(options(**given), whole, save_every=1)
    assert killed(broken, given, at) == -signal.SIGKILL
    met: list[int] = []
    found = walked(options(**given), broken, lambda what, step, *_: met.append(step), save_every=1)
    assert met and met[0] in (at, at + 1) and met[-1] == given["steps"] - 1  # gone on from there, not begun anew
    assert hashes(found) == hashes(expected) and texts(broken) == texts(whole)
    assert (broken / "challenges.jsonl").read_bytes() == (whole / "challenges.jsonl").read_bytes()
    assert [row["step"] for row in metrics(broken)] == [row["step"] for row in metrics(whole)]


#: Learners in loops of every kind: one phase and several, two roles, judges, problems of a list.
PAIRS = (("azr", "ppo"), ("r_zero", "ppo"), ("r_zero", "expert"), ("ttrl", "rloo"), ("serl", "ppo"), ("serl", "rae"),
         ("serl_limited", "expert"), ("self_rewarding", "rloo"))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "learner"), PAIRS)
def test_every_learner_that_is_not_refused_moves_the_weights(name: str, learner: str, tmp_path: Path) -> None:
    ctx = walked(options(name, steps=3, learner=learner), tmp_path)
    assert ctx.recipe.learner == learner and base_hash(ctx) not in hashes(ctx).values()
    if learner == "ppo":
        assert any("value/loss" in key for row in metrics(tmp_path) for key in row)


@pytest.mark.slow
def test_samples_of_every_phase_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All turns that were played, and what the solver's two phases drew before they began."""
    drawn, count = list[int](), loop.Context.count
    monkeypatch.setattr(loop.Context, "count", lambda c, **n: (drawn.append(sum(n.values())), count(c, **n))[1])
    walked(options("r_zero", steps=4), tmp_path)
    episodes = list(read_episodes(tmp_path / "episodes.jsonl"))
    played = sum(t.role == "solver" or e.round % 2 == 0 for e in episodes for t in e.turns)  # others are of the list
    assert len(drawn) == 2 and metrics(tmp_path)[-1]["samples"] == played + sum(drawn)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spiral", "self_play", "azr"])
def test_a_loop_runs_to_its_summary_and_page(name: str, tmp_path: Path) -> None:
    found = loop.conduct(options(name), tmp_path, quiet=True)
    assert read_summary(tmp_path) == found and (tmp_path / "report.html").is_file()
    assert found.samples["total"] == sum(v for k, v in found.samples.items() if k != "total") > 0
    assert found.run.trained_hash != found.run.weights_hash and found.evaluation is not None
    assert found.evaluation.kind == ("play" if name == "spiral" else "exact")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["arithmetic", "countdown", "reverse_addition"])
def test_other_families_train_and_are_measured_by_sampling(family: str, tmp_path: Path) -> None:
    words = f"self_play --family {family} --steps 1 --set eval.problems=2 --set eval.attempts=1 --set episodes=4"
    assert cli.main(["train", *words.split(), "--set", "copies=2", "--out", str(tmp_path), "--quiet"]) == 0
    found = read_summary(tmp_path)
    assert found is not None and found.run.family == family and found.evaluation is not None
    assert found.evaluation.kind == "sampled" and all(level.n == 2 for level in found.evaluation.levels)


def test_a_reward_over_the_command_line_is_one_roles(tmp_path: Path) -> None:
    """The solver's alone: the challenger earns what it did."""
    plain, other = options("azr", steps=1), options("azr", steps=1, reward={"solver": "0.5*correctness"})
    scores = []
    for name, chosen in (("plain", plain), ("other", other)):
        walked(chosen, tmp_path / name)
        scores.append([e.scores for e in read_episodes(tmp_path / name / "episodes.jsonl")])
    for before, after in zip(*scores, strict=True):
        for agent, score in after.items():
            same = (score.status, score.value) == (before[agent].status, before[agent].value)
            assert same if agent.startswith("challenger") else score.value in (0.0, 0.5)
    told = json.loads((tmp_path / "other" / "run.json").read_text())
    assert told["reward"]["solver"] == "0.5*correctness" and told["reward"]["challenger"]


def verb(words: list[str]) -> None:
    sys.exit(cli.main(words))


def interruptible(words: list[str]) -> None:
    """The verb, where SIGINT is what it is on a terminal: a shell's background jobs begin with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    verb(words)


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    """SIGINT after the first steps: a checkpoint, one line, status 130; without --resume one line, with it the end."""
    words = ["train", "azr", "--steps", "40", "--out", str(tmp_path / "run"), "--no-frontier"]
    words += [f"--set={k}={v}" for k, v in {**SMALL["azr"], "eval.problems": 4}.items()]
    process = child(interruptible, words, out=tmp_path / "told")
    rows = tmp_path / "run" / "metrics.jsonl"
    while process.is_alive() and not (rows.exists() and rows.stat().st_size):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(120)
    told = (tmp_path / "told.err").read_text()
    assert process.exitcode == 130 and "--resume" in told.strip().splitlines()[-1]
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*/state.json"))
    assert cli.main(words) == 2
    assert cli.main([*words, "--resume", "--quiet"]) == 0
    assert [row["step"] for row in metrics(tmp_path / "run")] == list(range(40))


def small_suite() -> suites.Suite:
    """Three strata of the nano suite, two problems each."""
    whole = suites.nano()
    chosen = tuple(s for s in whole.strata if s.name in ("d3", "d4", "d5"))
    return msgspec.structs.replace(whole, name="recipes-small", strata=chosen, mini=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serl", "serl_limited"])
def test_the_verb_ends_in_a_frontier_report_on_problems_that_were_not_practised(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert name in PAPERS
    if "recipes-small" not in registry.rows("suites"):
        registry.register("suites", "recipes-small", small_suite)
    plain = frontier.Options
    monkeypatch.setattr(frontier, "Options", lambda **more: plain(**{**more, "suite": "recipes-small"}))
    monkeypatch.setenv("DREAM_ENVS_CACHE", str(tmp_path / "cache"))
    out, settings = tmp_path / "run", [f"--set={k}={v}" for k, v in {**SMALL[name], "eval.problems": 4}.items()]
    assert cli.main(["train", name, "--steps", "2", "--out", str(out), "--json", *settings]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"]["run"]["loop"] == name and told["frontier"]["verdict"]["word"]
    assert (out / "report.html").is_file() and (out / "frontier" / "report.html").is_file()
    practised = {c.id for c in read_challenges(out / "challenges.jsonl")}
    asked: set[str] = {str(p["id"]) for p in told["frontier"]["problems"] if isinstance(p, dict) and "id" in p}
    assert practised and not practised & asked
