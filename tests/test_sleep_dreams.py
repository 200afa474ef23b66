"""Dreams: what makes them novel leaves no trace, what is kept is valid and new, no verifier answers."""

from __future__ import annotations

import functools
import re
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl")

import torch
from _sleep import DREAMS, STATES, bits, day, generator, generators, reader, same, with_

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import Dream, FamilyQuestions, answers, fictions, imagine

from dream_envs.agents.sleep.dreams import importance, likelihood, random_expert, tried  # isort: skip
from dream_envs.agents.sleep.experience import Experience, context_of
from dream_envs.core import Action, Reject, Score, Task
from dream_envs.tasks.composition import Composition

TABLE = re.compile("[I-P]=" + "".join(f"{s}>[{STATES}]" for s in STATES))


# ---- novelty ---------------------------------------------------------------------------------------------------


def test_a_random_expert_is_there_inside_and_gone_behind_an_exception_too() -> None:
    agent = reader().snapshot()
    before, head = bits(agent), agent.model.get_output_embeddings()
    with random_expert(agent.model, 0.1, 2, "x"):
        inside = bits(agent)
        for name, module in agent.model.named_modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                change = inside[f"{name}.weight"] - before[f"{name}.weight"]
                norm = before[f"{name}.weight"].norm()
                if norm > 0:
                    assert float(change.norm() / norm) == pytest.approx(0.1, rel=1e-3)
                    assert int(torch.linalg.matrix_rank(change, rtol=1e-3)) == 2
    assert torch.equal(inside["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert same(bits(agent), before)
    with random_expert(agent.model, 0.1, 2, "x"):
        assert same(bits(agent), inside)
    with random_expert(agent.model, 0.1, 2, "y"):
        assert not same(bits(agent), inside)
    with random_expert(agent.model, 0.0, 2, "x"):
        assert same(bits(agent), before)
    with pytest.raises(KeyboardInterrupt), random_expert(agent.model, 5.0, 3, "x"):
        assert not same(bits(agent), before)
        raise KeyboardInterrupt
    assert same(bits(agent), before)


# ---- what is made up -------------------------------------------------------------------------------------------


def test_fictions_end_properly_and_say_nothing_of_the_user() -> None:
    found = fictions(reader(), 32, "test")
    assert len(found) >= 24 and found == fictions(reader(), 32, "test") != fictions(reader(), 32, "other")
    texts = [message["content"] for (message,) in found]
    assert all(message["role"] == "system" for (message,) in found) and len(set(texts)) == len(texts)
    assert not any(":" in text or "<|" in text or "\x1a" in text for text in texts)
    assert sum(bool(TABLE.fullmatch(text)) for text in texts) > len(texts) / 2
    assert fictions(reader(), 8, "test", max_tokens=5) == []  # none of them has come to its end


def templated(template: str) -> LocalAgent:
    """The reader behind another template."""
    agent = LocalAgent(reader().model, tokenizer=reader().tokenizer)
    told = functools.partial(reader().tokenizer.apply_chat_template, chat_template=template)
    agent.tokenizer = SimpleNamespace(apply_chat_template=told)
    return agent


@pytest.mark.parametrize("template", [
    "{{ raise_exception('System role not supported') }}",
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}",
    "nothing of what was said", "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "{{ messages[0]['content'] }}{{ messages[0]['content'] }}<|user|>{{ messages[1]['content'] }}",
])  # fmt: skip
def test_a_template_without_system_messages_has_no_fictions(template: str) -> None:
    """One that refuses the role, ones that drop it in silence, ones that leave no place to begin or to end."""
    assert fictions(templated(template), 4, "test") == []


def contexts_of_today() -> list[Any]:
    return [context_of(day("0")[0].messages), context_of(day("1", "J")[0].messages)]


def test_only_valid_new_and_allowed_questions_are_kept() -> None:
    whole = generator()
    pairs, proposals = imagine(reader(), whole, "day", contexts_of_today(), 24, "test", novelty=0.1)
    assert 8 < len(pairs) == len(proposals) <= 24
    asked = [(p.messages[0]["content"], p.messages[1]["content"]) for p in pairs]
    assert len(set(asked)) == len(asked) and {a for a, _ in asked} == {c[0]["content"] for c in contexts_of_today()}
    for pair, proposal in zip(pairs, proposals, strict=True):
        assert [m["role"] for m in pair.messages] == ["system", "user"] and pair.kind == proposal.kind == "day"
        assert proposal.messages == [pair.messages[0], *whole.brief()]  # the same context before the brief
        assert whole.question(proposal.reply) == pair.messages[1:]
    ids = [task.id for p in proposals if isinstance(task := whole.family.parse(p.reply), Task)]
    assert len(ids) == len(pairs)
    fewer_questions = FamilyQuestions(whole.family, ids[::2])
    fewer, _ = imagine(reader(), fewer_questions, "day", contexts_of_today(), 24, "test", novelty=0.1)
    left = [p for p, name in zip(pairs, ids, strict=True) if name not in ids[::2]]
    assert fewer == left and len(left) < len(pairs)


@pytest.mark.parametrize(("read", "kept"), [([{"role": "user", "content": "c:BA"}], 1), (None, 0)])
def test_what_says_the_same_again_or_nothing_is_left_out(read: Any, kept: int) -> None:
    """In a notation that forgives, different texts may propose the same; where nothing is valid the dream is empty."""
    questions = FamilyQuestions(Composition())
    questions.question = lambda text: read  # type: ignore[method-assign]
    assert [len(found) for found in imagine(reader(), questions, "memory", [], 8, "test")] == [kept, kept]


class Liar(Composition):
    """Its verifier says that everything is right, its answers are all wrong."""

    def verify(self, task: Task, reply: str) -> Score:
        return Score(1.0, grader="liar")

    def gold(self, task: Task) -> str:
        raise AssertionError("a dreamer asked for the answer")

    def parse(self, proposal: str) -> Task | Reject:
        found = super().parse(proposal)
        return found if isinstance(found, Reject) else msgspec.structs.replace(found, answer="Aa" * found.level)


def test_answers_are_the_agents_own_and_no_verifiers() -> None:
    honest = Composition(n_operations=16, held_out_pairs=0)
    liar = Liar(n_operations=16, held_out_pairs=0)
    assert liar.parse("c:B").answer == "Aa" != honest.parse("c:B").answer  # type: ignore[union-attr]
    for kind, contexts in (("memory", []), ("day", contexts_of_today())):
        told, lied = (
            imagine(reader(), FamilyQuestions(f), kind, contexts, 12, "test", novelty=0.05) for f in (honest, liar)
        )
        assert told == lied and told[0]


# ---- which are good --------------------------------------------------------------------------------------------


def dreams() -> list[Dream]:
    """One that is right and new, one that is gibberish, an empty one."""
    right = [Experience(e.messages[1:], e.reply, "memory") for e in day()]
    mad = [Experience(e.messages, "A" * 8, "memory") for e in right]
    return [Dream("memory", right, [], 16), Dream("memory", mad, [], 16), Dream("memory", [], [], 16)]


def test_importance_is_zero_for_an_empty_dream_and_touches_nothing() -> None:
    before, state = bits(reader()), generators()
    found = importance(reader(), [*dreams(), dreams()[0]], 4, "test")
    assert found[2] == 0.0 and found[0] == found[3] > 0 and found[1] > 0
    assert found[:3] == importance(reader(), dreams(), 4, "test")
    assert same(bits(reader()), before) and generators() == state
    easy = imagine(reader(), generator(), "memory", [], 16, "easy")[0]  # what it says anyhow moves least
    assert importance(reader(), [Dream("memory", easy, [], 16)], 4, "test")[0] < min(found[0], found[1]) / 10


def test_a_dream_is_good_if_it_helps_a_copy_with_the_probe_more_than_the_day_does() -> None:
    """The probe is the first dream's own facts: against a day of another table the first helps, gibberish does not;
    against a day of these very facts the other table's dream does not, though it is nothing but true."""
    before, probe, other = bits(reader()), dreams()[0].pairs, day("other")
    chosen = with_(DREAMS, top=2, random=0, inner_steps=6, inner_lr=3e-3)
    right, mad, empty = tried(reader(), dreams(), other, probe, chosen, "test")
    assert same(bits(reader()), before)
    assert right.reward == 1.0 and mad.reward == 0.0 and empty.reward is None
    assert right.chosen == mad.chosen == "top" and empty.chosen == "rejected" and empty.after is None
    assert right.before == mad.before
    for dream in (right, mad):
        assert dream.after is not None and dream.before is not None and dream.reward == (dream.after > dream.before)
    lesser = Dream("memory", [Experience(e.messages[1:], e.reply, "memory") for e in other], [], 16)
    (beside,) = tried(reader(), [lesser], probe, probe, with_(chosen, top=1), "test")
    assert beside.reward == 0.0 and beside.before == right.after  # the same steps from the same random start
    again = tried(reader(), dreams(), other, probe, chosen, "test")
    assert [d.after for d in again] == [right.after, mad.after, None]
    one = tried(reader(), dreams(), other, probe, with_(chosen, top=1), "test")
    assert sorted(d.chosen for d in one) == ["rejected", "rejected", "top"]


def test_with_votes_an_answer_is_what_is_said_more_often_than_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of known answers in place of the model's: three of five stands; two of five and one of two do not."""
    said = iter(["x", "x", "y", "x", "z", "a", "a", "b", "b", "c", "x", "y", "a", "a"])
    monkeypatch.setattr(type(reader()), "act", lambda self, asked: [Action(next(said)) for _ in asked])
    questions: list[Any] = [[{"role": "user", "content": q}] for q in ("a:B", "b:B")]
    assert answers(reader(), generator(), questions, "test", 5) == ["x", None]
    assert answers(reader(), generator(), questions, "test", 2) == [None, "a"]


def test_votes_leave_questions_out_together_with_their_proposals() -> None:
    """A hot head is not always of one mind; what is dreamt with votes was proposed word for word."""
    hot = reader().decoding(temperature=2.0)
    found, proposals = imagine(hot, generator(), "memory", [], 48, "test", votes=7)
    plain = imagine(hot, generator(), "memory", [], 48, "test")[0]
    assert 0 < len(found) == len(proposals) < len(plain)
    assert [e.messages[-1]["content"] for e in found] == [p.reply for p in proposals]
    greedy = {e.messages[-1]["content"]: e.reply for e in plain}
    agreed = [greedy[e.messages[-1]["content"]] == e.reply for e in found]
    assert sum(agreed) > 0.9 * len(agreed)  # what is said more often than not is most often the most likely


def test_likelihood_is_the_mean_over_tokens() -> None:
    """Two replies of different lengths: a mean over tokens, not over replies."""
    short, long = (Experience([{"role": "user", "content": q}], r) for q, r in (("c:B", "Bf"), ("c:BDA", "zzzzzzzz")))
    each = [likelihood(reader(), [e]) for e in (short, long)]
    both = likelihood(reader(), [short, long])
    assert both == pytest.approx((3 * each[0] + 9 * each[1]) / 12, rel=1e-5)
