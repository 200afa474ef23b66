"""The family ``acme_parity``: is the number of 1s even or odd?  Level = number of bits; chance 1/2."""

import re

from dream_envs.core import DreamEnvsError, Reject, Score, Task


class Parity:
    """The family."""

    name, version = "acme_parity", 1
    levels = range(1, 33)
    max_chars, max_reply_tokens = 32, 4

    def __init__(self, notation="compact"):
        if notation != "compact":
            raise DreamEnvsError(f"notation={notation!r}: acme_parity has 'compact'")
        self.notation = notation

    def make(self, bits, origin):
        """The problem of these bits."""
        answer = "odd" if bits.count("1") % 2 else "even"
        return Task(family=self.name, level=len(bits), prompt=bits, answer=answer, origin=origin)

    def generate(self, rng, level):
        """Random bits."""
        return self.make("".join(map(str, rng.integers(2, size=level).tolist())), "generator")

    def parse(self, proposal):
        """1 to 32 bits."""
        if not proposal:
            return Reject("empty")
        if len(proposal) > self.max_chars:
            return Reject("too_long")
        return self.make(proposal, "proposal") if re.fullmatch("[01]+", proposal) else Reject("grammar", "bits")

    def verify(self, task, reply):
        """``even`` or ``odd``."""
        return Score(float(reply == task.answer), grader="acme_parity-1")

    def chance(self, task):
        """A coin."""
        return 0.5

    def guess(self, task, rng):
        """A coin."""
        return ("even", "odd")[int(rng.integers(2))]

    def gold(self, task):
        """The answer."""
        return task.answer

    def brief(self, level=None, reference=None):
        """What a challenger is told."""
        return "Write 1 to 32 bits and nothing else."

    def as_proposal(self, task):
        """The bits."""
        return task.prompt

    def mutate(self, task, rng):
        """A bit more."""
        return self.make(task.prompt + str(int(rng.integers(2))), "mutation") if task.level < 32 else None

    def features(self, task):
        """The length."""
        return (f"bits={task.level}",)
