"""``dream_envs/SleepCycle-v0``: days with a text, nights without, and closed-book questions on all that was read.

Roles
    ``learner_0`` .. ``learner_{p-1}`` answer, each a question of its own, all at the same time.  ``dreamer_0`` ..
    ``dreamer_{d-1}`` propose at night what to rehearse.  The seats are there so that one learner is asked much at once.
Phases
    ``before``: closed-book questions on every lesson, none of which was taught (``pretest``).  Then for each lesson,
    one a day: ``wake``, ``wakes`` rounds of questions with the lesson's context; ``sleep``: the dreamers, who still
    have the context, propose, and whoever learns consolidates now; ``recall``: closed-book questions on this lesson and
    every earlier one, one round each; ``ahead``: closed-book questions on the next lesson (with ``pretest``).
What each sees
    Awake the context as system message and the question as user message: ``I=a>fb>k...`` and ``c:IA``.  Closed book the
    question alone: nothing of any context is in any view from then on.  A dreamer sees context and prompt.  An agent
    that is not asked sees nothing.
What a completion must look like
    A learner's is the answer in the lessons' notation, ``IfAk``; a dreamer's is a question in it, ``c:IA``.
Rewards
    By default ``closed_book`` (``rewards.sleep``): the learner's is the mean success of its own seat in ``recall``, the
    dreamer's the share of nights in which it proposed a question about the lesson that no other dreamer of that night
    proposed; both 0 to 1.
Chance
    That of the lessons: for ``operations`` 1/16 where the trace looks up one new entry.
End
    After the last night's recall.
Infos
    ``phase``, ``night`` (-1 before the first), ``lesson`` (what is asked about) and ``budget`` at every moment.
Facts
    What ``measures``, ``dreaming`` and ``costs`` make, and their rows, ``questions`` and ``dreams``.
Arguments
    See ``SleepCycle``.
Source
    The protocol of "Language Models Need Sleep" (arXiv 2606.03979); transfer after Lopez-Paz and Ranzato 2017,
    forgetting against the best after Chaudhry et al. 2018, as in ``metrics.retention``.
Version history
    0: first.  1: english replies and dreams are read by ``tasks.answers``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from dream_envs import core
from dream_envs.core import Action, Challenge, DreamEnvsError, Limits, Message, Outcome, RoleSpec, Seat, Task
from dream_envs.envs._shared import SILENT, check_whole, minted, proposal_limits, reply_limits
from dream_envs.tasks import answers
from dream_envs.tasks.lessons import Lesson, LessonFamily, Split, lesson_family

#: A question (``value`` is None where a call failed: it counts in no mean, and is counted beside them) or a dream.
Row = dict[str, Any]
PHASES = ("before", "wake", "sleep", "recall", "ahead", "end")


class Step(msgspec.Struct, frozen=True):
    """One move of all seats of a role: ``tasks`` has a question a learner's seat, and none in ``sleep``."""

    phase: str
    night: int
    lesson: int
    tasks: tuple[Task, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """What came of one move: its value (None without a verdict), or the dream that was accepted or turned away."""

    status: core.Status
    value: float | None = None
    dream: Challenge | None = None
    reject: core.Reject | None = None
    read: int = 0
    written: int | None = None


class State(msgspec.Struct, frozen=True):
    """Where a game stands: the whole plan is drawn at the start; ``results`` has a tuple for each step that is over."""

    lessons: tuple[Lesson, ...]
    plan: tuple[Step, ...]
    results: tuple[tuple[Result, ...], ...] = ()


class SleepCycle:
    """The game; see the module's head for its manual page.

    Args:
        lessons: where the contexts come from: a key of ``tasks.lessons.FAMILIES``, ``module:Class`` or an object.
        notation: of the lessons, with a name; None: the lessons' own.
        nights: lessons in an episode, 1 or more, at most as many as the family has.
        probes: learners' seats, 1 to 1024: questions in each round.
        dreams: dreamers' seats, 0 to 1024; with 0 nobody is asked at night.
        wakes: rounds of questions a day, 1 to 1024.
        pretest: ask about lessons that have not been taught, before the first day and ahead of each.
        budget: tokens that a night may cost.  It is told in ``info`` and in the facts; dreamers' replies are held to
            it, each to an even part; nobody can hold an outside learner to it.
        reply_tokens: a learner's budget; None: the lessons' own (english: 1,024).
        proposal_tokens: a dreamer's, at most its part of ``budget``; None: the lessons' own (english: 1,024).
        lesson_args: the lessons' other arguments, with a name.
    """

    env_id = "dream_envs/SleepCycle-v0"
    version = 1
    default_reward = "closed_book"

    def __init__(
        self,
        lessons: str | LessonFamily = "operations",
        *,
        notation: str | None = None,
        nights: int = 3,
        probes: int = 4,
        dreams: int = 4,
        wakes: int = 2,
        pretest: bool = True,
        budget: int = 65_536,
        reply_tokens: int | None = None,
        proposal_tokens: int | None = None,
        lesson_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.lessons = family = lesson_family(lessons, notation=notation, args=lesson_args)
        check_whole("nights", nights, 1, family.capacity, f" ({family.name} has so many lessons)")
        check_whole("probes", probes, 1, 1024)
        check_whole("dreams", dreams, 0, 1024)
        check_whole("wakes", wakes, 1, 1024)
        check_whole("budget", budget, 0, 2**40)
        if not isinstance(pretest, bool):
            raise DreamEnvsError(f"pretest={pretest!r}: True or False")
        if budget < dreams:
            raise DreamEnvsError(f"budget={budget}: {dreams} dreamers need a token each; or dreams=0")
        self.nights, self.wakes, self.pretest, self.budget = nights, wakes, pretest, budget
        self.learners = tuple(f"learner_{i}" for i in range(probes))
        self.dreamers = tuple(f"dreamer_{i}" for i in range(dreams))
        self.agents = (*self.learners, *self.dreamers)
        self._place = {name: i for i, name in enumerate(self.learners)}
        self.roles = (
            RoleSpec("learner", probes, "the answer in the lessons' notation", (0.0, 1.0)),
            *((RoleSpec("dreamer", dreams, "a question about the context", (0.0, 1.0)),) if dreams else ()),
        )
        dream = proposal_limits(family, proposal_tokens)
        share = Limits(min(dream.max_tokens, budget // dreams) if dreams else 1, dream.max_chars)
        self._learning = [Seat(name, "learner", reply_limits(family, reply_tokens)) for name in self.learners]
        self._dreaming = [Seat(name, "dreamer", share) for name in self.dreamers]

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        """Draw the lessons and every question; a task is refused: only the seed can choose lessons."""
        if task is not None:
            raise DreamEnvsError("SleepCycle begins from no task: its lessons are drawn from the seed")
        lessons = tuple([self.lessons.lesson(rng, i) for i in range(self.nights)])
        return State(lessons, tuple(self._plan(lessons, rng)))

    def turns(self, state: State) -> list[Seat]:
        """All learners at once, and all dreamers at once in ``sleep``."""
        if len(state.results) == len(state.plan):
            return []
        return list(self._dreaming if state.plan[len(state.results)].phase == "sleep" else self._learning)

    def view(self, state: State, agent: str) -> list[Message]:
        """What ``agent`` is asked now; nothing for those who are not."""
        step = self._now(state)
        if agent.startswith("dreamer") != (step.phase == "sleep") or step.phase == "end":
            return []
        lesson = state.lessons[step.lesson]
        system: list[Message] = [{"role": "system", "content": lesson.context}]
        if step.phase == "sleep":
            return [*system, {"role": "user", "content": self.lessons.brief(lesson)}]
        question: Message = {"role": "user", "content": step.tasks[self._place[agent]].prompt}
        return [*system, question] if step.phase == "wake" else [question]

    def apply(self, state: State, actions: Mapping[str, Action]) -> State:
        """The next state; an agent whose action is missing is taken to have said nothing."""
        step = self._now(state)
        if step.phase == "end":
            raise AssertionError("apply after the end: turns() is empty, the game is over")
        if step.phase == "sleep":
            lesson = state.lessons[step.lesson]
            done = [self._dreamt(lesson, name, actions.get(name, SILENT)) for name in self.dreamers]
        else:
            asked = zip(self.learners, step.tasks, strict=True)
            done = [self._answered(task, actions.get(name, SILENT)) for name, task in asked]
        return replace(state, results=(*state.results, tuple(done)))

    def outcome(self, state: State) -> Outcome | None:
        """The facts named in the manual page."""
        facts = self.public_facts(state)
        return Outcome("ok", facts) if facts else None

    def extracted(self, state: State, agent: str, action: Action) -> str | None:
        """A learner's answer as it is read."""
        step = self._now(state)
        if agent not in self._place or not step.tasks:
            return None
        return answers.graded(self.lessons, step.tasks[self._place[agent]], action)[1]

    def group(self, episode: core.Episode, turn: core.Turn) -> str:
        """The answers to one question of an episode; all dreams of a round."""
        return "dreams" if turn.role == "dreamer" else f"{episode.index}/{turn.messages[-1]['content']}"

    def public_facts(self, state: State) -> dict[str, Any]:
        """What goes into ``info`` at the end: all facts; no answer is among them."""
        if len(state.results) < len(state.plan):
            return {}
        questions, dreams, spent = self._rows(state)
        return {
            "agents": list(self.agents),
            "lessons": [lesson.name for lesson in state.lessons],
            "nights": self.nights,
            "budget": self.budget,
            **measures(questions, self.nights, self.pretest),
            "dreaming": dreaming(dreams),
            "tokens": costs(spent),
            "questions": questions,
            "dreams": with_sames(dreams),
        }

    def public_info(self, state: State) -> dict[str, Any]:
        """What goes into every ``info``: phase, night, lesson, and the night's budget of tokens."""
        step = self._now(state)
        return {"phase": step.phase, "night": step.night, "lesson": step.lesson, "budget": self.budget}

    def record(self, state: State) -> tuple[list[Task | Challenge], list[core.Event]]:
        """Lessons (the context as prompt), questions asked so far and accepted dreams; an event for each dream."""
        tasks: list[Task | Challenge] = []
        events = []
        for lesson in state.lessons:
            meta = {"lesson": lesson.index, "name": lesson.name}
            task = Task(family=self.lessons.name, level=0, prompt=lesson.context, meta=meta, origin="lesson")
            tasks.append(task)
        for number, step in enumerate(state.plan[: len(state.results) + 1]):
            tasks += step.tasks
            over = step.phase == "sleep" and number < len(state.results)
            for name, its in zip(self.dreamers, state.results[number] if over else (), strict=False):
                if its.dream is not None:
                    tasks.append(its.dream)
                    events.append(core.Event("accepted", name, {"night": step.night, "level": its.dream.level}))
                elif its.reject is not None:
                    data = {"night": step.night, "code": its.reject.code, "detail": its.reject.detail}
                    events.append(core.Event("rejected", name, data))
        return tasks, events

    def scripted(self, kind: str, request: Any, rng: np.random.Generator) -> str | None:
        """``oracle`` knows all; ``floor`` says nothing; ``guesser`` and ``generator`` have never seen a context.

        ``amnesiac`` reads what is before it and has forgotten it at once.  All but ``floor`` dream well.
        """
        state = getattr(request, "state", None)
        if not isinstance(state, State) or kind not in ("oracle", "floor", "guesser", "generator", "amnesiac"):
            return None
        step = self._now(state)
        if kind == "floor":
            return ""
        if request.role == "dreamer":
            return self.lessons.as_proposal(self.lessons.question(state.lessons[step.lesson], rng))
        task = step.tasks[self._place[request.agent]]
        knows = kind == "oracle" or (kind == "amnesiac" and step.phase == "wake")
        return self.lessons.gold(task) if knows else self.lessons.guess(task, rng)

    def _plan(self, lessons: tuple[Lesson, ...], rng: np.random.Generator) -> Iterator[Step]:
        def asked(phase: str, night: int, lesson: int) -> Step:
            half: Split = "wake" if phase == "wake" else "probe"
            found = [self.lessons.question(lessons[lesson], rng, half) for _ in self.learners]
            return Step(phase, night, lesson, tuple(found))

        for lesson in range(self.nights if self.pretest else 0):
            yield asked("before", -1, lesson)
        for night in range(self.nights):
            for _ in range(self.wakes):
                yield asked("wake", night, night)
            if self.dreamers:
                yield Step("sleep", night, night)
            for lesson in range(night + 1):
                yield asked("recall", night, lesson)
            if self.pretest and night + 1 < self.nights:
                yield asked("ahead", night, night + 1)

    def _now(self, state: State) -> Step:
        at = len(state.results)
        return state.plan[at] if at < len(state.plan) else Step("end", self.nights - 1, -1)

    def _answered(self, task: Task, action: Action) -> Result:
        if action.status != "ok":
            return _result(action, action.status)
        score, _ = answers.graded(self.lessons, task, action)
        return _result(action, score.status, value=float(score.value) if score.status == "ok" else None)

    def _dreamt(self, lesson: Lesson, author: str, action: Action) -> Result:
        if action.status != "ok":
            return _result(action, action.status)
        found = self.lessons.parse(lesson, action.text)
        if isinstance(found, core.Reject):
            return _result(action, "ok", reject=found)
        return _result(action, "ok", dream=minted(found, author))

    def _rows(self, state: State) -> tuple[list[Row], list[Row], list[tuple[str, int, int | None]]]:
        """Questions, dreams, and what each move cost."""
        questions, dreams, spent = [], [], []
        for step, results in zip(state.plan, state.results, strict=True):
            spent += [(step.phase, its.read, its.written) for its in results]
            place = {"night": step.night, "lesson": step.lesson}
            for name, its, task in zip(self.learners, results, step.tasks, strict=False):
                what = {"agent": name, "phase": step.phase, **place, "level": task.level}
                questions.append({**what, "value": its.value, "status": its.status})
            for name, its in zip(self.dreamers, results if step.phase == "sleep" else (), strict=False):
                row = {"agent": name, **place, "valid": its.dream is not None, "status": its.status}
                row["question"] = "" if its.dream is None else its.dream.id
                row["reject"] = "" if its.reject is None else its.reject.code
                dreams.append(row)
        return questions, dreams, spent


def _result(action: Action, status: core.Status, **more: Any) -> Result:
    """With the tokens read and written; ``written`` is None where the agent does not say."""
    usage, ids = action.usage, action.token_ids
    written = usage.completion_tokens or len(ids or ())
    told = written or usage.prompt_tokens or ids is not None
    return Result(status, read=usage.prompt_tokens, written=written if told else None, **more)


#: Which phases' tokens are reported together.
COSTS = {"before": "probing", "wake": "awake", "sleep": "asleep", "recall": "probing", "ahead": "probing"}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None if none is."""
    found = [v for v in values if v is not None]
    return math.fsum(found) / len(found) if found else None


def measures(rows: Sequence[Row], nights: int, pretest: bool) -> dict[str, Any]:
    """Everything that is measured by questions; None where nothing was.

    ``open[j]``: success with the context of lesson j.  ``before[j]``: closed book before the first day (None without a
    pretest).  ``closed[i][j]``: closed book after night i on lesson j; ``closed[i][i + 1]`` (asked with a pretest) is
    lesson j just before it is taught.  ``average_accuracy``: mean of the last row.  ``backward_transfer``: mean over
    all lessons but the last of (last night - best earlier score); ``forgetting`` with the other sign.
    ``since_learnt``: mean over these lessons of (last night - own night), Lopez-Paz' form.  ``forward_transfer``: mean
    over all lessons but the first of (just before its day - before the first day).  ``gap``: mean over lessons of
    (closed book after its own night - open).  ``failed``: questions without a verdict, by status.
    """
    found: dict[tuple[str, int, int], list[float | None]] = {}
    for row in rows:
        found.setdefault((row["phase"], row["night"], row["lesson"]), []).append(row["value"])
    every = range(nights)

    def score(phase: str, night: int, lesson: int) -> float | None:
        return mean(found.get((phase, night, lesson), ()))

    opened = [score("wake", j, j) for j in every]
    before = [score("before", -1, j) for j in every] if pretest else None
    closed = [[score("recall" if j <= i else "ahead", i, j) for j in every] for i in every]
    first = before or [None] * nights
    best = [
        max((v for v in [first[j], *[closed[i][j] for i in every[:-1]]] if v is not None), default=None) for j in every
    ]
    last = closed[-1]
    backward = mean(_minus(last[j], best[j]) for j in every[:-1])
    return {
        "open": opened,
        "before": before,
        "closed": closed,
        "average_accuracy": mean(last),
        "backward_transfer": backward,
        "forgetting": None if backward is None else 0.0 - backward,
        "since_learnt": mean(_minus(last[j], closed[j][j]) for j in every[:-1]),
        "forward_transfer": mean(_minus(closed[j - 1][j], first[j]) for j in every[1:]),
        "gap": mean(_minus(closed[j][j], opened[j]) for j in every),
        "failed": dict(sorted(Counter(row["status"] for row in rows if row["value"] is None).items())),
    }


def dreaming(rows: Sequence[Row]) -> dict[str, Any]:
    """Dreams asked for, valid, distinct (different questions within their night), failed calls, rejects by code."""
    valid = [row for row in rows if row["valid"]]
    return {
        "asked": len(rows),
        "valid": len(valid),
        "distinct": len({(row["night"], row["question"]) for row in valid}),
        "failed": sum(row["status"] != "ok" for row in rows),
        "rejects": dict(sorted(Counter(row["reject"] for row in rows if row["reject"]).items())),
    }


def costs(spent: Iterable[tuple[str, int, int | None]]) -> dict[str, dict[str, int]]:
    """Tokens ``read`` and ``written`` while ``awake``, ``asleep`` and ``probing``; ``uncounted``: completions without.

    ``spent``: phase, tokens read, tokens written (None: nobody counted) of each completion.
    """
    found = {part: {"read": 0, "written": 0, "uncounted": 0} for part in ("awake", "asleep", "probing")}
    for phase, read, written in spent:
        own = found[COSTS[phase]]
        own["read"] += read
        own["written"] += written or 0
        own["uncounted"] += written is None
    return found


def with_sames(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of dreams with ``same``: how many other dreams of the night ask the same."""
    count = Counter((row["night"], row["question"]) for row in rows if row["valid"])
    return [{**row, "same": count[row["night"], row["question"]] - 1 if row["valid"] else 0} for row in rows]


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
