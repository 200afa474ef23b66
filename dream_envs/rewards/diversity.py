"""Rewards against repetition: clusters of near-copies in a batch or an episode, and novelty against a reference."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Episode, Score, Task, Turn, challenge_of
from dream_envs.curriculum.novelty import MAX_TEXT_CHARS, Features, NoveltyIndex, grams
from dream_envs.rewards.base import Scores, Shown, agents_of, by_agent, each, last_turns, reward

#: ``reference=EARLIER``: ``novelty`` compares with the problems of the rounds that it has scored before.
EARLIER = "earlier"


def bleu_similarity(texts: Sequence[str]) -> np.ndarray:
    """Symmetric sentence BLEU of all pairs: ``float64[n, n]``, 0 to 1, 1 on the diagonal.

    Units are words, or characters in a batch where no text has a blank (compact notations).  n-grams up to 4, a zero
    count taken as 0.1 (Chen and Cherry's method 1, as R-Zero uses it), and two departures: n is at most the shorter
    text's length, so that equal texts always have 1 (with a fixed n = 4 a one-word text has BLEU 0.18 with itself), and
    the mean of both directions is taken, so that order does not matter.  An empty text has 0 with all others.
    """
    blanks = any(" " in text for text in texts)
    units = [text.split() if blanks else list(text) for text in texts]
    lengths = np.array([len(u) for u in units], dtype=np.float64)
    shorter = np.minimum.outer(lengths, lengths)
    log_sum, orders = np.zeros_like(shorter), np.minimum(shorter, 4.0)
    for order in range(1, 5):
        overlap = _overlap(units, order)
        total = np.maximum(lengths - order + 1, 1.0)[:, None]  # rows are the candidates
        log_sum += np.where(order <= orders, np.log(np.where(overlap > 0, overlap, 0.1) / total), 0.0)
    safe = np.maximum(lengths, 1.0)
    brevity = np.minimum(0.0, 1.0 - safe[None, :] / safe[:, None])
    bleu = np.where(shorter > 0, np.exp(brevity + log_sum / np.maximum(orders, 1.0)), 0.0)
    bleu[np.ix_(lengths == 0, lengths == 0)] = 1.0
    np.fill_diagonal(bleu, 1.0)
    return np.clip((bleu + bleu.T) / 2, 0.0, 1.0)


def repetition_penalty(texts: Sequence[str], *, distance: float = 0.5) -> list[float]:
    """For each text of a batch the share of the batch that is in its cluster (R-Zero, arXiv 2508.05004).

    1/n (all different) to 1 (all alike), in the order of ``texts``.  Clusters: average linkage on 1 - BLEU, merged
    while below ``distance`` (0 to 1).  Equal texts are always together, and the order of the batch does not matter.
    """
    check("distance", distance, 0, 1, what="the average 1 - BLEU below which clusters merge")
    heads = [text[:MAX_TEXT_CHARS] for text in texts]
    counts = Counter(heads)
    unique = sorted(counts)
    weights = np.array([counts[text] for text in unique], dtype=np.float64)
    labels = _average_linkage(1.0 - bleu_similarity(unique), weights, distance)
    label_of = dict(zip(unique, labels, strict=True))
    sizes = Counter(label_of[head] for head in heads)
    return [sizes[label_of[head]] / len(heads) for head in heads]


@reward("repetition", within={"distance": (0, 1)})
def repetition(episode: Episode, *, distance: float | None = None, role: str = "solver") -> Scores:
    """Minus the share of the other completions of this role in the episode that repeat this one: 0 (unique) to -1.

    -(k - 1) / (n - 1) for a completion that k of n readable ones share; 0 for an only one.  ``distance`` None: only an
    equal completion is a repetition; else members of its cluster (``repetition_penalty``).
    """
    texts = {agent: turn.text for agent, turn in last_turns(episode, role).items() if turn.status == "ok"}
    n, counts = len(texts), Counter(texts.values())
    if distance is None:
        alike = {agent: float(counts[text]) for agent, text in texts.items()}
    else:
        shares = repetition_penalty(list(texts.values()), distance=distance)
        alike = {agent: share * n for agent, share in zip(texts, shares, strict=True)}

    def repeats(turn: Turn) -> Score:
        value = -(alike[turn.agent] - 1.0) / (n - 1) if n > 1 else 0.0
        return Score(min(0.0, value) + 0.0, components={"alike": alike[turn.agent], "replies": float(n)})

    return each(episode, role, repeats)


class Reference(Shown):
    """What ``novelty`` compares with: sets of n-grams or features, fixed when it is made; every pair is compared."""

    def __init__(self, items: Iterable[Task | str], n: int, features: Features | None) -> None:
        self._n, self._features = n, features
        self._sets = tuple(dict.fromkeys(grams(item, n, features) for item in items))
        super().__init__([chr(0).join(sorted(its)) for its in self._sets])

    def similarity(self, task: Task | str) -> float:
        """The largest Jaccard similarity, 0 to 1, with anything in the reference; 0 with an empty one."""
        mine = grams(task, self._n, self._features)
        return max((len(mine & its) / max(1, len(mine | its)) for its in self._sets), default=0.0)


class Earlier(NoveltyIndex):
    """The problems of the rounds that ``novelty`` has scored, which are added by it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Earlier) and self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return EARLIER


def _resolve_novelty(given: dict[str, Any]) -> dict[str, Any]:
    reference, features, n = given["reference"], given["features"], check("n", given["n"], 1, 16, whole=True)
    if callable(getattr(reference, "similarity", None)):
        return given
    if reference == EARLIER:
        return {**given, "reference": Earlier(0.3, n, features)}
    if isinstance(reference, str) or not isinstance(reference, Iterable):
        known = f"{EARLIER!r}, a list of tasks or prompts, or an object with similarity(task)"
        raise DreamEnvsError(f"reference={reference!r:.60}: {known}")
    return {**given, "reference": Reference(reference, n, features)}


@reward("novelty", prepare=_resolve_novelty, batched=True)
def novelty(
    episodes: Sequence[Episode], reference: Any, *, features: Any = None, n: int = 3, role: str = "challenger"
) -> list[Scores]:
    """1 minus the proposal's largest similarity with anything in a reference; all of a round meet the same reference.

    ``reference``: ``"earlier"``, the problems of the rounds scored before by this model, whose state remembers them;
    tasks or prompts, taken as they are when the model is made; or an object with ``similarity(task)``, 0 to 1, such as
    a ``NoveltyIndex``, which is only asked.  ``features`` and ``n``: see ``curriculum.novelty.grams``.

    Returns:
        0 (in the reference already) to 1 (nothing in common).  ``abstain`` if the proposal was turned away: combine
        with ``learnability``, which prices that.
    """
    problems, made = [challenge_of(episode) for episode in episodes], list[Scores]()
    for episode, problem in zip(episodes, problems, strict=True):
        if problem is None:
            made.append(by_agent(episode, role, lambda agent: None, "no problem was made"))
            continue
        similarity = float(reference.similarity(problem))
        score = Score(1.0 - similarity, components={"similarity": similarity})
        if not 0.0 <= similarity <= 1.0:
            score = Score(0.0, "error", detail=f"similarity {similarity!r} is outside 0 to 1")
        made.append(dict.fromkeys(agents_of(episode, role), score))
    if isinstance(reference, Earlier):
        reference.extend(problem for problem in problems if problem is not None)
    return made


def _overlap(units: list[list[str]], order: int) -> np.ndarray:
    """``float64[n, n]`` off the diagonal: how many n-grams of this order a pair shares, with multiplicity."""
    holders: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, text in enumerate(units):
        for gram, count in Counter(tuple(text[k : k + order]) for k in range(len(text) - order + 1)).items():
            holders[gram].append((i, count))
    shared = np.zeros((len(units), len(units)))
    for found in holders.values():
        if len(found) == 1:  # most n-grams of a varied batch: they are shared with nobody
            continue
        rows, counts = np.array(found).T
        shared[np.ix_(rows, rows)] += np.minimum.outer(counts, counts)
    return shared


def _average_linkage(distances: np.ndarray, weights: np.ndarray, limit: float) -> list[int]:
    """Cluster labels; the closest two clusters are merged (first in order, if several are) while closer than limit."""
    n = len(weights)
    labels, sizes = list(range(n)), weights.copy()
    d = distances.copy()
    np.fill_diagonal(d, np.inf)
    while n and d.min() < limit:
        i, j = divmod(int(d.argmin()), n)
        d[i] = d[:, i] = (sizes[i] * d[i] + sizes[j] * d[j]) / (sizes[i] + sizes[j])
        sizes[i] += sizes[j]
        d[i, i] = np.inf
        d[j] = d[:, j] = np.inf
        labels = [i if label == j else label for label in labels]
    return labels
