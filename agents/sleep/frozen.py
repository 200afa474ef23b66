"""A learner that learns nothing: it reads what it is shown, and forgets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import Action, Progress, Request


class FrozenLearner:
    """A local model as a Learner whose ``improve`` leaves it as it is; wrapped, all that changes it is sleep.

    ``model``: a folder, a shipped base's name, or a ``LocalAgent``.
    """

    name = "frozen"

    def __init__(self, model: str | LocalAgent = "nano/context") -> None:
        self.agent = LocalAgent(model) if isinstance(model, str) else model

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sample replies."""
        return self.agent.act(requests)

    def improve(self, collector: Any, budget: int, run: Any) -> Progress:
        """Nothing."""
        return Progress(budget, 0)

    def save(self, path: str) -> None:
        """Write weights and tokenizer as a Hugging Face folder."""
        self.agent.save(path)

    def load(self, path: str) -> None:
        """Take over the weights of a folder."""
        self.agent = self.agent.reloaded(path)

    def adopt(self, agent: LocalAgent) -> None:
        """Act with the weights of this agent from now on."""
        self.agent = agent

    def snapshot(self) -> LocalAgent:
        """A frozen copy."""
        return self.agent.snapshot()
