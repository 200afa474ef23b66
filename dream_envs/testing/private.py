"""What nobody may be told: by text (the answer stands in a view) and by influence (another answer, another view).

Text finds an answer that is shown as it is.  Influence finds it however it is coded: in blanks, in the number of
messages, in capitals, in the order or the limits of the seats.  A view is made of a task's prompt and meta and of what
was done, so that with another answer of the same shape (its length and its kinds of character, which a riddle may show)
it has to be the same.  The agents of these games say nothing, so that no comment on an answer they gave can differ.

A task of origin ``deal`` is dealt out, and everybody sees a part: two deals with one prompt and meta (where a card that
is turned up later belongs) that begin alike for a player have to stay alike for it to the end, whatever is moved.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import pickle
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs import seeds
from dream_envs.core import Action, Game, Task, hook
from dream_envs.envs import _adapter as adapter
from dream_envs.play import text_of
from dream_envs.testing.cores import games, seated
from dream_envs.testing.subject import Subject, need
from dream_envs.testing.walks import GameWalk, default_players, need_same, plain

EPISODES, SWAPPED, SWAPS = 24, 3, 3
_WAY_OUT = "views are made of prompt, meta and moves; or its task has origin 'deal', where all see a part"


def private_information(subject: Subject, parts: Sequence[Subject]) -> None:
    """No answer and no hidden meta in any view, observation or info, and no view that another answer would change.

    What the tasks' own prompts say and what agents have said is public and taken out first.  A secret counts as leaked
    if it stands in what its own episode shows, and not in what most other episodes show (then it is boilerplate).
    """
    for game, reward in games(subject):
        for solver in ("floor", "oracle"):
            players = {**default_players(game), **{r: solver for r in seated(game) if r in ("solver", "actor")}}
            shown, secrets = [], []
            for number in range(EPISODES):
                trail = GameWalk(game, f"private/{number}", reward, players)
                episode = trail.played()
                said = {turn.text for turn in episode.turns} | {task.prompt for task in episode.tasks}
                public = sorted(said - {""}, key=len, reverse=True)
                shown.append({where: _without(text, public) for where, text in _exposed(trail).items()})
                secrets.append(_secrets(episode.tasks))
            _search(shown, secrets)
        for number in range(SWAPPED):
            _swapped(game, f"private/{number}")
        _dealt(game)


def _exposed(trail: GameWalk) -> dict[str, str]:
    """All that a finished episode shows: the views at every moment, then the final observations and infos."""
    game, documents = trail.game, dict[str, str]()
    for agent, view in zip(itertools.cycle(game.agents), trail.returned, strict=False):
        where = f"a view of {agent}"
        documents[where] = documents.get(where, "") + "\n" + text_of(view)
    found: dict[str, Any] = {"the infos that all are given": trail.infos}
    for agent, its in trail.played().scores.items():
        found[f"the score's info of {agent}"] = adapter.score_info(its)
    found["the final info's facts"] = hook(game, "public_facts")(trail.table.state)
    return documents | {where: json.dumps(info, ensure_ascii=False) for where, info in found.items()}


def _without(text: str, public: Sequence[str]) -> str:
    for part in public:
        text = text.replace(part, "\x00") if len(part) > 2 else re.sub(_alone(part), "\x00", text)
    return text


def _secrets(tasks: Sequence[Task]) -> dict[str, str]:
    found: dict[str, str] = {}
    for task in tasks:
        if task.answer:
            found["answer"] = task.answer
            found |= {f"meta[{key!r}]": str(v) for key, v in task.meta.items() if isinstance(v, str) and len(v) > 3}
    return {name: text for name, text in found.items() if text.strip()}


def _search(shown: Sequence[Mapping[str, str]], secrets: Sequence[Mapping[str, str]]) -> None:
    for where, name in itertools.product(sorted(set().union(*shown)), sorted(set().union(*secrets))):
        texts, leaks = [documents.get(where, "") for documents in shown], 0
        for found, text in zip(secrets, texts, strict=True):
            if name in found and re.search(_alone(found[name]), text):
                showing = sum(bool(re.search(_alone(found[name]), other)) for other in texts)
                leaks += showing - 1 < 0.5 * (len(texts) - 1)
        what = "the answer" if name == "answer" else f"the task's {name}"
        need(leaks < 2, f"{where} shows {what} ({leaks} of {len(texts)} episodes)")


def _alone(secret: str) -> str:
    return rf"(?<![\w.]){re.escape(secret)}(?![\w])"


def _swapped(game: Game, label: str) -> None:
    """At every moment of a game in which nobody says anything, other answers change nothing that is shown."""
    players: dict[str, Any] = dict.fromkeys(seated(game), lambda text: "")
    players |= {role: its for role, its in default_players(game).items() if role in ("challenger", "judge")}
    trail = GameWalk(game, label, None, players, look=False)
    states, rng = [trail.table.state], seeds.stream("swap", label)
    while trail.step():
        states.append(trail.table.state)
    tasks = trail.played().tasks
    public = {turn.text for turn in trail.table.turns} | {task.prompt for task in tasks}
    answers = {task.answer for task in tasks if task.origin != "deal"} - public - {""}
    for state in states if answers else ():
        here = _shown(game, state)
        for _ in range(SWAPS):
            file = io.BytesIO()
            try:
                _Swapper(file, {answer: _like(answer, rng) for answer in sorted(answers)}).dump(state)
            except Exception:  # the check "pickling" says so
                return
            file.seek(0)
            reader = pickle.Unpickler(file)
            reader.persistent_load = str  # type: ignore[method-assign]
            _compare(here, _shown(game, reader.load()), f"with another answer ({_WAY_OUT})")


def _shown(game: Game, state: Any, agents: Sequence[str] | None = None) -> dict[str, Any]:
    """All that is shown at a state, to ``agents`` (None: to all); an error is shown too."""
    looks: dict[str, Callable[[], Any]] = {"public_info": lambda: hook(game, "public_info")(state)}
    looks |= {f"a view of {agent}": functools.partial(game.view, state, agent) for agent in agents or game.agents}
    looks["what turns() gives, seats and limits,"] = lambda: game.turns(state)
    looks["public_facts"] = lambda: {} if game.outcome(state) is None else hook(game, "public_facts")(state)
    found = dict[str, Any]()
    for what, look in looks.items():
        try:
            found[what] = plain(look())
        except Exception as error:
            found[what] = f"{type(error).__name__}: {error}"
    return found


def _like(answer: str, rng: np.random.Generator) -> str:
    """A text with other digits and other small and capital letters."""

    def other(found: re.Match[str]) -> str:
        kind = next(
            kind for kind in (string.digits, string.ascii_lowercase, string.ascii_uppercase) if found[0] in kind
        )
        return kind[int(rng.integers(len(kind)))]

    return re.sub("[0-9a-zA-Z]", other, answer)


class _Swapper(pickle.Pickler):
    """Stores a state with other answers: in its tasks and (longer ones) wherever else they stand."""

    def __init__(self, file: io.BytesIO, other: Mapping[str, str]) -> None:
        super().__init__(file)
        self.other = other

    def persistent_id(self, value: Any) -> Any:
        """The text to read in place of this one."""
        return self.other.get(value) if type(value) is str and len(value) > 3 else None

    def reducer_override(self, value: Any) -> Any:
        """A task with its other answer."""
        if not isinstance(value, Task) or value.answer not in self.other:
            return NotImplemented
        return msgspec.structs.replace(value, answer=self.other[value.answer]).__reduce__()


def _compare(here: Mapping[str, Any], there: Mapping[str, Any], where: str) -> None:
    for what in here:
        need_same([here[what]], [there[what]], f"{what} is not the same {where}")


def _dealt(game: Game) -> None:
    """Deals that begin alike for a player stay alike for it; a first view does not tell the whole deal."""
    trails = [GameWalk(game, f"private/{number}", None, look=False) for number in range(EPISODES)]
    tasks = [game.record(trail.table.state)[0] for trail in trails]
    if not all(len(its) == 1 and its[0].origin == "deal" for its in tasks):
        return
    deals = {its[0].answer: (its[0], trail.table.state) for its, trail in zip(tasks, trails, strict=True)}
    moves = [list(_moves(trail)) for trail in trails[:6]]
    for agent in game.agents:
        kinds = dict[Any, list[Any]]()
        for task, state in deals.values():
            kinds.setdefault(plain([task.prompt, task.meta, game.view(state, agent)]), []).append(state)
        few = 1 < len(deals) == len(kinds) <= EPISODES // 2  # so few that these are all
        need(not few, f"no two of {len(deals)} deals look alike to {agent}: its first view tells all")
        pairs = itertools.chain.from_iterable(map(itertools.pairwise, kinds.values()))
        for (one, two), made in itertools.product(pairs, moves):
            _stay_alike(game, agent, one, two, made)


def _moves(trail: GameWalk) -> Iterator[dict[str, Action]]:
    """The moves of a game, played to its end."""
    done = 0
    while trail.step():
        made, done = trail.table.turns[done:], len(trail.table.turns)
        yield {turn.agent: Action(turn.text, status=turn.status) for turn in made}


def _stay_alike(game: Game, agent: str, one: Any, two: Any, moves: Sequence[Mapping[str, Action]]) -> None:
    for made in [*moves, {}]:
        if game.outcome(one) is not None or game.outcome(two) is not None:
            return  # what is laid open at the end is the game's business
        here, there = (_shown(game, state, [agent]) for state in (one, two))
        _compare(here, there, f"in two deals that look alike to {agent}")
        one, two = game.apply(one, dict(made)), game.apply(two, dict(made))
