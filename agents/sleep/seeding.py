"""Knowledge Seeding: what a teacher knows with its context at hand is put into a student that has none.

From "Language Models Need Sleep" (arXiv 2606.03979): generalised distillation, on the teacher's replies and on the
student's own, and Learning-to-Imitate.  With a teacher's reply d, a student's completion d' of a prefix of it, and the
reward ``r = gamma same(d, d') + (1 - gamma) (1 - Lev(d, d') / max(|d|, |d'|))``, whose second term is 0 beyond ``z0``,
what is minimised is, over the teacher's replies in ``1 - lam`` of the steps and over the student's in ``lam`` of them,

    E[ JSD_beta(teacher | context, student) ]      and      alpha E[ JSD_beta ] - (1 - alpha) E[ r ]

No gradient goes through the sampling; the reward's is REINFORCE's with the other of two samples as baseline.  ``hard``
adds the plain likelihood of what was lived through (GKD's SeqKD; on verified replies ReST-EM): a teacher without more
context than its student has nothing else to give.  The paper gives no values of lam, alpha, beta, gamma and z0, nor the
optimiser of the reward: all are settings.

Trainer and divergence are TRL's (``experimental.gkd``, 1.16); ours are the rows: TRL's would show the teacher the same
prompt as the student.  Relied on, and held to by a contract test: ``GKDTrainer.generalized_jsd_loss`` and that
``compute_loss`` is called once a step.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer

from dream_envs.agents.engines.decode import CachedForward, sample
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.meter import METER
from dream_envs.agents.sleep.experience import Experience, bounded, seen
from dream_envs.agents.training.sft import IGNORED, epochs, lora, quietly
from dream_envs.agents.training.trl_adapter import split
from dream_envs.core import DreamEnvsError
from dream_envs.rewards.imitation import imitation
from dream_envs.seeds import digest, stream

Same = Callable[[str, str], bool]
#: Logits of the teacher that a night keeps at most: 256 MiB of float32.
REMEMBERED = 1 << 26


def exactly(a: str, b: str) -> bool:
    """The semantic judge that needs no model: the same text, but for white space around it."""
    return a.strip() == b.strip()


class SeedingSettings(msgspec.Struct, frozen=True):
    """The settings of Knowledge Seeding.

    ``steps``, ``batch``, ``lr``, ``warmup``, ``clip``: of the optimiser (AdamW, linear to zero).  ``rank``: of the
    low-rank expert that alone is trained; None trains all weights.  ``lam``: share of on-policy steps.  ``beta``: 0 is
    the forward divergence (teacher to student), 1 the reverse one, between them Jensen-Shannon's.  ``alpha``: weight of
    the divergence, the rest is Learning-to-Imitate's.  ``gamma``: share of the semantic reward.  ``z0``: edit distance
    in tokens beyond which the other reward is 0.  ``hard``: weight of the plain likelihood of replies that are no
    dreams.  ``max_tokens``: of a sampled reply.  ``decay``: weight decay (an expert's: towards being none).
    """

    steps: int = 120
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 5
    clip: float = 1.0
    rank: int | None = 16
    lam: float = 0.25
    beta: float = 0.0
    alpha: float = 0.9
    gamma: float = 0.5
    z0: int = 8
    hard: float = 0.0
    max_tokens: int = 64
    decay: float = 0.0

    def __post_init__(self) -> None:
        bounded(self, 0, 1, "lam", "beta", "alpha", "gamma")
        bounded(self, 1, None, "steps", "batch", "max_tokens", "rank")
        bounded(self, 0, None, "hard", "decay", "z0")
        if self.lr <= 0:
            raise DreamEnvsError(f"lr={self.lr}: above 0")


class Seeded(msgspec.Struct, frozen=True):
    """The student behind Knowledge Seeding, and what it took.

    ``tokens``: reply tokens that entered the loss.  ``divergence``: its mean in the first and the last tenth of the
    steps.  ``reward``: mean imitation reward of the on-policy rows, None without any.
    """

    agent: LocalAgent
    tokens: int
    divergence: tuple[float, float]
    reward: float | None


def seed_knowledge(
    teacher: LocalAgent, student: LocalAgent, experience: Sequence[Experience], settings: SeedingSettings, seed: str,
    *, same: Same = exactly,
) -> Seeded:  # fmt: skip
    """A copy of the student, taught to answer without the context as the teacher does with it.

    ``student``: left as it is; of any size, with the teacher's tokenizer (models of different vocabularies are an
    error).  ``experience``: what the teacher was asked, the context included, and what it answered; none is an error.
    ``seed``: the label of everything random.  ``same``: whether two replies mean the same (r_sem).
    """
    if not experience:
        raise DreamEnvsError("there is no experience to learn from: wake up first")
    sizes = [a.model.config.get_text_config().vocab_size for a in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise DreamEnvsError(f"vocabularies of {sizes[0]} and {sizes[1]}: seeding needs the same tokenizer")
    copy = student.snapshot()
    copy.model.requires_grad_(True)
    order = epochs(len(experience), settings.steps * settings.batch, seed, "seeding-order")
    with tempfile.TemporaryDirectory() as folder, quietly():
        args = _config(folder, settings, digest("seeding", seed, bits=24), cpu=copy.device.type == "cpu")
        trainer = _Trainer(
            teacher, _rows(teacher, student, experience), settings, seed, same, model=copy.model, args=args,
            train_dataset=Dataset.from_dict({"row": order}), processing_class=copy.tokenizer,
            peft_config=lora(settings.rank),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model: Any = trainer.model
    if settings.rank is not None:
        model = model.merge_and_unload()
    copy.model = model.requires_grad_(False).eval()
    vars(copy.model).pop("forward", None)
    return trainer.result(copy)


class _Row(msgspec.Struct, frozen=True):
    """Prompt ids with and without the context, the teacher's reply, and whether it was lived through."""

    whole: list[int]
    closed: list[int]
    reply: list[int]
    lived: bool


def _rows(teacher: LocalAgent, student: LocalAgent, experience: Sequence[Experience]) -> list[_Row]:
    found = []
    for e in experience:
        whole, closed = list(teacher.encode(e.messages)), list(student.encode(seen(e)))
        found.append(_Row(whole, closed, student.completion(e.reply), e.kind not in ("memory", "fiction")))
    return found


class _Trainer(GKDTrainer):
    """TRL's distillation, with a teacher that sees more than the student."""

    def __init__(
        self, teacher: LocalAgent, rows: list[_Row], settings: SeedingSettings, seed: str, same: Same, **kwargs: Any
    ) -> None:
        self._teacher, self._rows, self._chosen, self._seed, self._same = teacher, rows, settings, seed, same
        self._tokens, self._told, self._rewards = 0, list[float](), list[float]()
        super().__init__(teacher_model=teacher.model, data_collator=_numbers, **kwargs)
        self._remembered = _remembered(teacher, rows, settings.batch)
        self._decoder = LocalAgent(self.accelerator.unwrap_model(self.model), tokenizer=teacher.tokenizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(rows)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """SFT's: the student samples in ``compute_loss``, seedably."""
        return super(GKDTrainer, self).training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective at the head of this module, over one batch."""
        rows = [self._rows[i] for i in inputs["row"].tolist()]
        chosen, step = self._chosen, self.state.global_step
        rng = stream(self._seed, "seeding", step)
        starts = [0] * len(rows)
        replies = [row.reply for row in rows]
        on_policy = rng.random() < chosen.lam
        if on_policy:
            rows = [row for row in rows[: max(1, len(rows) // 2)] for _ in range(2)]
            starts = np.repeat([int(rng.integers(len(r.reply))) for r in rows[::2]], 2).tolist()
            replies = self._continued(model, rows, starts, step)
        here = _logits(model, [r.closed for r in rows], replies, self._teacher.pad)
        there = self._taught(rows, replies, on_policy)
        labels = _labels(replies, starts).to(here.device)
        loss: Tensor = self.generalized_jsd_loss(here, there, labels, beta=chosen.beta)
        self._told.append(float(loss.detach()))
        if not on_policy and chosen.hard:
            loss = loss + chosen.hard * _unlikely(here, labels, [row.lived for row in rows])
        learnt = int((labels != IGNORED).sum())
        self._tokens += learnt
        METER.trained += learnt
        if on_policy and chosen.alpha < 1:
            loss = chosen.alpha * loss + (1 - chosen.alpha) * self._imitated(here, labels, rows, replies)
        return (loss, None) if return_outputs else loss

    @torch.no_grad()
    def _taught(self, rows: list[_Row], replies: list[list[int]], on_policy: bool) -> Tensor:
        """The teacher's logits: remembered for its own replies, asked for the student's."""
        if on_policy or self._remembered is None:
            return _logits(self._teacher.model, [r.whole for r in rows], replies, self._teacher.pad)
        return torch.nn.utils.rnn.pad_sequence([self._remembered[_key(r)] for r in rows], batch_first=True)

    def _continued(self, model: Any, rows: list[_Row], starts: list[int], step: int) -> list[list[int]]:
        """Each teacher's reply up to its start, and what the student says then."""
        agent = self._decoder
        model.eval()
        prompts = [[*row.closed, *row.reply[:start]] for row, start in zip(rows, starts, strict=True)]
        seeds = np.array([digest(self._seed, "imitate", step, i) for i in range(len(rows))], dtype=np.uint64)
        most, forward = np.full(len(rows), self._chosen.max_tokens), CachedForward(agent.model)
        found = sample(forward, prompts, seeds, most, end=agent.ends, pad=agent.pad, device=agent.device)
        model.train()
        return [[*row.reply[:start], *s.ids] for row, start, s in zip(rows, starts, found, strict=True)]

    def _imitated(self, logits: Tensor, labels: Tensor, rows: list[_Row], replies: list[list[int]]) -> Tensor:
        """REINFORCE: the log-likelihood of what was sampled, weighted by how much better it was than its twin."""
        chosen = self._chosen
        ends = set(self._decoder.ends)
        texts = self._decoder.decode([*(r.reply for r in rows), *replies])
        earned = []
        for i, (row, reply) in enumerate(zip(rows, replies, strict=True)):
            same = self._same(texts[i], texts[len(rows) + i])
            told, made = ([t for t in ids if t not in ends] for ids in (row.reply, reply))
            earned.append(imitation(told, made, same, gamma=chosen.gamma, z0=chosen.z0).value)
        self._rewards += earned
        value = torch.tensor(earned, dtype=logits.dtype, device=logits.device).reshape(-1, 2)
        advantage = (value - value.flip(1)).reshape(-1)
        return _mean_loss(advantage[:, None] * _logp(logits, labels), labels != IGNORED)

    def result(self, agent: LocalAgent) -> Seeded:
        tenth = max(1, len(self._told) // 10)
        first, last = float(np.mean(self._told[:tenth])), float(np.mean(self._told[-tenth:]))
        return Seeded(agent, self._tokens, (first, last), float(np.mean(self._rewards)) if self._rewards else None)


def _key(row: _Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(row.whole), tuple(row.reply)


@torch.no_grad()
def _remembered(teacher: LocalAgent, rows: Sequence[_Row], batch: int) -> dict[Any, Tensor] | None:
    """The teacher's logits for its own replies, ``float[T, V]`` each (most come often); None if they are too many."""
    own = list({_key(row): row for row in rows}.values())
    if sum(len(row.reply) for row in own) * teacher.model.config.get_text_config().vocab_size > REMEMBERED:
        return None
    found: dict[Any, Tensor] = {}
    for at in range(0, len(own), batch):
        part = own[at : at + batch]
        logits = _logits(teacher.model, [r.whole for r in part], [r.reply for r in part], teacher.pad)
        found |= {_key(row): logits[i, : len(row.reply)].clone() for i, row in enumerate(part)}
    return found


def _unlikely(logits: Tensor, labels: Tensor, counted: Sequence[bool]) -> Tensor:
    """Mean negative log-likelihood per token of the rows that count."""
    rows = torch.tensor(list(counted), device=logits.device)[:, None]
    return _mean_loss(_logp(logits, labels), (labels != IGNORED) & rows)


def _logp(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]


def _mean_loss(gains: Tensor, kept: Tensor) -> Tensor:
    return -(gains * kept).sum() / kept.sum().clamp(min=1)


def _numbers(examples: Sequence[dict[str, int]]) -> dict[str, Tensor]:
    return {"row": torch.tensor([e["row"] for e in examples])}


def _logits(model: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], pad: int) -> Tensor:
    """``float[B, T, V]``: what predicts each token of the replies; rows with a context go through the model apart."""
    longest = max(map(len, replies))
    parts = split([len(p) + len(r) for p, r in zip(prompts, replies, strict=True)])
    found = [_part(model, [prompts[i] for i in rows], [replies[i] for i in rows], longest, pad) for rows in parts]
    back = np.argsort(np.concatenate(parts))
    return torch.cat(found)[torch.from_numpy(back).to(found[0].device)]


def _part(
    model: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], longest: int, pad: int
) -> Tensor:
    """``float[B, longest, V]``, padded on the right."""
    device = next(model.parameters()).device
    rows = [[*p, *r] for p, r in zip(prompts, replies, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    logits = model(input_ids=ids, attention_mask=mask).logits
    first = torch.tensor([len(p) - 1 for p in prompts], device=device)[:, None]
    at = (first + torch.arange(longest, device=device)).clamp(max=width - 1)
    found: Tensor = logits.gather(1, at[..., None].expand(-1, -1, logits.size(-1)))
    return found


def _labels(replies: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """``int64[B, T]``: the replies from their starts on, ``IGNORED`` elsewhere."""
    found = torch.full((len(replies), max(map(len, replies))), IGNORED)
    for i, (reply, start) in enumerate(zip(replies, starts, strict=True)):
        found[i, start : len(reply)] = torch.tensor(reply[start:])
    return found


def _config(folder: str, settings: SeedingSettings, seed: int, *, cpu: bool) -> GKDConfig:
    return GKDConfig(
        output_dir=folder, max_steps=settings.steps, per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=1, learning_rate=settings.lr, lr_scheduler_type="linear",
        warmup_steps=settings.warmup, max_grad_norm=settings.clip, weight_decay=settings.decay, adam_beta1=0.9,
        adam_beta2=0.95, lmbda=settings.lam, beta=settings.beta, max_length=None, remove_unused_columns=False,
        save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, bf16=False,
        gradient_checkpointing=False, use_cpu=cpu, seed=seed,
    )  # fmt: skip
