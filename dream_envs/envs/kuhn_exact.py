"""Kuhn poker solved: the values of policies, best responses over the whole tree, and what is measured of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dream_envs.core import DreamEnvsError, Measure
from dream_envs.seeds import stream

CARDS, MOVES = "JQK", {"p": "pass", "b": "bet"}
OVER = ("pp", "pbp", "pbb", "bp", "bb")
#: All that a player can know when it is to move: its card and the moves so far, whose number tells who it is.
INFORMATION_SETS = tuple(card + history for history in ("", "p", "b", "pb") for card in CARDS)
#: By information set P(pass), P(bet), P(unreadable): ``[3]``, or ``[3, R]`` for R policies at once.
Policy = Mapping[str, Any]
BOOTSTRAP = 1000


def equilibrium(alpha: float = 1 / 3) -> dict[str, list[float]]:
    """The equilibrium in which the first player bets a jack with probability ``alpha``, 0 to 1/3."""
    if not 0 <= alpha <= 1 / 3:
        raise DreamEnvsError(f"alpha={alpha}: 0 to 1/3")
    bets = {"J": alpha, "K": 3 * alpha, "Jp": 1 / 3, "Kp": 1, "Qb": 1 / 3, "Kb": 1, "Qpb": alpha + 1 / 3, "Kpb": 1}
    return {info: [1 - bets.get(info, 0.0), bets.get(info, 0.0), 0.0] for info in INFORMATION_SETS}


def strategy_value(first: Policy, second: Policy) -> Any:
    """What ``first`` earns on average in the first seat against ``second``, in antes: a float, or ``float64[R]``."""
    return _value(0, _checked(first), _checked(second))


def exploitability(policy: Policy) -> Any:
    """What a best response earns against ``policy``, mean of both seats (NashConv / 2): a float, or ``float64[R]``."""
    found = _checked(policy)
    return (_value(0, None, found) + _value(1, None, found)) / 2


def _checked(policy: Policy) -> dict[str, np.ndarray]:
    found = {info: np.asarray(policy.get(info, ()), float) for info in INFORMATION_SETS}
    for info, p in found.items():
        if len(p) != 3 or not (p >= -1e-9).all() or not np.allclose(p.sum(0), 1, atol=1e-6):
            raise DreamEnvsError(f"policy[{info!r}]: P(pass), P(bet), P(unreadable), which sum to 1; not {p.tolist()}")
    return found


def _value(player: int, mine: Policy | None, theirs: Policy) -> Any:
    """What ``player`` earns with ``mine`` (None: with the best response) against ``theirs``."""
    return sum(_below(player, card, "", {o: 1 / 6 for o in CARDS if o != card}, mine, theirs) for card in CARDS)


def _below(player: int, card: str, history: str, reach: Mapping[str, Any], mine: Policy | None, theirs: Policy) -> Any:
    """The part of the value below a node; ``reach``: by the other's card, chance times ``theirs`` of coming here."""
    if history in OVER:
        return sum(p * payoff(card, other, history, player) for other, p in reach.items())
    if len(history) % 2 != player:
        moved = [{other: p * theirs[other + history][i] for other, p in reach.items()} for i in range(3)]
        below = [_below(player, card, history + m, moved[i], mine, theirs) for i, m in enumerate(MOVES)]
        return below[0] + below[1] + sum(moved[2].values())
    below = [_below(player, card, history + m, reach, mine, theirs) for m in MOVES]
    if mine is None:  # to pass and then fold costs no more than a forfeit
        return np.maximum(*below)
    p = mine[card + history]
    return p[0] * below[0] + p[1] * below[1] - p[2] * sum(reach.values())


def payoff(mine: str, other: str, history: str, player: int) -> int:
    """What ``player`` wins at the end of a game without a forfeit."""
    if history.endswith("bp"):  # whoever moved last folded
        return 1 if len(history) % 2 == player else -1
    return (2 if history.endswith("bb") else 1) * (1 if CARDS.index(mine) > CARDS.index(other) else -1)


def measures(rows: np.ndarray) -> dict[str, Any]:
    """Of policies ``[12, 3]`` or ``[12, 3, R]``."""
    policy = dict(zip(INFORMATION_SETS, rows, strict=True))
    value, unreadable = strategy_value(policy, policy), rows[:, 2].mean(0)
    return {"exploitability": exploitability(policy), "unreadable": unreadable, "value_first": value}


def estimates(counts: np.ndarray, seed: str) -> dict[str, Measure]:
    """The measures of a policy that passed, bet and was unreadable so often, ``int[12, 3]``, with 95 % intervals.

    Percentiles of a bootstrap, and Wilson's interval for a share.  A best response to noise earns too much, most near
    an equilibrium, where a bootstrap shows a third of it: the exploitability's interval reaches down by three times the
    bootstrap's bias (covered 94 to 98 times in 100 in simulations from equilibria to uniform play).
    """
    each, n = counts.sum(1, keepdims=True), int(counts.sum())
    found, rng = measures(counts / each), stream("kuhn", "bootstrap", seed)
    draws = [rng.multinomial(k[0], c / k[0], size=BOOTSTRAP).T / k[0] for c, k in zip(counts, each, strict=True)]
    drawn = measures(np.stack(draws))
    low, high = ({name: np.quantile(values, q) for name, values in drawn.items()} for q in (0.025, 0.975))
    value, lower, upper = (kind["exploitability"] for kind in (found, low, high))
    mean = drawn["exploitability"].mean()
    low["exploitability"] = max(0.0, value - 3 * (mean - value) - (upper - mean))
    high["exploitability"] = max(upper, 2 * value - lower)
    p, z = found["unreadable"], 1.96
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low["unreadable"], high["unreadable"] = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return {name: Measure(float(v), float(low[name]), float(high[name]), n) for name, v in found.items()}
