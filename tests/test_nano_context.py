"""``nano/context``: what it was shown is what its recipe declares, and what it can do is what its card says."""

from __future__ import annotations

import functools
import itertools
import re

import numpy as np
import pytest

pytest.importorskip("torch")

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.nano import contexts, tokenizer
from dream_envs.baselines.nano.exams import fiction_exam, questions, reading_exam
from dream_envs.baselines.nano.recipe import BASES
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

RECIPE = BASES["context"]
READING = RECIPE.support.reading  # type: ignore[attr-defined]
FAMILY = Composition()
STATES = FAMILY.states
LATE = 10_000  # a step behind the growth of tables


@functools.cache
def reader() -> LocalAgent:
    return LocalAgent("nano/context")


def test_an_entry_is_one_token_and_nothing_else_is() -> None:
    shipped, built = reader().tokenizer, tokenizer.build(pairs=True)
    for text in ("I=a>fb>k", "c:IA", "a>z", ">", "j|c:B|a>b|x"):
        for one in (shipped, built):
            ids = one(text, add_special_tokens=False)["input_ids"]
            assert one.decode(ids) == text
            assert len(ids) == len(re.sub("[a-p]>[a-p]", "#", text))
    assert [shipped.convert_ids_to_tokens(i) for i in range(len(shipped))] == [
        built.convert_ids_to_tokens(i) for i in range(len(built))
    ]


def test_examples_are_what_the_tables_say() -> None:
    """Against an oracle that reads the context as a person would."""
    rng, kinds = stream("test-context"), dict.fromkeys(("recite", "propose", "solve"), 0)
    for _ in range(3000):
        context, prompt, reply = contexts.example(FAMILY, READING, LATE, rng)
        name, entries = context[0], {context[i]: context[i + 2] for i in range(2, len(context), 3)}
        assert name in READING.names and name not in FAMILY.operations
        assert list(entries) == list(STATES) and sorted(entries.values()) == sorted(STATES)
        if prompt[1] == "?":
            kinds["recite"] += 1
            assert reply == "".join(s + entries[s] for s in prompt[2:])
            continue
        kinds["propose" if prompt == "new" else "solve"] += 1
        state, ops, trace = *(reply if prompt == "new" else prompt).split(":"), ""
        assert name in ops and len(ops) in READING.depths and state in STATES
        for op in ops:
            state = entries[state] if op == name else FAMILY.step(op, state)
            trace += op + state
        assert prompt == "new" or reply == trace
    total, recite = 3000, READING.recite[1]
    for kind, share in (("recite", recite), ("propose", (1 - recite) * READING.propose)):
        assert abs(kinds[kind] / total - share) < 4 * np.sqrt(share * (1 - share) / total)


@pytest.mark.parametrize("step", [0, 200, 700, 800])
def test_tables_grow_and_no_question_meets_a_missing_entry(step: int) -> None:
    rng, most = stream("test-growth", step), next(m for until, m in READING.growth if step < until)
    for _ in range(200):
        context, prompt, reply = contexts.example(FAMILY, READING, step, rng)
        entries = {context[i]: context[i + 2] for i in range(2, len(context), 3)}
        assert max(1, most // 2) <= len(entries) <= most and len(set(entries.values())) == len(entries) and reply
        if prompt[1] == ":":
            assert contexts.traced(FAMILY, prompt[0], prompt[2:], {context[0]: entries}) == reply


def test_the_loss_is_on_replies_and_a_little_on_tables() -> None:
    source = contexts.batches(itertools.repeat(("c:B", "Bf")), READING, FAMILY, 32, stream("test-mask"))
    for _ in range(READING.growth[-1][0]):
        ids, mask = next(source)
    built = tokenizer.build(pairs=True)
    late_ids, late_mask = next(source)
    for rows, weights, told in ((ids, mask, 0.0), (late_ids, late_mask, READING.told)):
        for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
            tokens = built.convert_ids_to_tokens(row)
            answer, end = tokens.index("<|assistant|>"), tokens.index("<|end|>")
            user = tokens.index("<|user|>")
            assert weight[answer + 1 : end + 1] == [1.0] * (end - answer) and not any(weight[end + 1 :])
            assert not any(weight[user + 1 : answer + 1])
            head = [pytest.approx(told)] * user if tokens[0] == "<|system|>" else [0.0] * user
            assert weight[0] == 0 and weight[1 : user + 1] == head


def test_names_that_are_known_are_refused() -> None:
    with pytest.raises(ValueError, match="HI"):
        next(contexts.batches(iter(()), contexts.Reading(names="HI"), FAMILY, 2, stream("x")))


# ---- what it can do --------------------------------------------------------------------------------------------


def test_it_reads_fresh_tables_and_knows_none_of_them() -> None:
    """Single lookups nearly always; none closed book, and deeper ones as the card says, not better."""
    found = {depth: reading_exam(reader(), depth, 64) for depth in (1, 2, 3)}
    assert found[1]["open"] >= 0.95 and found[2]["open"] >= 0.8 and found[3]["open"] >= 0.55
    assert all(row["closed"] <= row["chance"] + 0.03 for row in found.values())
    assert found[1]["chance"] == pytest.approx(1 / 16)
    assert all(row["known"] >= 0.95 for row in found.values())


def test_it_reads_the_table_that_is_there() -> None:
    """The same question before two tables has two answers."""
    agent = reader()
    for label in ("0", "1"):
        facts = {s: STATES[i] for s, i in zip(STATES, stream("test-nano-context", label).permutation(16), strict=True)}
        context = "I=" + "".join(f"{a}>{b}" for a, b in facts.items())
        asked = [[{"role": "system", "content": context}, {"role": "user", "content": f"{s}:I"}] for s in STATES]
        logits, ids = agent.completion_logits(asked, ["I" + facts[s] for s in STATES])  # type: ignore[arg-type]
        right = [(row.argmax(-1) == target).all() for row, target in zip(logits, ids, strict=True)]
        assert np.mean(right) >= 15 / 16


def test_the_questions_of_the_exam_are_fresh_and_right() -> None:
    for depth in (1, 2, 3):
        chosen = questions(depth, 40)
        assert len({q.context for q in chosen}) == 40 and chosen == questions(depth, 40)
        for q in chosen:
            entries = {q.context[i]: q.context[i + 2] for i in range(2, len(q.context), 3)}
            assert contexts.traced(FAMILY, q.prompt[0], q.prompt[2:], {q.context[0]: entries}) == q.answer
            assert len(q.prompt) == depth + 2 and q.context[0] in q.prompt


def test_most_of_what_it_makes_up_are_tables() -> None:
    found = fiction_exam(reader(), 96)
    assert found["told"] > 0.9 and found["named"] > 0.9 and found["table"] > 0.6 and found["distinct"] > 0.6
    assert found["permutation"] <= found["table"] <= found["named"]
