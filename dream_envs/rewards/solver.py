"""Rewards for those who answer: correctness, format, agreement with the majority or with labels; and the judge's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dream_envs.core import DreamEnvsError, Episode, Score, Turn, challenge_of
from dream_envs.rewards.base import Scores, Shown, agents_of, by_agent, each, last_turns, rejected, reward, said

#: What a reply of a family looks like, right or wrong, in any of its notations (``re.fullmatch``).  Blanks around a
#: reply are part of the form where the family forgives them in one of its notations.
REPLY_FORMS: dict[str, str] = {
    "composition": r"(?:[A-Z][a-z])+|\s*[A-Z] -> [a-z](?:, [A-Z] -> [a-z])*\s*",
    "arithmetic": r"\s*-?[0-9]+(?:/[0-9]+)?\s*",
    "reverse_addition": r"\s*[0-9]+\s*",
    "countdown": r"[\s(]*[0-9]+[\s)]*(?:[-+*/][\s(]*[0-9]+[\s)]*)*",
    "programs": (r"\s*(?:-?[0-9]+|\[-?[0-9]+(?:, ?-?[0-9]+)*\]|[-+*/%<=@0-9a-zA-Z]*[x0-9]|[a-z]+\([a-z0-9(), ]+\))\s*"),
    "python": (
        r"\s*(?:-?[0-9][0-9.e+-]*|True|False|None|'[^'\n]*'|\"[^\"\n]*\"|[\[({][ -~]*[\])}]"
        r"|(?:from|import|def) [ -~\n]*(?:[\])}0-9'\"]|(?:return|if|else|in|and|or|not|[-+*/%<>=]) \w+))\s*"
    ),
}
MAX_FORM_CHARS = 4096  # a pattern is never tried on a longer reply: that has no family's form


@reward("correctness")
def correctness(episode: Episode, *, role: str = "solver") -> Scores:
    """1 for a right answer, 0 for a wrong one, as the verdicts ``facts["correct"]`` have it (verifier or judge).

    ``abstain`` without a verdict, or the call's own status if the agent's call failed.
    """
    verdicts = episode.outcome.facts.get("correct")
    if not isinstance(verdicts, Mapping):
        missing = Score(0.0, "error", detail="this game records no facts['correct']")
        return dict.fromkeys(agents_of(episode, role), missing)
    return by_agent(episode, role, verdicts.get, "no verdict")


@reward("judge_agreement")
def judge_agreement(episode: Episode, *, role: str = "judge") -> Scores:
    """The share of a judge's verdicts that agree with the truth that the game recorded beside them; a coin gets 0.5.

    Where every judge has a judgement of its own (a panel, ``SelfJudge``), its one verdict: 1 or 0, ``abstain`` for two
    answers that are both right or both wrong.  No readable verdict, or nothing to judge, is ``abstain`` too.  Only
    completions with both a verdict and a truth count.
    """
    facts, code, turns = episode.outcome.facts, rejected(episode), last_turns(episode, role)
    if "judgements" in facts:
        return _each_judge(episode, role)
    verdicts, truths = facts.get("correct") or {}, facts.get("truth")
    pairs = [(v, t) for a, v in verdicts.items() if v is not None and (t := (truths or {}).get(a)) is not None]

    def agrees(agent: str) -> Score | None:
        if code or not verdicts or (agent in turns and turns[agent].status != "ok"):
            return None
        if truths is None:
            return Score(0.0, "error", detail="this game records no facts['truth']")
        if not pairs:
            return Score(0.0, "abstain", detail="no verdict")
        share = sum((v >= 0.5) == (t >= 0.5) for v, t in pairs) / len(pairs)
        return Score(share, components={"judged": float(len(pairs))})

    return by_agent(episode, role, agrees, "nothing to judge")


def _each_judge(episode: Episode, role: str) -> Scores:
    facts = episode.outcome.facts
    truths, rows = facts.get("truth") or {}, {row["judge"]: row for row in facts["judgements"]}

    def agrees(agent: str) -> Score | float | None:
        row = rows.get(agent, {})
        verdict, one, two = row.get("verdict"), truths.get(row.get("first")), truths.get(row.get("second"))
        if verdict is None:
            return None
        if "of" in row and (truth := truths.get(row["of"])) is not None:
            return float((verdict >= 0.5) == (truth >= 0.5))
        if one is not None and two is not None and one != two:
            return float(truths[verdict] == max(one, two))
        return Score(0.0, "abstain", detail="no truth to agree with")

    return by_agent(episode, role, agrees, "no verdict")


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
    ``outcome.facts["format"]`` (``{agent: 0 or 1}``), whether an answer could be read where replies are read, or else
    ``REPLY_FORMS`` of the family.  ``error`` for a family whose form nobody named.
    """
    recorded = episode.outcome.facts.get("format") if pattern is None else None
    problem = challenge_of(episode) or (episode.tasks[-1] if episode.tasks else None)
    form = pattern if pattern is not None else REPLY_FORMS.get(problem.family if problem else "")

    def fits(turn: Turn) -> Any:
        if isinstance(recorded, Mapping) and recorded.get(turn.agent) is not None:
            return recorded[turn.agent]
        if pattern is None and turn.extracted is not None:
            return float(bool(turn.extracted))
        if form is None:
            family = problem.family if problem else "?"
            return Score(0.0, "error", detail=f"no reply form for family {family!r}: give pattern=")
        return float(len(turn.text) <= MAX_FORM_CHARS and re.fullmatch(form, turn.text) is not None)

    return each(episode, role, fits)


@reward("majority", choices={"tie": ("abstain", "share")})
def majority(episode: Episode, *, tie: str = "abstain", role: str = "solver") -> Scores:
    """1 for the reply that most solvers gave, 0 for any other (TTRL, arXiv 2504.16084); the truth is not asked.

    Empty completions do not vote, cannot become the label, and get 0.  ``tie``: nobody is scored (``abstain``), or each
    of k tied completions gets 1/k (``share``).  Components: ``share`` of the votes for the label, ``votes``, and where
    the game knows it ``label_right`` (TTRL's label accuracy), which is there to be watched and never enters the value.
    """
    turns = last_turns(episode, role)
    votes = Counter(said(t) for t in turns.values() if t.status == "ok" and said(t))
    top, total = max(votes.values(), default=0), sum(votes.values())
    labels = {text for text, count in votes.items() if count == top}
    components = {"share": top / total, "votes": float(total)} if total else {}
    facts = episode.outcome.facts
    truths = facts.get("truth") or facts.get("correct") or {}
    if len(labels) == 1:
        right = next((truths.get(a) for a, t in turns.items() if said(t) in labels and t.status == "ok"), None)
        components |= {} if right is None else {"label_right": float(right)}
    why = "no votes" if not total else f"{len(labels)} replies tie" if len(labels) > 1 and tie == "abstain" else ""

    def voted(turn: Turn) -> Score:
        if why:
            return Score(0.0, "abstain", components, why)
        return Score(1 / len(labels) if said(turn) in labels else 0.0, "ok", components)

    return each(episode, role, voted)


class Labels(Shown):
    """Labels by problem id, as they were when this was made."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.of = dict(labels)
        super().__init__([f"{k}={v}" for k, v in self.of.items()])


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
    return each(episode, role, lambda turn: None if label is None else float(said(turn) == label), "no label")
