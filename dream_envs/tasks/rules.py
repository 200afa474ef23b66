"""Rules: a new operation of Composition World that is shown by examples, and asked about states that none shows.

A lesson's operation follows a rule on the circle of states: ``shift`` by k (``x -> x + k``) or ``mirror`` at c
(``x -> c - x``), 2 n rules for n states.  The context has ``shown`` of its entries, from which only that rule follows;
what is asked looks up another state first.  Notations, replies, proposals and levels are those of ``operations``
(``tasks.lessons``), which states its tables whole.

Half of the states of each operation, by a hash of both, are of the day: examples and questions awake are about these.
Probes look one of the other half up first, and nothing of that half was ever shown or asked awake: what is remembered
has to be the rule.  A dream may ask for anything.

Chance: a guesser who knows the known tables draws one of the rules; of a question that looks up one entry, 1/n.

Source: our own.  Version history: 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dream_envs import registry
from dream_envs.checks import check, one_of
from dream_envs.core import Task, content_hash
from dream_envs.tasks.composition import OPERATION_NAMES
from dream_envs.tasks.lessons import Lesson, OperationLessons

#: What a rule does to place i of n with its parameter k, before the circle closes.
RULES = {"shift": lambda i, k: i + k, "mirror": lambda i, k: k - i}


def table_of(rule: str, k: int, states: str) -> dict[str, str]:
    """The table of a rule, ``{source: image}`` of all states in their order.

    >>> table_of("shift", 1, "abcd")
    {'a': 'b', 'b': 'c', 'c': 'd', 'd': 'a'}
    """
    return {state: states[RULES[rule](i, k) % len(states)] for i, state in enumerate(states)}


class RuleLessons(OperationLessons):
    """The family ``rules``; see the module's head.

    Args:
        notation: ``compact`` or ``english``.
        shown: examples in a context, 3 to a quarter of the states; with two of them two rules can agree.
        rules: which kinds of rule there are, drawn evenly: ``shift``, ``mirror``.
        arguments: those of ``OperationLessons``; ``n_states`` is 12 or more.
    """

    name = "rules"
    version = 1

    def __init__(
        self, notation: str = "compact", *, shown: int = 4, rules: Sequence[str] = tuple(RULES), **arguments: Any
    ) -> None:
        registry.check_kwargs(OperationLessons, arguments, self.name)
        super().__init__(notation, **arguments)
        check("n_states", len(self.states), 12, 26)
        self.shown = check("shown", shown, 3, len(self.states) // 4, whole=True)
        named = [rules] if isinstance(rules, str) else list(rules)
        self.rules = tuple(dict.fromkeys(one_of("rules", rule, RULES) for rule in named or [""]))
        self._awake = {name: frozenset(self._ordered(name)[: len(self.states) // 2]) for name in OPERATION_NAMES}
        self._all = [table_of(rule, k, self.states) for rule in self.rules for k in range(len(self.states))]

    def lesson(self, rng: np.random.Generator, index: int) -> Lesson:
        """Lesson ``index``: its operation has the name at that place; rule and examples are drawn from ``rng``."""
        name = self.names[check("index", index, 0, self.capacity - 1, whole=True)]
        table = self._all[int(rng.integers(len(self._all)))]
        awake = sorted(self._awake[name])
        there = {awake[i] for i in rng.permutation(len(awake))[: self.shown].tolist()}
        return self.lesson_of(index, name, table, [s for s in self.states if s in there])

    def lesson_of(self, index: int, name: str, table: Mapping[str, str], shown: Sequence[str] | None = None) -> Lesson:
        """The lesson of an operation with this table, of which these states' entries are shown; None: all."""
        seen = {state: table[state] for state in (self.states if shown is None else shown)}
        facts = {"operation": name, "table": dict(table), "shown": "".join(seen)}
        return Lesson(index, name, self.told(name, seen), facts)

    def told(self, name: str, table: Mapping[str, str]) -> str:
        """The context that shows these examples."""
        if self.notation == "compact":
            return super().told(name, table)
        entries = ", ".join([f"{s} to {image}" for s, image in table.items()])
        ring = ", ".join(self.states)
        return (
            f"There is an operation {name} on the states {ring}, which stand in a circle in this order. It follows one "
            f"rule: it moves every state by the same number of places, or mirrors the circle. Examples: {entries}."
        )

    def half(self, start: str, ops: str) -> Literal["wake", "probe", "both"]:  # type: ignore[override]
        """Where a question may be asked: by the state that the new operation looks up first."""
        found = self._first(start, ops)
        return "both" if found is None else "wake" if found[1] in self._awake[found[0]] else "probe"

    def fresh(self, lesson: Lesson, start: str, ops: str) -> bool:
        """Whether the state that is looked up first is in no example; awake no other one is of the probes' half."""
        name, table, state, looked_up = lesson.name, lesson.facts["table"], start, list[str]()
        for op in ops:
            looked_up += state if op == name else ""
            state = table[state] if op == name else self._tables[op][state]
        awake = self._awake[name]
        new = looked_up[0] not in lesson.facts["shown"]
        return new and (looked_up[0] not in awake or awake.issuperset(looked_up))

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """The trace under a rule that is drawn for the new operation; the known ones are known."""
        return self.under(task, self._all[int(rng.integers(len(self._all)))])

    def chance(self, task: Task) -> float:
        """The share of the rules that give the same trace."""
        return sum(self.under(task, table) == task.answer for table in self._all) / len(self._all)

    def _first(self, start: str, ops: str) -> tuple[str, str] | None:
        """The new operation that occurs first, and the state that it looks up; None of what is no question."""
        state: str | None = start
        for op in ops:
            if state is None or state not in self.states:
                return None
            if op not in self._tables:
                return (op, state) if op in self._awake else None
            state = self._tables[op].get(state)
        return None

    def _ordered(self, name: str) -> list[str]:
        return sorted(self.states, key=lambda state: content_hash("rule-half", name, state))
