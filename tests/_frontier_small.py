"""A small suite on real weights, and changed copies of them, which the tests of the Frontier Report's job share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch

from dream_envs import registry
from dream_envs.agents.engines.models import resolve
from dream_envs.baselines.frontier import job
from dream_envs.baselines.frontier.elicited import Model
from dream_envs.frontier import suite as suites


def small() -> suites.Suite:
    """Six strata of the nano suite, two problems each in a mini report."""
    whole = suites.nano()
    names = ("d2", "d3", "d4", "d5", "pairs-d4", "d11")
    return msgspec.structs.replace(
        whole, name="small", strata=tuple(s for s in whole.strata if s.name in names), mini=3
    )


def copied(folder: Path, **files: dict[str, Any]) -> Path:
    """A model folder with the base's weights; of each JSON file named, these fields changed."""
    shutil.copytree(resolve("nano/compose"), folder)
    for name, fields in files.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))
    return folder


def report(tmp_path, trained: Model, base: Model, **more):
    options = job.Options(**{"suite": "small", "seed": "test", **more})
    return job.frontier(base, [trained], tmp_path / "out", tmp_path / "cache", options)


torch.set_num_threads(1)
registry.register("suites", "small", small)
