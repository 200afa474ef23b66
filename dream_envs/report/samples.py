"""A few telling episodes out of a file of any size: streamed once, at most five episodes in memory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dream_envs.core import Challenge, Episode, decode_episode
from dream_envs.report.read import lines
from dream_envs.report.words import decimal, number, visible

_SHOWN_REPLIES = 8
_CAP = 600
_ACCEPTED, _REJECTED = "First accepted proposal", "First rejected proposal"
_DEEPEST, _FAILED = "Deepest problem that was solved", "Last problem that nobody solved"


class Reply(msgspec.Struct, frozen=True):
    """One reply, how many solvers gave it, and what came of it: ``verdict`` is right, wrong or why there is neither."""

    text: str
    verdict: str
    reward: str
    times: int


class Sample(msgspec.Struct, frozen=True):
    """An episode cut down to what is shown; every text is capped and made visible."""

    title: str
    index: int
    author: str
    proposal: str
    fate: str
    prompt: str
    answer: str
    replies: list[Reply]
    more: str
    reward: str


class Samples(msgspec.Struct, frozen=True):
    """The samples in reading order, how many episodes there are, and how many lines could not be read."""

    shown: list[Sample]
    episodes: int
    unread: int


def pick(run_dir: Path) -> Samples:
    """The first accepted proposal, the first rejected one, the deepest solved problem, the last one nobody solved."""
    kept: dict[str, Episode] = {}
    depth = seen = unread = 0
    for line in lines(run_dir / "episodes.jsonl"):
        try:
            episode = decode_episode(line or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unread += 1
            continue
        seen += 1
        challenge, own = _challenge(episode), _author(episode) == "challenger"
        if challenge is None:
            if own and episode.turns:
                kept.setdefault(_REJECTED, episode)
            continue
        if own:
            kept.setdefault(_ACCEPTED, episode)
        right = [v > 0.5 for v in _truth(episode).values() if v is not None]
        if any(right) and (challenge.level > depth or _DEEPEST not in kept):
            depth, kept[_DEEPEST] = challenge.level, episode
        elif right and not any(right):
            kept[_FAILED] = episode
    titles = (_ACCEPTED, _REJECTED, _DEEPEST, _FAILED)
    return Samples([_sample(t, kept[t]) for t in titles if t in kept], seen, unread)


def _challenge(episode: Episode) -> Challenge | None:
    return next((t for t in episode.tasks if isinstance(t, Challenge)), None)


def _author(episode: Episode) -> str:
    """Who wrote the problem, as ``curriculum.syllabus.author_of`` has it, but total."""
    given = next((e for e in episode.events if e.kind == "given"), None)
    return "challenger" if given is None else visible(given.data.get("author", "given"), 40)


def _truth(episode: Episode) -> dict[str, float | None]:
    """Right (1) or wrong (0) by solver: the executed truth where a judge decided, else the verdict itself."""
    facts = episode.outcome.facts.get("truth") or episode.outcome.facts.get("correct")
    return {k: number(v) for k, v in facts.items()} if isinstance(facts, dict) else {}


def _reward(episode: Episode, agent: str) -> str:
    score = episode.scores.get(agent)
    if score is None:
        return ""
    return decimal(score.value, 3) if score.status == "ok" else score.status


def _sample(title: str, episode: Episode) -> Sample:
    challenge = _challenge(episode)
    replies = _replies(episode)
    hidden = sum(r.times for r in replies[_SHOWN_REPLIES:])
    right = sum(r.times for r in replies[_SHOWN_REPLIES:] if r.verdict == "right")
    writer = next((t for t in episode.turns if t.role == "challenger"), None)
    return Sample(
        title=title,
        index=episode.index,
        author=_author(episode),
        proposal=_shown(writer.text) if writer else "",
        fate=_fate(episode, challenge),
        prompt=_shown(challenge.prompt) if challenge else "",
        answer=_shown(challenge.answer) if challenge else "",
        replies=replies[:_SHOWN_REPLIES],
        more=f"{hidden} more attempts, {right} of them right" if hidden else "",
        reward=_reward(episode, writer.agent) if writer else "",
    )


def _replies(episode: Episode) -> list[Reply]:
    """The solvers' replies, equal ones counted together, in the order they first came."""
    truth = _truth(episode)
    counted: dict[tuple[str, str, str], int] = {}
    for turn in episode.turns:
        if turn.role != "solver":
            continue
        value = truth.get(turn.agent)
        verdict: str = turn.status if turn.status != "ok" else "not judged"
        if value is not None:
            verdict = "right" if value > 0.5 else "wrong"
        key = (turn.text, verdict, _reward(episode, turn.agent))
        counted[key] = counted.get(key, 0) + 1
    return [Reply(_shown(text), verdict, reward, times) for (text, verdict, reward), times in counted.items()]


def _fate(episode: Episode, challenge: Challenge | None) -> str:
    if challenge is not None:
        return f"accepted, level {challenge.level}, answer {visible(challenge.truth, 20)}"
    event = next((e for e in episode.events if e.kind == "rejected"), None)
    if event is None:
        return f"no problem came of it ({episode.outcome.status})"
    detail = visible(event.data.get("detail", ""), 200)
    return f"rejected: {visible(event.data.get('code', '?'), 40)}" + (f" ({detail})" if detail else "")


def _shown(text: str) -> str:
    return visible(text, _CAP)
