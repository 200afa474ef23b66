"""vLLM for real, on SmolLM2: ``make test-vllm`` (an environment of its own, minutes)."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from dream_envs.agents.engines.endpoint import Endpoint
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.agents.engines.replicas import Replicas
from dream_envs.agents.engines.server import Server
from dream_envs.agents.engines.vllm import VllmAgent
from dream_envs.agents.training.adapters import adapted
from dream_envs.baselines.loop import conduct
from dream_envs.baselines.recipe import Options
from dream_envs.core import Action, DreamEnvsError, Limits, Request
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import ask, read_episodes, rollout

MODEL, RANK = "smollm2", 8


def asked(count: int, tokens: int = 12) -> list[Request]:
    return [
        Request(
            messages=[{"role": "user", "content": f"Compute {i % 10} + {i % 7}\nReply with the value alone."}],
            agent="solver_0", role="solver", seed=10**18 + i, limits=Limits(tokens),
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three adapters that change what is said."""
    found = {}
    for number in range(3):
        model = adapted(LocalAgent(MODEL).model, RANK, number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_B" in name:
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.02)
        found[f"solver@{number + 1}"] = str(tmp_path_factory.mktemp(f"adapter{number}"))
        model.save_pretrained(found[f"solver@{number + 1}"])
    return found


@pytest.fixture(scope="module")
def engine(folders: dict[str, str]) -> VllmAgent:
    return VllmAgent(MODEL, dtype="float32", max_model_len=512, adapters=folders)


def test_seeds_ids_probabilities_and_ends(engine: VllmAgent) -> None:
    """The same requests are the same replies; log-probabilities are the local engine's; a turn ends in its end."""
    requests = asked(24)
    first, again = engine.act(requests), engine.act(requests)
    assert [a.token_ids for a in first] == [a.token_ids for a in again] and len({a.text for a in first}) > 12
    local = LocalAgent(MODEL)
    for request, action in zip(requests[:8], first[:8], strict=True):
        ids = list(action.token_ids or ())
        logits = local.read([local.encode(request.messages)], [ids]).logits[0].float().log_softmax(-1)
        start = len(local.encode(request.messages)) - 1
        own = [float(logits[start + i, token]) for i, token in enumerate(ids)]
        assert np.allclose(own, action.logprobs or [], atol=0.02)
        assert action.finish_reason == ("stop" if ids[-1] == local.end else "length")
        assert action.finish_reason == "stop" or len(ids) == 12
    greedy, ours = engine.decoding(temperature=0.0).act(requests[:8]), local.decoding(temperature=0.0).act(requests[:8])
    assert [a.text for a in greedy] == [a.text for a in ours]


def test_many_prompts_of_many_samples_do_not_end_the_engine(engine: VllmAgent) -> None:
    """On a CPU a seeded request whose prompt is read in pieces ends the engine: prompts are never cut."""
    assert len(engine.act([r for r in asked(20) for _ in range(8)])) == 160


def test_three_adapters_in_one_batch(engine: VllmAgent, folders: dict[str, str]) -> None:
    requests = asked(12)
    worn = [engine._adapters.get(f"solver@{i % 4}") for i in range(12)]  # the first of four wears none
    mixed = engine.act_as(worn, requests)
    for i, request in enumerate(requests):
        name = "base" if i % 4 == 0 else f"solver@{i % 4}"
        (alone,) = engine.adapter(name).act([request])
        assert mixed[i].token_ids == alone.token_ids, name
    said = {tuple(a.text for a in engine.adapter(n).act(requests)) for n in ("base", *folders)}
    assert len(said) == 4
    with pytest.raises(DreamEnvsError, match="a new version takes a new name"):
        engine.add("solver@1", folders["solver@1"])
    with pytest.raises(DreamEnvsError, match="adapter 'solver@9'"):
        engine.adapter("solver@9")


def test_grpo_with_lora_samples_through_vllm(tmp_path: Path) -> None:
    """Two steps of a loop, colocated; the second step samples from another adapter than the first."""
    options = Options(
        "azr", steps=2, model=MODEL, family="arithmetic", levels=(1,), max_tokens=12, dtype="float32",
        set={
            "learner.engine": "vllm", "learner.lora_rank": RANK, "learner.lr": 1e-3, "family.operators": "+",
            "mixture.generator": 4, "proposals": 1, "replays": 0, "attempts": 4, "groups": 4, "eval.levels": [1],
            "eval.problems": 2, "eval.attempts": 2,
        },
    )  # fmt: skip
    summary = conduct(options, tmp_path / "run", quiet=True)
    assert summary.evaluation is not None and summary.evaluation.kind == "sampled"
    final = LocalAgent(str(tmp_path / "run" / "checkpoints" / "final")).model.state_dict()
    before = LocalAgent(MODEL).model.state_dict()
    assert any(not torch.equal(final[k], before[k]) for k in before)


def test_weights_that_are_pushed_are_sampled_from() -> None:
    """Log-probabilities of what it says are the merged policy's, before and behind a step, and not the base's."""
    from dream_envs.agents.training.adapters import Merged, adapted

    agent = LocalAgent(MODEL, dtype="float32")
    base = agent.snapshot()
    agent.model = adapted(agent.model, RANK, 0)
    sampler = Merged(agent)
    for scale in (0.0, 0.03):
        with torch.no_grad():
            torch.manual_seed(0)
            for name, value in agent.model.named_parameters():
                if "lora_B" in name:
                    value.normal_(0, scale) if scale else value.zero_()
        sampler.publish()
        requests = asked(3)
        for request, action in zip(requests, sampler.act(requests), strict=True):
            head, ids = list(agent.encode(request.messages)), action.token_ids
            assert ids and action.logprobs
            told = []
            for model in (agent.snapshot(), base):
                logits = model.read([head], [ids]).logits[0, len(head) - 1 : len(head) + len(ids) - 1]
                told.append(torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(ids)[:, None])[:, 0])
            own, plain = told
            assert (torch.tensor(action.logprobs) - own).abs().max() < 0.02
            assert scale == 0.0 or (own - plain).abs().max() > 0.2


@pytest.fixture
def few_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring Kuhn takes thousands of replies, a CPU's hour of a language model: it is not what is tested here."""
    monkeypatch.setattr("dream_envs.envs.kuhn.REPLIES", 4)


def test_past_selves_play_on_the_same_engine(tmp_path: Path, few_replies: None) -> None:
    """Kuhn by text: from the second step on an adapter of an earlier step has one of the two seats."""
    options = Options(
        "spiral", steps=3, model=MODEL, dtype="float32", max_tokens=4,
        set={
            "learner.engine": "vllm", "learner.lora_rank": RANK, "learner.lr": 1e-3, "learner.micro_batch": 8,
            "learner.pool.every": 1, "learner.pool.share": 1.0, "mixture.challenger": 6, "eval.games": 2,
            "eval.every": 100,
        },
    )  # fmt: skip
    conduct(options, tmp_path / "run", quiet=True)
    authors: dict[int, set[str]] = {}
    for episode in read_episodes(tmp_path / "run" / "episodes.jsonl"):
        authors.setdefault(episode.round, set()).update(t.author for t in episode.turns)
    assert authors[0] == {""} and "policy@1" in authors[1] and authors[2] & {"policy@1", "policy@2"}


def test_each_role_has_its_adapter_on_the_same_engine(tmp_path: Path, few_replies: None) -> None:
    """Two adapters are trained side by side and sampled in one batch with past selves of either role."""
    options = Options(
        "spiral", steps=3, model=MODEL, dtype="float32", max_tokens=4,
        set={
            "learner.engine": "vllm", "learner.lora_rank": RANK, "learner.lr": 1e-3, "learner.per_role": "first",
            "learner.micro_batch": 8, "learner.pool.every": 1, "learner.pool.share": 0.5, "mixture.challenger": 8,
            "eval.games": 2, "eval.every": 100,
        },
    )  # fmt: skip
    conduct(options, tmp_path / "run", quiet=True)
    met = {(t.role, t.author) for e in read_episodes(tmp_path / "run" / "episodes.jsonl") for t in e.turns if t.author}
    assert met and all(author.startswith(f"{role}@") for role, author in met)
    final = tmp_path / "run" / "checkpoints" / "final"
    assert (final / "adapters" / "second" / "adapter_model.safetensors").is_file()


def test_a_server_starts_answers_takes_an_adapter_dies_and_stops(tmp_path: Path, folders: dict[str, str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first, *others = folders.items()
    how: dict[str, Any] = {"dtype": "float32", "max_model_len": 512, "lora_rank": RANK, "log": tmp_path / "log"}
    with Server(resolve(MODEL), port=port, adapters=dict([first]), arguments=["--enforce-eager"], **how) as server:
        url = server.wait()
        (said,) = ask(Endpoint(url, token_ids=True), asked(1))
        assert said.status == "ok" and said.token_ids and said.logprobs and said.finish_reason in ("stop", "length")
        server.load(*others[0])
        names = "model", first[0], others[0][0]
        texts = {tuple(a.text for a in ask(Endpoint(url, name), asked(6))) for name in names}
        assert len(texts) == 3
        game = ChallengerSolver("arithmetic", notation="english", solvers=2, reply_tokens=12)
        played: list[Action] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seats = {"challenger": "oracle", "solver": Endpoint(url, retries=0, timeout=20)}
            for episode in rollout(game, seats, 40, width=8):
                played += [t for t in episode.turns if t.role == "solver"]  # type: ignore[misc]
                if len(played) == 20:
                    os.killpg(server.process.pid, signal.SIGKILL)  # in mid-run, without a word
        statuses = [t.status for t in played]
        assert len(statuses) == 80 and statuses[:10] == ["ok"] * 10 and set(statuses[-10:]) <= {"error", "timeout"}
    assert server.process.poll() is not None


def test_games_are_played_on_a_server_while_the_learner_trains(tmp_path: Path) -> None:
    """TRL's AsyncGRPOTrainer, its own way of publishing adapters, our worker: ten steps with LoRA."""
    from peft import LoraConfig
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

    from dream_envs.adapters.trl_async import GameWorker, placeholder, without_cuda
    from dream_envs.curriculum.curriculum import Curriculum, Mixture
    from dream_envs.curriculum.store import ChallengeStore
    from dream_envs.tasks.arithmetic import Arithmetic

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how: dict[str, Any] = {"dtype": "float32", "max_model_len": 512, "lora_rank": RANK, "log": tmp_path / "log"}
    with Server(resolve(MODEL), port=port, arguments=["--enforce-eager"], **how) as server:
        url = server.wait()
        family = Arithmetic(notation="english", operators="+")
        game = ChallengerSolver(family, solvers=8, reply_tokens=24)
        mixture = Mixture(0, 0, 0, generator=4, levels=(1,))
        plan = Curriculum(game, mixture, seed="lane", store=ChallengeStore()).plan
        worker = GameWorker(game, url=url, model=MODEL, plan=plan, seats={"challenger": "generator"})
        without_cuda()
        args = AsyncGRPOConfig(
            output_dir=str(tmp_path / "t"), per_device_train_batch_size=8, max_steps=10, use_cpu=True, bf16=False,
            dtype="float32", token_budget=512, report_to="none", gradient_checkpointing=False, save_strategy="no",
            logging_steps=1, max_staleness=2, vllm_server_base_url=url.removesuffix("/v1"), learning_rate=1e-4,
        )  # fmt: skip
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = AsyncGRPOTrainer(
            resolve(MODEL), args=args, train_dataset=placeholder(), rollout_worker=worker, peft_config=lora
        )
        began = time.perf_counter()
        trainer.train()
        print(f"asynchronous: {worker.samples} samples in {time.perf_counter() - began:.0f} s, {worker.rounds} rounds")
    rows = [row for row in trainer.state.log_history if "ratio" in row]
    assert len(rows) == 10 and max(float(row["sample/staleness_max"]) for row in rows) <= 2
    assert abs(float(rows[0]["ratio"]) - 1) < 0.02


def test_two_servers_behind_one_agent_serve_three_adapters(tmp_path: Path, folders: dict[str, str]) -> None:
    """Adapters reach both; conversations that go on find their beginning cached; the load is even."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    how: dict[str, Any] = {"dtype": "float32", "max_model_len": 512, "lora_rank": RANK}
    arguments = ["--enforce-eager", "--enable-prefix-caching"]
    servers = [Server(resolve(MODEL), port=p, log=tmp_path / f"log{p}", arguments=arguments, **how) for p in ports]
    try:
        both = Replicas([server.wait() for server in servers])
        spoken = [both.load(name, folder) for name, folder in folders.items()]
        long = "You are given a list of rules. " * 12
        chats: list[Any] = [[{"role": "user", "content": f"{i}. {long} Say {i}."}] for i in range(24)]
        for turn in range(3):
            for i, chat in enumerate(chats):
                request = msgspec.structs.replace(asked(1)[0], messages=list(chat), seed=100 * turn + i)
                (said,) = ask(spoken[i % 3], [request])
                assert said.status == "ok"
                chat += [{"role": "assistant", "content": said.text}, {"role": "user", "content": "Go on."}]
        alone = [tuple(a.text for a in ask(one, asked(4))) for one in spoken]
        assert len(set(alone)) == 3
        answered = [served.answered for served in both.served.values()]
        rates = [hit_rate(server.url) for server in servers]
        print(f"two servers: answered {answered}, prefix hits {[f'{r:.2f}' for r in rates]}")
        assert min(answered) > 0.35 * sum(answered) and min(rates) > 0.3
    finally:
        for server in servers:
            server.stop()


def hit_rate(url: str) -> float:
    """Share of prompt tokens that the server found cached, by its own count."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counts = {
        name: sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith(f"vllm:prefix_cache_{name}_total"))
        for name in ("hits", "queries")
    }
    return counts["hits"] / max(1.0, counts["queries"])
