"""Several servers of one model: conversations stay, loads even out, one that dies is made up for."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections import Counter, defaultdict
from typing import Any

import pytest
from _endpoint import Handler, Server

from dream_envs.agents.engines.replicas import MORE, Replicas
from dream_envs.core import DreamEnvsError, Limits, Request
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import as_agent, ask, rollout
from dream_envs.tasks.arithmetic import Arithmetic

GAME = ChallengerSolver(Arithmetic("english", operators="+-"), solvers=4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between two tries are a hundredth."""
    import asyncio

    sleep = asyncio.sleep
    monkeypatch.setattr("dream_envs.agents.engines.endpoint.asyncio.sleep", lambda s: sleep(s / 100))


class Adapters(Handler):
    """Takes adapters as vLLM does."""

    def do_POST(self) -> None:
        if not self.path.endswith("/load_lora_adapter"):
            return super().do_POST()
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["lora_name"]
        loaded = self.server.__dict__.setdefault("adapters", [])
        there = name in loaded
        loaded.append(name)
        self._send(400, f"The lora adapter '{name}' has already been loaded") if there else self._send(200, "")


def servers(count: int, seconds: float = 0.0) -> tuple[list[Server], list[list[Any]]]:
    """Test servers, and the conversations that each has been asked."""
    seen: list[list[Any]] = [[] for _ in range(count)]

    def answering(place: int) -> Any:
        def reply(messages: Any) -> str:
            time.sleep(seconds)
            seen[place].append(messages)
            return "7"

        return reply

    made = [Server(answering(i)) for i in range(count)]
    for server in made:
        server.RequestHandlerClass = Adapters
    return made, seen


def stop(server: Server) -> None:
    server.shutdown()
    server.server_close()


def request(text: str, seed: int = 0, *before: str) -> Request:
    said = [*before, text]
    messages: Any = [{"role": ("user", "assistant")[i % 2], "content": s} for i, s in enumerate(said)]
    return Request(messages=messages, agent="solver_0", role="solver", seed=seed, limits=Limits(8))


def agent_of(made: list[Server], **more: Any) -> Replicas:
    urls = json.dumps([s.url for s in made])
    found: Any = as_agent(f"replicas(urls={urls})", **more)
    return found


def test_a_conversation_goes_on_where_it_began() -> None:
    made, seen = servers(3)
    agent = agent_of(made)
    ask(agent, [request(f"q{i}") for i in range(30)])
    for turn in range(3):
        ask(agent, [request("more", turn, f"q{i}", *["7", "more"] * turn, "7") for i in range(30)])
    where = defaultdict(set)
    for place, conversations in enumerate(seen):
        for messages in conversations:
            where[messages[0]["content"]].add(place)
    assert len(where) == 30 and all(len(places) == 1 for places in where.values())
    assert {len(c) for c in seen} == {40} and [s.answered for s in agent.served.values()] == [40, 40, 40]


def test_a_prompt_that_everybody_asks_is_shared_out_beyond_a_margin() -> None:
    """The same prompt a hundred times at once: one replica would be much more loaded."""
    made, seen = servers(2, seconds=0.02)
    agent = agent_of(made)
    ask(agent, [request("the same", i) for i in range(100)])
    one, other = sorted(map(len, seen))
    assert one + other == 100 and one >= 20
    ask(agent, [request("alone", i) for i in range(1)])
    few = Counter(url for url in agent.served for _ in range(agent.served[url].live))
    assert not few  # nothing is left under way
    lone, heard = servers(2, seconds=0.02)
    ask(agent_of(lone), [request("the same", i) for i in range(MORE)])
    assert sorted(map(len, heard)) == [0, MORE]  # within the margin it stays


def test_one_that_dies_in_mid_run_costs_nothing() -> None:
    made, seen = servers(2, seconds=0.002)
    agent = agent_of(made, concurrency=8)
    threading.Timer(0.3, stop, [made[0]]).start()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        episodes = list(rollout(GAME, {"challenger": "oracle", "solver": agent}, 80, width=16))
    turns = [t for e in episodes for t in e.turns if t.role == "solver"]
    assert len(turns) == 320 and all(t.status == "ok" for t in turns)
    dead, living = agent.served.values()
    assert dead.failed and not living.failed and len(seen[0]) < len(seen[1])
    assert dead.answered + living.answered >= 320 and agent.spent.failures == 0


def test_it_is_asked_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dream_envs.agents.engines.replicas.REST", 0.2)
    made, seen = servers(2)
    agent = agent_of(made)
    made[0].hopeless = 1.0  # 4xx, 5xx, resets, bodies that are cut: whatever a sick server does
    first = ask(agent, [request(f"a{i}") for i in range(40)])
    assert all(a.status == "ok" for a in first) and not seen[0]
    made[0].hopeless = 0.0
    time.sleep(0.3)
    ask(agent, [request(f"b{i}") for i in range(40)])
    assert len(seen[0]) >= 10


def test_all_down_is_an_error_each() -> None:
    made, _ = servers(2)
    agent = agent_of(made, model="m", retries=1)
    for server in made:
        stop(server)
    with pytest.warns(UserWarning, match="status 'error'"):
        (action,) = ask(agent, [request("q")])
    assert action.status == "error" and all(s.failed == 2 for s in agent.served.values())


def test_an_adapter_reaches_every_replica(tmp_path: Any) -> None:
    made, _ = servers(3)
    agent = agent_of(made)
    worn = agent.load("solver@1", tmp_path)
    assert [s.adapters for s in made] == [["solver@1"]] * 3 and worn.model == "solver@1" and agent.model == ""  # type: ignore[attr-defined]
    stop(made[1])
    with pytest.raises(DreamEnvsError, match=r"on 2 of 3 replicas; adapter 'solver@2': http.* does not answer"):
        agent.load("solver@2", tmp_path)
    assert [s.adapters for s in made[::2]] == [["solver@1", "solver@2"]] * 2  # type: ignore[attr-defined]
    agent_of(made[::2]).load("solver@2", tmp_path)  # there already: no error


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"urls": []}, "a list of one or more"),
        ({"urls": "http://x/v1"}, "a list of one or more"),
        ({"urls": ["http://x/v1", "http://x/v1"]}, "each once"),
        ({"urls": ["http://x/v1", "x:8000"]}, "http://HOST:PORT/v1"),
        ({"urls": ["http://x/v1"], "colour": 1}, "no 'colour'"),
    ],
)
def test_mistakes_are_told_in_a_line(given: Any, told: str) -> None:
    with pytest.raises(DreamEnvsError, match=told):
        as_agent("replicas", **given)


def test_replicas_of_different_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = servers(2)

    class Other(Handler):
        def do_GET(self) -> None:
            self._send(200, '{"data": [{"id": "another"}]}')

    made[1].RequestHandlerClass = Other
    with pytest.raises(DreamEnvsError, match="replicas serve 'another' and 'fake'"):
        ask(agent_of(made), [request("q")])
