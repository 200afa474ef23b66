"""Scripted agents: the oracle is right, the floor wrong, the hostile ones are caught; as_agent takes anything."""

from __future__ import annotations

import asyncio

import broken_envs
import numpy as np
import pytest
from _families import CASES as FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs import registry
from dream_envs.agents.engines import scripted
from dream_envs.core import Action, Challenge, DreamEnvsError, Limits, Reject, Request, Task
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import PrivilegedRequest, as_agent, ask, play, storable
from dream_envs.seeds import stream

LEVELS = {"countdown": 2}  # exhaustive search: keep it quick


def family_of(name, notation):
    return registry.create("tasks", name, notation=notation)


def request(role="challenger", seed=0, text="new", task=None, limits=None):
    common = {
        "messages": [{"role": "user", "content": text}], "agent": f"{role}_0", "role": role, "seed": seed,
        "limits": limits or Limits(),
    }  # fmt: skip
    return Request(**common) if task is None else PrivilegedRequest(**common, task=task)


def low_levels(family):
    return list(family.levels)[: LEVELS.get(family.name, 3)]


@pytest.mark.parametrize(("name", "notation"), FAMILIES)
def test_generator_and_oracle_are_accepted_and_the_floor_is_not(name, notation):
    family = family_of(name, notation)
    agent = scripted.Generator(family, levels=low_levels(family))
    proposals = [a.text for a in agent.act([request(seed=s) for s in range(20)])]
    problems = [family.parse(p) for p in proposals]
    assert all(isinstance(p, Task) for p in problems), proposals
    assert {p.level for p in problems} <= set(low_levels(family))
    assert len(set(proposals)) > 10  # they are drawn, not repeated
    asked = [request("solver", s, p.prompt, p) for s, p in enumerate(problems)]
    for player, value in ((scripted.Oracle, 1.0), (scripted.Floor, 0.0)):
        replies = player(family).act(asked)
        assert {family.verify(p, r.text).value for p, r in zip(problems, replies, strict=True)} == {value}


@pytest.mark.parametrize(("name", "notation"), FAMILIES)
def test_hostile_challengers_do_what_they_are_named_for(name, notation):
    family = family_of(name, notation)
    limits = Limits(max_chars=family.max_chars)
    asked = [request(seed=s, limits=limits, task=Task(family=name, level=2, prompt="new", origin="brief"))
             for s in range(12)]  # fmt: skip

    def said(cls):
        return [a.text for a in cls(family).act(asked)]

    assert all(isinstance(family.parse(p), Reject) for p in said(scripted.Impossible))
    assert {family.parse(p).code for p in said(scripted.Overlong)} == {"too_long"}
    assert all(isinstance(family.parse(p), Reject) for p in said(scripted.Leaking))
    assert len(set(said(scripted.Constant))) == 1
    assert isinstance(family.parse(said(scripted.Constant)[0]), Task)
    assert 1 < len(set(said(scripted.Duplicate))) <= 4
    assert all(isinstance(family.parse(p), Task) for p in said(scripted.Duplicate))


def test_impossible_gets_past_the_alphabet():
    # Garbage is easy to turn away; at least some damage has to reach the checks behind the character set.
    family = family_of("composition", "compact")
    codes = [family.parse(a.text).code for a in scripted.Impossible(family).act([request(seed=s) for s in range(30)])]
    assert set(codes) - {"charset", "empty"}


def test_leaking_leaks():
    family = family_of("composition", "compact")
    text = scripted.Leaking(family).act([request(seed=3)])[0].text
    problem, _, answer = text.partition(" ")
    assert family.verify(family.parse(problem), answer).value == 1.0


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_a_reply_depends_on_its_own_seed_alone(numbers, shuffler):
    game = ChallengerSolver()
    for name in ("oracle", "guesser", "random", "generator", "impossible", "duplicate", "overlong"):
        agent = as_agent(name, game)
        asked = [request(seed=n) for n in numbers]
        alone = {r.seed: agent.act([r])[0].text for r in asked}
        shuffler.shuffle(asked)
        assert [a.text for a in agent.act(asked)] == [alone[r.seed] for r in asked]


def test_guesser_meets_the_declared_chance():
    family = registry.create("tasks", "composition", n_states=4)
    game = ChallengerSolver(family, solvers=1)
    players = {"challenger": scripted.Generator(game, levels=[1]), "solver": "guesser"}
    wins = [play(game, players, seed=str(i)).outcome.facts["correct"]["solver_0"] for i in range(800)]
    # Chance is 1/4; 800 draws have a standard deviation of 0.0153.
    assert abs(np.mean(wins) - 0.25) < 4 * 0.0153


@pytest.mark.parametrize("notation", ["compact", "english"])
def test_judges(notation):
    game = ChallengerSolver(notation=notation, judge=True, solvers=3)
    mixed = {"challenger": "generator", "solver_0": "oracle", "solver_1": "floor", "solver_2": "random"}
    for judge, verdicts in (("oracle", "1 0 0"), ("floor", "0 1 1")):
        episode = play(game, {**mixed, "judge": judge}, seed="j")
        assert episode.turns[-1].text == verdicts


def test_the_oracle_judge_can_read_the_compact_problem_without_the_truth():
    game = ChallengerSolver(judge=True, solvers=2)
    task = game.family.generate(stream("t"), 3)
    text = f"Problem:\n{task.prompt}\n\nReplies:\n[0] {task.answer}\n[1] two\nlines\n\nWrite 2 verdicts in order."
    assert scripted.Oracle(game).act([request("judge", text=text)])[0].text == "1 0"


def test_levels_outside_the_family_are_refused():
    family = family_of("composition", "compact")
    with pytest.raises(DreamEnvsError, match="1 to 16"):
        scripted.Generator(family, levels=[3, 99])


def test_as_agent_conventions():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    asked = Request(messages=messages, agent="solver_0", role="solver", seed=1)
    seen = []

    def plain(x):
        seen.append(x)
        return "a"

    def annotated(x: list) -> str:
        seen.append(x)
        return "b"

    def named(messages):
        messages.append("spoilt")  # it is the function's own copy
        return Action("c", token_ids=[7])

    async def later(text: str) -> str:
        await asyncio.sleep(0)
        return text.upper()

    class Callable:
        async def __call__(self, text: str) -> str:
            return "d"

    def replies(agent):
        return ask(as_agent(agent), [asked])[0]

    assert [replies(f).text for f in (plain, annotated, named, later, Callable())] == [
        "a", "b", "c", "SYSTEM: S\n\nUSER: U", "d",
    ]  # fmt: skip
    assert seen == ["system: s\n\nuser: u", messages]
    assert replies(named).token_ids == [7]
    assert messages == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


def test_async_agents_run_together_and_inside_a_running_loop():
    running, most = 0, 0

    async def slow(text: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return text

    agent = as_agent(slow)

    async def inside():
        return ask(agent, [request(text=str(i)) for i in range(5)])

    assert [a.text for a in asyncio.run(inside())] == list("01234")
    assert most == 5


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (7, "is not an agent"),
        (scripted.Oracle, "is a class"),
        ("orcale", "oracle"),
        (lambda: "x", "takes no argument"),
        (lambda text: 5, "not int"),
        (type("Short", (), {"act": lambda self, requests: []})(), "0 actions for 1 requests"),
        (type("Bare", (), {"act": lambda self, requests: "text"})(), "one Action a request"),
    ],
)
def test_what_is_no_agent_is_said_in_one_line(bad, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        ask(as_agent(bad), [request()])
    assert "\n" not in str(caught.value)


def test_seats_win_over_roles_and_shared_agents_are_asked_once():
    class Counts:
        def __init__(self):
            self.sizes = []

        def act(self, requests):
            self.sizes.append(len(requests))
            return [Action("x") for _ in requests]

    game, counts = ChallengerSolver(solvers=4), Counts()
    episode = play(game, {"challenger": "generator", "solver": counts, "solver_2": "oracle"})
    assert counts.sizes == [3]
    assert episode.outcome.facts["correct"] == {"solver_0": 0.0, "solver_1": 0.0, "solver_2": 1.0, "solver_3": 0.0}
    with pytest.raises(DreamEnvsError, match="solver_3"):
        play(game, {"challenger": "generator", "solver_4": "oracle"})
    with pytest.raises(DreamEnvsError, match="nobody plays solver_0"):
        play(game, {"challenger": "generator"})


@given(st.text(alphabet=st.characters(), max_size=30))
@settings(max_examples=200, deadline=None)
def test_storable_changes_lone_surrogates_and_nothing_else(text):
    clean = storable(Action(text)).text
    assert clean.encode("utf-8").decode("utf-8") == clean
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    assert clean.replace("\ufffd", "") == whole.replace("\ufffd", "")
    if not any(0xD800 <= ord(c) < 0xE000 for c in text):
        assert clean == text


def test_hostile_challengers_never_reach_the_solvers():
    game = ChallengerSolver()
    for name in ("impossible", "leaking", "overlong", "floor"):
        episode = play(game, {"challenger": name, "solver": "oracle"})
        assert not any(isinstance(t, Challenge) for t in episode.tasks)
        assert [turn.agent for turn in episode.turns] == ["challenger_0"]


def test_seats_of_one_agent_draw_their_own_randomness():
    game = ChallengerSolver(solvers=4, level=8)
    replies = [t.text for t in play(game, {"challenger": "generator", "solver": "guesser"}).turns[1:]]
    assert len(set(replies)) == 4  # 16 ** 8 guesses: two alike would be no accident


def test_challengers_keep_to_the_level_of_the_brief():
    game = ChallengerSolver(solvers=1, level=5)
    for name in ("oracle", "generator", "guesser"):
        levels = {play(game, {"challenger": name, "solver": "floor"}, seed=str(i)).tasks[1].level for i in range(6)}
        assert levels == {5}


def test_two_turns_of_one_seat_draw_their_own_randomness():
    turns = play(broken_envs.Sums(), {"player": "random"}).turns
    assert len(turns) == 4 and len({t.text for t in turns}) == 4
