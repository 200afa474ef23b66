"""What a training step needs of memory, told before the first one instead of by a crash behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dream_envs.agents.engines.memory import GIB, free, give_back
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.core import DreamEnvsError

_ADAM = 12  # bytes a trained weight: a gradient and two moments
_LOGITS = 3  # copies of a completion's logits in float32: scores, log-probabilities, their gradient
_SHARE = 0.95  # of what is free


def needed(model: Any, rows: Sequence[TrainingRow], micro_batch: int, checkpointing: bool) -> float:
    """Bytes that a step takes beside the weights that are there: optimiser, activations, logits; a rough upper bound.

    ``micro_batch``: rows in one forward pass, 0 for all.
    """
    config = model.config.get_text_config()
    count = min(micro_batch or len(rows), len(rows))
    size = model.get_input_embeddings().weight.element_size()
    width = max((len(r.prompt) + len(r.completion) for r in rows), default=0)
    reply = max((len(r.completion) for r in rows), default=0)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = (12 * config.hidden_size + 4 * inner) * size
    kept = (
        config.hidden_size * size * config.num_hidden_layers + layer
        if checkpointing
        else layer * config.num_hidden_layers
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained * _ADAM + count * width * kept + count * reply * config.vocab_size * 4 * _LOGITS


def check(model: Any, rows: Sequence[TrainingRow], micro_batch: int, checkpointing: bool) -> None:
    """Refuse a step that does not fit, with the setting that would make it fit; a large one gives its pages back.

    Raises:
        DreamEnvsError: before the first forward pass.
    """
    device = model.get_input_embeddings().weight.device
    there = free(device)
    need = needed(model, rows, micro_batch, checkpointing)
    if need > GIB and device.type == "cpu":
        give_back()
    if not rows or there is None or need <= _SHARE * there:
        return
    count = min(micro_batch or len(rows), len(rows))
    fits = next((n for n in range(count - 1, 1, -1) if needed(model, rows, n, checkpointing) <= _SHARE * there), 0)
    if fits:
        way = f"--micro-batch {fits}"
    elif not checkpointing and needed(model, rows, 2, True) <= _SHARE * there:
        way = "--gradient-checkpointing --micro-batch 2"
    else:
        way = "--lora-rank 16, a lower --max-tokens, --dtype bfloat16 or a smaller model"
    raise DreamEnvsError(
        f"micro_batch={count}: a step needs about {need / GIB:.1f} GiB on {device}, {there / GIB:.1f} are free; {way}"
    )
