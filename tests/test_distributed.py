"""Two processes over gloo: one run, one set of weights, every episode once."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

import gloo_practice
from _children import child
from _tiny import MIXTURE, collector, everything, learner, same, texts
from safetensors.torch import load_file

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.critic import FILE
from dream_envs.curriculum.store import read_challenges

SCRIPT = Path(__file__).with_name("gloo_practice.py")
EACH = MIXTURE.total

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo"),
]


def launch(out: Path, steps: int, *name: str) -> list[dict[str, Any]]:
    """Run the script under ``torchrun``; what each rank told."""
    out.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    line += [str(SCRIPT), str(out), str(steps), *name]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return told_by(out)


def told_by(out: Path) -> list[dict[str, Any]]:
    return [json.loads((out / f"rank-{r}.json").read_text()) for r in range(2)]


def one_rank(rank: int, port: int, *words: str) -> None:
    """The script with what ``torchrun`` would have put into its environment."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    sys.argv = [str(SCRIPT), *words]
    gloo_practice.main()


def again(out: Path, steps: int, *name: str) -> list[dict[str, Any]]:
    """As ``launch``, in children that need not import anything."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [child(one_rank, r, port, str(out), str(steps), *name, out=out / f"out-{r}") for r in range(2)]
    for rank, process in enumerate(ranks):
        process.join(300)
        assert process.exitcode == 0, (out / f"out-{rank}.err").read_text()[-3000:]
    return told_by(out)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("two")
    return out, launch(out, 3)


def test_both_ranks_hold_the_same_weights(two: Any) -> None:
    out, told = two
    a, b = (load_file(out / f"weights-{r}.safetensors") for r in (0, 1))
    assert same(a, b) and [t["world"] for t in told] == [2, 2]
    saved = load_file(out / "run" / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert not all(torch.equal(saved[k], a[k]) for k in saved)  # the third step did move them


def test_every_episode_is_played_once_written_once_and_absorbed_by_both(two: Any) -> None:
    out, told = two
    for round in range(3):
        parts = [set(t["mine"][round]) for t in told]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == set(range(round * EACH, (round + 1) * EACH))
        assert abs(len(parts[0]) - len(parts[1])) <= 1
    assert [i for i, _ in texts(out / "run")] == list(range(3 * EACH))
    assert told[0]["store"] == told[1]["store"] and told[0]["history"] == told[1]["history"]
    assert told[0]["samples"] == told[1]["samples"]
    ids = [c.id for c in read_challenges(out / "run" / "challenges.jsonl")]
    assert ids == [c["id"] for c in told[0]["store"]["challenges"]]
    assert len((out / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_first_round_is_that_of_one_process(two: Any, tmp_path: Path) -> None:
    """Who plays an episode makes no difference to it; after a step the weights differ, since the rows do."""
    collector(tmp_path).round(0, LocalAgent("nano/compose"))
    assert texts(tmp_path) == texts(two[0] / "run")[:EACH]


def test_resuming_both_ends_in_the_same_weights(two: Any, tmp_path: Path) -> None:
    """Stopped after two steps (a checkpoint) and started again: each rank goes on with a review of its own."""
    # Not a run of two steps: the learning rate falls to the last one.  A run of three is cut back to its checkpoint.
    whole, cut = two[0], tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "run" / "checkpoints" / "checkpoint-3")
    with open(cut / "run" / "episodes.jsonl", "ab") as file:
        file.write(b'{"half')
    told = again(cut, 3)
    assert [len(t["mine"]) for t in told] == [1, 1]
    for rank in (0, 1):
        assert same(*[load_file(f / f"weights-{rank}.safetensors") for f in (whole, cut)])
    assert texts(cut / "run") == texts(whole / "run")


def test_a_head_is_averaged_too(tmp_path: Path) -> None:
    """PPO, as many rows as there are: each trains on its share; gradients of policy and head are averaged."""
    told = again(tmp_path, 2, "ppo")
    a, b = (load_file(tmp_path / f"weights-{r}.safetensors") for r in (0, 1))
    assert same(a, b) and not set(told[0]["mine"][0]) & set(told[1]["mine"][0])
    head = [name for name in a if name.startswith("head.")]
    assert len(head) == 4 and not same(a, everything(learner("ppo")))
    assert all(a[n].any() for n in head if n.startswith("head.out"))
    saved = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-8" / FILE)
    assert all(torch.equal(saved[n.removeprefix("head.")], a[n]) for n in head)
