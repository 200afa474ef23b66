"""Training that can be asked to end early without losing anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dream_envs.agents.training.trl_adapter import CheckpointCallback


class StoppingCallback(CheckpointCallback):
    """A checkpoint callback that ends training behind a checkpoint of any step for which ``stop(step)`` is true."""

    def __init__(
        self,
        save: Callable[[Path], None],
        log: Callable[[int, dict[str, float]], None],
        stop: Callable[[int], bool],
    ) -> None:
        super().__init__(save, log)
        self._stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask whether to stop here."""
        if self._stop(state.global_step):
            control.should_save = control.should_training_stop = True
