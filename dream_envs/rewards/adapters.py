"""Rewards in TRL's calling convention, ``fn(prompts=, completions=, completion_ids=, **columns) -> [float | None]``.

All lists are equally long, one row a completion; None: the row has no reward (TRL leaves it out of its group's mean).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dream_envs import core
from dream_envs.core import DreamEnvsError, Episode, Message, Score, Task, TaskFamily, Turn, challenge_of
from dream_envs.registry import named
from dream_envs.rewards.base import Scores, as_reward, by_agent, last_turns, reward, then

TRLFunction = Callable[..., Any]
TASK_COLUMNS = {"answer": "answer", "family": "family", "level": "level", "task_id": "id"}


def _check_trl(given: dict[str, Any]) -> dict[str, Any]:
    if not callable(given["fn"]):
        raise DreamEnvsError(f"fn={given['fn']!r}: a function (prompts=, completions=, **columns), as TRL calls it")
    for field in (given["columns"] or {}).values():
        named("fields of a Task", field, dict.fromkeys(Task.__struct_fields__))
    return given


@reward("trl", prepare=_check_trl, always=("fn",), batched=True)
def from_trl(
    episodes: Sequence[Episode], fn: TRLFunction, *, role: str = "solver", conversational: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """A TRL reward function, sync or async, as a reward model; all completions of ``role`` in a round are one call.

    What ``fn`` returns is the score; None is ``abstain``, NaN and a list of the wrong length are ``error``.  A keyword
    that it does not take is not passed to it.

    ``conversational``: prompts are lists of messages and completions ``[{"role": "assistant", ...}]``, not plain text
    (messages joined by blank lines).  ``columns``: column name -> field of ``Task``, added to ``answer``, ``family``,
    ``level``, ``task_id``, ``role`` and ``agent``: ``{"solution": "answer"}`` for TRL's ``accuracy_reward``.
    """
    scored = [(i, turn) for i, e in enumerate(episodes) for turn in last_turns(e, role).values() if turn.status == "ok"]
    found: list[dict[str, Any]] = [by_agent(e, role, lambda agent: None, "no reply") for e in episodes]
    if not scored:
        return found

    def spread(returned: list[Any]) -> list[Scores]:
        if isinstance(returned[0], Exception):
            raise returned[0]
        values = list(returned[0])
        if len(values) != len(scored):
            wrong = Score(0.0, "error", detail=f"{len(values)} rewards for {len(scored)} completions")
            values = [wrong] * len(scored)
        for value, (i, turn) in zip(values, scored, strict=True):
            found[i][turn.agent] = Score(0.0, "abstain", detail="None") if value is None else value
        return found

    table = _columns([(episodes[i], turn) for i, turn in scored], conversational, {**TASK_COLUMNS, **(columns or {})})
    parameters = inspect.signature(fn).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        table = {name: value for name, value in table.items() if name in parameters}
    return then([fn(**table)], spread)


def to_trl(
    model: Any, family: TaskFamily | None = None, *, role: str = "solver", num_generations: int | None = None
) -> TRLFunction:
    """A reward model as a function for TRL's ``reward_funcs``, for single-turn training on a data set of problems.

    The column ``task`` (a Task's JSON, as ``core.encode`` writes it) or else ``answer`` tells the problem.  Rows with
    the same prompt that stand together are one episode, so that rewards which compare completions (majority,
    repetition) see the group; on several processes TRL may split it.  Scores that are not ok become None.

    ``family`` verifies the completions (``facts["correct"]``; None: no verdict), which are played from a seat of
    ``role``; ``num_generations`` is the exact size of a group, for data sets where one prompt follows itself.
    """
    found = as_reward(model)

    def trl_reward(*, prompts: Any, completions: Any, completion_ids: Any = None, **columns: Any) -> list[float | None]:
        count = len(prompts)
        tasks, answers = (columns.get(name) or [None] * count for name in ("task", "answer"))
        ids = completion_ids or [None] * count
        episodes: list[Episode] = []
        for _, group in itertools.groupby(range(count), key=lambda i: (repr(prompts[i]), str(tasks[i]))):
            rows = list(group)
            for at in range(0, len(rows), num_generations or len(rows)):
                own = rows[at : at + (num_generations or len(rows))]
                task = _task(prompts[own[0]], tasks[own[0]], answers[own[0]], family)
                said = [(completions[i], ids[i]) for i in own]
                episodes.append(_episode(task, _messages(prompts[own[0]]), said, family, role))
        scores = found.score(episodes)
        scores = asyncio.run(scores) if inspect.iscoroutine(scores) else scores
        every = [its.get(turn.agent) for episode, its in zip(episodes, scores, strict=True) for turn in episode.turns]
        return [score.value if score is not None and score.status == "ok" else None for score in every]

    trl_reward.__name__ = found.name  # TRL logs a function under its name
    return trl_reward


def _columns(rows: Sequence[tuple[Episode, Turn]], conversational: bool, fields: Mapping[str, str]) -> dict[str, Any]:
    tasks = [challenge_of(episode) or (episode.tasks[-1] if episode.tasks else None) for episode, _ in rows]
    turns = [turn for _, turn in rows]
    prompts: list[Any] = [[dict(message) for message in turn.messages] for turn in turns]
    completions: list[Any] = [[{"role": "assistant", "content": turn.text}] for turn in turns]
    if not conversational:
        prompts = ["\n\n".join(message["content"] for message in messages) for messages in prompts]
        completions = [turn.text for turn in turns]
    return {
        **{name: [getattr(task, field, None) for task in tasks] for name, field in fields.items()},
        "role": [turn.role for turn in turns], "agent": [turn.agent for turn in turns],
        "prompts": prompts, "completions": completions,
        "completion_ids": [list(turn.token_ids or ()) for turn in turns],
        "trainer_state": None, **dict.fromkeys(("log_extra", "log_metric"), lambda *args, **kwargs: None),
    }  # fmt: skip


def _episode(
    task: Task, messages: list[Message], said: Iterable[tuple[Any, Any]], family: TaskFamily | None, role: str
) -> Episode:
    """``said``: completions and their token ids (None: not known)."""
    turns, correct = [], dict[str, float | None]()
    for i, (completion, ids) in enumerate(said):
        agent, text = f"{role}_{i}", _text(completion)
        ids = None if ids is None else list(ids)
        turns.append(Turn(agent=agent, role=role, messages=messages, text=text, token_ids=ids))
        verdict = None if family is None else family.verify(task, text)
        correct[agent] = verdict.value if verdict and verdict.status == "ok" else None
    known = [value for value in correct.values() if value is not None]
    rate = math.fsum(known) / len(known) if known else None
    facts = {"agents": list(correct), "valid": True, "reject": "", "solve_rate": rate, "correct": correct}
    outcome = core.Outcome("ok", facts)
    return Episode(env_id="trl", version=0, seed="", index=0, tasks=[task], turns=turns, events=[], outcome=outcome)


def _task(prompt: Any, task: Any, answer: Any, family: TaskFamily | None) -> Task:
    if isinstance(task, (str, bytes)):
        return core.decode_task(task)
    if isinstance(task, Task):
        return task
    text = _messages(prompt)[-1]["content"]
    name = family.name if family else ""
    return Task(family=name, level=0, prompt=text, answer="" if answer is None else str(answer))


def _messages(prompt: Any) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": str(m["role"]), "content": _text([m])} for m in prompt]


def _text(completion: Any) -> str:
    """A completion's text: itself, or the content of its last message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    return content if isinstance(content, str) else ""
