"""A small algebra of reward models: ``weighted``, ``gate``, ``clip``, ``per_role``, ``zero_sum``; and ``RoleBaseline``.

Every operation takes names, models, objects or bare functions, and gives a Model again.  The algebra of statuses is
the same everywhere: **a combination has a value only if every part of it has one**.  Otherwise its status is the
gravest among its parts, error > timeout > invalid > abstain > ok, and ``detail`` names the part.  A part that says
nothing about an agent counts as ``abstain`` for it, so that a missing reward never passes for a zero; to give
different roles different rewards, use ``per_role``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dream_envs.core import DreamEnvsError, Episode, Score
from dream_envs.rewards.base import Model, agents_of, aggregate, as_reward, challenge_of, rejected, reward, roles, worst


def _resolve_parts(knobs: dict[str, Any]) -> dict[str, Any]:
    parts = knobs["parts"]
    if not isinstance(parts, Mapping) or not parts:
        raise DreamEnvsError(f"parts={parts!r}: a dict of rewards and their weights, such as {{'correctness': 0.9}}")
    resolved: dict[Model, float] = {}
    for part, weight in parts.items():
        model = as_reward(part)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise DreamEnvsError(f"weight {weight!r} of {model.name}: a finite number")
        if model in resolved:
            raise DreamEnvsError(f"{model.grader} appears twice: add its weights")
        resolved[model] = float(weight)
    return {"parts": resolved, "gate": None if knobs["gate"] is None else as_reward(knobs["gate"])}


@reward("weighted", prepare=_resolve_parts)
def weighted(episode: Episode, parts: Mapping[Any, float], gate: Any = None) -> dict[str, Score]:
    """The weighted sum of several rewards.

    Args:
        episode: passed on to every part.
        parts: reward (name, model, function) -> weight.
        gate: where this reward is ok and not above 0, the sum is 0 (see ``gate``).

    Returns:
        Weighted sums; ``components`` hold each part's own value under its name (its grader where two share a name).
        A status other than ok as said at the head of this module.
    """
    found = {model: model(episode) for model in parts}
    names = [model.name for model in parts]
    labels = {model: model.name if names.count(model.name) == 1 else model.grader for model in parts}
    sums = {}
    for agent in _agents(found.values()):
        scores = {labels[m]: _of(found[m], agent, m) for m in parts}
        status = worst(s.status for s in scores.values())
        components = {label: s.value for label, s in scores.items() if s.status == "ok"}
        if status == "ok":
            total = math.fsum(w * s.value for w, s in zip(parts.values(), scores.values(), strict=True))
            sums[agent] = Score(total, "ok", components)
        else:
            sums[agent] = Score(0.0, status, components, _blame(scores, status))
    return sums if gate is None else _gated(sums, gate(episode), gate, 0.0, 0.0)


def _resolve_gate(knobs: dict[str, Any]) -> dict[str, Any]:
    return {**knobs, "model": as_reward(knobs["model"]), "by": as_reward(knobs["by"])}


@reward("gate", prepare=_resolve_gate)
def gate(episode: Episode, model: Any, by: Any, *, above: float = 0.0, closed: float = 0.0) -> dict[str, Score]:
    """The scores of ``model`` where the score of ``by`` is above ``above``, the value ``closed`` where it is not.

    A gate without a value (status not ok) gives its status, and so does a model without one, open or closed.
    """
    return _gated(model(episode), by(episode), by, above, closed)


def _resolve_clip(knobs: dict[str, Any]) -> dict[str, Any]:
    lo, hi = knobs["lo"], knobs["hi"]
    if not lo <= hi:  # refuses NaN as well
        raise DreamEnvsError(f"lo={lo!r}, hi={hi!r}: lo <= hi")
    return {**knobs, "model": as_reward(knobs["model"])}


@reward("clip", prepare=_resolve_clip)
def clip(episode: Episode, model: Any, lo: float = 0.0, hi: float = 1.0) -> dict[str, Score]:
    """The scores of ``model`` limited to ``lo`` .. ``hi``; what has no value is left as it is.

    A value outside comes with the component ``unclipped``.
    """
    return {agent: _clipped(score, lo, hi) for agent, score in model(episode).items()}


def _resolve_roles(knobs: dict[str, Any]) -> dict[str, Any]:
    models = knobs["models"]
    if not isinstance(models, Mapping) or not models:
        raise DreamEnvsError(
            f"models={models!r}: a dict of roles and their rewards, such as {{'solver': 'correctness'}}"
        )
    return {"models": {str(role): as_reward(model) for role, model in models.items()}}


@reward("per_role", prepare=_resolve_roles)
def per_role(episode: Episode, models: Mapping[str, Any]) -> dict[str, Score]:
    """Each role's own reward; ``abstain`` for a role that has none, and for an agent that its reward leaves out.

    Args:
        episode: passed on to each model of a seated role, once.
        models: role -> reward (name, model, function).

    Returns:
        One score for every agent seated in the episode, with the grader of the role's own model.
    """
    seated = roles(episode)
    found: dict[str, dict[str, Score]] = {}
    for role in dict.fromkeys(seated.values()):
        if role in models:
            found[role] = models[role](episode)
    scores = {}
    for agent, role in seated.items():
        if role in found:
            scores[agent] = _of(found[role], agent, models[role])
        else:
            scores[agent] = Score(0.0, "abstain", detail=f"no reward for role {role!r}")
    return scores


def _resolve_zero_sum(knobs: dict[str, Any]) -> dict[str, Any]:
    if knobs["role"] == knobs["against"]:
        raise DreamEnvsError(f"role and against are both {knobs['role']!r}: a zero-sum game has two sides")
    return {**knobs, "model": as_reward(knobs["model"])}


@reward("zero_sum", prepare=_resolve_zero_sum)
def zero_sum(
    episode: Episode, model: Any, *, role: str = "solver", against: str = "challenger", invalid: float = -1.0
) -> dict[str, Score]:
    """One side gets what ``model`` says, the other side gets minus its mean: the two sides' means sum to zero.

    With ``correctness`` this is Language Self-Play Zero (arXiv 2509.07414): the challenger gets -V(q).

    Args:
        episode: passed on to ``model``.
        model: the reward of the agents of ``role``.
        role: the side that ``model`` scores.
        against: the side that gets minus the mean over that side's ok scores.
        invalid: what ``against`` gets for a proposal that was turned away.  The default is the worst that it can get
            for a valid one under ``correctness``; 0 would make an invalid proposal the best of all.

    Returns:
        Scores of both sides; ``against`` has the gravest status of the other side if none of its scores is ok.
    """
    scores = model(episode)
    side = {agent: _of(scores, agent, model) for agent in agents_of(episode, role)}
    summary = aggregate(side)
    code = rejected(episode)
    if code and episode.outcome.status != "ok":
        other = Score(0.0, episode.outcome.status, detail=f"the game ended in {episode.outcome.status}")
    elif code:
        other = Score(invalid, detail=f"proposal rejected: {code}")
    elif summary.mean is None:
        status = worst(s.status for s in side.values()) if side else "abstain"
        other = Score(0.0, status, detail=f"no {role} has a score")
    else:
        other = Score(0.0 - summary.mean, components={"scored": float(summary.n_ok)})
    return side | dict.fromkeys(agents_of(episode, against), other)


class RoleBaseline:
    """Role-conditioned advantages: a running mean for each (family, role), **read before it is updated**.

    SPIRAL's RAE (arXiv 2506.24119): advantage = reward - b, then b <- decay * b + (1 - decay) * reward, b starting at
    0.  A self-play episode yields one trace for each seat; seats are not exchangeable, so a mean over all of them would
    be the wrong baseline, and one that already contains the reward it is subtracted from is biased.  Several agents of
    one role in an episode are all read first, then b moves once, by their mean, so that their order does not matter.

    Args:
        decay: 0 to below 1; the share of the old value that an update keeps.
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0.0 <= decay < 1.0:
            raise DreamEnvsError(f"decay={decay!r}: 0 or more and below 1 (SPIRAL: 0.95)")
        self.decay = decay
        self._values: dict[tuple[str, str], float] = {}
        self._updates: dict[tuple[str, str], int] = {}

    def value(self, family: str, role: str) -> float:
        """The baseline as it stands; 0.0 before the first reward."""
        return self._values.get((family, role), 0.0)

    def family_of(self, episode: Episode) -> str:
        """The key's first half: ``env_id/family``, with the family of the made problem or else of the brief."""
        problem = challenge_of(episode) or (episode.tasks[0] if episode.tasks else None)
        return f"{episode.env_id}/{problem.family}" if problem else episode.env_id

    def advantages(self, episode: Episode, scores: Mapping[str, Score]) -> dict[str, float]:
        """Advantages of this episode's agents under the baseline before it; afterwards the baseline has seen it.

        Only agents with an ok score have an advantage and move the baseline.
        """
        family, seated = self.family_of(episode), roles(episode)
        by_role: dict[str, list[float]] = {}
        found = {}
        for agent, score in scores.items():
            if score.status == "ok" and math.isfinite(score.value):
                role = seated.get(agent, agent)
                found[agent] = score.value - self.value(family, role)
                by_role.setdefault(role, []).append(score.value)
        for role, values in by_role.items():
            key = (family, role)
            mean = math.fsum(values) / len(values)
            self._values[key] = self.decay * self.value(family, role) + (1.0 - self.decay) * mean
            self._updates[key] = self._updates.get(key, 0) + 1
        return found

    def state_dict(self) -> dict[str, Any]:
        """All there is to save, as plain JSON values."""
        rows = [[*key, value, self._updates[key]] for key, value in sorted(self._values.items())]
        return {"decay": self.decay, "values": rows}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RoleBaseline:
        """The baseline that ``state_dict`` described.

        Raises:
            DreamEnvsError: if it did not.
        """
        try:
            made = cls(float(state["decay"]))
            for family, role, value, updates in state["values"]:
                made._values[str(family), str(role)] = float(value)
                made._updates[str(family), str(role)] = int(updates)
        except (KeyError, TypeError, ValueError) as error:
            raise DreamEnvsError(f"not a saved RoleBaseline ({error!r}): pass what state_dict() gave") from error
        return made


def _agents(found: Iterable[Mapping[str, Score]]) -> list[str]:
    return list(dict.fromkeys(agent for scores in found for agent in scores))


def _of(scores: Mapping[str, Score], agent: str, model: Model) -> Score:
    return scores.get(agent) or Score(0.0, "abstain", detail=f"{model.name} has no score for {agent}")


def _blame(scores: Mapping[str, Score], status: str) -> str:
    """Which part has this status, and why."""
    label, score = next((k, s) for k, s in scores.items() if s.status == status)
    return f"{label}: {score.detail or status}"


def _gated(scores: Mapping[str, Score], by: Mapping[str, Score], model: Model, above: float, closed: float) -> Any:
    found = {}
    for agent in _agents((scores, by)):
        score = scores.get(agent) or Score(0.0, "abstain", detail=f"no score for {agent}")
        key = _of(by, agent, model)
        components = score.components | ({"gate": key.value} if key.status == "ok" else {})
        status = worst((score.status, key.status))
        if status != "ok":
            parts = {"gated": score, f"gate {model.name}": key}
            found[agent] = Score(0.0, status, components, _blame(parts, status))
        elif key.value > above:
            found[agent] = Score(score.value, "ok", components, score.detail)
        else:
            found[agent] = Score(closed, "ok", components, f"gate {model.name} is closed")
    return found


def _clipped(score: Score, lo: float, hi: float) -> Score:
    if score.status != "ok" or lo <= score.value <= hi:
        return score
    components = score.components | {"unclipped": score.value}
    return Score(min(max(score.value, lo), hi), "ok", components, score.detail)
