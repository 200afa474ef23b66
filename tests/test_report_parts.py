"""The report's parts: how numbers and texts are written, labels placed, alarms folded; the terminal."""

from __future__ import annotations

import io
import itertools
import math
import re
import statistics
import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import _run_folders as folders
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from dream_envs.report import plots, read, svg, words
from dream_envs.report.sections import sections
from dream_envs.report.terminal import show


@given(st.floats(0, 1))
def test_a_probability_is_never_far_from_what_is_shown(p: float) -> None:
    shown = words.probability(p)
    assert len(shown) <= 8
    assert float(shown) == pytest.approx(p, rel=0.051, abs=5.1e-4 if p >= 0.01 else 0)
    assert (float(shown) == 0) == (p == 0)


@given(st.floats(0, 1))
@example(0.005)
@example(0.995)
def test_a_share_that_is_not_all_or_nothing_does_not_look_like_it(p: float) -> None:
    shown = words.percent(p)
    assert (shown == "100 %") == (p == 1) and (shown == "0 %") == (p == 0)
    assert abs(float(re.sub("[<>% ]", "", shown)) / 100 - p) <= 0.0101


def test_numbers_by_hand() -> None:
    shown = [words.probability(p) for p in (0.8634, 0.01, 0.0625, 0.00999, 2.5e-9, 1e-300)]
    assert shown == ["0.863", "0.010", "0.062", "1.0e-2", "2.5e-9", "1.0e-300"]
    logs = [words.log10(x) for x in (-1e-9, -0.046, -9.99, -9.996, -33.57)]
    assert logs == ["0.00", "-0.05", "-9.99", "-10.0", "-33.6"]
    assert words.interval(0.5, 0.75) == "0.500 to 0.750" and words.interval(0.5, None) == "-"
    for nothing in (None, "0.5", True, math.nan, math.inf, [], 10**400):
        assert {f(nothing) for f in (words.probability, words.whole, words.percent, words.log10)} == {"-"}


@given(st.text(max_size=300), st.integers(0, 300))
def test_visible_text_is_harmless_and_keeps_what_is_printable(text: str, cap: int) -> None:
    shown = words.visible(text, cap)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
    shown.encode("utf-8")
    kept, note, _ = shown.partition(" ... (")
    assert bool(note) == (len(text) > cap) or " ... (" in text
    if text.isprintable() and text.isascii():
        assert kept == text[:cap].partition(" ... (")[0]


@given(st.lists(st.floats(0, 200), max_size=12).map(sorted), st.floats(1, 30))
def test_labels_are_spread_without_leaving_the_top(wanted: list[float], gap: float) -> None:
    found = svg.spread(wanted, gap, 200.0)
    assert all(b - a >= gap - 1e-6 for a, b in itertools.pairwise(found))
    assert not found or found[-1] <= 200.0
    if all(b - a >= gap for a, b in itertools.pairwise(wanted)):
        assert found == pytest.approx(wanted)


def test_svg_escapes_its_alt_text_and_keeps_its_ids_apart() -> None:
    drawn = []
    for name in ("one", "two"):
        with svg.style():
            fig, (axes,) = svg.figure()
            axes.plot([0, 1], [0, 5], color=svg.colour("base"))
            axes.set_title("a < b & c")
            drawn.append(svg.inline(fig, name, "\"><script>'"))
    first, second = drawn
    assert ElementTree.fromstring(first).get("aria-label") == "\"><script>'"
    assert "a &lt; b &amp; c" in first and "var(--base)" in first and "#0102" not in first
    ids = [set(re.findall(r'id="([^"]+)"', d)) for d in drawn]
    used = [set(re.findall(r'(?:url\(#|href="#)([^)"]+)', d)) for d in drawn]
    assert ids[0] == used[0] and ids[1] == used[1] and not ids[0] & ids[1]
    assert second.replace("two-", "one-") == first


def test_every_logged_key_is_drawn(tmp_path: Path) -> None:
    """Whatever the collector logs has a curve; first and last value are told in words."""
    rows = folders.metric_rows(40)
    found = read.load(folders.write(tmp_path, metrics=rows))
    drawn = {plot.name: plot.svg for section in sections(found) for plot in section.plots}
    wanted = {"reward", "statuses", "learning", "solving", "depth", "proposals", "rejects", "length", "loss", "rate"}
    assert wanted <= drawn.keys()
    alt = ElementTree.fromstring(drawn["depth"]).get("aria-label", "")
    assert f"{rows[0]['curriculum/depth']:.3g} to {rows[-1]['curriculum/depth']:.3g}" in alt
    assert "challenger: 0.08 to 0.1" in drawn["reward"] and "similar" in drawn["rejects"]


@pytest.mark.parametrize("value", [None, 0.0, -5.0, 1e308, 5e-324])
def test_curves_of_flat_missing_or_huge_values(tmp_path: Path, value: float | None) -> None:
    rows = [{"step": i, "samples": i, "train/loss": value, "reward/x/mean": value, "eval/1": value} for i in range(5)]
    found = sections(read.load(folders.write(tmp_path, metrics=rows, summary=None)))
    drawn = [plot for section in found for plot in section.plots]
    assert len(drawn) == (0 if value in (None, 1e308) else 3)
    for plot in drawn:
        ElementTree.fromstring(plot.svg)


def test_a_metric_that_comes_late_stands_at_its_own_step(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": i, "train/loss": 1.0, **({"eval/1": 0.5} if i in (3, 5) else {})} for i in range(6)
    ]
    assert read.load(folders.write(tmp_path, metrics=rows)).series["eval/1"] == [(3, 0.5), (5, 0.5)]


def test_long_runs_are_averaged_not_cut() -> None:
    xs, ys = plots._thinned([(float(i), 2.0 * i) for i in range(900)])
    assert len(xs) <= 160 and ys == pytest.approx([2 * x for x in xs])
    assert xs[0] == statistics.mean(range(6)) and xs[-1] == statistics.mean(range(894, 900))  # 900 points in sixes


def test_alarms_of_one_kind_are_folded(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "alarms": ["valid share fell from 0.90 to 0.60: the challenger loses the grammar"]},
        {"step": 2, "alarms": ["only 0.04 of them: nothing to learn from"]},
        {"step": 3, "alarms": ["valid share fell from 0.90 to 0.50: the challenger loses the grammar", "no colon"]},
        {"step": 4, "alarms": None},
        {"step": 5, "alarms": [f"x: kind {i}" for i in range(60)]},
    ]
    found = read.load(folders.write(tmp_path, metrics=rows))
    grammar = found.alarms[0]
    assert (grammar.first, grammar.last, grammar.times) == (1, 3, 2) and "0.50" in grammar.text
    assert [a.text[:5] for a in found.alarms[1:3]] == ["only ", "no co"]
    assert len(found.alarms) == 40


def _printed(folder: Path, **console: Any) -> str:
    out = io.StringIO()
    show(folder, Console(file=out, **{"width": 100, "color_system": None, **console}))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_terminal_shows_whole_numbers(tmp_path: Path, width: int) -> None:
    """Columns go, the least important first; no number is ever split."""
    text = _printed(folders.write(tmp_path), width=width)
    assert max(map(len, text.splitlines())) <= min(width, 100) and text.isascii() and "\x1b" not in text
    table = text[text.index("success by level") : text.index("\nnights")]
    lines = [cells for line in table.splitlines() if "to" in (cells := line.split())]
    for cells, entry in zip(lines, folders.exact().levels, strict=True):
        base, trained = entry.base["T=1"].mean, entry.trained["T=1"]
        assert cells[0] == f"{entry.level}" + "*" * (entry.split == "held_out")
        shown = [float(cells[i]) for i in (1, 2, 3, 5)]
        assert shown == pytest.approx([base, trained.mean, *trained.ci], rel=0.05, abs=6e-4)
    for told in ("5.0e-6 -> 0.951", "70 of 1,408", "alarm (3x)", "153,600", "46,594", "3 of 4"):
        assert told in text


@pytest.mark.parametrize("evaluation", [folders.sampled(), folders.played(), None])
def test_terminal_of_every_kind_at_any_width(tmp_path: Path, evaluation: Any) -> None:
    made = folders.summary(evaluation=evaluation, retention=folders.RETENTION)
    folder = folders.write(tmp_path, summary=made)
    for width in (40, 80):
        text = _printed(folder, width=width)
        assert max(map(len, text.splitlines())) <= width
    assert "0.900" in text and ("0.121 to 0.492" in text) == (evaluation is not None and evaluation.kind == "play")


def test_terminal_reads_no_markup_and_survives_any_console(tmp_path: Path) -> None:
    made = folders.summary(verdict="[bold red]d\u00e9pth[/] \x1b[31m \u2192 \u202e")
    folder = folders.write(tmp_path, summary=made)
    text = _printed(folder)
    assert "[bold red]" in text and r"\x1b[31m" in text and r"\u202e" in text
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show(folder, Console(file=stream, width=100))
    stream.flush()
    assert b"d?pth" in stream.buffer.getvalue()  # type: ignore[attr-defined]
    text = _printed(folders.write(tmp_path / "unfinished", summary=None))
    assert "not finished" in text and "alarm (3x)" in text
