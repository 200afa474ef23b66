"""Days and nights: a learner's practice with sleep in it, in one run folder that a kill does not spoil.

``days/NN`` holds a day's checkpoints, its last weights and what was lived through; ``nights/NN`` the night behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.agents.sleep.experience import Buffer
from dream_envs.agents.sleep.night import refuse
from dream_envs.agents.training.grpo import newest_checkpoint
from dream_envs.core import AgentLike, DreamEnvsError, Progress
from dream_envs.runs import read_json, write_json

if TYPE_CHECKING:
    from dream_envs.agents.sleep.consolidation import SleepConsolidation

DAY = "day.json"


class Place(msgspec.Struct, frozen=True):
    """Where a day's checkpoints go; a learner asks no more of a run."""

    path: Path


def days(sleeper: SleepConsolidation, env: Any, seats: Mapping[str, AgentLike], budget: int, run: Any) -> Progress:
    """See ``SleepConsolidation.improve``."""
    if budget < 1:
        raise DreamEnvsError(f"budget={budget}: 1 step or more")
    if sleeper.settings.waits:
        refuse(sleeper.settings, ["reading"], "a learner that plays by itself reads nothing that is counted")
    root, every, first = Path(run.path), sleeper.settings.every, getattr(env, "first", 0)
    morning: Path | None = None
    if sleeper.morning is None:
        sleeper.rise()
    progress = Progress(0, 0)
    for day, done in enumerate(range(0, budget, every)):
        place, night = root / "days" / f"{day:02d}", root / "nights" / f"{day:02d}"
        if hasattr(env, "first"):
            env.first = first + done
        # A later day that has begun knows the curriculum; to restore an earlier one would cut the run's files back.
        known = None if (root / "days" / f"{day + 1:02d}" / "morning" / DAY).is_file() else env
        progress = _wake(sleeper, env, seats, min(every, budget - done), place, progress, known)
        morning = morning or place / "morning"  # of the first day since the last night
        if not night.exists() and not _tired(sleeper):
            continue
        found = sleeper.sleep(night, morning)
        memory = getattr(env, "memory", None)
        if found.undone:
            _recall(sleeper, known, place)
        elif sleeper.forgets(found) and isinstance(memory, Buffer):
            memory.clear()
        morning = None
    if hasattr(env, "first"):
        env.first = first
    return msgspec.structs.replace(progress, steps=budget)


def _tired(sleeper: SleepConsolidation) -> bool:
    """Whether a night follows: not where nothing was lived through, nor with ``waits`` where nothing calls for it."""
    return len(sleeper.buffer) > 0 and (not sleeper.settings.waits or sleeper.due() is not None)


def _wake(
    sleeper: SleepConsolidation,
    env: Any,
    seats: Mapping[str, AgentLike],
    steps: int,
    place: Path,
    before: Progress,
    known: Any,
) -> Progress:
    """One day; a finished one is only read, into the learner and into ``known`` (None: nothing is)."""
    state = read_json(place / DAY)
    if state is None:
        begun = place / "morning"
        if not (begun / DAY).is_file():  # a day that was broken off begins with the weights that it began with
            sleeper.learner.save(str(begun))
            write_json(begun / DAY, _state(env))
        else:
            sleeper.learner.load(str(begun))
            if newest_checkpoint(place / "checkpoints", remove=False) is None:  # else the learner restores it itself
                _restore(env, read_json(begun / DAY) or {})
        found = sleeper.learner.improve(env, seats, steps, Place(place))
        sleeper.learner.save(str(place / "evening"))
        memory = getattr(env, "memory", None)
        if isinstance(memory, Buffer):
            sleeper.live(memory.all())
        progress = {"samples": found.samples, "metrics": found.metrics}
        lived = {"buffer": sleeper.buffer.state(), "read": sleeper.read}
        write_json(place / DAY, {**_state(env), **lived, "progress": progress})
        return Progress(before.steps + steps, found.samples, found.metrics)
    _recall(sleeper, known, place)
    sleeper.buffer.restore(state["buffer"])
    sleeper.read = state.get("read", 0)
    return Progress(before.steps + steps, state["progress"]["samples"], state["progress"]["metrics"])


def _recall(sleeper: SleepConsolidation, env: Any, place: Path) -> None:
    """Weights and curriculum as they were in the evening; without an ``env`` the weights alone."""
    sleeper.learner.load(str(place / "evening"))
    _restore(env, read_json(place / DAY) or {})


def _state(env: Any) -> dict[str, Any]:
    return {"env": env.state()} if hasattr(env, "state") and hasattr(env, "restore") else {}


def _restore(env: Any, state: dict[str, Any]) -> None:
    if env is not None and "env" in state:
        env.restore(state["env"])
