"""Hidden worlds: operation tables that nobody has seen, and a base that was pre-trained on them.

A world is all of a label: its tables, its reserved pairs, and the weights and data of its base.  A base takes about two
minutes of one core, once; it is kept in a cache under the hash of its recipe.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from dream_envs.baselines.nano import recipe as nano
from dream_envs.runs import read_json
from dream_envs.seeds import digest

BASE = "compose"


def label_of(beacon: str, index: int) -> str:
    """The label of a round's world."""
    return f"board-{digest('board-world', beacon, index):016x}"


def recipe_of(label: str, steps: int | None = None) -> nano.Recipe:
    """How the base of this world is made: the shipped base's recipe with other tables, weights and data."""
    plain = nano.BASES[BASE]
    support = msgspec.structs.replace(plain.support, family_args={**plain.support.family_args, "world": label})
    return msgspec.structs.replace(plain, support=support, seed=label, steps=steps or plain.steps)


def base_of(label: str, cache: Path, *, steps: int | None = None, log: Callable[[str], None] = print) -> Path:
    """The folder of this world's base, made where the cache has none.

    ``steps``: of its pre-training, for trials; None: the recipe's.
    """
    recipe = recipe_of(label, steps)
    folder = cache / f"{nano.recipe_hash(recipe)}"
    if (read_json(folder / "nano.json") or {}).get("recipe_hash") == nano.recipe_hash(recipe):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:  # a folder of this name is whole
        made = nano.write(nano.pretrain(recipe, log=log), recipe, f"board/{label}", Path(place) / "base")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    return folder


def card(folder: Path) -> dict[str, str]:
    """The world's label and the hash of its base's weights."""
    found = json.loads((folder / "nano.json").read_text())
    return {"world": found["recipe"]["seed"], "weights_hash": found["weights_hash"]}
