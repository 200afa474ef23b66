"""What can be told of a dreamt instruction and its reply from their text alone: sanitising, measures, distances.

Every measure is a heuristic on the surface of a text and says so; none calls a model.  Distances are cosine distances
of character 4-grams, counted in 4,096 buckets by CRC-32: the same on every machine, exact for all pairs, quadratic.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

#: What became of a raw dream.  Those behind the first two are turned away.
CLASSES = {
    "clean": "as it was, but for blanks around it and invisible characters",
    "unwrapped": "quotation marks or a label such as 'User:' around it were taken off",
    "empty": "nothing but blanks and invisible characters",
    "cut": "its budget ended it, or it is longer than that",
    "markup": "a chat template's markup or another speaker's turn stands in it",
    "noise": "less than 3 in 10 of its characters are letters or digits",
}
#: Why a pair is turned away beyond that.
REJECTS = {
    **{kind: CLASSES[kind] for kind in ("empty", "cut", "markup", "noise")},
    "silent": "there is no reply to it",
    "leaked": "the reply stands in the instruction, word for word",
}
RATINGS = 5  #: steps of a rating: very poor to excellent, very easy to very hard

_MARKUP = re.compile(
    r"<\|[^|>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|</s>|^<s>|</?(?:start|end)_of_turn>|<\uff5c[^\uff5c]{1,40}\uff5c>"
    r"|^[ \t]*(?:#{1,4}[ \t]*|\*\*)?(?:assistant|user|system|human|response)(?:\*\*)?[ \t]*:"
    r"|^(?:assistant|user|system)$",
    re.I | re.M,
)
_LABEL = re.compile(r"(?:user|human|instruction|prompt|query)[ \t]*:[ \t]*(?=\S)", re.I)
_QUOTES = (('"', '"'), ("\u201c", "\u201d"), ("\u00ab", "\u00bb"))
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts whose words stand without blanks: a character is a word
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_ENDS = (".", "?", "!", ":", ";", "`", ")", "]", "}", "\u3002", "\uff1f", "\uff01", "\u061f")
_ASKS = re.compile(
    r"[?\uff1f]|^\s*(?:[-*\u2022]|\d+[.)])\s|\n\s*\n|\d+|```|[=<>+*/^]|\b(?:and|then|but|also|unless)\b", re.M
)
_UNSAFE = re.compile(
    r"\b(?:(?:make|build|buy|get) (?:a |an )?(?:bomb|explosive|grenade|gun)s?|kill (?:myself|yourself|someone|him|her)|"
    r"suicide|child porn\w*|steal (?:a |someone'?s )?(?:car|password|identity)|malware|ransomware|"
    r"(?:hack|break) into|synthesi[sz]e (?:meth\w*|cocaine|heroin|sarin))\b",
    re.I,
)
_STOPWORDS = {
    "en": "the of and to in is that for it with as are on this be by an or from what how you can which your do",
    "fr": "le la les des et en un une est que pour dans qui sur au avec pas du plus vous je ce comment quel",
    "de": "der die das und ist ein eine nicht zu den mit auf sich des dem von wie als auch im wir ich sie es",
    "es": "el la los las de y en que un una es por con para como su al lo del se cual qué cómo más",
    "it": "il lo gli di e che un una per con non sono del della come si nel più cosa anche",
    "pt": "o os as de e que um uma para com não por em do da como mais seu ao dos são",
    "nl": "de het een en van is dat op te in voor niet met zijn aan er maar ook hoe wat",
}
_FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _STOPWORDS.items()}
_SCRIPTS = {"HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh"}
_BUCKETS = 4096
_HEAD = 4096  # characters of a longer text that are measured and compared


class Clean(msgspec.Struct, frozen=True):
    """A sanitised text and its class, a key of ``CLASSES``."""

    text: str
    kind: str


def sanitise(raw: str, finish_reason: str = "", limit: int | None = None) -> Clean:
    """A raw dream without what is around it; lines, questions and blank lines within it all stay.

    ``limit``: characters that it may have.  Of a dream with markup the text is what stands before that.
    """
    text = "".join(c for c in raw[: limit and limit + 1].replace("\r\n", "\n") if c in "\n\t" or _visible(c)).strip()
    if not text:
        return Clean("", "empty")
    if limit is not None and len(raw) > limit:
        return Clean(text[:limit], "cut")
    kind = "clean"
    if label := _LABEL.match(text):
        text, kind = text[label.end() :], "unwrapped"
    for left, right in _QUOTES:
        inner = text[1:-1]
        if len(text) > 2 and text[0] == left and text[-1] == right and left not in inner and right not in inner:
            text, kind = inner.strip(), "unwrapped"
    if found := _MARKUP.search(text):
        return Clean(text[: found.start()].rstrip(), "markup")
    if finish_reason == "length":
        return Clean(text, "cut")
    shown = [c for c in text if not c.isspace()]
    if sum(unicodedata.category(c)[0] in "LNM" for c in shown) < 0.3 * len(shown):
        return Clean(text, "noise")
    return Clean(text, kind)


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")


def words_of(text: str) -> list[str]:
    """Words in lower case; where a script has no blanks, its characters."""
    return _WORD.findall(text[:_HEAD].lower())


def quality(text: str) -> float:
    """Form, not sense: the share of five checks that hold, 0 to 1.

    Two words to two hundred; begins with a capital, a digit or code; ends as a sentence or code does; of its word
    trigrams less than 3 in 10 repeat; 6 in 10 of its characters are letters or digits.
    """
    words, text = words_of(text), text[:_HEAD].strip()
    if not words:
        return 0.0
    shown = [c for c in text if not c.isspace()]
    begins = not text[0].islower()
    checks = (
        2 <= len(words) <= 200, begins, text.endswith(_ENDS), repetition(text) < 0.3,
        sum(c.isalnum() for c in shown) >= 0.6 * len(shown),
    )  # fmt: skip
    return sum(checks) / len(checks)


def difficulty(text: str) -> float:
    """How much is asked, not how hard it is: mean of three parts, each 0 to 1.

    Words (64 are 1), different words (48 are 1), and marks of parts and precision (8 are 1): questions, list items,
    paragraphs, numbers, operators, code, joining words.
    """
    words = words_of(text)
    parts = len(words) / 64, len(set(words)) / 48, len(_ASKS.findall(text[:_HEAD])) / 8
    return sum(min(1.0, part) for part in parts) / len(parts)


def repetition(text: str) -> float:
    """Share of its word trigrams (of a single word its character trigrams) that stood there before, 0 to below 1."""
    words = words_of(text)
    units: Sequence[str] = words if len(words) > 2 else text[:_HEAD]
    grams = [tuple(units[i : i + 3]) for i in range(len(units) - 2)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def safety(text: str) -> float:
    """1 unless one of a dozen patterns of harmful requests stands in it, else 0; English words, no meaning."""
    return 0.0 if _UNSAFE.search(text[:_HEAD]) else 1.0


def language(text: str) -> str:
    """A guess from scripts and function words: ``en``, ``fr`` ..., a script's name in lower case, or ``none``."""
    scripts = Counter(unicodedata.name(c, "NONE").split()[0] for c in text[:_HEAD] if c.isalpha())
    if not scripts:
        return "none"
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > 0.1 * scripts.total():
        return "ja"
    script = max(sorted(scripts), key=scripts.__getitem__)
    if script != "LATIN":
        return _SCRIPTS.get(script, script.lower())
    words = words_of(text)
    hits = {name: sum(word in known for word in words) for name, known in _FUNCTION_WORDS.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] >= max(1, 0.1 * len(words)) else "latin"


#: Measures of one text that are numbers from 0 to 1, by name.
MEASURES: dict[str, Callable[[str], float]] = {
    "quality": quality, "difficulty": difficulty, "repetition": repetition, "safety": safety,
}  # fmt: skip


def echo(instruction: str, reply: str) -> float:
    """Share of the reply's word 4-grams (of a shorter one: all of it) that stand in the instruction, 0 to 1."""
    asked, said = words_of(instruction), words_of(reply)
    size = max(1, min(4, len(said)))
    known = {tuple(asked[i : i + size]) for i in range(len(asked) - size + 1)}
    grams = [tuple(said[i : i + size]) for i in range(len(said) - size + 1)]
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def leaked(instruction: str, reply: str) -> bool:
    """Whether a reply of 16 characters or more stands in the instruction, whatever the case and the blanks."""
    said = " ".join(reply.casefold().split())
    return len(said) >= 16 and said in " ".join(instruction.casefold().split())


def measures(instruction: str, reply: str) -> dict[str, Any]:
    """The metric vector of a pair: numbers, and the language by its name."""
    return {
        **{name: measure(instruction) for name, measure in MEASURES.items()},
        "words": len(words_of(instruction)), "language": language(instruction),
        "reply_quality": quality(reply), "reply_repetition": repetition(reply), "reply_safety": safety(reply),
        "reply_words": len(words_of(reply)), "echo": echo(instruction, reply),
    }  # fmt: skip


def rating(value: float) -> int:
    """A measure from 0 to 1 as 1 (very poor, very easy) to 5 (excellent, very hard)."""
    return 1 + min(RATINGS - 1, int(RATINGS * value + 1e-9))


def vectors(texts: Sequence[str]) -> np.ndarray:
    """``float64[N, 4096]``: unit vectors of character 4-grams; case and kinds of blanks do not count."""
    table = np.zeros((len(texts), _BUCKETS))
    for row, text in zip(table, texts, strict=True):
        plain = f" {' '.join(text[:_HEAD].casefold().split())} "
        for gram, count in Counter(plain[i : i + 4] for i in range(max(1, len(plain) - 3))).items():
            row[zlib.crc32(gram.encode("utf-8", "surrogatepass")) % _BUCKETS] += count
        row /= math.sqrt(float(row @ row))
    return table


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``float64[N, M]`` cosine distances of ``vectors``, 0 (the same 4-grams) to 1; exactly 0 for equal texts."""
    return np.clip(np.round(1 - one @ other.T, 9), 0.0, 1.0)


def nearest(texts: Sequence[str], known: np.ndarray | None = None) -> list[float]:
    """The distance of each text to the nearest other one, and to ``known`` vectors; 1.0 where there is none."""
    rows, found = vectors(texts), list[float]()
    for i, row in enumerate(rows):
        near = distances(row[None], rows)[0]
        near[i] = 1.0  # itself by its place: an equal text elsewhere is a neighbour at distance 0
        best = float(near.min())
        if known is not None and len(known):
            best = min(best, float(distances(row[None], known).min()))
        found.append(best)
    return found


def representatives(texts: Sequence[str], within: float = 0.0) -> list[int]:
    """For each text the place of the one that is kept for it: its own place if it is kept.

    In order, a text is kept unless a kept one is at most ``within`` away; then the nearest of these stands for it, of
    equally near ones the first.  So of equal texts the first is kept whatever the order of a search, kept ones are
    further apart than ``within``, and everything left out has a kept one that near: a chain of neighbours never falls
    to one end.
    """
    rows, kept, found = vectors(texts), list[int](), list[int]()
    for i, row in enumerate(rows):
        near = distances(row[None], rows[kept])[0] if kept else np.ones(0)
        if len(near) and near.min() <= within:
            found.append(kept[int(near.argmin())])
        else:
            kept.append(i)
            found.append(i)
    return found


def vector_text(vector: Mapping[str, Any], notation: str) -> str:
    """The metric vector as a curator reads it: lines, or in compact notation digits from 0 to 9."""
    if notation == "compact":
        return "d|" + "".join(str(min(9, int(10 * v))) for v in vector.values() if isinstance(v, float))
    shown = [f"{k.replace('_', ' ')}: {v:.2f}" if isinstance(v, float) else f"{k.replace('_', ' ')}: {v}"
             for k, v in vector.items()]  # fmt: skip
    return "\n".join(shown)
