"""The command ``dream-envs``: ``app`` has the verbs, the files beside it what they do, a group of verbs a file."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit status.  ``argv``: the words after ``dream-envs``, None: those of this process."""
    from dream_envs.cli.app import main as run

    return run(argv)
