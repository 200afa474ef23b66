"""The trainer's side of an entry with code: its recipe as checked data, its functions as calls into the sandbox.

What goes in: episodes without answers, rows without token ids.  What comes out: numbers.  What is trained on was
sampled by the policy, whatever the entry says.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.training.rows import Round
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.baselines.recipe import Loop, Phase, Recipe
from dream_envs.core import DreamEnvsError, Episode, Score, content_hash
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.leaderboard import wire
from dream_envs.rewards import reward
from dream_envs.rewards.base import Scores

#: Seconds that one call of an entry's function may take.
PATIENCE = 60.0
#: Where the sources of an entry's recipe may come from.
SOURCES = re.compile(r"dream_envs\.(baselines\.loops\.\w+|agents\.training\.sources):(\w+)")
_EXPRESSION = re.compile(r"[\w .,+*()=-]{1,500}")
#: Rewards that load a model or call one.
_CALLING = re.compile(r"\b(judge|reward_model|self_judge\w*)\b")


class PhasePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A phase as data."""

    name: str
    steps: int
    weights: str = "policy"
    seats: dict[str, str] | None = None
    gates: tuple[str, ...] | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry's recipe as data, from a process that is not trusted.  A reward None is a function of the entry's."""

    args: dict[str, int | float | bool]
    mixture: Mixture
    gates: tuple[str, ...]
    novelty: float
    reward: dict[str, str | None]
    seats: dict[str, str]
    phases: list[PhasePlan]
    final: str
    learner: str
    learning: dict[str, Any]
    sources: str
    nights: dict[str, Any] | None
    advantages: bool


class Remote:
    """An entry's own process, by the two ends of its pipes."""

    def __init__(self, fds: tuple[int, int]) -> None:
        self.fds = fds

    def call(self, name: str, **words: Any) -> Any:
        """What a function of the guest's returns.

        Raises:
            DreamEnvsError: with the entry's own error, if it is late, or has ended.
        """
        wire.send(self.fds[1], {"call": name, "with": words})
        found = wire.receive(self.fds[0], PATIENCE)
        if not isinstance(found, dict) or "ok" not in found:
            error = found.get("error") if isinstance(found, dict) else None
            raise DreamEnvsError(f"the entry's {name}: {error!s:.500}")
        return found["ok"]


#: The one entry of this process, for ``LOOP``.
_remote: Remote | None = None
LOOP: Loop


def its() -> Remote:
    """The one entry of this process."""
    assert _remote is not None
    return _remote


def bare(episode: Episode) -> Episode:
    """An episode without answers, and without the ids that are hashes of them."""
    tasks = [msgspec.structs.replace(t, answer="", id=content_hash(t.family, t.prompt)) for t in episode.tasks]
    return msgspec.structs.replace(episode, tasks=tasks, seed="", scores={})


@reward("entry", batched=True)
def entry_reward(episodes: Sequence[Episode], *, role: str) -> list[Scores]:
    """What the entry's own function pays a role."""
    found = its().call("reward", role=role, episodes=[msgspec.to_builtins(bare(e)) for e in episodes])
    try:
        scores = msgspec.convert(found, list[dict[str, Score]])
    except msgspec.ValidationError as error:
        raise DreamEnvsError(f"the entry's reward of {role}: {error}") from None
    if len(scores) != len(episodes):
        raise DreamEnvsError(f"the entry's reward of {role}: {len(scores)} results for {len(episodes)} episodes")
    return [dict(s) for s in scores]


class Advantages:
    """The entry's own advantages of the rows that were sampled; it sees what they earned, not their tokens."""

    def apply(self, rows: list[TrainingRow], round: Round, rng: np.random.Generator) -> list[TrainingRow]:
        """The rows, weighed anew."""
        own = [i for i, row in enumerate(rows) if row.role]
        groups = dict[tuple[int, ...], int]()
        told = [
            {
                "role": rows[i].role, "group": groups.setdefault(tuple(rows[i].prompt), len(groups)),
                "value": rows[i].value, "advantage": rows[i].advantage, "tokens": len(rows[i].completion),
                "progress": round.progress,
            }
            for i in own
        ]  # fmt: skip
        if not told:
            return rows
        found = its().call("advantages", rows=told, seed=f"{int(rng.integers(2**63))}")
        if not isinstance(found, list) or len(found) != len(own) or not np.isfinite(np.array(found, float)).all():
            raise DreamEnvsError(f"the entry's advantages: {len(own)} finite numbers, one a row")
        made = list(rows)
        for i, value in zip(own, found, strict=True):
            made[i] = msgspec.structs.replace(rows[i], advantage=float(value))
        return made


def checked(data: Any) -> Plan:
    """The plan, if there is nothing in it but what a recipe of the board may have.

    Raises:
        DreamEnvsError: naming what is refused.
    """
    try:
        plan = msgspec.convert(data, Plan)
    except msgspec.ValidationError as error:
        raise DreamEnvsError(f"the entry's recipe: {error}") from None
    weights = {p.weights for p in plan.phases} | {"policy", "base"}
    for seats in (plan.seats, *(p.seats or {} for p in plan.phases)):
        if unknown := set(seats.values()) - weights:
            raise DreamEnvsError(f"the entry's recipe: seat {min(unknown)!r:.40}; {', '.join(sorted(weights))}")
    for text in filter(None, plan.reward.values()):
        if not _EXPRESSION.fullmatch(text) or _CALLING.search(text):
            raise DreamEnvsError(f"the entry's recipe: reward {text!r:.60}: the suite's rewards that call no model")
    if plan.sources and not SOURCES.fullmatch(plan.sources):
        raise DreamEnvsError(f"the entry's recipe: sources {plan.sources!r:.80}: a function of a loop of the suite")
    if "engine" in plan.learning or any(str(v).count(":") for v in plan.learning.values() if isinstance(v, str)):
        raise DreamEnvsError("the entry's recipe: learning changes numbers of a learner, not its engine or its code")
    return plan


def recipe_of(plan: Plan, steps: int) -> Recipe:
    """The recipe of a checked plan."""
    sources: list[Any] = []
    if plan.sources:
        module, _, name = plan.sources.partition(":")
        sources = list(getattr(importlib.import_module(module), name)())
    if plan.advantages:
        sources.insert(0, Advantages())
    nights = None
    if plan.nights is not None:
        from dream_envs.agents.sleep.night import SleepSettings

        nights = msgspec.convert(plan.nights, SleepSettings)
    return Recipe(
        args=plan.args, mixture=plan.mixture, gates=plan.gates, novelty=plan.novelty,
        reward={role: entry_reward(role=role) if text is None else text for role, text in plan.reward.items()},
        seats=plan.seats, phases=tuple(Phase(p.name, p.steps, p.weights, p.seats, None, p.gates) for p in plan.phases),
        final=plan.final, learner=plan.learner, learning=plan.learning, sources=lambda: tuple(sources), nights=nights,
        family_args={"max_level": 10}, steps=steps, label="entry",
    )  # fmt: skip


def attach(fds: tuple[int, int], steps: int, settings: dict[str, Any]) -> Plan | None:
    """Ask the entry for its recipe, and make ``LOOP`` of it; None where it trains the policy itself."""
    global _remote, LOOP
    _remote = Remote(fds)
    found = _remote.call("recipe", steps=steps, changes=settings)
    if found == {"trains": True}:
        return None
    plan = checked(found)

    class Settings(msgspec.Struct, frozen=True):
        """None here: the entry has applied its own."""

    LOOP = Loop("entry", "an entry's own", Settings, lambda chosen, wanted: recipe_of(plan, wanted), steps)
    return plan
