"""The sections of a run report, one function each, for the page and the terminal; one without data is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from dream_envs.core import Measure
from dream_envs.metrics.rounds import ENDS, REPLY_FAULTS
from dream_envs.report import plots, svg
from dream_envs.report.plots import SHARE, Plot, curves
from dream_envs.report.read import Diversity, Found
from dream_envs.report.words import NONE, decimal, interval, log10, percent, probability, ratio, visible, whole
from dream_envs.schema import Compared, Evaluation, Level, Stat

TIERS = ("T0", "T1", "T2")


class Column(NamedTuple):
    """A column of a table."""

    head: str  # its name, in one or several lines
    priority: int = 0  # 0 always stays; of the others the one with the largest number goes first
    words: bool = False  # words may be cut short, and stand on the left; numbers never are, and stand on the right


class Grid(NamedTuple):
    """A table.  ``folded``: behind a click, and not in the terminal.  ``heat``: numbers from 0 to 1 are shaded."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    folded: bool = False
    heat: bool = False


class Section(NamedTuple):
    """A part of the page: ``says`` in a sentence, pictures, tables, points; ``words``: of the glossary."""

    id: str
    title: str
    says: str
    plots: Sequence[Plot | None] = ()  # None, and tables without rows: nothing to show
    grids: Sequence[Grid] = ()
    points: Sequence[str] = ()
    words: Sequence[str] = ()


def sections(found: Found) -> list[Section]:
    """Those that have something to show, in reading order."""
    with svg.style():
        made = [section for make in _SECTIONS if (section := make(found)) is not None]
    shown = [s._replace(plots=[p for p in s.plots if p], grids=[g for g in s.grids if g.rows]) for s in made]
    return [s for s in shown if s.plots or s.grids or s.points or s.id == "alarms"]


def tables(found: Found) -> list[Grid]:
    """What a terminal shows of them; nothing is drawn."""
    own = found.summary.evaluation if found.summary is not None else None
    evaluated = [_levels(own), _measures(own.measures)] if own is not None else []
    others = [section for section in (_retention(found), _dreamt(found)) if section is not None]
    grids = [_roles(found), *evaluated, *(grid for section in others for grid in section.grids), *_slept(found)]
    return [grid for grid in grids if grid.rows and not grid.folded]


def tiles(found: Found) -> Iterator[tuple[str, str, str]]:
    """(name, figure, remark) of the numbers that matter."""
    if (summary := found.summary) is None:
        return
    if (left := found.blocks.retention) is not None:
        yield "Known closed book after the last night", probability(left.average_accuracy), "mean over all lessons"
        yield "Forgetting", probability(left.forgetting), "best success so far less success at the end, mean"
    elif summary.evaluation is not None:
        yield from _evaluated(summary.evaluation)
    for role in [r for r in summary.roles if r.learns][:2]:
        ends = f"first and last {ENDS} rounds; its range is {role.low:g} to {role.high:g}"
        yield f"Reward of the {visible(role.name, 30)}", _change(role.first, role.last), ends
    parts = ", ".join(f"{whole(n)} {visible(k, 20)}" for k, n in summary.samples.items() if k != "total")
    yield "Samples drawn", whole(summary.samples.get("total")), parts


def _evaluated(own: Evaluation) -> Iterator[tuple[str, str, str]]:
    gains = [(row.trained["T=1"].mean - row.base["T=1"].mean, row) for row in own.levels if row.split == "any"]
    if gains:
        gain, most = max(gains, key=lambda pair: abs(pair[0]))
        before, after = most.base["T=1"], most.trained["T=1"]
        remark = f"95 % interval after training {interval(*after.ci)}" if gain else "nothing changed"
        yield f"Largest change: level {most.level}", _change(before.mean, after.mean), remark
    for row in own.measures[:2]:
        ends = f"95 % interval after training {_ends(row.trained)}" if row.trained.n else "exact"
        remark = "; ".join(filter(None, (ends, visible(row.says, 90))))
        yield visible(f"{row.role} {row.name}".strip(), 60), _change(row.base.value, row.trained.value), remark
    if (past := own.beyond) is not None:
        remark = f"{whole(past.structural)} of them absent from what the base was trained on (T3)"
        yield "Problems beyond the samples drawn, now solved", f"{whole(past.count)} of {whole(past.of)}", remark


def _change(before: float | None, after: float | None) -> str:
    return f"{probability(before)} → {probability(after)}"


def _ends(m: Measure) -> str:
    return NONE if m.low == m.high else interval(m.low, m.high)


def _rewards(found: Found) -> Section:
    names = [r.name for r in found.summary.roles] if found.summary is not None else []
    means = [(key.removesuffix("/mean"), points) for key, points in found.lines("reward/") if key.endswith("/mean")]
    means.sort(key=lambda line: names.index(line[0]) if line[0] in names else len(names))
    wide = {key.removesuffix("/std"): points for key, points in found.lines("reward/") if key.endswith("/std")}
    lost = [(key.replace("/", " "), points) for key, points in found.lines("status/") if not key.endswith("/ok")]
    made = [
        curves("reward", "Reward by role", "Mean of a round; band: one standard deviation over its episodes.", "reward",
               found.unit, means, spread=wide),
        curves("statuses", "Scores without a value", "Share of scores that are no number: they are in no mean.",
               "share", found.unit, lost, limits=SHARE),
        curves("replies", "Replies cut off or not read", "Share of completions; they have a score all the same.",
               "share", found.unit, [(k.replace("/", " "), p) for k, p in found.lines("reply/")], limits=SHARE),
    ]  # fmt: skip
    says = f"First and last: means of {ENDS} rounds. Rewards are the loop's own and prove no ability by themselves."
    return Section("rewards", "Rewards by role", says, made, [_roles(found)])


def _roles(found: Found) -> Grid:
    if (summary := found.summary) is None:
        return Grid("", (), ())
    head = (
        Column("role"), Column("learns", 3), Column("reward\nfirst"), Column("reward\nlast"),
        Column("least", 2), Column("most", 2), Column("samples", 1), Column("ok", 1),
        Column("cut off,\nunread", 2), Column("without a value", 4, True), Column("a completion is", 5, True),
    )  # fmt: skip
    rows = [
        [
            visible(r.name, 30), "yes" if r.learns else "no", probability(r.first), probability(r.last), f"{r.low:g}",
            f"{r.high:g}", whole(summary.samples.get(r.name)), percent(r.statuses.get("ok")),
            ", ".join(percent(r.replies.get(name)) for name in REPLY_FAULTS) if r.replies else NONE,
            ", ".join(f"{k} {percent(v)}" for k, v in r.statuses.items() if k != "ok") or NONE, visible(r.reply, 60),
        ]
        for r in summary.roles
    ]  # fmt: skip
    return Grid("rewards by role", head, rows)


def _evaluation(found: Found) -> Section | None:
    if found.summary is None or (own := found.summary.evaluation) is None:
        return None
    made = plots.evaluation_plots(own, found.summary.samples.get("total", 0))
    grids = [_levels(own), _decoders(own), _examples(own), _measures(own.measures)]
    support = ", ".join(map(str, found.summary.run.support))
    says = f"{own.says[:1].upper()}{visible(own.says[1:], 300)}."
    says += f" The base was pre-trained on levels {support}." if support and own.levels else ""
    says += " Intervals are 95 %, over problems or games and not over runs." if own.kind != "play" else ""
    words = ["Success P", "Level", "T=1", "Chance"] if own.levels else []
    if own.kind == "exact":
        words += ["best_T", "forced", "given", "T0, sharpening", "T1, edge", "T2, beyond the samples", "T3, absent"]
    return Section("evaluation", "What the policy can do, before and after", says, made, grids, words=words)


def _levels(own: Evaluation) -> Grid:
    exact = own.kind == "exact"
    head = [
        Column("level"), Column("base"), Column("base\n95 %", 6), Column("trained"), Column("trained\n95 %", 2),
        Column("chance", 7), Column("problems", 8),
    ]  # fmt: skip
    if exact:
        more = [Column(f"{who}\n{what}", n) for what, n in (("log10", 5), ("forced", 3)) for who in plots.WHO]
        head[5:5] = [*more, *(Column(f"{tier}:\nsolved", 4) for tier in TIERS)]
    rows = []
    for row in own.levels:
        before, after = row.base["T=1"], row.trained["T=1"]
        cells = [_name(row), probability(before.mean), interval(*before.ci), probability(after.mean)]
        cells.append(interval(*after.ci))
        if exact:
            cells += [log10(before.median_log10), log10(after.median_log10)]
            cells += [probability(stat.mean) if (stat := m.get("forced")) else NONE for m in (row.base, row.trained)]
            cells += [_tier(row, tier) for tier in TIERS]
        rows.append([*cells, probability(row.chance), whole(row.n)])
    star = " (*: held-out split)" if any(row.split == "held_out" for row in own.levels) else ""
    return Grid(f"success by level{star}", head, rows)


def _name(row: Level) -> str:
    return f"{row.level}*" if row.split == "held_out" else f"{row.level}"


def _tier(row: Level, tier: str) -> str:
    """``128: 99 %``: problems of this tier, and the share of them that is solved after training."""
    count, moved = row.tiers.get(tier), row.moved.get(tier)
    return f"{whole(count)}: {percent(moved)}" if count and moved is not None else whole(count)


def _decoders(own: Evaluation) -> Grid:
    def cell(stat: Stat | None) -> str:
        return NONE if stat is None else f"{probability(stat.mean)}, {percent(stat.solved)}, {probability(stat.max)}"

    pairs = [(who, d) for who in plots.WHO for d in own.decoders]
    head = [Column("level"), *(Column(f"{who}\n{d}") for who, d in pairs)]
    rows = [[_name(row), *(cell(getattr(row, who).get(d)) for who, d in pairs)] for row in own.levels]
    shown = rows if len(own.decoders) > 1 else []
    return Grid("all decoders: mean, share solved, largest P", head, shown, folded=True)


def _examples(own: Evaluation) -> Grid:
    head = [
        Column("problem", words=True), Column("level"), Column("held-out pair"), Column("log10 P, base's best decoder"),
        Column("P, trained, T=1"),
    ]  # fmt: skip
    rows = [
        [visible(e.get("prompt", ""), 120), whole(e.get("level")), "yes" if e.get("held_out") else "no",
         log10(e.get("base_best_log10")), probability(e.get("trained"))]
        for e in (own.beyond.examples if own.beyond is not None else ())[:12]
    ]  # fmt: skip
    return Grid("examples of problems beyond the samples drawn that are now solved", head, rows, folded=True)


def _measures(rows: Sequence[Compared]) -> Grid:
    head = [
        Column("role"), Column("measure", words=True), Column("base"), Column("base\n95 %", 3),
        Column("trained"), Column("trained\n95 %", 2), Column("games", 4),
        Column("what it is, which way is better", 5, True),
    ]  # fmt: skip
    cells = [
        [
            visible(r.role, 30) or NONE, visible(r.name, 30), probability(r.base.value), _ends(r.base),
            probability(r.trained.value), _ends(r.trained), whole(r.trained.n) if r.trained.n else "exact",
            visible(r.says, 120) or NONE,
        ]
        for r in rows
    ]  # fmt: skip
    return Grid("measures", head, cells)


def _learning(found: Found) -> Section:
    lines = found.lines("eval/")
    levels = sorted(((name, p) for name, p in lines if name.isdecimal()), key=lambda line: int(line[0]))
    other = [(name, p) for name, p in lines if not name.isdecimal()]
    made = [
        curves("learning", "Success while learning", "One line a level. A line that falls is forgetting.",
               "mean success", found.unit, levels, limits=SHARE, ordered=True),
        curves("measured", "Measures while learning", "The game's own measures.", "value", found.unit, other),
    ]  # fmt: skip
    return Section("learning", "Learning curve", "Measured now and then on what is never trained on.", made)


#: Of a section that shows metrics as they are logged: its title, what it says, and its plots, each with name, title,
#: note, unit, limits, prefix and metrics (() for all under the prefix).
_LOGGED: dict[str, tuple[str, str, tuple[tuple[str, str, str, str, Any, str, tuple[str, ...]], ...]]] = {
    "curriculum": ("Curriculum", "Seen from inside the loop: a loop that rewards mistakes looks healthy here.", (
        ("solving", "Learnable problems", "Solved: mean solve rate. Learnable: problems that some but not all attempts "
         "solve. Label accuracy: rewards that agree with the truth.", "share", SHARE, "curriculum/",
         ("learnable", "solved", "label_accuracy")),
        ("depth", "Level of accepted problems", "Of the policy's own problems. Drift: how improbable the frozen base "
         "finds success on them, mean -log10 P: rising is harder on a fixed scale.", "level", None, "curriculum/",
         ("depth", "drift")),
        ("proposals", "Proposals", "Accepted, distinct, and already known.", "share", SHARE, "curriculum/",
         ("valid", "unique", "duplicates")),
        ("rejects", "Turned away", "Proposals of a round by reason; similar: too close to what is there (novelty).",
         "proposals", None, "curriculum/reject/", ()),
        ("store", "Problems kept", "In the run's store, and different features among them.", "problems", None,
         "curriculum/", ("store", "features")),
    )),
    "completions": ("Completions", "What the policy writes: how long, and how varied.", (
        ("length", "Length of a completion", "Tokens (characters where none are counted), by role.", "tokens", None,
         "length/", ()),
        ("token-entropy", "Entropy of a token", "Mean over sampled tokens.", "nats", None, "train/", ("entropy",)),
        ("format-entropy", "Entropy of formats and answers", "Of the shape of completions, and of the completions to "
         "one problem. Zero: one is left.", "bits", None, "curriculum/", ("format_entropy", "answer_entropy")),
    )),
    "judge": ("Judge", "What the judge says, held against the executed truth.", (
        ("judge", "Judge", "Accuracy: on a right and a wrong answer. Flip: verdicts that change with the order. "
         "First: the one shown first wins. Truth: right answers.", "share", SHARE, "judge/",
         ("accuracy", "readable", "flip", "first", "cycles", "truth")),
        ("judged-length", "Length of judged answers", "A judge that likes length shows here.", "characters", None,
         "judge/", ("length",)),
    )),
    "optimiser": ("Optimisation", "As logged by the trainer.", (
        ("loss", "Loss", "Of the policy and, where there is one, of the critic.", "loss", None, "train/",
         ("loss", "value/loss", "kl")),
        ("gradient", "Gradient norm", "Before clipping.", "norm", None, "train/", ("grad_norm",)),
        ("rate", "Learning rate", "As scheduled.", "rate", None, "train/", ("lr",)),
        ("trust", "How far an update goes", "Approximate KL and share of clipped tokens; explained variance of the "
         "critic.", "value", None, "train/", ("policy/approx_kl", "policy/clip_fraction")),
        ("groups", "Groups", "Groups of completions with different rewards, by role: only these train.", "groups", None,
         "groups/", ()),
    )),
}  # fmt: skip


def _logged(key: str, found: Found) -> Section:
    title, says, rows = _LOGGED[key]
    made = [
        curves(name, heading, note, unit, found.unit, found.lines(prefix, names), limits=limits)
        for name, heading, note, unit, limits, prefix, names in rows
    ]
    return Section(key, title, says, made)


def _curriculum(found: Found) -> Section | None:
    if not {"curriculum/valid", "curriculum/learnable"} & found.series.keys():
        return None  # nobody writes problems here
    section, accuracy = _logged("curriculum", found), found.summary.label_accuracy if found.summary else None
    points = [] if accuracy is None else [f"Last round: {percent(accuracy)} of the rewards agree with the truth."]
    return section._replace(points=points if any(section.plots) else (), words=("Learnable", "Drift", "Label accuracy"))


def _slept(found: Found) -> list[Grid]:
    head = [
        Column("night"), Column("experiences", 2), Column("tokens", 3), Column("dreams\ngood"), Column("divergence", 4),
        Column("imitation", 5), Column("probe\nbefore", 1), Column("probe\nafter", 1), Column("kept", 0),
    ]  # fmt: skip
    nights = found.blocks.nights
    rows = [
        [
            str(n.number + 1), whole(n.lived), whole(n.tokens), f"{n.good} of {len(n.dreams)}" if n.dreams else NONE,
            NONE if n.divergence is None else f"{decimal(n.divergence[0], 3)} to {decimal(n.divergence[1], 3)}",
            decimal(n.imitation, 2), decimal(n.before, 3), decimal(n.after, 3), "undone" if n.undone else "yes",
        ]
        for n in nights
    ]  # fmt: skip
    names = list(dict.fromkeys(key for n in nights for key in n.curve_before))
    changes = [[str(n.number + 1), *(_change(n.curve_before.get(k), n.curve_after.get(k)) for k in names)]
               for n in nights if names]  # fmt: skip
    by_level = [Column("night"), *map(Column, names)]
    return [Grid("nights", head, rows), Grid("success before and after each night", by_level, changes, folded=True)]


def _nights(found: Found) -> Section:
    says = (
        "Probe: mean log-likelihood per token of what the policy said before; a night that loses too much of it is "
        "undone. Divergence: from the teacher with its context, first and last steps, nats per token."
    )
    return Section("nights", "Nights", says, [plots.night_plot(found.blocks.nights)], _slept(found))


def _retention(found: Found) -> Section | None:
    if (left := found.blocks.retention) is None:
        return None
    names = [visible(name, 20) for name in left.lessons]
    head = [Column("night"), Column("in context"), *(Column(n, 1 + i // 4) for i, n in enumerate(names))]
    rows = [
        [str(i + 1), probability(opened), *(probability(v) if v is not None else "" for v in row)]
        for i, (row, opened) in enumerate(zip(left.closed, left.open, strict=False))
    ]
    kinds = ("open", "closed", "last")
    levels = [[level, *(probability(v.get(kind)) for kind in kinds)] for level, v in left.levels.items()]
    by_level = [Column("level"), Column("in context"), Column("after its night"), Column("after the last night")]
    facts = (("backward transfer", left.backward_transfer), ("forward transfer", left.forward_transfer))
    points = [f"{name}: {probability(value)}" for name, value in facts if value is not None]
    if left.across:
        told = ", ".join(probability(value) for value in left.across)
        points.append(f"success across days, in combinations that were never practised, after each night: {told}")
    says = (
        "Closed-book success on each lesson (column) after each night (row); in context: on the day's lesson with its "
        "text at hand. One run, no interval."
    )
    grids = [Grid("what is left of each lesson", head, rows, heat=True), Grid("lessons by level", by_level, levels)]
    return Section("retention", "What is left of each lesson", says, [], grids, points)


#: The measures of a copy, as ``baselines.dreams`` names them.
_COPY = {"loss": "held-out\nloss", "follows": "followed", "valid": "valid\ndreams", "distance": "distance",
         "distinct": "distinct\nbigrams", "openings": "openings,\nbits"}  # fmt: skip


def _dreamt(found: Found) -> Section | None:
    if (own := found.blocks.dreams) is None:
        return None

    def cells(measures: dict[str, Measure]) -> list[str]:
        return [ratio((m.value, m.low, m.high)) if (m := measures.get(key)) else NONE for key in _COPY]

    head = [Column("copy"), *(Column(title, i) for i, title in enumerate(_COPY.values())), Column("reply\ntokens", 7)]
    trained = {name: whole(its.get("tokens")) for name, its in own.trained.items()}
    rows = [[visible(k, 20), *cells(v), trained.get(k, NONE)] for k, v in own.copies.items()]
    less = [Column("kept, less"), *head[1:-1]]
    gains = [[visible(name, 20), *cells(measures)] for name, measures in own.gains.items()]
    shown = [
        [visible(e.dropped or "kept", 20), visible(e.instruction, 400), visible(e.reply, 400)] for e in own.examples
    ]
    texts = [Column("is"), Column("instruction", words=True), Column("reply", words=True)]
    languages = ", ".join(f"{visible(k, 20)} {percent(v)}" for k, v in list(own.languages.items())[:5])
    dropped = ", ".join(f"{visible(k, 20)} {n}" for k, n in own.dropped.items() if k)
    points = [
        f"{whole(own.valid)} of {whole(own.dreams)} dreams are valid pairs, {percent(own.distinct)} of these differ; "
        f"{whole(own.held_out)} are held out; kept: {whole(own.kept)}; turned away by rule: {dropped or 'none'}.",
        f"Languages, guessed: {languages or NONE}. Replies cut off by the budget: {percent(own.replies_cut)}.",
    ]
    if len(own.distance) == len(own.reply_tokens) == 3:
        near, long = ([decimal(x, 2) for x in own.distance], [whole(x) for x in own.reply_tokens])
        points.append(f"10th, 50th and 90th in a hundred: distance {', '.join(near)}; reply tokens {', '.join(long)}.")
    if own.unmeasured:
        points.append(f"Rules of {own.preset!r} left out, since nothing measured them: {', '.join(own.unmeasured)}.")
    says = (
        "The model's own instructions, read out of its bare chat template, and copies trained on them at equal steps "
        "and reply tokens: on what the filter kept, on as many at random, on as many of the same lengths. 95 % "
        "intervals, over prompts."
    )
    grids = [
        Grid("dreams: copies", head, rows), Grid("dreams: kept copy, less", less, gains),
        Grid("dreams, some kept and some turned away", texts, shown, folded=True),
    ]  # fmt: skip
    return Section("dreams", "Dreams", says, [], grids, points)


def _diversity(found: Found) -> Section:
    shares = ("top_share", "accuracy", "js_to_base", "duplicates")
    lines = found.lines("diversity/")
    note = "On fixed problems, at log-spaced steps: entropies in bits, effective numbers of formats and of answers."
    made = [
        curves("variety", "Variety on fixed problems", note, "bits, or a number", found.unit,
               [(k, p) for k, p in lines if k not in (*shares, "vendi_across")]),
        curves("variety-shares", "Shares on fixed problems", "Most frequent format, right answers, distance to the "
               "base's formats.", "share", found.unit, [(k, p) for k, p in lines if k in shares], limits=SHARE),
    ]  # fmt: skip
    own = found.blocks.diversity or Diversity({}, {})
    head = [Column("measure", words=True), Column("base"), Column("trained"), Column("ratio", 1), Column("95 %", 2)]
    rows = []
    for key, value in own.base.items():
        middle, low, high = (decimal(v, 2) for v in own.ratio.get(key) or (None, None, None))
        span = NONE if own.ratio.get(key) is None else f"{low} to {high}"
        rows.append([visible(key, 40), decimal(value, 3), decimal(own.trained.get(key), 3), middle, span])
    grids = [Grid("diversity of completions", head, rows, folded=True)]
    points = [f"Alarm: {visible(own.alarm, 300)}"] if own.alarm else []
    if found.summary is not None and len(found.summary.entropy) == 2:
        base, trained = (found.summary.entropy[who] for who in plots.WHO)
        points += [f"{k} entropy: {decimal(v, 2)} to {decimal(trained.get(k), 2)} bits" for k, v in base.items()]
    return Section("diversity", "Variety", "Collapse shows here before it shows in the reward.", made, grids, points)


def _alarms(found: Found) -> Section | None:
    if not found.steps:
        return None
    spans = ["" if a.first is None else f", steps {a.first} to {a.last}" for a in found.alarms]
    points = [f"{a.text} ({a.times} times{span})" for a, span in zip(found.alarms, spans, strict=True)]
    quiet = f"None rang in {whole(found.steps)} logged steps. Silence is no evidence."
    return Section("alarms", "Alarms", "Reasons to stop and look." if points else quiet, points=points)


def _settings(found: Found) -> Section:
    """What was run, key by key; ``config`` repeats the others and is left out."""
    rows = []
    for key, value in found.settings.items():
        if key not in ("config", "schema", "argv"):
            for name, item in value.items() if isinstance(value, dict) and value else ((None, value),):
                text = item if isinstance(item, str) else json.dumps(item)
                rows.append([visible(key if name is None else f"{key}.{name}", 60), visible(text, 200)])
    head = [Column("setting", words=True), Column("value", words=True)]
    return Section("settings", "What was run", "", [], [Grid("settings", head, rows[:200], folded=True)])


_SECTIONS: tuple[Callable[[Found], Section | None], ...] = (
    _rewards, _evaluation, _learning, _retention, _dreamt, _nights, _curriculum, partial(_logged, "completions"),
    partial(_logged, "judge"), _diversity, _alarms, partial(_logged, "optimiser"), _settings,
)  # fmt: skip
