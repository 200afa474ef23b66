"""A reader's day and nights small enough for a test: one new table of ``nano/context``, a handful of questions."""

from __future__ import annotations

import functools
import random
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import DreamSettings, FamilyQuestions
from dream_envs.agents.sleep.experience import Experience
from dream_envs.agents.sleep.night import SleepSettings
from dream_envs.agents.sleep.seeding import SeedingSettings
from dream_envs.core import Message
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

STATES = Composition().states
LEARNING = SeedingSettings(steps=3, batch=8, warmup=0, max_tokens=12)
DREAMS = DreamSettings(
    dreams=3, memory=1, fiction=1, size=6, probe=6, top=1, random=0, inner_steps=1, inner_rank=2, draft=1
)
SMALL = SleepSettings(every=2, learning=LEARNING, dreaming=DREAMS, experience=16, tolerance=None)


@functools.cache
def reader() -> LocalAgent:
    """``nano/context`` on one thread; nobody trains it in place."""
    torch.set_num_threads(1)
    return LocalAgent("nano/context")


def generator() -> FamilyQuestions:
    """Questions about the eight known operations and the eight unknown ones."""
    return FamilyQuestions(Composition(n_operations=16, held_out_pairs=0))


def table(label: str = "0") -> dict[str, str]:
    """A permutation that nobody knows beforehand."""
    images = stream("test-table", label).permutation(len(STATES))
    return {state: STATES[i] for state, i in zip(STATES, images.tolist(), strict=True)}


def day(label: str = "0", name: str = "I") -> list[Experience]:
    """The sixteen facts of an operation, each asked with its table at hand."""
    facts = table(label)
    context = f"{name}=" + "".join(f"{a}>{b}" for a, b in facts.items())
    asked: list[list[Message]] = [
        [{"role": "system", "content": context}, {"role": "user", "content": f"{a}:{name}"}] for a in facts
    ]
    return [Experience(m, name + b, "day") for m, b in zip(asked, facts.values(), strict=True)]


def with_(settings: Any, **more: Any) -> Any:
    """The same settings but for these."""
    return msgspec.structs.replace(settings, **more)


def bits(agent: Any) -> dict[str, torch.Tensor]:
    """A copy of an agent's weights."""
    return {name: value.detach().clone() for name, value in agent.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def generators() -> tuple[Any, ...]:
    """The state of the three global generators, comparable."""
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2:], torch.random.get_rng_state().numpy().tobytes()  # type: ignore[union-attr]
