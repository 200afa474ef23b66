"""What learning costs: completions, tokens and optimiser steps of this process, counted where they are made.

Every completion of a local model goes through ``decode.sample``, every trained row through one of three trainers, and
every optimiser step through torch, whoever asked for it: a night's drafts and dreams count as the day's rounds do.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Meter(msgspec.Struct):
    """``samples``: completions; ``sampled``: their tokens; ``trained``: tokens in a loss; ``steps``: of optimisers."""

    samples: int = 0
    sampled: int = 0
    trained: int = 0
    steps: int = 0


#: Of this process; ``start`` sets it to nothing.
METER = Meter()
_hook: Any = None


def start() -> Meter:
    """Count from nothing, optimiser steps included; the meter itself, which goes on counting."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    global _hook
    if _hook is None:
        _hook = register_optimizer_step_post_hook(_stepped)
    METER.samples = METER.sampled = METER.trained = METER.steps = 0
    return METER


def _stepped(*_: Any) -> None:
    METER.steps += 1
