"""``SleepConsolidation``: a learner that sleeps.  It wraps any Learner and is one.

A night has five phases, each of which can be switched off (``SleepSettings``).  *Wake* is what came before it: the
learner acted, with contexts at hand, and what it lived through fills a buffer.  *Expand*: a low-rank expert is added;
those of earlier nights are part of the weights by then.  *Knowledge Seeding* (``agents.seeding``): the learner of the
evening, who holds the context, teaches the expanded one, who does not.  *Dreaming* (``agents.dreams``).  *Validate*: a
probe of what the learner said before it slept; if it lost more than the tolerance, the night is undone.

Source: "Language Models Need Sleep" (arXiv 2606.03979).  Departures are named in the two modules above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.agents.dreams import Imagination
from dream_envs.agents.experience import Buffer, Experience, context_of
from dream_envs.agents.local import LocalAgent
from dream_envs.agents.night import Mind, Night, SleepSettings
from dream_envs.agents.seeding import Same, exactly
from dream_envs.core import Action, AgentLike, DreamEnvsError, Learner, Progress, Request
from dream_envs.runs import read_json, write_json

NIGHT, EVENING = "night.json", "evening.json"


class SleepConsolidation:
    """A learner that consolidates at night what it lived through by day.

    Args:
        learner: any Learner whose ``save`` writes a Hugging Face folder and whose ``load`` reads one.
        imagination: how it dreams; only with ``settings.dreaming``.
        settings: when and how it sleeps.
        seed: the label of everything random at night.
        same: whether two replies mean the same, for the semantic reward; by default the same text.

    Raises:
        DreamEnvsError: for dreaming without an imagination.
    """

    name = "sleep"

    def __init__(
        self,
        learner: Learner,
        imagination: Imagination | None = None,
        *,
        settings: SleepSettings | None = None,
        seed: str = "0",
        same: Same = exactly,
    ) -> None:
        self.settings = settings or SleepSettings()
        if self.settings.dreaming is not None and imagination is None:
            raise DreamEnvsError(
                "dreaming needs an imagination: FamilyImagination(family), or SleepSettings(dreaming=None)"
            )
        self.learner, self.imagination, self.seed, self.same = learner, imagination, seed, same
        self.buffer = Buffer(self.settings.capacity)
        self.nights: list[Night] = []
        #: Prompt tokens with a context since the last night.
        self.read = 0

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Act as the learner does; what was answered with a context at hand is lived through."""
        found: Any = self.learner.act(requests)
        actions: list[Action] = list(found)
        read = [(r, a) for r, a in zip(requests, actions, strict=True) if a.status == "ok" and context_of(r.messages)]
        self.read += sum(a.usage.prompt_tokens for _, a in read)
        self.live(Experience(list(r.messages), a.text, "day") for r, a in read if r.role != "dreamer")
        return actions

    def due(self) -> str | None:
        """Why it is time to sleep: ``buffer`` (some kind is full), ``context`` (enough was read); None: it is not."""
        if self.buffer.full:
            return "buffer"
        if self.settings.reading is not None and self.read >= self.settings.reading:
            return "context"
        return None

    def live(self, experiences: Any) -> None:
        """Keep experiences for the night."""
        self.buffer.add(experiences)

    def snapshot(self) -> Any:
        """A frozen copy that acts as this learner does now."""
        return self.learner.snapshot()

    def save(self, path: str) -> None:
        """The learner's folder, and the buffer and the nights beside it."""
        self.learner.save(path)
        write_json(Path(path) / EVENING, self._state())

    def load(self, path: str) -> None:
        """Continue from a saved state; from a plain folder with an empty buffer."""
        self.learner.load(path)
        state = read_json(Path(path) / EVENING) or {"buffer": [], "nights": [], "read": 0}
        self.buffer.restore(state["buffer"])
        self.nights, self.read = msgspec.convert(state["nights"], list[Night]), state["read"]

    def _state(self) -> dict[str, Any]:
        return {"buffer": self.buffer.state(), "nights": msgspec.to_builtins(self.nights), "read": self.read}

    def sleep(self, folder: Path, morning: str | Path | None = None) -> Night:
        """One night.  In a folder that holds a finished one, its result is taken over; in one that a kill left, it is
        begun again from the evening and ends in the same weights.

        Args:
            folder: of this night: ``evening/`` (where it starts), ``dawn/`` (where it ends), ``night.json`` (last).
            morning: the day's first weights, for ``overwrite``; None is the evening's.

        Raises:
            DreamEnvsError: if nothing was lived through.
        """
        evening, dawn = folder / "evening", folder / "dawn"
        if not (evening / EVENING).is_file():
            if not len(self.buffer):
                raise DreamEnvsError("nothing was lived through: act with contexts, or live(...), before sleep")
            evening.mkdir(parents=True, exist_ok=True)
            self.save(str(evening))
        self.load(str(evening))
        done = read_json(folder / NIGHT)
        if done is None:
            teacher = LocalAgent(str(evening))
            begins = LocalAgent(str(morning)) if self.settings.overwrite and morning is not None else teacher
            mind = Mind(teacher, self.imagination, self.settings, f"{self.seed}/night/{len(self.nights)}", self.same)
            agent, night = mind.night(begins, self.buffer.all(), len(self.nights))
            agent.model.save_pretrained(str(dawn))
            agent.tokenizer.save_pretrained(str(dawn))
            write_json(folder / NIGHT, msgspec.to_builtins(night))
            done = read_json(folder / NIGHT)
        night = msgspec.convert(done, Night)
        self.learner.load(str(evening if night.undone else dawn))
        self.nights.append(night)
        self.read = 0
        if self.settings.forget and not night.undone:
            self.buffer.clear()
        return night

    def improve(self, env: Any, seats: Mapping[str, AgentLike], budget: int, run: Any) -> Progress:
        """Days of ``every`` wake steps, each with a night behind it, until ``budget`` steps are done.

        Goes on in the run's folder where it stopped: ``days/NN`` holds a day's checkpoints, ``nights/NN`` a night.

        Args:
            env: what the learner practises in; ``memory`` (a ``Buffer``), if it has one, is what was lived through.
            seats: agents for other seats.
            budget: wake steps in all.
            run: its folder.
        """
        from dream_envs.agents.days import days

        return days(self, env, seats, budget, run)
