"""``SleepConsolidation``: a learner that sleeps.  It wraps any Learner and is one.

A night has five phases, each of which can be switched off (``SleepSettings``).  *Wake* is what came before it: the
learner acted, with contexts at hand, and what it lived through fills a buffer.  *Expand*: a low-rank expert is added;
those of earlier nights are part of the weights by then.  *Knowledge Seeding* (``agents.seeding``): the learner of the
evening, who holds the context, teaches the expanded one, who does not.  *Dreaming* (``agents.dreams``).  *Validate*: a
probe of what the learner said before it slept; if it lost more than the tolerance, the night is undone.

Source: "Language Models Need Sleep" (arXiv 2606.03979).  Departures are named in the two modules above.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import Imagination, likelihood
from dream_envs.agents.sleep.experience import Buffer, Experience, context_of
from dream_envs.agents.sleep.night import Mind, Night, SleepSettings
from dream_envs.agents.sleep.seeding import Same, exactly
from dream_envs.core import Action, AgentLike, DreamEnvsError, Learner, Progress, Request
from dream_envs.runs import read_json, write_json

NIGHT, EVENING = "night.json", "evening.json"


class SleepConsolidation:
    """A learner that consolidates at night what it lived through by day.

    Args:
        learner: any Learner whose ``save`` writes a Hugging Face folder and whose ``load`` reads one.
        imagination: how it dreams, and makes up what is measured with; for ``settings.dreaming`` and ``alert``.
        settings: when and how it sleeps.
        seed: the label of everything random at night.
        same: whether two replies mean the same, for the semantic reward; by default the same text.

    Raises:
        DreamEnvsError: for dreaming or an alert without an imagination.
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
        if imagination is None and (self.settings.dreaming is not None or self.settings.alert is not None):
            raise DreamEnvsError(
                "dreaming and alert need an imagination: FamilyImagination(family), "
                "or SleepSettings(dreaming=None, alert=None)"
            )
        self.learner, self.imagination, self.seed, self.same = learner, imagination, seed, same
        self.buffer = Buffer(self.settings.capacity)
        self.nights: list[Night] = []
        #: Prompt tokens with a context since the last night.
        self.read = 0
        #: What was said in the morning, and its mean log-likelihood per token then; only with ``settings.alert``.
        self.morning: tuple[list[Experience], float] | None = None
        #: The folder of the weights with which this block of days began; only with ``settings.block``.
        self.slow: Path | None = None

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Act as the learner does; what was answered with a context at hand is lived through."""
        found: Any = self.learner.act(requests)
        actions: list[Action] = list(found)
        read = [(r, a) for r, a in zip(requests, actions, strict=True) if a.status == "ok" and context_of(r.messages)]
        self.read += sum(a.usage.prompt_tokens for _, a in read)
        self.live(Experience(list(r.messages), a.text, "day") for r, a in read if r.role != "dreamer")
        return actions

    def due(self) -> str | None:
        """Why it is time to sleep; None: it is not.  With ``settings.alert`` it asks the weights.

        ``buffer``: some kind is full.  ``context``: enough was read.  ``retention``: of what it said in the morning it
        has lost too much awake.
        """
        if self.buffer.full:
            return "buffer"
        if self.settings.reading is not None and self.read >= self.settings.reading:
            return "context"
        if self.morning is not None and self.settings.alert is not None:
            said, then = self.morning
            if not likelihood(self._weights(), said) >= then - self.settings.alert:  # nan is a loss
                return "retention"
        return None

    def rise(self) -> None:
        """Begin a day: with ``settings.alert`` keep what is said now, for ``due`` to measure retention by.

        A night ends with it and ``improve`` begins with it; call it where the learner learns in other ways.
        """
        if self.settings.alert is None:
            return
        agent = self._weights()
        said = self._mind(agent, "morning").retained()
        self.morning = (said, likelihood(agent, said)) if said else None

    def _weights(self) -> LocalAgent:
        with tempfile.TemporaryDirectory() as folder:
            self.learner.save(folder)
            return LocalAgent(folder)

    def _mind(self, teacher: LocalAgent, label: str) -> Mind:
        return Mind(teacher, self.imagination, self.settings, f"{self.seed}/{label}/{len(self.nights)}", self.same)

    def live(self, experiences: Any) -> None:
        """Keep experiences for the night."""
        self.buffer.add(experiences)

    def snapshot(self) -> Any:
        """A frozen copy that acts as this learner does now."""
        return self.learner.snapshot()

    def save(self, path: str) -> None:
        """The learner's folder, and the buffer and the nights beside it."""
        self.learner.save(path)
        write_json(Path(path) / EVENING, self._state(Path(path)))

    def load(self, path: str) -> None:
        """Continue from a saved state; from a plain folder with an empty buffer."""
        self.learner.load(path)
        state = read_json(Path(path) / EVENING) or {"buffer": [], "nights": [], "read": 0}
        self.buffer.restore(state["buffer"])
        self.nights, self.read = msgspec.convert(state["nights"], list[Night]), state["read"]
        self.morning = msgspec.convert(state.get("morning"), tuple[list[Experience], float] | None)
        self.slow = Path(os.path.normpath(Path(path) / slow)) if (slow := state.get("slow")) else None

    def _state(self, place: Path) -> dict[str, Any]:
        found = {"buffer": self.buffer.state(), "nights": msgspec.to_builtins(self.nights), "read": self.read}
        if self.morning is not None:
            found["morning"] = msgspec.to_builtins(self.morning)
        if self.slow is not None:  # relative, so that a run's folder can be moved
            found["slow"] = os.path.relpath(self.slow, place)
        return found

    def sleep(self, folder: Path, morning: str | Path | None = None) -> Night:
        """One night.  In a folder that holds a finished one, its result is taken over; in one that a kill left, it is
        begun again from the evening and ends in the same weights.

        Args:
            folder: of this night: ``evening/`` (where it starts), ``dawn/`` (where it ends), ``night.json`` (last).
            morning: the folder of the day's first weights, for ``block``; None: the evening's.

        Raises:
            DreamEnvsError: if nothing was lived through.
        """
        evening, dawn = folder / "evening", folder / "dawn"
        if not (evening / EVENING).is_file():
            if not len(self.buffer):
                raise DreamEnvsError("nothing was lived through: act with contexts, or live(...), before sleep")
            evening.mkdir(parents=True, exist_ok=True)
            if self.settings.block and self.slow is None:
                self.slow = Path(morning) if morning is not None else evening
            self.save(str(evening))
        self.load(str(evening))
        done = read_json(folder / NIGHT)
        if done is None:
            teacher, slow = LocalAgent(str(evening)), self._slow_tonight()
            begins = LocalAgent(str(self.slow)) if slow else teacher
            agent, night = self._mind(teacher, "night").night(begins, self.buffer.all(), len(self.nights))
            night = msgspec.structs.replace(night, slow=slow)
            agent.model.save_pretrained(str(dawn))
            agent.tokenizer.save_pretrained(str(dawn))
            write_json(folder / NIGHT, msgspec.to_builtins(night))
            done = read_json(folder / NIGHT)
        night = msgspec.convert(done, Night)
        self.learner.load(str(evening if night.undone else dawn))
        self.nights.append(night)
        self.read = 0
        if night.slow and not night.undone:
            self.slow = None
        if self.forgets(night):
            self.buffer.clear()
        self.rise()
        return night

    def forgets(self, night: Night) -> bool:
        """Whether what was lived through is gone behind this night; a block is kept until its slow night."""
        fast = self.settings.block > 1 and not night.slow
        return self.settings.forget and not night.undone and not fast

    def _slow_tonight(self) -> bool:
        """Whether the block is as long as it is to be; one whose slow night was undone goes on to the next."""
        since = 0
        for night in reversed(self.nights):
            if night.slow and not night.undone:
                break
            since += 1
        return 0 < self.settings.block <= since + 1

    def improve(self, env: Any, seats: Mapping[str, AgentLike], budget: int, run: Any) -> Progress:
        """Days of ``every`` wake steps until ``budget`` steps are done, each (or, with ``waits``, if due) with a night.

        Goes on in the run's folder where it stopped: ``days/NN`` holds a day's checkpoints, ``nights/NN`` a night.

        Args:
            env: what the learner practises in; ``memory`` (a ``Buffer``), if it has one, is what was lived through.
            seats: agents for other seats.
            budget: wake steps in all.
            run: its folder.
        """
        from dream_envs.agents.sleep.days import days

        return days(self, env, seats, budget, run)
