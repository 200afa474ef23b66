"""The flagship from end to end: what it writes, that it repeats itself, that a kill changes nothing, every arm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _tiny import texts
from dream_envs.baselines.loops.arms import ARMS

from dream_envs.baselines.eval_set import Yardstick
from dream_envs.baselines.loops.dream import Settings, dream, train
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.store import read_challenges
from dream_envs.play import read_episodes
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

DECODERS = {"T=1", "best_T", "forced", "given"}
STEPS = 6


def small(out: Path, **settings: Any) -> dict[str, Any]:
    """A run of two steps and a short yardstick, in this process, on one thread."""
    torch.set_num_threads(1)
    chosen = Settings(**{"steps": 2, "attempts": 4, "per_depth": 4, **settings})
    return train(chosen, out, tick=lambda step, found: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The command itself, for three steps."""
    out = tmp_path_factory.mktemp("dream") / "run"
    return out, dream(out, steps=3, threads=1, quiet=True, json=True)


# ------------------------------------------------------------------------------------------------------ what it writes


@pytest.mark.slow
def test_a_run_leaves_everything_that_was_promised(whole: tuple[Path, dict[str, Any]]) -> None:
    out, found = whole
    for name in ("run.json", "episodes.jsonl", "challenges.jsonl", "metrics.jsonl", "frontier.json", "report.html"):
        assert (out / name).stat().st_size > 100, name
    assert list((out / "metrics").glob("events.*")) and (out / "checkpoints" / "final" / "model.safetensors").exists()
    assert found == json.loads((out / "frontier.json").read_text())
    run = json.loads((out / "run.json").read_text())
    assert (run["command"], run["arm"], run["learner"], run["seed"], run["steps"]) == ("dream", "sleep", "grpo", "0", 3)
    assert run["versions"]["torch"] and run["weights_hash"] == found["run"]["weights_hash"]
    assert run["rule"]["rows"]["rows"] > 0 and run["rule"]["lr"] > 0  # what it learnt by can be read off the folder
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2] and rows[-1]["samples"] == found["samples"]["total"]
    assert set(rows[0]["exact"]) == {str(d) for d in range(1, 11)}
    assert {"valid", "band", "depth", "solved", "label_accuracy", "groups", "loss", "lr", "seconds"} <= set(rows[0])
    assert rows[0]["label_accuracy"] == 1.0  # the verifier's reward is the truth


def check_decoder(numbers: Mapping[str, Any]) -> None:
    low, high = numbers["ci"]
    assert 0 <= low <= numbers["mean"] <= high <= 1 + 1e-9 and 0 <= numbers["solved"] <= 1
    assert numbers["mean"] <= numbers["max"] + 1e-12 and numbers["median_log10"] <= 1e-9


@pytest.mark.slow
def test_the_frontier_keeps_its_schema(whole: tuple[Path, dict[str, Any]]) -> None:
    """Keys, ranges, and that the tables agree with each other."""
    _, found = whole
    assert {
        "schema", "run", "samples", "problems_per_depth", "decoders", "depths", "beyond", "pass_at_k", "entropy",
        "verdict",
    } <= set(found) and found["schema"] == 1  # fmt: skip
    run = {"arm", "learner", "seed", "steps", "seconds", "base", "weights_hash", "trained_hash", "support"}
    assert run <= set(found["run"])
    samples, n = found["samples"], found["problems_per_depth"]
    assert samples["total"] == samples["solver"] + samples["challenger"] > 0
    assert set(found["decoders"]) == DECODERS
    assert [d["depth"] for d in found["depths"] if d["split"] == "any"] == list(range(1, 11))
    for row in found["depths"]:
        assert row["n"] == n and row["chance"] == pytest.approx(16.0 ** -row["depth"])
        assert sum(row["tiers"].values()) == n and set(row["moved"]) == {"T0", "T1", "T2"}
        assert all((row["moved"][t] is None) == (row["tiers"][t] == 0) for t in row["tiers"])
        for who in ("base", "trained"):
            assert set(row[who]) == DECODERS
            for decoder in DECODERS:
                check_decoder(row[who][decoder])
            means = [row[who][d]["mean"] for d in ("T=1", "best_T", "forced", "given")]
            assert means == sorted(means)  # every help helps
    base = {d["depth"]: d["base"]["T=1"]["mean"] for d in found["depths"] if d["split"] == "any"}
    assert base[1] > 0.8 and base[3] > 0.5 and base[8] < 0.01  # its support, and far outside of it
    ks, curves = found["pass_at_k"]["k"], found["pass_at_k"]["depths"]
    for depth, curve in curves.items():
        assert len(curve["base"]) == len(ks) and curve["base"] == sorted(curve["base"])
        assert curve["base"][0] == pytest.approx(base[int(depth)], rel=1e-6)
    beyond = found["beyond"]
    assert 0 <= beyond["structural"] <= beyond["count"] <= sum(d["tiers"]["T2"] for d in found["depths"])
    assert beyond["of"] == n * len(found["depths"])


# ------------------------------------------------------------------------------------------------------------- repeats


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path: Path) -> None:
    one, again = (small(tmp_path / name) for name in ("one", "again"))
    assert one["run"]["trained_hash"] == again["run"]["trained_hash"] != one["run"]["weights_hash"]
    assert texts(tmp_path / "one") == texts(tmp_path / "again")
    assert {**one, "run": None} == {**again, "run": None}
    files = [(tmp_path / name / "challenges.jsonl").read_bytes() for name in ("one", "again")]
    assert files[0] == files[1]
    other = small(tmp_path / "other", seed="1")
    assert other["run"]["trained_hash"] != one["run"]["trained_hash"]
    said, heard = ([t for _, t in texts(tmp_path / name)] for name in ("one", "other"))
    assert sum(a == b for a, b in zip(said, heard, strict=False)) < len(said) / 4
    assert [r["base"] for r in one["depths"]] == [r["base"] for r in other["depths"]]  # one yardstick for all


CHILD = """
import sys, torch
from pathlib import Path
from dream_envs.baselines.loops.dream import Settings, train
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True, warn_only=True)
train(Settings(steps=int(sys.argv[2]), attempts=4, per_depth=4), Path(sys.argv[1]), tick=lambda *_: None, save_every=2)
"""


def child(out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out), str(STEPS)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    """Three kills, each a random while after a step was written: before, between and after checkpoints."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = child(whole)
    assert first.wait(600) == 0, first.stderr and first.stderr.read()[-2000:]
    rng, kills = stream("kills", time.time_ns()), 0
    for wanted in (1, 3, 5):
        process = child(killed)
        while lines(killed / "metrics.jsonl") < wanted and process.poll() is None:
            time.sleep(0.02)
        time.sleep(float(rng.random()) * 0.7)
        if process.poll() is None:
            kills += 1
            process.send_signal(signal.SIGKILL)
        process.wait()
    last = child(killed)
    assert last.wait(600) == 0, last.stderr and last.stderr.read()[-2000:]
    found, expected = (json.loads((p / "frontier.json").read_text()) for p in (killed, whole))
    assert kills > 0 and found["run"]["trained_hash"] == expected["run"]["trained_hash"]
    assert texts(killed) == texts(whole) and found["samples"] == expected["samples"]
    assert lines(killed / "metrics.jsonl") == STEPS
    assert (killed / "challenges.jsonl").read_bytes() == (whole / "challenges.jsonl").read_bytes()
    assert {**found, "run": 0} == {**expected, "run": 0}


@pytest.mark.slow
def test_a_finished_folder_only_reports_and_refuses_other_settings(whole: tuple[Path, dict[str, Any]]) -> None:
    out, found = whole
    before = (out / "episodes.jsonl").read_bytes()
    assert dream(out, steps=3, threads=1, quiet=True, json=True) == found
    for other in ({"seed": "9"}, {"arm": "no_mutation"}, {"steps": 4}, {"learner": "expert"}):
        with pytest.raises(DreamEnvsError) as caught:
            dream(out, **{"steps": 3, "quiet": True, "json": True, **other})  # type: ignore[arg-type]
        told = str(caught.value)
        assert "\n" not in told and next(iter(other)) in told and "--out" in told
    assert (out / "episodes.jsonl").read_bytes() == before


def test_an_unfinished_folder_asks_for_resume(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DreamEnvsError, match="--resume"):
        dream(tmp_path, steps=3, quiet=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"arm": "ful"}, "full"), ({"learner": "pop"}, "ppo"), ({"steps": 0}, "steps=0"), ({"steps": -1}, "steps=-1"),
        ({"base": "nano/compos"}, "nano/compose"), ({"base": "/no/such/model"}, "/no/such/model"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_folder(wrong: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        dream(tmp_path / "run", quiet=True, **wrong)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------------- arms


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_every_arm_runs(name: str, tmp_path: Path) -> None:
    found, share = small(tmp_path, arm=name), ARMS[name].share
    episodes = list(read_episodes(tmp_path / "episodes.jsonl"))
    assert len(episodes) == 2 * share.total and found["run"]["arm"] == name
    own = [e for e in episodes if not any(x.kind == "given" for x in e.events)]
    assert bool(own) == bool(share.proposals)
    depths = {c.level for c in read_challenges(tmp_path / "challenges.jsonl") if c.author == "generator"}
    assert depths == ({share.fixed_level} if share.fixed else set())
    if name == "random_reward":
        assert 0.3 < found["label_accuracy"] < 0.7
    elif name != "majority_reward":
        assert found["label_accuracy"] == 1.0


@pytest.mark.slow
def test_expert_iteration_runs(tmp_path: Path) -> None:
    """Two steps are one round of play and one of review alone."""
    found = small(tmp_path, learner="expert")
    assert len(list(read_episodes(tmp_path / "episodes.jsonl"))) == ARMS["full"].share.total
    assert found["run"]["trained_hash"] != found["run"]["weights_hash"]


@pytest.mark.slow
def test_no_evaluation_problem_is_practised(tmp_path: Path) -> None:
    """Beyond depth 2, where there are enough problems to keep some back, none of the yardstick's is ever asked."""
    small(tmp_path, arm="fixed_depth")  # depth 3 has the fewest: the likeliest to be hit
    yardstick = Yardstick(Composition(max_level=10), 4)
    reserved = {t.id for t in yardstick.reserved()}
    assert len(reserved) > 30 and all(t.level > 2 for t in yardstick.reserved())
    asked = {t.id for e in read_episodes(tmp_path / "episodes.jsonl") for t in e.tasks[1:]}
    assert len(asked) > 50 and not asked & reserved
