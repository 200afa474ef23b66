"""SelfJudge episodes for the tests, played with literal texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dream_envs.core import Action, Episode, Task
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.play import Runner, Table, episode_from

#: Who wins, by (first, second) as shown: a reply for each judgement.
Verdicts = Callable[[int, int, int], Any]


def judged(
    answers: Sequence[Any], verdicts: Verdicts | None = None, *, task: Task | None = None, reward: Any = None,
    **game: Any,
) -> Episode:  # fmt: skip
    """One episode: ``verdicts(first, second, trial)`` (pairwise) or ``(of, of, trial)`` gives each judge's reply."""
    rules = SelfJudge(**{"actors": len(answers), "judgements": 2, **game})
    table = Table(rules, "test", task)
    said: Mapping[str, Any] = {f"actor_{i}": a for i, a in enumerate(answers)}
    runner = Runner(rules, {})
    while seats := rules.turns(table.state):
        moves = {}
        for seat in seats:
            if seat.role == "judge":
                ask = rules.panel.ask_of(seat.agent)
                text = verdicts(ask.who[0], ask.who[-1], ask.trial)
            else:
                text = said[seat.agent]
            moves[seat.agent] = text if isinstance(text, Action) else Action(str(text))
        runner.step([table], [moves])
    return episode_from(rules, table.state, table.turns, seed="test", reward=reward)


def prefers(order: Sequence[int]) -> Verdicts:
    """A judge that ranks the answers in this order, whichever stands first."""
    return lambda first, second, trial: "1" if order.index(first) < order.index(second) else "2"
