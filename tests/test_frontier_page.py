"""The Frontier Report: the numbers are the file's, no point is lost, nulls are said to be null."""

from __future__ import annotations

import copy
import io
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import _frontier_data as world
import pytest
from rich.console import Console
from test_report import NASTY, check

from dream_envs.core import DreamEnvsError
from dream_envs.report import frontier_page as page_module
from dream_envs.report import frontier_plots as curves
from dream_envs.report import frontier_read as fr
from dream_envs.report.frontier_page import MAKERS, all_plots, render_frontier, write_frontier
from dream_envs.report.frontier_terminal import show_frontier

PLOTS = [
    "fg", "decay", "passk", "compute", "support", "cover", "forest", "scatter", "tiers", "retention", "formats",
    "ratio", "series", "curriculum",
]  # fmt: skip


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return world.frontier()


@pytest.fixture(scope="module")
def drawn(data: dict[str, Any]) -> dict[str, Any]:
    return all_plots(fr.checked(data))


@pytest.fixture
def unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without pictures, for tests of what is written."""
    monkeypatch.setattr(page_module, "MAKERS", ())


def markers(drawing: str) -> Counter[str]:
    """How often each marker is stamped, by its id."""
    return Counter(e.get("href", "") for e in ElementTree.fromstring(drawing).iter("use"))


def spots(drawing: str, role: str) -> list[tuple[float, float]]:
    """Where the markers of this colour are."""
    return [
        (float(e.get("x", "nan")), float(e.get("y", "nan")))
        for e in ElementTree.fromstring(drawing).iter("use")
        if f"fill: var(--{role})" in e.get("style", "") and e.get("x") != "0"  # 0: an area, not a marker
    ]


@pytest.mark.parametrize("word", world.WORLDS)
def test_a_page_of_each_verdict(tmp_path: Path, word: str) -> None:
    path = write_frontier(world.write(tmp_path, source := world.frontier(word, 12)))
    page = path.read_text("utf-8")
    found = check(page)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    for needed in ('name="viewport"', "prefers-color-scheme: dark", "default-src 'none'", 'lang="en"'):
        assert needed in page
    order = [
        word, source["verdict"]["sentence"], fr.headline(source), "Held-out families", "The headline and its intervals",
        "By family", "Certified problems", "What was kept", "Diversity of the replies", "Protocol and cost",
        "How to reproduce", "What can still fool it",
    ]  # fmt: skip
    place = found.text.index("Did training push")
    for told in order:
        place = found.text.index(told, place)
    assert word != "Expansion" or render_frontier(source) == page  # the same bytes
    assert not list(tmp_path.glob("*.part"))


def test_every_plot_is_well_formed_and_told_in_words(drawn: dict[str, Any]) -> None:
    assert list(drawn) == PLOTS
    for name, plot in drawn.items():
        root = ElementTree.fromstring(plot.svg)
        assert len(root.get("aria-label", "")) > 60 and "nan" not in plot.svg.lower().replace("#nan", "")
        assert plot.name == name and len(plot.note) > 60 and "cannot be drawn" not in plot.note
        _, _, width, height = map(float, root.get("viewBox", "").split())
        for e in root.iter("use"):
            assert 0 <= float(e.get("x", "0")) <= width and 0 <= float(e.get("y", "0")) <= height


def test_no_plot_loses_a_point(data: dict[str, Any], drawn: dict[str, Any]) -> None:
    certified, rows = len(data["certified"]), data["problems"]
    outside = sum(not r["eligible"] for r in rows)
    assert certified > 3
    counts = markers(drawn["scatter"].svg)
    assert {certified, outside, len(rows) - certified - outside} <= {n - 1 for n in counts.values()}  # 1: the legend
    for name, role, size in (
        ("decay", "trained", len(data["decay"]["k"])), ("passk", "base", len(data["pass_at_k"]["base"]["k"])),
        ("passk", "trained", 5), ("compute", "base", 14), ("cover", "trained", 4), ("cover", "base", 4),
        ("fg", "trained", 4), ("forest", "trained", 7), ("retention", "c1", 2), ("retention", "c2", 1),
        ("ratio", "trained", 4), ("series", "c1", 20), ("curriculum", "c1", 7),
    ):  # fmt: skip
        assert len(spots(drawn[name].svg, role)) == size, (name, role)


def test_the_drawn_curve_is_the_data(data: dict[str, Any], drawn: dict[str, Any]) -> None:
    """Positions in the picture are an affine image of the numbers: E(k) over log k, downwards."""
    at = spots(drawn["decay"].svg, "trained")
    ks, es = data["decay"]["k"], data["decay"]["e"]
    across = (at[-1][0] - at[0][0]) / (math.log(ks[-1]) - math.log(ks[0]))
    down = (at[-1][1] - at[0][1]) / (es[-1] - es[0])
    assert across > 0 > down
    for (x, y), k, e in zip(at, ks, es, strict=True):
        assert x == pytest.approx(at[0][0] + across * math.log(k), abs=0.01)
        assert y == pytest.approx(at[0][1] + down * (e - es[0]), abs=0.01)


def test_each_scatter_mark_is_within_the_jitter_of_its_problem(data: dict[str, Any], drawn: dict[str, Any]) -> None:
    rows = [r for r in data["problems"] if r["certified"]]
    at = [p for p in spots(drawn["scatter"].svg, "c1") if p[1] > 45]  # not the legend's
    assert len(at) == len(rows)
    rates = [r["trained"][0] / 16 for r in rows]
    ticks = re.findall(r'<text[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(0\.0|1\.0)<', drawn["scatter"].svg)
    zero, one = (float(next(y for _, y, text in ticks if text == t)) for t in ("0.0", "1.0"))
    for (_, y), rate in zip(at, rates, strict=True):
        assert (y - zero) / (one - zero) == pytest.approx(rate, abs=0.05)


def test_what_cannot_be_drawn_is_counted(data: dict[str, Any]) -> None:
    broken = copy.deepcopy(data)
    broken["decay"]["e"][3] = None
    broken["decay"]["k"][5] = 0
    broken["problems"][7]["trained"] = "?"
    broken["compute"]["base"]["tokens"][0] = 1e300
    found = all_plots(fr.checked(broken))
    assert "2 values cannot be drawn" in found["decay"].note
    assert len(spots(found["decay"].svg, "trained")) == len(data["decay"]["k"]) - 2
    assert "1 value cannot be drawn" in found["scatter"].note and "1 value cannot be drawn" in found["compute"].note


def test_values_out_of_range_stay_in_the_picture(data: dict[str, Any]) -> None:
    wild = copy.deepcopy(data)
    wild["pass_at_k"]["base"]["mean"][2], wild["cover"]["trained"][0] = 7.5, [-3.0, -4.0, 9.0]
    wild["headline"].update(low=-80.0, high=120.0)
    found = all_plots(fr.checked(wild))
    for name in ("passk", "cover", "fg"):
        root = ElementTree.fromstring(found[name].svg)
        clip = next(iter(root.iter("clipPath")), None)
        box = next(iter((root if clip is None else clip).iter("rect")))
        left, top, width, height = (float(box.get(k, "nan")) for k in ("x", "y", "width", "height"))
        for x, y in spots(found[name].svg, "trained") + spots(found[name].svg, "base"):
            assert left - 0.1 <= x <= left + width + 0.1 and top - 0.1 <= y <= top + height + 0.1


@pytest.mark.usefixtures("unplotted")
def test_thousands_of_problems_make_a_small_page(monkeypatch: pytest.MonkeyPatch) -> None:
    big = world.frontier("Expansion", 290)
    assert len(big["problems"]) == 2320
    monkeypatch.setattr(page_module, "MAKERS", MAKERS)
    page = render_frontier(big)
    assert len(page.encode()) < 1_000_000
    assert "2,000 of 2,320 problems are shown, all certified ones first" in page
    drawing = all_plots(fr.checked(big))["scatter"].svg
    counts = [n - 1 for n in markers(drawing).values() if n > 20]
    assert sum(counts) == curves.MAX_POINTS and len(big["certified"]) in counts
    table = next(t for t in check(page).tables if "p-value" in str(t[0]))
    assert len(table) == 51 and f"The first 50 of {len(big['certified'])}" in page
    assert "the first 200 of 2,320" in page


@pytest.mark.usefixtures("unplotted")
def test_the_family_table_is_the_data(data: dict[str, Any]) -> None:
    table = next(t for t in check(render_frontier(data)).tables if t[0][0].strip() == "Family")
    assert len(table) == 1 + len(world.FAMILIES)
    for row, (name, kind, held, level) in zip(table[1:], world.FAMILIES, strict=True):
        mine = [p for p in data["problems"] if p["family"] == name]
        cells = [c.strip() for c in row]
        assert cells[:3] == [name, kind, "40"] and cells[5] == ("yes" if held else "no")
        assert float(cells[3]) == pytest.approx(16.0**-level, rel=0.05)
        assert float(cells[7]) == pytest.approx(sum(p["trained"][0] for p in mine) / 16 / 40, abs=6e-4)
        if name != "small-answers":
            never = [p for p in mine if p["base_draws"] == 8192 and not p["base_first"]]
            assert int(cells[8]) == len(never) and cells[4] == "yes"
        else:
            assert cells[4] == "no" and cells[8] == cells[9] == "-"


@pytest.mark.usefixtures("unplotted")
@pytest.mark.parametrize("block", world.BLOCKS)
def test_each_block_may_be_null_or_absent(data: dict[str, Any], block: str) -> None:
    page = render_frontier(world.without(data, block))
    assert page == render_frontier({k: v for k, v in data.items() if k != block})
    check(page)


def test_a_report_of_the_headline_alone(data: dict[str, Any]) -> None:
    bare = world.bare(data)
    text = check(render_frontier(bare)).text
    blocks = "E(k),pass@k,Cover@tau,Retention,Diversity,A judge,Cost"
    plural = "Single problems,Certified problems,Exact probabilities"
    told = [*(f"{b} was" for b in blocks.split(",")), *(f"{b} were" for b in plural.split(","))]
    for what in told:
        assert f"{what} not measured." in text
    assert [p.name for p in all_plots(fr.checked(bare)).values()] == ["fg"]


def test_one_problem_and_nothing_but_zeros_or_ones(data: dict[str, Any]) -> None:
    for value in (0, 1):
        tiny = copy.deepcopy(data)
        tiny["problems"], tiny["suite"]["families"] = tiny["problems"][:1], tiny["suite"]["families"][:1]
        tiny["headline"] = {**dict.fromkeys(tiny["headline"], value), "held_out": None, "runs": None}
        for block in ("pass_at_k", "decay", "cover", "compute", "support", "retention", "diversity"):
            tiny[block] = numbers(tiny[block], value)
        check(render_frontier(tiny))


def numbers(value: Any, new: Any) -> Any:
    """Every number in it replaced, k, tau and steps too."""
    if isinstance(value, dict):
        return {k: numbers(v, new) for k, v in value.items()}
    if isinstance(value, list):
        return [numbers(v, new) for v in value]
    return new if isinstance(value, int | float) and not isinstance(value, bool) else value


@pytest.mark.parametrize("junk", [None, "x", -1e300, True, [], {"a": [None]}])
def test_junk_in_place_of_any_number(data: dict[str, Any], junk: Any) -> None:
    spoilt = {k: numbers(v, junk) if k in world.BLOCKS else v for k, v in data.items()}
    spoilt["problems"] = spoilt["problems"][:30]
    check(render_frontier(spoilt))


@pytest.mark.parametrize("text", [*NASTY, "$\\frac{", "\ufffe\uffff\U000e0041 & <b>"])
def test_hostile_text_is_shown_and_never_run(tmp_path: Path, data: dict[str, Any], text: str) -> None:
    hostile = {**data, "problems": data["problems"][:4], "certified": data["certified"][:2]}
    hostile = world.with_texts(hostile, text)
    hostile["diversity"]["formats"]["base"][text] = 0.5
    hostile["diversity"]["ratio"] = {text: [0.5, 0.4, 0.6]}
    hostile["retention"]["matrix"]["columns"] = [text] * 3
    hostile["pass_at_k"]["arms"] = {text: hostile["pass_at_k"]["arms"]["plain T=0.7"]}
    hostile["judge"] = hostile["curriculum"] = {text: text, f"{text[:9]}_series": [1, 2]}
    hostile["exact"]["decoders"] = hostile["verdict"]["kinds"] = {text: {"base": 1, "trained": text}}
    page = write_frontier(world.write(tmp_path, hostile)).read_text("utf-8")
    shown = check(page)
    if text.isprintable() and "\u0351" not in text and len(text) < 200:
        assert shown.text.count(text) >= 8
    if len(text) > 2000:
        assert "more characters)" in shown.text
    assert len(page) < 1_000_000
    for where in (out := io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")):
        show_frontier(hostile, Console(file=where, width=100, force_terminal=False))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", out.getvalue())


def test_mistakes_are_one_line(tmp_path: Path, data: dict[str, Any]) -> None:
    def told() -> str:
        with pytest.raises(DreamEnvsError) as caught:
            write_frontier(tmp_path)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
        assert len(str(caught.value)) < 500
        return str(caught.value)

    assert "dream-envs frontier" in told()
    for content, word in (
        (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[" * 10_000, "not JSON"), (b'{"schema": NaN}', "NaN"),
        (b'{"schema": -Infinity}', "Infinity"), (b"[]", "list"), (b'{"schema": 1}', "schema 1"), (b"{}", "schema 1"),
        (b'{"schema": true}', "True"), (b'{"schema": "\\u001b[2J\\n"}', "x1b"), (b'{"schema": 2}', "base is missing"),
    ):  # fmt: skip
        (tmp_path / "frontier.json").write_bytes(content)
        assert word in told(), content
    for path, value, word in (
        ("headline.fg", "2.3", "headline.fg"), ("headline.n", None, "missing"), ("verdict.word", 3, "verdict.word"),
        ("suite.families", [7], "suite.families"), ("problems", {}, "problems"), ("decay.e", [1], "1 entries for 14"),
        ("cover.base", None, ""), ("protocol", [], "protocol"), ("tiers.count", "12", "no entries"),
    ):  # fmt: skip
        spoilt = copy.deepcopy(data)
        *above, last = path.split(".")
        node = spoilt
        for key in above:
            node = node[key]
        node[last] = value
        world.write(tmp_path, spoilt)
        if word:
            assert word in told(), path
    assert not (tmp_path / "report.html").exists()
