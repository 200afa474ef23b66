"""Episodes for the tests of the transcripts' page: of real games, and of a stranger's game that uses every field."""

from __future__ import annotations

import difflib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.core import Challenge, Episode, Event, Message, Outcome, Score, Turn, Usage, encode
from dream_envs.envs.kuhn import Kuhn
from dream_envs.play import rollout
from dream_envs.report.transcripts import Gathered, page

OLD, NEW = "# Sorting\nCompare every pair.\nReturn it.\n", "# Sorting\nSplit it <in two> & merge.\nReturn it.\n"
DIFF = "".join(difflib.unified_diff(OLD.splitlines(True), NEW.splitlines(True), "skills/sort.md", "skills/sort.md"))
VOID = {"meta", "input", "br", "link"}


def said(role: str, content: str) -> Message:
    """A message."""
    return {"role": role, "content": content}


def stranger(index: int = 50, **changes: Any) -> Episode:
    """A game of somebody else's: two turns of a past self, a failed judge, diffs and metrics among the facts."""
    rules, private = said("system", "Rules for all."), said("user", "Your budget is 3.")
    first = [rules, private]
    second = [*first, said("assistant", DIFF), said("user", "Applied.")]
    reader = [rules, said("user", "Use the skill.")]
    turns = [
        Turn(
            agent="author_0", role="author", messages=first, text=DIFF, usage=Usage(210, 96), author="step-40",
            finish_reason="stop",
        ),
        Turn(
            agent="author_0", role="author", messages=second, text="It is", usage=Usage(340, 8192),
            finish_reason="length", extracted="",
        ),
        Turn(agent="reader_0", role="reader", messages=reader, text="So: 2 5 9", extracted="2 5 9"),
    ]  # fmt: skip
    scores = {
        "author_0": Score(
            0.75, components={"use": 0.5, "short": 0.25}, grader="skills-1", turns=[0.25, 0.5], detail="used once",
            judgements={"9f3a": "Sound.\nVerdict: 8"},
        ),
        "reader_0": Score(0.0, "timeout", grader="skills-1", detail="no answer"),
    }  # fmt: skip
    facts = {
        "skill": DIFF, "metrics": {"accuracy": 0.8712345, "loss": 1.25e-7, "kept": 12, "divergence": None},
        "judgements": [{"judge": f"judge_{i}", "verdict": i / 4, "status": "ok"} for i in range(5)],
        "library": {"sort.md": {"lines": 5, "used": 3}, "add.md": {"lines": 2, "used": 0}},
        "history": {"first": {"diff": DIFF, "why": "shorter"}}, "truth": {"author_0": 1.0, "reader_0": 0.0},
    }  # fmt: skip
    events = [
        Event("given", data={"author": "mutation"}),
        Event("rejected", "author_0", {"code": "similar", "detail": "0.93 like abc"}),
    ]
    task = Challenge(family="skills", level=4, prompt="Sort them: five, two.", answer="SECRET-2-5", truth="verified")
    made: dict[str, Any] = {
        "env_id": "acme/Skills-v2", "version": 2, "seed": f"0/{index}", "index": index, "round": 3, "tasks": [task],
        "turns": turns, "events": events, "outcome": Outcome("ok", facts), "scores": scores,
    }  # fmt: skip
    return Episode(**{**made, **changes})


def hostile(text: str, index: int = 0) -> Episode:
    """The stranger's episode with this text in every place that a model, a game or a reward can write to."""
    episode, key = stranger(index), text[:200]
    turns = [
        msgspec.structs.replace(
            t, text=text, agent=key, role=key, author=text, finish_reason=text, extracted=text,
            messages=[said(key, text), said("user", f"{text}{i}")],
        )
        for i, t in enumerate(episode.turns)
    ]  # fmt: skip
    score = Score(0.5, components={key: 1.0}, grader=text, detail=text, judgements={key: text})
    facts = {key: text, "a": {key: 1.0}, "b": [{key: text}], "c": {"d": {"e": [text, {"f": text}]}}, "g": [text]}
    task = Challenge(
        family=key, level=1, prompt=text, answer=text, author=key, parent=key, origin=key, meta={key: text}
    )
    return msgspec.structs.replace(
        episode, env_id=key, tasks=[task], turns=turns, events=[Event(key, key, {key: text}), Event("given")],
        outcome=Outcome("ok", facts), scores={key: score},
    )  # fmt: skip


def games() -> list[Episode]:
    """Kuhn in english, whose prompts hold a card that the other does not see."""
    game = Kuhn(notation="english")
    seats: Any = {"first": "guesser", "second": "guesser"}
    return list(rollout(game, seats, 6, seed="t", reward=game.default_reward))


def write(folder: Path, episodes: list[Episode]) -> Path:
    """A folder with these episodes; its file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "episodes.jsonl").write_bytes(b"".join(encode(e) + b"\n" for e in episodes))
    return folder / "episodes.jsonl"


def page_of(packed: list[bytes]) -> str:
    """The page of packed episodes."""
    return page(Gathered(packed, len(packed), len(packed), 0), "run")


def data_of(text: str) -> list[dict[str, Any]]:
    """The page's episodes, their texts put back in place."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    made = json.loads(found)
    for episode in made:
        texts = episode["texts"]
        episode["nodes"] = [_filled(node, texts) for node in episode["nodes"]]
    return made


def _filled(node: Any, texts: list[str]) -> Any:
    if isinstance(node, list):
        return [*node[:2], *(_filled(child, texts) for child in node[2:])]
    return texts[node] if isinstance(node, int) else node


def text_of(node: Any) -> str:
    """All text under a node."""
    return node if isinstance(node, str) else "".join(map(text_of, node[2:]))


def find(nodes: Any, name: str) -> list[Any]:
    """The elements of this class (``.turn``) or tag under some nodes, outermost first."""
    found = []
    for node in nodes:
        if isinstance(node, list):
            classes = node[1].get("class", "").split()
            if name == node[0] or (name[0] == "." and name[1:] in classes):
                found.append(node)
            found += find(node[2:], name)
    return found


class Markup(html.parser.HTMLParser):
    """A page as a browser reads it: its elements with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Nothing is closed that was not open."""
        assert self.open.pop() == tag
