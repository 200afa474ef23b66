"""The verbs ``play`` and ``rollout``: episodes in the terminal, and many of them into a folder."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dream_envs import registry
from dream_envs.cli import common
from dream_envs.core import Action, AgentLike, DreamEnvsError, Episode, Game, Request, Score
from dream_envs.envs import _adapter as adapter
from dream_envs.metrics.rounds import REPLY_FAULTS, reply_faults
from dream_envs.play import as_agent, assign_agents
from dream_envs.play import play as play_one
from dream_envs.play import rollout as play_all
from dream_envs.progress import Progress
from dream_envs.rewards.base import STATUS_ORDER, role_of
from dream_envs.runs import Run


class Human:
    """Somebody at the keyboard: prompts on stderr, one line of stdin a reply; a backslash at its end continues it."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Ask for each request in turn.

        Raises:
            DreamEnvsError: at the end of the input.
        """
        return [Action(self._ask(request)) for request in requests]

    def _ask(self, request: Request) -> str:
        err = sys.stderr
        common.say(common.style(f"── you are {request.agent}", common.BOLD, err), err)
        for message in request.messages:
            common.say(f"  {message['role']}: {adapter.shown(message['content'])}", err)
        reply = ""
        while True:
            common.say("  > ", err, end="")
            line = sys.stdin.readline() if sys.stdin is not None else ""  # None: closed
            if not line:
                common.say("", err)
                raise DreamEnvsError(f"the input ended where {request.agent} had to reply: one line a reply on stdin")
            reply += line.rstrip("\n")
            if not reply.endswith("\\"):
                return reply
            reply = reply.removesuffix("\\") + "\n"


class Asked(NamedTuple):
    """What was said on the command line: the game's id and arguments, its problems, who plays, rewards, the seed."""

    name: str
    seats: Sequence[str]
    settings: Sequence[str]
    rewards: Sequence[str]
    family: str
    notation: str
    seed: str

    def game(self, human: str = "") -> Game:
        """The game, with the roles that somebody is named for."""
        named, settings = registry.pairs_of(self.seats, "--seats"), registry.values_of(self.settings, "--set")
        return common.game_of(self.name, settings, [*named, human], self.family, self.notation)

    def build(self, human: str = "", easy: bool = False) -> tuple[Game, dict[str, AgentLike], Any]:
        """The game, an agent for every seat (scripted where nobody is named; ``easy``: see ``_easy``), the reward."""
        named, game = registry.pairs_of(self.seats, "--seats"), self.game(human)
        made = {text: as_agent(text, game) for text in dict.fromkeys(named.values())}  # equal texts are one agent
        seats: dict[str, Any] = {key: made[text] for key, text in named.items()}
        if human:
            role, seat = (None, human) if human in game.agents else (human, None)
            seats[adapter.pick_seat(game, role, seat)[1]] = Human()
        others = adapter.default_others(game, "", None) | (_easy(game, seats) if easy else {})
        filled = assign_agents(game, {**others, **seats})
        return game, dict(filled), common.reward_of(self.rewards, game)


def _easy(game: Any, seats: Mapping[str, Any]) -> dict[str, str]:
    """Scripted seats, where nobody is named, from which a newcomer sees a reward: short problems, one solver right."""
    family: Any = getattr(game, "family", None)
    if not {"challenger", "solver"} <= {role.name for role in game.roles} or not hasattr(family, "as_proposal"):
        return {}
    levels = ",".join(map(str, family.levels[:3]))
    easy = {"challenger": f"generator(levels=[{levels}])", "solver": "guesser", "solver_0": "oracle"}
    named = {name for seat in seats for name in (seat, role_of(seat))}
    return {seat: agent for seat, agent in easy.items() if seat not in named and role_of(seat) not in seats}


def play(asked: Asked, episodes: int, human: str, as_json: bool) -> None:
    """Play and print each episode as it ends; with ``as_json`` one JSON line an episode."""
    game, players, model = asked.build(human, easy=True)
    if (seats := _easy(game, registry.pairs_of(asked.seats, "--seats"))) and not (human or as_json):
        family: Any = getattr(game, "family", None)
        told = ",".join(f"{seat}={agent}" for seat, agent in seats.items())
        common.say(f"scripted, as by --seats {told!r}; its problems: dream-envs info {family.name}\n")
    for index in range(episodes):
        # the label of episode i of a rollout with this seed: with the same seats the same problems there and here
        episode = play_one(game, players, seed=f"{asked.seed}/{index}", index=index, reward=model)
        common.emit(episode, episode_text, as_json)


def episode_text(episode: Episode, role: str = "") -> str:
    """An episode for a terminal: its transcript, events, scores; ``role``: only turns of this role or seat."""
    turns = [t for t in episode.turns if role in ("", t.role, t.agent)]
    title = f"episode {episode.index}  round {episode.round}  {episode.env_id}  seed {episode.seed}"
    parts = [common.style(title, common.BOLD), *([adapter.transcript_of(turns)] if turns else [])]
    for event in episode.events:
        facts = " ".join(f"{key}={adapter.shown(str(value), 200)}" for key, value in event.data.items())
        parts.append(common.style(f"  * {event.kind} {facts}".rstrip(), common.DIM))
    if episode.outcome.status != "ok":
        parts.append(f"  outcome: {episode.outcome.status}")
    for agent, score in episode.scores.items():
        if role in ("", agent, role_of(agent)):
            colour = common.YELLOW if score.status != "ok" else common.GREEN if score.value > 0 else common.RED
            text = f"{score.value:g}" if score.status == "ok" else score.status
            detail = f"  ({adapter.shown(score.detail, 200)})" if score.detail else ""
            parts.append(f"{agent}: {common.style(text, colour)}{detail}")
    return "\n".join(parts) + "\n"


def rollout(
    asked: Asked, out: Path, episodes: int, width: int, deadline: float | None, retry: str = "", workers: str = "",
    *, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Play what is not yet in ``out``, here or on ``workers``, and sum up all that is.

    Raises:
        DreamEnvsError: if ``out`` holds a run with other settings.
        Interrupted: at Ctrl-C; what has ended is kept.
    """
    with contextlib.ExitStack() as stack:
        if workers:  # agents are made there: models would take memory here for nothing
            from dream_envs.workers import Players

            game = asked.game()
            model = common.reward_of(asked.rewards, game)
            made = Players(workers, asked.build, seed=asked.seed, width=width, deadline=deadline)
            play_them = stack.enter_context(made).rollout
        else:
            game, players, model = asked.build()
            how: dict[str, Any] = {"seed": asked.seed, "reward": model, "width": width, "deadline": deadline}
            play_them = functools.partial(play_all, game, players, **how)
        stack.enter_context(common.writing(out))
        found = _into(asked, out, episodes, game, model, play_them, retry, quiet)
    return found if workers else found | {"spent": _spent(players)}


def _spent(players: Mapping[str, Any]) -> dict[str, Any]:
    """What endpoints were asked in this call, by the roles (or seats) that each has; others count nothing."""
    seats: dict[int, list[str]] = defaultdict(list)
    agents: dict[str, set[int]] = defaultdict(set)
    for seat, player in players.items():
        seats[id(player)].append(seat)
        agents[role_of(seat)].add(id(player))
    found = {}
    for names in seats.values():
        if hasattr(player := players[names[0]], "spent"):
            told = [role_of(n) if len(agents[role_of(n)]) == 1 else n for n in names]
            found[", ".join(dict.fromkeys(told))] = msgspec.to_builtins(player.spent)
    return found


def _into(
    asked: Asked, out: Path, episodes: int, game: Game, model: Any, play_them: Callable[..., Iterator[Episode]],
    retry: str, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """The rollout itself; ``play_them`` has everything but how many, where to and what again."""
    config = {
        "command": "rollout", "env": game.env_id, "version": game.version,
        "seats": sorted(registry.pairs_of(asked.seats, "--seats").items()),
        "settings": sorted(registry.values_of(asked.settings, "--set").items()),
        "reward": str(getattr(model, "grader", "") or getattr(model, "__name__", type(model).__name__)),
        "seed": asked.seed,
    }  # fmt: skip
    if asked.family or asked.notation:
        config["family"] = [asked.family, asked.notation]
    run, done, again = Run(out, config), 0, [status for status in retry.split(",") if status]
    try:
        kept = (e for e in common.episodes_of(run.episodes.path) if not any(t.status in again for t in e.turns))
        done = before = sum(e.index < episodes for e in kept)
        began = time.monotonic()
        with Progress(quiet) as tick:
            tick("episodes", done, episodes)
            for _ in play_them(episodes, out=run.episodes, retry=again):
                done += 1
                tick("episodes", done, episodes)
        seconds = time.monotonic() - began
    except KeyboardInterrupt:
        text = f"interrupted after {done} of {episodes} episodes in {out}"
        raise common.Interrupted(f"{text}; the same command goes on from there") from None
    finally:
        run.close()
    sums = _summed(e for e in common.episodes_of(run.episodes.path) if e.index < episodes)
    rate = round((done - before) / seconds, 1) if done > before and seconds > 0 else None
    return {"out": str(out), "episodes": episodes, "new": done - before, "per_second": rate, **sums}


def _summed(episodes: Iterable[Episode]) -> dict[str, Any]:
    """Scores by role with both denominators, and what became of the proposals; one pass, in bounded memory."""
    means, rejects, statuses = Means(), Counter[str](), Counter[str]()
    faults: dict[str, Counter[str]] = defaultdict(Counter)
    for episode in episodes:
        for turn in episode.turns:
            for name, value in reply_faults(turn).items():
                faults[turn.role][name] += value
        for agent, score in episode.scores.items():
            means.add(role_of(agent), score)
        statuses[episode.outcome.status] += 1
        if code := str(episode.outcome.facts.get("reject") or ""):
            rejects[code] += 1
    roles = means.result()
    for role, counts in faults.items():
        roles.get(role, {}).update(counts)
    return {"roles": roles, "outcomes": statuses, "rejects": rejects}


class Means:
    """Means of ``ok`` scores by group over a stream, with both denominators."""

    def __init__(self) -> None:
        self._sums = defaultdict[str, float](float)
        self._counts = defaultdict[str, Counter[str]](Counter)

    def add(self, group: str, score: Score) -> None:
        """One more score of a group; an ``ok`` one that is not finite can only come from outside: an ``error``."""
        status = score.status if score.status != "ok" or math.isfinite(score.value) else "error"
        self._counts[group][status] += 1
        if status == "ok":
            self._sums[group] += score.value

    def result(self) -> dict[str, Any]:
        """By group: ``mean`` over the ok scores (or None), ``n_ok``, ``n_total``, ``counts`` by status."""
        found = {}
        for group, seen in self._counts.items():
            counts = {status: seen[status] for status in STATUS_ORDER if status in seen}
            mean = self._sums[group] / seen["ok"] if seen["ok"] else None
            found[group] = {"mean": mean, "n_ok": seen["ok"], "n_total": seen.total(), "counts": counts}
        return found


def roles_text(roles: Mapping[str, Any]) -> str:
    """Summaries by role as a table with both denominators, and how many replies were cut off or not read."""
    rows, shown = list[list[Any]](), [n for n in REPLY_FAULTS if any(n in s for s in roles.values())]
    for role, s in roles.items():
        other = ", ".join(f"{n} {status}" for status, n in s["counts"].items() if status != "ok") or "none"
        rows.append([role, common.number(s["mean"]), s["n_ok"], s["n_total"], other])
        rows[-1] += [s.get(name) for name in shown]
    words = [REPLY_FAULTS[name] for name in shown]
    return common.table(rows, ("role", "mean of ok", "ok", "of all", "without a value", *words))


def rollout_text(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    rate = f", {summary['per_second']}/s" if summary["per_second"] else ""
    parts = [f"{summary['episodes']} episodes in {summary['out']} ({summary['new']} new{rate})"]
    parts.append(roles_text(summary["roles"]))
    for who, its in summary.get("spent", {}).items():
        cost = f", cost {its['cost']:.4g}" if its["cost"] else ""
        told = f"{its['requests']:,} requests now ({its['retries']:,} retries, {its['failures']:,} failed)"
        tokens = f"{its['prompt_tokens']:,} tokens read, {its['completion_tokens']:,} written{cost}"
        parts.append(f"{who}: {told}, {tokens}")
    if summary["rejects"]:
        parts.append("turned away: " + ", ".join(f"{n} {code}" for code, n in sorted(summary["rejects"].items())))
    return "\n".join(parts)
