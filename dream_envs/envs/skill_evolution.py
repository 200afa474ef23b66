"""``dream_envs/SkillEvolution-v0``: skills as text that two sides evolve against each other; no weights change.

Roles
    ``challenger_0`` writes tasks with rubrics about a context.  ``reasoner_i`` answers task i.  ``judge_j`` gives one
    verdict on one rubric of one answer (j = task * rubrics + rubric).  ``reasoner_proposer_0`` says what the
    reasoner's skills lack, from what was failed, and ``reasoner_editor_0`` makes the edit; ``challenger_proposer_0``
    and ``challenger_editor_0`` do so for the challenger's, from what was passed.
Phases
    ``pose``, ``answer``, ``judge``, ``propose``, ``edit``, with ``retest`` also ``again`` and ``rejudge``: one round on
    one context.  A phase in which nobody has anything to do is left out.  Skills come in by the task that the game
    starts from (``begin``) and go out by the facts (``texts``): a loop chains rounds.
What each sees
    The context and the skills of its own side.  Neither side ever sees the other's skills; a judge sees a question, one
    rubric and an answer.  The reasoner's proposer sees the failed tasks, its answers and the failed rubrics; the
    challenger's the passed tasks and no answers.  An agent that is not asked sees nothing.
What a completion must look like
    Tasks: ``Task: ...`` and ``Rubric: ...`` lines (``envs.skill_prompts``).  Answers: any text.  Verdicts: ``Verdict:
    1`` or ``0`` (``envs.judging``).  Proposals: any text.  Edits: ``Edit: add``, ``Name: ...``, ``Text:`` and the text
    (``tasks.skills``).  Whatever else comes is an event and changes nothing.
Rewards
    By default ``skill_evolution`` (``rewards.skills``): reasoner 1 if all rubrics are passed, else 0; challenger 1 -
    solved over valid tasks, 0 for others; judge its agreement with the context's program, where the task is one of the
    context's own; the reasoner's proposer and editor the change that they brought, with ``retest``; others ``abstain``.
Chance
    There is none for open answers; a judge who tosses a coin agrees in half.
End
    After the last phase that has somebody to ask.  A task without a verdict is neither failed nor passed.
Facts
    ``tasks`` (question, rubrics, validity, answer, verdicts, solved), ``rates`` with both denominators, ``failed``,
    ``passed``, ``edits`` (with unified diffs), ``skills`` (hashes and lengths), ``texts``, ``costs`` by role, ``truth``
    (programs), ``agreement``, ``change`` and ``again`` with ``retest``.  Texts, edits, tasks and truth are in the
    recorded episode alone, never in ``info``.
Played
    A round with agents who know the context; the judge earns 1::

        from dream_envs.envs.skill_evolution import SkillEvolution
        from dream_envs.play import play
        game = SkillEvolution("bundled:ferry")
        seats = {role.name: "oracle" for role in game.roles} | {"reasoner": "guesser"}
        episode = play(game, seats, reward="skill_evolution")
        episode.scores["judge_0"].value, episode.outcome.facts["edits"]["reasoner"]["op"]
Arguments
    See ``SkillEvolution``.
Source
    Ctx2Skill (arXiv 2604.27660).  Departures: a verdict a call instead of all rubrics in one reply, so that none is cut
    off; an editor changes one skill and does not write the set anew.
Version history
    0: first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from dream_envs import core
from dream_envs.checks import one_of
from dream_envs.core import Action, Challenge, DreamEnvsError, Limits, Message, Outcome, Reject, RoleSpec, Seat, Task
from dream_envs.envs import judging, skill_facts, skill_prompts
from dream_envs.envs._shared import SILENT, check_whole
from dream_envs.envs.judging import NOTATIONS, Question, Verdict
from dream_envs.envs.skill_facts import Answer, Change
from dream_envs.envs.skill_prompts import Case, Posed
from dream_envs.tasks import answers, skills
from dream_envs.tasks.contexts import Context, Exam, contexts_of
from dream_envs.tasks.skills import Edit, SkillSet

SIDES = ("reasoner", "challenger")
PHASES = ("pose", "answer", "judge", "propose", "edit", "again", "rejudge", "end")
MODES = ("round", "exam", "key", "one_shot")
FAMILY = "skill_evolution"
#: Facts that no agent is shown, at the end of the episode either: they hold the other side's skills, or the truth.
PUBLIC = ("context", "kind", "round", "mode", "rates", "failed", "passed", "skills", "costs")
ONE_SHOT = "Add one skill on how tasks about this context are solved: its rules, its traps, the form of an answer."
NO_SKILLS = SkillSet()


class State(msgspec.Struct, frozen=True):
    """Where a round stands; ``reasoner`` and ``challenger`` are the skills that came in, ``asked`` old questions."""

    context: int
    round: int = 0
    reasoner: SkillSet = NO_SKILLS
    challenger: SkillSet = NO_SKILLS
    asked: tuple[str, ...] = ()
    phase: str = "pose"
    posing: core.Status = "abstain"
    posed: tuple[Posed, ...] = ()
    surplus: int = 0
    answers: tuple[Answer, ...] = ()
    changes: dict[str, Change] = {}
    again: tuple[Answer, ...] = ()
    spent: tuple[dict[str, Any], ...] = ()

    def after(self, side: str) -> SkillSet:
        """The skills of a side as they are now."""
        return self.changes[side].after if side in self.changes else getattr(self, side)


class SkillEvolution:
    """The game; see the module's head for its manual page.

    Args:
        contexts: ``bundled``, ``bundled:KIND`` or ``bundled:ID,ID``, a folder of texts, ``module:attribute``, objects.
        notation: ``english`` or ``compact``.
        tasks: tasks a round, 1 to 64.
        rubrics: rubrics a task at most, 1 to 16.
        evolve: the sides whose skills may change: of ``reasoner`` and ``challenger``; () for none.
        mode: ``round``; ``exam`` (tasks are answered and judged, nothing is edited, private questions are allowed);
            ``key`` (the same with programs as judge); ``one_shot`` (one edit from the context alone).
        retest: after the edit the reasoner answers the same tasks again, and what that changed is a reward.
        skill_chars: characters of a skill set at most.
        reply_tokens: for every role but the judge, twice it for the challenger; None: 1,024 (256 in compact).
        judge_tokens: a judge's budget; None: 512 (4 in compact).
    """

    env_id = "dream_envs/SkillEvolution-v0"
    version = 0
    default_reward = "skill_evolution"

    def __init__(
        self,
        contexts: str | Sequence[Context] = "bundled",
        *,
        notation: str = "english",
        tasks: int = 3,
        rubrics: int = 6,
        evolve: Sequence[str] = SIDES,
        mode: str = "round",
        retest: bool = False,
        skill_chars: int = skills.MOST_CHARS,
        reply_tokens: int | None = None,
        judge_tokens: int | None = None,
    ) -> None:
        self.contexts = contexts_of(contexts)
        self.notation, self.mode = one_of("notation", notation, NOTATIONS), one_of("mode", mode, MODES)
        check_whole("tasks", tasks, 1, 64)
        check_whole("rubrics", rubrics, 1, 16)
        check_whole("skill_chars", skill_chars, 0, 2**20)
        for name, value in (("reply_tokens", reply_tokens), ("judge_tokens", judge_tokens)):
            if value is not None:
                check_whole(name, value, 1, 2**20)
        if isinstance(evolve, str) or not set(evolve) <= set(SIDES):
            raise DreamEnvsError(f"evolve={evolve!r:.60}: a list of 'reasoner' and 'challenger', or []")
        self.tasks, self.rubrics, self.evolve = tasks, rubrics, tuple(side for side in SIDES if side in evolve)
        self.retest, self.skill_chars = bool(retest), skill_chars
        self._place = {c.id: i for i, c in enumerate(self.contexts)}
        tokens = reply_tokens or (256 if notation == "compact" else answers.CHAT_TOKENS)
        judge = judge_tokens or (4 if notation == "compact" else 512)
        limits = answers.answer_limits(tokens)
        forms: dict[str, tuple[int, str, Limits, tuple[float, float]]] = {
            "challenger": (1, "tasks with rubrics", answers.answer_limits(2 * tokens), (0.0, 1.0)),
            "reasoner": (tasks, "an answer", limits, (0.0, 1.0)),
            "judge": (tasks * rubrics, "a verdict, 0 or 1", Limits(judge, max(64, 16 * judge)), (0.0, 1.0)),
        }
        for side in SIDES:
            forms[f"{side}_proposer"] = (1, "what should change", limits, (-1.0, 1.0))
            forms[f"{side}_editor"] = (1, "an edit of one skill", limits, (-1.0, 1.0))
        self.roles = tuple(RoleSpec(role, n, says, span) for role, (n, says, _, span) in forms.items())
        self._seats = {f"{role}_{i}": Seat(f"{role}_{i}", role, f[2]) for role, f in forms.items() for i in range(f[0])}
        self.agents = tuple(self._seats)
        good = dict.fromkeys(forms, "oracle")
        self.bounds: dict[str, tuple[Any, Any]] = {
            **{f"{side}_{kind}": (good, good) for side in SIDES for kind in ("proposer", "editor")},
            "challenger": (good, {**good, "reasoner": "floor"}),
            "reasoner": ({**good, "reasoner": "floor"}, good),
            "judge": ({**good, "judge": "floor"}, good),
        }
        if retest:  # the oracle's answers hang on no skill: what an edit of its own changes is nothing
            self.bounds |= {"reasoner_proposer": (0.0, 0.0), "reasoner_editor": (0.0, 0.0)}

    def variant(self, **changes: Any) -> SkillEvolution:
        """The same game with other arguments."""
        own = {"contexts": self.contexts, "evolve": self.evolve, "skill_chars": self.skill_chars}
        own |= {name: getattr(self, name) for name in ("notation", "tasks", "rubrics", "mode", "retest")}
        own |= {"reply_tokens": self._seats["reasoner_0"].limits.max_tokens}
        own |= {"judge_tokens": self._seats["judge_0"].limits.max_tokens}
        return type(self)(**{**own, **changes})

    def begin(
        self, context: str, *, round: int = 0, reasoner: SkillSet = NO_SKILLS, challenger: SkillSet = NO_SKILLS,
        asked: Sequence[str] = (),
    ) -> Task:  # fmt: skip
        """The task from which a round on this context starts, with both sides' skills and hashes of old questions."""
        meta = {"round": round, "asked": list(asked)}
        meta |= {"reasoner": reasoner.as_dict(), "challenger": challenger.as_dict()}
        return Task(family=FAMILY, level=1, prompt=context, meta=meta, origin="round")

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        """Round 0 on a context that ``rng`` draws, or what a task of ``begin`` says."""
        if task is None:
            state = State(int(rng.integers(len(self.contexts))))
        else:
            if task.family != FAMILY or task.prompt not in self._place:
                known = list(self._place)
                raise DreamEnvsError(
                    f"{self.env_id} starts from begin(context), not {task.prompt!r:.40}: {known!r:.80}"
                )
            reasoner, challenger = (SkillSet.of(task.meta.get(side, {})) for side in SIDES)
            place, number = self._place[task.prompt], int(task.meta.get("round", 0))
            state = State(place, number, reasoner, challenger, tuple(task.meta.get("asked", ())))
        if self.mode == "one_shot":
            return replace(state, phase="edit", changes={"reasoner": Change(state.reasoner, ONE_SHOT)})
        return state

    def turns(self, state: State) -> list[Seat]:
        """Who is asked in this phase, all at once."""
        return [self._seats[name] for name in self._asked(state)]

    def _asked(self, state: State) -> list[str]:
        phase = state.phase
        if phase == "pose":
            return ["challenger_0"]
        if phase in ("answer", "again"):
            here = phase == "answer" or (self.retest and state.after("reasoner") != state.reasoner)
            return [f"reasoner_{i}" for i, p in enumerate(state.posed) if p.reject is None] if here else []
        if phase in ("judge", "rejudge"):
            given = state.answers if phase == "judge" else state.again
            return [
                f"judge_{i * self.rubrics + k}"
                for i, (posed, answer) in enumerate(zip(state.posed, given, strict=False))
                for k in range(len(posed.rubrics))
                if self.mode != "key" and answer.status == "ok" and answer.text.strip()
            ]
        if phase == "propose":
            on = self.mode == "round"
            return [f"{side}_proposer_0" for side in self.evolve if on and self.cases(state, side)]
        if phase == "edit":
            wanted = {side: c.proposal.strip().strip(".").lower() for side, c in state.changes.items()}
            return [f"{side}_editor_0" for side, text in wanted.items() if text not in ("", "none")]
        return []

    def view(self, state: State, agent: str) -> list[Message]:
        """What ``agent`` is asked now; nothing for those who are not."""
        role, _, text = agent.rpartition("_")
        number, side, context = int(text), role.partition("_")[0], self.contexts[state.context].text
        if role == "judge":
            asked = self.question(state, agent)
            return [] if asked is None else [{"role": "user", "content": judging.write(asked)}]
        if agent not in self._asked(state):
            return []
        own = state.after(side) if state.phase == "again" else getattr(state, side)
        if role == "challenger":
            return skill_prompts.challenger(self.notation, context, own, self.tasks, self.rubrics)
        if role == "reasoner":
            return skill_prompts.reasoner(self.notation, context, own, state.posed[number].question)
        if role.endswith("_proposer"):
            return skill_prompts.proposer(self.notation, context, own, self.cases(state, side), side)
        return skill_prompts.editor(self.notation, context, own, state.changes[side].proposal)

    def seat(self, agent: str) -> Seat:
        """The seat of this name, with the bounds on its reply."""
        return self._seats[agent]

    def question(self, state: State, agent: str) -> Question | None:
        """What a judge is asked now, None if it is not."""
        number, given = int(agent.rpartition("_")[2]), {"judge": state.answers, "rejudge": state.again}.get(state.phase)
        if given is None or agent not in self._asked(state):
            return None
        slot, k = divmod(number, self.rubrics)
        posed = state.posed[slot]
        prompt = skill_prompts.criterion(posed.question, posed.rubrics[k])
        return Question("rubric", self.notation, prompt, (given[slot].text,))

    def cases(self, state: State, side: str) -> list[Case]:
        """What a side learns from: failed tasks with the failed rubrics, or passed tasks with all of them."""
        wanted, found = (0 if side == "reasoner" else 1), list[Case]()
        for posed, its in zip(state.posed, state.answers, strict=False):  # no answers where no task is valid
            if its.solved == wanted:
                text = its.text if side == "reasoner" else ""
                both = zip(posed.rubrics, its.marks, strict=True)
                found.append(Case(posed.question, text, tuple(r for r, mark in both if mark == wanted)))
        return found

    def apply(self, state: State, actions: Mapping[str, Action]) -> State:
        """The next state; an agent whose action is missing is taken to have said nothing."""
        asked = self._asked(state)
        if not asked:
            raise AssertionError("apply after the end: turns() is empty, the game is over")
        given = {name: self._cut(name, actions.get(name, SILENT)) for name in asked}
        spent = tuple(skill_facts.spent(self._seats[name].role, action) for name, action in given.items())
        move = {"pose": self._pose, "answer": self._answer, "again": self._answer, "judge": self._judge}
        move |= {"rejudge": self._judge, "propose": self._propose, "edit": self._edit}
        state = replace(move[state.phase](state, given), spent=(*state.spent, *spent))
        for phase in PHASES[PHASES.index(state.phase) + 1 :]:
            state = replace(state, phase=phase)
            if self._asked(state):
                break
        return state

    def _cut(self, agent: str, action: Action) -> Action:
        most = self._seats[agent].limits.max_chars
        given = agent == "challenger_0" and self.mode in ("exam", "key")  # probes and tests: no reply with a budget
        return action if given or len(action.text) <= most else replace(action, text=action.text[:most])

    def _pose(self, state: State, given: Mapping[str, Action]) -> State:
        action, context = given["challenger_0"], self.contexts[state.context]
        found = skill_prompts.read_tasks(action.text, self.notation, self.rubrics) if action.status == "ok" else []
        known, posed = set(state.asked), list[Posed]()
        for its in found[: self.tasks]:
            key, own = question_key(its.question), context.find(its.question)
            if its.reject is None and key in known:
                its = replace(its, reject=Reject("duplicate", "it was asked before"))
            elif its.reject is None and own is not None and own[0] == "test" and self.mode == "round":
                its = replace(its, reject=Reject("held_out"))
            posed.append(replace(its, own=own is not None))
            known.add(key)
        return replace(state, posing=action.status, posed=tuple(posed), surplus=max(0, len(found) - self.tasks))

    def _answer(self, state: State, given: Mapping[str, Action]) -> State:
        made = list[Answer]()
        for number, posed in enumerate(state.posed):
            action = given.get(f"reasoner_{number}")
            if action is None:
                made.append(Answer("abstain"))
                continue
            shown = answers.visible(action.text) if self.notation == "english" else action.text
            answer = Answer(action.status, (shown or "").strip() if action.status == "ok" else "")
            if self.mode == "key":
                marks = self._marks(state, number, answer.text)
                verdicts = [Verdict(None if m is None else int(m), "abstain") for m in marks]  # no judge was asked
            else:  # there is nothing to judge in an empty answer
                verdicts = [Verdict(None, "abstain") if answer.text else Verdict(0, "abstain") for _ in posed.rubrics]
            made.append(replace(answer, verdicts=tuple(verdicts)))
        return replace(state, **{"answers" if state.phase == "answer" else "again": tuple(made)})

    def _judge(self, state: State, given: Mapping[str, Action]) -> State:
        field = "answers" if state.phase == "judge" else "again"
        made = list[Answer]()
        for slot, answer in enumerate(getattr(state, field)):
            verdicts = list(answer.verdicts)
            for k in range(len(verdicts)):
                if (action := given.get(f"judge_{slot * self.rubrics + k}")) is not None:
                    verdicts[k] = self._verdict(action)
            made.append(replace(answer, verdicts=tuple(verdicts)))
        return replace(state, **{field: tuple(made)})

    def _verdict(self, action: Action) -> Verdict:
        if action.status != "ok":
            return Verdict(None, action.status)
        text = answers.settled(action, "verdict") if self.notation == "english" else action.text
        rating = judging.rating_of("rubric", self.notation, text)
        return Verdict(rating, "ok" if rating is not None else "invalid")

    def _propose(self, state: State, given: Mapping[str, Action]) -> State:
        changes = dict(state.changes)
        for name, action in given.items():
            side = name.partition("_")[0]
            text = (answers.visible(action.text) or "").strip() if action.status == "ok" else ""
            changes[side] = Change(getattr(state, side), text, status=action.status)
        return replace(state, changes=changes)

    def _edit(self, state: State, given: Mapping[str, Action]) -> State:
        changes = dict(state.changes)
        for name, action in given.items():
            side = name.partition("_")[0]
            before, change = getattr(state, side), replace(changes[side], status=action.status)
            edit = skills.parse_edit(action.text, self.notation) if action.status == "ok" else None
            if isinstance(edit, Reject):
                change = replace(change, reject=edit)
            elif edit is not None:
                made = before.changed(edit, chars=self.skill_chars)
                bad = isinstance(made, Reject)
                change = replace(change, edit=edit, **({"reject": made} if bad else {"after": made}))
            changes[side] = change
        return replace(state, changes=changes)

    def outcome(self, state: State) -> Outcome | None:
        """The facts named in the manual page."""
        return Outcome("ok", self._facts(state)) if state.phase == "end" else None

    def _facts(self, state: State) -> dict[str, Any]:
        rows, context = skill_facts.tasks(state.posed, state.answers), self.contexts[state.context]
        truth = [self._marks(state, i, row.get("answer", "")) if "answer" in row else [] for i, row in enumerate(rows)]
        facts: dict[str, Any] = {
            "agents": list(self.agents), "context": context.id, "kind": context.kind, "round": state.round,
            "mode": self.mode, "size": {"tasks": self.tasks, "rubrics": self.rubrics}, "posing": state.posing,
            "surplus": state.surplus, "tasks": rows, "rates": skill_facts.rates(rows),
            "failed": [i for i, row in enumerate(rows) if row.get("solved") == 0],
            "passed": [i for i, row in enumerate(rows) if row.get("solved") == 1],
            "edits": {s: skill_facts.edit_row(getattr(state, s), c) for s, c in state.changes.items()},
            "skills": {
                s: {"before": skill_facts.size(getattr(state, s)), "after": skill_facts.size(state.after(s))}
                for s in SIDES
            },
            "texts": {
                s: {"before": getattr(state, s).as_dict(), "after": state.after(s).as_dict()} for s in SIDES
            },
            "truth": truth, "agreement": skill_facts.agreement(rows, truth), "costs": skill_facts.costs(state.spent),
        }  # fmt: skip
        if self.retest and "reasoner" in state.changes:
            facts |= self._retested(state, rows)
        return facts

    def _retested(self, state: State, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the edit changed on the same tasks: 0 where it changed nothing in the skills."""
        if not state.again:
            return {"change": 0.0 if any(row.get("share") is not None for row in rows) else None, "again": None}
        again = skill_facts.tasks(state.posed, state.again)
        gains = [
            b["share"] - a["share"] for a, b in zip(rows, again, strict=True)
            if a.get("share") is not None and b.get("share") is not None
        ]  # fmt: skip
        return {"change": skill_facts.mean(gains), "again": skill_facts.rates(again)}

    def public_facts(self, state: State) -> dict[str, Any]:
        """What of the facts goes into ``info`` at the end: no text of either side, no truth."""
        facts = self._facts(state) if state.phase == "end" else {}
        return {name: fact for name, fact in facts.items() if name in PUBLIC}

    def public_info(self, state: State) -> dict[str, Any]:
        """What goes into every ``info``: phase, context and round."""
        return {"phase": state.phase, "context": self.contexts[state.context].id, "round": state.round}

    def extracted(self, state: State, agent: str, action: Action) -> str | None:
        """A judge's verdict, an editor's change and a challenger's valid tasks, as they are read."""
        if agent.startswith("judge"):
            rating = self._verdict(action).rating
            return "" if rating is None else str(rating)
        if agent.endswith("_editor_0"):
            edit = skills.parse_edit(action.text, self.notation)
            return "" if isinstance(edit, Reject) else "none" if edit is None else f"{edit.op} {edit.name}"
        if agent == "challenger_0":
            found = skill_prompts.read_tasks(action.text, self.notation, self.rubrics)
            return "\n".join(its.question for its in found if its.reject is None)
        return None

    def group(self, episode: core.Episode, turn: core.Turn) -> str:
        """Turns of a role that were asked the same thing."""
        return f"{turn.role}/{core.content_hash(*[m['content'] for m in turn.messages])}"

    def record(self, state: State) -> tuple[list[Task | Challenge], list[core.Event]]:
        """The round and its valid tasks; an event for each task, verdict and edit that was turned away."""
        context = self.contexts[state.context]
        sides = {side: getattr(state, side) for side in SIDES}
        tasks: list[Task | Challenge] = [self.begin(context.id, round=state.round, asked=state.asked, **sides)]
        events = list[core.Event]()
        for number, posed in enumerate(state.posed):
            if posed.reject is None:
                meta = {"rubrics": list(posed.rubrics), "context": context.id, "own": posed.own}
                challenge = Challenge(
                    family=FAMILY, level=len(posed.rubrics), prompt=posed.question, meta=meta, author="challenger_0",
                    truth="claimed", origin="proposal", round=state.round,
                )  # fmt: skip
                tasks.append(challenge)
            else:
                data = {"task": number, "code": posed.reject.code, "detail": posed.reject.detail}
                events.append(core.Event("rejected", "challenger_0", data))
        if state.surplus:
            events.append(core.Event("surplus", "challenger_0", {"tasks": state.surplus}))
        for answers_ in (state.answers, state.again):
            for slot, answer in enumerate(answers_):
                unread = [k for k, v in enumerate(answer.verdicts) if v.status == "invalid"]
                events += [core.Event("unreadable", f"judge_{slot * self.rubrics + k}") for k in unread]
        for side, change in state.changes.items():
            if change.reject is not None:
                data = {"code": change.reject.code, "detail": change.reject.detail}
                events.append(core.Event("edit_rejected", f"{side}_editor_0", data))
        return tasks, events

    def exam(self, state: State, slot: int) -> Exam | None:
        """The exam behind a task, None where it is not one of the context's own."""
        found = self.contexts[state.context].find(state.posed[slot].question)
        return None if found is None else found[1]

    def _marks(self, state: State, slot: int, answer: str) -> list[bool | None]:
        """What programs say of an answer, rubric by rubric of the task as it was posed."""
        exam, posed = self.exam(state, slot), state.posed[slot]
        checks = {} if exam is None else {rubric.text: rubric.check for rubric in exam.rubrics}
        return [None if (check := checks.get(text)) is None else check(answer) for text in posed.rubrics]

    def truths(self, state: State, agent: str) -> list[bool]:
        """For scripted judges: the true verdict on the one answer before it; True where no program knows."""
        slot, k = divmod(int(agent.rpartition("_")[2]), self.rubrics)
        given = state.again if state.phase == "rejudge" else state.answers
        exam, text = self.exam(state, slot), state.posed[slot].rubrics[k]
        rubric = None if exam is None else next((r for r in exam.rubrics if r.text == text), None)
        return [rubric is None or rubric.check is None or rubric.check(given[slot].text)]

    def scripted(self, kind: str, request: Any, rng: np.random.Generator) -> str | None:
        """``oracle`` knows the context's programs and names what was failed; ``floor`` says nothing; others guess."""
        state = getattr(request, "state", None)
        if not isinstance(state, State) or kind not in ("oracle", "floor", "guesser", "generator"):
            return None
        role, number = request.role, int(request.agent.rpartition("_")[2])
        if role == "judge":
            return None
        if kind == "floor":
            return ""
        context, side = self.contexts[state.context], role.partition("_")[0]
        if role == "challenger":
            return skill_prompts.write_tasks(self.own_tasks(state, rng), self.notation)
        if role == "reasoner":
            exam, posed = self.exam(state, number), state.posed[number]
            if exam is None:
                return "; ".join(posed.rubrics) if kind == "oracle" else context.text[:200]
            whole = kind == "oracle" or rng.random() < 0.5  # so that both sides have something to learn from
            return exam.answer(None if whole else [i for i in range(len(exam.rubrics)) if rng.random() < 0.5])
        if role.endswith("_proposer"):
            return "Add what was missing."
        missed = dict.fromkeys(rubric for case in self.cases(state, side) for rubric in case.rubrics)
        edit = Edit("add", f"round-{state.round}", "\n".join(f"- {r}" for r in missed or ["Read closely."]))
        return skills.say_edit(edit if kind == "oracle" else None, self.notation)

    def own_tasks(self, state: State, rng: np.random.Generator) -> list[tuple[str, list[str]]]:
        """As many of the context's own practice tasks as a round has, none of them asked before while there are such.

        A context without programs has a question about each of its lines.
        """
        context = self.contexts[state.context]
        known = [(e.question, [r.text for r in e.rubrics][: self.rubrics]) for e in context.practice()]
        lines = [line.strip() for line in context.text.split("\n") if line.strip()]
        known = known or [
            (f"What is said in paragraph {i} of the text?", ["Quotes it.", "Adds nothing."])
            for i in range(1, max(len(lines), 2 * self.tasks) + 1)
        ]
        order = [known[i] for i in rng.permutation(len(known))]
        return sorted(order, key=lambda task: question_key(task[0]) in state.asked)[: self.tasks]


def question_key(question: str) -> str:
    """What makes two questions the same: their words, whatever the case and the blanks."""
    return core.content_hash(" ".join(question.casefold().split()))
