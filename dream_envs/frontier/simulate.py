"""What a Frontier Report says of changes that are known because they were made: coverage and power, by simulation.

A synthetic base solves each problem with a known probability under each of its methods; a synthetic training run
sharpens it, makes it gain problems, makes it lose problems.  Samples, early stopping, G(K) and its interval are those
of the real report (``frontier.gain``); G(K)'s truth is exact.  Read the results as design numbers: they say what the
protocol does to a world of this shape, not what any language model does.

Limits: binomial samples, sharpening as a shift of logits, a checker without errors.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.frontier import checks, gain
from dream_envs.frontier.verdict import MARGIN

#: Samples of each problem by the trained model, and how many have to be right.
TRAINED_DRAWS, NEED = 16, 4
#: Share of problems that the base never solves, a and b of the Beta law of the other problems' success rates, and the
#: success rate of the trained model on a gained problem.
IMPOSSIBLE, SHAPE, GAINED_RATE = 0.25, (0.45, 1.3), 0.4
#: Strata and problems of each, from which a report's problems are picked; methods of the base.
STRATA, POOL, METHODS = 20, 1000, 8


class Change(msgspec.Struct, frozen=True):
    """A base, and what training did to it."""

    name: str
    gained: float = 0.0  # points of problems, as ``lost``
    lost: float = 0.0
    sharpen: float = 0.0  # added to every other logit
    spread: float = 0.0  # the base's success rates are 10^-U(0, spread); 0: Beta variates and a quarter impossible
    # trained success rate by stratum, in place of the rest; the base's then falls by a factor of 20 a stratum
    profile: tuple[float, ...] = ()


_FLAGSHIP = (*[0.97] * 8, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2, 0.0, 0.0)
_EXPERT = (0.97, 0.95, 0.93, 0.9, 0.8, 0.65, 0.5, 0.3, 0.15, 0.08, 0.03, 0.01, *[0.0] * 8)
#: Populations of the table of coverage, and of the table of power.
COVERAGE = (
    Change("base-like"),
    Change("flagship-like", profile=_FLAGSHIP),
    Change("expert-like", profile=_EXPERT),
    Change("sharpened, L = 4", sharpen=7, spread=4),
    Change("sharpened, L = 8", sharpen=7, spread=8),
    Change("sharpened, L = 12", sharpen=7, spread=12),
    Change("traded", gained=15, lost=8),
    Change("mixed", gained=5, lost=2, sharpen=5),
)
POWER = tuple(Change(f"{n} points gained", gained=n) for n in (2, 5, 10))


class World(msgspec.Struct, frozen=True):
    """A population: exact success rates of a large pool of problems."""

    base: np.ndarray  # ``float64[M, A]`` by method, in the order of their turns
    trained: np.ndarray  # ``float64[M]``
    stratum: np.ndarray  # ``int64[M]``

    def truth(self, k: int) -> tuple[float, float]:
        """G(k) and E(k) of the population, in points."""
        share = np.array([(k - a + METHODS - 1) // METHODS for a in range(METHODS)])
        with np.errstate(divide="ignore"):
            missed = np.exp((share * np.log1p(-self.base)).sum(1))
            lost = _tail(self.base[:, 0]) * np.exp(k * np.log1p(-self.trained))
        e = 100 * float((_tail(self.trained) * missed).mean())
        return e - 100 * float(lost.mean()), e


def world(change: Change, rng: np.random.Generator) -> World:
    """The population of this change."""
    from scipy.special import expit, logit

    n, stratum = STRATA * POOL, np.repeat(np.arange(STRATA), POOL)
    able = np.ones(n, bool)
    if change.profile:
        own = logit(np.clip(0.3 * 20.0 ** -stratum.astype(float), 1e-300, 1)) + rng.normal(size=n)
    elif change.spread:
        own = logit(np.clip(10 ** -(change.spread * rng.random(n)), 1e-300, 1 - 1e-9))
    else:
        x, y = rng.standard_gamma(SHAPE[0], n), rng.standard_gamma(SHAPE[1], n)
        x, y = np.maximum(x, 1e-300), np.maximum(y, 1e-300)
        own = np.log(x) - np.log(y)  # logit of a Beta variate, exact at the ends
        able = rng.random(n) >= IMPOSSIBLE
    logits = own[:, None] + (rng.normal(size=(n, METHODS)) if not change.spread else 0.0)
    rates = np.where(able[:, None], expit(np.broadcast_to(logits, (n, METHODS))), 0.0)
    if change.profile:
        mean = np.array(change.profile)[stratum]
        trained = np.where(mean > 0, rng.beta(8 * mean + 1e-9, 8 * (1 - mean) + 1e-9), 0.0)
        return World(rates, trained, stratum)
    trained = np.where(able, expit(logits[:, 0] + change.sharpen), 0.0)
    new = _picked(np.where(able, 0.0, _tail(np.full(n, GAINED_RATE))), change.gained, "gained", rng)
    gone = _picked(np.where(rates[:, 0] >= 0.4, _tail(rates[:, 0]), 0.0), change.lost, "lost", rng)
    trained[new], trained[gone] = GAINED_RATE, 0.0
    return World(rates, trained, stratum)


def first_success(p: np.ndarray, cap: int, rng: np.random.Generator) -> np.ndarray:
    """``int64[N]``: the 1-based draw of the first success when A methods take turns, 0 = none within ``cap``.

    Not drawn one by one: whole rounds without a success are geometric; given the round, the method is categorical.
    ``p``: ``float64[N, A]`` success rates, method 0 is drawn first.
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


def draw(chosen: World, per_stratum: int, k: int, rng: np.random.Generator, follow: int = 0) -> gain.Evidence:
    """One simulated report: problems from the population, then samples of both models.

    ``follow``: survivors after k / 8 samples that are followed to k; 0: all.
    """
    at = (np.arange(STRATA)[:, None] * POOL + rng.integers(POOL, size=(STRATA, per_stratum))).ravel()
    base, trained = chosen.base[at], chosen.trained[at]
    r_trained = rng.binomial(TRAINED_DRAWS, trained) >= NEED
    r_base = rng.binomial(TRAINED_DRAWS, base[:, 0]) >= NEED
    first = np.where(r_trained, first_success(base, k, rng), 0)
    trained_first = np.where(r_base, first_success(trained[:, None], k, rng), 0)
    stage, followed = k // 8, np.ones(len(at), bool)
    left = r_trained & ((first == 0) | (first > stage))
    if follow and left.any():
        followed[left] = gain.subsample(np.zeros(left.sum(), dtype=int), follow, rng)
        first = np.where(followed, first, 0)
    none = np.zeros(len(at), bool)
    some = (None, 0) if followed.all() else (followed, stage)
    return gain.Evidence(r_trained, first, k, none, r_base, trained_first, chosen.stratum[at], *some)


def _tail(p: np.ndarray) -> np.ndarray:
    """P(at least ``NEED`` of ``TRAINED_DRAWS`` samples are right)."""
    from scipy.special import betainc

    return betainc(NEED, TRAINED_DRAWS - NEED + 1, p)


def _picked(weight: np.ndarray, target: float, name: str, rng: np.random.Generator) -> np.ndarray:
    """``bool[N]``: each problem by itself with a probability that makes the weights add up to ``target`` on average."""
    wanted, room = target / 100 * len(weight), float(weight.sum())
    if wanted > room:
        raise DreamEnvsError(f"{name}={target:g} points: this world has {100 * room / len(weight):.1f}")
    return (rng.random(len(weight)) * room < wanted) & (weight > 0)


def simulate(
    change: Change, rng: np.random.Generator, per_stratum: int, k: int, repetitions: int, follow: int = 0
) -> dict[str, Any]:
    """What ``repetitions`` reports at ``k`` samples on ``STRATA`` x ``per_stratum`` problems say of one population.

    Returns one row, in points: ``truth`` (G(K)), ``gained`` (E(K)), ``mean`` and ``sd`` of G's estimates, ``width`` of
    its interval; shares of reports: ``covered`` (it holds the truth), ``beyond`` (E's lower end is above the margin),
    ``bounds`` (E at every multiple of K lies within its bounds).  ``follow``: see ``draw``.
    """
    checks.whole("per_stratum", per_stratum, 1)
    checks.whole("k", k, 8)
    for name in ("gained", "lost"):
        checks.numbers(name, getattr(change, name), 0, 100, ndim=0)
    checks.numbers("sharpen", change.sharpen, -100, 100, ndim=0)
    chosen = world(change, rng)
    (truth, gained), later = chosen.truth(k), [chosen.truth(m * k)[1] for m in gain.MULTIPLES]
    found, held = [], []
    for _ in range(checks.whole("repetitions", repetitions, 1)):
        evidence = draw(chosen, per_stratum, k, rng, follow)
        g, e, _ = gain.gain(evidence)
        found.append((*g, e[1]))
        bounds = gain.beyond(evidence)
        held.append(all(b.low - 1e-9 <= e <= b.high + 1e-9 for b, e in zip(bounds, later, strict=True)))
    value, low, high, shown = np.array(found, dtype=float).T
    return {
        "change": change.name, "n": STRATA * per_stratum, "k": k, "follow": follow, "repetitions": repetitions,
        "truth": truth, "gained": gained, "mean": float(value.mean()), "sd": float(value.std()),
        "width": float((high - low).mean()),
        "covered": float(((low <= truth) & (truth <= high)).mean()), "beyond": float((shown > MARGIN).mean()),
        "bounds": float(np.mean(held)),
    }  # fmt: skip
