"""Which dreams are kept as training data: MAGPIE's filters by name (arXiv 2406.08464, Table 5), and what a set is like.

Departures from the paper and its code, each of them a fault of theirs that a test here looks for:

- *Repeats.*  The paper keeps what is further than 0 from its nearest neighbour, so that of two equal instructions none
  is left; its code takes neighbour 0 of a search for the item itself, so that equal items can swap places; and it drops
  an item for its smallest neighbour even where that one was dropped, so that a chain of neighbours falls to one end.
  Here a dream is dropped for one that is *kept*, at most the rule's distance away, and of equal ones the first is kept.
- *Order.*  Repeats are looked for among what passed the rules before: a dream is never dropped for one that is turned
  away itself.  The longest replies are taken last, as in the paper; its 300K of 1M (Air: of 3M) are shares here.
- *What is not measured.*  A rule about something that no dream was measured for is an error unless it is left out by
  name; a dream that a judge or a reward model alone said nothing of is dropped by that rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Episode, Message
from dream_envs.envs import dream_facts


class Dreamt(msgspec.Struct, frozen=True, kw_only=True):
    """A dream with its reply, as a row of ``dreams.jsonl``.

    ``messages``: the conversation up to the instruction, its last message.  ``reject``: why it is no valid pair, a key
    of ``dream_facts.REJECTS``.  ``finished``: whether the reply was not cut off by its budget.  ``tokens`` of the
    reply (characters where none were counted).  ``distance``: to the nearest other dream.  ``reward``, ``margin``: a
    reward model's score of the reply, and what that is above a base model's reply; None: not measured.  ``held_out``:
    kept from training to measure with.  ``dropped``: the rule that a filter dropped it by, "" if it is kept.
    """

    episode: int
    turn: int
    messages: list[Message]
    raw: str
    kind: str
    reply: str = ""
    reject: str = ""
    finished: bool = True
    tokens: int = 0
    measures: dict[str, Any] = {}
    distance: float | None = None
    reward: float | None = None
    margin: float | None = None
    held_out: bool = False
    dropped: str = ""

    @property
    def text(self) -> str:
        """The sanitised instruction."""
        return self.messages[-1]["content"]


def dreamt(episodes: Sequence[Episode]) -> list[Dreamt]:
    """The dreams of finished games of ``Dreaming-v0``, in order, with distances; failed calls have none."""
    rows = list[Dreamt]()
    for episode in sorted(episodes, key=lambda e: e.index):
        said, spoken = list[Message](), [t for t in episode.turns if t.role == "responder"]
        for k, dream in enumerate(episode.outcome.facts.get("dreams", ())):
            said = [*said, {"role": "user", "content": dream["text"]}]
            turn, reply = (spoken[k] if k < len(spoken) else None), dream["reply"] or ""
            reject = dream["reject"] or ("" if turn is not None and turn.status == "ok" else "silent")
            tokens = (turn.usage.completion_tokens if turn is not None else 0) or len(reply)
            rows.append(Dreamt(
                episode=episode.index, turn=k, messages=said, raw=dream["raw"], kind=dream["class"], reply=reply,
                reject=reject, finished=dream["reply_finish"] != "length", tokens=tokens, measures=dream["measures"],
            ))  # fmt: skip
            said = [*said, {"role": "assistant", "content": reply}]
    valid = [i for i, row in enumerate(rows) if not row.reject]
    near = dict(zip(valid, dream_facts.nearest([rows[i].text for i in valid]), strict=True))
    return [msgspec.structs.replace(row, distance=near.get(i)) for i, row in enumerate(rows)]


class Preset(msgspec.Struct, frozen=True):
    """Rules in the order they are applied; 0 and None switch one off.

    ``quality``, ``difficulty``: the lowest rating kept, 1 to 5 (very poor to excellent, very easy to very hard).
    ``reward``, ``margin``: what a score has to be above.  ``colon``: an instruction that ends in a colon is dropped.
    ``within``: how near a kept dream drops another, 0 for equal ones only.  ``longest``: share of all that is kept, the
    longest replies in characters.  ``halves``: half of these of dreams rated easy or below, half of the others.
    """

    quality: int = 0
    difficulty: int = 0
    reward: float | None = None
    margin: float | None = None
    colon: bool = False
    within: float | None = 0.0
    longest: float | None = None
    halves: bool = False


#: The paper's Table 5 (``filter2`` to ``filter6`` are its variants of ``pro``), and the notebook's.
PRESETS = {
    "air": Preset(quality=4, difficulty=3, margin=0.0, longest=0.1),
    "pro": Preset(quality=3, reward=-12.0, longest=0.3),
    "filter2": Preset(quality=4, difficulty=2, reward=-12.0, longest=0.3),
    "filter3": Preset(reward=-12.0, longest=0.3),
    "filter4": Preset(quality=3, margin=0.0, longest=0.3),
    "filter5": Preset(quality=3, reward=-12.0),
    "filter6": Preset(quality=3, reward=-12.0, longest=0.2, halves=True),
    "notebook": Preset(quality=4, reward=-10.0, colon=True, within=0.05, longest=0.3),
}
EASY = 2
_AVERAGED = (*dream_facts.MEASURES, "reply_quality", "reply_repetition", "echo")


def unmeasured(rows: Sequence[Dreamt], preset: Preset) -> list[str]:
    """The preset's rules about something that no valid dream was measured for."""
    asked = {
        "quality": preset.quality > 0, "difficulty": preset.difficulty > 0,
        "reward": preset.reward is not None, "margin": preset.margin is not None,
    }  # fmt: skip
    valid = [row for row in rows if not row.reject]
    return [name for name, on in asked.items() if on and valid and all(_found(row, name) is None for row in valid)]


def _found(row: Dreamt, name: str) -> float | None:
    """What a dream was measured at; None where it was not (no readable verdict, a model that failed)."""
    own = row.measures.get(name) if name in ("quality", "difficulty") else getattr(row, name)
    return None if own is None else float(own)


def sieve(rows: Sequence[Dreamt], preset: str | Preset, without: Collection[str] = ()) -> list[str]:
    """For each dream the rule that drops it, "" if it is kept; its own ``reject`` where it is no valid pair.

    Args:
        rows: all of the dreams, in the order of which the first of equal ones is kept.
        preset: by name, or one of your own.
        without: rules that are left out; ``unmeasured`` lists those that have to be.

    Raises:
        DreamEnvsError: for an unknown preset, or a rule about what was not measured.
    """
    chosen = registry.named("presets", preset, PRESETS) if isinstance(preset, str) else preset
    if lacking := [name for name in unmeasured(rows, chosen) if name not in without]:
        raise DreamEnvsError(f"preset {preset}: {', '.join(lacking)} was not measured; leave it out: without={lacking}")
    dropped = [row.reject or _fails(row, chosen, without) for row in rows]
    left = [i for i, why in enumerate(dropped) if not why]
    if chosen.within is not None and "distance" not in without:
        for i, place in zip(left, _places(left, rows, chosen.within), strict=True):
            dropped[i] = "" if place == i else "distance"
    if chosen.longest is not None and "length" not in without:
        for i in _short([i for i in left if not dropped[i]], rows, chosen):
            dropped[i] = "length"
    return dropped


def _fails(row: Dreamt, chosen: Preset, without: Collection[str]) -> str:
    """The first rule about the dream alone that it fails; one that was not measured for it fails."""

    def below(name: str, low: float | None) -> bool:
        found = _found(row, name)
        if (not low and name in ("quality", "difficulty")) or low is None:
            return False
        return found is None or (found <= low if name in ("reward", "margin") else dream_facts.rating(found) < low)

    fails = {name: below(name, getattr(chosen, name)) for name in ("quality", "difficulty", "reward", "margin")}
    fails["colon"] = chosen.colon and row.text.endswith((":", "\uff1a"))
    return next((name for name, failed in fails.items() if failed and name not in without), "")


def _places(left: Sequence[int], rows: Sequence[Dreamt], within: float) -> list[int]:
    return [left[k] for k in dream_facts.representatives([rows[i].text for i in left], within)]


def _short(left: Sequence[int], rows: Sequence[Dreamt], chosen: Preset) -> set[int]:
    """Those of ``left`` that are not among the longest; of equal lengths the first are."""
    most = math.ceil((chosen.longest or 0.0) * len(rows))
    parts = [list(left)]
    if chosen.halves:
        easy = {i for i in left if dream_facts.rating(_found(rows[i], "difficulty") or 0.0) <= EASY}
        parts, most = [sorted(easy), [i for i in left if i not in easy]], math.ceil(most / 2)
    return {i for part in parts for i in sorted(part, key=lambda i: (-len(rows[i].reply), i))[most:]}


def statistics(rows: Sequence[Dreamt]) -> dict[str, Any]:
    """What a set of dreams is like, JSON-ready: counts, shares of classes and languages, lengths, distinctness.

    ``distinct``: share of the valid instructions that differ.  ``distance``: to the nearest other one.  Quantiles are
    the 10th, 50th and 90th.
    """
    valid = [row for row in rows if not row.reject]
    found: dict[str, Any] = {
        "dreams": len(rows), "valid": len(valid), "classes": _shares([row.kind for row in rows]),
        "rejects": _shares([row.reject for row in rows if row.reject], len(rows)),
    }  # fmt: skip
    if not valid:
        return found
    texts = [" ".join(row.text.casefold().split()) for row in valid]
    return found | {
        "distinct": len(set(texts)) / len(texts),
        "languages": _shares([row.measures["language"] for row in valid]),
        "replies_cut": sum(not row.finished for row in valid) / len(valid),
        "words": _quantiles([row.measures["words"] for row in valid]),
        "reply_words": _quantiles([row.measures["reply_words"] for row in valid]),
        "reply_tokens": _quantiles([row.tokens for row in valid]),
        "distance": _quantiles([row.distance for row in valid]),
        "means": {name: float(np.mean(own)) for name in _AVERAGED
                  if (own := [v for row in valid if (v := row.measures.get(name)) is not None])},
    }  # fmt: skip


def _shares(names: Sequence[str], of: int | None = None) -> dict[str, float]:
    return {name: count / (of or len(names)) for name, count in sorted(Counter(names).items(), key=lambda kv: -kv[1])}


def _quantiles(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in np.quantile(np.array(values, dtype=np.float64), (0.1, 0.5, 0.9))]
