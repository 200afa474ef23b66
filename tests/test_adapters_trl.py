"""Stock trainers of TRL on our problems and games: what they are given, what they are paid, what they learn from."""

from __future__ import annotations

import copy
import itertools
import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import msgspec
import torch
from _bpe import save
from _children import child
from _tiny import same, weights
from transformers import GPT2Config, GPT2LMHeadModel
from trl import GRPOConfig, GRPOTrainer

from dream_envs import registry
from dream_envs.adapters import trl as ours
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import load
from dream_envs.core import Action, DreamEnvsError, Episode, Score, hook
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import EpisodeWriter, read_episodes, reward_model, rollout, score
from dream_envs.tasks.composition import Composition

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def config(out: Path, **more: Any) -> GRPOConfig:
    chosen: dict[str, Any] = {
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "learning_rate": 1e-3, "num_generations": 4, "per_device_train_batch_size": 40,
        "max_steps": 2, "logging_steps": 1, "lr_scheduler_type": "constant", **more,
    }  # fmt: skip
    return GRPOConfig(output_dir=str(out), **chosen)


class Watched:
    """A trainer on a game that keeps what was returned to TRL and what TRL was paid."""

    def __init__(
        self, folder: Path, game: Any, seats: Any = None, *, net: Any = None, args: Any = None, **more: Any
    ) -> None:
        self.given: list[dict[str, Any]] = []
        self.paid: list[list[float | None]] = []
        model, self.tokenizer = net or load("nano/compose", "cpu")
        self.before = weights(model)
        self.play = ours.rollout_func(game, seats, **more)
        self.trainer = GRPOTrainer(
            model, self.value, config(folder, **(args or {})), ours.places(40), ours.places(2),
            processing_class=self.tokenizer, rollout_func=self.rollout,
        )  # fmt: skip

    def rollout(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        self.given.append(self.play(prompts, trainer))
        assert all(len(v) == len(prompts) for v in self.given[-1].values() if v is not None)
        return self.given[-1]

    def value(self, **given: Any) -> list[float | None]:
        self.paid.append(ours.value(**given))
        return self.paid[-1]

    @property
    def changed(self) -> bool:
        return not same(self.before, weights(self.trainer.model))


def blocks(given: Mapping[str, Any], size: int) -> list[list[dict[str, Any]]]:
    names = ("prompt_ids", "completion_ids", "env_mask", "value", "role")
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(given[n] for n in names), strict=True)]
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def check_rows(watched: Watched, game: Any, episodes: list[Episode], size: int, learning: set[str]) -> None:
    """Every row is a turn of these episodes at the score that ``score`` gives; every group is one of the game's."""
    agent = LocalAgent(watched.trainer.model, tokenizer=watched.tokenizer)
    bare = [msgspec.structs.replace(e, scores={}) for e in episodes]
    rounds = itertools.groupby(bare, lambda e: e.round)  # a reward may compare the episodes of a round
    again = [e for _, its in rounds for e in score(list(its), watched.play.reward, game.agents)]
    assert [e.scores for e in again] == [e.scores for e in episodes]
    for number, (given, paid) in enumerate(zip(watched.given, watched.paid, strict=True)):
        known: dict[tuple[Any, ...], set[tuple[float, str]]] = {}
        for e in (e for e in again if e.round == number):
            for t in e.turns:
                if t.agent in learning and e.scores[t.agent].status == "ok":
                    key = (t.role, agent.encode(t.messages, t.writes), tuple(t.token_ids or ()))
                    known.setdefault(key, set()).add((e.scores[t.agent].value, str(hook(game, "group")(e, t))))
        assert paid == given["value"] and known
        for block in blocks(given, size):
            rows = [row for row in block if row["value"] is not None]
            at = [known[row["role"], tuple(row["prompt_ids"]), tuple(row["completion_ids"])] for row in rows]
            assert all(row["value"] in {v for v, _ in its} for row, its in zip(rows, at, strict=True))
            assert not rows or set.intersection(*({g for _, g in its} for its in at)), "two groups in one of TRL's"
            assert len(rows) != 1 and all(set(row["env_mask"]) == {1} for row in rows)
            assert all(row["env_mask"] == [0] and not row["role"] for row in block[len(rows) :])


@pytest.mark.parametrize(("solvers", "size"), [(4, 4), (3, 4), (9, 4), (4, 2)])
def test_both_roles_of_a_game_learn_from_what_score_gives(tmp_path: Path, solvers: int, size: int) -> None:
    game = ChallengerSolver(solvers=solvers)
    with EpisodeWriter(tmp_path / "episodes.jsonl", tokens=True) as out:
        watched = Watched(tmp_path, game, out=out, args={"num_generations": size, "max_steps": 3})
        watched.trainer.train()
    episodes = list(read_episodes(out.path))
    assert watched.changed and sorted({e.round for e in episodes}) == [0, 1, 2]
    assert [e.index for e in episodes] == list(range(len(episodes)))
    check_rows(watched, game, episodes, size, {"challenger_0", *game.solver_names})
    roles = {row for given in watched.given for row in given["role"]}
    assert {"challenger", "solver"} <= roles
    values = torch.tensor([math.nan if v is None else v for v in watched.paid[-1]]).view(-1, size)
    wanted = values - values.nanmean(1, keepdim=True)
    spread = (wanted.nan_to_num().pow(2).sum(1, keepdim=True) / (~values.isnan()).sum(1, keepdim=True).sub(1)).sqrt()
    wanted = (wanted / (spread + 1e-4)).nan_to_num().flatten()
    torch.testing.assert_close(torch.tensor(list(watched.trainer._logs["advantages"])[-40:]), wanted)
    logged = watched.trainer.state.log_history[0]
    first = [v for v, r in zip(watched.paid[0], watched.given[0]["role"], strict=True) if r == "solver"]
    assert float(logged["reward/solver"]) == pytest.approx(sum(first) / len(first), abs=1e-6)  # type: ignore[arg-type]


def test_the_episodes_are_those_of_rollout(tmp_path: Path, verb_json: Any) -> None:
    game = ChallengerSolver(solvers=4)
    args = {"max_steps": 1, "temperature": 0.7, "top_k": 5}
    with EpisodeWriter(tmp_path / "run" / "episodes.jsonl", tokens=True) as out:
        Watched(tmp_path, game, out=out, seed="s", copies=1, args=args).trainer.train()
    agent = LocalAgent("nano/compose", temperature=0.7, top_k=5)
    seats = {role.name: agent for role in game.roles}
    model = reward_model("challenger_solver")

    def bare(episodes: Any) -> list[Episode]:
        """Without how long a call took."""
        replace = msgspec.structs.replace
        found = [replace(e, turns=[replace(t, seconds=0.0) for t in e.turns]) for e in episodes]
        return sorted(found, key=lambda e: e.index)

    assert bare(read_episodes(out.path)) == bare(rollout(game, seats, 8, seed="s", reward=model))
    found = verb_json("rescore", tmp_path / "run")
    assert found["stored"] == found["reproduced"] == 8 * 5


def test_log_probabilities_of_the_sampler_are_those_of_the_trainer(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        watched = Watched(tmp_path, ChallengerSolver(), out=out, args={"temperature": 0.7, "learning_rate": 0.0})
        watched.trainer.train()
    agent = LocalAgent(watched.trainer.model, tokenizer=watched.tokenizer)
    for turn in [t for e in read_episodes(out.path) for t in e.turns][:20]:
        prompt, ids = agent.encode(turn.messages), turn.token_ids or []
        row = torch.tensor([[*prompt, *ids]])
        with torch.no_grad():
            found, _, _ = watched.trainer._get_per_token_logps_and_entropies(
                watched.trainer.model, row, torch.ones_like(row), len(ids)
            )
        torch.testing.assert_close(found[0], torch.tensor(turn.logprobs), rtol=1e-3, atol=1e-4)


def right_side(text: str) -> str:
    """A judge of a debate who works the problem out; nothing readable where both sides are alike."""
    _, problem, *said = text.split("|")
    family = Composition()
    task = family.parse(problem)
    marks = [family.verify(task, one).value for one in said]  # type: ignore[arg-type]
    return "1" if marks[0] > marks[1] else "2" if marks[1] > marks[0] else "-"


class Tokened:
    """Somebody else's model: it has token ids, which are not ours to train on."""

    def act(self, requests: Any) -> list[Action]:
        return [Action(right_side(r.messages[-1]["content"]), [7, 7, 7], [0.0] * 3) for r in requests]


@pytest.fixture
def debate(monkeypatch: Any) -> Any:
    """The package of a stranger's game can be imported."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "debate"))


@pytest.mark.usefixtures("debate")
@pytest.mark.parametrize("roles", [None, ["replier"]])
def test_a_strangers_game_with_a_judge_who_does_not_learn(tmp_path: Path, roles: Any) -> None:
    from debate_env import Debate

    game = Debate(level=4)
    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        watched = Watched(tmp_path, game, {"judge": Tokened()}, roles=roles, out=out)
        watched.trainer.train()
    learning = {"opener_0", "replier_0"} if roles is None else {"replier_0"}
    check_rows(watched, game, list(read_episodes(out.path)), 4, learning)
    assert watched.changed
    assert {r for given in watched.given for r in given["role"]} - {""} == {a[:-2] for a in learning}
    # num_generations games share their problem: without that a group would be one row, and nothing could be compared
    first = next(read_episodes(out.path))
    assert sum(e.tasks == first.tasks for e in read_episodes(out.path)) >= 4


def test_one_seat_of_a_role_is_somebody_else(tmp_path: Path) -> None:
    class Other:
        def act(self, requests: Any) -> list[Action]:
            return [Action("?", [7, 7, 7], [0.0] * 3) for _ in requests]

    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        watched = Watched(tmp_path, ChallengerSolver(), {"solver_1": Other()}, out=out)
        watched.trainer.train()
    learning = {"challenger_0", "solver_0", "solver_2", "solver_3"}
    check_rows(watched, watched.play.game, list(read_episodes(out.path)), 4, learning)
    assert not [ids for given in watched.given for ids in given["completion_ids"] if ids == [7, 7, 7]]


def test_groups_that_differ_in_reward_come_first(tmp_path: Path) -> None:
    args = {"per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 0.0}
    watched = Watched(tmp_path, ChallengerSolver(), games=32, args=args)
    watched.trainer.train()
    assert all(len({row["value"] for row in b}) > 1 for given in watched.given for b in blocks(given, 4))


def test_a_game_of_several_turns(tmp_path: Path) -> None:
    game = registry.create("envs", "dream_envs/Kuhn-v0")
    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        watched = Watched(tmp_path, "dream_envs/Kuhn-v0", out=out, net=load("nano/kuhn", "cpu"), games=24)
        watched.trainer.train()
    episodes = list(read_episodes(out.path))
    assert len(episodes) == 48 and max(len(e.turns) for e in episodes) == 3 and watched.changed
    check_rows(watched, game, episodes, 4, {"first_0", "second_0"})


def test_scores_that_are_not_ok_are_no_zeros(tmp_path: Path) -> None:
    """Every second solver abstains, and a reward that says nothing at all leaves the weights as they are."""

    def half(episode: Episode) -> dict[str, Score | None]:
        return {t.agent: None if t.agent[-1] in "13" else Score(float(len(t.text))) for t in episode.turns}

    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        watched = Watched(tmp_path / "a", ChallengerSolver(), reward=half, out=out)
        watched.trainer.train()
    check_rows(watched, watched.play.game, list(read_episodes(out.path)), 4, {"challenger_0", "solver_0", "solver_2"})
    assert watched.changed and None in watched.paid[0]
    silent = Watched(tmp_path / "b", ChallengerSolver(), reward=lambda episode: {})
    silent.trainer.train()
    assert silent.paid == [[None] * 40] * 2 and not silent.changed
    assert all(mask == [0] for given in silent.given for mask in given["env_mask"])


def texts(path: Path) -> list[Any]:
    return [(e.index, e.round, e.seed, [t.text for t in e.turns]) for e in read_episodes(path)]


def test_a_run_that_goes_on_repeats_and_skips_nothing(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    with EpisodeWriter(tmp_path / "whole.jsonl") as out:
        whole = Watched(tmp_path / "whole", ChallengerSolver(), out=out, args=saving)
        whole.trainer.train()
    with EpisodeWriter(tmp_path / "two.jsonl") as out:
        Watched(tmp_path / "two", ChallengerSolver(), out=out, args={**saving, "max_steps": 3}).trainer.train()
    assert len(texts(tmp_path / "two.jsonl")) == 24  # the third step is behind the checkpoint
    with EpisodeWriter(tmp_path / "two.jsonl") as out:
        rest = Watched(tmp_path / "two", ChallengerSolver(), out=out, args=saving)
        rest.trainer.train(resume_from_checkpoint=str(tmp_path / "two" / "checkpoint-2"))
        ended = weights(rest.trainer.model)
        with pytest.raises(DreamEnvsError, match="another run"):
            rest.trainer.train()  # TRL counts steps from 0 again
    assert texts(tmp_path / "two.jsonl") == texts(tmp_path / "whole.jsonl")
    assert same(weights(whole.trainer.model), ended)
    for words, resume in (({}, None), ({"seed": "other"}, str(tmp_path / "two" / "checkpoint-2"))):
        with EpisodeWriter(tmp_path / "two.jsonl") as out, pytest.raises(DreamEnvsError, match="another run"):
            other = Watched(tmp_path / "three", ChallengerSolver(), out=out, args={"max_steps": 4}, **words)
            other.trainer.train(resume_from_checkpoint=resume)
    assert texts(tmp_path / "two.jsonl") == texts(tmp_path / "whole.jsonl")


def test_a_failure_of_the_model_itself_ends_the_training(tmp_path: Path, monkeypatch: Any) -> None:
    def broken(self: Any, requests: Any) -> Any:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(LocalAgent, "act", broken)
    with pytest.warns(UserWarning, match="no memory left"), pytest.raises(RuntimeError, match="no memory left"):
        Watched(tmp_path, ChallengerSolver()).trainer.train()


@pytest.mark.parametrize(("accumulate", "generate"), [(2, 1), (1, 2), (2, 3)])
def test_every_call_has_games_of_its_own(tmp_path: Path, accumulate: int, generate: int) -> None:
    """However TRL's generation batches and optimiser steps lie to each other."""
    args = {"gradient_accumulation_steps": accumulate, "steps_per_generation": generate, "max_steps": 4}
    with EpisodeWriter(tmp_path / "e.jsonl") as out:
        watched = Watched(tmp_path, ChallengerSolver(), out=out, args={**args, "per_device_train_batch_size": 8})
        watched.trainer.train()
    indices = [e.index for e in read_episodes(out.path)]
    assert len(watched.given) == math.ceil(4 * accumulate / generate) and len(set(indices)) == len(indices)
    assert len({e.round for e in read_episodes(out.path)}) == len(watched.given)


def test_an_evaluation_is_the_same_each_time_and_touches_no_training(tmp_path: Path) -> None:
    played: list[str] = []

    def noted(episode: Episode) -> dict[str, Score]:
        played.append(episode.seed)
        return {t.agent: Score(float(len(t.text))) for t in episode.turns}

    plain = Watched(tmp_path / "a", ChallengerSolver(), reward=noted, args={"learning_rate": 0.0})
    plain.trainer.train()
    assert played == [f"0/{i}" for i in range(16)]
    played.clear()
    args = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 8, "learning_rate": 0.0}
    with EpisodeWriter(tmp_path / "e.jsonl") as out:
        watched = Watched(tmp_path / "b", ChallengerSolver(), reward=noted, out=out, args=args)
        watched.trainer.train()
    training = [g for g in watched.given if len(g["value"]) == 40]
    evaluations = [g for g in watched.given if len(g["value"]) == 8]
    assert training == plain.given and len(evaluations) == 2 and evaluations[0] == evaluations[1]
    evaluation = ["0/eval/0", "0/eval/1"]
    assert played == [*[f"0/{i}" for i in range(8)], *evaluation, *[f"0/{i}" for i in range(8, 16)], *evaluation]
    assert [e.seed for e in read_episodes(out.path)] == [f"0/{i}" for i in range(16)]


def training(model: Any) -> bool:
    return all(module.training for module in model.modules())


def test_dropout_is_off_while_playing_and_on_while_training(tmp_path: Path, monkeypatch: Any) -> None:
    _, tokenizer = load("nano/compose", "cpu")
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.9, "attn_pdrop": 0.9}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **shape))
    game, twin = ChallengerSolver(reply_tokens=4, proposal_tokens=4), copy.deepcopy(model).eval()
    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        watched = Watched(tmp_path, game, net=(model, tokenizer), out=out, copies=1, args={"max_steps": 1})
        modes, rows = list[bool](), watched.play._rows
        monkeypatch.setattr(watched.play, "_rows", lambda *a: modes.append(training(model)) or rows(*a))
        watched.trainer.train()
    seats = dict.fromkeys(("challenger", "solver"), LocalAgent(twin, tokenizer=tokenizer))
    wanted = [[t.token_ids for t in e.turns] for e in rollout(game, seats, 8, seed=0)]
    assert [[t.token_ids for t in e.turns] for e in read_episodes(out.path)] == wanted and modes == [True]


def test_every_end_of_the_model_ends_a_reply(tmp_path: Path) -> None:
    """transformers aligns generation_config.json with the tokenizer as training begins: the other ends have to stay."""
    folder = str(save(tmp_path / "model", ends=(0, 1, 5)))
    watched = Watched(tmp_path, "dream_envs/Kuhn-v0", net=load(folder, "cpu"))
    watched.trainer.train()
    assert set(watched.play._agent.ends) == set(LocalAgent(folder).ends) == {0, 1, 5}


@pytest.mark.parametrize("name", [*registry.rows("envs")])
def test_any_game_by_rollouts_and_each_of_its_roles_as_a_seat(tmp_path: Path, name: str) -> None:
    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        watched = Watched(tmp_path, name, net=load(str(save(tmp_path / "model")), "cpu"), out=out)
        watched.trainer.train()
    game = watched.play.game
    check_rows(watched, game, list(read_episodes(out.path)), 4, set(game.agents))
    for role in registry.roles(name):
        env = ours.environment_factory(name, role)()
        if (name, role) == ("dream_envs/Dreaming-v0", "dreamer"):
            with pytest.raises(DreamEnvsError, match="writes a user's turn"):
                env.reset(index=1)
            continue
        shown = [env.reset(index=1)]
        while env.episode is None:
            shown.append(env.answer("1"))
        assert all(shown) and shown[-1] == "The game is over."
        its = env.episode.scores[next(t.agent for t in env.episode.turns if t.role == role)]
        assert env.get_reward() == (its.value if its.status == "ok" else None)


def test_low_rank_adapters_learn(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load("nano/compose", "cpu")
    wide = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    watched = Watched(tmp_path, ChallengerSolver(), net=(get_peft_model(model, wide), tokenizer), seed="s")
    watched.trainer.train()
    plain = Watched(tmp_path / "b", ChallengerSolver(), seed="s", args={"max_steps": 1})
    plain.trainer.train()
    assert plain.given[0] == watched.given[0]  # B is zero at first: the adapter says nothing yet
    moved = {n for n, p in weights(watched.trainer.model).items() if not torch.equal(p, watched.before[n])}
    assert moved and all("lora_" in name for name in moved)


def one_rank(rank: int, port: int, folder: Path) -> None:
    """One of two processes; what it ends with."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "", "TRL_EXPERIMENTAL_SILENCE": "1"}
    out = EpisodeWriter(folder / "e.jsonl", tokens=True) if rank == 0 else None
    args = {"per_device_train_batch_size": 20, "ddp_find_unused_parameters": False}
    watched = Watched(folder, ChallengerSolver(), out=out, args=args)
    watched.trainer.train()
    torch.save({"weights": weights(watched.trainer.model), "given": watched.given}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_play_different_games_and_end_with_the_same_weights(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [child(one_rank, r, port, tmp_path, out=tmp_path / f"told-{r}") for r in range(2)]
    for r, process in enumerate(ranks):
        process.join(120)
        assert process.exitcode == 0, (tmp_path / f"told-{r}.err").read_text()[-3000:]
    a, b = (torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(2))
    assert same(a["weights"], b["weights"]) and a["given"] != b["given"]
    episodes = list(read_episodes(tmp_path / "e.jsonl"))
    assert [e.index for e in episodes] == list(range(16)) and [e.round for e in episodes] == [0] * 8 + [1] * 8
    one, _ = load("nano/compose", "cpu")
    assert not same(a["weights"], weights(one))


def test_what_is_refused(tmp_path: Path) -> None:
    game = "dream_envs/ChallengerSolver-v0"
    for words, said in (
        ({"seats": {"challenger": "oracle", "solver": "oracle"}}, "every seat"),
        ({"seats": {"solvr": "oracle"}}, "'solver'"),
        ({"roles": ["judge"]}, "no 'judge'"),
        ({"roles": "solver"}, "a list of roles"),
        ({"roles": []}, "at least one"),
        ({"seats": {"solver": "oracle"}, "roles": ["solver"]}, "no 'solver'"),
        ({"games": 0}, "games=0"),
        ({"copies": 1.5}, "copies=1.5"),
    ):
        with pytest.raises(DreamEnvsError, match=said) as told:
            ours.rollout_func(game, **words)
        assert "\n" not in str(told.value)
    with pytest.raises(TypeError, match="game_seed"):
        ours.rollout_func(game, game_seed=3)  # type: ignore[call-arg]
    for args, said in (({"repetition_penalty": 1.1}, "repetition_penalty=1.1"), ({"generation_kwargs": {"x": 1}}, "x")):
        with pytest.raises(DreamEnvsError, match=said):
            Watched(tmp_path, game, args=args).trainer.train()
    with pytest.raises(DreamEnvsError, match="6 rows"):
        watched = Watched(tmp_path, game)
        watched.trainer.model.train()
        watched.play([""] * 6, watched.trainer)
    with pytest.raises(DreamEnvsError, match="rollout_func"):
        ours.value(prompts=[], completions=[], log_metric=None)
    with pytest.raises(DreamEnvsError, match="count=0"):
        ours.places(0)
