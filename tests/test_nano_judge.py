"""``nano/judge``: what it was shown is what its recipe declares, and what it can do is what its card says."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from dream_envs.agents.engines.local import LocalAgent, resolve
from dream_envs.baselines.eval_set import Exact
from dream_envs.baselines.nano import exams, judged
from dream_envs.baselines.nano.recipe import BASES, examples
from dream_envs.core import Limits, Request
from dream_envs.envs.judging import Question, rating_of, read, write
from dream_envs.seeds import digest, stream
from dream_envs.tasks.composition import Composition

FOLDER = Path(resolve("nano/judge"))
RECIPE = BASES["judge"]
FAMILY = Composition()


@pytest.fixture(scope="module")
def shown() -> list[tuple[str, str]]:
    return list(itertools.islice(examples(RECIPE, stream("test-nano-judge")), 20_000))


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


# ---- what it was shown -----------------------------------------------------------------------------------------


def test_shares_of_the_kinds_are_those_declared(shown: Any) -> None:
    rule = RECIPE.support.judging
    kinds = Counter(prompt[0] if prompt[1:2] == "|" else "solve" for prompt, _ in shown)
    for letter, share in (("j", rule.pairwise), ("r", rule.rubric), ("k", rule.check), ("y", rule.repair)):
        assert abs(kinds[letter] / len(shown) - share) < 4 * np.sqrt(share * (1 - share) / len(shown)), letter


def test_labels_are_wrong_as_often_as_declared_and_no_order_is_favoured(shown: Any) -> None:
    """Against an oracle: the answer that is the accepted trace is the right one."""
    rule, tally = RECIPE.support.judging, Counter[tuple[str, int, bool]]()
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
    support = RECIPE.support
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


# ---- what it can do --------------------------------------------------------------------------------------------


def test_its_card_is_measured(agent: LocalAgent) -> None:
    rows = re.findall(r"^\| ([1-6]) \| ([\d. |]+) \|$", (FOLDER / "README.md").read_text(), re.M)
    assert [int(depth) for depth, _ in rows] == [1, 2, 3, 4, 5, 6]
    for depth, cells in rows:
        said = [float(x) for x in cells.split("|")]
        found = exams.pairwise_exam(agent, exams.pairs(FAMILY, int(depth), 96))
        assert abs(found["accuracy"] - said[0]) < 0.06 and abs(found["flip"] - said[2]) < 0.08, depth
        assert found["readable"] > 0.95 and abs(found["first"] - 0.5) < 0.1


def test_it_judges_better_than_chance_and_worse_than_its_labels(agent: LocalAgent) -> None:
    rule = RECIPE.support.judging
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
