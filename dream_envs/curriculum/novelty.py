"""How like anything seen before a problem is, at about the same price for ten problems and for a million."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Task

MAX_TEXT_CHARS = 2000  # of a longer text only the head is compared
_HASHES = 128
_MASK = 2**32 - 1

Features = Callable[[Task], Iterable[str]]


def grams(item: Task | str, n: int = 3, features: Features | None = None) -> frozenset[str]:
    """What two problems are compared by: n-grams of words (of characters, if the prompt has no blank), or features.

    ``item``: a problem, or its prompt alone if there are no ``features``.  ``features``: a family's, in place of
    n-grams: they see through new words for an old skill.  A text that is shorter than ``n`` is one gram.
    """
    if features is not None:
        if isinstance(item, str):
            raise DreamEnvsError(f"{item[:40]!r} is a text: features= need tasks")
        return frozenset(features(item))
    text = (item if isinstance(item, str) else item.prompt)[:MAX_TEXT_CHARS]
    units = text.split() if " " in text else list(text)
    size = max(1, min(n, len(units)))
    return frozenset(chr(0).join(units[i : i + size]) for i in range(len(units) - size + 1))


class NoveltyIndex:
    """Near-duplicate search among problems; for ``gates.novel`` and, as ``reference=``, for ``rewards.novelty``.

    Candidates come from MinHash and locality-sensitive hashing (``datasketch``) and are compared exactly, by the
    Jaccard similarity of their ``grams``.  ``threshold`` (0.05 to 1): what is less similar is mostly missed; equal sets
    are always found.  ``n`` (1 to 16) and ``features``: see ``grams``.  Nothing depends on Python's ``hash``.
    """

    def __init__(self, threshold: float = 0.5, n: int = 3, features: Features | None = None) -> None:
        self.threshold = check("threshold", threshold, 0.05, 1)
        self.n, self.features = check("n", n, 1, 16, whole=True), features
        try:
            from datasketch import MinHash, MinHashLSH
        except ModuleNotFoundError as error:
            raise DreamEnvsError("near-duplicate search needs datasketch: pip install 'dream-envs[train]'") from error
        self._blank = MinHash(_HASHES, hashfunc=_MASK.__and__)
        self._lsh = MinHashLSH(threshold, _HASHES)
        self._sets: dict[frozenset[int], None] = {}  # in the order they came

    def __len__(self) -> int:
        return len(self._sets)

    def similarity(self, task: Task | str) -> float:
        """The largest Jaccard similarity found, 0 to 1, with anything in the index; 0 with an empty one."""
        mine = self._hashed(task)
        if mine in self._sets:
            return 1.0
        return max((len(mine & its) / len(mine | its) for its in self._lsh.query(self._sketch(mine))), default=0.0)

    def add(self, task: Task | str) -> bool:
        """Add a problem; False if the index already has one of the same n-grams or features."""
        return self._insert(self._hashed(task))

    def extend(self, tasks: Iterable[Task | str]) -> int:
        """Add several; how many were new."""
        return sum([self.add(task) for task in tasks])

    def state(self) -> dict[str, Any]:
        """JSON-ready: the settings and the hashed sets in the order they came."""
        return {**self._settings(), "sets": list(map(sorted, self._sets))}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the index that gave this state; one of other settings is an error."""
        settings = self._settings()
        there = {key: state.get(key) for key in settings}
        if there != settings:
            raise DreamEnvsError(f"the saved index has {there}, this one {settings}: make it with the saved settings")
        self.__init__(self.threshold, self.n, self.features)  # type: ignore[misc]
        for its in state["sets"]:
            self._insert(frozenset(its))

    def _settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "n": self.n, "features": self.features is not None}

    def _insert(self, mine: frozenset[int]) -> bool:
        if mine in self._sets:
            return False
        self._lsh.insert(mine, self._sketch(mine), check_duplication=False)
        self._sets[mine] = None
        return True

    def _sketch(self, mine: frozenset[int]) -> Any:
        sketch = self._blank.copy()
        sketch.update_batch(mine)
        return sketch

    def _hashed(self, task: Task | str) -> frozenset[int]:
        return frozenset(
            int.from_bytes(hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
            for gram in grams(task, self.n, self.features)
        )
