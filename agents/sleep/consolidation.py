"""``SleepConsolidation``: a learner that sleeps.  It wraps any Learner and is one.

A night has five phases, each of which can be switched off (``SleepSettings``).  *Wake* is what came before it: the
learner acted, with contexts at hand, and its experience fills a buffer.  *Expand*: a low-rank expert is added; those of
earlier nights are part of the weights by then.  *Knowledge Seeding* (``agents.sleep.seeding``): the learner before
consolidation, who holds the context, teaches the expanded one, who does not.  *Dreaming* (``agents.sleep.dreams``).
*Validate*: a probe of what the learner said before it slept; if it lost more than the tolerance, the night is undone.

``improve`` is the one scheduler: days of ``every`` steps of the wrapped learner, each followed by a night or, with
``waits``, by one only when ``due`` says so.  In the run's folder ``days/NN`` holds a day's checkpoints and its last
weights, ``nights/NN`` the weights after the night; each is saved once and loaded only after a kill.

Source: "Language Models Need Sleep" (arXiv 2606.03979).  Departures are named in the two modules above.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import QuestionGenerator, likelihood
from dream_envs.agents.sleep.experience import Buffer, Experience, context_of
from dream_envs.agents.sleep.night import Night, NightRunner, SleepSettings
from dream_envs.agents.sleep.pieces import Pieces
from dream_envs.agents.sleep.seeding import Same, exactly
from dream_envs.agents.training.learner import newest_checkpoint
from dream_envs.core import Action, DreamEnvsError, Learner, Progress, Request
from dream_envs.runs import seal, unseal

STATE, NIGHT = "sleep.json", "night.json"


#: What of that which was said with a context at hand is kept for the night.
Keep = Callable[[Sequence[tuple[Request, Action]]], Iterable[Experience]]


def answered(read: Sequence[tuple[Request, Action]]) -> list[Experience]:
    """All that was said in an assistant's turn, but by dreamers."""
    told = [(r, a) for r, a in read if r.role != "dreamer" and r.writes == "assistant"]
    return [Experience(list(r.messages), a.text, "day") for r, a in told]


class Day(msgspec.Struct, frozen=True):
    """A day's folder, as a wrapped learner's run: where its checkpoints go, and TRL's trackers."""

    path: Path
    report_to: tuple[str, ...] = ()


class SleepConsolidation:
    """A learner that consolidates at night what it experienced while awake.

    ``learner``: any Learner whose ``save`` writes a Hugging Face folder and whose ``load`` reads one.  ``generator``:
    how it dreams, and makes up what is measured with; ``settings.dreaming`` and ``alert`` need one.  ``seed``: the
    label of everything random at night.  ``same``: whether two completions mean the same, for the semantic reward; by
    default the same text.  ``curve``: measures the weights before and after each night, for the record alone.
    ``keep``: which experiences of a step it keeps, by default ``answered``.
    """

    name = "sleep"

    def __init__(
        self,
        learner: Learner, generator: QuestionGenerator | None = None, *, settings: SleepSettings | None = None,
        seed: str = "0", same: Same = exactly, curve: Callable[[LocalAgent], dict[str, float]] | None = None,
        keep: Keep | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings or SleepSettings()
        if generator is None and (self.settings.dreaming is not None or self.settings.alert is not None):
            other = "FamilyQuestions(family), or SleepSettings(dreaming=None, alert=None)"
            raise DreamEnvsError(f"dreaming and alert need a question generator: {other}")
        self.learner, self.generator, self.seed, self.same, self.curve = learner, generator, seed, same, curve
        self.keep = keep or answered
        self.buffer = Buffer(self.settings.capacity)
        self._pieces: Pieces | None = None
        self.nights: list[Night] = []
        #: Prompt tokens since the last night: of the collector's rounds, and of what was asked here with a context.
        self.read = 0
        #: What was said after the last night, and its mean log-likelihood per token then; only with ``settings.alert``.
        self.rested: tuple[list[Experience], float] | None = None
        #: The folder of the weights with which this block of days began ("": the run's base); only with ``block``.
        self.slow: Path | None = None

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Act as the learner does; what was answered with a context at hand is kept for the night."""
        requests = self.fitted(requests)
        found: Any = self.learner.act(requests)
        actions: list[Action] = list(found)
        read = [(r, a) for r, a in zip(requests, actions, strict=True) if a.status == "ok" and context_of(r.messages)]
        self.read += sum(a.usage.prompt_tokens for _, a in read)
        self.live(self.keep(read))
        return actions

    def fitted(self, requests: Sequence[Request]) -> Sequence[Request]:
        """The requests as they are read: with ``settings.piece`` no context is longer than that."""
        if self.settings.piece is None:
            return requests
        if self._pieces is None:
            self._pieces = Pieces(self._weights().tokenizer, self.settings.piece)
        return [self._pieces.fitted(request) for request in requests]

    def due(self) -> str | None:
        """Why it is time to sleep; None: it is not.  With ``settings.alert`` it asks the weights.

        ``buffer``: some kind is full.  ``context``: enough was read.  ``retention``: of what it said after the last
        night it has lost too much awake.
        """
        if self.buffer.full:
            return "buffer"
        if self.settings.reading is not None and self.read >= self.settings.reading:
            return "context"
        if self.rested is not None and self.settings.alert is not None:
            said, then = self.rested
            if not likelihood(self._weights(), said) >= then - self.settings.alert:  # nan is a loss
                return "retention"
        return None

    def rest(self) -> None:
        """Begin a day: with ``settings.alert`` keep what is said now, for ``due`` to measure retention by.

        A night ends with it and ``improve`` begins with it; call it where the learner learns in other ways.
        """
        if self.settings.alert is None:
            return
        agent = self._weights()
        said = self._runner(agent, "morning").retained()
        self.rested = (said, likelihood(agent, said)) if said else None

    def _weights(self) -> LocalAgent:
        """The learner's weights as a frozen agent: its snapshot, or what it saves."""
        agent = self.learner.snapshot()
        if hasattr(agent, "completion_logits"):
            return agent  # type: ignore[return-value]
        with tempfile.TemporaryDirectory() as folder:
            self.learner.save(folder)
            return LocalAgent(folder)

    def _runner(self, teacher: LocalAgent, label: str) -> NightRunner:
        return NightRunner(teacher, self.generator, self.settings, f"{self.seed}/{label}/{len(self.nights)}", self.same)

    def live(self, experiences: Iterable[Experience]) -> None:
        """Keep experiences for the night."""
        self.buffer.add(experiences)

    def snapshot(self) -> Any:
        """A frozen copy that acts as this learner does now."""
        return self.learner.snapshot()

    def save(self, path: str) -> None:
        """The learner's folder, and the buffer and the nights beside it."""
        self.learner.save(path)
        seal(Path(path) / STATE, self.state(Path(path)))

    def load(self, path: str) -> None:
        """Continue from a saved state; from a plain folder with an empty buffer."""
        self.learner.load(path)
        self.restore(unseal(Path(path) / STATE) or {"buffer": [], "nights": [], "read": 0}, Path(path))

    def state(self, place: Path | None = None) -> dict[str, Any]:
        """Everything but the weights, JSON-ready; folders are relative to ``place``, so that a run can be moved."""
        found = {"buffer": self.buffer.state(), "nights": msgspec.to_builtins(self.nights), "read": self.read}
        if self.rested is not None:
            found["rested"] = msgspec.to_builtins(self.rested)
        if self.slow is not None:
            found["slow"] = os.path.relpath(self.slow, place) if place is not None else str(self.slow)
        return found

    def restore(self, state: dict[str, Any], place: Path | None = None) -> None:
        """Go on from this state."""
        self.buffer.restore(state["buffer"])
        self.nights, self.read = msgspec.convert(state["nights"], list[Night]), state["read"]
        self.rested = msgspec.convert(state.get("rested"), tuple[list[Experience], float] | None)
        slow = state.get("slow")
        self.slow = Path(os.path.normpath((place or Path()) / slow)) if slow else None

    def sleep(self, folder: Path, began: Path | None = None) -> Night:
        """One night: from the weights as they are now to those in ``folder``, with ``night.json`` as the last file.

        A folder that holds a finished night is taken over; one that a kill left is begun again.  ``began``: the folder
        of the weights with which the day began, for ``block``; None: those of now.  No experience is an error.
        """
        done = unseal(folder / NIGHT)
        if done is not None:
            self._take(folder, done)
            return self.nights[-1]
        if not len(self.buffer):
            raise DreamEnvsError("there is no experience: act with contexts, or live(...), before sleep")
        teacher, slow = self._weights(), self._slow_tonight()
        if self.settings.block and self.slow is None:
            self.slow = began if began is not None else folder / "before"
            if began is None:
                self.learner.save(str(self.slow))
        begins = teacher.reloaded(self.slow) if slow and self.slow is not None else teacher
        student, night = self._runner(teacher, "night").night(begins, self.buffer.all(), len(self.nights))
        told: dict[str, Any] = {"slow": slow}
        if self.curve is not None:
            told |= {"curve_before": self.curve(teacher), "curve_after": self.curve(student)}
        night = msgspec.structs.replace(night, **told)
        if not night.undone:
            self._adopt(student, folder)
        self.nights.append(night)
        self.read = 0
        if night.slow and not night.undone:
            self.slow = None
        if self.forgets(night):
            self.buffer.clear()
        self.rest()
        self.learner.save(str(folder))  # a critic's head as well
        seal(folder / NIGHT, self.state(folder))
        return night

    def _adopt(self, student: LocalAgent, folder: Path) -> None:
        """Hand the weights to the learner: as an object where it takes one, else by a folder."""
        if hasattr(self.learner, "adopt"):
            self.learner.adopt(student)
            return
        student.save(folder)
        self.learner.load(str(folder))

    def _take(self, folder: Path, state: dict[str, Any]) -> None:
        self.learner.load(str(folder))
        self.restore(state, folder)

    def forgets(self, night: Night) -> bool:
        """Whether the buffer is emptied after this night; a block is kept until its slow night."""
        fast = self.settings.block > 1 and not night.slow
        return self.settings.forget and not night.undone and not fast

    def _slow_tonight(self) -> bool:
        """Whether the block is as long as it is to be; one whose slow night was undone goes on to the next."""
        ends = [i for i, night in enumerate(self.nights, 1) if night.slow and not night.undone]
        return 0 < self.settings.block <= len(self.nights) - max(ends, default=0) + 1

    def improve(self, collector: Any, budget: int, run: Any) -> Progress:
        """Days of ``every`` steps until ``budget`` are done, each (or, with ``waits``, if due) with a night.

        Goes on in the run's folder where it stopped.  The collector's ``memory`` (a ``Buffer``), if it has one, is the
        experience.
        """
        if budget < 1:
            raise DreamEnvsError(f"budget={budget}: 1 step or more")
        root, every = Path(run.path), self.settings.every
        days = range(-(-budget // every))
        done = [day for day in days if (root / "days" / f"{day:02d}" / STATE).is_file()]
        if not done and self.rested is None:
            self.rest()
        progress = Progress(0, 0)
        if self.settings.block and not done and not (root / "base").is_dir():  # the first block begins with the base
            self.learner.save(str(root / "base"))
        for day in days[done[-1] if done else 0 :]:
            awake, night = root / "days" / f"{day:02d}", root / "nights" / f"{day:02d}"
            steps = min(every, budget - day * every)
            if (awake / STATE).is_file():  # the newest day is over: its state, and that of its night, are read
                progress = self._recall(collector, awake, night, root / "days" / f"{day + 1:02d}")
            else:
                if hasattr(collector, "offset"):
                    collector.offset = day * every
                progress = self._awake(collector, steps, awake, Day(awake, getattr(run, "report_to", ())))
                if progress.steps < steps:  # stopped: the day goes on from its checkpoint
                    return msgspec.structs.replace(progress, steps=day * every + progress.steps)
            if not (night / NIGHT).is_file():
                if not len(self.buffer) or (self.settings.waits and self.due() is None):
                    continue
                self.sleep(night, self._began(root, day))
                self._told(collector)
        return msgspec.structs.replace(progress, steps=budget)

    def _began(self, root: Path, day: int) -> Path:
        """The folder of the weights after the newest night before this day, or of the base."""
        nights = [n for n in range(day) if (root / "nights" / f"{n:02d}" / NIGHT).is_file()]
        return root / "nights" / f"{nights[-1]:02d}" if nights else root / "base"

    def _awake(self, collector: Any, steps: int, folder: Path, run: Day) -> Progress:
        progress = self.learner.improve(collector, steps, run)
        if progress.steps < steps:
            return progress
        memory = getattr(collector, "memory", None)
        if memory is not None:
            self.live(memory.all())
        self.read = getattr(collector, "read", self.read)
        self.learner.save(str(folder))
        state = {**self.state(folder), "progress": msgspec.to_builtins(progress)}
        for name, part in (("collector", collector), ("learner", self.learner)):
            if hasattr(part, "state"):
                state[name] = part.state()
        seal(folder / STATE, state)
        return progress

    def _told(self, collector: Any) -> None:
        """The newest night in the collector: it is logged, and what was consolidated is forgotten."""
        if self.forgets(self.nights[-1]) and getattr(collector, "memory", None) is not None:
            collector.memory.clear()
        if hasattr(collector, "read"):
            collector.read = 0
        if hasattr(collector, "night"):
            collector.night(self.nights[-1])

    def _recall(self, collector: Any, awake: Path, night: Path, following: Path) -> Progress:
        """Weights, buffer and curriculum as they were after the day and, if there was one, its night.

        The collector goes on from a checkpoint of the ``following`` day: the run's files are not cut back before it.
        """
        state, done = unseal(awake / STATE), unseal(night / NIGHT)
        self._take(*((awake, state) if done is None else (night, done)))
        if newest_checkpoint(following / "checkpoints", remove=False) is None:
            if hasattr(collector, "restore"):
                collector.restore(state["collector"])
            if hasattr(self.learner, "restore") and "learner" in state:
                self.learner.restore(state["learner"])
            if done is not None:
                self._told(collector)
        return msgspec.convert(state["progress"], Progress)
