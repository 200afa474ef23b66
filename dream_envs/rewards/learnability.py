"""Learnability: what a challenger's problem is worth as a function of the solvers' success rate p; see ``FORMS``.

Two published nuances are arguments and never silent: AZR's *code* maps a valid proposal with p = 0 or 1 to -0.5
(``zero_ends=-0.5``; its issue 37), and papers disagree about what an invalid proposal costs (``invalid=``): -1 in AZR
and in R-Zero's code, -0.1 in SPICE, 0 elsewhere.  -0.1 ended in a spiral of ever more invalid proposals in one report
(arXiv 2510.18821), 0 did not, so 0 is the default except where it would make an invalid proposal the best one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Episode, Score
from dream_envs.registry import named
from dream_envs.rewards.base import Scores, agents_of, last_turns, rejected, reward, said

#: Value of a valid proposal from (p, population variance of the verdicts, lo, hi), and its source.
FORMS: dict[str, Callable[[float, float, float, float], float]] = {
    "azr": lambda p, var, lo, hi: 1.0 - p,  # but zero_ends at 0 and 1; Absolute Zero, arXiv 2505.03335
    "vhg": lambda p, var, lo, hi: 1.0 - p,  # VHG, arXiv 2605.06660
    "r_zero": lambda p, var, lo, hi: 1.0 - 2.0 * abs(p - 0.5),  # R-Zero, arXiv 2508.05004, the paper
    "r_zero_code": lambda p, var, lo, hi: min(p, 1.0 - p),  # R-Zero, the released code (half scale)
    "sqlm": lambda p, var, lo, hi: 1.0 if 0.0 < p < 1.0 else 0.0,  # Self-Questioning LMs, arXiv 2508.03682
    "spice": lambda p, var, lo, hi: math.exp(-((var - 0.25) ** 2) / (2 * 0.01)),  # SPICE, arXiv 2510.24684
    "parabola": lambda p, var, lo, hi: 4.0 * p * (1.0 - p),  # the Bernoulli variance, scaled to 1
    "band": lambda p, var, lo, hi: 1.0 if lo - 1e-9 <= p <= hi + 1e-9 else 0.0,  # SeRL's filter, arXiv 2505.20347
    "lsp": lambda p, var, lo, hi: 0.0 - p,  # Language Self-Play Zero, arXiv 2509.07414
    "pasodoble": lambda p, var, lo, hi: 1.0 - p if p >= lo - 1e-9 else 0.0,  # PasoDoble, arXiv 2511.11881
}
MIN_ATTEMPTS = 2  # from one attempt p is 0 or 1, whatever the problem
_DEFAULT_LO = {"band": 0.2, "pasodoble": 0.2}
_DEFAULT_HI = {"band": 0.8}


def _resolve(given: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments against the form, and fill in those that depend on it."""
    form, ends, invalid = given["form"], given["zero_ends"], given["invalid"]
    named("forms of learnability", str(form), FORMS)
    if ends != 0.0 and form != "azr":
        raise DreamEnvsError(f"zero_ends={ends!r} belongs to form='azr'; form={form!r} has its own values at 0 and 1")
    for key, defaults in (("lo", _DEFAULT_LO), ("hi", _DEFAULT_HI)):
        if given[key] is not None and form not in defaults:
            raise DreamEnvsError(f"{key}={given[key]!r}: form={form!r} has no {key} (forms: {', '.join(defaults)})")
    lo = _DEFAULT_LO.get(form, 0.0) if given["lo"] is None else given["lo"]
    hi = _DEFAULT_HI.get(form, 1.0) if given["hi"] is None else given["hi"]
    if not 0 <= lo <= hi <= 1:
        raise DreamEnvsError(f"lo={lo!r}, hi={hi!r}: 0 <= lo <= hi <= 1")
    if invalid is None:
        invalid = -0.1 if form == "spice" else -1.0 if form == "lsp" else min(0.0, ends)
    elif invalid != "exclude":
        check("invalid", invalid, what="or 'exclude' to leave invalid proposals unscored")
    return {**given, "lo": lo, "hi": hi, "invalid": invalid}


@reward("learnability", choices={"rate": ("verdicts", "majority")}, prepare=_resolve, always=("form",))
def learnability(
    episode: Episode, *, form: str = "azr", invalid: float | str | None = None, zero_ends: float = 0.0,
    lo: float | None = None, hi: float | None = None, rate: str = "verdicts", role: str = "challenger",
) -> Scores:  # fmt: skip
    """What the challenger's proposal is worth, by the share p of solvers that are right.

    ``form``: ``azr`` 1 - p, but ``zero_ends`` at p = 0 and 1; ``vhg`` 1 - p; ``r_zero`` 1 - 2 |p - 1/2|;
    ``r_zero_code`` min(p, 1 - p); ``sqlm`` 1 where 0 < p < 1; ``spice`` exp(-(Var - 1/4)^2 / 0.02); ``parabola``
    4 p (1 - p); ``band`` 1 where ``lo`` <= p <= ``hi`` (0.2, 0.8); ``lsp`` -p; ``pasodoble`` 1 - p where p >= ``lo``
    (0.2).

    ``invalid``: the value of a proposal that was turned away, status ``ok``: a challenger has to learn from it;
    ``exclude`` gives it the status ``invalid`` instead.  Default 0.0; -0.1 for ``spice`` (as published); -1.0 for
    ``lsp`` and ``zero_ends`` where that is negative, so that it is never more than the worst valid one.

    ``rate``: p is the share of right answers (``verdicts``), or the share of solvers that gave the most frequent
    completion (``majority``), which R-Zero and SQLM use for want of a truth.

    Returns:
        Range 0 to 1 for valid proposals (``lsp`` -1 to 0).  Components ``p`` and ``attempts``.  ``error`` if the game
        seats a single solver: p would be 0 or 1 always; ``abstain`` if fewer than two verdicts came.
    """
    status, code = episode.outcome.status, rejected(episode)
    if status != "ok":
        score = Score(0.0, status, detail=f"the game ended in {status}")
    elif code and invalid == "exclude":
        score = Score(0.0, "invalid", detail=f"proposal rejected: {code}")
    elif code:
        score = Score(float(invalid or 0.0), detail=f"proposal rejected: {code}")
    else:
        score = _worth(*_attempts(episode, rate), form, zero_ends, lo or 0.0, 1.0 if hi is None else hi)
    return dict.fromkeys(agents_of(episode, role), score)


def _worth(values: list[float], seated: int, form: str, zero_ends: float, lo: float, hi: float) -> Score:
    if seated == 0:
        return Score(0.0, "error", detail="this game records no facts['correct']: nothing to estimate p from")
    if seated < MIN_ATTEMPTS:
        return Score(0.0, "error", detail=f"p from {seated} solver(s) is 0 or 1 always: seat {MIN_ATTEMPTS} or more")
    if len(values) < MIN_ATTEMPTS:
        why = f"{len(values)} of {seated} verdicts, {MIN_ATTEMPTS} needed"
        return Score(0.0, "abstain", {"attempts": float(len(values))}, why)
    p = math.fsum(values) / len(values)  # facts["solve_rate"], but not at the mercy of the solvers' order
    if not 0.0 <= p <= 1.0:
        return Score(0.0, "error", detail=f"success rate {p!r} is outside 0 to 1")
    variance = math.fsum((v - p) ** 2 for v in values) / len(values)
    value = zero_ends if form == "azr" and p in (0.0, 1.0) else FORMS[form](p, variance, lo, hi)
    return Score(value, "ok", {"p": p, "attempts": float(len(values))})


def _attempts(episode: Episode, rate: str) -> tuple[list[float], int]:
    """The verdicts that p is the mean of, and how many solvers could have had one."""
    if rate == "majority":
        turns = last_turns(episode, "solver")
        texts = [said(t) for t in turns.values() if t.status == "ok" and said(t)]
        top = max(Counter(texts).values(), default=0)
        return [1.0] * top + [0.0] * (len(texts) - top), len(turns)
    verdicts = episode.outcome.facts.get("correct")
    if not isinstance(verdicts, Mapping):
        return [], 0
    return [float(v) for v in verdicts.values() if v is not None], len(verdicts)
