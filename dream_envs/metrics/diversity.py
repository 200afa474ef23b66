"""How many different things a model says: entropies, effective numbers, n-grams, Vendi scores, and distances.

Everything is measured on the same prompts, with the same number of draws and the same temperature for both models; the
unit of resampling is the prompt.  Entropies are in bits and corrected after Miller and Madow unless the name says
``plug_in``.  What is measured *within* a prompt falls when a model learns the only right answer, so a collapse is told
from learning by what is measured across prompts, among wrong draws, or on open-ended prompts (``collapse``).

Sources: Simpson 1949; Miller 1955; Hill 1973 (effective numbers); Lin 1991 (Jensen-Shannon); Roy and Vetterli 2007
(effective rank); Li et al. 2016 (distinct-n); Zhu et al. 2018 (self-BLEU); Friedman and Dieng 2022 (Vendi score).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import _checks
from dream_envs.metrics.health import entropy as entropy

Units = Literal["auto", "words", "characters"]
Similarity = Callable[[Sequence[str]], np.ndarray]
#: Of a longer text only the first so many words or characters are compared.
MAX_UNITS = 512
#: A Vendi score of more different texts takes minutes.
MAX_TEXTS = 4096
_ORDERS = (1, 2, 3, 4)
_CELLS = 4_000_000


# Labels


def histogram(labels: Iterable[str]) -> dict[str, float]:
    """Share of each label, the largest first (equal ones by name); empty for no labels."""
    counts = Counter(labels)
    n = sum(counts.values())
    return {k: c / n for k, c in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))}


def effective_number(labels: Iterable[str], corrected: bool = True) -> float:
    """Exp of the entropy in nats: how many equally common labels would be as diverse; 1 for one label, 0 for none."""
    items = list(labels)
    return 2.0 ** entropy(items, corrected) if items else 0.0


def simpson(labels: Iterable[str]) -> float:
    """Simpson's index: the probability that two different draws have the same label, unbiased; nan below two draws."""
    counts = np.array(list(Counter(labels).values()), dtype=np.float64)
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n >= 2 else math.nan


def js_distance(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """Jensen-Shannon distance of two histograms (shares or counts): the root of the divergence in bits, a metric.

    Returns:
        0 (the same shares) to 1 (no label in common).

    Raises:
        DreamEnvsError: for an empty histogram or a negative share.
    """
    a, b = _aligned(p, q)
    m = (a + b) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log2(x / m), 0.0).sum() for x in (a, b)]
    return math.sqrt(min(1.0, max(0.0, float(sum(terms)) / 2)))


def total_variation(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """Half the summed absolute difference of two histograms: the share of replies that changed label, 0 to 1.

    Raises:
        DreamEnvsError: for an empty histogram or a negative share.
    """
    a, b = _aligned(p, q)
    return min(1.0, float(np.abs(a - b).sum()) / 2)


def _aligned(p: Mapping[str, float], q: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    keys = sorted({*p, *q})
    found = []
    for name, h in (("p", p), ("q", q)):
        x = np.array([h.get(k, 0.0) for k in keys], dtype=np.float64)
        if not np.isfinite(x).all() or (x < 0).any() or x.sum() <= 0:
            raise DreamEnvsError(f"histogram {name}={dict(h)!r:.60}: shares or counts of 0 or more, not all 0")
        found.append(x / x.sum())
    return found[0], found[1]


# Texts


def tokens_of(text: str, units: Units) -> list[str]:
    """Words or characters of a text."""
    return text.split() if units == "words" else list(text)


def units_of(texts: Iterable[str], units: Units = "auto") -> Units:
    """``auto``: words if any text has a blank between two of them, else characters (compact notations).

    Raises:
        DreamEnvsError: for another name.
    """
    if units not in ("auto", "words", "characters"):
        raise DreamEnvsError(f"units={units!r}: 'auto', 'words' or 'characters'")
    if units != "auto":
        return units
    return "words" if any(len(t.split(None, 1)) > 1 for t in texts) else "characters"


def distinct(texts: Sequence[str], n: int, budget: int, rng: np.random.Generator, units: Units = "auto") -> float:
    """Distinct-n: different n-grams over all n-grams, of the first ``budget`` tokens of the texts in random order.

    The share falls with the amount of text whatever the model does, so two models may only be compared at one budget.

    Args:
        texts: replies; n-grams do not reach over the end of one.
        n: length of an n-gram, 1 or more.
        budget: tokens that are looked at; the last text is cut.
        rng: draws the order.
        units: see ``units_of``; give it when comparing models, so that both are cut alike.

    Returns:
        0 to 1; nan if the tokens hold no n-gram.

    Raises:
        DreamEnvsError: if the texts have fewer tokens than the budget.
    """
    _checks.whole("n", n, 1, 64), _checks.whole("budget", budget, 1)
    units = units_of(texts, units)
    rows = [tokens_of(t, units) for t in texts]
    if (there := sum(map(len, rows))) < budget:
        raise DreamEnvsError(f"budget={budget}: the texts have {there} tokens; take a budget that every model reaches")
    seen: set[tuple[str, ...]] = set()
    total, left = 0, budget
    for i in rng.permutation(len(rows)):
        row = rows[i][:left]
        left -= len(row)
        grams = [tuple(row[k : k + n]) for k in range(len(row) - n + 1)]
        seen.update(grams)
        total += len(grams)
        if not left:
            break
    return len(seen) / total if total else math.nan


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU of a text with each other text (pairs, as R-Zero compares them), 0 to 1; nan below two texts.

    Zhu et al. take all other texts as references at once, which grows with their number; pairs do not.
    """
    from dream_envs.rewards.diversity import bleu_similarity

    n = len(texts)
    if n < 2:
        return math.nan
    return float((bleu_similarity([t[:2000] for t in texts]).sum() - n) / (n * (n - 1)))


def gram_kernel(texts: Sequence[str], units: Units = "auto") -> np.ndarray:
    """Mean cosine similarity of n-gram counts for n = 1 to 4: positive semi-definite, 1 on the diagonal.

    A text shorter than n counts as one n-gram, so that equal texts always have 1 and an empty text 0 with all others.

    Args:
        texts: n texts; of each the first ``MAX_UNITS`` units are compared.
        units: see ``units_of``.

    Returns:
        ``float64[n, n]``, 0 to 1.
    """
    units = units_of(texts, units)
    rows = [tokens_of(t, units)[:MAX_UNITS] for t in texts]
    kernel = np.zeros((len(rows), len(rows)))
    for order in _ORDERS:
        kernel += _cosine(*_grams(rows, order), len(rows))
    np.fill_diagonal(kernel, float(len(_ORDERS)))
    return kernel / len(_ORDERS)


def _grams(rows: Sequence[Sequence[str]], order: int) -> tuple[np.ndarray, np.ndarray]:
    """Every n-gram as (row it is in, its number); a row that is shorter is one n-gram."""
    places: dict[tuple[str, ...], int] = {}
    where: list[int] = []
    sizes: list[int] = []
    for row in rows:
        size = min(order, len(row))
        grams = [tuple(row[k : k + size]) for k in range(len(row) - size + 1)] if size else [()]
        where += [places.setdefault(g, len(places)) for g in grams]
        sizes.append(len(grams))
    return np.repeat(np.arange(len(rows)), sizes), np.array(where)


def _cosine(owner: np.ndarray, gram: np.ndarray, n: int) -> np.ndarray:
    """Cosine similarity of rows by their n-gram counts, right off the diagonal."""
    width = int(gram.max()) + 1
    cells, counts = np.unique(owner * width + gram, return_counts=True)
    owner, gram, values = cells // width, cells % width, counts.astype(np.float64)
    values /= np.sqrt(np.bincount(owner, values**2, minlength=n))[owner]
    shared = np.bincount(gram, minlength=width) > 1  # most n-grams of varied texts are in one text only
    number = np.cumsum(shared) - 1
    keep = shared[gram]
    owner, gram, values = owner[keep], number[gram[keep]], values[keep]
    kernel, step = np.zeros((n, n)), max(1, _CELLS // n)
    for at in range(0, int(number[-1]) + 1, step):
        inside = (gram >= at) & (gram < at + step)
        block = np.zeros((n, min(step, int(number[-1]) + 1 - at)))
        block[owner[inside], gram[inside] - at] = values[inside]
        kernel += block @ block.T
    return kernel


def vendi(texts: Sequence[str], similarity: Similarity = gram_kernel) -> float:
    """Vendi score: the effective number of different texts, 1 (all alike) to n (nothing in common).

    Args:
        texts: n >= 1 texts; equal ones are compared once.
        similarity: texts to a symmetric positive semi-definite matrix with 1 on the diagonal (a Gram matrix of unit
            embeddings, say).

    Raises:
        DreamEnvsError: for no texts, or a matrix that is not of this kind.
    """
    counts = Counter(texts)
    if not 1 <= len(counts) <= MAX_TEXTS:
        raise DreamEnvsError(f"Vendi score of {len(counts)} different texts: 1 to {MAX_TEXTS}; take a sample")
    return vendi_of_kernel(similarity(list(counts)), np.array(list(counts.values())))


def vendi_of_kernel(kernel: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Exp(-sum l ln l) over the eigenvalues l of K / n, or of diag(sqrt w) K diag(sqrt w) for shares w.

    Args:
        kernel: ``[n, n]`` symmetric, positive semi-definite, 1 on the diagonal.
        weights: how often each row occurs; None: once each.

    Raises:
        DreamEnvsError: for a matrix that is not of this kind, or weights that are not positive.
    """
    k = np.asarray(kernel, dtype=np.float64)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or not k.size or not np.isfinite(k).all():
        raise DreamEnvsError(f"a similarity matrix is square and finite, not of shape {k.shape}")
    if np.abs(k - k.T).max() > 1e-6 or np.abs(np.diag(k) - 1).max() > 1e-6:
        raise DreamEnvsError("a similarity matrix is symmetric with 1 on its diagonal: normalise the embeddings")
    w = np.ones(len(k)) if weights is None else _checks.numbers("weights", weights, 1e-12, ndim=1)
    if len(w) != len(k):
        raise DreamEnvsError(f"{len(w)} weights for {len(k)} rows of the similarity matrix: one each")
    root = np.sqrt(w / w.sum())
    values = np.linalg.eigvalsh(root[:, None] * (k + k.T) / 2 * root[None, :])
    if values[0] < -1e-6:
        raise DreamEnvsError(
            f"the similarity matrix has the eigenvalue {values[0]:.2g}: use a positive semi-definite one"
        )
    return math.exp(_spread(np.maximum(values, 0.0)))


def _spread(shares: np.ndarray) -> float:
    """Entropy in nats of shares that add up to 1."""
    kept = shares[shares > 0]
    return max(0.0, float(-(kept * np.log(kept)).sum()))


def rounded(values: Mapping[str, Any], digits: int = 6) -> dict[str, Any]:
    """Metrics ready for JSON: plain floats, None for what is not a finite number."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, (float, np.floating)):
            found[key] = round(float(value), digits) if math.isfinite(value) else None
        else:
            found[key] = value
    return found
