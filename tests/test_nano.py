"""``nano/judge`` and ``nano/context``: they were shown what their recipes declare, and can do what their cards say."""

import functools
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.baselines.eval_set import Exact
from dream_envs.baselines.nano import contexts, exams, judged, tokenizer
from dream_envs.baselines.nano.exams import fiction_exam, questions, reading_exam
from dream_envs.baselines.nano.recipe import BASES, examples
from dream_envs.core import Limits, Request
from dream_envs.envs.judging import Question, rating_of, read, write
from dream_envs.seeds import digest, stream
from dream_envs.tasks.composition import Composition

JUDGE = BASES["judge"]
FAMILY = Composition()


@pytest.fixture(scope="module")
def shown() -> list[tuple[str, str]]:
    return list(itertools.islice(examples(JUDGE, stream("test-nano-judge")), 20_000))


@pytest.fixture(scope="module")
def agent() -> LocalAgent:
    return LocalAgent("nano/judge")


def solved(prompt: str) -> str:
    """The accepted trace, stepped through the family's table here."""
    state, text = prompt[0], ""
    for operation in prompt[2:]:
        state = FAMILY.states[FAMILY.table[FAMILY.operations.index(operation), FAMILY.states.index(state)]]
        text += operation + state
    return text


# ---- what the judge was shown ----------------------------------------------------------------------------------


def test_shares_of_the_kinds_are_those_declared(shown: Any) -> None:
    rule = JUDGE.support.judging
    kinds = Counter(prompt[0] if prompt[1:2] == "|" else "solve" for prompt, _ in shown)
    for letter, share in (("j", rule.pairwise), ("r", rule.rubric), ("k", rule.check), ("y", rule.repair)):
        assert abs(kinds[letter] / len(shown) - share) < 4 * np.sqrt(share * (1 - share) / len(shown)), letter


def test_labels_are_wrong_as_often_as_declared_and_no_order_is_favoured(shown: Any) -> None:
    """Against an oracle: the answer that is the accepted trace is the right one."""
    rule, tally = JUDGE.support.judging, Counter[tuple[str, int, bool]]()
    first = Counter[str]()
    for prompt, reply in shown:
        question = read(prompt)
        if question is None:
            continue
        assert rating_of(question.kind, "compact", reply) is not None
        right = [answer == solved(question.prompt) for answer in question.answers]
        depth = len(question.prompt) - 2
        if question.kind == "rubric":
            tally["r", depth, (reply == "1") == right[0]] += 1
        else:
            first[reply] += 1
            if sum(right) == 1:
                tally["j", depth, right[int(reply) - 1]] += 1
    for kind, depth in itertools.product("jr", rule.depths):
        n = tally[kind, depth, True] + tally[kind, depth, False]
        noise = rule.noise[str(depth)]
        assert n > 400 and abs(tally[kind, depth, False] / n - noise) < 4 * np.sqrt(noise * (1 - noise) / n)
    n = first.total()
    assert set(first) == {"1", "2"} and abs(first["1"] / n - 0.5) < 4 * np.sqrt(0.25 / n)


def test_solutions_slip_as_often_as_declared_and_stay_consistent(shown: Any) -> None:
    support = JUDGE.support
    forms = Counter[str]()
    for prompt, reply in shown:
        if not re.fullmatch("[a-p]:[A-H]+", prompt):
            continue
        answer = solved(prompt)
        assert len(prompt) - 2 in support.depths and not any(pair in prompt for pair in FAMILY.held_out)
        kind = "trace" if reply == answer else "states" if reply == answer[1::2] else "slip"
        forms[kind] += 1
        if kind == "slip":  # from the wrong state it goes on as the tables say
            at = next(i for i in range(1, len(reply), 2) if reply[i] != answer[i])
            assert reply[::2] == answer[::2] and reply[:at] == answer[:at]
            assert reply[at + 1 :] == solved(f"{reply[at]}:{prompt[2 + (at + 1) // 2 :]}")
    n, slip = forms.total(), support.slip
    assert abs(forms["slip"] / n - slip) < 4 * np.sqrt(slip * (1 - slip) / n)
    states = (1 - slip) * support.formats["states"]
    assert abs(forms["states"] / n - states) < 4 * np.sqrt(states * (1 - states) / n)


def test_checks_and_repairs_say_what_the_tables_say(shown: Any) -> None:
    for prompt, reply in shown:
        if prompt[1:2] != "|" or prompt[0] not in "ky":
            continue
        state = prompt[2]
        for i, operation in enumerate(prompt[4:]):
            op, given, third = reply[3 * i : 3 * i + 3]
            right = solved(f"{state}:{operation}")[1]
            assert op == operation
            assert third == (str(int(given == right)) if prompt[0] == "k" else right)
            state = given if prompt[0] == "k" else right


def test_no_wrong_answer_is_right_and_no_other_letter_is_a_question() -> None:
    rng = stream("test-wrong")
    for kind, depth in itertools.product(judged.Judging().wrong, (1, 2, 3, 5)):
        for _ in range(50):
            task = FAMILY.generate(rng, depth)
            assert judged.wrong_answer(FAMILY, task, rng, kind) != solved(task.prompt)
    assert read("k|c:BDA|BhDnAj") is None and read("y|c:BDA") is None
    with pytest.raises(ValueError, match="other"):
        judged.wrong_answer(FAMILY, FAMILY.generate(rng, 2), rng, "other")


def test_the_mask_weighs_answers_and_verdict_and_nothing_else() -> None:
    """``<|user|>j|c:B|Bh|Bk<|assistant|>2<|end|>``: two answers with the bar between them, then the verdict."""
    rule, prompt = judged.Judging(), "j|c:B|Bh|Bk"
    mask = np.zeros(len(prompt) + 4, np.float32)
    mask[len(prompt) + 2 :] = 1
    judged.question_mask(rule, prompt, mask)
    text = ["", *prompt, "", "2", "end"]
    weighed = [(c, float(w)) for c, w in zip(text, mask, strict=True) if w]
    assert weighed == [*((c, rule.read) for c in "Bh|Bk"), ("2", rule.verdict), ("end", 1.0)]
    plain = np.ones(9, np.float32)
    judged.question_mask(rule, "c:BDA", plain)
    assert (plain == 1).all()


# ---- what the judge can do -------------------------------------------------------------------------------------


def test_its_card_is_measured(agent: LocalAgent) -> None:
    rows = re.findall(r"^\| ([1-6]) \| ([\d. |]+) \|$", (Path(resolve("nano/judge")) / "README.md").read_text(), re.M)
    assert [int(depth) for depth, _ in rows] == [1, 2, 3, 4, 5, 6]
    for depth, cells in rows:
        said = [float(x) for x in cells.split("|")]
        found = exams.pairwise_exam(agent, exams.pairs(FAMILY, int(depth), 96))
        assert abs(found["accuracy"] - said[0]) < 0.06 and abs(found["flip"] - said[2]) < 0.08, depth
        assert found["readable"] > 0.95 and abs(found["first"] - 0.5) < 0.1


def test_it_judges_better_than_chance_and_worse_than_its_labels(agent: LocalAgent) -> None:
    rule = JUDGE.support.judging
    for depth in (2, 3):
        found = exams.pairwise_exam(agent, exams.pairs(FAMILY, depth, 96))
        assert 0.65 < found["accuracy"] < 1 - rule.noise[str(depth)] + 0.05
        alone = exams.rubric_exam(agent, exams.pairs(FAMILY, depth, 96))
        assert alone["tpr"] > alone["fpr"] + 0.2


def test_it_solves_as_declared(agent: LocalAgent) -> None:
    """The accepted trace at temperature 1: what slips and the other format leave, 0.75 * 0.8, and a little is lost."""
    found = Exact(FAMILY, agent, (1, 2, 3), 48).curve(agent)
    for depth in ("1", "2", "3"):
        assert 0.45 < found[depth] < 0.68, depth


def test_exact_figures_agree_with_sampling(agent: LocalAgent) -> None:
    """40 pairs, the right answer first, 50 draws each, against the expectation."""
    chosen = exams.pairs(FAMILY, 2, 40)
    told = exams.verdicts(agent, "pairwise", [(p.task, (p.task.answer, p.wrong)) for p in chosen])
    asked = []
    for pair in chosen:
        text = write(Question("pairwise", "compact", pair.task.prompt, (pair.task.answer, pair.wrong)))
        how: Any = {"messages": [{"role": "user", "content": text}], "agent": "judge_0", "role": "judge"}
        asked += [Request(**how, seed=digest("sampling", text, k), limits=Limits(4, 64)) for k in range(50)]
    share = np.mean([action.text == "1" for action in agent.act(asked)])
    assert abs(share - told[:, 0].mean()) < 4 * np.sqrt(0.25 / len(asked))


# ---- what the reader was shown ---------------------------------------------------------------------------------

READING = BASES["context"].support.reading  # type: ignore[attr-defined]
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


# ---- what the reader can do ------------------------------------------------------------------------------------


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
