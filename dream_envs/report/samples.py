"""A few telling episodes out of a file of any size: streamed once, a handful in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from dream_envs.core import Episode, challenge_of, decode_episode
from dream_envs.play import text_of
from dream_envs.report.words import decimal, number, visible

_SHOWN = 12
_CAP = 600
#: Longer lines are skipped and counted, so that memory is bounded whatever a completion was.
MAX_LINE = 16 << 20
_FIRST, _REJECTED = "First episode", "First that was turned away"
_DEEPEST, _FAILED = "Highest level that was solved", "Last that nobody solved"
_BEST, _WORST = "Largest sum of rewards", "Smallest sum of rewards"


class Move(NamedTuple):
    """One completion, how many seats of a role gave it, and what came of it: right, wrong or a status."""

    who: str
    text: str
    verdict: str
    reward: str
    times: int


class Sample(NamedTuple):
    """An episode cut down to what is shown; every text is capped and made visible."""

    title: str
    about: str
    prompt: str
    answer: str
    moves: list[Move]
    more: int


class Samples(NamedTuple):
    """The samples in reading order, how many episodes there are, and how many lines could not be read."""

    shown: list[Sample]
    episodes: int
    unread: int


def lines(path: Path) -> Iterator[bytes | None]:
    """The finished lines of a file; None for one longer than ``MAX_LINE``; an unfinished last line is left out."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE):
            if line.endswith(b"\n"):
                yield line
            elif len(line) == MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield None


def pick(run_dir: Path) -> Samples:
    """The first episode and the first rejection; the deepest solved and the last unsolved one, or best and worst."""
    kept: dict[str, Episode] = {}
    level, best, worst, seen, unread = -1, float("-inf"), float("inf"), 0, 0
    for line in lines(run_dir / "episodes.jsonl"):
        try:
            episode = decode_episode(line or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unread += 1
            continue
        seen += 1
        if not episode.turns:
            continue
        kept.setdefault(_FIRST, episode)
        if any(event.kind == "rejected" for event in episode.events):
            kept.setdefault(_REJECTED, episode)
        right = [v > 0.5 for v in truth(episode).values() if v is not None]
        at = max((task.level for task in episode.tasks), default=0)
        if any(right) and at > level:
            level, kept[_DEEPEST] = at, episode
        elif right and not any(right):
            kept[_FAILED] = episode
        total = sum(s.value for s in episode.scores.values() if s.status == "ok")
        if total > best:
            best, kept[_BEST] = total, episode
        if total < worst:
            worst, kept[_WORST] = total, episode
    titles = (_FIRST, _REJECTED, _DEEPEST, _FAILED) if _DEEPEST in kept or _FAILED in kept else (_FIRST, _BEST, _WORST)
    once = {kept[t].index: t for t in reversed(titles) if t in kept}  # an episode under its first title alone
    return Samples([_sample(t, kept[t]) for t in titles if t in once.values()], seen, unread)


def truth(episode: Episode) -> dict[str, float | None]:
    """Right (1) or wrong (0) by seat: the executed truth where a judge decided, else the verdict itself."""
    facts = episode.outcome.facts.get("truth") or episode.outcome.facts.get("correct")
    return {k: number(v) for k, v in facts.items()} if isinstance(facts, dict) else {}


def _sample(title: str, episode: Episode) -> Sample:
    challenge, moves = challenge_of(episode), _moves(episode)
    task = challenge or next(iter(episode.tasks), None)
    about = f"Episode {episode.index}, round {episode.round}"
    if challenge is not None:
        about += f": problem of level {challenge.level}, answer {challenge.truth}"
    for event in [e for e in episode.events if e.kind in ("given", "rejected")][:2]:
        about += f"; {event.kind}: " + ", ".join(f"{k} {v}" for k, v in event.data.items())
    if episode.outcome.status != "ok":
        about += f"; outcome {episode.outcome.status}"
    prompt = task.prompt if task is not None else text_of(episode.turns[0].messages)
    answer = task.answer if task is not None else ""
    more = sum(move.times for move in moves[_SHOWN:])
    return Sample(title, visible(about, 400), visible(prompt, _CAP), visible(answer, _CAP), moves[:_SHOWN], more)


def _moves(episode: Episode) -> list[Move]:
    """The completions in order, equal ones of a role counted together."""
    right, counted = truth(episode), Counter[tuple[str, str, str, str]]()
    for turn in episode.turns:
        value, score = right.get(turn.agent), episode.scores.get(turn.agent)
        verdict = "" if turn.status == "ok" else str(turn.status)
        if value is not None:
            verdict = "right" if value > 0.5 else "wrong"
        reward = "" if score is None else decimal(score.value, 3) if score.status == "ok" else score.status
        counted[turn.role, turn.text, verdict, reward] += 1
    return [Move(visible(who, 40), visible(text, _CAP), v, r, n) for (who, text, v, r), n in counted.items()]
