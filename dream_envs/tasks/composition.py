"""Composition World: follow a list of named operations through a finite set of states, writing every step.

A problem is a start state and a list of operations; each operation is a fixed permutation of the states, so that every
problem is solvable and nothing is lost on the way.  The only accepted reply is the whole trace, which makes the exact
success probability of a language model one teacher-forced product (``frontier.exact``).

- ``compact`` notation, prompt ``c:BDA``, accepted reply ``BfDkAa``: each operation, then the state it leads to.
- ``english`` notation: the tables are given in the prompt, the reply is ``B -> f, D -> k, A -> a``; blanks and line
  ends around it are forgiven.  ``compact`` forgives nothing, so that exact probabilities hold for it.

Level = number of operations (depth).  Chance: a guesser who knows the format and copies the operations must hit every
state: ``n_states ** -depth``.

Source: our own; the construction of nested unary functions follows "From f(x) and g(x) to f(g(x))" (arXiv 2509.25123).
Version history: 1.  2: english replies are read by ``tasks.answers``.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dream_envs.checks import check, one_of
from dream_envs.core import DreamEnvsError, Reject, Task
from dream_envs.seeds import stream
from dream_envs.tasks.answers import CHAT_TOKENS
from dream_envs.tasks.family import Answers, Family

STATE_NAMES = "abcdefghijklmnopqrstuvwxyz"
OPERATION_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TRIES = 256
_PROMPT = re.compile(r"Start in state (\w) and apply, in this order: ([\w, ]+)\.")


class Traces(Answers):
    """How problems, replies and proposals of Composition World are written, in either notation."""

    value = re.compile(r"(?<![A-Za-z])[A-Z]\s*-+>\s*[a-z]\b(?:[ \t]*[,;]?[ \t]*[A-Z]\s*-+>\s*[a-z]\b)*")

    def tidy(self, text: str) -> str:
        """``B -> f, D -> k``."""
        return self._write([(step[0], step[-1]) for step in re.findall(r"[A-Z][^A-Z]*?[a-z]", text)])

    def _write(self, steps: Sequence[tuple[str, str]]) -> str:
        if not self._english:
            return "".join([o + s for o, s in steps])
        return ", ".join([f"{o} -> {s}" for o, s in steps])

    def _proposal(self, start: str, ops: str) -> str:
        return f"start {start}; apply {', '.join(ops)}" if self._english else f"{start}:{ops}"

    def _read(self, proposal: str) -> tuple[str, str] | None:
        """Start state and operations of a proposal, None if it does not have the form."""
        start = proposal[6:7] if self._english else proposal[:1]
        ops = proposal.partition("; apply ")[2].replace(", ", "") if self._english else proposal[2:]
        return (start, ops) if start and ops and proposal == self._proposal(start, ops) else None

    def _trace(
        self, start: str, ops: str, tables: Mapping[str, Mapping[str, str]], printed: Iterable[str], **more: Any
    ) -> Task:
        """The problem; ``tables``: operation -> state -> next state; an english prompt prints those of ``printed``."""
        state, steps = start, []
        for operation in ops:
            state = tables[operation][state]
            steps.append((operation, state))
        prompt = f"{start}:{ops}"
        if self._english:
            lines = [f"{o}: " + " ".join([f"{s}>{t}" for s, t in tables[o].items()]) + "\n" for o in sorted(printed)]
            prompt = (
                "".join(["Operations map states to states:\n" if lines else "", *lines])
                + f"Start in state {start} and apply, in this order: {', '.join(ops)}. After each operation write the "
                + "operation, an arrow and the new state, in the form 'operation -> state, operation -> state', on one "
                + "line and nothing else."
            )
        return Task(family=self.name, level=len(ops), prompt=prompt, answer=self._write(steps), **more)

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""
        return self._proposal(task.meta["start"], task.meta["ops"])


class Composition(Traces, Family):
    """The family ``composition``.

    Args:
        notation: ``compact`` or ``english``.
        n_states: 2 to 26 states, named ``a`` onwards.
        n_operations: 1 to 26 operations, named ``A`` onwards.
        world: the label that the permutations are drawn from; another label is another world.
        held_out_pairs: so many ordered pairs of operations are reserved for evaluation; ``generate`` avoids them
            unless asked for by ``pairs="held_out"``, and ``parse`` notes them in ``meta``.
        known: the operations whose tables an ``english`` prompt does not print (``""``: prints all it uses).
        max_level: the deepest problem that ``parse`` accepts.
        reject_held_out: turn away proposals that use a held-out pair; ``mutate`` then makes none either.
    """

    name = "composition"
    wish = " Use {} operations."

    def __init__(
        self,
        notation: str = "compact",
        *,
        n_states: int = 16,
        n_operations: int = 8,
        world: str = "world-0",
        held_out_pairs: int = 4,
        known: str = "",
        max_level: int = 16,
        reject_held_out: bool = False,
    ) -> None:
        super().__init__(notation, max_level, 64)
        n_states = check("n_states", n_states, 2, 26, whole=True)
        n_operations = check("n_operations", n_operations, 1, 26, whole=True)
        held_out_pairs = check("held_out_pairs", held_out_pairs, 0, n_operations * n_operations - 1, whole=True)
        if not isinstance(known, str) or not isinstance(world, str):
            raise DreamEnvsError(f"known={known!r}, world={world!r}: both are strings")
        self.reject_held_out = one_of("reject_held_out", reject_held_out, (True, False))
        self.states, self.operations = STATE_NAMES[:n_states], OPERATION_NAMES[:n_operations]
        if unknown := set(known) - set(self.operations):
            raise DreamEnvsError(f"known={known!r}: {sorted(unknown)} are not among {self.operations!r}")
        self.known, self.world = known, world
        self.table = _tables(world, n_states, n_operations)
        self.held_out = _held_out(world, n_operations, held_out_pairs)
        #: Which pairs of operations ``generate`` may use: any, or those that no training may have met.
        self.splits = ("any", "held_out") if held_out_pairs else ("any",)
        self.tables = {
            o: {s: self.states[image] for s, image in zip(self.states, row, strict=True)}
            for o, row in zip(self.operations, self.table.tolist(), strict=True)
        }
        self._characters = set(self.states + self.operations + ":" + ("start; apply," if self._english else ""))
        most, english = self.max_level, self._english
        self.max_chars = 40 + 5 * most if english else most + 2
        self.max_reply_tokens = CHAT_TOKENS if english else 2 * most + 2

    def generate(self, rng: np.random.Generator, level: int, pairs: str = "any") -> Task:
        """A problem of depth ``level``; ``pairs``: ``any`` avoids held-out pairs, ``held_out`` has at least one.

        Every such problem is equally likely; that there is none is an error.
        """
        level = self._level(level)
        one_of("pairs", pairs, ("any", "held_out"), "'any' avoids held-out pairs, 'held_out' has at least one")
        if pairs == "held_out" and (level < 2 or not self.held_out):
            raise DreamEnvsError("pairs='held_out' needs level >= 2 and held_out_pairs >= 1")
        for tries in itertools.count():
            ops = "".join([self.operations[i] for i in rng.integers(len(self.operations), size=level).tolist()])
            if tries == _TRIES and pairs == "any":
                ops = self._avoiding(rng, level)
            if self._uses_held_out(ops) == (pairs == "held_out"):
                break
        return self.make(self.states[int(rng.integers(len(self.states)))], ops)

    def make(self, start: str, ops: str, origin: str = "generator") -> Task:
        """The problem with this start state and these operations."""
        meta = {"start": start, "ops": ops, "held_out": self._uses_held_out(ops)}
        printed = set(ops) - set(self.known) if self._english else ()
        return self._trace(start, ops, self.tables, printed, meta=meta, origin=origin)

    def step(self, operation: str, state: str) -> str:
        """The state that a known operation leads to."""
        return self.tables[operation][state]

    def _parse(self, proposal: str) -> Task | Reject:
        found = self._read(proposal)
        if found is None or found[0] not in self.states or not set(found[1]) <= set(self.operations):
            return self._bad_form()
        start, ops = found
        if len(ops) > self.max_level:
            return Reject("limits", f"depth {len(ops)}, at most {self.max_level}")
        if self.reject_held_out and self._uses_held_out(ops):
            return Reject("held_out", "uses a reserved pair of operations")
        return self.make(start, ops, "proposal")

    def proposal_form(self) -> str:
        """The proposal grammar, by example."""
        return repr(self._proposal("c", "BDA"))

    def completion_form(self, level: int) -> list[tuple[str, bool]]:
        """The one accepted completion of a level, symbol by symbol: which may stand there, and whether it is asked for.

        Operation, state, operation, state ...; given the operations, only the states are left to predict.
        """
        return [(self.states if i % 2 else self.operations, bool(i % 2)) for i in range(2 * level)]

    def chance(self, task: Task) -> float:
        """Every state must be hit, the operations being copied from the prompt."""
        return float(len(self.states)) ** -task.level

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """The operations of the prompt, each with a random state."""
        drawn = rng.integers(len(self.states), size=task.level)
        return self._write([(o, self.states[i]) for o, i in zip(task.meta["ops"], drawn, strict=True)])

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """The same problem with one operation more at its end; None at the deepest level."""
        ops, choices = task.meta["ops"], self.operations
        if self.reject_held_out:
            choices = "".join([o for o in choices if ops[-1] + o not in self.held_out])
        if len(ops) >= self.max_level or not choices:
            return None
        return self.make(task.meta["start"], ops + choices[int(rng.integers(len(choices)))], "mutation")

    def features(self, task: Task) -> tuple[str, ...]:
        """Depth and every ordered pair of neighbouring operations."""
        ops = task.meta["ops"]
        return (f"depth={len(ops)}", *(f"pair={a}{b}" for a, b in itertools.pairwise(ops)))

    def piece(self, prompt: str, said: Sequence[str], size: int) -> str | None:
        """The next ``size`` operations of a prompt, from the state that the reply to the piece before ended in.

        None where there is none: all are asked, a reply ended in no state, or the prompt is no problem of this family.
        A scaffold cuts with this (``agents.elicitation.scaffolds``); it reads the prompt and the replies alone.
        """
        found = _PROMPT.search(prompt) if self._english else re.fullmatch(r"(\w):(\w+)", prompt)
        start, ops = (found[1], found[2].replace(", ", "")) if found else ("", "")
        state = said[-1].strip()[-1:] if said else start
        left = ops[size * len(said) :][:size]
        if not left or state not in self.states or (self._english and not set(ops) <= set(self.operations)):
            return None
        return self.make(state, left).prompt if self._english else f"{state}:{left}"

    def joined(self, said: Sequence[str]) -> str:
        """The replies to all pieces as one."""
        return (", " if self._english else "").join(text.strip() for text in said)

    def _invite(self, wishes: str) -> str:
        return (
            f"Invent a composition problem. States are {', '.join(self.states)}; operations are "
            f"{', '.join(self.operations)}, each a fixed permutation of the states.{wishes} Reply with one line "
            f"of the form {self.proposal_form()} and nothing else."
        )

    def _uses_held_out(self, ops: str) -> bool:
        return any(ops[i : i + 2] in self.held_out for i in range(len(ops) - 1)) if self.held_out else False

    def _avoiding(self, rng: np.random.Generator, level: int) -> str:
        """A list of operations without a held-out pair, each equally likely; for when drawing takes too many tries."""
        free = np.array([[a + b not in self.held_out for b in self.operations] for a in self.operations], dtype=float)
        # ways[k][o]: how many lists of k + 1 operations begin with o
        ways = [np.ones(len(self.operations))]
        for _ in range(level - 1):
            ways.append(free @ ways[-1])
        weights, chosen = ways[-1], []
        for step in reversed(range(level)):
            if not weights.any():
                raise DreamEnvsError(f"no {level} operations avoid all {len(self.held_out)} held_out_pairs: use fewer")
            chosen.append(int(rng.choice(len(weights), p=weights / weights.sum())))
            weights = free[chosen[-1]] * ways[step - 1]
        return "".join([self.operations[i] for i in chosen])


@functools.lru_cache(maxsize=64)
def _tables(world: str, n_states: int, n_operations: int) -> np.ndarray:
    """``int[n_operations, n_states]``: row o maps a state's index to the next one's."""
    return np.stack(
        [stream("composition-world", world, o, n_states).permutation(n_states) for o in range(n_operations)]
    )


@functools.lru_cache(maxsize=64)
def _held_out(world: str, n_operations: int, count: int) -> frozenset[str]:
    pairs = [a + b for a in OPERATION_NAMES[:n_operations] for b in OPERATION_NAMES[:n_operations]]
    chosen = stream("composition-held-out", world, n_operations).permutation(len(pairs))[:count]
    return frozenset(pairs[i] for i in chosen)
