"""Rewards as text: what an expression means, that what is written is read back, and hostile texts."""

import math

import pytest
from _episodes import GOLD, play, solved
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs import registry
from dream_envs.core import DreamEnvsError
from dream_envs.rewards.algebra import clip, gate, per_role, weighted, zero_sum
from dream_envs.rewards.base import as_reward, reward
from dream_envs.rewards.controls import random_reward, shuffled
from dream_envs.rewards.diversity import novelty, repetition
from dream_envs.rewards.expressions import from_options, from_toml, parse, show
from dream_envs.rewards.learnability import FORMS, learnability
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.rounds import best_and_worst, in_range, less_repetition, shared
from dream_envs.rewards.solver import correctness, format_reward, majority, pseudo_label

C, F, M = correctness(), format_reward(), majority()


@reward("ours")
def ours(episode, *, text="", number=0.0, words=()):
    return {}


def bare(episode):
    return {"solver_0": 0.25}


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("correctness", C),
        (" 0.9*correctness + 0.1*format ", weighted({C: 0.9, F: 0.1})),
        ("correctness*2-format", weighted({C: 2, F: -1})),
        ("-(correctness - 2*0.5*format)*-3", weighted({C: 3, F: -3})),
        ("correctness+correctness", weighted({C: 2})),
        ("weighted(correctness, gate=format)", weighted({C: 1}, gate=F)),
        ("0.5*weighted(correctness+format)+majority", weighted({weighted({C: 1, F: 1}): 0.5, M: 1})),
        ("learnability(form=azr)", learnability()),
        ("learnability(form='spice', invalid=-1)", learnability(form="spice", invalid=-1)),
        ("gate(correctness, by=format)", gate(C, F)),
        ("clip(2*correctness, -1, hi=1.5)", clip(weighted({C: 2}), -1, 1.5)),
        (
            "less_repetition(learnability(form=r_zero), floor=-1)",
            less_repetition(learnability(form="r_zero"), floor=-1),
        ),
        ("in_range(majority(tie=share), 0.2, 0.8)", in_range(majority(tie="share"), 0.2, 0.8)),
        ("format(pattern='a:b(c)')", format_reward(pattern="a:b(c)")),
        (
            "per_role(solver=correctness, challenger=learnability)",
            per_role({"solver": C, "challenger": learnability()}),
        ),
        ("dream_envs.rewards.solver:majority(tie=share)", majority(tie="share")),
        ("novelty([c:BDA, 'a:HH'])", novelty(["c:BDA", "a:HH"])),
        ("novelty(earlier)", novelty("earlier")),
        ("challenger_solver(form=spice)", challenger_solver(form="spice")),
    ],
)
def test_what_an_expression_means(text, model):
    found = parse(text)
    assert found == model and parse(show(found)) == model
    assert found.grader == model.grader


def test_a_function_by_its_path(monkeypatch):
    monkeypatch.setitem(registry._added["rewards"], "acme/bare-v1", bare)
    assert parse(" acme/bare-v1") == as_reward("acme/bare-v1") == from_options(["acme/bare-v1"]) == as_reward(bare)
    assert as_reward("correctness-format") == parse("correctness-format") == weighted({C: 1, F: -1})
    model = parse(f"0.5*{__name__}:bare+{__name__}:ours(text=x, words=[a, 'b c'])")
    assert model == weighted({as_reward(bare): 0.5, ours(text="x", words=["a", "b c"]): 1.0})
    assert parse(f"{__name__}:bare")(play(["x"]))["solver_0"].value == 0.25
    assert show(as_reward(bare)) == f"{__name__}:bare"


VALUES = st.text(max_size=9) | st.sampled_from(["True", "if", "a:b", "'", "\\", "ﬁ", "earlier"])
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(-1e9, 1e9)
LEAVES = (
    st.sampled_from([C, F, M, challenger_solver(), as_reward(bare), repetition(distance=0.5), novelty("earlier")])
    | st.builds(lambda f: learnability(form=f), st.sampled_from(sorted(FORMS)))
    | st.builds(lambda s, r: random_reward(seed=s, rate=r), VALUES, st.floats(0, 1))
    | st.builds(lambda t, n, w: ours(text=t, number=n, words=w), VALUES, NUMBERS, st.lists(VALUES, max_size=3))
)


def grown(inner):
    pair = st.tuples(inner, inner)
    return (
        st.builds(
            lambda d, g: weighted(d, gate=g), st.dictionaries(inner, st.floats(-9, 9), min_size=1), inner | st.none()
        )
        | st.builds(lambda p, a: gate(*p, above=a), pair, NUMBERS)
        | st.builds(lambda m, a, b: clip(m, min(a, b), hi=max(a, b)), inner, NUMBERS, NUMBERS)
        | st.builds(lambda p: per_role(dict(zip(("solver", "challenger"), p, strict=True))), pair)
        | st.builds(
            lambda m, f: f(m), inner, st.sampled_from([zero_sum, shuffled, shared, less_repetition, best_and_worst])
        )
    )


@given(st.recursive(LEAVES, grown, max_leaves=6))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(model):
    text = show(model)
    if len(text) <= 2000:
        found = parse(text)
        assert found == model and found.grader == model.grader and show(found) == text


def test_what_has_no_name_is_not_written():
    labels = pseudo_label({"a": "b"})
    for model in (
        labels,
        as_reward(lambda e: {}),
        clip(labels),
        as_reward(type("X", (), {"score": lambda self, e: []})()),
    ):
        with pytest.raises(DreamEnvsError):
            show(model)


MISTAKES = [
    ("corectness", "'correctness'"),
    ("learnability(form=azt)", "azr"),
    ("learnability(fomr=azr)", "'form'"),
    ("learnability(azr, form=azr)", "form is given twice"),
    ("clip(correctness, 0, 1, 2)", "takes 3 arguments"),
    ("gate(correctness)", "by"),
    ("gate(correctness, by=0.5)", "a name, a call"),
    ("correctness*format", "one side"),
    ("correctness/2", "added, subtracted"),
    ("correctness+1", "a name, a call"),
    ("1e999*correctness", "finite"),
    ("9" * 400 + "*correctness", "finite"),
    ("9" * 200 + "*" + "9" * 200 + "*0.1*correctness", "finite"),
    ("2**9", "added"),
    ("correctness(**{})", r"\*\*"),
    ("clip(correctness, **{})", r"\*\*"),
    ("clip(*[correctness])", "a name, a call"),
    ("", "no expression"),
    ("correctness correctness", "no expression"),
    ("correctness.score", "a name, a call"),
    ("__import__('os').system('x')", "a name, a call"),
    ("[correctness for x in y]", "a name, a call"),
    ("lambda: 1", "a name, a call"),
    ("f'{x}'", "a name, a call"),
    ("correctness\x00", "no expression"),
    ("random(seed='\ud800')", "no expression"),
    ("random(seed=f'x')", "a name, a call"),
    ("(" * 900 + "correctness" + ")" * 900, "no expression"),
    ("-" * 1900 + "correctness", "no expression"),
    ("correctness" + "+correctness" * 5000, "2000 characters"),
    ("os:replace", "needs src, dst"),
    ("os:sep()", "os:sep"),
    ("no_such_module:x", "no_such_module"),
    (None, "a text"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_a_mistake_is_told_in_one_line(text, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


@given(st.text("corectns+-*/()[]{}=.,:'\"0919e_ \\\n\x00azr", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_reward_or_a_one_line_error(text):
    try:
        parse(text)
    except DreamEnvsError as error:
        assert "\n" not in str(error)


def test_options_and_files(tmp_path):
    texts = {"solver": "0.9*correctness+0.1*format", "challenger": "learnability(form=azr)"}
    model = per_role({"solver": weighted({C: 0.9, F: 0.1}), "challenger": learnability()})
    assert from_options([f"{role} = {text}" for role, text in texts.items()]) == model
    assert as_reward("learnability(form=azr)") == as_reward("learnability", form="azr")
    assert from_options(["learnability(form=azr)"]) == from_options("learnability") == learnability()
    scores = model(play([GOLD, "x"]))
    assert scores["solver_0"].value == pytest.approx(1.0) and scores["challenger_0"].value == 0.5
    file = tmp_path / "rewards.toml"
    file.write_text("[rewards]\n" + "".join(f'{role} = "{text}"\n' for role, text in texts.items()))
    assert from_toml(file) == model
    file.write_text('rewards = "correctness"')
    assert from_toml(file) == C and math.isclose(from_toml(file)(play(solved(1, 2)))["solver_0"].value, 1.0)
    for text in (
        "rewards = 3",
        "[rewards]",
        "[rewards]\nsolver = 3",
        "reward = 'x'",
        "not toml",
        "[rewards]\nsolver='corect'",
    ):
        file.write_text(text)
        with pytest.raises(DreamEnvsError) as caught:
            from_toml(file)
        assert "\n" not in str(caught.value)
    for options in (
        [],
        ["correctness", "solver=format"],
        ["solver=format", "solver=format"],
        ["solver=", "x"],
        3 * ["="],
    ):
        with pytest.raises(DreamEnvsError):
            from_options(options)
    with pytest.raises(DreamEnvsError, match="nowhere"):
        from_toml(tmp_path / "nowhere.toml")
