"""Long contexts in pieces: a learner that cannot take in a context whole reads the piece that a question is about.

Nothing here knows what a text or a question is: pieces are whole lines, and the piece of a question is the one that has
the line with most of the question's rare words.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dream_envs.agents.sleep.experience import closed, context_of
from dream_envs.core import DreamEnvsError, Request


class Pieces:
    """Cuts requests' contexts to pieces of at most ``most`` tokens of this tokenizer."""

    def __init__(self, tokenizer: Any, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self.split = functools.lru_cache(16)(self._split)

    def fitted(self, request: Request) -> Request:
        """The request with one piece in place of a context that is longer; any other request as it is.

        A question's piece has the line for which the sum over the words that both have of log(lines / lines that have
        it) is largest, the first of several; over tokens where no line has a word of the question.  A dreamer, who has
        no question yet, gets a piece by its seed.
        """
        context = context_of(request.messages)
        if len(context) != 1 or len(parts := self.split(context[0]["content"])) < 2:
            return request
        if request.role == "dreamer":
            best = request.seed % len(parts)
        else:
            best = self._best(" ".join(m["content"] for m in closed(request.messages)), parts)
        messages = [{**m, "content": parts[best]} if m is context[0] else m for m in request.messages]
        return msgspec.structs.replace(request, messages=messages)

    def _best(self, question: str, parts: Sequence[str]) -> int:
        """The number of the piece with the line that answers to the question."""
        lines = [(i, line) for i, part in enumerate(parts) for line in part.split("\n")]
        worth = [0.0] * len(lines)
        for marks in (_words, self._ids):
            own = [frozenset(marks(line)) for _, line in lines]
            for mark in dict.fromkeys(marks(question)):
                having = [i for i, its in enumerate(own) if mark in its]
                for i in having:
                    worth[i] += math.log(len(lines) / len(having))
            if any(worth):
                break
        return lines[worth.index(max(worth))][0]

    def _split(self, text: str) -> list[str]:
        """The text's lines, packed in their order."""
        if self._length([text]) <= self.most:
            return [text]
        packed: list[list[str]] = [[]]
        for line in text.split("\n"):
            if (length := self._length([line])) > self.most:
                raise DreamEnvsError(f"piece={self.most}: a line of this context has {length} tokens; {length} or more")
            if packed[-1] and self._length([*packed[-1], line]) > self.most:
                packed.append([])
            packed[-1].append(line)
        return ["\n".join(lines) for lines in packed]

    def _length(self, lines: Iterable[str]) -> int:
        return len(self._ids("\n".join(lines)))

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


def _words(text: str) -> list[str]:
    """Of three letters or more, in small letters."""
    return re.findall(r"\w{3,}", text.lower())
