"""Rewards in TRL's calling convention: theirs on our episodes, ours in their trainers.

TRL calls ``fn(prompts=, completions=, completion_ids=, **columns)`` with equally long lists, one row a completion, and
wants a list of ``float | None`` back, None meaning that the row has no reward (TRL leaves it out of its group's mean).
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dream_envs import core
from dream_envs.core import DreamEnvsError, Episode, Message, Score, Task, TaskFamily, Turn, challenge_of
from dream_envs.rewards.base import Scores, agents_of, as_reward, last_turns, rejected, reward, unanswered

TRLFunction = Callable[..., Any]
TASK_COLUMNS = {"answer": "answer", "family": "family", "level": "level", "task_id": "id"}


def _check_trl(given: dict[str, Any]) -> dict[str, Any]:
    fn, columns = given["fn"], given["columns"]
    if not callable(fn):
        raise DreamEnvsError(f"fn={fn!r}: a TRL reward function, called with prompts=, completions=, **columns")
    if columns is not None and (bad := [f for f in columns.values() if f not in Task.__struct_fields__]):
        raise DreamEnvsError(f"columns={columns!r}: a Task has no {bad[0]!r} (it has {list(Task.__struct_fields__)})")
    return given


@reward("trl", prepare=_check_trl, always=("fn",), batched=True)
def from_trl(
    episodes: Sequence[Episode],
    fn: TRLFunction,
    *,
    role: str = "solver",
    conversational: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Any:
    """A TRL reward function, sync or async, as a reward model; all completions of a role in a round are one call.

    Args:
        episodes: their turns of ``role`` and their problems are read.
        fn: the function; a keyword that it does not take is not passed to it.
        role: whose completions are scored.
        conversational: True gives prompts as lists of messages and completions as ``[{"role": "assistant", ...}]``;
            False gives plain text (messages joined by blank lines).
        columns: column name -> field of ``Task``, added to ``answer``, ``family``, ``level``, ``task_id``, ``role``
            and ``agent``: ``{"solution": "answer"}`` for TRL's ``accuracy_reward``.

    Returns:
        What ``fn`` returns; None is ``abstain``, NaN and a list of the wrong length are ``error``.
    """
    scored = [(i, turn) for i, e in enumerate(episodes) for turn in last_turns(e, role).values() if turn.status == "ok"]
    found: list[dict[str, Any]] = []
    for episode in episodes:
        turns, code = last_turns(episode, role), rejected(episode)
        found.append({agent: unanswered(turns.get(agent), code) for agent in agents_of(episode, role)})
    if not scored:
        return found

    def spread(values: Sequence[float | None]) -> list[Scores]:
        wrong = Score(0.0, "error", detail=f"{len(values)} rewards for {len(scored)} completions")
        for k, (i, turn) in enumerate(scored):
            value = values[k] if len(values) == len(scored) else wrong
            found[i][turn.agent] = Score(0.0, "abstain", detail="None") if value is None else value
        return found

    table = _columns([(episodes[i], turn) for i, turn in scored], conversational, {**TASK_COLUMNS, **(columns or {})})
    parameters = inspect.signature(fn).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        table = {name: value for name, value in table.items() if name in parameters}
    values = fn(**table)

    async def later() -> list[Scores]:
        return spread(list(await values))

    return later() if inspect.isawaitable(values) else spread(list(values))


def to_trl(
    model: Any, family: TaskFamily | None = None, *, role: str = "solver", num_generations: int | None = None
) -> TRLFunction:
    """A reward model as a TRL reward function, for single-turn training on a plain data set of problems.

    Rows with the same prompt that stand together are one episode, so that rewards which compare completions (majority,
    repetition) see the group.  On several processes TRL shows a function its own rows only, and a group may be split.

    ``family`` verifies the completions (``facts["correct"]``; None: no verdict), which are played from a seat of
    ``role``; ``num_generations`` is the exact size of a group, for data sets where one prompt follows itself.

    Returns:
        A function for ``reward_funcs``, whose column ``task`` (a Task's JSON, as ``core.encode`` writes it) or else
        ``answer`` tells the problem.  Scores that are not ok become None.
    """
    found = as_reward(model)

    def trl_reward(
        *, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        keys = [(repr(prompt), str(_cell(columns.get("task"), i))) for i, prompt in enumerate(prompts)]
        episodes: list[Episode] = []
        start = 0
        while start < len(keys):
            stop = start + 1
            most = len(keys) if num_generations is None else min(len(keys), start + num_generations)
            while stop < most and keys[stop] == keys[start]:
                stop += 1
            task = _task(prompts[start], _cell(columns.get("task"), start), _cell(columns.get("answer"), start), family)
            ids = [_cell(completion_ids, i) for i in range(start, stop)]
            episodes.append(_episode(task, _messages(prompts[start]), completions[start:stop], ids, family, role))
            start = stop
        scores = found.score(episodes)
        scores = asyncio.run(scores) if inspect.iscoroutine(scores) else scores
        every = [its.get(turn.agent) for episode, its in zip(episodes, scores, strict=True) for turn in episode.turns]
        return [score.value if score is not None and score.status == "ok" else None for score in every]

    trl_reward.__name__ = found.name  # TRL logs a function under its name
    return trl_reward


def _columns(rows: Sequence[tuple[Episode, Turn]], conversational: bool, fields: Mapping[str, str]) -> dict[str, Any]:
    tasks = [challenge_of(episode) or (episode.tasks[-1] if episode.tasks else None) for episode, _ in rows]
    turns = [turn for _, turn in rows]
    table: dict[str, Any] = {name: [getattr(task, field, None) for task in tasks] for name, field in fields.items()}
    table |= {"role": [turn.role for turn in turns], "agent": [turn.agent for turn in turns]}
    if conversational:
        table["prompts"] = [[dict(message) for message in turn.messages] for turn in turns]
        table["completions"] = [[{"role": "assistant", "content": turn.text}] for turn in turns]
    else:
        table["prompts"] = ["\n\n".join(message["content"] for message in turn.messages) for turn in turns]
        table["completions"] = [turn.text for turn in turns]
    table["completion_ids"] = [list(turn.token_ids or ()) for turn in turns]
    return table | {"trainer_state": None, "log_extra": _ignore, "log_metric": _ignore}


def _episode(
    task: Task, messages: list[Message], completions: Sequence[Any], ids: list[Any], family: Any, role: str
) -> Episode:
    turns = [
        Turn(agent=f"{role}_{i}", role=role, messages=messages, text=_text(c), token_ids=None if t is None else list(t))
        for i, (c, t) in enumerate(zip(completions, ids, strict=True))
    ]
    correct: dict[str, float | None] = {turn.agent: None for turn in turns}
    for turn in turns if family is not None else ():
        score = family.verify(task, turn.text)
        correct[turn.agent] = score.value if score.status == "ok" else None
    known = [value for value in correct.values() if value is not None]
    rate = math.fsum(known) / len(known) if known else None
    facts = {"agents": list(correct), "valid": True, "reject": "", "solve_rate": rate, "correct": correct}
    return Episode(
        env_id="trl",
        version=0,
        seed="",
        index=0,
        tasks=[task],
        turns=turns,
        events=[],
        outcome=core.Outcome("ok", facts),
    )


def _task(prompt: Any, task: Any, answer: Any, family: TaskFamily | None) -> Task:
    if isinstance(task, (str, bytes)):
        return core.decode_task(task)
    if isinstance(task, Task):
        return task
    text = _messages(prompt)[-1]["content"]
    return Task(
        family=family.name if family else "", level=0, prompt=text, answer="" if answer is None else str(answer)
    )


def _cell(column: Any, i: int) -> Any:
    return None if column is None else column[i]


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


def _ignore(*args: Any, **kwargs: Any) -> None:
    """In place of TRL's logging hooks."""
