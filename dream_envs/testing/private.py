"""What nobody may be told: by text (the answer stands in a view) and by influence (another answer, another view).

Text finds an answer that is shown as it is.  Influence finds it however it is coded: in blanks, in the number of
messages, in capitals, in the order or the limits of the seats.  A view is made of a task's prompt and meta and of what
was done, so that with another answer of the same shape (its length and its kinds of character, which a riddle may show)
it has to be the same.  The agents of these games say nothing, so that no comment on an answer they gave can differ.

A task of origin ``deal`` is dealt out, and everybody sees a part: two deals with one prompt and meta (where a card that
is turned up later belongs) that begin alike for a player have to stay alike for it to the end, whatever is moved.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs import seeds
from dream_envs.core import Action, Game, Task, hook
from dream_envs.envs import _adapter as adapter
from dream_envs.play import Table, text_of
from dream_envs.testing.cores import games, seated
from dream_envs.testing.subject import Subject, need
from dream_envs.testing.walks import GameWalk, default_players, need_same, plain

EPISODES, SWAPPED, SWAPS = 24, 6, 3
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
    keep = {role: its for role, its in default_players(game).items() if role in ("challenger", "judge")}
    keep |= {hook(game, "proposer"): "generator"} if hook(game, "proposer") else {}
    trail = GameWalk(game, label, None, {**dict.fromkeys(seated(game), _silent), **keep}, look=False)
    rng = seeds.stream("swap", label)
    twins, moving = list(_restarted(game, trail, rng)), True
    while moving:
        state, done = trail.table.state, len(trail.table.turns)
        here = _shown(game, state)
        for other in [*_others(state, rng), *twins]:
            there = _shown(game, other)
            for what in here:
                need_same([here[what]], [there[what]], f"with another answer {what} is not the same ({_WAY_OUT})")
        moving = game.outcome(state) is None and trail.step()
        moves = {turn.agent: Action(turn.text, status=turn.status) for turn in trail.table.turns[done:]}
        twins = [game.apply(twin, dict(moves)) for twin in twins] if moving else []


def _silent(text: str) -> str:
    return ""


def _shown(game: Game, state: Any) -> dict[str, Any]:
    """All that is shown at a state; an error is shown too."""
    looks: dict[str, Callable[[], Any]] = {"public_info": lambda: hook(game, "public_info")(state)}
    looks |= {f"a view of {agent}": lambda agent=agent: game.view(state, agent) for agent in game.agents}
    looks["what turns() gives, seats and limits,"] = lambda: game.turns(state)
    looks["public_facts"] = lambda: {} if game.outcome(state) is None else hook(game, "public_facts")(state)
    found = dict[str, Any]()
    for what, look in looks.items():
        try:
            found[what] = plain(look())
        except Exception as error:
            found[what] = f"{type(error).__name__}: {error}"
    return found


def _another(task: Task, rng: np.random.Generator) -> Task:
    """The task with an answer of the same shape, in its meta too, and everything else as it is."""
    answer = "".join([_like(c, rng) for c in task.answer])
    meta = {key: answer if value == task.answer else value for key, value in task.meta.items()}
    return msgspec.structs.replace(task, answer=answer, meta=meta)


def _like(character: str, rng: np.random.Generator) -> str:
    for low, high in ("09", "az", "AZ"):
        if low <= character <= high:
            return chr(int(rng.integers(ord(low), ord(high) + 1)))
    return character


class _Swapper(pickle.Pickler):
    """Copies a state with another answer in every task that it holds."""

    def __init__(self, file: io.BytesIO, rng: np.random.Generator) -> None:
        super().__init__(file)
        self.rng, self.made = rng, dict[str, Task]()

    def reducer_override(self, value: Any) -> Any:
        """A task is stored as its twin; the same task is the same twin."""
        if not isinstance(value, Task) or not value.answer or value.origin == "deal":
            return NotImplemented
        twin = self.made.setdefault(value.id, _another(value, self.rng))
        return msgspec.structs.replace(value, answer=twin.answer, meta=twin.meta).__reduce__()


def _others(state: Any, rng: np.random.Generator) -> Iterator[Any]:
    for _ in range(SWAPS):
        file = io.BytesIO()
        swapper = _Swapper(file, rng)
        try:
            swapper.dump(state)
        except Exception:  # the check "pickling" says so
            return
        if not swapper.made:
            return
        yield pickle.loads(file.getvalue())


def _restarted(game: Game, trail: GameWalk, rng: np.random.Generator) -> Iterator[Any]:
    """States that begin from the recorded task with other answers, where a game begins from its recorded task.

    A state may keep an answer outside of any task.
    """
    tasks, label = game.record(trail.table.state)[0], trail.table.label
    if len(tasks) != 1 or not tasks[0].answer or tasks[0].origin == "deal":
        return
    try:
        again = Table(game, label, tasks[0]).state
        if _shown(game, again) == _shown(game, trail.table.state):
            yield from [Table(game, label, _another(tasks[0], rng)).state for _ in range(SWAPS)]
    except Exception:  # it does not begin from any task, or checks the answer
        return


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
            kind = plain([task.prompt, task.meta, game.view(state, agent)])
            kinds.setdefault(kind, []).append(state)
        few = 1 < len(deals) == len(kinds) <= EPISODES // 2  # so few that these are all
        need(not few, f"no two of {len(deals)} deals look alike to {agent}: its first view tells all")
        for (one, two), made in itertools.product(_pairs(kinds.values()), moves):
            _stay_alike(game, agent, one, two, made)


def _pairs(kinds: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, Any]]:
    for kind in kinds:
        yield from itertools.pairwise(kind)


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
        here, there = _shown(game, one), _shown(game, two)
        for what in here:
            told = f"two deals that look alike to {agent}: {what} is not the same"
            if not what.startswith("a view of") or what.endswith(f" {agent}"):
                need_same([here[what]], [there[what]], told)
        one, two = game.apply(one, dict(made)), game.apply(two, dict(made))
