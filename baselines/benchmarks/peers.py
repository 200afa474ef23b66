"""Other suites' number guessing, timed in an interpreter of their own: run by ``games``, not imported by it.

Reads lines ``WHAT EPISODES SEEDED`` (``gem 1000 1``) and answers each with one line of JSON: ``{"seconds": ...}`` or
``{"error": ...}``.  Nothing of ours is imported here.  An episode is two moves, a wrong number and then the right one.
"""

import importlib.metadata
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

LOW, HIGH = 1, 20


def gem(episodes: int, seeded: bool) -> float:
    """``game:GuessTheNumber-v0-easy`` of gem-llm, with numbers from 1 to 20."""
    import gem as suite

    logging.getLogger().setLevel(logging.WARNING)
    env = suite.make("game:GuessTheNumber-v0-easy", min_number=LOW, max_number=HIGH, max_turns=10)
    words = [f"\\boxed{{{number}}}" for number in range(HIGH + 1)]
    began = time.perf_counter()
    for episode in range(episodes):
        env.reset(episode if seeded else None)
        number = env.game_number
        env.step(words[LOW if number != LOW else HIGH])
        _, reward, terminated, _, _ = env.step(words[number])
        assert terminated and reward == 1
    return time.perf_counter() - began


def textarena_raw(episodes: int, seeded: bool) -> float:
    """``GuessTheNumber-v0-raw`` of TextArena: the game alone."""
    return _textarena("GuessTheNumber-v0-raw", episodes, seeded)


def textarena(episodes: int, seeded: bool) -> float:
    """``GuessTheNumber-v0`` of TextArena with its default wrappers, which write the observation as text."""
    return _textarena("GuessTheNumber-v0", episodes, seeded)


def _textarena(name: str, episodes: int, seeded: bool) -> float:
    import textarena as suite

    env: Any = suite.make(name, min_number=LOW, max_number=HIGH, max_turns=10)
    # LLMObservationWrapper keeps the observations of earlier episodes over reset(); forgetting them here is cheaper
    # than making the environment anew for each episode, so it is in the peer's favour.
    memory: dict[int, Any] = getattr(getattr(env, "env", None), "full_observations", {})
    words = [f"[{number}]" for number in range(HIGH + 1)]
    began = time.perf_counter()
    for episode in range(episodes):
        memory.clear()
        env.reset(num_players=1, seed=episode if seeded else None)
        number = env.game_number
        env.get_observation()
        env.step(words[LOW if number != LOW else HIGH])
        env.get_observation()
        done, _ = env.step(words[number])
        rewards, _ = env.close()
        assert done and rewards[0] == 1
    return time.perf_counter() - began


WORKS: dict[str, Callable[[int, bool], float]] = {"gem": gem, "textarena_raw": textarena_raw, "textarena": textarena}
PACKAGES = {"gem": "gem-llm", "textarena_raw": "textarena", "textarena": "textarena"}


def answer(line: str) -> dict[str, Any]:
    """What one line asks for: ``seconds``, or ``error``."""
    try:
        what, episodes, seeded = line.split()
        version = importlib.metadata.version(PACKAGES[what])
        return {"version": version, "seconds": WORKS[what](int(episodes), bool(int(seeded)))}
    except Exception as error:  # any failure of a peer is a line in the table
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # what a peer prints goes to the error output
    for asked in sys.stdin:
        print(json.dumps(answer(asked)), file=out, flush=True)
