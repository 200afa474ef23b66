"""Rewards of ``Dreaming-v0``, and measures of any role's text as a reward: heuristics of form (``envs.dream_facts``).

Other curators are rewards that there are already, put in place of a part: ``judge(engine=..., role=dreamer,
criteria=...)`` for quality or difficulty, ``reward_model(model=..., role=responder)`` for the reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dream_envs.core import Episode, Score
from dream_envs.envs.dream_facts import MEASURES, language, nearest
from dream_envs.rewards.base import Combination, Scores, each, reward, roles


@reward("measured", choices={"measure": (*MEASURES, "language")}, always=("measure",))
def measured(
    episode: Episode, measure: str = "quality", *, role: str = "dreamer", wanted: str = "en", inverse: bool = False
) -> Scores:
    """A measure of the role's last completion, 0 to 1: ``quality``, ``difficulty``, ``repetition`` or ``safety``.

    ``language``: 1 where the guessed language is ``wanted``, else 0.  ``inverse``: 1 less the measure.
    """

    def value(text: str) -> float:
        found = float(language(text) == wanted) if measure == "language" else MEASURES[measure](text)
        return 1 - found if inverse else found

    return each(episode, role, lambda turn: value(turn.text))


@reward("dreaming", models=("difficulty", "responder"), batched=True)
def dreaming(episodes: Sequence[Episode], *, difficulty: Any = None, responder: Any = None) -> Combination:
    """The default reward of ``Dreaming-v0``; see its manual page.

    ``difficulty``: a reward of the dreamer, cut to 0 to 1, in place of the heuristic.  ``responder``: the responder's
    whole reward.  Where such a part has no value, neither has what it is part of.

    Returns:
        The dreamer's components: ``difficulty``, ``novelty``.  The others of a game with a failed call ``abstain``,
        and so does a responder or curator whose turn never came.
    """
    parts = [model for model in (difficulty, responder) if model is not None]
    found = dict(zip([id(model) for model in parts], (yield parts), strict=True))
    places = [(i, k) for i, e in enumerate(episodes) for k, d in enumerate(_dreams(e)) if not d["reject"]]
    texts = [_dreams(episodes[i])[k]["text"] for i, k in places]
    near = dict(zip(places, nearest(texts), strict=True))
    scored = list[Scores]()
    for i, episode in enumerate(episodes):
        given = {name: None if model is None else found[id(model)][i].get(f"{name}_0", Score(0.0, "abstain"))
                 for name, model in (("dreamer", difficulty), ("responder", responder))}  # fmt: skip
        distances = {
            k: min(distance, float(_dreams(episode)[k]["distance"])) for (at, k), distance in near.items() if at == i
        }
        scored.append(_scores(episode, distances, given))
    return scored


def _dreams(episode: Episode) -> list[dict[str, Any]]:
    return list(episode.outcome.facts.get("dreams", ()))


def _scores(episode: Episode, near: dict[int, float], given: dict[str, Score | None]) -> Scores:
    facts, silent = episode.outcome.facts, Score(0.0, "abstain", detail="its turn never came")
    scores: Scores = dict.fromkeys(roles(episode), silent)
    if failed := facts.get("failed"):
        return {
            **scores,
            failed: Score(0.0, episode.outcome.status, detail=f"the call ended in {episode.outcome.status}"),
        }
    if "dreamer_0" not in scores:  # another game
        return scores
    scores["dreamer_0"] = dreamer = _dreamer(_dreams(episode), near, given["dreamer"])
    replies = [d for d in _dreams(episode) if d["reply"] is not None]
    if replies:
        own = [0.0 if d["reject"] else d["measures"]["reply_quality"] * (1 - d["measures"]["echo"]) for d in replies]
        turns = [value / len(own) for value in own]
        scores["responder_0"] = given["responder"] or Score(sum(turns), turns=turns if len(turns) > 1 else None)
    if verdict := facts["verdict"]:
        value, status = dreamer.value, dreamer.status
        agreement = {"keep": value, "reject": 1 - value}.get(verdict, 0.0)
        scores["curator_0"] = Score(agreement if status == "ok" else 0.0, status)
    return scores


def _dreamer(dreams: Sequence[dict[str, Any]], near: dict[int, float], judged: Score | None) -> Score:
    """Validity times difficulty times novelty of each dream, in equal parts."""
    if judged is not None and judged.status != "ok" and not any(d["reject"] for d in dreams):
        return Score(0.0, judged.status, detail=judged.detail, judgements=judged.judgements)
    hard, new = list[float](), list[float]()
    for k, dream in enumerate(dreams):
        asked = dream["measures"].get("difficulty", 0.0) if judged is None else min(1.0, max(0.0, judged.value))
        hard.append(0.0 if dream["reject"] else asked)
        new.append(near.get(k, 0.0))
    turns = [a * b / len(dreams) for a, b in zip(hard, new, strict=True)]
    parts = {"difficulty": sum(hard) / len(hard), "novelty": sum(new) / len(new)} if dreams else {}
    judgements = judged.judgements if judged is not None else {}
    return Score(sum(turns), "ok", parts, turns=turns if len(turns) > 1 else None, judgements=judgements)
