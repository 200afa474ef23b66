"""``transcripts.html``: one file in which a run's episodes can be read: who saw what, who said what, what came of it.

The page loads nothing and runs one script of ours, named by its hash; without it the first episodes are a plain list.
A large run is sampled: the episodes whose label has the smallest hash, as many as fit, in whatever order they come.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dream_envs import seeds
from dream_envs.core import REJECT_CODES, Episode, Event, Message, Score, Task, Turn, challenge_of, decode_episode
from dream_envs.metrics.rounds import REPLY_FAULTS, reply_faults
from dream_envs.report.page import write_page
from dream_envs.report.samples import lines, truth
from dream_envs.report.tree import Caps, Node, el, facts, fold, said, short, table, to_html, to_json
from dream_envs.report.words import number, whole
from dream_envs.rewards.base import role_of

#: Bounds of a page: bytes and number of its episodes, bytes of one of them, how many are there without JavaScript.
MAX_BYTES, MAX_SHOWN, MAX_EPISODE, PLAIN = 8 << 20, 2000, 384 << 10, 10
#: Tried in turn until an episode is small enough.
_CAPS = (Caps(), Caps(2000, 100), Caps(400, 50), Caps(100, 20), Caps(60, 6), Caps(40, 3))
_BRIEF = 60  # replies no longer than this stand beside each other
_REPEATED = 200  # characters of a message over which it is not shown a second time at once
_LONG = 24  # characters from which on a text that occurs again is stored once


class Gathered(NamedTuple):
    """The packed episodes of a page in order of index; how many passed the filters, were read, could not be read."""

    shown: list[bytes]
    matched: int
    episodes: int
    unread: int


def write_transcripts(
    path: Path, out: Path, *, wanted: Callable[[Episode], bool] = lambda episode: True, role: str = "", limit: int = 0,
    asked: str = "",
) -> Gathered:  # fmt: skip
    """Write the page of an ``episodes.jsonl`` to ``out``; nothing is written where no episode is ``wanted``.

    ``role``: only turns and scores of this role or seat.  ``limit``: at most so many episodes, sampled; 0: as many as
    fit.  ``asked``: the filters in words, for the page.
    """
    found = gather(path, wanted, role, limit)
    if found.shown:
        write_page(out, page(found, path.absolute().parent.name, asked))
    return found


def gather(path: Path, wanted: Callable[[Episode], bool], role: str = "", limit: int = 0) -> Gathered:
    """One pass over the file, with no more in memory than a page holds and one line."""
    most, kept, size = min(limit or MAX_SHOWN, MAX_SHOWN), list[tuple[int, int, int, bytes]](), 0
    bar, matched, episodes, unread = 1 << 64, 0, 0, 0
    for line in lines(path):
        try:
            episode = decode_episode(line or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unread += 1
            continue
        episodes += 1
        if not wanted(episode):
            continue
        matched += 1
        rank = seeds.digest("transcripts", episode.seed, episode.index)
        if rank >= bar:  # once one was left out, so is whatever ranks behind it: the sample is a prefix of the ranks
            continue
        packed = pack(episode, role)
        heapq.heappush(kept, (-rank, episode.index, episodes, packed))
        size += len(packed)
        while len(kept) > most or size > MAX_BYTES:
            dropped = heapq.heappop(kept)
            bar, size = min(bar, -dropped[0]), size - len(dropped[3])
    return Gathered([k[3] for k in sorted(kept, key=lambda k: k[1:3])], matched, episodes, unread)


def page(found: Gathered, name: str, asked: str = "") -> str:
    """The page as text."""
    sizes = itertools.accumulate(map(len, found.shown))
    first = [one for one, size in zip(found.shown[:PLAIN], sizes, strict=False) if size <= 1 << 20]
    parts = {key: _file(f"{key}.html") for key in ("style", "transcripts")}
    script = parts["transcripts"].partition("<script>")[2].partition("</script>")[0]
    filled = {
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": parts["style"],
        "name": html.escape(short(name, 80)),
        "about": html.escape(_about(found, asked)),
        "plain": "\n".join(to_html(_plain(json.loads(one))) for one in first or found.shown[:1]),
        "data": "[" + ",\n".join(one.decode() for one in found.shown) + "]",
    }
    return re.sub(r"<!--(\w+)-->", lambda mark: filled[mark[1]], parts["transcripts"])  # once: texts stay as they are


def _file(name: str) -> str:
    return (resources.files("dream_envs.report") / name).read_text("utf-8")


def _about(found: Gathered, asked: str) -> str:
    shown, matched, episodes = len(found.shown), found.matched, found.episodes
    text = f"{whole(shown)} of {whole(episodes)} episodes are on this page"
    if asked:
        text += f"; {whole(matched)} have {short(asked)}"
    if shown < matched:
        text += ". They are a sample by the hash of their labels, so that none was chosen for what is in it"
    if found.unread:
        text += f". {whole(found.unread)} lines of episodes.jsonl could not be read"
    return text + ". What follows is untrusted model output: control characters are spelled out, long texts are cut."


def _plain(packed: dict[str, Any]) -> list[Any]:
    """A packed episode as it stands in the plain list."""
    texts = packed["texts"]

    def whole_again(node: Any) -> Node:
        if isinstance(node, list):
            return [*node[:2], *map(whole_again, node[2:])]
        return texts[node] if isinstance(node, int) else node

    parts = [whole_again(node) for node in packed["nodes"]]
    return el("article", el("h3", packed["title"]), el("p", packed["about"], class_="soft"), *parts, id=packed["id"])


def pack(episode: Episode, role: str = "") -> bytes:
    """An episode as the page's JSON: what it is filtered by, its nodes, and the texts that occur in them again."""
    for caps in _CAPS:
        told = _Telling(episode, role, caps)
        texts, nodes = _stored_once(told.nodes())
        packed = to_json({**told.record(), "nodes": nodes, "texts": texts}).encode()
        if len(packed) <= MAX_EPISODE:
            return packed
    note = el("p", f"Too large for this page: dream-envs view RUN --index {episode.index}", class_="note")
    return to_json({**told.record(), "nodes": [note], "texts": []}).encode()


def _stored_once(nodes: list[list[Any]]) -> tuple[list[str], list[Any]]:
    counts, places = Counter[str](), dict[str, int]()

    def count(node: Node) -> None:
        if isinstance(node, str):
            counts[node] += 1
        else:
            for child in node[2:]:
                count(child)

    def placed(node: Node) -> Any:
        if isinstance(node, str):
            again = counts[node] > 1 and len(node) >= _LONG
            return places.setdefault(node, len(places)) if again else node
        return [*node[:2], *map(placed, node[2:])]

    for node in nodes:
        count(node)
    made = [placed(node) for node in nodes]
    return list(places), made


class _Telling:
    """One episode, told within ``caps``; ``role``: only turns and scores of this role or seat."""

    def __init__(self, episode: Episode, role: str, caps: Caps) -> None:
        self.episode, self.caps = episode, caps
        listed = episode.outcome.facts.get("agents")  # a stranger's game may mean something else by this name
        seated = [a for a in listed if isinstance(a, str)] if isinstance(listed, list) else []
        self.seats = {a: role_of(a) for a in (*seated, *episode.scores)} | {t.agent: t.role for t in episode.turns}
        self.chosen = {agent for agent, its in self.seats.items() if role in ("", agent, its)}
        self.truth = truth(episode)
        self.scores = {a: s for a, s in episode.scores.items() if a in self.chosen}
        names = list(self.seats) if len(self.seats) <= 4 else list(dict.fromkeys(self.seats.values()))
        self.colour = {a: f"c{1 + names.index(a if len(self.seats) <= 4 else r) % 4}" for a, r in self.seats.items()}
        self.saw: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        for turn in episode.turns:
            for message in turn.messages:
                self.saw[_key(message)][turn.agent] = None
        self.told: set[tuple[str, str]] = set()
        self.asked = len({turn.agent for turn in episode.turns})

    def record(self) -> dict[str, Any]:
        """What the page filters by and lists."""
        episode, made = self.episode, challenge_of(self.episode)
        levels = [task.level for task in episode.tasks]
        level = made.level if made is not None else max(levels, default=None)
        by_role: dict[str, list[float]] = defaultdict(list)
        scores = []
        for agent, score in itertools.islice(self.scores.items(), self.caps.items):
            value = number(score.value) if score.status == "ok" else None
            scores.append([short(agent), short(self.seats[agent]), value])
            if value is not None:
                by_role[self.seats[agent]].append(value)
        means = {short(role): short(sum(v) / len(v)) for role, v in itertools.islice(by_role.items(), 12)}
        by = next((short(e.data.get("author", ""), 40) for e in episode.events if e.kind == "given"), "")
        parts = [f"round {episode.round}", "" if level is None else f"level {level}", by and f"by {by}"]
        seats = [[short(a), short(r)] for a, r in itertools.islice(self.seats.items(), 100) if a in self.chosen]
        return {
            "id": f"e{episode.index}", "round": episode.round, "level": level, "title": f"Episode {episode.index}",
            "about": ", ".join(filter(None, parts)), "means": means, "seats": seats, "scores": scores,
            "flags": sorted(self._flags()),
        }  # fmt: skip

    def _flags(self) -> set[str]:
        """Everything that the status filter knows."""
        turns = [turn for turn in self.episode.turns if turn.agent in self.chosen]
        flags = {str(self.episode.outcome.status), *(str(t.status) for t in turns)}
        flags |= {str(score.status) for score in self.scores.values()}
        flags |= {REPLY_FAULTS[name] for turn in turns for name, so in reply_faults(turn).items() if so}
        flags |= {_verdict(v) for agent, v in self.truth.items() if agent in self.chosen and v is not None}
        return flags | ({"turned away"} if any(event.kind == "rejected" for event in self.episode.events) else set())

    def nodes(self) -> list[list[Any]]:
        """The episode from top to bottom."""
        episode, caps = self.episode, self.caps
        about = f"{episode.env_id}, version {episode.version}, seed {episode.seed}"
        made = [el("p", short(about), class_="soft about")]
        if caps is not _CAPS[0]:
            large = f"A large episode: texts over {caps.text:,} characters and lists over {caps.items} are cut."
            made.append(el("p", large, class_="note"))
        made += [self._task(task) for task in episode.tasks[: caps.items]]
        made += self._transcript()
        made += self._outcome()
        if self.scores:
            made += [el("h4", "Scores"), self._scores(), *self._judge_replies()]
        if shown := facts(episode.outcome.facts, caps):
            made += [el("h4", "Facts"), el("div", *shown, class_="facts")]
        return made

    def _task(self, task: Task) -> list[Any]:
        told = [f"Task: {task.family}", f"level {task.level}", f"from {getattr(task, 'author', '') or task.origin}"]
        kind = f"Answer ({its})" if (its := getattr(task, "truth", "")) else "Answer"
        hidden = fold(kind, said(task.answer, self.caps), secret=True) if task.answer else None
        parent = getattr(task, "parent", "")
        rest = {"id": task.id, **({"parent": parent} if parent else {}), **task.meta}
        more = fold("More about it", el("div", *facts(rest, self.caps), class_="facts"))
        return fold(short(", ".join(told)), said(task.prompt, self.caps), hidden, more, secret=True)

    def _transcript(self) -> list[list[Any]]:
        """What was seen, once for all who saw the same, and under it what each of them said."""
        turns = [turn for turn in self.episode.turns if turn.agent in self.chosen]
        before, moved = dict[str, Turn](), Counter[str]()
        made = [el("h4", "Transcript")]
        for _, grouped in itertools.groupby(turns[: self.caps.items], key=lambda t: t.messages):
            group = list(grouped)
            seen = self._seen(group, before)
            replies = []
            for turn in group:
                replies.append(self._turn(turn, moved[turn.agent]))
                moved[turn.agent] += 1
                before[turn.agent] = turn
            brief = all(len(turn.text) <= _BRIEF and "\n" not in turn.text for turn in group)
            made.append(el("div", *seen, el("div", *replies, class_="brief" if brief else ""), class_="exchange"))
        if (more := len(turns) - self.caps.items) > 0:
            made.append(el("p", f"{more:,} more turns", class_="note"))
        return made

    def _seen(self, group: Sequence[Turn], before: dict[str, Turn]) -> list[list[Any]]:
        messages = group[0].messages
        known = min(_known(messages, before.get(turn.agent)) for turn in group)
        who = ", ".join(dict.fromkeys(short(turn.agent, 40) for turn in group[:6]))
        who += f" and {len(group) - 6} more" if len(group) > 6 else ""
        made = [el("p", f"{who} saw", "" if messages else " nothing", class_="who")]
        if known:
            made.append(el("p", f"{known} messages as before" if known > 1 else "1 message as before", class_="note"))
        new, most = messages[known:], self.caps.items
        for message in new[:most]:
            made.append(self._message(message, {turn.agent for turn in group}))
        if len(new) > most:
            made.append(el("p", f"{len(new) - most:,} more messages", class_="note"))
        return made

    def _message(self, message: Message, group: set[str]) -> list[Any]:
        """A message, and who else has seen it; ``group``: those whom it stands above."""
        seers, role, note, kind = self.saw[_key(message)], short(message.get("role", ""), 40), "", "message"
        if len(seers) == 1 and self.asked > 1:
            (only,) = seers
            note, kind = f"private: only {short(only, 40)} saw this", f"message private {self.colour[only]}"
        elif len(seers) == self.asked > 1:
            note = "seen by all who were asked"
        elif self.asked > 1:
            others = [short(name, 40) for name in seers if name not in group]
            more = f" and {len(others) - 8} more" if len(others) > 8 else ""
            note = f"seen by {', '.join(others[:8])}{more} too" if others else f"seen by these {len(seers)} seats alone"
        label = el("p", role, el("span", note, class_="badge") if note else None, class_="who")
        content = str(message.get("content", ""))
        body = said(content, self.caps)
        if _key(message) in self.told and len(content) > _REPEATED:
            body = fold(f"as above ({len(content):,} characters)", body)
        self.told.add(_key(message))
        return el("div", label, body, class_=kind)

    def _turn(self, turn: Turn, nth: int) -> list[Any]:
        badges = [el("b", short(turn.agent, 60))]
        for text, kind in self._badges(turn, nth):
            badges.append(el("span", short(text), class_=f"badge {kind}".strip()))
        body = [el("p", *badges, class_="who"), said(turn.text, self.caps)]
        if turn.extracted:
            body.append(el("div", el("span", "answer read: "), said(turn.extracted, self.caps), class_="answer"))
        who = {"data_seat": short(turn.agent), "data_role": short(turn.role)}
        return el("div", *body, class_=f"turn {self.colour[turn.agent]}", **who)

    def _badges(self, turn: Turn, nth: int) -> list[tuple[str, str]]:
        """What is said of a turn beside its text: (words, class)."""
        made, right, score = list[tuple[str, str]](), self.truth.get(turn.agent), self.scores.get(turn.agent)
        if turn.author:
            made.append((f"played by {turn.author}", "strong"))
        if turn.status != "ok":
            made.append((turn.status, "wrong"))
        if right is not None:
            made.append((_verdict(right), _verdict(right)))
        if score is not None:
            made.append((f"reward {_value(score)}", "strong"))
            if score.turns is not None and nth < len(score.turns):
                made.append((f"this turn {short(score.turns[nth])}", "strong"))
        if turn.extracted == "":
            made.append((REPLY_FAULTS["unread"], "wrong"))
        if turn.finish_reason:
            cut_off = turn.finish_reason == "length"
            made.append((f"length: {REPLY_FAULTS['cut']}", "wrong") if cut_off else (turn.finish_reason, ""))
        said_tokens = turn.usage.completion_tokens or len(turn.token_ids or ())
        if said_tokens or turn.usage.prompt_tokens:
            made.append((f"{whole(turn.usage.prompt_tokens)} tokens read, {whole(said_tokens)} written", ""))
        return made

    def _outcome(self) -> list[list[Any]]:
        """How it ended, and the events on the way."""
        made = []
        outcome = self.episode.outcome
        if outcome.status != "ok":
            made.append(el("p", "Outcome: ", el("span", outcome.status, class_="wrong")))
        made += [self._event(event) for event in self.episode.events[: self.caps.items]]
        if (more := len(self.episode.events) - self.caps.items) > 0:
            made.append(el("p", f"{more:,} more events", class_="note"))
        return [el("h4", "What happened"), *made] if made else []

    def _event(self, event: Event) -> list[Any]:
        code = event.data.get("code")
        why = REJECT_CODES.get(code, "") if isinstance(code, str) else ""
        agent = f" {short(event.agent)}" if event.agent else None
        kind = el("b", short(event.kind), class_="wrong" if event.kind == "rejected" else "")
        line = el("p", kind, agent, f" ({why})" if why else None)
        return el("div", line, *facts(event.data, self.caps), class_="event")

    def _scores(self) -> list[Any]:
        """A row a seat; columns that hold nothing are left out, one grader of all is the table's name."""
        scores = list(self.scores.values())
        graders = {score.grader for score in scores}
        name = f"by {graders.pop()}" if len(graders) == 1 and all(graders) else ""
        parts = dict.fromkeys(name for score in scores for name in score.components)
        columns: list[tuple[str, list[Any]]] = [
            ("seat", list(self.scores)),
            ("reward", [s.value if s.status == "ok" else s.status for s in scores]),
            ("by turn", [", ".join(map(short, (s.turns or [])[: self.caps.items])) or None for s in scores]),
            *[(part, [s.components.get(part) for s in scores]) for part in itertools.islice(parts, 16)],
            ("grader", [None if name else s.grader or None for s in scores]),
            ("detail", [s.detail or None for s in scores]),
        ]
        columns = [c for c in columns if any(value is not None for value in c[1])]
        return table([c[0] for c in columns], zip(*[c[1] for c in columns], strict=True), self.caps, name=name)

    def _judge_replies(self) -> list[list[Any]]:
        made = []
        for agent, score in self.scores.items():
            if replies := list(score.judgements.items()):
                told = []
                for asked, reply in replies[: self.caps.items]:
                    head = el("p", f"asked {short(asked, 24)}", class_="who")
                    told.append(el("div", head, said(reply, self.caps), class_="event"))
                made.append(fold(f"What the judge said of {short(agent)} ({len(replies):,})", *told))
        return made[: self.caps.items]


def _key(message: Message) -> tuple[str, str]:
    return str(message.get("role", "")), str(message.get("content", ""))


def _known(messages: Sequence[Message], last: Turn | None) -> int:
    """How many of the messages this agent knows from its turn before, its own reply included."""
    if last is None or messages[: len(last.messages)] != last.messages:
        return 0
    known = len(last.messages)
    own = known < len(messages) and messages[known].get("content") == last.text
    return known + own


def _verdict(value: float) -> str:
    return "right" if value > 0.5 else "wrong"


def _value(score: Score) -> str:
    return short(score.value) if score.status == "ok" else str(score.status)
