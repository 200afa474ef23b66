"""Every touch of TRL is in this file (TRL 1.16): ``GRPOTrainer`` with rows and advantages of our own.

What is relied on, and held by a contract test against the installed version:

- ``rollout_func(prompts, trainer)`` returns exactly one row a prompt with ``prompt_ids``, ``completion_ids``,
  ``logprobs`` and ``env_mask``; further lists reach the reward functions as keyword arguments;
- ``_generate_and_score_completions`` returns a dict whose ``advantages[B]`` are used as they stand;
- with one generation batch an optimiser step the probability ratio is one, so rows that the policy did not sample
  itself (reviewed traces, demonstrations) enter as plain weighted likelihood;
- with several (``Updates``) TRL adds ``old_per_token_logps``, shuffles and splits every key of that dict by rows, and
  reads them back from what ``_compute_loss`` is given after ``_get_per_token_logps_and_entropies`` has returned: there
  rows that the policy did not sample get the ratio one again;
- ``advantages[B, T]`` (a critic's) are used as they stand, and the trunk runs once in each forward pass.

TRL normalises rewards by position in blocks of rows.  Rows here come in groups of any size, so their advantages are
computed before (``advantages``) and put in place of TRL's; a critic's then take their place for sampled rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from dream_envs.agents.engines.models import MAIN, wearing
from dream_envs.agents.training.advantages import gae, moments, whiten
from dream_envs.agents.training.critic import Critic, value_loss
from dream_envs.agents.training.settings import BLOCK, Updates, accumulation
from dream_envs.core import DreamEnvsError

_CHUNK = 256  # rows at once where log-probabilities are only read and a step has no fixed number of rows
_KEPT = ("loss", "grad_norm", "learning_rate", "kl", "entropy")  # of TRL's numbers; not those of blocks or filler rows
_FIXED: dict[str, Any] = {
    "num_generations": BLOCK, "max_completion_length": 4096, "loss_type": "dapo",
    "scale_rewards": "none", "shuffle_dataset": False, "lr_scheduler_type": "linear", "weight_decay": 0.0,
    "adam_beta1": 0.9, "adam_beta2": 0.95, "save_strategy": "steps", "save_total_limit": 3, "report_to": "none",
    "disable_tqdm": True, "ddp_find_unused_parameters": False,
}  # fmt: skip


class TrainingRow(msgspec.Struct, frozen=True):
    """One row of a step: token ids, and the weight of its log-likelihood (its advantage).

    ``value``: what it earned.  ``role``: who sampled it in this round; empty for what the policy did not sample
    (reviewed traces, demonstrations), which is plain likelihood under every learner.  ``seat``: the role whose adapter
    it trains where each has its own, if not ``role``.  ``logprobs``: of the completion as it was sampled, where that is
    known.  Under a critic, ``advantage`` of a sampled row is a weight on
    the critic's.
    """

    prompt: Sequence[int]
    completion: Sequence[int]
    advantage: float
    value: float | None = None
    role: str = ""
    seat: str = ""
    logprobs: Sequence[float] | None = None


def split(lengths: Sequence[int]) -> list[list[int]]:
    """Row numbers in one group or, where that saves a fifth of the padded size, a short and a long one.

    >>> split([9, 80, 8, 9])
    [[2, 0, 3], [1]]
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    count, widest = len(order), lengths[order[-1]]
    costs = [k * lengths[order[k - 1]] + (count - k) * widest for k in range(1, count + 1)]
    best = min(range(count), key=costs.__getitem__)
    if costs[best] > 0.8 * count * widest:
        return [list(range(count))]
    return [order[: best + 1], order[best + 1 :]]


def bare_model(model: Any) -> Any:
    """The model itself, under the adapters where it has any."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


class RowTrainer(GRPOTrainer):
    """TRL's GRPO trainer, fed by ``source(round) -> rows``; with a critic it is PPO's.

    A round is ``updates.steps`` optimiser steps; ``steps``, ``warmup`` and ``save_every`` are rounds.  GRPO, RLOO and
    PPO differ in the advantages alone, and in the value loss that a critic adds.  ``micro_batch``: rows in one forward
    pass, 0 for all of an optimiser step; gradients are summed over them.  ``adapters``: names by role, where a row
    moves its role's alone.  ``config`` goes to ``GRPOConfig``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        source: Callable[[int], list[TrainingRow]],
        callback: TrainCallback,
        critic: Critic | None = None,
        *,
        out: str | Path,
        rows: int | None,
        steps: int,
        lr: float,
        seed: int,
        save_every: int,
        updates: Updates = Updates(),  # noqa: B008  it is frozen
        kl: float = 0.0,
        warmup: int = 10,
        clip: float = 1.0,
        micro_batch: int = 0,
        checkpointing: bool = False,
        adapters: Mapping[str, str] | None = None,
        **config: Any,
    ) -> None:
        self._adapters = dict(adapters or {})
        count = rows or _CHUNK * updates.minibatches
        windows = accumulation(count, updates, micro_batch)
        part = BLOCK * updates.minibatches * windows
        if rows is not None and rows % part:
            raise DreamEnvsError(f"rows={rows}: a multiple of {part} for the minibatches and micro_batch={micro_batch}")
        if updates.kl_in == "reward" and critic is None:
            raise DreamEnvsError("kl_in='reward' has no token rewards to go into without a critic: kl_in='loss'")
        self._source, self._row_count, self._updates, self._critic = source, rows, updates, critic
        self._rows, self._values, self._batch = list[TrainingRow](), list[torch.Tensor](), dict[str, Any]()
        self._part = part
        first = next(p for p in model.parameters() if p.device.type != "meta")
        bf16 = first.device.type != "cpu" and first.dtype == torch.bfloat16
        args = GRPOConfig(
            output_dir=str(out), learning_rate=lr, beta=kl, max_grad_norm=clip, seed=seed,
            per_device_train_batch_size=count // updates.minibatches // windows,
            gradient_accumulation_steps=windows, steps_per_generation=updates.minibatches * windows,
            num_iterations=updates.epochs, epsilon=updates.epsilon, importance_sampling_level=updates.level,
            max_steps=steps * updates.steps, warmup_steps=warmup * updates.steps, logging_steps=updates.steps,
            save_steps=save_every * updates.steps, use_cpu=first.device.type == "cpu",
            bf16=bf16, gradient_checkpointing=checkpointing,
            **{**_FIXED, **config},
        )  # fmt: skip
        prompts = Dataset.from_dict({"prompt": ["-"] * (count * int(os.environ.get("WORLD_SIZE", "1")) // BLOCK)})

        def value(value: Sequence[float | None], **_: Any) -> list[float | None]:
            return list(value)

        rollout: Any = _rollout  # it is given this class, where TRL's annotation names its own
        super().__init__(
            model=model, args=args, reward_funcs=value, rollout_func=rollout, train_dataset=prompts,
            processing_class=tokenizer, callbacks=[callback],
        )  # fmt: skip
        self.remove_callback(PrinterCallback)  # the run reports its own progress

    @property
    def _once(self) -> bool:
        """Whether rows are used once and without a critic: then everything is TRL's own but the advantages."""
        return self._critic is None and self._updates.steps == 1

    def _fetch(self) -> None:
        """This round's rows, filled up with rows that the loss does not see: to ``rows``, or to whole minibatches."""
        rows = self._source(self.state.global_step // self._updates.steps)
        count = self._row_count
        if count is None:
            part = self._part
            most = max(gather_object([len(rows)]))  # as many on every process
            count = max(part, most + -most % part)
        filler = TrainingRow((self._tokenizer.pad_token_id,), (self.eos_token_ids[0],), 0.0)
        self._rows = rows + [filler] * (count - len(rows))

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._values, self._batch = [], {}
        self._fetch()
        if self._adapters:
            names = list(self._adapters.values())
            worn = [names.index(self._adapters.get(r.role or r.seat, MAIN)) for r in self._rows]
            self._batch["worn"] = torch.tensor(worn, device=self.accelerator.device)
        worn_by = dict(self._batch)
        out = super()._generate_and_score_completions(inputs[:1] * len(self._rows))
        out |= worn_by
        values = [row.advantage for row in self._rows]
        out["advantages"] = torch.tensor(values, dtype=out["advantages"].dtype, device=out["advantages"].device)
        if self._updates.average == "rows":
            out["num_items_in_batch"] = self._total((out["advantages"] != 0).sum())
        if not self._once:
            out["sampled"] = torch.tensor([bool(r.role) for r in self._rows], device=out["advantages"].device)
        if self._critic is not None:
            self._criticise(out, self._critic)
        return out

    def _criticise(self, out: dict[str, Any], critic: Critic) -> None:
        """Advantages ``[B, T]`` from the critic for the rows that were sampled; what they were for the others."""
        chosen, sampled = critic.settings, out["sampled"][:, None]
        mask = out["completion_mask"] * sampled
        logps, old = out.get("old_per_token_logps"), self._old_values(out)
        rewards = torch.zeros_like(old)
        last = out["completion_mask"].sum(1) - 1  # the end, or the last token of a reply that was cut
        earned = torch.tensor([r.value or 0.0 for r in self._rows], dtype=old.dtype, device=old.device)
        rewards[torch.arange(len(last), device=last.device), last] = earned
        if self.beta and self._updates.kl_in == "reward":
            rewards = rewards - self.beta * (self._batch.get("logps", logps) - out["ref_per_token_logps"]) * mask
        found, returns = gae(rewards, old, mask, chosen.gamma, chosen.lam)
        roles = [r.role for r in self._rows]
        names = sorted({r for r in gather_object(roles) if r})  # of all processes: each takes part in every sum
        masks = {name: mask * torch.tensor([[r == name] for r in roles], device=mask.device) for name in names}
        self._tell_values(old, gae(rewards, old, mask, chosen.gamma, 1.0)[1], masks)
        if chosen.whiten:
            found = whiten(found, masks.values(), self._total)
        weight = out["advantages"][:, None]
        out["advantages"] = torch.where(sampled, weight * found, weight.expand_as(found))
        out["old_values"], out["returns"] = old, returns
        out["value_items"] = self._total(mask.sum())

    def _old_values(self, out: dict[str, Any]) -> torch.Tensor:
        """Values ``[B, T]`` before the round's first update, from TRL's pass over the rows or one of our own."""
        keep = out["completion_ids"].size(1)
        if not self._values:
            ids = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
            attention = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
            size = self.args.per_device_train_batch_size
            with torch.no_grad():
                found = self._get_per_token_logps_and_entropies(self.model, ids, attention, keep, batch_size=size)
            self._batch |= {"logps": found[0]}
        return torch.cat(self._values)[:, -keep - 1 : -1]  # the state that a token is chosen in is the one before it

    def _is_reference(self, model: Any) -> bool:
        """Whether this pass is the penalty's: a model of its own, or TRL's frozen copy of the adapter."""
        return model is self.ref_model or getattr(self.accelerator.unwrap_model(model), "active_adapter", "") == "ref"

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if self._is_reference(model):
            return self._packed(model, *args, **kwargs)
        found = self._by_role(model, *args, **kwargs) if self._adapters else self._read(model, *args, **kwargs)
        if "old_per_token_logps" in self._batch:
            here = found[0].detach()
            old = torch.where(self._batch["sampled"][:, None], self._batch["old_per_token_logps"], here)
            self._batch |= {"old_per_token_logps": old, "logps": here}
        return found

    def _thaw(self) -> None:
        """Every role's adapter is trainable again: peft freezes what is not worn, where a checkpoint is loaded too."""
        model: Any = self.model
        for name, value in model.named_parameters():
            value.requires_grad_("lora_" in name and ".ref." not in name)

    def _by_role(self, model: Any, ids: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        """Each row with its role's adapter; rows come back in their order, and the critic's values with them."""
        self._thaw()
        worn, parts, values = self._batch["worn"], list[Any](), list[torch.Tensor]()
        order = [(worn == i).nonzero()[:, 0] for i in range(len(self._adapters))]
        for name, rows in zip(self._adapters.values(), order, strict=True):
            if len(rows):
                with wearing(self.accelerator.unwrap_model(model), name):
                    parts.append(self._read(model, ids[rows], mask[rows], *args, **kwargs))
                    values += self._values if self._critic is not None else []
        back = torch.cat(order).argsort()
        if self._critic is not None:
            self._values = [torch.cat(values)[back]]
        return tuple(_joined(both, back) for both in zip(*parts, strict=True))

    def _read(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's log-probabilities and entropies; under a critic its values come with them."""
        if self._critic is None:
            found = self._packed(model, *args, **kwargs)
        else:
            head, values = self._critic, list[torch.Tensor]()
            trunk = bare_model(self.accelerator.unwrap_model(self.model)).base_model
            hook = trunk.register_forward_hook(lambda module, given, output: values.append(head(output[0])))
            try:
                found = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            finally:
                hook.remove()
            self._values = values
        return found

    def _packed(self, model: Any, ids: Any, mask: Any, keep: int, **kwargs: Any) -> Any:
        """TRL's log-probabilities and entropies, with short and long rows apart; the columns are put back."""
        run = super()._get_per_token_logps_and_entropies
        # Several processes have to call a wrapped model equally often, and each would split as its own rows have it.
        groups = split(mask.sum(1).tolist()) if self.accelerator.num_processes == 1 else [[]]
        if len(groups) == 1:
            return run(model, ids, mask, keep, **kwargs)
        start, parts = ids.size(1) - keep, list[tuple[Any, ...]]()
        for rows in groups:
            own = mask[rows]
            used = own.any(0).nonzero()[:, 0]  # prompts are padded on the left, completions on the right
            low, high = min(int(used[0]), start - 1), max(int(used[-1]) + 1, start + 1)
            found = run(model, ids[rows][:, low:high], own[:, low:high], high - start, **kwargs)
            pad = (0, ids.size(1) - high)
            parts.append(tuple(torch.nn.functional.pad(x, pad) if x is not None and x.dim() == 2 else x for x in found))
        back = torch.tensor(groups[0] + groups[1], device=ids.device).argsort()
        return tuple(_joined(both, back) for both in zip(*parts, strict=True))

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self._once:
            self._batch = {k: inputs[k] for k in ("worn",) if k in inputs}
            return super()._compute_loss(model, inputs)
        self._batch, beta = dict(inputs), self.beta
        if self._updates.kl_in == "reward":
            self.beta = 0.0
        try:
            loss = super()._compute_loss(model, self._batch)
        finally:
            self.beta = beta
        mask = self._batch["completion_mask"] * self._batch["sampled"][:, None]
        if "logps" in self._batch:
            self._tell_ratio(self._batch["logps"] - self._batch["old_per_token_logps"], mask)
        if self._critic is not None and self._critic.settings.weight:
            loss = loss + self._critic.settings.weight * self._value_loss(mask, self._critic.settings.clip)
        return loss

    def _value_loss(self, mask: torch.Tensor, clip: float) -> torch.Tensor:
        """A mean over the sampled tokens of the whole round, as the policy's is, whichever minibatch they fell into."""
        keep = mask.size(1)
        values = torch.cat(self._values)[:, -keep - 1 : -1]
        found = (value_loss(values, self._batch["old_values"], self._batch["returns"], clip) * mask).sum()
        share = self._batch["value_items"].clamp(min=1) / self.accelerator.num_processes / self._updates.minibatches
        self._metrics["train"]["value/loss"].append((self._total(found.detach()) / self._total(share.float())).item())
        return found / share

    def _tell_values(self, values: torch.Tensor, returns: torch.Tensor, masks: dict[str, torch.Tensor]) -> None:
        """How well the values foretold what was earned, role by role, before they are taught it."""
        for name, own in masks.items():
            mean, variance = moments(returns, own, self._total)
            left = moments(returns - values, own, self._total)[1]
            told = {"returns": mean, "values": moments(values, own, self._total)[0]}
            told["explained_variance"] = 1 - left / variance if variance > 0 else torch.tensor(float("nan"))
            for key, number in told.items():
                self._metrics["train"][f"value/{key}_{name}"].append(number.item())

    def _tell_ratio(self, log_ratio: torch.Tensor, mask: torch.Tensor) -> None:
        """How far this update's policy is from the one that sampled, over sampled tokens (k3; arXiv 2005.12729)."""
        ratio = log_ratio.exp()
        clipped = (ratio - 1).abs() > self._updates.epsilon
        sums = [((ratio - 1 - log_ratio) * mask).sum(), (clipped * mask).sum(), mask.sum()]
        distance, cut, count = self._total(torch.stack([x.float() for x in sums])).tolist()
        self._metrics["train"]["policy/approx_kl"].append(distance / max(count, 1.0))
        self._metrics["train"]["policy/clip_fraction"].append(cut / max(count, 1.0))

    def _total(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.accelerator.reduce(x.clone(), reduction="sum")  # it writes into what it is given
        return found

    def create_optimizer(self, model: Any = None) -> Any:
        """TRL's, with the critic as a group of its own."""
        fresh = self.optimizer is None
        if self._adapters:
            self._thaw()
        found = super().create_optimizer(model)
        if self._critic is not None and fresh:
            lr = self._critic.settings.lr
            found.add_param_group({"params": list(self._critic.parameters()), "lr": lr, "weight_decay": 0.0})
        return found

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """TRL's; the critic is outside of the model, so its gradients are zeroed, averaged and clipped here."""
        if self._critic is None:
            return super().training_step(model, inputs, num_items_in_batch)
        windows = self.args.gradient_accumulation_steps
        if self._step % windows == 0:
            self._critic.zero_grad()
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._step % windows:
            return loss
        for parameter in self._critic.parameters():
            if parameter.grad is not None and self.accelerator.num_processes > 1:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        torch.nn.utils.clip_grad_norm_(self._critic.parameters(), self.args.max_grad_norm)
        return loss


def _joined(parts: Sequence[Any], back: torch.Tensor) -> Any:
    """What a forward returned for groups of rows, in the rows' own order."""
    return torch.cat(list(parts))[back] if parts[0] is not None and parts[0].dim() == 2 else parts[0]


def _rollout(prompts: list[Any], trainer: RowTrainer) -> dict[str, Any]:
    rows = trainer._rows
    return {
        "prompt_ids": [list(r.prompt) for r in rows],
        "completion_ids": [list(r.completion) for r in rows],
        "logprobs": None,
        "env_mask": [[int(r.advantage != 0.0)] * len(r.completion) for r in rows],
        "value": [r.value for r in rows],
    }


class TrainCallback(TrainerCallback):
    """What happens beside training, on every rank.

    ``save`` is called with the folder of each TRL checkpoint, to complete it; ``log`` with (step, metrics) after each
    round; ``stop`` ends training after a checkpoint of any step for which it is true.
    """

    def __init__(
        self,
        save: Callable[[Path], None],
        log: Callable[[int, dict[str, float]], None],
        stop: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self._save, self._log, self._stop = save, log, stop

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """TRL has written ``checkpoint-N``."""
        self._save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """One round's metrics."""
        if logs and "loss" in logs:
            kept = {k: v for k, v in logs.items() if k in _KEPT or k.startswith(("value/", "policy/"))}
            self._log(state.global_step, {"lr" if k == "learning_rate" else k: v for k, v in kept.items()})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask whether to stop here."""
        if self._stop(state.global_step):
            control.should_save = control.should_training_stop = True


#: Warnings about what is so by design: rows without a reward (reviews, fillers), sums over a row's tokens.
_BY_DESIGN = (
    "All reward functions returned None",
    "Trainer is attempting to log a value of",
    "When using `importance_sampling_level",
)
_BOARD = "transformers.integrations.integration_utils"  # whose rewards are None where no row of a step has one
for _name in ("trl.trainer.grpo_trainer", "trl.trainer.utils", "trl.trainer.base_trainer", _BOARD):
    # accelerate puts the rank in front of a message
    logging.getLogger(_name).addFilter(lambda record: not any(about in str(record.msg) for about in _BY_DESIGN))
