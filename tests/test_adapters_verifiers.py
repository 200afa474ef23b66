"""Games and families as environments of verifiers: real runs of the real package against a local model server.

The server answers from the messages alone, so that ``play.rollout`` with the same function is what every number is
compared with.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers.v1")

import verifiers.v1 as vf
from _endpoint import Server
from acme.acme_dreams.auction import Auction

from dream_envs.adapters import verifiers as adapter
from dream_envs.core import DreamEnvsError, Episode, Game, RoleSpec, Score, Task
from dream_envs.envs._adapter import build_game, build_reward
from dream_envs.play import rollout
from dream_envs.tasks.arithmetic import Arithmetic

HERE = Path(__file__).resolve().parent
NAMES = (f"played_{i}" for i in itertools.count())
Said = Callable[[Any], Any]


def drawn(*replies: str) -> Said:
    """One of these, by the messages' hash; one in ten is what no game expects."""

    def said(messages: list[dict[str, str]]) -> str:
        number = int(hashlib.sha256(repr([(m["role"], m["content"]) for m in messages]).encode()).hexdigest()[:8], 16)
        return (
            ("", "x" * 5000, "<think>no", "\x00𝔸\u202e")[number // 10 % 4]
            if number % 10 == 0
            else replies[number % len(replies)]
        )

    return said


def solves(messages: list[dict[str, str]]) -> str:
    """A proposal, verdicts, or the value of the expression in the prompt, wrong where it is even."""
    text = messages[-1]["content"]
    found = re.search(r"Compute (.*)", text)
    if "Replies:" in text or found is None:  # a judge, a challenger
        return "1 0" if "Replies:" in text else "compute 9 + 8"
    value = eval(found[1])  # digits, + and -: our own generator's
    return f"Let me see.\n\nAnswer: {value if value % 2 else value + 1}"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[adapter.Classes], str]]:
    """A module that exports these classes, as a user's file would; its name."""

    def make(classes: adapter.Classes) -> str:
        name = next(NAMES)
        made = types.ModuleType(name)
        made.__dict__.update(classes._asdict(), __all__=list(classes._fields))
        monkeypatch.setitem(sys.modules, name, made)
        return name

    yield make


def run(name: str, said: Said | Server, count: int, rollouts: int = 1, **config: Any) -> list[Any]:
    """verifiers' episodes of the first tasks, in order."""
    server = said if isinstance(said, Server) else Server(said)
    taskset = {"id": name, **config.pop("taskset", {})}
    env = vf.load_environment(vf.resolve_env_config({"taskset": taskset, **config}))
    model = vf.ModelContext(model="m", client=vf.EvalClientConfig(base_url=server.url, api_key_var="NO_KEY"))

    async def all_of_them() -> list[Any]:
        async with env.serving():
            slots = [slot for task in env.taskset.take(count) for slot in env.slots(task, rollouts)]
            return await asyncio.gather(*[env.run_slot(slot, model) for slot in slots])

    try:
        return asyncio.run(all_of_them())
    finally:
        server.shutdown()


def about(trace: Any) -> dict[str, Any]:
    return trace.info["dream_envs"]


def compare(found: Any, ours: Episode) -> int:
    """Every move of verifiers' agents is ours, and scored as ours; how many had no value."""
    without = 0
    assert not found.errors
    for trace in found.traces:
        turn, score = ours.turns[about(trace)["turn"]], ours.scores[about(trace)["agent"]]
        assert (turn.agent, turn.role) == (about(trace)["agent"], trace.agent.name)
        *asked, reply = [node.message for node in trace.nodes]
        assert [(m.role, m.content) for m in asked] == [(m["role"], m["content"]) for m in turn.messages]
        assert (reply.content or "") == turn.text
        assert about(trace)["score"]["status"] == score.status
        if score.status == "ok":
            assert trace.ok and trace.reward == score.value and trace.rewards["reward"].score == score.value
        else:
            without += 1
            assert not trace.ok and trace.rewards == {"reward": None}
            assert trace.errors[-1].type == f"Score{score.status.title()}"
    assert found.ok is all(trace.ok for trace in found.traces)
    return without


guess = drawn(*"abcdefghijklmnop")
moves = drawn("[bet]", "[pass] no: [bet]", "[pass]")
Case = tuple[str | Game, dict[str, Any], Said, dict[str, Any], int]
GAMES: dict[str, Case] = {
    "two players, several turns": ("Kuhn-v0", {"notation": "english"}, moves, {}, 12),
    "a stranger's game, all at once": (Auction(), {}, drawn("3", "7", "9", "4 5"), {}, 12),
    "four solvers, a scripted challenger": (
        "ChallengerSolver-v0", {"family": "arithmetic", "notation": "english", "family_args": {"operators": "+-"}},
        solves, {"challenger": "generator"}, 8,
    ),
    "everybody": (
        "ChallengerSolver-v0", {"family": "arithmetic", "notation": "english", "judge": True, "solvers": 2},
        solves, {}, 2,
    ),
    "one seat of a role is ours": (
        "SelfJudge-v0", {"family": "arithmetic", "notation": "english"}, drawn("Answer: 1", "Verdict: 1"),
        {"judge_0": "random_judge"}, 4,
    ),
    "it reads, sleeps and is asked": ("SleepCycle-v0", {}, lambda m: m[-1]["content"][-1] + guess(m), {}, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", GAMES)
def test_every_move_and_score_is_that_of_a_rollout(case: str, module: Any) -> None:
    subject, settings, said, others, count = GAMES[case]
    game = build_game(subject, settings)
    roles = {spec.name for spec in game.roles} - {*others}
    found = run(module(adapter.environment(subject, others=others, **settings)), said, count, taskset={"seed": "s"})
    seats: dict[str, Any] = {**dict.fromkeys(sorted(roles), lambda messages: said(messages)), **others}
    ours = {e.index: e for e in rollout(game, seats, count, seed="s", reward=build_reward(None, game))}
    assert len(found) == count and any(len(e.traces) > 1 for e in found)
    for i, episode in enumerate(found):
        compare(episode, ours[i])
        mine = [n for n, t in enumerate(ours[i].turns) if t.agent not in others and t.role not in others]
        assert sorted(about(t)["turn"] for t in episode.traces) == mine
        assert {about(t)["episode"] for t in episode.traces} == {f"s/{i}"}
    values = {t.reward for e in found for t in e.traces if t.ok}
    assert len(values) > 1 or case == "it reads, sleeps and is asked"  # which nobody passes who remembers nothing


def test_a_reward_of_ones_own_and_scores_without_a_value(module: Any) -> None:
    """The judge's scores abstain where the reward does not speak of it: not a zero, and not kept from a resume."""
    settings: dict[str, Any] = {"family": "arithmetic", "notation": "english", "solvers": 1, "judge": True}
    said = drawn("compute 9 + 8", "Answer: 17", "1")
    name = module(adapter.environment("ChallengerSolver-v0", reward="correctness", **settings))
    game = build_game("ChallengerSolver-v0", settings)
    seats: dict[str, Any] = dict.fromkeys(("challenger", "solver", "judge"), lambda messages: said(messages))
    ours = list(rollout(game, seats, 4, reward="correctness"))
    found = run(name, said, 4)
    assert sum(compare(a, b) for a, b in zip(found, ours, strict=True)) >= 4
    env = vf.load_environment(vf.resolve_env_config({"taskset": {"id": name}}))
    assert all(env.complete(episode) and not episode.ok for episode in found)
    again = vf.WireEpisode.model_validate(found[0].to_record())
    assert env.complete(again) and [t.rewards for t in again.traces] == [t.rewards for t in found[0].traces]


def test_agents_and_rewards_of_ours_are_called_by_one_thread_at_a_time(module: Any) -> None:
    """verifiers plays the episodes side by side; a model of ours has one set of weights."""
    inside, most = 0, 0

    def busy() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1

    def bets(text: str) -> str:
        busy()
        return "b"

    def flat(episode: Episode) -> dict[str, Score]:
        busy()
        return {"first_0": Score(0.5)}

    found = run(module(adapter.environment("Kuhn-v0", others={"second": bets}, reward=flat)), lambda m: "b", 16)
    assert most == 1 and {t.reward for e in found for t in e.traces} == {0.5}


def test_rollouts_of_one_task_share_what_the_game_draws(module: Any) -> None:
    found = run(module(adapter.environment("Kuhn-v0")), lambda messages: "b", 6, rollouts=3)
    deals = [about(e.traces[0])["outcome"]["facts"]["cards"] for e in found]
    groups = [deals[i : i + 3] for i in range(0, 18, 3)]
    assert all(one == two == three for one, two, three in groups) and len({str(g[0]) for g in groups}) > 1


def test_a_call_that_fails_is_an_error_and_one_that_is_late_a_timeout(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._constants.DEFAULT_MAX_RETRIES", 0)
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *args: 0.001)
    name = module(adapter.environment("Kuhn-v0"))
    (broken,) = run(name, Server(lambda messages: "b", hopeless=1.0), 1)
    (late,) = run(name, lambda messages: 5.0, 1, first={"timeout": {"rollout": 0.3}})
    for episode, status in ((broken, "error"), (late, "timeout")):
        (trace,) = episode.traces  # the second player never moves
        assert about(trace)["status"] == about(trace)["outcome"]["status"] == about(trace)["score"]["status"] == status
        assert not trace.ok and trace.rewards == {"reward": None} and trace.errors[-1].type == f"Score{status.title()}"
        assert not vf.load_environment(vf.resolve_env_config({"taskset": {"id": name}})).complete(episode)
    assert broken.traces[0].errors[0].type == "ProviderError" and late.traces[0].stop_condition == "agent_timeout"


def test_what_a_model_is_sent(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of the view and the seat's budget, and no seed: the rollouts of a group have to differ."""
    bodies: list[Any] = []
    server, name = Server(lambda messages: "b"), module(adapter.environment("Kuhn-v0"))
    loads = json.loads
    monkeypatch.setattr("_endpoint.json.loads", lambda text: bodies.append(loads(text)) or bodies[-1])
    (episode,) = run(name, server, 1, second={"model": "another", "sampling": {"max_tokens": 5}})
    monkeypatch.undo()
    bodies = [body for body in bodies if isinstance(body, dict) and "messages" in body]
    first, second = bodies
    card = about(episode.traces[0])["outcome"]["facts"]["cards"]["first_0"]
    assert first == {"model": "m", "messages": [{"role": "user", "content": f"k{card}"}], "max_tokens": 2}
    assert (second["model"], second["max_tokens"]) == ("another", 5)


def test_a_family_alone(module: Any) -> None:
    """Its verdicts, through another road than the game's; a reply that never came is an error."""
    family = Arithmetic("english", operators="+-")
    classes = adapter.taskset(family)
    assert issubclass(classes.Env, vf.SingleAgentEnv)  # or vf-replay would refuse its runs
    name = module(classes)
    found = run(name, solves, 30, taskset={"levels": [1, 2]})
    tasks = [Task(**{k: v for k, v in e.traces[0].task.data.problem.items() if k != "type"}) for e in found]
    assert [t.level for t in tasks] == [1, 2] * 15 and len({t.id for t in tasks}) > 20
    for task, episode in zip(tasks, found, strict=True):
        (trace,) = episode.traces
        reply = solves([{"role": "user", "content": task.prompt}])
        assert trace.task.data.id == task.id and trace.nodes[0].message.content == task.prompt
        assert trace.rewards["correct"].score == family.verify(task, reply).value == float(int(task.answer) % 2)
    assert {e.traces[0].reward for e in found} == {0.0, 1.0}
    (late,) = run(name, lambda messages: 5.0, 1, agent={"timeout": {"rollout": 0.3}})
    (trace,) = late.traces
    assert not late.ok and trace.rewards == {"correct": None} and "ScoreTimeout" in trace.errors[-1].message


def test_the_command_line(tmp_path: Path) -> None:
    """``vf-eval`` on a file of three lines, with another model in one role."""
    (tmp_path / "acme_poker.py").write_text(
        'from dream_envs.adapters.verifiers import environment\nT, E, H = environment("Kuhn-v0")\n'
        '__all__ = ["T", "E", "H"]\n'
    )
    server = Server(lambda messages: "b")
    words = ["acme-poker", "-n", "3", "-r", "2", "-m", "some", "--client.base-url", server.url, "--rich", "None"]
    words += ["--client.api-key-var", "NO_KEY", "--env.second.model", "other", "--output-dir", "out", "--run.name", "x"]
    path = os.pathsep.join([str(HERE.parent), str(tmp_path)])
    home = {**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    code = "import sys; from verifiers.v1.cli.eval.main import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, env=home, capture_output=True, text=True)
    server.shutdown()
    assert done.returncode == 0, done.stderr[-2000:]
    (traces,) = (tmp_path / "out").rglob("traces.jsonl")
    episodes = [vf.WireEpisode.model_validate_json(line) for line in traces.read_text().splitlines()]
    assert len(episodes) == 6 and all(e.ok and len(e.traces) == 2 for e in episodes)
    assert {sum(t.reward for t in e.traces) for e in episodes} == {0.0}
    assert {c.model for e in episodes for t in e.by_agent["second"] for c in t.calls} == {"other"}


class Shadowed(Auction):
    roles = (RoleSpec("timeout", 2, "one digit", (-0.9, 0.9)),)
    agents = ("timeout_0", "timeout_1")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: adapter.environment("Kuhn-v1"), "no 'dream_envs/Kuhn-v1'|no 'Kuhn-v1'"),
        (lambda: adapter.environment("Kuhn-v0", notatoin="english"), "did you mean 'notation'"),
        (lambda: adapter.environment(Auction(), others={"bidder": "oracle"}), "leave a role to verifiers"),
        (lambda: adapter.environment(Auction(), others={"bider": "oracle"}), "did you mean 'bidder'"),
        (lambda: adapter.environment(Shadowed()), "'timeout' of acme/Auction-v0: verifiers has a setting"),
        (lambda: adapter.taskset("arithmetik"), "did you mean 'arithmetic'"),
        (lambda: adapter.taskset(Arithmetic("english"), operators="+"), "a family object takes no more arguments"),
    ],
)
def test_mistakes_are_told_in_a_line(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(DreamEnvsError, match=told) as error:
        make()
    assert "\n" not in str(error.value)


def test_wrong_levels_are_told_when_the_taskset_is_read(module: Any) -> None:
    name = module(adapter.taskset("arithmetic"))
    taskset = vf.load_taskset(vf.taskset_config_type(name)(id=name, levels=[1, 99]))
    with pytest.raises(DreamEnvsError, match="99 is none of arithmetic's 1 to"):
        list(taskset.take(1))


def test_an_episode_in_which_no_agent_of_verifiers_moves_is_an_error(module: Any) -> None:
    """A scripted challenger whose proposal is turned away: verifiers has no episode without a trace."""
    (found,) = run(module(adapter.environment("ChallengerSolver-v0", others={"challenger": "floor"})), solves, 1)
    assert not found.ok and not found.traces and "before an agent of verifiers could move" in found.errors[0].message


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.partition(".")[0] in ("verifiers", "openai"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    monkeypatch.delitem(sys.modules, "dream_envs.adapters.verifiers")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DreamEnvsError, match=re.escape("pip install 'dream-envs[verifiers]'")):
        __import__("dream_envs.adapters.verifiers")


def test_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its modules are files of the names that it gives, and what it runs is run."""
    page = (HERE.parent / "docs" / "adapters_verifiers.md").read_text("utf-8")
    poker, program, sums = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in (("poker", poker), ("sums", sums)):
        (tmp_path / f"{name}.py").write_text(text)
    server = Server(lambda messages: "I [bet].")
    exec(program.replace("http://127.0.0.1:8000/v1", server.url), {})
    lines = [eval(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3 and all(dict(line) == {"first": -line[1][1], "second": line[1][1]} for line in lines)
    found = run("sums", solves, 4, taskset={"levels": [1, 2]})
    assert all(e.ok for e in found)
    for name in ("poker", "sums"):
        sys.modules.pop(name)
