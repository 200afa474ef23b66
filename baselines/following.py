"""Instructions whose following a program can check, drawn from seeds (after IFEval, arXiv 2311.07911; ten kinds).

A reply that says nothing follows none of them.  The checks are on form alone: a reply may follow and be nonsense.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import numpy as np

from dream_envs.seeds import stream
from dream_envs.tasks.answers import visible

_TOPICS = (
    "how bread is made", "why the sky is blue", "what a library is for", "how to plan a short trip", "why cats sleep",
    "how a bicycle stays upright", "what makes a good friend", "how to grow tomatoes", "why leaves change colour",
    "how to learn a language", "what rain is", "how to keep a kitchen clean", "why people tell stories",
    "how a bridge holds up", "what a budget is", "how to write a letter",
)  # fmt: skip
_WORDS = ("water", "time", "people", "small", "always", "begin", "together", "reason")
_CLOSING = ("That is all.", "I hope this helps.", "Good luck.")


class Check(msgspec.Struct, frozen=True):
    """A prompt, the kind of its constraint, and whether a reply keeps to it."""

    kind: str
    prompt: str
    follows: Callable[[str], bool]


def _bullets(text: str) -> int:
    return sum(bool(re.match(r"\s*[-*\u2022]\s+\S", line)) for line in text.splitlines())


def _says(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.I) is not None


def _kinds(rng: np.random.Generator) -> dict[str, tuple[str, Callable[[str], bool]]]:
    """One draw of every kind: what it asks for, and the test of a reply."""
    few, many, items = (int(rng.integers(*span)) for span in ((10, 26), (20, 41), (2, 5)))
    word, other = (_WORDS[i] for i in rng.permutation(len(_WORDS))[:2])
    closing = _CLOSING[int(rng.integers(len(_CLOSING)))]
    return {
        "at most": (f"Use at most {few} words.", lambda text: len(text.split()) <= few),
        "at least": (f"Use at least {many} words.", lambda text: len(text.split()) >= many),
        "word": (f"Use the word '{word}'.", lambda text: _says(word, text)),
        "no word": (f"Do not use the word '{other}'.", lambda text: not _says(other, text)),
        "bullets": (f"Write exactly {items} bullet points that begin with '- '.", lambda text: _bullets(text) == items),
        "lower case": ("Write in lower case letters only.", lambda text: text == text.lower()),
        "capitals": ("Write in capital letters only.", lambda text: text == text.upper()),
        "no comma": ("Use no commas.", lambda text: "," not in text),
        "closing": (f"End with the words '{closing}'", lambda text: text.rstrip(" \n\"'*").endswith(closing)),
        "one paragraph": ("Write a single paragraph.", lambda text: "\n" not in text.strip()),
    }


def checks(count: int, seed: str) -> list[Check]:
    """So many prompts, the kinds by turns; the same for the same seed."""
    found = list[Check]()
    for i in range(count):
        rng = stream("following", seed, i)
        kinds = _kinds(rng)
        kind = list(kinds)[i % len(kinds)]
        asks, test = kinds[kind]
        topic = _TOPICS[int(rng.integers(len(_TOPICS)))]
        found.append(Check(kind, f"Explain {topic}. {asks}", test))
    return found


def followed(check: Check, reply: str) -> bool:
    """Whether the reply says something and keeps to the constraint; reasoning in it is no part of the reply."""
    shown = visible(reply)
    return shown is not None and any(c.isalnum() for c in shown) and check.follows(shown.strip())
