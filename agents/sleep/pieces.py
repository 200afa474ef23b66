"""Long contexts in pieces: a learner that cannot take in a context whole reads the piece that a question is about.

Nothing here knows what a text or a question is: pieces are whole lines, and the piece of a question is the one that has
most of the question's rare words and tokens in it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
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

        A question's piece: the sum over what question and piece share of log(pieces / pieces that have it) is largest,
        the first of several.  A dreamer, who has no question yet, gets a piece by its seed.
        """
        context = context_of(request.messages)
        if len(context) != 1 or len(parts := self.split(context[0]["content"])) < 2:
            return request
        marks = [self._marks(part) for part in parts]
        if request.role == "dreamer":
            best = request.seed % len(parts)
        else:
            asked = self._marks(" ".join(m["content"] for m in closed(request.messages)))
            rare = {mark: math.log(len(parts) / n) for mark in asked if (n := sum(mark in own for own in marks))}
            best = max(range(len(parts)), key=lambda i: math.fsum(rare[m] for m in rare if m in marks[i]))
        messages = [{**m, "content": parts[best]} if m is context[0] else m for m in request.messages]
        return msgspec.structs.replace(request, messages=messages)

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

    def _marks(self, text: str) -> frozenset[int | str]:
        """What a text is told by: its tokens, and its words of three letters or more."""
        return frozenset([*self._ids(text), *re.findall(r"\w{3,}", text.lower())])
