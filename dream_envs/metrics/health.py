"""The health of a self-play round, and the rules that ring.

A majority loop looks healthy from inside while truth collapses (``LOG.md``), so nothing here is evidence for a gain:
these are reasons to stop and look.  Source of the rules: the published failures collected in the project's research
notes (R-Zero's label rot, SGS's starvation, R-Diverse's cycles).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from dream_envs.core import Episode, TaskFamily
from dream_envs.curriculum.syllabus import author_of, believed, challenge_of


class Health(msgspec.Struct, frozen=True):
    """One round in numbers; shares are 0 to 1, entropies in bits, None where nothing was there to measure.

    ``valid``: share of the challenger's own proposals that are problems, known ones included.  ``duplicates``: share
    turned away as known.
    ``unique``: distinct share of what it proposed.  ``band``: share of problems with success strictly between 0 and 1.
    ``depth``: mean level of its accepted problems.  ``label_accuracy``: share of solver scores that agree with the
    executed truth.  ``features``: distinct skills among accepted problems.  ``format_entropy``: of the replies' shape;
    ``answer_entropy``: of the replies themselves, within a problem, averaged.
    """

    valid: float | None
    duplicates: float | None
    unique: float | None
    band: float | None
    depth: float | None
    solved: float | None
    label_accuracy: float | None
    features: int
    format_entropy: float
    answer_entropy: float


def health(episodes: Sequence[Episode], family: TaskFamily) -> Health:
    """The numbers of one round."""
    own = [e for e in episodes if author_of(e) == "challenger"]
    texts = [e.turns[0].text for e in own if e.turns]
    accepted = [c for e in own if (c := challenge_of(e)) is not None]
    rejects = Counter(str(e.outcome.facts.get("reject", "")) for e in own)
    rates = [sum(v) / len(v) for e in episodes if (v := believed(e))]
    replies = [[t.text for t in e.turns if t.role == "solver"] for e in episodes if challenge_of(e)]
    return Health(
        valid=(len(accepted) + rejects["duplicate"]) / len(own) if own else None,
        duplicates=rejects["duplicate"] / len(own) if own else None,
        unique=len(set(texts)) / len(texts) if texts else None,
        band=sum(0 < r < 1 for r in rates) / len(rates) if rates else None,
        depth=sum(c.level for c in accepted) / len(accepted) if accepted else None,
        solved=sum(rates) / len(rates) if rates else None,
        label_accuracy=_label_accuracy(episodes),
        features=len({f for c in accepted for f in family.features(c)}),
        format_entropy=entropy(shape(t) for group in replies for t in group),
        answer_entropy=sum(entropy(group) for group in replies) / len(replies) if replies else 0.0,
    )


def _label_accuracy(episodes: Sequence[Episode]) -> float | None:
    counted = [label_agreement(e) for e in episodes]
    total = sum(n for _, n in counted)
    return sum(agree for agree, _ in counted) / total if total else None


def truth_of(episode: Episode) -> dict[str, float]:
    """Whether each solver was right, as executed or verified: what a vote or a claim cannot change."""
    found = episode.outcome.facts.get("truth") or episode.outcome.facts.get("correct", {})
    return {agent: value for agent, value in found.items() if value is not None}


def label_agreement(episode: Episode) -> tuple[int, int]:
    """How many scores of solvers agree with the truth, and how many can be compared with it."""
    agree = total = 0
    for agent, value in truth_of(episode).items():
        score = episode.scores.get(agent)
        if score is not None and score.status == "ok":
            total += 1
            agree += (score.value > 0.5) == (value > 0.5)
    return agree, total


def shape(text: str) -> str:
    """The structure of a reply: character classes, repeats folded (``BfDk`` and ``AaCcBd`` are both ``(Aa)+``).

    Repeated units of 1 to 4 characters are folded, whichever size gives the shortest result.
    """
    classes = "".join("A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else c for c in text[:512])
    best = list(classes)
    for size in (1, 2, 3, 4):
        folded: list[str] = []
        i = 0
        while i < len(classes):
            unit, n = classes[i : i + size], 1
            while classes[i + n * size : i + (n + 1) * size] == unit and len(unit) == size:
                n += 1
            if n > 1:
                folded.append(f"({unit})+")
                i += n * size
            else:
                folded.append(classes[i])
                i += 1
        best = min(best, folded, key=len)  # the smaller unit where both are as short
    return "".join(best)


def entropy(items: Iterable[str], corrected: bool = True) -> float:
    """Entropy in bits of what ``items`` were drawn from, whatever their order; see ``entropy_of_counts``."""
    return float(entropy_of_counts(np.array(sorted(Counter(items).values())), corrected))


def entropy_of_counts(counts: np.ndarray, corrected: bool = True) -> np.ndarray:
    """Plug-in entropy in bits, with the Miller-Madow correction (k - 1) / (2 n ln 2) if ``corrected``.

    Args:
        counts: ``[..., L]``, how often each of L labels was seen, 0 or more.
        corrected: k is the number of labels that were seen, n the number of draws (Miller 1955).

    Returns:
        ``float64[...]``; 0 where nothing was drawn.
    """
    counts = np.asarray(counts, dtype=np.float64)
    n = counts.sum(-1)
    p = counts / np.maximum(n, 1e-300)[..., None]
    plug_in = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1) + 0.0
    if not corrected:
        return plug_in
    return plug_in + np.maximum((counts > 0).sum(-1) - 1, 0) / (2 * np.maximum(n, 1) * math.log(2))


def ring(history: Sequence[Health]) -> list[str]:
    """The alarms that the newest round sets off, in words; empty when there is nothing to report."""
    if not history:
        return []
    first, now = history[0], history[-1]
    alarms = []
    if now.valid is not None and first.valid is not None and now.valid < first.valid - 0.2:
        alarms.append(f"valid share fell from {first.valid:.2f} to {now.valid:.2f}: the challenger loses the grammar")
    if now.unique is not None and now.unique < 0.5:
        alarms.append(f"only {now.unique:.2f} of the proposals are distinct: the challenger repeats itself")
    if now.duplicates is not None and now.duplicates > 0.8:
        alarms.append(f"{now.duplicates:.2f} of the proposals are known already: the challenger has stopped exploring")
    if now.band is not None and now.band < 0.05:
        alarms.append(f"only {now.band:.2f} of the problems are partly solved: nothing to learn from")
    if now.label_accuracy is not None and now.label_accuracy < 0.9:
        alarms.append(f"{now.label_accuracy:.2f} of the labels agree with the truth: the reward rewards mistakes")
    return alarms
