"""What ``trl_adapter`` relies on, against the installed TRL: the loss is ours, nothing else reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from _tiny import same, weights
from transformers import LlamaConfig, LlamaForCausalLM

from dream_envs.agents.training.settings import Updates
from dream_envs.agents.training.trl_adapter import RowTrainer, TrainCallback, TrainingRow
from dream_envs.baselines.nano import tokenizer as nano_tokenizer
from dream_envs.seeds import stream

TOKENIZER = nano_tokenizer.build()
VOCAB = len(TOKENIZER)


def model() -> LlamaForCausalLM:
    """Weights large enough that probabilities are far from uniform; the same on every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, initializer_range=0.4, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )  # fmt: skip
        return LlamaForCausalLM(config)


def draw_ids(rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """A prompt and a completion of mixed lengths."""
    prompt = rng.integers(6, VOCAB, size=int(rng.integers(1, 9))).tolist()
    return prompt, [*rng.integers(6, VOCAB, size=int(rng.integers(0, 7))).tolist(), 1]


def draw_rows(count: int, *labels: str) -> list[TrainingRow]:
    """Advantages of both signs, values sometimes missing."""
    rng = stream("trl-rows", count, *labels)
    return [
        TrainingRow(*draw_ids(rng), float(rng.normal()), None if rng.random() < 0.3 else float(rng.random()))
        for _ in range(count)
    ]


def direct(net: Any, rows: Sequence[TrainingRow]) -> tuple[float, float]:
    """The loss that is logged and the gradient's norm, row by row, unpadded, without TRL.

    The gradient is that of -(A * log p * mask).sum() / mask.sum().  What is logged is the value of the same thing with
    the probability ratio, which is one, in place of log p: -(A * mask).sum() / mask.sum().
    """
    net.zero_grad()
    total, value, tokens = torch.zeros(()), 0.0, 0
    for row in rows:
        if row.advantage == 0.0:
            continue
        ids = torch.tensor([[*row.prompt, *row.completion]])
        logp = torch.log_softmax(net(ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
        total = total - row.advantage * logp[len(row.prompt) - 1 :].sum()
        value -= row.advantage * len(row.completion)
        tokens += len(row.completion)
    loss = total / max(tokens, 1)
    if tokens:
        loss.backward()
    norm = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in net.parameters() if p.grad is not None))
    return value / max(tokens, 1), norm


class Log(TrainCallback):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []
        self.saved: list[Path] = []
        super().__init__(self.saved.append, lambda step, logs: self.logs.append({"step": step, **logs}))


def train(
    folder: Path, source: Any, net: Any = None, *callbacks: Any, resume: Path | None = None, **own: Any
) -> tuple[RowTrainer, Log]:
    """Train on the rows of ``source``, by default one step of 16 rows at a constant rate."""
    torch.set_num_threads(1)
    log = Log()
    chosen: dict[str, Any] = {
        "steps": 1, "rows": 16, "lr": 1e-3, "warmup": 0, "seed": 1, "save_every": 1000, "clip": 1e9,
        "lr_scheduler_type": "constant", **own,
    }  # fmt: skip
    trainer = RowTrainer(net or model(), TOKENIZER, source, log, out=folder, **chosen)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer, log


@pytest.mark.parametrize("case", ["full", "half_filled", "one_row", "negative_only", "with_zeros"])
def test_loss_and_gradient_are_the_formula(case: str, tmp_path: Path) -> None:
    drawn = draw_rows({"half_filled": 9, "one_row": 1}.get(case, 16))
    if case in ("negative_only", "with_zeros"):
        change = (lambda i, a: -abs(a)) if case == "negative_only" else (lambda i, a: 0.0 if i % 2 else a)
        drawn = [msgspec.structs.replace(r, advantage=change(i, r.advantage)) for i, r in enumerate(drawn)]
    loss, norm = direct(model(), drawn)
    _, log = train(tmp_path, lambda step: drawn)
    assert len(log.logs) == 1
    assert log.logs[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert log.logs[0]["loss"] == pytest.approx(loss, rel=1e-4, abs=2e-6)


def test_the_rows_value_changes_nothing(tmp_path: Path) -> None:
    """The value is for the log: rewards, normalised by TRL in blocks of two, must not leak into the step."""
    rows = draw_rows(16)
    one, _ = train(tmp_path / "a", lambda step: rows, steps=2)
    others = [msgspec.structs.replace(r, value=99.0 * k) for k, r in enumerate(rows)]
    other, _ = train(tmp_path / "b", lambda step: others, steps=2)
    assert same(weights(one.model), weights(other.model))


def test_fillers_and_the_order_of_rows_change_nothing(tmp_path: Path) -> None:
    rows = draw_rows(10)
    reference, _ = train(tmp_path / "a", lambda step: rows, rows=10)
    padded, _ = train(tmp_path / "b", lambda step: rows, rows=32)
    turned, _ = train(tmp_path / "c", lambda step: rows[::-1], rows=10)
    for other in (padded, turned):
        for (name, a), (_, b) in zip(reference.model.named_parameters(), other.model.named_parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=name)


def test_a_step_without_rows_leaves_the_weights(tmp_path: Path) -> None:
    before = weights(model())
    trainer, log = train(tmp_path, lambda step: [], steps=2)
    assert [(x["loss"], x["grad_norm"]) for x in log.logs] == [(0.0, 0.0)] * 2
    assert same(before, weights(trainer.model))


@pytest.mark.parametrize(("count", "minibatches"), [(0, 1), (1, 3), (21, 1), (21, 3)])
def test_as_many_rows_as_there_are_give_the_gradient_of_a_fixed_number(
    count: int, minibatches: int, tmp_path: Path
) -> None:
    """Padded to whole minibatches, the gradients of a round are those with room for 24, to 1e-6."""
    drawn, found = draw_rows(count), []
    for rows in (None, 24):
        net, sums = model(), dict[str, torch.Tensor]()
        for name, parameter in net.named_parameters():
            parameter.register_hook(lambda g, name=name, sums=sums: sums.update({name: sums.get(name, 0) + g}))
        more = {"updates": Updates(minibatches=minibatches), "lr": 1e-12}
        _, log = train(tmp_path / str(rows), lambda step: drawn, rows=rows, net=net, **more)
        found.append((sums, log.logs[0]["loss"]))
    (dynamic, a), (fixed, b) = found
    assert dynamic.keys() == fixed.keys() and a == pytest.approx(b, abs=1e-6)
    for name in fixed:
        torch.testing.assert_close(dynamic[name], fixed[name], rtol=0, atol=1e-6, msg=name)


def test_each_step_asks_once_and_for_its_own_number(tmp_path: Path) -> None:
    asked: list[int] = []
    _, log = train(tmp_path, lambda step: asked.append(step) or draw_rows(6, str(step)), steps=5, rows=8, save_every=2)
    assert asked == [0, 1, 2, 3, 4] and [x["step"] for x in log.logs] == [1, 2, 3, 4, 5]
    assert [p.name for p in log.saved] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert all(p.is_dir() for p in log.saved)


def test_steps_are_adam_on_the_formula(tmp_path: Path) -> None:
    """Three steps of the trainer against torch's own Adam on the direct loss."""
    plan = [draw_rows(8, str(i)) for i in range(3)]
    trainer, _ = train(tmp_path, lambda step: plan[step], steps=3, rows=8, clip=0.5)
    net = model()
    adam = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for rows in plan:
        direct(net, rows)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        adam.step()
    for (name, a), (_, b) in zip(trainer.model.named_parameters(), net.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=5e-5, msg=name)


def test_resuming_asks_for_the_next_step_and_ends_in_the_same_weights(tmp_path: Path) -> None:
    asked: list[int] = []

    def source(step: int) -> list[TrainingRow]:
        asked.append(step)
        return draw_rows(8, str(step))

    chosen: dict[str, Any] = {"rows": 8, "save_every": 2, "lr_scheduler_type": "linear", "steps": 4}
    whole, _ = train(tmp_path / "whole", source, **chosen)
    for start, rest in ((2, [2, 3]), (4, [])):
        asked.clear()
        trainer, _ = train(tmp_path / "b", source, resume=tmp_path / "whole" / f"checkpoint-{start}", **chosen)
        assert asked == rest and same(weights(whole.model), weights(trainer.model))
