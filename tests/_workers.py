"""Agents and rewards that the workers of ``test_workers.py`` find by name."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_envs.core import Action, Episode, Request, Score


class Noted:
    """Answers from the seed after a while; leaves its process's id in a folder at every call.

    Where a file ``killed`` lies there, it waits until three processes have been at work.
    """

    def __init__(self, folder: str, seconds: float = 0.0) -> None:
        self.folder, self.seconds = Path(folder), seconds

    def act(self, requests: Sequence[Request]) -> list[Action]:
        (self.folder / str(os.getpid())).touch()
        time.sleep(self.seconds)
        until = time.monotonic() + 60
        while (self.folder / "killed").exists() and time.monotonic() < until:
            if sum(path.name.isdigit() for path in self.folder.iterdir()) > 2:
                break
            time.sleep(0.05)
        return [Action(f"c:{'ABCD'[r.seed % 4]}") for r in requests]


class Deadly:
    """Ends its process when it is asked for one certain episode."""

    def __init__(self, episode: str) -> None:
        self.episode = episode

    def act(self, requests: Sequence[Request]) -> list[Action]:
        if any(r.episode == self.episode for r in requests):
            os._exit(3)
        return [Action("c:A") for _ in requests]


class Complains:
    """Warns at every call, in words that never change."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        warnings.warn("the kettle boils", stacklevel=1)
        return [Action("c:A") for _ in requests]


class Slowly:
    """Asynchronous, each game at its own pace."""

    async def act(self, requests: Sequence[Request]) -> list[Action]:
        import asyncio

        await asyncio.sleep(0.001 * (requests[0].seed % 5))
        return [Action(f"c:{'ABCD'[r.seed % 4]}") for r in requests]


class Pickled:
    """An object that says nothing of how it was made, and can be pickled."""

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def act(self, requests: Sequence[Request]) -> list[Action]:
        return [Action(f"c:{self.letters[r.seed % len(self.letters)]}") for r in requests]


class Locked(Pickled):
    """One that cannot."""

    def __init__(self) -> None:
        super().__init__("A")
        self.held: Any = (number for number in range(3))


class Together:
    """A reward of a stranger's that is given all episodes at once."""

    name = "together"

    def score(self, episodes: Sequence[Episode]) -> list[dict[str, Score]]:
        return [{} for _ in episodes]
