"""G@K, the headline of the Frontier Report: the gain at a stated budget of K samples of the base, in percentage points.

E(K) is the share of problems that the trained model solves reliably (at least 4 of 16 samples) and that the elicited
base does not solve in K; S(K) is the mirror image, what the base solves reliably and K samples of the trained model do
not; G(K) = E(K) - S(K).  A problem contributes 0 or 1 to each, so that the intervals are those of stratified shares
(``intervals.share_interval``) and of their difference; nothing is extrapolated.

What E(k) does beyond K is bounded, not estimated: every problem's chance of being missed falls geometrically, so E is
completely monotone, its logarithm is convex, and the last doubling's share of problems kept is a lower bound for every
later one (``beyond``).

Where K samples of every survivor cost too much, all reliable problems are given ``stage`` samples and some of the
survivors, picked at random, are followed to K; they stand for the others and add their own variance.

Source: our own protocol; its coverage is measured by ``baselines.studies.validate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import checks
from dream_envs.frontier import intervals as iv
from dream_envs.frontier.schema import Bound, Curve, Headline, Interval

#: Multiples of K at which E is bounded.
MULTIPLES = (8, 64)


@dataclass(frozen=True)
class Evidence:
    """What was sampled, one entry for each of N problems; arrays are checked and converted on construction."""

    reliable: np.ndarray  # ``float64[N]`` in [0, 1], whether the trained model is right in ``need`` of its samples
    # ``int64[N]``, the 1-based sample of the base's first success in turn over its methods; 0 = none within ``cap``, or
    # never sampled because ``reliable`` is 0
    first: np.ndarray
    cap: int  # K, samples after which a problem without a success was given up, the base's and the trained model's
    # ``bool[N]``, a method of a later envelope solved it: the base counts as solving it at every budget
    reached: np.ndarray
    base_reliable: np.ndarray  # ``float64[N]`` in [0, 1], whether the base is, in its best method
    # ``int64[N]``, the trained model's first success where ``base_reliable`` > 0; 0 = none within ``cap``
    trained_first: np.ndarray
    family: np.ndarray  # ``int64[N]``, the stratum of each problem
    # ``bool[N]``, of the problems that the base had not solved after ``stage`` samples those that were followed to
    # ``cap``; None: all.  Others have ``first`` 0 beyond it.
    followed: np.ndarray | None = None
    stage: int = 0  # base samples that every reliable problem was given

    def __post_init__(self) -> None:
        cap = checks.whole("cap", self.cap, 1)
        checked = {"family": checks.counts("family", self.family, -(2**53), ndim=1)}
        for name in ("reliable", "base_reliable"):
            checked[name] = checks.numbers(name, getattr(self, name), 0, 1, ndim=1)
        for name in ("first", "trained_first"):
            checked[name] = checks.counts(name, getattr(self, name), 0, cap, ndim=1)
        for name in ("reached", "followed"):
            if getattr(self, name) is not None:
                checked[name] = checks.counts(name, getattr(self, name), 0, 1, ndim=1).astype(bool)
        if self.followed is not None:
            checks.whole("stage", self.stage, 1, cap)
        n = len(checked["reliable"])
        for name, array in checked.items():
            if len(array) != n:
                raise DreamEnvsError(f"{name} has {len(array)} entries and reliable {n}: one for each problem")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.reliable)

    def of(self, chosen: np.ndarray) -> Evidence:
        """These problems alone; ``chosen``: ``bool[N]``."""
        arrays = {name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)


def subsample(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``bool[M]``: about ``count`` of M survivors at random, from each group in proportion and at least one of each.

    Few and large groups only: with many small ones the rounding and the minimum of one would make some problems
    likelier to be followed than others, and the pooled share would be biased.

    ``groups``: ``int[M]``, the survivors' group; all are chosen where there are no more than ``count``.
    """
    chosen = np.zeros(len(groups), bool)
    if count >= len(groups):
        return ~chosen
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        share = max(1, round(count * len(members) / len(groups)))
        chosen[rng.permutation(members)[:share]] = True
    return chosen


def gained(evidence: Evidence, k: int) -> np.ndarray:
    """``float64[N]``: each problem's part of E(k); a survivor that was not followed counts as the followed ones do."""
    missed = _missed(evidence, k)
    if evidence.followed is None or k <= evidence.stage:
        return missed
    open_ = _missed(evidence, evidence.stage, reached=False)
    weight = float((open_ * evidence.followed).sum())
    kept = float((missed * evidence.followed).sum()) / weight if weight else 1.0
    return np.where((open_ > 0) & ~evidence.followed, open_ * kept, missed)


def _missed(evidence: Evidence, k: int, reached: bool = True) -> np.ndarray:
    if not 1 <= k <= evidence.cap:
        raise DreamEnvsError(f"budget {k}: 1 to {evidence.cap}, the samples that the base was given")
    first = evidence.first
    return evidence.reliable * ((first == 0) | (first > k)) * ~(evidence.reached & reached)


def expansion(evidence: Evidence, k: int) -> Interval:
    """E(k), a share of problems, with its 95 % interval."""
    if evidence.followed is None or k <= evidence.stage or evidence.followed.all():
        return iv.share_interval(gained(evidence, k), evidence.family)
    open_ = _missed(evidence, evidence.stage, reached=False)
    chosen = evidence.followed & (open_ > 0)
    if not chosen.any():
        return iv.share_interval(open_, evidence.family)
    kept = iv.share_interval((_missed(evidence, k)[chosen] > 0).astype(float))
    return iv.product(iv.share_interval(open_, evidence.family), kept)


def lost(evidence: Evidence) -> np.ndarray:
    """``float64[N]``: each problem's part of S(K)."""
    return evidence.base_reliable * (evidence.trained_first == 0)


def gain(evidence: Evidence) -> tuple[Interval, Interval, Interval]:
    """G(K), E(K) and S(K) in percentage points, with 95 % intervals."""
    e, s = expansion(evidence, evidence.cap), iv.share_interval(lost(evidence), evidence.family)
    return points(iv.difference(e, s, _correlation(evidence))), points(e), points(s)


def points(value: Interval) -> Interval:
    """A share with its interval in percentage points."""
    return 100 * value[0], 100 * value[1], 100 * value[2]


def _correlation(evidence: Evidence) -> float:
    """Of the estimates of E and S: no problem is gained and lost, so that within a stratum they exclude each other."""
    a, b = gained(evidence, evidence.cap), lost(evidence)
    one, other, both = (iv.within_variance(x, evidence.family) for x in (a, b, a + b))
    return float(np.clip((both - one - other) / (2 * np.sqrt(one * other)), -1, 1)) if one > 0 and other > 0 else 0.0


def headline(evidence: Sequence[Evidence], rng: np.random.Generator, draws: int = 10_000) -> Headline:
    """G@K and what it is made of, of one or several training runs; ``family_interval`` resamples whole families.

    ``evidence``: one entry a run; the same problems in the same order, with the same families and budget.  One run is a
    claim about a checkpoint, several are one about the recipe, see ``over_runs``.
    """
    g, e, s = over_runs(evidence)
    one, families = evidence[0], None
    if len(np.unique(one.family)) > 1:
        each = np.mean([gained(x, x.cap) - lost(x) for x in evidence], axis=0)
        low, high = iv.percentile(100 * iv.family_means(each, one.family, rng, draws))
        families = (min(low, g[1]), max(high, g[2]))
    return Headline(k=one.cap, g=g, e=e, s=s, family_interval=families, n=len(one), runs=len(evidence))


def over_runs(evidence: Sequence[Evidence]) -> tuple[Interval, Interval, Interval]:
    """G(K), E(K) and S(K) in points, means over runs.

    Each problem's part is averaged over runs, and with two runs or more the intervals are the crossed ones (problem x
    run), which charge R - 1 degrees of freedom for the runs; they are never narrower than the runs' own on average.
    """
    if not evidence:
        raise DreamEnvsError("no runs: at least one Evidence is needed")
    one = evidence[0]
    for other in evidence[1:]:
        if not np.array_equal(one.family, other.family) or one.cap != other.cap:
            raise DreamEnvsError("the runs were measured on different problems: the same ones, in the same order")
    parts = [gain(e) for e in evidence]
    if len(evidence) == 1:
        return parts[0]
    e, s = np.stack([gained(x, x.cap) for x in evidence], 1), np.stack([lost(x) for x in evidence], 1)
    found = []
    for i, each in enumerate((e - s, e, s)):
        value, low, high = np.mean([part[i] for part in parts], axis=0).tolist()
        _, down, up = points(iv.crossed_interval(each, one.family))
        least, most = (0.0, 100.0) if i else (-np.inf, np.inf)  # shares have ends, their difference keeps its own
        found.append((value, max(min(low, down), least), min(max(high, up), most)))
    return found[0], found[1], found[2]


def beyond(evidence: Evidence, multiples: Sequence[int] = MULTIPLES) -> list[Bound]:
    """Bounds of E, in points, at multiples of K, at 95 % together with E(K)'s own uncertainty.

    At most E(K).  At least E(K) q^(2 (m - 1)), q being the share of what the base had missed after K / 2 samples and
    still misses after K: log E(k) is convex for any mixture of success rates, so that it never falls faster than
    there.  The lower end takes E(K) and q at one-sided 98.75 % each (Bonferroni), the upper E(K) at 97.5 %.
    """
    half = max(evidence.cap // 2, 1)
    kept = np.ones(len(evidence), bool) if evidence.followed is None else evidence.followed
    before, after = (_missed(evidence, k) * kept for k in (half, evidence.cap))
    value, low, high = expansion(evidence, evidence.cap)
    wider = max(value - 1.2 * (value - low), 0.0)  # 98.75 % for 97.5 %: 2.24 / 1.96 standard errors, rounded up
    misses, of = int((after > 0).sum()), int((before > 0).sum())
    ratio = float(iv.lower_bound(misses, of, 0.9875)) if of else 0.0
    power = evidence.cap / (evidence.cap - half)
    return [Bound(k=m * evidence.cap, low=100 * wider * ratio ** (power * (m - 1)), high=100 * high) for m in multiples]


def expansion_curve(evidence: Evidence, ks: Sequence[int]) -> Curve:
    """E(k) in points with 95 % intervals; no ``k`` is above ``evidence.cap``."""
    mean, low, high = zip(*[points(expansion(evidence, k)) for k in ks], strict=True)
    return Curve(k=list(ks), mean=list(mean), low=list(low), high=list(high))
