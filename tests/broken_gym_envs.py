"""Gymnasium environments with one fault each; ``Echo``, which they derive from, is sound. See ``broken_envs``."""

import multiprocessing
import sys
import threading

import gymnasium

from dream_envs.core import DreamEnvsError
from dream_envs.spaces import UnicodeText

#: Every broken environment and the one check that has to fail.
FAULTS: dict[type, str] = {}
NAMES = ["ant", "bee", "cow", "dog", "eel", "fox", "gnu", "hen"]


def faults(base):
    """``fault(check, name, **members)``: a class that differs from ``base`` in these members alone, in its module."""

    def fault(check, name, **members):
        for key, member in members.items():
            if callable(member):
                member.__name__ = key  # a bound method is pickled by its name
        made = type(name, (base,), {"__module__": base.__module__, **members})
        setattr(sys.modules[base.__module__], name, made)
        FAULTS[made] = check

    return fault


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


def truncates(self, action):
    observation, reward, *_, info = Echo.step(self, action)
    return observation, reward, False, True, info


def clears_history(self, *, seed=None, options=None):
    self.history: list[str] = []
    return Echo.reset(self, seed=seed)[0], {"history": self.history}


def shares_history(self, action):
    self.history.append(action)
    return *Echo.step(self, action)[:4], {"history": self.history}


def forgets_stream(self, snapshot):
    """The first step is right, the words after it are not."""
    self.word, self.left, _ = snapshot


def short_text(self):
    """Text of Gymnasium's own space: zeros from worker processes with shared memory, and nobody says so."""
    Echo.__init__(self)
    self.observation_space = gymnasium.spaces.Text(100)


def locks(self):
    Echo.__init__(self)
    self.lock = threading.Lock()


def raises_rarely(self):
    """Once in some dozens of episodes."""
    word = Echo.draw(self)
    if word == "hen ≤ é 🙂 gnu":
        raise DreamEnvsError("a rare word")
    return word


def other_in_a_worker(self):
    return Echo.draw(self) + ("" if multiprocessing.parent_process() is None else "!")


fault = faults(Echo)
fault("no_truncation_on_first_step", "EchoTruncates", step=truncates)
fault("fresh_returns", "EchoSharesInfo", reset=clears_history, step=shares_history)
fault("snapshot", "EchoForgets", restore=lambda self, saved: Echo.restore(self, (saved[0], 3, saved[2])))
fault("snapshot", "EchoForgetsStream", restore=forgets_stream)
fault("vector_text", "EchoText", __init__=short_text, draw=lambda self: Echo.draw(self)[:3])
fault("vector_text", "EchoWorker", draw=other_in_a_worker)
fault("pickling", "EchoUnpicklable", __init__=locks, __deepcopy__=lambda self, memo: type(self)())
fault("random_episodes", "EchoRaises", draw=raises_rarely)
