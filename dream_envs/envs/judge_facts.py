"""What a table of verdicts says about the answers and about the judge: pure counting, no reward.

A row of the table is one judgement.  Pairwise: ``{"judge", "first", "second", "trial", "swapped", "verdict", "status",
"ratio"}``, ``verdict`` the winner's name or None, ``ratio`` the winner's length over the loser's (None without).
Pointwise: ``{"judge", "of", "trial", "verdict", "status"}``, ``verdict`` 0 to 1 or None.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from dream_envs.envs.judging import Panel, Verdict, worth

Row = dict[str, Any]


def table(panel: Panel, verdicts: Sequence[Verdict], lengths: Mapping[str, int]) -> list[Row]:
    """One row a judgement; ``lengths`` of the answers by author, in words."""
    rows = []
    for ask, verdict in zip(panel.asks, verdicts, strict=True):
        names = [panel.authors[i] for i in ask.who]
        row: Row = {"judge": ask.judge, "trial": ask.trial, "verdict": None, "status": verdict.status}
        if len(names) == 1:
            row["of"] = names[0]
            if verdict.rating is not None:
                row["verdict"] = worth(panel.kind, panel.notation, verdict.rating)
        else:
            row |= {"first": names[0], "second": names[1], "swapped": ask.swapped, "ratio": None}
            if verdict.rating is not None:
                winner, loser = names[verdict.rating - 1], names[2 - verdict.rating]
                row["verdict"] = winner
                row["ratio"] = lengths[winner] / lengths[loser] if lengths.get(loser) else None
        rows.append(row)
    return rows


def validity(rows: Sequence[Row]) -> dict[str, Any]:
    """``asked``, ``readable``, ``unreadable``, ``failed`` (calls), and ``valid_rate``: readable of all replies."""
    asked = [row["status"] for row in rows if row["status"] != "abstain"]
    readable, unreadable = asked.count("ok"), asked.count("invalid")
    return {
        "asked": len(asked),
        "readable": readable,
        "unreadable": unreadable,
        "failed": len(asked) - readable - unreadable,
        "valid_rate": _share(readable, readable + unreadable),
    }


def pairs(rows: Sequence[Row]) -> list[Row]:
    """One row an unordered pair: ``a``, ``b``, ``wins_a``, ``wins_b``, ``winner`` (of most verdicts), ``tie``.

    A pair without a readable verdict has no winner and is no tie.
    """
    wins: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        a, b = (row["second"], row["first"]) if row["swapped"] else (row["first"], row["second"])
        count = wins.setdefault((a, b), [0, 0])
        if row["verdict"] is not None:
            count[row["verdict"] != a] += 1
    found = []
    for (a, b), (x, y) in wins.items():
        winner = a if x > y else b if y > x else None
        found.append({"a": a, "b": b, "wins_a": x, "wins_b": y, "winner": winner, "tie": x == y > 0})
    return found


def cycles(table_of_pairs: Sequence[Row]) -> tuple[int, int]:
    """How many triples a > b > c > a there are, and how many triples have three decided pairs."""
    beats: dict[str, set[str]] = defaultdict(set)
    names = sorted({name for pair in table_of_pairs for name in (pair["a"], pair["b"])})
    for pair in table_of_pairs:
        if pair["winner"] is not None:
            beats[pair["winner"]].add(pair["b"] if pair["winner"] == pair["a"] else pair["a"])
    found = triples = 0
    for a, b, c in itertools.combinations(names, 3):
        won = [sum(y in beats[x] for y in (a, b, c) if y != x) for x in (a, b, c)]
        triples += sum(won) == 3
        found += won == [1, 1, 1]
    return found, triples


def order(rows: Sequence[Row]) -> dict[str, Any]:
    """Whether it minds who stands first.

    ``first_rate``: how often the first answer wins (0.5 is unbiased where every pair is shown in both orders);
    ``swapped_pairs``: repetitions readable in both orders; ``flip_rate``: share of them whose winner changes.
    """
    told = [row for row in rows if row["verdict"] is not None]
    both: dict[tuple[frozenset[str], int], dict[bool, str]] = defaultdict(dict)
    for row in told:
        both[frozenset((row["first"], row["second"])), row["trial"]][row["swapped"]] = row["verdict"]
    twice = [verdicts.values() for verdicts in both.values() if len(verdicts) == 2]
    return {
        "first_rate": _share(sum(row["verdict"] == row["first"] for row in told), len(told)),
        "swapped_pairs": len(twice),
        "flip_rate": _share(sum(x != y for x, y in twice), len(twice)),
    }


def pairwise(rows: Sequence[Row]) -> dict[str, Any]:
    """All that a pairwise table says: ``pairs``, ``ties``, ``cycles``, ``triples``, order and zero variance.

    ``zero_variance``: ``answers``, whether all compared answers won equally often (None if nothing was compared), and
    ``pairs``, how many pairs have two or more readable verdicts that all agree.
    """
    summed = pairs(rows)
    found, triples = cycles(summed)
    wins = Counter[str]()
    for pair in summed:
        if pair["wins_a"] + pair["wins_b"]:
            wins.update({pair["a"]: pair["wins_a"], pair["b"]: pair["wins_b"]})
    unanimous = sum(p["wins_a"] + p["wins_b"] > 1 and not (p["wins_a"] and p["wins_b"]) for p in summed)
    return {
        "pairs": summed,
        "ties": sum(pair["tie"] for pair in summed),
        "cycles": found,
        "triples": triples,
        **order(rows),
        "zero_variance": {"answers": len(set(wins.values())) == 1 if wins else None, "pairs": unanimous},
    }


def pointwise(rows: Sequence[Row], authors: Sequence[str]) -> dict[str, Any]:
    """``values``: the mean verdict by author (None without one); ``zero_variance`` as for pairs."""
    told: dict[str, list[float]] = {author: [] for author in authors}
    for row in rows:
        if row["verdict"] is not None:
            told[row["of"]].append(row["verdict"])
    values = {author: math.fsum(v) / len(v) if v else None for author, v in told.items()}
    known = [v for v in values.values() if v is not None]
    unanimous = sum(len(v) > 1 and len(set(v)) == 1 for v in told.values())
    same = len(set(known)) == 1 if known else None
    return {"values": values, "zero_variance": {"answers": same, "pairs": unanimous}}


def accuracy(rows: Sequence[Row], truth: Mapping[str, float | None], kind: str) -> dict[str, Any]:
    """The readable verdicts against the truth: ``right``, ``of``, ``share`` (None of nothing).

    Pairwise: of verdicts on a right and a wrong answer.  Rubric: whether right and wrong were told apart.  Score: of
    pairs of a right and a wrong answer's verdicts, whether the right one's is higher, equal ones a half (the AUC).
    """
    told = [row for row in rows if row["verdict"] is not None]
    if kind == "pairwise":
        asked = [row for row in told if truth[row["first"]] is not None and truth[row["second"]] is not None]
        asked = [row for row in asked if truth[row["first"]] != truth[row["second"]]]
        right = [float(truth[r["verdict"]] == max(truth[r["first"]], truth[r["second"]])) for r in asked]  # type: ignore[type-var]
    else:
        known = [(row["verdict"], t) for row in told if (t := truth.get(row["of"])) is not None]
        if kind == "rubric":
            right = [float((v >= 0.5) == (t >= 0.5)) for v, t in known]
        else:
            right = [(v > w) + 0.5 * (v == w) for v, t in known for w, u in known if t >= 0.5 > u]
    return {"right": math.fsum(right), "of": len(right), "share": _share(math.fsum(right), len(right))}


def _share(count: float, of: int) -> float | None:
    return count / of if of else None
