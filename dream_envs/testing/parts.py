"""Conformance of what is plugged into a game, each by itself: task families, rewards and agents."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs import core
from dream_envs.core import Agent, Episode, Reject, Request, Score, Task, TaskFamily
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import RewardLike, ask, play, reward_model, rollout, score
from dream_envs.seeds import stream
from dream_envs.testing.cores import HOSTILE
from dream_envs.testing.subject import Failure, Report, Skip, need, run_check


def check_family(family: TaskFamily) -> Report:
    """Gold alone is accepted, proposals survive the way there and back, ``chance`` is what guessing earns.

    A family without truth (``judged``) has to abstain on every reply instead.
    """
    rules = (_declares, _gold, _seeds, _strict, _proposals, _hostile_proposals, _chance, _mutation)
    return _run(str(getattr(family, "name", type(family).__name__)), rules, family)


def check_reward(model: RewardLike, name: str = "") -> Report:
    """It scores episodes of ``ChallengerSolver`` of every kind without an error, twice the same, and changes none."""
    episodes = list(_episodes())
    return _run(name or str(getattr(model, "grader", model)), (_scores, _pure, _speaks), reward_model(model), episodes)


def check_agent(make: Callable[[Any], Agent], name: str = "") -> Report:
    """One action a request, the same for the same seed whatever else is in the batch, and no text that breaks it.

    ``make``: ``game -> agent``, called for every check; ``name``: for the report.
    """
    rules = (_plays, _deterministic, _batch, _hostile_prompts)
    return _run(name or str(getattr(make, "__name__", make)), rules, make)


def _run(subject: str, rules: Sequence[Callable[..., None]], *arguments: Any) -> Report:
    return Report(subject, tuple(run_check(rule.__name__.strip("_"), rule, *arguments) for rule in rules))


def _some_levels(family: TaskFamily) -> list[int]:
    levels = family.levels
    return sorted({levels[i * (len(levels) - 1) // 5] for i in range(6)})


def _tasks(family: TaskFamily, each: int = 8) -> Iterator[Task]:
    for level in _some_levels(family):
        for i in range(each):
            yield family.generate(stream("parts", level, i), level)


def _judged(family: TaskFamily) -> bool:
    return bool(getattr(family, "judged", False))


def _declares(family: TaskFamily) -> None:
    for name, kind in {"name": str, "version": int, "notation": str, "levels": range}.items():
        found = getattr(family, name, None)
        need(isinstance(found, kind), f"{name} is {found!r}, not a {kind.__name__}")
    need(len(family.levels) > 0, "levels is empty")
    for name in ("max_chars", "max_reply_tokens"):
        need(getattr(family, name, 0) > 0, f"{name} is {getattr(family, name, None)!r}: a bound above 0")
    for level in (None, *_some_levels(family)):
        text = family.brief(level)
        need(isinstance(text, str) and bool(text), f"brief({level}) is {text!r}")


def _gold(family: TaskFamily) -> None:
    for task in _tasks(family):
        score = family.verify(task, family.gold(task))
        wanted = {"value": 0.0, "status": "abstain"} if _judged(family) else {"value": 1.0, "status": "ok"}
        need(score == msgspec.structs.replace(score, **wanted), f"{task.prompt!r}: gold scores {score}")
        need(task.family == family.name, f"a task of family {task.family!r}, not {family.name!r}")
        need(task.level in family.levels, f"a task of level {task.level}, outside {family.levels}")
        need(core.decode_task(core.encode(task)) == task, f"{task.prompt!r} read back from JSON is another task")


def _seeds(family: TaskFamily) -> None:
    for level in _some_levels(family):
        one, two = (family.generate(stream("parts", "again", level), level) for _ in range(2))
        need(one == two, f"the same stream gives {one.prompt!r} and {two.prompt!r} at level {level}")
    top = family.levels[-1]
    drawn = {family.generate(stream("parts", "siblings", i), top).id for i in range(32)}
    need(len(drawn) >= 16, f"32 seeds give {len(drawn)} different problems at level {top}")


def _strict(family: TaskFamily) -> None:
    tasks = list(_tasks(family, 2))
    golds = list(dict.fromkeys(family.gold(t) for t in tasks))
    for task in tasks:
        gold = family.gold(task)
        lists = {"every answer": " ".join(golds)}
        if getattr(family, "protocol", "strict") == "strict":  # a chat model may well say it twice
            lists["the answer twice"] = f"{gold} {gold}"
        for name, reply in {**HOSTILE, "the prompt": task.prompt, **lists}.items():
            score = family.verify(task, reply)
            need(math.isfinite(score.value), f"{name} scores {score.value}")
            need(not _judged(family) or score.status == "abstain", f"{name} scores {score}: a judged family abstains")
            if reply.strip() != gold.strip() and len(golds) > 1:
                need(score.value < 1.0, f"{task.prompt!r}: {name} is accepted")


def _proposals(family: TaskFamily) -> None:
    for task in _tasks(family):
        text = family.as_proposal(task)
        need(len(text) <= family.max_chars, f"a proposal of {len(text)} characters, max_chars is {family.max_chars}")
        found = family.parse(text)
        if isinstance(found, Reject):
            raise Failure(f"{text!r} is turned away: {found.code} {found.detail}")
        need(found.id == task.id, f"{text!r} becomes {found.prompt!r}, not {task.prompt!r}")
        need(family.as_proposal(found) == text, f"{text!r} is written {family.as_proposal(found)!r} the second time")
        features = family.features(found)
        need(all(isinstance(f, str) for f in features), f"features of {text!r} are {features!r}: strings")


def _hostile_proposals(family: TaskFamily) -> None:
    for name, text in HOSTILE.items():
        began = time.perf_counter()
        found = family.parse(text)
        need(isinstance(found, (Task, Reject)), f"{name} is parsed to {type(found).__name__}, not a Task or a Reject")
        known = isinstance(found, Task) or found.code in core.REJECT_CODES
        need(known, f"{name}: no reject code in {found!r}")
        need(time.perf_counter() - began < 2.0, f"{name} takes {time.perf_counter() - began:.1f} s to parse")
    need(isinstance(family.parse(""), Reject), "an empty proposal is accepted")


def _chance(family: TaskFamily) -> None:
    level, each, hits, expected, variance = family.levels[0], 100, 0, 0.0, 0.0
    for i in range(40):
        task = family.generate(stream("parts", "chance", i), level)
        p, rng = family.chance(task), stream("parts", "guess", i)
        need(0.0 <= p <= 1.0, f"{task.prompt!r}: chance is {p}")
        hits += sum(family.verify(task, family.guess(task, rng)).value >= 1.0 for _ in range(each))
        expected, variance = expected + p * each, variance + p * (1 - p) * each
    error = math.sqrt(variance)
    told = f"level {level}: {40 * each} guesses hit {hits} times, chance says {expected:.1f} +- {error:.1f}"
    need(abs(hits - expected) <= 5 * error + 1, told)


def _mutation(family: TaskFamily) -> None:
    made = 0
    for i, task in enumerate(_tasks(family, 4)):
        found = family.mutate(task, stream("parts", "mutate", i))
        if found is not None:
            made, text = made + 1, family.as_proposal(found)
            need(found.id != task.id, f"{task.prompt!r} is mutated to itself")
            sound = _judged(family) or family.verify(found, family.gold(found)).value == 1.0
            need(sound, f"{text!r}: gold of a mutant is refused")
            need(isinstance(family.parse(text), Task), f"{text!r}, a mutant, is turned away")
    if not made:
        raise Skip("mutate() gave None for every problem")


def _episodes() -> Iterator[Episode]:
    """Good and bad play in each role, with and without a judge: 60 episodes."""
    for judge in (False, True):
        game = ChallengerSolver(solvers=3, judge=judge)
        good = {"challenger": "generator", "solver": "guesser", "solver_1": "oracle"}
        good |= {"judge": "oracle"} if judge else {}
        for who in ("oracle", "guesser", "floor", "random", "overlong"):
            for role in ("challenger", "solver_0", "judge")[: 2 + judge]:
                yield from rollout(game, {**good, role: who}, 3 - judge, seed=f"parts/{who}/{role}")


def _scored(model: Any, episodes: Sequence[Episode]) -> list[dict[str, Score]]:
    return [episode.scores for episode in score(episodes, model, ())]


def _scores(model: Any, episodes: Sequence[Episode]) -> None:
    before = [core.encode(episode) for episode in episodes]
    for episode, found in zip(episodes, _scored(model, episodes), strict=True):
        seated = set(episode.outcome.facts["agents"])
        for agent, its in found.items():
            need(agent in seated, f"a score for {agent!r}, who is not seated: {', '.join(sorted(seated))}")
            need(its.status != "error", f"{agent}: {its.detail or 'status error'}")
    need([core.encode(episode) for episode in episodes] == before, "an episode was changed")


def _pure(model: Any, episodes: Sequence[Episode]) -> None:
    first = _scored(model, episodes)
    again = _scored(model, [core.decode_episode(core.encode(episode)) for episode in reversed(episodes)])
    need(again[::-1] == first, "episodes read back from JSON and scored in another order have other scores")


def _speaks(model: Any, episodes: Sequence[Episode]) -> None:
    found = [s for scores in _scored(model, episodes) for s in scores.values() if s.status == "ok"]
    if not found:
        raise Skip("no score with status ok in 60 episodes of ChallengerSolver: a reward for another game?")
    need(len({s.value for s in found}) > 1, f"every score is {found[0].value:g}: nothing to learn from")


def _game() -> ChallengerSolver:
    return ChallengerSolver(solvers=2, judge=True)


def _requests(count: int = 6) -> list[Request]:
    """What each role of ``ChallengerSolver`` is asked, with different seeds."""
    found = []
    for i in range(count):
        seats = {"challenger": "generator", "solver": "guesser", "judge": "oracle"}
        for turn in play(_game(), seats, seed=f"p{i}").turns:
            seed = int(stream("parts", "request", i, turn.agent).integers(2**63))
            found.append(Request(messages=turn.messages, agent=turn.agent, role=turn.role, seed=seed))
    return found


def _texts(agent: Agent, requests: Sequence[Request]) -> list[str]:
    return [action.text for action in ask(agent, requests)]


def _plays(make: Callable[[Any], Agent]) -> None:
    game = _game()
    agent = make(game)
    for episode in rollout(game, dict.fromkeys(("challenger", "solver", "judge"), agent), 8, seed="parts"):
        for turn in episode.turns:
            need(turn.status != "error", f"{turn.agent} has status error: act() raised or returned something else")
    ask(make(game), [])


def _deterministic(make: Callable[[Any], Agent]) -> None:
    requests = _requests()
    one, two = _texts(make(_game()), requests), _texts(make(_game()), requests)
    for request, a, b in zip(requests, one, two, strict=True):
        need(a == b, f"{request.role}: {a!r:.60} and {b!r:.60} for one request; draw from seeds.stream(request.seed)")


def _batch(make: Callable[[Any], Agent]) -> None:
    requests = _requests()
    together = _texts(make(_game()), requests)
    order = np.argsort([r.seed % 1009 for r in requests]).tolist()
    shuffled = dict(zip(order, _texts(make(_game()), [requests[i] for i in order]), strict=True))
    agent = make(_game())
    for i, request in enumerate(requests):
        alone = _texts(agent, [request])[0]
        need(together[i] == shuffled[i] == alone, f"{request.role}: the reply depends on the rest of the batch")


def _hostile_prompts(make: Callable[[Any], Agent]) -> None:
    agent, base = make(_game()), _requests(1)
    for text in HOSTILE.values():
        message = {"role": "user", "content": text[:20_000]}
        ask(agent, [msgspec.structs.replace(r, messages=[message]) for r in base])
