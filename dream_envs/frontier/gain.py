"""The headline of the Frontier Report: FG*, the tail-corrected Frontier Gain, in percentage points of all problems.

FG* is the share of problems that the trained model solves reliably (at least 4 of 16 draws) and the elicited base never
solves however often it is drawn, less the mirror-image share lost.  "However often" is an extrapolation: problems that
the base merely finds hard drop out of E(k) by a roughly constant factor with each doubling of its draws, so a geometric
tail is taken off (Aitken, with the ratio pooled over two doublings).  A model that was only sharpened has E(k) > 0 at
any affordable k, and FG* around or below 0.

Early stopping saves nothing where the base never succeeds, which is where a large gain lies.  So every problem that the
trained model solves reliably is given ``stage`` base draws; of those without a success a number fixed in advance is
followed to the cap, picked by random subsampling.  The share of the followed ones that the base still misses at k then
estimates the share of all survivors, as in a survival curve with random censoring.

Source: our own protocol; its operating characteristics are those of ``frontier.simulate``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import checks
from dream_envs.frontier import intervals as iv
from dream_envs.frontier.schema import Curve, Headline, Part

BUDGETS = (1024, 2048, 4096, 8192)
#: The largest ratio of a geometric tail: above it the extrapolation would be noise.
MAX_RATIO = 0.9
#: *Expansion* needs a lower bound above this many points and so many certified problems.
MARGIN, CERTIFIED = 0.5, 10


@dataclass(frozen=True)
class Evidence:
    """What was drawn, one entry for each of N problems; arrays are checked and converted on construction.

    Raises:
        DreamEnvsError: for arrays of different lengths, NaN, values outside their range, or N = 0.
    """

    # ``float64[N]`` in [0, 1], the estimate of R_i^T = P(trained model is right in at least ``need`` of ``n`` draws);
    # with n = 16 draws simply 1[c >= 4]
    reliable: np.ndarray
    # ``int64[N]``, the 1-based draw of the base's first success in turn over its methods; 0 = none within ``cap``, or
    # never drawn because ``reliable`` is 0
    first: np.ndarray
    cap: int  # base draws after which a problem without a success was given up
    # ``bool[N]``, a second-stage method solved it: the base counts as solving it at every budget
    second_stage: np.ndarray
    base_reliable: np.ndarray  # ``float64[N]`` in [0, 1], the estimate of R_i^B in the base's best method
    # ``int64[N]``, the trained model's first success where ``base_reliable`` > 0; 0 = none within ``loss_cap``
    trained_first: np.ndarray
    loss_cap: int  # trained draws after which a problem counts as lost
    family: np.ndarray  # ``int64[N]``, the stratum of each problem
    held_out: np.ndarray  # ``bool[N]``, whether its family was withheld from training
    # ``bool[N]``, of the problems that the base had not solved after ``stage`` draws those that were drawn on up to
    # ``cap``; None: all.  Others have ``first`` 0 beyond it.
    followed: np.ndarray | None = None
    stage: int = 0  # base draws that every reliable problem was given

    def __post_init__(self) -> None:
        cap, loss_cap = checks.whole("cap", self.cap, 1), checks.whole("loss_cap", self.loss_cap, 1)
        checked = {
            "reliable": checks.numbers("reliable", self.reliable, 0, 1, ndim=1),
            "first": checks.counts("first", self.first, 0, cap, ndim=1),
            "base_reliable": checks.numbers("base_reliable", self.base_reliable, 0, 1, ndim=1),
            "trained_first": checks.counts("trained_first", self.trained_first, 0, loss_cap, ndim=1),
            "family": checks.counts("family", self.family, -(2**53), ndim=1),
        }
        for name in ("second_stage", "held_out", "followed"):
            if getattr(self, name) is not None:
                checked[name] = checks.counts(name, getattr(self, name), 0, 1, ndim=1).astype(bool)
        if self.followed is not None:
            checks.whole("stage", self.stage, 1)
        n = len(checked["reliable"])
        for name, array in checked.items():
            if len(array) != n:
                raise DreamEnvsError(f"{name} has {len(array)} entries and reliable {n}: one for each problem")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.reliable)


def subsample(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``bool[M]``: about ``count`` of M survivors at random, from each group in proportion and at least one of each.

    Few and large groups only (held-out families and the others): with many small ones the rounding and the minimum of
    one would make some problems likelier to be followed than others, and the pooled share would be biased.

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


def contributions(evidence: Evidence, budgets: Sequence[int] = BUDGETS) -> np.ndarray:
    """Each problem's share in E(k) for every budget, and in S.

    Returns:
        ``float64[N, len(budgets) + 1]``: R_i^T 1[J_i > k] for each k (0 where solved in the second stage), then
        R_i^B 1[J_i^T > loss_cap].  Its mean over problems is the unbiased (E(k), ..., S).  Where only some were
        followed the gains are those of the followed ones, and two columns more scale them (``scaled``): R_i 1[J_i >
        stage], and the same of the followed ones.

    Raises:
        DreamEnvsError: for a budget above the cap, where nothing is known, or below the stage of a subsample.
    """
    k = checks.counts("budgets", budgets, 1, ndim=1)
    if k.max() > evidence.cap:
        raise DreamEnvsError(f"budget {k.max()}: at most cap={evidence.cap}, the draws the base was given")
    first, solid = evidence.first, evidence.reliable
    missed = (first[:, None] == 0) | (first[:, None] > k)
    gains = solid[:, None] * (missed & ~evidence.second_stage[:, None])
    losses = evidence.base_reliable * (evidence.trained_first == 0)
    if evidence.followed is None:
        return np.column_stack([gains, losses])
    if k.min() < evidence.stage:
        raise DreamEnvsError(f"budget {k.min()}: at least stage={evidence.stage}, beyond which only some were drawn")
    left = solid * ((first == 0) | (first > evidence.stage))
    return np.column_stack([gains * evidence.followed[:, None], losses, left, left * evidence.followed])


def scaled(means: np.ndarray) -> np.ndarray:
    """``float64[..., 5]``: (E(k), ..., S) from means of ``contributions``, subsampled or not."""
    if means.shape[-1] == 5:
        return means
    left, followed = means[..., 5], means[..., 6]
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = np.where(followed[..., None] > 0, means[..., :4] * (left / followed)[..., None], left[..., None])
    return np.concatenate([gains, means[..., 4:5]], axis=-1)


def tail_corrected(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E* and the pooled ratio: what is left of E after infinitely many base draws, if the tail is geometric.

    With the drops D0, D1, D2 between the four budgets, r = clip((D1 + D2) / (D0 + D1), 0, 0.9) and
    E* = E(last) - D2 r / (1 - r).  Not floored at 0: a floor would bias the mean upwards.

    ``e``: ``float64[..., 4]``, E at four budgets, each twice the one before; returns (E*, r), ``float64[...]`` each.
    """
    pooled = e[..., 0] - e[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(pooled > 0, (e[..., 1] - e[..., 3]) / pooled, 0.0)
    ratio = np.clip(ratio, 0.0, MAX_RATIO)
    return e[..., 3] - (e[..., 2] - e[..., 3]) * ratio / (1 - ratio), ratio


def points(means: np.ndarray) -> np.ndarray:
    """FG* in points from ``float64[..., 5 or 7]`` means of ``contributions``: four budgets, then S."""
    means = scaled(means)
    return 100 * (tail_corrected(means[..., :4])[0] - means[..., 4])


def headline(
    evidence: Evidence, rng: np.random.Generator, budgets: Sequence[int] = BUDGETS, draws: int = 10_000
) -> Headline:
    """FG* with its 95 % intervals; ``runs`` is None.

    The interval resamples problems within families (families of a single problem are pooled into one stratum), each
    problem with its whole vector, so that the tail is fitted anew in every resample.  A component without an event
    (no gain at the largest budget, no loss) would be 0 in every resample; its uncertainty is then that of 0 events in
    N, added by the square-and-add rule for a difference (Newcombe 1998; Zou and Donner 2008), so that [0, 0] is never
    told: 0 of 2,000 problems is [-0.15, +0.15] points.

    ``budgets``: four numbers of base draws, each twice the one before, none above ``evidence.cap``.
    """
    budgets = _doublings(budgets)
    return _summarised(contributions(evidence, budgets), evidence, rng, budgets, draws)


def across_runs(
    evidence: Sequence[Evidence], rng: np.random.Generator, budgets: Sequence[int] = BUDGETS, draws: int = 10_000
) -> Headline:
    """The headline of a recipe: several training runs, measured on the same problems.

    One run is a claim about a checkpoint.  Five or more are a claim about the recipe (three is the least for an
    interval).  The vector of each problem is averaged over runs and FG* made of the averages, with one tail for all;
    intervals as in ``headline``.  With three runs or more, ``runs`` holds the crossed problem x run interval: FG* is
    linearised (it is homogeneous of degree one in E and S, so that the problems' influences average to FG* itself) and
    handed to ``intervals.crossed_interval``, which charges R - 1 degrees of freedom for the runs.

    ``evidence``: one entry a run; the same problems in the same order, with the same families.
    """
    if not evidence:
        raise DreamEnvsError("no runs: at least one Evidence is needed")
    one = evidence[0]
    for other in evidence[1:]:
        if not (np.array_equal(one.family, other.family) and np.array_equal(one.held_out, other.held_out)):
            raise DreamEnvsError("the runs were measured on different problems: the same ones, in the same order")
    budgets = _doublings(budgets)
    tables = np.stack([contributions(e, budgets) for e in evidence], axis=1)  # [N, R, 5]
    found = _summarised(tables.mean(1), one, rng, budgets, draws)
    if len(evidence) < 3:
        return found
    influence = 100 * (tables[..., :4] @ _tail_gradient(tables.mean((0, 1))[:4]) - tables[..., 4])
    _, low, high = iv.crossed_interval(influence, pooled_strata(one.family))
    low, high = _opened(tables.mean(1), found.fg, low, high)
    return msgspec.structs.replace(found, runs=Part(fg=found.fg, low=low, high=high, n=len(evidence)))


def _tail_gradient(e: np.ndarray) -> np.ndarray:
    """dE*/dE(k), ``float64[4]``; at the ends of the clip, of the clipped formula."""
    ratio = float(tail_corrected(e)[1])
    factor = ratio / (1 - ratio)
    out = np.array([0.0, 0.0, -factor, 1 + factor])
    if 0 < ratio < MAX_RATIO:  # factor = b / c moves too, b = e1 - e3, c = e0 - e1 - e2 + e3
        drop, c = e[2] - e[3], e[0] - e[1] - e[2] + e[3]
        out -= drop * (np.array([0.0, 1.0, 0.0, -1.0]) - factor * np.array([1.0, -1.0, -1.0, 1.0])) / c
    return out


def _summarised(
    table: np.ndarray, problems: Evidence, rng: np.random.Generator, budgets: Sequence[int], draws: int
) -> Headline:
    """The headline of ``float64[N, 5 or 7]`` contributions."""
    family, held = problems.family, problems.held_out
    part, means = _part(table, family, rng, draws), scaled(table.mean(0))
    e_star, ratio = tail_corrected(means[:4])
    families = None
    if len(np.unique(family)) > 1:
        families = widened(table, points(iv.family_means(table, family, rng, draws)))
    return Headline(
        fg=part.fg,
        low=part.low,
        high=part.high,
        e=100 * float(means[3]),
        e_star=100 * float(e_star),
        s=100 * float(means[4]),
        persistence=float(means[3] / means[2]) if means[2] > 0 else None,
        by_budget={str(k): 100 * float(e) for k, e in zip(budgets, means[:4], strict=True)},
        family_interval=families,
        held_out=_part(table[held], family[held], rng, draws) if held.any() else None,
        runs=None,
        n=len(table),
        ratio=float(ratio),
    )


def _doublings(budgets: Sequence[int]) -> tuple[int, ...]:
    k = checks.counts("budgets", budgets, 1, ndim=1)
    if len(k) != 4 or (k[1:] != 2 * k[:-1]).any():
        raise DreamEnvsError(f"budgets={tuple(budgets)}: four, each twice the one before, as {BUDGETS}")
    return tuple(k.tolist())


def _part(table: np.ndarray, family: np.ndarray, rng: np.random.Generator, draws: int) -> Part:
    low, high = widened(table, points(iv.bootstrap_means(table, rng, pooled_strata(family), draws)))
    return Part(fg=float(points(table.mean(0))), low=low, high=high, n=len(table))


def pooled_strata(family: np.ndarray) -> np.ndarray:
    """``int64[N]`` strata: the families, with those of one problem pooled (alone they would have no spread)."""
    group = np.unique(family, return_inverse=True)[1].reshape(len(family))
    return np.where(np.bincount(group)[group] == 1, -1, group)


def widened(table: np.ndarray, resampled: np.ndarray) -> tuple[float, float]:
    """Percentile interval, opened where E(last) or S is the same for all problems and so has no spread to resample.

    ``table``: ``float64[N, 5 or 7]`` contributions; ``resampled``: ``float64[draws]``, FG* of each resample, in points.
    """
    return _opened(table, float(points(table.mean(0))), *iv.percentile(resampled))


def _opened(table: np.ndarray, point: float, low: float, high: float) -> tuple[float, float]:
    """(low, high) around ``point`` with the uncertainty of a constant column of ``table`` squared and added."""
    down, up = max(point - low, 0.0), max(high - point, 0.0)
    unseen = 100 * iv.rule_of_three(len(table))
    for column, sign in ((3, 1), (4, -1)):
        if np.ptp(table[:, column]) == 0:
            value = table[0, column]
            more, less = unseen * (value < 1), unseen * (value > 0)
            up = math.hypot(up, more if sign > 0 else less)
            down = math.hypot(down, less if sign > 0 else more)
    down = math.hypot(down, _unseen(table))
    return min(low, point - down), max(high, point + up)


def _unseen(table: np.ndarray) -> float:
    """Points that E may be too high by where none of the followed survivors was solved: the rule of three on them."""
    if table.shape[1] == 5 or (count := int((table[:, 6] > 0).sum())) == 0:
        return 0.0
    if table[:, 6].sum() > table[:, 3].sum() or count == int((table[:, 5] > 0).sum()):
        return 0.0
    return float(100 * table[:, 5].mean() * iv.rule_of_three(count))


def expansion_curve(evidence: Evidence, ks: Sequence[int], rng: np.random.Generator, draws: int = 2000) -> Curve:
    """E(k) in points, uncorrected for the tail, with 95 % intervals that resample problems within families.

    Where no gain is seen at k the upper end is that of 0 events in N, and where none of the followed problems was
    solved the lower end allows for 0 events among those.  No ``k`` is above ``evidence.cap``.
    """
    kept = np.ones(len(evidence), bool) if evidence.followed is None else evidence.followed
    stage = evidence.stage if evidence.followed is not None else 0
    first, columns = evidence.first, []
    for k in [*ks, stage]:
        missed = evidence.reliable * ((first == 0) | (first > k)) * ~(evidence.second_stage & (k != stage))
        columns.append(missed * (kept if k > stage else 1))
    table = np.stack([*columns, columns[-1] * kept], 1)
    samples = iv.bootstrap_means(table, rng, pooled_strata(evidence.family), draws)
    at, means = np.array(ks), table.mean(0)
    point, resampled = (_beyond(at, stage, m) for m in (means[None], samples))
    e = point[0]
    low, high = np.quantile(resampled, iv.TAILS, axis=0)
    high = np.where(e == 0, np.maximum(high, 100 * iv.rule_of_three(len(evidence))), high)
    if stage and (count := int((table[:, -1] > 0).sum())):
        slack = 100 * means[-2] * iv.rule_of_three(count)
        none = (at > stage) & (table[:, :-2].sum(0) == table[:, -1].sum())
        low = np.where(none, [e_ - math.hypot(max(e_ - l_, 0), slack) for e_, l_ in zip(e, low, strict=True)], low)
    return Curve(k=at.tolist(), mean=e.tolist(), low=np.maximum(low, 0).tolist(), high=high.tolist())


def _beyond(ks: np.ndarray, stage: int, means: np.ndarray) -> np.ndarray:
    """``float64[R, K]`` points: beyond the stage the share of the followed that is left stands for all survivors."""
    left, followed = means[:, -2:-1], means[:, -1:]
    share = np.divide(left, followed, out=np.ones_like(left), where=followed > 0)
    return np.asarray(100 * means[:, :-2] * np.where(ks > stage, share, 1.0))


def verdict(headline: Headline, certified: int, pass1_gain_low: float) -> str:
    """The word for a headline, by fixed rules.

    - ``Expansion``: lower bound > 0.5 points, at least 10 certified problems, and held-out lower bound > 0.
    - ``Contraction``: upper bound < 0, and S above the uncorrected E.  The second half guards a pure sharpener: the
      tail correction alone puts the upper bound below 0 in a tenth of simulated ones, which lost nothing.
    - ``Sharpening``: pass@1 rose significantly, and 0.5 points or less are inside the interval.
    - ``Inconclusive``: anything else, e.g. a gain that was not measured on held-out families.
    """
    held_low = -math.inf if headline.held_out is None else headline.held_out.low
    if headline.low > MARGIN and certified >= CERTIFIED and held_low > 0:
        return "Expansion"
    if headline.high < 0 and headline.s > headline.e:
        return "Contraction"
    if pass1_gain_low > 0 and headline.low <= MARGIN:
        return "Sharpening"
    return "Inconclusive"
