"""Games that tell by how they look, change what they are given, or depend on the day, the place and the process.

``BAD``: the check that has to fail, and what its reason has to say.
"""

import datetime
import os
import platform
import socket
import sys
import time
import typing

import msgspec
from broken_envs import Sums

from dream_envs.core import Action, Limits, RoleSpec, Score, Seat
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.kuhn import Kuhn

BAD: dict[type, tuple[str, str]] = {}
IMPORTED = datetime.datetime.now().strftime("%Y-%m-%d")
REG: dict[str, typing.Any] = {}


def bad(check, words, name, base=Sums, **members):
    for key, member in members.items():
        if callable(member):
            member.__name__ = key
    made = type(name, (base,), {"__module__": __name__, "env_id": f"broken/{name}-v0", **members})
    setattr(sys.modules[__name__], name, made)
    BAD[made] = check, words


def number(answer):
    return int("".join(c for c in answer if c.isdigit()))


def says(text, base=Sums):
    """A view whose last message goes on with ``text(state, agent)``."""

    def view(self, state, agent):
        seen = base.view(self, state, agent)
        if seen:
            seen[-1]["content"] += text(state, agent)
        return seen

    return view


def first(state):
    return state.task.answer if state.said[:1] == [""] else ""


secret = ("private_information", "another answer")
bad(*secret, "Blanks", view=says(lambda s, a: " " * (number(s.task.answer) % 7)))
bad(*secret, "Upper", view=says(lambda s, a: s.task.answer[::-1].upper()))
bad(*secret, "OneAlone", view=says(lambda s, a: "!" * (a == "player_1" and number(s.task.answer) % 2)))
bad(*secret, "LaterOnly", view=says(lambda s, a: "\u200b" * (number(s.task.answer) % 3) if len(s.said) > 1 else ""))
bad(*secret, "ByMeta", view=says(lambda s, a: "!" * (number(s.task.meta["animals"]) % 3)))
bad(*secret, "AfterASilence", view=says(lambda s, a: first(s)[:1]))
bad(*secret, "Count", view=lambda self, s, a: Sums.view(self, s, a) * (1 + number(s.task.answer) % 3))
bad("private_information", "public_info", "Parity", public_info=lambda self, s: {"p": number(s.task.answer) % 2})
bad("private_information", "public_facts", "Facts", public_facts=lambda self, s: {"p": number(s.task.answer) % 2})


def author(self, state, agent):
    seen = Sums.view(self, state, agent)
    seen[0]["role"] = ("user", "system")[number(state.task.answer) % 2]
    return seen


def bounded(self, state):
    limits = Limits(100 + number(state.task.answer) % 5)
    return [Seat(seat.agent, seat.role, limits) for seat in Sums.turns(self, state)]


bad(*secret, "Author", view=author)
bad("private_information", "turns()", "Bounds", turns=bounded)
bad(
    "private_information", "turns()", "Order",
    turns=lambda self, s: Sums.turns(self, s)[:: 1 - 2 * (number(s.task.answer) % 2)],
)  # fmt: skip
bad(
    *secret, "Solved", ChallengerSolver, version=1, env_id="dream_envs/ChallengerSolver-v0",
    view=says(lambda s, a: " " * (sum(map(ord, s.challenge.answer)) % 3) if s.challenge else "", ChallengerSolver),
)  # fmt: skip


class Plain(msgspec.Struct):
    """A state that keeps the answer outside of its task."""

    task: typing.Any
    said: list[str]
    hidden: str


def plain_start(self, task, rng):
    task = task or self.draw(rng)
    return Plain(msgspec.structs.replace(task, answer="", meta={}), [], task.answer)


def plain_record(self, state):
    return [msgspec.structs.replace(state.task, answer=state.hidden)], []


def plain_apply(self, state, actions):
    return Plain(state.task, [*state.said, *[actions.get(a, Action("")).text for a in self.agents]], state.hidden)


bad(
    *secret, "Elsewhere", start=plain_start, record=plain_record, apply=plain_apply,
    view=says(lambda s, a: " " * (number(s.hidden) % 7)),
)  # fmt: skip
kuhn = {"base": Kuhn, "env_id": "dream_envs/Kuhn-v0"}
sees_all = says(lambda s, a: " " * "JQK".find(s.deal[a[0] == "f"]), Kuhn)
bad(
    "private_information",
    "look alike",
    "SeesAll",
    view=says(lambda s, a: " " * ("JQK".find(s.deal[a[0] == "f"])), Kuhn),
    **kuhn,
)
bad("private_information", "look alike to", "Tells", public_info=lambda self, s: {"k": s.deal[0] == "K"}, **kuhn)
bad(
    "private_information", "alike to second_0", "Slips", **kuhn,
    view=says(lambda s, a: " " * (s.deal[0] == "K" and bool(s.history)), Kuhn),
)  # fmt: skip


def clears(self, state, actions):
    found = Sums.apply(self, state, actions)
    actions.clear()
    return found


def extends(self, state, actions):
    state.said.extend([actions.get(a, Action("")).text for a in self.agents])
    return state


def counts(hook, arguments=1):
    """A hook that notes in the task, wherever it finds one, that it was called."""

    def noted(self, *given):
        thing = given[0]
        task = getattr(thing, "task", None) or (getattr(thing, "tasks", None) or [thing])[0]
        if task is not None:
            task.meta[hook] = task.meta.get(hook, 0) + 1
        return getattr(Sums, hook)(self, *given)

    return noted


def empties(self, episode):
    scores = Sums.default_reward(self, episode)
    episode.turns.clear()
    return scores


def inserts(self, kind, request, rng):
    request.messages.insert(0, {"role": "system", "content": "Be good."})
    return Sums.scripted(self, kind, request, rng)


bad("in_place", "apply changes the actions", "ClearsActions", apply=clears)
bad("in_place", "apply changes the state", "InPlace", apply=extends)
bad("in_place", "view changes the state", "ViewCounts", view=counts("view"))
bad("in_place", "record changes the state", "RecordCounts", record=counts("record"))
bad("in_place", "start changes the task", "StartCounts", start=counts("start"))
bad("in_place", "reward changes the episode", "EmptiesTurns", default_reward=empties)
bad("in_place", "scripted changes the request", "Inserts", scripted=inserts)


def files(self, state, actions):
    found = Sums.apply(self, state, actions)
    REG[found.task.id] = tuple(found.said)
    return found


def reads_files(self, episode):
    said = REG.get(episode.tasks[0].id, ())
    return {a: Score(float(said[i : i + 1] == (episode.tasks[0].answer,))) for i, a in enumerate(self.agents)}


def by_the_day(self, episode):
    scores = Sums.default_reward(self, episode)
    return {a: Score(s.value, detail=str(datetime.datetime.now().year)) for a, s in scores.items()}


process = "process_determinism"
bad(process, "date", "Date", view=says(lambda s, a: f" Today is {datetime.date.today()}."))
bad(process, "date", "DateWhenImported", view=says(lambda s, a: IMPORTED))
bad(process, "date", "PaysByTheDay", default_reward=by_the_day)
bad(process, "HOME", "Home", view=says(lambda s, a: os.path.expanduser("~")))
bad(process, "folder", "Folder", view=says(lambda s, a: os.getcwd()))
bad(process, "time zone", "Zone", view=says(lambda s, a: time.tzname[0]))
bad(process, "host", "Host", view=says(lambda s, a: socket.gethostname() + platform.node()))
bad(process, "fresh process", "ProcessNumber", view=says(lambda s, a: str(os.getpid())))
bad(process, "stored episode is scored in a fresh process", "Files", apply=files, default_reward=reads_files)


class Riddle(Sums):
    """Sound: shows how long the word is, and which letters of it were said."""

    env_id = "broken/Riddle-v0"

    def view(self, state, agent):
        word, said = state.task.answer, "".join(state.said)
        return [{"role": "user", "content": " ".join(c if c in said else "_" for c in word)}]


class Contest(Sums):
    """Sound: two players, zero-sum."""

    env_id = "broken/Contest-v0"
    roles = (RoleSpec("player", 2, "the sum", (-1.0, 1.0)),)

    def default_reward(self, episode):
        one, two = (episode.outcome.facts["right"][agent] for agent in self.agents)
        return {"player_0": Score(one - two), "player_1": Score(two - one)}


class Together(Sums):
    """Sound: both are paid for the better answer, and told in the second round whether the first was right."""

    env_id = "broken/Together-v0"

    def view(self, state, agent):
        right = state.said[:1] == [state.task.answer]
        seen = super().view(state, agent)
        return [*seen, {"role": "user", "content": "right" if right else "wrong"}] if state.said else seen

    def default_reward(self, episode):
        return dict.fromkeys(self.agents, Score(max(episode.outcome.facts["right"].values())))


SOUND = [Riddle, Contest, Together]
