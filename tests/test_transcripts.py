"""The page of transcripts: what is on it is the episodes', all of it inert, bounded, and chosen without looking."""

from __future__ import annotations

import base64
import difflib
import hashlib
import itertools
import json
import random
import re
import shlex
import subprocess
import sys
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import _transcripts as made
import msgspec
import pytest
from _judged import judged, prefers
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs import seeds
from dream_envs.core import REJECT_CODES, Episode, Event, Outcome, Turn, decode_episode, encode
from dream_envs.report import transcripts, tree
from dream_envs.report.transcripts import gather, pack, write_transcripts
from dream_envs.report.words import visible

TAGS = re.compile(
    "html|head|meta|title|style|body|main|header|div|form|label|input|select|option|fieldset|legend|span|button|nav|p|"
    "ol|section|h[1234]|script|kbd|article|details|summary|pre|table|caption|thead|tbody|tr|th|td|b"
)
ROOT = Path(__file__).resolve().parent.parent
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]")
NASTY = (
    "</script><script>hacked=1</script><img src=x onerror=hacked=1>",
    "\"'><svg onload=hacked=1></style></title></textarea><!--<script>-->]]>&lt;<!--data--><!--hash-->",
    "\x00\x1b]0;x\x07\r\x9b\u202eevil\u2066\u200b\u2028\u2029\ufeff\ud800\udfff",
    "</script ><script >hacked=1</script ></SCRIPT/x><!--<script x",
    "@@ -1 +1 @@\n-</script>\n+<img src=x onerror=hacked=1>\n",
    "مرحبا ‫bidi‬ שלום Z\u0351\u0351",
    "W" * 1_000_000,
)


def inert(page: str) -> made.Markup:
    """Nothing but our elements, one script that runs, no address outside."""
    found = made.Markup(page)
    assert all(TAGS.fullmatch(tag) for tag, _ in found.elements)
    assert [a.get("type") for tag, a in found.elements if tag == "script"] == ["application/json", None]
    for tag, attributes in found.elements:
        assert not any(name.startswith("on") or name in ("src", "style", "href") for name in attributes), (
            tag,
            attributes,
        )
    assert not re.search(r"url\(|@import|https?://", page) and not HIDDEN.search(page)
    return found


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_hostile_text_is_shown_and_never_run(text: str) -> None:
    page = made.page_of([pack(made.hostile(text))])
    inert(page)
    assert len(page) < 2_500_000 if len(text) > 1000 else 200_000
    (episode,) = made.data_of(page)
    shown = "".join(map(made.text_of, episode["nodes"]))
    if len(text) < 1000 and not text.startswith("@@"):
        assert shown.count(visible(text)) >= 20
    if len(text) > 1000:
        assert shown.count("8,000 of 1,000,000 characters are shown") >= 10


@given(st.text(max_size=60), st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_as_it_was_but_for_what_is_spelled_out(text: str, other: str) -> None:
    episode = made.stranger()
    turns = [msgspec.structs.replace(episode.turns[0], text=text, messages=[made.said(other, text + other)])]
    page = made.page_of([pack(msgspec.structs.replace(episode, turns=turns, outcome=Outcome("ok", {other: text})))])
    inert(page)
    (found,) = made.data_of(page)
    (turn,) = made.find(found["nodes"], ".turn")
    (message,) = made.find(found["nodes"], ".message")
    assert made.text_of(turn).endswith(visible(text) or "(nothing)")
    assert made.text_of(message).endswith(visible(text + other) or "(nothing)")


def test_the_script_is_the_one_that_is_allowed() -> None:
    page = made.page_of([pack(made.stranger())])
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval", "Function(", "fetch", "XMLHttp"):
        assert way not in script


def test_who_saw_a_message_is_counted_over_the_whole_episode() -> None:
    """Against a count of its own: in Kuhn every prompt is private, two judges of a pair see the same."""
    episodes = [*made.games(), judged(["a", "bb", "c"], prefers([0, 1, 2])), made.stranger()]
    for episode in episodes:
        saw = defaultdict(set)
        for turn in episode.turns:
            for message in turn.messages:
                saw[message["content"]].add(turn.agent)
        asked = {turn.agent for turn in episode.turns}
        (found,) = made.data_of(made.page_of([pack(episode)]))
        shown = made.find(found["nodes"], ".message")
        assert shown
        for node in shown:
            note, content = (made.text_of(n) for n in (made.find([node], ".badge")[0], node[3]))
            seers = saw[content]
            assert ("private" in node[1]["class"].split()) == (len(seers) == 1)
            if len(seers) == 1:
                assert note == f"private: only {min(seers)} saw this"
            elif seers == asked:
                assert note == "seen by all who were asked"
            else:
                assert note == f"seen by these {len(seers)} seats alone"
    first, second = made.find(made.data_of(made.page_of([pack(episodes[0])]))[0]["nodes"], ".exchange")[:2]
    assert "first_0 saw" in made.text_of(first) and "only second_0 saw this" in made.text_of(second)


def test_what_an_agent_knows_from_its_turn_before_is_not_repeated() -> None:
    (found,) = made.data_of(made.page_of([pack(made.stranger())]))
    _, second, reader = made.find(found["nodes"], ".exchange")
    assert "3 messages as before" in made.text_of(second) and "Your budget" not in made.text_of(second)
    assert "Applied." in made.text_of(second) and "as before" not in made.text_of(reader)


def test_a_long_message_is_open_where_it_stands_first() -> None:
    """Here a context that three seats share."""
    context = [made.said("system", "The context. " * 40)]
    turns = [Turn(agent=f"a_{i}", role="a", messages=[*context, made.said("user", f"{i}?")], text="") for i in range(3)]
    (found,) = made.data_of(made.page_of([pack(made.stranger(turns=turns))]))
    shown = [m for m in made.find(found["nodes"], ".message") if "The context. The" in made.text_of(m)]
    folded = [[made.text_of(d[2]) for d in made.find([m], "details")] for m in shown]
    assert folded == [[], ["as above (520 characters)"], ["as above (520 characters)"]]


def test_everything_that_is_known_of_a_turn_and_a_score_is_told() -> None:
    (found,) = made.data_of(made.page_of([pack(made.stranger())]))
    badges = [[made.text_of(b) for b in made.find([t], ".badge")] for t in made.find(found["nodes"], ".turn")]
    assert badges == [
        ["played by step-40", "right", "reward 0.75", "this turn 0.25", "stop", "210 tokens read, 96 written"],
        [
            "right",
            "reward 0.75",
            "this turn 0.5",
            "no answer read",
            "length: cut off",
            "340 tokens read, 8,192 written",
        ],
        ["wrong", "reward timeout"],
    ]
    assert made.text_of(made.find(found["nodes"], ".answer")[0]) == "answer read: 2 5 9"
    rows = [[made.text_of(c) for c in row[2:]] for row in made.find([table_of(found, "by skills-1")], "tr")]
    assert rows == [
        ["seat", "reward", "by turn", "use", "short", "detail"],
        ["author_0", "0.75", "0.25, 0.5", "0.5", "0.25", "used once"],
        ["reader_0", "timeout", "-", "-", "-", "no answer"],
    ]
    text = "".join(map(made.text_of, found["nodes"]))
    assert f"rejected author_0 ({REJECT_CODES['similar']})" in text and "Sound.\nVerdict: 8" in text
    assert found["flags"] == ["cut off", "no answer read", "ok", "right", "timeout", "turned away", "wrong"]
    assert found["scores"] == [["author_0", "author", 0.75], ["reader_0", "reader", None]] and found["level"] == 4


def table_of(found: dict[str, Any], name: str) -> Any:
    return next(t for t in made.find(found["nodes"], "table") if name in map(made.text_of, made.find([t], "caption")))


def test_facts_are_shown_by_their_form_alone() -> None:
    (found,) = made.data_of(made.page_of([pack(made.stranger())]))
    rows = [[made.text_of(c) for c in row[2:]] for row in made.find([table_of(found, "metrics")], "tr")]
    assert rows == [["accuracy", "0.8712"], ["loss", "1.25e-07"], ["kept", "12"], ["divergence", "-"]]
    folds = {made.text_of(d[2]): d for d in made.find(found["nodes"], "details")}
    judgements = made.find([folds["judgements (5 rows)"]], "tr")
    assert [made.text_of(c) for c in judgements[0][2:]] == ["", "judge", "verdict", "status"] and len(judgements) == 6
    assert [made.text_of(c) for c in judgements[4][2:]] == ["3", "judge_3", "0.75", "ok"]
    assert [made.text_of(c) for c in made.find([folds["library (2 rows)"]], "tr")[1][2:]] == ["sort.md", "5", "3"]
    diffs = made.find(found["nodes"], ".diff")
    assert len(diffs) == 3  # what was said, the fact, and the one inside another, which is open
    assert (
        all("open" in folds[name][1] for name in ("first", "history")) and "open" not in folds["judgements (5 rows)"][1]
    )
    kinds = [(line[1]["class"], made.text_of(line)) for line in diffs[1][2:]]
    assert [k for k, _ in kinds] == ["hunk", "hunk", "hunk", "same", "del", "add", "same"]
    assert ("add", "+Split it <in two> & merge.") in kinds


LINES = st.lists(st.text("ab-+@ ", max_size=6), max_size=12)


@given(LINES, LINES, st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_every_unified_diff_is_known_as_one(old: list[str], new: list[str], context: int) -> None:
    text = "\n".join(difflib.unified_diff(old, new, "a", "b", lineterm="", n=context)) + "\n"
    assert tree.is_diff(text) == (old != new)
    assert not tree.is_diff("\n".join(["- item", "+ item", *old, "--- a", "+++ b"])) or "@@ -" in "".join(old)


def test_problems_and_answers_are_behind_a_click() -> None:
    episode = made.stranger()
    page = made.page_of([pack(episode)])
    (found,) = made.data_of(page)
    task = next(d for d in found["nodes"] if d[0] == "details")
    assert task[1] == {"class": "secret"} and "Sort them" in made.text_of(task)
    (answer,) = [d for d in made.find(task[2:], "details") if "Answer" in made.text_of(d[2])]
    assert answer[1] == {"class": "secret"} and made.text_of(answer[2]) == "Answer (verified)"
    assert "".join(map(made.text_of, found["nodes"])).count("SECRET-2-5") == 1 and "SECRET-2-5" in made.text_of(answer)


def many(count: int, **changes: Any) -> list[Episode]:
    return [made.stranger(i, **changes) for i in range(count)]


def indices(found: Any) -> list[int]:
    return [int(json.loads(one)["id"][1:]) for one in found.shown]


def test_the_sample_does_not_hang_on_the_order_and_grows_by_adding(tmp_path: Path, monkeypatch: Any) -> None:
    episodes, every = many(60), lambda e: True
    path = made.write(tmp_path, episodes)
    samples = [set(indices(gather(path, every, limit=k))) for k in range(1, 24)]
    assert [len(s) for s in samples] == list(range(1, 24))
    assert all(a < b for a, b in itertools.pairwise(samples))
    assert samples[20] != set(range(21))
    monkeypatch.setattr(transcripts, "MAX_BYTES", 20 * len(pack(episodes[0])))
    bounded = gather(path, every)
    assert indices(bounded) == sorted(indices(bounded)) and 18 <= len(bounded.shown) <= 21
    assert set(indices(bounded)) == samples[len(bounded.shown) - 1] and bounded.matched == 60
    random.Random(3).shuffle(episodes)
    assert gather(made.write(tmp_path, episodes), every) == bounded
    odd = gather(path, lambda e: e.index % 2 == 1, limit=5)
    assert all(i % 2 for i in indices(odd)) and (odd.matched, odd.episodes) == (30, 60)
    page = transcripts.page(odd, "run", "--role x")
    assert "5 of 60 episodes are on this page; 30 have --role x. They are a sample" in page


def test_what_ranks_behind_an_episode_that_did_not_fit_is_left_out_too(tmp_path: Path, monkeypatch: Any) -> None:
    """Else short episodes would be more likely to be shown; checked against sums over the ranks."""
    rng = random.Random(5)
    said = [msgspec.structs.replace(made.stranger().turns[2], text="x" * rng.randrange(8000)) for _ in range(40)]
    episodes = [made.stranger(i, turns=[turn]) for i, turn in enumerate(said)]
    ranked = sorted(episodes, key=lambda e: seeds.digest("transcripts", e.seed, e.index))
    for budget in range(20_000, 200_000, 15_000):
        monkeypatch.setattr(transcripts, "MAX_BYTES", budget)
        fitting = sum(total <= budget for total in itertools.accumulate(len(pack(e)) for e in ranked))
        rng.shuffle(episodes)
        found = gather(made.write(tmp_path, episodes), lambda e: True)
        assert indices(found) == sorted(e.index for e in ranked[:fitting])


def test_large_runs_and_replies_are_bounded(tmp_path: Path, monkeypatch: Any) -> None:
    """The page, one episode of it, and the memory, whatever was said."""
    monkeypatch.setattr(transcripts, "MAX_BYTES", 1 << 20)
    big = [
        made.stranger(i, turns=[msgspec.structs.replace(made.stranger().turns[2], text="x" * 200_000)])
        for i in range(40)
    ]
    path = made.write(tmp_path, big)
    tracemalloc.start()
    try:
        found = write_transcripts(path, tmp_path / "t.html")
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert found.shown and (tmp_path / "t.html").stat().st_size < 1.5 * (1 << 20)
    turns = [
        Turn(agent=f"a_{i % 9}", role="a", messages=[made.said("u", f"{i}" * 900)], text="y" * 900) for i in range(1200)
    ]
    facts = {
        f"f{i}": {f"g{j}": {f"h{k}": [f"{i}{j}{k}{n}" * 75 for n in range(7)] for k in range(7)} for j in range(7)}
        for i in range(7)
    }
    events = [Event("e", data=facts)] * 3
    for episode in (
        made.stranger(turns=turns),
        made.stranger(outcome=Outcome("ok", facts)),
        made.stranger(turns=turns, outcome=Outcome("ok", facts), events=events),
    ):
        packed = pack(episode)
        assert 2000 < len(packed) <= transcripts.MAX_EPISODE and b"large" in packed.lower()
    told = "".join(map(made.text_of, made.data_of(made.page_of([pack(made.stranger(turns=turns))]))[0]["nodes"]))
    assert re.search(r"1,1\d\d more turns", told) and "texts over 2,000 characters and lists over 100 are cut" in told


def test_a_cut_text_keeps_both_ends() -> None:
    text = "BEGIN" + "x" * 99_990 + "FINAL"
    shown, note = tree.cut(text, 9000)
    assert shown.startswith("BEGIN") and shown.endswith("FINAL") and "[... 91,000 characters left out ...]" in shown
    assert note == "cut: 9,000 of 100,000 characters are shown" and tree.cut(text[:9000], 9000) == (text[:9000], "")


@pytest.mark.parametrize(
    "facts",
    [
        {"agents": 5, "truth": [1], "correct": "yes"},
        {"deep": json.loads("[" * 300 + "]" * 300)},
        {"n": 10**400, "x": float("inf"), "": {"": ""}, "m": [[1, [2]], {"a": [None]}]},
        {},
    ],
    ids=["other meaning", "deep", "odd", "none"],
)
def test_facts_of_any_form_are_shown(facts: Any) -> None:
    packed = pack(
        made.stranger(outcome=Outcome("abstain", facts), tasks=[], scores={}, turns=[], events=[Event("given")])
    )
    (episode,) = made.data_of(made.page_of([packed]))
    assert "abstain" in "".join(map(made.text_of, episode["nodes"])) and episode["level"] is None


def test_lines_that_are_no_episodes_are_counted(tmp_path: Path) -> None:
    path = made.write(tmp_path, many(3))
    lone = encode(made.stranger(9)).replace(b"Applied", b"\\ud800")
    with open(path, "ab") as file:
        file.write(b"\xff\xfe\n{}\n" + b"[" * 5000 + b"\n" + lone + b"\n" + encode(made.stranger(7))[:-9])
    found = write_transcripts(path, tmp_path / "t.html")
    assert (found.episodes, found.unread) == (3, 4)
    assert "4 lines of episodes.jsonl could not be read" in (tmp_path / "t.html").read_text("utf-8")


def test_the_first_episodes_can_be_read_without_a_script(tmp_path: Path) -> None:
    write_transcripts(made.write(tmp_path, many(30)), tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text("utf-8")
    ids = [a["id"] for tag, a in inert(page).elements if tag == "article"]
    assert ids == [f"e{i}" for i in range(transcripts.PLAIN)]
    plain = page.partition('id="plain"')[2].partition("</section>")[0]
    assert plain.count("+Split it &lt;in two&gt; &amp; merge.") == 3 * transcripts.PLAIN


def test_the_verb_chooses_as_view_does(verb, verb_json, verb_text, played_run) -> None:
    bad = played_run.parent / "bad"
    for run, argv in (
        (played_run, ()), (played_run, ("--index", "3,5-7")), (played_run, ("--role", "solver_1")),
        (bad, ("--status", "abstain")), (bad, ("--role", "challenger")),
    ):  # fmt: skip
        lines = verb_text("view", run, *argv, "--json").splitlines()
        told = verb_json("view", run, *argv, "--html")
        assert told["out"] == str(run / "transcripts.html") and told["shown"] == told["matched"] == len(lines)
        episodes = made.data_of((run / "transcripts.html").read_text("utf-8"))
        assert [e["id"] for e in episodes] == [f"e{i}" for i in sorted(decode_episode(line).index for line in lines)]
    assert {t[1]["data-role"] for e in episodes for t in made.find(e["nodes"], ".turn")} == {"challenger"}
    assert {seat for e in episodes for seat, _, _ in e["scores"]} == {"challenger_0"}
    text = verb_text("view", played_run, "--html", "--limit", 4, "--out", "new/page.html")
    assert text == "wrote new/page.html: 4 of 20 episodes asked for, 20 in all\n"
    data = (played_run / "episodes.jsonl").read_bytes()
    for argv, word in (
        (("--html", "--status", "late"), "'late'"),
        (("--html", "--role", "solvr"), "'solver'"),
        (("--html", "--index", "99"), "--index 99"),
        (("--html", "--out", played_run / "episodes.jsonl"), ".html"),
        (("--out", "x.html"), "--html"),
    ):
        status, out, err = verb("view", played_run, *argv)
        assert (status, out) == (2, "") and word in err and err.count("\n") == 1
    assert (played_run / "episodes.jsonl").read_bytes() == data


def test_the_commands_of_the_documentation(verb_text) -> None:
    (block,) = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs" / "transcripts.md").read_text("utf-8"), re.M | re.S)
    told = [verb_text(*shlex.split(line)[1:]) for line in block.splitlines()]
    assert len(told) == 4 and "wrote runs/x/transcripts.html: 40 of 40" in told[1] and "10 of 20 episodes" in told[2]
    assert json.loads(told[3]) == {
        "out": "runs/x/transcripts.html", "shown": 10, "matched": 40, "episodes": 40, "unread": 0
    }  # fmt: skip


def test_it_needs_nothing_but_the_environments(tmp_path: Path) -> None:
    made.write(tmp_path, [made.stranger()])
    code = (
        "import sys; sys.modules['jinja2'] = sys.modules['matplotlib'] = None\n"
        f"from dream_envs import cli; assert cli.main(['view', {str(tmp_path)!r}, '--html']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    assert (tmp_path / "transcripts.html").is_file()
