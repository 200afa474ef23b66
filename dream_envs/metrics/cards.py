"""The judge card: whether a judge knows the truth, keeps its word, minds the order and can be fooled by nothing at all.

The truth is never shown to the judge: it comes from a verifier, or from at least 200 human labels.

Sources: Cohen 1960 (kappa); Krippendorff 2011 (alpha); Kendall and Babington Smith 1940 (cyclic triads); Rogan and
Gladen 1978; Lang and Reiczigel 2014.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError, Episode
from dream_envs.curriculum.store import share
from dream_envs.envs import judge_facts
from dream_envs.frontier.intervals import bootstrap_means, percentile
from dream_envs.metrics.diversity import rounded
from dream_envs.rewards.base import last_turns

TIE = "tie"
#: The pointwise label that accepts a completion, and the lowest judge's score (0 to 1) that says so.
POSITIVE, THRESHOLD = "yes", 0.5
#: A judge that lets more null outputs pass than this is flagged.
NULL_LIMIT = 0.05
#: The share of cyclic triples of a judge that decides at random; one that is surely above it is flagged.
RANDOM_CYCLES = 0.25
#: An agreement with the truth that rests on fewer labels is flagged.
ENOUGH = 200


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict."""

    item: str  # the prompt that was judged; of pairwise judgements, all candidates of one item are compared
    # pointwise: the label given (``yes``, ``no``, ``3``).  Pairwise: the name of the better candidate, or ``tie``.
    # Empty: the judge gave no verdict, which is counted and never read as a no.
    verdict: str
    truth: str = ""  # what the verdict should have been, in the same words; empty: not known
    first: str = ""  # pairwise: the candidate shown first; empty in pointwise judgements
    second: str = ""  # pairwise: the candidate shown second
    trial: int = 0  # number of the repetition of the same question
    # pairwise: the candidate that is a null or constant output.  Pointwise: any word, if the judged text was one.
    control: str = ""


def judge_card(judgements: Sequence[Judgement], rng: np.random.Generator, draws: int = 2000) -> dict[str, Any]:
    """Everything that can be said about a judge from these records.

    Args:
        judgements: pointwise or pairwise, not both; those with ``control`` serve the null check alone.
        rng: resampling (of items).
        draws: resamples.

    Returns:
        A flat mapping, JSON-ready; a measure for which there are no records is None, a list is (value, low, high) at
        95 %.  ``accuracy`` is over verdicts, ``accuracy_of_all`` counts abstentions as wrong; ``kappa``, ``alpha``
        (Krippendorff, nominal): verdict against truth, of pairs by position; ``swap_flip``: share of pairs whose winner
        changes with the order; ``first_position``: how often the first wins where one wins (0.5 is unbiased when every
        pair is shown in both orders); ``test_retest``: share of repeated questions with the same verdict;
        ``cyclic_triads``: share of triples a > b > c > a; ``sensitivity``, ``specificity``; ``observed_positive`` and
        ``corrected_positive`` (Rogan-Gladen): of the cases without a known truth; ``null_accepted``: of the controls;
        ``constant``: one verdict for everything; ``flags``: what is wrong.

    Raises:
        DreamEnvsError: for no records, both kinds at once, or a pairwise verdict that names neither candidate.
    """
    _check(judgements)
    controls = [j for j in judgements if j.control]
    # Pointwise a control passes that is accepted, pairwise one that is preferred.
    passed = [j.verdict == (j.control if j.first else POSITIVE) for j in controls]
    plain = [j for j in judgements if not j.control]
    pairwise = any(j.first for j in judgements)
    told, repeated = [j for j in plain if j.verdict], defaultdict[tuple[str, str, str], list[str]](list)
    for j in told:
        repeated[j.item, j.first, j.second].append(j.verdict)
    truths = {_position(j, j.truth) for j in told if j.truth}
    card: dict[str, Any] = {
        "kind": "pairwise" if pairwise else "pointwise",
        "judgements": len(plain),
        "abstained": sum(not j.verdict for j in plain),
        **_against_truth(plain, rng, draws),
        **(_order(plain) if pairwise else {}),
        "test_retest": _share([v[0] == v[1] for v in repeated.values() if len(v) > 1]),
        **({} if pairwise else _binary(plain)),
        "controls": len(controls),
        "null_accepted": _share(passed),
        # where there was more than one truth, or both orders of a pair
        "constant": len({_position(j, j.verdict) for j in told}) == 1 if len(truths) > 1 else None,
    }
    return rounded({**card, "flags": _flags(card)})


def _check(judgements: Sequence[Judgement]) -> None:
    if not judgements:
        raise DreamEnvsError("no judgements: a card needs at least one record")
    if len({bool(j.first) for j in judgements}) > 1:
        raise DreamEnvsError("pointwise and pairwise judgements at once: make a card of each")
    for j in judgements:
        if bool(j.first) != bool(j.second) or (j.first and j.first == j.second):
            raise DreamEnvsError(f"item {j.item!r}: first={j.first!r} and second={j.second!r} are two different names")
        for word, value in (("verdict", j.verdict), ("truth", j.truth)):
            if j.first and value not in ("", TIE, j.first, j.second):
                raise DreamEnvsError(f"item {j.item!r}: {word}={value!r} is {j.first!r}, {j.second!r}, 'tie' or empty")


def _position(j: Judgement, label: str) -> str:
    return {j.first: "first", j.second: "second"}.get(label, label) if j.first else label


def _against_truth(plain: Sequence[Judgement], rng: np.random.Generator, draws: int) -> dict[str, Any]:
    known = [j for j in plain if j.truth]
    told = [j for j in known if j.verdict]
    found: dict[str, Any] = {
        "labels": len(known),
        "accuracy": _share([j.verdict == j.truth for j in told]),
        "accuracy_of_all": _share([j.verdict == j.truth for j in known]),
        **dict.fromkeys(("kappa", "alpha")),
    }
    if not told:
        return found
    pairs = [(_position(j, j.verdict), _position(j, j.truth)) for j in told]
    kinds = {label: i for i, label in enumerate(sorted({x for pair in pairs for x in pair}))}
    items = {item: i for i, item in enumerate(dict.fromkeys(j.item for j in told))}
    tables = np.zeros((len(items), len(kinds), len(kinds)))
    for j, (verdict, truth) in zip(told, pairs, strict=True):
        tables[items[j.item], kinds[verdict], kinds[truth]] += 1
    resampled = bootstrap_means(tables, rng, draws=draws) * len(items)
    for name, statistic in (("kappa", kappa), ("alpha", alpha)):
        value, spread = float(statistic(tables.sum(0))), statistic(resampled)
        spread = spread[np.isfinite(spread)]
        if math.isfinite(value):
            found[name] = [value, *percentile(spread)] if len(items) > 1 and len(spread) else [value, None, None]
    return found


def kappa(table: ArrayLike) -> np.ndarray:
    """Cohen's kappa of contingency tables ``[..., L, L]``; nan where both raters used one label only.

    1: agreement, 0: as often as two independent raters with these habits, negative: less often.
    """
    t = np.asarray(table, dtype=np.float64)
    n = t.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = t / n[..., None, None]
        observed = np.trace(p, axis1=-2, axis2=-1)
        expected = (p.sum(-1) * p.sum(-2)).sum(-1)
        return np.where(expected < 1, (observed - expected) / (1 - expected), math.nan)


def alpha(table: ArrayLike) -> np.ndarray:
    """Krippendorff's alpha of two complete raters from contingency tables ``[..., L, L]``; nan for one label only."""
    t = np.asarray(table, dtype=np.float64)
    units = t.sum((-2, -1))
    total = t.sum(-1) + t.sum(-2)
    n = total.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        disagree = 2 * (units - np.trace(t, axis1=-2, axis2=-1))
        expected = (n * n - (total * total).sum(-1)) / (n - 1)
        return np.where(expected > 0, 1 - disagree / expected, math.nan)


def _order(plain: Sequence[Judgement]) -> dict[str, Any]:
    """Does it mind which stands first, and does it contradict itself?"""
    told = [j for j in plain if j.verdict]
    decided = [j for j in told if j.verdict != TIE]
    orders: dict[tuple[str, frozenset[str], int], dict[str, str]] = defaultdict(dict)
    votes: dict[str, dict[tuple[str, str], Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for j in told:
        orders[j.item, frozenset((j.first, j.second)), j.trial].setdefault(j.first, j.verdict)
        a, b = sorted((j.first, j.second))
        votes[j.item][a, b][j.verdict] += 1
    both = [list(shown.values()) for shown in orders.values() if len(shown) == 2]
    cycles = triples = 0
    for pairs in votes.values():
        rows = [{"a": a, "b": b, "winner": _winner(counts)} for (a, b), counts in pairs.items()]
        c, t = judge_facts.cycles(rows)
        cycles, triples = cycles + c, triples + t
    return {
        "swapped_pairs": len(both),
        "swap_flip": _share([x != y for x, y in both]),
        "first_position": _share([j.verdict == j.first for j in decided]),
        "ties": _share([j.verdict == TIE for j in told]),
        "triples": triples,
        "cyclic_triads": _share([True] * cycles + [False] * (triples - cycles)),
    }


def _winner(counts: Counter[str]) -> str | None:
    """The verdict of most, None for a tie or an equal split."""
    (best, most), *rest = counts.most_common(2)
    return None if best == TIE or (rest and rest[0][1] == most) else best


def _binary(plain: Sequence[Judgement]) -> dict[str, Any]:
    known = [j for j in plain if j.truth and j.verdict]
    sick = [j.verdict == POSITIVE for j in known if j.truth == POSITIVE]
    healthy = [j.verdict != POSITIVE for j in known if j.truth != POSITIVE]
    rest = [j.verdict == POSITIVE for j in plain if not j.truth and j.verdict]
    counts = [count for hits in (rest, sick, healthy) for count in (sum(hits), len(hits))]
    return {
        "sensitivity": _share(sick),
        "specificity": _share(healthy),
        "observed_positive": _share(rest),
        "corrected_positive": rogan_gladen(*counts) if sick and healthy and rest else None,
    }


def rogan_gladen(
    positive: int, n: int, true_positive: int, sick: int, true_negative: int, healthy: int
) -> list[float] | None:
    """The true share behind the share that an imperfect judge accepts: (observed + spec - 1) / (sens + spec - 1).

    ``positive``: accepted among ``n`` cases whose truth is not known; ``true_positive``: accepted among ``sick`` cases
    that are right; ``true_negative``: refused among ``healthy`` ones that are wrong.  Returns share, low, high, clipped
    to 0 to 1, with Lang and Reiczigel's 95 % interval, which knows that sens and spec are estimates; None if the judge
    is no better than chance (sens + spec <= 1), so that nothing can be learnt from it.
    """
    sens, spec, z = true_positive / sick, true_negative / healthy, 1.959963984540054
    se, sp = (true_positive + 1) / (sick + 2), (true_negative + 1) / (healthy + 2)
    if sens + spec <= 1 or se + sp <= 1:
        return None
    share = (positive / n + spec - 1) / (sens + spec - 1)
    size, p = n + z * z, (positive + z * z / 2) / (n + z * z)
    adjusted = (p + sp - 1) / (se + sp - 1)
    v_se, v_sp = se * (1 - se) / (sick + 2), sp * (1 - sp) / (healthy + 2)
    shift = 2 * z * z * (adjusted * v_se - (1 - adjusted) * v_sp)
    spread = math.sqrt(p * (1 - p) / size + adjusted**2 * v_se + (1 - adjusted) ** 2 * v_sp) / (se + sp - 1)
    low, high = adjusted + shift - z * spread, adjusted + shift + z * spread
    share, low, high = (min(1.0, max(0.0, x)) for x in (share, low, high))
    return [share, min(share, low), max(share, high)]


#: Measure, when its (value, low, high) is bad, and what is said then.
_RULES: tuple[tuple[str, Callable[[list[float]], bool], str], ...] = (
    ("kappa", lambda its: its[0] <= 0.4, "kappa {:.2f}: at most fair agreement with the truth"),
    ("swap_flip", lambda its: its[0] > 0.2, "{:.2f} of the winners change with the order"),
    ("first_position", lambda its: not its[1] <= 0.5 <= its[2], "the first of two wins {:.2f} of the time"),
    ("cyclic_triads", lambda its: its[1] > RANDOM_CYCLES, "{:.2f} of the triples go in a circle"),
    ("null_accepted", lambda its: its[0] > NULL_LIMIT, "{:.2f} of the null outputs pass"),
)


def _flags(card: dict[str, Any]) -> list[str]:
    found = [f"{card['labels']} known truths: {ENOUGH} or more are needed"] if card["labels"] < ENOUGH else []
    found += [words.format(its[0]) for name, bad, words in _RULES if (its := card.get(name)) and bad(its)]
    if card["constant"]:
        found.append("one verdict for everything")
    sens, spec = card.get("sensitivity"), card.get("specificity")
    if sens and spec and sens[0] + spec[0] <= 1:
        found.append("no better than chance: nothing can be corrected")
    return found


def _share(hits: Sequence[bool]) -> list[float] | None:
    found = share(sum(hits), len(hits))
    return None if found is None else list(found)


def records(episodes: Iterable[Episode]) -> list[Judgement]:
    """Every judgement of played episodes whose call did not fail, with the truth that its episode recorded.

    Pairwise: the truth is the name of the right answer where one of the two is right and the other wrong; of two that
    are alike in that there is none.  Pointwise (``rubric``, ``score``, and ``ChallengerSolver``'s judge): ``yes`` from
    ``THRESHOLD`` on, else ``no``.  An unreadable verdict is a record without a verdict.  An answer without a word in it
    is a null output: a pointwise verdict on one, or one between it and an answer that has words, is a ``control``.

    Raises:
        DreamEnvsError: for an episode without a judge.
    """
    found: list[Judgement] = []
    for number, episode in enumerate(episodes):
        facts = episode.outcome.facts
        item = f"{number}:{episode.seed}:{episode.tasks[-1].id if episode.tasks else ''}"
        empty = {turn.agent for turn in episode.turns if turn.role in ("actor", "solver") and not turn.text.strip()}
        truth = facts.get("truth") or {}
        if "judgements" in facts:
            rows = [row for row in facts["judgements"] if row["status"] in ("ok", "invalid")]
            found += [(_pointwise if "of" in row else _pairwise)(item, row, truth, empty) for row in rows]
        elif "verdict_status" in facts:
            judge = next(iter(last_turns(episode, "judge").values()), None)
            if judge is not None and judge.status == "ok":
                rows = [{"of": name, "verdict": verdict, "trial": 0} for name, verdict in facts["correct"].items()]
                found += [_pointwise(item, row, truth, empty) for row in rows]
        elif facts.get("valid", True):
            raise DreamEnvsError(f"{episode.env_id}, seed {episode.seed!r}: nobody judged in this episode")
    return found


def _pairwise(item: str, row: dict[str, Any], truth: dict[str, Any], empty: set[str]) -> Judgement:
    one, two, verdict = row["first"], row["second"], row["verdict"] or ""
    known = truth.get(one) is not None and truth.get(two) is not None and truth[one] != truth[two]
    right = max((one, two), key=truth.__getitem__) if known else ""
    null = [name for name in (one, two) if name in empty]
    control, trial = null[0] if len(null) == 1 else "", row["trial"]
    return Judgement(item=item, verdict=verdict, truth=right, first=one, second=two, trial=trial, control=control)


def _pointwise(item: str, row: dict[str, Any], truth: dict[str, Any], empty: set[str]) -> Judgement:
    of, marks = row["of"], (row["verdict"], truth.get(row["of"]))
    said, known = ("" if mark is None else POSITIVE if mark >= THRESHOLD else "no" for mark in marks)
    control = "null" if of in empty else ""
    return Judgement(item=f"{item}:{of}", verdict=said, truth=known, trial=row["trial"], control=control)
