"""The process that trains an entry: ``python -m dream_envs.leaderboard.trainer JOB.json``.

It holds the weights, the verifier and the meter, and runs code of the suite alone.  An entry without code is settings
of it; the code of another lives in a process of its own (``guest``), which this one talks to over two pipes.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from dream_envs.agents.engines import meter
from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.baselines import loop as runner
from dream_envs.baselines.eval_set import Exact
from dream_envs.baselines.recipe import Options
from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import remote
from dream_envs.leaderboard.budget import Budget, Used
from dream_envs.leaderboard.goal import LEVELS, PROBLEMS
from dream_envs.leaderboard.service import Service
from dream_envs.progress import Progress
from dream_envs.runs import write_json
from dream_envs.tasks.composition import Composition


class Job(msgspec.Struct, frozen=True):
    """One run of an entry: in ``world``, from the base in ``model``, into ``out``.

    ``guest``: numbers of two open files, to read from and to write to the process of an entry with code.
    """

    loop: str
    steps: int
    world: str
    model: str
    seed: str
    budget: Budget
    out: str
    learner: str = ""
    set: Mapping[str, Any] = {}
    guest: tuple[int, int] | None = None


class Recorder:
    """Keeps the weights whenever another share of the budget's samples is used, with the meter's reading then."""

    def __init__(self, out: Path, budget: Budget) -> None:
        self.out, self.budget, self.read = out, budget, meter.start()
        self.every, self.next, self.count = budget.samples / budget.points, 0.0, 0
        self.out.mkdir(parents=True, exist_ok=True)

    def used(self) -> Used:
        """The reading now."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        spent = round(own.ru_utime + own.ru_stime, 3)
        return Used(self.read.samples, self.read.sampled, self.read.trained, self.read.steps, spent)

    def spent(self) -> bool:
        """Whether the budget is used up."""
        return not self.budget.left(self.used())

    def look(self, step: int, agent: LocalAgent) -> dict[str, Any]:
        """Keep the weights if it is time."""
        if self.read.samples >= self.next:
            self.keep(agent)
            self.next = (self.read.samples // self.every + 1) * self.every
        return {}

    def keep(self, agent: LocalAgent) -> None:
        """Write the weights, and the reading behind them as the last file."""
        name = self.out / f"{self.count:03d}"
        state = {
            k: v.detach().contiguous().clone() for k, v in agent.model.state_dict().items() if k != "lm_head.weight"
        }
        save_file(state, name.with_suffix(".safetensors"))
        write_json(name.with_suffix(".json"), msgspec.to_builtins(self.used()))
        self.count += 1


def options_of(job: Job) -> Options:
    """The run as ``dream-envs train`` would be asked for it, in the hidden world."""
    own = {k: v for k, v in job.set.items() if k.partition(".")[0] not in ("family", "eval", "engine")}
    if refused := sorted(set(job.set) - set(own)):
        raise DreamEnvsError(f"{refused[0]}: family, eval and engine are the board's, not an entry's")
    hidden = {
        "family.world": job.world, "eval.kind": "exact", "eval.levels": LEVELS, "eval.every": 1_000_000_000,
    }  # fmt: skip
    return Options(
        job.loop, job.seed, job.steps, env="dream_envs/ChallengerSolver-v0", family="composition", model=job.model,
        preset="nano", learner=job.learner or None, set={**own, **hidden},
    )  # fmt: skip


def run(job: Job) -> Used:
    """Train until the budget or the schedule ends; what was used.  The curve lies in ``out/points``."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()
    out = Path(job.out)
    kept = Recorder(out / "points", job.budget)
    own = job.loop if job.guest is None else f"{remote.__name__}:LOOP"
    if job.guest is not None and remote.attach(job.guest, job.steps, dict(job.set)) is None:
        final = _served(job, kept)
    else:
        settings = {} if job.guest is not None else job.set
        ctx = runner.Context(options_of(msgspec.structs.replace(job, loop=own, set=settings)), out / "run")
        runner.walk(ctx, None, Progress(quiet=True), 1_000_000_000, kept.look, kept.spent)
        ctx.run.close()
        final = ctx.agent(ctx.recipe.final)
    kept.keep(final)
    used = kept.used()
    final.save(out / "final")
    return used


def _served(job: Job, kept: Recorder) -> LocalAgent:
    """Be the service of an entry that trains the policy itself; the policy."""
    agent = LocalAgent(job.model)
    exam = Exact(Composition(world=job.world), agent, LEVELS, PROBLEMS, ())
    kept.look(0, agent)
    reserved = [task.id for task in exam.reserved()]
    service = Service(agent, job.world, reserved, job.budget, kept.used, kept.look, job.seed)
    service.serve(remote.its(), job.budget.seconds)
    return agent


def main() -> None:
    """Run the job of a file; the last line of stdout is what was used."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    try:
        used = run(job)
    except DreamEnvsError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(2) from None
    print(json.dumps(msgspec.to_builtins(used)))


if __name__ == "__main__":
    main()
