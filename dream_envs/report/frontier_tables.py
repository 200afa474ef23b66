"""The tables of a frontier report, as text: the template and the terminal only lay them out."""

from __future__ import annotations

from typing import Any

from dream_envs.report import frontier_read as fr
from dream_envs.report.read import items, walk
from dream_envs.report.words import NONE, number, percent, probability, visible, whole

CERTIFIED_ROWS = 50
PROBLEM_ROWS = 200


def tiles(data: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, figure, remark) of the numbers that matter."""
    h, top = data["headline"], max((number(b) or 0 for b in items(data["protocol"].get("budgets"))), default=0)
    held, gain = h.get("held_out"), walk(data, "pass1", "gain")
    draws = f"{whole(top)} draws" if top else "the largest budget"
    found = [
        (
            "FG*, points of problems",
            fr.signed(h["fg"]),
            f"95 % interval {fr.bracket(h['low'], h['high'])}, problems resampled",
        ),
        (
            "E, gained",
            fr.points(h["e"]),
            f"points, reliably solved and never by the base in {draws}; E* {fr.signed(h['e_star'])} after the tail "
            "correction",
        ),
        ("S, lost", fr.points(h["s"]), "points, the base relied on them and training lost them"),
    ]
    persistence = number(h.get("persistence"))
    remark = "E at the largest budget / E at half of it: near 1 is expansion, falling is sharpening"
    found.append(("Persistence", NONE if persistence is None else f"{persistence:.2f}", remark))
    if isinstance(held, dict):
        figure = fr.signed(held.get("fg"))
        remark = f"FG* {fr.bracket(held.get('low'), held.get('high'))} on {whole(held.get('n'))} problems of families "
        found.append(("Held-out families", figure, remark + "that were never shown"))
    else:
        found.append(("Held-out families", "not measured", "the suite had none: nothing is said about new families"))
    certified = data["certified"]
    figure = "not measured" if certified is None else whole(len(certified))
    found.append(("Certified problems", figure, "gained one by one, at a false discovery rate of 5 %"))
    before, after = (walk(data, "pass1", who, "mean") for who in ("base", "trained"))
    if number(before) is not None:
        change = fr.points_text([_times(walk(gain, k)) for k in ("mean", "low", "high")])
        found.append(("pass@1", f"{probability(before)} → {probability(after)}", f"{change} points".strip()))
    return found


def _times(value: Any) -> float | None:
    x = number(value)
    return None if x is None else 100 * x


def family_rows(data: dict[str, Any]) -> list[list[str]]:
    """Name, kind, problems, chance, eligible, held out, base reached, pass@1, gained, lost."""
    return [
        [
            f.name,
            f.kind,
            whole(f.n),
            probability(f.chance),
            "yes" if f.eligible else "no",
            "yes" if f.held_out else "no",
            percent(f.reached) + (f" of {whole(f.tried)}" if f.reached is not None and f.tried else ""),
            probability(f.pass1),
            count(f.gained),
            count(f.lost),
        ]
        for f in fr.families(data)
    ]


def count(value: float | None) -> str:
    """A number of problems; one decimal where lots stand for some of them."""
    x = number(value)
    return NONE if x is None else f"{x:,.0f}" if x == round(x) else f"{x:,.1f}"


def kind_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    """What kinds of problem were certified, and how many of each."""
    kinds = data["verdict"].get("kinds")
    return [(fr.label(k, 60), whole(v)) for k, v in kinds.items()] if isinstance(kinds, dict) else []


def certified_rows(data: dict[str, Any]) -> list[list[str]]:
    """Problem, family, prompt, base, trained, p-value."""
    rows = [c for c in data["certified"] or [] if isinstance(c, dict)]
    return [
        [
            visible(_text(c.get("problem")), 60), visible(_text(c.get("family")), 60),
            visible(_text(c.get("prompt")), 300), _of(c.get("base")), _of(c.get("trained")),
            probability(c.get("p_value")),
        ]
        for c in rows[:CERTIFIED_ROWS]
    ]  # fmt: skip


def _text(value: Any) -> str:
    return NONE if value in (None, "") else value if isinstance(value, str) else str(value)


def _of(value: Any) -> str:
    found = fr.pair(value)
    return NONE if found is None else f"{whole(found[0])} of {whole(found[1])}"


def problem_rows(data: dict[str, Any]) -> list[list[str]]:
    """The first problems: id, family, prompt, trained, interval, base draws, first success, bound, certified, log P."""
    return [
        [
            visible(_text(p.get("id")), 60), visible(_text(p.get("family")), 60), visible(_text(p.get("prompt")), 120),
            _of(p.get("trained")), _span(p.get("trained_interval")), whole(p.get("base_draws")), _first(p),
            probability(p.get("base_upper")), "yes" if p.get("certified") else "", _exact(p.get("exact")),
        ]
        for p in fr.problems(data)[:PROBLEM_ROWS]
    ]  # fmt: skip


def _span(value: Any) -> str:
    ends = [number(v) for v in items(value)]
    return f"{ends[0]:.2f}–{ends[1]:.2f}" if len(ends) == 2 and None not in ends else NONE


def _first(problem: dict[str, Any]) -> str:
    if problem.get("vetoed"):
        return "veto"
    if not number(problem.get("base_draws")):
        return "not drawn"
    return whole(problem["base_first"]) if number(problem.get("base_first")) else "never"


def _exact(value: Any) -> str:
    if not isinstance(value, dict) or number(value.get("base_best_log10")) is None:
        return NONE
    return f"{value['base_best_log10']:.1f} → {probability(value.get('trained'))}"


def support_rows(data: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """For each budget: k, then (value, interval) of the cells and of the four ratios."""
    keys = ("P", "E", "S", "O", "SRR", "NDR", "SDS", "NSCR")
    return [
        [(whole(r.get("k")), ""), *(_with_interval(r.get(key)) for key in keys)]
        for r in data["support"] or []
        if isinstance(r, dict)
    ]


def _with_interval(value: Any) -> tuple[str, str]:
    v, low, high = fr.triple(value)
    shown = NONE if v is None else f"{v:.3f}"
    return shown, "" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def retention_rows(data: dict[str, Any]) -> list[list[str]]:
    """Suite, before, after, change with its interval in points, flag."""
    return [
        [
            fr.label(s.get("name"), 60),
            probability(s.get("before")),
            probability(s.get("after")),
            _points_of(s.get("gain")),
            "loss shown" if s.get("lost") else "loss not excluded" if s.get("flag") else "",
        ]
        for s in items(walk(data["retention"], "suites"))
        if isinstance(s, dict)
    ]


def _points_of(value: Any) -> str:
    return fr.points_text([_times(x) for x in fr.triple(value)])


def transfer(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Backward and forward transfer, in points, where they were measured."""
    block = data["retention"] or {}
    named = (("Backward transfer (BWT)", "bwt"), ("Forward transfer (FWT)", "fwt"))
    return [(name, _points_of(block[key]) + " points") for name, key in named if block.get(key) is not None]


def matrix(data: dict[str, Any]) -> dict[str, Any] | None:
    """The accuracy matrix: columns, and rows of (name, [(text, share of 100), ...])."""
    block = walk(data["retention"], "matrix")
    if not isinstance(block, dict):
        return None
    rows = []
    for name, values in zip(items(block.get("rows")), items(block.get("values")), strict=False):
        cells = [(probability(v), round(100 * min(max(number(v) or 0.0, 0.0), 1.0))) for v in items(values)]
        rows.append((fr.label(name, 40), cells))
    return {"columns": [fr.label(c, 40) for c in items(block.get("columns"))], "rows": rows}


def diversity_rows(data: dict[str, Any]) -> list[list[str]]:
    """Measure, base, trained, ratio."""
    both = [v if isinstance(v := walk(data["diversity"], who), dict) else {} for who in ("base", "trained")]
    ratios = walk(data["diversity"], "ratio")
    ratios = ratios if isinstance(ratios, dict) else {}
    return [
        [fr.words_of(name), *(probability(v.get(name)) for v in both), _ratio(ratios.get(name))]
        for name in dict.fromkeys((*both[0], *both[1], *ratios))
    ]


def _ratio(value: Any) -> str:
    v, low, high = fr.triple(value)
    if v is None:
        return NONE
    return f"{v:.2f}" if low is None or high is None else f"{v:.2f} [{low:.2f}, {high:.2f}]"


def card_rows(block: dict[str, Any] | None) -> list[tuple[str, str]]:
    """A card's measures as text: numbers, intervals, yes and no; of a list its ends."""
    return [(fr.words_of(k), _card_text(v)) for k, v in _flat(block or {})][:200]


def _flat(block: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in block.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) and prefix.count(".") < 4 else [(name, value)]
    return found


def _card_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        numbers = [number(v) for v in value]
        if len(numbers) == 3 and None not in numbers and numbers[1] <= numbers[0] <= numbers[2]:  # type: ignore[operator]
            return f"{probability(value[0])} [{probability(value[1])}, {probability(value[2])}]"
        if len(value) > 1 and None not in (numbers[0], numbers[-1]):
            return f"{probability(value[0])} → {probability(value[-1])} ({whole(len(value))} values)"
    if number(value) is not None:
        return whole(value) if float(value).is_integer() and abs(value) >= 1 else probability(value)
    return NONE if value is None else visible(value if isinstance(value, str) else repr(value)[:300], 200)


def arm_rows(data: dict[str, Any]) -> list[list[str]]:
    """Arm, role, text, coverage at its last k."""
    curves = walk(data, "pass_at_k", "arms")
    curves = curves if isinstance(curves, dict) else {}
    rows = []
    for arm in items(data["protocol"].get("arms")):
        name = walk(arm, "name")
        curve = curves.get(name) if isinstance(name, str) else None
        ks, means = items(walk(curve, "k")), items(walk(curve, "mean"))
        last = f"{_share(means[-1])} at k={whole(ks[-1])}" if ks and len(ks) == len(means) else NONE
        role = "veto" if walk(arm, "veto") else "in turn"
        rows.append([fr.label(name, 60), role, visible(_text(walk(arm, "text")), 400), last])
    return rows


def _share(value: Any) -> str:
    """A share of problems: what is far below one problem of any suite is not told to the last decimal."""
    x = number(value)
    return "below 1e-4" if x is not None and 0 < x < 1e-4 else probability(x)


def decoder_rows(data: dict[str, Any]) -> list[list[str]]:
    """Exact mode: decoder, base's mean, trained's mean."""
    decoders = walk(data["exact"], "decoders")
    return [
        [fr.label(d, 40), probability(walk(v, "base")), probability(walk(v, "trained"))]
        for d, v in (decoders.items() if isinstance(decoders, dict) else ())
    ]


def exact_note(data: dict[str, Any]) -> str:
    """What the table of decoders is, and what the exact probabilities make of E beside the sampled figure."""
    e, fg, drawn = (number(walk(data, *keys)) for keys in (("exact", "e"), ("exact", "fg"), ("headline", "e")))
    note = "Mean exact probability of the accepted reply under each decoder, not sampled."
    if e is not None:
        note += (
            f" From exact probabilities E is {fr.points(e)} points; from draws, vetoes included, {fr.points(drawn)}."
        )
    return note + (f" FG* is {fr.signed(fg)}." if fg is not None else "")


def cost_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    """What it took, and what early stopping saved."""
    cost = data["cost"] or {}
    named = (
        ("Draws of the base", "base_draws"), ("of which in turn, stopped early", "round_robin_draws"),
        ("in turn if nothing were stopped", "full_draws"), ("Draws of the veto arms", "veto_draws"),
        ("Draws of the trained model", "trained_draws"), ("Tokens generated", "tokens"),
    )  # fmt: skip
    rows = [(name, whole(cost.get(key))) for name, key in named]
    rows = [(name, value) for name, value in rows if value != NONE]
    drawn, full = number(cost.get("round_robin_draws", cost.get("base_draws"))), number(cost.get("full_draws"))
    if full and drawn and drawn <= full:
        saved = f"{percent(1 - drawn / full)} of the base's draws in turn ({full / drawn:,.1f}x fewer)"
        rows.append(("Saved by early stopping", saved))
    if number(cost.get("drawn_now")) is not None:
        rows.append(("Draws made now, the others from the cache", whole(cost["drawn_now"])))
    seconds = number(cost.get("seconds"))
    if seconds is not None:
        shown = f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min" if seconds < 36000 else ""
        rows.append(("Time", shown or f"{seconds / 3600:,.1f} h"))
    return rows


def fooled(data: dict[str, Any]) -> list[str]:
    """What can still fool this report, with its own numbers where they decide it."""
    arms = [a for a in items(data["protocol"].get("arms")) if isinstance(a, dict)]
    budgets = [b for v in items(data["protocol"].get("budgets")) if (b := number(v)) is not None]
    covered = [v for x in items(walk(data, "pass_at_k", "base", "mean")) if (v := number(x)) is not None]
    draws = f"in up to {whole(max(budgets))} draws" if budgets else "within its budget"
    found = [
        f"A better way to ask the base. 'Never {draws}' is relative to the {len(arms)} arms below; an arm that nobody "
        "has tried may reach what these did not. Then the evaluation has to be repeated with it.",
        "A teacher. Knowledge that came from a stronger model or from the web is a real gain of this model, but no "
        "evidence for self-play. No number here can tell the two apart: only the record of the training can.",
        "The generator's own algorithm. The model may have learnt how the visible families are made. That is a skill, "
        "but a narrow one, which is why the held-out families count apart"
        + ("." if isinstance(data["headline"].get("held_out"), dict) else "; this evaluation has none."),
        "Held-out families that have been seen. They wear out as soon as they are published or tuned against.",
    ]
    known = f" Here its best coverage is {percent(max(covered))}." if covered else ""
    found.append(
        "A base that can do nothing. Where the base solves next to nothing, everything is new and E comes cheap."
        + known
    )
    runs = number(walk(data["headline"], "runs", "count"))
    if not runs or runs < 5:
        found.append(
            "Luck of the training run. "
            + (
                f"{whole(runs)} training run{'s' if runs != 1 else ''} were measured"
                if runs
                else "One checkpoint was measured"
            )
            + ": the intervals speak of this checkpoint, not of the recipe; five runs or more would."
        )
    found.append("FG* says nothing about usefulness, safety or cost.")
    return found
