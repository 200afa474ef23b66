"""How like anything seen before a problem is, at about the same price for ten problems and for a million.

The similarity of two problems is the Jaccard similarity of their sets of n-grams (or of a family's features): shared
over all.  ``NoveltyIndex`` first asks whether exactly this set is there, then collects candidates by MinHash with
banding (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4) and compares with those exactly, so a similarity
is never an estimate, but a problem in no common band is missed: with the default 16 bands of 3 hashes a pair of
similarity 0.8, 0.7, 0.5 or 0.3 meets in a band with probability 0.99999, 0.999, 0.88 or 0.35.

Nothing depends on Python's ``hash``: the same problems in the same order give the same index in every process.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dream_envs.core import DreamEnvsError, Task
from dream_envs.seeds import stream

#: Of a longer text only the head is compared.
MAX_TEXT_CHARS = 2000
#: Members that a bucket remembers; the newest push the oldest out.
WAYS = 4
_CHUNK = 1 << 16
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SCHEMA = 1


class NoveltyIndex:
    """Near-duplicate search among problems; hand it to ``rewards.novelty`` as ``reference=``.

    Memory at a million problems of 20 n-grams: about 0.5 GB, more than half of it the buckets.

    Args:
        features: what the similarity is taken over, a family's ``features`` for example; then only tasks can be asked
            about.  None: the prompt's n-grams of words (of characters, if it has no blank).
        n: the length of an n-gram, 1 to 16.
        bands: 1 to 64; more bands find less similar pairs.
        rows: hashes a band, 1 to 16; more rows keep less similar pairs out.
    """

    def __init__(
        self, features: Callable[[Task], Iterable[str]] | None = None, *, n: int = 3, bands: int = 16, rows: int = 3
    ) -> None:
        for name, value, top in (("n", n, 16), ("bands", bands, 64), ("rows", rows, 16)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= top:
                raise DreamEnvsError(f"{name}={value!r}: a whole number from 1 to {top}")
        self.features, self.n, self.bands, self.rows = features, n, bands, rows
        draw = stream("novelty", "minhash", bands, rows).integers(2**64, size=(2, bands * rows, 1), dtype=np.uint64)
        self._scale, self._shift = draw[0] | np.uint64(1), draw[1]
        self._band = np.arange(bands)
        self._exact: set[bytes]
        self._count: int
        self._used: int
        self._flat: np.ndarray  # uint32: the sets of all problems, one behind the other
        self._ends: np.ndarray  # int64: where each ends
        self._all_keys: np.ndarray  # uint32[problems, bands]
        self._table: np.ndarray  # int32[bands, slots, WAYS]: problems, newest first, -1 for none
        self._clear()

    def __len__(self) -> int:
        return self._count

    def similarity(self, task: Task | str) -> float:
        """The largest Jaccard similarity found, 0 to 1, with anything in the index; 0 with an empty one."""
        mine = self._grams(task)
        return 1.0 if _name(mine) in self._exact else self._nearest(mine)

    def add(self, task: Task | str) -> bool:
        """Add a problem; False if the index already has one of the same n-grams or features."""
        mine = self._grams(task)
        if not self._append(mine):
            return False
        keys = self._keys(mine, np.array([len(mine)]))
        at = self._count - 1
        self._all_keys = _room(self._all_keys, at + 1)
        self._all_keys[at] = keys[0]
        if self._count > self._table.shape[1]:
            self._rebuild()
        else:
            slots = (keys[0] & np.uint32(self._table.shape[1] - 1)).astype(np.int64)
            bucket = self._table[self._band, slots]
            bucket[:, 1:] = bucket[:, :-1].copy()
            bucket[:, 0] = at
            self._table[self._band, slots] = bucket
        return True

    def extend(self, tasks: Iterable[Task | str]) -> int:
        """Add many at once, several times as fast as one by one, with the same result; how many were new."""
        before = self._count
        for task in tasks:
            self._append(self._grams(task))
        self._index(before)
        return self._count - before

    def state(self) -> dict[str, Any]:
        """JSON-ready: the sets of hashes in the order they came; everything else is made from them again."""
        sizes = np.diff(self._ends[: self._count], prepend=0).astype("<u4")
        flat = self._flat[: self._used].astype("<u4")
        settings = {"n": self.n, "bands": self.bands, "rows": self.rows, "features": self.features is not None}
        return {"schema": _SCHEMA, **settings, "sizes": _text(sizes), "grams": _text(flat)}

    def restore(self, state: dict[str, Any]) -> None:
        """Become exactly the index that gave this state.

        Raises:
            DreamEnvsError: if that index had other settings.
        """
        settings = {"n": self.n, "bands": self.bands, "rows": self.rows, "features": self.features is not None}
        there = {key: state.get(key) for key in settings}
        if there != settings or state.get("schema") != _SCHEMA:
            raise DreamEnvsError(f"the saved index has {there}, this one {settings}: make it with the saved settings")
        self._clear()
        self._flat, sizes = _array(state["grams"]), _array(state["sizes"])
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._used, self._count = len(self._flat), len(sizes)
        self._exact = {_name(part) for part in np.split(self._flat, self._ends[:-1])} if len(sizes) else set()
        self._index(0)

    def _clear(self) -> None:
        self._count = self._used = 0
        self._exact = set()
        self._flat = np.zeros(0, np.uint32)
        self._ends = np.zeros(0, np.int64)
        self._all_keys = np.zeros((0, self.bands), np.uint32)
        self._table = np.full((self.bands, 1024, WAYS), -1, np.int32)

    def _append(self, mine: np.ndarray) -> bool:
        """Note a set, without its keys; False if it is there."""
        name = _name(mine)
        if name in self._exact:
            return False
        self._exact.add(name)
        self._flat = _room(self._flat, self._used + len(mine))
        self._flat[self._used : self._used + len(mine)] = mine
        self._used += len(mine)
        self._ends = _room(self._ends, self._count + 1)
        self._ends[self._count] = self._used
        self._count += 1
        return True

    def _index(self, first: int) -> None:
        """Keys of the problems from ``first`` on, and the table anew."""
        self._all_keys = _room(self._all_keys, self._count)
        for at in range(first, self._count, _CHUNK):
            ends = self._ends[at : min(at + _CHUNK, self._count)]
            begin = int(self._ends[at - 1]) if at else 0
            flat = self._flat[begin : int(ends[-1])]
            self._all_keys[at : at + len(ends)] = self._keys(flat, np.diff(ends, prepend=begin))
        self._rebuild()

    def _rebuild(self) -> None:
        """The table that adding one by one would have given: the newest ``WAYS`` of each slot, newest first."""
        slots = self._table.shape[1]
        while slots < self._count:
            slots *= 2
        self._table = np.full((self.bands, slots, WAYS), -1, np.int32)
        for band in range(self.bands):
            slot = self._all_keys[: self._count, band][::-1] & np.uint32(slots - 1)
            order = np.argsort(slot, kind="stable")  # newest first within a slot
            ordered = slot[order]
            new = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(slot) else np.zeros(0, bool)
            place = np.arange(len(slot))
            rank = place - np.maximum.accumulate(np.where(new, place, 0))
            kept = rank < WAYS
            self._table[band, ordered[kept], rank[kept]] = self._count - 1 - order[kept]

    def _nearest(self, mine: np.ndarray) -> float:
        if not self._count:
            return 0.0
        keys = self._keys(mine, np.array([len(mine)]))[0]
        found = self._table[self._band, (keys & np.uint32(self._table.shape[1] - 1)).astype(np.int64)]
        met = (found >= 0) & (self._all_keys[found, self._band[:, None]] == keys[:, None])
        near = np.unique(found[met])
        if not len(near):
            return 0.0
        ends = self._ends[near]
        begins = np.where(near > 0, self._ends[near - 1], 0)
        theirs = np.concatenate([self._flat[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)])
        sizes = ends - begins
        hits = mine[np.minimum(np.searchsorted(mine, theirs), len(mine) - 1)] == theirs
        shared = np.add.reduceat(hits, np.cumsum(sizes) - sizes, dtype=np.int64)
        return float((shared / (len(mine) + sizes - shared)).max())

    def _keys(self, flat: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """``uint32[len(sizes), bands]``: a hash of each band's least hash values, for sets that stand in ``flat``."""
        spread = _mix(flat.astype(np.uint64))
        starts = np.cumsum(sizes) - sizes
        keys = np.empty((len(sizes), self.bands), np.uint32)
        step = self.bands if len(flat) <= 4096 else 1  # all bands at once where that fits the cache
        for band in range(0, self.bands, step):
            which = slice(band * self.rows, (band + step) * self.rows)
            hashes = (spread * self._scale[which] + self._shift[which]) >> np.uint64(32)
            least = np.minimum.reduceat(hashes, starts, axis=1).reshape(step, self.rows, len(sizes))
            key = np.zeros((step, len(sizes)), np.uint64)
            for row in range(self.rows):
                key = _mix(key * _PRIME + least[:, row])
            keys[:, band : band + step] = key.T.astype(np.uint32)
        return keys

    def _grams(self, item: Task | str) -> np.ndarray:
        """The set as sorted ``uint32`` hashes; an empty one is a set of its own kind."""
        if self.features is not None:
            if isinstance(item, str):
                raise DreamEnvsError(f"{item[:40]!r} is a text: an index over features= is asked about tasks")
            units = np.array([_word(feature) for feature in self.features(item)], np.uint64)
            return _set_of(units)
        text = (item if isinstance(item, str) else item.prompt)[:MAX_TEXT_CHARS]
        if " " in text:
            units = np.array([_word(word) for word in text.split()], np.uint64)
        else:
            units = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        size = min(self.n, len(units))
        count = len(units) - size + 1
        grams = units[:count]
        for at in range(1, size):
            grams = _mix(grams) * _PRIME + units[at : at + count]
        return _set_of(grams if size else units)


def _set_of(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.zeros(1, np.uint32)
    found = np.sort(_mix(values).astype(np.uint32))
    return found[np.concatenate([[True], found[1:] != found[:-1]])]


def _mix(z: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every bit of the result depends on every bit of ``z``; arrays wrap without a warning."""
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@functools.lru_cache(maxsize=1 << 16)
def _word(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _name(grams: np.ndarray) -> bytes:
    return hashlib.blake2b(grams.astype("<u4", copy=False).tobytes(), digest_size=8).digest()


def _room(array: np.ndarray, count: int) -> np.ndarray:
    """The array with room for ``count`` rows at least; it doubles, so that adding is cheap on average."""
    if count <= len(array):
        return array
    grown = np.zeros((max(1024, count, 2 * len(array)), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _array(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u4").astype(np.uint32)
