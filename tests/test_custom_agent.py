"""The custom training loop of the documentation, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from _children import ended

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
    told = ended(exec, example(), {"__name__": "__main__"}, out=tmp_path / "told", where=tmp_path)
    found = re.search(r"depth 4: (\d\.\d\d) at first, (\d\.\d\d) in the end", told)
    assert found, told
    first, last = map(float, found.groups())
    assert 0.1 < first < 0.4 and last > first + 0.15  # exactly 0.22 before training
