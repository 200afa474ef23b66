"""From what was drawn to the ``Report``: headline, verdict and the sections around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from dream_envs.frontier import estimators, exact, gain, intervals
from dream_envs.frontier import schema as sc
from dream_envs.frontier import verdict as rules
from dream_envs.frontier.protocol import ATOM_DRAWS, TRAINING_DRAWS, Measured, Plan, evidence
from dream_envs.frontier.suite import PRACTISED
from dream_envs.seeds import stream

TAUS = (0.1, 0.25, 0.5, 0.9)
#: Samples that pass@k, and the coverage by tokens, are shown at; no more than were drawn.
KS = (1, 2, 4, 8, 16)
#: Resamples of the sections' intervals; the headline has its own number.
SECTION_DRAWS = 2000


class Exact(msgspec.Struct):
    """Exact log-probabilities of the accepted completion."""

    base: dict[str, np.ndarray]  # ``float64[N]`` by decoder
    trained: dict[str, np.ndarray]
    methods: np.ndarray  # ``float64[A, N]``, of a draw of each of the base's methods
    configured: np.ndarray  # ``float64[N]``, of a draw of the trained model in its configuration


class Sources(msgspec.Struct):
    """Where a report's numbers come from."""

    base: sc.ModelInfo
    trained: sc.ModelInfo
    methods: Sequence[sc.MethodInfo]  # all, in the order of their envelopes
    exact: Exact | None = None
    drawn: int = 0  # samples made by this process, the rest came from the cache
    qualified: Sequence[str] = ()  # what limits the word
    practised: Sequence[bool] | None = None  # by stratum, whether the run met its kind; None: there is no record
    contradicted: str = ""  # how samples contradict exact probabilities


def report(plan: Plan, found: Measured, sources: Sources, **measured: Any) -> sc.Report:
    """The report; ``measured`` are further fields of ``Report`` (retention, diversity, curriculum ...).

    ``Cost.seconds`` is left at 0.
    """
    return _Sections(plan, found, sources).report(measured)


def recipe(
    plan: Plan, found: Sequence[Measured], sources: Sequence[Sources], reports: Sequence[sc.Report],
    kept: sc.Retention | None,
) -> sc.Report:  # fmt: skip
    """One report of several runs of a recipe on the same problems, see ``Report.runs``; the verdict speaks of all.

    ``reports``: of each run by itself.  ``kept``: retention of the runs' mean.
    """
    both = [s.practised for s in sources]
    known = [b for b in both if b is not None]
    union = [any(each) for each in zip(*known, strict=True)] if len(known) == len(both) else None
    each = [_Sections(plan, f, replace(s, practised=union)) for f, s in zip(found, sources, strict=True)]
    first, one, at = each[0], reports[0], each[0].chosen
    envelopes = {e: [evidence(plan, f, e)[0] for f in found] for e in found[0].envelopes}
    head = gain.headline(envelopes["decoding"], stream("frontier-headline", plan.seed))
    claims = rules.claims(envelopes, [first.kind(int(first.strata[i])) for i in at])
    changes = np.stack([(s.after - s.before)[at] / s.n for s in each], 1)
    rise = intervals.crossed_interval(changes, first.strata[at])
    reached = Counter(m for f in found for m in f.reached if m)
    qualified = list(dict.fromkeys(line for s in sources for line in s.qualified))
    verdict = rules.verdict(head, claims, rise, kept, reached, qualified, None, thin=max(s.thin() for s in each))
    if alarms := [r.verdict for r in reports if r.verdict.word == "Alarm"]:
        verdict = replace(alarms[0], claims=claims, qualified=qualified)
    summed = ("trained_draws", "tokens", "drawn_now", "seconds")
    trained = float(np.mean([r.pass1.trained[0] for r in reports]))
    return replace(
        one, headline=head, verdict=verdict, retention=kept,
        pass1=sc.PassAt1(base=one.pass1.base, trained=(trained, None, None), gain=rise),
        decay=_mean([r.decay for r in reports], ("mean", "low", "high")),
        bounds=[_mean(some, ("low", "high")) for some in zip(*(r.bounds for r in reports), strict=True)],
        cost=replace(one.cost, **{name: sum(getattr(r.cost, name) for r in reports) for name in summed}),
        runs=[sc.RunRow(r.trained, r.headline.g, r.verdict.phrase, f"run-{i}") for i, r in enumerate(reports)],
    )  # fmt: skip


def _mean(blocks: Sequence[Any], names: Sequence[str]) -> Any:
    """The first of these blocks, with the means of all in these fields."""
    return replace(blocks[0], **{n: np.mean([getattr(b, n) for b in blocks], axis=0).tolist() for n in names})


def exact_gain(plan: Plan, methods: np.ndarray, configured: np.ndarray, budget: int) -> np.ndarray:
    """``float64[N]``: the expectation of R_i m_i(budget) against decoding; arguments as in ``Exact``."""
    from scipy.stats import binom

    reliable = binom.sf(plan.need - 1, plan.trained_draws, np.minimum(np.exp(configured), 1.0))
    return np.asarray(reliable * np.exp(exact.log_miss(methods, budget)))


class _Sections:
    """One method a section, over the same draws."""

    def __init__(self, plan: Plan, found: Measured, sources: Sources) -> None:
        self.plan, self.found, self.sources, self.n = plan, found, sources, plan.trained_draws
        self.reach_at = min(plan.reach, plan.budget)  # samples of the panel
        self.strata = np.array([p.stratum for p in found.problems])
        self.evidence, self.chosen = evidence(plan, found)
        self.after = np.array([sum(c.right) for c in found.trained])
        self.before = np.array([sum(c.right) for c in found.base])
        self.right = {"base": self.before, "trained": self.after}
        # Where the base was not drawn to the end there is nothing to certify.
        drawn = zip(found.first, found.followed, strict=True)
        misses = [(s.first - 1 if s.first else s.made) if kept else 0 for s, kept in drawn]
        self.certified = intervals.certified(0, np.array(misses)[self.chosen], self.after[self.chosen], self.n)

    def report(self, measured: dict[str, Any]) -> sc.Report:
        plan, n = self.plan, self.n
        head = gain.headline([self.evidence], stream("frontier-headline", plan.seed))
        first_draw = np.stack([self.before / n, self.after / n, (self.after - self.before) / n], 1)
        base, trained, change = self.means(first_draw, "pass1", self.chosen)
        found, kept = self.found, measured.get("retention")
        by_envelope = {e: [evidence(plan, found, e)[0]] for e in found.envelopes}
        claims = rules.claims(by_envelope, [self.kind(int(self.strata[i])) for i in self.chosen])
        reached = Counter(m for m in found.reached if m)
        told = (head, claims, change, kept, reached, self.sources.qualified)
        return sc.Report(
            base=self.sources.base, trained=self.sources.trained, suite=self.suite(), protocol=self.protocol(),
            headline=head, verdict=rules.verdict(*told, self.expected(), self.sources.contradicted, self.thin()),
            certified=self.certified_list(), pass1=sc.PassAt1(base, trained, change), pass_at_k=self.pass_at_k(),
            decay=gain.expansion_curve(self.evidence, _powers(plan.budget)), bounds=gain.beyond(self.evidence),
            problems=self.problems(), support=self.support(),
            cover=sc.Cover(tau=list(TAUS), base=self.cover("base"), trained=self.cover("trained")),
            compute=sc.Both(base=self.spending("base"), trained=self.spending("trained")),
            cost=self.cost(), exact=self.exact(), **measured,
        )  # fmt: skip

    def thin(self) -> float:
        """See ``verdict``; over the eligible problems."""
        base = self.before[self.chosen] + self.hit("base", self.reach_at)
        new = (self.after[self.chosen] > 0) & (base == 0)
        return 100 * intervals.share_interval(new.astype(float), self.strata[self.chosen])[2]

    def expected(self) -> tuple[float, float] | None:
        """E(K) in points of these problems from exact probabilities, and the standard deviation of its estimate."""
        if (known := self.sources.exact) is None:
            return None
        at, plan = self.chosen, self.plan
        each = exact_gain(plan, known.methods[:, at], known.configured[at], plan.budget)
        return 100 * float(each.mean()), 100 * float(np.sqrt((each * (1 - each)).sum())) / len(each)

    def kind(self, stratum: int) -> str:
        """What a gain on this stratum would show."""
        practised = self.sources.practised
        return PRACTISED if practised is not None and practised[stratum] else self.plan.suite.strata[stratum].kind

    def means(self, values: np.ndarray, label: str, chosen: np.ndarray | None = None) -> list[sc.Estimate]:
        """Mean of each column, over all problems ``chosen`` from or (None) the eligible ones, with its interval."""
        rows = values if chosen is None else values[chosen]
        strata = self.strata[self.chosen if chosen is None else chosen]
        rng = stream("frontier-panel", self.plan.seed, label)
        samples = intervals.bootstrap_means(rows, rng, strata, SECTION_DRAWS)
        return [(float(m), *intervals.percentile(samples[:, i])) for i, m in enumerate(rows.mean(0))]

    def suite(self) -> sc.SuiteInfo:
        plan, suite, strata = self.plan, self.plan.suite, self.strata.tolist()
        allowed = suite.eligible(self.found.problems, plan.budget)
        chances = suite.chances(self.found.problems)
        practised: Sequence[bool | None] = self.sources.practised or [None] * len(suite.strata)
        families = [
            sc.Family(
                s.name, s.kind, strata.count(i), s.level, chances[i], allowed[i], practised[i], self.reach("base", i),
                self.reach("trained", i),
            )
            for i, s in enumerate(suite.strata)
        ]  # fmt: skip
        return sc.SuiteInfo(name=suite.name, seed=plan.seed, n=int(self.found.eligible.sum()), families=families)

    def protocol(self) -> sc.Protocol:
        plan, found = self.plan, self.found
        return sc.Protocol(
            plan.trained_draws, plan.need, plan.budget, TRAINING_DRAWS, plan.stage, plan.follow, found.envelopes,
            [replace(m, idle=m.name in found.idle) for m in self.sources.methods], found.configurations,
            found.unavailable,
        )  # fmt: skip

    def certified_list(self) -> list[sc.CertifiedProblem]:
        rows = []
        for i in np.argsort(self.certified.p_value, kind="stable"):
            if not self.certified.chosen[i]:
                continue
            at = int(self.chosen[i])
            task, run, family = self.found.problems[at].task, self.found.first[at], self.strata[at]
            name, p = self.plan.suite.strata[family].name, float(self.certified.p_value[i])
            base, trained = (int(bool(run.first)), run.first or run.made), (int(self.after[at]), self.n)
            rows.append(sc.CertifiedProblem(task.id, name, task.prompt, p, base, trained))
        return rows

    def pass_at_k(self) -> sc.PassAtK:
        """From the early-stopped sequences: whether the first success came within k is an unbiased pass@k."""
        ks, curves = _powers(self.reach_at), {}
        for who in ("trained", "base"):
            columns = np.stack([self.hit(who, k) for k in ks], 1)
            mean, low, high = zip(*self.means(columns, f"pass@k/{who}"), strict=True)
            curves[who] = sc.Curve(k=ks, mean=list(mean), low=list(low), high=list(high))
        known, methods = self.sources.exact, None
        if known is not None:
            methods = {
                name: sc.Curve(k=ks, mean=[float(exact.pass_at_k(p, k).mean()) for k in ks])
                for name, p in zip(self.found.turns, known.methods[:, self.chosen], strict=True)
            }
        last = {who: self.hit(who, ks[-1]) for who in curves}
        strata = self.strata[self.chosen]
        zero = [i for i in np.unique(strata) if not last["base"][strata == i].any()]
        greedy = {who: self.greedy(who, hits) for who, hits in last.items()}
        opened = sum(bool(last["trained"][strata == i].any()) for i in zero)
        return sc.PassAtK(curves["base"], curves["trained"], methods, greedy, len(zero), opened, len(np.unique(strata)))

    def hit(self, who: str, k: int) -> np.ndarray:
        """``float64[M]``: whether each eligible problem's first success in turn came within k samples."""
        first = np.array([self.found.panel[who].sequences[i].first for i in self.chosen])
        return ((first > 0) & (first <= k)).astype(float)

    def greedy(self, who: str, reached: np.ndarray) -> float | None:
        """Coverage-adjusted: of what it reaches, the share that one greedy reply solves."""
        found = self.found.panel[who].greedy
        return None if found is None or not reached.any() else float(found[self.chosen][reached > 0].mean())

    def reach(self, who: str, stratum: int) -> sc.Reach:
        """What it reaches of a stratum."""
        panel, at = self.found.panel[who], np.flatnonzero(self.strata == stratum)
        drawn = [panel.sequences[i] for i in at if panel.sequences[i].made]
        shares = [None if x is None else float(x[at].mean()) for x in (panel.greedy, panel.atoms)]
        any_ = float(np.mean([bool(s.first) for s in drawn])) if drawn else None
        return sc.Reach(any=any_, greedy=shares[0], atoms=shares[1])

    def problems(self) -> list[sc.ProblemRow]:
        found, n = self.found, self.n
        certified = np.zeros(len(found.problems), bool)
        certified[self.chosen] = self.certified.chosen
        low, high = intervals.clopper_pearson(self.after, n)
        # Where the base was stopped or not drawn at all, the fixed draws of its best method bound its rate.
        misses = np.array([s.made if not s.first and s.made else 0 for s in found.first])
        upper = intervals.upper_bound(np.where(misses > 0, 0, self.before), np.where(misses > 0, misses, n))
        rows = []
        for i, p in enumerate(found.problems):
            stratum, first, loss = self.plan.suite.strata[p.stratum], found.first[i], found.losses[i]
            row = sc.ProblemRow(
                id=p.task.id, family=stratum.name, prompt=p.task.prompt, level=p.task.level,
                eligible=bool(found.eligible[i]), trained=(int(self.after[i]), n),
                trained_interval=(float(low[i]), float(high[i])), base=(int(self.before[i]), n),
                base_first=first.first or None, base_draws=first.made, base_upper=float(upper[i]),
                reached=found.reached[i] or None, loss_first=loss.first or None, loss_draws=loss.made,
                certified=bool(certified[i]), chance=stratum.family.chance(p.task), exact=self.exact_problem(i),
            )  # fmt: skip
            rows.append(row)
        return rows

    def exact_problem(self, i: int) -> sc.ExactProblem | None:
        if (known := self.sources.exact) is None:
            return None
        return sc.ExactProblem(
            base_best_log10=float(exact.best_decoder(known.base)[i] / np.log(10)),
            base_t1_log10=float(known.base["T=1"][i] / np.log(10)),
            trained=float(np.exp(known.trained["T=1"][i])),
        )

    def support(self) -> list[sc.Support]:
        rows, most = [], self.reach_at
        for k in sorted({k for k in (16, 128) if k < most} | {most}):
            b, t = self.hit("base", k), self.hit("trained", k)
            rng = stream("frontier-panel", self.plan.seed, "support", k)
            shares: Any = estimators.support(b, t, rng, self.strata[self.chosen], SECTION_DRAWS)
            rows.append(sc.Support(k=k, **shares))
        return rows

    def cover(self, who: str) -> list[sc.Estimate]:
        rng = stream("frontier-panel", self.plan.seed, "cover", who)
        return estimators.cover(self.n, self.right[who][self.chosen], TAUS, rng, self.strata[self.chosen])

    def spending(self, who: str) -> sc.Spending:
        counts, ks = self.found.base if who == "base" else self.found.trained, [k for k in KS if k <= self.n]
        each = np.mean([counts[i].tokens for i in self.chosen]) / self.n
        coverage = [float(estimators.pass_at_k(self.n, self.right[who][self.chosen], k).mean()) for k in ks]
        return sc.Spending(tokens=[float(k * each) for k in ks], coverage=coverage)

    def exact(self) -> sc.Exact | None:
        if (known := self.sources.exact) is None:
            return None
        plan, chosen, found = self.plan, self.chosen, self.found
        means = [{d: float(np.exp(p[chosen]).mean()) for d, p in side.items()} for side in (known.base, known.trained)]
        decoders = {d: sc.Both(base=means[0][d], trained=means[1][d]) for d in exact.DECODERS}
        methods, configured = known.methods[:, chosen], known.configured[chosen]
        ks = [plan.budget // 8, plan.budget, *(m * plan.budget for m in gain.MULTIPLES)]
        e = {str(k): 100 * float(exact_gain(plan, methods, configured, k).mean()) for k in ks}
        total = sum(s.made for s in found.first) + sum(found.draws.values())
        tier = exact.tiers({d: v[chosen] for d, v in known.base.items()}, total)
        solved = np.exp(known.trained["T=1"][chosen]) > 0.5
        masks = {name: tier == i for i, name in enumerate(exact.TIERS)}
        tiers = [sc.Tier(name, int(of.sum()), int((solved & of).sum())) for name, of in masks.items()]
        return sc.Exact(e=e[str(plan.budget)], by_budget=e, decoders=decoders, tiers=tiers)

    def panel_draws(self) -> int:
        found, total = self.found, 0  # samples that nothing but the panel needed
        for who, own in (("base", found.first), ("trained", found.losses)):
            panel = found.panel[who]
            total += sum(s.made for s, other in zip(panel.sequences, own, strict=True) if not other.made)
            several = (panel.atoms is not None) + (panel.plain is not None)
            total += len(self.strata) * ((panel.greedy is not None) + ATOM_DRAWS * several)
        return total

    def cost(self) -> sc.Cost:
        found = self.found
        base, fixed = sum(s.made for s in found.first), self.n * len(found.problems)
        kept: list[Any] = [*found.first, *found.losses, *found.base, *found.trained]
        return sc.Cost(
            base_draws=base + fixed, round_robin_draws=base, trained_draws=fixed + sum(s.made for s in found.losses),
            envelope_draws=found.draws, envelope_seconds=found.seconds, panel_draws=self.panel_draws(),
            full_draws=self.plan.budget * len(self.chosen), tokens=sum(x.tokens for x in kept),
            drawn_now=self.sources.drawn, seconds=0.0,
        )  # fmt: skip


def _powers(most: int) -> list[int]:
    """Powers of 2 up to ``most``, and that."""
    ks = [2**i for i in range(int(np.log2(most)) + 1)]
    return ks if ks[-1] == most else [*ks, most]
