"""The families of the registry that have the two notations, in both: what the batteries go through.

``reasoning_gym`` has its package's own notation, and a file of its own: ``test_reasoning_gym.py``.
"""

from __future__ import annotations

import inspect

from dream_envs import registry, sandbox


def _has_notations(name: str) -> bool:
    return "notation" in inspect.signature(registry.load("tasks", name)).parameters and (
        name != "python" or sandbox.available() is None  # test_python.py says so
    )


NAMES = [name for name in registry.rows("tasks") if _has_notations(name)]
CASES = [(name, notation) for name in NAMES for notation in ("compact", "english")]
