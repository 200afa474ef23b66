"""The page of sleep: its Python runs and does what it says there, and its defaults are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from dream_envs.agents.sleep.dreams import DreamSettings
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.agents.sleep.seeding import SeedingSettings

PAGE = (Path(__file__).parent.parent / "docs" / "sleep.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_example_moves_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(BLOCKS) == 1
    exec(compile(BLOCKS[0], "sleep.md", "exec"), names)
    right = ["I" + image for image in "fkmbaenohpcdgijl"]
    score = {name: sum(a == b for a, b in zip(names[name], right, strict=True)) for name in ("before", "told", "after")}
    assert score["told"] >= 15 and score["before"] <= 4 and score["after"] >= 13
    assert {"night.json", "config.json"} <= {p.name for p in Path("runs/first_night/nights/00").iterdir()}


@pytest.mark.parametrize("kind", [SleepSettings, SeedingSettings, DreamSettings])
def test_the_tables_name_every_knob_with_its_default(kind: Any) -> None:
    part = PAGE[PAGE.index(f"| `{kind.__name__}`") :].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", part, re.M))
    nested = {"learning", "dreaming"}  # tables of their own
    told.pop(kind.__name__, None)  # the head of the table
    assert told == {name: str(getattr(kind(), name)) for name in kind.__struct_fields__ if name not in nested}
