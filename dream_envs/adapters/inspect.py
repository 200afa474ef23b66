"""Games and task families as tasks of Inspect, and our runs as its logs (extra: inspect); ``docs/adapters_inspect.md``.

A score has a value in Inspect only where ours is ``ok``.  Everything else is ``Score.unscored``, which its metrics and
reducers leave out and count; its ``NOANSWER`` is not used, since metrics take it for 0.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from dream_envs import core, pace, registry
from dream_envs.adapters._shared import SharedReward, SharedRunner, levels_of, problems
from dream_envs.core import Action, AgentLike, DreamEnvsError, Episode, Game, Message, TaskFamily, Usage
from dream_envs.envs._adapter import assign_others, build_game, build_reward, full_id, pick_seat
from dream_envs.envs._shared import check_whole, reply_limits
from dream_envs.play import RewardLike, Table, episode_from, read_episodes, roles_by_agent, score
from dream_envs.runs import read_json
from dream_envs.tasks.answers import graded

try:
    import anyio
    import inspect_ai
    from inspect_ai import dataset, event, log, model, scorer, solver
except ModuleNotFoundError as _error:
    raise DreamEnvsError(
        f"dream_envs.adapters.inspect needs {_error.name}: pip install 'dream-envs[inspect]'"
    ) from _error

_EPISODE = "episode"  # where a sample's store has our Episode
_REASONS = {"length": "max_tokens", "stop": "stop"}


@inspect_ai.task
def task(
    subject: str | TaskFamily | type | Game,
    *,
    role: str = "",
    others: Mapping[str, AgentLike | str] | None = None,
    reward: RewardLike | None = None,
    levels: Sequence[int] | None = None,
    samples: int = 100,
    epochs: int = 1,
    seed: str = "0",
    **settings: Any,
) -> inspect_ai.Task:
    """A family's problems, or a game in which the evaluated model plays one seat, as a task of Inspect.

    Args:
        subject: a task family's or a game's name, ``module:Class``, or an object.
        role: the model's, of which the game has exactly one seat; "": the only one.
        others: who plays the other seats, by role or seat; scripted agents where nobody is named.
        reward: as in ``play.rollout``; None: the game's own.  A reward that compares the episodes of a round sees one.
        levels: of a family's problems, by turns; None: all.
        samples: how many distinct problems, or episodes ``{seed}/0`` and so on, as ``play.rollout`` numbers them.
        epochs: how often each is played.
        seed: the label that problems and episodes are drawn from.
        settings: arguments of the family or game.

    Raises:
        DreamEnvsError: for a role with several seats, a family with too few problems, arguments of the other kind.
    """
    check_whole("samples", samples, 1, 10**6)
    check_whole("epochs", epochs, 1, 10**6)
    made = _made(subject, settings)
    if not hasattr(made, "turns"):
        if role or others is not None or reward is not None:
            raise DreamEnvsError(f"{made.name} is a task family: role=, others= and reward= are for games")
        return inspect_ai.Task(
            dataset=dataset.MemoryDataset(_samples(made, levels_of(made, levels), samples, seed), name=made.name),
            solver=solver.generate(), scorer=verified(subject, **settings), epochs=epochs,
            config=model.GenerateConfig(max_tokens=reply_limits(made).max_tokens), name=made.name, version=made.version,
        )  # fmt: skip
    if levels is not None:
        raise DreamEnvsError(f"levels= is for a task family's problems: give {made.env_id} its own arguments")
    seat = _only_seat(made, role)
    return inspect_ai.Task(
        dataset=dataset.MemoryDataset(
            [
                dataset.Sample(id=i, input=f"{made.env_id}, episode {label}, as {seat}", metadata={"label": label})
                for i, label in enumerate(f"{seed}/{i}" for i in range(samples))
            ],
            name=made.env_id,
        ),
        solver=played(subject, role=role, others=others, **settings),
        scorer=rewarded(subject, role=role, reward=reward, **settings),
        epochs=epochs, name=f"{made.env_id}:{seat}", version=made.version,
    )  # fmt: skip


@scorer.scorer(metrics=[scorer.mean(), scorer.stderr()])
def verified(subject: Any, **settings: Any) -> scorer.Scorer:
    """The family's own verdict on the reply, read as everywhere here."""
    family = _made(subject, settings)

    async def judge(state: solver.TaskState, target: scorer.Target) -> scorer.Score:
        problem, action = core.decode_task(json.dumps(state.metadata["task"])), action_of(state.output)
        found, answer = graded(family, problem, action)
        return score_of(found, action.text if answer is None else answer)

    return judge


@solver.solver
def played(
    subject: Any, *, role: str = "", others: Mapping[str, AgentLike | str] | None = None, **settings: Any
) -> solver.Solver:
    """Plays the game to its end: the model in the one seat of ``role``, asked anew for each move, and our agents."""
    game = _made(subject, settings)
    name = _only_seat(game, role)
    runner = SharedRunner(game, assign_others(game, roles_by_agent(game)[name], name, others, None))

    async def play(state: solver.TaskState, generate: solver.Generate) -> solver.TaskState:
        table, messages = Table(game, state.metadata["label"]), list[Any]()
        agent = model.get_model()
        while pace.going_on(game, table):
            moves = dict[str, Action]()
            for seat in game.turns(table.state):
                if seat.agent != name:
                    continue
                if seat.writes != "assistant":
                    raise DreamEnvsError(f"{name} writes a user's turn, which Inspect asks no model for: role= another")
                asked = [_message(m) for m in game.view(table.state, name)]
                config = model.GenerateConfig(max_tokens=seat.limits.max_tokens)
                state.output = await agent.generate(asked, config=config)
                moves[name] = action_of(state.output)
                messages += [*asked, *([] if state.output.empty else [state.output.message])]
                state.messages = list(messages)
            await anyio.to_thread.run_sync(runner.step, [table], [moves])
        index = int(table.label.rpartition("/")[2])
        episode = episode_from(game, table.state, table.turns, seed=table.label, index=index)
        state.store.set(_EPISODE, json.loads(core.encode(episode)))
        return state

    return play


@scorer.scorer(metrics=[scorer.mean(), scorer.stderr()])
def rewarded(subject: Any, *, role: str = "", reward: RewardLike | None = None, **settings: Any) -> scorer.Scorer:
    """What a reward model gives the model's seat; of the episode in the sample's store, so that it can score again."""
    game = _made(subject, settings)
    name, rewards = _only_seat(game, role), SharedReward(build_reward(reward, game))

    async def judge(state: solver.TaskState, target: scorer.Target) -> scorer.Score:
        stored = state.store.get(_EPISODE)
        if stored is None:
            return score_of(core.Score(0.0, "error", detail="the game was not played to its end"))
        episode = core.decode_episode(json.dumps(stored))
        (episode,) = await anyio.to_thread.run_sync(score, [episode], rewards, game.agents)
        said = [turn for turn in episode.turns if turn.agent == name]
        answer = "" if not said else said[-1].text if said[-1].extracted is None else said[-1].extracted
        return score_of(episode.scores[name], answer)

    return judge


def score_of(found: core.Score, answer: str | None = None) -> scorer.Score:
    """Our Score in Inspect's terms: a value where it is ``ok``, else unscored for the reason of its status."""
    about = {"status": found.status, "components": dict(found.components), "grader": found.grader}
    if found.status != "ok" or not math.isfinite(found.value):
        reason = found.status if found.status != "ok" else "error"
        return scorer.Score.unscored(reason=reason, answer=answer, explanation=found.detail or None, metadata=about)
    return scorer.Score(value=found.value, answer=answer, explanation=found.detail or None, metadata=about)


def action_of(output: model.ModelOutput) -> Action:
    """The move in a model's output; an output without a reply is a call that failed."""
    if output.empty or output.error is not None:
        return Action("", status="error")
    said, content = output.message.text, output.message.content
    thought = "\n".join(p.reasoning for p in content if isinstance(p, model.ContentReasoning)) if content else ""
    if (
        isinstance(content, list) and thought
    ):  # cut out of the reply by the server; unclosed where nothing came behind it
        said = f"<think>\n{thought}" + (f"\n</think>\n\n{said}" if said else "")
    ends = {"stop": "stop", "max_tokens": "length", "model_length": "length", "unknown": ""}
    used = Usage() if output.usage is None else Usage(output.usage.input_tokens, output.usage.output_tokens)
    return Action(said, usage=used, finish_reason=ends.get(output.stop_reason, output.stop_reason))


def export_log(run: Path, out: Path) -> Path:
    """A finished run's episodes as a log of Inspect.

    One sample an episode, with the id of its index (played again: another epoch): what every seat was shown and said,
    the game's events, a score for each seat, and the whole Episode in the sample's store.

    Args:
        run: a folder with ``episodes.jsonl``.
        out: a file that ends in ``.eval`` or ``.json``.

    Raises:
        DreamEnvsError: for another ending, a file that is there, or a folder without episodes.
    """
    if out.suffix not in (".eval", ".json"):
        raise DreamEnvsError(f"{out}: a log of Inspect ends in .eval or .json")
    if out.exists():
        raise DreamEnvsError(f"{out} is there already: choose another file, nothing is overwritten")
    path, seen, found = run / "episodes.jsonl", Counter[int](), list[log.EvalSample]()
    if not path.is_file():
        raise DreamEnvsError(f"{run} has no episodes.jsonl: give the folder of a run, such as runs/demo")
    first: Episode | None = None
    for episode in read_episodes(path):
        first = first or episode
        seen[episode.index] += 1
        found.append(_sample(episode, seen[episode.index]))
    if first is None:
        raise DreamEnvsError(f"{path} holds no episode: nothing to export")
    about = read_json(run / "run.json") or {}
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    names = list(dict.fromkeys(name for sample in found for name in sample.scores or {}))
    metrics = [{"name": f"inspect_ai/{name}"} for name in ("mean", "stderr")]
    scorers: Any = [{"name": name, "metrics": metrics} for name in names]  # Inspect has no public type for these
    key = core.content_hash(first.env_id, json.dumps(about.get("config", {}), sort_keys=True))
    written = log.EvalLog(
        status="success",
        eval=log.EvalSpec(
            eval_id=key, run_id=key, task_id=key, created=when, task=first.env_id, task_version=first.version,
            dataset=log.EvalDataset(name=first.env_id, samples=len(seen), sample_ids=list(seen)),
            model=_players(about), config=log.EvalConfig(epochs=max(seen.values())), metadata={"run": about},
            scorers=scorers, packages=about.get("versions", {}),
        ),
        stats=log.EvalStats(started_at=when, completed_at=when),
        samples=found,
    )  # fmt: skip
    log.recompute_metrics(written)
    out.parent.mkdir(parents=True, exist_ok=True)
    log.write_eval_log(written, str(out))
    return out


def _sample(episode: Episode, epoch: int) -> log.EvalSample:
    """An episode as a sample; the seat that speaks stands in the messages' metadata and in the transcript's spans."""
    messages, events, output = list[Any](), list[Any](), model.ModelOutput()
    for i, turn in enumerate(episode.turns):
        about = {"agent": turn.agent, "role": turn.role, "status": turn.status, "extracted": turn.extracted}
        asked = [_message(m, {"agent": turn.agent}) for m in turn.messages]
        reply = model.ChatMessageAssistant(content=turn.text, source="generate", model=turn.agent, metadata=about)
        messages += [*asked, reply]
        usage = model.ModelUsage(
            input_tokens=turn.usage.prompt_tokens, output_tokens=turn.usage.completion_tokens,
            total_tokens=turn.usage.prompt_tokens + turn.usage.completion_tokens,
        )  # fmt: skip
        reason: Any = _REASONS.get(turn.finish_reason, "unknown")
        output = model.ModelOutput(
            model=turn.agent, choices=[model.ChatCompletionChoice(message=reply, stop_reason=reason)], usage=usage,
            time=turn.seconds, error=None if turn.status == "ok" else turn.status,
        )  # fmt: skip
        span = f"{i}-{turn.agent}"
        events += [
            event.SpanBeginEvent(id=span, name=turn.agent, type="agent", span_id=span),
            event.ModelEvent(
                model=turn.agent, role=turn.role, input=asked, tools=[], tool_choice="none", span_id=span,
                config=model.GenerateConfig(), output=output, error=output.error,
            ),
            event.SpanEndEvent(id=span, span_id=span),
        ]  # fmt: skip
    plain = json.loads(core.encode(episode))
    events += [event.InfoEvent(source=each["kind"], data=each) for each in plain["events"]]
    answers = {turn.agent: turn.text if turn.extracted is None else turn.extracted for turn in episode.turns}
    problem = episode.tasks[-1] if episode.tasks else None
    return log.EvalSample(
        id=episode.index, epoch=epoch, input=problem.prompt if problem else episode.seed,
        target=problem.answer if problem else "", messages=messages, events=events, output=output,
        scores={agent: score_of(found, answers.get(agent)) for agent, found in episode.scores.items()},
        metadata={
            "env": episode.env_id, "version": episode.version, "label": episode.seed, "round": episode.round,
            "tasks": plain["tasks"], "outcome": plain["outcome"], "grader": episode.grader,
        },
        store={_EPISODE: plain},
    )  # fmt: skip


def _samples(family: TaskFamily, levels: Sequence[int], count: int, seed: str) -> list[dataset.Sample]:
    """Distinct problems, as samples with their ids."""
    found = dict[str, core.Task]()
    for tries, each in enumerate(problems(family, levels, seed)):
        found.setdefault(each.id, each)
        if len(found) == count:
            break
        if tries > 64 * count + 4096:
            raise DreamEnvsError(
                f"samples={count}: {family.name} has some {len(found)} problems of levels {list(levels)}"
            )
    return [
        dataset.Sample(
            id=each.id, input=each.prompt, target=family.gold(each), metadata={"task": json.loads(core.encode(each))}
        )
        for each in found.values()
    ]


def _made(subject: Any, settings: Mapping[str, Any]) -> Any:
    """The family or game behind a name, a class or an object."""
    if isinstance(subject, str) and subject in (families := registry.rows("tasks")):
        return registry.create("tasks", subject, **settings)
    if isinstance(subject, str) and ":" not in subject:
        try:
            full_id(subject)
        except DreamEnvsError:
            known = [*families, *registry.rows("envs")]
            raise DreamEnvsError(registry.unknown("tasks and envs", subject, known)) from None
    made: Any = build_game(subject, settings)
    if not (hasattr(made, "turns") or hasattr(made, "verify")):
        raise DreamEnvsError(f"{subject!r:.80} is neither a task family nor a game: give one's name, class or object")
    return made


def _only_seat(game: Game, role: str) -> str:
    role, name = pick_seat(game, role or None, None)
    if (seats := list(roles_by_agent(game).values()).count(role)) > 1:
        raise DreamEnvsError(
            f"{game.env_id} has {seats} seats for {role!r} and Inspect evaluates one: make it with one ({role}s=1)"
        )
    return name


def _message(message: Message, about: dict[str, Any] | None = None) -> Any:
    kinds: dict[str, Any] = {
        "system": model.ChatMessageSystem, "user": model.ChatMessageUser, "assistant": model.ChatMessageAssistant,
    }  # fmt: skip
    kind = registry.named("roles of Inspect's messages", message["role"], kinds)
    return kind(content=message["content"], metadata=about)


def _players(about: Mapping[str, Any]) -> str:
    """Who played, in one word: the seats that the run's settings name."""
    seats = cast("list[Any]", (about.get("config") or {}).get("seats") or [])
    return ",".join(f"{seat}={agent}" for seat, agent in seats) if isinstance(seats, list) and seats else "scripted"
