"""Rewards from pairwise judgements: SERL's, Copeland's and Bradley-Terry's ranking, and the default of ``SelfJudge``.

All three rank the answers of an episode and give each actor its place; each judge then gets +1, 0 or -1 for its one
verdict "w beats l": ``sign(R(w) - R(l))``, where R is the ranking that all verdicts of the episode make together.  So a
judge is paid for agreeing with the others, right or wrong; its accuracy is in ``facts["judge_accuracy"]`` and no reward
reads it.

An unreadable verdict costs the judge -1 and stays in SERL's denominator (``invalid="penalty"``, SERL's mode), or the
judge has no score and the verdict counts for nobody (``"abstain"``).  A failed call has its own status in both modes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dream_envs.core import Episode, Score, Turn
from dream_envs.envs.judge_facts import pairs
from dream_envs.rewards.base import Scores, agents_of, by_agent, each, last_turns, reward, unanswered
from dream_envs.rewards.solver import majority

Row = dict[str, Any]
_TIE = 1e-12  # two sums of the same quotients in another order
_INVALID: dict[str, tuple[str, ...]] = {"invalid": ("penalty", "abstain")}
_POINTS = {"judge": ("agreement", "format"), **_INVALID}
_LENGTHS = {"length_control": ("serl", "band", "symmetric", "off"), "length": ("words", "chars", "tokens")}


@reward("serl", within={"alpha": (1e-6, 1 - 1e-6)}, choices=_LENGTHS | _INVALID)
def serl(
    episode: Episode, *, alpha: float = 0.2, length_control: str = "serl", length: str = "words",
    invalid: str = "penalty",
) -> Scores:  # fmt: skip
    """SERL's rewards (arXiv 2511.07922, as its code has them): a length-controlled win rate, and agreement with it.

    Actor i: ``R(i) = sum of beta over the judgements that i won, / ((N - 1) K)``.  A judgement won by i over j counts
    if ``(1 - alpha) len_j < len_i < (1 + alpha) len_j``, both ends open, and is worth ``beta = len_j / len_i``: a
    shorter winner gets more than 1.  Judge: ``sign(R(winner) - R(loser))``.

    With a judge that always names the first, the swapped order leaves all answers level, and beta then prefers the
    shorter (lengths 100 and 110: 0.55 and 0.4545).  So does the band alone, a little: of 41 and 50 words the shorter
    may win (41 > 40), the longer may not (50 > 49.2).  ``length_control="symmetric"`` has neither attractor.

    ``alpha``: half width of the length band, above 0 and below 1.  ``length_control``: ``serl`` (band and beta),
    ``band`` (every win in the band is worth 1), ``symmetric`` (worth 1 where ``(1 - alpha) len_j < len_i < len_j / (1 -
    alpha)``) or ``off`` (every win is worth 1).  ``length``: ``words`` (SERL: split at white space), ``chars`` or
    ``tokens``, which compact notation needs.  ``invalid``: see the module's head; with ``abstain`` the denominator is
    the number of readable verdicts about i.

    Returns:
        Actor: 0 to below 1 / (1 - alpha); without beta 0 to 1.  Components ``wins``, ``counted`` (wins in the band) and
        ``judged`` (readable verdicts).  Judge: -1, 0, +1.
    """
    rows = _rows(episode, "pairwise")
    if rows is None:
        return _not_judged(episode, "no pairwise judgements in this game")
    facts = episode.outcome.facts
    sizes = {name: its.get(length) for name, its in facts["lengths"].items()}
    compared = {row[side] for row in rows for side in ("first", "second")}
    if length_control != "off" and any(sizes[n] is None and facts["answered"].get(n) for n in compared):
        return _not_judged(episode, "no token counts in this episode: length='words' or 'chars'", "error")
    readable, values, components = _readable(rows), {}, {}
    whole = (len(compared) - 1) * facts["repeats"]
    for name in compared:
        won = [_beta(sizes, row, alpha, length_control) for row in readable if row["verdict"] == name]
        judged = sum(name in (row["first"], row["second"]) for row in readable)
        counted = [beta for beta in won if beta is not None]
        components[name] = {"wins": float(len(won)), "counted": float(len(counted)), "judged": float(judged)}
        if below := whole if invalid == "penalty" else judged:
            values[name] = math.fsum(counted) / below
    return _scores(episode, rows, values, components, invalid)


@reward("copeland", choices={"form": ("half", "net"), **_INVALID})
def copeland(episode: Episode, *, form: str = "half", invalid: str = "penalty") -> Scores:
    """Copeland's score proper: most verdicts of a pair decide it, and a pair counts once, however clear it was.

    ``half``: ``(wins + ties / 2) / opponents``; ``net``: ``(wins - losses) / opponents``.  A pair whose verdicts are
    split evenly is a tie, one without a readable verdict is left out, on both sides.  SERL's reward differs: it counts
    verdicts, not pairs, and weighs them by length.  Source: Copeland 1951; Fishburn 1977.

    Returns:
        Actor: 0 to 1 (``net``: -1 to 1); components ``wins``, ``ties``, ``opponents``; ``abstain`` without an
        opponent.  Judge: -1, 0, +1.
    """
    rows = _rows(episode, "pairwise")
    if rows is None:
        return _not_judged(episode, "no pairwise judgements in this game")
    count: dict[str, dict[str, float]] = {}
    for pair in pairs(rows):
        for name in (pair["a"], pair["b"]) if pair["tie"] or pair["winner"] else ():
            its = count.setdefault(name, {"wins": 0.0, "ties": 0.0, "opponents": 0.0})
            its["wins"] += pair["winner"] == name
            its["ties"] += pair["tie"]
            its["opponents"] += 1
    values = {}
    for name, c in count.items():
        losses = c["opponents"] - c["wins"] - c["ties"]
        points = c["wins"] + c["ties"] / 2 if form == "half" else c["wins"] - losses
        values[name] = points / c["opponents"]
    return _scores(episode, rows, values, count, invalid)


@reward("bradley_terry", within={"prior": (0.01, 100)}, choices=_INVALID)
def bradley_terry(episode: Episode, *, prior: float = 0.5, invalid: str = "penalty") -> Scores:
    """Strengths under which i beats j with probability ``p_i / (p_i + p_j)``; an actor gets its mean chance to win.

    Fitted to the readable verdicts by the MM algorithm (Hunter 2004), each answer having besides ``prior`` wins and
    ``prior`` losses against a virtual opponent of strength 1.  So an answer that never lost has a finite strength, and
    answers in parts of the comparison graph that no verdict joins are compared by way of the virtual opponent.  An
    evenly split pair needs no rule: it is as many wins for either.

    Returns:
        Actor: above 0 and below 1, the mean over the other judged answers of the chance to beat them; component
        ``strength`` (natural logarithm of p).  ``abstain`` without a readable verdict.  Judge: -1, 0, +1.
    """
    rows = _rows(episode, "pairwise")
    if rows is None:
        return _not_judged(episode, "no pairwise judgements in this game")
    readable = _readable(rows)
    names = sorted({row[side] for row in readable for side in ("first", "second")})
    place = {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for row in readable:
        wins[place[row["verdict"]], place[_loser(row)]] += 1
    values, components = {}, {}
    strength = strengths(wins, prior)
    for name, i in place.items():
        chances = [strength[i] / (strength[i] + strength[j]) for j in range(len(names)) if j != i]
        # Fitted to 1e-12: what is level by symmetry is level to about that, and nothing else is.
        values[name] = round(math.fsum(chances) / len(chances), 9)
        components[name] = {"strength": math.log(strength[i])}
    return _scores(episode, rows, values, components, invalid)


def strengths(wins: np.ndarray, prior: float) -> np.ndarray:
    """Bradley-Terry strengths ``float64[n]`` by MM; ``wins[i, j]``: how often i beat j, ``float64[n, n]``.

    ``prior`` above 0: virtual wins and losses of each against an opponent of strength 1, which makes the fit finite and
    unique.
    """
    games, won = wins + wins.T, wins.sum(1) + prior
    p = np.ones(len(wins))
    for _ in range(10_000):
        new = won / ((games / (p[:, None] + p[None, :])).sum(1) + 2 * prior / (p + 1.0))
        done = np.abs(np.log(new) - np.log(p)).max(initial=0.0) < 1e-12
        p = new
        if done:
            break
    return p


@reward("self_score", choices=_POINTS)
def self_score(episode: Episode, *, judge: str = "agreement", invalid: str = "penalty") -> Scores:
    """The mean of the scores that an answer was given, 0 to 1 (Self-Rewarding Language Models, arXiv 2401.10020).

    Actor: ``mean of score / 10`` (a digit / 9 in compact notation) over the readable judgements of its answer.  The
    paper averages three scores of 0 to 5 and does not train the judge by reward; here it may be.

    ``judge``: ``agreement`` is ``1 - |v - mean of the other readable verdicts on the same answer|``, 0 to 1, or
    ``abstain`` if there is no other; ``format`` is 1 for a readable verdict (Multi-Agent Evolve, arXiv 2510.23595).
    ``invalid``: an unreadable verdict costs the judge a 0 (``penalty``) or gives it no score (``abstain``).

    Returns:
        Actor: 0 to 1, component ``judged``; ``abstain`` without a readable verdict.  Judge: 0 to 1.
    """
    return _points(episode, "score", judge, invalid)


@reward("self_rubric", choices=_POINTS)
def self_rubric(episode: Episode, *, judge: str = "agreement", invalid: str = "penalty") -> Scores:
    """The share of verdicts that call an answer right, 0 to 1: a verifier's reward with the model as its own verifier.

    Arguments and scores as for ``self_score``.
    """
    return _points(episode, "rubric", judge, invalid)


def _points(episode: Episode, kind: str, paid_for: str, invalid: str) -> Scores:
    rows = _rows(episode, kind)
    if rows is None:
        return _not_judged(episode, f"no judgements of kind {kind!r} in this game")
    verdicts: dict[str, list[float]] = {}
    for row in _readable(rows):
        verdicts.setdefault(row["of"], []).append(row["verdict"])

    def judged(agent: str) -> Score | None:
        its = verdicts.get(agent)
        return Score(math.fsum(its) / len(its), "ok", {"judged": float(len(its))}) if its else None

    found = by_agent(episode, "actor", judged, "no readable verdict")
    for row in rows:
        agent, verdict = row["judge"], row["verdict"]
        others = len(verdicts.get(row["of"], ())) - 1
        if verdict is None:
            found[agent] = _unreadable(episode, agent, invalid, 0.0)
        elif paid_for == "format":
            found[agent] = Score(1.0)
        elif others:
            rest = (math.fsum(verdicts[row["of"]]) - verdict) / others
            found[agent] = Score(min(1.0, max(0.0, 1.0 - abs(verdict - rest))))
        else:
            found[agent] = Score(0.0, "abstain", detail="no other verdict on this answer")
    return found


@reward("self_certainty")
def self_certainty(episode: Episode, *, role: str = "actor") -> Scores:
    """How likely the writer found its own completion: ``exp(mean log-probability of the sampled tokens)``.

    Departs from its namesake (self-certainty, arXiv 2502.18581; the reward of Intuitor, arXiv 2505.19590), the mean
    divergence of the uniform distribution from the next token's: that needs the whole distribution at every position,
    and a turn keeps the sampled tokens' log-probabilities.  Their mean is an unbiased estimate of minus the entropy, so
    both reward sharpness; they weigh the tail differently.  No judge is asked.

    Returns:
        Above 0, at most 1, the geometric mean of the tokens' probabilities.  Component ``tokens``.  ``abstain`` for a
        turn without log-probabilities.
    """

    def certainty(turn: Turn) -> Score | None:
        if not turn.logprobs:
            return None
        mean = math.fsum(turn.logprobs) / len(turn.logprobs)
        return Score(min(1.0, math.exp(min(0.0, mean))), "ok", {"tokens": float(len(turn.logprobs))})

    return each(episode, role, certainty, "no log-probabilities in this turn")


@reward("self_judge", choices=_INVALID)
def self_judge(episode: Episode, *, invalid: str = "penalty") -> Scores:
    """The default of ``dream_envs/SelfJudge-v0``, by its ``judging``.

    ``pairwise``: ``serl``; ``score``: ``self_score``; ``rubric``: ``self_rubric``; ``none``: ``majority`` of the
    actors' completions (TTRL).
    """
    judging = str(episode.outcome.facts.get("judging"))
    if judging == "none":
        return majority(role="actor")(episode)
    return {"score": self_score, "rubric": self_rubric}.get(judging, serl)(invalid=invalid)(episode)


def _not_judged(episode: Episode, why: str, status: Any = "abstain") -> Scores:
    """The same status for all actors and judges."""
    agents = [*agents_of(episode, "actor"), *agents_of(episode, "judge")]
    return dict.fromkeys(agents, Score(0.0, status, detail=why))


def _rows(episode: Episode, kind: str) -> list[Row] | None:
    facts = episode.outcome.facts
    return facts.get("judgements") if facts.get("judging") == kind else None


def _readable(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["verdict"] is not None]


def _loser(row: Row) -> str:
    return str(row["second"] if row["verdict"] == row["first"] else row["first"])


def _beta(sizes: Mapping[str, Any], row: Row, alpha: float, control: str) -> float | None:
    """What a win is worth; None outside the band."""
    if control == "off":
        return 1.0
    mine, other = sizes[row["verdict"]], sizes[_loser(row)]
    if control == "symmetric":
        return 1.0 if (1 - alpha) * other < mine and (1 - alpha) * mine < other else None
    if not (1 - alpha) * other < mine < (1 + alpha) * other:
        return None
    return other / mine if control == "serl" else 1.0


def _scores(
    episode: Episode, rows: list[Row], values: dict[str, float], components: dict[str, dict[str, float]], invalid: str
) -> Scores:
    """The actors' places, and for each judge the sign of its verdict's agreement with them."""

    def placed(turn: Turn) -> Score | None:
        return Score(values[turn.agent], "ok", components[turn.agent]) if turn.agent in values else None

    found = each(episode, "actor", placed, "no readable verdict")
    for row in rows:
        if row["verdict"] is None:
            found[row["judge"]] = _unreadable(episode, row["judge"], invalid, -1.0)
        else:
            lead = values[row["verdict"]] - values[_loser(row)]
            sign = 0.0 if abs(lead) <= _TIE else math.copysign(1.0, lead)
            found[row["judge"]] = Score(sign, "ok", {"lead": lead})
    return found


def _unreadable(episode: Episode, judge: str, invalid: str, lowest: float) -> Score:
    """What a judge without a readable verdict gets."""
    turn = last_turns(episode, "judge").get(judge)
    if turn is not None and turn.status == "ok" and invalid == "penalty":
        return Score(lowest, detail="unreadable verdict")
    return unanswered(turn, "", "unreadable" if turn is not None else "nothing to judge")
