"""PPO and RLOO on a practice of their own: kills and resumes, checkpoints, metrics, learning; and two processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from _tiny import PPO_SETTINGS, learner, named, practice, same, texts, weights
from dream_envs.agents.training.grpo import GRPO
from dream_envs.agents.training.learners import LEARNERS
from safetensors.torch import load_file
from test_practice import Killed
from transformers import AutoModelForCausalLM

from dream_envs.agents.engines.local import LocalAgent, resolve
from dream_envs.agents.training.critic import FILE
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.curriculum import Share


def everything(made: GRPO) -> dict[str, torch.Tensor]:
    """The weights of the policy and of its head."""
    assert made.critic is not None
    return weights(made.engine.model) | {f"head.{k}": v for k, v in weights(made.critic.head).items()}


def run(path: Path, steps: int = 4, kill_at: int | None = None, name: str = "ppo", **more: Any) -> GRPO:
    """Improve in ``path`` from wherever it stands; checkpoints after steps 2 and 4."""

    def evaluate(step: int, agent: LocalAgent) -> dict[str, Any]:
        if step == kill_at:
            raise Killed
        return {}

    env, made = practice(path), named(name, evaluate=evaluate, **more)
    try:
        made.improve(env, {}, steps, env.run)
    except Killed:
        pass
    finally:
        env.run.close()
        env.syllabus.store.close()
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GRPO]:
    path = tmp_path_factory.mktemp("whole")
    return path, run(path)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kills", [(1,), (2, 3)])
def test_a_killed_run_ends_as_if_it_had_not_been(kills: tuple[int, ...], whole: Any, tmp_path: Path) -> None:
    """To the last bit of policy, head, episodes and metrics; two passes of two minibatches a round."""
    for step in kills:
        run(tmp_path, kill_at=step)
    made = run(tmp_path)
    path, expected = whole
    assert same(everything(made), everything(expected))
    assert texts(tmp_path) == texts(path) and rows(tmp_path) == rows(path)


def test_a_round_is_played_once_and_used_four_times(whole: Any) -> None:
    path, made = whole
    assert len(texts(path)) == 4 * Share(8, 3, 3).total and made.rule.updates.steps == 4
    saved = sorted(p.name for p in (path / "checkpoints").glob("checkpoint-*"))
    assert saved == ["checkpoint-16", "checkpoint-8"]  # updates, two rounds apart
    assert [r["step"] for r in rows(path)] == [0, 1, 2, 3]


def test_a_checkpoint_is_a_plain_model_with_the_head_beside_it(whole: Any, tmp_path: Path) -> None:
    path, made = whole
    base = load_file(Path(resolve("nano/compose")) / "model.safetensors")
    made.save(str(tmp_path))
    for folder in (path / "checkpoints" / "checkpoint-16", tmp_path):
        assert load_file(folder / "model.safetensors").keys() == base.keys()
        model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(told[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert same(weights(model), weights(made.engine.model))
        head = load_file(folder / FILE)
        assert made.critic is not None and head.keys() == made.critic.head.state_dict().keys()
        assert any(v.any() for k, v in head.items() if k.startswith("out"))
    again = named("ppo")
    again.load(str(tmp_path))
    assert same(everything(again), everything(made))


def test_what_is_measured(whole: Any) -> None:
    """In metrics.jsonl and in TensorBoard; finite, and shares are shares."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, _ = whole
    names = [
        "value_loss", "policy_approx_kl", "policy_clip_fraction", "token_entropy", "grad_norm", "loss",
        *[f"value_{k}_{r}" for k in ("returns", "values", "explained_variance") for r in ("solver", "challenger")],
    ]  # fmt: skip
    for row in rows(path):
        assert all(math.isfinite(row[name]) for name in names)
        assert 0 <= row["policy_clip_fraction"] <= 1 and 0 <= row["value_returns_solver"] <= 1
        assert row["value_explained_variance_solver"] <= 1 and row["policy_approx_kl"] >= 0
    board = EventAccumulator(str(path / "metrics")).Reload()
    tags = {t.removeprefix("train/") for t in board.Tags()["scalars"]}
    assert {"value/loss", "value/explained_variance_solver", "policy/approx_kl", "entropy", "selfplay/solved"} <= tags


def test_a_checkpoint_without_a_head_is_one_line(tmp_path: Path) -> None:
    run(tmp_path, steps=2, name="grpo")
    with pytest.raises(DreamEnvsError) as caught:
        run(tmp_path, steps=4)
    assert FILE in str(caught.value) and "\n" not in str(caught.value)


def test_a_snapshot_does_not_hold_the_head_or_change_with_it(whole: Any) -> None:
    _, made = whole
    frozen = made.snapshot()
    assert not frozen.model.base_model._forward_hooks
    assert same(weights(frozen.model), weights(made.engine.model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_learning_learns(name: str, tmp_path: Path) -> None:
    """Depth 4, which the base has seen nothing of: twenty-five cheap steps raise its exact success well above it."""
    settings = LEARNERS[name].settings()
    small = msgspec.structs.replace(settings.rows, rows=144, groups=16, review=16)
    env = practice(tmp_path, share=Share(8, 8, 8), solvers=8)
    made = named(name, settings=msgspec.structs.replace(settings, warmup=2, save_every=100, rows=small))
    rng = np.random.default_rng(0)
    tasks = [env.game.family.generate(rng, 4) for _ in range(64)]
    prompts = [[{"role": "user", "content": t.prompt}] for t in tasks]

    def success(agent: LocalAgent) -> float:
        logits, ids = agent.completion_logits(prompts, [t.answer for t in tasks])  # type: ignore[arg-type]
        logp = [
            torch.log_softmax(torch.tensor(x), -1)[range(len(y)), y].sum() for x, y in zip(logits, ids, strict=True)
        ]
        return float(torch.stack(logp).exp().mean())

    before = success(made.engine)
    made.improve(env, {}, 25, env.run)
    env.run.close()
    assert success(made.engine) > before + 0.1, before


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_end_in_the_same_weights_and_heads(tmp_path: Path) -> None:
    """Each plays and trains on its share; gradients of policy and head are averaged."""
    script = Path(__file__).with_name("gloo_practice.py")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*line, str(script), str(tmp_path), "2", "ppo"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in range(2)]
    a, b = (load_file(tmp_path / f"weights-{r}.safetensors") for r in (0, 1))
    assert same(a, b) and not set(told[0]["mine"][0]) & set(told[1]["mine"][0])
    head = [name for name in a if name.startswith("head.")]
    start = named("ppo")
    assert len(head) == 4 and not same(a, everything(start))
    assert all(a[n].any() for n in head if n.startswith("head.out"))
    saved = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-8" / FILE)
    assert all(torch.equal(saved[n.removeprefix("head.")], a[n]) for n in head)


def test_the_tiny_settings_are_of_every_part() -> None:
    """What the tests above run on: two passes, two minibatches, a hidden layer."""
    updates, critic = PPO_SETTINGS.updates, PPO_SETTINGS.critic
    assert (updates.epochs, updates.minibatches) == (2, 2) and critic is not None and critic.hidden
    assert learner().critic is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_the_flagship_takes_it_by_name(name: str, tmp_path: Path) -> None:
    """One round with the learner's own defaults, to the end: the configuration names its rule, the frontier its run."""
    from dream_envs.baselines.loops.dream import dream

    found = dream(tmp_path / "run", learner=name, steps=1, quiet=True, json=True)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["run"]["learner"] == told["learner"] == name
    assert told["rule"]["baseline"] == {"ppo": "critic", "rloo": "leave_one_out"}[name]
    assert (tmp_path / "run" / "checkpoints" / "final" / FILE).exists() == (name == "ppo")
    (row,) = rows(tmp_path / "run")
    assert row["groups"] > 0 and math.isfinite(row["loss"])
