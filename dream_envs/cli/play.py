"""The verbs ``play`` and ``rollout``: episodes in the terminal, and many of them into a folder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dream_envs.cli import common
from dream_envs.core import Action, AgentLike, DreamEnvsError, Episode, Game, Request, encode
from dream_envs.envs import _adapter as adapter
from dream_envs.play import assign_agents
from dream_envs.play import play as play_one
from dream_envs.play import rollout as play_all
from dream_envs.rewards.base import STATUS_ORDER, Summary, aggregate, role_of
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
        print(common.style(f"── you are {request.agent}", common.BOLD, err), file=err)
        for message in request.messages:
            print(f"  {message['role']}: {adapter.shown(message['content'])}", file=err)
        lines: list[str] = []
        while not lines or lines[-1].endswith("\\"):
            print("  > ", end="", file=err, flush=True)
            line = sys.stdin.readline()
            if not line:
                print(file=err)
                raise DreamEnvsError(f"the input ended where {request.agent} had to reply: one line a reply on stdin")
            lines.append(line.rstrip("\n"))
        return "\n".join([line.removesuffix("\\") for line in lines[:-1]] + lines[-1:])


@dataclasses.dataclass(frozen=True)
class Given:
    """What was said on the command line: the game's id and arguments, who plays, the reward, the seed."""

    name: str
    seats: Sequence[str]
    settings: Sequence[str]
    reward: str
    seed: str

    def build(self, human: str = "") -> tuple[Game, dict[str, AgentLike], Any]:
        """The game, an agent for every seat (scripted where nobody is named), the reward."""
        named = [*common.pairs_of(self.seats, "--seats"), *([human] if human else [])]
        game = common.game_of(self.name, common.values_of(self.settings, "--set"), named)
        seats = common.seats_of(self.seats, game)
        if human:
            role, seat = (None, human) if human in game.agents else (human, None)
            seats[adapter.pick_seat(game, role, seat)[1]] = Human()
        filled = assign_agents(game, {**adapter.default_others(game, "", None), **seats})
        reward = common.reward_of(self.reward) if self.reward else adapter.build_reward(None, game)
        return game, dict(filled), reward


def play(
    name: str,
    seats: Sequence[str],
    settings: Sequence[str],
    episodes: int,
    human: str,
    reward: str,
    seed: str,
    as_json: bool,
) -> None:
    """Play and print each episode as it ends; with ``as_json`` one JSON line an episode."""
    game, players, model = Given(name, seats, settings, reward, seed).build(human)
    for index in range(episodes):
        # the label of episode i of a rollout with this seed: the same problems there and here
        episode = play_one(game, players, seed=f"{seed}/{index}", index=index, reward=model)
        if as_json:
            common.say(encode(episode).decode())
        else:
            common.say(episode_text(episode))


def episode_text(episode: Episode, role: str = "") -> str:
    """An episode for a terminal: its transcript, events, scores; ``role``: only turns of this role or seat."""
    turns = [t for t in episode.turns if role in ("", t.role, t.agent)]
    head = common.style(f"episode {episode.index}  {episode.env_id}  seed {episode.seed}", common.BOLD)
    parts = [head, adapter.transcript_of(turns)] if turns else [head]
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
    given: Given, out: Path, episodes: int, width: int, deadline: float | None, *, quiet: bool
) -> dict[str, Any]:
    """Play what is not yet in ``out`` and sum up all that is.

    Raises:
        DreamEnvsError: if ``out`` holds a run with other settings.
        Interrupted: at Ctrl-C; what has ended is kept.
    """
    game, players, model = given.build()
    config = {
        "command": "rollout",
        "env": game.env_id,
        "version": game.version,
        "seats": sorted(common.pairs_of(given.seats, "--seats").items()),
        "settings": sorted(common.values_of(given.settings, "--set").items()),
        "reward": str(getattr(model, "grader", "") or getattr(model, "__name__", type(model).__name__)),
        "seed": given.seed,
    }
    run = Run(out, config)
    try:
        seen = {e.index for e in common.episodes_of(run.episodes.path)}
        before = sum(index < episodes for index in seen)
        bar = common.Progress(episodes, "episodes", quiet=quiet, done=before)
        played = play_all(
            game,
            players,
            episodes,
            seed=given.seed,
            reward=model,
            out=run.episodes,
            width=width,
            deadline=deadline,
        )
        try:
            for _ in played:
                bar.step()
        except KeyboardInterrupt:
            bar.end()
            text = f"interrupted after {bar.done} of {episodes} episodes in {out}; the same command goes on from there"
            raise common.Interrupted(text) from None
        seconds = bar.end()
    finally:
        run.close()
    new = bar.done - before
    means = summaries(e for e in common.episodes_of(run.episodes.path) if e.index < episodes)
    rate = round(new / seconds, 1) if new and seconds > 0 else None
    return {"out": str(out), "episodes": episodes, "new": new, "per_second": rate, **means}


def summaries(episodes: Any) -> dict[str, Any]:
    """Scores by role with both denominators, and what became of the proposals; one pass, in bounded memory."""
    means, rejects, statuses = Means(), dict[str, int](), dict[str, int]()
    for episode in episodes:
        for agent, score in episode.scores.items():
            means.add(role_of(agent), score)
        statuses[episode.outcome.status] = statuses.get(episode.outcome.status, 0) + 1
        if code := str(episode.outcome.facts.get("reject") or ""):
            rejects[code] = rejects.get(code, 0) + 1
    return {"roles": means.result(), "outcomes": statuses, "rejects": rejects}


class Means:
    """``aggregate`` by group over a stream: 4096 scores of a group at most are held at a time."""

    _AT_ONCE = 4096

    def __init__(self) -> None:
        self._held: dict[str, list[Any]] = {}
        self._done: dict[str, Summary] = {}

    def add(self, group: str, score: Any) -> None:
        """One more score of a group."""
        held = self._held.setdefault(group, [])
        held.append(score)
        if len(held) >= self._AT_ONCE:
            self._fold(group)

    def result(self) -> dict[str, Any]:
        """By group: ``mean`` over the ok scores (or None), ``n_ok``, ``n_total``, ``counts`` by status."""
        for group in list(self._held):
            self._fold(group)
        found = {}
        for group, s in self._done.items():
            counts = {status: s.counts[status] for status in STATUS_ORDER if status in s.counts}
            found[group] = {"mean": s.mean, "n_ok": s.n_ok, "n_total": s.n_total, "counts": counts}
        return found

    def _fold(self, group: str) -> None:
        new, old = aggregate(self._held[group]), self._done.get(group, Summary(None, 0, 0, {}))
        self._held[group] = []
        n = old.n_ok + new.n_ok
        mean = ((old.mean or 0.0) * old.n_ok + (new.mean or 0.0) * new.n_ok) / n if n else None
        counts = {k: old.counts.get(k, 0) + new.counts.get(k, 0) for k in {*old.counts, *new.counts}}
        self._done[group] = Summary(mean, n, old.n_total + new.n_total, counts)


def roles_text(roles: Mapping[str, Any]) -> str:
    """Summaries by role as a table with both denominators."""
    rows = []
    for role, s in roles.items():
        other = ", ".join(f"{n} {status}" for status, n in s["counts"].items() if status != "ok") or "none"
        rows.append([role, common.number(s["mean"]), s["n_ok"], s["n_total"], other])
    return common.table(rows, ("role", "mean of ok", "ok", "of all", "without a value"))


def rollout_text(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    rate = f", {summary['per_second']}/s" if summary["per_second"] else ""
    parts = [f"{summary['episodes']} episodes in {summary['out']} ({summary['new']} new{rate})"]
    parts.append(roles_text(summary["roles"]))
    if summary["rejects"]:
        parts.append("turned away: " + ", ".join(f"{n} {code}" for code, n in sorted(summary["rejects"].items())))
    return "\n".join(parts)
