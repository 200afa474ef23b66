"""A reward model of an environment's verified pairs, and the alarm for a reward that is optimised too far."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from _recipes import options, walked
from safetensors.torch import load_file

from dream_envs.agents.engines.classifier import Classifier
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.preference import Preferred, train_reward_model
from dream_envs.core import DreamEnvsError
from dream_envs.metrics.rounds import Health, health, ring
from dream_envs.play import read_episodes
from dream_envs.runs import read_json
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition


def pairs(count: int) -> list[Preferred]:
    """Right answers against the same with another last letter."""
    family, rng, found = Composition(), stream("pairs"), []
    while len(found) < count:
        task = family.generate(rng, 2)
        gold = family.gold(task)
        worse = gold[:-1] + ("A" if gold[-1] != "A" else "B")
        found.append(Preferred([{"role": "user", "content": task.prompt}], gold, worse))
    return found


@pytest.mark.parametrize("rank", [0, 4])
def test_a_reward_model_orders_what_it_learnt_and_is_the_same_again(rank: int, tmp_path: Path) -> None:
    base = LocalAgent("nano/compose")
    before = {k: v.clone() for k, v in base.model.state_dict().items()}
    how = {"steps": 120, "batch": 16, "lr": 3e-3, "seed": "rm", "lora_rank": rank}
    found = train_reward_model(base, pairs(60), tmp_path / "a", **how)  # type: ignore[arg-type]
    assert found["pairs"] == 60 and found["accuracy"] > 0.9 and 0 <= found["held_out"] <= 1
    assert all(torch.equal(before[k], v) for k, v in base.model.state_dict().items())
    again = train_reward_model(base, pairs(60), tmp_path / "b", **how)  # type: ignore[arg-type]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert again == found and all(torch.equal(one[k], other[k]) for k in one)
    shown = pairs(1)[0]
    chats = [[*shown.messages, {"role": "assistant", "content": text}] for text in (shown.better, shown.worse)]
    better, worse = Classifier(str(tmp_path / "a")).logits(chats)
    assert better is not None and worse is not None and better[0] > worse[0]


def test_what_cannot_be_learnt_is_refused(tmp_path: Path) -> None:
    base = LocalAgent("nano/compose")
    for given, how in (([], {}), (pairs(2), {"steps": 0}), (pairs(2), {"lr": 0.0})):
        with pytest.raises(DreamEnvsError, match="1 or more, lr above 0"):
            train_reward_model(base, given, tmp_path / "x", **{"steps": 1, "lr": 1e-3, "seed": "0", **how})  # type: ignore[arg-type]
    with pytest.raises(DreamEnvsError, match="nobody answers a family's problems here"):
        walked(options("preference", env="dream_envs/Kuhn-v0", model="nano/kuhn"), tmp_path / "kuhn")
    with pytest.raises(DreamEnvsError, match="was answered rightly and wrongly"):
        walked(options("preference", levels=(10,), set={"candidates": 4}), tmp_path / "hard")


def test_the_policy_is_paid_by_the_model_alone_and_the_truth_is_logged(tmp_path: Path) -> None:
    ctx = walked(options("preference"), tmp_path / "run")
    about = read_json(tmp_path / "run" / "reward_model.json")
    assert about is not None and about["pairs"] > 0
    model = Classifier(str(tmp_path / "run" / "reward_model"))
    episodes = list(read_episodes(tmp_path / "run" / "episodes.jsonl"))
    for episode in episodes[:4]:
        for turn in episode.turns:
            if turn.role == "solver":
                (wanted,) = model.logits([[*turn.messages, {"role": "assistant", "content": turn.text}]])
                assert wanted is not None and episode.scores[turn.agent].value == pytest.approx(wanted[0], abs=1e-5)
    right = [v for e in episodes if e.round == 0 for v in e.outcome.facts["correct"].values()]
    assert health([e for e in episodes if e.round == 0], ctx.game(())).truth == pytest.approx(np.mean(right))


def history(rewards: np.ndarray, truths: np.ndarray) -> list[Health]:
    plain = Health(None, None, None, None, None, None, None, 0, 1.0, 1.0)
    return [
        msgspec.structs.replace(plain, reward=float(r), truth=float(t)) for r, t in zip(rewards, truths, strict=True)
    ]


def rang(rows: list[Health]) -> list[int]:
    return [i for i in range(1, len(rows) + 1) if any("over-optimised" in a for a in ring(rows[:i]))]


def test_the_alarm_rings_where_the_reward_rises_and_the_truth_falls() -> None:
    noise = stream("alarm").normal(0, 0.02, 60)
    steps = np.arange(60) / 60
    up, hump = 3 * steps + noise, 0.4 + 0.3 * np.sin(np.pi * np.minimum(1, 1.6 * steps)) + noise
    assert rang(history(up, hump)) and 20 <= rang(history(up, hump))[0] <= 35
    for quiet in (
        (up, up / 3),  # both rise
        (hump, hump),  # a verified reward is the truth, and falls with it
        (noise, 0.5 + noise),
        (1 - up, 0.8 - 0.5 * steps),  # both fall
    ):
        assert not rang(history(*map(np.asarray, quiet)))
