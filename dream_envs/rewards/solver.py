"""Rewards for those who answer: correctness, format, agreement with the majority or with labels; and the judge's.

All of them give ``abstain`` to agents that never came to answer because the proposal was turned away, and the call's
own status (``timeout``, ``error``) to an agent whose call failed: neither is a wrong answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dream_envs.checks import check, one_of
from dream_envs.core import DreamEnvsError, Episode, Score, Turn, challenge_of, content_hash
from dream_envs.rewards.base import Scores, agents_of, each, last_turns, rejected, reward, unanswered

#: What a reply of a family looks like, right or wrong, in any of its notations (``re.fullmatch``).  Blanks around a
#: reply are part of the form where the family forgives them in one of its notations.
REPLY_FORMS: dict[str, str] = {
    "composition": r"(?:[A-Z][a-z])+|\s*[A-Z] -> [a-z](?:, [A-Z] -> [a-z])*\s*",
    "arithmetic": r"\s*-?[0-9]+(?:/[0-9]+)?\s*",
    "reverse_addition": r"\s*[0-9]+\s*",
    "countdown": r"[\s(]*[0-9]+[\s)]*(?:[-+*/][\s(]*[0-9]+[\s)]*)*",
}
MAX_FORM_CHARS = 4096  # a pattern is never tried on a longer reply: that has no family's form


@reward("correctness")
def correctness(episode: Episode, *, role: str = "solver") -> Scores:
    """1 for a right answer, 0 for a wrong one, as the verdicts ``facts["correct"]`` have it (verifier or judge).

    Range 0 to 1.  ``abstain`` without a verdict, or the call's own status if the agent's call failed.
    """
    verdicts = episode.outcome.facts.get("correct")
    found, code = {}, rejected(episode)
    turns = last_turns(episode, role)
    for agent in agents_of(episode, role):
        if not isinstance(verdicts, Mapping):
            found[agent] = Score(0.0, "error", detail="this game records no facts['correct']")
        elif (value := verdicts.get(agent)) is not None:
            found[agent] = Score(value)
        else:
            found[agent] = unanswered(turns.get(agent), code, "no verdict")
    return found


@reward("judge_agreement")
def judge_agreement(episode: Episode, *, role: str = "judge") -> Scores:
    """The share of a judge's verdicts that agree with the truth that the game recorded beside them.

    Where every judge has a judgement of its own (a panel, ``SelfJudge``), its one verdict: 1 or 0.  Of two answers that
    are both right or both wrong neither is truly better: ``abstain``.

    Range 0 to 1 (a coin gets 0.5).  No readable verdict is ``abstain``, never 0; so is an episode in which nothing came
    to be judged.  Only completions with both a verdict and a truth count.
    """
    facts, code = episode.outcome.facts, rejected(episode)
    if "judgements" in facts:
        return _each_judge(episode, role, code)
    verdicts, truths = facts.get("correct") or {}, facts.get("truth")
    pairs = [(v, t) for a, v in verdicts.items() if v is not None and (t := (truths or {}).get(a)) is not None]
    turns, found = last_turns(episode, role), {}
    for agent in agents_of(episode, role):
        if code or (agent in turns and turns[agent].status != "ok") or not verdicts:
            found[agent] = unanswered(turns.get(agent), code, "nothing to judge")
        elif truths is None:
            found[agent] = Score(0.0, "error", detail="this game records no facts['truth']")
        elif not pairs:
            found[agent] = Score(0.0, "abstain", detail="no verdict")
        else:
            share = sum((v >= 0.5) == (t >= 0.5) for v, t in pairs) / len(pairs)
            found[agent] = Score(share, components={"judged": float(len(pairs))})
    return found


def _each_judge(episode: Episode, role: str, code: str) -> Scores:
    facts = episode.outcome.facts
    truths, rows = facts.get("truth") or {}, {row["judge"]: row for row in facts["judgements"]}
    turns, found = last_turns(episode, role), {}
    for agent in agents_of(episode, role):
        row = rows.get(agent, {})
        verdict, one, two = row.get("verdict"), truths.get(row.get("first")), truths.get(row.get("second"))
        if verdict is None:
            found[agent] = unanswered(turns.get(agent), code, "no verdict")
        elif "of" in row and (truth := truths.get(row["of"])) is not None:
            found[agent] = Score(float((verdict >= 0.5) == (truth >= 0.5)))
        elif one is not None and two is not None and one != two:
            found[agent] = Score(float(truths[verdict] == max(one, two)))
        else:
            found[agent] = Score(0.0, "abstain", detail="no truth to agree with")
    return found


def check_pattern(given: dict[str, Any]) -> dict[str, Any]:
    """Refuse a ``pattern`` that is not a regular expression."""
    if given["pattern"] is not None:
        try:
            re.compile(given["pattern"])
        except (re.error, TypeError) as error:
            raise DreamEnvsError(f"pattern={given['pattern']!r} is not a regular expression: {error}") from error
    return given


@reward("format", prepare=check_pattern)
def format_reward(episode: Episode, *, pattern: str | None = None, role: str = "solver") -> Scores:
    """1 if the whole completion has the form of the family's replies, 0 if not; right or wrong does not matter.

    The form is ``pattern``, a regular expression for the whole text; None: what the game recorded in
    ``outcome.facts["format"]`` (``{agent: 0 or 1}``), or else ``REPLY_FORMS`` of the family.  ``error`` for a family
    whose form nobody named.
    """
    recorded = episode.outcome.facts.get("format") if pattern is None else None
    problem = challenge_of(episode) or (episode.tasks[-1] if episode.tasks else None)
    form = pattern if pattern is not None else REPLY_FORMS.get(problem.family if problem else "")

    def fits(turn: Turn) -> Score:
        if isinstance(recorded, Mapping) and recorded.get(turn.agent) is not None:
            return Score(recorded[turn.agent])
        if form is None:
            family = problem.family if problem else "?"
            return Score(0.0, "error", detail=f"no reply form for family {family!r}: give pattern=")
        return Score(float(len(turn.text) <= MAX_FORM_CHARS and re.fullmatch(form, turn.text) is not None))

    return each(episode, role, fits)


def _check_majority(given: dict[str, Any]) -> dict[str, Any]:
    one_of("tie", given["tie"], ("abstain", "share"), "'abstain' (no label) or 'share' (each of k tied gets 1/k)")
    check("min_share", given["min_share"], 0, 1, what="the share of votes that a label needs")
    return given


@reward("majority", prepare=_check_majority)
def majority(episode: Episode, *, tie: str = "abstain", min_share: float = 0.0, role: str = "solver") -> Scores:
    """1 for the reply that most solvers gave, 0 for any other (TTRL, arXiv 2504.16084); the truth is not asked.

    Every readable completion votes, and the order of the solvers does not matter: completions that share the first
    place are not told apart by who spoke first.  Empty ones do not vote, cannot become the label, and get 0.

    ``tie``: at a tie nobody is scored (``abstain``), or each of k tied completions gets 1/k (``share``).
    ``min_share``: a label needs at least this share of the votes, else nobody is scored.

    Returns:
        Range 0 to 1.  Components: ``share`` of the votes for the label, ``votes``, and where the game knows it
        ``label_right`` (TTRL's label accuracy), which is there to be watched and never enters the value.
    """
    turns = last_turns(episode, role)
    votes = Counter(t.text for t in turns.values() if t.status == "ok" and t.text)
    top = max(votes.values(), default=0)
    labels = {text for text, count in votes.items() if count == top}
    total = sum(votes.values())
    components = {"share": top / total, "votes": float(total)} if total else {}
    facts = episode.outcome.facts
    truths = facts.get("truth") or facts.get("correct") or {}
    if len(labels) == 1:
        right = next((truths.get(a) for a, t in turns.items() if t.text in labels and t.status == "ok"), None)
        components |= {} if right is None else {"label_right": float(right)}
    why = "no votes" if not total else f"{len(labels)} replies tie" if len(labels) > 1 and tie == "abstain" else ""
    if not why and top < min_share * total - 1e-9:
        why = f"{top} of {total} votes, below min_share"

    def voted(turn: Turn) -> Score:
        if why:
            return Score(0.0, "abstain", components, why)
        return Score(1 / len(labels) if turn.text in labels else 0.0, "ok", components)

    return each(episode, role, voted)


class Labels:
    """Labels by problem id, as they were when this was made; a grader shows their number and hash, not all of them."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.of = dict(labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self.of == other.of

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{len(self.of)}#{content_hash(*sorted(f'{k}={v}' for k, v in self.of.items()))}"


def _resolve_labels(given: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(labels := given["labels"], (Mapping, Labels)):
        raise DreamEnvsError(f"labels={labels!r:.60}: a dict of problem ids and the replies that count as right")
    return {**given, "labels": Labels(labels) if isinstance(labels, Mapping) else labels}


@reward("pseudo_label", prepare=_resolve_labels)
def pseudo_label(episode: Episode, labels: Any, *, role: str = "solver") -> Scores:
    """1 for the completion that is the problem's label, 0 for any other; the truth is not asked.

    ``labels`` were made before the episode was played, by a vote, a teacher or a document: a dict, problem id -> the
    text that counts as right.  ``abstain`` where the problem has no label.
    """
    problem = challenge_of(episode)
    label = labels.of.get(problem.id) if problem is not None else None

    def agrees(turn: Turn) -> Score:
        return unanswered(turn, "", "no label") if label is None else Score(float(turn.text == label))

    return each(episode, role, agrees, "no label")
