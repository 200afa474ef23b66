"""The nights of a loop: what a stage of ``baselines.loop`` sleeps on, where that is kept, and what it changed.

A night lies in ``night/`` beside its stage's checkpoints; ``told.json`` says what the yardstick measured before and
behind it, which enters nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.dreams import DreamSettings, FamilyImagination
from dream_envs.agents.sleep.night import SleepSettings, refuse
from dream_envs.agents.sleep.reader import Reader
from dream_envs.agents.sleep.seeding import SeedingSettings
from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.critic import FILE as HEAD
from dream_envs.runs import read_json, write_json

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Job, Stand

TOLD = "told.json"
#: The flagship's nights.  Nothing is read there, so nothing is dreamt with a context, and what seeds is what was
#: verified by day (``hard``); the evening's learner is what the rest is held to.
FULL = SleepSettings(
    learning=SeedingSettings(steps=60, batch=96, lr=1e-3, lam=0.0, alpha=1.0, hard=1.0),
    dreaming=DreamSettings(dreams=4, memory=4, fiction=0, size=96, proposals=0.2, today=0.0),
    experience=2048,
    apart=0.02,
    dreamt=0.4,
    forget=False,
    capacity=256,
)
PLANS = {
    "full": FULL,
    "no_dreaming": msgspec.structs.replace(FULL, dreaming=None),
    "no_seeding": msgspec.structs.replace(FULL, seeding=False),
}


def rested(settings: SleepSettings | None, place: Path) -> bool:
    """Whether the stage in ``place`` has nothing left to sleep on."""
    return settings is None or (place / "night" / TOLD).is_file()


def dawn(place: Path) -> Path:
    """The weights behind the night: the evening's if it was undone."""
    told = read_json(place / "night" / TOLD) or {}
    return place / "checkpoints" / "final" if told["night"]["undone"] else place / "night" / "dawn"


def night(job: Job, number: int, stand: Stand, practice: Practice, place: Path, morning: str) -> Path:
    """Sleep on the day's memory, unless that is done; the folder of the weights behind it.

    Args:
        job: what is run.
        number: of the stage that the night is behind.
        stand: where the job stands.
        practice: of this stage.
        place: the stage's folder; nothing that is random hangs on its name.
        morning: the weights that the stage began with.
    """
    stage = job.stages[number]
    assert stage.night is not None
    never = ["waits", "reading", "alert", *(["block"] if stage.night.block > 1 else [])]
    refuse(stage.night, never, "each stage of a loop has one night, and begins anew")
    name = f"{number:02d}-{stage.name}"
    folder, final = place / "night", place / "checkpoints" / "final"
    if (folder / TOLD).is_file():
        return dawn(place)
    family, avoid = stand.yardstick.family, [t.id for t in stand.yardstick.reserved()]
    reader = Reader(str(final))
    sleeper = SleepConsolidation(
        reader, FamilyImagination(family, avoid), settings=stage.night, seed=f"{job.seed}/{name}"
    )
    assert practice.memory is not None, "a stage with a night needs a practice with a memory"
    if not len(practice.memory):  # nothing was solved all day: there is nothing to sleep on
        evening = stand.yardstick.means(LocalAgent(str(final)))
        write_json(folder / TOLD, {"stage": name, "night": {"undone": True}, "evening": evening, "dawn": evening})
        return final
    sleeper.live(practice.memory.all())
    found = sleeper.sleep(folder, morning)
    if not found.undone and (final / HEAD).is_file():
        shutil.copyfile(final / HEAD, folder / "dawn" / HEAD)
    told = {
        "stage": name,
        "night": msgspec.to_builtins(found),
        "evening": stand.yardstick.means(LocalAgent(str(final))),
        "dawn": stand.yardstick.means(reader.agent),
    }
    write_json(folder / TOLD, told)
    return dawn(place)


def timeline(run: Path) -> list[dict[str, Any]]:
    """Every night of a run in order: exact success by depth in the evening and at dawn, and what happened."""
    paths = sorted(run.glob(f"stages/*/night/{TOLD}")) or sorted(run.glob(f"night/{TOLD}"))
    return [told for path in paths if (told := read_json(path)) is not None]
