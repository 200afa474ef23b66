"""Each mechanism can do what it claims, on a base whose skill hides behind one rare first token; chance cannot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from _hidden import MARK, Marked, hidden, problems
from _tiny import same, weights

from dream_envs.agents.elicitation.attempts import Attempt, attempts, by_first_token, by_length

from dream_envs.agents.elicitation.attempts import kinds, messages_of, pass_rates, request  # isort: skip
from dream_envs.agents.elicitation.cot_decoding import CotDecoding
from dream_envs.agents.elicitation.elicit import MECHANISMS, Critique, Rlvr, Sae, SelfTuning, Steering
from dream_envs.agents.elicitation.sae import SaeSettings
from dream_envs.agents.elicitation.steering import Steered, layer_of
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import Agent, DreamEnvsError, Task
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

FAMILY = Marked()
DRAWS = 16


@pytest.fixture(scope="module")
def base() -> LocalAgent:
    """Opens with the mark in about one reply of two hundred."""
    return hidden(0.005)


@pytest.fixture(scope="module")
def half() -> LocalAgent:
    """Opens with the mark in about one reply of six: a skill that can be seen, and trained on."""
    return hidden(0.2, steps=120)


DEV = [t for level in (1, 2, 3) for t in problems(16, level, "dev")]
TEST = problems(48, 3, "test")


def _reached(agent: Agent, tasks: Sequence[Task] = TEST) -> float:
    """Share of problems that at least one of ``DRAWS`` replies solves."""
    return float(np.mean([max(a.value for a in row) for row in attempts(agent, tasks, FAMILY, DRAWS, "test")]))


def _right(agent: Agent, tasks: Sequence[Task] = TEST) -> float:
    return float(pass_rates(agent, tasks, FAMILY, DRAWS, "test").mean())


def test_the_skill_is_there_and_hides(base: LocalAgent) -> None:
    """What the other tests stand on: with the mark forced nearly all is right, without it next to nothing."""
    mark = [[[base.token(MARK)]]] * len(TEST)
    prompts = [base.encode(messages_of(t)) for t in TEST]
    seeds = np.arange(len(TEST), dtype=np.uint64)
    forced = base.decode([s.ids for s in base.sample(prompts, seeds, np.full(len(TEST), 20), mark)])
    assert np.mean([FAMILY.verify(t, text).value for t, text in zip(TEST, forced, strict=True)]) > 0.85
    assert _right(base) < 0.02 and _reached(base) < 0.25


def test_cot_decoding_uncovers_it(base: LocalAgent) -> None:
    assert _reached(CotDecoding(base)) > 0.45 > _reached(base) + 0.2
    assert _reached(CotDecoding(base, k=1)) < 0.15  # the likeliest first token alone does not
    assert _right(base.decoding(temperature=0.0)) < 0.3  # greedy decoding does not


def test_steering_uncovers_it_and_a_random_direction_does_not(base: LocalAgent) -> None:
    before = base.completion_logits([messages_of(t) for t in TEST[:4]], [t.answer for t in TEST[:4]])[0]
    steered = MECHANISMS["steering"].make(base, DEV, FAMILY, "s")
    assert isinstance(steered, Steered) and _reached(steered) > 0.85 and _right(steered) > 0.25
    (shift,) = steered.shifts
    length = float(shift.added.norm())
    for i in range(3):
        direction = stream("random-direction", i).normal(size=len(shift.added)).astype(np.float32)
        direction *= length / np.linalg.norm(direction)
        assert _right(Steered(base, shift.layer, direction, 1.0, shift.first_tokens)) < 0.1
    after = base.completion_logits([messages_of(t) for t in TEST[:4]], [t.answer for t in TEST[:4]])[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not layer_of(base.model, shift.layer)._forward_hooks


def test_one_feature_uncovers_it(base: LocalAgent) -> None:
    steered = MECHANISMS["sae"].make(base, DEV, FAMILY, "s")
    assert isinstance(steered, Steered) and steered.shifts[0].first_tokens == 1
    assert _right(steered) > 0.15 and _reached(steered) > 0.85


def test_critique_and_rlvr_raise_what_is_there(half: LocalAgent) -> None:
    before, base = _right(half), weights(half.model)
    critic = MECHANISMS["critique"].make(half, DEV, FAMILY, "s")
    assert before < 0.25 and _right(critic) > before + 0.04  # 768 draws: three standard errors
    learner = Rlvr(low=0.05, steps=12, problems=24, attempts=6).make(half, DEV, FAMILY, "s")
    assert _right(learner) > 0.6
    assert same(base, weights(half.model))


def test_neither_gives_a_base_a_skill_that_it_has_not() -> None:
    """Another world's tables are nowhere in the base; what it gets right there by coincidence teaches it none."""
    torch.set_num_threads(1)
    family, base = Composition(world="other"), LocalAgent("nano/compose")
    rng = stream("other-world")
    dev = [family.generate(rng, level) for level in (1, 2) for _ in range(24)]
    test = [family.generate(rng, 2) for _ in range(64)]
    before = pass_rates(base, test, family, DRAWS, "test").mean()
    for mechanism in (Critique(), Rlvr(low=0.05, steps=12, problems=24, attempts=6)):
        agent = mechanism.make(base, dev, family, "s")
        assert pass_rates(agent, test, family, DRAWS, "test").mean() < before + 0.04


SMALL = {
    "steering": Steering(problems=8, draws=48, depths=(0.5,), scales=(1.0,), check=1),
    "sae": Sae(problems=8, draws=48, depths=(0.5,), scales=(1.0,), check=1, sae=SaeSettings(steps=40)),
    "critique": Critique(problems=8, tries=((4, 3e-4),), check=1),
    "rlvr": Rlvr(low=0.05, steps=3, problems=8),
    "self_tuning": SelfTuning(draws=4, steps=3, batch=8),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_same_seed_same_agent_and_not_the_base(half: LocalAgent, name: str) -> None:
    mechanism = SMALL[name]
    agents = [half, *(mechanism.make(half, DEV, FAMILY, "s") for _ in range(2))]
    said = [[(a.text, a.logprobs) for a in m.act([request(t, FAMILY, "x") for t in TEST])] for m in agents]  # type: ignore[union-attr]
    assert said[1] == said[2] and said[0] != said[1]


def test_branches_and_their_probabilities(base: LocalAgent) -> None:
    """Each of the k likeliest first tokens comes as often as any other, and no other comes."""
    k, n = 8, 4000
    agent, task = CotDecoding(base, k), TEST[0]
    (branches,) = agent.branches([base.encode(messages_of(task))])
    logits = base.completion_logits([messages_of(task)], ["x"])[0][0][0]
    ranked = [i for i in np.argsort(-logits, kind="stable").tolist() if i not in base.ends]
    assert branches == ranked[:k]
    actions = agent.act([request(task, FAMILY, "branches", i) for i in range(n)])
    counts = np.array([sum((a.token_ids or [-1])[0] == b for a in actions) for b in branches])
    assert counts.sum() == n
    assert (((counts - n / k) ** 2) / (n / k)).sum() < 30  # chi-square of 7 degrees: one in 10,000 above 28
    assert {a.logprobs[0] for a in actions if a.logprobs} == {-np.log(k)}


def test_stopping_early_changes_no_verdict(base: LocalAgent) -> None:
    agent = CotDecoding(base)
    requests = [request(t, FAMILY, "stop", i) for t in TEST[:16] for i in range(8)]
    texts = {r.messages[0]["content"]: MARK + t.answer for t, r in zip(TEST[:16], requests[::8], strict=True)}
    whole = agent.act(requests)
    short = agent.stopping(lambda r: texts[r.messages[0]["content"]]).act(requests)
    wanted = [texts[r.messages[0]["content"]] for r in requests]
    right = [[a.text == text for a, text in zip(part, wanted, strict=True)] for part in (whole, short)]
    assert right[0] == right[1] and any(right[0])
    assert sum(len(a.token_ids or []) for a in short) < 0.6 * sum(len(a.token_ids or []) for a in whole)


def test_kinds_are_told_apart_without_their_scores(base: LocalAgent) -> None:
    def labels(lengths: list[int], firsts: list[int]) -> list:
        made = [Attempt("", first, length, True, 0.0) for length, first in zip(lengths, firsts, strict=True)]
        return [by_length(made), by_first_token(made)]

    told = [[False, False, True, True, False], [False, False, False, True, False]]
    assert labels([4, 4, 9, 5, 4], [7, 7, 7, 8, 7]) == told
    assert labels([4, 4], [7, 7]) == [[False, False]] * 2
    for pair in kinds(base, DEV, FAMILY, 64, "kinds"):
        assert len(pair.positive) == len(pair.negative) > 5
        assert [m for m, _ in pair.positive] == [m for m, _ in pair.negative]
        marked = [np.mean([MARK in text for _, text in replies]) for replies in (pair.positive, pair.negative)]
        assert marked[0] > 10 * max(0.01, marked[1])
        few = pair.fewer(4)
        assert [m for m, _ in few.positive] == [m for m, _ in few.negative] and len(few.positive) == 4
        assert few.positive[0] == pair.positive[0] and few.negative[-1] == pair.negative[-1]
        assert pair.fewer(10**6) == pair
    with pytest.raises(DreamEnvsError, match="all of one kind"):
        kinds(base.decoding(temperature=0.0), DEV[:4], FAMILY, 4, "kinds")


def test_mistakes_are_one_line(base: LocalAgent) -> None:
    cases = [
        (lambda: MECHANISMS["steering"].make(base, [], FAMILY, "s"), "dev is empty"),
        (lambda: CotDecoding(base, 0), "k=0"),
        (lambda: CotDecoding(base.constrained(lambda r: [["#"]])), "without a form"),
        (lambda: MECHANISMS["rlvr"].make(base, problems(4, 6, "deep"), FAMILY, "s"), "nothing solved to practise on"),
        (lambda: MECHANISMS["critique"].make(base, problems(4, 6, "deep"), FAMILY, "s"), "right and wrong"),
        (lambda: attempts(base.stopping(lambda r: "x"), DEV, FAMILY, 1, "s"), "stops at its first wrong token"),
    ]
    for call, says in cases:
        with pytest.raises(DreamEnvsError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)
