"""``dream_envs/Kuhn-v0``: Kuhn poker by text: two players, zero-sum, hidden cards, exact exploitability.

Roles
    ``first_0`` moves first, ``second_0`` second; one policy may play both.  Each antes 1 and is dealt one of the cards
    J < Q < K.  A move is pass or bet (1 more).  To pass after a bet is to fold, to bet after a bet is to call; unless
    somebody folds, the higher card wins.
What each sees
    Its own card and the moves so far: in compact notation ``kQpb`` (the first player holds Q, passed and was bet
    against; the reply ``b`` calls and earns +2 against J), in english the rules and the same facts in sentences.
    Nobody sees the other's card, at the end neither.
What a reply must look like
    Compact: ``p`` or ``b`` and nothing else.  English: the last ``[pass]`` or ``[bet]``, in any case, blanks inside
    allowed, after closed ``<think>`` reasoning; unclosed reasoning and an overlong reply are no move.
Rewards
    Winnings in antes, -2 to 2; the two players' sum is 0.  An unreadable reply forfeits: whoever gives it loses what it
    has staked, its ante (-1), as if it folded, and the event ``forfeit`` is recorded.
Chance
    Uniformly random legal play earns +1/8 as first against itself; the value of the game is -1/18 for the first player.
End
    After two or three moves, at a forfeit, or with the status of a call that failed (timeout, error and so on): the
    score of whoever failed then has this status and the other's ``abstain``.
Facts
    ``history`` (the moves, as ``pbb``), ``forfeit`` (who gave an unreadable reply) and ``winnings`` by agent.
Arguments
    See ``Kuhn``.
Measures
    ``exploitability`` (antes a game; lower is better: 0 at an equilibrium, 11/24 for uniform play), ``unreadable``
    (share of replies, mean over the information sets; lower is better), ``value_first`` (what the first player earns
    against itself; -1/18 at an equilibrium, neither direction is better).  Values of any policy: ``kuhn_exact``.
Source
    H. W. Kuhn, "A simplified two-person poker", 1950; by text as in SPIRAL (arXiv 2506.24119).
Version history
    0: first.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from dream_envs import core, registry, seeds
from dream_envs.core import Action, DreamEnvsError, Message, Score, Task
from dream_envs.envs.kuhn_exact import CARDS, INFORMATION_SETS, MOVES, OVER, equilibrium, estimates, measures, payoff

PLAYERS = ("first_0", "second_0")
#: Replies to each information set from an agent without exact probabilities.
REPLIES = 256


class State(msgspec.Struct, frozen=True):
    """Where a game stands.  ``out``: who ended it by an unreadable reply or, with a ``status``, by a failed call."""

    deal: str
    history: str = ""
    out: str = ""
    status: core.Status = "ok"


class Kuhn:
    """The game; see the module's head for its manual page.

    Args:
        notation: ``compact`` or ``english``.
        reply_tokens: a reply's budget, 1 or more; None: 2 in compact (the move and the end), 256 in english.
    """

    env_id = "dream_envs/Kuhn-v0"
    version = 0
    agents = PLAYERS
    #: The deal is chance: what play alone can be sure of is an ante, from an opponent who forfeits or by forfeiting.
    bounds: Mapping[str, tuple[Any, Any]] = {"first": (-1.0, 1.0), "second": (-1.0, 1.0)}

    def __init__(self, notation: str = "compact", *, reply_tokens: int | None = None) -> None:
        registry.named("notations of Kuhn-v0", notation, {"compact": 0, "english": 0})
        tokens = (2 if notation == "compact" else 256) if reply_tokens is None else reply_tokens
        if not isinstance(tokens, int) or tokens < 1:
            raise DreamEnvsError(f"reply_tokens={reply_tokens!r}: a whole number, 1 or more")
        self.notation, limits = notation, core.Limits(max_tokens=tokens, max_chars=16 * tokens)
        form = "p or b" if notation == "compact" else "[pass] or [bet]"
        self.roles = tuple(core.RoleSpec(agent[:-2], 1, form, (-2.0, 2.0)) for agent in PLAYERS)
        self._seats = tuple(core.Seat(agent, agent[:-2], limits) for agent in PLAYERS)
        self._sets = {self._request(info).messages[0]["content"]: info for info in INFORMATION_SETS}

    def start(self, task: Task | None, rng: np.random.Generator) -> State:
        """Deal from ``rng``, or again what a task of ``record`` says (its answer: ``JQ``, the first player's first)."""
        if task is None:
            return State("".join(CARDS[i] for i in rng.permutation(3)[:2]))
        if task.family != "kuhn" or len(task.answer) != 2 or len(set(task.answer) & set(CARDS)) != 2:
            raise DreamEnvsError("Kuhn-v0 starts from a deal: Task(family='kuhn', answer='JQ'), two different cards")
        return State(task.answer)

    def turns(self, state: State) -> list[core.Seat]:
        """The two players by turns."""
        return [] if state.out or state.history in OVER else [self._seats[len(state.history) % 2]]

    def view(self, state: State, agent: str) -> list[Message]:
        """The agent's own card and the moves so far."""
        player = PLAYERS.index(agent)
        return [{"role": "user", "content": self._prompt(player, state.deal[player], state.history)}]

    def apply(self, state: State, actions: Mapping[str, Action]) -> State:
        """The next state; a missing action is a reply that says nothing."""
        agent = self.turns(state)[0].agent
        action = actions.get(agent, Action(""))
        move = self._read(action.text) if action.status == "ok" else ""
        return State(state.deal, state.history + move, "" if move else agent, action.status)

    def outcome(self, state: State) -> core.Outcome | None:
        """Facts: ``agents``, ``cards`` by agent, the public ones, and who ``failed`` where a call did."""
        if self.turns(state):
            return None
        cards = dict(zip(PLAYERS, state.deal, strict=True))
        facts = {"agents": [*PLAYERS], "cards": cards, **self.public_facts(state)}
        return core.Outcome(state.status, facts if state.status == "ok" else {**facts, "failed": state.out})

    def record(self, state: State) -> tuple[list[Task | core.Challenge], list[core.Event]]:
        """The deal as a task, its cards hidden in the answer, and the forfeit if there was one."""
        task = Task(family="kuhn", level=1, prompt="kuhn", answer=state.deal, origin="deal")
        forfeit = state.out and state.status == "ok"
        return [task], [core.Event("forfeit", state.out, {"history": state.history})] if forfeit else []

    def public_facts(self, state: State) -> dict[str, Any]:
        """How the game went, without the cards."""
        if not state.out:
            won = payoff(state.deal[0], state.deal[1], state.history, 0) if state.history in OVER else 0
        else:
            won = -1 if state.out == PLAYERS[0] else 1
        winnings = dict(zip(PLAYERS, (won, -won), strict=True)) if state.status == "ok" else {}
        return {"history": state.history, "forfeit": state.out if winnings else "", "winnings": winnings}

    def default_reward(self, episode: core.Episode) -> dict[str, Score]:
        """Winnings in antes; where a call failed, its status for whoever failed and ``abstain`` for the other."""
        facts, status = episode.outcome.facts, episode.outcome.status
        if status != "ok":
            return {agent: Score(0.0, status if agent == facts["failed"] else "abstain") for agent in PLAYERS}
        return {agent: Score(float(won)) for agent, won in facts["winnings"].items()}

    def group(self, episode: core.Episode, turn: core.Turn) -> str:
        """Role and information set: given all that a policy can know, the other's card and moves are chance draws.

        Grouped by deal, returns would be scaled by the spread that one hidden card leaves, which moves the optimum, and
        both turns of a player, which share their return, would be compared with each other.
        """
        prompt = turn.messages[-1]["content"]
        return f"{turn.role}/{self._sets.get(prompt, prompt)}"

    def scripted(self, kind: str, request: core.Request, rng: np.random.Generator) -> str | None:
        """``oracle``: an equilibrium; ``guesser``: a random legal move; ``floor``: nothing, a forfeit."""
        info = self._sets.get(request.messages[-1]["content"] if request.messages else "")
        if kind not in ("oracle", "guesser", "floor") or info is None:
            return None
        move = "b" if rng.random() < (equilibrium()[info][1] if kind == "oracle" else 0.5) else "p"
        return "" if kind == "floor" else move if self.notation == "compact" else f"[{MOVES[move]}]"

    def evaluate(self, agent: core.Agent, seed: str) -> dict[str, core.Measure]:
        """The measures of the module's head for an agent who plays both roles.

        Exact (``n`` = 0) in compact notation for an agent whose ``probabilities(requests, texts)`` are the chances that
        a reply is just this text (``LocalAgent``); else estimated from ``REPLIES`` replies to each information set.

        Raises:
            DreamEnvsError: if every call failed in an information set.
        """
        exact = getattr(agent, "probabilities", None) if self.notation == "compact" else None
        legal = exact([self._request(info) for info in INFORMATION_SETS], list(MOVES)) if exact is not None else None
        if legal is not None:
            rows = np.concatenate([legal, 1 - legal.sum(1, keepdims=True)], 1).clip(0)
            return {name: core.Measure(float(value)) for name, value in measures(rows).items()}
        counts = self._replies(agent, seed)
        if not counts.sum(1).all():
            info = INFORMATION_SETS[int(counts.sum(1).argmin())]
            raise DreamEnvsError(f"{self.env_id}: every call to the agent failed in information set {info!r}")
        return estimates(counts, seed)

    def _replies(self, agent: core.Agent, seed: str) -> np.ndarray:
        """How often the agent passed, bet and was unreadable: ``int[12, 3]``; failed calls are not counted."""
        keys = [(i, seeds.digest("kuhn", seed, i, k)) for i in range(len(INFORMATION_SETS)) for k in range(REPLIES)]
        answers: Any = agent.act([self._request(INFORMATION_SETS[i], number) for i, number in keys])
        if inspect.isawaitable(answers):  # in a thread of its own: a loop may be running in this one
            answers = ThreadPoolExecutor(1).submit(asyncio.run, _wait(answers)).result()
        counts = np.zeros((len(INFORMATION_SETS), 3), int)
        for (i, _), action in zip(keys, answers, strict=True):
            if action.status == "ok":
                counts[i, ("p", "b", "").index(self._read(action.text))] += 1
        return counts

    def _request(self, info: str, seed: int = 0) -> core.Request:
        player = len(info) % 2 == 0
        seat, said = self._seats[player], Message(role="user", content=self._prompt(player, info[0], info[1:]))
        return core.Request(messages=[said], agent=seat.agent, role=seat.role, seed=seed, limits=seat.limits)

    def _read(self, text: str) -> str:
        """``p``, ``b``, or nothing for what is no move."""
        if self.notation == "compact":
            return text if text in MOVES else ""
        said = text.rpartition("</think>")[2] if len(text) <= self._seats[0].limits.max_chars else ""
        stated = re.findall(r"\[\s*(pass|bet)\s*\]", said, re.IGNORECASE) if "<think>" not in said else []
        return stated[-1][0].lower() if stated else ""

    def _prompt(self, player: int, card: str, history: str) -> str:
        if self.notation == "compact":
            return f"k{card}{history}"
        moves = ", ".join([f"player {i % 2 + 1} [{MOVES[m]}]" for i, m in enumerate(history)])
        text = _RULES.format(player=player + 1, card=card, moves=moves or "none")
        return text + (_ASK if player == len(history) % 2 and history not in OVER else "")


_RULES = (
    "You play Kuhn poker against one opponent. The deck has three cards: J, Q and K; K is the highest, J the lowest. "
    "Both players ante 1 chip and are dealt one card each; player 1 moves first. A move is [pass] or [bet] (1 more "
    "chip). To [pass] after a bet is to fold and lose the ante; to [bet] after a bet is to call it. Unless somebody "
    "folds, the higher card wins. You are player {player} and hold {card}. Moves so far: {moves}."
)
_ASK = " It is your move: end your reply with [pass] or [bet]; a reply without a move loses the ante."


async def _wait(answers: Any) -> Any:
    return await answers
