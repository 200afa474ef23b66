"""Ways through the night by name: ``dream-envs train sleep --model nano``.

Each reads a new table a day and is asked for it when it is gone (``dream_envs/SleepCycle-v0``); no verifier rewards it,
so that what it gets at the end is a retention matrix and no Frontier Report.  Several seeds side by side, with
intervals: ``python -m dream_envs.baselines.studies.sleeping``.

Departures from the paper:
    ``sleep`` ("Language Models Need Sleep", 2606.03979): see docs/sleep.md.  ``seal`` (2506.10943): self-edits are
    questions with answers instead of implications in prose; gradients and a lot choose those that are tried; good ones
    are learnt together with the day in the same night, and proposing them is not.  ``l2`` stands where elastic weight
    consolidation would: an expert's weight decay pulls to the evening's weights, all weights alike, without a Fisher
    matrix.  ``replay_sft`` rehearses the day alone, ``static_expert`` is sleep whose nights share one expert's rank,
    ``placebo`` sleep whose teacher was shown another table, ``in_context`` never sleeps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dream_envs.baselines.recipes import NANO, NightRecipe, Settings, knobs_of
from dream_envs.core import DreamEnvsError


class Knobs(msgspec.Struct, frozen=True):
    """``nights``: lessons, one a day.  ``probes``: questions a round, of these ``levels``.  ``wakes``: rounds a day."""

    nights: int = 5
    probes: int = 64
    wakes: int = 3
    levels: tuple[int, ...] = (1, 2)


SLEEP = NightRecipe("sleep", Knobs)
SEAL = NightRecipe("seal", Knobs)
REPLAY_SFT = NightRecipe("replay_sft", Knobs)
IN_CONTEXT = NightRecipe("in_context", Knobs)
L2 = NightRecipe("l2", Knobs)
STATIC_EXPERT = NightRecipe("static_expert", Knobs)
PLACEBO = NightRecipe("placebo", Knobs)


def settings_of(found: NightRecipe, given: Settings) -> Any:
    """The settings of the run.

    Raises:
        DreamEnvsError: for a learner or a number of steps: there is nothing to reward awake.
    """
    from dream_envs.baselines.studies import sleeping

    for name, value in (("agent", given.agent), ("steps", given.steps)):
        if value is not None:
            raise DreamEnvsError(f"{name}={value!r}: {found.name} learns only at night: leave --{name} out")
    knobs = msgspec.to_builtins(knobs_of(found, given.knobs))
    if unknown := sorted(set(knobs) - set(sleeping.Settings.__struct_fields__)):
        raise DreamEnvsError(f"{found.name}: knobs {', '.join(unknown)} are none of a sleeper's settings")
    base = found.base if given.model == NANO else given.model
    return msgspec.convert({**knobs, "method": found.name, "seed": given.seed, "base": base}, sleeping.Settings)


def train(found: NightRecipe, given: Settings, out: Path, *, resume: bool, threads: int) -> dict[str, Any]:
    """Days and nights to their end, and the run's report; returns ``sleeping.json``.

    Raises:
        DreamEnvsError: for settings that cannot be run, or a folder that is taken.
    """
    from dream_envs.baselines.studies import sleeping
    from dream_envs.report.page import write_report

    settings = settings_of(found, given)
    if (out / "run.json").exists() and not (out / sleeping.RESULT).exists() and not resume:
        raise DreamEnvsError(f"{out} holds an unfinished run: add --resume to go on with it, or choose another --out")
    told = sleeping.run(settings, out, method=found.method, threads=threads)
    write_report(out)
    return told
