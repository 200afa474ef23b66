"""Rewards as text: what an expression means, options and files, and hostile texts."""

import pytest
from _episodes import play
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs import registry
from dream_envs.core import DreamEnvsError
from dream_envs.rewards.algebra import clip, gate, per_role, weighted
from dream_envs.rewards.base import as_reward, reward
from dream_envs.rewards.diversity import novelty
from dream_envs.rewards.expressions import by_role, parse
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.presets import challenger_solver
from dream_envs.rewards.rounds import in_range, less_repetition
from dream_envs.rewards.solver import correctness, format_reward, majority

C, F, M = correctness(), format_reward(), majority()


@reward("ours")
def ours(episode, *, text="", number=0.0, words=()):
    return {}


def bare(episode):
    return {"solver_0": 0.25}


@pytest.mark.parametrize(("text", "model"), [
    ("correctness", C), (" 0.9*correctness + 0.1*format ", weighted({C: 0.9, F: 0.1})),
    ("correctness*2-format", weighted({C: 2, F: -1})), ("-(correctness - 2*0.5*format)*-3", weighted({C: 3, F: -3})),
    ("correctness+correctness", weighted({C: 2})), ("weighted(correctness, gate=format)", weighted({C: 1}, gate=F)),
    ("0.5*weighted(correctness+format)+majority", weighted({weighted({C: 1, F: 1}): 0.5, M: 1})),
    ("learnability(form=azr)", learnability()),
    ("learnability(form='spice', invalid=-1)", learnability(form="spice", invalid=-1)),
    ("gate(correctness, by=format)", gate(C, F)), ("clip(2*correctness, -1, hi=1.5)", clip(weighted({C: 2}), -1, 1.5)),
    ("less_repetition(majority, floor=-1)", less_repetition(M, floor=-1)),
    ("in_range(majority(tie=share), 0.2, 0.8)", in_range(majority(tie="share"), 0.2, 0.8)),
    ("format(pattern='a:b(c)')", format_reward(pattern="a:b(c)")),
    ("per_role(solver=correctness, judge=majority)", per_role({"solver": C, "judge": M})),
    ("dream_envs.rewards.solver:majority(tie=share)", majority(tie="share")),
    ("novelty([c:BDA, 'a:HH'])", novelty(["c:BDA", "a:HH"])), ("novelty(earlier)", novelty("earlier")),
    ("challenger_solver(form=spice)", challenger_solver(form="spice")),
])  # fmt: skip
def test_what_an_expression_means(text, model):
    found = parse(text)
    assert found == model and found.grader == model.grader


def test_a_function_by_its_path(monkeypatch):
    monkeypatch.setitem(registry._added["rewards"], "acme/bare-v1", bare)
    assert parse(" acme/bare-v1") == as_reward("acme/bare-v1") == as_reward(bare)
    assert as_reward("correctness-format") == parse("correctness-format") == weighted({C: 1, F: -1})
    model = parse(f"0.5*{__name__}:bare+{__name__}:ours(text=x, words=[a, 'b c'])")
    assert model == weighted({as_reward(bare): 0.5, ours(text="x", words=["a", "b c"]): 1.0})
    assert parse(f"{__name__}:bare")(play(["x"]))["solver_0"].value == 0.25
    assert as_reward("learnability(form=azr)") == as_reward("learnability", form="azr")


MISTAKES = [
    ("corectness", "'correctness'"), ("learnability(form=azt)", "azr"), ("learnability(fomr=azr)", "'form'"),
    ("learnability(azr, form=azr)", "learnability takes each of form, .* once"),
    ("clip(correctness, 0, 1, 2)", "takes each of model, lo, hi once"), ("gate(correctness)", "by"),
    ("gate(correctness, by=0.5)", "a name, a call"), ("correctness*format", "one side"),
    ("correctness+1", "a name, a call"), ("1e999*correctness", "finite"), ("9" * 400 + "*correctness", "finite"),
    ("9" * 200 + "*" + "9" * 200 + "*0.1*correctness", "finite"), ("2**9", "added"), ("correctness(**{})", r"\*\*"),
    ("clip(*[correctness])", "a name, a call"), ("", "no expression"), ("correctness correctness", "no expression"),
    ("correctness.score", "a name, a call"), ("__import__('os').system('x')", "a name, a call"),
    ("[correctness for x in y]", "a name, a call"), ("lambda: 1", "a name, a call"),
    ("correctness\x00", "no expression"), ("random(seed='\ud800')", "no expression"),
    ("random(seed=f'x')", "a name, a call"), ("(" * 900 + "correctness" + ")" * 900, "no expression"),
    ("-" * 1900 + "correctness", "no expression"), ("correctness" + "+correctness" * 5000, "2000 characters"),
    ("learnability(form=spice, zero_ends=-0.5)", "zero_ends=-0.5 .*azr"), ("learnability(lo=0.2)", "lo=0.2: .*band"),
    ("learnability(form=band, lo=0.9, hi=0.1)", "lo=0.9, hi=0.1"), ("learnability(rate=truth)", "truth.*majority"),
    ("majority(tie=first)", "first.*abstain"), ("format(pattern='(')", r"'\('.* regular expression"),
    ("zero_sum(correctness, role=solver, against=solver)", "two sides"), ("random(rate=2)", "0 to 1"),
    ("novelty(['c:BDA'], n=0)", "1 to 16"), ("repetition(distance=2)", "distance=2: 0 to 1"),
    ("less_repetition(majority, distance=2)", "distance=2: 0 to 1"), ("in_range(majority, 0.5, 0.2)", "=0.5, high=0.2"),
    ("serl(alpha=0)", "alpha=0"), ("serl(alpha=1.0)", "alpha"), ("serl(length_control=on)", "symmetric"),
    ("serl(invalid=zero)", "'abstain'"), ("copeland(form=full)", "'net'"), ("bradley_terry(prior=0)", "prior=0"),
    ("os:replace", "needs src, dst"), ("os:sep()", "os:sep"), ("no_such_module:x", "no_such_module"), (None, "a text"),
]  # fmt: skip


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
    assert by_role([f"{role} ={text}" for role, text in texts.items()]) == texts
    assert by_role(["learnability(form=azr)"]) == {"": "learnability(form=azr)"} and by_role([]) == {}
    file = tmp_path / "rewards.toml"
    file.write_text("[rewards]\n" + "".join(f'{role} = "{text}"\n' for role, text in texts.items()))
    assert by_role([str(file)]) == texts and by_role(["judge=format", str(file)]) == texts | {"judge": "format"}
    file.write_text('rewards = "correctness"')
    assert by_role([str(file)]) == {"": "correctness"}


@pytest.mark.parametrize(
    "text", ["rewards = 3", "[rewards]", "[rewards]\na = 3", "reward = 'x'", "not toml", "[rewards]\na='corect'", None]
)
def test_a_mistake_in_a_file_is_told_in_one_line(text, tmp_path):
    if text is not None:
        (tmp_path / "rewards.toml").write_text(text)
    with pytest.raises(DreamEnvsError, match=r"rewards\.toml|'corect'") as caught:
        by_role([str(tmp_path / "rewards.toml")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [["correctness", "solver=format"], ["solver=format", "solver=format"], ["solver=", "x"], ["="]]
)
def test_options_that_cannot_be(options):
    with pytest.raises(DreamEnvsError):
        by_role(options)
