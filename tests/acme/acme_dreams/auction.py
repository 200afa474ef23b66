"""``acme/Auction-v0``: two sealed bids, the higher one wins and pays the lower one (Vickrey).

Roles: ``bidder_0`` and ``bidder_1``, who bid at the same time.  Each sees its own value, 1 to 9, and not the other's.
A reply is one digit.  Rewards: value minus price for the winner, 0 for the loser, in tenths, -0.9 to 0.9; of equal bids
the first wins; whoever bids no digit pays 0.9.
"""

from __future__ import annotations

import msgspec

from dream_envs.core import Event, Limits, Outcome, RoleSpec, Score, Seat, Task


def surplus(episode):
    """What each bidder has left, in tenths."""
    if episode.outcome.status != "ok":
        return {name: Score(0.0, episode.outcome.status) for name in episode.outcome.facts["agents"]}
    return {name: Score(tenths / 10) for name, tenths in episode.outcome.facts["surplus"].items()}


class State(msgspec.Struct, frozen=True):
    """The task holds both values, the bids come at once."""

    task: Task
    bids: tuple[str, ...] = ()
    status: str = "ok"


class Auction:
    """The game; see the module's head."""

    env_id, version = "acme/Auction-v0", 0
    agents = ("bidder_0", "bidder_1")
    roles = (RoleSpec("bidder", 2, "one digit", (-0.9, 0.9)),)

    def __init__(self):
        self.default_reward = surplus

    def start(self, task, rng):
        """Two values."""
        values = [int(v) for v in rng.integers(1, 10, size=2)]
        return State(task or Task(family="auction", level=1, prompt="bid", meta={"values": values}))

    def turns(self, state):
        """Both at once."""
        return [] if self.outcome(state) else [Seat(name, "bidder", Limits(4, 8)) for name in self.agents]

    def view(self, state, agent):
        """Its own value."""
        value = state.task.meta["values"][self.agents.index(agent)]
        return [{"role": "user", "content": f"It is worth {value} to you. Bid one digit."}]

    def apply(self, state, actions):
        """Both bids."""
        failed = [a.status for a in actions.values() if a.status != "ok"]
        bids = tuple(actions[n].text if n in actions else "" for n in self.agents)
        return State(state.task, bids, failed[0] if failed else "ok")

    def outcome(self, state):
        """Facts: ``surplus`` in tenths."""
        facts = {"agents": list(self.agents), "surplus": {}}
        if state.status != "ok":
            return Outcome(state.status, facts)
        if not state.bids:
            return None
        bids = [int(b) if len(b) == 1 and b in "0123456789" else None for b in state.bids]
        facts["surplus"] = {n: -9 if b is None else 0 for n, b in zip(self.agents, bids, strict=True)}
        order = sorted((i for i in (0, 1) if bids[i] is not None), key=lambda i: (-bids[i], i))
        if order:
            price = bids[order[1]] if len(order) == 2 else 0
            facts["surplus"][self.agents[order[0]]] = state.task.meta["values"][order[0]] - price
        return Outcome("ok", facts)

    def record(self, state):
        """The task."""
        return [state.task], [Event("bids", data={"bids": list(state.bids)})] if state.bids else []

    def scripted(self, kind, request, rng):
        """Truth is the best bid; at worst nothing is said."""
        value = request.messages[0]["content"].split()[3]
        return {"oracle": value, "floor": "", "guesser": str(int(rng.integers(10)))}.get(kind)

    @property
    def bounds(self):
        """The best for a bidder needs a rival who bids nothing, and the value 9; the worst is no bid at all."""
        best = {"bidder_0": NineOrNothing(), "bidder_1": lambda text: "0"}
        return {"bidder": ({"bidder_0": "floor", "bidder_1": "oracle"}, best)}


class NineOrNothing:
    """Bids where the value is 9; at any other it fails, so that only the 9s are counted."""

    def act(self, requests):
        """One bid a request."""
        from dream_envs.core import Action

        nine = [" 9 " in r.messages[0]["content"] for r in requests]
        return [Action("9") if yes else Action("", status="error") for yes in nine]
