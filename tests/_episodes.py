"""Episodes for the reward tests: the real game, played with literal texts."""

from collections.abc import Sequence

from hypothesis import strategies as st

from dream_envs.core import Action, Episode, Score, Turn
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

GOLD = Composition().make("c", "BDA").answer
LOST = Action("", status="timeout")
REPLIES = st.lists(st.sampled_from([GOLD, "x", "y", "", LOST]), min_size=1, max_size=7)


def play(
    replies: Sequence[str | Action] = (), proposal: str | Action = "c:BDA", judge: str | Action | None = None, **game
) -> Episode:
    """One ChallengerSolver episode: ``replies`` are solver_0, solver_1, ...; a str or a whole Action."""
    rules = ChallengerSolver(**{"solvers": max(1, len(replies)), "judge": judge is not None, **game})
    said = {"challenger_0": proposal, "judge_0": judge, **{f"solver_{i}": r for i, r in enumerate(replies)}}
    state, turns = rules.start(None, stream("test")), []
    while seats := rules.turns(state):
        actions = {s.agent: a if isinstance(a := said[s.agent], Action) else Action(a) for s in seats}
        for seat in seats:
            action, view = actions[seat.agent], rules.view(state, seat.agent)
            turns.append(Turn(agent=seat.agent, role=seat.role, messages=view, text=action.text, status=action.status))
        state = rules.apply(state, actions)
    tasks, events = rules.record(state)
    outcome = rules.outcome(state)
    assert outcome is not None
    return Episode(
        env_id=rules.env_id,
        version=rules.version,
        seed="test",
        index=0,
        tasks=tasks,
        turns=turns,
        events=events,
        outcome=outcome,
    )


def solved(k: int, n: int = 8) -> list[str]:
    """``n`` replies of which the first ``k`` are right and the others wrong in different ways."""
    return [GOLD] * k + [f"wrong {i}" for i in range(n - k)]


def values(scores: dict[str, Score]) -> dict[str, float]:
    """The values by agent."""
    return {agent: score.value for agent, score in scores.items()}


def states(scores: dict[str, Score]) -> dict[str, str]:
    """The statuses by agent."""
    return {agent: score.status for agent, score in scores.items()}
