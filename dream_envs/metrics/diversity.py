"""How many different things a model outputs: entropies, effective numbers, Vendi scores, and distances.

Both models answer the same prompts, with the same number of draws and the same temperature.  Entropies are in bits.
Sources: Simpson 1949; Miller 1955; Hill 1973 (effective numbers); Lin 1991; Friedman and Dieng 2022 (Vendi score).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

Units = Literal["words", "characters"]
#: Of a longer text only the first so many words or characters are compared.
MAX_UNITS = 512


def histogram(labels: Iterable[str]) -> dict[str, float]:
    """Share of each label, the largest first (equal ones by name); empty for no labels."""
    counts = Counter(labels)
    return {k: c / counts.total() for k, c in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))}


def entropy(items: Iterable[str], corrected: bool = True) -> float:
    """Entropy in bits of what ``items`` were drawn from, whatever their order; see ``entropy_of_counts``."""
    return float(entropy_of_counts(np.array(sorted(Counter(items).values())), corrected))


def entropy_of_counts(counts: np.ndarray, corrected: bool = True) -> np.ndarray:
    """Plug-in entropy in bits, plus (k - 1) / (2 n ln 2) for k labels in n draws if ``corrected`` (Miller, Madow).

    ``counts``: ``[..., L]``, how often each label was seen.  Returns ``float64[...]``, 0 where nothing was drawn.
    """
    counts = np.asarray(counts, dtype=np.float64)
    n = counts.sum(-1)
    p = counts / np.maximum(n, 1e-300)[..., None]
    plug_in = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1) + 0.0
    if not corrected:
        return plug_in
    return plug_in + np.maximum((counts > 0).sum(-1) - 1, 0) / (2 * np.maximum(n, 1) * math.log(2))


def effective_number(labels: Iterable[str]) -> float:
    """2 to the entropy: how many equally common labels would be as diverse; 1 for one label, 0 for none."""
    items = list(labels)
    return 2.0 ** entropy(items) if items else 0.0


def simpson(labels: Iterable[str]) -> float:
    """Simpson's index: the probability that two different draws have the same label, unbiased; nan below two draws."""
    counts = np.array(list(Counter(labels).values()), dtype=np.float64)
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n >= 2 else math.nan


def js_distance(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """Jensen-Shannon distance of two histograms (shares or counts), a metric: 0 (the same) to 1 (no common label)."""
    a, b = _aligned(p, q)
    m = (a + b) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log2(x / m), 0.0).sum() for x in (a, b)]
    return math.sqrt(min(1.0, max(0.0, float(sum(terms)) / 2)))


def total_variation(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """Half the summed absolute difference of two histograms: the share that changed label, 0 to 1."""
    a, b = _aligned(p, q)
    return min(1.0, float(np.abs(a - b).sum()) / 2)


def _aligned(*histograms: Mapping[str, float]) -> list[np.ndarray]:
    keys = sorted(set().union(*histograms))
    counts = [np.array([h.get(k, 0.0) for k in keys], dtype=np.float64) for h in histograms]
    return [x / x.sum() for x in counts]


def majority(answers: Sequence[Hashable | None], right: Hashable) -> float:
    """Probability that the commonest of all answers is ``right``, ties broken evenly; None is no vote."""
    votes = Counter(a for a in answers if a is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    return (votes[right] == most) / sum(c == most for c in votes.values())


def units_of(texts: Iterable[str]) -> Units:
    """Words if any text has a blank between two of them, else characters (compact notations)."""
    return "words" if any(len(t.split(None, 1)) > 1 for t in texts) else "characters"


def gram_kernel(texts: Sequence[str], units: Units) -> np.ndarray:
    """``float64[n, n]`` mean cosine similarity of n-gram counts for n = 1 to 4, 0 to 1; positive semi-definite.

    A text shorter than n counts as one n-gram, so that equal texts always have 1 and an empty text 0 with all others.
    Of each text the first ``MAX_UNITS`` units are compared.
    """
    from scipy.sparse import csr_array

    rows = [(t.split() if units == "words" else list(t))[:MAX_UNITS] for t in texts]
    kernel = np.zeros((len(rows), len(rows)))
    for order in (1, 2, 3, 4):
        places: dict[tuple[str, ...], int] = {}
        counted = [Counter(tuple(row[k : k + order]) for k in range(max(1, len(row) - order + 1))) for row in rows]
        columns = [places.setdefault(gram, len(places)) for counts in counted for gram in counts]
        lengths = np.array([math.sqrt(sum(c * c for c in counts.values())) for counts in counted])
        sizes = np.array([len(counts) for counts in counted])
        values = np.array([c for counts in counted for c in counts.values()]) / np.repeat(lengths, sizes)
        table = csr_array((values, columns, np.concatenate([[0], np.cumsum(sizes)])), shape=(len(rows), len(places)))
        kernel += (table @ table.T).toarray()
    np.fill_diagonal(kernel, 4.0)
    return kernel / 4


def vendi(texts: Sequence[str], units: Units) -> float:
    """Vendi score of one text or more: how many different ones there are, 1 (all alike) to n (nothing in common).

    Exp(-sum l ln l) over the eigenvalues l of diag(sqrt w) K diag(sqrt w), K the ``gram_kernel`` of the different
    texts and w their shares; more than some thousands of them take minutes.
    """
    counts = Counter(texts)
    kernel = gram_kernel(list(counts), units)
    w = np.array(list(counts.values()), dtype=np.float64)
    root = np.sqrt(w / w.sum())
    values = np.linalg.eigvalsh(root[:, None] * (kernel + kernel.T) / 2 * root[None, :])
    kept = values[values > 0]
    return math.exp(max(0.0, float(-(kept * np.log(kept)).sum())))


def rounded(value: Any) -> Any:
    """Ready for JSON, whatever it holds: floats of 6 digits, None for what is not a finite number."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(rounded, value))
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if math.isfinite(value) else None
    return value
