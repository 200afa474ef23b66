"""Examples with a context: tables that are shown and not known, for bases that are to read (``nano/context``).

A context is the system message ``I=a>fb>kc>m...``: the name of an operation that has no table in the weights, and some
or all of its sixteen entries, each of which is one token (``tokenizer.build(pairs=True)``).  Tables are drawn afresh
for each example, so that nothing about them can be learnt by heart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.baselines.nano import tokenizer as nano_tokenizer
from dream_envs.tasks.composition import OPERATION_NAMES, Composition
from dream_envs.tasks.rules import RULES, table_of


class Reading(msgspec.Struct, frozen=True):
    """What is shown with a context.

    ``names``: of the operations whose tables are shown.  ``depths``: of the questions; the shown operation occurs at
    least once.  ``propose``: share of proposing; ``recite``: share of reading out images of single states
    (``I?cd`` -> ``cmdb``), without which a model of this size took several times as many steps to find out how to look
    something up.  ``growth``: (steps, entries): up to that step tables have half as many to so many entries, then all
    16.  ``with_context``: share of examples with a context, and of them ``recite`` recite, (before, after) that.
    ``told``: weight of the loss on whole tables themselves, so that the base can make one up (in dreams, say).
    """

    names: str = "IJKLMNOP"
    depths: tuple[int, ...] = (1, 2, 3)
    propose: float = 0.15
    recite: tuple[float, float] = (0.45, 0.1)
    growth: tuple[tuple[int, int], ...] = ((150, 1), (650, 2), (750, 4), (850, 8))
    with_context: tuple[float, float] = (0.75, 0.5)
    told: float = 0.1


class Inducing(Reading, frozen=True):
    """A reader who also finds the rule of an operation of which only examples are shown (``tasks.rules``).

    ``rules``: share of the contexts whose operation follows a rule; ``shown``: so many of its entries at least and at
    most, drawn evenly.  ``continued``: share of these that recite eight images, of any states, shown or not; a question
    may look up any state as well.
    """

    rules: float = 0.75
    shown: tuple[int, int] = (4, 8)
    continued: float = 0.7


class Exploring(Reading, frozen=True):
    """A reader of notes: some entries of one or two operations, and experiments that ask for entries.

    ``both``: share of the contexts with two operations.  ``noted``: so many entries of each at least and at most, drawn
    evenly (of asking, from none on); a question looks up none that is not there.  ``ask``: share of asking (``?IJ`` ->
    ``Jc``), where every entry of every operation is equally likely, in the notes or not: what to ask is not taught.
    """

    names: str = "IJKLMNOPQRSTUVWX"
    growth: tuple[tuple[int, int], ...] = ()
    with_context: tuple[float, float] = (0.7, 0.7)
    both: float = 0.5
    noted: tuple[int, int] = (4, 16)
    ask: float = 0.1


def entries(reading: Reading, step: int, rng: np.random.Generator) -> int:
    """How many entries a table has in this step."""
    for until, most in reading.growth:
        if step < until:
            return int(rng.integers(max(1, most // 2), most + 1))
    return 16


def grown(reading: Reading, step: int) -> bool:
    """Whether tables are whole by this step."""
    return not reading.growth or step >= reading.growth[-1][0]


def example(family: Composition, reading: Reading, step: int, rng: np.random.Generator) -> tuple[str, str, str]:
    """A context, what is asked and what is answered."""
    if isinstance(reading, Exploring):
        return noted(family, reading, rng)
    states, name = family.states, reading.names[int(rng.integers(len(reading.names)))]
    images = rng.permutation(len(states))
    if isinstance(reading, Inducing) and rng.random() < reading.rules:
        return induced(family, reading, name, rng)
    there = sorted(rng.permutation(len(states))[: entries(reading, step, rng)].tolist())
    table = {states[i]: states[images[i]] for i in there}
    context = f"{name}=" + "".join(f"{source}>{image}" for source, image in table.items())
    if rng.random() < reading.recite[grown(reading, step)]:
        asked = [list(table)[i] for i in rng.permutation(len(table))[:8].tolist()]
        return context, f"{name}?{''.join(asked)}", "".join(s + table[s] for s in asked)
    start, ops = _problem(family, name, table, reading, rng)
    if rng.random() < reading.propose:
        return context, family.brief(), f"{start}:{ops}"
    return context, f"{start}:{ops}", traced(family, start, ops, {name: table})


def induced(family: Composition, reading: Inducing, name: str, rng: np.random.Generator) -> tuple[str, str, str]:
    """Examples of a rule, a question that may look up any state, and its answer; or a proposal."""
    states, kinds = family.states, list(RULES)
    table = table_of(kinds[int(rng.integers(len(kinds)))], int(rng.integers(len(states))), states)
    count = int(rng.integers(reading.shown[0], reading.shown[1] + 1))
    there = sorted(rng.permutation(len(states))[:count].tolist())
    context = f"{name}=" + "".join(f"{states[i]}>{table[states[i]]}" for i in there)
    if rng.random() < reading.continued:
        asked = [states[i] for i in rng.permutation(len(states))[:8].tolist()]
        return context, f"{name}?{''.join(asked)}", "".join(s + table[s] for s in asked)
    start, ops = _problem(family, name, table, reading, rng)
    if rng.random() < reading.propose:
        return context, family.brief(), f"{start}:{ops}"
    return context, f"{start}:{ops}", traced(family, start, ops, {name: table})


def noted(family: Composition, reading: Exploring, rng: np.random.Generator) -> tuple[str, str, str]:
    """Notes on one or two operations, and an experiment, a recital, a proposal or a solved problem."""
    states, count = family.states, 1 + (rng.random() < reading.both)
    names = [reading.names[i] for i in sorted(rng.permutation(len(reading.names))[:count].tolist())]
    tables = {name: dict(zip(states, rng.permutation(list(states)).tolist(), strict=True)) for name in names}
    shown, asks = {}, rng.random() < reading.ask
    for name, table in tables.items():
        least = 0 if asks else reading.noted[0]
        there = rng.permutation(len(states))[: int(rng.integers(least, reading.noted[1] + 1))].tolist()
        shown[name] = {states[i]: table[states[i]] for i in sorted(there)}
    context = ";".join(
        f"{name}=" + "".join(f"{s}>{image}" for s, image in its.items()) for name, its in shown.items() if its
    )
    name = names[int(rng.integers(count))]
    if asks:
        return context, "?" + "".join(names), name + states[int(rng.integers(len(states)))]
    if rng.random() < reading.recite[1]:
        own = list(shown[name])
        asked = [own[i] for i in rng.permutation(len(own))[:8].tolist()]
        return context, f"{name}?{''.join(asked)}", "".join(s + shown[name][s] for s in asked)
    while True:
        depth = reading.depths[int(rng.integers(len(reading.depths)))]
        ops = [family.operations[i] for i in rng.integers(len(family.operations), size=depth).tolist()]
        ops = [names[int(rng.integers(count))] if rng.random() < 0.5 else op for op in ops]
        start, text = states[int(rng.integers(len(states)))], "".join(ops)
        if set(names) & set(text) and (answer := traced(family, start, text, shown)):
            break
    if rng.random() < reading.propose:
        return context, family.brief(), f"{start}:{text}"
    return context, f"{start}:{text}", answer


def _problem(
    family: Composition, name: str, table: dict[str, str], reading: Reading, rng: np.random.Generator
) -> tuple[str, str]:
    """Start and operations; the shown one occurs at least once and meets only states that it has an entry for."""
    depth = reading.depths[int(rng.integers(len(reading.depths)))]
    while True:
        known = [family.operations[i] for i in rng.integers(len(family.operations), size=depth).tolist()]
        ops = "".join(name if rng.random() < 0.5 else op for op in known)
        start = family.states[int(rng.integers(len(family.states)))]
        if depth == 1:
            return list(table)[int(rng.integers(len(table)))], name
        if name in ops and traced(family, start, ops, {name: table}):
            return start, ops


def traced(family: Composition, start: str, ops: str, tables: dict[str, dict[str, str]]) -> str:
    """The trace; empty where a table has no entry for a state that it meets."""
    state, found = start, ""
    for op in ops:
        image = tables[op].get(state) if op in tables else family.step(op, state)
        if image is None:
            return ""
        state, found = image, found + op + image
    return found


def batches(
    plain: Iterator[tuple[str, str]], reading: Reading, family: Composition, batch: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless ``(ids[B, T], loss mask[B, T])``, padded on the right; the loss is on the reply and its end."""
    if set(reading.names) - set(OPERATION_NAMES) or set(reading.names) & set(family.operations):
        raise ValueError(f"names={reading.names!r}: letters that are no known operation")
    tokenizer = nano_tokenizer.build(pairs=True)

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    system, user = ids_of("<|system|><|user|>")
    for step in itertools.count():
        rows, starts = list[list[int]](), list[int]()
        for _ in range(batch):
            if rng.random() < reading.with_context[grown(reading, step)]:
                context, prompt, reply = example(family, reading, step, rng)
            else:
                context, (prompt, reply) = "", next(plain)
            head = (f"<|system|>{context}" if context else "") + f"<|user|>{prompt}<|assistant|>"
            first, last = ids_of(head), ids_of(reply + "<|end|>")
            rows.append(first + last)
            starts.append(len(first))
        width = max(map(len, rows))
        ids, mask = np.zeros((batch, width), np.int64), np.zeros((batch, width), np.float32)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, starts[i] : len(row)] = row, 1
            if row[0] == system and grown(reading, step):
                mask[i, 1 : row.index(user) + 1] = reading.told
        yield torch.from_numpy(ids), torch.from_numpy(mask)


def wider(model: Any, begin: Any, rng: torch.Generator) -> None:
    """Give a model with entries for tokens the embeddings of one without: an entry's is its image's, plus its source's
    turned by a fixed rotation, so that neither is told apart from the start.
    """
    table, old = model.get_input_embeddings().weight.data, begin.get_input_embeddings().weight.data
    table[: len(old)] = old
    rotation = torch.linalg.qr(torch.randn(old.size(1), old.size(1), generator=rng))[0]
    ids = [nano_tokenizer.ALPHABET.index(c) + len(nano_tokenizer.SPECIAL) for c in nano_tokenizer.STATES]
    states = old[ids]
    table[len(old) :] = ((states @ rotation)[:, None] + states[None]).reshape(-1, old.size(1))
