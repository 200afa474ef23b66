"""Steering: a direction in the residual stream, found in the base's own replies and added while it decodes.

The direction is the difference between the mean residuals of two kinds of the base's own replies (Turner et al.,
arXiv 2308.10248; Rimsky et al., arXiv 2312.06681; for reasoning: "Base Models Know How to Reason", arXiv 2510.07364,
which takes its directions from a thinking model, where ours come from the base alone).  The kinds are told apart by
their form, never by their truth.

Any Hugging Face causal model is served: the decoder layers are the module list as long as the configuration says the
model is deep, and hooks add to what a layer puts out.  Hooks live for the length of one forward call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream_envs.agents.engines.decode import CachedForward, Forward
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import DreamEnvsError, Message

Layer = int | str
Replies = Sequence[tuple[Sequence[Message], str]]


def layers(model: Any) -> dict[str, Any]:
    """The decoder layers by their module names, in order: ``{"model.layers.0": ..., ...}``."""
    depth = model.config.get_text_config().num_hidden_layers
    lists = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    stacks = {name: module for name, module in lists.items() if len(module) == depth}
    if not stacks:
        raise DreamEnvsError(f"{type(model).__name__} has no list of {depth} decoder layers: name a module yourself")
    name = min(stacks, key=lambda name: name.count("."))
    return {f"{name}.{i}": layer for i, layer in enumerate(stacks[name])}


def layer_of(model: Any, layer: Layer) -> Any:
    """The module of a layer, by its number (negative: from the end) or its name."""
    known = layers(model)
    names = list(known)
    if isinstance(layer, int) and -len(names) <= layer < len(names):
        return known[names[layer]]
    if isinstance(layer, str) and layer in known:
        return known[layer]
    raise DreamEnvsError(f"layer={layer!r}: 0 to {len(names) - 1}, or {names[0]} to {names[-1]}")


@contextlib.contextmanager
def changed(model: Any, layer: Layer, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within this context, ``change(hidden[B, T, D])`` replaces what the layer puts out (None leaves it)."""

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        new = change(hidden)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    # In front of hooks that are there already, so that whoever reads the layer (residuals, transformers' own capture of
    # hidden states) reads what the model goes on with.
    handle = layer_of(model, layer).register_forward_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def residuals(agent: LocalAgent, replies: Replies, layer: Layer, batch: int = 64) -> list[np.ndarray]:
    """What a layer puts out while the agent reads these replies.

    Returns:
        For each reply ``float32[T, D]``, as aligned as ``completion_logits``: row 0 is the prompt's last position,
        which predicts the first token, row t the position of the reply's token t - 1.
    """
    found: list[np.ndarray] = []
    for prompts, completions in _batches(agent, replies, batch):
        kept: list[Tensor] = []
        with changed(agent.model, layer, lambda hidden: kept.append(hidden.float().cpu())):  # noqa: B023
            agent.read(prompts, completions, logits_to_keep=1, use_cache=False)
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
            found.append(kept[0][i, len(p) - 1 : len(p) - 1 + len(c)].numpy())
    return found


def _batches(agent: LocalAgent, replies: Replies, batch: int) -> Iterator[tuple[list[Any], list[list[int]]]]:
    """Ids of prompts and of completions, ``batch`` rows at a time."""
    for at in range(0, len(replies), batch):
        rows = replies[at : at + batch]
        yield [agent.encode(messages) for messages, _ in rows], [agent.completion(text) for _, text in rows]


def _need_both(positive: Replies, negative: Replies) -> None:
    if not positive or not negative:
        raise DreamEnvsError(f"{len(positive)} positive and {len(negative)} negative replies: a contrast needs both")


def contrast_vector(agent: LocalAgent, positive: Replies, negative: Replies, layer: Layer) -> np.ndarray:
    """The mean residual of the kind of completions to steer to minus that of the other, ``float32[D]``."""
    _need_both(positive, negative)
    means = [np.concatenate([x[1:] for x in residuals(agent, kind, layer)]).mean(0) for kind in (positive, negative)]
    return means[0] - means[1]


def gradient_vector(
    agent: LocalAgent, positive: Replies, negative: Replies, layer: Layer, first_tokens: int | None = 1, batch: int = 8
) -> np.ndarray:
    """The direction in which a shift raises the log-odds of one kind of replies against the other, ``float32[D]``.

    Where the kinds part at their first token, nothing in the residuals before it tells them apart: a difference of
    means shows what follows a choice, this shows what makes it.  It is the first step of an optimised steering vector
    (Dunefsky and Cohan, arXiv 2502.18862), scaled to the length of the residuals at the prompt's last position.

    ``first_tokens``: the generation steps that the shift will be added at; None is all.  ``batch``: replies a backward
    pass.
    """
    _need_both(positive, negative)
    slopes = [_slope(agent, kind, layer, first_tokens, batch) for kind in (positive, negative)]
    difference = slopes[0] - slopes[1]
    size = np.mean([np.linalg.norm(x[0]) for x in residuals(agent, [*positive, *negative], layer)])
    return (difference * (size / max(np.linalg.norm(difference), 1e-30))).astype(np.float32)


def _slope(agent: LocalAgent, replies: Replies, layer: Layer, first_tokens: int | None, batch: int) -> np.ndarray:
    """Gradient of the replies' mean log-probability with respect to a shift, at a shift of zero."""
    total = np.zeros(agent.model.config.get_text_config().hidden_size)
    for prompts, completions in _batches(agent, replies, batch):
        shift = Shift(layer, np.zeros(total.shape, np.float32), 1.0, first_tokens)
        shift.added.requires_grad_(True)
        starts = torch.tensor([len(p) - 1 for p in prompts], device=agent.device)
        with torch.enable_grad(), changed(agent.model, layer, _behind(shift, starts)):
            logits = agent.read(prompts, completions, use_cache=False).logits.float()
            logp = torch.log_softmax(logits, -1)
            said = [
                logp[i, len(p) - 1 + torch.arange(len(c)), torch.tensor(c)].sum()
                for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
            ]
            (slope,) = torch.autograd.grad(torch.stack(said).sum(), shift.added)
        total += slope.double().cpu().numpy()
    return total / len(replies)


class Shift:
    """``scale * vector``, added to what ``layer`` puts out at the first ``first_tokens`` generation steps (None: all).

    Step 0 is the prompt's last position, whose logits give the first token.
    """

    def __init__(self, layer: Layer, vector: np.ndarray, scale: float, first_tokens: int | None) -> None:
        if first_tokens is not None and first_tokens < 1:
            raise DreamEnvsError(f"first_tokens={first_tokens}: 1 or more, or None for all")
        self.layer, self.first_tokens = layer, first_tokens
        self.added = torch.as_tensor(scale * vector)

    def to(self, hidden: Tensor) -> Tensor:
        """What is added, as the model computes."""
        return self.added.to(hidden.device, hidden.dtype)


class Steered(LocalAgent):
    """An agent over the same weights that decodes with a shift of its residual stream.

    Decoding, constraints, teacher-forced logits and snapshots are those of ``LocalAgent``, all of them steered; a
    steered agent can be steered again.  ``scale * vector``, ``float[D]``, is added behind ``layer`` (number or module
    name) at the first ``first_tokens`` generation steps; None is all of them.
    """

    def __init__(
        self, agent: LocalAgent, layer: Layer, vector: np.ndarray, scale: float = 1.0, first_tokens: int | None = None
    ) -> None:
        vars(self).update(vars(agent))
        layer_of(self.model, layer)
        size = self.model.config.get_text_config().hidden_size
        if np.shape(vector) != (size,):
            raise DreamEnvsError(f"vector has shape {np.shape(vector)}: this model's residual stream is ({size},)")
        self.shifts: list[Shift] = [*vars(agent).get("shifts", []), Shift(layer, vector, scale, first_tokens)]

    def engine(self) -> Forward:
        """The modules themselves: the engine of fused weights would pass the hooks by."""
        return _SteeredForward(self.model, self.shifts)

    def reading(self, starts: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Steers teacher-forced forwards from each row's first generation step on."""
        rows = torch.tensor(list(starts), device=self.device)
        return _shifted(self.model, self.shifts, lambda shift: _behind(shift, rows))


@contextlib.contextmanager
def _shifted(model: Any, shifts: Sequence[Shift], change: Callable[[Shift], Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for shift in shifts:
            stack.enter_context(changed(model, shift.layer, change(shift)))
        yield


def _behind(shift: Shift, starts: Tensor) -> Callable[[Tensor], Tensor]:
    """Adds the shift to the rows' positions from ``starts[B]`` on."""

    def change(hidden: Tensor) -> Tensor:
        step = torch.arange(hidden.shape[1], device=hidden.device)[None] - starts[:, None]
        on = step >= 0 if shift.first_tokens is None else (step >= 0) & (step < shift.first_tokens)
        return hidden + on[..., None].to(hidden.dtype) * shift.to(hidden)

    return change


def _last(shift: Shift) -> Callable[[Tensor], Tensor]:
    """Adds the shift to the newest position (prompts are padded on the left)."""

    def change(hidden: Tensor) -> Tensor:
        return torch.cat([hidden[:, :-1], hidden[:, -1:] + shift.to(hidden)], 1)

    return change


class _SteeredForward(CachedForward):
    """Hugging Face's own forward with the shifts on."""

    def __init__(self, model: Any, shifts: Sequence[Shift]) -> None:
        super().__init__(model)
        self.shifts = shifts

    def _on(self, step: int) -> contextlib.AbstractContextManager[None]:
        on = [shift for shift in self.shifts if shift.first_tokens is None or step < shift.first_tokens]
        return _shifted(self.model, on, _last)

    def prefill(self, ids: Tensor, mask: Tensor, repeats: Tensor, room: int) -> Tensor:
        """See ``Forward``."""
        self._step = 0
        with self._on(0):
            return super().prefill(ids, mask, repeats, room)

    def step(self, tokens: Tensor) -> Tensor:
        """See ``Forward``."""
        self._step += 1
        with self._on(self._step):
            return super().step(tokens)
