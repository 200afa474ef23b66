"""AEC, Parallel and the single-role view: games played by hand, seeding, others, snapshots, wrong arguments."""

from __future__ import annotations

import gymnasium
import pytest

from dream_envs import registry
from dream_envs.core import Action, DreamEnvsError, Score
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.pettingzoo import AEC, Parallel
from dream_envs.envs.vector import VectorSingleRole
from dream_envs.play import rollout

GAME = "dream_envs/ChallengerSolver-v0"
SOLVER = "dream_envs/ChallengerSolver-Solver-v0"
CHALLENGER = "dream_envs/ChallengerSolver-Challenger-v0"
ODD = "≤ é 🙂 \u202e \x00"


def gold(prompt):
    family = registry.create("tasks", "composition")
    return family.gold(family.parse(prompt))


def begun(**arguments):
    """A Parallel game at its beginning."""
    env = Parallel(GAME, **arguments)
    env.reset(seed=0)
    return env


def test_an_aec_game_by_hand():
    env = AEC(GAME, solvers=3, judge=True)
    env.reset(seed=1)
    assert env.agents == ["challenger_0", "solver_0", "solver_1", "solver_2", "judge_0"]
    assert env.agent_selection == "challenger_0" and env.observe("solver_1")["text"] == ""
    env.step("c:BDA")
    answer = gold("c:BDA")
    for agent, text in (("solver_0", "nonsense"), ("solver_1", answer), ("solver_2", "")):
        assert env.agent_selection == agent
        observation, reward, terminated, truncated, info = env.last()
        # Those who act at the same time see the problem and nothing of each other.
        assert (observation, reward, terminated, truncated) == ({"role": "solver", "text": "c:BDA"}, 0, False, False)
        assert info == {"messages": [{"role": "user", "content": "c:BDA"}], "active": True}
        env.step(text)
    assert env.agent_selection == "judge_0" and "[1] " + answer in env.observe("judge_0")["text"]
    env.step("0 1 1")  # wrong about the last
    assert env.episode is not None and all(env.terminations.values()) and not any(env.truncations.values())
    # One of three is right, but the judge has the last word on the rate: 2/3 by its verdicts, so 1 - 2/3.
    assert env.rewards["challenger_0"] == pytest.approx(1 / 3)
    assert [env.rewards[f"solver_{i}"] for i in range(3)] == [0, 1, 1]  # paid by the judge, rightly or not
    assert env.rewards["judge_0"] == pytest.approx(2 / 3)
    assert env.infos["judge_0"]["score"]["status"] == "ok"
    rewards = {}
    while env.agents:
        agent = env.agent_selection
        rewards[agent] = env.last()[1]
        env.step(None)
    assert set(rewards) == set(env.possible_agents) and rewards["judge_0"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda env: Parallel(GAME).step({}), "has begun: call reset"),
        (lambda env: env.step(None), r"step\(None\): actions are a dict, .*'challenger_0': 'text'"),
        (lambda env: env.step(["c:BDA"]), r"step\(\['c:BDA'\]\): actions are a dict"),
        (lambda env: env.step({"solvr_0": "x"}), "no 'solvr_0'; did you mean 'solver_0'"),
        (lambda env: env.step({0: "x"}), "no '0'"),
        (lambda env: env.action_space("nobody"), "no 'nobody'.*all: challenger_0"),
        (lambda env: env.observation_space("nobody"), "no 'nobody'"),
        (lambda env: env.observe("nobody"), "no 'nobody'"),
        (lambda env: (env.step({}), env.step({})), "step after the end"),
    ],
)
def test_wrong_calls_of_a_parallel_game_are_told_in_one_line(call, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        call(begun())
    assert "\n" not in str(caught.value)


def test_a_parallel_game_by_hand_ignores_who_is_not_to_act():
    env = Parallel(GAME, solvers=4)
    _, infos = env.reset(seed=1)
    assert [a for a in env.agents if infos[a]["active"]] == ["challenger_0"]
    answer = gold("c:BDA")
    step = env.step({"challenger_0": "c:BDA", "solver_0": "too early", "solver_3": 5})
    assert [a for a in env.agents if step[4][a]["active"]] == [f"solver_{i}" for i in range(4)]
    assert {step[0][f"solver_{i}"]["text"] for i in range(4)} == {"c:BDA"}
    said = {"challenger_0": "again", "solver_2": answer, "solver_0": ""}
    _, rewards, terminations, truncations, infos = env.step(said)
    assert rewards == {"challenger_0": 0.75, "solver_0": 0, "solver_1": 0, "solver_2": 1, "solver_3": 0}
    assert all(terminations.values()) and not any(truncations.values()) and env.agents == []
    assert infos["challenger_0"]["score"]["components"] == {"p": 0.25, "attempts": 4.0}
    assert [t.text for t in env.episode.turns] == ["c:BDA", "", "", answer, ""]
    with pytest.raises(DreamEnvsError, match="reset"):
        env.step({})


def test_a_rejected_proposal_ends_the_game_and_punishes_no_solver():
    _, _, terminations, _, infos = begun(solvers=2).step({"challenger_0": "no problem at all"})
    assert all(terminations.values()) and infos["challenger_0"]["score"]["status"] == "ok"
    assert {infos[f"solver_{i}"]["score"]["status"] for i in range(2)} == {"abstain"}


def test_groups_are_the_attempts_at_one_problem_and_all_proposals_of_a_round():
    game = ChallengerSolver(solvers=2, judge=True)
    seats = {"challenger": "generator", "solver": "oracle", "judge": "oracle"}
    found = [game.group(e, t) for e in rollout(game, seats, 2) for t in e.turns]
    assert found == ["proposals", "0/solver", "0/solver", "0/judge", "proposals", "1/solver", "1/solver", "1/judge"]


def test_a_task_can_be_given():
    env = AEC(GAME, notation="english")
    env.reset(seed=1, options={"task": ChallengerSolver(notation="english").brief(level=5)})
    assert "Use 5 operations" in env.observe("challenger_0")["text"]
    with pytest.raises(DreamEnvsError, match="Task"):
        env.reset(options={"task": "c:BDA"})


def test_token_ids_of_an_action_reach_the_episode():
    env = gymnasium.make(SOLVER).unwrapped
    env.reset(seed=0)
    env.step(Action("x", token_ids=[1, 2], logprobs=[-0.1, -0.2]))
    turn = next(t for t in env.episode.turns if t.agent == "solver_0")
    assert (turn.token_ids, turn.logprobs) == ([1, 2], [-0.1, -0.2])


def test_the_solver_view_pays_for_the_answer_only():
    env = gymnasium.make(SOLVER)
    prompts = set()
    for seed in range(12):
        prompt, info = env.reset(seed=seed)
        assert info["messages"] == [{"role": "user", "content": prompt}]
        prompts.add(prompt)
        _, reward, terminated, truncated, info = env.step(gold(prompt) if seed % 2 else gold(prompt) + " ")
        assert (reward, terminated, truncated) == (float(seed % 2), True, False)
        assert info["score"]["value"] == reward and info["score"]["status"] == "ok"
    assert len(prompts) == 12
    with pytest.raises(DreamEnvsError, match="reset"):  # past the end
        env.unwrapped.step("x")


def test_levels_of_the_scripted_challenger():
    env = gymnasium.make(SOLVER, levels=[2, 5])
    depths = {len(env.reset(seed=s)[0]) - 2 for s in range(30)}
    assert depths == {2, 5}
    with pytest.raises(DreamEnvsError, match="levels="):
        gymnasium.make(SOLVER, levels=[2], others={"challenger": "oracle"})
    with pytest.raises(DreamEnvsError, match="1 to 16"):
        gymnasium.make(SOLVER, levels=[0])
    with pytest.raises(DreamEnvsError, match=r"levels=4: a list of levels, such as \[4\]"):
        gymnasium.make(SOLVER, levels=4)


def test_others_may_be_functions_names_and_agents():
    async def proposes(messages: list) -> str:
        assert messages == [{"role": "user", "content": "new"}]
        return "a:A"

    others = {"challenger": proposes, "solver": "oracle", "solver_2": lambda text: ODD, "solver_3": lambda text: text}
    env = gymnasium.make(SOLVER, others=others).unwrapped
    assert env.reset(seed=0)[0] == "a:A"
    env.step(gold("a:A"))
    assert [s.value for a, s in env.episode.scores.items() if a.startswith("solver")] == [1, 1, 0, 0]
    assert env.episode.scores["challenger_0"].value == 0.5
    assert env.episode.turns[3].text == ODD


def test_the_challenger_view_plays_against_its_solvers():
    env = gymnasium.make(CHALLENGER, others={"solver_0": "oracle", "solver": "floor"})
    env.reset(seed=0)
    assert env.step("c:BDA")[1] == 0.75
    env.reset()
    assert env.step("c;BDA")[1] == 0


def test_games_lost_before_the_first_move_are_drawn_again():
    calls = []

    def every_third(text: str) -> str:
        calls.append(text)
        return "a:A" if len(calls) % 3 == 0 else ""

    env = gymnasium.make(SOLVER, others={"challenger": every_third})
    observation, info = env.reset(seed=0)
    assert (observation, info["redraws"], len(calls)) == ("a:A", 2, 3)
    hopeless = gymnasium.make(SOLVER, others={"challenger": "floor"})
    observation, info = hopeless.reset(seed=0)
    assert (observation, info["redraws"]) == ("", 16)
    _, _, terminated, truncated, info = hopeless.step("anything")
    assert (terminated, truncated, info["score"]["status"]) == (True, False, "abstain")


def test_seeding_rules():
    env = gymnasium.make(SOLVER)
    first = [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]]
    assert [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]] == first and len(set(first)) == 3
    # Neighbouring seeds share nothing: the second episode of seed s is not the first of seed s + 1.
    runs = {s: [env.reset(seed=s)[0], *[env.reset()[0] for _ in range(4)]] for s in range(20)}
    long = [p for run in runs.values() for p in run if len(p) > 6]
    assert len(set(long)) == len(long) > 40


def test_render_shows_control_characters_instead_of_sending_them():
    env = gymnasium.make(SOLVER, render_mode="ansi")
    env.reset(seed=0)
    env.step("\x1b[2Jred \u202e\n" + "y" * 9000)
    text = env.render()
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2Jred" in text and "9010 characters" in text
    assert gymnasium.make(SOLVER).unwrapped.render() is None


def test_a_reward_may_be_a_function_a_name_or_nothing():
    def shout(episode):
        return {t.agent: Score(float(t.text.isupper())) for t in episode.turns}

    env = begun(solvers=2, reward=shout)
    env.step({"challenger_0": "c:BDA"})
    rewards = env.step({"solver_0": "HEY", "solver_1": "hey"})[1]
    assert rewards == {"challenger_0": 0, "solver_0": 1, "solver_1": 0}
    only_solvers = begun(solvers=2, reward="correctness")
    only_solvers.step({"challenger_0": "c:BDA"})
    infos = only_solvers.step({"solver_0": gold("c:BDA")})[4]
    assert infos["challenger_0"]["score"]["status"] == "abstain" and infos["solver_0"]["score"]["value"] == 1


def test_branching_from_a_snapshot():
    env, other = gymnasium.make(SOLVER).unwrapped, gymnasium.make(SOLVER).unwrapped
    prompt, _ = env.reset(seed=3)
    root, found = env.snapshot(), []
    for place, reply in ((env, gold(prompt)), (env, "wrong"), (other, gold(prompt)), (env, gold(prompt))):
        place.restore(root)
        found.append((place.step(reply)[1], place.reset()[0]))
    assert [value for value, _ in found] == [1, 0, 1, 1]
    assert len({following for _, following in found}) == 1  # the next episode is part of the position


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: AEC("ChallengrSolver-v0"), "dream_envs/ChallengerSolver-v0"),
        (lambda: AEC(GAME, solver=3), "'solvers'"),
        (lambda: AEC(GAME, rewrad="correctness"), "'reward'"),
        (lambda: AEC(GAME, reward="corectness"), "'correctness'"),
        (lambda: AEC(GAME, reward=5), "5 cannot be used as a reward"),
        (lambda: AEC(GAME, render_mode="human"), "'ansi'"),
        (lambda: AEC(ChallengerSolver(), solvers=3), "no more arguments"),
        (lambda: gymnasium.make(SOLVER, seat="solver_9"), "solver_3"),
        (lambda: gymnasium.make(SOLVER, seat="challenger_0"), "is a challenger"),
        (lambda: gymnasium.make(SOLVER, others={"chalenger": "oracle"}), "'challenger'"),
        (lambda: gymnasium.make(SOLVER, others={"challenger": "orakle"}), "'oracle'"),
        (lambda: gymnasium.make(SOLVER, other={}), "'others'"),
        (lambda: gymnasium.make_vec(SOLVER, 0), "num_envs=0"),
        (lambda: gymnasium.make(GAME), "role= 'challenger', 'solver'.*pettingzoo.make"),
        (lambda: gymnasium.make_vec(GAME, 2), "role="),
        (lambda: AEC(GAME).restore(gymnasium.make(SOLVER).unwrapped.snapshot()), "snapshot of"),
        (lambda: AEC(GAME).last(), "reset"),
        (lambda: AEC(GAME).step("x"), "reset"),
        (lambda: Parallel(GAME).step({}), "reset"),
        (lambda: gymnasium.make(SOLVER).unwrapped.step("x"), "reset"),
        (lambda: VectorSingleRole(2, role="solver", autoreset_mode="later"), "'NextStep'"),
        (lambda: VectorSingleRole(2, role="solver").step(["a", "b"]), "reset"),
    ],
)
def test_a_users_mistake_is_one_line_that_helps(call, words):
    with pytest.raises(DreamEnvsError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_judge_is_switched_on_for_its_own_view_and_knows_the_truth_where_nobody_names_one():
    view = gymnasium.make(SOLVER, judge=True)
    for seed in range(5):
        prompt, _ = view.reset(seed=seed)
        assert view.step(gold(prompt) if seed % 2 else "no")[1] == seed % 2
    env = gymnasium.make("dream_envs/ChallengerSolver-Judge-v0", solvers=2).unwrapped
    assert env.game.agents[-1] == env.seat == "judge_0"
    with pytest.raises(DreamEnvsError, match="'judge'"):
        gymnasium.make("dream_envs/ChallengerSolver-Judge-v0", judge=False)


def test_changing_an_info_changes_no_record():
    env = begun(solvers=2)
    env.step({"challenger_0": "c:BDA"})
    infos = env.step({"solver_0": gold("c:BDA")})[4]
    infos["challenger_0"]["score"]["components"]["p"] = "defaced"
    infos["solver_0"]["messages"][0]["content"] = "defaced"
    assert env.episode.scores["challenger_0"].components["p"] == 0.5
    assert env.episode.turns[1].messages == [{"role": "user", "content": "c:BDA"}]
