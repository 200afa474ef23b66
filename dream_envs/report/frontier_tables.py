"""The figures of a Frontier Report as text: the template and the terminal only lay them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from dream_envs.curriculum.store import wilson
from dream_envs.frontier.schema import Diversity, Estimate, Exact, Family, ProblemRow, Report, Retention, Right
from dream_envs.report import words
from dream_envs.report.words import NONE, bracket, estimate, label, percent, points, probability, signed, visible, whole

CERTIFIED_ROWS = 50
PROBLEM_ROWS = 200
Rows = list[list[str]]


def headline(data: Report) -> str:
    """The line of the protocol: ``G@1024 +74.1 [+68.0, +79.3] · E 74.3 [...] · S 0.2 [...] · N=400``."""
    h = data.headline
    runs = f" · runs={h.runs:,}" if h.runs != 1 else ""
    return f"G@{h.k} {estimate(h.g)} · E {estimate(h.e)} · S {estimate(h.s)} · N={h.n:,}{runs}"


def times100(value: Estimate) -> Estimate:
    """Shares as percentage points."""
    middle, *ends = value
    low, high = (None if end is None else 100 * end for end in ends)
    return 100 * middle, low, high


def tiles(data: Report) -> list[tuple[str, str, str]]:
    """(name, figure, remark) of the numbers that matter."""
    h, k, pass1 = data.headline, whole(data.headline.k), data.pass1
    gained = f"{bracket(h.e[1], h.e[2])}: reliably solved, and by no decoding of the base in {k} samples"
    lost = f"{bracket(h.s[1], h.s[2])}: the base relied on them; {k} samples of the trained model miss them"
    rise = f"{probability(pass1.base[0])} → {probability(pass1.trained[0])}"
    return [
        (f"G@{h.k}, points of problems", signed(h.g[0]), f"95 % interval {bracket(h.g[1], h.g[2])}"),
        ("E, gained", points(h.e[0]), gained),
        ("S, lost", points(h.s[0]), lost),
        ("Certified problems", whole(len(data.certified)), "gained one by one, at a false discovery rate of 5 %"),
        ("pass@1", rise, f"{estimate(times100(pass1.gain))} points"),
    ]


def claim_rows(data: Report) -> Rows:
    """Kind of problem, envelope, what is shown, E, share solved reliably, problems."""
    return [
        [
            label(c.kind, 40), label(c.envelope, 20), c.word, estimate(c.e),
            f"{points(c.solved[0])} [{points(c.solved[1])}, {points(c.solved[2])}]", whole(c.n),
        ]
        for c in data.verdict.claims
    ]  # fmt: skip


def run_rows(data: Report) -> Rows:
    """Several runs one by one: name, G, the verdict's word, and where its own page is."""
    return [
        [
            label(r.model.name.rstrip("/").rpartition("/")[2], 40), estimate(r.g),
            label(re.split(" beyond |[;:]", r.phrase)[0], 20), f"{label(r.folder, 20)}/report.html",
        ]
        for r in data.runs
    ]  # fmt: skip


def bound_rows(data: Report) -> Rows:
    """E at multiples of K: samples, bounds, and the exact value where it is known."""
    exact = {k: points(e) for k, e in data.exact.by_budget.items()} if data.exact else {}
    return [[whole(b.k), f"{points(b.low)} to {points(b.high)}", exact.get(str(b.k), NONE)] for b in data.bounds]


class FamilyFigures(NamedTuple):
    """One family's figures."""

    info: Family
    pass1: float | None
    gained: float | None = None  # problems, see ``_gained``; None where the family does not count
    lost: int | None = None  # problems
    gain: Estimate | None = None  # percentage points


def families(data: Report) -> list[FamilyFigures]:
    """The families in the file's order, with what their problems say about each."""
    found = []
    for info in data.suite.families:
        mine = [p for p in data.problems if p.family == info.name]
        made = FamilyFigures(info, sum(rate(p.trained) for p in mine) / len(mine) if mine else None)
        if info.eligible and mine:
            total = _gained(mine, data)
            share = wilson(total, len(mine))
            lost = sum(p.base[0] >= data.protocol.need and p.loss_draws > 0 and not p.loss_first for p in mine)
            made = made._replace(gained=total, lost=lost, gain=times100((share.p, share.low, share.high)))
        found.append(made)
    return found


def rate(value: Right) -> float:
    """``c / n`` of (right, samples)."""
    return value[0] / value[1] if value[1] else 0.0


def _gained(rows: Sequence[ProblemRow], data: Report) -> float:
    """Problems of these that the trained model solves reliably and decoding never does: their part of E.

    Survivors that were not followed are counted at the share of the followed ones, and need not be a whole number.
    """
    full = data.protocol.budget
    drawn = [p for p in rows if p.trained[0] >= data.protocol.need and p.base_draws]
    unfollowed = [p for p in drawn if not p.base_first and p.base_draws < full]
    stage = max((p.base_draws for p in unfollowed), default=full)
    missed = sum(not p.base_first and p.base_draws >= full for p in drawn)
    followed = missed + sum((p.base_first or 0) > stage for p in drawn)
    return missed + len(unfollowed) * (missed / followed if followed else 1.0)


def family_rows(data: Report) -> Rows:
    """Name, kind, problems, chance, eligible, practised, reach of base, of trained, pass@1, gained, lost."""
    return [
        [
            label(f.info.name, 60), label(f.info.kind, 40), whole(f.info.n), probability(f.info.chance),
            "yes" if f.info.eligible else "no", {True: "yes", False: "no", None: "no record"}[f.info.practised],
            *(percent(side.any) if side and side.any is not None else NONE for side in (f.info.base, f.info.trained)),
            probability(f.pass1), _count(f.gained), _count(f.lost),
        ]
        for f in families(data)
    ]  # fmt: skip


def step_rows(data: Report) -> Rows:
    """Family, what isolated steps predict of the whole and one greedy reply, each of the base and of the trained."""
    rows = []
    for f in data.suite.families:
        if f.base is not None and f.trained is not None and f.base.greedy is not None:
            shares = (f.base.atoms, f.trained.atoms, f.base.greedy, f.trained.greedy)
            rows.append([label(f.name, 60), *map(probability, shares)])
    return rows


def reach_note(data: Report) -> str:
    """Families that the base does not reach at all, and how much of its reach each has at the first, greedy try."""
    block, k = data.pass_at_k, whole(data.pass_at_k.base.k[-1])
    said = f"The base reaches no problem in {k} samples in {block.zero} of {block.counted} families; of these the"
    said += f" trained model reaches some in {block.opened}."
    if shares := " and ".join(f"{percent(v)} ({who})" for who, v in block.greedy.items() if v is not None):
        said += f" Of what each reaches in {k} samples, one greedy reply solves {shares}."
    return said


def _count(x: float | None) -> str:
    """A number of problems; one decimal where followed ones stand for others."""
    return NONE if x is None else f"{x:,.0f}" if x == round(x) else f"{x:,.1f}"


def certified_rows(data: Report) -> Rows:
    """Problem, family, prompt, base, trained, p-value."""
    return [
        [visible(c.problem, 60), visible(c.family, 60), visible(c.prompt, 300), _of(c.base), _of(c.trained),
         probability(c.p_value)]
        for c in data.certified[:CERTIFIED_ROWS]
    ]  # fmt: skip


def _of(value: Right) -> str:
    return f"{whole(value[0])} of {whole(value[1])}"


def problem_rows(data: Report) -> Rows:
    """The first problems: id, family, prompt, trained, interval, base draws, first success, bound, certified, log P."""
    return [
        [
            visible(p.id, 60), visible(p.family, 60), visible(p.prompt, 120), _of(p.trained),
            f"{p.trained_interval[0]:.2f}–{p.trained_interval[1]:.2f}", whole(p.base_draws), _first(p),
            probability(p.base_upper), "yes" if p.certified else "",
            NONE if p.exact is None else f"{p.exact.base_best_log10:.1f} → {probability(p.exact.trained)}",
        ]
        for p in data.problems[:PROBLEM_ROWS]
    ]  # fmt: skip


def _first(problem: ProblemRow) -> str:
    drawn = whole(problem.base_first) if problem.base_first else "never" if problem.base_draws else "not drawn"
    return label(problem.reached, 40) if problem.reached else drawn


def support_rows(data: Report) -> list[list[tuple[str, str]]]:
    """For each budget: k, then (value, interval) of the cells and of the four ratios."""

    def written(value: Estimate | None) -> tuple[str, str]:
        middle, low, high = value or (None, None, None)
        span = "" if low is None or high is None else f"{low:.3f}–{high:.3f}"
        return NONE if middle is None else f"{middle:.3f}", span

    rows = [(r.k, (r.p, r.e, r.s, r.o, r.srr, r.ndr, r.sds, r.nscr)) for r in data.support]
    return [[(whole(k), ""), *map(written, row)] for k, row in rows]


def retention_rows(kept: Retention) -> Rows:
    """Suite, before, after, change with its interval in points, flag."""
    return [
        [label(s.name, 60), probability(s.before), probability(s.after), estimate(times100(s.gain)),
         "loss shown" if s.lost else "loss not excluded" if s.flag else ""]
        for s in kept.suites
    ]  # fmt: skip


def diversity_rows(d: Diversity) -> Rows:
    """Measure, base, trained, ratio."""
    return [
        [words.readable(k), probability(d.base.get(k)), probability(d.trained.get(k)), words.ratio(d.ratio.get(k))]
        for k in dict.fromkeys((*d.base, *d.trained, *d.ratio))
    ]


def card_rows(card: msgspec.Struct) -> Rows:
    """A card's measures as text: numbers, intervals; of a list its ends."""
    return [[words.readable(name), _card_text(getattr(card, name))] for name in card.__struct_fields__]


def _card_text(value: Any) -> str:
    if isinstance(value, tuple):
        return estimate(value, probability)
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
        last, curve = NONE, (data.pass_at_k.methods or {}).get(m.name)
        if curve and curve.k:  # what is far below one problem of any suite is not told to the last decimal
            share = "below 1e-4" if 0 < curve.mean[-1] < 1e-4 else probability(curve.mean[-1])
            last = f"{share} at k={whole(curve.k[-1])}"
        envelope = label(m.envelope, 20) + (", idle" if m.idle else "")
        rows.append([label(m.name, 60), envelope, visible(m.text, 400), last])
    return rows


def decoder_rows(exact: Exact) -> Rows:
    """Decoder, base's mean, trained's mean."""
    return [[label(d, 40), probability(v.base), probability(v.trained)] for d, v in exact.decoders.items()]


def cost_rows(data: Report) -> Rows:
    """What it took, and what early stopping saved."""
    c = data.cost
    rows = [
        ["Draws of the base", whole(c.base_draws)],
        ["of which in turn, stopped early", whole(c.round_robin_draws)],
        ["in turn if nothing were stopped", whole(c.full_draws)],
        *([f"Attempts by {label(name, 20)}", whole(n)] for name, n in c.envelope_draws.items()),
        ["Draws of the trained model", whole(c.trained_draws)],
        ["Further draws of both, for pass@k and steps", whole(c.panel_draws)],
        ["Tokens generated", whole(c.tokens)],
    ]
    if 0 < c.round_robin_draws <= c.full_draws:
        share, times = percent(1 - c.round_robin_draws / c.full_draws), c.full_draws / c.round_robin_draws
        rows.append(["Saved by early stopping", f"{share} of the base's draws in turn ({times:,.1f}x fewer)"])
    rows.append(["Draws made now, the others from the cache", whole(c.drawn_now)])
    rows += [[f"Time of {label(name, 20)}, within the whole", _time(s)] for name, s in c.envelope_seconds.items()]
    return [*rows, ["Time", _time(c.seconds)]]


def _time(s: float) -> str:
    return f"{s:,.0f} s" if s < 600 else f"{s / 60:,.0f} min" if s < 36000 else f"{s / 3600:,.1f} h"


def about(data: Report) -> Rows:
    """Names, hashes and labels of what was measured."""
    rows = (
        ("Base", data.base.name), ("Base, hash of the weights", data.base.weights_hash),
        ("Trained", data.trained.name), ("Trained, hash of the weights", data.trained.weights_hash),
        ("Training run", data.trained.run), ("Suite", data.suite.name), ("Seed of the problems", data.suite.seed),
        ("Problems", str(data.suite.n)), ("Commit", data.commit),
    )  # fmt: skip
    return [[name, visible(value, 300)] for name, value in rows if value]
