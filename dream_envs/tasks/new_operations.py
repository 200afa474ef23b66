"""New operations of Composition World, some a day, whose tables nobody tells: they are found out entry by entry.

The world answers *experiments*: an operation and a state give the image.  What was found stands in the day's *notes*;
problems are composed of known and new operations, in the notation of ``tasks.composition``.

- ``compact``: the notes are ``I=a>fc>k;J=b>a``, an experiment is asked for by ``?IJ`` and written ``Ic``, a proposal
  is asked for by ``new`` and written ``c:IA``, a reply is the whole trace ``IfAk``.
- ``english``: all of it in words; a problem prints the tables of the known operations that it uses and of no new one.

Level = number of operations.  Chance of a problem: of somebody who knows the known tables and draws a permutation for
each new operation, ``(n - m)! / n!`` for m different entries that the trace looks up.

Source: our own.  Version history: 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Reject, Task
from dream_envs.tasks import answers
from dream_envs.tasks.answers import CHAT_TOKENS
from dream_envs.tasks.composition import OPERATION_NAMES, STATE_NAMES, Composition, Traces

#: What every operation does to every state.
Tables = Mapping[str, Mapping[str, str]]


class NewOperations(Traces):
    """What is known and what is not; see the module's head.

    Args:
        notation: ``compact`` or ``english``.
        days: how many days there are.
        operations: new ones a day; their letters follow those of the known ones.
        max_level: the deepest problem that ``parse`` accepts, 1 to 64.
        n_states: 2 to 26 states.
        n_operations: known operations, with the tables that ``Composition`` gives them.
        world: the label of the known tables.
    """

    name = "new_operations"

    def __init__(
        self,
        notation: str = "compact",
        *,
        days: int = 3,
        operations: int = 2,
        max_level: int = 6,
        n_states: int = 16,
        n_operations: int = 8,
        world: str = "world-0",
    ) -> None:
        super().__init__(notation)
        days = check("days", days, 1, 25, whole=True)
        operations = check("operations", operations, 1, 25, whole=True)
        self.max_level = check("max_level", max_level, 1, 64, whole=True)
        n_states = check("n_states", n_states, 2, len(STATE_NAMES), whole=True)
        free = len(OPERATION_NAMES) - check("n_operations", n_operations, 1, len(OPERATION_NAMES) - 1, whole=True)
        if days * operations > free:
            told = f"days={days}, operations={operations}: {days * operations} new operations"
            raise DreamEnvsError(f"{told}, and {free} letters are left beside {n_operations} known ones")
        known = Composition(n_states=n_states, n_operations=n_operations, world=world, held_out_pairs=0)
        self.states, self.known, self._known_tables = known.states, known.operations, known.tables
        names = OPERATION_NAMES[n_operations : n_operations + days * operations]
        #: Letters of the new operations, day by day.
        self.names = tuple(names[i : i + operations] for i in range(0, len(names), operations))
        self.day_of = {name: day for day, its in enumerate(self.names) for name in its}
        self.max_chars = (40 + 5 * self.max_level) if self._english else 2 + self.max_level
        self.max_proposal_tokens = CHAT_TOKENS if self._english else self.max_chars + 1

    def reply_tokens(self, level: int) -> int:
        """The budget of a reply to a problem of this level."""
        return CHAT_TOKENS if self._english else 2 * level + 2

    def drawn(self, rng: np.random.Generator) -> dict[str, dict[str, str]]:
        """Tables of all operations; those of the new ones are permutations, each equally likely."""
        found = {name: dict(table) for name, table in self._known_tables.items()}
        for name in self.day_of:
            images = rng.permutation(len(self.states)).tolist()
            found[name] = {s: self.states[i] for s, i in zip(self.states, images, strict=True)}
        return found

    def notes(self, day: int, tables: Tables, found: Sequence[str]) -> str:
        """The context that states the entries which were ``found`` (``["Ic", ...]``) of this day's operations."""
        known = {name: [s for s in self.states if name + s in found] for name in self.names[day]}
        if not self._english:
            return ";".join(
                f"{name}=" + "".join(f"{s}>{tables[name][s]}" for s in its) for name, its in known.items() if its
            )
        lines = [
            f"Operation {name} takes " + ", ".join(f"{s} to {tables[name][s]}" for s in its) + "."
            for name, its in known.items()
            if its
        ]
        return "\n".join(["What experiments have shown today:", *lines]) if lines else ""

    def noted(self, notes: str) -> dict[str, dict[str, str]]:
        """The entries that notes state."""
        lines = re.findall(r"Operation ([A-Z]) takes (.*)\.|([A-Z])=((?:[a-z]>[a-z])+)", notes)
        return {a or b: dict(re.findall("([a-z])(?: to |>)([a-z])", told or short)) for a, told, b, short in lines}

    def retold(self, notes: str, tables: Tables) -> str:
        """The same notes as they would be with other tables."""
        found = [name + state for name, states in self.noted(notes).items() for state in states]
        return self.notes(self.day_of[found[0][0]], tables, found) if found else notes

    def shown(self, notes: str, prompt: str) -> Task | None:
        """The problem that a prompt states, with the answer that notes and known tables give; None: they give none."""
        asked = re.search(r"(?:^|state )([a-z])(?::| and apply, in this order: )([A-Z, ]+)", prompt)
        if asked is None:
            return None
        try:
            return self.make(asked[1], asked[2].replace(", ", ""), {**self._known_tables, **self.noted(notes)})
        except KeyError:  # an entry that nobody has told
            return None

    def experiment_brief(self, day: int) -> str:
        """What a scientist is asked."""
        names = self.names[day]
        if not self._english:
            return f"?{names}"
        return (
            f"Operations {', '.join(names)} are new: each is a permutation of the states {', '.join(self.states)} that "
            "nobody has told. Ask the world what one of them does to one state. Reply with the operation and the "
            f"state, as in '{names[0]} {self.states[0]}', and nothing else."
        )

    def experiment(self, day: int, text: str) -> str:
        """The entry that an experiment asks for, ``Ic``; "" for a text that is none about this day's operations."""

        def read(line: str) -> Task | Reject:
            asked = "".join(line.split()) if self._english else line
            sound = len(asked) == 2 and asked[0] in self.names[day] and asked[1] in self.states
            return Task(family=self.name, level=1, prompt=asked, answer="") if sound else Reject("grammar")

        found = answers.proposal(text[:4096], read) if self._english else read(text)
        return "" if isinstance(found, Reject) else found.prompt

    def written(self, entry: str) -> str:
        """The text that ``experiment`` reads as this entry."""
        return " ".join(entry) if self._english else entry

    def brief(self, day: int) -> str:
        """What a challenger or a dreamer is asked: a problem with an operation that was new on this day or before."""
        if not self._english:
            return "new"
        names = "".join(self.names[: day + 1])
        return (
            f"Invent an exercise: a start state and at most {self.max_level} operations to apply in order, among "
            f"{', '.join(self.known)} and {', '.join(names)}, of the latter at least one, and none of two different "
            f"days ({' | '.join(self.names[: day + 1])}). Reply with one line of the form "
            f"'start c; apply {names[-1]}, {self.known[0]}' and nothing else."
        )

    def parse(self, proposal: str, day: int, tables: Tables) -> Task | Reject:
        """The problem that a proposal describes, or why it is none.

        Operations of two different days in one problem are turned away: such problems are for the exam alone.
        """
        if self.protocol == "chat":
            return answers.proposal(proposal, lambda line: self._parse(line, day, tables))
        return self._parse(proposal, day, tables)

    def _parse(self, proposal: str, day: int, tables: Tables) -> Task | Reject:
        if not proposal:
            return Reject("empty")
        if len(proposal) > self.max_chars:
            return Reject("too_long", f"{len(proposal)} characters, at most {self.max_chars}")
        found, there = self._read(proposal), self.known + "".join(self.names[: day + 1])
        if found is None:
            return Reject("grammar", f"expected {self._proposal('c', self.names[0][0] + self.known[0])!r}")
        start, ops = found
        if start not in self.states or set(ops) - set(there):
            return Reject("charset", f"states are {self.states}, operations {there}")
        if len(ops) > self.max_level:
            return Reject("limits", f"{len(ops)} operations, at most {self.max_level}")
        days = {self.day_of[op] for op in ops if op in self.day_of}
        if not days:
            return Reject("trivial", "no operation that is new or was")
        if len(days) > 1:
            return Reject("held_out", "operations of two different days")
        return self.make(start, ops, tables, "proposal")

    def make(self, start: str, ops: str, tables: Tables, origin: str = "generator") -> Task:
        """The problem with this start state and these operations."""
        days = sorted({self.day_of[op] for op in ops if op in self.day_of})
        meta = {"start": start, "ops": ops, "days": days}
        return self._trace(start, ops, tables, set(ops) & set(self.known), meta=meta, origin=origin)

    def fact(self, rng: np.random.Generator, day: int, tables: Tables) -> Task:
        """What one new operation of this day does to one state."""
        names = self.names[day]
        return self.make(self._state(rng), names[int(rng.integers(len(names)))], tables)

    def within(self, rng: np.random.Generator, day: int, level: int, tables: Tables) -> Task:
        """Known operations and new ones of this day, of which there is at least one."""
        return self._with(rng, [self.names[day]], level, tables)

    def across(self, rng: np.random.Generator, day: int, level: int, tables: Tables) -> Task:
        """Known operations and new ones of two days up to this one, of each at least one; from the second day on."""
        if day < 1 or level < 2:
            raise DreamEnvsError(f"day={day}, level={level}: two days and two operations")
        chosen = rng.permutation(day + 1)[:2].tolist()
        return self._with(rng, [self.names[d] for d in chosen], level, tables)

    def _with(self, rng: np.random.Generator, groups: Sequence[str], level: int, tables: Tables) -> Task:
        pool = self.known + "".join(groups)
        ops = [pool[i] for i in rng.integers(len(pool), size=level).tolist()]
        places = rng.permutation(level).tolist()
        for place, group in zip(places, groups, strict=False):  # at least one of each, at places of its own
            ops[place] = group[int(rng.integers(len(group)))]
        return self.make(self._state(rng), "".join(ops), tables)

    def _state(self, rng: np.random.Generator) -> str:
        return self.states[int(rng.integers(len(self.states)))]

    def looked_up(self, task: Task, answer: str) -> list[tuple[str, str]] | None:
        """The steps of a trace as (entry of a table, image that it claims); None for what is no trace of it."""
        said = answer if not self._english else "".join(c for c in answer if c.isalpha())
        ops = task.meta["ops"]
        if len(said) != 2 * len(ops) or said[::2] != ops or set(said[1::2]) - set(self.states):
            return None
        before = task.meta["start"] + said[1::2]
        return [(op + state, image) for op, state, image in zip(ops, before, said[1::2], strict=False)]

    def decided(self, task: Task, answer: str, tables: Tables, found: Sequence[str]) -> bool | None:
        """Whether an answer is right as far as known tables and the entries that were found tell; None if they do not.

        A trace with one step that is known to be wrong is wrong, whatever its other steps are.
        """
        steps = self.looked_up(task, answer)
        if steps is None:
            return False
        sure = [(tables[e[0]][e[1]] == image) for e, image in steps if e[0] in self.known or e in found]
        return False if not all(sure) else True if len(sure) == len(steps) else None

    def guess(self, task: Task, rng: np.random.Generator, tables: Tables, found: Sequence[str] = ()) -> str:
        """The trace of somebody who knows the known tables and what was ``found``, and draws the rest."""
        return self.make(task.meta["start"], task.meta["ops"], self.imagined(rng, tables, found)).answer

    def imagined(self, rng: np.random.Generator, tables: Tables, found: Sequence[str]) -> dict[str, dict[str, str]]:
        """Tables as somebody would draw them who knows the known ones and the entries that were ``found``."""
        made = {name: dict(table) for name, table in self._known_tables.items()}
        for name in self.day_of:
            sure = {s: tables[name][s] for s in self.states if name + s in found}
            free = [s for s in self.states if s not in sure.values()]
            left = iter([free[i] for i in rng.permutation(len(free)).tolist()])
            made[name] = {s: sure[s] if s in sure else next(left) for s in self.states}
        return made

    def chance(self, task: Task) -> float:
        """See the module's head."""
        entries = {e for e, _ in self.looked_up(task, task.answer) or () if e[0] in self.day_of}
        count = {name: sum(e[0] == name for e in entries) for name in self.day_of}
        return math.prod([1.0 / math.perm(len(self.states), m) for m in count.values()])
