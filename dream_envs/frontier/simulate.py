"""What the Frontier Report would say of changes that are known because they were made: a simulation of its protocol.

A synthetic base solves each problem with a known probability under each of its elicitation methods; a synthetic
training run sharpens it, makes it gain problems, makes it lose problems.  Draws, early stopping, FG* and its interval
are those of the real report (``frontier.gain``).  Read the results as design numbers: they say what the protocol does
to a world of this shape, not what any language model does.

Limits: binomial draws, sharpening as a shift of logits, a checker without errors, a tail of the base's success rates
like Beta(0.45, 1.3).  A base with a much heavier tail (a ratio per doubling above 0.9) would be under-corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import checks, gain
from dream_envs.frontier import intervals as iv
from dream_envs.frontier.estimators import reliable

#: Draws of each problem by the trained model, how many have to be right, draws after which a problem counts as lost.
TRAINED_DRAWS, NEED, LOSS_CAP = 16, 4, 1024
#: Share of problems that the base never solves, a and b of the Beta law of the other problems' success rates, and the
#: success rate of the trained model on a gained problem.
IMPOSSIBLE, SHAPE, GAINED_RATE = 0.25, (0.45, 1.3), 0.4


class World(msgspec.Struct, frozen=True):
    """A base and a set of problems."""

    n: int = 2000  # problems
    families: int = 20  # of equal size (+-1)
    # elicitation methods of the base, drawn in turn; their logits vary around the problem's own (sd 1)
    methods: int = 8
    # of the problems unsolved after k / 64 base draws so many are drawn on (``gain.subsample``); 0: all
    follow: int = 0


class Change(msgspec.Struct, frozen=True):
    """What training did: problems gained and lost, in points, and a shift of every other logit."""

    name: str
    gained: float = 0.0
    lost: float = 0.0
    sharpen: float = 0.0


#: The rows of the table that the protocol was designed by.
CHANGES = (
    Change("A/A"),
    Change("sharpen +5", sharpen=5),
    Change("sharpen +7", sharpen=7),
    Change("sharpen +9", sharpen=9),
    Change("2.35 gained", gained=2.35),
    Change("2.35 gained, sharpen +5", gained=2.35, sharpen=5),
    Change("2.35 gained, sharpen +7", gained=2.35, sharpen=7),
    Change("4.45 gained, 2 lost", gained=4.45, lost=2),
)


def first_success(p: np.ndarray, cap: int, rng: np.random.Generator) -> np.ndarray:
    """The draw of the first success when A methods take turns, without drawing one by one.

    Whole rounds without a success are geometric; given the round, the method is categorical.

    ``p``: ``float64[N, A]`` success rates, method 0 is drawn first.  Returns ``int64[N]``, 1-based; 0 = none within
    ``cap`` draws.
    """
    n, count = p.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        miss = np.cumsum(np.log1p(-p), axis=1)  # log P(methods 0..a all miss)
        rounds = np.floor(np.log(1 - rng.random(n)) / miss[:, -1])
    possible = miss[:, -1] < 0
    rounds = np.where(possible, np.minimum(np.nan_to_num(rounds), cap), cap).astype(np.int64)
    hit: np.ndarray = -np.expm1(miss)
    which = (rng.random((n, 1)) * hit[:, -1:] >= hit[:, :-1]).sum(axis=1)
    first = rounds * count + which + 1
    return np.where(possible & (first <= cap), first, 0)


def draw(world: World, change: Change, k: int, rng: np.random.Generator) -> tuple[gain.Evidence, dict[str, float]]:
    """One simulated comparison: what was drawn, and the truth behind it.

    The trained model starts as the base's method 0 (its declared configuration): no change is an A/A comparison.

    Returns:
        The evidence with at most ``k`` base draws a problem, and facts: ``truth`` (expected points gained for ever,
        less points lost), ``base_draws`` and ``loss_draws`` (per problem, after early stopping), ``base_pass1``
        (method 0), ``base_pass1024`` (in turn) and ``trained_pass1``.

    Raises:
        DreamEnvsError: if the world has too few problems to gain or to lose.
    """
    from scipy.special import expit

    n, m = world.n, TRAINED_DRAWS
    x, y = rng.standard_gamma(SHAPE[0], n), rng.standard_gamma(SHAPE[1], n)
    own = np.log(np.maximum(x, 1e-300)) - np.log(np.maximum(y, 1e-300))  # logit of a Beta variate, exact near 0 and 1
    able = rng.random(n) >= IMPOSSIBLE
    logits = own[:, None] + rng.normal(size=(n, world.methods))
    rates = np.where(able[:, None], expit(logits), 0.0)
    trained = np.where(able, expit(logits[:, 0] + change.sharpen), 0.0)
    base_reliable = _tail(rates[:, 0])
    forgotten = 100 * float((base_reliable * (1 - trained) ** LOSS_CAP).mean())  # by dulling (sharpen < 0)
    new = _picked(np.where(able, 0.0, _tail(np.full(n, GAINED_RATE))), change.gained, "gained", rng)
    gone = _picked(np.where(rates[:, 0] >= 0.4, base_reliable, 0.0), change.lost, "lost", rng)
    trained[new], trained[gone] = GAINED_RATE, 0.0

    r_trained = reliable(m, rng.binomial(m, trained), NEED, m)
    r_base = reliable(m, rng.binomial(m, rates[:, 0]), NEED, m)
    first = np.where(r_trained > 0, first_success(rates, k, rng), 0)
    trained_first = np.where(r_base > 0, first_success(trained[:, None], LOSS_CAP, rng), 0)
    family = np.arange(n) * world.families // n
    no = np.zeros(n, dtype=bool)
    stage, followed = k // 64, np.ones(n, dtype=bool)
    left = (r_trained > 0) & ((first == 0) | (first > stage))
    if world.follow:
        followed[left] = gain.subsample(np.zeros(left.sum(), dtype=int), world.follow, rng)
        first = np.where(followed, first, 0)
    some = (followed, stage) if world.follow else (None, 0)
    evidence = gain.Evidence(r_trained, first, k, no, r_base, trained_first, LOSS_CAP, family, no, *some)
    made = np.where(first > 0, first, np.where(followed, k, stage))
    facts = {
        "truth": change.gained - change.lost - forgotten,
        "base_draws": float(made[r_trained > 0].sum() / n),
        "loss_draws": float(np.where(trained_first == 0, LOSS_CAP, trained_first)[r_base > 0].sum() / n),
        "base_pass1": float(rates[:, 0].mean()),
        "base_pass1024": float(1 - (np.prod(1 - rates, axis=1) ** (1024 / world.methods)).mean()),
        "trained_pass1": float(trained.mean()),
    }
    return evidence, facts


def _tail(p: np.ndarray) -> np.ndarray:
    """P(at least ``NEED`` of ``TRAINED_DRAWS`` draws are right)."""
    from scipy.special import betainc

    return betainc(NEED, TRAINED_DRAWS - NEED + 1, p)


def _picked(weight: np.ndarray, target: float, name: str, rng: np.random.Generator) -> np.ndarray:
    """``bool[N]``: each problem by itself with a probability that makes the weights add up to ``target`` on average."""
    wanted, room = target / 100 * len(weight), float(weight.sum())
    if wanted > room:
        raise DreamEnvsError(f"{name}={target:g} points: this world has {100 * room / len(weight):.1f}")
    return (rng.random(len(weight)) * room < wanted) & (weight > 0)


def simulate(
    change: Change,
    rng: np.random.Generator,
    world: World | None = None,
    k: int = 8192,
    repetitions: int = 120,
    draws: int = 1000,
) -> dict[str, Any]:
    """The report's results on ``repetitions`` fresh worlds that underwent the same change.

    Args:
        change: gained, lost, sharpening.
        rng: the source of randomness.
        world: the base and the problems; the default is 20 families x 100 problems.
        k: the largest base budget, a multiple of 64; the small budget of the comparison is k / 8.
        repetitions: simulated comparisons.
        draws: bootstrap resamples of each.

    Returns:
        One row, in points: the settings; ``truth``; ``fg_mean``, ``fg_median``, ``fg_sd``, ``fg_significant`` (share of
        intervals above 0), ``fg_below`` (share below 0), ``fg_above_margin`` (share above 0.5), ``fg_covered`` (share
        that hold the truth); the same FG* at k / 8 as ``small_fg_mean``, ``small_fg_significant``; the uncorrected
        E - S at k / 8 as ``small_raw_mean``, ``small_raw_significant`` and at k as ``raw_mean``, ``raw_significant``;
        and the means of ``draw``'s facts.

    Raises:
        DreamEnvsError: for a k that is no multiple of 64, or an impossible world or change.
    """
    world = World() if world is None else world
    if world.families > world.n:
        raise DreamEnvsError(f"families={world.families} of n={world.n} problems: at most one family a problem")
    for name in ("gained", "lost"):
        checks.numbers(name, getattr(change, name), 0, 100, ndim=0)
    checks.numbers("sharpen", change.sharpen, -100, 100, ndim=0)
    if checks.whole("k", k, 64) % 64:
        raise DreamEnvsError(f"k={k}: a multiple of 64, since budgets down to k / 64 are compared")
    budgets = [k // 64 * 2**i for i in range(7)]
    rows, facts = [], []
    for _ in range(checks.whole("repetitions", repetitions, 1)):
        evidence, fact = draw(world, change, k, rng)
        rows.append(_report(evidence, budgets, rng, draws, fact["truth"]))
        facts.append(fact)
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    spread = [row["fg_mean"] for row in rows]
    return {
        "change": change.name, "gained": change.gained, "lost": change.lost, "sharpen": change.sharpen,
        "n": world.n, "families": world.families, "k": k, "repetitions": repetitions,
        **mean, "fg_median": float(np.median(spread)), "fg_sd": float(np.std(spread)),
        **{key: float(np.mean([fact[key] for fact in facts])) for key in facts[0]},
    }  # fmt: skip


def _report(
    evidence: gain.Evidence, budgets: Sequence[int], rng: np.random.Generator, draws: int, truth: float
) -> dict[str, float]:
    """One comparison's FG* and E - S at both sizes; all from the same resamples."""
    table = gain.contributions(evidence, budgets)
    means, resampled = table.mean(0), iv.bootstrap_means(table, rng, gain.pooled_strata(evidence.family), draws)
    out: dict[str, float] = {}
    for prefix, at in (("small_", 0), ("", 3)):
        columns = [at, at + 1, at + 2, at + 3, *range(7, table.shape[1])]  # S, and what scales a subsample
        low, high = gain.widened(table[:, columns], gain.points(resampled[:, columns]))
        raw, plain = (gain.scaled(x[..., columns]) for x in (resampled, means))
        raw_low, _ = iv.percentile(raw[:, 3] - raw[:, 4])
        out |= {
            f"{prefix}fg_mean": float(gain.points(means[columns])),
            f"{prefix}fg_significant": float(low > 0),
            f"{prefix}fg_below": float(high < 0),
            f"{prefix}fg_above_margin": float(low > gain.MARGIN),
            f"{prefix}fg_covered": float(low <= truth <= high),
            f"{prefix}raw_mean": 100 * float(plain[3] - plain[4]),
            f"{prefix}raw_significant": float(raw_low > 0),
        }
    return out
