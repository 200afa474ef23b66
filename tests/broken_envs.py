"""Games with one fault each, for the conformance kit to find; ``Sums``, which they derive from, passes every check."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from broken_gym_envs import FAULTS, NAMES, fails

from dream_envs.core import Action, Event, Outcome, RoleSpec, Score, Seat, Task

__all__ = ["FAULTS"]


class State(msgspec.Struct):
    """Two rounds of one question: mutable on purpose, a stranger's state may be."""

    task: Task
    said: list[str] = []


class Sums:
    """A sound game of somebody else's, with no family: one player answers the same sum twice."""

    env_id = "broken/Sums-v0"
    version = 0
    agents = ("player_0", "player_1")

    def __init__(self) -> None:
        self.roles = (RoleSpec("player", 2, "the sum", (0.0, 1.0)),)

    def draw(self, rng: np.random.Generator) -> Task:
        a, b = (int(x) for x in rng.integers(100, 999, size=2))
        # A key that the answer is not computed from on the fly: a word, so that a leak is told from chance.
        word = NAMES[int(rng.integers(8))] + NAMES[int(rng.integers(8))] + str(a + b)
        return Task(family="sums", level=1, prompt=f"{a}+{b}=", answer=word, meta={"animals": word})

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        return State(task or self.draw(rng))

    def turns(self, state: State) -> list[Seat]:
        return [] if len(state.said) >= 4 else [Seat(name, "player") for name in self.agents]

    def view(self, state: State, agent: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"round {len(state.said) // 2}: {state.task.prompt}"}]

    def apply(self, state: State, actions: dict[str, Action]) -> State:
        return State(state.task, [*state.said, *[actions.get(a, Action("")).text for a in self.agents]])

    def outcome(self, state: State) -> Outcome | None:
        if len(state.said) < 4:
            return None
        right = {a: self.mark(state.task, state.said[i]) for i, a in enumerate(self.agents)}
        return Outcome("ok", {"right": right})

    def mark(self, task: Task, text: str) -> float:
        return float(text == task.answer)

    def record(self, state: State) -> tuple[list[Task], list[Event]]:
        return [state.task], []

    def scripted(self, kind: str, request: Any, rng: np.random.Generator) -> str | None:
        if kind == "oracle":
            return request.task.answer
        return "wrong" if kind == "floor" else None

    def default_reward(self, episode: Any) -> dict[str, Score]:
        return {agent: Score(value) for agent, value in episode.outcome.facts["right"].items()}


class YesNo(Sums):
    """Sound: its short answers stand in every view, and tell nobody anything."""

    def draw(self, rng):
        sum_of = super().draw(rng)
        word = "yes" if rng.integers(2) else "no"
        return Task(family="sums", level=1, prompt=sum_of.prompt, answer=word, meta={"secret": word})

    def view(self, state, agent):
        return [{"role": "system", "content": "Say yes or no."}, *super().view(state, agent)]


@fails("global_rng")
class GlobalNumpy(Sums):
    def apply(self, state, actions):
        np.random.seed(0)  # "for reproducibility"
        return super().apply(state, actions)


@fails("seed_determinism")
class CarriesOn(Sums):
    """Draws from a generator of its own, so that the second episode of a seed is not the first."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def draw(self, rng):
        return super().draw(self.rng)


@fails("process_determinism")
class HashSeed(Sums):
    def draw(self, rng):
        seed = int(rng.integers(100)) + hash("sums") % 1000  # str hashes differ from process to process
        return super().draw(np.random.default_rng(seed))


@fails("siblings")
class SharedTable(Sums):
    """Keeps the running episode in the class: a second one running beside it takes its place."""

    current: list[State] = []  # noqa: RUF012

    def start(self, task, rng):
        state = super().start(task, rng)
        SharedTable.current[:] = [state]
        return state

    def view(self, state, agent):
        return super().view(SharedTable.current[0], agent)

    def apply(self, state, actions):
        SharedTable.current[:] = [super().apply(SharedTable.current[0], actions)]
        return SharedTable.current[0]


@fails("siblings")
class StateOnSelf(Sums):
    """Keeps the running episode on the game object, which serves many episodes at once."""

    def start(self, task, rng):
        self.said = 0
        return super().start(task, rng)

    def apply(self, state, actions):
        self.said += 2
        return super().apply(state, actions)

    def turns(self, state):
        return super().turns(State(state.task, ["x"] * self.said))

    def view(self, state, agent):
        return super().view(State(state.task, ["x"] * self.said), agent)


@fails("fresh_returns")
class LiveMessages(Sums):
    """Hands out the same list of messages every time."""

    def start(self, task, rng):
        state = super().start(task, rng)
        self.messages = super().view(state, "player_0")
        return state

    def view(self, state, agent):
        if not hasattr(self, "cache"):
            self.cache = {}
        return self.cache.setdefault((state.task.id, len(state.said), agent), super().view(state, agent))


@fails("private_information")
class LeaksMetaToOne(Sums):
    """Only the second player is told, and only in the second round."""

    def view(self, state, agent):
        seen = super().view(state, agent)
        if agent == "player_1" and len(state.said) == 2:
            seen[0]["content"] += f" (animals: {state.task.meta['animals']})"
        return seen


@fails("reward_range")
class OutOfRange(Sums):
    def mark(self, task, text):
        return 2.0 * super().mark(task, text)


@fails("pickling")
class NotPicklable(Sums):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return NotPicklable()


@fails("rescoring")
class RemembersScores(Sums):
    """A reward that pays less and less: scored again, the same episode has another score."""

    paid = 0

    def default_reward(self, episode):
        if episode.seed.startswith("rescore"):
            RemembersScores.paid += 1
        bonus = min(1.0, RemembersScores.paid / 1e6)
        return {a: Score(s.value * (1 - bonus)) for a, s in super().default_reward(episode).items()} | {
            "player_1": Score(bonus)
        }


def fault(check: str, name: str, **members: Any) -> None:
    """A class of this module that differs from ``Sums`` in these members alone."""
    for key, member in members.items():
        if callable(member):
            member.__name__ = key  # a bound method is pickled by its name
    globals()[name] = fails(check)(type(name, (Sums,), {"__module__": __name__, **members}))


def right(task: Task, text: str) -> float:
    return float(text == task.answer)


def digits(text: str) -> bool:
    return text.isdigit() and int(text) == -1  # int("²") raises


def drawn(seed: Callable[[], int | None]) -> Callable[..., Task]:
    return lambda self, rng: Sums.draw(self, np.random.default_rng(seed()))


def tells(self: Sums, episode: Any) -> dict[str, Score]:
    scores = Sums.default_reward(self, episode)
    return {a: Score(s.value, detail=f"expected {episode.tasks[0].answer}") for a, s in scores.items()}


def shows(self: Sums, state: State, agent: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": f"[debug: {state.task.answer}]"}, *Sums.view(self, state, agent)]


def by_length(self: Sums, task: Task, text: str) -> float:
    """In range for every reply but a huge one."""
    return max(right(task, text), min(len(text) // 1000 / 1000, 1.0)) * (1.0 if len(text) < 900_000 else 3.0)


fault("global_rng", "GlobalRandom", draw=drawn(lambda: random.randrange(2**32)))
fault("seed_determinism", "SeedIgnored", draw=drawn(lambda: None))
fault("private_information", "LeaksAnswer", view=shows)
fault("private_information", "LeaksInScore", default_reward=tells)
fault(
    "hostile_replies", "CrashesOnEmpty", mark=lambda self, task, text: right(task, text) * (text[0] == task.answer[0])
)
fault("hostile_replies", "CrashesOnDigits", mark=lambda self, task, text: right(task, "-1" if digits(text) else text))
fault("oracle_top", "OracleCannotWin", mark=lambda self, task, text: 0.5 * right(task, text))
fault("floor_bottom", "FloorIsPaid", mark=lambda self, task, text: 0.25 + 0.75 * right(task, text))
fault("reward_range", "PaysForLength", mark=by_length)
fault(
    "reward_range", "NotANumber", default_reward=lambda self, episode: dict.fromkeys(self.agents, Score(float("nan")))
)
fault("plays", "NeverEnds", outcome=lambda self, state: None)
fault("plays", "BadNames", agents=("alice", "bob"))
