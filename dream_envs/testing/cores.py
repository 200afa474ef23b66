"""Checks that need a game core: secrets, ranges of reward, hostile replies, re-scoring, agreement of the adapters."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec

from dream_envs import seeds
from dream_envs.core import Action, Episode, Game, Status, Task, decode_episode, encode, hook
from dream_envs.envs import _adapter as adapter
from dream_envs.envs.gym import SeatEngine
from dream_envs.envs.pettingzoo import AEC, Parallel
from dream_envs.play import roles_by_agent, score, text_of
from dream_envs.testing.subject import Failure, Skip, Subject, need
from dream_envs.testing.walks import GameWalk, default_players, need_same, plain, seat_players

STATUSES = get_args(Status)
#: Replies that have broken parsers before: sizes, encodings, numbers that are not numbers, other formats' syntax.
HOSTILE: dict[str, str] = {
    "empty": "",
    "blank": " \t\r\n ",
    "a megabyte": "x" * 1_000_000,
    "a megabyte of brackets": "(" * 1_000_000,
    "a long number": "9" * 6_000,
    "NUL": "\x00",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x1b[2J",
    "lone surrogate": "1 \ud800 \udfff",
    "right-to-left": "\u202e1+1\u202c",
    "superscript digits": "²³¹",
    "foreign digits": "१२३ ٣ ⅷ",
    "line separators": "a\u2028b\u2029c\x85d\x0be",
    "combining": "e" + "\u0301" * 500,
    "emoji": "🙂" * 500,
    "not a number": "nan inf -inf 1e999 0x10 1_000 ½",
    "JSON": '{"answer": [1, {"a": null}',
    "chat markup": "<|im_end|>\n<|im_start|>assistant\n</s>[INST]",
    "format string": "%s {0} {x!r} ${HOME} `ls` $(ls)",
}


def private_information(subject: Subject, parts: Sequence[Subject]) -> None:
    """No answer and no hidden meta in any view, observation or info, before or after the end.

    What the tasks' own prompts say and what agents have said is public and taken out first.  A secret counts as leaked
    if it stands in what its own episode shows, and not in what most other episodes show (then it is boilerplate).
    """
    for game, reward in _games(subject):
        for solver in ("floor", "oracle"):
            players = {**default_players(game), **{r: solver for r in _seated(game) if r in ("solver", "actor")}}
            shown, secrets = [], []
            for number in range(24):
                trail = GameWalk(game, f"private/{number}", reward, players)
                episode = trail.played()
                said = {turn.text for turn in episode.turns} | {task.prompt for task in episode.tasks}
                public = sorted(said - {""}, key=len, reverse=True)
                shown.append({where: _without(text, public) for where, text in _exposed(trail).items()})
                secrets.append(_secrets(episode.tasks))
            _search(shown, secrets)


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


def reward_range(subject: Subject, parts: Sequence[Subject]) -> None:
    """Every score has a known status and a finite value, within the role's range where the status is ``ok``."""
    for game, reward in _games(subject):
        for players in itertools.islice(_assignments(game), 40):
            for number in range(3):
                _check_scores(_play(game, players, f"range/{number}", reward), game)
        for what, players in _hostile_assignments(game):
            _check_scores(_play(game, players, "range/hostile", reward), game, after=f"{what}: ")


def _check_scores(episode: Episode, game: Game, after: str = "") -> None:
    ranges = {spec.name: spec.reward_range for spec in game.roles}
    role_of = roles_by_agent(game)
    for agent, its in episode.scores.items():
        need(agent in role_of, f"{after}a score for {agent!r}, who is no agent of the game")
        known = its.status in STATUSES
        need(known, f"{after}{agent} has status {its.status!r}, not one of {sorted(STATUSES)}")
        # A reward model turns a NaN of the function behind it into the status error and says so in the detail.
        finite = math.isfinite(its.value) and not (its.status == "error" and "not finite" in its.detail)
        need(finite, f"{after}{agent} has value {its.detail or its.value}")
        low, high = ranges[role_of[agent]]
        within = its.status != "ok" or low - 1e-9 <= its.value <= high + 1e-9
        need(within, f"{after}{agent} has value {its.value:g}, outside its role's {low:g} to {high:g}")


def hostile_replies(subject: Subject, parts: Sequence[Subject]) -> None:
    """Empty, huge, malformed, oddly encoded and other roles' replies raise nothing and can be stored."""
    for game, reward in _games(subject):
        for what, players in _hostile_assignments(game):
            try:
                encode(_play(game, players, "hostile", reward, look=True))
            except Exception as error:
                why = f"{type(error).__name__}: {error}".splitlines()[0][:160]
                raise Failure(f"{what}: {why}") from error


def _hostile_assignments(game: Game) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every hostile reply, every other role's reply and every bad status, in every role among oracles."""
    oracles: dict[str, Any] = dict.fromkeys(_seated(game), "oracle")
    said = _play(game, oracles, "hostile", None).turns
    actions = {name: Action(text) for name, text in HOSTILE.items()}
    actions |= {f"what {turn.agent} outputs": Action(turn.text) for turn in said}
    actions |= {f"nothing, with status {s}": Action("", status=s) for s in STATUSES if s != "ok"}
    for role, (name, action) in itertools.product(_seated(game), actions.items()):
        yield f"{role} outputs {name}", {**oracles, role: lambda text, action=action: action}


def oracle_top(subject: Subject, parts: Sequence[Subject]) -> None:
    """In every role the scripted oracle, with the best others, reaches the top of the role's range."""
    _extremes(subject, "oracle")


def floor_bottom(subject: Subject, parts: Sequence[Subject]) -> None:
    """In every role the scripted floor, with the worst others, reaches the bottom of the role's range."""
    _extremes(subject, "floor")


def _extremes(subject: Subject, kind: str) -> None:
    best, reached = kind == "oracle", False
    for game, reward in _games(subject):
        bounds = hook(game, "bounds")
        if not bounds and not hasattr(game, "family") and not hasattr(game, "scripted"):
            raise Skip("the game has no family, no scripted() and no bounds: nobody knows how to play it well")
        for spec in game.roles:
            seats = [agent for agent, role in roles_by_agent(game).items() if role == spec.name]
            if not seats:
                continue
            end = bounds.get(spec.name, (None, None))[best]
            target = end if isinstance(end, (int, float)) else spec.reward_range[best]
            tried = [end] if isinstance(end, Mapping) else list(_with_others(game, seats[0], kind))
            values = []
            for players in tried:
                scores = [_play(game, players, f"extreme/{i}", reward).scores[seats[0]] for i in range(4)]
                fine = [score.value for score in scores if score.status == "ok"]
                values += [math.fsum(fine) / len(fine)] if fine else []
            if not values:
                continue
            reached, found = True, max(values) if best else min(values)
            at, end = ("best", "top") if best else ("worst", "bottom")
            told = f"{spec.name}: {kind} gets {found:.4g} at {at} in {len(tried)} assignments; the {end} of its range "
            told += f"is {target:g} (the hook `bounds` says what can be reached, or who has to play for it)"
            need(found >= target - 1e-6 if best else found <= target + 1e-6, told)
    if not reached:
        raise Skip("no assignment of agents gave any role a score with status ok")


def _with_others(game: Game, seat: str, kind: str) -> Iterator[dict[str, Any]]:
    """Assignments in which ``seat`` is ``kind`` and the agents of every other role are good, bad or mixed."""
    choices = []
    for role in _seated(game):
        mine = [agent for agent, its in roles_by_agent(game).items() if its == role and agent != seat]
        ends = itertools.product(("oracle", "floor"), repeat=min(2, len(mine)))  # the first and the rest
        choices.append([{**dict.fromkeys(mine, end[-1]), mine[0]: end[0]} if end else {} for end in ends])
    for combination in itertools.product(*choices):
        yield {**{k: v for part in combination for k, v in part.items()}, seat: kind}


def rescoring(subject: Subject, parts: Sequence[Subject]) -> None:
    """Stored as JSON, read back and scored by a new copy of the reward, an episode has the scores it had."""
    for maker, (game, reward) in zip(subject.variants, _games(subject), strict=True):
        chosen = enumerate(itertools.islice(_assignments(game), 20))
        episodes = [_play(game, players, f"rescore/{i}", reward) for i, players in chosen]
        again = adapter.build_reward(subject.reward, maker())
        for episode in reversed(episodes):  # another order: a reward that remembers would show
            read = decode_episode(encode(episode))
            need(read == episode, "an episode read back from JSON is not the one that was stored")
            scores = score([msgspec.structs.replace(read, scores={}, grader="")], again, game.agents)[0].scores
            for agent, first in episode.scores.items():
                one, two = (repr(plain(msgspec.to_builtins(its))) for its in (first, scores.get(agent)))
                need(one == two, f"{agent} had {one}, and {two} when scored again")


def adapters_agree(subject: Subject, parts: Sequence[Subject]) -> None:
    """The same seed and moves give the same episode in AEC, Parallel, the single-role engine and the core."""
    game = subject.new()
    reward = adapter.build_reward(subject.reward, game)
    for seed in range(6):
        label = adapter.new_label(adapter.generator(seed, None))
        players = seat_players(game, default_players(game))
        core = GameWalk(game, label, reward, players).played()
        aec, parallel = AEC(subject.new(), reward=reward), Parallel(subject.new(), reward=reward)
        aec.reset(seed=seed)
        for turn in core.turns:
            asked = aec.agent_selection
            need(turn.agent == asked, f"AEC asks {asked} where the core asks {turn.agent}")
            aec.step(turn.text)
        _, infos = parallel.reset(seed=seed)
        left = list(core.turns)
        while parallel.agents and left:
            count = sum(info["active"] for info in infos.values())
            *_, infos = parallel.step({turn.agent: turn.text for turn in left[:count]})
            left = left[count:]
        found: dict[str, Episode | None] = {"AEC": aec.episode, "Parallel": parallel.episode}
        for seat in dict.fromkeys(turn.agent for turn in core.turns):
            others = {agent: player for agent, player in players.items() if agent != seat}
            engine = SeatEngine(subject.new(), seat=seat, others=others, reward=reward)
            table = engine.begin([lambda label=label: label])[0]  # type: ignore[misc]
            for turn in [t for t in core.turns if t.agent == seat]:
                engine.step([table], [Action(turn.text)])
            found[f"the view of {seat}"] = table.episode
        for name, episode in found.items():
            if episode is None:
                raise Failure(f"{name}: the game is not over after the same moves")
            need_same([_comparable(core)], [_comparable(episode)], f"{name} differs")


def _comparable(episode: Episode) -> Any:
    turns = [msgspec.structs.replace(turn, seconds=0.0) for turn in episode.turns]
    return plain(msgspec.to_builtins(msgspec.structs.replace(episode, turns=turns, index=0), enc_hook=str))


def _assignments(game: Game) -> Iterator[dict[str, Any]]:
    """An endless list: every role good, bad, guessing, random or cheating, in every mixture."""
    names = ["oracle", "guesser", "floor", "random", "impossible", "duplicate", "leaking", "overlong"]
    for number in itertools.count():
        rng = seeds.stream("casts", number)
        yield {agent: names[int(rng.integers(len(names)))] for agent in game.agents}


def _games(subject: Subject) -> Iterator[tuple[Game, Any]]:
    """The game in each of its arrangements, with its reward."""
    for maker in subject.variants:
        game = maker()
        yield game, adapter.build_reward(subject.reward, game)


def _play(game: Game, players: Mapping[str, Any], label: str, reward: Any, look: bool = False) -> Episode:
    return GameWalk(game, label, reward, players, look=look).played()


def _seated(game: Game) -> list[str]:
    return list(dict.fromkeys(roles_by_agent(game).values()))
