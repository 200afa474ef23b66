"""Checks that need a game core: ranges of reward, hostile replies, re-scoring, hooks that change their arguments."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args

import msgspec

from dream_envs import seeds
from dream_envs.core import Action, DreamEnvsError, Episode, Game, Status, decode_episode, encode, hook
from dream_envs.envs import _adapter as adapter
from dream_envs.envs.gym import SeatEngine
from dream_envs.envs.pettingzoo import AEC, Parallel
from dream_envs.play import roles_by_agent, score
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


def reward_range(subject: Subject, parts: Sequence[Subject]) -> None:
    """Every score has a known status and a finite value, within the role's range where the status is ``ok``."""
    for game, reward in games(subject):
        for players in itertools.islice(assignments(game), 40):
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
    for game, reward in games(subject):
        for what, players in _hostile_assignments(game):
            try:
                encode(_play(game, players, "hostile", reward, look=True))
            except Exception as error:
                why = f"{type(error).__name__}: {error}".splitlines()[0][:160]
                raise Failure(f"{what}: {why}") from error


def _hostile_assignments(game: Game) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every hostile reply, every other role's reply and every bad status, in every role among oracles."""
    oracles: dict[str, Any] = dict.fromkeys(seated(game), "oracle")
    said = _play(game, oracles, "hostile", None).turns
    actions = {name: Action(text) for name, text in HOSTILE.items()}
    actions |= {f"what {turn.agent} outputs": Action(turn.text) for turn in said}
    actions |= {f"nothing, with status {s}": Action("", status=s) for s in STATUSES if s != "ok"}
    for role, (name, action) in itertools.product(seated(game), actions.items()):
        yield f"{role} outputs {name}", {**oracles, role: lambda text, action=action: action}


def oracle_top(subject: Subject, parts: Sequence[Subject]) -> None:
    """In every role the scripted oracle, with the best others, reaches the top of the role's range."""
    _extremes(subject, "oracle")


def floor_bottom(subject: Subject, parts: Sequence[Subject]) -> None:
    """In every role the scripted floor, with the worst others, reaches the bottom of the role's range."""
    _extremes(subject, "floor")


def _extremes(subject: Subject, kind: str) -> None:
    best, reached = kind == "oracle", False
    for game, reward in games(subject):
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
    for role in seated(game):
        mine = [agent for agent, its in roles_by_agent(game).items() if its == role and agent != seat]
        ends = itertools.product(("oracle", "floor"), repeat=min(2, len(mine)))  # the first and the rest
        choices.append([{**dict.fromkeys(mine, end[-1]), mine[0]: end[0]} if end else {} for end in ends])
    for combination in itertools.product(*choices):
        yield {**{k: v for part in combination for k, v in part.items()}, seat: kind}


def rescoring(subject: Subject, parts: Sequence[Subject]) -> None:
    """Stored as JSON, read back and scored by a new copy of the reward, an episode has the scores it had."""
    for maker, (game, reward) in zip(subject.variants, games(subject), strict=True):
        chosen = enumerate(itertools.islice(assignments(game), 20))
        episodes = [_play(game, players, f"rescore/{i}", reward) for i, players in chosen]
        again = adapter.build_reward(subject.reward, maker())
        for episode in reversed(episodes):  # another order: a reward that remembers would show
            read = decode_episode(encode(episode))
            need(read == episode, "an episode read back from JSON is not the one that was stored")
            scores = score([msgspec.structs.replace(read, scores={}, grader="")], again, game.agents)[0].scores
            for agent, first in episode.scores.items():
                one, two = (repr(plain(msgspec.to_builtins(its))) for its in (first, scores.get(agent)))
                need(one == two, f"{agent} had {one}, and {two} when scored again")


def in_place(subject: Subject, parts: Sequence[Subject]) -> None:
    """No hook changes the state, the actions, the task, the request or the episode that it is given."""
    for game, reward in games(subject):
        watched = Watched(game)
        for players in (default_players(game), *(dict.fromkeys(seated(game), who) for who in ("oracle", "floor"))):
            trail = GameWalk(watched, "in place", None, players)
            episode = trail.played()
            hook(watched, "public_facts")(trail.table.state)
            for turn in episode.turns:
                hook(watched, "group")(episode, turn)
            stored = encode(episode)
            score([episode], reward, game.agents)
            need(encode(episode) == stored, "the reward changes the episode that it is given")
        for task in episode.tasks[:1]:
            with contextlib.suppress(DreamEnvsError):  # not every game begins from its record
                watched.start(task, seeds.stream("in place"))


#: The hooks and what each is given; a generator changes by being drawn from, and an agent's name cannot change.
_GIVEN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("turns", "view", "outcome", "record", "public_info", "public_facts"), ("state",)),
    "start": ("task",),
    "apply": ("state", "actions"),
    "extracted": ("state", "", "action"),
    "group": ("episode", "turn"),
    "scripted": ("", "request"),
}


class Watched:
    """A game whose hooks are held to leave what they are given as it is, to the last bit."""

    def __init__(self, game: Game) -> None:
        self._game, self._last = game, cast("tuple[Any, bytes | None]", (None, None))

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._game, name)
        if name not in _GIVEN:
            return member

        def watched(*arguments: Any) -> Any:
            last, bits = self._last
            given = [
                (what, value, bits if value is last else _bits(value))  # a state is asked many things in turn
                for what, value in zip(_GIVEN[name], arguments, strict=False)
                if what
            ]
            result = member(*arguments)
            for what, value, before in given:
                after = _bits(value)
                self._last = (value, after) if what == "state" else self._last
                if before is not None and after != before:
                    told = f"{name} changes the {what} that it is given"
                    if after is None:
                        raise Failure(told)
                    one, two = (_kept(pickle.loads(its)) for its in (before, after))
                    need_same([plain(one)], [plain(two)], told)
                    need(_bits(one) == _bits(two), told)
            return result

        return watched


def _bits(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value)
    except Exception:  # the check "pickling" says so
        return None


def _kept(value: Any) -> Any:
    """What an object holds, but for what ``cached_property`` has put there."""
    kind, own = type(value), getattr(value, "__dict__", None)
    if own is None:
        return value
    return {k: v for k, v in own.items() if not isinstance(getattr(kind, k, None), functools.cached_property)}


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


def assignments(game: Game) -> Iterator[dict[str, Any]]:
    """An endless list: every role good, bad, guessing, random or cheating, in every mixture."""
    names = ["oracle", "guesser", "floor", "random", "impossible", "duplicate", "leaking", "overlong"]
    for number in itertools.count():
        rng = seeds.stream("casts", number)
        yield {agent: names[int(rng.integers(len(names)))] for agent in game.agents}


def games(subject: Subject) -> Iterator[tuple[Game, Any]]:
    """The game in each of its arrangements, with its reward."""
    for maker in subject.variants:
        game = maker()
        yield game, adapter.build_reward(subject.reward, game)


def _play(game: Game, players: Mapping[str, Any], label: str, reward: Any, look: bool = False) -> Episode:
    return GameWalk(game, label, reward, players, look=look).played()


def seated(game: Game) -> list[str]:
    """The roles that have a seat."""
    return list(dict.fromkeys(roles_by_agent(game).values()))
