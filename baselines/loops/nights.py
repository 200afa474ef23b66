"""Ways through the night: what is read by day is asked for when it is gone (``dream_envs/SleepCycle-v0``).

``nano/context`` reads the table of a new operation a day and is asked about it, and about all earlier ones, without the
table.  Nothing tells it whether it was right, so that what a run ends in is a retention matrix.  Several seeds side by
side, with intervals: ``python -m dream_envs.baselines.studies nights``.

Departures from the papers:
    ``sleep`` ("Language Models Need Sleep", 2606.03979): see docs/sleep.md.  ``seal`` (2506.10943): self-edits are
    questions with answers instead of implications in prose; gradients and a random draw choose those that are tried;
    good ones are learnt together with the day in the same night, and proposing them is not.  ``l2`` stands where
    elastic weight consolidation would: an expert's weight decay pulls to the weights before the night, all alike,
    without a Fisher matrix.  ``replay_sft`` rehearses the day alone, ``static_expert`` is sleep whose nights share one
    expert's rank, ``placebo`` sleep whose teacher was shown another table, ``in_context`` never sleeps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs import registry
from dream_envs.baselines.recipe import EvalSettings, Loop, Recipe
from dream_envs.core import Action, Message, Progress, Request
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.seeds import digest, stream

if TYPE_CHECKING:
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.agents.sleep.consolidation import Keep
    from dream_envs.baselines.loop import Context

ENV = "dream_envs/SleepCycle-v0"


class Method(msgspec.Struct, frozen=True):
    """One way through the night.

    ``changes``: settings of the night by dotted name, over ``night_of``'s; None does not sleep.  ``placebo``: the
    teacher is shown another table than the learner read.  ``static``: all nights together may change each matrix by
    the rank of one expert.
    """

    says: str
    changes: dict[str, Any] | None = {}
    placebo: bool = False
    static: bool = False


_SFT = {"seeding": False, "dreaming": None}
_ALL = {**_SFT, "forget": False, "experience": 1024}
_GENTLY = {**_SFT, "learning.lr": 1e-3}
_EDITS = {"dreams": 6, "memory": 0, "fiction": 0, "top": 3, "random": 1, "size": 48, "fictional": 0.33}
_SEAL = {"seeding": False, **{f"dreaming.{k}": v for k, v in _EDITS.items()}}
METHODS: dict[str, Method] = {
    "sleep": Method("seeding and dreaming"),
    "no_dreaming": Method("seeding of the day alone", {"dreaming": None}),
    "no_seeding": Method("fine-tuning on the day and on good dreams", {"seeding": False}),
    "in_context": Method("no night: what is not before the eyes is gone", None),
    "replay_sft": Method("fine-tuning on the day's completions", _SFT),
    "replay_gently": Method("replay_sft at a quarter of the rate, which was found for sleep", _GENTLY),
    "replay_all": Method("fine-tuning on the completions of all days so far, kept raw", _ALL),
    "seal": Method("SEAL (2506.10943): fine-tuning on self-made edits that help a copy", _SEAL),
    "l2": Method("fine-tuning, pulled towards the weights before the night", {**_SFT, "learning.decay": 2.5}),
    "static_expert": Method("sleep, with one expert for all nights", static=True),
    "fast_slow": Method("sleep, every third night into slow weights", {"block": 3}),
    "placebo": Method("sleep, with a teacher who read another table", placebo=True),
}


#: The base that reads these lessons, where it is not ``nano/context``.
READERS = {"rules": "nano/rules"}
#: Lessons about new operations, whose questions have levels.
LEVELLED = ("operations", "rules", "tables")


class Settings(msgspec.Struct, frozen=True):
    """``nights``: lessons, one a day.  ``probes``: questions a round, of these ``levels``.  ``wakes``: rounds a day.

    ``lessons``: a key of ``tasks.lessons.FAMILIES``, or ``module:Class``; ``lesson_args``: its arguments; ``levels``:
    of those that ask about new operations (``LEVELLED``) alone.
    """

    lessons: str = "operations"
    nights: int = 5
    probes: int = 64
    wakes: int = 3
    levels: tuple[int, ...] = (1, 2)
    lesson_args: dict[str, Any] = {}


def night_of(method: Method) -> Any:
    """The night's settings; rows a night are the same for every method.  Found on seeds 11 and 12, not the study's."""
    from dream_envs.agents.sleep.dreams import DreamSettings
    from dream_envs.agents.sleep.night import SleepSettings
    from dream_envs.agents.sleep.seeding import SeedingSettings
    from dream_envs.baselines.recipe import changed

    if method.changes is None:
        return None
    learning, dreaming = SeedingSettings(steps=240, lr=4e-3, lam=0.1), DreamSettings(fictional=0.4)
    full = SleepSettings(learning=learning, dreaming=dreaming, dreamt=0.7, tolerance=None)
    return changed(full, method.changes, "nights")


def sleeper(ctx: Context, model: LocalAgent, seed: str, place: Path, name: str) -> SleepAgent:
    """The learner of a method."""
    return SleepAgent(ctx, model, f"sleeping/{ctx.options.seed}/{name}", place, METHODS[name])


class SleepAgent:
    """An agent for every seat of ``SleepCycle``: by day it reads; when its dreamers have spoken it sleeps.

    The night lies in ``nights/NN`` of its folder; ``nights`` says what happened.
    """

    def __init__(
        self, ctx: Context, model: LocalAgent, seed: str, place: Path, method: Method, keep: Keep | None = None
    ) -> None:
        from dream_envs.agents.sleep.consolidation import SleepConsolidation
        from dream_envs.agents.sleep.frozen import FrozenLearner
        from dream_envs.agents.sleep.night import SleepSettings

        self.game = ctx.game()
        self._method, self._place, self._seed, self._night = method, place, seed, ctx.recipe.nights
        self._first, self._frozen = model, FrozenLearner(model.snapshot())
        questions = self._questions()
        settings = self._night or SleepSettings()
        if questions is None:  # nothing says how to make up a question about these lessons
            settings = msgspec.structs.replace(settings, dreaming=None, alert=None)
        self._night = None if self._night is None else settings
        self.inner = SleepConsolidation(self._frozen, questions, settings=settings, seed=seed, keep=keep)

    def _questions(self) -> Any:
        """How questions about the lessons are made up; None: nothing says how."""
        return lesson_questions(self.game.lessons)

    @property
    def nights(self) -> list[Any]:
        """The nights so far."""
        return self.inner.nights

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Answer; the dreamers' step is the last that sees the context, and the night follows it."""
        actions = self.inner.act(requests)
        if requests and requests[0].role == "dreamer" and self._night is not None and len(self.inner.buffer):
            number = len(self.nights)
            if self._method.placebo:
                lived = self.inner.buffer.all()
                self.inner.buffer.clear()
                self.inner.live(self._misled(lived, number))
            self.inner.sleep(self._place / "nights" / f"{number:02d}")
            if self._method.static:
                self._project(self._night.learning.rank or 1)
        return actions

    def improve(self, collector: Any, budget: int, run: Any) -> Progress:
        """Play ``budget`` rounds; what there is to learn is learnt at night.  Nights that are over are only read."""
        collector.begin()
        for number in range(budget):
            collector.round(number, self)
            collector.log(number, {})
        for night in self.nights:
            collector.night(night)
        return Progress(budget, sum(collector.samples.values()), collector.means())

    def _misled(self, lived: Sequence[Any], number: int) -> list[Any]:
        """The day's questions with another table before them, answered by that."""
        from dream_envs.agents.sleep.experience import Experience, closed, context_of

        told: list[list[Message]] = [
            [{"role": "system", "content": self._lie(context[0]["content"], number)}, *closed(e.messages)]
            for e in lived
            if (context := context_of(e.messages))
        ]
        seeds = [digest(self._seed, "lie", number, i) for i in range(len(told))]
        who: Any = {"agent": "learner_0", "role": "learner"}
        asked = self.inner.fitted([Request(messages=m, seed=s, **who) for m, s in zip(told, seeds, strict=True)])
        replies = self._frozen.agent.act(asked)
        return [Experience(r.messages, a.text, "day") for r, a in zip(asked, replies, strict=True)]

    def _lie(self, context: str, number: int) -> str:
        """Another lesson's context in place of this day's."""
        return str(self.game.lessons.lesson(stream(self._seed, "lie", number), number).context)

    def _project(self, rank: int) -> None:
        """Cut what all nights have changed down to one expert's rank, matrix by matrix."""
        import torch

        before = self._first.model.state_dict()
        with torch.no_grad():
            for name, weight in self._frozen.agent.model.named_parameters():
                if weight.dim() == 2 and "embed" not in name:
                    u, s, v = torch.linalg.svd((weight - before[name]).float(), full_matrices=False)
                    weight.copy_(before[name] + (u[:, :rank] * s[:rank]) @ v[:rank])

    def save(self, path: str) -> None:
        """The sleeping learner's folder."""
        self.inner.save(path)

    def load(self, path: str) -> None:
        """Continue from a saved state."""
        self.inner.load(path)

    def snapshot(self) -> LocalAgent:
        """A frozen copy."""
        return self._frozen.snapshot()


def lesson_questions(lessons: Any) -> Any:
    """Questions of Composition World with the lessons' operations, none of the probes'; None for other lessons."""
    from dream_envs.agents.sleep.dreams import FamilyQuestions
    from dream_envs.tasks.composition import Composition

    if not hasattr(lessons, "operations"):
        return None

    class LessonQuestions(FamilyQuestions):
        def question(self, text: str) -> list[Message] | None:
            kept = len(text) > 3 and lessons.half(text[0], text[2:]) == "probe" and set(text[2:]) & set(lessons.names)
            return None if kept else super().question(text)

    count = len(lessons.operations) + len(lessons.names)
    return LessonQuestions(Composition(n_operations=count, held_out_pairs=0, max_level=lessons.max_level + 1))


def recipe(chosen: Settings, steps: int, *, method: str) -> Recipe:
    """One episode of days and nights."""
    args: dict[str, Any] = {"nights": chosen.nights, "probes": chosen.probes, "wakes": chosen.wakes, "dreams": 8}
    levels = {"levels": list(chosen.levels)} if chosen.lessons in LEVELLED else {}
    if found := {**levels, **chosen.lesson_args}:
        args["lesson_args"] = found
    return Recipe(
        env=ENV, args={"lessons": chosen.lessons, **args}, family="", model=READERS.get(chosen.lessons, "nano/context"),
        mixture=Mixture(1, 0, 0), gates=(), label="sleeping", steps=steps,
        nights=night_of(METHODS[method]), learn=functools.partial(sleeper, name=method),
        eval=EvalSettings(family="composition", levels=(1, 2, 3), problems=64),
        refused={name: "learns only at night" for name in registry.rows("learners") if name != "grpo"},
    )  # fmt: skip


#: What a language model reads by day, how its nights learn, and what else it is to keep (preset ``lm``).
LM = {
    "lessons": "documents", "nights": 2, "probes": 12, "wakes": 3, "game.dreams": 4, "engine.temperature": 0.2,
    "eval.family": "arithmetic", "eval.levels": [1], "eval.problems": 16, "eval.attempts": 4,
}  # fmt: skip
LM_NIGHT = {"learning.steps": 60, "learning.batch": 8, "learning.lr": 5e-4, "learning.lam": 0.0, "experience": 64}


def _loop(name: str) -> Loop:
    sleeps = METHODS[name].changes is not None
    lm = {**LM, **({f"nights.{key}": value for key, value in LM_NIGHT.items()} if sleeps else {})}
    return Loop(name, METHODS[name].says, Settings, functools.partial(recipe, method=name), 1, lm)


SLEEP, SEAL, REPLAY_SFT, IN_CONTEXT = _loop("sleep"), _loop("seal"), _loop("replay_sft"), _loop("in_context")
L2, STATIC_EXPERT, PLACEBO, NO_DREAMING = _loop("l2"), _loop("static_expert"), _loop("placebo"), _loop("no_dreaming")
NO_SEEDING, REPLAY_GENTLY, REPLAY_ALL = _loop("no_seeding"), _loop("replay_gently"), _loop("replay_all")
FAST_SLOW = _loop("fast_slow")
