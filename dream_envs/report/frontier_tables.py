"""The tables of a Frontier Report as text: the template and the terminal only lay them out."""

from __future__ import annotations

from typing import Any

import msgspec

from dream_envs.frontier.schema import Estimate, ProblemRow, Report, Right
from dream_envs.report import frontier_read as fr
from dream_envs.report.words import NONE, percent, probability, visible, whole

CERTIFIED_ROWS = 50
PROBLEM_ROWS = 200
Rows = list[list[str]]


def tiles(data: Report) -> list[tuple[str, str, str]]:
    """(name, figure, remark) of the numbers that matter."""
    h, k, pass1 = data.headline, whole(data.headline.k), data.pass1
    return [
        (f"G@{h.k}, points of problems", fr.signed(h.g[0]), f"95 % interval {fr.bracket(h.g[1], h.g[2])}"),
        (
            "E, gained",
            fr.points(h.e[0]),
            f"{fr.bracket(h.e[1], h.e[2])}: reliably solved, and by no decoding of the base in {k} samples",
        ),
        (
            "S, lost",
            fr.points(h.s[0]),
            f"{fr.bracket(h.s[1], h.s[2])}: the base relied on them; {k} samples of the trained model miss them",
        ),
        ("Certified problems", whole(len(data.certified)), "gained one by one, at a false discovery rate of 5 %"),
        (
            "pass@1",
            f"{probability(pass1.base[0])} → {probability(pass1.trained[0])}",
            f"{fr.points_text(fr.times100(pass1.gain))} points",
        ),
    ]


def claim_rows(data: Report) -> Rows:
    """Kind of problem, envelope, what is shown, G, share solved reliably, problems."""
    return [
        [
            fr.label(c.kind, 40),
            fr.label(c.envelope, 20),
            c.word,
            fr.points_text(c.g),
            f"{fr.points(c.solved[0])} [{fr.points(c.solved[1])}, {fr.points(c.solved[2])}]",
            whole(c.n),
        ]
        for c in data.verdict.claims
    ]


def bound_rows(data: Report) -> Rows:
    """E at multiples of K: samples, bounds, and the exact value where it is known."""
    exact = data.exact.by_budget if data.exact else {}
    return [
        [whole(b.k), f"{fr.points(b.low)} to {fr.points(b.high)}", fr.points(exact[key]) if key in exact else NONE]
        for b in data.bounds
        for key in [str(b.k)]
    ]


def family_rows(data: Report) -> Rows:
    """Name, kind, problems, chance, eligible, practised, base reached, pass@1, gained, lost."""
    return [
        [
            fr.label(f.info.name, 60),
            fr.label(f.info.kind, 40),
            whole(f.info.n),
            probability(f.info.chance),
            "yes" if f.info.eligible else "no",
            {True: "yes", False: "no", None: "no record"}[f.info.practised],
            percent(f.reached) + ("" if f.reached is None else f" of {whole(f.tried)}"),
            probability(f.pass1),
            count(f.gained),
            count(f.lost),
        ]
        for f in fr.families(data)
    ]


def count(x: float | None) -> str:
    """A number of problems; one decimal where followed ones stand for others."""
    return NONE if x is None else f"{x:,.0f}" if x == round(x) else f"{x:,.1f}"


def certified_rows(data: Report) -> Rows:
    """Problem, family, prompt, base, trained, p-value."""
    return [
        [
            visible(c.problem, 60),
            visible(c.family, 60),
            visible(c.prompt, 300),
            _of(c.base),
            _of(c.trained),
            probability(c.p_value),
        ]
        for c in data.certified[:CERTIFIED_ROWS]
    ]


def _of(value: Right) -> str:
    return f"{whole(value[0])} of {whole(value[1])}"


def problem_rows(data: Report) -> Rows:
    """The first problems: id, family, prompt, trained, interval, base draws, first success, bound, certified, log P."""
    return [
        [
            visible(p.id, 60),
            visible(p.family, 60),
            visible(p.prompt, 120),
            _of(p.trained),
            f"{p.trained_interval[0]:.2f}–{p.trained_interval[1]:.2f}",
            whole(p.base_draws),
            _first(p),
            probability(p.base_upper),
            "yes" if p.certified else "",
            NONE if p.exact is None else f"{p.exact.base_best_log10:.1f} → {probability(p.exact.trained)}",
        ]
        for p in data.problems[:PROBLEM_ROWS]
    ]


def _first(problem: ProblemRow) -> str:
    if problem.reached:
        return fr.label(problem.reached, 40)
    if not problem.base_draws:
        return "not drawn"
    return whole(problem.base_first) if problem.base_first else "never"


def support_rows(data: Report) -> list[list[tuple[str, str]]]:
    """For each budget: k, then (value, interval) of the cells and of the four ratios."""
    cells = [(r.k, (r.p, r.e, r.s, r.o, r.srr, r.ndr, r.sds, r.nscr)) for r in data.support]
    return [[(whole(k), ""), *map(_with_interval, row)] for k, row in cells]


def _with_interval(value: Estimate | None) -> tuple[str, str]:
    if value is None:
        return NONE, ""
    v, low, high = value
    return f"{v:.3f}", "" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def retention_rows(data: Report) -> Rows:
    """Suite, before, after, change with its interval in points, flag."""
    return [
        [
            fr.label(s.name, 60),
            probability(s.before),
            probability(s.after),
            fr.points_text(fr.times100(s.gain)),
            "loss shown" if s.lost else "loss not excluded" if s.flag else "",
        ]
        for s in (data.retention.suites if data.retention else ())
    ]


def diversity_rows(data: Report) -> Rows:
    """Measure, base, trained, ratio."""
    if (d := data.diversity) is None:
        return []
    return [
        [
            fr.words_of(name),
            probability(d.base.get(name)),
            probability(d.trained.get(name)),
            fr.ratio_text(d.ratio.get(name)),
        ]
        for name in dict.fromkeys((*d.base, *d.trained, *d.ratio))
    ]


def card_rows(card: msgspec.Struct | None) -> Rows:
    """A card's measures as text: numbers, intervals; of a list its ends."""
    names = () if card is None else card.__struct_fields__
    return [[fr.words_of(name), _card_text(getattr(card, name))] for name in names]


def _card_text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{probability(value[0])} [{probability(value[1])}, {probability(value[2])}]"
    if isinstance(value, list):
        ends = value if len(value) < 2 else (value[0], value[-1])
        return " → ".join(map(probability, ends)) + f" ({whole(len(value))} values)"
    if value is None:
        return NONE
    return whole(value) if float(value).is_integer() and abs(value) >= 1 else probability(value)


def method_rows(data: Report) -> Rows:
    """Elicitation method, its envelope, text, coverage at its last k."""
    rows = []
    for m in data.protocol.methods:
        curve = (data.pass_at_k.methods or {}).get(m.name)
        last = f"{_share(curve.mean[-1])} at k={whole(curve.k[-1])}" if curve and curve.k else NONE
        rows.append(
            [fr.label(m.name, 60), fr.label(m.envelope, 20) + (", idle" if m.idle else ""), visible(m.text, 400), last]
        )
    return rows


def _share(x: float) -> str:
    """A share of problems: what is far below one problem of any suite is not told to the last decimal."""
    return "below 1e-4" if 0 < x < 1e-4 else probability(x)


def decoder_rows(data: Report) -> Rows:
    """Exact mode: decoder, base's mean, trained's mean."""
    decoders = data.exact.decoders.items() if data.exact else ()
    return [[fr.label(d, 40), probability(v.base), probability(v.trained)] for d, v in decoders]


def cost_rows(data: Report) -> Rows:
    """What it took, and what early stopping saved."""
    c = data.cost
    rows = [
        ["Draws of the base", whole(c.base_draws)],
        ["of which in turn, stopped early", whole(c.round_robin_draws)],
        ["in turn if nothing were stopped", whole(c.full_draws)],
        *([f"Attempts by {fr.label(name, 20)}", whole(n)] for name, n in c.envelope_draws.items()),
        ["Draws of the trained model", whole(c.trained_draws)],
        ["Tokens generated", whole(c.tokens)],
    ]
    if 0 < c.round_robin_draws <= c.full_draws:
        share, times = percent(1 - c.round_robin_draws / c.full_draws), c.full_draws / c.round_robin_draws
        rows.append(["Saved by early stopping", f"{share} of the base's draws in turn ({times:,.1f}x fewer)"])
    s = c.seconds
    time = f"{s:,.0f} s" if s < 600 else f"{s / 60:,.0f} min" if s < 36000 else f"{s / 3600:,.1f} h"
    return [*rows, ["Draws made now, the others from the cache", whole(c.drawn_now)], ["Time", time]]
