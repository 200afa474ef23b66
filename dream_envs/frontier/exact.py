"""Exact success probabilities where a problem has one accepted completion, under every decoder of the envelope.

The probability that a model samples the accepted completion is a product of teacher-forced token probabilities: no
sampling, no pass@k estimator.  A number at temperature 1 confuses "cannot" with "stops early", so the base is given
every exact help:

``T=1``          plain sampling.
``best_T``       the best of a grid of temperatures, chosen for each problem.
``forced``       the grammar and the length are forced (each position renormalised over the tokens that the form of a
                 completion allows there), and the best temperature on top.
``given``        the operations are given and only the states are predicted: the latent single-step skill.

A problem's tier is set by the largest of the first three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError, Message, Task
from dream_envs.frontier.methods import MethodSpec

TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0)
#: First tokens that CoT-decoding branches on.
BRANCHES = 16
DECODERS = ("T=1", "best_T", "forced", "given")

#: Tiers by the base's best decoder (``T=1``, ``best_T``, ``forced``): sharpening, edge, beyond the run's budget.
TIERS = ("T0", "T1", "T2")


class Grammar(msgspec.Struct, frozen=True):
    """A completion's form: for each position the ids that may stand there, and whether it is predicted or given."""

    allowed: list[list[int]]
    predicted: list[bool]


def composition_grammar(token: Callable[[str], int], end: int, states: str, operations: str, depth: int) -> Grammar:
    """Operation, state, operation, state ..., end; ``given`` leaves only the states to predict."""
    ops, names = [token(c) for c in operations], [token(c) for c in states]
    allowed = [ops if i % 2 == 0 else names for i in range(2 * depth)] + [[end]]
    return Grammar(allowed, [i % 2 == 1 for i in range(2 * depth)] + [False])


def log_probability(logits: np.ndarray, ids: np.ndarray, grammar: Grammar) -> dict[str, float]:
    """Natural log of the probability of the accepted completion, by decoder.

    ``logits``: ``float[T, V]``, row t predicts id t; ``ids``: ``int[T]``, with the end token; ``grammar``: T positions.
    """
    at, raw = np.arange(len(ids)), logits.astype(np.float64)
    mask, predicted = _mask(raw, grammar), np.array(grammar.predicted)
    free, forced, given = [], [], []
    for temperature in TEMPERATURES:
        scaled = raw / temperature
        free.append(float((scaled[at, ids] - _logsumexp(scaled)).sum()))
        limited = scaled + mask
        per_token = limited[at, ids] - _logsumexp(limited)
        forced.append(float(per_token.sum()))
        given.append(float(per_token[predicted].sum()))
    return {"T=1": free[TEMPERATURES.index(1.0)], "best_T": max(free), "forced": max(forced), "given": max(given)}


def _mask(raw: np.ndarray, grammar: Grammar) -> np.ndarray:
    mask = np.full(raw.shape, -np.inf)
    for i, allowed in enumerate(grammar.allowed):
        mask[i, allowed] = 0.0
    return mask


def has_exact(spec: MethodSpec) -> bool:
    """Whether a draw's probability is a product over the completion's tokens."""
    return spec.how in ("sample", "forced", "given", "cot_decoding") and spec.top_p == 1


def method_log_probability(spec: MethodSpec, logits: np.ndarray, ids: np.ndarray, grammar: Grammar) -> float:
    """Natural log of the probability that one draw of this method is the accepted completion.

    ``logits`` (of the method's own prompt) and ``ids`` are as in ``log_probability``.
    """
    if not has_exact(spec):
        raise DreamEnvsError(f"method {spec.name!r} has no exact probability; those that sample without top_p have one")
    scaled = logits.astype(np.float64) / spec.temperature
    if spec.how in ("forced", "given"):  # ``grammar`` is that of the method
        scaled += _mask(scaled, grammar)
    if spec.min_p:
        scaled = np.where(scaled < scaled.max(-1, keepdims=True) + np.log(spec.min_p), -np.inf, scaled)
    per_token = scaled[np.arange(len(ids)), ids] - _logsumexp(scaled)
    if spec.how == "cot_decoding":
        order = np.argsort(-logits[0], kind="stable")
        likeliest = order[~np.isin(order, grammar.allowed[-1])][:BRANCHES]  # an empty reply is no branch
        per_token[0] = -math.log(BRANCHES) if ids[0] in likeliest else -np.inf
    return float(per_token.sum())


def log_miss(by_method: np.ndarray, draws: int) -> np.ndarray:
    """``float[N]``: log of the probability that ``draws`` draws in turn over the methods all miss.

    ``by_method``: ``float[A, N]``, log-probability of a success by method and problem.
    """
    count = len(by_method)
    share = np.array([(draws - a + count - 1) // count for a in range(count)])
    with np.errstate(divide="ignore", invalid="ignore"):
        misses = np.log1p(-np.minimum(np.exp(by_method), 1.0))
        return np.where(share[:, None] > 0, share[:, None] * misses, 0.0).sum(0)


def _logsumexp(x: np.ndarray) -> np.ndarray:
    top = x.max(-1, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(-1, keepdims=True)))[..., 0]


def exact(model: Any, tasks: Sequence[Task], grammars: Sequence[Grammar]) -> dict[str, np.ndarray]:
    """``float64[N]`` log-probabilities of each task's accepted completion, by decoder.

    ``model`` has ``completion_logits``, as ``agents.engines.local.LocalAgent`` does.
    """
    prompts: list[list[Message]] = [[{"role": "user", "content": t.prompt}] for t in tasks]
    logits, ids = model.completion_logits(prompts, [t.answer for t in tasks])
    rows = [log_probability(x, y, g) for x, y, g in zip(logits, ids, grammars, strict=True)]
    return {d: np.array([r[d] for r in rows]) for d in DECODERS}


def pass_at_k(log_p: np.ndarray, k: int) -> np.ndarray:
    """Exact pass@k, 1 - (1 - P)^k, without losing small P to rounding."""
    p = np.minimum(np.exp(log_p), 1.0)
    with np.errstate(divide="ignore"):
        return -np.expm1(k * np.log1p(-p))


def tiers(base: dict[str, np.ndarray], samples: int) -> np.ndarray:
    """Tier of each problem by the base's best decoder: 0 sharpening, 1 edge, 2 beyond ``samples`` draws."""
    best = best_decoder(base)
    return np.where(best >= np.log(1e-2), 0, np.where(best >= -math.log(max(samples, 1)), 1, 2))


def best_decoder(exact_log_p: dict[str, np.ndarray]) -> np.ndarray:
    """The largest log-probability over the decoders that set the tier."""
    return np.max([exact_log_p[d] for d in ("T=1", "best_T", "forced")], axis=0)


def summary(log_p: np.ndarray) -> dict[str, float]:
    """Mean P, median log10 P, share with P > 0.5, largest P."""
    p = np.exp(log_p)
    return {
        "mean": float(p.mean()),
        "median_log10": float(np.median(log_p) / np.log(10)),
        "solved": float((p > 0.5).mean()),
        "max": float(p.max()),
    }


def bootstrap(values: np.ndarray, rng: np.random.Generator, draws: int = 2000, level: float = 0.95) -> list[float]:
    """Percentile interval of the mean over problems."""
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    tail = (1 - level) / 2
    return np.quantile(means, [tail, 1 - tail]).tolist()
