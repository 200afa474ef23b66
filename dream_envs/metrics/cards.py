"""The judge card: whether a judge knows the truth, keeps its word, minds the order and can be fooled by nothing at all.

``judge_card`` makes the ``judge`` block of ``frontier.json``.  The truth is never shown to the judge: it comes from a
verifier, or from at least 200 human labels.  The curriculum's card is ``curriculum_card``.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.store import wilson
from dream_envs.frontier.intervals import bootstrap_means, percentile
from dream_envs.metrics import agreement
from dream_envs.metrics.curriculum_card import curriculum_card as curriculum_card
from dream_envs.metrics.diversity import rounded

TIE = "tie"
#: A judge that lets more null outputs pass than this is flagged.
NULL_LIMIT = 0.05
#: The share of cyclic triples of a judge that tosses coins; one that is surely above it is flagged.
COIN_CYCLES = 0.25
#: An agreement with the truth that rests on fewer labels is flagged.
ENOUGH = 200


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict.

    Attributes:
        item: the prompt that was judged; of pairwise judgements, all candidates of one item are compared.
        verdict: pointwise: the label given (``yes``, ``no``, ``3``).  Pairwise: the name of the better candidate, or
            ``tie``.  Empty: the judge gave no verdict, which is counted and never read as a no.
        truth: what the verdict should have been, in the same words; empty: not known.
        first: pairwise: the candidate shown first; empty in pointwise judgements.
        second: pairwise: the candidate shown second.
        trial: number of the repetition of the same question.
        control: pairwise: the candidate that is a null or constant output.  Pointwise: any word, if the reply was one.
    """

    item: str
    verdict: str
    truth: str = ""
    first: str = ""
    second: str = ""
    trial: int = 0
    control: str = ""


def judge_card(
    judgements: Sequence[Judgement], rng: np.random.Generator, *, positive: str = "yes", draws: int = 2000
) -> dict[str, Any]:
    """Everything that can be said about a judge from these records.

    Args:
        judgements: pointwise or pairwise, not both; those with ``control`` serve the null check alone.
        rng: resampling (of items).
        positive: the pointwise label that accepts a reply.
        draws: resamples.

    Returns:
        A flat mapping, JSON-ready; a measure for which there are no records is None, a list is (value, low, high) at
        95 %.  ``accuracy`` is over verdicts, ``accuracy_of_all`` counts abstentions as wrong; ``kappa``, ``alpha``
        (Krippendorff, nominal): verdict against truth, of pairs by position; ``swap_flip``: share of pairs whose winner
        changes with the order; ``first_position``: how often the first wins where one wins (0.5 is unbiased when every
        pair is shown in both orders); ``test_retest``: share of repeated questions with the same verdict;
        ``cyclic_triads``: share of triples a > b > c > a (a coin has 0.25); ``sensitivity``, ``specificity``;
        ``observed_positive`` and ``corrected_positive`` (Rogan-Gladen): of the cases without a known truth;
        ``null_accepted``: of the controls; ``constant``: one verdict for everything; ``flags``: what is wrong.

    Raises:
        DreamEnvsError: for no records, both kinds at once, or a pairwise verdict that names neither candidate.
    """
    _check(judgements)
    plain = [j for j in judgements if not j.control]
    pairwise = any(j.first for j in judgements)
    card: dict[str, Any] = {
        "kind": "pairwise" if pairwise else "pointwise",
        "judgements": len(plain),
        "abstained": sum(not j.verdict for j in plain),
        **_against_truth(plain, rng, draws),
        **(_order(plain) if pairwise else {}),
        "test_retest": _test_retest(plain),
        **({} if pairwise else _binary(plain, positive)),
        **_controls([j for j in judgements if j.control], positive),
        "constant": _constant(plain),
    }
    card["flags"] = _flags(card)
    return rounded({k: _round(v) for k, v in card.items()})


def _check(judgements: Sequence[Judgement]) -> None:
    if not judgements:
        raise DreamEnvsError("no judgements: a card needs at least one record")
    kinds = {bool(j.first) for j in judgements}
    if len(kinds) > 1:
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
        "accuracy": _share(sum(j.verdict == j.truth for j in told), len(told)),
        "accuracy_of_all": _share(sum(j.verdict == j.truth for j in known), len(known)),
        "kappa": None,
        "alpha": None,
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
    for name, statistic in (("kappa", agreement.kappa), ("alpha", agreement.alpha_of_table)):
        value, spread = float(statistic(tables.sum(0))), statistic(resampled)
        spread = spread[np.isfinite(spread)]
        if math.isfinite(value):
            found[name] = [value, *percentile(spread)] if len(items) > 1 and len(spread) else [value, None, None]
    return found


def _order(plain: Sequence[Judgement]) -> dict[str, Any]:
    """Does it mind who stands first, and does it contradict itself?"""
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
        c, t = agreement.cyclic_triads({pair: _winner(counts) for pair, counts in pairs.items()})
        cycles, triples = cycles + c, triples + t
    return {
        "swapped_pairs": len(both),
        "swap_flip": _share(sum(x != y for x, y in both), len(both)),
        "first_position": _share(sum(j.verdict == j.first for j in decided), len(decided)),
        "ties": _share(len(told) - len(decided), len(told)),
        "triples": triples,
        "cyclic_triads": _share(cycles, triples),
    }


def _winner(counts: Counter[str]) -> str:
    """The verdict of most; an equal split is a tie."""
    (best, most), *rest = counts.most_common(2)
    return TIE if rest and rest[0][1] == most else best


def _test_retest(plain: Sequence[Judgement]) -> list[float] | None:
    """Share of repeated questions (same item, same order) whose verdicts are all the same."""
    asked: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for j in plain:
        if j.verdict:
            asked[j.item, j.first, j.second].append(j.verdict)
    pairs = [v[0] == v[1] for v in asked.values() if len(v) > 1]
    return _share(sum(pairs), len(pairs))


def _binary(plain: Sequence[Judgement], positive: str) -> dict[str, Any]:
    known = [j for j in plain if j.truth and j.verdict]
    sick = [j.verdict == positive for j in known if j.truth == positive]
    healthy = [j.verdict != positive for j in known if j.truth != positive]
    rest = [j.verdict == positive for j in plain if not j.truth and j.verdict]
    corrected = None
    if sick and healthy and rest:
        corrected = agreement.rogan_gladen(sum(rest), len(rest), sum(sick), len(sick), sum(healthy), len(healthy))
    return {
        "sensitivity": _share(sum(sick), len(sick)),
        "specificity": _share(sum(healthy), len(healthy)),
        "observed_positive": _share(sum(rest), len(rest)),
        "corrected_positive": None if corrected is None else list(corrected),
    }


def _controls(controls: Sequence[Judgement], positive: str) -> dict[str, Any]:
    """How often a null or constant output passed: pointwise accepted, pairwise preferred."""
    passed = sum(j.verdict == (j.control if j.first else positive) for j in controls)
    return {"controls": len(controls), "null_accepted": _share(passed, len(controls))}


def _constant(plain: Sequence[Judgement]) -> bool | None:
    """One verdict for everything, though there was more than one truth (or both orders of a pair)."""
    told = [j for j in plain if j.verdict]
    truths = {_position(j, j.truth) for j in told if j.truth}
    if len(told) < 2 or len(truths) < 2:
        return None
    return len({_position(j, j.verdict) for j in told}) == 1


def _flags(card: dict[str, Any]) -> list[str]:
    found = []
    if card["labels"] < ENOUGH:
        found.append(f"{card['labels']} known truths: {ENOUGH} or more are needed")
    if card["kappa"] is not None and card["kappa"][0] <= 0.4:
        found.append(f"kappa {card['kappa'][0]:.2f}: at most fair agreement with the truth")
    if (flip := card.get("swap_flip")) is not None and flip[0] > 0.2:
        found.append(f"{flip[0]:.2f} of the winners change with the order")
    if (first := card.get("first_position")) is not None and not first[1] <= 0.5 <= first[2]:
        found.append(f"the first of two wins {first[0]:.2f} of the time")
    if (cycles := card.get("cyclic_triads")) is not None and cycles[1] > COIN_CYCLES:
        found.append(f"{cycles[0]:.2f} of the triples go in a circle")
    if (null := card["null_accepted"]) is not None and null[0] > NULL_LIMIT:
        found.append(f"{null[0]:.2f} of the null outputs pass")
    if card["constant"]:
        found.append("one verdict for everything")
    sens, spec = card.get("sensitivity"), card.get("specificity")
    if sens and spec and sens[0] + spec[0] <= 1:
        found.append("no better than chance: nothing can be corrected")
    return found


def _share(count: int, n: int) -> list[float] | None:
    """Share with its Wilson interval, None of nothing."""
    if not n:
        return None
    found = wilson(count, n)
    return [found.p, found.low, found.high]


def _round(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(x, (int, float)) or x is None for x in value):
        return [None if x is None else round(float(x), 6) for x in value]
    return value


def pairs_of(candidates: Sequence[str]) -> list[tuple[str, str]]:
    """Every ordered pair of candidates: what a judge should be asked so that the order can be told from the winner."""
    return [pair for a, b in itertools.combinations(candidates, 2) for pair in ((a, b), (b, a))]
