"""A seedable, batch-invariant decode loop for decoder-only language models.

``model.generate`` has no generator argument and samples from the global stream, so a row's text depends on its
neighbours.  Here every row draws from its own seed (``seeds.uniforms``), by inverting the cumulative distribution: it
samples the same text alone and in a batch of a thousand.  Sampled ids and their log-probabilities are kept.

``CachedForward`` runs any Hugging Face causal model; ``LlamaForward`` those of the Llama layout without the modules'
overhead, which is most of the time where the model is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dream_envs.agents.engines.meter import METER
from dream_envs.core import DreamEnvsError
from dream_envs.seeds import uniforms

#: For each row None (free), or for each position the ids that may stand there (None: any).
Allowed = Sequence[Sequence[Sequence[int] | None] | None]
_COMPACT = (
    0.7  # finished rows are dropped at this share of live ones: copying the cache costs more than a few dead rows
)
_GROW = 16  # positions by which a full cache grows


class Sample(msgspec.Struct, frozen=True):
    """One completion: its ids (the end token included, if it was reached) and their log-probabilities."""

    ids: list[int]
    logprobs: list[float]
    ended: bool


class Decoding(msgspec.Struct, frozen=True):
    """How tokens are drawn: ``temperature`` 0 (greedy) to 10; ``top_p`` above 0 up to 1 (off); ``min_p`` 0 (off) to 1;
    ``top_k`` 0 (off) or more.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise DreamEnvsError(f"temperature={self.temperature}: 0 (greedy) to 10")
        if not 0 < self.top_p <= 1:
            raise DreamEnvsError(f"top_p={self.top_p}: above 0, up to 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise DreamEnvsError(f"min_p={self.min_p}: 0 (off) to 1")
        if self.top_k < 0:
            raise DreamEnvsError(f"top_k={self.top_k}: 0 (off) or more")


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
    allowed: Allowed | None = None,
    expected: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
    **decoding: Any,
) -> list[Sample]:
    """Sample one completion a prompt, in order; equal prompts are read once.

    Args:
        forward: the engine.
        prompts: token ids, ``B`` lists.
        seeds: ``uint64[B]``, each row's own.
        max_tokens: ``int[B]``, each row's bound.
        end: ids that end a completion.
        pad: id to pad prompts with.
        allowed: what may stand where; positions behind a row's list are free.  Probabilities are renormalised.
        expected: for each row the only ids that matter, the end included: it stops behind the first other token.
        device: where the engine runs.
        decoding: see ``Decoding``.  Log-probabilities are those of the distribution that was sampled from.
    """
    how = Decoding(**decoding)
    if not prompts:
        return []
    places: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(i)
    order = np.array([i for rows in places.values() for i in rows])  # rows of equal prompts stand side by side
    ids, mask = left_padded(list(places), pad, device)
    steps = int(max_tokens.max())
    draws = torch.from_numpy(uniforms(seeds[order], steps)).to(device)
    limits = torch.from_numpy(max_tokens[order].astype(np.int64)).to(device)
    logits = forward.prefill(ids, mask, torch.tensor([len(rows) for rows in places.values()], device=device), steps)
    barred = None if allowed is None else _Barred(allowed, order, steps, logits.shape[-1], device)
    wanted = None
    if expected is not None:  # -1 behind a row's end
        wanted = torch.tensor([[*expected[i], *[-1] * steps][:steps] for i in order], device=device)

    def choose(logits: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if barred is not None:
            logits = barred.mask(logits, rows, step)
        return _pick(logits, draws[rows, step], how)

    found = _loop(forward, logits, choose, limits, torch.tensor(list(end), device=device), wanted)
    samples = {
        place: Sample(ids[:n], values[:n], ended)
        for place, ids, values, n, ended in zip(order.tolist(), *(x.tolist() for x in found), strict=True)
    }
    METER.samples += len(samples)
    METER.sampled += sum(len(s.ids) for s in samples.values())
    return [samples[i] for i in range(len(prompts))]


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
        if count <= _COMPACT * len(rows):
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


def _pick(logits: Tensor, draw: Tensor, how: Decoding) -> tuple[Tensor, Tensor]:
    """Invert the cumulative distribution at ``draw[B]``: tokens ``[B]`` and their log-probabilities ``[B]``.

    ``top_k`` comes first, as in transformers; ``top_p`` and ``min_p`` are both of the tempered distribution that it
    leaves, and what is in both sets is left.
    """
    logits = logits.float()
    if how.temperature == 0:
        return logits.argmax(-1), torch.zeros_like(draw, dtype=torch.float32)
    logits = logits / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(how.top_k, -1).values[:, -1:], -math.inf)
    logp = torch.log_softmax(logits, -1)
    if how.top_p < 1 or how.min_p > 0:
        logp = torch.log_softmax(_truncated(logp, how.top_p, how.min_p), -1)
    cumulative = logp.exp().double().cumsum(-1)
    tokens = (cumulative <= (draw * cumulative[:, -1])[:, None]).sum(-1)
    return tokens, logp.gather(-1, tokens[:, None])[:, 0]


def _truncated(logp: Tensor, top_p: float, min_p: float) -> Tensor:
    """``logp[B, V]`` with -inf for what the nucleus or the floor leaves out; the most likely token always stays."""
    out = torch.zeros_like(logp, dtype=torch.bool)
    if min_p > 0:
        out |= logp < logp.amax(-1, keepdim=True) + math.log(min_p)
    if top_p < 1:
        ranked, places = torch.sort(logp, dim=-1, descending=True, stable=True)
        mass = ranked.exp().double()
        above = mass.cumsum(-1) - mass  # the mass of all that is more likely
        late = above >= top_p
        late[:, 0] = False
        out |= torch.zeros_like(out).scatter(-1, places, late)
    return logp.masked_fill(out, -math.inf)


class _Barred:
    """Which ids may not stand where: one row of a table for each different list of allowed ids."""

    def __init__(self, allowed: Allowed, order: np.ndarray, steps: int, size: int, device: torch.device | str) -> None:
        if len(allowed) != len(order):
            raise DreamEnvsError(
                f"allowed has {len(allowed)} rows for {len(order)} prompts: one a prompt, None for free"
            )
        self._size, self._table = size, [torch.zeros(size, dtype=torch.bool)]
        numbers: dict[tuple[int, ...], int] = {}
        plans: dict[int, list[int]] = {}  # rows often share one list
        plan = np.zeros((len(order), steps), dtype=np.int64)
        for i, row in enumerate([allowed[place] for place in order]):
            if row is None:
                continue
            if id(row) not in plans:
                plans[id(row)] = [0 if ids is None else self._number(tuple(ids), numbers) for ids in row[:steps]]
            plan[i, : len(row)] = plans[id(row)]
        self._bars = torch.stack(self._table).to(device)
        self._plan = torch.from_numpy(plan).to(device)
        self._bound = [bool(column.any()) for column in plan.T]

    def _number(self, ids: tuple[int, ...], numbers: dict[tuple[int, ...], int]) -> int:
        """The table's row for these ids, made where there is none yet."""
        if ids not in numbers:
            if not ids or min(ids) < 0 or max(ids) >= self._size:
                raise DreamEnvsError(f"allowed: {list(ids)} is not one or more ids from 0 to {self._size - 1}, or None")
            numbers[ids] = len(self._table)
            self._table.append(torch.ones(self._size, dtype=torch.bool).index_fill(0, torch.tensor(ids), False))
        return numbers[ids]

    def mask(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """``logits[R, V]`` of these rows at this step, -inf where barred."""
        if not self._bound[step]:
            return logits
        return logits.float().masked_fill(self._bars[self._plan[rows, step]], -math.inf)


class CachedForward:
    """Any Hugging Face causal language model, with the library's own cache."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def prefill(self, ids: Tensor, mask: Tensor, repeats: Tensor, room: int) -> Tensor:
        """See ``Forward``."""
        from transformers import DynamicCache

        self.cache, self.mask = DynamicCache(config=self.model.config), mask.long()
        logits = self._logits(ids, (self.mask.cumsum(-1) - 1).clamp(min=0))
        rows = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), repeats)
        self.keep(rows)
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """See ``Forward``."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        return self._logits(tokens[:, None], self.mask.sum(-1, keepdim=True) - 1)

    def keep(self, rows: Tensor) -> None:
        """See ``Forward``."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        given = {"input_ids": ids, "attention_mask": self.mask, "position_ids": positions}
        out = self.model(**given, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1]


class LlamaForward:
    """Models of the Llama layout from fused weights: built anew after each change of the weights (cheap)."""

    def __init__(self, model: Any) -> None:
        model = model.get_base_model() if hasattr(model, "peft_config") else model
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
            qkv, gate_up = [a.q_proj, a.k_proj, a.v_proj], [m.gate_proj, m.up_proj]
            matrices = [torch.cat([_weight(x) for x in part]) for part in (qkv, [a.o_proj], gate_up, [m.down_proj])]
            norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
            self.layers.append((*norms, *[w.t().contiguous() for w in matrices]))

    @staticmethod
    def serves(model: Any) -> bool:
        """Whether the model has exactly this layout: gated SiLU, no biases, full attention, RMSNorm."""
        config = model.config
        return (
            config.model_type in ("llama", "smollm3")
            and config.hidden_act == "silu"
            and not any(name.endswith("bias") for name, _ in model.named_parameters())
            and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
            and not getattr(config, "quantization_config", None)
            and model.get_input_embeddings().weight.dtype in (torch.float32, torch.bfloat16)
            and _plain_adapters(model)
        )

    def prefill(self, ids: Tensor, mask: Tensor, repeats: Tensor, room: int) -> Tensor:
        """See ``Forward``."""
        count, width = ids.shape
        self.past = 0
        shape = (len(self.layers), count, self.groups, width, self.size)
        empty = torch.zeros(shape, device=ids.device, dtype=self.embed.dtype)
        self.keys, self.values = empty, empty.clone()
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
            self.keys, self.values = (F.pad(x, (0, 0, 0, _GROW)) for x in (self.keys, self.values))
        allowed = self.mask[:, None, None, : self.past + 1]
        hidden = self._run(tokens[:, None], self.positions[:, None], allowed)
        self.positions = self.positions + 1
        return hidden[:, -1] @ self.head.t()

    def keep(self, rows: Tensor) -> None:
        """See ``Forward``."""
        self.keys, self.values = (x[:, :, :, : self.past].index_select(1, rows) for x in (self.keys, self.values))
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def _run(self, ids: Tensor, positions: Tensor, allowed: Tensor) -> Tensor:
        x = self.embed[ids]
        batch, length, _ = x.shape
        end = self.past + length
        cos_sin = self.rotary(x, positions) if any(self.rope) else None
        split = self.heads * self.size, self.groups * self.size, self.groups * self.size
        for i, (norm1, norm2, qkv, out, gate_up, down) in enumerate(self.layers):
            parts = (F.rms_norm(x, norm1.shape, norm1, self.eps) @ qkv).split(split, -1)
            q, k, v = (part.view(batch, length, -1, self.size).transpose(1, 2) for part in parts)
            if cos_sin is not None and self.rope[i]:
                q, k = _rotate(q, *cos_sin), _rotate(k, *cos_sin)
            self.keys[i, :, :, self.past : end], self.values[i, :, :, self.past : end] = k, v
            keys, values = self.keys[i, :, :, :end], self.values[i, :, :, :end]
            grouped = self.heads != self.groups
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=allowed, enable_gqa=grouped)
            x = x + attended.transpose(1, 2).reshape(batch, length, -1) @ out
            gate, up = (F.rms_norm(x, norm2.shape, norm2, self.eps) @ gate_up).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ down
        self.past = end
        return F.rms_norm(x, self.norm.shape, self.norm, self.eps)


def _plain_adapters(model: Any) -> bool:
    """Whether the model has no adapters, or LoRA of the simple kind, whose matrices can be added up."""
    kinds = getattr(model, "peft_config", {}).values()
    return all(
        k.peft_type.value == "LORA" and not (k.use_dora or k.lora_bias or k.modules_to_save or k.lora_dropout)
        for k in kinds
    )


@torch.no_grad()
def _weight(linear: Any) -> Tensor:
    """A linear layer's matrix, with its active adapters added."""
    if not hasattr(linear, "lora_A"):
        return linear.weight
    weight = linear.get_base_layer().weight
    for name in [] if linear.disable_adapters or linear.merged else linear.active_adapters:
        if name in linear.lora_A:
            weight = (weight + linear.get_delta_weight(name)).to(weight.dtype)
    return weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos[:, None] + turned * sin[:, None]


def forward_for(model: Any) -> Forward:
    """The fastest engine that serves this model."""
    return LlamaForward(model) if LlamaForward.serves(model) else CachedForward(model)
