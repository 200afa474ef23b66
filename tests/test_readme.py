"""The README's Python runs as it stands there, and its table's marks are where the study writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number: int) -> None:
    names: dict = {}
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), names)
    if "episode" in names:
        scores = names["episode"].scores
        assert scores["solver_0"].status == "ok" and scores["solver_0"].value == pytest.approx(1 - 6 / 16)
        assert scores["challenger_0"].status == "ok"


def test_there_are_blocks_and_marks() -> None:
    assert len(BLOCKS) >= 2
    for word in ("nights", "equal", "games", "frontier"):
        assert README.index(f"<!-- {word} -->") < README.index(f"<!-- /{word} -->")


def test_files_that_are_named_exist() -> None:
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
