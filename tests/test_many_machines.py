"""The page on many machines, as it stands: every block is run; a second Ray node here stands for other machines."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from dream_envs.play import read_episodes

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "many_machines.md").read_text("utf-8"), re.M | re.S)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def settings() -> dict[str, str]:
    found = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**found, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "", "HEAD": "127.0.0.1"}  # fmt: skip


def indices(path: Path) -> list[int]:
    return sorted(e.index for e in read_episodes(path / "episodes.jsonl"))


def ran(words: list[str], where: Path) -> str:
    done = subprocess.run(words, cwd=where, env=settings(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_blocks_are_these() -> None:
    assert [kind for kind, _ in BLOCKS] == ["bash", "python", "bash", "bash"]


def test_one_machine(tmp_path: Path) -> None:
    ran(["bash", "-euc", BLOCKS[0][1]], tmp_path)
    assert indices(tmp_path / "games") == list(range(200))
    (tmp_path / "many.py").write_text(BLOCKS[1][1])
    assert ran([sys.executable, "many.py"], tmp_path) == "100 episodes\n"


@pytest.mark.slow
def test_two_processes_train(tmp_path: Path) -> None:
    ran(["bash", "-euc", BLOCKS[3][1]], tmp_path)
    assert (tmp_path / "runs" / "dream" / "summary.json").is_file()


@pytest.mark.slow
def test_two_nodes(tmp_path: Path) -> None:
    """Lines in order; a node's runs on behind until the end, as in a terminal of its own."""
    text, environment, nodes = BLOCKS[2][1].replace("6379", str(free_port())), settings(), list[Any]()
    try:
        for line in text.splitlines():
            if line.startswith("export "):
                shown = subprocess.check_output(["bash", "-euc", f"{line}; env -0"], env=environment, text=True)
                environment = dict(pair.split("=", 1) for pair in shown.split("\0") if "=" in pair)
            elif line.startswith("ray start"):
                log = tmp_path / f"node-{len(nodes)}"
                if "--head" in line:
                    line += f" --ray-client-server-port={free_port()}"
                with open(log, "w") as out:
                    words = shlex.split(line.replace("$HEAD", environment["HEAD"]))
                    nodes.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out))
                until = time.monotonic() + 60
                while "block forever" not in log.read_text():
                    assert nodes[-1].poll() is None and time.monotonic() < until, log.read_text()[-2000:]
                    time.sleep(0.2)
            else:
                done = subprocess.run(
                    ["bash", "-euc", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
                )
                # A slow machine is told of its progress.
                told = [s for s in done.stderr.splitlines() if not s.startswith("episodes")]
                assert done.returncode == 0 and not told, done.stderr[-2000:]
        assert indices(tmp_path / "far") == list(range(200))
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in reversed(nodes):
            node.wait(60)
