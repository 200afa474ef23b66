"""The health of a self-play round, and the rules that ring.

A majority loop looks healthy from inside while truth collapses (``LOG.md``), so nothing here is evidence for a gain:
these are reasons to stop and look: R-Zero's label rot, SGS's starvation, R-Diverse's cycles.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from dream_envs.core import Episode, author_of, challenge_of, hook
from dream_envs.curriculum.curriculum import rewarded
from dream_envs.metrics.diversity import entropy


class Health(msgspec.Struct, frozen=True):
    """One round in numbers; shares are 0 to 1, entropies in bits, None where nothing was there to measure.

    ``valid``: share of the challenger's own proposals that are problems, known ones included.  ``duplicates``: share
    turned away as known.  ``unique``: distinct share of what it proposed.  ``learnable``: share of problems whose
    solvers' rewards differ.  ``depth``: mean level of its accepted problems, or of all where there is no challenger.
    ``solved``: mean reward of the solvers, limited to 0 to 1.  ``label_accuracy``: how far the solvers' scores agree
    with the executed truth.  ``features``: distinct skills among accepted problems.  ``format_entropy``: of the
    completions' shape; ``answer_entropy``: of the completions themselves, within a problem, averaged.
    """

    valid: float | None
    duplicates: float | None
    unique: float | None
    learnable: float | None
    depth: float | None
    solved: float | None
    label_accuracy: float | None
    features: int
    format_entropy: float
    answer_entropy: float


def health(episodes: Sequence[Episode], game: Any) -> Health:
    """The numbers of one round of this game; those of problems need its hooks ``proposer`` and ``solver_role``."""
    family, role = getattr(game, "family", None), hook(game, "solver_role")
    own = [e for e in episodes if author_of(e) == "challenger"] if hook(game, "proposer") else []
    texts = [e.turns[0].text for e in own if e.turns]
    accepted = [c for e in own if (c := challenge_of(e)) is not None]
    rejects = Counter(str(e.outcome.facts.get("reject", "")) for e in own)
    solved = [v for e in episodes if (v := rewarded(e, role))] if role else []
    answering = {role} if role else {r.name for r in game.roles}
    replies = [said for e in episodes if (said := [t.text for t in e.turns if t.role in answering])]
    levels = [c.level for c in accepted] if own else [e.tasks[-1].level for e in episodes if role and e.tasks]
    return Health(
        valid=(len(accepted) + rejects["duplicate"]) / len(own) if own else None,
        duplicates=rejects["duplicate"] / len(own) if own else None,
        unique=len(set(texts)) / len(texts) if texts else None,
        learnable=_mean([max(v) > min(v) for v in solved]),
        depth=_mean(levels),
        solved=_mean([sum(v) / len(v) for v in solved]),
        label_accuracy=label_accuracy(episodes),
        features=len({f for c in accepted for f in family.features(c)}) if family is not None else 0,
        format_entropy=entropy(shape(t) for group in replies for t in group),
        answer_entropy=sum(entropy(group) for group in replies) / len(replies) if replies else 0.0,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def label_accuracy(episodes: Sequence[Episode]) -> float | None:
    """How far the solvers' rewards follow the truth, None where nothing can be compared.

    Where answers are compared in pairs: of all pairs of a right and a wrong answer to one prompt, how often the right
    one is rewarded more (equal counts a half); else the share of rewards on the right side of 1/2.
    """
    right = of = 0.0
    for episode in episodes:
        if episode.outcome.facts.get("judging") != "pairwise":
            agree, total = label_agreement(episode)
            right, of = right + agree, of + total
            continue
        truth = episode.outcome.facts["truth"]
        scored = [(t, episode.scores[a].value) for a, t in truth.items() if t is not None and a in episode.scores]
        contests = [(v > w) + 0.5 * (v == w) for t, v in scored for u, w in scored if t > u]
        right, of = right + sum(contests), of + len(contests)
    return right / of if of else None


def truth_of(episode: Episode) -> dict[str, float]:
    """Whether each solver was right, as executed or verified: what a vote or a claim cannot change."""
    found = episode.outcome.facts.get("truth") or episode.outcome.facts.get("correct", {})
    if not isinstance(found, dict):  # a stranger's game may mean something else by these names
        return {}
    return {agent: value for agent, value in found.items() if value is not None}


def label_agreement(episode: Episode) -> tuple[int, int]:
    """How many scores of solvers agree with the truth, and how many can be compared with it."""
    scored = [(episode.scores[a], value) for a, value in truth_of(episode).items() if a in episode.scores]
    agree = [(score.value > 0.5) == (value > 0.5) for score, value in scored if score.status == "ok"]
    return sum(agree), len(agree)


def shape(text: str) -> str:
    """The structure of a reply: character classes, repeats folded (``BfDk`` and ``AaCcBd`` are both ``(Aa)+``).

    Repeated units of 1 to 4 characters are folded, whichever size gives the shortest result.
    """
    classes = "".join("A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else c for c in text[:512])
    best = list(classes)
    for size in (1, 2, 3, 4):
        runs = re.finditer(rf"(.{{{size}}})\1+|.", classes, re.DOTALL)
        best = min(best, [f"({m[1]})+" if m[1] else m[0] for m in runs], key=len)  # of equals the smaller unit
    return "".join(best)


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
    if now.learnable is not None and now.learnable < 0.05:
        alarms.append(f"only {now.learnable:.2f} of the problems are partly solved: nothing to learn from")
    if now.label_accuracy is not None and now.label_accuracy < 0.9:
        alarms.append(f"{now.label_accuracy:.2f} of the labels agree with the truth: the reward rewards mistakes")
    return alarms
