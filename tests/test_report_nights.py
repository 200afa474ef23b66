"""The report's nights: what is shown of a run that slept, and of files that say nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dream_envs.report.nights import nights

from dream_envs.report.page import render

TOLD = {
    "night": {"lived": 1200, "tokens": 34000, "good": 3, "dreams": [{}, {}, {}, {}], "undone": False},
    "evening": {"2": 0.9, "10": 0.5},
    "dawn": {"2": 0.95, "10": 0.4},
}


def test_depths_are_numbers_and_a_loss_is_marked() -> None:
    found = nights({"nights": [TOLD]})
    assert found["depths"] == ["2", "10"]
    row = found["rows"][0]
    assert (row["dreams"], row["lived"], row["undone"]) == ("3 of 4", "1,200", False)
    assert row["cells"] == [("0.900", "0.950", False), ("0.500", "0.400", True)]


@pytest.mark.parametrize(
    "nonsense", [None, 3, "x", [], [3], [{}], [{"night": 3, "dawn": [1]}], [{"dawn": {"x": "<b>"}}]]
)
def test_nonsense_is_shown_as_nothing(nonsense: Any, tmp_path: Path) -> None:
    (tmp_path / "frontier.json").write_text(json.dumps({"nights": nonsense}), "utf-8")
    assert "<b>" not in render(tmp_path)


def test_the_page_has_the_table_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "frontier.json").write_text(json.dumps({"nights": [TOLD]}), "utf-8")
    page = render(tmp_path)
    assert ">Nights</h2>" in page and "3 of 4" in page
    (tmp_path / "frontier.json").write_text("{}", "utf-8")
    assert ">Nights</h2>" not in render(tmp_path)
