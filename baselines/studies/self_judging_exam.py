"""What a run of ``self_judging`` is asked: exact accuracy of the actor, its length, exact figures of the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dream_envs.agents.elicitation.attempts import attempts
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.nano.judge_exam import likelihood, pairs, pairwise_exam
from dream_envs.core import Task
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.metrics.cards import judge_card, records
from dream_envs.rollout import read_episodes
from dream_envs.seeds import stream


class Exam:
    """Problems and pairs that are never practised, the same for every run of an arm.

    Args:
        game: its family's problems are asked.
        tasks: the problems.
        seed: the label of the sampled replies (for ``length`` and ``states``).
        draws: replies a problem.
        judged: pairs a depth.
    """

    def __init__(self, game: SelfJudge, tasks: list[Task], seed: str, draws: int = 4, judged: int = 48) -> None:
        assert game.family is not None
        family: Any = game.family
        self.family = family
        self.tasks, self.seed, self.draws = tasks, seed, draws
        self.pairs = [p for d in sorted({t.level for t in tasks}) for p in pairs(family, d, judged, "study")]

    def __call__(self, agent: LocalAgent) -> dict[str, Any]:
        """``accuracy`` (mean exact probability of the accepted reply at T = 1, and by depth), ``length``, ``judge``."""
        asked: list[Any] = [[{"role": "user", "content": t.prompt}] for t in self.tasks]
        logits, ids = agent.completion_logits(asked, [t.answer for t in self.tasks])
        exact = np.array([likelihood(row, target) for row, target in zip(logits, ids, strict=True)])
        levels = np.array([t.level for t in self.tasks])
        drawn = attempts(agent, self.tasks, self.family, self.draws, f"self-judging/{self.seed}")
        texts = [a.text for row in drawn for a in row]
        return {
            "accuracy": float(exact.mean()),
            "by_depth": {str(d): float(exact[levels == d].mean()) for d in sorted(set(levels.tolist()))},
            "length": float(np.mean([len(t) for t in texts])),
            "traces": float(np.mean([len(t) == 2 * task.level for t, task in self._beside(texts)])),
            "judge": pairwise_exam(agent, self.pairs),
        }

    def card(self, folder: Path, share: float = 0.5) -> dict[str, Any] | None:
        """The judge card of the last ``share`` of the recorded episodes; None where nobody judged."""
        episodes = sorted(read_episodes(folder / "episodes.jsonl"), key=lambda e: e.index)
        last = episodes[-max(1, int(share * len(episodes))) :]
        if not any("judgements" in e.outcome.facts for e in last):
            return None
        return judge_card(records(last), stream("self-judging", "card"), draws=400)

    def _beside(self, texts: list[str]) -> list[tuple[str, Task]]:
        return [(text, self.tasks[i // self.draws]) for i, text in enumerate(texts)]
