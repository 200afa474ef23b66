"""The headline of the Frontier Report: FG*, the tail-corrected Frontier Gain, in points of problems.

FG* is the share of problems that the trained model solves reliably (at least 4 of 16 draws) and the elicited base never
solves however often it is asked, less the mirror-image share lost.  "However often" is an extrapolation: problems that
the base merely finds hard drop out of E(k) by a roughly constant factor with each doubling of its draws, so a geometric
tail is taken off (Aitken, with the ratio pooled over two doublings).  A model that was only sharpened has E(k) > 0 at
any affordable k, and FG* around or below 0.

Source: our own protocol; its operating characteristics are those of ``frontier.simulate``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import _checks, lottery
from dream_envs.frontier import intervals as iv

BUDGETS = (1024, 2048, 4096, 8192)
#: The largest ratio of a geometric tail: above it the extrapolation would be noise.
MAX_RATIO = 0.9
#: *Expansion* needs a lower bound above this many points and so many certified problems.
MARGIN, CERTIFIED = 0.5, 10


@dataclass(frozen=True)
class Evidence:
    """What was drawn, one entry for each of N problems; arrays are checked and converted on construction.

    Attributes:
        reliable: ``float64[N]`` in [0, 1], the estimate of R_i^T = P(trained model is right in at least ``need`` of
            ``n`` draws); with n = 16 draws simply 1[c >= 4].
        first: ``int64[N]``, the 1-based draw of the base's first success in the round-robin sequence of its arms;
            0 = none within ``cap``, or never drawn because ``reliable`` is 0.
        cap: base draws after which a problem without a success was given up.
        vetoed: ``bool[N]``, an expensive arm solved it: it counts as solved by the base at every budget.
        base_reliable: ``float64[N]`` in [0, 1], the estimate of R_i^B on the base's best arm.
        trained_first: ``int64[N]``, the trained model's first success where ``base_reliable`` > 0; 0 = none within
            ``loss_cap``.
        loss_cap: trained draws after which a problem counts as lost.
        family: ``int64[N]``, the stratum of each problem.
        held_out: ``bool[N]``, whether its family was withheld from training.
        followed: ``bool[N]``, of the problems that the base had not solved after ``stage`` draws those that were drawn
            on up to ``cap``, picked by lot (``frontier.lottery``); None: all.  Others have ``first`` 0 beyond it.
        stage: base draws that every reliable problem was given.

    Raises:
        DreamEnvsError: for arrays of different lengths, NaN, values outside their range, or N = 0.
    """

    reliable: np.ndarray
    first: np.ndarray
    cap: int
    vetoed: np.ndarray
    base_reliable: np.ndarray
    trained_first: np.ndarray
    loss_cap: int
    family: np.ndarray
    held_out: np.ndarray
    followed: np.ndarray | None = None
    stage: int = 0

    def __post_init__(self) -> None:
        cap, loss_cap = _checks.whole("cap", self.cap, 1), _checks.whole("loss_cap", self.loss_cap, 1)
        checked = {
            "reliable": _checks.numbers("reliable", self.reliable, 0, 1, ndim=1),
            "first": _checks.counts("first", self.first, 0, cap, ndim=1),
            "vetoed": _checks.counts("vetoed", self.vetoed, 0, 1, ndim=1).astype(bool),
            "base_reliable": _checks.numbers("base_reliable", self.base_reliable, 0, 1, ndim=1),
            "trained_first": _checks.counts("trained_first", self.trained_first, 0, loss_cap, ndim=1),
            "family": _checks.counts("family", self.family, -(2**53), ndim=1),
            "held_out": _checks.counts("held_out", self.held_out, 0, 1, ndim=1).astype(bool),
        }
        if self.followed is not None:
            checked["followed"] = _checks.counts("followed", self.followed, 0, 1, ndim=1).astype(bool)
            _checks.whole("stage", self.stage, 1)
        n = len(checked["reliable"])
        for name, array in checked.items():
            if len(array) != n:
                raise DreamEnvsError(f"{name} has {len(array)} entries and reliable {n}: one for each problem")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.reliable)

    def only(self, mask: np.ndarray) -> Evidence:
        """The problems where ``mask`` (``bool[N]``) is true.

        Raises:
            DreamEnvsError: if there are none.
        """
        return Evidence(
            self.reliable[mask], self.first[mask], self.cap, self.vetoed[mask], self.base_reliable[mask],
            self.trained_first[mask], self.loss_cap, self.family[mask], self.held_out[mask],
            None if self.followed is None else self.followed[mask], self.stage,
        )  # fmt: skip


class Part(msgspec.Struct, frozen=True):
    """FG* and its interval, in points, on ``n`` problems."""

    fg: float
    low: float
    high: float
    n: int


class Runs(msgspec.Struct, frozen=True):
    """FG* over ``count`` training runs and the crossed problem x run interval, in points."""

    fg: float
    low: float
    high: float
    count: int


class Headline(msgspec.Struct, frozen=True):
    """FG* and what it is made of; gains, losses and intervals in points (100 = every problem).

    Attributes:
        fg: FG* = 100 (E* - S).
        low: lower end of the interval that resamples problems within families.
        high: its upper end.
        e: E at the largest budget, uncorrected.
        e_star: E with the geometric tail taken off; may be negative.
        s: problems lost.
        persistence: E at the largest budget / E at half of it; None if the latter is 0.
        by_budget: E by the number of base draws.
        family_interval: the interval that resamples families; None with one family.
        held_out: the same number on the held-out families alone; None if there are none.
        runs: over several training runs; None for one checkpoint or two.
        n: problems.
        ratio: the tail's pooled ratio per doubling, 0 to 0.9.
    """

    fg: float
    low: float
    high: float
    e: float
    e_star: float
    s: float
    persistence: float | None
    by_budget: dict[str, float]
    family_interval: tuple[float, float] | None
    held_out: Part | None
    runs: Runs | None
    n: int
    ratio: float = 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high): problems resampled within families."""
        return self.low, self.high

    def printed(self) -> str:
        """One line: ``FG* +2.3 [+1.6, +3.0] · E 2.5 · S 0.2 · persistence 0.98 · ... · N=2,000``."""
        parts = [f"FG* {_bracket(self.fg, self.low, self.high)}", f"E {self.e:.1f}", f"S {self.s:.1f}"]
        parts.append("persistence –" if self.persistence is None else f"persistence {self.persistence:.2f}")
        if self.held_out is not None:
            parts.append(f"held-out families {_bracket(self.held_out.fg, self.held_out.low, self.held_out.high)}")
        parts.append(f"N={self.n:,}")
        if self.runs is not None:
            parts.append(f"runs={self.runs.count}")
        return " · ".join(parts)


def _bracket(point: float, low: float, high: float) -> str:
    """``+2.3 [+1.6, +3.0]``, with more decimals where one would print both ends alike."""
    digits = next((d for d in (1, 2, 3) if round(low, d) != round(high, d)), 4)
    point, low, high = (round(x, digits) + 0.0 for x in (point, low, high))
    return f"{point:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def contributions(evidence: Evidence, budgets: Sequence[int] = BUDGETS) -> np.ndarray:
    """Each problem's share in E(k) for every budget, and in S.

    Args:
        evidence: N problems.
        budgets: base draws k, ascending, none above ``evidence.cap``.

    Returns:
        ``float64[N, len(budgets) + 1]``: R_i^T 1[J_i > k] for each k (0 where vetoed), then R_i^B 1[J_i^T > loss_cap].
        Its mean over problems is the unbiased (E(k), ..., S).  With a lottery two columns more, see ``lottery``.

    Raises:
        DreamEnvsError: for a budget above the cap, where nothing is known, or below the stage of a lottery.
    """
    k = _checks.counts("budgets", budgets, 1, ndim=1)
    if k.max() > evidence.cap:
        raise DreamEnvsError(f"budget {k.max()}: at most cap={evidence.cap}, the draws the base was given")
    missed = (evidence.first[:, None] == 0) | (evidence.first[:, None] > k)
    gains = evidence.reliable[:, None] * (missed & ~evidence.vetoed[:, None])
    table = np.column_stack([gains, evidence.base_reliable * (evidence.trained_first == 0)])
    if evidence.followed is None:
        return table
    if k.min() < evidence.stage:
        raise DreamEnvsError(f"budget {k.min()}: at least stage={evidence.stage}, beyond which only some were drawn")
    return lottery.columns(table, evidence.reliable, evidence.first, evidence.followed, evidence.stage)


def tail_corrected(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E* and the pooled ratio: what is left of E after infinitely many base draws, if the tail is geometric.

    With the drops D0, D1, D2 between the four budgets, r = clip((D1 + D2) / (D0 + D1), 0, 0.9) and
    E* = E(last) - D2 r / (1 - r).  Not floored at 0: a floor would bias the mean upwards.

    Args:
        e: ``float64[..., 4]``, E at four budgets, each twice the one before; non-increasing.

    Returns:
        (E*, r), ``float64[...]`` each.
    """
    pooled = e[..., 0] - e[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(pooled > 0, (e[..., 1] - e[..., 3]) / pooled, 0.0)
    ratio = np.clip(ratio, 0.0, MAX_RATIO)
    return e[..., 3] - (e[..., 2] - e[..., 3]) * ratio / (1 - ratio), ratio


def points(means: np.ndarray) -> np.ndarray:
    """FG* in points from ``float64[..., 5 or 7]`` means of ``contributions``: four budgets, then S."""
    means = lottery.scaled(means)
    return 100 * (tail_corrected(means[..., :4])[0] - means[..., 4])


def headline(
    evidence: Evidence,
    rng: np.random.Generator,
    budgets: Sequence[int] = BUDGETS,
    draws: int = 10_000,
    level: float = 0.95,
) -> Headline:
    """FG* with its intervals.

    The interval resamples problems within families (families of a single problem are pooled into one stratum), each
    problem with its whole vector, so that the tail is fitted anew in every resample.  A component without an event
    (no gain at the largest budget, no loss) would be 0 in every resample; its uncertainty is then that of 0 events in
    N, added by the square-and-add rule for a difference (Newcombe 1998; Zou and Donner 2008), so that [0, 0] is never
    printed: 0 of 2,000 problems is [-0.15, +0.15] points.

    Args:
        evidence: N problems.
        rng: the source of randomness.
        budgets: four numbers of base draws, each twice the one before, none above ``evidence.cap``.
        draws: bootstrap resamples.
        level: confidence.

    Returns:
        The headline, with ``runs`` None.

    Raises:
        DreamEnvsError: for other budgets, a budget above the cap, or a level outside (0, 1).
    """
    budgets = doublings(budgets)
    table = contributions(evidence, budgets)
    return summarise(table, evidence.family, evidence.held_out, rng, budgets, draws, level)


def summarise(
    table: np.ndarray,
    family: np.ndarray,
    held: np.ndarray,
    rng: np.random.Generator,
    budgets: Sequence[int],
    draws: int,
    level: float,
) -> Headline:
    """The headline of ``float64[N, 5 or 7]`` contributions, ``int64[N]`` families and the ``bool[N]`` held-out mark."""
    part, means = _part(table, family, rng, draws, level), lottery.scaled(table.mean(0))
    e_star, ratio = tail_corrected(means[:4])
    families = None
    if len(np.unique(family)) > 1:
        families = widened(table, points(iv.family_means(table, family, rng, draws)), level)
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
        held_out=_part(table[held], family[held], rng, draws, level) if held.any() else None,
        runs=None,
        n=len(table),
        ratio=float(ratio),
    )


def doublings(budgets: Sequence[int]) -> tuple[int, int, int, int]:
    """``budgets`` if they are four, each twice the one before.

    Raises:
        DreamEnvsError: if they are not.
    """
    k = _checks.counts("budgets", budgets, 1, ndim=1)
    if len(k) != 4 or (k[1:] != 2 * k[:-1]).any():
        raise DreamEnvsError(f"budgets={tuple(budgets)}: four, each twice the one before, as {BUDGETS}")
    return int(k[0]), int(k[1]), int(k[2]), int(k[3])


def _part(table: np.ndarray, family: np.ndarray, rng: np.random.Generator, draws: int, level: float) -> Part:
    resampled = points(iv.bootstrap_means(table, rng, pooled_strata(family), draws))
    low, high = widened(table, resampled, level)
    return Part(float(points(table.mean(0))), low, high, len(table))


def pooled_strata(family: np.ndarray) -> np.ndarray:
    """``int64[N]`` strata: the families, with those of one problem pooled (alone they would have no spread)."""
    group = np.unique(family, return_inverse=True)[1].reshape(len(family))
    return np.where(np.bincount(group)[group] == 1, -1, group)


def widened(table: np.ndarray, resampled: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval, opened where E(last) or S is the same for all problems and so has no spread to resample.

    Args:
        table: ``float64[N, 5]`` contributions.
        resampled: ``float64[draws]``, FG* of each resample.
        level: confidence.

    Returns:
        (low, high) in points; see ``headline`` for the rule.
    """
    low, high = iv.percentile(resampled, level)
    return opened(table, float(points(table.mean(0))), low, high, level)


def opened(table: np.ndarray, point: float, low: float, high: float, level: float) -> tuple[float, float]:
    """(low, high) around ``point`` with the uncertainty of a constant column of ``table`` squared and added."""
    down, up = max(point - low, 0.0), max(high - point, 0.0)
    unseen = 100 * iv.rule_of_three(len(table), level)
    for column, sign in ((3, 1), (4, -1)):
        if np.ptp(table[:, column]) == 0:
            value = table[0, column]
            more, less = unseen * (value < 1), unseen * (value > 0)
            up = math.hypot(up, more if sign > 0 else less)
            down = math.hypot(down, less if sign > 0 else more)
    down = math.hypot(down, lottery.unseen(table, level))
    return min(low, point - down), max(high, point + up)


def verdict(headline: Headline, certified: int, pass1_gain_low: float) -> str:
    """The word for a headline, by fixed rules.

    - ``Expansion``: lower bound > 0.5 points, at least 10 certified problems, and held-out lower bound > 0.
    - ``Contraction``: upper bound < 0, and S above the uncorrected E.  The second half guards a pure sharpener: the
      tail correction alone puts the upper bound below 0 in a tenth of simulated ones, which lost nothing.
    - ``Sharpening``: pass@1 rose significantly, and 0.5 points or less are inside the interval.
    - ``Inconclusive``: anything else, e.g. a gain that was not measured on held-out families.

    Args:
        headline: what was measured.
        certified: number of certified problems (``multiple.certified``).
        pass1_gain_low: lower bound of the pass@1 gain, any unit.

    Raises:
        DreamEnvsError: for a negative count or a bound that is not a finite number.
    """
    certified = _checks.whole("certified", certified, 0)
    gain_low = float(_checks.numbers("pass1_gain_low", pass1_gain_low, ndim=0))
    held_low = -math.inf if headline.held_out is None else headline.held_out.low
    if headline.low > MARGIN and certified >= CERTIFIED and held_low > 0:
        return "Expansion"
    if headline.high < 0 and headline.s > headline.e:
        return "Contraction"
    if gain_low > 0 and headline.low <= MARGIN:
        return "Sharpening"
    return "Inconclusive"
