r"""``dream_envs/SelfJudge-v0``: several answers to one prompt, judged against each other by the model that wrote them.

Roles
    ``actor_0`` .. ``actor_{n-1}`` answer one prompt at the same time and independently.  ``judge_0`` .. ``judge_{m-1}``
    then judge, all at the same time, one judgement a seat: ``K`` for every unordered pair, half of them with the pair
    shown the other way round.  Whether the judge has the actor's weights, others, or frozen ones is decided by who is
    seated in the role ``judge``.
What each sees
    An actor sees the prompt, ``c:BDA``, and nothing of the others.  A judge sees the prompt and its two answers,
    ``j|c:BDA|BhDnAj|BhDnAk`` in compact notation, a paragraph in english; neither who wrote them nor other verdicts.
    Of an answer it sees what follows closed reasoning, at most ``answer_chars`` characters.  Nobody sees the
    truth.
What a completion must look like
    An actor's is whatever the prompt asks for.  A judge's is ``1`` or ``2`` and nothing else (compact), or ends in a
    line ``Verdict: 1`` (english).  Grammar: ``envs.judging``.  Anything else is an event and an unreadable verdict.
Rewards
    By default SERL's (``rewards.self_judge``): the actor's is its length-controlled win rate, 0 to below 1.25, the
    judge's is +1 for a verdict that agrees with the aggregate ranking, -1 for one that does not or is unreadable, 0
    where the two are level.  With ``judging="score"`` or ``"rubric"`` the actor's is the mean verdict and the judge's
    its agreement with the other verdicts on the same answer, both 0 to 1.
Chance
    With random verdicts an actor has 0.5 at equal lengths, a judge above 0: its verdict counts in the ranking.
End
    After the judges' moves; after the actors' where fewer than two answered (one, for the pointwise kinds).  Judges of
    answers that never came are not asked, and their status is ``abstain``.
Facts
    ``lengths``, ``judgements`` (the table, one row a judgement), ``groups`` (whose rewards are compared with whose),
    validity; pairwise: ``pairs``, ``ties``, ``cycles``, order effects; ``zero_variance``; pointwise: ``values``.  See
    ``envs.judge_facts``.  ``truth`` and ``judge_accuracy`` are in the recorded episode alone, all others in ``info``.
Arguments
    See ``SelfJudge``.
Source
    Self-Examining RL (SERL, arXiv 2511.07922) and its code; score and rubric after Self-Rewarding Language Models
    (arXiv 2401.10020) and Multi-Agent Evolve (arXiv 2510.23595).
Version history
    0: first.  1: english replies and verdicts are read by ``tasks.answers``; ``think_end`` is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from dream_envs import core
from dream_envs.core import Action, DreamEnvsError, Message, Outcome, RoleSpec, Seat, Task
from dream_envs.envs import judge_facts
from dream_envs.envs._shared import SILENT, check_whole, family_of
from dream_envs.envs.judging import ANSWERS, NOTATIONS, Panel, Question, Verdict
from dream_envs.tasks import answers

#: Facts that no agent is ever shown, at the end of the episode either.
HIDDEN = ("truth", "judge_accuracy")


class State(msgspec.Struct, frozen=True):
    """Where a game stands.  ``phase``: answer, judge or end.  ``answers``: what the judges see of the replies."""

    task: Task
    phase: str = "answer"
    replies: tuple[Action, ...] = ()
    answers: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


class SelfJudge:
    """The game; see the module's head for its manual page.

    Args:
        family: where the prompts come from: a task family's name or a TaskFamily object.  Its verifier gives the truth
            that the judges' accuracy is measured against; a task of another family, or one that it cannot verify, has
            none.
        notation: ``compact`` or ``english``; only with a family's name, and if the family has both.
        actors: N, 2 to 64 answers (1 or more where they are not compared).
        judgements: K, how often each pair (or answer) is judged; even where ``order_swap``.
        order_swap: show a pair the other way round in half of its judgements.  False: the lower number always first.
        judging: ``pairwise``, ``score`` (0 to 10, a digit in compact), ``rubric`` (right or wrong), or ``none``.
        judge_notation: ``compact`` or ``english``; None: as the family's.
        level: the level, or levels drawn from evenly; None: all that the family has.
        prompts: open prompts, one drawn for each episode, in place of the family; there is no truth then.
        actor_tokens: an actor's budget; None: the family's, or 1024 for ``prompts``.
        judge_tokens: a judge's budget; None: 4 in compact, 512 in english.
        answer_chars: a judge sees so many characters of an answer; None: all that an actor may write.
        family_args: keyword arguments of the family, with a family's name.
    """

    env_id = "dream_envs/SelfJudge-v0"
    version = 1
    solver_role = "actor"

    def __init__(
        self,
        family: str | core.TaskFamily = "composition",
        *,
        notation: str = "compact",
        actors: int = 4,
        judgements: int = 4,
        order_swap: bool = True,
        judging: str = "pairwise",
        judge_notation: str | None = None,
        level: int | Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        actor_tokens: int | None = None,
        judge_tokens: int | None = None,
        answer_chars: int | None = None,
        family_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.prompts = _checked_prompts(prompts)
        self.family = None if self.prompts else family_of(family, notation, family_args)
        self.levels = _levels(self.family, level)
        check_whole("actors", actors, ANSWERS.get(judging, 1), 64)
        budgets = {"actor_tokens": actor_tokens, "judge_tokens": judge_tokens, "answer_chars": answer_chars}
        for name, value in budgets.items():
            if value is not None:
                check_whole(name, value, 1, 2**20)
        self.actors = tuple(f"actor_{i}" for i in range(actors))
        own = self.family.notation if self.family is not None else notation
        asked_in = judge_notation if judge_notation is not None else own if own in NOTATIONS else "english"
        self.judging = judging
        self.panel: Panel | None = None
        if judging != "none":
            how: dict[str, Any] = {"order_swap": order_swap, "max_tokens": judge_tokens}
            self.panel = Panel(judging, asked_in, self.actors, judgements, **how)
        judges = self.panel.judges if self.panel is not None else ()
        self.agents = (*self.actors, *judges)
        ranges = {"actor": (0.0, 1.25), "judge": (-1.0, 1.0)} if judging == "pairwise" else {}
        self.roles: tuple[RoleSpec, ...] = (
            RoleSpec("actor", actors, "whatever the prompt asks for", ranges.get("actor", (0.0, 1.0))),
        )
        if self.panel is not None:
            form = self.panel.reply_form()
            self.roles += (RoleSpec("judge", len(judges), form, ranges.get("judge", (0.0, 1.0))),)
        # 1.25 is a limit: the length band is open.  With lengths alike, as scripted actors write, a clean sweep is 1.
        self.bounds = {"actor": (0.0, 1.0)}
        own_tokens = answers.CHAT_TOKENS if self.family is None else self.family.max_reply_tokens
        limits = answers.answer_limits(actor_tokens or own_tokens)
        self.answer_chars = answer_chars or limits.max_chars
        self._actor_seats = [Seat(name, "actor", limits) for name in self.actors]

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        """Begin with the given task, or with one that ``rng`` draws from the family or the prompts."""
        if task is None and self.family is None:
            task = Task(family="prompts", level=0, prompt=self.prompts[int(rng.integers(len(self.prompts)))])
        elif task is None:
            assert self.family is not None
            task = self.family.generate(rng, self.levels[int(rng.integers(len(self.levels)))])
        return State(task)

    def turns(self, state: State) -> list[Seat]:
        """All actors at once, then all judges at once."""
        asked = {"answer": self._actor_seats, "judge": self._judges(state.replies), "end": []}
        return list(asked[state.phase])

    def view(self, state: State, agent: str) -> list[Message]:
        """What ``agent`` may see now, which is what it sees or saw in its own turn."""
        if not agent.startswith("judge"):
            return [{"role": "user", "content": state.task.prompt}]
        if self.panel is None or not state.replies:
            return []
        if any(state.replies[i].status != "ok" for i in self.panel.ask_of(agent).who):
            return []
        return self.panel.messages(agent, state.task.prompt, state.answers)

    def question(self, state: State, agent: str) -> Question | None:
        """What a judge is asked, unescaped and with the authors' numbers; for scripted judges."""
        if self.panel is None or not state.replies:
            return None
        return self.panel.question(agent, state.task.prompt, state.answers)

    def apply(self, state: State, actions: Mapping[str, Action]) -> State:
        """The next state; an agent whose action is missing is taken to have said nothing."""
        if state.phase == "answer":
            replies = tuple([actions.get(name, SILENT) for name in self.actors])
            answers = tuple([self._shown(reply)[: self.answer_chars] for reply in replies])
            phase = "judge" if self._judges(replies) else "end"
            nobody = () if self.panel is None else self.panel.verdicts([False] * len(replies), {})
            return State(state.task, phase, replies, answers, nobody)
        if state.phase == "judge" and self.panel is not None:
            verdicts = self.panel.verdicts([reply.status == "ok" for reply in state.replies], actions)
            return replace(state, phase="end", verdicts=verdicts)
        raise AssertionError("apply after the end: turns() is empty, the game is over")

    def outcome(self, state: State) -> Outcome | None:
        """The facts named in the manual page, with ``truth`` and ``judge_accuracy``."""
        if state.phase != "end":
            return None
        truth = self._truth(state)
        facts = {**self._facts(state), "truth": truth}
        if self.panel is not None:
            facts["judge_accuracy"] = judge_facts.accuracy(facts["judgements"], truth, self.judging)
        return Outcome("ok", facts)

    def public_facts(self, state: State) -> dict[str, Any]:
        """What of the facts goes into ``info`` at the end: all but the truth and what is measured against it."""
        return self._facts(state) if state.phase == "end" else {}

    def extracted(self, state: State, agent: str, action: Action) -> str | None:
        """An actor's answer as it is read; None for open prompts."""
        if state.phase != "answer" or self.family is None or state.task.family != self.family.name:
            return None
        return answers.graded(self.family, state.task, action)[1]

    def group(self, episode: core.Episode, turn: core.Turn) -> str:
        """The actors of an episode; the judgements of one pair (or answer) of it, in either order."""
        return f"{episode.index}/{episode.outcome.facts['groups'][turn.agent]}"

    def record(self, state: State) -> tuple[list[Task | core.Challenge], list[core.Event]]:
        """The task, and an event for every answer that was cut and every verdict that could not be read."""
        events = []
        for name, reply in zip(self.actors, state.replies, strict=False):
            if (length := len(self._shown(reply))) > self.answer_chars:
                events.append(core.Event("cut", name, {"characters": length, "shown": self.answer_chars}))
        for name, verdict in zip(self.panel.judges if self.panel else (), state.verdicts, strict=False):
            if verdict.status == "invalid":
                events.append(core.Event("unreadable", name))
        return [state.task], events

    def _facts(self, state: State) -> dict[str, Any]:
        lengths = {}
        for name, reply in zip(self.actors, state.replies, strict=True):
            text, ids = self._shown(reply), reply.token_ids
            tokens = None if ids is None else len(ids)
            lengths[name] = {"words": len(text.split()), "chars": len(text), "tokens": tokens}
        facts: dict[str, Any] = {
            "agents": list(self.agents),
            "judging": self.judging,
            "answered": {n: r.status == "ok" for n, r in zip(self.actors, state.replies, strict=True)},
            "lengths": lengths,
        }
        groups = dict.fromkeys(self.actors, "actor")
        if self.panel is not None:
            groups |= {name: f"judge {self.panel.group_of(name)}" for name in self.panel.judges}
            rows = judge_facts.table(self.panel, state.verdicts, {n: its["words"] or 0 for n, its in lengths.items()})
            facts |= {"repeats": self.panel.judgements, "judgements": rows, **judge_facts.validity(rows)}
            pairwise = self.judging == "pairwise"
            facts |= judge_facts.pairwise(rows) if pairwise else judge_facts.pointwise(rows, self.actors)
            if self.judging == "rubric":
                facts["correct"] = dict(facts["values"])
        return {**facts, "groups": groups}

    def _truth(self, state: State) -> dict[str, float | None]:
        family = self.family if self.family is not None and state.task.family == self.family.name else None
        found: dict[str, float | None] = dict.fromkeys(self.actors)
        for name, reply in zip(self.actors, state.replies, strict=True):
            if family is not None and reply.status == "ok":
                score, _ = answers.graded(family, state.task, reply)
                found[name] = score.value if score.status == "ok" else None
        return found

    def _shown(self, reply: Action) -> str:
        """The reply without closed reasoning; nothing of one whose reasoning was never closed."""
        shown = answers.visible(reply.text)
        return "" if shown is None else shown.lstrip() if len(shown) < len(reply.text) else shown

    def _judges(self, replies: Sequence[Action]) -> list[Seat]:
        answered = [reply.status == "ok" for reply in replies]
        return self.panel.seats(answered) if self.panel is not None and replies else []


def _checked_prompts(prompts: Sequence[str] | None) -> tuple[str, ...]:
    if prompts is None:
        return ()
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) and p for p in prompts):
        raise DreamEnvsError(f"prompts={prompts!r:.60}: a list of one or more texts, none of them empty")
    return tuple(prompts)


def _levels(family: core.TaskFamily | None, level: int | Sequence[int] | None) -> list[int]:
    if family is None:
        return []
    levels = list(family.levels) if level is None else [level] if isinstance(level, int) else list(level)
    if not levels or any(isinstance(x, bool) or x not in family.levels for x in levels):
        span = f"{family.levels.start} to {family.levels.stop - 1}"
        raise DreamEnvsError(f"level={level!r:.60}: {family.name} has {span}; one of them, or a list")
    return levels
