"""The process that measures: exact success of the weights along a run, which the trainer never sees.

``python -m dream_envs.leaderboard.measure RUN WORLD BASE`` reads weights and meter readings, and writes ``curve.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.eval_set import Exact, log_success
from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.budget import Used
from dream_envs.leaderboard.goal import LEVELS, PROBLEMS, Point
from dream_envs.runs import write_json
from dream_envs.tasks.composition import Composition


def curve_of(points: Path, world: str, base: Path) -> list[Point]:
    """Exact success of every kept set of weights in the hidden world, in order of the samples used.

    Raises:
        DreamEnvsError: for weights of another shape than the base's, or with a value that is not finite.
    """
    torch.set_num_threads(1)
    agent = LocalAgent(str(base))
    exam = Exact(Composition(world=world), agent, LEVELS, PROBLEMS, ())
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in agent.model.state_dict().items() if k != "lm_head.weight"}
    found = []
    for file in sorted(points.glob("*.safetensors")):
        used = msgspec.json.decode(file.with_suffix(".json").read_bytes(), type=Used)
        state = load_file(file)
        if {k: (tuple(v.shape), v.dtype) for k, v in state.items()} != shapes:
            raise DreamEnvsError(f"{file.name}: weights of another shape than the base's")
        if not all(bool(torch.isfinite(v).all()) for v in state.values()):
            raise DreamEnvsError(f"{file.name}: weights that are not finite")
        agent.model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
        success = {str(level): float(np.exp(log_success(agent, exam.tasks["any", level])).mean()) for level in LEVELS}
        found.append(Point(used, {level: round(value, 6) for level, value in success.items()}))
    return found


def main() -> None:
    """Measure a run's points into ``curve.json`` beside them."""
    run, world, base = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    data: Any = msgspec.to_builtins(curve_of(run / "points", world, base))
    write_json(run / "curve.json", data)


if __name__ == "__main__":
    main()
