"""The figures of a frontier evaluation, looked up once for the page, the terminal and the study."""

from __future__ import annotations

from typing import Any

from dream_envs.report.read import items, walk
from dream_envs.report.words import interval, number, percent, probability, whole

WHO = ("base", "trained")
DECODERS = ("T=1", "best_T", "forced", "given")
TIERS = ("T0", "T1", "T2")
_DEPTHS = range(1000)


def rows(frontier: dict[str, Any]) -> list[dict[str, Any]]:
    """The depth entries in reading order: plain problems by depth, then those with held-out pairs."""
    found = [e for e in items(frontier.get("depths")) if isinstance(e, dict) and number(e.get("depth")) in _DEPTHS]
    return sorted(found, key=lambda e: (held_out(e), e["depth"]))


def held_out(entry: dict[str, Any]) -> bool:
    """Whether these are the problems with a held-out pair."""
    return entry.get("split") == "held_out"


def label(entry: dict[str, Any], mark: str = "*") -> str:
    """``6``, or ``6*`` for the problems with a held-out pair."""
    return f"{entry['depth']:g}" + (mark if held_out(entry) else "")


def stat(entry: dict[str, Any] | None, who: str, decoder: str, key: str) -> float | None:
    """One number of an entry: ``stat(entry, "base", "T=1", "mean")``."""
    return number(walk(entry, who, decoder, key))


def at(frontier: dict[str, Any], depth: int, split: str = "any") -> dict[str, Any] | None:
    """The entry of a depth."""
    wanted = split == "held_out"
    return next((e for e in rows(frontier) if e["depth"] == depth and held_out(e) == wanted), None)


def change(entry: dict[str, Any] | None, decoder: str = "T=1", key: str = "mean", arrow: str = " → ") -> str:
    """``2.5e-9 → 0.863``: a probability before and after."""
    return arrow.join(probability(stat(entry, who, decoder, key)) for who in WHO)


def budget(frontier: dict[str, Any]) -> float | None:
    """All samples the run drew, or None if that is not known or there were none."""
    total = number(walk(frontier, "samples", "total"))
    return total if total is not None and total >= 1 else None


def tier_total(frontier: dict[str, Any], tier: str) -> int:
    """Problems of this tier over all depths."""
    return sum(int(number(walk(e, "tiers", tier)) or 0) for e in rows(frontier))


def tier_cell(entry: dict[str, Any], tier: str) -> tuple[str, str]:
    """``("128", "99 %")``: problems of this tier, and the share of them solved after training (or empty)."""
    count, moved = number(walk(entry, "tiers", tier)), number(walk(entry, "moved", tier))
    return whole(count), percent(moved) if count and moved is not None else ""


def headline(frontier: dict[str, Any], arrow: str = " → ") -> list[tuple[str, str, str]]:
    """(name, figure, remark) of the numbers that matter."""
    found = []
    for depth in (6, 8):
        entry = at(frontier, depth)
        ci = interval(walk(entry, "trained", "T=1", "ci"))
        remark = f"95 % interval after training {ci}" if ci else ""
        found.append((f"Depth {depth}, exact success at T=1", change(entry, arrow=arrow), remark))
    beyond, of = walk(frontier, "beyond", "count"), walk(frontier, "beyond", "of")
    structural = walk(frontier, "beyond", "structural")
    figure = f"{whole(beyond)} of {whole(of)}" if number(of) is not None else whole(beyond)
    remark = f"{whole(tier_total(frontier, 'T2'))} problems were beyond it (tier T2)" if rows(frontier) else ""
    if number(structural) is not None:
        remark += f"; {whole(structural)} of those solved are structurally absent from the base's support (T3)"
    found.append(("Problems beyond the base's budget, now solved with P > 0.5", figure, remark))
    solver, challenger = walk(frontier, "samples", "solver"), walk(frontier, "samples", "challenger")
    remark = f"{whole(solver)} by solvers, {whole(challenger)} by the challenger" if number(solver) is not None else ""
    found.append(("Samples the run drew (the budget)", whole(budget(frontier)), remark))
    return found


def cautions(frontier: dict[str, Any]) -> list[str]:
    """What may not be concluded from this run, with its own numbers where they decide it."""
    found = [
        "New facts. Every single operation on every state is in the base's pre-training; what can be shown here is "
        "longer composition of known facts, and no more.",
    ]
    beyond = number(walk(frontier, "beyond", "count"))
    if not beyond:
        found.append(
            "Any step beyond the base: no problem below 1 / budget is now solved. Whatever rose is sharpening or edge."
        )
    entry = at(frontier, 6)
    given, limit = stat(entry, "base", "given", "mean"), budget(frontier)
    if given is not None and limit and given >= 1 / limit:
        found.append(
            f"That depth 6 was out of the base's reach in every sense: with the operations given (decoder given) "
            f"its mean P is {probability(given)}. The loop joined skills that the base had one step at a time."
        )
    if rows(frontier) and not any(held_out(e) for e in rows(frontier)):
        found.append("Anything about held-out pairs of operations: this evaluation has none.")
    found += [
        "That the recipe works in general: one run of one seed on one base. The intervals are over problems, not "
        "over runs.",
        "Anything about large language models or natural language: the world is synthetic and the verifier exact.",
        "That a healthy curriculum means a gain. Depth, band and valid share are seen from inside the loop, and a loop "
        "that rewards mistakes looks healthy in all three. Only exact success counts.",
        "That other prompts or samplers would not lift the base further: the envelope has four decoders, not all.",
    ]
    return found
