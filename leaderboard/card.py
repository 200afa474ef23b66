"""The scorecard: what a learner can do, ability by ability, over seeds; ``dream-envs board card LEARNER ...``.

Every run is a process (``python -m dream_envs.leaderboard.card JOB.json``) that trains, measures and leaves its scores.
Abilities of one run share it.  The learner is the user's own and runs as any other code of theirs: a card is for
comparing algorithms, and no entry.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.baselines.recipe import Options
from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.abilities import ABILITIES, VERSION, Ability
from dream_envs.runs import write_json

#: Completions that the unit of cost is measured on.
_UNIT = 1024
RESULT = "card.json"


class Scored(msgspec.Struct, frozen=True):
    """An ability in one run.  ``score`` None: the learner cannot run it, ``detail`` says why.

    ``curve``: [samples, value] along the run.
    """

    learner: str
    ability: str
    seed: int
    score: float | None
    raw: float | None = None
    detail: str = ""
    curve: list[list[float]] = []
    seconds: float = 0.0
    version: int = VERSION


class Job(msgspec.Struct, frozen=True):
    """A run of a card, of all abilities that share these options."""

    learner: str
    seed: int
    abilities: list[str]
    out: str


def jobs_of(learners: Sequence[str], seeds: int, out: Path) -> list[Job]:
    """Every run, seed by seed, so that an early stop leaves whole seeds; abilities with the same options share one."""
    groups = dict[str, list[str]]()
    for ability in ABILITIES:
        groups.setdefault(msgspec.json.encode(ability.options, order="deterministic").decode(), []).append(ability.name)
    return [
        Job(learner, seed, names, str(out / _safe(learner) / f"{names[0]}-{seed}"))
        for seed in range(seeds)
        for learner in learners
        for names in groups.values()
    ]


def cards(
    learners: Sequence[str], seeds: int, out: Path, side_by_side: int, tell: Callable[[str], None]
) -> list[Scored]:
    """All scores, by whatever runs are still missing in ``out``."""
    from dream_envs.leaderboard.board import last_line, run_child

    every = jobs_of(learners, seeds, out)
    waiting = [job for job in every if not (Path(job.out) / RESULT).is_file()]
    began = time.monotonic()

    def done(job: Job) -> None:
        place = Path(job.out)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / "job.json", msgspec.to_builtins(job))
        command = [sys.executable, "-m", "dream_envs.leaderboard.card", str(place / "job.json")]
        ended = run_child(command, Path.cwd(), None, 3600)
        if ended.returncode:
            raise DreamEnvsError(f"{job.learner}, {job.abilities[0]}, seed {job.seed}: {last_line(ended.stderr)}")

    with ThreadPoolExecutor(side_by_side) as pool:
        futures = {pool.submit(done, job): job for job in waiting}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                job, spent = futures[future], time.monotonic() - began
                left = spent / number * (len(waiting) - number)
                tell(f"{number}/{len(waiting)}  {job.learner}, {', '.join(job.abilities)}; {left:.0f} s left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [s for job in every for s in msgspec.json.decode((Path(job.out) / RESULT).read_bytes(), type=list[Scored])]


def run(job: Job) -> list[Scored]:
    """Train once, and score the job's abilities."""
    import torch

    from dream_envs.agents.engines import meter
    from dream_envs.agents.engines.local import keep_memory
    from dream_envs.baselines import loop as runner
    from dream_envs.metrics.rounds import read_rows

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()
    known = {a.name: a for a in ABILITIES}
    chosen = [known[name] for name in job.abilities]
    options: Options = msgspec.structs.replace(chosen[0].options, learner=job.learner, seed=f"card/{job.seed}")
    place = Path(job.out) / "run"
    unit, read = sampling_unit(), meter.start()
    began = time.process_time()
    try:
        summary = runner.train(options, place, save_every=10**9)
    except DreamEnvsError as error:
        return [Scored(job.learner, a.name, job.seed, None, detail=str(error)) for a in chosen]
    seconds = time.process_time() - began
    rows = [dict(row) for row in read_rows(place) if "samples" in row]
    rows[-1]["card/sampling"] = read.samples / _UNIT * unit / seconds
    return [scored(job, a, summary, rows, seconds) for a in chosen]


def scored(job: Job, ability: Ability, summary: Any, rows: list[dict[str, Any]], seconds: float) -> Scored:
    """One ability of a finished run."""
    raw = ability.raw(summary, rows)
    curve = [[float(row["samples"]), value] for row in rows if (value := ability.curve(row)) is not None]
    return Scored(job.learner, ability.name, job.seed, ability.score(raw), raw, "", curve, round(seconds, 1))


def sampling_unit() -> float:
    """Processor seconds of sampling ``_UNIT`` completions of depth 3 from the shipped base, on this machine now."""
    import numpy as np

    from dream_envs.agents.engines.local import LocalAgent

    agent = LocalAgent()
    ids = [list(agent.encode([{"role": "user", "content": "c:BDA"}]))] * _UNIT
    began = time.process_time()
    agent.sample(ids, np.arange(_UNIT, dtype=np.uint64), np.full(_UNIT, 12))
    return time.process_time() - began


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def main() -> None:
    """Run the job of a file."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    write_json(Path(job.out) / RESULT, [msgspec.to_builtins(s) for s in run(job)])


if __name__ == "__main__":
    main()
