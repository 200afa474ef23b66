"""``dream_envs/Discovery-v0``: days on which new facts can be found by experiment alone, nights, and exams on all days.

Roles
    ``scientist_0`` .. ask the world what a new operation does to a state.  ``challenger_0`` .. make problems of what is
    known and new, ``learner_0`` .. answer them, ``judge_0`` .. say whether an answer is right, one judge a learner.
    ``dreamer_0`` .. propose at night what to rehearse.  The learners also sit the exams.
Phases
    Each day has new operations whose tables nobody tells.  ``experiment``: the scientists ask, all at once, until the
    day's experiments are spent; what they found stands in the day's notes.  ``practices`` times ``propose``, ``solve``
    and ``judge``.  ``sleep``: dreamers propose; whoever learns consolidates now.  ``exam``, closed book: ``fact`` and
    ``within`` (compositions with one day's operations) for this day and every earlier one, ``across`` (operations of
    two days in one problem, from the second day on) and ``deep`` (deeper than any practice).
What each sees
    By day the notes of this day as system message and the prompt as user message: ``I=a>fc>k;J=b>a`` and ``?IJ`` (an
    experiment), ``new`` (a problem), ``c:IA`` (to solve), ``r|c:IA|IkAd`` (to judge, ``envs.judging``).  Dreamers and
    learners in the exam see the prompt alone: notes of a day are gone for good when it is over.
What a completion must look like
    An experiment is ``Ic``, a proposal or a dream ``c:IA``, an answer the whole trace ``IkAd``, a verdict ``0`` or
    ``1``.  A problem has an operation that is or was new, and none of two different days: those are for exams alone.
Rewards
    By default ``discovery`` (``rewards.discovery``).  Scientist: the share of its experiments that told something new.
    Challenger: mean learnability of its problems by the judges' verdicts, 1 - p where 0 < p < 1, else 0.  Learner: mean
    success in the exams.  Judge: the share of right verdicts on answers that the known tables and the notes decide.
    Dreamer: the share of nights with a valid problem that no other dreamer of that night proposed.  All 0 to 1.
    ``own_verdicts`` pays the learner its judge's verdicts awake: the world's truth is scarce.  Both pay turn by turn.
Chance
    1/16 a new entry that a trace looks up, less what permutations exclude.
End
    After the last day's exam.
Infos
    ``phase``, ``day``, and ``left``: experiments that are left today.
Facts
    What ``measures`` makes, and its rows: ``experiments``, ``practice``, ``verdicts``, ``dreams``, ``questions``.
Arguments
    See ``Discovery``.
Source
    Our own.  The four ingredients are those of "Language Models Need Sleep" (arXiv 2606.03979) and Absolute Zero
    (arXiv 2505.03335); nothing here is a copy of either.
Version history
    0: first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from dream_envs import core
from dream_envs.checks import check
from dream_envs.core import Action, Challenge, DreamEnvsError, Limits, Message, Outcome, RoleSpec, Seat, Task
from dream_envs.envs import judging
from dream_envs.envs._shared import SILENT, check_whole, minted, proposal_limits
from dream_envs.tasks import answers
from dream_envs.tasks.new_operations import NewOperations

Row = dict[str, Any]
ROLES = ("scientist", "challenger", "learner", "judge", "dreamer")
#: Who speaks in a phase, and whether the day's notes are before them.
PHASES = {
    "experiment": ("scientist", True), "propose": ("challenger", True), "solve": ("learner", True),
    "judge": ("judge", True), "sleep": ("dreamer", False), "exam": ("learner", False),
}  # fmt: skip


class Step(msgspec.Struct, frozen=True):
    """One move of a role.

    ``kind`` and ``about`` (a day): of an exam; ``tasks``: its questions, one a learner.  ``about`` of a practice: its
    number, over all days.
    """

    phase: str
    day: int
    kind: str = ""
    about: int = -1
    tasks: tuple[Task, ...] = ()


class State(msgspec.Struct, frozen=True):
    """Where a game stands: tables and exams are drawn at the start.

    ``found``: entries in the notes, of all days.  ``open``: the problems of this practice, one a challenger (None: it
    was turned away), and ``said``: the answers to them.  ``spoken``: moves of each learner so far.  ``rows``: what has
    happened, as ``Discovery`` tells it.
    """

    tables: dict[str, dict[str, str]]
    plan: tuple[Step, ...]
    at: int = 0
    found: tuple[str, ...] = ()
    open: tuple[Challenge | None, ...] = ()
    said: tuple[Action | None, ...] = ()
    made: tuple[Challenge, ...] = ()
    spoken: tuple[int, ...] = ()
    rows: tuple[tuple[str, Row], ...] = ()


class Discovery:
    """The game; see the module's head for its manual page.

    Args:
        notation: ``compact`` or ``english``.
        days: how many, 1 or more.
        operations: new ones a day.
        experiments: a day; at most one for each entry of the day's tables, and a multiple of ``scientists``.
        scientists: who ask at the same time, 1 to 256.
        challengers: problems a practice, 1 to 64.
        attempts: learners, and judges, a problem, 1 to 64.
        practices: a day, 0 to 1024.
        dreams: dreamers, 0 to 1024.
        levels: of the exam's compositions, drawn evenly, each 2 or more.
        deep: level of the exam's deep problems, above ``max_level``.
        max_level: of the deepest problem in practice and dreams.
        reply_tokens: a learner's budget; None: the notation's own (english: 1,024).
        proposal_tokens: of scientists, challengers and dreamers; None: the notation's own.
        task_args: other arguments of ``tasks.new_operations.NewOperations``.
    """

    env_id = "dream_envs/Discovery-v0"
    version = 0
    default_reward = "discovery"

    def __init__(
        self,
        notation: str = "compact",
        *,
        days: int = 2,
        operations: int = 2,
        experiments: int = 24,
        scientists: int = 8,
        challengers: int = 2,
        attempts: int = 2,
        practices: int = 2,
        dreams: int = 2,
        levels: Sequence[int] = (2, 3),
        deep: int = 8,
        max_level: int = 6,
        reply_tokens: int | None = None,
        proposal_tokens: int | None = None,
        task_args: Mapping[str, Any] | None = None,
    ) -> None:
        how = {"days": days, "operations": operations, "max_level": max_level, **(task_args or {})}
        self.tasks = NewOperations(notation, **how)
        self.days, self.practices, self.max_level = days, practices, max_level
        entries = operations * len(self.tasks.states)
        for name, value, high in (
            ("scientists", scientists, 256), ("challengers", challengers, 64), ("attempts", attempts, 64),
        ):  # fmt: skip
            check_whole(name, value, 1, high)
        check_whole("practices", practices, 0, 1024)
        check_whole("dreams", dreams, 0, 1024)
        check_whole("experiments", experiments, scientists, entries, f" (a day has {entries} entries)")
        if experiments % scientists:
            raise DreamEnvsError(f"experiments={experiments}: a multiple of scientists={scientists}, who ask together")
        self.levels = tuple(check("levels", level, 2, 64, whole=True) for level in levels)
        if not self.levels:
            raise DreamEnvsError("levels=(): one or more levels, each 2 or more")
        self.deep = check("deep", deep, max_level + 1, 64, whole=True)
        self.experiments, self.attempts = experiments, attempts
        counts = (scientists, challengers, challengers * attempts, challengers * attempts, dreams)
        self._names = {r: tuple(f"{r}_{i}" for i in range(n)) for r, n in zip(ROLES, counts, strict=True)}
        self.agents = tuple(name for names in self._names.values() for name in names)
        self.roles = tuple(spec for spec in self._specs() if spec.count)
        self.default_others: dict[str, Any] = {spec.name: "scientist" for spec in self.roles}
        self._place = {name: i for its in self._names.values() for i, name in enumerate(its)}
        top = self.tasks.reply_tokens(max(self.deep, *self.levels))
        propose = proposal_limits(self.tasks, proposal_tokens)
        verdict = Limits(4, 64) if notation == "compact" else Limits(512, 8192)
        limits = {
            "scientist": propose if notation == "english" else Limits(3, 8), "challenger": propose,
            "learner": answers.answer_limits(reply_tokens or top), "judge": verdict, "dreamer": propose,
        }  # fmt: skip
        self._seats = {r: [Seat(name, r, limits[r]) for name in self._names[r]] for r in ROLES}
        #: Who has to play for the ends of each range (``core.GameHooks``).
        every = {r: "oracle" for r in ROLES if self._names[r]}
        first = dict.fromkeys(self._names["learner"][1:], "floor")
        others = dict.fromkeys(self._names["dreamer"][1:], "floor")
        self.bounds = {r: ({**every, r: "floor"}, every) for r in every}
        self.bounds["challenger"] = (self.bounds["challenger"][0], {**every, **first})
        if dreams:
            self.bounds["dreamer"] = (self.bounds["dreamer"][0], {**every, **others})

    def _specs(self) -> Iterator[RoleSpec]:
        top = 1.0 - 1.0 / self.attempts
        told = {
            "scientist": ("an experiment, 'Ic'", 1.0), "challenger": ("a problem in the notation", top),
            "learner": ("the whole trace", 1.0), "judge": ("0 or 1", 1.0), "dreamer": ("a problem", 1.0),
        }  # fmt: skip
        for role, (reply, best) in told.items():
            yield RoleSpec(role, len(self._names[role]), reply, (0.0, best))

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        """Draw the tables and every exam; a task is refused: only the seed can choose a world."""
        if task is not None:
            raise DreamEnvsError("Discovery begins from no task: its world is drawn from the seed")
        tables = self.tasks.drawn(rng)
        return State(tables, tuple(self._plan(tables, rng)), spoken=(0,) * len(self._names["learner"]))

    def turns(self, state: State) -> list[Seat]:
        """All of the role whose phase it is, but those who have nothing to answer or to judge."""
        if state.at == len(state.plan):
            return []
        phase = state.plan[state.at].phase
        seats = self._seats[PHASES[phase][0]]
        if phase == "solve":
            return [s for s in seats if self._problem(state, s.agent) is not None]
        if phase == "judge":
            return [s for s in seats if (a := state.said[self._place[s.agent]]) is not None and a.status == "ok"]
        return list(seats)

    def view(self, state: State, agent: str) -> list[Message]:
        """What ``agent`` is asked now; nothing for those who are not."""
        if agent not in [seat.agent for seat in self.turns(state)]:
            return []
        step = state.plan[state.at]
        notes = self.tasks.notes(step.day, state.tables, state.found) if PHASES[step.phase][1] else ""
        system: list[Message] = [{"role": "system", "content": notes}] if notes else []
        return [*system, {"role": "user", "content": self._asked(state, step, agent)}]

    def _asked(self, state: State, step: Step, agent: str) -> str:
        if step.phase == "experiment":
            return self.tasks.experiment_brief(step.day)
        if step.phase in ("propose", "sleep"):
            return self.tasks.brief(step.day)
        if step.phase == "exam":
            return step.tasks[self._place[agent]].prompt
        problem = self._problem(state, agent)
        assert problem is not None  # nobody else has a turn
        return problem.prompt if step.phase == "solve" else judging.write(self._question(state, agent, problem))

    def apply(self, state: State, actions: Mapping[str, Action]) -> State:
        """The next state; an agent whose action is missing is taken to have said nothing."""
        if state.at == len(state.plan):
            raise AssertionError("apply after the end: turns() is empty, the game is over")
        step, seats = state.plan[state.at], self.turns(state)
        done = {seat.agent: actions.get(seat.agent, SILENT) for seat in seats}
        state = getattr(self, f"_{step.phase}")(replace(state, at=state.at + 1), step, done)
        while state.at < len(state.plan) and not self.turns(state):  # nothing to answer, or nothing to judge
            state = replace(state, at=state.at + 1)
        return state

    def outcome(self, state: State) -> Outcome | None:
        """The facts named in the manual page."""
        facts = self.public_facts(state)
        return Outcome("ok", facts) if facts else None

    def public_facts(self, state: State) -> dict[str, Any]:
        """What goes into ``info`` at the end: all facts; no answer is among them."""
        if state.at < len(state.plan):
            return {}
        rows: dict[str, list[Row]] = {
            k: [dict(r) for kind, r in state.rows if kind == k]
            for k in ("experiments", "practice", "verdicts", "dreams", "questions")
        }
        told = {"agents": list(self.agents), "lessons": list(self.tasks.names), "nights": self.days}
        return {**told, **measures(rows, self.days, len(self.tasks.states) * len(self.tasks.names[0])), **rows}

    def public_info(self, state: State) -> dict[str, Any]:
        """What goes into every ``info``: phase, day, and the experiments that are left today."""
        if state.at == len(state.plan):
            return {"phase": "end", "day": self.days - 1, "left": 0}
        step = state.plan[state.at]
        rounds = sum(s.phase == "experiment" and s.day == step.day for s in state.plan[state.at :])
        return {"phase": step.phase, "day": step.day, "left": rounds * len(self._names["scientist"])}

    def extracted(self, state: State, agent: str, action: Action) -> str | None:
        """A learner's answer as it is read."""
        step = state.plan[state.at]
        problem = step.tasks[self._place[agent]] if step.tasks else self._problem(state, agent)
        if PHASES[step.phase][0] != "learner" or problem is None:
            return None
        return answers.graded(self.tasks, problem, action)[1]

    def group(self, episode: core.Episode, turn: core.Turn) -> str:
        """All experiments, proposals and dreams of a day; the answers to one question; the judgements of one answer."""
        if turn.role in ("learner", "judge"):
            return f"{episode.index}/{turn.messages[-1]['content']}"
        return f"{turn.role}/{len(turn.messages)}/{turn.messages[-1]['content']}"

    def record(self, state: State) -> tuple[list[Task | Challenge], list[core.Event]]:
        """Problems that were made and exams that were sat; an event for every proposal and dream."""
        sat = [task for step in state.plan[: state.at + 1] for task in step.tasks]
        events = []
        for kind, row in state.rows:
            if kind in ("practice", "dreams"):
                fate = "accepted" if row["valid"] else "rejected"
                data = {"day": row["day"]} | ({"level": row["level"]} if row["valid"] else {"code": row["reject"]})
                events.append(core.Event(fate, row["agent"], data))
        return [*state.made, *sat], events

    def question(self, state: State, agent: str) -> judging.Question | None:
        """What a judge is asked, unescaped; for scripted judges."""
        problem = self._problem(state, agent) if agent in self._names["judge"] and state.said else None
        return self._question(state, agent, problem) if problem is not None else None

    def scripted(self, kind: str, request: Any, rng: np.random.Generator) -> str | None:
        """``oracle``: knows all; ``floor``: says nothing; ``guesser``: knows the known tables and draws the rest.

        ``scientist``: asks what it does not know yet and forgets nothing that it found; ``amnesiac``: the same by day,
        and has forgotten it at night; ``fool``: asks the same for ever and takes every answer to be right.
        """
        state = getattr(request, "state", None)
        known = ("oracle", "floor", "guesser", "scientist", "amnesiac", "fool")
        if not isinstance(state, State) or kind not in known or state.at == len(state.plan):
            return None
        return "" if kind == "floor" else self._scripted(kind, state, state.plan[state.at], request, rng)

    def _scripted(self, kind: str, state: State, step: Step, request: Any, rng: np.random.Generator) -> str:
        place, tasks = self._place[request.agent], self.tasks
        day = [name + s for name in tasks.names[step.day] for s in tasks.states]
        if step.phase == "experiment":
            new = [entry for entry in day if entry not in state.found] or day
            pool = {"fool": day[:1], "guesser": day}.get(kind, [new[place % len(new)]])
            return tasks.written(pool[int(rng.integers(len(pool)))])
        if step.phase in ("propose", "sleep"):
            level = 1 if kind == "fool" else int(rng.integers(1, self.max_level + 1))
            made = tasks.within(rng, step.day, level, state.tables)
            return tasks.as_proposal(made)
        problem = step.tasks[place] if step.tasks else self._problem(state, request.agent)
        assert problem is not None  # who has nothing to answer is not asked
        kept = {"scientist": state.found, "amnesiac": () if step.phase == "exam" else state.found}.get(kind, ())
        if step.phase != "judge":
            return problem.answer if kind == "oracle" else tasks.guess(problem, rng, state.tables, kept)
        answer = self._answer(state, request.agent, problem)
        right = tasks.decided(problem, answer or "", state.tables, day if kind == "oracle" else kept)
        if kind == "oracle":
            right = answer is not None and tasks.accepts(problem, answer)
        rating = 1 if kind == "fool" else int(rng.integers(2)) if right is None else int(right)
        return judging.say("rubric", tasks.notation, rating)

    # ---- phases: each takes the state that is past it, its step, and what was said ---------------------------------

    def _experiment(self, state: State, step: Step, done: Mapping[str, Action]) -> State:
        found, rows = list(state.found), list[Row]()
        for agent, action in done.items():
            entry = self.tasks.experiment(step.day, action.text) if action.status == "ok" else ""
            new = bool(entry) and entry not in found
            rows.append({"agent": agent, "day": step.day, "valid": bool(entry), "new": new, "status": action.status})
            found += [entry] if new else []
        return self._with(state, "experiments", rows, found=tuple(found))

    def _propose(self, state: State, step: Step, done: Mapping[str, Action]) -> State:
        problems, rows = self._proposed(state, step, done)
        made = tuple(p for p in problems if p is not None)
        nobody = (None,) * len(self._names["learner"])
        return self._with(state, "practice", rows, open=tuple(problems), said=nobody, made=(*state.made, *made))

    def _solve(self, state: State, step: Step, done: Mapping[str, Action]) -> State:
        said = tuple(done.get(name) for name in self._names["learner"])
        return replace(state, said=said, spoken=self._counted(state, done))

    def _judge(self, state: State, step: Step, done: Mapping[str, Action]) -> State:
        rows = list[Row]()
        for judge, action in done.items():
            place = self._place[judge]
            problem, said = self._problem(state, judge), state.said[place]
            assert problem is not None and said is not None
            answer = self._answer(state, judge, problem)
            text = answers.settled(action, "verdict") if self.tasks.notation == "english" else action.text
            rating = judging.rating_of("rubric", self.tasks.notation, text) if action.status == "ok" else None
            decided = self.tasks.decided(problem, answer or "", state.tables, state.found)
            status = action.status if action.status != "ok" or rating is not None else "invalid"
            rows.append({
                "agent": judge, "learner": f"learner_{place}", "challenger": f"challenger_{place // self.attempts}",
                "day": step.day, "number": step.about, "turn": state.spoken[place] - 1, "level": problem.level,
                "truth": bool(answer is not None and self.tasks.accepts(problem, answer)), "decided": decided,
                "verdict": rating, "status": status,
            })  # fmt: skip
        return self._with(state, "verdicts", rows)

    def _sleep(self, state: State, step: Step, done: Mapping[str, Action]) -> State:
        dreams, rows = self._proposed(state, step, done)
        made = [d for d in dreams if d is not None]
        for row, dream in zip(rows, dreams, strict=True):
            row["same"] = sum(d.id == dream.id for d in made) - 1 if dream is not None else 0
        return self._with(state, "dreams", rows, made=(*state.made, *made))

    def _exam(self, state: State, step: Step, done: Mapping[str, Action]) -> State:
        rows = list[Row]()
        for (agent, action), task in zip(done.items(), step.tasks, strict=True):
            score, _ = answers.graded(self.tasks, task, action)
            entries = {e for e, _ in self.tasks.looked_up(task, task.answer) or () if e[0] in self.tasks.day_of}
            rows.append({
                "agent": agent, "phase": "recall", "night": step.day, "lesson": step.about, "kind": step.kind,
                "level": task.level, "turn": state.spoken[self._place[agent]],
                "found": entries <= set(state.found), "status": score.status,
                "value": float(score.value) if score.status == "ok" else None,
            })  # fmt: skip
        return self._with(state, "questions", rows, spoken=self._counted(state, done))

    def _counted(self, state: State, done: Mapping[str, Action]) -> tuple[int, ...]:
        return tuple(n + (name in done) for name, n in zip(self._names["learner"], state.spoken, strict=True))

    @staticmethod
    def _with(state: State, kind: str, rows: Iterable[Row], **more: Any) -> State:
        return replace(state, rows=(*state.rows, *((kind, row) for row in rows)), **more)

    def _proposed(
        self, state: State, step: Step, done: Mapping[str, Action]
    ) -> tuple[list[Challenge | None], list[Row]]:
        problems, rows = list[Challenge | None](), list[Row]()
        for agent, action in done.items():
            found: Task | core.Reject = core.Reject("empty", f"the call ended in {action.status}")
            if action.status == "ok":
                found = self.tasks.parse(action.text, step.day, state.tables)
            sound = isinstance(found, Task)
            problems.append(minted(found, agent) if isinstance(found, Task) else None)
            rows.append({
                "agent": agent, "day": step.day, "number": step.about, "valid": sound, "status": action.status,
                "reject": found.code if isinstance(found, core.Reject) else "",
                "level": found.level if isinstance(found, Task) else 0,
            })  # fmt: skip
        return problems, rows

    def _problem(self, state: State, agent: str) -> Challenge | None:
        """What this learner or judge is concerned with now."""
        if agent.partition("_")[0] not in ("learner", "judge") or not state.open:
            return None
        return state.open[self._place[agent] // self.attempts]

    def _answer(self, state: State, judge: str, problem: Task) -> str | None:
        """The answer that this judge's learner gave, as it is read; None: none can be read."""
        said = state.said[self._place[judge]]
        if said is None or said.status != "ok":
            return None
        return self.tasks.read(problem, answers.settled(said) if self.tasks.notation == "english" else said.text)

    def _question(self, state: State, judge: str, problem: Task) -> judging.Question:
        said = state.said[self._place[judge]]
        cap = self._seats["learner"][0].limits.max_chars
        text = said.text[:cap] if said is not None else ""
        return judging.Question("rubric", self.tasks.notation, problem.prompt, (text,))

    def _plan(self, tables: dict[str, dict[str, str]], rng: np.random.Generator) -> Iterator[Step]:
        def exam(kind: str, day: int, about: int = -1) -> Step:
            found = []
            for _ in self._names["learner"]:
                level = self.levels[int(rng.integers(len(self.levels)))]
                if kind == "fact":
                    found.append(self.tasks.fact(rng, about, tables))
                elif kind == "across":
                    found.append(self.tasks.across(rng, day, level, tables))
                else:
                    found.append(self.tasks.within(rng, about, self.deep if kind == "deep" else level, tables))
            return Step("exam", day, kind, about, tuple(found))

        for day in range(self.days):
            for _ in range(self.experiments // len(self._names["scientist"])):
                yield Step("experiment", day)
            for i in range(self.practices):
                number = day * self.practices + i
                yield from (Step(phase, day, about=number) for phase in ("propose", "solve", "judge"))
            if self._names["dreamer"]:
                yield Step("sleep", day)
            for about in range(day + 1):
                yield from (exam(kind, day, about) for kind in ("fact", "within"))
            if day:
                yield exam("across", day)
            yield exam("deep", day, day)


def measures(rows: Mapping[str, Sequence[Row]], days: int, entries: int) -> dict[str, Any]:
    """What the exams, experiments and verdicts come to; None where nothing was measured.

    ``closed[i][j]``: success at facts of day j after night i, and ``within[i][j]`` at its compositions; ``across[i]``,
    ``deep[i]`` by night.  ``open[j]``: right answers among those in practice, with the day's notes.  ``area``: mean of
    all that is known of ``closed``, the area under it; ``average_accuracy``: of its last row.  ``forgetting``: mean
    over days but the last of (best - last).  ``share``: of each day's ``entries`` that experiments found.  ``fate``:
    experiments by what they told: ``new``, ``known`` already, ``invalid``.  ``judging``: ``accuracy`` of all readable
    verdicts, ``hits`` and ``false`` (verdicts of right among right and among wrong answers), ``paid_for_wrong``: share
    of the answers said to be right that are wrong; ``decided``: share of answers that experiments decide.
    """
    asked = [(r["kind"], r["night"], r["lesson"], r["value"]) for r in rows["questions"] if r["value"] is not None]

    def score(kind: str, night: int, lesson: int) -> float | None:
        return mean(v for k, n, d, v in asked if (k, n, d) == (kind, night, lesson))

    every = range(days)
    closed, within = (
        [[score(kind, i, j) if j <= i else None for j in every] for i in every] for kind in ("fact", "within")
    )
    known = [[v for row in closed if (v := row[j]) is not None] for j in every[:-1]]
    tries = rows["experiments"]
    verdicts = [r for r in rows["verdicts"] if r["verdict"] is not None]
    right, wrong = ([r["verdict"] for r in verdicts if r["truth"] is t] for t in (True, False))
    return {
        "open": [mean(r["truth"] for r in rows["verdicts"] if r["day"] == d) for d in every],
        "closed": closed, "within": within,
        "across": [score("across", i, -1) for i in every], "deep": [score("deep", i, i) for i in every],
        "area": mean(v for row in closed for v in row if v is not None),
        "average_accuracy": mean(v for v in closed[-1] if v is not None),
        "forgetting": mean(max(its) - its[-1] for its in known if its),
        "share": [sum(r["new"] for r in tries if r["day"] == d) / entries for d in every],
        "fate": {
            "new": sum(r["new"] for r in tries), "known": sum(r["valid"] and not r["new"] for r in tries),
            "invalid": sum(not r["valid"] for r in tries),
        },
        "judging": {
            "accuracy": mean(r["verdict"] == r["truth"] for r in verdicts), "hits": mean(right), "false": mean(wrong),
            "paid_for_wrong": mean(not r["truth"] for r in verdicts if r["verdict"]),
            "decided": mean(r["decided"] is not None for r in verdicts),
        },
    }  # fmt: skip


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    found = list(values)
    return math.fsum(found) / len(found) if found else None
