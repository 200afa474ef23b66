"""An agent for every seat of a game with skills, whose competence is a known function of the skills that it holds.

It puts a loop that evolves skills to the test, without a model.  A skill of its making has lines ``- use RULE``,
``- never RULE`` and ``- answer KEY``.  It passes a rubric of a rule that it holds with chance ``held``, of another with
``base``, of one that a skill forbids with ``base / 10``; of a question whose key it holds with ``held``.  What a text
does for it fades with the text's length beyond ``span`` words.  Its tasks are the context's own, or impossible ones
(rubrics that contradict each other), which no reasoner solves and no judge passes.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from dream_envs.agents.engines.scripted import Scripted
from dream_envs.checks import check
from dream_envs.core import Request
from dream_envs.envs import judging, skill_prompts
from dream_envs.envs.skill_evolution import question_key
from dream_envs.tasks.skills import Edit, SkillSet, say_edit

_LINE = re.compile(r"^- (use|never|answer|harder) (.+)$", re.M)


class Skilled(Scripted):
    """See the module's head.

    Args:
        game: a game that keeps skills (``SkillEvolution``).
        base: chance to pass a rubric whose rule it does not hold, 0 to 1.
        held: chance to pass one whose rule it holds, 0 to 1.
        learn: rules that an edit adds at most, 0 or more.
        drift: how much more often a challenger writes an impossible task for each skill that it has, 0 to 1.
        corrupt: chance that an editor draws the wrong lesson from an impossible task and forbids a rule, 0 to 1.
        memorise: chance that an editor keeps a failed question's answer in place of its rules, 0 to 1.
        bloat: empty words that every edit adds.
        span: words of skills that a reasoner reads with full attention, 1 or more.

    Raises:
        DreamEnvsError: for a value outside its range.
    """

    kind = "skilled"

    def __init__(
        self, game: Any = None, *, base: float = 0.6, held: float = 0.98, learn: int = 1, drift: float = 0.0,
        corrupt: float = 0.0, memorise: float = 0.0, bloat: int = 0, span: int = 1_000_000,
    ) -> None:  # fmt: skip
        super().__init__(game)
        chances = {"base": base, "held": held, "drift": drift, "corrupt": corrupt, "memorise": memorise}
        self.base, self.held, self.drift, self.corrupt, self.memorise = (
            check(name, value, 0, 1) for name, value in chances.items()
        )
        self.learn, self.bloat = check("learn", learn, 0, whole=True), check("bloat", bloat, 0, whole=True)
        self.span = check("span", span, 1, whole=True)

    def _reply(self, request: Request, rng: np.random.Generator) -> str:
        state = getattr(request, "state", None)
        if state is None or not hasattr(self.game, "own_tasks"):
            return super()._reply(request, rng)
        side, _, what = request.role.partition("_")
        if request.role == "judge":
            return self._judged(request, state)
        if what == "proposer":
            return "Learn from it."
        if what == "editor":
            return say_edit(self._edit(state, side, rng), self.game.notation)
        number = int(request.agent.rpartition("_")[2])
        return self._tasks(state, rng) if side == "challenger" else self._answer(state, number, rng)

    def _judged(self, request: Request, state: Any) -> str:
        slot = int(request.agent.rpartition("_")[2]) // self.game.rubrics
        known = self.game.exam(state, slot) is not None
        return judging.say("rubric", self.game.notation, int(known and self.game.truths(state, request.agent)[0]))

    def _tasks(self, state: Any, rng: np.random.Generator) -> str:
        harder, tasks = len(state.challenger.skills), list[tuple[str, Any]]()
        for number, task in enumerate(self.game.own_tasks(state, rng)):
            if rng.random() < self.drift * harder:
                word = f"word {state.round}-{number}"
                told = f"Say what the text leaves out, in one word ({word})."
                task = (told, [f"Says '{word}'.", f"Does not say '{word}'.", "Has no word at all."])
            tasks.append(task)
        return skill_prompts.write_tasks(tasks, self.game.notation)

    def _answer(self, state: Any, number: int, rng: np.random.Generator) -> str:
        exam = self.game.exam(state, number)
        if exam is None:
            return "I cannot say."
        skills = state.after("reasoner") if state.phase == "again" else state.reasoner
        lines = _lines(skills)
        attention = min(1.0, self.span / max(1, skills.words))
        known = ("answer", question_key(state.posed[number].question)) in lines
        passes = []
        for i, rubric in enumerate(exam.rubrics):
            told = next((op for op, name in reversed(lines) if name == rubric.rule), "")
            chance = self.held if told == "use" or known else self.base / 10 if told == "never" else self.base
            if rng.random() < self.base + (chance - self.base) * attention:
                passes.append(i)
        return exam.answer(passes)

    def _edit(self, state: Any, side: str, rng: np.random.Generator) -> Edit | None:
        name = f"round-{state.round:02d}"
        if side == "challenger":
            return Edit("add", name, "- harder tasks")
        context, lines = self.game.contexts[state.context], list[str]()
        if not state.posed:  # one look at the context alone
            lines = [f"- use {rule}" for rule in context.rules() if rng.random() < self.base]
        rules, left = context.rules(), self.learn
        for slot, (posed, answer) in enumerate(zip(state.posed, state.answers, strict=False)):
            if answer.solved != 0:
                continue
            exam = self.game.exam(state, slot)
            if exam is None:
                if rules and rng.random() < self.corrupt:
                    lines.append(f"- never {rules[int(rng.integers(len(rules)))]}")
            elif rng.random() < self.memorise:
                lines.append(f"- answer {question_key(posed.question)}")
            else:
                held = {name for op, name in _lines(state.reasoner) if op == "use"}
                missed = [r.rule for r, m in zip(exam.rubrics, answer.marks, strict=False) if not m]
                for rule in [r for r in missed if r not in held and f"- use {r}" not in lines][: max(0, left)]:
                    lines.append(f"- use {rule}")
                    left -= 1
        lines += ["and so on " * (self.bloat // 3)] if self.bloat else []
        return Edit("add", name, "\n".join(lines)) if lines else None


def _lines(skills: SkillSet) -> list[tuple[str, str]]:
    return [(op, name) for _, text in skills.skills for op, name in _LINE.findall(text)]
