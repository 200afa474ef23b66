"""Games and task families as environments of verifiers 0.4 (extra: verifiers); ``docs/adapters_verifiers.md``.

verifiers finds an environment by the name of an importable module whose ``__all__`` has one taskset, one environment
and, for its default, one harness.  ``environment`` and ``taskset`` make these three classes; a file of one's own names
them.  The module may be imported anywhere, as in worker processes: nothing is registered on the side.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from dream_envs import core, pace, registry
from dream_envs.adapters._shared import SharedReward, SharedRunner, levels_of, problems
from dream_envs.core import Action, AgentLike, DreamEnvsError, Episode, Game, Score, Seat, TaskFamily, Turn, Usage
from dream_envs.envs._adapter import build_game, build_reward
from dream_envs.envs._shared import reply_limits
from dream_envs.play import RewardLike, Table, assign_agents, episode_from, roles_by_agent, score
from dream_envs.tasks.answers import graded

try:
    import openai
    import verifiers.v1 as vf
    from pydantic import create_model
except ModuleNotFoundError as _error:
    raise DreamEnvsError(
        f"dream_envs.adapters.verifiers needs {_error.name}: pip install 'dream-envs[verifiers]' (0.4 or newer)"
    ) from _error

_LOCAL = vf.AgentConfig(runtime=vf.SubprocessConfig())  # no program runs in it: the harness is a single request


class Classes(NamedTuple):
    """What a module exports in ``__all__``, under any three names."""

    Taskset: type[vf.Taskset]
    Env: type[vf.Env]
    Harness: type[vf.Harness]


class OneReplyConfig(vf.HarnessConfig):
    """No settings of its own."""


class OneReply(vf.Harness[OneReplyConfig]):
    """One request, one reply: the messages as they are, at most as many tokens as the task allows, no tools.

    The bundled ``null`` harness starts a program with ``uv`` for each run; this one runs in the process of the
    environment, and calls the model where verifiers says, so that everything is recorded as it is there.
    """

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Ask the model once; a failure is verifiers' to record."""
        system, prompt = self.resolve_prompt(data)
        messages: list[Any] = [{"role": "system", "content": system}] if system is not None else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message.model_dump(exclude_none=True) for message in prompt or []]
        budget: Any = {"max_tokens": data.max_tokens} if isinstance(data, Asked) else {}
        # No time limit here: verifiers' own end the run.  Its retries are the client's, as in its own harnesses.
        http = openai.DefaultAsyncHttpxClient(verify=_certificates(), timeout=None)
        async with openai.AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None, http_client=http) as client:
            await client.chat.completions.create(model=ctx.model, messages=messages, **budget)
        return vf.ProgramResult(0, "", "")


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than the rest of a request, and every request has a client of its own."""
    return ssl.create_default_context()


class Asked(vf.TaskData):
    """What one model call needs beyond the messages.  ``problem``: a Task with its answer, which no model is shown."""

    max_tokens: int
    problem: dict[str, Any] | None = None


class GameTasksetConfig(vf.TasksetConfig):
    """``seed``: the label that all randomness of the games is made from."""

    seed: str = "0"


class ProblemTasksetConfig(GameTasksetConfig):
    """``levels``: the problems', by turns; None: all that the family has."""

    levels: list[int] | None = None


class GameTaskset(vf.Taskset[vf.Task, GameTasksetConfig]):
    """Episodes without end."""

    INFINITE = True

    def load(self) -> Iterator[vf.Task]:
        """Tasks that name the episode and hold nothing else."""
        for i in itertools.count():
            yield vf.Task(vf.TaskData(id=f"{self.config.seed}/{i}"), self.config.task)


class _Playing(vf.Env):
    """How one task becomes one episode of ``runner``'s game."""

    runner: ClassVar[SharedRunner]
    rewards: ClassVar[SharedReward]

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Play, then score every trace."""
        game, traces = self.runner.game, dict[int, vf.Trace]()
        table = Table(game, str(task.data.id))
        while pace.going_on(game, table):
            seats = enumerate(game.turns(table.state), len(table.turns))
            asked = {i: seat for i, seat in seats if seat.agent not in self.runner.policies}
            if wrong := [seat.role for seat in asked.values() if seat.writes != "assistant"]:
                raise DreamEnvsError(f"{wrong[0]} writes a user's turn, which verifiers asks no model for: others=")
            runs = [getattr(agents, seat.role).run(_move(task, table, i, seat, game)) for i, seat in asked.items()]
            traces |= zip(asked, await asyncio.gather(*runs), strict=True)
            moves = {seat.agent: action_of(traces[i]) for i, seat in asked.items()}
            await asyncio.to_thread(self.runner.step, [table], [moves])
        index = int(table.label.rpartition("/")[2])
        episode = episode_from(game, table.state, table.turns, seed=table.label, index=index)
        if not traces:
            how = core.encode(episode.outcome).decode()[:200]
            raise DreamEnvsError(f"{table.label} ended before an agent of verifiers could move: {how}")
        (episode,) = await asyncio.to_thread(score, [episode], self.rewards, game.agents)
        for i, trace in traces.items():
            _record(trace, game, episode, i)

    def complete(self, episode: vf.Episode) -> bool:
        """Whether ``--resume`` keeps it: not one with a failed call; a score may have no value for good."""
        found = [trace.info.get("dream_envs", {}) for trace in episode.traces]
        statuses = {status for f in found for status in (f.get("status"), f.get("score", {}).get("status"))}
        return bool(found) and not episode.errors and statuses <= {"ok", "abstain", "invalid"}


class ProblemEnvConfig(vf.SingleAgentEnvConfig):
    """The one agent, who answers here unless another runtime is named."""

    agent: vf.AgentConfig = _LOCAL


class ProblemEnv(vf.SingleAgentEnv, vf.Env[ProblemEnvConfig]):
    """One reply to one problem; of verifiers' single-agent kind, so that ``vf-replay`` takes its runs."""


def environment(
    game: str | type | Game,
    *,
    reward: RewardLike | None = None,
    others: Mapping[str, AgentLike | str] | None = None,
    **settings: Any,
) -> Classes:
    """A game as an environment of verifiers: its roles are agents, and every move is a trace of the agent who made it.

    Task ``i`` of the taskset, which has no end, is the episode with the label ``{seed}/{i}``: the game of
    ``play.rollout``'s episode ``i``.  All rollouts of one task share its deal, its problem, whatever the game draws.

    Args:
        game: an id, ``module:Class``, a class or an object.
        reward: as in ``play.rollout``; None: the game's own.  A reward that compares the episodes of a round sees one.
        others: agents of ours by role or seat, who play beside verifiers' and leave no trace.
        settings: arguments of the game.

    Raises:
        DreamEnvsError: for a role whose name a setting of verifiers has, or where nobody is left for verifiers.
    """
    made = build_game(game, settings, environment)
    policies = assign_agents(made, dict(others or {}))
    roles = list(dict.fromkeys(r for agent, r in roles_by_agent(made).items() if agent not in policies))
    if not roles:
        raise DreamEnvsError(f"others={sorted(others or {})}: every seat is taken; leave a role to verifiers")
    taken = set(vf.EnvConfig.model_fields)
    if wrong := [r for r in roles if r in taken or not r.isidentifier() or r.startswith(("_", "model_"))]:
        raise DreamEnvsError(
            f"role {wrong[0]!r} of {made.env_id}: verifiers has a setting of that name; rename the role"
        )
    fields: dict[str, Any] = dict.fromkeys(roles, (vf.AgentConfig, _LOCAL))
    config: Any = create_model("GameEnvConfig", __base__=vf.EnvConfig, __doc__="The roles' agents.", **fields)

    class GameEnv(_Playing, vf.Env[config]):
        """One game, played by verifiers' agents and ours."""

        runner, rewards = SharedRunner(made, policies), SharedReward(build_reward(reward, made))

    return Classes(GameTaskset, GameEnv, OneReply)


def taskset(family: str | TaskFamily, **settings: Any) -> Classes:
    """A task family as single-turn tasks, verified as everywhere here; problems without end, by turns of each level.

    Args:
        family: a name or an object.
        settings: arguments of the family, with a name.
    """
    if settings and not isinstance(family, str):
        raise DreamEnvsError(f"{next(iter(settings))}=: a family object takes no more arguments; give its name")
    made: Any = registry.create("tasks", family, **settings) if isinstance(family, str) else family
    limits = reply_limits(made)

    class Problem(vf.Task[Asked]):
        """A problem; what has no value is an error on the trace, never a zero."""

        @vf.reward
        async def correct(self, trace: vf.Trace) -> float:
            task = core.decode_task(json.dumps(self.data.problem))
            found, _ = graded(made, task, action_of(trace))
            if found.status != "ok":
                raise ValueError(f"{_kind(found)}: {found.detail or found.grader}")
            return found.value

    class ProblemTaskset(vf.Taskset[Problem, ProblemTasksetConfig]):
        """Problems without end."""

        INFINITE = True

        def load(self) -> Iterator[Problem]:
            for task in problems(made, levels_of(made, self.config.levels), self.config.seed):
                data = Asked(id=task.id, prompt=task.prompt, max_tokens=limits.max_tokens, problem=_plain(task))
                yield Problem(data, self.config.task)

    return Classes(ProblemTaskset, ProblemEnv, OneReply)


def action_of(trace: vf.Trace) -> Action:
    """The move in a finished trace: its last sampled message, or the status of the call that failed."""
    call = trace.calls[-1] if trace.calls else None
    last = next((node for node in reversed(trace.nodes) if node.sampled), None)
    failed = trace.last_error if not trace.ok and trace.is_completed else None
    late = trace.is_timeout and (last is None or trace.stop_condition == "agent_timeout")
    if late or (failed is not None and failed.status_code in (408, 504)):
        return Action("", status="timeout")
    if last is None or failed is not None:
        return Action("", status="error")
    text, reasoning = last.message.content, last.message.reasoning_content
    if text is None and not reasoning:
        return Action("", status="error")
    if reasoning:  # the server cut it out of the reply; unclosed where nothing came behind it, as in agents.engines
        text = f"<think>\n{reasoning}" + (f"\n</think>\n\n{text}" if text else "")
    used = call.usage if call is not None else None
    return Action(
        text or "", usage=Usage(used.input_tokens, used.completion_tokens) if used is not None else Usage(),
        finish_reason=(call.finish_reason if call is not None else None) or "",
        token_ids=[i for i, sampled in zip(last.token_ids, last.mask, strict=False) if sampled] or None,
        logprobs=list(last.logprobs) or None,
    )  # fmt: skip


def _move(task: vf.Task, table: Table, turn: int, seat: Seat, game: Game) -> vf.Task:
    """What a seat is asked, as a task of its own: no history but what the game shows."""
    shown: Sequence[Any] = game.view(table.state, seat.agent)
    kinds: dict[str, Any] = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
    prompt = [registry.named("roles of verifiers' messages", m["role"], kinds)(content=m["content"]) for m in shown]
    data = Asked(
        idx=task.data.idx, id=f"{table.label}/{turn}", name=seat.agent, prompt=prompt,
        system_prompt=task.data.system_prompt, max_tokens=seat.limits.max_tokens,
    )  # fmt: skip
    return vf.Task(data, task.config)


def _record(trace: vf.Trace, game: Game, episode: Episode, at: int) -> None:
    """The score of whoever made this move, and what else verifiers has no field for."""
    turn: Turn = episode.turns[at]
    found = episode.scores[turn.agent]
    trace.info["dream_envs"] = {
        "env": game.env_id, "version": game.version, "episode": episode.seed, "index": episode.index, "turn": at,
        "agent": turn.agent, "status": turn.status, "extracted": turn.extracted, "score": _plain(found),
        "group": core.hook(game, "group")(episode, turn), "outcome": _plain(episode.outcome),
        "tasks": [task.id for task in episode.tasks],
    }  # fmt: skip
    if found.status == "ok":
        trace.record_reward("reward", found.value)
        trace.record_metrics(found.components)
        return
    trace.rewards["reward"] = None
    trace.errors.append(vf.Error(type=_kind(found), message=found.detail or f"{turn.agent}: {found.status}"))
    trace.ok = False  # or verifiers would average it in as 0


def _kind(found: Score) -> str:
    """The type of a verifiers error: ``ScoreTimeout`` and so on, for retry rules to name."""
    return f"Score{found.status.title()}"


def _plain(record: msgspec.Struct) -> dict[str, Any]:
    return json.loads(core.encode(record))
