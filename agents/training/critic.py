"""The critic of PPO: a value head on the policy's own trunk, and the clipped loss that teaches it.

It reads the trunk's last hidden state before each token and says what the completion will earn.  It is no part of the
model: a checkpoint's model stays a plain Hugging Face folder, with ``value_head.safetensors`` beside it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dream_envs.agents.training.settings import CriticSettings
from dream_envs.core import DreamEnvsError

FILE = "value_head.safetensors"


class Critic(nn.Module):
    """A value head: the trunk's hidden states to expected returns.

    ``width``: of a hidden state.  ``seed``: draws the hidden layer; the last one starts at zero, and so do the values.
    """

    def __init__(self, width: int, settings: CriticSettings, seed: int) -> None:
        super().__init__()
        self.settings, hidden = settings, settings.hidden
        # Made without drawing from torch's global generator, which the trainer's shuffling goes by.
        self.body = nn.utils.skip_init(nn.Linear, width, hidden) if hidden else None
        self.out = nn.utils.skip_init(nn.Linear, hidden or width, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            if self.body is not None:
                self.body.weight.normal_(0.0, width**-0.5, generator=torch.Generator().manual_seed(seed))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """``[..., width]`` to ``[...]``, in single precision whatever the trunk's is."""
        states = states.float()
        if self.body is not None:
            states = torch.tanh(self.body(states))
        found: torch.Tensor = self.out(states).squeeze(-1)
        return found

    def save(self, folder: Path) -> None:
        """Write ``value_head.safetensors`` into a folder."""
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, folder / FILE)

    def restore(self, folder: Path) -> None:
        """Take over the head of a folder; an error if there is none, or one of another shape."""
        if not (folder / FILE).is_file():
            raise DreamEnvsError(f"{folder} has no {FILE}: it was not written by a learner with a critic")
        try:
            self.load_state_dict(load_file(folder / FILE))
        except RuntimeError:
            raise DreamEnvsError(f"{folder / FILE} is of another shape: resume with the same critic") from None


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error, element by element, the larger of plain and clipped (arXiv 1707.06347's code).

    A value that has moved more than ``clip`` from ``old`` towards its return has no gradient left; one that has moved
    away from it keeps its own.
    """
    plain = (values - returns) ** 2
    if clip:
        plain = torch.maximum(plain, (old + (values - old).clamp(-clip, clip) - returns) ** 2)
    return 0.5 * plain
