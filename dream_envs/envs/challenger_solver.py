"""``dream_envs/ChallengerSolver-v0``: one agent writes a problem, others solve it, and the truth decides.

Roles
    ``challenger_0`` proposes, ``solver_0`` .. ``solver_{n-1}`` answer at the same time and independently, ``judge_0``
    (only with ``judge=True``) decides in place of the verifier; with ``judge="rubric"`` or ``"score"`` every answer has
    ``judgements`` judges of its own, as in ``SelfJudge``.
What each sees
    The challenger sees its prompt: in compact notation ``new``.  A solver sees the accepted problem, ``c:BDA``, and
    nothing of the other solvers.  The judge sees the problem and the numbered answers, a judge of a panel the problem
    and its one answer, ``r|c:BDA|BhDnAj`` (``envs.judging``).  Nobody sees the truth.
What a completion must look like
    A proposal follows the family's grammar to its last character; in english its last line that does counts.  A
    solver's is the family's accepted answer; in english it is read out of what stands around it (``tasks.answers``).
    A judge's is one ``0`` or ``1`` an answer, separated by blanks; in a panel ``0`` or ``1`` (a digit for a score), in
    english the last ``Verdict: 1``.
Rewards
    By default the solver's is correctness (0 or 1; chance is the family's) and the challenger's is learnability,
    1 - p where some but not all solvers are right, else 0 (0 to 1 - 1/n).
End
    After the solvers' (or the judge's) move.  A proposal that the gate turns away ends the episode at once: the
    challenger gets the reward for an invalid proposal, the solvers' status is ``abstain`` and they are not punished.
Arguments
    See ``ChallengerSolver``.
Source
    The game of Absolute Zero (arXiv 2505.03335) and R-Zero (arXiv 2508.05004); our own rules for what they leave open.
Version history
    0: first.  1: english replies and proposals are read by ``tasks.answers``; ``free_text`` is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from dream_envs import core
from dream_envs.core import Action, DreamEnvsError, Limits, Outcome, Reject, RoleSpec, Score, Seat, Task
from dream_envs.envs import judge_facts
from dream_envs.envs._shared import SILENT, check_whole, family_of, minted, proposal_limits, reply_limits
from dream_envs.envs.judging import NOTATIONS, RATINGS, Panel, Question, Verdict, worth
from dream_envs.tasks import answers

CHALLENGER, JUDGE = "challenger_0", "judge_0"
Gate = Callable[[Task], Reject | None]


class State(msgspec.Struct, frozen=True):
    """Where a game stands.  ``phase``: propose, solve, judge or end."""

    brief: Task
    phase: str = "propose"
    proposal: Action | None = None
    challenge: core.Challenge | None = None
    reject: Reject | None = None
    replies: tuple[Action, ...] = ()
    verdicts: tuple[Score, ...] = ()
    truths: tuple[Score, ...] = ()
    panel: tuple[Verdict, ...] = ()


class ChallengerSolver:
    """The game; see the module's head for its manual page.

    Args:
        family: a task family's name (``composition``) or a TaskFamily object.
        notation: ``compact`` or ``english``; only with a family's name, and if the family has both.
        solvers: 1 to 1024 independent attempts at each problem.
        judge: True gives ``judge_0`` the last word instead of the verifier, ``rubric`` (right or wrong) or ``score``
            (0 to 10, a digit in compact) a panel, whose mean verdict on a reply counts; the truth is still recorded.
        judgements: how many judges of a panel each reply has.
        judge_notation: how a panel is asked, ``compact`` or ``english``; None: as the family.
        gate: ``Task -> Reject | None``, asked after the family's own parser; ``curriculum.gates`` has ready ones.
        level: the level that the brief asks for (None: free).
        reply_tokens: a solver's budget; None: the family's own (english: 1,024).
        proposal_tokens: a challenger's; None: as many as the longest proposal has characters (english: 1,024).
        family_args: keyword arguments of the family, with a family's name.
    """

    env_id = "dream_envs/ChallengerSolver-v0"
    version = 1
    proposer = CHALLENGER
    solver_role = "solver"

    def __init__(
        self,
        family: str | core.TaskFamily = "composition",
        *,
        notation: str = "compact",
        solvers: int = 4,
        judge: bool | str = False,
        judgements: int = 1,
        judge_notation: str | None = None,
        gate: Gate | None = None,
        level: int | None = None,
        reply_tokens: int | None = None,
        proposal_tokens: int | None = None,
        family_args: Mapping[str, Any] | None = None,
    ) -> None:
        check_whole("solvers", solvers, 1, 1024)
        self.family = family = family_of(family, notation, family_args)
        if level is not None and level not in family.levels:
            raise DreamEnvsError(f"level={level}: {family.name} has {family.levels.start} to {family.levels.stop - 1}")
        self.solvers, self.judge, self.gate, self.level = solvers, judge, gate, level
        self.solver_names = tuple(f"solver_{i}" for i in range(solvers))
        self.panel = self._panel(judge, judgements, judge_notation)
        judges = self.panel.judges if self.panel is not None else (JUDGE,) if judge else ()
        form = self.panel.reply_form() if self.panel is not None else "one 0 or 1 a reply, separated by blanks"
        self.agents = (CHALLENGER, *self.solver_names, *judges)
        # The lowest rate of success above 0 that verdicts can make; scripted judges, who agree, make 1 / solvers.
        steps, self.bounds = solvers, dict[str, Any]()
        if self.panel is not None:
            steps *= judgements * RATINGS[self.panel.kind, self.panel.notation][1]
            self.bounds = {"challenger": (0.0, 1.0 - 1.0 / solvers)}
        self.roles: tuple[RoleSpec, ...] = (
            RoleSpec("challenger", 1, "a problem in the family's notation", (0.0, 1.0 - 1.0 / steps)),
            RoleSpec("solver", solvers, "the answer in the family's notation", (0.0, 1.0)),
        )
        if judge:
            self.roles += (RoleSpec("judge", len(judges), form, (0.0, 1.0)),)
        propose, solve = proposal_limits(family, proposal_tokens), reply_limits(family, reply_tokens)
        self._seats = {
            "propose": [Seat(CHALLENGER, "challenger", propose)],
            "solve": [Seat(name, "solver", solve) for name in self.solver_names],
            "judge": [Seat(JUDGE, "judge", Limits(2 * solvers + 8, 4 * solvers + 64))],
            "end": [],
        }
        self._start = State(self.brief(level=level))

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        """Begin with the game's own brief, or another (see ``brief``); with origin ``replay`` no gate is asked."""
        return self._start if task is None else State(task)

    def brief(self, reference: Task | None = None, level: int | None = None) -> Task:
        """A brief that asks for something unlike ``reference``, at ``level``."""
        text = self.family.brief(level, reference)
        return Task(family=self.family.name, level=level or 0, prompt=text, origin="brief")

    def turns(self, state: State) -> list[Seat]:
        """The challenger, then all solvers at once, then the judge, or the panel, if there is one."""
        if state.phase == "judge" and self.panel is not None:
            return self.panel.seats([reply.status == "ok" for reply in state.replies])
        return self._seats[state.phase]

    def view(self, state: State, agent: str) -> list[core.Message]:
        """What ``agent`` may see now; agents other than those of ``turns`` see what they saw in their own turn."""
        if agent == CHALLENGER:
            return [{"role": "user", "content": state.brief.prompt}]
        if state.challenge is None:
            return []
        if not agent.startswith("judge"):
            return [{"role": "user", "content": state.challenge.prompt}]
        if state.phase == "solve":
            return []
        if self.panel is not None:
            if state.replies[self.panel.ask_of(agent).who[0]].status != "ok":
                return []
            return self.panel.messages(agent, state.challenge.prompt, self._shown(state))
        replies = "\n".join(f"[{i}] {a.text}" for i, a in enumerate(state.replies))
        asked = f"Write {self.solvers} verdicts in order, 1 for right and 0 for wrong, separated by blanks."
        text = f"Problem:\n{state.challenge.prompt}\n\nReplies:\n{replies}\n\n{asked}"
        return [{"role": "user", "content": text}]

    def apply(self, state: State, actions: Mapping[str, Action]) -> State:
        """The next state; an agent whose action is missing is taken to have said nothing."""
        if state.phase == "propose":
            return self._propose(state, actions.get(CHALLENGER, SILENT))
        if state.phase == "solve":
            replies = tuple([actions.get(name, SILENT) for name in self.solver_names])
            truths = tuple([self._truth(state.challenge, reply) for reply in replies])
            state = replace(state, phase="judge", replies=replies, verdicts=truths, truths=truths)
            if self.judge and self.turns(state):
                return state
            nobody = self.panel.verdicts([False] * self.solvers, {}) if self.panel is not None else ()
            return replace(state, phase="end", panel=nobody)
        if state.phase == "judge" and self.panel is not None:
            return self._judged(state, self.panel, actions)
        if state.phase == "judge":
            return replace(state, phase="end", verdicts=self._verdicts(actions.get(JUDGE, SILENT)))
        raise AssertionError("apply after the end: turns() is empty, the game is over")

    def outcome(self, state: State) -> Outcome | None:
        """Facts: ``agents`` (all seats), ``valid``, ``reject``, ``solve_rate`` (of ok verdicts), ``correct`` by solver.

        With a judge also ``truth`` by solver and ``verdict_status``; with a panel its table, ``judgements``, and
        ``judge_accuracy`` (see ``envs.judge_facts``), and ``correct`` is the mean verdict.
        """
        if state.phase != "end":
            return None
        facts: dict[str, Any] = {"agents": list(self.agents)}
        if state.challenge is None:
            reject = state.reject or Reject("empty")
            facts |= {"valid": False, "reject": reject.code, "solve_rate": None, "correct": {}}
            return Outcome(state.proposal.status if state.proposal else "ok", facts)
        values = [v.value for v in state.verdicts if v.status == "ok"]
        facts |= {
            "valid": True,
            "reject": "",
            "solve_rate": sum(values) / len(values) if values else None,
            "correct": self._by_solver(state.verdicts),
        }
        if self.judge:
            facts["truth"] = self._by_solver(state.truths)
            facts["verdict_status"] = state.verdicts[0].status if state.verdicts else "abstain"
        if self.panel is not None:
            rows = judge_facts.table(self.panel, state.panel, {})
            facts |= {"judging": self.panel.kind, "judgements": rows, **judge_facts.validity(rows)}
            facts["judge_accuracy"] = judge_facts.accuracy(rows, facts["truth"], self.panel.kind)
            facts["verdict_status"] = "ok" if values else facts["verdict_status"]
        return Outcome("ok", facts)

    def extracted(self, state: State, agent: str, action: Action) -> str | None:
        """A solver's answer as it is read."""
        if state.phase != "solve" or state.challenge is None:
            return None
        return answers.graded(self.family, state.challenge, action)[1]

    def group(self, episode: core.Episode, turn: core.Turn) -> str:
        """All proposals of a round; the attempts at the problem of an episode; its judgements."""
        return "proposals" if turn.role == "challenger" else f"{episode.index}/{turn.role}"

    def record(self, state: State) -> tuple[list[Task | core.Challenge], list[core.Event]]:
        """The brief and the challenge, and one event for the proposal's fate."""
        if state.challenge is not None:
            accepted = core.Event("accepted", CHALLENGER, {"level": state.challenge.level})
            return [state.brief, state.challenge], [accepted]
        if state.reject is not None:
            data = {"code": state.reject.code, "detail": state.reject.detail}
            return [state.brief], [core.Event("rejected", CHALLENGER, data)]
        return [state.brief], []

    def _propose(self, state: State, action: Action) -> State:
        found: Task | Reject = Reject("empty", f"the call ended in {action.status}")
        if action.status == "ok":
            found = self.family.parse(action.text)
        asked = state.brief.meta.get("stream", "")
        if isinstance(found, Task) and asked and found.meta.get("stream", asked) != asked:
            found = Reject("limits", f"a problem of {found.meta['stream']}, {asked} was asked for")
        if isinstance(found, Task) and self.gate is not None and state.brief.origin != "replay":
            found = self.gate(found) or found
        if isinstance(found, Reject):
            return replace(state, phase="end", proposal=action, reject=found)
        challenge = minted(found, CHALLENGER, state.brief.meta.get("reference", ""))
        return replace(state, phase="solve", proposal=action, challenge=challenge)

    def _truth(self, challenge: core.Challenge | None, reply: Action) -> Score:
        assert challenge is not None
        return answers.graded(self.family, challenge, reply)[0]

    def _by_solver(self, scores: tuple[Score, ...]) -> dict[str, float | None]:
        return {n: s.value if s.status == "ok" else None for n, s in zip(self.solver_names, scores, strict=True)}

    def question(self, state: State, agent: str) -> Question | None:
        """What a judge of a panel is asked, unescaped; None without a panel.  For scripted judges."""
        if self.panel is None or state.challenge is None or not state.replies:
            return None
        return self.panel.question(agent, state.challenge.prompt, self._shown(state))

    def _panel(self, judge: bool | str, judgements: int, notation: str | None) -> Panel | None:
        if isinstance(judge, bool):
            if judgements != 1 or notation is not None:
                raise DreamEnvsError("judgements and judge_notation go with a panel: judge='rubric' or 'score'")
            return None
        if judge not in ("rubric", "score"):
            raise DreamEnvsError(f"judge={judge!r}: True (one judge of all replies), 'rubric' or 'score' (a panel)")
        own = self.family.notation if self.family.notation in NOTATIONS else "english"
        return Panel(judge, notation or own, self.solver_names, judgements)

    def _shown(self, state: State) -> list[str]:
        cap = self._seats["solve"][0].limits.max_chars
        return [reply.text[:cap] for reply in state.replies]

    def _judged(self, state: State, panel: Panel, actions: Mapping[str, Action]) -> State:
        said = panel.verdicts([reply.status == "ok" for reply in state.replies], actions)
        scores = []
        for i, reply in enumerate(state.replies):
            mine = [verdict for verdict, ask in zip(said, panel.asks, strict=True) if ask.who == (i,)]
            told = [worth(panel.kind, panel.notation, v.rating) for v in mine if v.rating is not None]
            failed = [v.status for v in mine if v.status not in ("ok", "invalid")]
            status = reply.status if reply.status != "ok" else failed[0] if failed else "abstain"
            mean = Score(sum(told) / len(told), grader="panel") if told else Score(0.0, status, grader="panel")
            scores.append(mean)
        return replace(state, phase="end", verdicts=tuple(scores), panel=said)

    def _verdicts(self, action: Action) -> tuple[Score, ...]:
        text = action.text
        if self.family.notation == "english":  # the last line of a chat model's reply
            text = answers.bare((answers.visible(text) or "").rstrip().rpartition("\n")[2])
        words = text[: 4 * self.solvers + 64].split() if action.status == "ok" else []
        if len(words) != self.solvers or set(words) - {"0", "1"}:
            status = action.status if action.status != "ok" else "abstain"
            return tuple(Score(0.0, status, grader=JUDGE) for _ in self.solver_names)
        return tuple(Score(float(w), grader=JUDGE) for w in words)
