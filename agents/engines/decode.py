"""A seedable, batch-invariant decode loop for decoder-only language models.

``model.generate`` has no generator argument and samples from the global stream, so a row's text depends on its
neighbours.  Here every row draws from its own seed (``seeds.uniforms``), by inverting the cumulative distribution: it
samples the same text alone and in a batch of a thousand.  Sampled ids and their log-probabilities are kept.

Two engines give the logits: ``CachedForward`` runs any Hugging Face causal model with its own cache; ``LlamaForward``
runs models of the Llama layout (RMSNorm, gated MLP, rotary or no positions) from fused weights with a static cache,
without the modules' overhead, which is most of the time where the model is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dream_envs.agents.engines.pick import Allowed, Barred, pick
from dream_envs.seeds import uniforms

#: Finished rows are dropped from the engine when no more than this share is still going: copying the cache costs more
#: than carrying a few dead rows.
COMPACT = 0.7
#: Positions by which a full cache grows.
GROW = 16


class Sample(msgspec.Struct, frozen=True):
    """One completion: its ids (the end token included, if it was reached) and their log-probabilities."""

    ids: list[int]
    logprobs: list[float]
    ended: bool


class Forward(Protocol):
    """Next-token logits, step by step, for a batch of rows of which some may be dropped on the way."""

    def prefill(self, ids: Tensor, mask: Tensor, repeats: Tensor, room: int) -> Tensor:
        """Read left-padded prompts ``[U, P]``, repeat row ``u`` ``repeats[u]`` times; logits ``[B, V]``."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append ``tokens[B]``; logits ``[B, V]``."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""


@torch.inference_mode()
def sample(
    forward: Forward,
    prompts: Sequence[Sequence[int]],
    seeds: np.ndarray,
    max_tokens: np.ndarray,
    *,
    end: Sequence[int],
    pad: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    allowed: Allowed | None = None,
    expected: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
) -> list[Sample]:
    """Sample one completion a prompt.

    Args:
        forward: the engine.
        prompts: token ids, one list a row; equal lists are read once.
        seeds: ``uint64[B]``, each row's own.
        max_tokens: ``int[B]``, each row's bound.
        end: ids that end a completion.
        pad: id to pad prompts with.
        temperature: 0 is greedy.  Log-probabilities are those of the distribution that was sampled from.
        top_p: see ``pick``; 1 is off.
        min_p: see ``pick``; 0 is off.
        allowed: for each row None (free), or for each position the ids that may stand there (None: any); positions
            behind the list are free.  Probabilities are renormalised over the allowed ids.
        expected: for each row the only ids that matter, the end included: it stops behind the first other token.
        device: where the engine runs.

    Returns:
        ``B`` samples in order.
    """
    if not prompts:
        return []
    order, unique, repeats = _group(prompts)
    ids, mask = left_padded(unique, pad, device)
    steps = int(max_tokens.max())
    draws = torch.from_numpy(uniforms(seeds[order], steps)).to(device)
    limits = torch.from_numpy(max_tokens[order].astype(np.int64)).to(device)
    logits = forward.prefill(ids, mask, torch.tensor(repeats, device=device), steps)
    barred = None if allowed is None else Barred(allowed, order, steps, logits.shape[-1], device)
    wanted = None if expected is None else _padded([expected[i] for i in order], steps, device)

    def choose(logits: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if barred is not None:
            logits = barred.mask(logits, rows, step)
        return pick(logits, draws[rows, step], temperature, top_p, min_p)

    return _collect(order, *_loop(forward, logits, choose, limits, torch.tensor(list(end), device=device), wanted))


def _loop(
    forward: Forward,
    logits: Tensor,
    choose: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]],
    limits: Tensor,
    ends: Tensor,
    wanted: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Step by step from the first logits on: ids, log-probabilities, lengths, and whether each row ended."""
    device, total, steps = limits.device, len(limits), int(limits.max())
    out = torch.zeros((total, steps), dtype=torch.long, device=device)
    logps = torch.zeros((total, steps), device=device)
    lengths = torch.zeros(total, dtype=torch.long, device=device)
    ended = torch.zeros(total, dtype=torch.bool, device=device)
    rows = torch.arange(total, device=device)  # the engine's rows, as rows of ``out``
    going = torch.ones(total, dtype=torch.bool, device=device)  # of the engine's rows
    for k in range(steps):
        tokens, chosen = choose(logits, rows, k)
        now = rows[going]
        out[now, k], logps[now, k] = tokens[going], chosen[going]
        lengths[now] = k + 1
        stop = torch.isin(tokens, ends)
        ended[now] = stop[going]
        going = going & ~stop & (limits[rows] > k + 1)
        if wanted is not None:
            going = going & (tokens == wanted[rows, k])
        if not (count := int(going.sum())):
            break
        if count <= COMPACT * len(rows):
            kept = going.nonzero()[:, 0]
            forward.keep(kept)
            rows, tokens, going = rows[kept], tokens[kept], going[kept]
        logits = forward.step(tokens)
    return out, logps, lengths, ended


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Prompts that end side by side: ids ``int64[B, T]`` and mask ``bool[B, T]``."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], dtype=torch.bool, device=device)
    return ids, mask


def _padded(rows: Sequence[Sequence[int]], steps: int, device: torch.device | str) -> Tensor:
    """``int64[B, steps]``, -1 behind a row's end."""
    return torch.tensor([[*row[:steps], *[-1] * (steps - len(row))] for row in rows], device=device)


def _group(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, list[tuple[int, ...]], list[int]]:
    """Rows of equal prompts side by side: the order of rows, the prompts, how often each."""
    places: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(i)
    order = np.array([i for rows in places.values() for i in rows])
    return order, list(places), [len(rows) for rows in places.values()]


def _collect(order: np.ndarray, out: Tensor, logps: Tensor, lengths: Tensor, ended: Tensor) -> list[Sample]:
    ids, values, sizes, ends = out.tolist(), logps.tolist(), lengths.tolist(), ended.tolist()
    samples: list[Sample | None] = [None] * len(ids)
    for row, place in enumerate(order.tolist()):
        n = sizes[row]
        samples[place] = Sample(ids[row][:n], values[row][:n], ends[row])
    return [s for s in samples if s is not None]


class CachedForward:
    """Any Hugging Face causal language model, with the library's own cache."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def prefill(self, ids: Tensor, mask: Tensor, repeats: Tensor, room: int) -> Tensor:
        """See ``Forward``."""
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)
        self.mask = mask.long()
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), repeats)
        self.keep(rows)
        return out.logits[:, -1][rows]

    def step(self, tokens: Tensor) -> Tensor:
        """See ``Forward``."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        out = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.mask.sum(-1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        """See ``Forward``."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]


class LlamaForward:
    """Models of the Llama layout from fused weights: built anew after each change of the weights (cheap)."""

    def __init__(self, model: Any) -> None:
        config, core = model.config, model.model
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.embed, self.norm, self.head = core.embed_tokens.weight, core.norm.weight, model.lm_head.weight
        self.rotary = core.rotary_emb
        no_rope = getattr(config, "no_rope_layers", None)
        self.rope = [bool(x) for x in no_rope] if no_rope is not None else [True] * config.num_hidden_layers
        self.layers = []
        for layer in core.layers:
            a, m = layer.self_attn, layer.mlp
            self.layers.append(
                (
                    layer.input_layernorm.weight,
                    torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]).t().contiguous(),
                    a.o_proj.weight.t().contiguous(),
                    layer.post_attention_layernorm.weight,
                    torch.cat([m.gate_proj.weight, m.up_proj.weight]).t().contiguous(),
                    m.down_proj.weight.t().contiguous(),
                )
            )

    @staticmethod
    def serves(model: Any) -> bool:
        """Whether the model has exactly this layout: gated SiLU, no biases, full attention, RMSNorm."""
        config = model.config
        if config.model_type not in ("llama", "smollm3") or config.hidden_act != "silu":
            return False
        if any(name.endswith("bias") for name, _ in model.named_parameters()):
            return False
        if getattr(config, "layer_types", None) and set(config.layer_types) != {"full_attention"}:
            return False
        return not getattr(config, "quantization_config", None) and next(model.parameters()).dtype == torch.float32

    def prefill(self, ids: Tensor, mask: Tensor, repeats: Tensor, room: int) -> Tensor:
        """See ``Forward``."""
        count, width = ids.shape
        self.past = 0
        shape = (len(self.layers), count, self.groups, width, self.size)
        self.keys = torch.zeros(shape, device=ids.device)
        self.values = torch.zeros(shape, device=ids.device)
        causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        self.positions = mask.sum(-1)
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        allowed = mask[:, None, :] & causal[None] | torch.eye(width, dtype=torch.bool, device=ids.device)[None]
        hidden = self._run(ids, positions, allowed[:, None])
        rows = torch.repeat_interleave(torch.arange(count, device=ids.device), repeats)
        self.mask = torch.cat([mask, mask.new_ones(count, room)], 1)
        self.keep(rows)
        return hidden[:, -1][rows] @ self.head.t()

    def step(self, tokens: Tensor) -> Tensor:
        """See ``Forward``."""
        if self.past == self.keys.shape[3]:
            self.keys = F.pad(self.keys, (0, 0, 0, GROW))
            self.values = F.pad(self.values, (0, 0, 0, GROW))
        allowed = self.mask[:, None, None, : self.past + 1]
        hidden = self._run(tokens[:, None], self.positions[:, None], allowed)
        self.positions = self.positions + 1
        return hidden[:, -1] @ self.head.t()

    def keep(self, rows: Tensor) -> None:
        """See ``Forward``."""
        self.keys = self.keys[:, :, :, : self.past].index_select(1, rows)
        self.values = self.values[:, :, :, : self.past].index_select(1, rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def _run(self, ids: Tensor, positions: Tensor, allowed: Tensor) -> Tensor:
        x = self.embed[ids]
        batch, length, _ = x.shape
        end = self.past + length
        cos_sin = self.rotary(x, positions) if any(self.rope) else None
        split = self.heads * self.size, self.groups * self.size, self.groups * self.size
        for i, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self.layers):
            q, k, v = (F.rms_norm(x, norm1.shape, norm1, self.eps) @ qkv).split(split, -1)
            q = q.view(batch, length, self.heads, self.size).transpose(1, 2)
            k = k.view(batch, length, self.groups, self.size).transpose(1, 2)
            v = v.view(batch, length, self.groups, self.size).transpose(1, 2)
            if cos_sin is not None and self.rope[i]:
                q, k = _rotate(q, *cos_sin), _rotate(k, *cos_sin)
            self.keys[i, :, :, self.past : end], self.values[i, :, :, self.past : end] = k, v
            attended = F.scaled_dot_product_attention(
                q,
                self.keys[i, :, :, :end],
                self.values[i, :, :, :end],
                attn_mask=allowed,
                enable_gqa=self.heads != self.groups,
            )
            x = x + attended.transpose(1, 2).reshape(batch, length, -1) @ out
            gate, up = (F.rms_norm(x, norm2.shape, norm2, self.eps) @ gate_up).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ down
        self.past = end
        return F.rms_norm(x, self.norm.shape, self.norm, self.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos[:, None] + turned * sin[:, None]


def forward_for(model: Any) -> Forward:
    """The fastest engine that serves this model."""
    return LlamaForward(model) if LlamaForward.serves(model) else CachedForward(model)
