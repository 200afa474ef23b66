"""From what was drawn to ``frontier.json``: headline, verdict and the panels around them (schema 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.frontier import cover, estimators, exact, gain, intervals, multiple
from dream_envs.frontier.arms import Arm
from dream_envs.frontier.curve import expansion_curve
from dream_envs.frontier.protocol import VETO_DRAWS, Measured, Plan, evidence
from dream_envs.frontier.suite import KINDS
from dream_envs.seeds import stream

TAUS = (0.1, 0.25, 0.5, 0.9)
#: Resamples of the panels' intervals; the headline has its own number.
PANEL_DRAWS = 2000

Exact = tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]


class Sources(msgspec.Struct):
    """What a report says of where its numbers come from.

    Attributes:
        base: name and hash.
        trained: name, hash and run.
        arms: all arms, the expensive ones last.
        exact: where they are known, log-probabilities by decoder of base and trained model, ``float64[A, N]`` by arm
            of the base, and ``float64[N]`` of the trained model in its configuration.
        drawn: draws made by this process (the rest came from the cache).
        departures: how the base was asked less than the suite registers.
    """

    base: dict[str, Any]
    trained: dict[str, Any]
    arms: Sequence[Arm]
    exact: Exact | None = None
    drawn: int = 0
    departures: Sequence[str] = ()


class _Boot:
    """Bootstrap intervals of means over problems, stratified; every panel draws from a stream of its own."""

    def __init__(self, plan: Plan, strata: np.ndarray) -> None:
        self.plan, self.strata = plan, strata

    def means(
        self, values: np.ndarray, label: str, chosen: np.ndarray | None = None
    ) -> list[tuple[float, float, float]]:
        """(mean, low, high) of each column of ``values``, ``float64[N, M]``."""
        rows = values if chosen is None else values[chosen]
        strata = self.strata if chosen is None else self.strata[chosen]
        if not len(rows):
            return []
        rng = stream("frontier-panel", self.plan.seed, label)
        samples = intervals.bootstrap_means(rows, rng, strata, PANEL_DRAWS)
        return [(float(m), *intervals.percentile(samples[:, i])) for i, m in enumerate(rows.mean(0))]


def report_data(
    plan: Plan, found: Measured, sources: Sources, extra: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """``frontier.json``, schema 2.

    Args:
        plan: what was asked for.
        found: what was drawn.
        sources: models, arms, exact probabilities.
        extra: the blocks ``retention``, ``diversity``, ``judge`` and ``curriculum``, those that were measured.
        seconds: wall-clock so far.
    """
    strata = np.array([p.stratum for p in found.problems])
    boot = _Boot(plan, strata)
    facts, chosen = evidence(plan, found)
    head = gain.headline(facts, stream("frontier-headline", plan.seed), plan.budgets())
    n = plan.trained_draws
    after = np.array([sum(c.right) for c in found.trained])
    before = np.array([sum(c.right) for c in found.base])
    marked = _certified(found, chosen, after, n)
    first_draw = np.stack([before / n, after / n, (after - before) / n], 1)
    pass1 = boot.means(first_draw, "pass1")
    word = gain.verdict(head, int(marked.chosen.sum()), 100 * pass1[2][1])
    return {
        "schema": 2,
        "kind": "frontier",
        "base": sources.base,
        "trained": sources.trained,
        "suite": _suite(plan, found),
        "protocol": {
            **_protocol(plan, sources.arms),
            "configurations": found.configurations,
            "unavailable": found.unavailable,
        },
        "headline": _headline(head),
        "verdict": _verdict(word, plan, found, chosen, marked, sources.departures),
        "certified": _certified_list(plan, found, chosen, marked, after, n),
        "pass1": {
            k: dict(zip(("mean", "low", "high"), v, strict=True))
            for k, v in zip(("base", "trained", "gain"), pass1, strict=True)
        },
        "pass_at_k": {**_pass_at_k(plan, boot, before, after, chosen), "arms": _arm_curves(plan, sources, chosen)},
        "decay": _decay(plan, facts),
        "problems": _problems(plan, found, chosen, marked, before, after, sources.exact),
        "support": _support(plan, boot, before, after, chosen),
        "cover": _cover(plan, boot, before, after, chosen),
        "compute": _compute(plan, found, before, after, chosen),
        "tiers": _tiers(found, sources.exact, chosen),
        "exact": _exact(plan, found, sources.exact, chosen),
        **{k: extra.get(k) for k in ("retention", "diversity", "judge", "curriculum")},
        "cost": _cost(plan, found, chosen, sources.drawn, seconds),
    }


def _suite(plan: Plan, found: Measured) -> dict[str, Any]:
    suite, strata = plan.suite, [p.stratum for p in found.problems]
    allowed = suite.eligible(found.problems, plan.budget)
    chances = suite.chances(found.problems)
    return {
        "name": suite.name,
        "seed": plan.seed,
        "n": int(found.eligible.sum()),
        "families": [
            {
                "name": s.name,
                "n": strata.count(i),
                "held_out": s.held_out,
                "eligible": allowed[i],
                "chance": chances[i],
                "level": s.level,
                "kind": s.kind,
            }
            for i, s in enumerate(suite.strata)
        ],
    }


def _protocol(plan: Plan, arms: Sequence[Arm]) -> dict[str, Any]:
    return {
        "trained_draws": plan.trained_draws,
        "need": plan.need,
        "budgets": list(plan.budgets()),
        "loss_budget": plan.loss_budget,
        "veto_draws": VETO_DRAWS,
        "stage": plan.stage,
        "follow": plan.follow,
        "arms": [{"name": a.name, "text": a.text, "veto": a.veto} for a in arms],
    }


def _headline(head: gain.Headline) -> dict[str, Any]:
    data = msgspec.to_builtins(head)
    data["printed"] = head.printed()
    return dict(data)


_SAYS = {
    "Expansion": "The trained model reliably solves problems that the elicited base does not reach in {budget:,} draws",
    "Sharpening": "More is solved at the first try, but nothing that {budget:,} draws of the base would not reach",
    "Contraction": "The trained model lost more of what the base could do than it gained",
    "Inconclusive": "The interval is too wide, or the change too small, for a verdict",
}


def _verdict(
    word: str, plan: Plan, found: Measured, chosen: np.ndarray, marked: multiple.Certified, departures: Sequence[str]
) -> dict[str, Any]:
    kinds = dict.fromkeys(KINDS[1:], 0)
    for i in chosen[marked.chosen]:
        kind = plan.suite.strata[found.problems[i].stratum].kind
        kinds[kind] = kinds.get(kind, 0) + 1
    sentence = _SAYS[word].format(budget=plan.budget) + "."
    if word == "Expansion":
        seen = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        new = (
            "new facts among them"
            if kinds["held-out operations"] >= gain.CERTIFIED
            else "longer or new combinations of known facts, no new facts"
        )
        sentence += f" Certified: {seen}; {new}."
    if departures:
        sentence += f" Not the registered protocol: {'; '.join(departures)}."
    return {"word": word, "sentence": sentence, "kinds": kinds}


def _certified(found: Measured, chosen: np.ndarray, after: np.ndarray, n: int) -> multiple.Certified:
    """Over the eligible problems; where the base was not drawn to the end there is nothing to certify."""
    drawn = zip(found.first, found.followed, strict=True)
    misses = np.array([(s.first - 1 if s.first else s.made) if kept else 0 for s, kept in drawn])[chosen]
    blocked = np.array([bool(v) for v in found.vetoed])[chosen]
    return multiple.certified(0, np.where(blocked, 0, misses), after[chosen], n)


def _certified_list(
    plan: Plan, found: Measured, chosen: np.ndarray, marked: multiple.Certified, after: np.ndarray, n: int
) -> list[dict[str, Any]]:
    rows = []
    for i in np.argsort(marked.p_value, kind="stable"):
        if not marked.chosen[i]:
            continue
        p, run = found.problems[chosen[i]], found.first[chosen[i]]
        rows.append(
            {
                "problem": p.task.id,
                "family": plan.suite.strata[p.stratum].name,
                "prompt": p.task.prompt,
                "p_value": float(marked.p_value[i]),
                "base": [int(bool(run.first)), run.first or run.made],
                "trained": [int(after[chosen[i]]), n],
            }
        )
    return rows


def _pass_at_k(plan: Plan, boot: _Boot, before: np.ndarray, after: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= plan.trained_draws]
    found = {}
    for name, c in (("trained", after), ("base", before)):
        columns = np.stack([estimators.pass_at_k(plan.trained_draws, c, k) for k in ks], 1)
        found[name] = {"k": ks, **_columns(boot.means(columns, f"pass@k/{name}", chosen))}
    return found


def _arm_curves(plan: Plan, sources: Sources, chosen: np.ndarray) -> dict[str, Any] | None:
    """Exact pass@k of each of the base's arms alone, up to the budget, where it is known."""
    if sources.exact is None:
        return None
    ks = [4**i for i in range(8) if 4**i <= plan.budget]
    named = zip([a.name for a in sources.arms if not a.veto], sources.exact[2][:, chosen], strict=True)
    return {name: {"k": ks, "mean": [float(exact.pass_at_k(p, k).mean()) for k in ks]} for name, p in named}


def _columns(rows: Sequence[tuple[float, float, float]]) -> dict[str, list[float]]:
    return {name: [r[i] for r in rows] for i, name in enumerate(("mean", "low", "high"))}


def _decay(plan: Plan, facts: gain.Evidence) -> dict[str, Any]:
    ks = [2**i for i in range(int(np.log2(plan.budget)) + 1)]
    if ks[-1] != plan.budget:
        ks.append(plan.budget)
    return expansion_curve(facts, ks, stream("frontier-panel", plan.seed, "decay"), PANEL_DRAWS)


def _problems(
    plan: Plan,
    found: Measured,
    chosen: np.ndarray,
    marked: multiple.Certified,
    before: np.ndarray,
    after: np.ndarray,
    known: Exact | None,
) -> list[dict[str, Any]]:
    n = plan.trained_draws
    certified = np.zeros(len(found.problems), bool)
    certified[chosen] = marked.chosen
    low, high = intervals.clopper_pearson(after, n)
    # Where the base was stopped or not drawn at all, the fixed draws of its best arm bound its rate.
    misses = np.array([s.made if not s.first and s.made else 0 for s in found.first])
    upper = intervals.clopper_pearson(np.where(misses > 0, 0, before), np.where(misses > 0, misses, n), side="upper")[1]
    rows = []
    for i, p in enumerate(found.problems):
        stratum, run = plan.suite.strata[p.stratum], found.first[i]
        rows.append(
            {
                "id": p.task.id,
                "family": stratum.name,
                "prompt": p.task.prompt,
                "level": p.task.level,
                "held_out": stratum.held_out,
                "eligible": bool(found.eligible[i]),
                "trained": [int(after[i]), n],
                "base": [int(before[i]), n],
                "base_first": run.first or None,
                "base_draws": run.made,
                "base_upper": float(upper[i]),
                "vetoed": found.vetoed[i] or None,
                "loss_first": found.losses[i].first or None,
                "loss_draws": found.losses[i].made,
                "trained_interval": [float(low[i]), float(high[i])],
                "certified": bool(certified[i]),
                "chance": stratum.family.chance(p.task),
                "exact": None if known is None else _exact_row(known, i),
            }
        )
    return rows


def _exact_row(known: Exact, i: int) -> dict[str, float]:
    before, after, _, _ = known
    best = max(before[d][i] for d in ("T=1", "best_T", "forced"))
    return {
        "base_best_log10": float(best / np.log(10)),
        "base_t1_log10": float(before["T=1"][i] / np.log(10)),
        "trained": float(np.exp(after["T=1"][i])),
    }


def _support(
    plan: Plan, boot: _Boot, before: np.ndarray, after: np.ndarray, chosen: np.ndarray
) -> list[dict[str, Any]]:
    n, rows = plan.trained_draws, []
    for k in (1, 4, 16):
        if k > n:
            continue
        b, t = estimators.pass_at_k(n, before[chosen], k), estimators.pass_at_k(n, after[chosen], k)
        rng = stream("frontier-panel", plan.seed, "support", k)
        rows.append({"k": k, **estimators.support(b, t, rng, boot.strata[chosen], draws=PANEL_DRAWS)})
    return rows


def _cover(plan: Plan, boot: _Boot, before: np.ndarray, after: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"tau": list(TAUS)}
    for name, c in (("trained", after), ("base", before)):
        rng = stream("frontier-panel", plan.seed, "cover", name)
        found[name] = cover.cover(plan.trained_draws, c[chosen], TAUS, rng, boot.strata[chosen])["rows"]
    return found


def _compute(plan: Plan, found: Measured, before: np.ndarray, after: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    ks = [k for k in (1, 2, 4, 8, 16) if k <= plan.trained_draws]
    blocks = {}
    for name, c, counts in (("base", before, found.base), ("trained", after, found.trained)):
        each = np.mean([counts[i].tokens for i in chosen]) / plan.trained_draws
        cover = [float(estimators.pass_at_k(plan.trained_draws, c[chosen], k).mean()) for k in ks]
        blocks[name] = {"tokens": [float(k * each) for k in ks], "coverage": cover}
    return blocks


def _tiers(found: Measured, known: Exact | None, chosen: np.ndarray) -> dict[str, Any] | None:
    if known is None:
        return None
    before, after, _, _ = known
    total = sum(s.made for s in found.first) + found.veto_draws
    tier = exact.tiers({d: v[chosen] for d, v in before.items()}, total)
    solved = np.exp(after["T=1"][chosen]) > 0.5
    return {
        "names": list(exact.TIERS),
        "count": [int((tier == i).sum()) for i in range(len(exact.TIERS))],
        "solved": [int((solved & (tier == i)).sum()) for i in range(len(exact.TIERS))],
    }


def exact_gain(plan: Plan, by_arm: np.ndarray, configured: np.ndarray, budget: int) -> np.ndarray:
    """``float64[N]``: the expectation of R_i m_i(budget), vetoes left out.

    Args:
        plan: how many draws, and how many of them have to be right.
        by_arm: ``float64[A, N]`` log-probabilities of a draw of each of the base's arms.
        configured: ``float64[N]`` of the trained model in its configuration.
        budget: draws of the base.
    """
    from scipy.stats import binom

    reliable = binom.sf(plan.need - 1, plan.trained_draws, np.minimum(np.exp(configured), 1.0))
    return np.asarray(reliable * np.exp(exact.log_miss(by_arm, budget)))


def _exact(plan: Plan, found: Measured, known: Exact | None, chosen: np.ndarray) -> dict[str, Any] | None:
    if known is None:
        return None
    before, after, _, _ = known
    decoders = {
        d: {"base": float(np.exp(before[d][chosen]).mean()), "trained": float(np.exp(after[d][chosen]).mean())}
        for d in exact.DECODERS
    }
    e = {str(k): 100 * float(exact_gain(plan, known[2][:, chosen], known[3][chosen], k).mean()) for k in plan.budgets()}
    return {
        "e": e[str(plan.budget)],
        "by_budget": e,
        "decoders": decoders,
        "vetoed": sum(bool(v) for v in found.vetoed),
    }


def _cost(plan: Plan, found: Measured, chosen: np.ndarray, drawn: int, seconds: float) -> dict[str, Any]:
    base = sum(s.made for s in found.first)
    fixed = plan.trained_draws * len(found.problems)
    losses = sum(s.made for s in found.losses)
    tokens = sum(s.tokens for s in [*found.first, *found.losses]) + sum(c.tokens for c in [*found.base, *found.trained])
    return {
        "base_draws": base + fixed,
        "round_robin_draws": base,
        "trained_draws": fixed + losses,
        "veto_draws": found.veto_draws,
        "full_draws": plan.budget * len(chosen),
        "tokens": tokens,
        "drawn_now": drawn,
        "seconds": seconds,
    }
