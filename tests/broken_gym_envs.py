"""Gymnasium environments with one fault each; ``Echo``, which they derive from, is sound. See ``broken_envs``."""

from __future__ import annotations

import multiprocessing
import threading

import gymnasium

from dream_envs.core import DreamEnvsError
from dream_envs.spaces import UnicodeText

#: Every broken environment and the one check that has to fail.
FAULTS: dict[type, str] = {}
NAMES = ["ant", "bee", "cow", "dog", "eel", "fox", "gnu", "hen"]


def fails(check):
    """Note the check that has to find the fault of a class."""

    def note(broken):
        FAULTS[broken] = check
        return broken

    return note


class Echo(gymnasium.Env):
    """A sound environment of somebody else's: repeat the word, three times, and say how it went."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space, self.action_space = UnicodeText(100), UnicodeText(1000)
        self.word, self.left = "", 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word, self.left = self.draw(), 3
        return self.word, {"history": []}

    def draw(self) -> str:
        return NAMES[int(self.np_random.integers(8))] + " ≤ é 🙂 " + NAMES[int(self.np_random.integers(8))]

    def step(self, action):
        self.left -= 1
        reward = float(action == self.word)
        self.word = self.draw()
        return self.word, reward, self.left == 0, False, {"history": [action]}

    def snapshot(self):
        return self.word, self.left, self.np_random.bit_generator.state

    def restore(self, snapshot):
        self.word, self.left, self.np_random.bit_generator.state = snapshot


@fails("no_truncation_on_first_step")
class EchoTruncates(Echo):
    def step(self, action):
        observation, reward, *_, info = super().step(action)
        return observation, reward, False, True, info


@fails("fresh_returns")
class EchoSharesInfo(Echo):
    def reset(self, *, seed=None, options=None):
        self.history: list[str] = []
        return super().reset(seed=seed)[0], {"history": self.history}

    def step(self, action):
        self.history.append(action)
        return *super().step(action)[:4], {"history": self.history}


@fails("snapshot")
class EchoForgets(Echo):
    """Its snapshot does not hold how many steps are left."""

    def restore(self, snapshot):
        super().restore((snapshot[0], 3, snapshot[2]))


@fails("snapshot")
class EchoForgetsStream(Echo):
    """Its snapshot does not hold the random stream: the first step is right, the words after it are not."""

    def restore(self, snapshot):
        self.word, self.left, _ = snapshot


@fails("vector_text")
class EchoText(Echo):
    """Text of Gymnasium's own space: zeros from worker processes with shared memory, and nobody says so."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Text(100)

    def draw(self):
        return super().draw()[:3]


@fails("vector_text")
class EchoWorker(Echo):
    """Says other words in a worker process."""

    def draw(self):
        return super().draw() + ("" if multiprocessing.parent_process() is None else "!")


@fails("pickling")
class EchoUnpicklable(Echo):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return type(self)()


@fails("random_episodes")
class EchoRaises(Echo):
    """Raises once in some dozens of episodes."""

    def draw(self):
        word = super().draw()
        if word == "hen ≤ é 🙂 gnu":
            raise DreamEnvsError("a rare word")
        return word
