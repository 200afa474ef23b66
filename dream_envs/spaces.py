"""``UnicodeText``: the space of all strings up to a length, for observations and actions made of real text.

Not a ``gymnasium.spaces.Text``, which has a finite set of characters and comes back from shared memory as zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Space

from dream_envs.core import DreamEnvsError

#: Longest observation and action by default, in characters: a bound on memory, not on the game (see ``core.Limits``).
MAX_OBSERVATION, MAX_ACTION = 2**26, 2**22
_SAMPLE_CHARS = "".join(map(chr, range(32, 127)))


class UnicodeText(Space[str]):
    """Every ``str`` of at most ``max_length`` characters (code points), the empty one and lone surrogates included."""

    def __init__(self, max_length: int = MAX_ACTION, *, seed: int | np.random.Generator | None = None) -> None:
        if isinstance(max_length, bool) or not isinstance(max_length, (int, np.integer)) or max_length < 1:
            raise DreamEnvsError(f"max_length={max_length!r}: a whole number of characters, 1 or more")
        self.max_length = int(max_length)
        super().__init__(shape=None, dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: text has no fixed-size array form."""
        return False

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a str (``numpy.str_`` too) of at most ``max_length`` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Printable ASCII of a length drawn uniformly from 0 to 32 (``max_length``, if that is less); no masks."""
        if mask is not None or probability is not None:
            raise DreamEnvsError("UnicodeText.sample takes no mask: it has no finite set of characters to mask")
        length = int(self.np_random.integers(min(32, self.max_length) + 1))
        return "".join([_SAMPLE_CHARS[i] for i in self.np_random.integers(len(_SAMPLE_CHARS), size=length)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash(("UnicodeText", self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"
