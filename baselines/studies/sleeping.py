"""Does a night move what was read into the weights?

``python -m dream_envs.baselines.studies.sleeping --out runs/sleeping``.

``nano/context`` reads the table of a new operation by day and is asked about it, and about all earlier ones, when the
table is gone (``dream_envs/SleepCycle-v0``, five nights).  Every method is the same learner on the same lessons with as
many training rows a night; they differ in what they learn from, see ``METHODS``.  Nothing tells the learner whether it
was right.  Finished runs are skipped and unfinished ones resumed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dream_envs import registry
from dream_envs.agents.sleep.dreams import DreamSettings
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.agents.sleep.seeding import SeedingSettings
from dream_envs.baselines.studies.side_by_side import positive, side_by_side
from dream_envs.core import DreamEnvsError
from dream_envs.runs import Run, read_json

RESULT = "sleeping.json"
BASE = "nano/context"
#: Rows a night are the same for every method: steps times batch.  Found on seeds 11 and 12, none of the study's.
LEARNING = SeedingSettings(steps=240, lr=4e-3, lam=0.1)
DREAMS = DreamSettings(fictional=0.4)
FULL = SleepSettings(learning=LEARNING, dreaming=DREAMS, dreamt=0.7, tolerance=None)
SFT = msgspec.structs.replace(FULL, seeding=False, dreaming=None)


class Method(msgspec.Struct, frozen=True):
    """One way through the night.

    ``night``: None does not sleep.  ``lied``: the teacher is shown another table than the learner read (placebo).
    ``static``: all nights together may change each matrix by the rank of one expert.
    """

    says: str
    night: SleepSettings | None = FULL
    lied: bool = False
    static: bool = False


METHODS: dict[str, Method] = {
    "sleep": Method("seeding and dreaming"),
    "no_dreaming": Method("seeding of the day alone", msgspec.structs.replace(FULL, dreaming=None)),
    "no_seeding": Method("fine-tuning on the day and on good dreams", msgspec.structs.replace(FULL, seeding=False)),
    "in_context": Method("no night: what is not before the eyes is gone", None),
    "replay_sft": Method("fine-tuning on the day's replies", SFT),
    "replay_gently": Method(
        "replay_sft at a quarter of the rate, which was found for sleep",
        msgspec.structs.replace(SFT, learning=msgspec.structs.replace(LEARNING, lr=LEARNING.lr / 4)),
    ),
    "replay_all": Method(
        "fine-tuning on the replies of all days so far, kept raw",
        msgspec.structs.replace(SFT, forget=False, experience=1024),
    ),
    "seal": Method(
        "SEAL: fine-tuning on dreams of the day that help a copy",
        msgspec.structs.replace(
            FULL, seeding=False, dreaming=DreamSettings(dreams=6, memory=0, fiction=0, top=3, random=1, size=48)
        ),
    ),
    "l2": Method(
        "fine-tuning on the day, pulled towards the evening's weights",
        msgspec.structs.replace(SFT, learning=msgspec.structs.replace(LEARNING, decay=2.5)),
    ),
    "static_expert": Method("sleep, with one expert for all nights", static=True),
    "fast_slow": Method("sleep, every third night into slow weights", msgspec.structs.replace(FULL, block=3)),
    "placebo": Method("sleep, with a teacher who read another table", lied=True),
}


#: What the study asks about, in half an hour on two cores; the others are beside it.
ASKED = ("sleep", "in_context", "replay_sft", "no_dreaming", "placebo")


def method_of(name: str) -> Method:
    """The method of this name.

    Raises:
        DreamEnvsError: with the nearest names.
    """
    return registry.named("methods", name, METHODS)


class Settings(msgspec.Struct, frozen=True):
    """What decides a run's result.  ``probes``: questions a wave; ``levels``: of the questions."""

    method: str
    seed: str = "0"
    base: str = BASE
    nights: int = 5
    probes: int = 64
    wakes: int = 3
    levels: tuple[int, ...] = (1, 2)


def run(settings: Settings, out: Path, *, method: Method | None = None, threads: int = 1) -> dict[str, Any]:
    """One run in ``out`` to its end, from wherever it stands; returns ``sleeping.json``.

    Args:
        settings: what is run.
        out: the run folder.
        method: how it sleeps; None: the one of ``METHODS`` that the settings name.
        threads: torch threads; 0 leaves torch's choice.

    Raises:
        DreamEnvsError: if there is no such method, or the folder holds another run.
    """
    import torch
    from dream_envs.baselines.loops.sleepers import sleeper_for

    from dream_envs.agents.engines.local import LocalAgent, keep_memory, resolve
    from dream_envs.baselines.eval_set import Yardstick
    from dream_envs.baselines.nano.recipe import weights_hash
    from dream_envs.core import Start
    from dream_envs.envs.sleep_cycle import SleepCycle
    from dream_envs.play import rollout
    from dream_envs.rewards.sleep import closed_book
    from dream_envs.tasks.composition import Composition

    if threads:
        torch.set_num_threads(threads)
    keep_memory()
    began, method = time.perf_counter(), method or method_of(settings.method)
    days: dict[str, Any] = {"nights": settings.nights, "probes": settings.probes, "wakes": settings.wakes}
    game = SleepCycle(**days, dreams=8, lesson_args={"levels": list(settings.levels)})
    config = {"command": "sleeping", **msgspec.to_builtins(settings), "rule": msgspec.to_builtins(method)}
    folder = Run(out, {**config, "weights_hash": weights_hash(Path(resolve(settings.base)))})
    if (done := folder.read(RESULT)) is not None:
        folder.close()
        return done
    folder.restore({"episodes": 0, "metrics": 0})  # nights that are over are only read, questions are asked again
    sleeper = sleeper_for(settings, method, game, folder.path)
    seats = {"learner": sleeper, "dreamer": sleeper}
    seed = f"sleeping/{settings.seed}"
    (episode,) = rollout(game, seats, [Start(0)], seed=seed, reward=closed_book())
    folder.episodes.write(episode)
    yardstick = Yardstick(Composition(), per_depth=64)
    known = [yardstick.means(a) for a in (LocalAgent(settings.base), sleeper.agent)]
    facts = {k: v for k, v in episode.outcome.facts.items() if k not in ("questions", "dreams")}
    result = {
        "schema": 1,
        "kind": "sleeping",
        "verdict": verdict(facts),
        "settings": msgspec.to_builtins(settings),
        "facts": facts,
        "levels": by_level(episode.outcome.facts["questions"]),
        "known": [{d: its[d] for d in ("1", "2", "3")} for its in known],
        "nights": [msgspec.to_builtins(n) for n in sleeper.nights],
        "seconds": round(time.perf_counter() - began, 1),
    }
    folder.write(RESULT, result)
    folder.close()
    return read_json(folder.path / RESULT) or {}


def verdict(facts: dict[str, Any]) -> str:
    """What the matrix says, in one sentence."""
    matrix, opened = facts["closed"], facts["open"]
    own = sum(row[i] for i, row in enumerate(matrix)) / len(matrix)
    known = facts["average_accuracy"]
    return (
        f"Of {sum(opened) / len(opened):.2f} in context, {own:.2f} is known closed book behind a lesson's own night "
        f"and {known:.2f} behind the last one, mean of {len(matrix)} lessons; one run, no interval."
    )


def by_level(questions: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Success by level: awake, closed book behind the lesson's own night, and behind the last."""
    last = max(q["night"] for q in questions)
    found: dict[str, dict[str, float]] = {}
    for level in sorted({q["level"] for q in questions}):
        own = [q for q in questions if q["level"] == level and q["value"] is not None]
        parts = {
            "open": [q["value"] for q in own if q["phase"] == "wake"],
            "closed": [q["value"] for q in own if q["phase"] == "recall" and q["night"] == q["lesson"]],
            "last": [q["value"] for q in own if q["phase"] == "recall" and q["night"] == last],
        }
        found[str(level)] = {name: sum(values) / len(values) for name, values in parts.items() if values}
    return found


def jobs(out: Path, seeds: Sequence[int], methods: Sequence[str]) -> list[tuple[Settings, Path]]:
    """What is still to be run, seed by seed, so that an early stop leaves whole seeds."""
    for method in methods:
        method_of(method)
    every = [(Settings(method=m, seed=str(s)), out / f"{m}-{s}") for s in seeds for m in methods]
    for settings, path in every:
        had = (read_json(path / "run.json") or {}).get("rule")
        if had is not None and had != msgspec.json.decode(msgspec.json.encode(METHODS[settings.method])):
            raise DreamEnvsError(f"{path} holds a run with other settings (rule): choose another --out")
    return [(settings, path) for settings, path in every if not (path / RESULT).exists()]


def _work(job: tuple[Settings, Path]) -> tuple[str, float]:
    settings, path = job
    return path.name, run(settings, path)["seconds"]


def main() -> None:
    """``python -m dream_envs.baselines.studies.sleeping [--seeds 5] [--methods all] [--out runs/sleeping]``."""
    from dream_envs.baselines.studies.sleeping_report import summary, table

    parser = argparse.ArgumentParser(description="what is left of a day's reading behind the night, several seeds each")
    parser.add_argument("--out", type=Path, default=Path("runs/sleeping"))
    parser.add_argument("--seeds", type=positive, default=5)
    told = f"names with commas between them, or all: {', '.join(METHODS)}"
    parser.add_argument("--methods", default=",".join(ASKED), help=f"{told}; default: {', '.join(ASKED)}")
    parser.add_argument("--side-by-side", type=positive, default=2)
    given = parser.parse_args()
    try:
        methods = list(METHODS) if given.methods == "all" else given.methods.split(",")
        side_by_side(_work, jobs(given.out, range(given.seeds), methods), given.side_by_side)
        found = summary([read_json(p) for p in sorted(given.out.glob(f"*/{RESULT}"))])
        (given.out / "table.md").write_text(table(found), "utf-8")
        print(table(found))
    except DreamEnvsError as error:
        sys.exit(f"sleeping: {error}")
    except KeyboardInterrupt:
        sys.exit("sleeping: stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
