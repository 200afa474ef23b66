"""The other process of the check ``process_determinism``: reads a target from stdin, prints a digest an episode."""

from __future__ import annotations

import pickle
import sys


def main() -> None:
    """Resolve the target and play the same episodes."""
    path, target = pickle.load(sys.stdin.buffer)  # written by our own parent process a moment ago
    sys.path[:] = path
    from dream_envs.testing.basics import fingerprints
    from dream_envs.testing.subject import resolve

    print("\n".join(fingerprints(resolve(*target))))
