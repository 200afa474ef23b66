"""The README's Python runs as it stands there, its files are there, and the studies find their marks in the results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
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
        assert RESULTS.index(f"<!-- {word} -->") < RESULTS.index(f"<!-- /{word} -->")


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_files_that_are_named_exist(page: str) -> None:
    folder = ROOT if (ROOT / page).is_file() else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (folder / page).read_text()):
        assert (folder / target).exists(), target


def test_a_new_reader_is_done_soon() -> None:
    assert len(README.encode()) <= 10_000
