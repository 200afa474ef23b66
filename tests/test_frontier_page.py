"""The Frontier Report: the numbers are the file's, no point is lost, what does not decode is refused, tables fit."""

from __future__ import annotations

import io
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import _frontier_data as world
import msgspec
import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_report import NASTY, check, table_of

from dream_envs.cli.frontier import frontier_app
from dream_envs.core import DreamEnvsError
from dream_envs.frontier.schema import Cost, ProblemRow, Report, read_report
from dream_envs.report import frontier_plots as plots
from dream_envs.report import frontier_tables as tables
from dream_envs.report import svg, words
from dream_envs.report.frontier_plots import PLOTS, all_plots
from dream_envs.report.page import frontier_command, render_frontier, write_report
from dream_envs.report.sections import Column
from dream_envs.report.terminal import show, show_frontier, table

change = msgspec.structs.replace


@pytest.fixture(scope="module")
def data() -> Report:
    return world.frontier()


@pytest.fixture(scope="module")
def drawn(data: Report) -> dict[str, str]:
    return all_plots(data)


@pytest.fixture
def unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without pictures, for tests of what is written."""
    monkeypatch.setattr(plots, "PLOTS", {})


def decoded(content: Any) -> Report:
    return msgspec.convert(content, Report)


def mapped(value: Any, new: Callable[[Any], Any], kept: Sequence[str]) -> Any:
    """JSON data with every number or text replaced, but for what stands under the keys ``kept``."""
    if isinstance(value, dict):
        return {k: v if k in kept else mapped(v, new, kept) for k, v in value.items()}
    return [mapped(v, new, kept) for v in value] if isinstance(value, list) else new(value)


def printed(data: Report, width: int) -> str:
    show_frontier(data, Console(file=(out := io.StringIO()), width=width))
    return out.getvalue()


def spots(drawing: str, role: str) -> list[tuple[float, float]]:
    """Where the markers of this colour are."""
    return [
        (float(e.get("x", "nan")), float(e.get("y", "nan")))
        for e in ElementTree.fromstring(drawing).iter("use")
        if f"fill: var(--{role})" in e.get("style", "") and e.get("x") != "0"  # 0: an area, not a marker
    ]


@pytest.mark.parametrize("word", ["Expansion", "Trade", "Contraction", "Not shown", "Alarm"])
def test_a_page_of_each_verdict(tmp_path: Path, word: str) -> None:
    small = world.frontier(12)
    source = change(small, verdict=change(small.verdict, word=word))
    page = write_report(world.write(tmp_path, source)).read_text("utf-8")
    found = check(page)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    order = [
        word, source.verdict.phrase, source.verdict.sentence, "Qualified: the problems are those of a public seed",
        tables.headline(source), "Kind of problem", "The headline and its intervals", "E lies between",
        "By family", "Certified problems", "What was kept", "Diversity of the replies", "Protocol and cost",
        "How to reproduce", "What can still fool it",
    ]  # fmt: skip
    place = found.text.index("Did training push")
    for told in order:
        place = found.text.index(told, place)
    assert word != "Expansion" or render_frontier(source) == page  # the same bytes
    assert not list(tmp_path.glob("*.part"))


def test_every_plot_is_well_formed_and_told_in_words(drawn: dict[str, str]) -> None:
    assert list(drawn) == list(PLOTS)
    for drawing in drawn.values():
        root = ElementTree.fromstring(drawing)
        assert len(root.get("aria-label", "")) > 60 and "nan" not in drawing.lower().replace("#nan", "")
        _, _, width, height = map(float, root.get("viewBox", "").split())
        for e in root.iter("use"):
            assert 0 <= float(e.get("x", "0")) <= width and 0 <= float(e.get("y", "0")) <= height


def test_no_plot_loses_a_point(data: Report, drawn: dict[str, str]) -> None:
    certified, rows = len(data.certified), data.problems
    outside = sum(not r.eligible for r in rows)
    assert certified > 3
    stamped = Counter(e.get("href", "") for e in ElementTree.fromstring(drawn["scatter"]).iter("use"))
    assert {certified, outside, len(rows) - certified - outside} <= {n - 1 for n in stamped.values()}  # 1: the legend
    for name, role, size in (
        ("decay", "trained", len(data.decay.k)), ("passk", "base", 5), ("passk", "trained", 5), ("compute", "base", 5),
        ("cover", "trained", 4), ("cover", "base", 4), ("fg", "trained", 2), ("forest", "trained", 5),
        ("retention", "c2", 1), ("ratio", "trained", 2), ("series", "c1", 19), ("curriculum", "c1", 8),
    ):  # fmt: skip
        assert len(spots(drawn[name], role)) == size, (name, role)


def test_the_drawn_curve_is_the_data(data: Report, drawn: dict[str, str]) -> None:
    """Positions in the picture are an affine image of the numbers: E(k) over log k, downwards."""
    at, ks, es = spots(drawn["decay"], "trained"), data.decay.k, data.decay.mean
    across = (at[-1][0] - at[0][0]) / (math.log(ks[-1]) - math.log(ks[0]))
    down = (at[-1][1] - at[0][1]) / (es[-1] - es[0])
    assert across > 0 > down
    for (x, y), k, e in zip(at, ks, es, strict=True):
        assert x == pytest.approx(at[0][0] + across * math.log(k), abs=0.01)
        assert y == pytest.approx(at[0][1] + down * (e - es[0]), abs=0.01)


def test_each_scatter_mark_is_within_the_jitter_of_its_problem(data: Report, drawn: dict[str, str]) -> None:
    rates = [r.trained[0] / 16 for r in data.problems if r.certified]
    at = [p for p in spots(drawn["scatter"], "c1") if p[1] > 45]  # not the legend's
    ticks = re.findall(r'<text[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(0\.0|1\.0)<', drawn["scatter"])
    zero, one = (float(next(y for _, y, text in ticks if text == t)) for t in ("0.0", "1.0"))
    for (_, y), rate in zip(at, rates, strict=True):
        assert (y - zero) / (one - zero) == pytest.approx(rate, abs=0.05)


def test_values_out_of_range_stay_in_the_picture() -> None:
    wild = world.changed(world.data(), "pass_at_k.base.mean.2", 7.5)
    wild = world.changed(world.changed(wild, "cover.trained.0", [-3.0, -4.0, 9.0]), "headline.g.2", 120.0)
    found = all_plots(decoded(wild))
    for name in ("passk", "cover", "fg"):
        root = ElementTree.fromstring(found[name])
        clip = next(iter(root.iter("clipPath")), None)
        box = next(iter((root if clip is None else clip).iter("rect")))
        left, top, width, height = (float(box.get(k, "nan")) for k in ("x", "y", "width", "height"))
        for x, y in spots(found[name], "trained") + spots(found[name], "base"):
            assert left - 0.1 <= x <= left + width + 0.1 and top - 0.1 <= y <= top + height + 0.1


def test_thousands_of_problems_make_a_small_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "PLOTS", {"scatter": PLOTS["scatter"]})
    big = world.frontier(400)
    page = render_frontier(big)
    assert len(big.problems) == 2400 and len(page.encode()) < 1_000_000
    assert "2,000 of 2,400 problems are shown, all certified ones first" in page
    drawing = page[page.index("<svg") : page.index("</svg>") + 6]
    counts = [n - 1 for n in Counter(re.findall(r'href="(#[^"]+)"', drawing)).values() if n > 20]
    assert sum(counts) == plots.MAX_POINTS and len(big.certified) in counts
    assert len(table_of(check(page), "p-value")) == 50 and f"The first 50 of {len(big.certified)}" in page
    assert "the first 200 of 2,400" in page


@pytest.mark.usefixtures("unplotted")
def test_the_family_table_is_the_data(data: Report) -> None:
    found = table_of(check(render_frontier(data)), "Family Kind")
    for cells, (name, kind, practised, level) in zip(found, world.FAMILIES, strict=True):
        mine = [p for p in data.problems if p.family == name]
        assert cells[:3] == [name, kind, "40"] and cells[5] == ("yes" if practised else "no")
        assert float(cells[8]) == pytest.approx(sum(p.trained[0] for p in mine) / 16 / 40, abs=6e-4)
        if name != "small-answers":
            assert float(cells[3]) == pytest.approx(32.0**-level, rel=0.05)
            assert int(cells[9]) == sum(p.base_draws == world.BUDGET and not p.base_first for p in mine)
        else:
            assert cells[4] == "no" and cells[9] == cells[10] == "-"


@pytest.mark.usefixtures("unplotted")
def test_a_section_without_data_is_left_out(data: Report) -> None:
    titles = {"exact": "Decoder", "retention": "What was kept", "diversity": "Diversity of", "curriculum": "Curriculum"}
    for block, title in titles.items():
        assert title in check(render_frontier(data)).text
        assert title not in check(render_frontier(change(data, **{block: None}))).text


def test_one_problem_and_nothing_but_zeros_or_ones() -> None:
    for new in (0, 1):
        tiny = mapped(world.data(12), lambda v, new=new: new if type(v) in (int, float) else v, ("k", "need", "schema"))
        tiny["problems"], tiny["suite"]["families"] = tiny["problems"][:1], tiny["suite"]["families"][:1]
        check(render_frontier(decoded(tiny)))
        printed(decoded(tiny), 80)


@pytest.mark.parametrize("text", [*NASTY, "$\\frac{", "\ufffe\uffff\U000e0041 & <b>"])
def test_hostile_text_is_shown_and_never_run(tmp_path: Path, text: str) -> None:
    plain = world.data(12)
    some = {**plain, "problems": plain["problems"][:4], "certified": plain["certified"][:2]}
    hostile = mapped(some, lambda v: text if isinstance(v, str) else v, ("kind", "schema", "word"))
    hostile["diversity"]["formats"]["base"] = {text: 0.5}
    hostile["diversity"]["ratio"] = {text: [0.5, 0.4, 0.6]}
    hostile["pass_at_k"]["methods"] = {text: hostile["pass_at_k"]["base"]}
    hostile["protocol"]["configurations"] = hostile["protocol"]["unavailable"] = {text: text}
    page = write_report(world.write(tmp_path, hostile)).read_text("utf-8")
    shown = check(page)
    if text.isprintable() and "\u0351" not in text and len(text) < 200:
        assert shown.text.count(text) >= 8
    if len(text) > 2000:
        assert "more characters)" in shown.text
    assert len(page) < 1_000_000
    for where in (out := io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")):
        show_frontier(read_report(tmp_path), Console(file=where, width=100, force_terminal=False))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", out.getvalue())


def test_what_does_not_decode_is_refused_in_one_line(tmp_path: Path) -> None:
    def told() -> str:
        with pytest.raises(DreamEnvsError) as caught:
            read_report(tmp_path)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value) and "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 500
        return str(caught.value)

    assert "dream-envs frontier" in told()
    for content in (b"{", b"\xff", b"[" * 100_000, b"[]", b"{}", b'{"schema": NaN}', b'{"\\u001b[2J\\n": 1}'):
        (tmp_path / "frontier.json").write_bytes(content)
        assert "evaluate again" in told(), content
    for path, value, word in (
        ("headline.g.0", "2.3", "headline.g[0]"), ("headline.n", None, "headline.n"),
        ("verdict.word", "\x1b", "verdict"),
        ("suite.families", [7], "suite.families[0]"), ("problems", {}, "problems"), ("decay.mean", [1], "$.decay"),
        ("protocol.budget", -1, "budget"), ("schema", 2, "schema"), ("kind", "run", "kind"),
        ("pass_at_k.base.k.0", 0, "pass_at_k.base.k[0]"), ("headline.g.1", 1e300, "headline.g[1]"),
        ("problems.3.trained", [1], "problems[3].trained"), ("cover.base", [], "$.cover"),
    ):  # fmt: skip
        world.write(tmp_path, world.changed(world.data(12), path, value))
        assert word in told(), path
    assert not (tmp_path / "report.html").exists()


# --------------------------------------------------------------------------------------------------------------- parts


@given(st.floats(-7, 9), st.floats(0.05, 13))
def test_ticks_of_a_log_axis_say_where_they_stand(low: float, span: float) -> None:
    def number(text: str) -> float:
        plain = text.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        size = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1.0)
        return 10.0 ** int(plain[2:]) if plain != text else float(text.rstrip("kMG")) * size

    with svg.style():
        axes = svg.figure()[1][0]
    axes.set_xlim(low, low + span)
    plots.log_ticks(axes)
    texts, at = [t.get_text() for t in axes.get_xticklabels()], axes.get_xticks()
    assert len(set(texts)) == len(texts) <= 8
    assert texts or span < 0.5
    for text, x in zip(texts, at, strict=True):
        assert number(text) == pytest.approx(10.0 ** float(x), rel=1e-6) and low - 1e-6 <= x <= low + span + 1e-6


def test_the_line_by_hand(data: Report) -> None:
    """The protocol's example, to the letter, and where less is known."""
    h = change(data.headline, k=1024, g=(2.31, 1.6, 2.98), e=(2.46, 1.8, 3.1), s=(0.16, 0.0, 0.5), n=2000)
    told = "G@1024 +2.3 [+1.6, +3.0] · E +2.5 [+1.8, +3.1] · S +0.2 [0.0, +0.5] · N=2,000"
    assert tables.headline(change(data, headline=h)) == told
    assert tables.headline(change(data, headline=change(h, runs=5))) == told + " · runs=5"
    assert [words.signed(x) for x in (0.04, -0.04, None)] == ["0.0", "0.0", "-"]
    assert [words.points(x) for x in (0.0, 0.004, 12.34)] == ["0.0", "0.004", "12.3"]
    assert words.label("x\n\ty" * 50, 10) == "x yx yx y…"


def test_gains_and_losses_of_a_family_by_hand(data: Report) -> None:
    """Four followed ones, one solved late, three never (one by a scaffold): three quarters of the others count."""

    def problem(trained: int, draws: int, first: int | None = None, **more: Any) -> ProblemRow:
        plain = {"family": "f", "base": (0, 16), "reached": None, "loss_first": None, "loss_draws": 0, **more}
        return change(data.problems[0], trained=(trained, 16), base_draws=draws, base_first=first, **plain)

    rows = [
        problem(16, 1024), problem(4, 1024), problem(9, 700, 700), problem(9, 1024, reached="decompose"),
        problem(16, 128), problem(16, 128), problem(5, 128),  # not followed
        problem(16, 3, 3), problem(3, 0), problem(0, 0),
        problem(0, 0, base=(9, 16), loss_draws=1024),
        problem(1, 0, base=(9, 16), loss_draws=40, loss_first=40), problem(0, 0, base=(3, 16)),
    ]  # fmt: skip
    one = data.suite.families[0]
    suite = change(data.suite, families=[change(one, name="f"), change(one, name="g")])
    protocol = change(data.protocol, need=4, budget=1024)
    f, g = tables.families(change(data, problems=rows, suite=suite, protocol=protocol))
    assert (f.gained, f.lost) == (3 + 3 * 3 / 4, 1)
    assert f.pass1 == pytest.approx(sum(r.trained[0] for r in rows) / 16 / 13)
    assert f.gain is not None and f.gain[0] == pytest.approx(100 * 5.25 / 13)
    assert (g.gained, g.lost, g.gain) == (None, None, None)


def test_the_command_is_one_that_the_verb_takes(data: Report) -> None:
    mini = change(
        data, protocol=change(data.protocol, budget=1024), suite=change(data.suite, seed="$(x)"),
        trained=change(data.trained, run="my run; rm -rf /"),
    )  # fmt: skip
    lines = [frontier_command(d) for d in (data, mini)]
    options = {o for p in typer.main.get_command(frontier_app).params for o in p.opts}
    for line in lines:
        argv = shlex.split(line)
        assert argv[:2] == ["dream-envs", "frontier"] and set(argv[2::2]) <= options
        values = dict(zip(argv[2::2], argv[3::2], strict=True))
        assert values["--envelopes"] == "decoding,scaffolds" and values["--methods"].split(",") == list(world.METHODS)
    assert "--size standard" in lines[0] and "--size mini" in lines[1]
    assert values["--trained"] == "my run; rm -rf /" and values["--seed"] == "$(x)"


def test_the_saving_by_hand(data: Report) -> None:
    cost = Cost(146_528, 100_000, 9, {"scaffolds": 70}, 5, 400_000, 1, 0, 5400, {"scaffolds": 9})
    rows = dict(tables.cost_rows(change(data, cost=cost)))
    assert rows["Saved by early stopping"] == "75 % of the base's draws in turn (4.0x fewer)"
    assert rows["Time"] == "90 min" and rows["Attempts by scaffolds"] == "70"
    assert rows["Time of scaffolds, within the whole"] == "9 s"


def test_the_terminal_tells_the_same(tmp_path: Path, data: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (40, 80, 200):
        text = printed(data, width)
        assert all(len(line) <= min(width, 100) for line in text.splitlines())
        lines = [line.split() for line in re.findall(r"^(?:compos|small-)[^,:\n]*$", text, re.MULTILINE)]
        for cells, row in zip(lines, tables.family_rows(data), strict=True):
            assert width < 80 or len({first for first, *_ in lines}) == len(lines)  # no two names look alike
            assert set(row[9:11]) <= set(cells[1:]) and "…" not in " ".join(cells[1:])  # numbers are whole
    told = " ".join(text.split())
    assert tables.headline(data) in told and f"{data.verdict.phrase}. {data.verdict.sentence}" in told
    for row in tables.family_rows(data):
        line = next(x for x in text.splitlines() if x.startswith(row[0][:24]))
        assert all(cell in line for cell in (row[2], row[3], row[6], *row[8:11]))
    assert "Vendi ratio" in told and f"{data.cost.tokens:,}" in told
    monkeypatch.setattr(plots, "PLOTS", {})
    folder = world.write(tmp_path, data)  # the verb `report` knows its folder
    assert write_report(folder).read_text("utf-8") == render_frontier(data)
    show(folder, Console(file=(same := io.StringIO()), width=200))
    assert text == same.getvalue()


@given(
    st.lists(st.tuples(st.text("ab\n", max_size=9), st.integers(0, 4), st.booleans()), min_size=1, max_size=7),
    st.integers(20, 100),
    st.integers(0, 12),
)
def test_columns_go_before_a_number_is_split(heads: list[tuple[str, int, bool]], width: int, digits: int) -> None:
    columns = [Column("name", words=True), *(Column(h, p, w) for h, p, w in heads)]
    rows = [["w" * 30, *(("word " * 3 if c.words else "8" * digits) + "!" for c in columns[1:])], []]
    Console(file=(out := io.StringIO()), width=300).print(table(columns, rows, width))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    numbers = re.findall("8+!", lines[-2])
    assert all(len(n) == digits + 1 for n in numbers) or digits == 0
    kept = {p for (h, p, w) in heads if not w and not p}
    if kept and digits and sum(not w and not p for _, p, w in heads) * (digits + 12) < width - 20:
        assert len(numbers) >= sum(not w and not p for _, p, w in heads)
    if not any(p == 0 for _, p, _ in heads):
        assert max(map(len, lines)) <= width
