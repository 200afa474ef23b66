"""The board's pages: what stands on them, what hostile text does not do there, and how they look in a browser."""

from __future__ import annotations

import csv
import html.parser
import itertools
import json
import math
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import _board as made
import msgspec
import pytest
from _browser import Browser, browser

pytest.importorskip("jinja2")

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import commit_reveal, scores
from dream_envs.leaderboard.budget import Used
from dream_envs.leaderboard.checkpoint import Judged
from dream_envs.leaderboard.site import build, told
from dream_envs.leaderboard.site.serve import server
from dream_envs.runs import write_json

ROOT = Path(__file__).parent.parent
NASTY = (
    "<script>hacked=1</script>", '"><img src=x onerror=hacked=1>', "</pre></code><svg onload=hacked=1>",
    "&lt;b&gt;&#60;", "javascript:hacked=1", "{{ 7*7 }}{% raw %}",
    "]]><!-- --><style>*{display:none}", "W" * 180, "=cmd|' /C calc'!A0",
)  # fmt: skip
#: What entry.read refuses in files; a line of results may hold it.
HIDDEN = ("\u202eevil\u2066", "\x1b[31mred\x07", "zero\u200bwidth", "\ud7ff\ufeff\u2028line")
TAGS = {
    "a", "b", "body", "br", "circle", "code", "dd", "details", "div", "dl", "dt", "em", "figcaption", "figure",
    "h1", "h2", "h3", "head", "header", "hr", "html", "li", "link", "main", "meta", "nav", "ol", "p", "path", "pre",
    "section", "small", "span", "strong", "sub", "summary", "sup", "svg", "table", "tbody", "td", "text", "th",
    "thead", "title", "tr", "ul",
}  # fmt: skip


class Page(html.parser.HTMLParser):
    """Tags, attributes and links of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.links, self.text = set[str](), set[str](), list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A board with 19 entries and a closed round, and its site."""
    root = tmp_path_factory.mktemp("board") / "leaderboard"
    made.whole(root)
    made.closed_round(root)
    build(root, root.parent / "site")
    return root, root.parent / "site"


def rows(site: Path, key: str = "practice-class1") -> list[dict[str, str]]:
    with open(site / "data" / f"{key}.csv", newline="") as file:
        return list(csv.DictReader(file))


def check(site: Path) -> dict[str, Page]:
    """Every page: no tag, attribute or link but ours, and every link leads to a file."""
    pages = {file.name: Page(file.read_text("utf-8")) for file in sorted(site.glob("*.html"))}
    for name, page in pages.items():
        assert page.tags <= TAGS, (name, page.tags - TAGS)
        assert not [a for a in page.attributes if a.startswith("on") or a in ("style", "src")], name
        for link in page.links:
            path, _, place = link.partition("#")
            assert not path or (site / path).is_file(), (name, link)
            assert not place or f'id="{place}"' in (site / (path or name)).read_text("utf-8"), (name, link)
        assert "default-src 'none'" in (site / name).read_text("utf-8")
    return pages


def test_the_table_is_what_the_lines_say(board: tuple[Path, Path]) -> None:
    """Medians, hits, ranks and means of the download, computed again from the lines alone."""
    root, site = board
    lines = [json.loads(text) for text in (root / "results" / "practice.jsonl").read_text().splitlines()]
    first = dict[tuple[str, int], dict]()
    for one in lines:
        first.setdefault((one["entry"], one["world"]), one)
    scores = dict[str, list[float]]()
    for (entry, _), one in first.items():
        scores.setdefault(entry, []).append(math.inf if one["samples"] is None else one["samples"])
    scores = {entry: its for entry, its in scores.items() if entry not in ("broken-one", "slow")}
    better = {pair: made.ahead(scores[pair[0]], scores[pair[1]]) for pair in itertools.permutations(scores, 2)}
    found = rows(site)
    assert len(found) == len(made.ENTRIES) + 2
    assert [r["entry"] for r in found if r["ranked"] == "False"] == ["broken-one", "slow"]
    for row in found[:-2]:
        its = scores[row["entry"]]
        wanted = made.spread_of(its)
        assert row["median_samples"] == ("" if math.isinf(wanted) else str(wanted)), row["entry"]
        assert int(row["hits"]) == sum(map(math.isfinite, its)) and int(row["worlds"]) == 5
        ahead = sum(better[other, row["entry"]] for other in scores if other != row["entry"])
        behind = sum(better[row["entry"], other] for other in scores if other != row["entry"])
        assert (int(row["rank_best"]), int(row["rank_worst"])) == (1 + ahead, len(scores) - behind)
        best = [one["best"] for (entry, _), one in first.items() if entry == row["entry"]]
        assert float(row["best"]) == pytest.approx(sum(best) / 5, abs=1e-6)
        assert float(row["used_seconds"]) == pytest.approx(260, abs=30)
    medians = [float(r["median_samples"] or "inf") for r in found[:-2]]
    assert medians == sorted(medians) and math.isinf(medians[-1]) and math.isfinite(medians[0])
    assert json.loads((site / "data" / "practice-class1.json").read_text())[0]["entry"] == found[0]["entry"]


def test_the_pages_show_the_rows(board: tuple[Path, Path]) -> None:
    _, site = board
    pages = check(site)
    index = " ".join(pages["index.html"].text.split())
    for row in rows(site):
        name = row["entry"]
        assert name in index and f"entry-{name}.html" in pages["index.html"].links
        if row["ranked"] == "True":
            low, high = (f"{float(row[k]):,.0f}" if row[k] else "∞" for k in ("low_samples", "high_samples"))
            assert f"[{low}, {high}]" in index and f"{row['hits']}/5" in index
    assert "depth 8 missed in 5" in index and "depths 1 to 3 lost in 5" in index
    assert "by 1" in index and "1 differs" in index and "over 400 processor s" in index
    assert index.index("random-reward") < index.rindex("Without a rank broken-one")
    drawn = (site / "index.html").read_text().count('class="world"') + (site / "index.html").read_text().count(
        'class="miss"'
    )
    assert drawn == 5 * (len(made.ENTRIES) + 6), "every world of every ranked entry is a dot or a cross"
    sleep = " ".join(pages["entry-sleep.html"].text.split())
    assert "dream-envs board reproduce sleep --round practice --class 1" in sleep and "machine-2" in sleep
    assert (
        '-says = "What replay changes in a line"' in sleep and '+parent = "replay"' in sleep and "torch 2.13.0" in sleep
    )
    assert "same hash" in sleep and "autumn-2026, class 3" in sleep
    assert "is what was committed to" in " ".join(pages["rounds.html"].text.split())


def test_the_same_files_give_the_same_bytes(board: tuple[Path, Path], tmp_path: Path) -> None:
    root, site = board
    build(root, tmp_path / "again")
    build(root, tmp_path / "again")  # over what is there
    both = [{f.relative_to(p): f.read_bytes() for f in p.rglob("*") if f.is_file()} for p in (site, tmp_path / "again")]
    assert both[0] == both[1] and [p.name for p in tmp_path.iterdir()] == ["again"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DreamEnvsError, match="holds something else than a site"):
        build(root, tmp_path / "mine")
    with pytest.raises(DreamEnvsError, match="holds no entries"):
        build(tmp_path / "nowhere", tmp_path / "out")
    (root / "results" / "practice.jsonl").rename(tmp_path / "kept")
    try:
        (root / "results" / "practice.jsonl").write_text('{"entry": 3}\n\n')
        with pytest.raises(DreamEnvsError, match=r"practice\.jsonl, line 1"):
            build(root, site)
    finally:
        (tmp_path / "kept").rename(root / "results" / "practice.jsonl")
    assert (site / "index.html").read_bytes() == both[0][Path("index.html")], "what failed has changed nothing"


def hostile(root: Path) -> None:
    """A board whose every text is an attack."""
    for i, text in enumerate(NASTY):
        code = f"# {text[:150]}\nLOOP = {text[:150]!r}\n"
        own = made.write_entry(
            root, f"e{i}", says=text, authors=[text[:80]], code=code, parent=f"e{i - 1}" if i else ""
        )
        plain = made.line(f"e{i}", own, 0, (20_000, 3.0, 0.97), by=text)
        told = {"date": text, "source": text, "base": text, "weights": text, "versions": {text: text}, "miss": text}
        lines = [msgspec.structs.replace(plain, **told), msgspec.structs.replace(plain, hash=text, by=f"{text}2")]
        lines.append(msgspec.structs.replace(plain, entry=text, status="error", detail=text))
        scores.append(root / "results" / "practice.jsonl", lines)
    own = made.write_entry(root, "hidden")
    (root / "rounds").mkdir()
    for i, text in enumerate(HIDDEN):
        plain = made.line("hidden", own, i, (20_000, 3.0, 0.97), by=text)
        scores.append(root / "results" / "practice.jsonl", [msgspec.structs.replace(plain, detail=text, status=text)])
    wrong = msgspec.structs.replace(plain, round="../../etc", budget=7)
    odd = msgspec.structs.replace(
        plain, world=10**15, used=Used(2**62, 1, 1, 1, 1e300), curve=[[1, 2], [3] * 8], status="ok"
    )
    scores.append(root / "results" / "practice.jsonl", [wrong, odd])
    judged = [
        Judged(*[text] * 6, (12.5, 8.0, 17.0), text, text, text, text * 5, [text, text], text, text)
        for text in (*NASTY, *HIDDEN)
    ]
    scores.append(root / "results" / "practice-checkpoints.jsonl", judged)  # type: ignore[arg-type]
    for i, text in enumerate((*NASTY, *HIDDEN)):
        one = commit_reveal.Round(f"r{i}", text, text, text, text, {text: text}, text, text)
        write_json(root / "rounds" / f"r{i}.json", msgspec.to_builtins(one))
    bad = root / "entries" / "bidi"
    bad.mkdir()
    (bad / "entry.toml").write_text("says = '\u202e'\n", "utf-8")


def test_hostile_text_is_text(tmp_path: Path) -> None:
    root, site = tmp_path / "leaderboard", tmp_path / "site"
    hostile(root)
    result = build(root, site)
    assert "U+202E" in told(result) and "1 lines in results/practice.jsonl" in told(result)
    pages = check(site)
    for file in site.rglob("*"):
        if file.is_file():
            text = file.read_bytes().decode("utf-8")
            assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\ufeff\x1b\x07]", text) or file.suffix == ".json", (
                file
            )
    for i, text in enumerate(NASTY):
        assert text in pages[f"entry-e{i}.html"].text, "it is shown as it stands"
    assert "\\u202eevil" in pages["entry-hidden.html"].text and "49" not in pages["entry-e5.html"].text[:400]
    assert all(not row["says"].startswith(("=", "+", "-", "@")) for row in rows(site))
    assert {p.name for p in site.iterdir()} == {"data", *pages, "style.css", "icon.svg", "board-site.json"}
    assert pages["index.html"].text.count("+12.5 [+8.0, +17.0]") == len(NASTY) + len(HIDDEN)
    for file in site.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)


def test_an_entry_that_changed_has_no_rank(tmp_path: Path) -> None:
    root, site = tmp_path / "leaderboard", tmp_path / "site"
    shapes = {"one": (20_000, 3.0, 0.97), "two": (30_000, 3.0, 0.97), "gone": (10_000, 3.0, 0.97)}
    old = {name: made.write_entry(root, name) for name in shapes}
    file = root / "results" / "practice.jsonl"
    scores.append(file, [made.line(n, old[n], w, s) for n, s in shapes.items() for w in range(2)])
    new = {name: made.write_entry(root, name, says="Better") for name in ("one", "two")}
    scores.append(file, [made.line("two", new["two"], w, shapes["two"]) for w in range(2)])
    scores.append(file, [made.line("two", old["two"], 0, shapes["two"])])  # somebody repeats the old one later
    for path in (root / "entries" / "gone").iterdir():
        path.unlink()
    (root / "entries" / "gone").rmdir()
    build(root, site)
    found = {r["entry"]: r for r in rows(site)}
    assert found["two"]["ranked"] == "True" and found["two"]["entry_hash"] == new["two"]
    assert "changed since" in found["one"]["why_not"] and "no entry of this name" in found["gone"]["why_not"]
    pages = check(site)
    assert (
        pages["entry-two.html"].text.count("other files") == 3
        and "no folder of this name" in pages["entry-gone.html"].text
    )


def test_small_boards(tmp_path: Path) -> None:
    """No results at all; one world; an entry that ran in fewer worlds than the others."""
    root, site = tmp_path / "leaderboard", tmp_path / "site"
    own = {name: made.write_entry(root, name) for name in ("a", "b", "c")}
    build(root, site)
    assert "No run has been recorded yet" in check(site)["index.html"].text
    lines = [made.line(name, own[name], 0, (20_000, 3.0, 0.97)) for name in own]
    scores.append(root / "results" / "practice.jsonl", lines)
    build(root, site)
    assert all((r["rank_best"], r["rank_worst"]) == ("1", "3") for r in rows(site))
    scores.append(root / "results" / "practice.jsonl", [made.line(n, own[n], 1, (20_000, 3.0, 0.97)) for n in "ab"])
    build(root, site)
    assert {r["entry"]: r["why_not"] for r in rows(site)} == {"a": "", "b": "", "c": "incomplete: 1 of 2 worlds"}
    check(site)


def test_the_frozen_files_count_in_a_round(board: tuple[Path, Path]) -> None:
    root, site = board
    found = rows(site, "autumn-2026-class3")
    frozen = commit_reveal.load(root, "autumn-2026").frozen
    assert {r["entry"] for r in found if r["ranked"] == "True"} == set(frozen)
    assert {r["entry"]: r["why_not"] for r in found if r["ranked"] == "False"} == {"ttrl": "not frozen in this round"}


def test_results_for_a_model_card_are_yaml(board: tuple[Path, Path]) -> None:
    yaml = pytest.importorskip("yaml")
    _, site = board
    (first, second) = yaml.safe_load((site / "data" / "eval_results" / "sleep.yaml").read_text())
    assert {first["dataset"]["task_id"], second["dataset"]["task_id"]} == {"autumn-2026-class3", "practice-class1"}
    for one in (first, second):
        assert 0 < one["value"] <= 1 and one["dataset"]["id"] and re.fullmatch(r"\d{4}-\d\d-\d\d", one["date"])


def test_the_rules_page_is_the_documents_text(tmp_path: Path) -> None:
    """And what the document says of budgets and of the goal is what the code holds."""
    from dream_envs.leaderboard.budget import CLASSES
    from dream_envs.leaderboard.goal import GOAL, KEPT, LEVELS, PROBLEMS

    text = (ROOT / "docs" / "leaderboard.md").read_text("utf-8")
    for number, budget in CLASSES.items():
        cells = (budget.samples, budget.tokens, budget.steps, round(budget.seconds))
        assert f"| {number} | {' | '.join(f'{c:,}' for c in cells)} |" in text and str(budget.points) in text
    assert (
        f"success {GOAL} at depth {LEVELS[-1]} while depths {LEVELS[0]} to {LEVELS[-2]} stay at {KEPT}"
        in text.replace("\n", " ")
    )
    assert f"{PROBLEMS} problems" in text.replace("\n", " ")
    root = tmp_path / "leaderboard"
    made.write_entry(root, "a")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leaderboard.md").write_text(text + "\n<script>hacked=1</script>\n", "utf-8")
    build(root, tmp_path / "site")
    shown = check(tmp_path / "site")["rules.html"].text
    assert "Your first entry in ten minutes" in shown and "What is not caught" in shown and "<script>hacked=1" in shown


def test_serve(board: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError, match="board build"):
        server(tmp_path, 0)
    with server(board[1], 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        assert running.server_address[0] == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{running.server_port}/index.html", timeout=60) as reply:
            assert reply.headers["X-Content-Type-Options"] == "nosniff" and b"practice-class1" in reply.read()
        with pytest.raises(DreamEnvsError, match="choose another"):
            server(board[1], running.server_port)
        running.shutdown()
        thread.join(60)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if (program := browser()) is None:
        pytest.skip("no Chromium on this machine")
    with Browser(program, tmp_path_factory.mktemp("home")) as found:
        yield found


PAGES = ("index", "curves-practice-class1", "entry-sleep", "rounds", "rules")


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_it_fits_logs_nothing_and_asks_nobody(
    chromium: Browser, board: tuple[Path, Path], tmp_path: Path, width: int, dark: bool
) -> None:
    root = tmp_path / "leaderboard"
    hostile(root)
    build(root, tmp_path / "site")
    hostile_pages = [tmp_path / "site" / f"{name}.html" for name in ("index", "entry-e1", "entry-e7", "entry-hidden")]
    with server(board[1], 0) as fine, server(tmp_path / "site", 0) as attacked:
        for running in (fine, attacked):
            threading.Thread(target=running.serve_forever, daemon=True).start()
        at = {running: f"http://127.0.0.1:{running.server_port}/" for running in (fine, attacked)}
        addresses = [f"{at[fine]}{name}.html" for name in PAGES]
        addresses += [f"{at[attacked]}{page.name}" for page in hostile_pages]
        for address in addresses:
            chromium.open(address, width, 800, dark=dark)
            chromium.value("for (const d of document.querySelectorAll('details')) d.open = true")
            assert chromium.value("document.documentElement.scrollWidth") <= width, address
            ground = chromium.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (max(ground) < 64) == dark, "the style sheet was loaded"
            assert chromium.value("[typeof hacked, document.scripts.length]") == ["undefined", 0]
        for running in (fine, attacked):
            running.shutdown()
    assert not chromium.logged, chromium.logged[:3]
    assert all(url.startswith((*at.values(), "about:")) for url in chromium.asked), chromium.asked
    chromium.asked.clear()
