"""The transcripts' page in a real browser: what a reader does, and what a hostile episode does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _transcripts as made
import msgspec
import pytest
from _browser import Browser, browser
from test_transcripts import NASTY

from dream_envs.core import Score
from dream_envs.report.transcripts import write_transcripts

PROGRAM = browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
SHOWN = "[...document.querySelectorAll('#list a')].map((a) => a.hash)"
TITLE = "document.querySelector('#episode h2')?.textContent"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(PROGRAM), tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Kuhn's episodes 0 to 5, then the stranger's 50 to 54, each with a reward, a round and a level of its own."""
    episodes = made.games()
    for i in range(5):
        one = made.stranger(50 + i, round=i)
        (task,) = one.tasks
        scores = {**one.scores, "author_0": Score(i / 4)}
        episodes.append(msgspec.structs.replace(one, tasks=[msgspec.structs.replace(task, level=i)], scores=scores))
    folder = tmp_path_factory.mktemp("page")
    write_transcripts(made.write(folder, episodes), folder / "t.html")
    return (folder / "t.html").as_uri()


def clean(page: Browser, address: str) -> None:
    """It logged nothing, and asked for nothing but itself."""
    assert not page.logged
    assert {url.partition("#")[0] for url in page.asked} <= {address.partition("#")[0], "about:blank"}
    page.asked.clear()


def choose(page: Browser, **fields: Any) -> list[str]:
    """The list under these filters alone."""
    page.value("document.querySelector('.filters').reset()")
    page.settle()
    for name, value in fields.items():
        at = f"document.querySelector('.filters').elements['{name.replace('_', '-')}']"
        page.value(f"{at}.value = {value!r}; {at}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    page.settle(250)
    found: list[str] = page.value(SHOWN)
    return found


def test_filters(chromium: Browser, address: str) -> None:
    chromium.open(address)
    every = [*(f"#e{i}" for i in range(6)), *(f"#e{50 + i}" for i in range(5))]
    strangers = every[6:]
    assert choose(chromium) == every
    for fields, wanted in (
        ({"role": "author"}, strangers),
        ({"role": "first_0"}, every[:6]),
        ({"flag": "turned away"}, strangers),
        ({"text": "two> & MERGE"}, strangers),
        ({"text": "Verdict: 8"}, []),  # its scores were replaced
        ({"round_low": "2", "round_high": "3"}, strangers[2:4]),
        ({"level_low": "3"}, strangers[3:]),
        ({"role": "author", "reward_low": "0.25", "reward_high": "0.5"}, strangers[1:3]),
        ({"role": "reader", "reward_low": "-9"}, []),  # a score without a value is in no range
        ({"text": "no such words"}, []),
    ):
        assert choose(chromium, **fields) == wanted, fields
    assert "No episode passes" in chromium.value("document.querySelector('#episode').textContent")
    choose(chromium, role="reader", text="two> & merge")
    chromium.value("location.hash = '#e50'")
    chromium.settle()
    turns = "[...document.querySelectorAll('.turn')].filter((t) => t.offsetParent).map((t) => t.dataset.seat)"
    assert chromium.value(turns) == ["reader_0"]
    assert "Split" not in chromium.value("[...document.querySelectorAll('.message')].map((m) => m.innerText).join()")
    assert set(chromium.value("[...document.querySelectorAll('mark')].map((m) => m.textContent)")) == {"two> & merge"}
    clean(chromium, address)


def test_keys_and_links(chromium: Browser, address: str) -> None:
    chromium.open(f"{address}#e52")
    assert chromium.value(TITLE) == "Episode 52"
    for key, wanted in (("j", 53), ("ArrowRight", 54), ("j", 54), ("k", 53), ("ArrowLeft", 52)):
        chromium.key(key)
        assert chromium.value(TITLE) == f"Episode {wanted}" and chromium.value("location.hash") == f"#e{wanted}"
    visible = "document.querySelector('#episode').innerText.includes('SECRET-2-5')"
    assert not chromium.value(visible)
    chromium.key("a")
    assert chromium.value(visible)
    chromium.key("j")
    assert chromium.value(visible)  # so it stays
    chromium.key("a")
    assert not chromium.value(visible)
    chromium.value("document.querySelector('#list a').click()")
    chromium.settle()
    assert chromium.value(TITLE) == "Episode 0"
    chromium.key("/")
    chromium.key("j")  # a letter in the field, and no command
    assert chromium.value(TITLE) == "Episode 0" and chromium.value("document.activeElement.value") == "j"
    chromium.open(address, 390, 500)
    last = "document.querySelector('#list a[href=\"#e54\"]')"
    chromium.value(f"{last}.scrollIntoView(); {last}.click()")
    chromium.settle()  # an episode begins at its top, and the way back leads to where the list was left
    top = "Math.abs(document.querySelector('{}').getBoundingClientRect().top - {})"
    assert chromium.value(TITLE) == "Episode 54" and chromium.value(top.format("#episode h2", 100)) < 100
    chromium.value("document.querySelector('.back').click()")
    chromium.settle()
    assert chromium.value("document.querySelector('#episode').offsetParent === null")
    assert 0 <= chromium.value(f"{last}.getBoundingClientRect().top") < 500
    chromium.open(f"{address}#e777")
    assert "view RUN --html --index 777" in chromium.value("document.querySelector('#episode').textContent")
    for odd in ("#%3Cimg%20src=x%20onerror=hacked=1%3E", "#e5%", "#__proto__", "#e1;<b>"):
        chromium.open(address + odd)
        assert chromium.value("document.querySelectorAll('#list a').length") == 11
    clean(chromium, address)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_follows_the_colours(chromium: Browser, address: str, width: int, dark: bool) -> None:
    for place in ("", "#e0", "#e50"):
        chromium.open(address + place, width, 800, dark=dark)
        assert chromium.value("document.documentElement.scrollWidth") <= width
        ground = chromium.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(ground) < 64) == dark
        seen = chromium.value("['#list', '#episode'].map((s) => document.querySelector(s).offsetParent !== null)")
        assert seen == ([True, True] if width > 600 else [not place, bool(place)])
    clean(chromium, address)


def test_hostile_episodes_do_nothing(chromium: Browser, tmp_path: Path) -> None:
    odd = ("javascript:hacked=1", "[object Object]", "__proto__")
    texts = [text[:300_000].encode("utf-8", "replace").decode() for text in (*NASTY, *odd)]
    episodes = [made.hostile(text, i) for i, text in enumerate(texts)]
    write_transcripts(made.write(tmp_path, [*episodes, made.hostile("twice", 0)]), tmp_path / "t.html")
    page = (tmp_path / "t.html").as_uri()
    for width in (1280, 390):
        chromium.open(f"{page}#e0", width)
        for place in (*range(len(texts)), "0.2"):
            chromium.value(
                f"location.hash = '#e{place}'; for (const d of document.querySelectorAll('details')) d.open = true"
            )
            chromium.settle(30)
            assert chromium.value("[typeof hacked, document.scripts.length]") == ["undefined", 2]
            assert chromium.value("document.querySelectorAll('img, svg, iframe, [onerror], [onload]').length") == 0
            assert chromium.value("document.documentElement.scrollWidth") <= width
            assert chromium.value(TITLE) == f"Episode {int(float(place))}"
    shown = chromium.value("document.querySelector('#episode').textContent")
    assert "twice" in shown  # an index that comes again has a link of its own
    choose(chromium, text="<img src=x onerror=hacked=1>")
    assert chromium.value(SHOWN)[0] == "#e0" and chromium.value("typeof hacked") == "undefined"
    clean(chromium, page)


def test_without_a_script_there_is_a_list(tmp_path: Path, address: str) -> None:
    with Browser(str(PROGRAM), tmp_path, javascript=False) as page:
        page.open(f"{address}#e3", 390)
        assert page.value("document.querySelectorAll('#plain article').length") == 10
        assert page.value("document.querySelector('#app').offsetParent === null")
        assert "only first_0 saw this" in page.value("document.querySelector('#plain').innerText")
        assert page.value("document.documentElement.scrollWidth") <= 390
        clean(page, address)
