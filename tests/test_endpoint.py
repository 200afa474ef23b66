"""An OpenAI-compatible endpoint that fails in every usual way: every episode is accounted for, no zero is false."""

from __future__ import annotations

import json
import resource
import warnings
from pathlib import Path
from typing import Any

import pytest
from _endpoint import FAULTS, Server

from dream_envs import cli
from dream_envs.agents.engines.endpoint import Endpoint
from dream_envs.core import Action, DreamEnvsError, Request
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import EpisodeWriter, as_agent, ask, read_episodes, rollout
from dream_envs.rewards.presets import challenger_solver
from dream_envs.tasks.arithmetic import Arithmetic

FAMILY = Arithmetic("english", operators="+-")
GAME = ChallengerSolver(FAMILY, solvers=4)


def right(messages: Any) -> str:
    """The right answer, as a thinking model says it."""
    text = messages[-1]["content"]
    expression = text.removeprefix("Compute ").partition("\n")[0]
    task = FAMILY.parse(f"compute {expression}")
    return f"<think>hm</think>\n\nThe value is **{getattr(task, 'answer', '?')}**."


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between two tries are a hundredth."""
    import asyncio

    sleep = asyncio.sleep
    monkeypatch.setattr("dream_envs.agents.engines.endpoint.asyncio.sleep", lambda s: sleep(s / 100))


def test_ten_thousand_requests_with_faults(quick: None, tmp_path: Path) -> None:
    """One first try in five fails, one request in a hundred for good."""
    server = Server(right, faults=0.2, hopeless=0.01)
    agent = Endpoint(server.url, retries=3, concurrency=32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with EpisodeWriter(tmp_path / "e.jsonl") as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seats = {"challenger": "oracle", "solver": agent}
        episodes = list(rollout(GAME, seats, 2500, reward=challenger_solver(), out=out, width=64))
    assert sorted(e.index for e in episodes) == list(range(2500))
    turns = [t for e in episodes for t in e.turns if t.role == "solver"]
    assert len(turns) == 10_000 and set(server.kinds) == set(FAULTS)
    failed = [t for t in turns if t.status != "ok"]
    assert 40 < len(failed) < 200 and agent.spent.failures == len(failed) and agent.spent.requests == 10_000
    for episode in episodes:
        for turn in episode.turns:
            score = episode.scores[turn.agent]
            if turn.role == "solver":
                assert (score.status, score.value) == (("ok", 1.0) if turn.status == "ok" else (turn.status, 0.0))
                assert turn.status != "ok" or (turn.finish_reason == "stop" and turn.extracted)
    assert agent.spent.prompt_tokens == 7 * (10_000 - len(failed))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes
    server.hopeless = 0.0  # what failed is played again, and nothing else
    kept = {e.index: e for e in episodes if all(t.status == "ok" for t in e.turns)}
    with EpisodeWriter(tmp_path / "e.jsonl") as out:
        again = list(rollout(GAME, seats, 2500, reward=challenger_solver(), out=out, retry=["error", "timeout"]))
    assert {e.index for e in again} == set(range(2500)) - set(kept)
    whole = {e.index: e for e in read_episodes(tmp_path / "e.jsonl")}
    assert sorted(whole) == list(range(2500)) and all(whole[i] == e for i, e in kept.items())
    assert all(t.status == "ok" for e in whole.values() for t in e.turns)
    server.shutdown()


def test_a_slow_game_holds_up_no_other(quick: None) -> None:
    """Each game goes on at its own pace: the slow one ends last, and has timed out."""
    slow = Server(lambda messages: 3.0 if "7 + 7" in messages[-1]["content"] else right(messages))
    given = {0: "compute 7 + 7"}
    game = ChallengerSolver(FAMILY, solvers=1)
    agent = Endpoint(slow.url, retries=0, timeout=1.0)

    class Proposes:
        privileged = True

        def act(self, requests: Any) -> list[Action]:
            return [Action(given.get(0) if r.seed == first else "compute 3 + 4") for r in requests]

    from dream_envs import seeds

    first = seeds.digest("request", "s/0", "challenger_0", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ended = list(rollout(game, {"challenger": Proposes(), "solver": agent}, 20, seed="s"))
    assert ended[-1].index == 0 and ended[-1].turns[-1].status == "timeout"
    assert all(e.turns[-1].status == "ok" for e in ended[:-1])


def request(text: str = "Compute 3 + 4\n") -> Request:
    return Request(messages=[{"role": "user", "content": text}], agent="solver_0", role="solver", seed=3)


def test_what_is_sent_and_what_is_read(quick: None) -> None:
    seen: list[Any] = []
    server = Server(lambda messages: seen.append(messages) or "7")
    agent: Any = as_agent(server.url)
    twin = agent.decoding(temperature=0.0, top_k=5)
    assert (agent._body, twin._body) == ({"temperature": 1.0}, {"temperature": 0.0, "top_k": 5})
    (action,) = ask(Endpoint(server.url, system="Be brief."), [request()])
    assert action.text == "7" and action.usage.completion_tokens == 3 and action.finish_reason == "stop"
    assert [m["role"] for m in seen[0]] == ["system", "user"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"base_url": "localhost:8000"}, "http://HOST:PORT/v1"),
        ({"base_url": "http://x/v1", "temperature": 11}, "temperature=11: 0 to 10"),
        ({"base_url": "http://x/v1", "concurrency": 0}, "concurrency=0: 1 to 4096"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(DreamEnvsError, match=told):
        Endpoint(**arguments)


def test_a_server_that_is_not_there_is_an_error_each(quick: None) -> None:
    with pytest.warns(UserWarning, match="status 'error'"):
        (action,) = ask(Endpoint("http://127.0.0.1:9/v1", "m", retries=1), [request()])
    assert action.status == "error"


def test_a_rollout_says_what_an_endpoint_was_asked_and_costs(quick: None, tmp_path: Path, capsys: Any) -> None:
    """By the seats that it has, in this call alone: nothing new is asked the second time."""
    server = Server(right)
    where = f"openai(base_url={server.url},price=[1000000,2000000])"
    words = ["rollout", "ChallengerSolver-v0", "--family", "arithmetic", "--notation", "english", "--episodes", "3"]
    words += ["--set", "solvers=2", "--seats", f"challenger=oracle,solver={where}", "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--json"]) == 0
    (spent,) = json.loads(capsys.readouterr().out)["spent"].items()
    assert spent[0] == "solver" and spent[1]["requests"] == 6 and spent[1]["failures"] == 0
    assert spent[1]["cost"] == spent[1]["prompt_tokens"] + 2 * spent[1]["completion_tokens"] > 0
    assert cli.main(words) == 0
    assert "solver: 0 requests now" in capsys.readouterr().out
