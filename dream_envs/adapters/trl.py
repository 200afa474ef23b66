"""Our problems and games in TRL's own trainers (TRL 1.16); nothing here is a subclass of one.

``dataset`` and ``reward_funcs``: single turns on the problems of a family.  ``rollout_func`` with the reward ``value``:
whole games, the trainer's model in every seat that learns, several roles in one step.  ``environment_factory``: one
seat of a game, whose replies are tool calls.  ``places``: the prompts that TRL wants where the game has its own.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from dream_envs import registry, seeds
from dream_envs.adapters.export import framework
from dream_envs.checks import check
from dream_envs.core import (
    Action,
    AgentLike,
    DreamEnvsError,
    Episode,
    Game,
    Request,
    Start,
    TaskFamily,
    decode_task,
    encode,
)
from dream_envs.envs import _adapter as adapter
from dream_envs.envs.gym import SeatEngine
from dream_envs.play import MAX_STEPS, EpisodeWriter, RewardLike, assign_agents, read_episodes, rollout, score, text_of
from dream_envs.rewards.adapters import TRLFunction, to_trl

#: So many draws in a row that are all known already say that a level has no more problems.
_KNOWN = 10_000
#: Settings of a trainer that would not reach our engine, with their values when they are off.
_OFF: dict[str, Any] = {
    "use_vllm": False, "use_transformers_continuous_batching": False, "repetition_penalty": 1.0,
    "generation_kwargs": None,
}  # fmt: skip


def _family(family: str | TaskFamily, **words: Any) -> TaskFamily:
    if isinstance(family, str):
        return registry.create("tasks", family, **words)
    for key in words:
        raise DreamEnvsError(f"{key}= goes with a family's name; give it to the family object itself")
    return family


def dataset(
    family: str | TaskFamily, *, levels: Sequence[int] | None = None, count: int, seed: str | int = 0,
    notation: str | None = None, system: str | None = None,
) -> Any:  # fmt: skip
    """Problems of a family as a ``datasets.Dataset``, of all levels alike, each prompt once.

    Columns: ``prompt`` (messages), ``task`` (the problem's JSON, for ``reward_funcs``), ``answer``, ``level``.  Equal
    arguments give equal rows; a smaller ``count`` gives the first of them.

    Args:
        family: a registered name, ``module:attribute``, or a TaskFamily.
        levels: of the problems, in turn; None: all that the family has.
        count: rows, 1 or more.
        seed: label that all draws are made from.
        notation: ``compact`` or ``english``, with a family's name; None: the family's default.
        system: a system message before every problem.

    Raises:
        DreamEnvsError: for a level that the family does not have, or that has not as many different problems.
    """
    made, count = _family(family, **({"notation": notation} if notation else {})), check("count", count, 1, whole=True)
    chosen = list(made.levels if levels is None else levels)
    if not chosen or set(chosen) - set(made.levels):
        top = made.levels.stop - 1
        raise DreamEnvsError(f"levels={chosen}: some of the levels of {made.name}, {made.levels.start} to {top}")
    rngs = {level: seeds.stream("trl-dataset", seed, made.name, level) for level in chosen}
    lead = [{"role": "system", "content": system}] if system else []
    seen, rows = set[str](), list[dict[str, Any]]()
    for level in itertools.islice(itertools.cycle(chosen), count):
        drawn = (made.generate(rngs[level], level) for _ in range(_KNOWN))
        task = next((t for t in drawn if t.prompt not in seen), None)
        if task is None:
            had = sum(row["level"] == level for row in rows)
            raise DreamEnvsError(
                f"count={count}: level {level} of {made.name} seems to have {had} different problems; at most "
                f"{had * len(chosen)} rows of these levels, or leave it out of levels="
            )
        seen.add(task.prompt)
        prompt = [*lead, {"role": "user", "content": task.prompt}]
        rows.append({"prompt": prompt, "task": encode(task).decode(), "answer": task.answer, "level": level})
    return framework("datasets").Dataset.from_list(rows)


def reward_funcs(
    reward: Any, family: str | TaskFamily | None = None, *, role: str = "solver", notation: str | None = None,
    num_generations: int | None = None,
) -> list[TRLFunction]:  # fmt: skip
    """A reward as ``reward_funcs`` of a trainer on the rows of ``dataset``: one function, named like the reward.

    A sum stays one function: what makes one of its parts worthless (a status that is not ok) makes the sum worthless,
    and separate columns would not.

    Args:
        reward: a name, an expression such as ``0.9*correctness+0.1*format``, a model, a function of an episode.
        family: verifies the completions; a name or a TaskFamily, None: no verdicts.
        role: the seat that the completions are scored in.
        notation: as in ``dataset``.
        num_generations: the exact size of a group, for data where one prompt follows itself.
    """
    made = None if family is None else _family(family, **({"notation": notation} if notation else {}))
    return [to_trl(reward, made, role=role, num_generations=num_generations)]


def places(count: int) -> Any:
    """A ``datasets.Dataset`` of ``count`` empty prompts with their ``index``: each stands for a group of rows.

    For ``rollout_func`` and ``environment_factory``, whose games bring their own prompts.  At least
    ``generation_batch_size / num_generations``: with fewer TRL trains no step, and says nothing.
    """
    count = check("count", count, 1, whole=True)
    prompt = [{"role": "user", "content": ""}]
    return framework("datasets").Dataset.from_dict({"prompt": [prompt] * count, "index": list(range(count))})


def value(*, value: Any = None, role: Any = None, asked: Any = None, **given: Any) -> list[float | None]:
    """The reward function beside ``rollout_func``: what each row earned, None for a filler; each role's mean is logged.

    Raises:
        DreamEnvsError: in a trainer without such a ``rollout_func``.
    """
    if value is None or role is None:
        raise DreamEnvsError(
            "adapters.trl.value: give the trainer rollout_func=adapters.trl.rollout_func(game) as well"
        )
    for name in dict.fromkeys(r for r in role if r):
        earned = [v for v, r in zip(value, role, strict=True) if r == name]
        given["log_metric"](f"reward/{name}", sum(earned) / len(earned))
    given["log_extra"]("role", role)
    given["log_extra"]("asked", asked)
    return list(value)


def rollout_func(
    game: str | type | Game, seats: Mapping[str, AgentLike | str] | None = None, *, reward: RewardLike | None = None,
    roles: Sequence[str] | None = None, games: int | None = None, copies: int | None = None, seed: str | int = 0,
    out: EpisodeWriter | None = None,
) -> Rollouts:  # fmt: skip
    """Whole games for a stock ``GRPOTrainer(reward_funcs=value, rollout_func=..., train_dataset=places(n))``.

    See ``Rollouts`` for what comes back.

    Args:
        game: an id, ``module:Class``, a game class or a game object.
        seats: who plays instead of the trainer's model, by role or seat: ``{"judge": "oracle"}``, a URL, an agent.
        reward: scores the episodes of a call together; None: the game's own.
        roles: those of the model's roles that are trained; None: all.
        games: played in each call and process; None: as many as give each prompt a row if every seat moves once.
        copies: how many games in a row share the beginning that the game draws; None: ``num_generations``.
        seed: the run's label; episode i is that of ``play.rollout`` with this seed.
        out: where the episodes of training are written, on the main process.

    Raises:
        DreamEnvsError: if nobody is left to learn, and for roles or seats that the game does not have.
    """
    return Rollouts(adapter.build_game(game, {}), seats or {}, reward, roles, games, copies, str(seed), out)


class _Loud:
    """The model's own failures: others' are statuses of their turns, but these would go on as steps without rows."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.error: Exception | None = None

    def act(self, requests: Sequence[Request]) -> Sequence[Action]:
        try:
            return self.agent.act(requests)
        except Exception as error:
            self.error = error
            raise


class Rollouts:
    """Plays games with a trainer's model and gives TRL one row for each turn of a role that learns.

    A group of TRL's, ``num_generations`` rows in a place, holds turns of one ``Game.group`` alone; one that is not full
    ends in fillers, which are masked and have no reward, and so do places that are left.  Larger groups are cut; single
    rows say nothing and are left out.  Where there are more groups than places, those whose rows differ in reward come
    first, then the draw decides.  Turns without an ok score have no row.

    Replies are bounded by the game (``Seat.limits``), not by ``max_completion_length``.  Games of an evaluation are the
    same each time and never those of training.
    """

    def __init__(
        self, game: Game[Any], seats: Mapping[str, AgentLike | str], reward: RewardLike | None,
        roles: Sequence[str] | None, games: int | None, copies: int | None, seed: str, out: EpisodeWriter | None,
    ) -> None:  # fmt: skip
        self.game, self.seed, self.out, self.reward = game, seed, out, adapter.build_reward(reward, game)
        self.others = assign_agents(game, seats)
        own = {agent: agent.rpartition("_")[0] for agent in game.agents if agent not in self.others}
        if not own:
            raise DreamEnvsError(f"seats= has an agent for every seat of {game.env_id}: leave out who shall learn")
        played = list(dict.fromkeys(own.values()))
        if isinstance(roles, str):
            raise DreamEnvsError(f"roles={roles!r}: a list of roles, such as [{roles!r}]")
        if roles is not None and not roles:
            raise DreamEnvsError(f"roles={roles!r}: at least one of {', '.join(played)}, or None for all")
        for role in roles or ():
            if role not in played:
                raise DreamEnvsError(registry.unknown(f"roles of {game.env_id} that the model plays", role, played))
        self.own, self.roles = tuple(own), frozenset(played if roles is None else roles)
        self.learning = frozenset(agent for agent, role in own.items() if role in self.roles)
        self.games = None if games is None else check("games", games, 1, whole=True)
        self.copies = None if copies is None else check("copies", copies, 1, whole=True)
        self._calls: dict[bool, tuple[int, int]] = {}
        self._agent: Any = None

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """``len(prompts)`` rows as TRL asks for them, with the columns ``value``, ``role`` and ``asked``."""
        from dream_envs.agents.training.rows import Group, groups_of

        train = bool(trainer.model.training)
        size = trainer.num_generations if train else trainer.num_generations_eval
        if len(prompts) % size:
            raise DreamEnvsError(
                f"{len(prompts)} rows on each process: a multiple of num_generations={size}; change "
                "per_device_train_batch_size, steps_per_generation or gradient_accumulation_steps"
            )
        number = self._number(trainer, train)
        games = self.games or -(-len(prompts) // len(self.learning))
        episodes = self._play(trainer, number, games, size, train)
        only = [replace(e, turns=[self._mine(turn) for turn in e.turns]) for e in episodes]
        groups = groups_of(self.game, only, self.roles)
        cut = [replace(g, rows=g.rows[i : i + size]) for g in groups for i in range(0, len(g.rows), size)]
        blocks = [block for block in cut if len(block.rows) > 1 or not train]
        label = (self.seed, number, trainer.accelerator.process_index)
        order = seeds.stream("trl-blocks", train, *label).permutation(len(blocks)).tolist()
        if train:
            order.sort(key=lambda i: not blocks[i].informative)
        chosen: list[Group] = [blocks[i] for i in sorted(order[: len(prompts) // size])]
        return self._rows(chosen, size, len(prompts))

    def _number(self, trainer: Any, train: bool) -> int:
        """This call's number, from the trainer's step: a run that goes on repeats no game; in an evaluation from 0."""
        step, args = trainer.state.global_step, trainer.args
        before, calls = self._calls.get(train, (step + 1, 0))
        calls, begins = (calls + 1 if before == step else 0), step < before
        self._calls[train] = step, calls
        a_step = -(-args.gradient_accumulation_steps // (args.steps_per_generation * trainer.num_iterations))
        number = step * a_step + calls if train else calls
        if train and begins and self.out is not None and trainer.accelerator.is_main_process:
            ours = (self.game.env_id, self.seed)
            held = ((e.env_id, e.seed.removesuffix(f"/{e.index}")) for e in read_episodes(self.out.path))
            if any(not number or its != ours for its in held):
                raise DreamEnvsError(f"{self.out.path} holds the episodes of another run: choose another file for out=")
            self.out.drop(lambda episode: episode.round >= number)
        return number

    def _play(self, trainer: Any, number: int, games: int, size: int, train: bool) -> list[Episode]:
        """This process's episodes; those of all have been scored together and written."""
        world, copies = trainer.accelerator, self.copies or size
        first = (number * world.num_processes + world.process_index) * games
        starts = [Start(first + i, draw=first + i - i % copies if copies > 1 else None) for i in range(games)]
        seed = self.seed if train else f"{self.seed}/eval"
        with self._policy(trainer) as policy:
            own = _Loud(policy)
            seats = {**self.others, **dict.fromkeys(self.own, own)}
            episodes = list(rollout(self.game, seats, starts, seed=seed, width=games))
        if own.error is not None:
            raise own.error
        if world.num_processes > 1:
            episodes = framework("accelerate").utils.gather_object(episodes)
        episodes = sorted((replace(e, round=number) for e in episodes), key=lambda e: e.index)
        episodes = score(episodes, self.reward, self.game.agents)
        if train and self.out is not None and world.is_main_process:
            for episode in episodes:
                self.out.write(episode)
        return [e for e in episodes if first <= e.index < first + games]

    @contextlib.contextmanager
    def _policy(self, trainer: Any) -> Iterator[Any]:
        """The trainer's model as an agent, decoding as the trainer is told to; without dropout."""
        from trl.models import unwrap_model_for_generation

        from dream_envs.agents.engines.local import LocalAgent

        for name, off in _OFF.items():
            if getattr(trainer.args, name, off) not in (off, None):
                raise DreamEnvsError(
                    f"{name}={getattr(trainer.args, name)!r}: rollout_func samples by itself; leave it out"
                )
        if getattr(trainer, "is_fsdp_enabled", False):
            raise DreamEnvsError("rollout_func does not gather FSDP's shards: train with DDP")
        checkpointing = trainer.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=checkpointing
        ) as model:
            if self._agent is None or self._agent.model is not model:
                tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
                self._agent = LocalAgent(
                    model, tokenizer=tokenizer, temperature=trainer.temperature, top_p=trainer.top_p,
                    min_p=trainer.min_p or 0.0, top_k=trainer.top_k or 0, template=trainer.chat_template_kwargs,
                )  # fmt: skip
            trained = [module for module in model.modules() if module.training]
            model.eval()
            try:
                yield self._agent
            finally:
                for module in trained:
                    module.training = True

    def _mine(self, turn: Any) -> Any:
        return turn if turn.agent in self.learning else replace(turn, token_ids=None)

    def _rows(self, blocks: Sequence[Any], size: int, count: int) -> dict[str, Any]:
        rows: list[Any] = []
        for block in blocks:
            filled = [(row, block.role) for row in block.rows]
            rows += [*filled, *[(None, "")] * (size - len(filled))]
        rows += [(None, "")] * (count - len(rows))
        end = [self._agent.end]  # TRL wants a token in every row, of a filler too
        return {
            "prompt_ids": [end if row is None else list(row.prompt(self._agent.encode)) for row, _ in rows],
            "completion_ids": [end if row is None else list(row.ids) for row, _ in rows],
            "env_mask": [[0] if row is None else [1] * len(row.ids) for row, _ in rows],
            "logprobs": None,
            "value": [None if row is None else row.value for row, _ in rows],
            "role": [role for _, role in rows],
            "asked": ["" if row is None else text_of(row.messages) for row, _ in rows],
        }


def environment_factory(
    game: str | type | Game, role: str | None = None, others: Mapping[str, AgentLike | str] | None = None, *,
    seat: str | None = None, reward: RewardLike | None = None, levels: Sequence[int] | None = None,
    seed: str | int = 0, **game_kwargs: Any,
) -> type[SeatEnvironment]:  # fmt: skip
    """One seat of a game as a class for ``GRPOTrainer(environment_factory=...)``; the model replies by a tool call.

    ``reset(**row)`` begins the game and returns what the seat sees; ``answer(reply)`` makes its move and returns what
    it sees next; ``get_reward()`` is the seat's score, None where it is not ok.  A seat that has stopped calling the
    tool says nothing from there on.  ``episode``: the finished episode, for reward functions (``environments=``).

    A row decides its game: ``task`` (a Task's JSON) what it begins from, everything else in it the draws, so that the
    copies that TRL compares meet the same problem and the same others.  Rows that are equal are the same game again:
    ``places`` numbers them.

    Args:
        game: an id, ``module:Class``, a game class or a game object.
        role: whose first seat the model has, not needed in a game of one role; ``seat`` names another.
        others: agents for the other seats, scripted ones where nobody is named.
        seat: such as ``solver_2``.
        reward: None: the game's own.
        levels: of the scripted challenger's problems.
        seed: the run's label.
        game_kwargs: the game's own arguments.
    """
    engine = SeatEngine(game, role=role, seat=seat, others=others, reward=reward, levels=levels, **game_kwargs)
    # TRL names the column of rewards after the class
    name = f"{adapter.snake_name(engine.game.env_id)}_{engine.seat.rpartition('_')[0]}"
    return type(name, (SeatEnvironment,), {"_engine": engine, "_seed": str(seed)})


class SeatEnvironment:
    """What ``environment_factory`` makes subclasses of; every public method but TRL's own two is a tool."""

    _engine: SeatEngine
    _seed: str

    def reset(self, **row: Any) -> str:
        """Begin the game of this row; what the seat sees."""
        task = row.get("task")
        label = f"{self._seed}/{seeds.digest('trl-environment', repr(sorted(row.items()))):016x}"
        draws = (f"{label}/{i}" for i in itertools.count())
        begins = decode_task(task) if isinstance(task, str) else task
        (self._table,) = self._engine.begin([lambda: next(draws)], begins)
        return self._seen()

    def answer(self, reply: str) -> str:
        """
        Make your move in the game.

        Args:
            reply: Your whole reply.

        Returns:
            What you see next, or that the game is over.
        """
        if self._table.episode is not None:
            raise DreamEnvsError("the game is over: nothing is read any more")
        self._engine.step([self._table], [Action(str(reply))])
        return self._seen()

    def get_reward(self) -> float | None:
        """What the seat has earned, None where its score is not ok; moves that it has not made are empty replies."""
        for _ in range(MAX_STEPS):
            if self._table.episode is not None:
                found = self._table.episode.scores[self._engine.seat]
                return float(found.value) if found.status == "ok" else None
            self._engine.step([self._table], [Action("")])
        raise DreamEnvsError(f"{self._engine.game.env_id} has no outcome after {MAX_STEPS} empty replies")

    @property
    def episode(self) -> Episode | None:
        """The finished episode, None while the game goes on."""
        return self._table.episode

    def _seen(self) -> str:
        engine = self._engine
        for seat in engine.game.turns(self._table.state) if self._table.episode is None else ():
            if seat.agent == engine.seat and seat.writes != "assistant":
                raise DreamEnvsError(f"{seat.role} writes a user's turn, which TRL asks no model for: role= another")
        return "The game is over." if self._table.episode is not None else self._engine.text(self._table)
