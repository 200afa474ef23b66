"""The vocabulary of the suite: frozen records and the protocols that pass them on.

``encode`` and ``decode_*`` turn records into JSON and back without loss.  This module imports nothing of ours.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, Protocol, TypedDict, TypeVar, runtime_checkable

import msgspec
import numpy as np

Status = Literal["ok", "invalid", "error", "timeout", "abstain"]
#: Whose turn of a conversation is written: the model's own, or the user's before it.
Writes = Literal["assistant", "user"]
Truth = Literal["executed", "verified", "majority", "claimed"]

#: Why a proposal can be turned away, cheapest check first.  Every rejection carries exactly one of these.
REJECT_CODES: dict[str, str] = {
    "empty": "nothing was proposed",
    "too_long": "longer than the family's cap",
    "charset": "contains a character that the notation does not have",
    "grammar": "does not follow the proposal grammar to its last character",
    "not_canonical": "parses, but is not written in canonical form",
    "duplicate": "the archive already holds this problem",
    "similar": "too much like a problem that is known already",
    "held_out": "reserved for evaluation",
    "limits": "breaks a static limit (level, size, magnitude)",
    "execution": "has no defined answer (a division by zero, say)",
    "certificate": "is not shown to be solvable",
    "trivial": "a constant, a copy of the prompt or no reasoning at all solves it",
    "leak": "the prompt contains its own answer",
}


class Message(TypedDict):
    """One OpenAI-style chat message."""

    role: str
    content: str


class DreamEnvsError(ValueError):
    """A user's mistake, told in one line: the value, the allowed range and the way out."""


class Task(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A problem of a family.  ``answer`` is hidden from every view.

    ``id`` is a content hash of family, prompt and answer: the same problem has the same id wherever it came from.
    """

    family: str
    level: int
    prompt: str
    answer: str = ""
    meta: dict[str, Any] = {}
    origin: str = "generator"
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            msgspec.structs.force_setattr(self, "id", content_hash(self.family, self.prompt, self.answer))


class Challenge(Task, frozen=True, kw_only=True, tag=True):
    """A Task that a challenger made: where it comes from, and how far its answer can be trusted.

    ``truth``: ``executed`` (our interpreter computed the answer), ``verified`` (a certificate was checked),
    ``majority`` (voted), ``claimed`` (the author said so).
    """

    author: str = ""
    parent: str = ""
    round: int = 0
    truth: Truth = "executed"


class Reject(msgspec.Struct, frozen=True):
    """Why a proposal was turned away: a key of ``REJECT_CODES`` and one line of detail."""

    code: str
    detail: str = ""


class Usage(msgspec.Struct, frozen=True):
    """Tokens read and written by one call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's move: what it saw, what it said.  ``seconds`` is the call's wall-clock share, for reports only.

    ``finish_reason``: ``stop``, ``length`` (cut off by its budget), what else an engine says, "" where it says nothing.
    ``extracted``: the answer that was read out of the text, "" if none could be, None where the text is the answer.
    ``writes``: whose turn it is in the conversation that ``messages`` begin.
    """

    agent: str
    role: str
    messages: list[Message]
    text: str
    status: Status = "ok"
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    usage: Usage = Usage()
    seconds: float = 0.0
    finish_reason: str = ""
    extracted: str | None = None
    author: str = ""
    writes: Writes = "assistant"


class Event(msgspec.Struct, frozen=True):
    """Something that happened in a game: ``kind`` is a stable code, ``data`` its facts."""

    kind: str
    agent: str = ""
    data: dict[str, Any] = {}


class Outcome(msgspec.Struct, frozen=True):
    """How a game ended, as facts; rewards are made from them elsewhere."""

    status: Status
    facts: dict[str, Any] = {}


class Score(msgspec.Struct, frozen=True):
    """A value with its provenance.  Anything but ``ok`` is counted and shown, never averaged in as a zero.

    ``turns``: what each of the agent's turns earned, in order, where a reward says so (process rewards); they sum to
    the value, and a learner credits a turn with what came from it on.  ``judgements``: a judge's replies by the hash of
    what it was asked, so that scoring again asks nothing twice.
    """

    value: float
    status: Status = "ok"
    components: dict[str, float] = {}
    detail: str = ""
    grader: str = ""
    turns: list[float] | None = None
    judgements: dict[str, str] = {}


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """A finished game: facts and transcript, everything a reward needs to be computed again offline.

    ``seed`` is the label the game's random stream was made from; ``index`` is its place in the run, ``round`` the round
    that it was scored in: a reward may compare the episodes of one round.
    """

    env_id: str
    version: int
    seed: str
    index: int
    tasks: list[Task | Challenge]
    turns: list[Turn]
    events: list[Event]
    outcome: Outcome
    scores: dict[str, Score] = {}
    grader: str = ""
    round: int = 0


def challenge_of(episode: Episode) -> Challenge | None:
    """The problem that was made in this episode, None if there is none (the proposal was turned away)."""
    return next((task for task in reversed(episode.tasks) if isinstance(task, Challenge)), None)


def author_of(episode: Episode) -> str:
    """``challenger``, or who gave the proposal: ``mutation``, ``replay``, ``generator``, a dataset's name."""
    return next((str(e.data["author"]) for e in episode.events if e.kind == "given"), "challenger")


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one reply: ``max_tokens`` for engines that count tokens, ``max_chars`` for the rest."""

    max_tokens: int = 256
    max_chars: int = 4096


class Seat(msgspec.Struct, frozen=True):
    """Who acts now: the agent's name (``solver_0``), its role (``solver``) and the bounds on its reply.

    ``writes``: whose turn it writes; ``user`` asks a model for what a user would say, see ``Request``.
    """

    agent: str
    role: str
    limits: Limits = Limits()
    writes: Writes = "assistant"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is asked: the messages it may see, who it is, and 64 bits of its own randomness.

    ``episode``: the label of the game that asks, the same for all its requests; "" where there is no game.  ``writes``:
    ``user`` asks for the user's next message in place of a reply: a language model goes on behind the messages (there
    may be none) with its chat template rendered up to just before the user's words.
    """

    messages: list[Message]
    agent: str
    role: str
    seed: int
    limits: Limits = Limits()
    episode: str = ""
    writes: Writes = "assistant"


class Action(msgspec.Struct, frozen=True):
    """What an agent answers: text, plus the sampled ids and log-probabilities where the engine has them.

    ``finish_reason``: ``length`` for a reply that its budget cut off; ``author``: who made the move where that is not
    the seat's agent as it is now (a past self); see ``Turn``.
    """

    text: str
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    usage: Usage = Usage()
    status: Status = "ok"
    finish_reason: str = ""
    author: str = ""


class Start(msgspec.Struct, frozen=True):
    """One episode to play.

    ``index`` names it within the run and seeds it.  ``task``: what the game starts from.  ``given``: first moves that
    are not asked of any agent (a replayed or mutated proposal, say), with ``author`` noted as an event.  ``draw``: the
    index of the episode whose beginning this one shares, whatever the agents do then; None: its own.
    """

    index: int
    task: Task | None = None
    given: dict[str, Action] = {}
    author: str = ""
    draw: int | None = None


class RoleSpec(msgspec.Struct, frozen=True):
    """A role of a game: how many seats, what a reply looks like, the range of its default reward."""

    name: str
    count: int
    reply: str
    reward_range: tuple[float, float]
    optional: bool = False


def content_hash(*parts: str) -> str:
    """16 hex digits that name this content; parts are length-prefixed, so no two lists collide by joining."""
    text = "".join(f"{len(p)}:{p}" for p in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@runtime_checkable
class TaskFamily(Protocol):
    """A source of verifiable problems.  All methods are pure and total: no reply makes ``verify`` raise.

    A family may have several kinds of problem that are practised side by side: ``streams`` names them, ``brief`` and
    ``generate`` take one as ``stream=``, and a task of one says so in ``meta["stream"]``.  One whose replies nobody can
    verify has ``judged = True``: ``verify`` abstains, ``chance`` is 0, and ``gold`` is any reply.
    """

    name: str
    version: int
    notation: str
    levels: range
    max_chars: int
    max_reply_tokens: int

    def generate(self, rng: np.random.Generator, level: int) -> Task:
        """Draw a problem of this level."""

    def parse(self, proposal: str) -> Task | Reject:
        """Turn a challenger's text into a Task with its executed or certified answer, or say why not."""

    def verify(self, task: Task, reply: str) -> Score:
        """1.0 for an accepted reply, 0.0 for any other text; strict."""

    def chance(self, task: Task) -> float:
        """The probability that ``guess`` is accepted."""

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """The best reply of somebody who knows the format but cannot solve: what ``chance`` is the chance of."""

    def gold(self, task: Task) -> str:
        """An accepted reply."""

    def brief(self, level: int | None = None, reference: Task | None = None) -> str:
        """What a challenger is told: the notation, the wished level, a reference to differ from."""

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """A neighbour of this problem, usually harder; None where there is none."""

    def features(self, task: Task) -> tuple[str, ...]:
        """The skills the problem exercises, for coverage and diversity."""


StateT = TypeVar("StateT")


@runtime_checkable
class Game(Protocol[StateT]):
    """The rules: who speaks when, who sees what, what happened.  Pure, deep-copyable, no LLM, no reward, no I/O.

    These members are required; ``GameHooks`` lists what a game may define beyond them.
    """

    env_id: str
    version: int
    roles: tuple[RoleSpec, ...]
    agents: tuple[str, ...]

    def start(self, task: Task | None, rng: np.random.Generator) -> StateT:
        """Begin from a given task, or from one that ``rng`` draws."""

    def turns(self, state: StateT) -> list[Seat]:
        """Who acts now: one seat in turn-based play, several at once in simultaneous play, none at the end."""

    def view(self, state: StateT, agent: str) -> list[Message]:
        """What this agent may see, as fresh messages."""

    def apply(self, state: StateT, actions: Mapping[str, Action]) -> StateT:
        """The next state.  Any text is accepted; a bad one becomes an event."""

    def outcome(self, state: StateT) -> Outcome | None:
        """The facts at the end, or None while the game goes on."""

    def record(self, state: StateT) -> tuple[list[Task | Challenge], list[Event]]:
        """The tasks and events so far, for the episode."""


class Measure(msgspec.Struct, frozen=True):
    """A measured value with its 95 % interval (None where it is exact or not known) from ``n`` samples (0: exact)."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0


class GameHooks:
    """What a game may define beyond ``Game``, with the defaults that hold where it does not; see ``hook``.

    ``default_reward``: a registered name, a reward model, or a method ``(episode) -> {agent: Score}``; None: the reward
    row of the game's own name.  ``default_others``: ``{role: agent}`` for seats that nobody names in a single-role
    environment.  ``proposer``: the agent whose first move is a problem, which a curriculum may give in its place (a
    mutation, a replay); "": the game starts from the problem itself.  ``solver_role``: the role that answers a family's
    bare problem; "": there is none, and the game is evaluated by play.  ``bounds``: ``{role: (worst, best)}``, what the
    conformance kit may expect; either end is the reward that can be reached where the role's range is wider, or the
    agents by role or seat who reach the range's end where oracles and floors do not, or None.
    """

    default_reward: Any = None
    default_others: Mapping[str, Any] = {}
    proposer: str = ""
    solver_role: str = ""
    bounds: Mapping[str, tuple[Any, Any]] = {}

    def group(self, episode: Episode, turn: Turn) -> str:
        """What this turn's return is compared with: turns of one group are exchangeable draws."""
        return f"{episode.tasks[-1].id if episode.tasks else ''}/{turn.role}"

    def extracted(self, state: Any, agent: str, action: Action) -> str | None:
        """The answer in this move at this state, for the record: "" if none can be read, None: the text is it."""
        return None

    def scripted(self, kind: str, request: Request, rng: np.random.Generator) -> str | None:
        """The reply of the game's own ``oracle``, ``floor`` or ``guesser``; None where it has none."""
        return None

    def public_info(self, state: Any) -> dict[str, Any]:
        """What goes into every ``info``, of all seats alike; it must hold no secret."""
        return {}

    def public_facts(self, state: Any) -> dict[str, Any]:
        """What goes into ``info["facts"]`` at the end; it must hold no secret."""
        return {}

    def evaluate(self, agent: Agent, seed: str) -> dict[str, Measure]:
        """The game's own measures of an agent who plays every learning role; none by default."""
        return {}


def hook(game: Any, name: str) -> Any:
    """A hook of this game: its own, or the default of ``GameHooks``."""
    own = getattr(game, name, None)
    if own is not None:
        return own
    default = getattr(GameHooks, name)
    return functools.partial(default, game) if inspect.isfunction(default) else default


@runtime_checkable
class RewardModel(Protocol):
    """Scores finished episodes, many in one call.  ``dream_envs.rewards.reward`` makes one of a plain function."""

    name: str

    def score(self, episodes: Sequence[Episode]) -> Sequence[dict[str, Score]] | Awaitable[Sequence[dict[str, Score]]]:
        """One score for each agent of each episode, in order; the episodes are those of one round."""


@runtime_checkable
class Stateful(Protocol):
    """A part whose state is in a checkpoint: whatever the next round depends on."""

    def state(self) -> Any:
        """JSON-ready."""

    def restore(self, state: Any) -> None:
        """Go on from what ``state`` gave."""


class Agent(Protocol):
    """Anything that acts.  Batched first: one call answers many requests, in order."""

    def act(self, requests: Sequence[Request]) -> Sequence[Action] | Awaitable[Sequence[Action]]:
        """Answer every request; sync or async."""


AgentLike = Agent | Callable[..., Any]


class Progress(msgspec.Struct, frozen=True):
    """What ``improve`` did: steps taken, samples drawn, and the last value of each metric."""

    steps: int
    samples: int
    metrics: dict[str, float] = {}


class Learner(Agent, Protocol):
    """An Agent that can get better and be saved."""

    def improve(self, collector: Any, budget: int, run: Any) -> Progress:
        """Learn for ``budget`` steps in all from the rounds of ``collector``; goes on where ``run``'s folder stands."""

    def save(self, path: str) -> None:
        """Write everything that ``load`` needs."""

    def load(self, path: str) -> None:
        """Continue exactly from a saved state."""

    def snapshot(self) -> Agent:
        """A frozen copy that acts as this learner does now."""


def _as_json(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    kind = type(value).__name__
    raise DreamEnvsError(f"{value!r:.60}: a record holds numbers, texts, lists and mappings, not {kind}: convert it")


def _in_utf8(value: Any) -> Any:
    """JSON-ready data with every lone surrogate (half a character, which UTF-8 has not) replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_in_utf8(key): _in_utf8(item) for key, item in value.items()}
    return [_in_utf8(item) for item in value] if isinstance(value, (list, tuple)) else value


_encoder = msgspec.json.Encoder(enc_hook=_as_json)
_episode_decoder = msgspec.json.Decoder(Episode)
_task_decoder = msgspec.json.Decoder(Task | Challenge)


def encode(record: Any) -> bytes:
    """JSON bytes of any record of this module, without a newline.

    Raises:
        DreamEnvsError: it holds an object that is no data.
    """
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        return _encoder.encode(_in_utf8(msgspec.to_builtins(record, enc_hook=_as_json)))


def decode_episode(line: bytes | str) -> Episode:
    """The Episode that ``encode`` wrote."""
    return _episode_decoder.decode(line)


def decode_task(line: bytes | str) -> Task | Challenge:
    """The Task or Challenge that ``encode`` wrote."""
    return _task_decoder.decode(line)
