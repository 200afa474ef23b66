"""The run report: the numbers are the data's, everything is escaped, nothing comes from outside."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import _run_folders as folders
import msgspec
import pytest

from dream_envs.core import DreamEnvsError, encode
from dream_envs.report import page as page_module
from dream_envs.report import plots, samples, svg
from dream_envs.report.page import command, render, write_report
from dream_envs.schema import Role

TAGS = re.compile(
    "html|head|meta|title|style|body|main|header|nav|section|article|figure|figcaption|details|summary|h[123]|p|ul|ol|li|"
    "a|dl|dt|dd|div|span|small|pre|code|table|thead|tbody|tr|th|td|svg|g|defs|path|use|text|clipPath|rect"
)


class Page:
    """A page read as strictly as XML is: its elements, its text and the cells of its tables."""

    def __init__(self, page: str) -> None:
        head, _, body = page.partition("\n")
        assert head == "<!doctype html>"
        closed = re.sub("[\ufffe\uffff]", "", re.sub("<meta ([^>]*)>", r"<meta \1/>", body))
        root = ElementTree.fromstring(closed)
        self.elements = list(root.iter())
        assert all(TAGS.fullmatch(e.tag) for e in self.elements)
        for style in root.iter("style"):
            style.text = ""
        self.text = "".join(root.itertext())
        self.tables = [
            [[" ".join(" ".join(cell.itertext()).split()) for cell in row] for row in table.iter("tr")]
            for table in root.iter("table")
        ]


def check(page: str) -> Page:
    """Well-formed, inert, self-contained and accessible."""
    found = Page(page)
    ids = [e.attrib["id"] for e in found.elements if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    for e in found.elements:
        assert not any(name.startswith("on") or name == "src" for name in e.attrib), (e.tag, e.attrib)
        assert e.get("href", "#")[0] == "#" and e.get("href", "#x")[1:] in {*ids, "x"}
        assert e.tag != "th" or e.attrib["scope"] in ("col", "row", "colgroup")
        assert e.tag != "svg" or (e.attrib["role"] == "img" and len(e.attrib["aria-label"]) > 40)
    for needed in ('name="viewport"', "prefers-color-scheme: dark", "default-src 'none'", 'lang="en"'):
        assert needed in page
    assert not re.search(r"url\((?!#)", page) and "@import" not in page
    assert len(page.encode()) < 1_500_000
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]", page)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report(run).read_text("utf-8")


def table_of(page: Page, head: str) -> list[list[str]]:
    """The rows of the table whose first row has these words."""
    return next(rows for first, *rows in page.tables if head in " ".join(first))


def test_page_is_inert_and_small_and_the_same_folder_gives_the_same_bytes(run: Path, page: str) -> None:
    assert "http" not in page.replace("http-equiv", "") and len(page) < 600_000
    assert render(run) == page


def near(shown: float, value: float) -> bool:
    return shown == pytest.approx(value, rel=0.05, abs=6e-4 if value > 0.009 else 0)


def test_table_numbers_are_those_of_the_summary(page: str) -> None:
    table = table_of(check(page), "level base base 95 %")
    wanted = folders.exact().levels
    assert [r[0] for r in table] == [str(d) for d in range(1, 11)] + [f"{d}*" for d in range(2, 11)]
    for row, entry in zip(table, wanted, strict=True):
        for column, stats in ((1, entry.base), (3, entry.trained)):
            shown = [float(row[column]), *(float(x) for x in row[column + 1].split(" to "))]
            for x, y in zip(shown, [stats["T=1"].mean, *stats["T=1"].ci], strict=True):
                assert near(x, y)
        assert float(row[5]) == pytest.approx(entry.base["T=1"].median_log10, abs=0.051)
        assert float(row[8]) == pytest.approx(entry.trained["forced"].mean, rel=0.05)
        assert [int(c.split(":")[0]) for c in row[9:12]] == list(entry.tiers.values())
        assert float(row[12]) == pytest.approx(16.0**-entry.level, rel=0.05)


def test_decoder_table_has_each_decoder_in_its_column(page: str) -> None:
    table = table_of(check(page), "level base T=1 base best_T")
    columns = [(who, d) for who in ("base", "trained") for d in folders.DECODERS]
    for row, entry in zip(table, folders.exact().levels, strict=True):
        for (who, decoder), cell in zip(columns, row[1:], strict=True):
            mean, _, top = cell.split(", ")
            wanted = getattr(entry, who)[decoder]
            assert near(float(mean), wanted.mean) and near(float(top), wanted.max)


def test_the_template_itself_makes_text_visible(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "command", lambda run: "<b>\u202e\x00")
    assert r"<b>\u202e\x00" in check(render(run)).text


def test_what_matters_stands_first_and_pictures_before_tables(page: str) -> None:
    order = [
        *("70 problems beyond the samples", "5.0e-6 → 0.951", "70 of 1,408", "0.081 → 0.104", "153,600"),
        *("Reward by role", "reward first", "Success by level, log scale", "trained 95 %", "Success while learning"),
        *("Before and after each night", "Turned away", "Alarms", "What was run", "Sample episodes"),
        *("What the words mean", "What may not be concluded", "New facts."),
    ]  # fmt: skip
    text, at = check(page).text, 0
    at = text.index("Did the loop")
    for told in order:
        at = text.index(told, at)


def evaluated(data: Any, name: str) -> str:
    with svg.style():
        return next(p.svg for p in plots.evaluation_plots(data, 153_600) if p.name == name)


def test_the_plotted_line_is_the_data() -> None:
    data = folders.exact(held_out=False)
    found = ElementTree.fromstring(evaluated(data, "level-linear")).iter("path")
    paths = [e.get("d", "") for e in found if "var(--trained)" in e.get("style", "")]
    lines = [d for d in paths if d.count("L") == 9 and "z" not in d]
    points = [[float(n) for n in re.findall(r"-?[\d.]+", d)] for d in lines]
    assert len(points) == 1
    heights, means = points[0][1::2], [e.trained["T=1"].mean for e in data.levels]
    scale = (heights[9] - heights[0]) / (means[9] - means[0])
    assert scale < 0  # SVG counts downwards
    for height, mean in zip(heights, means, strict=True):
        assert height == pytest.approx(heights[0] + scale * (mean - means[0]), abs=0.01)


def test_flat_pass_at_k_has_a_log_axis() -> None:
    drawn = evaluated(folders.exact(), "pass-at-k")
    assert "pass@k, level 4" in drawn and "pass@k, level 4, log" not in drawn and "pass@k, level 8, log scale" in drawn


@pytest.mark.parametrize(
    ("evaluation", "there", "absent"),
    [
        (folders.exact(learnt=False, held_out=False), ["0 of 1,408", "A step beyond the base"], ["E2"]),
        (folders.sampled(), ["Success by level, linear", "more samples of the base"], ["pass@k", "best_T", "T2"]),
        (folders.played(), ["Base and trained", "exploitability", "0.121 to 0.492", "high is good"], ["Success P"]),
        (None, ["Rewards by role"], ["What the policy can do", "may not be concluded"]),
    ],
)  # fmt: skip
def test_each_kind_of_evaluation_has_its_sections(tmp_path: Path, evaluation: Any, there: Any, absent: Any) -> None:
    text = check(render(folders.write(tmp_path, summary=folders.summary(evaluation=evaluation)))).text
    assert all(told in text for told in there) and not any(told in text for told in absent)


def test_roles_are_those_of_the_run(tmp_path: Path) -> None:
    roles = [Role("opener", "an answer", -1.0, 1.0, True, 0.1, -0.2), Role("judge", "1 or 2", 0.0, 1.0, False)]
    rows = [{"step": i, "reward/opener/mean": 0.1 - i, "reward/opener/std": 0.2} for i in range(3)]
    made = folders.summary(roles=roles, evaluation=folders.played(), samples={"opener": 5, "total": 5})
    shown = check(render(folders.write(tmp_path, summary=made, metrics=rows, episodes=None)))
    assert "challenger" not in shown.text and "solver" not in shown.text
    first, second = table_of(shown, "role learns")
    assert first[:4] == ["opener", "yes", "0.100", "-0.200"] and second[:4] == ["judge", "no", "-", "-"]


def test_lessons_are_a_matrix(tmp_path: Path) -> None:
    shown = check(render(folders.write(tmp_path, summary=folders.summary(retention=folders.RETENTION, nights=[]))))
    assert table_of(shown, "night in context I J K") == [
        ["1", "0.750", "0.800", "0", ""],
        ["2", "1.000", "0.600", "0.900", "0"],
        ["3", "0.875", "0.500", "0.700", "1.000"],
    ]
    assert "What is left of each lesson?" in shown.text and "backward transfer: -0.250" in shown.text
    assert "Before and after each night" not in shown.text


def test_nights_are_told(page: str) -> None:
    first, second = table_of(check(page), "night experiences")
    assert first[:5] == ["1", "1,147", "46,594", "3 of 4", "0.005 to 0.008"]
    assert (first[-1], second[-1]) == ("yes", "undone")
    assert table_of(check(page), "night 1 4")[1] == ["2", "0.990 → 0.990", "0.400 → 0.200"]


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    text = check(render(folders.write(tmp_path, summary=None))).text
    assert "not finished" in text and "may not be concluded" not in text
    assert "Success while learning" in text and "Highest level that was solved" in text
    for part in (parts := ("run", "summary", "metrics", "episodes")):  # each file alone is enough
        check(render(folders.write(tmp_path / part, **{p: None for p in parts if p != part})))


NASTY = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>{{ 7*7 }}{% raw %}</style></title></textarea><!--",
    "\x00\x1b]0;x\x07\x1b[31m\r\x9b\u202eevil\u2066\u200b\u2028",
    "مرحبا ‫bidi‬ שלום Z\u0351\u0351\u0351",
    "W" * 1_000_000,
)


@pytest.mark.parametrize("text", NASTY)
def test_hostile_text_is_shown_and_never_run(tmp_path: Path, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    made, rows = folders.summary(), folders.metric_rows(9)
    about = msgspec.structs.replace(made.run, loop=text, env=text)
    roles = [msgspec.structs.replace(role, name=text, reply=text) for role in made.roles[:1]]
    left = {**folders.RETENTION, "lessons": [text, "J", "K"]}
    made = msgspec.structs.replace(made, verdict=text, run=about, roles=roles, retention=left)
    rows[4]["alarms"], rows[5][f"reward/{text}/mean"] = [text], 0.5
    run = {**folders.RUN, "loop": text, text[:99]: {text: [text]}, "argv": ["dream-envs", text], "commit": text}
    hostile = [folders.with_texts(e, text) for e in folders.episodes()]
    page = render(folders.write(tmp_path, summary=made, metrics=rows, run=run, episodes=hostile))
    shown = check(page)
    if text.isprintable() and "\u0351" not in text and len(text) < 200:
        assert shown.text.count(text) >= 6  # as text: the reader has unescaped it
    if len(text) > 2000:
        assert "(999,400 more characters)" in shown.text and len(page) < 600_000


def test_broken_episodes_are_counted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, episode = folders.write(tmp_path), encode(folders.episodes()[0])
    monkeypatch.setattr(samples, "MAX_LINE", 1 << 16)
    with open(folder / "episodes.jsonl", "ab") as file:
        file.write(b"\xff\xfe\n{}\n[1]\n" + b"[" * 5000 + b"\n")
        file.write(b" " * (3 << 16) + episode + b"\n" + episode + b"\n" + episode[:-9])
    found = samples.pick(folder)
    assert (found.episodes, found.unread) == (len(folders.episodes()) + 1, 5)
    assert "5 lines of episodes.jsonl" in check(render(folder)).text


def test_samples_are_the_episodes_they_claim_to_be(run: Path) -> None:
    first, rejected, deepest, failed = samples.pick(run).shown
    assert "Episode 0" in first.about and [(m.who, m.verdict, m.times) for m in first.moves] == [
        ("challenger", "", 1), ("solver", "right", 5), *[("solver", "wrong", 1)] * 3,
    ]  # fmt: skip
    assert "Episode 1" in rejected.about and "charset" in rejected.about
    assert "Episode 3" in deepest.about and "author mutation" in deepest.about and "level 6" in deepest.about
    assert [m.verdict for m in deepest.moves if m.who == "solver"] == ["right", "wrong", "wrong"]
    assert "Episode 5" in failed.about and {m.verdict for m in failed.moves if m.who == "solver"} == {"wrong"}
    assert deepest.moves[0].reward == "0.375"


def test_a_judges_verdict_is_no_truth_where_the_truth_is_known(tmp_path: Path) -> None:
    episode = folders.episodes()[0]
    facts = {**episode.outcome.facts, "correct": {"solver_0": 1.0}, "truth": {"solver_0": 0.0}}
    told = msgspec.structs.replace(episode, outcome=msgspec.structs.replace(episode.outcome, facts=facts))
    (shown,) = samples.pick(folders.write(tmp_path, episodes=[told])).shown
    assert [m.verdict for m in shown.moves if m.who == "solver"][:1] == ["wrong"]


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    folder = folders.write(tmp_path)
    block = (folder / "episodes.jsonl").read_bytes()
    times = (8 << 20) // len(block)
    (folder / "episodes.jsonl").write_bytes(block * times)
    tracemalloc.start()
    try:
        assert samples.pick(folder).episodes == times * len(folders.episodes())
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


SUMMARY = msgspec.to_builtins(folders.summary())


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("summary.json", b"[]", "no run's summary"),
        ("summary.json", b"\xff", "no run's summary"),
        ("summary.json", msgspec.json.encode({**SUMMARY, "schema": 1}), "schema 1"),
        ("summary.json", msgspec.json.encode({**SUMMARY, "verdict": 3}), "verdict"),
        ("summary.json", msgspec.json.encode({**SUMMARY, "nights": [{"number": "x"}]}), "nights"),
        ("summary.json", msgspec.json.encode({**SUMMARY, "retention": {"closed": 1}}), "retention"),
        ("summary.json", msgspec.json.encode({**SUMMARY, "diversity": {"base": []}}), "diversity"),
        ("metrics.jsonl", b'{"step": 1}\n[1]\n', "line 2"),
        ("run.json", b"nonsense", "not JSON"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    with pytest.raises(DreamEnvsError, match=r"holds no run.*summary\.json"):
        write_report(tmp_path)
    folders.write(tmp_path, episodes=None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DreamEnvsError) as caught:
        write_report(tmp_path)
    told = str(caught.value)
    assert "\n" not in told and str(tmp_path / name) in told and word in told
    assert not (tmp_path / "report.html").exists()


def test_without_jinja2_or_matplotlib(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['jinja2'] = sys.modules['matplotlib'] = None\n"
        "import dream_envs.report.page, dream_envs.report.terminal\n"
        f"from rich.console import Console; dream_envs.report.terminal.show({str(run)!r}, Console(file=sys.stderr))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    for name in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch, pytest.raises(DreamEnvsError, match=name):
            patch.setitem(sys.modules, name, None)
            render(run)


def test_command_can_be_pasted() -> None:
    assert command({}) == command({"argv": "x"}) == command({"argv": [1]}) == ""
    assert command({"argv": ["cli.py", "dream", "--out", "a b"]}) == "python -m dream_envs.cli dream --out 'a b'"
    assert command({"argv": ["x", "$(rm)"], "commit": "a;b"}) == "git checkout 'a;b'\nx '$(rm)'"
