"""A small sparse autoencoder of the base's own residual stream, one feature of which steers the first step.

After "Reasoning Beyond Chain-of-Thought" (arXiv 2601.08058): features that tell two ways of answering apart are found
in a sparse autoencoder, and one of them, added at the first generation step only, turns the model to the other way.
The paper's autoencoders are large and trained on web text; this one is trained on what the base says about the problems
at hand.  Top-k activation (Makhzani and Frey, arXiv 1312.5663; Gao et al., arXiv 2406.04093).
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from dream_envs.core import DreamEnvsError
from dream_envs.seeds import stream


class SaeSettings(msgspec.Struct, frozen=True):
    """``features``: size of the dictionary; 0 is four times the residual stream.  ``active``: how many at once.

    ``steps``, ``batch``, ``lr``: of Adam; positions are drawn with replacement.
    """

    features: int = 0
    active: int = 8
    steps: int = 600
    batch: int = 512
    lr: float = 3e-3


class SparseAutoencoder:
    """``x ~ mean + size * (codes @ decoder)``, at most ``active`` codes above zero; decoder rows have unit length.

    ``encoder``: ``float32[D, F]``; ``bias``: ``float32[F]``; ``decoder``: ``float32[F, D]``; ``mean``: ``float32[D]``,
    of the positions it was trained on; ``size``: their root mean square distance from it a dimension.
    """

    def __init__(self, encoder: Tensor, bias: Tensor, decoder: Tensor, mean: Tensor, size: float, active: int) -> None:
        self.encoder, self.bias, self.decoder, self.mean, self.size = encoder, bias, decoder, mean, size
        self.active = active

    def codes(self, residuals: np.ndarray) -> np.ndarray:
        """``float32[N, F]`` of ``float[N, D]``."""
        with torch.no_grad():
            x = (torch.from_numpy(np.asarray(residuals, np.float32)) - self.mean) / self.size
            return _codes(x, self.encoder, self.bias, self.active).numpy()


def train(residuals: np.ndarray, settings: SaeSettings, seed: str) -> SparseAutoencoder:
    """A sparse autoencoder of these positions, ``float[N, D]``; the same arguments give the same weights."""
    x = torch.from_numpy(np.asarray(residuals, np.float32))
    count = settings.features or 4 * x.shape[1]
    if not 1 <= settings.active <= count or min(settings.steps, settings.batch) < 1 or len(x) < 2:
        need = "1 <= active <= features, steps, batch >= 1, 2 positions"
        raise DreamEnvsError(f"{settings} on {len(x)} positions: {need}")
    mean = x.mean(0)
    size = float((x - mean).square().mean().sqrt()) or 1.0
    x = (x - mean) / size
    rng = stream("sae", seed)
    start = rng.normal(size=(count, x.shape[1])).astype(np.float32)
    decoder = torch.from_numpy(start / np.linalg.norm(start, axis=1, keepdims=True)).requires_grad_(True)
    encoder = decoder.detach().t().contiguous().clone().requires_grad_(True)
    bias = torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.Adam([encoder, bias, decoder], lr=settings.lr)
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.lr * min(1.0, 5 * (1 - step / settings.steps))
        rows = x[torch.from_numpy(rng.integers(len(x), size=settings.batch))]
        codes = _codes(rows, encoder, bias, settings.active)
        loss = (codes @ decoder - rows).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            decoder /= decoder.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return SparseAutoencoder(encoder.detach(), bias.detach(), decoder.detach(), mean, size, settings.active)


def _codes(x: Tensor, encoder: Tensor, bias: Tensor, active: int) -> Tensor:
    raw = torch.relu(x @ encoder + bias)
    kept = raw.topk(active, dim=-1)
    return torch.zeros_like(raw).scatter(-1, kept.indices, kept.values)


def by_activation(sae: SparseAutoencoder, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Features by how much more they are active at the positions of the one kind than of the other, most first."""
    return np.argsort(-(sae.codes(positive).mean(0) - sae.codes(negative).mean(0)), kind="stable")


def by_attribution(sae: SparseAutoencoder, gradient: np.ndarray) -> np.ndarray:
    """Features by how far a unit of them leads along a gradient of the residual stream (``float[D]``), most first."""
    return np.argsort(-(sae.decoder.numpy() @ np.asarray(gradient, np.float32)), kind="stable")
