"""``torchrun --nproc_per_node 2 gloo_practice.py OUT STEPS [LEARNER]``, run by ``test_distributed.py``.

Every rank leaves its weights (a critic's head among them), store and history in OUT.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import msgspec
import torch
from _tiny import close, collector, everything, learner
from safetensors.torch import save_file

from dream_envs.agents.training.collector import processes


def main() -> None:
    """Improve, then write what this rank ended with."""
    out, steps = Path(sys.argv[1]), int(sys.argv[2])
    world = processes()
    rank, mine = world.get("rank", 0), list[list[int]]()
    env = collector(out / "run", **world)
    play = env.round

    def watched(round: int, policy: Any) -> Any:
        episodes = play(round, policy)
        mine.append([e.index for e in episodes])
        return episodes

    env.round = watched  # type: ignore[method-assign]
    made = learner(sys.argv[3] if len(sys.argv) > 3 else "grpo")
    made.improve(env, steps, env.run)
    save_file(everything(made), out / f"weights-{rank}.safetensors")
    told = {
        "mine": mine, "store": env.curriculum.store.state() | {"position": 0}, "samples": env.samples,
        "history": msgspec.to_builtins(env.history), "world": world.get("world", 1),
    }  # fmt: skip
    (out / f"rank-{rank}.json").write_text(json.dumps(told))
    close(env)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
