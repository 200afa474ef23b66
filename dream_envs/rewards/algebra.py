"""A small algebra of reward models: ``weighted``, ``gate``, ``clip``, ``per_role``, ``zero_sum``.

Every operation takes names, models, objects or bare functions, and gives a Model again; each part scores the whole
round in one call.  The algebra of statuses is the same everywhere: **a combination has a value only if every part of it
has one**.  Otherwise its status is the gravest among its parts, error > timeout > invalid > abstain > ok, and
``detail`` names the part.  A part that says nothing about an agent counts as ``abstain`` for it, so that a missing
reward never passes for a zero; to give different roles different rewards, use ``per_role``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Episode, Score
from dream_envs.rewards.base import (
    Combination,
    Model,
    Scores,
    agents_of,
    as_reward,
    rejected,
    revalued,
    reward,
    roles,
    worst,
)


def _need_table(name: str, value: Any, example: str) -> None:
    if not isinstance(value, Mapping) or not value:
        raise DreamEnvsError(f"{name}={value!r}: a dict such as {example}")


def _resolve_parts(given: dict[str, Any]) -> dict[str, Any]:
    _need_table("parts", given["parts"], "{'correctness': 0.9}")
    resolved: dict[Model, float] = {}
    for part, weight in given["parts"].items():
        model = as_reward(part)
        if model in resolved:
            raise DreamEnvsError(f"{model.grader} appears twice: add its weights")
        resolved[model] = float(check(f"weight of {model.name}", weight))
    return {**given, "parts": resolved}


@reward("weighted", prepare=_resolve_parts, models=("gate",), batched=True)
def weighted(episodes: Sequence[Episode], parts: Mapping[Any, float], gate: Any = None) -> Combination:
    """The weighted sum of several rewards: ``parts`` are reward (name, model, function) -> weight.

    Where the reward ``gate`` is ok and not above 0, the sum is 0 (see ``gate``).  ``components`` hold each part's own
    value under its name (its grader where two share a name).
    """
    models, names = list(parts), [model.name for model in parts]
    labels = [model.name if names.count(model.name) == 1 else model.grader for model in models]
    found = yield models if gate is None else [*models, gate]
    sums = []
    for i in range(len(episodes)):
        by_label = {label: (scores[i], m) for label, m, scores in zip(labels, models, found, strict=False)}
        sums.append(_sums(by_label, parts.values()))
    return sums if gate is None else [_gated(s, by, gate, 0.0, 0.0) for s, by in zip(sums, found[-1], strict=True)]


@reward("gate", models=("model", "by"), batched=True)
def gate(episodes: Sequence[Episode], model: Any, by: Any, *, above: float = 0.0, closed: float = 0.0) -> Combination:
    """The scores of ``model`` where the score of ``by`` is above ``above``, the value ``closed`` where it is not.

    A gate without a value (status not ok) gives its status, and so does a model without one, open or closed.
    """
    scores, keys = yield model, by
    return [_gated(its, key, by, above, closed) for its, key in zip(scores, keys, strict=True)]


def ordered(low: str, high: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A ``prepare`` that wants these two arguments in order."""

    def prepare(given: dict[str, Any]) -> dict[str, Any]:
        if not given[low] <= given[high]:  # refuses NaN as well
            raise DreamEnvsError(f"{low}={given[low]!r}, {high}={given[high]!r}: {low} <= {high}")
        return given

    return prepare


@reward("clip", prepare=ordered("lo", "hi"), models=("model",), batched=True)
def clip(episodes: Sequence[Episode], model: Any, lo: float = 0.0, hi: float = 1.0) -> Combination:
    """The scores of ``model`` limited to ``lo`` .. ``hi``; what has no value is left as it is.

    A value outside comes with the component ``unclipped``.
    """
    (found,) = yield (model,)
    return [{agent: _clipped(score, lo, hi) for agent, score in scores.items()} for scores in found]


def _check_roles(given: dict[str, Any]) -> dict[str, Any]:
    _need_table("models", given["models"], "{'solver': 'correctness'}")
    return given


@reward("per_role", prepare=_check_roles, models=("models",), batched=True)
def per_role(episodes: Sequence[Episode], models: Mapping[str, Any]) -> Combination:
    """Each role's own reward: ``models`` are role -> reward (name, model, function).

    Every agent seated in the episode has a score, with the grader of its role's own model: ``abstain`` for a role that
    has none, and for an agent that its reward leaves out.  A model of a role that nobody is seated for is not asked.
    """
    seats = [roles(episode) for episode in episodes]
    asked = {role: model for role, model in models.items() if any(role in its.values() for its in seats)}
    found = dict(zip(asked, (yield list(asked.values())), strict=True))

    def score(i: int, agent: str, role: str) -> Score:
        if role in found:
            return _of(found[role][i], agent, models[role])
        return Score(0.0, "abstain", detail=f"no reward for role {role!r}")

    return [{agent: score(i, agent, role) for agent, role in seated.items()} for i, seated in enumerate(seats)]


def _two_sides(given: dict[str, Any]) -> dict[str, Any]:
    if given["role"] == given["against"]:
        raise DreamEnvsError(f"role and against are both {given['role']!r}: a zero-sum game has two sides")
    return given


@reward("zero_sum", prepare=_two_sides, models=("model",), batched=True)
def zero_sum(
    episodes: Sequence[Episode], model: Any, *, role: str = "solver", against: str = "challenger", invalid: float = -1.0
) -> Combination:
    """``role`` gets what ``model`` says, ``against`` minus its mean over the ok scores: the sides' means sum to zero.

    With ``correctness`` this is Language Self-Play Zero (arXiv 2509.07414): the challenger gets -V(q).  ``invalid`` is
    what ``against`` gets for a proposal that was turned away: by default the worst that it can get for a valid one
    under ``correctness``; 0 would make an invalid proposal the best of all.  If no score of ``role`` is ok, ``against``
    has the gravest of their statuses.
    """
    (found,) = yield (model,)
    made: list[Scores] = []
    for episode, scores in zip(episodes, found, strict=True):
        side = {agent: _of(scores, agent, model) for agent in agents_of(episode, role)}
        values = [score.value for score in side.values() if score.status == "ok"]
        code, status = rejected(episode), episode.outcome.status
        if code and status != "ok":
            other = Score(0.0, status, detail=f"the game ended in {status}")
        elif code:
            other = Score(invalid, detail=f"proposal rejected: {code}")
        elif values:
            other = Score(0.0 - math.fsum(values) / len(values), components={"scored": float(len(values))})
        else:
            status = worst(s.status for s in side.values()) if side else "abstain"
            other = Score(0.0, status, detail=f"no {role} has a score")
        made.append(side | dict.fromkeys(agents_of(episode, against), other))
    return made


def _of(scores: Mapping[str, Score], agent: str, model: Model) -> Score:
    return scores.get(agent) or Score(0.0, "abstain", detail=f"{model.name} has no score for {agent}")


def _failed(parts: Mapping[str, Score], components: dict[str, float]) -> Score | None:
    """The gravest status of these parts, and which of them has it and why; None if all are ok."""
    status = worst(score.status for score in parts.values())
    if status == "ok":
        return None
    label, score = next((label, score) for label, score in parts.items() if score.status == status)
    told = f"{label}: {score.detail or status}"
    return Score(0.0, status, components, told, judgements=_judgements(parts.values()))


def _judgements(parts: Iterable[Score]) -> dict[str, str]:
    """What judges said in any of the parts."""
    return {key: said for score in parts for key, said in score.judgements.items()}


def _turns(parts: Sequence[Score], weights: Sequence[float]) -> list[float] | None:
    """The weighted rewards by turn, None where no part has any; what has only a value is earned by the last turn."""
    known = [len(score.turns) for score in parts if score.turns]
    if not known:
        return None
    count = max(known)
    rows = [score.turns or [0.0] * (count - 1) + [score.value] for score in parts]
    return [math.fsum(w * row[k] for w, row in zip(weights, rows, strict=True)) for k in range(count)]


def _sums(found: Mapping[str, tuple[Scores, Model]], weights: Iterable[float]) -> Scores:
    """The weighted sum for every agent of an episode; ``found``: scores and model of each part, by its label."""
    sums = {}
    for agent in dict.fromkeys(agent for scores, _ in found.values() for agent in scores):
        parts = {label: _of(its, agent, model) for label, (its, model) in found.items()}
        components = {label: score.value for label, score in parts.items() if score.status == "ok"}
        its, by = list(parts.values()), list(weights)
        total = math.fsum(w * score.value for w, score in zip(by, its, strict=True))
        turns, said = _turns(its, by), _judgements(its)
        sums[agent] = _failed(parts, components) or Score(total, "ok", components, turns=turns, judgements=said)
    return sums


def _gated(scores: Scores, by: Scores, model: Model, above: float, closed: float) -> Scores:
    found = {}
    for agent in dict.fromkeys([*scores, *by]):
        score = scores.get(agent) or Score(0.0, "abstain", detail=f"no score for {agent}")
        key = _of(by, agent, model)
        components = score.components | ({"gate": key.value} if key.status == "ok" else {})
        if failed := _failed({"gated": score, f"gate {model.name}": key}, components):
            found[agent] = failed
        elif key.value > above:
            found[agent] = msgspec.structs.replace(
                score, components=components, grader="", judgements=_judgements([score, key])
            )
        else:
            told = f"gate {model.name} is closed"
            found[agent] = Score(closed, "ok", components, told, judgements=_judgements([score, key]))
    return found


def _clipped(score: Score, lo: float, hi: float) -> Score:
    if score.status != "ok" or lo <= score.value <= hi:
        return score
    return revalued(score, min(max(score.value, lo), hi), unclipped=score.value)
