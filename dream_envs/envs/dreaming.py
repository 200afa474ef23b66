"""``dream_envs/Dreaming-v0``: a model dreams up an instruction from its bare chat template, and answers it (MAGPIE).

Roles
    ``dreamer_0`` writes a user's message; nothing is asked of it.  A language model is given its chat template up to
    just before the user's words (``Request.writes``) and goes on until a user's turn would end.  ``responder_0``
    answers.  With ``turns=2`` both go on once more.  ``curator_0``, with ``curator=True``, says whether the pair is
    kept.
What each sees
    The dreamer sees nothing, or ``system``, which steers what it dreams of; in its second turn the conversation so far
    as well.  The responder sees the conversation and not ``system``.  The curator sees the metric vector of the last
    pair and never the text, unless ``curator_sees="text"``.
What a reply must look like
    The dreamer's and the responder's: anything.  A raw dream is sanitised (blanks, invisible characters, quotation
    marks or a label around it), never cut at a line or a question mark; with the markup of a template in it, cut off by
    its budget, empty or noise it is turned away and nobody answers it.  The curator's: ``k`` or ``r`` (compact), or a
    reply that states ``keep`` or ``reject`` (english), as ``Answer: keep``.
Rewards
    By default ``rewards.dreaming``, all from 0 to 1.  The dreamer's is validity times difficulty times novelty (the
    distance to the nearest other dream of the round and of ``known``), 0 for what is turned away; with two turns the
    mean.  The responder's is the quality of its reply times the share of it that does not repeat the instruction, or
    any reward model's in its place.  The curator's, with v the dreamer's reward: v for ``keep``, 1 - v for ``reject``,
    0 for a reply that says neither.  Quality and difficulty are heuristics of form: see ``envs.dream_facts``.
Chance
    A curator who tosses a coin earns 1/2 whatever v is.
End
    After the last reply, or the curator's; at once where a dream is turned away or a call fails: whoever failed then
    has that status and the others ``abstain``.
Facts
    ``valid``, ``reject`` (why not, ``dream_facts.REJECTS``), ``verdict`` (``keep``, ``reject``, ``unreadable`` or
    ""), ``failed``, and ``dreams``, one for each dream: ``raw``, ``text`` (sanitised), ``class``
    (``dream_facts.CLASSES``), ``finish``, ``reply``, ``reply_finish``, ``reject``, ``distance`` (to ``known``) and
    ``measures``.
Arguments
    See ``Dreaming``.
What earns a reward
    ``play(Dreaming(), {"dreamer": lambda text: "Name three rivers of Asia, and say how long each of them is.",
    "responder": lambda text: "The Yangtze, the Yellow River and the Mekong."}, reward="dreaming")`` pays the dreamer
    0.19 (difficulty 0.19, nothing like it known) and the responder 1.
Source
    MAGPIE, "Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing" (arXiv 2406.08464).
Version history
    0: first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from dream_envs import core
from dream_envs.checks import one_of
from dream_envs.core import Action, DreamEnvsError, Message, Outcome, RoleSpec, Seat, Task, content_hash
from dream_envs.envs import dream_facts as facts
from dream_envs.envs._shared import SILENT, check_whole
from dream_envs.envs.judging import NOTATIONS, quoted
from dream_envs.tasks.answers import answer_limits, read, settled

VERDICTS = {"keep": "k", "reject": "r"}
_STATED = re.compile("keep|reject", re.I)
_ASK = (
    "Decide whether a pair of an instruction and its reply is kept as training data.\n\n{shown}\n\n"
    "End your reply with a line 'Answer: keep' or 'Answer: reject'."
)


class Dream(msgspec.Struct, frozen=True):
    """A dream and what became of it; ``reject``: why the pair is turned away, "" if it is not."""

    raw: str
    text: str
    kind: str
    finish: str
    distance: float
    reply: str | None = None
    reply_finish: str = ""
    reject: str = ""


class State(msgspec.Struct, frozen=True):
    """Where a game stands.  ``phase``: dream, reply, curate or end.  ``failed``: whose call did, with its status."""

    system: str
    phase: str = "dream"
    dreams: tuple[Dream, ...] = ()
    verdict: str = ""
    failed: str = ""
    status: core.Status = "ok"


class Dreaming:
    """The game; see the module's head for its manual page.

    Args:
        system: a system prompt before the dreamer's turn, "" for none; the template's own stands there anyway.
        turns: instructions in one conversation, 1 or 2.
        curator: whether somebody says what is kept.
        curator_sees: ``measures`` or ``text``.
        notation: the curator's, ``compact`` or ``english``.
        known: texts that the distance of a dream is measured to.
        dream_tokens: the budget of a dream, 1 or more.
        reply_tokens: the budget of a reply, and of an english curator's.
    """

    env_id = "dream_envs/Dreaming-v0"
    version = 0

    def __init__(
        self,
        system: str = "",
        *,
        turns: int = 1,
        curator: bool = False,
        curator_sees: str = "measures",
        notation: str = "english",
        known: Sequence[str] = (),
        dream_tokens: int = 256,
        reply_tokens: int = 512,
    ) -> None:
        if not isinstance(system, str):
            raise DreamEnvsError(f"system={system!r:.60}: a text, '' for none")
        if isinstance(known, str) or not all(isinstance(text, str) for text in known):
            raise DreamEnvsError(f"known={known!r:.60}: a list of texts")
        one_of("curator_sees", curator_sees, ("measures", "text"))
        one_of("notation", notation, NOTATIONS)
        for name, value, high in (("turns", turns, 2), ("dream_tokens", dream_tokens, 2**20),
                                  ("reply_tokens", reply_tokens, 2**20)):  # fmt: skip
            check_whole(name, value, 1, high)
        self.system, self.length, self.curated, self.notation = system, turns, bool(curator), notation
        self.sees, self._known = curator_sees, facts.vectors(list(known))
        # Two dreams of one game have something in common, so that neither is worth all.
        self.bounds: Mapping[str, tuple[Any, Any]] = (
            {} if turns == 1 else {"dreamer": (0.0, 0.9), "curator": (0.1, 0.9)}
        )
        form = "k or r" if notation == "compact" else "a last line 'Answer: keep' or 'Answer: reject'"
        roles = [
            RoleSpec("dreamer", 1, "what a user would write", (0.0, 1.0)),
            RoleSpec("responder", 1, "an answer to it", (0.0, 1.0)),
            RoleSpec("curator", 1, form, (0.0, 1.0), optional=True),
        ]
        self.roles = tuple(roles if self.curated else roles[:2])
        self.agents = tuple(f"{role.name}_0" for role in self.roles)
        verdict = core.Limits(2, 64) if notation == "compact" else answer_limits(reply_tokens)
        self._seats = {
            "dream": Seat("dreamer_0", "dreamer", answer_limits(dream_tokens), "user"),
            "reply": Seat("responder_0", "responder", answer_limits(reply_tokens)),
            "curate": Seat("curator_0", "curator", verdict),
        }

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        """Begin; a task of ``record``'s family brings its own system prompt.  Nothing is drawn."""
        if task is not None and task.family != "dreaming":
            raise DreamEnvsError("Dreaming-v0 starts from nothing, or from Task(family='dreaming', prompt=SYSTEM)")
        return State(self.system if task is None else task.prompt)

    def turns(self, state: State) -> list[Seat]:
        """One seat at a time."""
        return [] if state.phase == "end" else [self._seats[state.phase]]

    def view(self, state: State, agent: str) -> list[Message]:
        """The conversation up to the agent's turn; the measures for a curator, who sees nothing before its turn."""
        if agent == "curator_0":
            if not state.dreams or state.dreams[-1].reply is None:
                return []
            return [{"role": "user", "content": self._asked(state)}]
        dreamer = agent == "dreamer_0"
        said = [Message(role="system", content=state.system)] if dreamer and state.system else []
        for dream in state.dreams:
            said.append({"role": "user", "content": dream.text})
            if dream.reply is not None:
                said.append({"role": "assistant", "content": dream.reply})
        return said if dreamer or not said or said[-1]["role"] == "user" else said[:-1]

    def apply(self, state: State, actions: Mapping[str, Action]) -> State:
        """The next state; a missing action is a reply that says nothing."""
        (seat,) = self.turns(state)
        action = actions.get(seat.agent, SILENT)
        if action.status != "ok":
            return replace(state, phase="end", failed=seat.agent, status=action.status)
        if state.phase == "curate":
            return replace(state, phase="end", verdict=self._read(action) or "unreadable")
        if state.phase == "dream":
            limit = seat.limits.max_chars
            clean = facts.sanitise(action.text, action.finish_reason, limit)
            reject = clean.kind if clean.kind in facts.REJECTS else ""
            distance = 1.0
            if len(self._known) and clean.text:
                distance = float(facts.distances(facts.vectors([clean.text]), self._known).min())
            made = Dream(action.text[:limit], clean.text, clean.kind, action.finish_reason, distance, reject=reject)
            return replace(state, phase="end" if reject else "reply", dreams=(*state.dreams, made))
        *before, last = state.dreams
        text = action.text[: seat.limits.max_chars]
        reject = "silent" if not text.strip() else "leaked" if facts.leaked(last.text, text) else ""
        dreams = (*before, replace(last, reply=text, reply_finish=action.finish_reason, reject=reject))
        more = "dream" if len(dreams) < self.length else "curate" if self.curated else "end"
        return replace(state, phase="end" if reject else more, dreams=dreams)

    def outcome(self, state: State) -> Outcome | None:
        """The facts named in the manual page."""
        if state.phase != "end":
            return None
        return Outcome(state.status, {"agents": list(self.agents), **self.public_facts(state)})

    def public_facts(self, state: State) -> dict[str, Any]:
        """All facts: nothing is hidden once the game is over."""
        if state.phase != "end":
            return {}
        dreams = [
            {
                "raw": d.raw, "text": d.text, "class": d.kind, "finish": d.finish, "reply": d.reply,
                "reply_finish": d.reply_finish, "reject": d.reject, "distance": d.distance,
                "measures": facts.measures(d.text, d.reply or "") if not d.reject else {},
            }
            for d in state.dreams
        ]  # fmt: skip
        reject = next((d.reject for d in state.dreams if d.reject), "")
        valid = not reject and not state.failed
        return {"valid": valid, "reject": reject, "verdict": state.verdict, "failed": state.failed, "dreams": dreams}

    def record(self, state: State) -> tuple[list[Task | core.Challenge], list[core.Event]]:
        """The system prompt as a task, and an event for a dream or pair that is turned away."""
        events = [core.Event("rejected", "dreamer_0", {"reject": d.reject}) for d in state.dreams if d.reject]
        if state.verdict == "unreadable":
            events.append(core.Event("unreadable", "curator_0"))
        return [Task(family="dreaming", level=self.length, prompt=state.system)], events

    def extracted(self, state: State, agent: str, action: Action) -> str | None:
        """The curator's verdict, "" for none; the others' texts are what they are."""
        return self._read(action) if agent == "curator_0" else None

    def group(self, episode: core.Episode, turn: core.Turn) -> str:
        """Role and what was seen: dreams from the same bare template are exchangeable draws; curators all are."""
        said = [part for message in turn.messages for part in (message["role"], message["content"])]
        return turn.role if turn.role == "curator" else f"{turn.role}/{content_hash(*said)}"

    def scripted(self, kind: str, request: core.Request, rng: np.random.Generator) -> str | None:
        """``oracle``: a demanding dream, a well-formed answer, keep; ``guesser``: short ones, a coin; ``floor``: none,
        and reject.
        """
        if kind not in ("oracle", "guesser", "floor") or request.role not in {role.name for role in self.roles}:
            return None
        if request.role == "curator":
            said = {"oracle": "keep", "floor": "reject", "guesser": "keep" if rng.random() < 0.5 else "reject"}[kind]
            return VERDICTS[said] if self.notation == "compact" else f"Answer: {said}"
        if kind == "floor":
            return ""
        again = any(
            m["role"] == "assistant" for m in request.messages
        )  # a second dream, of other things and in other words
        order = [i for i in rng.permutation(len(_TOPICS)) if request.role == "responder" or i % 2 == again]
        some = [_TOPICS[i] for i in order]
        if request.role == "responder":
            return f"It depends on {some[0]} first of all, and on {some[1]} where there is time."
        if kind == "guesser":
            return f"What have {some[0]} and {some[1]} in common?"
        pairs = list(enumerate(zip(some[::2], some[1::2], strict=True), 1))
        if again:
            return " ".join(f"Would {a} last longer than {b}, say by {17 * i} years?" for i, (a, b) in pairs)
        asks = "\n".join(f"{i}. Compare {a} with {b}." for i, (a, b) in pairs)
        return f"Answer these {len(pairs)} questions briefly, and give a number and its source for each:\n\n{asks}"

    def _asked(self, state: State) -> str:
        last = state.dreams[-1]
        vector = facts.measures(last.text, last.reply or "") | {"distance": last.distance}
        shown = facts.vector_text(vector, self.notation)
        if self.notation == "compact":
            return shown if self.sees == "measures" else f"{shown}|{last.text}|{last.reply}"
        if self.sees == "text":
            shown = f"Instruction:\n{quoted(last.text)}\n\nReply:\n{quoted(last.reply or '')}\n\n{shown}"
        return _ASK.format(shown=shown)

    def _read(self, action: Action) -> str:
        """``keep``, ``reject`` or nothing."""
        if self.notation == "compact":
            return next((name for name, letter in VERDICTS.items() if action.text == letter), "")
        return read(settled(action), _STATED, tidy=str.lower) or ""


#: What scripted agents write about.
_TOPICS = (
    "rivers", "bridges", "copper", "winter wheat", "chess openings", "tax law", "sailing", "granite", "vaccines",
    "orbital mechanics", "haiku", "sourdough", "lighthouses", "prime numbers", "trade winds", "beekeeping", "opera",
    "steam engines", "volcanoes", "dyes", "compilers", "glaciers", "insurance", "tuning forks", "migration", "cheese",
    "elections", "paper making", "magnets", "coral", "typography", "railways", "jazz", "weaving", "satellites",
    "harbours", "clocks", "tea", "fractals", "olive trees", "ceramics", "statistics", "mirrors", "canals", "whales",
    "screws", "alphabets", "forests",
)  # fmt: skip
