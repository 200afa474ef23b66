"""The learners of ``baselines.sleeping``: they live through ``SleepCycle`` and sleep when its dreamers have spoken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.dreams import FamilyQuestions
from dream_envs.agents.sleep.experience import Experience, closed, context_of
from dream_envs.agents.sleep.night import Night, refuse
from dream_envs.agents.sleep.reader import Reader
from dream_envs.core import Action, Message, Request
from dream_envs.envs.sleep_cycle import SleepCycle
from dream_envs.seeds import digest, stream
from dream_envs.tasks.composition import Composition
from dream_envs.tasks.lessons import OperationLessons

if TYPE_CHECKING:
    from dream_envs.baselines.studies.sleeping import Method, Settings


class LessonQuestions(FamilyQuestions):
    """Questions of Composition World with the lessons' operations, and none that is kept for probes."""

    def __init__(self, lessons: OperationLessons) -> None:
        count = len(lessons.operations) + lessons.capacity
        super().__init__(Composition(n_operations=count, held_out_pairs=0, max_level=lessons.max_level + 1))
        self.lessons = lessons

    def question(self, text: str) -> list[Message] | None:
        """The prompt; None for a question that is kept for probes."""
        if (
            len(text) > 3
            and self.lessons.half(text[0], text[2:]) == "probe"
            and set(text[2:]) & set(self.lessons.names)
        ):
            return None
        return super().question(text)


class Sleeper:
    """An agent for every seat of ``SleepCycle``: by day it reads, at night it sleeps, in ``folder/nights/NN``.

    ``agent`` is what it has become, ``nights`` what happened.
    """

    def __init__(self, settings: Settings, method: Method, lessons: OperationLessons, folder: Path) -> None:
        if method.night is not None:
            refuse(method.night, ["waits", "reading", "alert"], "every day has its night here")
        self._method, self._folder, self._lessons = method, folder, lessons
        self._seed = f"sleeping/{settings.seed}/{settings.method}"
        self._first = LocalAgent(settings.base)
        generator = LessonQuestions(lessons)
        self._inner = SleepConsolidation(Reader(settings.base), generator, settings=method.night, seed=self._seed)

    @property
    def agent(self) -> LocalAgent:
        """The weights as they are now."""
        learner = self._inner.learner
        assert isinstance(learner, Reader)
        return learner.agent

    @property
    def nights(self) -> list[Night]:
        """The nights so far."""
        return self._inner.nights

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Answer; the dreamers' wave is the last that sees the context, and the night follows it."""
        actions = self._inner.act(requests)
        if requests and requests[0].role == "dreamer" and self._method.night is not None:
            self._sleep()
        return actions

    def _sleep(self) -> None:
        number = len(self.nights)
        if self._method.lied:
            lived = self._inner.buffer.all()
            self._inner.buffer.clear()
            self._inner.live(self._lied(lived, number))
        self._inner.sleep(self._folder / "nights" / f"{number:02d}")
        if self._method.static:
            self._project()

    def _lied(self, lived: Sequence[Experience], number: int) -> list[Experience]:
        """The day's questions with another table before them, answered by that."""
        lesson = self._lessons.lesson(stream(self._seed, "lie", number), number)
        context: Message = {"role": "system", "content": lesson.context}
        told = [[context, *closed(e.messages)] for e in lived if context_of(e.messages)]
        requests = [
            Request(messages=m, agent="learner_0", role="learner", seed=digest(self._seed, "lie", number, i))
            for i, m in enumerate(told)
        ]
        replies = self.agent.act(requests)
        return [Experience(m, a.text, "day") for m, a in zip(told, replies, strict=True)]

    @torch.no_grad()
    def _project(self) -> None:
        """Cut what all nights have changed down to one expert's rank, matrix by matrix."""
        assert self._method.night is not None
        rank = self._method.night.learning.rank or 1
        before = self._first.model.state_dict()
        for name, weight in self.agent.model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                u, s, v = torch.linalg.svd(weight - before[name], full_matrices=False)
                weight.copy_(before[name] + (u[:, :rank] * s[:rank]) @ v[:rank])


def sleeper_for(settings: Settings, method: Method, game: SleepCycle, folder: Path) -> Sleeper:
    """The learner of this method."""
    lessons = game.lessons
    assert isinstance(lessons, OperationLessons)
    return Sleeper(settings, method, lessons, folder)
