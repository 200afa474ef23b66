"""The custom training loop of the documentation, as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "custom_agent.md"


def example() -> str:
    """The page's one block of Python."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return block


def test_it_uses_none_of_our_learners() -> None:
    named = re.findall(r"dream_envs\.(agents|baselines)\.(\w+)", example())
    assert named == [("agents", "engines")]  # the folder of the shipped base, and nothing that learns


@pytest.mark.slow
def test_the_example_runs_and_learns(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", example()], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"depth 4: (\d\.\d\d) at first, (\d\.\d\d) in the end", done.stdout)
    assert found, done.stdout
    first, last = map(float, found.groups())
    assert 0.1 < first < 0.4 and last > first + 0.15  # exactly 0.22 before training
