"""RLVR on problems that the base solves already: the learner of the flagship, with nothing new to learn from.

A short GRPO run on a fixed list of problems whose base pass rate is high but not perfect.  It sharpens: what the base
does most of the time it then does nearly always.  Whatever this method solves, reinforcement with a verifier brings out
of the base without a curriculum, so a claim to have gone past the base has to go past it too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_envs.agents.elicitation.attempts import pass_rates
from dream_envs.agents.elicitation.elicit import RlvrSettings
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.grpo import GRPO, GRPOSettings
from dream_envs.agents.training.rows import RowConfig
from dream_envs.agents.training.sft import quietly
from dream_envs.core import Action, DreamEnvsError, Episode, Start, Task, TaskFamily
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.curriculum.syllabus import CHALLENGER
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.rewards.presets import challenger_solver
from dream_envs.runs import Run
from dream_envs.seeds import stream


class FixedTasks:
    """A syllabus that draws from a fixed list of problems, each alike, and never grows.

    Args:
        family: the problems' family.
        tasks: what is practised.
        count: episodes a round.
        seed: the label of what is drawn when.
    """

    def __init__(self, family: TaskFamily, tasks: Sequence[Task], count: int, seed: str) -> None:
        if not tasks or count < 1:
            raise DreamEnvsError(f"{len(tasks)} tasks, count={count}: one or more of each")
        self.family, self.tasks, self.count, self.seed = family, list(tasks), count, seed
        self.store = ChallengeStore(None)

    def plan(self, round: int) -> list[Start]:
        """The episodes of a round; a permutation of the list, then another, where ``count`` is more than its length."""
        chosen: list[Task] = []
        for turn in range(-(-self.count // len(self.tasks))):
            order = stream(self.seed, "fixed", round, turn).permutation(len(self.tasks))
            chosen += [self.tasks[i] for i in order.tolist()]
        first = round * self.count
        return [self.start(first + i, task) for i, task in enumerate(chosen[: self.count])]

    def start(self, index: int, task: Task) -> Start:
        """The episode about this problem: its proposal is given."""
        return Start(index, None, {CHALLENGER: Action(self.family.as_proposal(task))}, "fixed")

    def absorb(self, round: int, episodes: Sequence[Episode]) -> None:
        """Nothing is kept: the list is fixed."""

    def state(self) -> dict[str, Any]:
        """JSON-ready; see ``restore``."""
        return {"seed": self.seed, "tasks": [t.id for t in self.tasks]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        if state != self.state():
            raise DreamEnvsError(f"this checkpoint is of seed {state['seed']!r} and other problems: resume with those")


def rlvr(base: LocalAgent, tasks: Sequence[Task], family: TaskFamily, settings: RlvrSettings, seed: str) -> LocalAgent:
    """A copy of the base, trained by GRPO on those of the problems that it solves already.

    Raises:
        DreamEnvsError: if there are none.
    """
    rates = pass_rates(base, tasks, family, settings.draws, f"{seed}/support")
    chosen = [t for t, rate in zip(tasks, rates, strict=True) if settings.low <= rate <= settings.high]
    if not chosen:
        raise DreamEnvsError(
            f"none of {len(tasks)} problems has a base pass rate from {settings.low} to {settings.high} "
            f"(the highest is {rates.max():.3f}): there is nothing solved to practise on"
        )
    twin = base.snapshot()
    twin.model.requires_grad_(True)
    rows = RowConfig(
        rows=settings.problems * settings.attempts, groups=settings.problems, review=0, challenger_weight=0.0
    )
    rule = GRPOSettings(lr=settings.lr, warmup=min(5, settings.steps), save_every=settings.steps + 1, rows=rows)
    with tempfile.TemporaryDirectory() as folder, quietly():
        game = ChallengerSolver(family, solvers=settings.attempts)
        source: Any = FixedTasks(family, chosen, settings.problems, f"{seed}/tasks")  # where Practice names a Syllabus
        run = Run(Path(folder) / "run", {"command": "rlvr"})
        practice = Practice(game, source, challenger_solver(), run, seats={"challenger": _silent})
        learner = GRPO(twin.model, tokenizer=base.tokenizer, settings=rule, seed=f"{seed}/grpo")
        learner.improve(practice, {}, settings.steps, run)
        run.close()
    twin.model = twin.model.requires_grad_(False).eval()
    vars(twin.model).pop("forward", None)  # TRL's fused head
    return twin


def _silent(text: str) -> str:
    """The challenger's seat: every proposal is given."""
    return ""
