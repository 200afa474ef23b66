"""Games with one fault each, for the conformance kit to find; ``Sums``, which they derive from, passes every check."""

import random
import threading

import msgspec
import numpy as np
from broken_gym_envs import FAULTS, NAMES, faults

from dream_envs.core import Action, Outcome, RoleSpec, Score, Seat, Task

__all__ = ["FAULTS"]


class State(msgspec.Struct):
    """Two rounds of one question: mutable on purpose, a stranger's state may be."""

    task: Task
    said: list[str] = []


class Sums:
    """A sound game of somebody else's, with no family: two players answer the same sum twice."""

    env_id, version, agents = "broken/Sums-v0", 0, ("player_0", "player_1")
    roles = (RoleSpec("player", 2, "the sum", (0.0, 1.0)),)

    def draw(self, rng):
        a, b = (int(x) for x in rng.integers(100, 999, size=2))
        # A key that the answer is not computed from on the fly: a word, so that a leak is told from chance.
        word = NAMES[int(rng.integers(8))] + NAMES[int(rng.integers(8))] + str(a + b)
        return Task(family="sums", level=1, prompt=f"{a}+{b}=", answer=word, meta={"animals": word})

    def start(self, task, rng):
        return State(task or self.draw(rng))

    def turns(self, state):
        return [] if len(state.said) >= 4 else [Seat(name, "player") for name in self.agents]

    def view(self, state, agent):
        return [{"role": "user", "content": f"round {len(state.said) // 2}: {state.task.prompt}"}]

    def apply(self, state, actions):
        return State(state.task, [*state.said, *[actions.get(a, Action("")).text for a in self.agents]])

    def outcome(self, state):
        if len(state.said) < 4:
            return None
        return Outcome("ok", {"right": {a: self.mark(state.task, state.said[i]) for i, a in enumerate(self.agents)}})

    def mark(self, task, text):
        return float(text == task.answer)

    def record(self, state):
        return [state.task], []

    def scripted(self, kind, request, rng):
        return request.task.answer if kind == "oracle" else "wrong" if kind == "floor" else None

    def default_reward(self, episode):
        return {agent: Score(value) for agent, value in episode.outcome.facts["right"].items()}


class YesNo(Sums):
    """Sound: its short answers stand in every view, and tell nobody anything."""

    def draw(self, rng):
        sum_of = super().draw(rng)
        word = "yes" if rng.integers(2) else "no"
        return Task(family="sums", level=1, prompt=sum_of.prompt, answer=word, meta={"secret": word})

    def view(self, state, agent):
        return [{"role": "system", "content": "Say yes or no."}, *super().view(state, agent)]


class SharedTable(Sums):
    """Keeps the running episode in the class: a second one running beside it takes its place."""

    current: list[State] = []  # noqa: RUF012

    def start(self, task, rng):
        SharedTable.current[:] = [super().start(task, rng)]
        return SharedTable.current[0]

    def view(self, state, agent):
        return super().view(SharedTable.current[0], agent)

    def apply(self, state, actions):
        SharedTable.current[:] = [super().apply(SharedTable.current[0], actions)]
        return SharedTable.current[0]


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


def keeps_messages(self, state, agent):
    """The same list of messages every time."""
    cache = self.__dict__.setdefault("cache", {})
    return cache.setdefault((state.task.id, len(state.said), agent), Sums.view(self, state, agent))


def tells_one(self, state, agent):
    """Only the second player is told, and only in the second round."""
    seen = Sums.view(self, state, agent)
    if agent == "player_1" and len(state.said) == 2:
        seen[0]["content"] += f" (animals: {state.task.meta['animals']})"
    return seen


def pays_less_and_less(self, episode):
    """Scored again, the same episode has another score."""
    PAID.append(episode.seed.startswith("rescore"))
    bonus = min(1.0, sum(PAID) / 1e6)
    return {a: Score(s.value * (1 - bonus)) for a, s in Sums.default_reward(self, episode).items()} | {
        "player_1": Score(bonus)
    }


PAID: list[bool] = []


def own_generator(self):
    self.rng = np.random.default_rng(0)  # so that the second episode of a seed is not the first


def locks(self):
    self.lock = threading.Lock()


def drawn(seed):
    return lambda self, rng: Sums.draw(self, np.random.default_rng(seed(rng)))


def marked(value):
    return lambda self, task, text: value(float(text == task.answer), task, text)


def seeds_numpy(self, state, actions):
    np.random.seed(0)  # "for reproducibility"
    return Sums.apply(self, state, actions)


def tells(self, episode):
    scores = Sums.default_reward(self, episode)
    return {a: Score(s.value, detail=f"expected {episode.tasks[0].answer}") for a, s in scores.items()}


def shows(self, state, agent):
    return [{"role": "system", "content": f"[debug: {state.task.answer}]"}, *Sums.view(self, state, agent)]


def by_length(right, task, text):
    """In range for every reply but a huge one."""
    return max(right, min(len(text) // 1000 / 1000, 1.0)) * (1.0 if len(text) < 900_000 else 3.0)


def reads_digits(right, task, text):
    return 0.0 * int(text) if text.isdigit() else right  # int("²") raises


def not_a_number(self, episode):
    return dict.fromkeys(self.agents, Score(float("nan")))


fault = faults(Sums)
FAULTS |= {SharedTable: "siblings", StateOnSelf: "siblings"}
fault("seed_determinism", "CarriesOn", __init__=own_generator, draw=lambda self, rng: Sums.draw(self, self.rng))
fault("fresh_returns", "LiveMessages", view=keeps_messages)
fault("private_information", "LeaksMetaToOne", view=tells_one)
fault("pickling", "NotPicklable", __init__=locks, __deepcopy__=lambda self, memo: type(self)())
fault("rescoring", "RemembersScores", default_reward=pays_less_and_less)
fault("global_rng", "GlobalNumpy", apply=seeds_numpy)
fault("global_rng", "GlobalRandom", draw=drawn(lambda rng: random.randrange(2**32)))
fault("seed_determinism", "SeedIgnored", draw=drawn(lambda rng: None))
# str hashes differ from process to process
fault("process_determinism", "HashSeed", draw=drawn(lambda rng: int(rng.integers(100)) + hash("sums") % 1000))
fault("private_information", "LeaksAnswer", view=shows)
fault("private_information", "LeaksInScore", default_reward=tells)
fault("hostile_replies", "CrashesOnEmpty", mark=marked(lambda right, task, text: right * (text[0] == task.answer[0])))
fault("hostile_replies", "CrashesOnDigits", mark=marked(reads_digits))
fault("oracle_top", "OracleCannotWin", mark=marked(lambda right, task, text: 0.5 * right))
fault("floor_bottom", "FloorIsPaid", mark=marked(lambda right, task, text: 0.25 + 0.75 * right))
fault("reward_range", "OutOfRange", mark=marked(lambda right, task, text: 2.0 * right))
fault("reward_range", "PaysForLength", mark=marked(by_length))
fault("reward_range", "NotANumber", default_reward=not_a_number)
fault("plays", "NeverEnds", outcome=lambda self, state: None)
fault("plays", "BadNames", agents=("alice", "bob"))
