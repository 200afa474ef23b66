"""Child processes of tests, forked from a server that has imported torch and TRL already (seconds a child)."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dream_envs import registry

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["dream_envs.agents.training.trl_adapter", "dream_envs.baselines.loop"])


def child(work: Callable[..., Any], *given: Any, out: Path, where: Path | None = None, path: str = "") -> BaseProcess:
    """Start ``work(*given)``, one thread, in folder ``where`` with ``path`` first on sys.path.

    stdout and stderr are written to ``out`` and to ``out`` with ``.err`` behind its name.
    """
    process = SERVER.Process(target=_run, args=(work, given, out, where, path))
    process.start()
    return process


def ended(work: Callable[..., Any], *given: Any, out: Path, **more: Any) -> str:
    """What a child that has to succeed wrote to stdout."""
    process = child(work, *given, out=out, **more)
    process.join(600)
    assert process.exitcode == 0, Path(f"{out}.err").read_text()[-3000:]
    return out.read_text()


def _run(work: Callable[..., Any], given: Sequence[Any], out: Path, where: Path | None, path: str) -> None:
    import torch

    for name, descriptor in ((out, 1), (f"{out}.err", 2)):
        with open(name, "w") as file:
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = os.environ["NO_COLOR"] = "1"
    os.chdir(where or os.getcwd())
    if path:
        sys.path.insert(0, path)
        importlib.invalidate_caches()
        registry._plugins.clear()  # the server has looked for packages where these are not
    work(*given)
    sys.stdout.flush()
