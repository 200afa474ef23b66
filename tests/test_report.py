"""The run report: the numbers are the data's, everything is escaped, nothing comes from outside."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import _run_folders as folders
import pytest
from rich.console import Console

from dream_envs.core import DreamEnvsError
from dream_envs.report.page import write_report
from dream_envs.report.study import study_table
from dream_envs.report.terminal import show, table

VOID = {"meta", "br", "hr", "img", "link", "input", "col", "wbr", "path", "use", "line", "rect", "circle"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open, or left open."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.stack and self.stack[-1] == tag, (tag, self.stack[-3:])
        self.stack.pop()


def _page(folder: Path) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text()


def _check(page: str) -> None:
    reader = Balanced()
    reader.feed(page)
    assert not reader.stack
    assert "script" not in reader.seen and "iframe" not in reader.seen
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"url\((?!#|['\"]?data:)", page) and "@import" not in page
    assert len(page.encode()) < 1_500_000


def test_page_of_a_run(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "run")
    page = _page(folder)
    _check(page)
    data = json.loads((folder / "frontier.json").read_text())
    assert data["verdict"].split(".")[0] in page
    assert f"{data['samples']['total']:,}" in page
    deep = next(r for r in data["depths"] if r["depth"] == 6 and r["split"] == "any")
    assert f"{deep['trained']['T=1']['mean']:.3f}" in page
    assert 'name="viewport"' in page and "prefers-color-scheme" in page
    assert page.count("<svg") >= 5 and page.count("<th") > 5


def test_a_run_that_learnt_nothing(tmp_path: Path) -> None:
    _check(_page(folders.write(tmp_path / "run", frontier=folders.frontier(learnt=False, held_out=False))))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "\x00\x1b[31m",
        "\u202eevil\u2066",
        '"><img src=x onerror=1>',
        "A" * 1_000_000,
        "\ud800",
    ],
)
def test_hostile_replies_are_shown_not_run(tmp_path: Path, text: str) -> None:
    safe = text.encode("utf-8", "replace").decode()
    hostile = [folders.with_texts(e, safe) for e in folders.episodes()]
    page = _page(folders.write(tmp_path / "run", episodes=hostile))
    _check(page)
    assert "\x00" not in page and "\u202e" not in page and "onerror=1>" not in page.replace("&#34;&gt;", "")


@pytest.mark.parametrize("missing", ["verdict", "entropy", "pass_at_k", "beyond", "samples"])
def test_missing_parts_are_left_out(tmp_path: Path, missing: str) -> None:
    data = folders.frontier()
    del data[missing]
    _check(_page(folders.write(tmp_path / "run", frontier=data)))


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_terminal_fits_and_says_the_numbers(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "run")
    out = io.StringIO()
    show(folder, Console(file=out, width=100, color_system=None))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    data = json.loads((folder / "frontier.json").read_text())
    assert table(data).row_count >= len(data["depths"])
    deep = next(r for r in data["depths"] if r["depth"] == 6 and r["split"] == "any")
    assert f"{deep['trained']['T=1']['mean']:.3f}" in text


def test_study_table_gives_median_range_and_every_seed() -> None:
    rows = [
        {"arm": "full", "learner": "grpo", "seed": str(i), "frontier": _with_depth6(value), "label_accuracy": 1.0}
        for i, value in enumerate((0.9, 0.5, 0.7))
    ]
    line = next(x for x in study_table(rows).splitlines() if x.startswith("| full"))
    cell = line.split("|")[5]
    assert re.search(r"0\.700? \[0\.500?, 0\.900?\]", cell)
    assert cell.index("0.9", cell.index("]")) < cell.index("0.5", cell.index("]"))


def _with_depth6(value: float) -> dict:
    data = folders.frontier()
    for row in data["depths"]:
        if row["depth"] == 6 and row["split"] == "any":
            row["trained"]["T=1"]["mean"] = value
    return data
