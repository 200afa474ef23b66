"""Learners on a tiny run: what a kill leaves, what a resume ends in, checkpoints, charts, what is trained on."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from _tiny import MIXTURE, SETTINGS, close, collector, everything, learner, metrics, same, texts, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.agents.training.critic import FILE
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.agents.training.settings import RoleSettings, RowSettings, spec
from dream_envs.agents.training.trl_adapter import RowTrainer, TrainingRow
from dream_envs.core import Action, DreamEnvsError, Request
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.curriculum.store import read_challenges
from dream_envs.play import read_episodes


class Killed(Exception):
    """Stands for the kill: nothing is saved or closed on the way."""


class Turning:
    """A seat and a source with a state: the problem that comes next, and a row of likelihood for what was seen."""

    def __init__(self) -> None:
        self.count, self.kept = 0, list[list[int]]()

    def act(self, requests: Sequence[Request]) -> list[Action]:
        self.count += len(requests)
        return [Action("abcdefgh"[(self.count + i) % 8] + ":" + "ABCD"[i % 4] * 2) for i in range(len(requests))]

    def apply(self, rows: list[TrainingRow], round: Any, rng: np.random.Generator) -> list[TrainingRow]:
        self.kept += [list(r.completion) for r in rows[:1]]
        return [*rows, *[TrainingRow((5, 6), ids, 0.1 * len(self.kept)) for ids in self.kept]]

    def state(self) -> Any:
        return [self.count, self.kept]

    def restore(self, state: Any) -> None:
        self.count, self.kept = state


def run(path: Path, name: str = "grpo", steps: int = 4, kill_at: int | None = None, **more: Any) -> PolicyLearner:
    """Improve in ``path`` from wherever it stands; checkpoints after steps 2 and 4.  ``own``: parts with a state."""

    def evaluate(step: int, agent: LocalAgent) -> dict[str, Any]:
        if step == kill_at:
            raise Killed
        return {"asked": step}

    own = {"sources": (Turning(),)} if name == "own" else {}
    seats = {"seats": {"challenger": Turning()}} if name == "own" else {}
    env, made = collector(path, **seats, **more), learner("rae" if name == "own" else name, evaluate=evaluate, **own)
    try:
        made.improve(env, steps, env.run)
    except Killed:
        env.run.episodes._file.write(b'{"env_id": "half a li')  # and a line that was being written
        env.run.episodes._file.flush()
    finally:
        close(env)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An uninterrupted run of each learner, made when it is asked for."""
    made: dict[str, tuple[Path, PolicyLearner]] = {}

    def get(name: str) -> tuple[Path, PolicyLearner]:
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            made[name] = path, run(path, name)
        return made[name]

    return get


def charted(path: Path) -> dict[tuple[str, int], float]:
    """All scalars of the run's one event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    (file,) = (path / "metrics").rglob("events.*")
    board = EventAccumulator(str(file), size_guidance={"tensors": 0}).Reload()
    assert {board.SummaryMetadata(t).plugin_data.plugin_name for t in board.Tags()["tensors"]} == {"scalars"}
    points = [
        (t, e.step, make_ndarray(e.tensor_proto).item()) for t in board.Tags()["tensors"] for e in board.Tensors(t)
    ]
    assert len(points) == len({p[:2] for p in points})  # nothing twice
    return {(tag, step): value for tag, step, value in points}


@pytest.mark.parametrize(
    ("name", "kills"), [("grpo", (1,)), ("grpo", (2, 3)), ("ppo", (3,)), ("rae", (3,)), ("own", (0, 1, 3))]
)
def test_a_killed_run_ends_as_if_it_had_not_been(name: str, kills: tuple[int, ...], whole: Any, tmp_path: Path) -> None:
    """Checkpoints are after steps 2 and 4: a kill at 1 is before the first, one at 3 loses a step.

    To the last bit of policy and head, with the state of baselines, sources and seats of one's own; the charts are
    those of the metrics, in one file.
    """
    for step in kills:
        run(tmp_path, name, kill_at=step)
    made = run(tmp_path, name)
    path, expected = whole(name)
    assert same(everything(made), everything(expected))
    assert texts(tmp_path) == texts(path)
    assert (tmp_path / "challenges.jsonl").read_bytes() == (path / "challenges.jsonl").read_bytes()
    rows = metrics(tmp_path)
    assert rows == metrics(path) and [r["step"] for r in rows] == [0, 1, 2, 3] == [r["asked"] for r in rows]
    numbers = {(k, r["step"]): v for r in rows for k, v in r.items() if isinstance(v, (int, float)) and k != "step"}
    assert charted(tmp_path) == pytest.approx(numbers, rel=1e-6, nan_ok=True) and len(numbers) > 80


def test_a_finished_run_is_not_run_again_and_its_files_agree(whole: Any) -> None:
    path, expected = whole("grpo")
    before = {p.name: p.read_bytes() for p in path.glob("*.jsonl")}
    assert same(everything(run(path)), everything(expected))
    assert before == {p.name: p.read_bytes() for p in path.glob("*.jsonl")}
    episodes = list(read_episodes(path / "episodes.jsonl"))
    assert [e.index for e in episodes] == list(range(4 * MIXTURE.total))
    assert metrics(path)[-1]["samples"] == sum(1 for e in episodes for t in e.turns if t.usage.completion_tokens)
    ids = [c.id for c in read_challenges(path / "challenges.jsonl")]
    assert len(ids) == len(set(ids)) and set(ids) == {t.id for e in episodes for t in e.tasks[1:]}


def test_a_checkpoint_that_was_not_finished_is_not_used(whole: Any, tmp_path: Path) -> None:
    """A kill between TRL's files and ours: the folder is there, its last file is not."""
    run(tmp_path, kill_at=3)
    torn = tmp_path / "checkpoints" / "checkpoint-3"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    assert same(everything(run(tmp_path)), everything(whole("grpo")[1]))
    (tmp_path / "checkpoints" / "checkpoint-mine").mkdir()
    with pytest.raises(DreamEnvsError, match="checkpoint-mine") as caught:
        run(tmp_path, steps=5)
    assert "\n" not in str(caught.value)


def test_whoever_stops_it_stops_after_a_checkpoint(whole: Any, tmp_path: Path) -> None:
    """Between two rounds, not between two updates; what is said is what was done, and it goes on from there."""
    env, made = collector(tmp_path), learner("ppo", evaluate=lambda step, agent: {"asked": step})
    made.stop = lambda: env.played == 1
    assert made.improve(env, 4, env.run).steps == 1
    close(env)
    assert [p.name for p in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]  # updates
    assert same(everything(run(tmp_path, "ppo")), everything(whole("ppo")[1]))


def test_checkpoints_that_do_not_fit_are_one_line(whole: Any, tmp_path: Path) -> None:
    """Another number of processes; a learner with a critic where none was saved."""
    path, _ = whole("grpo")
    env = collector(path, rank=0, world=2, gather=lambda x: [*x, *x])
    with pytest.raises(DreamEnvsError, match="1 processes") as caught:
        learner().improve(env, 6, env.run)
    assert "\n" not in str(caught.value)
    close(env)
    run(tmp_path, steps=2)
    with pytest.raises(DreamEnvsError, match=FILE):
        run(tmp_path, "ppo")


def test_a_checkpoint_is_a_plain_model_with_the_head_beside_it(whole: Any, tmp_path: Path) -> None:
    path, made = whole("ppo")
    base = load_file(Path(resolve("nano/compose")) / "model.safetensors")
    assert sorted(p.name for p in (path / "checkpoints").glob("checkpoint-*")) == ["checkpoint-16", "checkpoint-8"]
    made.save(str(tmp_path))
    for folder in (path / "checkpoints" / "checkpoint-16", tmp_path):
        assert load_file(folder / "model.safetensors").keys() == base.keys()
        model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(told[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert same(weights(model), weights(made.engine.model))
        head = load_file(folder / FILE)
        assert made.critic is not None and head.keys() == made.critic.state_dict().keys()
        assert any(v.any() for k, v in head.items() if k.startswith("out"))
    again = learner("ppo")
    again.load(str(tmp_path))
    assert same(everything(again), everything(made))


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_snapshot_is_frozen_although_the_trainer_patched_the_model(name: str, whole: Any) -> None:
    made = whole(name)[1]
    prompt, reply = [[{"role": "user", "content": "c:BDA"}]], ["BfDkAa"]
    snapshot, before = made.snapshot(), weights(made.engine.model)
    assert not snapshot.model.base_model._forward_hooks and same(weights(snapshot.model), before)

    def logits(agent: LocalAgent) -> np.ndarray:
        return agent.completion_logits(prompt, reply)[0][0]  # type: ignore[arg-type]

    frozen = logits(snapshot)
    np.testing.assert_allclose(frozen, logits(made.engine), atol=1e-4)
    with torch.no_grad():
        for parameter in made.engine.model.parameters():
            parameter.mul_(0.5)
    np.testing.assert_array_equal(logits(snapshot), frozen)
    assert np.abs(logits(made.engine) - frozen).max() > 0.1
    made.adopt(snapshot)
    assert same(weights(made.engine.model), before)


def test_what_a_critic_measures(whole: Any) -> None:
    """Finite, and shares are shares."""
    names = [
        "value/loss", "policy/approx_kl", "policy/clip_fraction", "entropy", "grad_norm", "loss",
        *[f"value/{k}_{r}" for k in ("returns", "values", "explained_variance") for r in ("solver", "challenger")],
    ]  # fmt: skip
    for row in metrics(whole("ppo")[0]):
        assert all(math.isfinite(row[f"train/{name}"]) for name in names)
        assert 0 <= row["train/policy/clip_fraction"] <= 1 and 0 <= row["train/value/returns_solver"] <= 1
        assert row["train/value/explained_variance_solver"] <= 1 and row["train/policy/approx_kl"] >= 0
        assert row["groups/solver"] <= 12 and row["groups/challenger"] == 1


def trained_rows(monkeypatch: pytest.MonkeyPatch, path: Path, **more: Any) -> list[TrainingRow]:
    """All rows that reach the trainer in two steps."""
    seen: list[TrainingRow] = []
    fetch = RowTrainer._fetch

    def watched(self: RowTrainer) -> None:
        fetch(self)
        seen.extend(r for r in self._rows if r.advantage)

    monkeypatch.setattr(RowTrainer, "_fetch", watched)
    run(path, steps=2, **more)
    monkeypatch.undo()
    return seen


def test_rows_are_what_the_policy_said_in_this_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every trained completion was sampled in the run, or is a mutation of the round; none is of a seat's own agent."""
    agent = LocalAgent("nano/compose")
    prompt = tuple(agent.encode([{"role": "user", "content": "new"}]))
    for name, seats in (("own", {}), ("frozen", {"challenger": agent})):
        rows = trained_rows(monkeypatch, tmp_path / name, seats=seats, mixture=Mixture(12, 4, 0))
        prompts = Counter(tuple(r.prompt) == prompt for r in rows)
        assert bool(prompts[True]) == (name == "own") and prompts[False]
        said = {t.text for e in read_episodes(tmp_path / name / "episodes.jsonl") for t in e.turns}
        assert {agent.decode([list(r.completion)])[0] for r in rows} <= said
        assert all(r.completion[-1] in agent.ends or len(r.completion) >= 8 for r in rows)


def test_between_two_rounds_the_sources_alone_are_trained_on(tmp_path: Path) -> None:
    """Expert iteration: two rounds in four steps, a row of metrics for each, weights that move in every step."""
    before, seen = weights(LocalAgent("nano/compose").model), list[dict[str, torch.Tensor]]()
    chosen = msgspec.structs.replace(spec("expert").settings, rows=RowSettings(48, play_every=2), warmup=0)
    env = collector(tmp_path)
    made = learner(settings=chosen, evaluate=lambda step, agent: seen.append(weights(agent.model)) or {})
    made.improve(env, 4, env.run)
    close(env)
    assert [r["step"] for r in metrics(tmp_path)] == [0, 2] and env.played == 2
    states = [*seen, weights(made.engine.model)]
    assert same(before, states[0]) and not any(same(a, b) for a, b in itertools.pairwise(states))


@pytest.mark.parametrize(
    "name", ["grpo", pytest.param("ppo", marks=pytest.mark.slow), pytest.param("rloo", marks=pytest.mark.slow)]
)
def test_learning_learns(name: str, tmp_path: Path) -> None:
    """Depth 4, which the base has seen nothing of: thirty cheap steps raise its exact success well above the base's."""
    from dream_envs.baselines.eval_set import log_success

    own = SETTINGS["grpo"] if name == "grpo" else spec(name).settings
    rows = RowSettings(48 if name == "grpo" else 144, {"solver": RoleSettings(8 if name == "grpo" else 16)})
    chosen = msgspec.structs.replace(own, lr=5e-4, warmup=2, save_every=100, rows=rows, review=SETTINGS["grpo"].review)
    env, made, base = collector(tmp_path, mixture=Mixture(8, 8, 8), solvers=8), learner(settings=chosen), learner()
    tasks = [env.game.family.generate(np.random.default_rng(i), 4) for i in range(64)]
    before = np.exp(log_success(base.engine, tasks)).mean()
    made.improve(env, 30, env.run)
    close(env)
    assert np.exp(log_success(made.engine, tasks)).mean() > before + 0.1, before
    assert np.exp(log_success(base.engine, tasks)).mean() == before
