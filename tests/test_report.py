"""The run report: the numbers are the data's, everything is escaped, nothing comes from outside."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import _run_folders as folders
import pytest

from dream_envs.core import DreamEnvsError, encode
from dream_envs.report import plots, read, samples, words
from dream_envs.report.page import command, render, write_report

VOID = {"meta", "br"}
TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main header nav section article figure figcaption details summary h1 h2 h3 p "
        "ul ol li a dl dt dd div span small pre code table caption thead tbody tr th td "
        "svg g defs path use text tspan clippath rect",
    )
)


class Page(HTMLParser):
    """Reads a page strictly: fails on a tag that is unknown, closed without being open, or left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(page)
        self.close()
        assert not self.stack, self.stack
        self.text = "".join(self.words)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in TAGS, tag
        self.attributes.append((tag, {k: v or "" for k, v in attrs}))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID and self.stack and self.stack[-1] == tag, (tag, self.stack[-3:])
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.stack:
            return
        self.words.append(data)
        if self.stack and {"td", "th"} & set(self.stack):
            self.tables[-1][-1][-1] += " " + data if data.strip() else ""


def check(page: str) -> Page:
    """Well-formed, inert, self-contained and accessible."""
    read_page = Page(page)
    found = read_page.attributes
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in found:
        assert not any(name.startswith("on") or name == "src" for name in attributes), (tag, attributes)
        assert attributes.get("href", "#")[0] == "#" and attributes.get("href", "#x")[1:] in {*ids, "x"}
        assert tag != "th" or attributes["scope"] in ("col", "row", "colgroup")
        assert tag != "svg" or (attributes["role"] == "img" and len(attributes["aria-label"]) > 40)
    assert not re.search(r"url\((?!#)", page) and "@import" not in page
    assert len(page.encode()) < 1_500_000
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]", page)
    return read_page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report(run).read_text("utf-8")


def test_page_is_well_formed_inert_and_small(page: str) -> None:
    check(page)
    assert "http" not in page.replace("http-equiv", "") and len(page) < 400_000
    for needed in ('name="viewport"', "prefers-color-scheme: dark", "default-src 'none'", 'lang="en"'):
        assert needed in page


def test_the_same_folder_gives_the_same_bytes(run: Path, page: str) -> None:
    assert render(run) == page


def test_table_numbers_are_those_of_the_json(run: Path, page: str) -> None:
    data = json.loads((run / "frontier.json").read_text())
    table = check(page).tables[0][2:]
    assert [r[0].strip() for r in table] == [str(d) for d in range(1, 11)] + [f"{d}*" for d in range(2, 11)]
    for row in table:
        depth, split = int(row[0].strip(" *")), "held_out" if "*" in row[0] else "any"
        entry = next(e for e in data["depths"] if (e["depth"], e["split"]) == (depth, split))
        for who, cell in (("base", row[1]), ("trained", row[2])):
            shown = [float(x) for x in re.split(r"[\s–]+", cell.strip())]
            wanted = entry[who]["T=1"]
            for x, y in zip(shown, [wanted["mean"], *wanted["ci"]], strict=True):
                assert x == pytest.approx(y, rel=0.05, abs=6e-4 if y > 0.009 else 0)
        assert float(row[3]) == pytest.approx(entry["base"]["T=1"]["median_log10"], abs=0.051)
        assert float(row[6]) == pytest.approx(entry["trained"]["forced"]["mean"], rel=0.05)
        assert [int(c.split()[0]) for c in row[7:10]] == [entry["tiers"][t] for t in ("T0", "T1", "T2")]
        assert float(row[10]) == pytest.approx(16.0**-depth, rel=0.05)


def test_decoder_table_has_each_decoder_in_its_column(run: Path, page: str) -> None:
    data = json.loads((run / "frontier.json").read_text())
    (_, names), *rows = (table := check(page).tables[1])[:2], *table[2:]
    columns = [(who, d.strip()) for who, half in (("base", names[:4]), ("trained", names[4:])) for d in half]
    assert len(set(columns)) == 8 and len(rows) == len(data["depths"])
    for row, entry in zip(rows, data["depths"], strict=True):
        for (who, decoder), cell in zip(columns, row[1:], strict=True):
            mean, top = float(cell.split()[0]), float(cell.split()[-1])
            wanted = entry[who][decoder]
            assert mean == pytest.approx(wanted["mean"], rel=0.05, abs=6e-4 if wanted["mean"] > 0.009 else 0)
            assert top == pytest.approx(wanted["max"], rel=0.05)


def test_the_template_itself_makes_text_visible(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "GLOSSARY", (("a\x00", "<b>\u202e"),))
    assert r"<b>\u202e" in check(render(run)).text


def test_what_matters_stands_first(page: str) -> None:
    text = check(page).text
    order = [
        *("70 problems beyond the budget", "2.5e-9 → 0.863", "3.0e-19 → 0.065", "70 of 1,408", "153,600"),
        *("Exact success by depth", "Alarms", "Sample rollouts", "What was run", "What the words mean"),
        *("T3, structurally absent", "What may not be concluded", "New facts."),
    ]
    places = [text.index(told, text.index("Did the loop")) for told in order[:5]]
    for told in order[5:]:
        places.append(text.index(told, places[-1]))
    assert places == sorted(places)


def test_the_plotted_line_is_the_data() -> None:
    data = folders.frontier(held_out=False)
    svg = next(p.svg for p in plots.frontier_plots(data) if p.name == "depth-linear")
    lines = [e.get("d", "") for e in ElementTree.fromstring(svg).iter("path") if "var(--trained)" in e.get("style", "")]
    points = [[float(n) for n in re.findall(r"-?[\d.]+", d)] for d in lines if d.count("L") == 9 and "z" not in d]
    assert len(points) == 1
    heights, means = points[0][1::2], [e["trained"]["T=1"]["mean"] for e in data["depths"]]
    scale = (heights[9] - heights[0]) / (means[9] - means[0])
    assert scale < 0  # SVG counts downwards
    for height, mean in zip(heights, means, strict=True):
        assert height == pytest.approx(heights[0] + scale * (mean - means[0]), abs=0.01)


def test_a_run_that_learnt_nothing_says_so(tmp_path: Path) -> None:
    data = folders.frontier(learnt=False, held_out=False)
    text = check(render(folders.write(tmp_path, frontier=data))).text
    assert "2.5e-9 → 2.5e-9" in text and "0 of 1,408" in text
    assert "Any step beyond the base" in text and "this evaluation has none" in text


def test_a_run_that_was_not_measured_yet(tmp_path: Path) -> None:
    text = check(render(folders.write(tmp_path, frontier=None))).text
    assert "has not been measured" in text and "What may not be concluded" not in text
    assert "Exact success while learning" in text and "Deepest problem that was solved" in text


@pytest.mark.parametrize("part", ["run", "frontier", "metrics", "episodes"])
def test_each_file_alone_is_enough(tmp_path: Path, part: str) -> None:
    others = {p: None for p in ("run", "frontier", "metrics", "episodes") if p != part}
    check(render(folders.write(tmp_path, **others)))


NASTY = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>{{ 7*7 }}{% raw %}</style></title></textarea><!--",
    "\x00\x1b]0;x\x07\x1b[31m\r\x9b\u202eevil\u2066\u200b\u2028",
    "مرحبا ‫bidi‬ שלום Z\u0351\u0351\u0351",
    "W" * 1_000_000,
)


@pytest.mark.parametrize("text", NASTY)
def test_hostile_text_is_shown_and_never_run(tmp_path: Path, text: str) -> None:
    data, rows = folders.frontier(), folders.metric_rows(9)
    data["verdict"] = data["run"]["arm"] = data["beyond"]["examples"][0]["prompt"] = text
    data["run"]["support"]["depths"] = data["depths"][3]["n"] = [text]
    rows[4]["alarms"], rows[5]["exact"] = [text], {text: 0.5}
    run = {**folders.RUN, "arm": text, text[:99]: {text: [text]}, "argv": ["dream-envs", text], "commit": text}
    hostile = [folders.with_texts(e, text) for e in folders.episodes()]
    page = render(folders.write(tmp_path, frontier=data, metrics=rows, run=run, episodes=hostile))
    shown = check(page)
    if text.isprintable() and "\u0351" not in text and len(text) < 200:
        assert shown.text.count(text) >= 8  # as text: the reader has unescaped it
    if len(text) > 2000:
        assert "(999,400 more characters)" in shown.text and len(page) < 400_000


def test_a_lone_surrogate_in_a_json_file(tmp_path: Path) -> None:
    folder = folders.write(tmp_path, frontier={**folders.frontier(), "verdict": "a\ud800b"})
    assert r"a\ud800b" in check(write_report(folder).read_text("utf-8")).text


def test_broken_lines_are_counted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, episode = folders.write(tmp_path), encode(folders.episodes()[0])
    monkeypatch.setattr(read, "MAX_LINE", 1 << 16)
    with open(folder / "episodes.jsonl", "ab") as file:
        file.write(b"\xff\xfe\n{}\n[1]\n" + b"[" * 5000 + b"\n")
        file.write(b" " * (3 << 16) + episode + b"\n" + episode + b"\n" + episode[:-9])
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b"nonsense\n[]\n" + b"[" * 5000 + b'\n{"step": 160, "samples": 1e999, "valid": true}\n{"step"')
    found = samples.pick(folder)
    assert (found.episodes, found.unread) == (len(folders.episodes()) + 1, 5)
    metrics = read.read_metrics(folder)
    assert (len(metrics.samples), metrics.unread, metrics.samples[-1]) == (161, 3, 160.0)
    text = check(render(folder)).text
    assert "5 lines of episodes.jsonl" in text and "3 lines of metrics.jsonl" in text


def test_samples_are_the_episodes_they_claim_to_be(run: Path) -> None:
    first, rejected, deepest, failed = samples.pick(run).shown
    assert (first.index, first.proposal, first.author) == (0, "c:BDA", "challenger")
    assert [(r.verdict, r.times) for r in first.replies] == [("right", 5), ("wrong", 1), ("wrong", 1), ("wrong", 1)]
    assert (rejected.index, rejected.replies) == (1, []) and "charset" in rejected.fate
    assert (deepest.index, deepest.author) == (3, "mutation") and "level 6" in deepest.fate
    assert [r.verdict for r in deepest.replies] == ["right", "wrong", "wrong"]
    assert failed.index == 5 and {r.verdict for r in failed.replies} == {"wrong"}
    assert deepest.reward == "0.375"


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    folder = folders.write(tmp_path)
    block = (folder / "episodes.jsonl").read_bytes()
    times = (16 << 20) // len(block)
    with open(folder / "episodes.jsonl", "wb") as file:
        for _ in range(times):
            file.write(block)
    tracemalloc.start()
    try:
        assert samples.pick(folder).episodes == times * len(folders.episodes())
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    def told() -> str:
        with pytest.raises(DreamEnvsError) as caught:
            write_report(tmp_path)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
        return str(caught.value)

    assert "frontier.json" in told()
    for content, word in ((b"{", "not JSON"), (b"[]", "list"), (b'{"schema": 2}', "schema 2"), (b"\xff", "not JSON")):
        (tmp_path / "frontier.json").write_bytes(content)
        assert word in told()
    assert not (tmp_path / "report.html").exists()


def test_without_jinja2_or_matplotlib(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['jinja2'] = sys.modules['matplotlib'] = None\n"
        "import dream_envs.report, dream_envs.report.page, dream_envs.report.terminal, dream_envs.report.study\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    for name in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch, pytest.raises(DreamEnvsError, match=name):
            patch.setitem(sys.modules, name, None)
            render(run)


def test_command_can_be_pasted() -> None:
    assert command({}) == command({"argv": "x"}) == command({"argv": [1]}) == ""
    assert command({"argv": ["cli.py", "dream", "--out", "a b"]}) == "python -m dream_envs.cli dream --out 'a b'"
    assert command({"argv": ["x", "$(rm)"], "commit": "a;b"}) == "git checkout 'a;b'\nx '$(rm)'"


def _paths(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value down to the numbers of one depth."""
    inner = data.items() if isinstance(data, dict) else enumerate(data[:1]) if isinstance(data, list) else ()
    return [p for k, v in inner for p in [(*at, k), *_paths(v, (*at, k))]]


@pytest.mark.parametrize("junk", [None, "x", [], {}, [None, "x"], True, -1.0, 1e308, float("nan"), 10**400])
def test_any_part_of_the_frontier_may_be_junk(junk: Any) -> None:
    from dream_envs.report import figures, page, terminal

    whole = folders.frontier()
    for path in _paths(whole):
        data = copy.deepcopy(whole)
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = junk
        figures.headline(data)
        figures.cautions(data)
        terminal.table(data)
        page._examples(data)
        page._entropy(data)
        for entry in figures.rows(data):
            page._row(entry)
            page._decoder_row(entry)


@pytest.mark.parametrize("junk", [None, "x", {"1": "x"}, [None, "x"], -1.0, 1e308])
def test_plots_of_junk(junk: Any) -> None:
    whole = folders.frontier()
    for path in (("depths", 0, "depth"), ("depths", 5, "base"), ("samples", "total"), ("pass_at_k", "depths", "4")):
        data = copy.deepcopy(whole)
        inner: Any = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = junk
        for plot in plots.frontier_plots(data):
            ElementTree.fromstring(plot.svg)
