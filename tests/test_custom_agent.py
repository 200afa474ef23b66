"""The custom training loop of the documentation, as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from _children import ended

from dream_envs import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "custom_agent.md"


def blocks() -> list[str]:
    """The page's two blocks of Python: a loop, and a learner."""
    loop, learner = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return [loop, learner]


def example() -> str:
    """The loop."""
    return blocks()[0]


def test_it_uses_none_of_our_learners() -> None:
    named = re.findall(r"dream_envs\.(agents|baselines)\.(\w+)", example())
    assert named == [("agents", "engines")]  # the folder of the shipped base, and nothing that learns


@pytest.mark.slow
def test_the_example_runs_and_learns(tmp_path: Path) -> None:
    told = ended(exec, example(), {"__name__": "__main__"}, out=tmp_path / "told", where=tmp_path)
    found = re.search(r"depth 4: (\d\.\d\d) at first, (\d\.\d\d) in the end", told)
    assert found, told
    first, last = map(float, found.groups())
    assert 0.1 < first < 0.4 and last > first + 0.15  # exactly 0.22 before training


@pytest.mark.slow
def test_the_learner_trains_in_a_loop_and_has_a_card(tmp_path: Path) -> None:
    """From the working directory, by the console script's own way; depth 4 rises within eight rounds."""
    (tmp_path / "my_learner.py").write_text(blocks()[1])
    quick = ["variant=replay", "eval.levels=[1,4]", "eval.problems=32"]
    argv = ["train", "dream", "--learner", "my_learner:Reinforce", "--steps", "8", "--set", ",".join(quick)]
    ended(told, [*argv, "--no-frontier", "--out", "run"], out=tmp_path / "told", where=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (level,) = [row for row in summary["evaluation"]["levels"] if row["level"] == 4 and row["split"] == "any"]
    assert level["trained"]["T=1"]["mean"] > level["base"]["T=1"]["mean"] + 0.2


def told(argv: list[str]) -> None:
    assert cli.main(argv) == 0
