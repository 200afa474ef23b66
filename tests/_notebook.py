"""A learner without weights for SleepCycle: what it reads it knows for the day, and at night it keeps the last few."""

from __future__ import annotations

from dream_envs.tasks.composition import Composition

WORLD = Composition()


class Notebook:
    """Reads ``I=a>fb>k...``, forgets it with the day unless it sleeps, and holds ``holds`` tables for good."""

    def __init__(self, holds: int = 2) -> None:
        self.holds, self.today, self.known = holds, {}, {}

    def __call__(self, messages) -> str:
        tables = dict(self.known)
        if messages[0]["role"] == "system":
            name, _, entries = messages[0]["content"].partition("=")
            self.today[name] = tables[name] = {entries[i]: entries[i + 2] for i in range(0, len(entries), 3)}
        state, _, ops = messages[-1]["content"].partition(":")
        trace = ""
        for op in ops:
            state = WORLD.step(op, state) if op in WORLD.operations else tables.get(op, {}).get(state, "?")
            if state == "?":
                return "?"
            trace += op + state
        return trace

    def sleep(self) -> None:
        """Keep what was read today, and of all that is known the newest."""
        self.known = dict([*self.known.items(), *self.today.items()][-self.holds :])
        self.today = {}
