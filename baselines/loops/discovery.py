"""Days of experiments and nights without: ``dream_envs/Discovery-v0`` with a learner that sleeps, or does not.

``nano/explore`` makes and answers the day's problems, with the notes of what was found before it; a scripted scientist
asks the world, or the learner itself (``own_experiments``).  What it answered awake is what the night is about: with
``keep="vote"`` only what most attempts at a problem agree on, which is the reward that it makes itself; with ``all``
everything.  Nights, and what stands in their place, are those of ``loops.nights``.  A run ends in a retention matrix
and success on compositions across days, which were never practised together.

Departures: there is nothing published to depart from; see ``envs.discovery``.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dream_envs import registry
from dream_envs.baselines.loops.nights import LM_NIGHT, METHODS, SleepAgent, night_of
from dream_envs.baselines.recipe import EvalSettings, Loop, Recipe
from dream_envs.checks import one_of
from dream_envs.core import Action, Message, Request
from dream_envs.curriculum.curriculum import Mixture
from dream_envs.seeds import stream
from dream_envs.tasks import answers

if TYPE_CHECKING:
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.agents.sleep.experience import Experience
    from dream_envs.baselines.loop import Context
    from dream_envs.tasks.new_operations import NewOperations

ENV = "dream_envs/Discovery-v0"
KEPT = ("all", "vote", "told", "random")


class Settings(msgspec.Struct, frozen=True):
    """``days``: with one new operation each.  ``experiments`` on its 16 entries; ``practices`` rounds a day.

    ``challengers`` problems a round, ``attempts`` at each.  ``keep``: ``all`` answers, those that a ``vote`` of the
    attempts agrees on, those that the day's notes have ``told`` to be right, or as many as the vote keeps, drawn at
    ``random``.  ``own_experiments``: the learner asks the world itself, not a script that asks nothing twice.
    ``levels`` of the exam's compositions, ``deep`` of its deepest, ``max_level`` in practice.
    """

    days: int = 4
    experiments: int = 16
    practices: int = 4
    challengers: int = 16
    attempts: int = 4
    own_experiments: bool = False
    keep: str = "vote"
    levels: tuple[int, ...] = (2, 3)
    deep: int = 5
    max_level: int = 3

    def __post_init__(self) -> None:
        one_of("keep", self.keep, KEPT)


def kept(
    read: Sequence[tuple[Request, Action]], how: str, tasks: NewOperations, rng: np.random.Generator
) -> list[Experience]:
    """The learner's answers that a night is about; see ``Settings``."""
    from dream_envs.agents.sleep.experience import Experience

    said = [(list(r.messages), a) for r, a in read if r.role == "learner"]
    if how == "told":
        agreed = [proven(tasks, messages, action) for messages, action in said]
    else:
        votes: dict[str, Counter[str]] = {}
        for messages, action in said:
            votes.setdefault(str(messages), Counter())[action.text] += 1
        won = {asked: its.most_common(1)[0] for asked, its in votes.items()}
        agreed = [won[str(m)][0] == a.text and won[str(m)][1] > 1 for m, a in said]
    if how == "random":
        agreed = [agreed[i] for i in rng.permutation(len(agreed)).tolist()]
    chosen = [row for row, keep in zip(said, agreed, strict=True) if keep or how == "all"]
    return [Experience(messages, action.text, "day") for messages, action in chosen]


def proven(tasks: NewOperations, messages: Sequence[Message], action: Action) -> bool:
    """Whether the notes before a problem show its answer to be right, step by step."""
    notes = messages[0]["content"] if messages[0]["role"] == "system" else ""
    problem = tasks.shown(notes, messages[-1]["content"])
    return problem is not None and answers.graded(tasks, problem, action)[0].value == 1


class Explorer(SleepAgent):
    """``SleepAgent`` in the seats of ``Discovery``."""

    def _questions(self) -> Any:
        """Questions of Composition World with every operation of the stream, none with those of two days.

        None in english: the night is about the day alone.
        """
        from dream_envs.agents.sleep.dreams import FamilyQuestions
        from dream_envs.tasks.composition import Composition

        tasks = self.game.tasks
        if tasks.notation != "compact":  # a proposal is no prompt there, and prints no new table
            return None

        class DayQuestions(FamilyQuestions):
            def question(self, text: str) -> list[Message] | None:
                days = {tasks.day_of[op] for op in text[2:] if op in tasks.day_of}
                return super().question(text) if len(days) < 2 else None

        count = len(tasks.known) + len(tasks.day_of)
        return DayQuestions(Composition(n_operations=count, held_out_pairs=0, max_level=tasks.max_level))

    def _lie(self, context: str, number: int) -> str:
        """The day's notes with other images."""
        tasks = self.game.tasks
        return str(tasks.retold(context, tasks.drawn(stream(self._seed, "lie", number))))


def explorer(ctx: Context, model: LocalAgent, seed: str, place: Path, method: str, keep: str) -> Explorer:
    """The learner of a method."""
    label = f"discovery/{ctx.options.seed}/{method}"
    chosen = functools.partial(kept, how=keep, tasks=ctx.game().tasks, rng=stream(label, "kept"))
    return Explorer(ctx, model, label, place, METHODS[method], chosen)


def recipe(chosen: Settings, steps: int, *, method: str) -> Recipe:
    """One stream of days."""
    args = {
        "days": chosen.days, "operations": 1, "experiments": chosen.experiments, "scientists": 1, "dreams": 1,
        "practices": chosen.practices, "challengers": chosen.challengers, "attempts": chosen.attempts,
        "levels": list(chosen.levels), "deep": chosen.deep, "max_level": chosen.max_level,
    }  # fmt: skip
    seats = {"judge": "scientist"} | ({} if chosen.own_experiments else {"scientist": "scientist"})
    return Recipe(
        env=ENV, args=args, family="", model="nano/explore", mixture=Mixture(1, 0, 0), gates=(), label="discovery",
        steps=steps, seats=seats, nights=night_of(METHODS[method]),
        learn=functools.partial(explorer, method=method, keep=chosen.keep),
        eval=EvalSettings(family="composition", levels=(1, 2, 3), problems=64),
        refused={name: "learns only at night" for name in registry.rows("learners") if name != "grpo"},
    )  # fmt: skip


#: On a language model (preset ``lm``).
LM = {
    "days": 2, "practices": 2, "challengers": 4, "attempts": 2, "engine.temperature": 0.2, "eval.family": "arithmetic",
    "eval.levels": [1], "eval.problems": 16, "eval.attempts": 4,
}  # fmt: skip


def _loop(method: str) -> Loop:
    name = "discovery" if method == "sleep" else f"discovery_{method}"
    says = f"experiments, problems of its own and their vote; {METHODS[method].says}"
    night = {f"nights.{k}": v for k, v in LM_NIGHT.items()} if METHODS[method].changes is not None else {}
    return Loop(name, says, Settings, functools.partial(recipe, method=method), 1, {**LM, **night})


#: By what stands in the place of the night.
LOOPS = {method: _loop(method) for method in METHODS}
LOOP, IN_CONTEXT, PLACEBO = LOOPS["sleep"], LOOPS["in_context"], LOOPS["placebo"]
NO_DREAMING, REPLAY_SFT, REPLAY_ALL = LOOPS["no_dreaming"], LOOPS["replay_sft"], LOOPS["replay_all"]
